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
from dataclasses import dataclass, field
from inspect import signature

import torch
import torch.nn as nn
from torch.nn import functional as F


def to_bags(tokens, lengths):
    """Reviews as bags: each review's distinct tokens in ascending order, with their counts.

    tokens: int64 [N], all reviews one after another; lengths: int64 [B], tokens per review, sum N.
    Returns tokens [M] and counts [M], again one review after another, and the new lengths [B].
    """
    review = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    keys, counts = torch.unique(review << 32 | tokens, return_counts=True)  # sorted by review, then token
    return keys & 0xFFFFFFFF, counts, torch.bincount(keys >> 32, minlength=len(lengths))


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
        if self.head not in HEADS:
            raise ValueError(f'there is no head {self.head!r}; there are {", ".join(HEADS)}')


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
        self.head = HEADS[config.head](config.n_embd, config.n_class, **config.head_settings)

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
            weights = counts / counts.sum(1, keepdim=True)
            return self.head((weights[:, None] @ self.norm(x.to(counts.dtype)))[:, 0])


# A head turns x float [B, n_embd] into logits [B, outputs]; loss(logits, y int64 [B]) is the mean over the
# reviews; probs(logits) is [B, n_class] with rows that sum to 1. Keywords with defaults in __init__ are settings
# of train.py; attributes lr_mult and wd_mult, where a head has them, scale its learning rate and weight decay.

def own_linear(n_in, n_out):
    """A linear layer that starts as the others do (normal 0.02, bias 0), but from a generator of its own: heads of
    different sizes leave the numbers that the trunk and the batches are drawn from alike."""
    linear = nn.Linear(n_in, n_out)
    own = torch.Generator().manual_seed((torch.initial_seed() + 1) * 6364136223846793005 % 2 ** 63)
    nn.init.normal_(linear.weight, std=0.02, generator=own)
    nn.init.zeros_(linear.bias)
    return linear


class BCEHead(nn.Module):
    """One logit, the log-odds of class 1, for two classes; binary cross-entropy."""

    def __init__(self, n_embd, n_class):
        super().__init__()
        if n_class != 2:
            raise ValueError(f'head bce tells two classes apart, these data have {n_class}; take head ce')
        self.linear = own_linear(n_embd, 1)

    def forward(self, x):
        return self.linear(x)

    def loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits[:, 0], y.to(logits.dtype))

    def probs(self, logits):
        return torch.cat([(-logits).sigmoid(), logits.sigmoid()], 1)


class CEHead(nn.Module):
    """A logit per class and a softmax; cross-entropy."""

    def __init__(self, n_embd, n_class):
        super().__init__()
        self.linear = own_linear(n_embd, n_class)

    def forward(self, x):
        return self.linear(x)

    def loss(self, logits, y):
        return F.cross_entropy(logits, y)

    def probs(self, logits):
        return logits.softmax(1)


HEADS = {'bce': BCEHead, 'ce': CEHead}


def head_settings(settings):
    """The keywords of the head that settings['head'] names, with their defaults: settings of train.py too."""
    keywords = signature(HEADS[settings['head']].__init__).parameters.values() if settings['head'] in HEADS else ()
    return {p.name: p.default for p in keywords if p.default is not p.empty}


class DeferredAdamW:
    """AdamW for an embedding of which a batch needs few rows: the others wait, and make up for it later.

    Adam moves a row that has no gradient, too: each step m shrinks by beta1 and v by beta2, and the row moves by a
    rate times m / (sqrt(v) + eps). All of it but the row's own m and v is known beforehand, so any number of such
    moves is one: m / (sqrt(v) + eps), as the row was left, times a number that all rows left at that step share.
    This gives torch.optim.AdamW's numbers (but for rounding, and for eps, which shrinks with sqrt(v) while a row
    waits) and costs a batch's rows, not the vocabulary. Like it: Carpenter 2008, "Lazy sparse SGD", for SGD.

    weight: float [V, n], changed in place; only `settle` brings all of it up to date.
    """

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
        self.settle()
        return {'m': self.m, 'v': self.v, 'steps': self.steps}

    def load_state_dict(self, state):
        self.m.copy_(state['m']), self.v.copy_(state['v'])
        self.steps = state['steps']
