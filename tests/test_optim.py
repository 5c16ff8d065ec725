"""nanoloss/optim.py against torch.optim.AdamW and torch.nn.utils.clip_grad_norm_. About 15 s."""
import copy
import io
import math
import subprocess
import sys

import pytest
import torch
from helpers import ROOT
from torch import nn

from model import CEHead, Classifier, Transformer, make_head
from nanoloss.optim import (
    AdamW, DeferredAdamW, DeferredEmbedding, RowRMSprop, begin_step, clip_grad_norm,
    parameter_groups, scheduled_rate)

BETAS = 0.9, 0.99
DECAY = 0.3


def deferred_pair(start, eps=1e-8):
    """A DeferredEmbedding that starts with this table, and its optimizer."""
    embedding = DeferredEmbedding.from_pretrained(start.clone(), freeze=False, sparse=True)
    return embedding, DeferredAdamW(embedding, BETAS, DECAY, eps)


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize('ours, theirs, settings', [
    (AdamW, torch.optim.AdamW, {'betas': BETAS, 'weight_decay': DECAY, 'fused': True}),
])
def test_optimizers_are_torch_s(ours, theirs, settings):
    """Bit for bit, also after a save on the way."""
    models = []
    for optimizer_class in (ours, theirs):
        torch.manual_seed(0)
        model = nn.Linear(7, 3)
        optimizer = optimizer_class(model.parameters(), **settings)
        for step in range(6):
            if step == 3:
                state = saved_and_loaded(optimizer.state_dict())
                optimizer = optimizer_class(model.parameters(), **settings)
                optimizer.load_state_dict(state)
            model(torch.randn(5, 7)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            assert model.weight.grad is None
        models.append(model)
    assert torch.equal(models[0].weight, models[1].weight)
    assert torch.equal(models[0].bias, models[1].bias)
    assert 'torch._dynamo' in sys.modules  # torch's have imported the compiler, or ours can go


def test_optimizers_do_not_import_the_compiler():
    """All that a loop asks of them, in a process of its own."""
    program = """
import sys, torch
from nanoloss.optim import AdamW
weight = torch.nn.Parameter(torch.zeros(3))
optimizer = AdamW([weight], fused=True)
weight.sum().backward()
torch.amp.GradScaler('cpu', enabled=False).step(optimizer)
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print('torch._dynamo' in sys.modules)
"""
    process = subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True,
                             capture_output=True, text=True)
    assert process.stdout == 'False\n'


@pytest.mark.parametrize('dtype, eps, tolerance, n_micro, announced', [
    (torch.float64, 1e-30, 1e-14, 1, True), (torch.float64, 1e-30, 1e-13, 1, False),
    (torch.float64, 1e-30, 1e-14, 3, True), (torch.float64, 1e-30, 1e-13, 3, False),
    (torch.float32, 1e-30, 1e-6, 3, True), (torch.float32, 1e-8, 1e-4, 3, True)])
