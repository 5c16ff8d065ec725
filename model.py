"""The model: an encoder with a swappable head. All of the mathematics, nothing else.

Two trunks from the same parts: a transformer over the tokens and, the usual one, windows of
neighbouring tokens beside n-grams of the text.

Notable:
- A batch is `tokens` [B, T] and `counts` [B, T]; a count of 0 is padding, the only mask there is.
- Without positions the encoder cannot tell two equal tokens of a review apart: they have the same
  hidden state in every layer. So a review can be given as a bag, each distinct token once with its
  count: attention adds log(count) to the key's score, pooling weighs by count, and the function and
  its gradients are exactly those of the full sequence.
- A head is the output layer together with its loss and its probabilities. A new loss is one class
  here, one line in `HEADS` and one file in config/.
"""
import math
from dataclasses import dataclass, field
from inspect import signature

import torch
import torch.nn as nn
from torch.nn import functional as F


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the stream (Vaswani 2017; pre-norm as in GPT-2)."""

    def __init__(self, config):
        super().__init__()
        n_embd = config.n_embd
        bias = config.bias
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.causal = config.causal
        self.norm_1 = nn.LayerNorm(n_embd, bias=bias)
        self.norm_2 = nn.LayerNorm(n_embd, bias=bias)
        self.qkv = nn.Linear(n_embd, 3 * n_embd, bias=bias)
        self.proj = nn.Linear(n_embd, n_embd, bias=bias)
        self.up = nn.Linear(n_embd, 4 * n_embd, bias=bias)
        self.down = nn.Linear(4 * n_embd, n_embd, bias=bias)

    def forward(self, x, counts=None, mask=None, past=None):
        """x [B, T, n_embd] -> [B, T, n_embd].

        counts [B, T]: 0 is padding. A language model needs none, as what is behind the texts is of
        no use; it gives the mask and the past of `masked_attention`.
        """
        if self.causal or mask is not None:
            y = self.masked_attention(self.norm_1(x), mask, past)
        else:
            y = self.attention(self.norm_1(x), counts)
        x = x + F.dropout(y, self.dropout, self.training)
        x = x + F.dropout(self.mlp(self.norm_2(x)), self.dropout, self.training)
        return x

    def queries_keys_values(self, x):
        """x [B, T, n_embd] -> of all heads at once, three times [B, n_head, T, size]."""
        B, T, n_embd = x.shape
        size = n_embd // self.n_head
        return self.qkv(x).view(B, T, 3, self.n_head, size).permute(2, 0, 3, 1, 4)

    def join_heads(self, y):
        """[B, n_head, T, size] -> heads side by side again, [B, T, n_embd]."""
        return self.proj(y.transpose(1, 2).flatten(2))

    def masked_attention(self, x, mask, past):
        """Multi-head attention of each token to those that the mask lets it see.

        mask: bool [B, 1, T, T], True where the row's token sees the column's; None: itself and all
        before it.
        past: a `Past`, which holds the keys and values of the tokens before x, and takes x's.
        """
        q, k, v = self.queries_keys_values(x)
        if past is not None:
            k, v = past.extend(k, v)
        causal = mask is None and q.shape[2] > 1  # a token alone, the last, sees all
        if x.device.type != 'cpu':
            y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
            return self.join_heads(y)
        if causal:
            mask = torch.ones(x.shape[1], k.shape[2], dtype=torch.bool).tril()
        # the same, whose backward is 1.6 times faster than the library's on a CPU
        with torch.autocast('cpu', enabled=False):  # it would make softmax a float32 copy
            scores = (q * q.shape[-1] ** -0.5) @ k.mT  # [B, n_head, T, T]
            if mask is not None:
                hidden = torch.zeros(mask.shape, dtype=scores.dtype)
                scores += hidden.masked_fill(~mask, -math.inf)
            y = scores.softmax(-1) @ v
        return self.join_heads(y)

    def attention(self, x, counts):
        """Multi-head attention in which a key that stands for c equal tokens weighs c exp(score).

        The count is taken out of the softmax, sum c exp(s) v / sum c exp(s) = p @ (c v) / p @ c
        with p = softmax(s). That is the same number as with log(c) added to the score, but no
        [T, T] tensor is needed in float32. In bf16 a log-count would be off by up to half a
        percent, and a count above 256 by as much; below that, counts are exact. So the denominator
        has two columns, c = low + 256 high.
        """
        q, k, v = self.queries_keys_values(x)
        with torch.autocast(x.device.type, enabled=False):  # it would make softmax a float32 copy
            c = counts[:, None, :, None]
            low_high = torch.cat([c % 256, c // 256], -1).to(v.dtype).expand(-1, self.n_head, -1, 2)
            scores = (q * q.shape[-1] ** -0.5) @ k.mT  # [B, n_head, T, T]
            if scores.dtype == torch.float16:  # a high one of padding would push all others to 0
                scores = scores.masked_fill((counts == 0)[:, None, None], -math.inf)
            p = F.softmax(scores, dim=-1)
            # numerator and denominator in one product; padding has c = 0, and so no part in either
            sums = p @ torch.cat([(v * c).to(v.dtype), low_high], -1)
            y = sums[..., :-2] / (sums[..., -2:-1] + 256 * sums[..., -1:])
        return self.join_heads(y)

    def mlp(self, x):
        return self.down(F.relu(self.up(x)))


@dataclass
class EncoderConfig:
    """The shape of an `Encoder`. Raises ValueError where it is impossible."""
    vocab_size: int
    n_class: int
    block_size: int = 512  # tokens; the longest review, where there are positions
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 128
    window: int = 0  # neighbouring tokens that the first layer sees together; 0: none
    pooling: str = 'mean'  # of the hidden states of a review: mean or max
    known_tokens: int = 0  # tokens with a vector of their own, numbered from 1; 0: all there are
    known_ngrams: int = 0  # n-grams with a weight for each output, numbered from 1
    dropout: float = 0.0
    bias: bool = True  # in linear layers and norms
    pos: str = 'none'  # position encoding: none or learned
    causal: bool = False  # a token sees itself and those before it; else all of its text
    head: str = 'bce'  # a name in HEADS
    multi_label: bool = False
    class_share: list = None  # of the training labels, per class
    head_settings: dict = field(default_factory=dict)

    def __post_init__(self):
        for key in ('n_head', 'n_embd', 'block_size'):
            if getattr(self, key) < 1:
                raise ValueError(f'{key} must be at least 1, not {getattr(self, key)}')
        for key in ('n_layer', 'window', 'known_tokens', 'known_ngrams'):
            if getattr(self, key) < 0:
                raise ValueError(f'{key} must not be negative, as {getattr(self, key)} is')
        if self.n_embd % self.n_head:
            raise ValueError(f'n_embd {self.n_embd} is not divisible by n_head {self.n_head}')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout must be in [0, 1), not {self.dropout}')
        if self.pos not in ('none', 'learned'):
            raise ValueError(f"pos is 'none' or 'learned', not {self.pos!r}")
        if self.pooling not in ('mean', 'max'):
            raise ValueError(f"pooling is 'mean' or 'max', not {self.pooling!r}")
        if self.window and self.pos != 'none':
            raise ValueError('windows have an order of their own; pos has to be none')
        if self.window and self.causal:
            raise ValueError('windows see the next token; window has to be 0 where causal is set')


class Windows(nn.Module):
    """A first layer that sees each token with its neighbours: h_t = relu(b + sum_j E_j[w_t+j]).

    A convolution over one-hot tokens (Johnson and Zhang 2015, arXiv 1412.1058): a token has a
    vector for each place in the window, side by side in the embedding's row, and no matrix stands
    between them and the features that they add up to.
    """

    def __init__(self, config):
        super().__init__()
        self.size = config.window
        self.bias = nn.Parameter(torch.zeros(config.n_embd))

    def forward(self, x, counts):
        """x [B, T, size * n_embd], counts [B, T] (0: padding, behind the real tokens) ->
        [B, T, n_embd]; what stands at the padding is of no use."""
        padding = (counts == 0)[..., None]
        before = (self.size - 1) // 2
        h = self.bias
        for place, vectors in enumerate(x.chunk(self.size, dim=-1)):
            offset = place - before  # of the token whose vector is added, from the window's own
            if offset < 0:
                vectors = F.pad(vectors, (0, 0, -offset, 0))[:, :x.shape[1]]
            elif offset > 0:  # the last tokens would see the padding
                vectors = vectors.masked_fill(padding, 0)
                vectors = F.pad(vectors, (0, 0, 0, offset))[:, offset:]
            h = h + vectors
        return F.relu(h)


class NgramWeights(nn.Module):
    """Logits that are a weighted sum over a text's n-grams: a linear model beside the network.

    strength: how much each n-gram is known to say, before training; a text's strengths are scaled
    to length 1. keys: which n-grams these are (nanoloss/vocabulary.py).
    """

    def __init__(self, n_ngrams, n_outputs):
        super().__init__()
        # row 0 is padding; sparse: a gradient is of the batch's n-grams alone
        self.sums = nn.EmbeddingBag(n_ngrams + 1, n_outputs, mode='sum', sparse=True, padding_idx=0)
        nn.init.zeros_(self.sums.weight)
        self.register_buffer('strength', torch.zeros(n_ngrams + 1))
        self.register_buffer('keys', torch.zeros(n_ngrams, dtype=torch.int64))

    def forward(self, ngrams):
        """ngrams int64 [B, M] (0: padding) -> logits [B, outputs]."""
        strength = self.strength[ngrams]
        length = strength.norm(dim=1, keepdim=True)
        strength = strength / length.clamp(min=torch.finfo(length.dtype).tiny)
        return self.sums(ngrams, per_sample_weights=strength.to(self.sums.weight.dtype))


class Past:
    """Keys and values of the tokens so far, of one block: with them a further token costs itself.

    capacity: so many tokens at most.
    """

    def __init__(self, capacity):
        self.capacity = capacity
        self.length = 0

    def extend(self, k, v):
        """k and v [B, n_head, T, size] of the next tokens -> those of all tokens so far."""
        if self.length == 0:
            shape = *k.shape[:2], self.capacity, k.shape[3]
            self.k = k.new_zeros(shape)
            self.v = v.new_zeros(shape)
        begin = self.length
        self.length += k.shape[2]
        self.k[:, :, begin:self.length] = k
        self.v[:, :, begin:self.length] = v
        return self.k[:, :, :self.length], self.v[:, :, :self.length]


class Encoder(nn.Module):
    """Tokens -> embedding, windows -> n_layer blocks, norm -> pooled over the review -> head; with
    the n-grams' sum added to its logits.

    The trunk learns from its own logits, and the n-grams from what they add to them. Trained on the
    sum alone, the n-grams would fit the training reviews before the trunk has learnt much, and
    leave it nothing to learn.

    ordered: whether the order of a review's tokens matters. Where it does not, a review may be
    given as a bag: each distinct token once, with its count.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.ordered = config.pos != 'none' or config.window > 1 or config.causal
        n_tokens = config.known_tokens + 1 if config.known_tokens else config.vocab_size
        n_places = max(1, config.window)
        self.token_embedding = nn.Embedding(n_tokens, n_places * config.n_embd)
        if config.known_tokens:
            # which they are, for those who bring texts; row 0 is for all others
            self.register_buffer('tokens', torch.zeros(config.known_tokens, dtype=torch.int64))
        if config.window:
            self.windows = Windows(config)
        if config.pos == 'learned':
            self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        # windows alone are pooled as they are: a strong one is to stand out of its review
        plain = config.window and not config.n_layer
        self.norm = nn.Identity() if plain else nn.LayerNorm(config.n_embd, bias=config.bias)
        self.init_weights()
        self.head = make_head(config.head, config.n_embd, config.n_class, config.multi_label,
                              config.class_share, **config.head_settings)
        if config.known_ngrams:
            self.ngrams = NgramWeights(config.known_ngrams, self.head.linear.out_features)

    def init_weights(self):
        """As GPT-2: normal 0.02, less where a branch joins the stream; biases 0."""
        for name, parameter in self.named_parameters():
            if name.endswith(('proj.weight', 'down.weight')):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(parameter)
        if self.config.window:  # no matrix follows that could make them larger
            nn.init.normal_(self.token_embedding.weight, std=0.1 / math.sqrt(self.config.window))

    def forward(self, tokens, counts, ngrams=None):
        """tokens int [B, T], counts [B, T] (0: padding), n-grams int [B, M] (0: padding; None: none
        are used) -> a list of logits, each [B, outputs of the head]: the trunk's and, if there are
        n-grams, those with them. In training each has a loss; the last is the answer. In float32,
        or in float64 where the weights are."""
        x = self.embed(tokens, counts)
        # counts are weights from here on, and bf16 does not hold all integers above 256
        counts = counts.to(torch.promote_types(x.dtype, torch.float32))
        x = self.encode(x, counts)
        with torch.autocast(tokens.device.type, enabled=False):  # bf16 would round the answer
            x = self.pool(x, counts)
            logits = [self.head(x)]
            if self.config.known_ngrams:
                logits.append(logits[0].detach() + self.ngrams(ngrams))
        return logits

    def embed(self, tokens, counts):
        """tokens int [B, T], counts [B, T] -> [B, T, n_embd]."""
        # padding is as the first token, so that no key of it stands far above those of all tokens
        x = self.token_embedding(torch.where(counts > 0, tokens, tokens[:, :1]))
        if self.config.window:
            return self.windows(x, counts)
        if self.config.pos == 'learned':
            x = x + self.positions.weight[:tokens.shape[1]]
        return F.dropout(x, self.config.dropout, self.training)

    def encode(self, x, counts):
        """x [B, T, n_embd], counts [B, T] -> hidden states [B, T, n_embd], normalised."""
        for block in self.blocks:
            x = block(x, counts)
        return self.norm(x)

    def pool(self, x, counts):
        """Hidden states [B, T, n_embd], counts [B, T] -> mean or maximum over each review,
        [B, n_embd]."""
        if self.config.pooling == 'max':
            x = x.masked_fill((counts == 0)[..., None], -math.inf).amax(1).to(counts.dtype)
        else:
            weights = counts / counts.sum(1, keepdim=True)  # padding weighs 0
            x = (weights[..., None] * x).sum(1)
        if self.config.window and not self.config.n_layer:  # blocks have dropout of their own
            x = F.dropout(x, self.config.dropout, self.training)
        return x

    def load_trunk(self, weights):
        """Take all weights but the head's and the n-grams' from another encoder's state_dict.

        Raises ValueError if they do not fit.
        """
        trunk = {}
        for name, weight in self.state_dict().items():
            if name.startswith(('head.', 'ngrams.')):
                continue
            if name not in weights:
                raise ValueError(f'it lacks {name}')
            if weights[name].shape != weight.shape:
                raise ValueError(f'its {name} is {tuple(weights[name].shape)}, '
                                 f'where this model has {tuple(weight.shape)}')
            if name == 'tokens' and not weight.equal(weights[name]):
                raise ValueError('it knows other tokens')
            trunk[name] = weights[name]
        self.load_state_dict(trunk, strict=False)


