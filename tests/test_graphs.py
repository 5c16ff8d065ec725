"""nanoloss/graphs.py: whole runs whose steps are recorded and replayed, compared with runs without
graphs. A graph on the CPU repeats the recorded operations one by one; test_gpu.py uses those of a
GPU (10 s)."""
from contextlib import contextmanager

import pytest
import torch
from helpers import TRAININGS, close, make_data, train
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import train as train_script
from model import Windows
from nanoloss import loop
from nanoloss.data import Batch
from nanoloss.graphs import StepGraphs


class Graph(TorchDispatchMode):
    """A CUDA graph on a CPU: it repeats operations on the same memory. All numbers but those in
    tensors are as they were when the operations were recorded. Recording changes no tensor."""

    def __init__(self):
        super().__init__()
        self.operations = []
        self.before = {}  # {address: a tensor that recording has changed, and its old values}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if 'local_scalar' in str(operation):
            raise RuntimeError('the CPU waits for a number')
        parameters = operation._schema.arguments
        for parameter, value in zip(parameters, args):
            if parameter.alias_info and parameter.alias_info.is_write:
                for tensor in value if isinstance(value, list | tuple) else [value]:
                    self.before.setdefault(tensor.data_ptr(), (tensor, tensor.clone()))
        results = operation(*args, **kwargs)
        is_view = any(parameter.alias_info for parameter in parameters)
        if operation._schema.is_mutable or not is_view:  # a view shows what its memory holds
            self.operations.append((operation, args, kwargs, results))
        return results

    def undo(self):
        for tensor, before in self.before.values():
            tensor.detach().copy_(before)

    @torch.no_grad()
    def replay(self):
        for operation, args, kwargs, results in self.operations:
            again = operation(*args, **kwargs)
            if operation._schema.is_mutable:
                continue
            several = isinstance(results, list | tuple)
            for place, result in zip(results, again) if several else [(results, again)]:
                if isinstance(place, torch.Tensor):
                    place.copy_(result)


@pytest.fixture
def recorded(monkeypatch):
    """Let a run use `Graph`s on the CPU, and the windows and their dense gradients of a GPU -> a
    list of the graphs."""
    graphs = []
    make_optimizers = train_script.make_optimizers

    def plain_windows(trunk, tokens, counts):
        return F.dropout(trunk.plain_features(tokens, counts), trunk.dropout, trunk.training)

    def with_dense_gradients(config, model):
        optimizers = make_optimizers(config, model)
        model.trunk.token_embedding.sparse = False
        return optimizers

    @contextmanager
    def recording(graph, pool):
        assert pool == 'pool'
        graphs.append(graph)
        random_state = torch.get_rng_state()
        with graph:
            yield
        graph.undo()
        torch.set_rng_state(random_state)

    monkeypatch.setattr(Windows, 'forward', plain_windows)
    monkeypatch.setattr(train_script, 'make_optimizers', with_dense_gradients)
    monkeypatch.setattr(torch.cuda, 'graph_pool_handle', lambda: 'pool')
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', Graph)
    monkeypatch.setattr(torch.cuda, 'graph', recording)
    monkeypatch.setattr(loop, 'can_use_graphs', lambda *args: True)
    return graphs


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data'))


@pytest.mark.parametrize('run, argv', TRAININGS)
def test_a_run_of_graphs_is_the_run_without(data, tmp_path, recorded, run, argv):
    """All numbers are equal, with rates, dropout and batches that change from step to step."""
    argv = [*argv, '--dtype=float64', *(['--deferred=False'] if run is train else [])]
    run(data, tmp_path / 'with', *argv)
    n_graphs = len(recorded)
    assert n_graphs > 0
    run(data, tmp_path / 'without', *argv, '--graphs=False')
    assert len(recorded) == n_graphs
    close(tmp_path / 'with/seed0', tmp_path / 'without/seed0')


def test_a_shape_is_recorded_once_when_it_comes_for_the_third_time(recorded):
    total = torch.zeros(1)

    def step(batch):
        return total.add_(batch.tokens.sum()).clone()
    graphs = StepGraphs(step)
    sums = []
    n_graphs = []
    for value, width in [(1, 4), (2, 4), (3, 8), (4, 4), (5, 8), (6, 8), (7, 4), (8, 8)]:
        batch = Batch(None, torch.full((width,), float(value)), None, None, 0)
        sums.append(graphs(batch).item())
        n_graphs.append(len(recorded))
    assert sums == [4, 12, 36, 52, 92, 140, 168, 232]
    assert n_graphs == [0, 0, 0, 1, 1, 2, 2, 2]


def test_a_step_that_waits_says_what_to_do(recorded):
    """Such as a step with a user's loss that asks for a number."""
    graphs = StepGraphs(lambda batch: torch.tensor(batch.tokens.max().item()))
    batch = Batch(None, torch.ones(3), None, None, 0)
    for _ in range(2):
        graphs(batch)
    with pytest.raises(RuntimeError, match='makes the CPU wait; try --graphs=False'):
        graphs(batch)


def test_too_little_memory_to_record_ends_in_a_line(recorded, capsys):
    def step(batch):
        if recorded:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
        return batch.tokens
    graphs = StepGraphs(step)
    batch = Batch(None, torch.ones(3), None, None, 0)
    with pytest.raises(SystemExit), loop.clean_exit('out'):
        for _ in range(3):
            graphs(batch)
    assert 'out of memory; try a lower --max_tokens' in capsys.readouterr().err


def test_steps_that_cannot_be_graphs():
    assert loop.can_use_graphs('cuda', 'bfloat16', 0)
    for device, dtype, max_tokens in [('cpu', 'bfloat16', 0), ('mps', 'float32', 0),
                                      ('cuda', 'float16', 0), ('cuda', 'float32', 8192)]:
        assert not loop.can_use_graphs(device, dtype, max_tokens)
