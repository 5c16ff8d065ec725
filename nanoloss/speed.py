"""Measuring speed: what tools/bench.py and the scripts of results/bench share."""
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace

import numpy as np
import torch

from nanoloss.data import batches
from nanoloss.devices import synchronize
from nanoloss.files import write_file, write_json_lines

HUGE_PAGES = {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}  # fewer page faults, on Linux


# Measuring

def in_new_process(function, *args):
    """Call a function of a module in a process of its own -> what it returns."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(function, *args).result()


def measure_peak(device, threads):
    """TFLOP/s of a product of two large matrices: {dtype: peak}, and the higher of them, 'peak'."""
    torch.set_num_threads(threads)
    size = 2048 if device == 'cpu' else 8192
    a = torch.randn(size, size, device=device)
    peaks = {}
    for dtype in (torch.float32, torch.bfloat16):  # bfloat16 is slow on a CPU without it
        matrix = a.to(dtype)
        times = []
        while len(times) < 12 and sum(times) < 10:
            synchronize(device)
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            synchronize(device)
            times.append(time.perf_counter() - start)
        peaks[str(dtype).removeprefix('torch.')] = 2 * size ** 3 / min(times) / 1e12
    return {'peak': max(peaks.values()), **peaks}


def transformer_flops(split, n_layer, n_embd, block_size, token_dropout, bag):
    """FLOPs that training a transformer needs per token of these texts: 3 times the matrix products
    of a forward pass, without padding. Tokens are counted before token dropout and bags."""
    config = SimpleNamespace(block_size=block_size, truncate='head', bag=bag,
                             token_dropout=token_dropout)
    forward = 0.0
    n_tokens = 0
    for batch in batches(split, config, 256, rng=np.random.default_rng(0)):
        lengths = (batch.counts > 0).sum(1).double()
        linear = 24 * n_embd ** 2 * lengths  # qkv, proj, up, down
        attention = 4 * n_embd * lengths ** 2  # scores and weighted values
        forward += n_layer * float((linear + attention).sum())
        n_tokens += batch.n_tokens
    return 3 * forward / n_tokens


def last_row(log):
    """The last row of a log.jsonl."""
    return json.loads(log.read_text().splitlines()[-1])


class Log:
    """Prints each measurement, and writes all measurements so far to measurements.jsonl."""

    def __init__(self, path):
        self.path = path
        self.rows = []

    def add(self, name, measurement):
        print(f'{time.strftime("%H:%M:%S")} {name}: {json.dumps(measurement)}', flush=True)
        self.rows.append({'row': name, **measurement})
        write_json_lines(self.path, self.rows)

    def measured(self):
        """{name of a row: its measurements}."""
        measured = {}
        for row in self.rows:
            measured.setdefault(row['row'], []).append(row)
        return measured


# Reporting; measured: see `Log.measured`

def column(measurements, key):
    """One figure of all measurements of a row."""
    return [measurement[key] for measurement in measurements]


def summary(values, digits=0):
    """'median (lowest to highest)'."""
    median = f'{statistics.median(values):,.{digits}f}'
    if len(values) == 1:
        return f'{median} (once)'
    return f'{median} ({min(values):,.{digits}f} to {max(values):,.{digits}f})'


def introduction(hardware, threads, measured):
    """The first line of a table: the machine, its peak and the number of measurements."""
    line = f'{hardware}, {threads} threads, torch {torch.__version__}'
    if 'peak' in measured:
        peaks = column(measured['peak'], 'peak')
        line += f'; a matrix product reaches {summary(peaks, 2)} TFLOP/s'
    n_turns = max(len(values) for values in measured.values())
    return f'{line}. Median (lowest to highest) of {n_turns}.'


def speed_table(measured, flops):
    """Lines of Markdown, one per row; flops: {name of a row: FLOPs per token, or None}."""
    peak = statistics.median(column(measured['peak'], 'peak'))
    lines = [
        '',
        '| | training, tokens/s | share of the peak | evaluation, tokens/s | first step, s | MB |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for name, flops_per_token in flops.items():
        values = measured[name]
        share = ''
        if flops_per_token:
            speed = statistics.median(column(values, 'train'))
            share = f'{speed * flops_per_token / peak / 1e12:.0%}'
        first_steps = column(values, 'first_step')
        first_step = summary(first_steps, 1) if all(first_steps) else ''
        lines.append(f'| {name} | {summary(column(values, "train"))} | {share} '
                     f'| {summary(column(values, "eval"))} | {first_step} '
                     f'| {summary(column(values, "memory"))} |')
    return lines


def draw_speeds(measured, names, path):
    """Draw bars of the training speeds, with a dot for each measurement. Peers are grey."""
    from matplotlib.figure import Figure
    speeds = {name: column(measured[name], 'train') for name in names}
    names = sorted(speeds, key=lambda name: statistics.median(speeds[name]))

    figure = Figure(figsize=(9, 0.8 + 0.3 * len(names)), layout='constrained')
    axis = figure.subplots()
    medians = [statistics.median(speeds[name]) for name in names]
    colors = ['tab:blue' if name.startswith(('ours', 'default')) else 'tab:gray' for name in names]
    axis.barh(names, medians, color=colors)
    for i, name in enumerate(names):
        axis.plot(speeds[name], [i] * len(speeds[name]), 'k.', markersize=3)
    axis.set(xscale='log', xlabel='training, tokens per second (log scale)')
    axis.grid(axis='x', which='both', alpha=0.3)
    write_file(path, lambda file: figure.savefig(file, dpi=110))