class LanguageModel(Encoder):
    """An encoder whose head is asked for tokens: a causal one after every token for the next, any
    other for those that have been left out of the text (Devlin and others 2019).

    Its classes are the tokens: token i is class i. Number 0 begins a text, and ends the one before.
    tied: the output layer's weights are the token embedding's (Press and Wolf 2017).
    """

    def __init__(self, config, tied):
        super().__init__(config)
        if type(self.head).forward is not Head.forward:
            raise ValueError(f'head {config.head} has a forward of its own, which a language model '
                             'cannot use: its logits are computed in chunks')
        if tied:
            self.head.linear.weight = self.token_embedding.weight

    def forward(self, tokens, left_out=None, past=None):
        """tokens int [B, T], in which a 0 begins a text -> hidden states [B, T, n_embd], each of a
        token that sees its own text: what stands before it or, in a model that is not causal, all.

        left_out: bool [B, T], tokens that none sees; their vectors are 0. None: all are there.
        past: a list of a `Past` for each block, of the tokens before; then all is one text.
        """
        if past is None:
            text = (tokens == 0).cumsum(1)
            mask = text[:, :, None] == text[:, None]
            if self.config.causal:
                mask = mask.tril()
            if left_out is not None:  # each sees itself, so that none is left with nothing to see
                itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
                mask = mask & (~left_out[:, None] | itself)
            mask = mask[:, None]
            column = torch.arange(tokens.shape[1], device=tokens.device)
            begins = torch.where(tokens == 0, column, 0).cummax(1).values
            positions = column - begins
        else:
            mask = None
            first = past[0].length if past else 0
            positions = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        x = self.token_embedding(tokens)
        if left_out is not None:
            x = x.masked_fill(left_out[..., None], 0)
        if self.config.pos == 'learned':
            x = x + self.positions(positions)
        x = F.dropout(x, self.config.dropout, self.training)
        for i, block in enumerate(self.blocks):
            x = block(x, mask=mask, past=past and past[i])
        return self.norm(x)

    def loss(self, hidden, targets):
        """The head's mean loss, a scalar.

        hidden [N, n_embd], of forward; targets int64 [N]: the token that comes next."""
        linear = self.head.linear
        return LossInChunks.apply(hidden, linear.weight, linear.bias, targets, self.head)


