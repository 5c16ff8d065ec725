"""Optimizers: torch.optim's, one for an embedding of which a batch needs few rows, and what all
share."""
import math
from inspect import unwrap

import torch
import torch.nn as nn
from torch.nn import functional as F


def without_compiler(optimizer):
    """An optimizer of torch.optim, the same to the bit, that does not import torch.compile.

    Methods that are not to be compiled come wrapped in a function that tells torch.compile so, and
    that imports it for this alone: nearly as long as importing torch."""
    names = 'add_param_group', 'zero_grad', 'state_dict', 'load_state_dict'
    methods = {name: unwrap(getattr(optimizer, name)) for name in names}
    methods['step'] = torch.no_grad()(unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


AdamW = without_compiler(torch.optim.AdamW)
SGD = without_compiler(torch.optim.SGD)


class DeferredEmbedding(nn.Embedding):
    """An embedding whose optimizer moves a row only when it is looked up; see `DeferredAdamW`.

    In training, a lookup first brings its rows up to date, and the gradient is sparse: the rows
    that were looked up, each once. `eval()` brings all rows up to date.
    """
    optimizer = None  # set by DeferredAdamW

    def forward(self, tokens):
        """tokens int [...] -> [..., n_embd]."""
        if not self.training or self.optimizer is None:
            return super().forward(tokens)
        # two lookups, so that the sparse gradient has a row per distinct token, not per token
        rows, places = torch.unique(tokens, return_inverse=True)
        self.optimizer.catch_up(rows)
        table = F.embedding(rows, self.weight, sparse=True)
        return F.embedding(places, table)

    def train(self, mode=True):
        if not mode and self.optimizer is not None:
            self.optimizer.settle()
        return super().train(mode)


class DeferredAdamW:
    """AdamW for a `DeferredEmbedding`: rows that a batch lacks make their steps later, all at once.

    Adam moves a row that has no gradient, too: each step m shrinks by beta1 and v by beta2, and the
    row moves by a rate times m / (sqrt(v) + eps). All of it but the row's own m and v is known
    beforehand, so any number of such moves is one: m / (sqrt(v) + eps), as the row was left, times
    a number that all rows left at that step share. This gives torch.optim.AdamW's numbers (but for
    rounding, and for eps, which shrinks with sqrt(v) while a row waits) and costs a batch's rows,
    not the vocabulary. Like it for SGD: Carpenter 2008, "Lazy sparse stochastic gradient descent".

    It is used as torch.optim's optimizers are: param_groups, step, zero_grad, state_dict.
    """
    STATE = 'm', 'v', 'steps', 'left', 'kept', 'fade', 'move'

    def __init__(self, embedding, betas, weight_decay, eps=1e-8):
        embedding.optimizer = self
        weight = embedding.weight
        self.param_groups = [
            {'params': [weight], 'lr': 0.0, 'lr_mult': 1.0, 'weight_decay': weight_decay}]
        self.weight = weight
        self.betas = betas
        self.eps = eps
        self.m = torch.zeros_like(weight, requires_grad=False)
        self.v = torch.zeros_like(weight, requires_grad=False)
        self.steps = 0
        self.reset_clock()

    def reset_clock(self):
        """All rows are up to date: count the steps from 0 again."""
        # per row: at which step, counted from the last reset, it was brought up to date
        self.left = torch.zeros(len(self.weight), dtype=torch.int64)
        # of a row left at each step since then: the share of its weight that decay has left, the
        # share of m / sqrt(v) that is left, and how many m / sqrt(v) it has to move
        self.kept = torch.ones(1, dtype=torch.float64)
        self.fade = torch.ones(1, dtype=torch.float64)
        self.move = torch.zeros(1, dtype=torch.float64)

    @torch.no_grad()
    def catch_up(self, rows):
        """Bring these rows, int64 [rows], up to date: weight, m and v after all steps so far."""
        # what all rows left at a step have in common, looked up by that step
        latest = len(self.kept) - 1
        left = self.left[rows]
        if (left == latest).all():
            return
        beta1, beta2 = self.betas
        dtype = self.weight.dtype
        kept = self.kept[left, None].to(dtype)
        move = self.move[left, None].to(dtype)
        waited = (latest - left)[:, None].to(dtype)
        eps = self.eps * (1 - beta2 ** (self.steps - waited).clamp(min=1)).sqrt()

        # weight * kept - move * m / (sqrt(v) + eps), in place: new memory costs more than the sums
        weight, m, v = self.select(rows)
        moves = (m * move).div_(v.sqrt().add_(eps))
        self.replace(rows, weight.mul_(kept).sub_(moves), m.mul_(beta1 ** waited),
                     v.mul_(beta2 ** waited))
        self.left[rows] = latest

    def select(self, rows):
        """Copies of weight, m and v of these rows."""
        return [table.index_select(0, rows) for table in (self.weight, self.m, self.v)]

    def replace(self, rows, weight, m, v):
        self.weight.index_copy_(0, rows, weight)
        self.m.index_copy_(0, rows, m)
        self.v.index_copy_(0, rows, v)

    @torch.no_grad()
    def step(self):
        """One step of all rows: now of those with a gradient, later of the others."""
        # of the rows that were looked up, summed over the parts of the batch and over processes
        gradient = self.weight.grad.coalesce()
        rows = gradient.indices()[0]
        g = gradient.values()
        self.catch_up(rows)  # those that other processes alone have looked up

        beta1, beta2 = self.betas
        group = self.param_groups[0]
        self.steps += 1
        debias = math.sqrt(1 - beta2 ** self.steps)
        rate = group['lr'] * debias / (1 - beta1 ** self.steps)
        decay = 1 - group['lr'] * group['weight_decay']
        # AdamW as in torch.optim, of these rows
        weight, m, v = self.select(rows)
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        weight.mul_(decay).addcdiv_(m, v.sqrt().add_(self.eps * debias), value=-rate)
        self.replace(rows, weight, m, v)

        # the same step of a row that waits, by the step at which it was left; then a new such step
        self.fade = self.fade * (beta1 / math.sqrt(beta2))
        self.kept = self.kept * decay
        self.move = self.move * decay + rate * self.fade
        self.kept = F.pad(self.kept, (0, 1), value=1.0)
        self.fade = F.pad(self.fade, (0, 1), value=1.0)
        self.move = F.pad(self.move, (0, 1), value=0.0)
        self.left[rows] = len(self.kept) - 1

    def zero_grad(self):
        self.weight.grad = None

    def settle(self):
        """Bring all rows up to date."""
        for rows in torch.arange(len(self.weight)).split(2 ** 13):  # so many fit the caches
            self.catch_up(rows)
        self.reset_clock()

    def state_dict(self):
        """As it is: to settle rounds, and a run must not depend on when it was saved."""
        return {key: getattr(self, key) for key in self.STATE}

    def load_state_dict(self, state):
        for key in self.STATE:
            setattr(self, key, state[key])


def parameter_groups(model, weight_decay, exclude=()):
    """A model's parameters for an optimizer, with `lr_mult`, a factor on the scheduled rate.

    Decay is for matrices, not for biases and gains; a head may scale its rate and its decay.
    exclude: parameters that another optimizer has.
    """
    excluded = {id(parameter) for parameter in exclude}
    groups = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in excluded:
            continue
        # decay would pull the gain of a norm to 0
        decay = weight_decay if parameter.dim() > 1 else 0.0
        lr_mult = 1.0
        if name.startswith('head.'):
            decay *= model.head.wd_mult
            lr_mult = model.head.lr_mult
        group = {'params': [], 'lr_mult': lr_mult, 'weight_decay': decay}
        groups.setdefault((lr_mult, decay), group)['params'].append(parameter)
    return list(groups.values())


def scheduled_rate(step, last_step, highest, warmup_iters):
    """The learning rate of a step, 1 to last_step: linear warm-up, then a cosine to 0."""
    if step <= warmup_iters:
        return highest * step / warmup_iters
    progress = (step - warmup_iters) / (last_step - warmup_iters)
    return highest * (1 + math.cos(math.pi * progress)) / 2


def put_rates_on(device, optimizers):
    """Make the learning rates tensors there: a CUDA graph (nanoloss/graphs.py) reads them anew each
    time, and numbers only once."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group['lr'] = torch.zeros((), device=device)
            if 'capturable' in group:  # Adam's word for a step that a graph may hold
                group['capturable'] = True


def begin_step(optimizers, lr, tokens):
    """Set the learning rate, times each group's own factor, for the batch of these tokens.

    Deferred rows that the batch needs are brought up to date here, all at once: cheaper than with
    every part of the batch that looks some up.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            rate = lr * group['lr_mult']
            if isinstance(group['lr'], torch.Tensor):  # see put_rates_on
                group['lr'].fill_(rate)
            else:
                group['lr'] = rate
        if isinstance(optimizer, DeferredAdamW):
            optimizer.catch_up(tokens.unique())


@torch.no_grad()
def clip_grad_norm(optimizers, max_norm):
    """Scale all gradients so that their joint norm is at most max_norm (0: no limit).

    torch.nn.utils.clip_grad_norm_ for several optimizers and sparse gradients. Returns the norm
    before, a tensor.
    """
    gradients = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group['params']:
                if parameter.grad is None:
                    continue
                # coalesced, the values are one row each, whose norm is that of the dense gradient
                if parameter.grad.is_sparse:
                    parameter.grad = parameter.grad.coalesce()
                    gradients.append(parameter.grad.values())
                else:
                    gradients.append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_norm:
        # where a gradient has overflowed in float16, a GradScaler leaves out its optimizer's step,
        # but not those of the others: their gradients become 0
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0).nan_to_num(nan=0.0)
        torch._foreach_mul_(gradients, scale)  # on a GPU, one kernel for all
    return norm
