"""The language model: the transformer of model.py, and a head with a class per token.

Notable:
- Class i is token i. Token 0 begins a text and ends the previous one. A block holds several texts,
  and tokens attend only to their own text.
- A causal model predicts the next token. Any other model predicts masked tokens.
- Any head is a loss per token. The logits of all tokens are never in memory at once
  (`LossInChunks`).
- In generation, the keys and values of earlier tokens are kept (`KeyValueCache`).
"""
import torch
from torch.nn import functional as F

from model import (
    HEADS, CEHead, Head, SquareHead, SquentropyHead, Transformer, find_class, keywords, make_head,
    masked_attention)


class KeyValueCache:
    """The keys and values of the tokens so far in all layers, so that each new token is computed
    alone.

    capacity: its maximum number of tokens. length: the tokens so far.
    """

    def __init__(self, capacity):
        self.capacity = capacity
        self.length = 0
        self.keys = {}  # block -> [B, n_head, capacity, size]
        self.values = {}

    def extend(self, block, k, v):
        """Add the keys and values of the next tokens in a block, k and v [B, n_head, T, size] ->
        those of all tokens so far."""
        if block not in self.keys:
            shape = *k.shape[:2], self.capacity, k.shape[3]
            self.keys[block] = k.new_zeros(shape)
            self.values[block] = v.new_zeros(shape)
        end = self.length + k.shape[2]
        self.keys[block][:, :, self.length:end] = k
        self.values[block][:, :, self.length:end] = v
        return self.keys[block][:, :, :end], self.values[block][:, :, :end]


class LanguageModel(Transformer):
    """A transformer that predicts tokens: a causal one the next token after each token, any other
    one the masked tokens of a text (Devlin and others 2019, arXiv 1810.04805).

    n_known: tokens of the vocabulary, numbered from 1; a buffer `tokens` holds which.
    head: {'head': a name in HEADS, and the head's settings}.
    tied: the output layer has the weights of the token embedding (Press and Wolf 2017,
        arXiv 1608.05859).
    settings: those of `Transformer`.

    Raises ValueError as `Transformer` and `make_head` do, and if the head has a forward of its own.
    """

    def __init__(self, n_known, block_size, head, tied, causal, **settings):
        n_tokens = n_known + 1
        super().__init__(n_tokens, block_size, causal=causal, **settings)
        self.causal = causal
        self.register_buffer('tokens', torch.zeros(n_known, dtype=torch.int64))
        self.head = make_head(**head, n_features=self.n_features, n_class=n_tokens)
        if type(self.head).forward is not Head.forward:
            raise ValueError(f'head {head["head"]} has a forward of its own, which a language '
                             'model cannot use: it computes the logits in chunks')
        if tied:
            self.head.linear.weight = self.token_embedding.weight

    def forward(self, tokens, masked=None, cache=None):
        """tokens int64 [B, T], in which a 0 begins a text -> hidden states [B, T, n_embd].

        Each token sees its own text: the tokens up to itself or, if the model is not causal, all.
        masked: bool [B, T], tokens with zero embeddings that no other token sees. None: none.
        cache: a `KeyValueCache` of the tokens before these, which are added to it; all belong to
            one text. The first call takes any number of tokens, each further call one.
        """
        if cache is None:
            mask = self.visible(tokens, masked)
            positions = positions_in_text(tokens)
        else:
            mask = None
            end = cache.length + tokens.shape[1]
            positions = torch.arange(cache.length, end, device=tokens.device)

        x = self.token_embedding(tokens)
        if masked is not None:
            x = x.masked_fill(masked[..., None], 0)
        if self.positions is not None:
            x = x + self.positions(positions)
        x = F.dropout(x, self.dropout, self.training)
        for i in range(len(self.blocks)):
            x = self.apply_block(i, x, mask, cache)
        if cache is not None:
            cache.length += tokens.shape[1]
        return self.norm(x)

    def visible(self, tokens, masked):
        """Which tokens see which: bool [B, 1, T, T], True if the row's token sees the column's."""
        text = (tokens == 0).cumsum(1)
        visible = text[:, :, None] == text[:, None]
        if self.causal:
            visible = visible.tril()
        if masked is not None:  # each token sees itself, so that none has nothing to see
            itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
            visible = visible & (~masked[:, None] | itself)
        return visible[:, None]

    def apply_block(self, i, x, mask, cache):
        """Block i: as `Block.forward`, with a mask and a cache."""
        block = self.blocks[i]
        q, k, v = block.queries_keys_values(block.norm_1(x))
        if cache is not None:
            k, v = cache.extend(i, k, v)
        y = block.join_heads(masked_attention(q, k, v, mask))
        x = x + F.dropout(y, self.dropout, self.training)
        y = block.down(F.relu(block.up(block.norm_2(x))))
        return x + F.dropout(y, self.dropout, self.training)

    def loss(self, hidden, targets):
        """The head's mean loss, a scalar.

        hidden [N, n_embd]: hidden states; targets int64 [N]: the token to predict from each."""
        linear = self.head.linear
        return LossInChunks.apply(hidden, linear.weight, linear.bias, targets, self.head)