def test_deferred_adamw_is_adamw(dtype, eps, tolerance, n_micro, announced):
    """Against torch.optim.AdamW over the whole table: rows that come often, seldom and never,
    changing rates, lookups in micro-batches, a checkpoint on the way. In float64 exactly; in
    float32, eps shows, since it shrinks with sqrt(v) while a row waits."""
    torch.manual_seed(0)
    start = torch.randn(50, 4, dtype=dtype) * 0.02
    dense = nn.Embedding.from_pretrained(start.clone(), freeze=False)
    adamw = torch.optim.AdamW(dense.parameters(), betas=BETAS, weight_decay=DECAY, eps=eps)
    deferred, optimizer = deferred_pair(start, eps)
    for step in range(1, 301):
        lr = 1e-2 * (1 + step % 7) / (1 + step / 50)
        tokens = torch.randint(0, 10 if step % 40 else 40, (3, 2))
        gradient = torch.randn(3, 2, 4, dtype=dtype) * 1e-3

        adamw.param_groups[0]['lr'] = lr
        adamw.zero_grad()
        (dense(tokens) * gradient).sum().backward()
        adamw.step()

        if announced:
            begin_step([optimizer], lr, tokens)
        else:
            optimizer.param_groups[0]['lr'] = lr
        for micro, micro_gradient in zip(tokens.chunk(n_micro), gradient.chunk(n_micro)):
            (deferred(micro) * micro_gradient).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

        if step == 130:
            states = saved_and_loaded([deferred.state_dict(), optimizer.state_dict()])
            deferred, optimizer = deferred_pair(torch.zeros_like(start), eps)
            deferred.load_state_dict(states[0])
            optimizer.load_state_dict(states[1])

    weight = deferred.weight
    assert not torch.allclose(weight, dense.weight, rtol=0, atol=1e-3)  # some rows wait
    optimizer.settle()
    assert torch.allclose(weight, dense.weight, rtol=0, atol=tolerance)
    state = adamw.state[dense.weight]
    assert torch.allclose(optimizer.m, state['exp_avg'], rtol=1e-4, atol=1e-12)
    assert torch.allclose(optimizer.v, state['exp_avg_sq'], rtol=1e-4, atol=1e-12)
    assert (dense.weight[40:] - start[40:]).abs().max() > 1e-3
    assert (dense.weight - start).abs().mean() > 0.02


@pytest.mark.parametrize('n_waits', [1, 2, 7])
@pytest.mark.parametrize('eps', [1e-30, 1e-4, 1e-2])
def test_a_waiting_row_s_eps_shrinks_with_its_v(eps, n_waits):
    """Step by step: the only difference from torch.optim.AdamW, see the docstring."""
    beta1, beta2 = BETAS
    start = torch.ones(2, 4, dtype=torch.float64)
    embedding, optimizer = deferred_pair(start, eps)
    row = torch.tensor([0])
    other = torch.tensor([1])
    gradient = torch.tensor([[1e-3, -2e-2, 0.5, 0]], dtype=torch.float64)
    weight = start[0].clone()
    m = torch.zeros(4, dtype=torch.float64)
    v = torch.zeros(4, dtype=torch.float64)
    last_lookup = 3
    for step in range(1, last_lookup + n_waits + 1):
        lr = 1e-2 / step
        begin_step([optimizer], lr, row if step == last_lookup else other)
        if step == last_lookup:
            (embedding(row) * gradient).sum().backward()
        else:
            embedding(other).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

        g = gradient[0] if step == last_lookup else torch.zeros(4, dtype=torch.float64)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g ** 2
        debias = (1 - beta2 ** step) ** 0.5
        row_eps = eps * debias
        if step > last_lookup:
            waited = step - last_lookup
            row_eps = eps * (1 - beta2 ** last_lookup) ** 0.5 * beta2 ** (waited / 2)
        rate = lr * debias / (1 - beta1 ** step)
        weight = weight * (1 - lr * DECAY) - rate * m / (v.sqrt() + row_eps)
    optimizer.settle()
    torch.testing.assert_close(embedding.weight[0], weight, rtol=0, atol=1e-13)
    torch.testing.assert_close(optimizer.m[0], m, rtol=1e-12, atol=0)
    torch.testing.assert_close(optimizer.v[0], v, rtol=1e-12, atol=0)


def take_steps(embedding, optimizer, first, n, evaluate_at=()):
    """n steps with random batches, each from its own seed, in which all rows occur at times."""
    for step in range(first, first + n):
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, 30, (4, 3), generator=generator)
        gradient = torch.randn(4, 3, 4, generator=generator, dtype=torch.float64)
        begin_step([optimizer], 1e-2 / (1 + step), tokens)
        (embedding(tokens) * gradient).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in evaluate_at:
            embedding.eval()
            embedding.train()


