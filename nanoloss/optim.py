"""Optimizers: AdamW of torch.optim, a deferred AdamW and a row-wise RMSprop for embeddings, the
learning rate schedule and gradient clipping."""
import math
from inspect import unwrap

import torch
import torch.nn as nn
from torch.nn import functional as F


def without_compiler(optimizer):
    """An optimizer of torch.optim that gives the same results without importing torch.compile.

    torch.optim wraps its methods to exclude them from torch.compile. The wrapper imports
    torch.compile, which takes nearly as long as importing torch."""
    names = 'add_param_group', 'zero_grad', 'state_dict', 'load_state_dict'
    methods = {name: unwrap(getattr(optimizer, name)) for name in names}
    methods['step'] = torch.no_grad()(unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


AdamW = without_compiler(torch.optim.AdamW)


class DeferredEmbedding(nn.Embedding):
    """An embedding whose optimizer updates a row only when it is looked up; see `DeferredAdamW`.

    In training, a lookup first brings its rows up to date, and the gradient is sparse: one row for
    each row that was looked up. `eval()` brings all rows up to date.
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
    """AdamW for a `DeferredEmbedding`: rows that a batch does not need are updated later, in one
    step.

    Adam also moves a row without a gradient: each step multiplies m by beta1 and v by beta2, and
    moves the row by a rate times m / (sqrt(v) + eps). Only m and v depend on the row. So any number
    of such moves is one move: m / (sqrt(v) + eps), as of the row's last update, times a factor that
    all rows with the same last update share. The result is that of torch.optim.AdamW, except for
    rounding and for eps, which shrinks with sqrt(v) while a row waits. The cost of a step depends
    on the rows of the batch, not on the vocabulary. For SGD, see Carpenter
    2008, "Lazy sparse stochastic gradient descent".

    It has the interface of torch.optim: param_groups, step, zero_grad, state_dict.
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
        # per row: the step of its last update, counted from the last reset
        self.left = torch.zeros(len(self.weight), dtype=torch.int64)
        # per step, for the rows last updated then: the factor of weight decay since, the factor by
        # which m / sqrt(v) has shrunk since, and the pending move in units of m / sqrt(v)
        self.kept = torch.ones(1, dtype=torch.float64)
        self.fade = torch.ones(1, dtype=torch.float64)
        self.move = torch.zeros(1, dtype=torch.float64)

    @torch.no_grad()
    def catch_up(self, rows):
        """Bring these rows, int64 [rows], up to date: weight, m and v after all steps so far."""
        # look up the factors by the step of each row's last update
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

        # weight * kept - move * m / (sqrt(v) + eps), in place, since allocation is slow
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
        """Take a step: update the rows with a gradient, and record the step for all others."""
        # one row for each row that was looked up, summed over micro-batches and processes
        gradient = self.weight.grad.coalesce()
        rows = gradient.indices()[0]
        g = gradient.values()
        self.catch_up(rows)  # some may have been looked up by other processes only

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

        # record this step for the rows that wait, then begin a new entry
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
        for rows in torch.arange(len(self.weight)).split(2 ** 13):  # rows that fit the caches
            self.catch_up(rows)
        self.reset_clock()

    def state_dict(self):
        """The state, without settling: that would round, and saving must not change a run."""
        return {key: getattr(self, key) for key in self.STATE}

    def load_state_dict(self, state):
        for key in self.STATE:
            setattr(self, key, state[key])


class RowRMSprop:
    """RMSprop with one second moment per row, for an embedding. Rows without a gradient stay as
    they are.

    A row of the embedding of `Windows` gets a gradient only where it won a maximum. Adam would keep
    moving it by momentum, and a second moment per weight would enlarge rare updates.

    It has the interface of torch.optim: param_groups, step, zero_grad, state_dict.
    """

    def __init__(self, weight, lr_mult=1.0, alpha=0.99, eps=1e-8):
        self.param_groups = [{'params': [weight], 'lr': 0.0, 'lr_mult': lr_mult}]
        self.weight = weight
        self.alpha = alpha
        self.eps = eps
        self.v = torch.zeros_like(weight[:, :1], requires_grad=False)

    @torch.no_grad()
    def step(self):
        """Update the rows with a gradient, which may be sparse."""
        gradient = self.weight.grad
        lr = self.param_groups[0]['lr']
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            rows = gradient.indices()[0]
            g = gradient.values()
            v = self.next_moment(self.v[rows], g)
            self.v[rows] = v
            self.weight.index_add_(0, rows, g / (v.sqrt() + self.eps), alpha=-lr)
        else:
            self.v.copy_(self.next_moment(self.v, gradient))
            self.weight.sub_(lr * gradient / (self.v.sqrt() + self.eps))

    def next_moment(self, v, g):
        """The second moments v [rows, 1] after gradients g [rows, n]; a gradient of 0 keeps the
        moment."""
        square = g.square().mean(1, keepdim=True)
        return torch.where(square > 0, v.lerp(square, 1 - self.alpha), v)

    def zero_grad(self):
        self.weight.grad = None

    def state_dict(self):
        return {'v': self.v}

    def load_state_dict(self, state):
        self.v.copy_(state['v'])


def parameter_groups(model, weight_decay, others=()):
    """A model's parameters as groups for an optimizer, with `lr_mult`, a factor on the learning
    rate.

    Matrices decay, biases and gains do not. A head may scale its rate and its decay.
    others: optimizers whose parameters are left out.
    """
    excluded = {id(parameter) for optimizer in others for group in optimizer.param_groups
                for parameter in group['params']}
    groups = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in excluded or not parameter.requires_grad:
            continue
        # no decay for biases and for gains, which it would pull to 0
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
    """Turn the learning rates into tensors on the device. A CUDA graph (nanoloss/graphs.py) reads
    a tensor in each replay, but a number only when it is recorded."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group['lr'] = torch.zeros((), device=device)
            if 'capturable' in group:  # Adam then works in a graph
                group['capturable'] = True


def begin_step(optimizers, lr, tokens):
    """Set the learning rate of all groups for a batch with these tokens.

    This also brings the deferred rows of the whole batch up to date, which is cheaper than for each
    micro-batch.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            rate = lr * group.get('lr_mult', 1.0)
            if isinstance(group['lr'], torch.Tensor):  # see put_rates_on
                group['lr'].fill_(rate)
            else:
                group['lr'] = rate
        if isinstance(optimizer, DeferredAdamW):
            optimizer.catch_up(tokens.unique())


@torch.no_grad()
def clip_grad_norm(optimizers, max_norm):
    """Scale all gradients so that their joint norm is at most max_norm (0: no limit) -> the norm
    before, a tensor.

    This is torch.nn.utils.clip_grad_norm_ for several optimizers and sparse gradients.
    """
    gradients = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group['params']:
                if parameter.grad is None:
                    continue
                # coalesced, each row occurs once, so the norm is that of the dense gradient
                if parameter.grad.is_sparse:
                    parameter.grad = parameter.grad.coalesce()
                    gradients.append(parameter.grad.values())
                else:
                    gradients.append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_norm:
        # if a gradient overflows in float16, the GradScaler skips the step of its optimizer only;
        # this sets the gradients of the others to 0
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0).nan_to_num(nan=0.0)
        torch._foreach_mul_(gradients, scale)  # one kernel on a GPU
    return norm
