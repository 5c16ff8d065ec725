"""The model. A trunk turns a text into features; a head turns features into logits, a loss and
probabilities.

Notable:
- A batch is `tokens` [B, T] and `counts` [B, T]. A count of 0 is padding; it is the only mask.
- Without positions, the transformer cannot tell two equal tokens of a text apart: they have the
  same hidden state in every layer. So a text can be given as a bag, each distinct token once with
  its count. Attention adds log(count) to the key's score, mean pooling weighs by count, and the
  function and its gradients are exactly those of the full sequence.
- A new loss is one class: select it with --head=FILE.py:CLASS, or add it to `HEADS`. So is a new
  trunk, with --trunk=FILE.py:CLASS or in `TRUNKS`.
"""
import math
from inspect import signature

import torch
import torch.nn as nn
from torch.nn import functional as F

from nanoloss.settings import find_class, keywords
from nanoloss.windows import WindowsMax

# Trunks

class Trunk(nn.Module):
    """The base of every trunk: forward(tokens int64 [B, T], counts [B, T]) -> features
    [B, n_features]. A count of 0 is padding, on the right of a text.

    A trunk sets `n_features` and `ordered`: whether the order of tokens matters. If not, a text may
    be given as a bag: each distinct token once, with its count. On a CPU, training is faster if the
    nn.Embedding of the tokens is named `token_embedding` (nanoloss/optim.py).

    `__init__` receives n_tokens, the size of the vocabulary, and block_size, the maximum number of
    tokens per text. Its keywords with a default are settings of train.py. It raises ValueError for
    a bad value.
    """

    def init_weights(self, n_layer=1):
        """As GPT-2: normal 0.02, smaller where a branch joins the residual stream; biases 0."""
        for name, parameter in self.named_parameters():
            if name.endswith(('proj.weight', 'down.weight')):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layer))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(parameter)


class Windows(Trunk):
    """Windows of neighbouring tokens, h_t = relu(b + sum_j E_j[w_t+j]), and their maximum over the
    text.

    This is a convolution over one-hot tokens (Johnson and Zhang 2015, arXiv 1412.1058). A row of
    the embedding concatenates the token's vectors for the positions in the window.

    window: its size in tokens. dropout: the probability of dropping a feature.
    """

    def __init__(self, n_tokens, block_size, window=3, n_embd=256, dropout=0.5):
        super().__init__()
        check(1, window=window, n_embd=n_embd)
        check(0, 1, dropout=dropout)
        self.window = window
        self.dropout = dropout
        self.n_features = n_embd
        self.ordered = window > 1
        self.token_embedding = nn.Embedding(n_tokens, window * n_embd)
        self.bias = nn.Parameter(torch.zeros(n_embd))
        self.init_weights()
        # larger than usual, because no matrix follows
        nn.init.normal_(self.token_embedding.weight, std=0.1 / math.sqrt(window))

    def forward(self, tokens, counts):
        if tokens.device.type == 'cpu' and not torch.compiler.is_exporting():
            features = WindowsMax.apply(self.token_embedding.weight, self.bias, tokens, counts,
                                        self.token_embedding.sparse)
        else:
            features = self.plain_features(tokens, counts)
        return F.dropout(features, self.dropout, self.training)

    def plain_features(self, tokens, counts):
        """The definition of the features. On a CPU, nanoloss/windows.py computes them faster."""
        padding = (counts == 0)[..., None]
        # padding repeats the first token, so that it adds no embedding row to the gradient
        x = self.token_embedding(torch.where(counts > 0, tokens, tokens[:, :1]))
        before = (self.window - 1) // 2
        h = self.bias
        for place, vectors in enumerate(x.chunk(self.window, dim=-1)):
            offset = place - before  # of this position from the centre of the window
            if offset < 0:
                vectors = F.pad(vectors, (0, 0, -offset, 0))[:, :x.shape[1]]
            elif offset > 0:  # the last tokens of a text must not see the padding
                vectors = vectors.masked_fill(padding, 0)
                vectors = F.pad(vectors, (0, 0, 0, offset))[:, offset:]
            h = h + vectors
        h = F.relu(h).masked_fill(padding, -math.inf)
        return h.amax(1).to(torch.promote_types(x.dtype, torch.float32))


