"""nanoloss/parallel.py: a single process, and two that compute the gradient of one. About 10 s."""
from contextlib import nullcontext

import pytest
import torch
from helpers import two_processes

from nanoloss import loop, parallel

# two processes on batches of 7, 2 and 1 texts, in micro-batches; the first one writes the results
TWO = '''
import sys
import numpy as np
import torch
from nanoloss import parallel
from nanoloss.data import Batch

parallel.start('cpu')
print(f'process {parallel.RANK} prints')
found = {}
for n in 7, 2, 1:
    torch.manual_seed(0)
    x = torch.randint(1, 50, (n, 4))
    batch = Batch(np.arange(n), x, torch.ones_like(x), x[:, 0] % 2, 4 * n)
    model = torch.nn.Linear(4, 1, dtype=torch.float64)
    forward = parallel.data_parallel(model)
    model.zero_grad()
    rows = []
    for micro, weight, last in parallel.micro_batches(batch, 8):
        with parallel.averaging(forward, last):
            loss = (forward(micro.tokens.double())[:, 0] - micro.labels).square().mean()
        (loss * weight).backward()
        if weight:
            rows += micro.rows.tolist()
    seen = torch.zeros(n).index_add_(0, torch.tensor(rows, dtype=torch.long), torch.ones(len(rows)))
    found[n] = {
        'gradient': model.weight.grad,
        'seen': parallel.sum_over_processes(seen),
        'own': len(rows),
        'spread': parallel.sum_over_processes(model.weight.grad.clone()) - 2 * model.weight.grad,
    }
parallel.wait()
if parallel.RANK == 0:
    torch.save(found, sys.argv[1])
parallel.finish()
'''


def test_a_single_process_shares_nothing():
    assert (parallel.WORLD, parallel.RANK) == (1, 0)
    model = torch.nn.Linear(2, 1)
    parallel.start('cpu')
    assert parallel.data_parallel(model) is model
    for last in True, False:
        assert isinstance(parallel.averaging(model, last), nullcontext)
    tensor = torch.ones(2)
    assert parallel.sum_over_processes(tensor) is tensor
    assert tensor.tolist() == [1, 1]
    parallel.wait()
    parallel.finish()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize('device', ['cpu', 'mps', 'cuda'])
def test_dropout_is_drawn_anew_by_each_process_at_each_step(monkeypatch, device):
    """The CPU's numbers, for all devices."""
    monkeypatch.setattr(parallel, 'WORLD', 2)
    numbers = []
    for seed in range(3):
        for rank in range(2):
            monkeypatch.setattr(parallel, 'RANK', rank)
            for step in range(1, 5):
                loop.seed_step(seed, step, device)
                numbers.append(torch.rand(1, dtype=torch.float64).item())
                loop.seed_step(seed, step, 'cpu')
                assert torch.rand(1, dtype=torch.float64).item() == numbers[-1]
    assert len(set(numbers)) == 3 * 2 * 4


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(parallel, 'WORLD', 2)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(ValueError, match='this machine has 1 GPUs, too few for --nproc_per_node'):
        parallel.start('cuda')
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize('device, backend', [('cpu', 'gloo'), ('cuda', 'cpu:gloo,cuda:nccl')])
def test_tensors_on_the_cpu_can_be_summed_beside_gpus(monkeypatch, device, backend):
    """By default, torch takes NCCL alone if there is a GPU, and NCCL sums no tensors on the CPU."""
    chosen = []
    monkeypatch.setattr(parallel, 'WORLD', 2)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda gpu: None)
    monkeypatch.setattr(parallel.dist, 'init_process_group', chosen.append)
    monkeypatch.setenv('LOCAL_RANK', '1')
    parallel.start(device)
    assert chosen == [backend]


def test_two_processes_compute_the_gradient_of_one(tmp_path):
    """Also of a batch with one text per process, and with one text in all."""
    (tmp_path / 'two.py').write_text(TWO)
    # torchrun starts train.py in test_train.py
    printed = two_processes(tmp_path, 'two.py', 'found.pt')
    assert printed == ['process 0 prints\n', '']
    found = torch.load(tmp_path / 'found.pt', weights_only=True)
    for n in 7, 2, 1:
        torch.manual_seed(0)
        x = torch.randint(1, 50, (n, 4))
        model = torch.nn.Linear(4, 1, dtype=torch.float64)
        (model(x.double())[:, 0] - x[:, 0] % 2).square().mean().backward()
        torch.testing.assert_close(found[n]['gradient'], model.weight.grad, rtol=1e-12, atol=1e-12)
        assert found[n]['seen'].tolist() == [1] * n
        assert found[n]['own'] == (n + 1) // 2
        assert not found[n]['spread'].any()  # both processes have the same gradient
