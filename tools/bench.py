"""Measure the speed of train.py on this machine -> a table, two figures and every measurement.

    python -m tools.bench                                    20 minutes on 2 cores -> out/bench
    python -m tools.bench --only=default --repeats=1         rows that match a regular expression
    python -m tools.bench --device=cuda --n_train=24998      on a GPU
    python -m tools.bench --only=default --against=HEAD~1    beside another commit

The rows are the default model on two data sets, one of long and one of short texts, and the paper's
transformer (config/bce.py) without each of its optimizations. On a CPU, without --only and
--against, it also measures how the cost grows with the data. Comparisons with other libraries are
in results/bench/.

Notable:
- Each row runs in its own process, on the same texts. The rows take turns, so that a drift of the
  machine's speed affects all of them. The table has the median, the lowest and the highest.
- Tokens are counted before padding, bags and token dropout, up to block_size per text. The speed
  is that of the last epoch, and of its evaluation on val.
"""
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np

from nanoloss.data import load_data, save_data
from nanoloss.devices import choose_device, hardware_name
from nanoloss.files import write_file
from nanoloss.settings import check_bounds, configure, fail, updated
from nanoloss.speed import (
    HUGE_PAGES, Log, draw_speeds, in_new_process, introduction, last_row, measure_peak,
    speed_table, transformer_flops)

# -----------------------------------------------------------------------------
dataset = 'imdb'  # a data set made by prepare.py
short = 'sst2'  # another one, of short texts (skipped if there is none of this name)
data_dir = 'data'  # the folder of data sets
out_dir = 'out/bench'  # the table, the figures and the measurements go here
only = ''  # a regular expression: rows to measure ('': all, and the growth of the cost)
against = ''  # a commit: measure each row with its code, too ('': this code only)
repeats = 3  # measurements per row
n_train = 5120  # training texts to measure on
n_val = 1000  # val texts to measure on
sizes = '2500,8000,25000,80000,250000'  # training texts, for the growth of the cost ('': none)
device = 'cpu'  # cpu or cuda
n_layer = 2  # of the transformer; config/paper.py has the same
n_embd = 128  # of the transformer; config/paper.py has the same
n_head = 4  # of the rows that are like the peers of results/bench/
threads = 0  # CPU threads per row (0: one per core)
# -----------------------------------------------------------------------------
ROOT = Path(__file__).parents[1]
# of config/paper.py
BLOCK_SIZE = 512
TOKEN_DROPOUT = 0.8
USUAL_SPINS = 300_000  # libgomp's default
# train.py without sorting texts by length
UNSORTED = ("import runpy; from nanoloss import data; data.POOL = 1; "
            "runpy.run_path('train.py', run_name='__main__')")
# the shape and batch of what others train, see results/bench/peers.py
LIKE_PEERS = ('--batch_size=64',)
CPU = ('cpu',)
GPU = ('cuda',)
BOTH = ('cpu', 'cuda')


# The rows of the table

@dataclass
class Row:
    """A command of train.py to measure."""
    name: str
    arguments: tuple = ()
    config: str = 'config/bce.py'  # '': the default model
    data: str = 'long'  # long (--dataset) or short (--short)
    n_runs: int = 1  # concurrent runs, which share the threads
    n_processes: int = 1  # processes that share a run and the threads
    huge_pages: bool = True
    sorted: bool = True  # whether the texts of a batch have about the same length
    spins: int = 0  # turns that an idle OpenMP thread spins (0: as nanoloss sets it)
    devices: tuple = CPU  # to measure it on
    code: Path = ROOT  # the checkout whose train.py to measure

    def flops(self, split, config):
        """FLOPs per token in training; None for the default model, with few matrix products."""
        if not self.config:
            return None
        token_dropout = 0.0 if '--token_dropout=0' in self.arguments else TOKEN_DROPOUT
        bag = '--bag=False' not in self.arguments
        return transformer_flops(split, config.n_layer, config.n_embd, BLOCK_SIZE, token_dropout,
                                 bag)


ROWS = [
    Row('ours: config/bce.py', devices=BOTH),
    Row('ours without CUDA graphs', ('--graphs=False',), devices=GPU),
    Row('ours in float16', ('--dtype=float16',), devices=GPU),
    Row('ours, eight runs on one GPU', n_runs=8, devices=GPU),
    Row('ours, two runs with half of the threads each', n_runs=2),
    Row('ours, one run on two processes', n_processes=2),
    Row('ours without token dropout', ('--token_dropout=0',), devices=BOTH),
    Row('ours without bags', ('--bag=False',), devices=BOTH),
    Row('ours without deferred updates', ('--deferred=False',)),
    Row('ours without micro-batches', ('--max_tokens=1000000000',)),
    Row('ours without sorting by length', sorted=False),
    Row('ours without bfloat16', ('--dtype=float32',), devices=BOTH),
    Row('ours without huge pages', huge_pages=False),
    Row('ours with the usual spinning of idle threads', spins=USUAL_SPINS),
    Row('ours, 4 heads, batch 64', LIKE_PEERS, devices=BOTH),
    Row('ours, 4 heads, batch 64, without token dropout', (*LIKE_PEERS, '--token_dropout=0'),
        devices=BOTH),
]


