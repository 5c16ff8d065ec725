"""train.py and pretrain.py on a CUDA that computes nothing -> what a step asks of a GPU.

    bash runs/cuda_mock.sh                     -> results/gpu/counts.md

Runs under PyTorch's own CUDA build on a mock of the CUDA runtime, which counts kernels and skips
them. So every number is garbage: batches are made on the CPU and moved, and a loss that is not
finite stops nothing. What the host gets wrong, a tensor on the wrong device, ends in an error.
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

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # where train.py finds its modules

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
FIRST_STEP = 5  # the first ones choose kernels and make the optimizer's state
COLUMNS = {  # what the mock counts, by its own names
    'kernels': ['launch'],
    'matrix products': ['blas'],
    'graphs': ['graph'],
    'copies on the GPU': ['memcpy D2D'],
    'copies to the GPU': ['memcpy H2D'],
    'copies back': ['memcpy D2H'],
    'waits for the GPU': ['sync:stream', 'sync:device', 'sync:event', 'sync:cudaMemcpy'],
    'host, ms': ['milliseconds'],
}

mock = ctypes.CDLL(None)
own_counts = collections.Counter()  # of what the mock does not have, and of evaluations


class Graph:
    """A CUDA graph: to record it launches its kernels, to replay it none."""

    def __init__(self):
        own_counts['recorded'] += 1

    def replay(self):
        own_counts['graph'] += 1


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


def made_on_cpu(batches):
    """The same batches, made on the CPU and moved."""
    def moved(*args, **kwargs):
        kwargs.pop('device', None)
        in_order = len(args) > 9  # train.py gives the device as the last of ten
        for batch in list(batches(*(args[:-1] if in_order else args), **kwargs)):
            fields = {}
            for name in ('tokens', 'counts', 'labels', 'ngrams'):
                if getattr(batch, name) is not None:
                    fields[name] = getattr(batch, name).to('cuda')
            yield batch._replace(**fields)
    return moved


def counted(training_batches, steps):
    """The same batches; `steps` gets what is asked for between one and the next, and what that
    takes of the CPU."""
    def generator(*args):
        for batch in training_batches(*args):
            before = read_counts()
            start = time.process_time()
            yield batch
            seconds = time.process_time() - start
            steps.append(read_counts() - before)
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


def count_steps(script, arguments, out_dir):
    """A run on the sample set -> what a step asks for, {name: mean}; how batches are made and
    evaluations are left out."""
    module = load(script)
    steps = []
    module.batches = made_on_cpu(module.batches)
    module.training_batches = counted(module.training_batches, steps)
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
    return {name: n / len(chosen) for name, n in sum(chosen, collections.Counter()).items()}


def main():
    torch.cuda.graph_pool_handle = lambda: None
    torch.cuda.CUDAGraph = Graph
    torch.cuda.graph = lambda graph, pool: contextlib.nullcontext()
    lines = [
        'What a step of training asks of a GPU, counted on a mock of the CUDA runtime, PyTorch '
        f'{torch.__version__} (`bash runs/cuda_mock.sh`): batches of 256 reviews, of 32 with the '
        'usual trunk, of 16 blocks of a language model; how batches are made is left out. With '
        'graphs: in the steps whose shape has come three times before. Host: CPU time of PyTorch '
        'and Python, where a kernel costs nothing and, with graphs, the launch of one neither.',
        '',
        '| on the sample set | ' + ' | '.join(COLUMNS) + ' |',
        '| --- ' * (len(COLUMNS) + 1) + '|',
    ]
    for script, arguments, others in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            step = count_steps(script, [*arguments, *others], folder)
        cells = []
        for column, names in COLUMNS.items():
            digits = 2 if column == 'host, ms' else 0
            cells.append(f'{sum(step.get(name, 0) for name in names):.{digits}f}')
        lines.append(f'| {" ".join([f"{script}.py", *arguments])} | {" | ".join(cells)} |')
    table = '\n'.join(lines)
    print(table)
    Path(sys.argv[1]).write_text(table + '\n')


if __name__ == '__main__':
    main()