def test_a_checkpoint_changes_nothing():
    """Not a bit: a resumed run is to be the uninterrupted one."""
    start = torch.randn(30, 4, dtype=torch.float64)
    embedding, optimizer = deferred_pair(start)
    take_steps(embedding, optimizer, 0, 7)
    states = saved_and_loaded([embedding.state_dict(), optimizer.state_dict()])
    take_steps(embedding, optimizer, 7, 8)
    resumed, resumed_optimizer = deferred_pair(torch.zeros_like(start))
    resumed.load_state_dict(states[0])
    resumed_optimizer.load_state_dict(states[1])
    take_steps(resumed, resumed_optimizer, 7, 8)
    assert torch.equal(embedding.weight, resumed.weight)
    assert optimizer.state_dict().keys() == resumed_optimizer.state_dict().keys()
    for name, value in optimizer.state_dict().items():
        other = resumed_optimizer.state_dict()[name]
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other)), name


def test_eval_settles_and_gives_the_same_lookups():
    torch.manual_seed(1)
    embedding, optimizer = deferred_pair(torch.randn(30, 4, dtype=torch.float64))
    take_steps(embedding, optimizer, 0, 5)
    tokens = torch.arange(30).view(5, 6)
    state = copy.deepcopy(optimizer.state_dict())
    waiting = embedding.weight.detach().clone()
    few = embedding(tokens[:2]).detach()  # a lookup in training brings its rows up to date,
    assert not torch.equal(few, waiting[tokens[:2]])
    assert torch.equal(embedding.weight[12:], waiting[12:])  # and no others
    looked_up = embedding(tokens).detach()
    assert torch.equal(looked_up[:2], few)
    assert not torch.equal(looked_up[2:], waiting[tokens[2:]])

    with torch.no_grad():
        embedding.weight.copy_(waiting)
    optimizer.load_state_dict(state)  # as before the lookups
    embedding.eval()
    assert len(optimizer.kept) == 1 and not optimizer.left.any()  # nothing waits
    assert torch.equal(embedding(tokens), looked_up)
    assert torch.equal(embedding.weight[tokens], looked_up)
    embedding.eval()  # once more, with nothing to do
    assert torch.equal(embedding(tokens), looked_up)
    embedding.train()
    assert torch.equal(embedding(tokens), looked_up)


