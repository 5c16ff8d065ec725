"""The model: a transformer encoder with a swappable head. All of the mathematics, nothing else.

Notable:
- A batch is `tokens` [B, T] and `counts` [B, T]; a count of 0 is padding, and that is the only mask.
- Without positions the encoder cannot tell two equal tokens of a review apart: they have the same
  hidden state in every layer. So a review can be given as a bag, each distinct token once with its
  count: attention adds log(count) to the key's score, pooling weighs by count, and the function and
  its gradients are exactly those of the full sequence (`to_bags`).
- A head is the output layer together with its loss and its probabilities. A new loss is one class
  here, one line in `HEADS` and one file in config/.
"""
import math
import zipfile
from dataclasses import dataclass, field
from inspect import signature

import torch
import torch.nn as nn
from torch.nn import functional as F


def shorten(tokens, size, truncate):
    """What is used of a review of more than size tokens, as a list of pieces: its head, its tail, or half of each."""
    if len(tokens) <= size:
        return [tokens]
    head = {'head': size, 'tail': 0, 'both': size - size // 2}[truncate]
    return [tokens[:head], tokens[len(tokens) - size + head:]]


def to_bags(tokens, lengths):
    """Reviews as bags: each review's distinct tokens in ascending order, with their counts.

    tokens: int64 [N], all reviews one after another; lengths: int64 [B], tokens per review, sum N.
    Returns tokens [M] and counts [M], again one review after another, and the new lengths [B].
    """
    review = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    keys, counts = torch.unique(review << 32 | tokens, return_counts=True)  # sorted by review, then token
    return keys & 0xFFFFFFFF, counts, torch.bincount(keys >> 32, minlength=len(lengths))


def pad(flat, counts, begin, lengths, width):
    """Reviews [begin:begin + length] of flat and counts [N]; begin, lengths [B] -> tokens and counts [B, width]."""
    column = torch.arange(width, device=flat.device)
    real = column < lengths[:, None]
    index = torch.where(real, begin[:, None] + column, 0)
    return torch.where(real, flat[index], 0), torch.where(real, counts[index], 0)


def parts(max_tokens, *batch):
    """Cut a batch (tokens, counts and whatever else has its rows, the shortest review first) into parts of about
    max_tokens tokens, padding included, each as wide as its longest review needs, in steps of 8."""
    n = min(math.ceil(batch[0].numel() / max_tokens), len(batch[0]))
    for tokens, counts, *others in zip(*(x.tensor_split(n) for x in batch)) if n > 1 else [batch]:
        width = -(-int((counts[-1] > 0).sum()) // 8) * 8 if n > 1 else None
        yield tokens[:, :width], counts[:, :width], *others


@dataclass
class EncoderConfig:
    """The shape of an `Encoder`. Raises ValueError where it is impossible."""
    vocab_size: int
    n_class: int
    block_size: int = 512
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.0
    bias: bool = True
    pos: str = 'none'
    head: str = 'bce'
    multi_label: bool = False
    class_share: list = None
    head_settings: dict = field(default_factory=dict)

    def __post_init__(self):
        for key in ('n_head', 'n_embd', 'block_size'):
            if getattr(self, key) < 1:
                raise ValueError(f'{key} must be at least 1, not {getattr(self, key)}')
        if self.n_layer < 0:
            raise ValueError(f'n_layer must not be negative, as {self.n_layer} is')
        if self.n_embd % self.n_head:
            raise ValueError(f'n_embd {self.n_embd} is not divisible by n_head {self.n_head}')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout must be in [0, 1), not {self.dropout}')
        if self.pos not in ('none', 'learned'):
            raise ValueError(f"pos is 'none' or 'learned', not {self.pos!r}")


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the stream (Vaswani 2017; pre-norm as in GPT-2)."""

    def __init__(self, config):
        super().__init__()
        n, bias = config.n_embd, config.bias
        self.n_head, self.dropout = config.n_head, config.dropout
        self.norm_1, self.norm_2 = nn.LayerNorm(n, bias=bias), nn.LayerNorm(n, bias=bias)
        self.qkv, self.proj = nn.Linear(n, 3 * n, bias=bias), nn.Linear(n, n, bias=bias)
        self.up, self.down = nn.Linear(n, 4 * n, bias=bias), nn.Linear(4 * n, n, bias=bias)

    def forward(self, x, counts):
        """x [B, T, n_embd], counts [B, T] (0: padding) -> [B, T, n_embd]."""
        x = x + F.dropout(self.attend(self.norm_1(x), counts), self.dropout, self.training)
        return x + F.dropout(self.down(F.relu(self.up(self.norm_2(x)))), self.dropout, self.training)

    def attend(self, x, counts):
        """Multi-head attention in which a key that stands for c equal tokens weighs c exp(score).

        The count is taken out of the softmax, sum c exp(s) v / sum c exp(s) = p @ (c v) / p @ c with
        p = softmax(s): the same number as adding log(c) to the score, but no [T, T] tensor is needed
        in float32, and bf16, which would bend a log-count of 3 by half a percent, holds c exactly."""
        B, T, n = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_head, n // self.n_head).permute(2, 0, 3, 1, 4)
        with torch.autocast(x.device.type, enabled=False):  # it would make softmax a float32 copy
            c = counts[:, None, :, None].to(v.dtype).expand(-1, self.n_head, -1, 1)
            p = F.softmax((q * (n // self.n_head) ** -0.5) @ k.mT, dim=-1)
            y = p @ torch.cat([v * c, c], -1)
            y = y[..., :-1] / y[..., -1:]
        return self.proj(y.transpose(1, 2).reshape(B, T, n))


class Encoder(nn.Module):
    """Token embedding -> n_layer blocks -> norm -> mean over the review -> head."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        if config.pos == 'learned':
            self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        for name, p in self.named_parameters():  # as GPT-2: normal 0.02, less where a branch joins the stream
            if name.endswith(('proj.weight', 'down.weight')):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * config.n_layer))
            elif p.dim() == 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(p)
        self.head = make_head(config.head, config.n_embd, config.n_class, config.multi_label, config.class_share,
                              **config.head_settings)

    def forward(self, tokens, counts, table=None):
        """tokens int [B, T], counts [B, T] (0: padding) -> logits [B, outputs of the head], float32 at least.

        table: [rows, n_embd], embeddings to look the tokens up in, instead of the model's own."""
        x = F.embedding(tokens, self.embed.weight if table is None else table)
        if self.config.pos == 'learned':
            x = x + self.positions.weight[:tokens.shape[1]]
        x = F.dropout(x, self.config.dropout, self.training)
        counts = counts.to(torch.promote_types(x.dtype, torch.float32))
        for block in self.blocks:
            x = block(x, counts)
        with torch.autocast(tokens.device.type, enabled=False):
            share = counts / counts.sum(1, keepdim=True)
            return self.head((share[:, None] @ self.norm(x.to(counts.dtype)))[:, 0])

    def load_trunk(self, path):
        """Take all weights but the head's from a file of another encoder's. Raises ValueError if they do not fit."""
        trunk = {name: w for name, w in load(path).items() if not name.startswith('head.')}
        for name, w in self.state_dict().items():
            if not name.startswith('head.') and (name not in trunk or trunk[name].shape != w.shape):
                there = tuple(trunk[name].shape) if name in trunk else 'none'
                raise ValueError(f'{path} does not fit: {name} is {there} there, {tuple(w.shape)} here')
        self.load_state_dict(trunk, strict=False)

    def parameter_groups(self, weight_decay):
        """For an optimizer: decay is for matrices, not for biases and gains; a head may scale its rate and decay."""
        groups = {}
        for name, p in self.named_parameters():
            owner = self.head if name.startswith('head.') else None
            decay = weight_decay * getattr(owner, 'wd_mult', 1.0) * (p.dim() > 1)
            if p.requires_grad:
                groups.setdefault((getattr(owner, 'lr_mult', 1.0), decay), []).append(p)
        return [{'params': p, 'lr_mult': lr_mult, 'weight_decay': decay} for (lr_mult, decay), p in groups.items()]