class LossInChunks(torch.autograd.Function):
    """A head's mean loss for [N, n_embd] hidden states, with its gradients computed on the way, so
    that the logits, [N, outputs], need never be held at once.

    They are made for ROWS answers, by one product; the loss is computed for FEW of them, which in
    float32 still fit the caches (GPUs: for all), and their gradient takes their place.
    """
    ROWS = 1024
    FEW = 64

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, head):
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        x, matrix, vector = [tensor.detach().to(dtype) for tensor in (hidden, weight, bias)]
        x_and_one = F.pad(x, (0, 1), value=1.0)  # the vector's gradient is that of weights of a 1
        few = LossInChunks.FEW if kind == 'cpu' else LossInChunks.ROWS
        wide = torch.promote_types(dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        gradients = [torch.zeros_like(tensor) for tensor in (hidden, weight, bias)]
        with torch.autocast(kind, enabled=False):
            for begin in range(0, len(x), LossInChunks.ROWS):
                chunk = slice(begin, begin + LossInChunks.ROWS)
                logits = F.linear(x[chunk], matrix, vector)
                for z, y in zip(logits.split(few), targets[chunk].split(few)):
                    loss, gradient = head.loss_and_gradient(z.to(wide), y)
                    total += loss
                    z.copy_(gradient)
                gradients[0][chunk] = logits @ matrix
                both = logits.T @ x_and_one[chunk]
                gradients[1] += both[:, :-1]
                gradients[2] += both[:, -1]
        ctx.save_for_backward(*gradients)
        ctx.n = len(x)
        return total / ctx.n

    @staticmethod
    def backward(ctx, gradient):
        share = gradient / ctx.n
        return *(share * of_sum for of_sum in ctx.saved_tensors), None, None


# Heads

class Head(nn.Module):
    """The output layer together with its loss and its probabilities: the base of every head.

    As it stands here, a head is a linear layer with a logit for each class and a softmax; a loss
    has to be added, and each method can be overridden. The contract:

    forward(x)            x float [B, n_embd] -> logits [B, outputs], where self.linear has as many
                          outputs. With a forward of its own, a head is for data with one label a
                          review: a language model and `EachLabel` multiply by the weights of
                          `linear` themselves, and refuse another forward.
    loss(logits, labels)  A plain mean over the reviews; labels are int64 [B] or, of several labels
                          a review, 0 and 1 [B, n_class]. A batch may be computed in parts, and each
                          part's loss is weighted by its share of the batch's reviews: this is the
                          batch's loss only for a mean over reviews. So F.cross_entropy with class
                          weights needs reduction='none' and .mean(), as its own mean divides by the
                          weights' sum; and a loss over pairs of reviews needs --max_tokens so large
                          that a batch is one part, on one process.
    probs(logits)         [B, n_class]; where a review has one label, the rows sum to 1.
    soft                  True where labels may also be a teacher's probabilities, [B, n_class].
    calibrated            False where the logits are not log-odds, so that probabilities should be
                          judged after temperature scaling only.
    lr_mult, wd_mult      Factors on the learning rate and the weight decay of the head's weights.

    What __init__ takes without a default comes from the data: n_embd, n_class, class_share (of the
    training labels, per class) and multi_label, which a head takes that does several labels a
    review in a way of its own; of any other, `EachLabel` makes one that does. What has a default is
    a setting of train.py.
    """
    soft = False
    calibrated = True
    lr_mult = 1.0
    wd_mult = 1.0

    def __init__(self, n_embd, n_class):
        super().__init__()
        self.linear = seeded_linear(n_embd, n_class)

    def __init_subclass__(cls):
        # a closed form is that of the loss beside it, not that of a subclass
        if 'loss' in vars(cls) and 'loss_and_gradient' not in vars(cls):
            cls.loss_and_gradient = Head.loss_and_gradient

    def forward(self, x):
        return self.linear(x)

    def loss(self, logits, labels):
        raise NotImplementedError

    def loss_and_gradient(self, logits, labels):
        """The sum of the losses, and its gradient by the logits [B, outputs]; outside of autograd.

        A head may have a closed form, which saves time where the classes are as many as the tokens
        of a language model."""
        logits = logits.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.loss(logits, labels) * len(labels)
        gradient, = torch.autograd.grad(loss, logits)
        return loss.detach(), gradient

    def probs(self, logits):
        return logits.softmax(1)


def seeded_linear(n_in, n_out):
    """A linear layer that starts as all do (normal 0.02, bias 0), but from its own generator.

    So heads of different sizes leave the numbers alike that the trunk and the batches are drawn
    from. The weights lie on a grid on which float32 subtracts exactly, so that a head can start
    from the difference of another's rows.
    """
    linear = nn.Linear(n_in, n_out)
    # a number that is far from the seeds that people choose, so that no two generators coincide
    seed = (torch.initial_seed() + 1) * 6364136223846793005 % 2 ** 63
    nn.init.normal_(linear.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
    linear.weight.detach().mul_(2 ** 26).round_().div_(2 ** 26)
    nn.init.zeros_(linear.bias)
    return linear


def class_weights(text, class_share):
    """'1,9' or 'balanced' (1 / share) -> weights of mean 1 over the training labels, [n_class]."""
    if text == 'balanced' and 0 in class_share:
        raise ValueError('class weights cannot be balanced: a class has no training review')
    try:
        if text == 'balanced':
            weights = [1 / share for share in class_share]
        else:
            weights = [float(weight) for weight in text.split(',')]
        if len(weights) != len(class_share) or not all(0 < w < math.inf for w in weights):
            raise ValueError
    except ValueError:
        raise ValueError(f"class weights are 'balanced' or {len(class_share)} positive numbers, "
                         f'not {text!r}') from None
    mean = sum(weight * share for weight, share in zip(weights, class_share, strict=True))
    return torch.tensor(weights) / mean


def cross_entropy_and_gradient(logits, labels):
    """Sum of -log p_y, and its gradient, p - y: see `Head.loss_and_gradient`."""
    own = labels[:, None]
    p = logits.softmax(1)
    # p_y can underflow to 0, but not the highest p, of which log p differs as the logits do
    distance = logits.amax(1, keepdim=True) - logits.gather(1, own)
    loss = (distance - p.amax(1, keepdim=True).log()).sum()
    return loss, p.scatter_add_(1, own, torch.full_like(own, -1.0, dtype=p.dtype))


class CEHead(Head):
    """Cross-entropy, -log p_y.

    class_weight: one a class, as '1,9', or 'balanced'; '' for none.
    label_smoothing: this share of the label is spread evenly over the classes (Szegedy 2016).
    """
    soft = True

    def __init__(self, n_embd, n_class, class_share, class_weight='', label_smoothing=0.0):
        super().__init__(n_embd, n_class)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'label_smoothing must be in [0, 1), not {label_smoothing}')
        self.label_smoothing = label_smoothing
        weight = class_weights(class_weight, class_share) if class_weight else None
        self.register_buffer('weight', weight, persistent=False)

    def loss(self, logits, labels):
        if labels.is_floating_point():  # a teacher's
            labels = labels.to(logits.dtype)
        # its own mean would divide by the sum of the weights: no mean over reviews, see Head
        loss = F.cross_entropy(logits, labels, self.weight, reduction='none',
                               label_smoothing=self.label_smoothing)
        return loss.mean()

    def loss_and_gradient(self, logits, labels):
        if self.weight is not None:
            return super().loss_and_gradient(logits, labels)
        loss, gradient = cross_entropy_and_gradient(logits, labels)
        if self.label_smoothing:  # what is spread over the classes, instead of at the label
            share = self.label_smoothing
            own = logits.gather(1, labels[:, None])
            loss = loss + share * (own.sum() - logits.mean(1).sum())
            gradient -= share / logits.shape[1]
            gradient.scatter_add_(1, labels[:, None], torch.full_like(own, share))
        return loss, gradient


class BCEHead(Head):
    """Binary cross-entropy.

    Two classes: one logit, the log-odds of class 1. More: a logit for each class against the rest,
    and the sum of their losses. Their softmax at the fitted temperature is better calibrated than
    sigmoids scaled to sum 1 (on trec ECE 2.8 % instead of 4.2); as trained it is too sure. Several
    labels a review: a loss and a sigmoid for each label.
    """
    soft = True

    def __init__(self, n_embd, n_class, multi_label):
        one_logit = n_class == 2 and not multi_label
        super().__init__(n_embd, 1 if one_logit else n_class)
        self.one_logit = one_logit
        self.n_class = n_class
        self.multi_label = multi_label
        self.calibrated = one_logit or multi_label

    def loss(self, logits, labels):
        # labels of the logits' shape, 0 and 1 or, a teacher's, between them
        if self.one_logit:
            labels = labels[:, None] if labels.dim() == 1 else labels[:, 1:]
        elif labels.dim() == 1:
            labels = F.one_hot(labels, self.n_class)
        labels = labels.to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction='none')
        return loss.sum(1).mean()

    def probs(self, logits):
        if self.one_logit:
            return torch.cat([(-logits).sigmoid(), logits.sigmoid()], 1)
        if self.multi_label:
            return logits.sigmoid()
        return logits.softmax(1)