def positions_in_text(tokens):
    """The position of each token in its text, int64 [B, T]; a 0 begins a text."""
    column = torch.arange(tokens.shape[1], device=tokens.device)
    begins = torch.where(tokens == 0, column, 0).cummax(1).values
    return column - begins


def make_language_model(config):
    """The LanguageModel of the settings of lm/pretrain.py, a dict such as a run's config.json, with
    new weights. Raises ValueError if the settings are invalid."""
    settings = {key: config[key] for key in keywords(Transformer)}
    head = {key: config[key] for key in ('head', *keywords(find_class(config['head'], HEADS)))}
    return LanguageModel(config['known_tokens'], config['block_size'], head, config['tied'],
                         **settings)


# The loss

class LossInChunks(torch.autograd.Function):
    """A head's mean loss for hidden states [N, n_embd]. Its gradients are computed in forward, so
    that the logits [N, outputs] are never in memory at once.

    One matrix product computes the logits of PRODUCT tokens. The loss is computed for LOSS of them
    at a time, so that the logits fit a CPU's caches in float32 (GPUs: for all at once), and the
    gradient overwrites the logits.
    """
    PRODUCT = 1024
    LOSS = 64

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, head):
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        x, matrix, vector = [tensor.detach().to(dtype) for tensor in (hidden, weight, bias)]
        x_and_one = F.pad(x, (0, 1), value=1.0)  # the bias is the weight of a feature that is 1
        n_loss = LossInChunks.LOSS if kind == 'cpu' else LossInChunks.PRODUCT
        wide = torch.promote_types(dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        gradients = [torch.zeros_like(tensor) for tensor in (hidden, weight, bias)]
        with torch.autocast(kind, enabled=False):
            for begin in range(0, len(x), LossInChunks.PRODUCT):
                chunk = slice(begin, begin + LossInChunks.PRODUCT)
                logits = F.linear(x[chunk], matrix, vector)
                for z, y in zip(logits.split(n_loss), targets[chunk].split(n_loss)):
                    loss, gradient = loss_and_gradient(head, z.to(wide), y)
                    total += loss
                    z.copy_(gradient)
                gradients[0][chunk] = logits @ matrix
                of_weight_and_bias = logits.T @ x_and_one[chunk]
                gradients[1] += of_weight_and_bias[:, :-1]
                gradients[2] += of_weight_and_bias[:, -1]
        ctx.save_for_backward(*gradients)
        ctx.n = len(x)
        return total / ctx.n

    @staticmethod
    def backward(ctx, gradient):
        share = gradient / ctx.n
        return *(share * of_sum for of_sum in ctx.saved_tensors), None, None


def loss_and_gradient(head, logits, targets):
    """The sum of a head's losses, and its gradient with respect to the logits [N, outputs].

    Outside of autograd. A closed form saves time, because a language model has thousands of classes
    for each token."""
    # by the exact class, because a subclass may have another loss
    function = CLOSED_FORMS.get(type(head), by_autograd)
    return function(head, logits, targets)


def by_autograd(head, logits, targets):
    """`loss_and_gradient` of any head."""
    logits = logits.detach().requires_grad_()
    with torch.enable_grad():
        loss = head.loss(logits, targets) * len(targets)
    gradient, = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


def plain_cross_entropy(logits, targets):
    """The sum of -log p_y and its gradient, p - y."""
    own = targets[:, None]
    p = logits.softmax(1)
    # p_y can underflow to 0, but the highest p cannot, and log p differs from it as the logits do
    distance = logits.amax(1, keepdim=True) - logits.gather(1, own)
    loss = (distance - p.amax(1, keepdim=True).log()).sum()
    return loss, p.scatter_add_(1, own, torch.full_like(own, -1.0, dtype=p.dtype))


def cross_entropy(head, logits, targets):
    """`loss_and_gradient` of CEHead."""
    if head.weight is not None:
        return by_autograd(head, logits, targets)
    loss, gradient = plain_cross_entropy(logits, targets)
    if head.label_smoothing:  # moves a share of the label from its class to all classes
        share = head.label_smoothing
        own = logits.gather(1, targets[:, None])
        loss = loss + share * (own.sum() - logits.mean(1).sum())
        gradient -= share / logits.shape[1]
        gradient.scatter_add_(1, targets[:, None], torch.full_like(own, share))
    return loss, gradient


def square(head, logits, targets):
    """`loss_and_gradient` of SquareHead."""
    n_class = logits.shape[1]
    own = logits.gather(1, targets[:, None])
    distance = own - head.M
    loss = head.k * distance.square().sum() - own.square().sum() + logits.square().sum()
    gradient = logits * (2 / n_class)
    gradient.scatter_(1, targets[:, None], distance * (2 * head.k / n_class))
    return loss / n_class, gradient


def squentropy(head, logits, targets):
    """`loss_and_gradient` of SquentropyHead."""
    n_others = logits.shape[1] - 1
    loss, gradient = plain_cross_entropy(logits, targets)
    own = logits.gather(1, targets[:, None])
    loss = loss + (logits.square().sum() - own.square().sum()) / n_others
    gradient.add_(logits, alpha=2 / n_others)
    return loss, gradient.scatter_add_(1, targets[:, None], own * (-2 / n_others))


CLOSED_FORMS = {CEHead: cross_entropy, SquareHead: square, SquentropyHead: squentropy}