# A head turns x float [B, n_embd] into logits z [B, outputs]. loss(z, y) is a mean over the reviews; y is int64 [B] or,
# of reviews with several labels, 0 and 1 [B, n_class]. probs(z) is [B, n_class]; where a review has one label, the rows
# sum to 1. What __init__ wants without a default comes from the data (see make_head); what has a default is a setting
# of train.py. Attributes lr_mult and wd_mult, where a head has them, scale its learning rate and weight decay.

def own_linear(n_in, n_out):
    """A linear layer that starts as the others do (normal 0.02, bias 0), but from a generator of its own: heads of
    different sizes leave the numbers that the trunk and the batches are drawn from alike. The weights lie on a grid
    on which float32 subtracts exactly, so that a head can start from the difference of another's rows."""
    linear = nn.Linear(n_in, n_out)
    own = torch.Generator().manual_seed((torch.initial_seed() + 1) * 6364136223846793005 % 2 ** 63)
    nn.init.normal_(linear.weight, std=0.02, generator=own).detach().mul_(2 ** 26).round_().div_(2 ** 26)
    nn.init.zeros_(linear.bias)
    return linear


class BCEHead(nn.Module):
    """Binary cross-entropy. Two classes: one logit, the log-odds of class 1. More: a logit for each class against the
    rest, the sum of their losses, and sigmoids scaled to sum 1. Several labels a review: the same, each on its own.

    from_ce: start from the difference of the two rows that CEHead would start from.
    """

    def __init__(self, n_embd, n_class, multi_label, from_ce=False, lr_mult=1.0, wd_mult=1.0):
        super().__init__()
        self.n_class, self.multi_label, self.lr_mult, self.wd_mult = n_class, multi_label, lr_mult, wd_mult
        self.one_logit = n_class == 2 and not multi_label
        self.linear = own_linear(n_embd, 1 if self.one_logit else n_class)
        if from_ce:
            if not self.one_logit:
                raise ValueError('from_ce is for two classes')
            self.linear.weight.data = own_linear(n_embd, 2).weight.detach().diff(dim=0)

    def forward(self, x):
        return self.linear(x)

    def loss(self, z, y):
        if not self.multi_label:
            y = y[:, None] if self.one_logit else F.one_hot(y, self.n_class)
        return F.binary_cross_entropy_with_logits(z, y.to(z.dtype), reduction='none').sum(1).mean()

    def probs(self, z):
        if self.one_logit:
            return torch.cat([(-z).sigmoid(), z.sigmoid()], 1)
        return z.sigmoid() if self.multi_label else F.logsigmoid(z).softmax(1)


