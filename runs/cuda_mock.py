"""train.py on a CUDA that computes nothing -> what a step of training asks of a GPU.

    bash runs/cuda_mock.sh                     -> results/gpu/counts.md

Runs under PyTorch's own CUDA build on a mock of the CUDA runtime, which counts kernels and skips
them. So every number is garbage: batches are made on the CPU and moved, and a loss that is not
finite stops nothing. What the host gets wrong, a tensor on the wrong device, ends in an error.
"""
import collections
import ctypes
import importlib.util
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # where train.py finds its modules

ROWS = [  # arguments of train.py
    ['config/bce.py'],
    ['config/bce.py', '--dtype=float16'],
    [],
    ['--dtype=float16'],
    ['--ngrams=none', '--head=ce'],
]
FIRST_STEP = 5  # the first ones choose kernels and make the optimizer's state
COLUMNS = {  # what the mock counts, by its own names
    'kernels': ['launch'],
    'matrix products': ['blas'],
    'copies to the GPU': ['memcpy H2D'],
    'copies back': ['memcpy D2H'],
    'waits for the GPU': ['sync:stream', 'sync:device', 'sync:event', 'sync:cudaMemcpy'],
}

mock = ctypes.CDLL(None)


def read_counts():
    """What the mock has been asked for since the process began: a Counter."""
    with tempfile.NamedTemporaryFile() as file:
        mock.mock_dump(file.name.encode())
        lines = Path(file.name).read_text().splitlines()
    pairs = [line.split('\t', 1) for line in lines]
    return collections.Counter({name: int(n) for n, name in pairs})


def load_train():
    """A fresh copy of train.py, for its settings are its globals."""
    spec = importlib.util.spec_from_file_location('train', ROOT / 'train.py')
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    return train


def count_steps(arguments, out_dir):
    """Two epochs on the sample set -> what a step asks for, {name: mean}; how batches are made is
    left out."""
    train = load_train()
    make = train.batches
    steps = []  # what each has asked for; the last one of an epoch with its evaluation

    def batches(*args, **kwargs):
        kwargs.pop('device', None)
        training = len(args) > 6
        for batch in list(make(*(args[:-1] if training else args), **kwargs)):
            moved = {}
            for name in ('tokens', 'counts', 'labels', 'ngrams'):
                if getattr(batch, name) is not None:
                    moved[name] = getattr(batch, name).to('cuda')
            before = read_counts()
            yield batch._replace(**moved)
            if training:
                steps.append(read_counts() - before)

    train.batches = batches
    train.fail_at_loss = lambda *args: None
    settings = train.configure(vars(train), more=train.head_settings, argv=[
        *arguments, '--dataset=sample', '--device=cuda', '--epochs=2', f'--out_dir={out_dir}'])
    train.main(settings)

    chosen = steps[FIRST_STEP:len(steps) // 2 - 1]
    return {name: n / len(chosen) for name, n in sum(chosen, collections.Counter()).items()}


def main():
    lines = [
        'What a step of training asks of a GPU, counted on a mock of the CUDA runtime, PyTorch '
        f'{torch.__version__} (`bash runs/cuda_mock.sh`): batches of 256 reviews, of 32 with the '
        'usual trunk; how they are made is left out. Nothing has been measured on a GPU.',
        '',
        '| train.py --dataset=sample | ' + ' | '.join(COLUMNS) + ' |',
        '| --- ' * (len(COLUMNS) + 1) + '|',
    ]
    for arguments in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            step = count_steps(arguments, folder)
        cells = [f'{sum(step.get(name, 0) for name in names):.0f}' for names in COLUMNS.values()]
        lines.append(f'| {" ".join(arguments)} | {" | ".join(cells)} |')
    table = '\n'.join(lines)
    print(table)
    Path(sys.argv[1]).write_text(table + '\n')


if __name__ == '__main__':
    main()