class FocalHead(Head):
    """Focal loss, (1 - p_y)^gamma (-log p_y), with a weight alpha per class if set (Lin 2017)."""

    def __init__(self, n_embd, n_class, class_share, gamma=2.0, alpha=''):
        super().__init__(n_embd, n_class)
        if gamma < 0:
            raise ValueError(f'gamma must not be negative, as {gamma} is')
        self.gamma = gamma
        weight = class_weights(alpha, class_share) if alpha else None
        self.register_buffer('weight', weight, persistent=False)

    def loss(self, logits, labels):
        log_p = -F.cross_entropy(logits, labels, reduction='none')
        rest = -log_p.expm1()  # 1 - p_y
        rest = rest.clamp(min=torch.finfo(logits.dtype).tiny)  # at 0, gamma < 1 has no gradient
        weighted = F.cross_entropy(logits, labels, self.weight, reduction='none')
        return (rest ** self.gamma * weighted).mean()


class BrierHead(Head):
    """Squared error of the probabilities to the one-hot label, summed over classes (Brier 1950)."""

    def loss(self, logits, labels):
        error = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
        return error.square().sum(1).mean()


def squares_of_others(logits, labels):
    """Sum of the squared logits of all classes but the label: [B]."""
    return logits.scatter(1, labels[:, None], 0).square().sum(1)