class SoftmaxHead(nn.Module):
    """What the heads with a logit per class and a softmax have in common: all but the loss."""

    def __init__(self, n_embd, n_class):
        super().__init__()
        self.linear = own_linear(n_embd, n_class)

    def forward(self, x):
        return self.linear(x)

    def probs(self, z):
        return z.softmax(1)


def weights(text, class_share):
    """'1,9' or 'balanced' (1 / share) -> weights of the classes, of mean 1 over the training labels, [n_class]."""
    try:
        given = [1 / share for share in class_share] if text == 'balanced' else [float(w) for w in text.split(',')]
        if len(given) != len(class_share) or not all(0 < w < math.inf for w in given):
            raise ValueError
    except ValueError:
        raise ValueError(f"class weights are 'balanced' or {len(class_share)} positive numbers, not {text!r}") from None
    return torch.tensor(given) / sum(w * share for w, share in zip(given, class_share))


class CEHead(SoftmaxHead):
    """Cross-entropy, -log p_y.

    class_weight: one a class, as '1,9', or 'balanced'; '' for none.
    label_smoothing: this share of the label is spread evenly over the classes (Szegedy 2016).
    nudge: added to the first weight at the start, to see what chaos makes of it.
    """

    def __init__(self, n_embd, n_class, class_share, class_weight='', label_smoothing=0.0, nudge=0.0):
        super().__init__(n_embd, n_class)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'label_smoothing must be in [0, 1), not {label_smoothing}')
        self.label_smoothing = label_smoothing
        self.register_buffer('weight', weights(class_weight, class_share) if class_weight else None, persistent=False)
        self.linear.weight.data[0, 0] += nudge

    def loss(self, z, y):
        return F.cross_entropy(z, y, self.weight, reduction='none', label_smoothing=self.label_smoothing).mean()


class FocalHead(SoftmaxHead):
    """Focal loss, (1 - p_y)^gamma (-log p_y), with a weight alpha per class where given (Lin 2017)."""

    def __init__(self, n_embd, n_class, class_share, gamma=2.0, alpha=''):
        super().__init__(n_embd, n_class)
        if gamma < 0:
            raise ValueError(f'gamma must not be negative, as {gamma} is')
        self.gamma = gamma
        self.register_buffer('weight', weights(alpha, class_share) if alpha else None, persistent=False)

    def loss(self, z, y):
        log_p = -F.cross_entropy(z, y, reduction='none')
        rest = (-log_p.expm1()).clamp(min=torch.finfo(z.dtype).tiny)  # at 0, a gamma below 1 has no gradient
        return (rest ** self.gamma * F.cross_entropy(z, y, self.weight, reduction='none')).mean()