def test_an_evaluation_on_the_way_changes_nothing_but_rounding():
    torch.manual_seed(2)
    start = torch.randn(30, 4, dtype=torch.float64)
    tables = []
    for evaluate_at in (), (3, 4, 11), range(20):
        embedding, optimizer = deferred_pair(start, 1e-30)
        take_steps(embedding, optimizer, 0, 20, evaluate_at)
        embedding.eval()
        tables.append(embedding.weight.detach())
    torch.testing.assert_close(tables[1], tables[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(tables[2], tables[0], rtol=0, atol=1e-13)


def test_a_model_settles_its_embedding():
    """model.eval() reaches it, as evaluation in train.py does."""
    embedding, optimizer = deferred_pair(torch.randn(30, 4, dtype=torch.float64))
    model = nn.Sequential(embedding, nn.Linear(4, 2).double())
    take_steps(embedding, optimizer, 0, 3)
    assert len(optimizer.kept) > 1
    model.eval()
    assert len(optimizer.kept) == 1
    model.train()
    assert embedding.training


def test_without_an_optimizer_it_can_be_evaluated():
    start = torch.randn(7, 4)
    embedding = DeferredEmbedding.from_pretrained(start)
    assert torch.equal(embedding.eval()(torch.tensor([3, 3, 1])), start[[3, 3, 1]])


def test_the_gradient_is_sparse_and_of_the_rows_that_were_looked_up():
    torch.manual_seed(3)
    start = torch.randn(50, 4, dtype=torch.float64)
    embedding, optimizer = deferred_pair(start)
    dense = nn.Embedding.from_pretrained(start.clone(), freeze=False)
    batches = torch.tensor([[7, 7, 3], [40, 3, 7]]), torch.tensor([[0, 3], [12, 12]])
    for n, tokens in enumerate(batches, 1):
        weights = torch.randn(*tokens.shape, 4, dtype=torch.float64)
        for table in embedding, dense:
            (table(tokens) * weights).sum().backward()
        gradient = embedding.weight.grad
        assert gradient.is_sparse
        # each row once a lookup, however often it is in the tokens
        rows = torch.cat([batch.unique() for batch in batches[:n]])
        assert len(rows.unique()) <= gradient._nnz() <= len(rows)
        coalesced = gradient.coalesce()
        assert coalesced.indices()[0].tolist() == rows.unique().tolist()
        torch.testing.assert_close(coalesced.to_dense(), dense.weight.grad, rtol=0, atol=1e-14)
    optimizer.zero_grad()
    assert embedding.weight.grad is None


def test_a_step_costs_the_batch_s_rows():
    """A row that a batch lacks is not written to."""
    embedding, optimizer = deferred_pair(torch.randn(50, 4, dtype=torch.float64))
    before = embedding.weight.detach().clone()
    tokens = torch.tensor([[2, 5], [5, 9]])
    begin_step([optimizer], 1e-2, tokens)
    embedding(tokens).sum().backward()
    optimizer.step()
    changed = (embedding.weight != before).any(1).nonzero()[:, 0]
    assert changed.tolist() == [2, 5, 9]


def test_a_lookup_gives_the_rows_of_the_table():
    start = torch.randn(9, 4)
    embedding, _ = deferred_pair(start)
    for tokens in torch.tensor([[1, 8], [8, 0]]), torch.tensor([4]), torch.tensor(2):
        assert torch.equal(embedding(tokens), start[tokens])


# RMSprop with one second moment per row

def rms_gradients(n_steps, n_rows=12, n_embd=5):
    """Gradients of a table, of which each step has some rows, and row 9 none but once."""
    generator = torch.Generator().manual_seed(5)
    for step in range(n_steps):
        gradient = torch.randn(n_rows, n_embd, generator=generator, dtype=torch.float64)
        gradient[torch.rand(n_rows, generator=generator) < 0.5] = 0
        gradient[9] = float(step == 3)
        gradient[10] = 0
        yield gradient


def as_sparse(gradient, uncoalesced):
    """The rows of a gradient that are not 0; uncoalesced: each twice, as from two micro-batches."""
    rows = gradient.any(1).nonzero()[:, 0]
    values = gradient[rows]
    if uncoalesced:
        rows = torch.cat([rows, rows.flip(0)])
        values = torch.cat([0.25 * values, 0.75 * values.flip(0)])
    return torch.sparse_coo_tensor(rows[None], values, gradient.shape, check_invariants=True)


@pytest.mark.parametrize('kind', ['dense', 'sparse', 'sparse, in parts'])
def test_row_rmsprop_by_hand(kind):
    """Row by row, also after a save on the way, with a rate of its own."""
    torch.manual_seed(1)
    start = torch.randn(12, 5, dtype=torch.float64)
    weight = nn.Parameter(start.clone())
    optimizer = RowRMSprop(weight, lr_mult=2.0)
    table = start.tolist()
    moments = [0.0] * 12
    for step, gradient in enumerate(rms_gradients(20)):
        lr = 0.1 / (1 + step)
        for row, of_row in enumerate(gradient.tolist()):
            if any(of_row):
                square = sum(g * g for g in of_row) / 5
                moments[row] = 0.99 * moments[row] + 0.01 * square
                for column, g in enumerate(of_row):
                    table[row][column] -= 2 * lr * g / (math.sqrt(moments[row]) + 1e-8)

        if step == 9:
            state = saved_and_loaded(optimizer.state_dict())
            optimizer = RowRMSprop(weight, lr_mult=2.0)
            optimizer.load_state_dict(state)
        weight.grad = gradient
        if kind != 'dense':
            weight.grad = as_sparse(gradient, 'parts' in kind)
        begin_step([optimizer], lr, torch.tensor([[1]]))
        before = weight.detach().clone()
        optimizer.step()
        optimizer.zero_grad()
        assert weight.grad is None
        still = ~gradient.any(1)
        assert torch.equal(weight[still], before[still]) and still[10]
        assert (weight[~still] != before[~still]).any(1).all()
        assert optimizer.v.shape == (12, 1)
        assert optimizer.v[:, 0].tolist() == pytest.approx(moments, rel=1e-9)
    torch.testing.assert_close(weight.detach(), torch.tensor(table, dtype=torch.float64))
    assert torch.equal(weight[10], start[10])


def test_row_rmsprop_is_torch_s_for_one_column():
    """There a row is a weight, and torch's RMSprop differs in nothing."""
    tables = []
    for ours in True, False:
        weight = nn.Parameter(torch.ones(4, 1, dtype=torch.float64))
        optimizer = RowRMSprop(weight) if ours else torch.optim.RMSprop([weight])
        for step in range(10):
            weight.grad = torch.tensor([[1.0], [-2], [step + 1], [0.1]]).double()
            optimizer.param_groups[0]['lr'] = 0.01
            optimizer.step()
        tables.append(weight.detach())
    torch.testing.assert_close(*tables, rtol=1e-12, atol=0)


def test_rows_of_zeros_in_a_sparse_gradient_are_no_rows():
    """A token of a batch that wins no maximum, or the padding: a dense gradient cannot tell it from
    a token of another batch."""
    tables = []
    for sparse in True, False:
        weight = nn.Parameter(torch.ones(4, 2))
        optimizer = RowRMSprop(weight)
        optimizer.param_groups[0]['lr'] = 0.1
        for gradient in torch.tensor([[1.0, -1]]), torch.zeros(1, 2), torch.tensor([[1.0, 1]]):
            gradient = torch.sparse_coo_tensor(torch.tensor([[2]]), gradient, (4, 2))
            weight.grad = gradient if sparse else gradient.to_dense()
            optimizer.step()
        tables.append(weight.detach())
    torch.testing.assert_close(*tables)


def test_row_rmsprop_is_clipped_and_scaled_with_the_others():
    """Its sparse gradient is one of those whose joint norm is clipped; a GradScaler skips a step
    with an overflow."""
    weights = [nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    optimizers = [AdamW([weights[0]], lr=0.1), RowRMSprop(weights[1])]
    weights[0].grad = torch.full((3, 2), 2.0)
    weights[1].grad = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.ones(2, 2), (3, 2))
    assert clip_grad_norm(optimizers, 1.0).item() == pytest.approx(math.sqrt(6 * 4 + 2 * 4))
    joint = weights[0].grad.square().sum() + weights[1].grad.to_dense().square().sum()
    assert joint.item() == pytest.approx(1, rel=1e-4)

    scaler = torch.amp.GradScaler('cpu', 4.0)
    scaler.scale(torch.zeros(1))  # to start it
    weights[1].grad = torch.full((3, 2), math.inf)
    optimizers[1].param_groups[0]['lr'] = 0.1
    scaler.unscale_(optimizers[1])
    scaler.step(optimizers[1])
    assert weights[1].tolist() == [[1, 1]] * 3 and not optimizers[1].v.any()


# What all optimizers share

class TunedHead(CEHead):
    """Cross-entropy with factors on the rate and the decay of the head's weights."""

    def __init__(self, lr_mult=2.0, wd_mult=0.5):
        super().__init__(8, 2, [0.5, 0.5])
        self.lr_mult = lr_mult
        self.wd_mult = wd_mult


def classifier(head=None):
    """A small transformer with this head; None: BCE."""
    torch.manual_seed(4)
    trunk = Transformer(60, 20, n_layer=1, n_head=2, n_embd=8)
    return Classifier(trunk, head or make_head('bce', 8, 2))


def defer_embedding(model):
    """Give a model a DeferredEmbedding -> its optimizer."""
    embedding = DeferredEmbedding.from_pretrained(
        model.trunk.token_embedding.weight.detach().clone(), freeze=False, sparse=True)
    model.trunk.token_embedding = embedding
    return DeferredAdamW(embedding, BETAS, DECAY)


def factors(model, weight_decay, others=()):
    """-> {parameter name: (lr_mult, weight_decay)}; each parameter is in one group at most."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in parameter_groups(model, weight_decay, others):
        assert group['params'] and group.keys() == {'params', 'lr_mult', 'weight_decay'}
        for parameter in group['params']:
            name = names[id(parameter)]
            assert name not in found
            found[name] = group['lr_mult'], group['weight_decay']
    return found


def test_decay_is_for_matrices():
    model = classifier(make_head('ce', 8, 2))
    found = factors(model, 0.1)
    assert found.keys() == dict(model.named_parameters()).keys()
    matrices = {name for name, (_, decay) in found.items() if decay}
    of_blocks = {f'trunk.blocks.0.{name}.weight' for name in ('qkv', 'proj', 'up', 'down')}
    assert matrices == {'trunk.token_embedding.weight', 'head.linear.weight', *of_blocks}
    assert set(found.values()) == {(1.0, 0.1), (1.0, 0.0)}
    assert len(parameter_groups(model, 0.1)) == 2


def test_a_head_scales_its_rate_and_its_decay():
    found = factors(classifier(TunedHead(lr_mult=3.0, wd_mult=0.25)), 0.1)
    assert found['head.linear.weight'] == (3.0, 0.025)
    assert found['head.linear.bias'] == (3.0, 0.0)
    trunk = {value for name, value in found.items() if not name.startswith('head.')}
    assert trunk == {(1.0, 0.1), (1.0, 0.0)}


def test_parameters_of_other_optimizers_are_in_no_group():
    model = classifier()
    everything = factors(model, 0.1)
    trunk = model.trunk
    others = [torch.optim.SGD([trunk.token_embedding.weight]), torch.optim.SGD([trunk.norm.bias])]
    some = factors(model, 0.1, others)
    del everything['trunk.token_embedding.weight']
    del everything['trunk.norm.bias']
    assert some == everything


def test_a_frozen_head_stays():
    """begin_step passes lr_mult on to the optimizer; a rate of 0 is no decay either."""
    model = classifier(TunedHead(lr_mult=0.0))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.5), betas=BETAS)
    tokens = torch.randint(0, 60, (4, 5))
    begin_step([optimizer], 0.1, tokens)
    loss = model.head.loss(model(tokens, torch.ones(4, 5)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    optimizer.step()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) is name.startswith('head.'), name


def test_a_step_begins_with_the_rate_times_each_group_s_factor():
    model = classifier(TunedHead())
    deferred = defer_embedding(model)
    adamw = torch.optim.AdamW(parameter_groups(model, 0.1, [deferred]))
    for lr in 0.25, 0.5:
        begin_step([adamw, deferred], lr, torch.tensor([[1, 2]]))
        assert deferred.param_groups[0]['lr'] == lr
        rates = {group['lr'] / lr for group in adamw.param_groups}
        assert rates == {1.0, 2.0}
        for group in adamw.param_groups:
            assert group['lr'] == lr * group['lr_mult']
    # any other optimizer follows the schedule, and AdamW may have nothing left
    sgd = torch.optim.SGD(model.parameters())
    begin_step([sgd], 0.25, torch.tensor([[1, 2]]))
    assert sgd.param_groups[0]['lr'] == 0.25
    assert parameter_groups(model, 0.1, [sgd]) == []


# Clipping

def gradients_of_two_optimizers():
    """A model with a deferred embedding after two backwards, a dense twin with the same gradients,
    and the optimizers of the first."""
    model = classifier().double()
    twin = copy.deepcopy(model)
    deferred = defer_embedding(model)
    adamw = torch.optim.AdamW(parameter_groups(model, 0.1, [deferred]))
    for seed in range(2):  # two micro-batches: the sparse gradient holds some rows twice
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(0, 20, (6, 7), generator=generator)
        y = torch.randint(0, 2, (6,), generator=generator)
        for each in model, twin:
            loss = each.head.loss(each(tokens, torch.ones(6, 7)), y)
            (100 * loss).backward()
    return model, twin, [adamw, deferred]


def test_an_overflow_in_one_optimizer_is_no_gradient_of_another():
    """A GradScaler skips the step of that optimizer. Clipping by a norm that is not finite must not
    change the weights of the other."""
    for overflow in math.inf, math.nan:
        weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
        optimizers = [AdamW([weights[0]], lr=0.1, weight_decay=0.0),
                      torch.optim.SGD([weights[1]], lr=0.1)]
        scaler = torch.amp.GradScaler('cpu', 4.0)
        scaler.scale(torch.zeros(1))  # to start it
        weights[0].grad = torch.tensor([1.0, overflow, 1.0])
        weights[1].grad = torch.ones(3)
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        assert not clip_grad_norm(optimizers, 1.0).isfinite()
        for optimizer in optimizers:
            scaler.step(optimizer)
        assert weights[0].tolist() == weights[1].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize('limit', ['none', 'half the norm', 'twice the norm', 'tiny'])
def test_clipping_is_torch_s_with_a_dense_copy(limit):
    model, twin, optimizers = gradients_of_two_optimizers()
    before = {name: weight.grad.clone() for name, weight in twin.named_parameters()}
    norm = torch.cat([gradient.flatten() for gradient in before.values()]).norm().item()
    max_norm = {'none': 0.0, 'half the norm': norm / 2, 'twice the norm': 2 * norm,
                'tiny': 1e-9}[limit]
    found = clip_grad_norm(optimizers, max_norm)
    assert found.item() == pytest.approx(norm, rel=1e-12)
    if max_norm:
        wanted = torch.nn.utils.clip_grad_norm_(twin.parameters(), max_norm)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert model.trunk.token_embedding.weight.grad.is_sparse
    clipped = limit in ('half the norm', 'tiny')
    for name, weight in model.named_parameters():
        gradient = weight.grad.to_dense() if weight.grad.is_sparse else weight.grad
        wanted = dict(twin.named_parameters())[name].grad
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-14)
        moved = not torch.allclose(gradient, before[name], rtol=1e-6, atol=0)
        assert moved is (clipped and bool(before[name].any())), name


def test_clipped_steps_are_those_of_the_clipped_gradient():
    """The sparse gradient that the deferred optimizer reads is the one that was scaled."""
    model, twin, optimizers = gradients_of_two_optimizers()
    dense = torch.optim.AdamW([twin.trunk.token_embedding.weight], lr=1e-2, betas=BETAS,
                              weight_decay=DECAY, eps=1e-3)
    deferred = optimizers[1]
    deferred.eps = 1e-3  # so large that a gradient's scale shows in the step
    deferred.param_groups[0]['lr'] = 1e-2
    clip_grad_norm(optimizers, 1e-2)
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 1e-2)
    unclipped = twin.trunk.token_embedding.weight.detach().clone()
    deferred.step()
    dense.step()
    rows = torch.arange(20)
    table = model.trunk.token_embedding.weight
    wanted = twin.trunk.token_embedding.weight
    torch.testing.assert_close(table[rows], wanted[rows], rtol=0, atol=1e-10)
    assert (table[rows] - unclipped[rows]).abs().max() > 1e-4


def test_parameters_without_a_gradient_are_left_out():
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    weights[0].grad = torch.tensor([3.0, 0, 4])
    optimizer = torch.optim.SGD(weights, lr=1.0)
    assert clip_grad_norm([optimizer], 1.0).item() == pytest.approx(5.0)
    torch.testing.assert_close(weights[0].grad, torch.tensor([0.6, 0, 0.8]))
    assert weights[1].grad is None


# The schedule

def test_the_rate_warms_up_and_follows_a_cosine():
    rates = [scheduled_rate(step, 110, 0.8, 10) for step in (1, 5, 10, 35, 60, 110)]
    quarter = 0.8 * (1 + math.sqrt(0.5)) / 2
    assert rates == pytest.approx([0.08, 0.4, 0.8, quarter, 0.4, 0], abs=1e-15)


def test_without_warm_up_the_rate_falls_from_the_first_step_on():
    rates = [scheduled_rate(step, 4, 1.0, 0) for step in (1, 2, 3, 4)]
    root = math.sqrt(0.5)
    assert rates == pytest.approx([(1 + root) / 2, 0.5, (1 - root) / 2, 0], abs=1e-15)


def test_a_run_that_ends_while_it_warms_up():
    for warmup_iters in 3, 10:
        rates = [scheduled_rate(step, 3, 0.6, warmup_iters) for step in (1, 2, 3)]
        assert rates == pytest.approx([step * 0.6 / warmup_iters for step in (1, 2, 3)])
