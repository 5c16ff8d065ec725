"""The kernels of a training step on a GPU, and how long the step takes -> a table.

    python -m results.gpu.steps results/gpu/steps.md [ROW ...]   on a GPU, with data/imdb; 2 minutes

ROW: the number of one of ROWS, from 0; without one, all rows. Each is a short run of train.py or
lm/pretrain.py, with and without CUDA graphs, whose batches are made in advance: some steps are
timed, then some are traced by PyTorch's profiler.
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

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import torch
from torch.profiler import ProfilerActivity, profile

from model import model_settings
from nanoloss.settings import configure

# no evaluation during the traced steps
SHORT = '--max_iters=400', '--eval_interval=400', '--final_texts=10'
ROWS = [  # a script, the arguments that the table shows, and the others
    ('train', ['config/bce.py'], ['--epochs=5']),
    ('lm.pretrain', ['lm/config/ce.py'], SHORT),
    ('train', [], ['--epochs=1']),
]
BEFORE = 300  # steps; after them, all common shapes of batches have come three times
TIMED = 40
TRACED = 20
KINDS = {  # kinds of kernels, by patterns of their names; the first match counts
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
COLUMNS = {  # calls of the host, by their names in CUPTI
    'kernels': ['cudaLaunchKernel', 'cudaLaunchKernelExC', 'cuLaunchKernel', 'cuLaunchKernelEx'],
    'graphs': ['cudaGraphLaunch'],
    'copies and fills': ['cudaMemcpyAsync', 'cudaMemsetAsync'],
    'waits': ['cudaStreamSynchronize', 'cudaDeviceSynchronize', 'cudaEventSynchronize'],
}


class Enough(Exception):
    """Ends a run: no more steps are needed."""


def kind_of(kernel):
    """One of KINDS."""
    return next(kind for kind, names in KINDS.items() if re.search(names, kernel))


def traced(training_batches, found):
    """The same batches; the calls and times of the steps are written into `found`."""
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

        chosen = list(islice(iterator, TRACED))
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            yield from chosen
            torch.cuda.synchronize()
        counts = collections.Counter()
        busy = collections.Counter()  # {kind of kernel: microseconds}
        for event in profiler.events():
            if event.is_user_annotation:
                continue
            if event.device_type == torch.autograd.DeviceType.CUDA:
                busy[kind_of(event.name)] += event.device_time_total
            else:
                counts[event.name] += 1
        found['busy'] = busy.total() / 1000 / TRACED
        found['kinds'] = {kind: busy[kind] / TRACED for kind in KINDS}
        for name, events in COLUMNS.items():
            found[name] = sum(counts[event] for event in events) / TRACED
        raise Enough
    return generator


def measure(script, arguments, out_dir):
    """A run -> the calls and times of a step, {name: mean}."""
    module = importlib.import_module(script)
    more = module.head_settings if script == 'lm.pretrain' else model_settings
    config = configure(vars(module), more=more, argv=[
        *arguments, '--dataset=imdb', '--device=cuda', f'--out_dir={out_dir}'])
    found = {}
    training_batches = module.training_batches
    module.training_batches = traced(training_batches, found)
    with contextlib.suppress(Enough):
        module.main(config)
    module.training_batches = training_batches
    return found


def main():
    rows = ROWS if len(sys.argv) < 3 else [ROWS[int(row)] for row in sys.argv[2:]]
    steps = [
        f'The calls and times of a training step: {torch.cuda.get_device_name()}, PyTorch '
        f'{torch.__version__}, {TIMED} steps on IMDB in the default precision after {BEFORE} '
        'others (`python -m results.gpu.steps`). Making batches is left out; "busy" is the time of '
        'all kernels and copies in the trace.',
        '',
        '| on IMDB | ' + ' | '.join(COLUMNS) + ' | host, ms | GPU busy, ms | a step, ms |',
        '| --- ' * (len(COLUMNS) + 4) + '|',
    ]
    kinds = [
        '',
        '| microseconds per step | ' + ' | '.join(KINDS) + ' |',
        '| --- ' * (len(KINDS) + 1) + '|',
    ]
    for script, arguments, others in rows:
        for graphs in '--graphs=False', '--graphs':
            with tempfile.TemporaryDirectory() as folder:
                found = measure(script, [*arguments, graphs, *others], folder)
            name = ' '.join([f'{script.replace(".", "/")}.py', *arguments])
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