class SquareHead(Head):
    """Square loss on raw logits, the label's rescaled: mean over the classes of k (z_y - M)^2 and
    of the others' z_j^2 (Hui and Belkin 2021, arXiv 2006.07322)."""
    calibrated = False  # logits of 0 and M are not log-odds

    def __init__(self, n_embd, n_class, k=1.0, M=1.0):
        super().__init__(n_embd, n_class)
        self.k = k
        self.M = M

    def loss(self, logits, labels):
        own = logits.gather(1, labels[:, None])[:, 0]
        squares = self.k * (own - self.M) ** 2 + squares_of_others(logits, labels)
        return squares.mean() / logits.shape[1]

    def loss_and_gradient(self, logits, labels):
        n_class = logits.shape[1]
        own = logits.gather(1, labels[:, None])
        distance = own - self.M
        loss = self.k * distance.square().sum() - own.square().sum() + logits.square().sum()
        gradient = logits * (2 / n_class)
        gradient.scatter_(1, labels[:, None], distance * (2 * self.k / n_class))
        return loss / n_class, gradient


class SquentropyHead(Head):
    """Cross-entropy plus the mean of z_j^2 over the other classes (Hui, Belkin and Wright 2023,
    arXiv 2302.03952)."""

    def loss(self, logits, labels):
        cross_entropy = F.cross_entropy(logits, labels, reduction='none')
        squares = squares_of_others(logits, labels) / (logits.shape[1] - 1)
        return (cross_entropy + squares).mean()

    def loss_and_gradient(self, logits, labels):
        n_others = logits.shape[1] - 1
        loss, gradient = cross_entropy_and_gradient(logits, labels)
        own = logits.gather(1, labels[:, None])
        loss = loss + (logits.square().sum() - own.square().sum()) / n_others
        gradient.add_(logits, alpha=2 / n_others)
        return loss, gradient.scatter_add_(1, labels[:, None], own * (-2 / n_others))