def read_settings(config):
    """Check the settings and choose device and threads -> a new config, and the numbers of texts
    for the growth of the cost."""
    check_bounds(config, [(['repeats', 'n_train', 'n_val'], 1, math.inf)])
    try:
        re.compile(config.only)
    except re.error as error:
        fail(f'only is a regular expression, not {config.only!r} ({error})')
    try:
        sizes = [int(size) for size in config.sizes.split(',') if size]
        device = choose_device(config.device)
    except ValueError as error:
        fail(error)
    if config.only or config.against or device != 'cpu':
        sizes = []
    return updated(config, device=device, threads=config.threads or os.cpu_count() or 1), sizes


def choose_rows(config):
    """The rows for this device that --only selects."""
    rows = [Row(f'default model: {config.dataset}', config='', devices=BOTH), *ROWS]
    row = Row(f'default model: {config.short}', config='', data='short', devices=BOTH)
    if (Path(config.data_dir) / config.short / 'meta.json').exists():
        rows.insert(1, row)
    elif re.search(config.only, row.name):
        print(f'skipped: {row.name} (no data in {config.data_dir}/{config.short}; name another '
              'data set of short texts with --short)')
    rows = [row for row in rows
            if config.device in row.devices and re.search(config.only, row.name)]
    if not rows:
        fail(f'--only={config.only} matches no row for --device={config.device}')
    return rows


def with_commit(rows, commit, folder):
    """Each row, followed by the same row with the code of a commit, checked out in a folder."""
    command = ['git', 'worktree', 'add', '-q', '--detach', folder, commit]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        fail(f'--against={commit}: {done.stderr.strip()}')
    both = []
    for row in rows:
        both += [row, replace(row, name=f'{row.name}, at {commit}', code=folder)]
    return both


# Measuring

