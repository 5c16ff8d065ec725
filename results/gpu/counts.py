"""train.py and pretrain.py on a CUDA that computes nothing -> what they ask of a GPU.

    bash runs/cuda_mock.sh                     -> results/gpu/counts.md

Runs under PyTorch's own CUDA build on a mock of the CUDA runtime, which counts kernels and skips
them. So the numbers of a step are garbage, and a loss that is not finite stops nothing; those of a
batch are true, for the CPU computes them. What the host gets wrong, a tensor on the wrong device,
ends in an error.
"""
import collections
import contextlib
import ctypes
import importlib
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # where train.py finds its modules

from nanoloss.devices import hardware_name  # noqa: E402

SHORT = '--max_iters=24', '--eval_interval=24', '--final_texts=10'
ROWS = [  # a script, what the table shows of its arguments, and the others
    ('train', ['config/bce.py', '--graphs=False'], ['--epochs=2']),
    ('train', ['config/bce.py'], ['--epochs=20']),
    ('train', ['config/bce.py', '--dtype=float16'], ['--epochs=2']),
    ('train', ['--graphs=False'], ['--epochs=2']),
    ('train', [], ['--epochs=4']),
    ('train', ['--dtype=float16'], ['--epochs=2']),
    ('train', ['--ngrams=none', '--head=ce', '--graphs=False'], ['--epochs=2']),
    ('pretrain', ['config/lm_ce.py', '--graphs=False'], SHORT),
    ('pretrain', ['config/lm_ce.py'], SHORT),
    ('pretrain', ['config/lm_ce.py', '--dtype=float16'], SHORT),
    ('pretrain', ['config/lm_squentropy.py', '--pos=learned', '--tied', '--graphs=False'], SHORT),
    ('pretrain', ['config/lm_masked.py', '--graphs=False'], SHORT),
]
BATCHES_OF = 'train.py config/bce.py', 'train.py', 'pretrain.py config/lm_ce.py'
N_BATCHES = 5  # after the first one: of the same pool
FIRST_STEP = 5  # the first ones choose kernels and make the optimizer's state
COLUMNS = {  # what the mock counts, by its own names
    'kernels': ['launch'],
    'matrix products': ['blas'],
    'graphs': ['graph'],
    'copies on the GPU': ['memcpy D2D'],
    'copies to the GPU': ['memcpy H2D'],
    'copies back': ['memcpy D2H'],
    'waits for the GPU': ['sync:stream', 'sync:device', 'sync:event', 'sync:cudaMemcpy'],
}

mock = ctypes.CDLL(None)
own_counts = collections.Counter()  # of what the mock does not have, and of evaluations


class Graph:
    """A CUDA graph: to record it launches its kernels, to replay it none."""

    def __init__(self):
        own_counts['recorded'] += 1

    def replay(self):
        own_counts['graph'] += 1


