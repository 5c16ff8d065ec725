"""What a step of train.py and pretrain.py asks of a GPU, and how long it takes -> a table.

    python runs/gpu_steps.py results/gpu/steps.md [ROW ...]   on a GPU, with data/imdb; two minutes

ROW: the number of one of ROWS, from 0; all of them if none is named. Each is a short run, with CUDA
graphs and without, whose batches are made beforehand: first some steps are timed, then some are
watched by PyTorch's profiler.
"""
import collections
import contextlib
import importlib
import re
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # where train.py finds its modules

# no evaluation falls into the steps that are watched
SHORT = '--max_iters=400', '--eval_interval=400', '--final_texts=10'
ROWS = [  # a script, what the table shows of its arguments, and the others
    ('train', ['config/bce.py'], ['--epochs=5']),
    ('pretrain', ['config/lm_ce.py'], SHORT),
    ('train', [], ['--epochs=1']),
]
BEFORE = 300  # steps: by then all common shapes of batches have come three times
TIMED = 40
WATCHED = 20
KINDS = {  # what kernels do, by their names; the first that fits
    'matrix products': 'gemm|gemv|nvjet|cutlass|splitK|attention|flash|fmha',
    'layer norm': 'layer_?norm|GammaBeta',
    'AdamW': 'FusedOptimizer|FusedAdam',
    'norm and clipping of the gradients': 'multi_tensor|lpnorm|cleanup',
    'gradient of the embedding': 'radix|cub::|grad_weight|sum_and_scatter|segment|embedding',
    'softmax': 'softmax',
    'sums, such as the gradients of biases': 'reduce_kernel',
    'copies, casts and fills': '(?i)copy|Memset|Memcpy|Fill|CatArray',
    'other elementwise ones': '',
}
COLUMNS = {  # how CUPTI calls what the host asks for
    'kernels': ['cudaLaunchKernel', 'cudaLaunchKernelExC', 'cuLaunchKernel', 'cuLaunchKernelEx'],
    'graphs': ['cudaGraphLaunch'],
    'copies and fills': ['cudaMemcpyAsync', 'cudaMemsetAsync'],
    'waits': ['cudaStreamSynchronize', 'cudaDeviceSynchronize', 'cudaEventSynchronize'],
}


def load(script):
    """A fresh copy of a script, for its settings are its globals."""
    sys.modules.pop(script, None)
    return importlib.import_module(script)


class Enough(Exception):
    """Ends a run: no more of it is needed."""


def kind_of(kernel):
    """One of KINDS."""
    return next(kind for kind, names in KINDS.items() if re.search(names, kernel))


def watched(training_batches, found):
    """The same batches; `found` gets what the steps between one and the next have taken."""
    def generator(*args):
        iterator = training_batches(*args)
        yield from islice(iterator, BEFORE)

        chosen = list(islice(iterator, TIMED))
        torch.cuda.synchronize()
        start = time.perf_counter()
        for batch in chosen:
            yield batch
        asked = time.perf_counter()
        torch.cuda.synchronize()
        found['host'] = 1000 * (asked - start) / TIMED
        found['ms'] = 1000 * (time.perf_counter() - start) / TIMED

        chosen = list(islice(iterator, WATCHED))
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            yield from chosen
            torch.cuda.synchronize()
        counts = collections.Counter()
        busy = collections.Counter()  # microseconds of the kinds of kernels
        for event in profiler.events():
            if event.is_user_annotation:
                continue
            if event.device_type == torch.autograd.DeviceType.CUDA:
                busy[kind_of(event.name)] += event.device_time_total
            else:
                counts[event.name] += 1
        found['busy'] = busy.total() / 1000 / WATCHED
        found['kinds'] = {kind: busy[kind] / WATCHED for kind in KINDS}
        for name, events in COLUMNS.items():
            found[name] = sum(counts[event] for event in events) / WATCHED
        raise Enough
    return generator


def measure(script, arguments, out_dir):
    """A run -> what a step of it asks for and takes, {name: mean}."""
    module = load(script)
    found = {}
    module.training_batches = watched(module.training_batches, found)
    with contextlib.suppress(Enough):
        module.main(module.configure(vars(module), more=module.head_settings, argv=[
            *arguments, '--dataset=imdb', '--device=cuda', f'--out_dir={out_dir}']))
    return found


def main():
    rows = ROWS if len(sys.argv) < 3 else [ROWS[int(row)] for row in sys.argv[2:]]
    steps = [
        f'What a step of training asks of a GPU, and takes: {torch.cuda.get_device_name()}, '
        f'PyTorch {torch.__version__}, {TIMED} steps on IMDB in the usual precision after '
        f'{BEFORE} others (`python runs/gpu_steps.py`). How batches are made is left out; "busy" '
        'is the time of all kernels and copies, as the profiler has it.',
        '',
        '| on IMDB | ' + ' | '.join(COLUMNS) + ' | host, ms | GPU busy, ms | a step, ms |',
        '| --- ' * (len(COLUMNS) + 4) + '|',
    ]
    kinds = [
        '',
        '| microseconds a step of | ' + ' | '.join(KINDS) + ' |',
        '| --- ' * (len(KINDS) + 1) + '|',
    ]
    for script, arguments, others in rows:
        for graphs in '--graphs=False', '--graphs':
            with tempfile.TemporaryDirectory() as folder:
                found = measure(script, [*arguments, graphs, *others], folder)
            name = ' '.join([f'{script}.py', *arguments])
            cells = [f'{found[column]:.1f}' for column in COLUMNS]
            cells += [f'{found[column]:.2f}' for column in ('host', 'busy', 'ms')]
            steps.append(f'| {name} {graphs} | {" | ".join(cells)} |')
            print(steps[-1], flush=True)
        cells = [f'{microseconds:.0f}' for microseconds in found['kinds'].values()]
        kinds.append(f'| {name} | {" | ".join(cells)} |')
        print(kinds[-1], flush=True)
        Path(sys.argv[1]).write_text('\n'.join(steps + kinds) + '\n')


if __name__ == '__main__':
    main()