def start_training(config, row, folder, environment, *arguments, stderr=None):
    """Start train.py on a data set in `folder` -> its out_dir, and its process."""
    out = tempfile.mkdtemp(dir=folder)
    launch = []
    if row.n_processes > 1:
        launch = ['-m', 'torch.distributed.run', '--standalone',
                  f'--nproc_per_node={row.n_processes}']
    script = ['train.py'] if row.sorted else ['-c', UNSORTED]
    shape = []
    if row.config:
        shape = [row.config, f'--n_layer={config.n_layer}', f'--n_embd={config.n_embd}']
    if row.arguments[:1] == LIKE_PEERS:
        shape.append(f'--n_head={config.n_head}')
    threads = max(1, config.threads // (row.n_runs * row.n_processes))
    command = [sys.executable, *launch, *script, *shape, f'--device={config.device}',
               f'--data_dir={folder}', f'--threads={threads}', *row.arguments, f'--out_dir={out}',
               *arguments]
    process = subprocess.Popen(command, env=environment, cwd=row.code, stdout=subprocess.DEVNULL,
                               stderr=stderr)
    return Path(out), process


def measure_first_step(config, row, folder, environment):
    """The seconds from a row's start to the end of its first step."""
    # the first row of the log is written just after the first step, since val has few texts
    began = time.time()
    out, process = start_training(config, row, folder, environment, f'--dataset={row.data}_start',
                                  '--seed=0', '--eval_interval=1', stderr=subprocess.DEVNULL)
    while not (out / 'seed0/log.jsonl').exists() and process.poll() is None:
        time.sleep(0.01)
    seconds = time.time() - began
    process.terminate()  # not kill: torchrun must end its processes first
    process.wait()
    return seconds


def measure(config, row, folder):
    """Run train.py on folder/<data>_start and folder/<data> -> the seconds to its first step, and
    its speeds and peak memory, of all runs together."""
    environment = dict(os.environ)
    if not row.huge_pages:
        del environment['GLIBC_TUNABLES']
    if row.spins:
        environment['GOMP_SPINCOUNT'] = str(row.spins)

    first_step = None  # on a GPU the same seconds for all rows
    if config.device == 'cpu' or not row.arguments:
        first_step = measure_first_step(config, row, folder, environment)

    epochs = 2 if config.device == 'cpu' else 5
    runs = []
    for seed in range(row.n_runs):
        runs.append(start_training(config, row, folder, environment, f'--dataset={row.data}',
                                   f'--seed={seed}', f'--epochs={epochs}'))
    statuses = [process.wait() for _, process in runs]
    if any(statuses):
        fail(f'{row.name}: train.py failed')
    measurement = {'train': 0, 'eval': 0, 'memory': 0}
    for seed, (out, _) in enumerate(runs):
        line = last_row(out / f'seed{seed}/log.jsonl')
        measurement['train'] += line['tokens_per_second']
        measurement['eval'] += line['eval_tokens_per_second']
        measurement['memory'] += line['peak_memory_mb']
    measurement['first_step'] = first_step
    return measurement


def repeat(split, n):
    """A split of n texts, which repeats those of the given one."""
    return split.take(np.arange(n) % len(split.labels))


def measure_growth(config, n, splits, meta, folder):
    """Train for an epoch on n texts -> speed and peak memory."""
    save_data(folder / str(n), {**splits, 'train': repeat(splits['train'], n)}, meta)
    row = Row(f'{n} texts')
    out, process = start_training(config, row, folder, os.environ, f'--dataset={n}', '--epochs=1')
    if process.wait():
        fail(f'{row.name}: train.py failed')
    line = last_row(out / 'seed0/log.jsonl')
    return {'train': line['tokens_per_second'], 'memory': line['peak_memory_mb']}


def save_texts(config, name, as_name, folder):
    """Save the texts of a data set that the rows use: to measure speed, and to measure the first
    step -> its splits and its meta.json."""
    data, meta = load_data(Path(config.data_dir) / name)
    used = {
        'train': data['train'].take(slice(config.n_train)),
        'val': data['val'].take(slice(config.n_val)),
        'test': data['test'].take(slice(8)),  # test is not measured
    }
    save_data(folder / as_name, used, meta)
    save_data(folder / f'{as_name}_start', {**used, 'val': used['val'].take(slice(8))}, meta)
    return data, meta


# The report

def growth_table(growth):
    """Lines of Markdown; growth: {number of texts: measurement}."""
    lines = ['', '| training texts | microseconds per token | MB |', '| --- | --- | --- |']
    for n, measurement in growth.items():
        lines.append(f'| {n:,} | {1e6 / measurement["train"]:.2f} | {measurement["memory"]:,} |')
    return lines


def draw_growth(growth, path):
    """Draw the time per token and the peak memory over the number of texts."""
    from matplotlib.figure import Figure
    panels = {
        'microseconds per token': [1e6 / m['train'] for m in growth.values()],
        'peak memory, GB': [m['memory'] / 1024 for m in growth.values()],
    }
    figure = Figure(figsize=(9, 3.2), layout='constrained')
    axes = figure.subplots(1, 2)
    for axis, (label, values) in zip(axes, panels.items()):
        axis.plot(list(growth), values, 'o-')
        axis.set(xscale='log', xlabel='training texts', ylabel=label, ylim=(0, 1.3 * max(values)))
        axis.grid(alpha=0.3)
    write_file(path, lambda file: figure.savefig(file, dpi=110))


def report(config, measured, growth, flops, out):
    """Print table.md, and write it and the figures.

    measured: {name of a row: [measurements]}; growth: {number of texts: measurement}; flops: {name
    of a row: FLOPs per token, or None}.
    """
    lines = [introduction(hardware_name(config.device), config.threads, measured)]
    lines += speed_table(measured, flops)
    if growth:
        lines += growth_table(growth)
    text = '\n'.join(lines) + '\n'
    print(text, end='')
    write_file(out / 'table.md', lambda file: file.write(text.encode()))
    draw_speeds(measured, list(flops), out / 'speed.png')
    if growth:
        draw_growth(growth, out / 'growth.png')


# Command

def main(config):
    config, sizes = read_settings(config)
    rows = choose_rows(config)
    out = Path(config.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / 'measurements.jsonl')
    os.environ.update(HUGE_PAGES)  # for all processes that this one starts
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data, meta = save_texts(config, config.dataset, 'long', folder)
        if any(row.data == 'short' for row in rows):
            save_texts(config, config.short, 'short', folder)
        if config.against:
            rows = with_commit(rows, config.against, folder / 'code')
        for _ in range(config.repeats):
            log.add('peak', in_new_process(measure_peak, config.device, config.threads))
            for row in rows:
                log.add(row.name, measure(config, row, folder))

        growth = {}
        grown = {'train': data['train'], 'val': data['val'].take(slice(256)),
                 'test': data['test'].take(slice(8))}
        for n in sizes:
            growth[n] = measure_growth(config, n, grown, meta, folder)
            log.add(f'{n} texts', growth[n])
    if config.against:  # the folder of its checkout is gone
        subprocess.run(['git', 'worktree', 'prune'], cwd=ROOT)
    train = data['train'].take(slice(config.n_train))
    flops = {row.name: row.flops(train, config) for row in rows}
    report(config, log.measured(), growth, flops, out)


if __name__ == '__main__':
    main(configure(globals()))