class EachLabel(Head):
    """Several labels a review, by the loss of a head for one: each label is a decision of its own
    between two classes, no and yes, whose logits are -z/2 and z/2; the losses are added up.

    With cross-entropy that is binary cross-entropy; with focal loss, its form for sigmoids. A
    setting that is one a class (class_weight, alpha) has two values then, for no and for yes.
    decision: the head that decides between no and yes; its own linear layer is taken away.
    """

    def __init__(self, n_embd, n_class, decision):
        super().__init__(n_embd, n_class)
        decision.linear = None
        self.decision = decision
        self.calibrated = decision.calibrated
        self.lr_mult = decision.lr_mult
        self.wd_mult = decision.wd_mult

    def loss(self, logits, labels):
        labels = labels.flatten()
        if labels.is_floating_point():  # a teacher's
            labels = torch.stack([1 - labels, labels], 1)
        return self.decision.loss(no_and_yes(logits), labels) * logits.shape[1]

    def probs(self, logits):
        return self.decision.probs(no_and_yes(logits))[:, 1].view_as(logits)


def no_and_yes(logits):
    """Logits of several labels [B, n_class] -> two for each label, [B * n_class, 2]."""
    return torch.stack([-logits, logits], 2).flatten(0, 1) / 2


# Heads of one experiment, runs/matched.sh: why cross-entropy and its binary form differ at all

