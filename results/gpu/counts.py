"""Count the calls of a training step to CUDA, without a GPU -> a table.

    bash runs/cuda_mock.sh                     -> results/gpu/counts.md

This runs on PyTorch's CUDA build and a mock of the CUDA runtime, which counts kernels and skips
them. So the numbers of a step are garbage, and a loss that is not finite must not stop the run; the
batches are correct, because the CPU computes them. A mistake of the host, such as a tensor on the
wrong device, still ends in an error.
"""
import collections
import contextlib
import ctypes
import importlib
import sys
import tempfile
import time
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from model import model_settings
from nanoloss import loop
from nanoloss.devices import hardware_name
from nanoloss.settings import configure

SHORT = '--max_iters=24', '--eval_interval=24', '--final_texts=10'
ROWS = [  # a script, the arguments that the table shows, and the others
    ('train', ['config/bce.py', '--graphs=False'], ['--epochs=2']),
    ('train', ['config/bce.py'], ['--epochs=20']),
    ('train', ['config/bce.py', '--dtype=float16'], ['--epochs=2']),
    ('train', ['--graphs=False'], ['--epochs=2']),
    ('train', [], ['--epochs=4']),
    ('train', ['--dtype=float16'], ['--epochs=2']),
    ('train', ['--ngrams=none', '--head=ce', '--graphs=False'], ['--epochs=2']),
    ('lm.pretrain', ['lm/config/ce.py', '--graphs=False'], SHORT),
    ('lm.pretrain', ['lm/config/ce.py'], SHORT),
    ('lm.pretrain', ['lm/config/ce.py', '--dtype=float16'], SHORT),
    ('lm.pretrain', ['lm/config/squentropy.py', '--pos=learned', '--tied', '--graphs=False'],
     SHORT),
    ('lm.pretrain', ['lm/config/masked.py', '--graphs=False'], SHORT),
]
BATCHES_OF = 'train.py config/bce.py', 'train.py', 'lm/pretrain.py lm/config/ce.py'
N_BATCHES = 5  # after the first one, from the same pool
FIRST_STEP = 5  # the steps before it choose kernels and create the optimizer's state
COLUMNS = {  # calls, by their names in the mock
    'kernels': ['launch'],
    'matrix products': ['blas'],
    'graphs': ['graph'],
    'copies on the GPU': ['memcpy D2D'],
    'copies to the GPU': ['memcpy H2D'],
    'copies back': ['memcpy D2H'],
    'waits for the GPU': ['sync:stream', 'sync:device', 'sync:event', 'sync:cudaMemcpy'],
}

mock = ctypes.CDLL(None)
own_counts = collections.Counter()  # of CUDA graphs, which the mock lacks, and of evaluations


class Graph:
    """A CUDA graph: recording launches its kernels, replaying launches none."""

    def __init__(self):
        own_counts['recorded'] += 1

    def replay(self):
        own_counts['graph'] += 1