class Transformer(Trunk):
    """A transformer encoder, pre-norm, and the mean of its hidden states over the text (Apeinans,
    Kodors and Zarembo 2024).

    pos: position encoding, none (as in the paper) or learned. causal: a token attends only to
    itself and earlier tokens, as in a language model. dropout: its probability, after the
    embedding and in each branch.
    """

    def __init__(self, n_tokens, block_size, n_layer=2, n_head=2, n_embd=128, pos='none',
                 causal=False, dropout=0.0):
        super().__init__()
        check(1, n_head=n_head, n_embd=n_embd, block_size=block_size)
        check(0, n_layer=n_layer)
        check(0, 1, dropout=dropout)
        if n_embd % n_head:
            raise ValueError(f'n_embd {n_embd} is not divisible by n_head {n_head}')
        if pos not in ('none', 'learned'):
            raise ValueError(f"pos is 'none' or 'learned', not {pos!r}")
        self.dropout = dropout
        self.n_features = n_embd
        self.ordered = causal or pos == 'learned'
        self.token_embedding = nn.Embedding(n_tokens, n_embd)
        self.positions = None
        if pos == 'learned':
            self.positions = nn.Embedding(block_size, n_embd)
        self.blocks = nn.ModuleList(Block(n_embd, n_head, causal, dropout) for _ in range(n_layer))
        self.norm = nn.LayerNorm(n_embd)
        self.init_weights(n_layer)

    def forward(self, tokens, counts):
        # padding repeats the first token, so that no padding key dominates the softmax
        x = self.token_embedding(torch.where(counts > 0, tokens, tokens[:, :1]))
        if self.positions is not None:
            x = x + self.positions.weight[:tokens.shape[1]]
        # counts are weights from here on, and bf16 does not hold all integers above 256
        counts = counts.to(torch.promote_types(x.dtype, torch.float32))
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x, counts)
        x = self.norm(x)
        with torch.autocast(tokens.device.type, enabled=False):  # bf16 would round the mean
            weights = counts / counts.sum(1, keepdim=True)  # padding weighs 0
            return (weights[..., None] * x).sum(1)


def check(lowest, below=math.inf, **values):
    """Raises ValueError unless all values are in [lowest, below)."""
    for name, value in values.items():
        if not lowest <= value < below:
            limit = '' if below == math.inf else f' and below {below}'
            raise ValueError(f'{name} must be at least {lowest}{limit}, not {value}')


class Block(nn.Module):
    """Pre-norm attention and MLP with residuals (Vaswani 2017; pre-norm as in GPT-2)."""

    def __init__(self, n_embd, n_head, causal, dropout):
        super().__init__()
        self.n_head = n_head
        self.causal = causal
        self.dropout = dropout
        self.norm_1 = nn.LayerNorm(n_embd)
        self.norm_2 = nn.LayerNorm(n_embd)
        self.qkv = nn.Linear(n_embd, 3 * n_embd)
        self.proj = nn.Linear(n_embd, n_embd)
        self.up = nn.Linear(n_embd, 4 * n_embd)
        self.down = nn.Linear(4 * n_embd, n_embd)

    def forward(self, x, counts):
        """x [B, T, n_embd], counts [B, T] (0: padding) -> [B, T, n_embd]."""
        q, k, v = self.queries_keys_values(self.norm_1(x))
        if self.causal:  # padding is on the right, where no token attends
            y = masked_attention(q, k, v)
        else:
            y = counted_attention(q, k, v, counts)
        x = x + F.dropout(self.join_heads(y), self.dropout, self.training)
        y = self.down(F.relu(self.up(self.norm_2(x))))
        return x + F.dropout(y, self.dropout, self.training)

    def queries_keys_values(self, x):
        """x [B, T, n_embd] -> three times [B, n_head, T, size]."""
        B, T, n_embd = x.shape
        size = n_embd // self.n_head
        return self.qkv(x).view(B, T, 3, self.n_head, size).permute(2, 0, 3, 1, 4)

    def join_heads(self, y):
        """[B, n_head, T, size] -> [B, T, n_embd]."""
        return self.proj(y.transpose(1, 2).flatten(2))