class MatchedBCEHead(BCEHead):
    """Binary cross-entropy whose one logit learns as the difference of CE's two logits does.

    from_ce: start from the difference of the two rows that CEHead would start from.
    """

    def __init__(self, n_embd, n_class, from_ce=True, lr_mult=2.0, wd_mult=0.5):
        if n_class != 2:
            raise ValueError('bce_matched is for two classes')
        super().__init__(n_embd, n_class, multi_label=False)
        self.lr_mult = lr_mult
        self.wd_mult = wd_mult
        if from_ce:
            self.linear.weight.data = seeded_linear(n_embd, 2).weight.detach().diff(dim=0)


class NudgedCEHead(CEHead):
    """Cross-entropy with `nudge` added to its first weight at the start, to see what chaos makes of
    a rounding error."""

    def __init__(self, n_embd, n_class, class_share, nudge=1e-7):
        super().__init__(n_embd, n_class, class_share)
        self.linear.weight.data[0, 0] += nudge


HEADS = {
    'bce': BCEHead,
    'ce': CEHead,
    'focal': FocalHead,
    'brier': BrierHead,
    'square': SquareHead,
    'squentropy': SquentropyHead,
    'bce_matched': MatchedBCEHead,
    'ce_nudged': NudgedCEHead,
}


# From settings to a model