class ComputedOnCPU(TorchDispatchMode):
    """Counts the calls to the GPU, and lets the CPU compute the result, which is not counted."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # new memory is all zeros; in used memory, the count of a skipped kernel may be 2 ** 60
        with torch.cuda.use_mem_pool(torch.cuda.MemPool()):
            returned = function(*args, **kwargs)
        if not any(torch.is_tensor(x) and x.is_cuda for x in tree_leaves(returned)):
            return returned  # a copy or a number, which the mock computes
        before = read_counts()
        args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.cpu, (args, kwargs))
        if 'device' in kwargs:
            kwargs['device'] = 'cpu'
        result = tree_map_only(torch.Tensor, torch.Tensor.cuda, function(*args, **kwargs))
        own_counts.subtract(read_counts() - before)
        return result


def read_counts():
    """The calls since the process began: a Counter."""
    with tempfile.NamedTemporaryFile() as file:
        mock.mock_dump(file.name.encode())
        lines = Path(file.name).read_text().splitlines()
    pairs = [line.split('\t', 1) for line in lines]
    return collections.Counter({name: int(n) for n, name in pairs}) + own_counts


def computed(batches):
    """The same batches, with correct numbers."""
    def generator(*args, **kwargs):
        iterator = batches(*args, **kwargs)
        while True:
            with ComputedOnCPU():
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch
    return generator


def counted(training_batches, making, steps):
    """The same batches; the calls that make each batch are appended to `making`, the calls of each
    step and its CPU time to `steps`."""
    def generator(*args):
        iterator = training_batches(*args)
        while True:
            before = read_counts()
            batch = next(iterator, None)
            if batch is None:
                return
            made = read_counts()
            making.append(made - before)
            start = time.process_time()
            yield batch
            seconds = time.process_time() - start
            steps.append(read_counts() - made)
            steps[-1]['milliseconds'] = 1000 * seconds
    return generator


def counted_evaluation(evaluate_and_log):
    """The same function, with its calls counted."""
    def evaluation(*args):
        own_counts['evaluation'] += 1
        evaluate_and_log(*args)
    return evaluation


def some_answers(hidden_states, n_embd):
    """Five hidden states instead, because a mask selects none if nothing is computed."""
    def five(*args, **kwargs):
        try:
            list(hidden_states(*args, **kwargs))
        except RuntimeError as error:  # garbage may select 2 ** 60 of them
            if 'overflow' not in str(error):
                raise
        targets = torch.empty(5, dtype=torch.int64, device='cuda')
        text = torch.zeros(5, dtype=torch.int64)  # on the CPU, because it must be correct
        yield torch.empty(5, n_embd, device='cuda'), targets, text
    return five


def count_run(script, arguments, out_dir):
    """A run on the sample -> the calls of a step without an evaluation, of making the first batch,
    and of making another one: each {name: mean}."""
    sys.modules.pop(script, None)  # a new copy of the script, whose functions are replaced
    module = importlib.import_module(script)
    more = module.head_settings if script == 'lm.pretrain' else model_settings
    config = configure(vars(module), more=more, argv=[
        *arguments, '--dataset=sample', '--device=cuda', f'--out_dir={out_dir}'])
    making = []
    steps = []
    module.batches = computed(module.batches)
    module.training_batches = counted(module.training_batches, making, steps)
    module.evaluate_and_log = counted_evaluation(module.evaluate_and_log)
    loop.fail_at_loss = lambda *args: None
    if script == 'lm.pretrain':
        module.hidden_states = some_answers(module.hidden_states, config.n_embd)
    module.main(config)

    chosen = [step for step in steps[FIRST_STEP:] if not step['evaluation']]
    if any(step['graph'] for step in chosen):
        chosen = [step for step in chosen if step['graph'] and not step['recorded']]
    return mean(chosen), making[0], mean(making[1:N_BATCHES + 1])


def mean(counts):
    """A list of Counters -> {name: mean}."""
    return {name: n / len(counts) for name, n in sum(counts, collections.Counter()).items()}


def row(*texts):
    return f'| {" | ".join(texts)} |'


def cells(counts, columns):
    """The cells of a table, rounded."""
    return [f'{sum(counts.get(name, 0) for name in COLUMNS[column]):.0f}' for column in columns]


def main():
    torch.cuda.graph_pool_handle = lambda: None
    torch.cuda.CUDAGraph = Graph
    torch.cuda.graph = lambda graph, pool: contextlib.nullcontext()
    steps = [
        'Calls of training to CUDA, counted on a mock of the CUDA runtime, PyTorch '
        f'{torch.__version__} (`bash runs/cuda_mock.sh`), on the sample. The host: '
        f'{hardware_name("cpu")}.',
        '',
        'A step has a batch of 256 texts, of 32 with the default model, or of 16 blocks with a '
        'language model; making batches is left out. With graphs, the steps are counted whose '
        'shape has come three times before. Host: CPU time of PyTorch and Python; kernels and '
        'graph launches take none here.',
        '',
        row('a step of', *COLUMNS, 'host, ms'),
        '| --- ' * (len(COLUMNS) + 2) + '|',
    ]
    columns = [column for column in COLUMNS if column not in ('matrix products', 'graphs')]
    batches = [
        '',
        'Making batches: the first one of an epoch, with which train.py makes a pool of up to 50, '
        f'and the mean of the next {N_BATCHES}.',
        '',
        row('a batch of', *columns),
        '| --- ' * (len(columns) + 1) + '|',
    ]
    for script, arguments, others in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            step, first_batch, batch = count_run(script, [*arguments, *others], folder)
        name = ' '.join([f'{script.replace(".", "/")}.py', *arguments])
        steps.append(row(name, *cells(step, COLUMNS), f'{step["milliseconds"]:.2f}'))
        if name in BATCHES_OF:
            batches.append(row(f'{name}, the first', *cells(first_batch, columns)))
            batches.append(row(f'{name}, another', *cells(batch, columns)))
    table = '\n'.join(steps + batches)
    print(table)
    Path(sys.argv[1]).write_text(table + '\n')


if __name__ == '__main__':
    main()