class BrierHead(SoftmaxHead):
    """Squared error of the probabilities to the one-hot label, summed over the classes (Brier 1950)."""

    def loss(self, z, y):
        return (z.softmax(1) - F.one_hot(y, z.shape[1])).square().sum(1).mean()


def others(z, y):
    """Sum of the squared logits but the label's: [B]."""
    return z.scatter(1, y[:, None], 0).square().sum(1)


class SquareHead(SoftmaxHead):
    """Square loss on raw logits, the label's rescaled: mean over the classes of k (z_y - M)^2 and of the others' z_j^2
    (Hui and Belkin 2021, arXiv 2006.07322)."""
    calibrated = False  # logits of 0 and M are not log-odds: judge the probabilities after temperature scaling only

    def __init__(self, n_embd, n_class, k=1.0, M=1.0):
        super().__init__(n_embd, n_class)
        self.k, self.M = k, M

    def loss(self, z, y):
        own = z.gather(1, y[:, None])[:, 0]
        return (self.k * (own - self.M) ** 2 + others(z, y)).mean() / z.shape[1]


class SquentropyHead(SoftmaxHead):
    """Cross-entropy plus the mean of z_j^2 over the other classes (Hui, Belkin and Wright 2023, arXiv 2302.03952)."""

    def loss(self, z, y):
        return (F.cross_entropy(z, y, reduction='none') + others(z, y) / (z.shape[1] - 1)).mean()


HEADS = {'bce': BCEHead, 'ce': CEHead, 'focal': FocalHead, 'brier': BrierHead, 'square': SquareHead,
         'squentropy': SquentropyHead}


def head_settings(settings):
    """The keywords of the head that settings['head'] names, with their defaults: settings of train.py too."""
    keywords = signature(HEADS[settings['head']]).parameters.values() if settings['head'] in HEADS else ()
    return {p.name: p.default for p in keywords if p.default is not p.empty}


def make_head(head, n_embd, n_class, multi_label=False, class_share=None, **settings):
    """The head of that name for these data; class_share: of the training labels, per class, [n_class].

    settings: may hold more than the head's own. Raises ValueError where the head cannot do it."""
    if head not in HEADS:
        raise ValueError(f'there is no head {head!r}; there are {", ".join(HEADS)}')
    wants = signature(HEADS[head]).parameters
    if multi_label and 'multi_label' not in wants:
        able = [name for name, cls in HEADS.items() if 'multi_label' in signature(cls).parameters]
        raise ValueError(f'head {head} is for one label a review, these data have several; take {" or ".join(able)}')
    given = {'n_embd': n_embd, 'n_class': n_class, 'multi_label': multi_label,
             'class_share': class_share or [1 / n_class] * n_class, **settings}
    return HEADS[head](**{key: value for key, value in given.items() if key in wants})


def make_encoder(config):
    """The Encoder of a flat dict of settings, such as a run's config.json; it may hold more. Raises ValueError."""
    shape = {key: config[key] for key in EncoderConfig.__dataclass_fields__ if key in config}
    return Encoder(EncoderConfig(**shape, head_settings={key: config[key] for key in head_settings(config)}))


def is_right(probs, y):
    """Which reviews are classified right: bool [B]; of several labels a review, all must be."""
    return probs.argmax(1) == y if y.dim() == 1 else ((probs > 0.5) == y.bool()).all(1)


def temperature(head, z, y):
    """The number, e^-7 to e^7, by which logits are to be divided to make the labels most likely (Guo 2017).

    z float [N, outputs]; y int64 [N] or, of several labels a review, 0 and 1 [N, C]."""
    def loss(log_t):
        p = head.probs(z.double() / math.exp(log_t))
        p = p.gather(1, y[:, None]) if y.dim() == 1 else torch.where(y.bool(), p, 1 - p)
        return -p.clamp(min=torch.finfo(p.dtype).tiny).log().mean().item()
    from scipy import optimize  # here, for it takes time to import, and prediction does without
    return math.exp(optimize.minimize_scalar(loss, bounds=(-7, 7), method='bounded').x)


def bfloat16_is_fast():
    """Can this CPU multiply matrices of bfloat16 itself?"""
    able = torch.cpu.get_capabilities()
    return bool(able.get('amx_bf16') or able.get('avx512_bf16'))