def counted_attention(q, k, v, counts):
    """Attention in which a key that stands for c equal tokens has the weight c exp(score).

    q, k, v [B, n_head, T, size]; counts [B, T], 0 for padding.

    With p = softmax(s), sum c exp(s) v / sum c exp(s) = p @ (c v) / p @ c. This equals adding
    log(c) to the score, but needs no [T, T] tensor in float32. In bf16, integers are exact up to
    256, so the denominator has two columns, c = low + 256 high.
    """
    with torch.autocast(q.device.type, enabled=False):  # it would copy the scores to float32
        c = counts[:, None, :, None]
        low_high = torch.cat([c % 256, c // 256], -1).to(v.dtype).expand(-1, q.shape[1], -1, 2)
        scores = (q * q.shape[-1] ** -0.5) @ k.mT  # [B, n_head, T, T]
        if scores.dtype == torch.float16:  # a high score of padding would push all others to 0
            scores = scores.masked_fill((counts == 0)[:, None, None], -math.inf)
        p = F.softmax(scores, dim=-1)
        # numerator and denominator in one product; padding has c = 0 and adds to neither
        sums = p @ torch.cat([(v * c).to(v.dtype), low_high], -1)
        return sums[..., :-2] / (sums[..., -2:-1] + 256 * sums[..., -1:])


def masked_attention(q, k, v, mask=None):
    """softmax(q k^T / sqrt(size)) v over the keys that a token sees.

    q [B, n_head, T, size], k and v [B, n_head, S, size]; mask: bool [B, 1, T, S], True where a
    token sees a key. None: itself and all before it (T = S) or, for one token (T = 1), all.
    """
    causal = mask is None and q.shape[2] > 1
    if q.device.type != 'cpu':
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    # on a CPU, the backward of this is 1.6 times faster than the library's
    if causal:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    with torch.autocast('cpu', enabled=False):  # it would copy the scores to float32
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        if mask is not None:
            hidden = torch.zeros(mask.shape, dtype=scores.dtype)
            scores += hidden.masked_fill(~mask, -math.inf)
        return scores.softmax(-1) @ v


TRUNKS = {'windows': Windows, 'transformer': Transformer}


# The classifier

class NgramWeights(nn.Module):
    """Logits that are a weighted sum over a text's n-grams: a linear model beside the trunk, fitted
    before the trunk is trained (nanoloss/linear.py).

    strength [n_ngrams + 1]: how informative each n-gram is; the strengths of the n-grams that a
    text lists are scaled to norm 1.
    keys [n_ngrams]: the hashes of the n-grams (nanoloss/text.py).
    """

    def __init__(self, n_ngrams, n_outputs):
        super().__init__()
        # row 0 is padding
        self.sums = nn.EmbeddingBag(n_ngrams + 1, n_outputs, mode='sum', padding_idx=0)
        self.sums.weight.requires_grad_(False).zero_()
        self.register_buffer('bias', torch.zeros(n_outputs))
        self.register_buffer('strength', torch.zeros(n_ngrams + 1))
        self.register_buffer('keys', torch.zeros(n_ngrams, dtype=torch.int64))

    def forward(self, ngrams):
        """ngrams int64 [B, M] (0: padding) -> logits [B, outputs]."""
        strength = self.strength[ngrams]
        length = strength.norm(dim=1, keepdim=True)
        strength = strength / length.clamp(min=torch.finfo(length.dtype).tiny)
        sums = self.sums(ngrams, per_sample_weights=strength.to(self.sums.weight.dtype))
        return sums + self.bias


class Classifier(nn.Module):
    """A trunk, a head and, optionally, a linear model of n-grams beside them.

    n_known: number of known tokens, which the buffer `tokens` lists; all others share row 0 of the
        embedding. If it is 0, every token of the tokenizer is known.
    n_ngrams: number of known n-grams; 0: no linear model. The buffer `mix` [2] has the weights of
        the trunk's and the n-grams' logits in their sum.
    """

    def __init__(self, trunk, head, n_known=0, n_ngrams=0):
        super().__init__()
        self.trunk = trunk
        self.head = head
        if n_known:
            self.register_buffer('tokens', torch.zeros(n_known, dtype=torch.int64))
        self.ngrams = None
        if n_ngrams:
            self.ngrams = NgramWeights(n_ngrams, head.linear.out_features)
            self.register_buffer('mix', torch.ones(2))

    def forward(self, tokens, counts, ngrams=None):
        """tokens int64 [B, T], counts [B, T], n-grams int64 [B, M] (0: padding) -> logits
        [B, outputs], in float32 or float64. Without n-grams, it returns the logits of the trunk,
        which training uses: the trunk is trained alone."""
        features = self.trunk(tokens, counts)
        with torch.autocast(tokens.device.type, enabled=False):  # bf16 would round the answer
            logits = self.head(features)
            if ngrams is not None:
                logits = self.mix[0] * logits + self.mix[1] * self.ngrams(ngrams)
        return logits


# Heads

class Head(nn.Module):
    """The base of every head: the output layer, its loss and its probabilities.

    A head needs a `loss`; every other method can be overridden.

    forward(x)            x float [B, n_features] -> logits [B, outputs], by `linear`. A head that
                          overrides forward supports one label per text only: language models and
                          `EachLabel` use the weights of `linear`.
    loss(logits, labels)  The mean over the texts. labels: int64 [B] or, with several labels per
                          text, 0 and 1 [B, n_class]. Each micro-batch is weighted by its share of
                          the texts, so the mean must be unweighted: with class weights, use
                          F.cross_entropy(reduction='none') and .mean(). A loss over pairs of texts
                          needs a --max_tokens that holds the whole batch.
    probs(logits)         [B, n_class]; with one label per text, the rows sum to 1.
    soft                  True if labels may also be probabilities, float [B, n_class].
    calibrated            False if the logits are not log-odds, so that the probabilities are
                          meaningful only after temperature scaling.
    lr_mult, wd_mult      Factors on the learning rate and the weight decay of the head's weights.

    `__init__` can have these parameters without a default: n_features, n_class, class_share (share
    of each class in the training labels) and multi_label. A head with multi_label handles several
    labels per text itself; `EachLabel` wraps all others. Keywords with a default are settings of
    train.py.
    """
    soft = False
    calibrated = True
    lr_mult = 1.0
    wd_mult = 1.0

    def __init__(self, n_features, n_class):
        super().__init__()
        self.linear = seeded_linear(n_features, n_class)

    def forward(self, x):
        return self.linear(x)

    def loss(self, logits, labels):
        raise NotImplementedError

    def probs(self, logits):
        return logits.softmax(1)


def seeded_linear(n_in, n_out):
    """A linear layer with weights normal 0.02 from its own generator, and biases 0.

    Its own generator keeps the trunk and the batches the same for all heads. The weights are
    multiples of 2^-26, which float32 subtracts exactly: results/losses/matched/heads.py starts a
    head with one output from the difference of the two rows of another.
    """
    linear = nn.Linear(n_in, n_out)
    # scrambled, to differ from the seeds of other generators
    seed = (torch.initial_seed() + 1) * 6364136223846793005 % 2 ** 63
    nn.init.normal_(linear.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
    linear.weight.detach().mul_(2 ** 26).round_().div_(2 ** 26)
    nn.init.zeros_(linear.bias)
    return linear


def class_weights(text, class_share):
    """'1,9' or 'balanced' (1 / share) -> weights with mean 1 over the training labels, [n_class].
    Raises ValueError."""
    if text == 'balanced' and 0 in class_share:
        raise ValueError('class weights cannot be balanced: a class has no training text')
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


class CEHead(Head):
    """Cross-entropy, -log p_y.

    class_weight: one per class, as in '1,9', or 'balanced'; '': none.
    label_smoothing: share of the label that is spread evenly over the classes (Szegedy 2016).
    """
    soft = True

    def __init__(self, n_features, n_class, class_share, class_weight='', label_smoothing=0.0):
        super().__init__(n_features, n_class)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'label_smoothing must be in [0, 1), not {label_smoothing}')
        self.label_smoothing = label_smoothing
        weight = class_weights(class_weight, class_share) if class_weight else None
        self.register_buffer('weight', weight, persistent=False)

    def loss(self, logits, labels):
        if labels.is_floating_point():  # probabilities
            labels = labels.to(logits.dtype)
        # the library's own mean divides by the sum of the weights, not by the number of texts
        loss = F.cross_entropy(logits, labels, self.weight, reduction='none',
                               label_smoothing=self.label_smoothing)
        return loss.mean()


class BCEHead(Head):
    """Binary cross-entropy.

    Two classes: one logit, the log-odds of class 1. More classes: one logit per class, trained to
    separate it from the rest; the losses are summed. The probabilities are the softmax of the
    logits, which is overconfident before temperature scaling and well calibrated after it. With
    several labels per text, `make_head` takes CEHead, which is BCE then.
    """
    soft = True

    def __init__(self, n_features, n_class):
        super().__init__(n_features, 1 if n_class == 2 else n_class)
        self.n_class = n_class
        self.calibrated = n_class == 2

    def loss(self, logits, labels):
        # labels in the shape of the logits: 0 and 1, or probabilities
        if self.n_class == 2:
            labels = labels[:, None] if labels.dim() == 1 else labels[:, 1:]
        elif labels.dim() == 1:
            labels = F.one_hot(labels, self.n_class)
        labels = labels.to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction='none')
        return loss.sum(1).mean()

    def probs(self, logits):
        if self.n_class == 2:
            return torch.cat([(-logits).sigmoid(), logits.sigmoid()], 1)
        return logits.softmax(1)


class FocalHead(Head):
    """Focal loss, (1 - p_y)^gamma (-log p_y), times a weight alpha per class if set (Lin 2017)."""

    def __init__(self, n_features, n_class, class_share, gamma=2.0, alpha=''):
        super().__init__(n_features, n_class)
        if gamma < 0:
            raise ValueError(f'gamma must be at least 0, not {gamma}')
        self.gamma = gamma
        weight = class_weights(alpha, class_share) if alpha else None
        self.register_buffer('weight', weight, persistent=False)

    def loss(self, logits, labels):
        log_p = -F.cross_entropy(logits, labels, reduction='none')
        rest = -log_p.expm1()  # 1 - p_y
        # for gamma < 1, the gradient at 0 is infinite
        rest = rest.clamp(min=torch.finfo(logits.dtype).tiny)
        weighted = F.cross_entropy(logits, labels, self.weight, reduction='none')
        return (rest ** self.gamma * weighted).mean()


class BrierHead(Head):
    """Squared error between the probabilities and the one-hot label (Brier 1950)."""

    def loss(self, logits, labels):
        error = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
        return error.square().sum(1).mean()


def squares_of_others(logits, labels):
    """Sum of the squared logits of all classes but the label, [B]."""
    return logits.scatter(1, labels[:, None], 0).square().sum(1)


class SquareHead(Head):
    """Square loss on the logits: the mean over the classes of k (z_y - M)^2 for the label y and of
    z_j^2 for all others (Hui and Belkin 2021, arXiv 2006.07322)."""
    calibrated = False  # logits near 0 and M are not log-odds

    def __init__(self, n_features, n_class, k=1.0, M=1.0):
        super().__init__(n_features, n_class)
        self.k = k
        self.M = M

    def loss(self, logits, labels):
        own = logits.gather(1, labels[:, None])[:, 0]
        squares = self.k * (own - self.M) ** 2 + squares_of_others(logits, labels)
        return squares.mean() / logits.shape[1]


class SquentropyHead(Head):
    """Cross-entropy plus the mean of z_j^2 over the other classes (Hui, Belkin and Wright 2023,
    arXiv 2302.03952)."""

    def loss(self, logits, labels):
        cross_entropy = F.cross_entropy(logits, labels, reduction='none')
        squares = squares_of_others(logits, labels) / (logits.shape[1] - 1)
        return (cross_entropy + squares).mean()


class EachLabel(Head):
    """Several labels per text, with a head for two classes: each label is a decision between no and
    yes with logits -z/2 and z/2, and the loss is the sum over the labels.

    With cross-entropy this is binary cross-entropy. A setting with a value per class (class_weight,
    alpha) then has two values, for no and yes.
    decision: the head for two classes. Its own linear layer is removed.
    always_labelled: every training text has a label. So the probabilities are those of a text with
        at least one, and cross-entropy is their negative log-likelihood.
    """

    def __init__(self, n_features, n_class, decision, always_labelled):
        super().__init__(n_features, n_class)
        self.always_labelled = always_labelled
        decision.linear = None
        self.decision = decision
        self.calibrated = decision.calibrated
        self.lr_mult = decision.lr_mult
        self.wd_mult = decision.wd_mult

    def loss(self, logits, labels):
        labels = labels.flatten()
        if labels.is_floating_point():  # probabilities
            labels = torch.stack([1 - labels, labels], 1)
        loss = self.decision.loss(no_and_yes(logits), labels) * logits.shape[1]
        if self.always_labelled and isinstance(self.decision, CEHead):
            loss = loss + log_any_label(logits).mean()
        return loss

    def probs(self, logits):
        p = self.decision.probs(no_and_yes(logits))[:, 1].view_as(logits)
        return given_any_label(p) if self.always_labelled else p


def no_and_yes(logits):
    """Logits of several labels [B, n_class] -> two per label, [B * n_class, 2]."""
    return torch.stack([-logits, logits], 2).flatten(0, 1) / 2


def given_any_label(p):
    """Probabilities of independent labels -> those given that a text has at least one of them,
    p_i / (1 - prod_j (1 - p_j)), [B, n_class]."""
    # at p = 1, the gradient of log1p is NaN
    any_label = -torch.log1p(-p.clamp(max=1 - 1e-7)).sum(1, keepdim=True).expm1()
    # it is at least the highest p, but rounding can make it less
    return p / torch.maximum(any_label, p.amax(1, keepdim=True)).clamp(min=1e-30)


def log_any_label(logits):
    """Log-odds of independent labels -> the log of the probability that a text has any, [B]."""
    none = F.logsigmoid(-logits).sum(1)
    # bounded: otherwise all logits could fall without limit and hardly change the loss
    return (-none.expm1()).clamp(min=1e-6).log()


HEADS = {
    'bce': BCEHead,
    'ce': CEHead,
    'focal': FocalHead,
    'brier': BrierHead,
    'square': SquareHead,
    'squentropy': SquentropyHead,
}


# From settings to a model

def model_settings(settings):
    """The keywords of the trunk and the head in `settings`, a dict, with their defaults. Raises
    ValueError if there is no such class, or if both have the same keyword."""
    of_trunk = keywords(find_class(settings['trunk'], TRUNKS))
    of_head = keywords(find_class(settings['head'], HEADS))
    for key in of_head.keys() & of_trunk.keys():
        raise ValueError(f'the trunk and the head both have a keyword {key!r}')
    return of_trunk | of_head


def make_head(head, n_features, n_class, multi_label=False, class_share=None,
              always_labelled=False, **settings):
    """The head of that name for this data. always_labelled: see `EachLabel`. settings: keywords;
    others are ignored. Raises ValueError if the head does not support the data."""
    if multi_label and head == 'bce':
        head = 'ce'  # is binary cross-entropy for each label
    cls = find_class(head, HEADS)
    parameters = signature(cls).parameters
    class_share = class_share or [1 / n_class] * n_class
    each_label = multi_label and 'multi_label' not in parameters
    values = {'n_features': n_features, 'n_class': n_class, 'multi_label': multi_label,
              'class_share': class_share, **settings}
    if each_label:
        yes = sum(class_share) / n_class
        values |= {'n_class': 2, 'class_share': [1 - yes, yes]}
    made = cls(**{key: values[key] for key in parameters if key in values})
    if not each_label:
        return made
    if made.linear.out_features != 2 or type(made).forward is not Head.forward:
        raise ValueError(f'head {head} supports one label per text, but this data has several')
    return EachLabel(n_features, n_class, made, always_labelled)


def make_classifier(config):
    """The Classifier of a run's config, a dict (see train.py), with new weights. Raises ValueError
    if the config is invalid."""
    n_known = config['known_tokens']
    n_tokens = n_known + 1 if n_known else config['vocab_size']
    cls = find_class(config['trunk'], TRUNKS)
    settings = {key: config[key] for key in keywords(cls)}
    trunk = cls(n_tokens, config['block_size'], **settings)
    head = make_head(**{**config, 'n_features': trunk.n_features})
    return Classifier(trunk, head, n_known, config['known_ngrams'])