class ComputedOnCPU(TorchDispatchMode):
    """What is asked of the GPU is counted, and the CPU computes it, which is not."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # in new memory, all zeros: in used memory, what a kernel should have counted may be 2 ** 60
        with torch.cuda.use_mem_pool(torch.cuda.MemPool()):
            asked = function(*args, **kwargs)
        if not any(torch.is_tensor(x) and x.is_cuda for x in tree_leaves(asked)):
            return asked  # a copy or a number, which the mock does give
        before = read_counts()
        args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.cpu, (args, kwargs))
        if 'device' in kwargs:
            kwargs['device'] = 'cpu'
        answer = tree_map_only(torch.Tensor, torch.Tensor.cuda, function(*args, **kwargs))
        own_counts.subtract(read_counts() - before)
        return answer


def read_counts():
    """What has been asked for since the process began: a Counter."""
    with tempfile.NamedTemporaryFile() as file:
        mock.mock_dump(file.name.encode())
        lines = Path(file.name).read_text().splitlines()
    pairs = [line.split('\t', 1) for line in lines]
    return collections.Counter({name: int(n) for n, name in pairs}) + own_counts


def load(script):
    """A fresh copy of a script, for its settings are its globals."""
    sys.modules.pop(script, None)
    return importlib.import_module(script)


def computed(batches):
    """The same batches, their numbers true."""
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
    """The same batches; `making` gets what is asked for to make each, `steps` what is asked for
    between one and the next, and what that takes of the CPU."""
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


def noticed(evaluate_and_log):
    """The same, counted."""
    def evaluation(*args):
        own_counts['evaluation'] += 1
        evaluate_and_log(*args)
    return evaluation


def some_answers(hidden_states, n_embd):
    """Five states instead: a mask finds none on a GPU that computes nothing."""
    def five(*args, **kwargs):
        try:
            list(hidden_states(*args, **kwargs))
        except RuntimeError as error:  # where garbage says that there are 2 ** 60 of them
            if 'overflow' not in str(error):
                raise
        targets = torch.empty(5, dtype=torch.int64, device='cuda')
        text = torch.zeros(5, dtype=torch.int64)  # which there must be: on the CPU
        yield torch.empty(5, n_embd, device='cuda'), targets, text
    return five


def count_run(script, arguments, out_dir):
    """A run on the sample set -> what a step asks for, evaluations left out, what it takes to make
    the first batch, and another one: each {name: mean}."""
    module = load(script)
    making = []
    steps = []
    module.batches = computed(module.batches)
    module.training_batches = counted(module.training_batches, making, steps)
    module.evaluate_and_log = noticed(module.evaluate_and_log)
    module.loop.fail_at_loss = lambda *args: None
    settings = module.configure(vars(module), more=module.head_settings, argv=[
        *arguments, '--dataset=sample', '--device=cuda', f'--out_dir={out_dir}'])
    if script == 'pretrain':
        module.hidden_states = some_answers(module.hidden_states, module.n_embd)
    module.main(settings)

    chosen = [step for step in steps[FIRST_STEP:] if not step['evaluation']]
    if any(step['graph'] for step in chosen):
        chosen = [step for step in chosen if step['graph'] and not step['recorded']]
    return mean(chosen), making[0], mean(making[1:N_BATCHES + 1])


def mean(counts):
    """Of Counters -> {name: mean}."""
    return {name: n / len(counts) for name, n in sum(counts, collections.Counter()).items()}


def row(*texts):
    return f'| {" | ".join(texts)} |'


def cells(counts, columns):
    """A table's cells of some counts, rounded."""
    return [f'{sum(counts.get(name, 0) for name in COLUMNS[column]):.0f}' for column in columns]


def main():
    torch.cuda.graph_pool_handle = lambda: None
    torch.cuda.CUDAGraph = Graph
    torch.cuda.graph = lambda graph, pool: contextlib.nullcontext()
    steps = [
        'What training asks of a GPU, counted on a mock of the CUDA runtime, PyTorch '
        f'{torch.__version__} (`bash runs/cuda_mock.sh`), on the sample set. The host: '
        f'{hardware_name("cpu")}.',
        '',
        'A step: batches of 256 reviews, of 32 with the usual trunk, of 16 blocks of a language '
        'model; how batches are made is left out. With graphs: in the steps whose shape has come '
        'three times before. Host: CPU time of PyTorch and Python, where a kernel costs nothing '
        'and, with graphs, the launch of one neither.',
        '',
        row('a step of', *COLUMNS, 'host, ms'),
        '| --- ' * (len(COLUMNS) + 2) + '|',
    ]
    columns = [column for column in COLUMNS if column not in ('matrix products', 'graphs')]
    batches = [
        '',
        'Making batches: the first one of an epoch, for which train.py makes a pool of up to 50, '
        f'and on average each of the next {N_BATCHES}.',
        '',
        row('a batch of', *columns),
        '| --- ' * (len(columns) + 1) + '|',
    ]
    for script, arguments, others in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            step, first_batch, batch = count_run(script, [*arguments, *others], folder)
        name = ' '.join([f'{script}.py', *arguments])
        steps.append(row(name, *cells(step, COLUMNS), f'{step["milliseconds"]:.2f}'))
        if name in BATCHES_OF:
            batches.append(row(f'{name}, the first', *cells(first_batch, columns)))
            batches.append(row(f'{name}, another', *cells(batch, columns)))
    table = '\n'.join(steps + batches)
    print(table)
    Path(sys.argv[1]).write_text(table + '\n')


if __name__ == '__main__':
    main()