def head_settings(settings):
    """The keywords of the head that settings['head'] names, with their defaults: settings too."""
    if settings['head'] not in HEADS:
        return {}
    keywords = {}
    for parameter in signature(HEADS[settings['head']]).parameters.values():
        if parameter.default is not parameter.empty:
            keywords[parameter.name] = parameter.default
    return keywords


def make_head(head, n_embd, n_class, multi_label=False, class_share=None, **settings):
    """The head of that name for these data; class_share: of the training labels, per class.

    settings: may hold more than the head's own. Raises ValueError where the head cannot do it.
    """
    if head not in HEADS:
        raise ValueError(f'there is no head {head!r}; there are {", ".join(HEADS)}')
    parameters = signature(HEADS[head]).parameters
    class_share = class_share or [1 / n_class] * n_class
    each_label = multi_label and 'multi_label' not in parameters
    values = {
        'n_embd': n_embd,
        'n_class': n_class,
        'multi_label': multi_label,
        'class_share': class_share,
        **settings,
    }
    if each_label:
        yes = sum(class_share) / n_class
        values |= {'n_class': 2, 'class_share': [1 - yes, yes]}
    made = HEADS[head](**{key: values[key] for key in parameters if key in values})
    if not each_label:
        return made
    if made.linear.out_features != 2 or type(made).forward is not Head.forward:
        raise ValueError(f'head {head} is for one label a review, these data have several')
    return EachLabel(n_embd, n_class, made)


def encoder_config(config):
    """The EncoderConfig of a flat dict of settings, such as a run's config.json; it may hold more.

    Raises ValueError where there is none."""
    shape = {key: config[key] for key in EncoderConfig.__dataclass_fields__ if key in config}
    shape['head_settings'] = {key: config[key] for key in head_settings(config)}
    return EncoderConfig(**shape)


def make_encoder(config):
    """The Encoder of such settings. Raises ValueError where they do not make one."""
    return Encoder(encoder_config(config))


def make_language_model(config):
    """The LanguageModel of pretrain.py's settings. Raises ValueError where they do not make one."""
    # each token is a class, whatever the labels are
    classes = {'n_class': config['known_tokens'] + 1, 'multi_label': False, 'class_share': None}
    return LanguageModel(encoder_config({**config, **classes}), config['tied'])


def hard_labels(labels, multi_label):
    """A teacher's probabilities [B, n_class] -> the labels that it would give; others stay."""
    if not labels.is_floating_point():
        return labels
    return (labels > 0.5).long() if multi_label else labels.argmax(1)


def is_correct(probs, labels):
    """Which reviews are classified correctly: bool [B]; of several labels a review, all must be."""
    if labels.dim() == 1:
        return probs.argmax(1) == labels.long()  # torch cannot compare uint16
    return ((probs > 0.5) == labels.bool()).all(1)