def load(path, device='cpu'):
    """What torch.save wrote. Every byte is checked, which torch.load does not do; ValueError if the file is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (bad := archive.testzip()):
                raise ValueError(f'{bad} has another checksum')
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # of many kinds
        raise ValueError(f'{path} is damaged ({type(error).__name__}: {error})') from None


class DeferredAdamW:
    """AdamW for an embedding of which a batch needs few rows: the others wait, and make up for it later.

    Adam moves a row that has no gradient, too: each step m shrinks by beta1 and v by beta2, and the row moves by a
    rate times m / (sqrt(v) + eps). All of it but the row's own m and v is known beforehand, so any number of such
    moves is one: m / (sqrt(v) + eps), as the row was left, times a number that all rows left at that step share.
    This gives torch.optim.AdamW's numbers (but for rounding, and for eps, which shrinks with sqrt(v) while a row
    waits) and costs a batch's rows, not the vocabulary. Like it: Carpenter 2008, "Lazy sparse SGD", for SGD.

    weight: float [V, n], changed in place; only `settle` brings all of it up to date.
    """
    STATE = 'm', 'v', 'steps', 'left', 'kept', 'fade', 'move'

    def __init__(self, weight, betas, weight_decay, eps=1e-8):
        self.weight, self.betas, self.weight_decay, self.eps = weight.requires_grad_(False), betas, weight_decay, eps
        self.m, self.v, self.steps = torch.zeros_like(self.weight), torch.zeros_like(self.weight), 0
        self.place = torch.zeros(len(weight), dtype=torch.int64)
        self.settle_clock()

    def settle_clock(self):
        """Start to count anew: every row was left now."""
        self.left = torch.zeros(len(self.weight), dtype=torch.int64)  # by how many steps since then, per row
        # of a row left at each step since then: the share of its weight that decay has left, the share of
        # m / sqrt(v) that is left, and how many m / sqrt(v) it is to move
        self.kept, self.fade, self.move = torch.tensor([[1.0], [1.0], [0.0]], dtype=torch.float64)

    def current(self, rows):
        """Weight, m and v of these rows as they are after all steps so far, [rows, n] each."""
        left = self.left[rows]
        kept, move = (x[left, None].to(self.weight.dtype) for x in (self.kept, self.move))
        m, v, waited = self.m[rows], self.v[rows], (len(self.kept) - 1 - left)[:, None].to(self.weight.dtype)
        eps = self.eps * (1 - self.betas[1] ** (self.steps - waited).clamp(min=1)).sqrt()
        weight = self.weight[rows] * kept - move * m / (v.sqrt() + eps)
        return weight, m * self.betas[0] ** waited, v * self.betas[1] ** waited

    def rows(self, tokens):
        """tokens int [...] -> their places in a table, and the table [rows, n]: a leaf, for the gradient."""
        self.place.fill_(-1)[tokens] = 0
        self.needed = (self.place == 0).nonzero()[:, 0]
        self.place[self.needed] = torch.arange(len(self.needed))
        weight, self.m_needed, self.v_needed = self.current(self.needed)
        self.table = weight.requires_grad_()
        return self.place[tokens], self.table

    @torch.no_grad()
    def step(self, lr):
        """One step of all rows, by the gradient of the table that `rows` gave last."""
        (beta1, beta2), w, m, v, g = self.betas, self.table.detach(), self.m_needed, self.v_needed, self.table.grad
        self.steps += 1
        debias = math.sqrt(1 - beta2 ** self.steps)
        rate, decay = lr * debias / (1 - beta1 ** self.steps), 1 - lr * self.weight_decay
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        w.mul_(decay).addcdiv_(m, v.sqrt().add_(self.eps * debias), value=-rate)
        for whole, part in (self.weight, w), (self.m, m), (self.v, v):
            whole[self.needed] = part
        self.fade = self.fade * (beta1 / math.sqrt(beta2))
        self.kept, self.move = self.kept * decay, self.move * decay + rate * self.fade
        self.kept, self.fade, self.move = (F.pad(x, (0, 1), value=y) for x, y in
                                           ((self.kept, 1.0), (self.fade, 1.0), (self.move, 0.0)))
        self.left[self.needed] = len(self.kept) - 1

    def settle(self):
        """Bring all rows up to date."""
        for part in torch.arange(len(self.weight)).split(2 ** 13):
            self.weight[part], self.m[part], self.v[part] = self.current(part)
        self.settle_clock()

    def state_dict(self):
        """As it is: to settle rounds, and a run must not depend on when it was saved."""
        return {key: getattr(self, key) for key in self.STATE}

    def load_state_dict(self, state):
        for key in self.STATE:
            setattr(self, key, state[key])
