"""Accuracy of the default model on val, before it was made fast and now.

    python -m results.bench.before        three seeds of each data set -> a table

The runs before are those of commit 86c14b0, in results/bench/before; the runs of now are those of
results/best.
"""
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np

from model import make_head
from nanoloss.runs import read_runs
from nanoloss.stats import half_interval

SEEDS = range(3)


def accuracy_on_val(folder):
    """The mean accuracy of the runs of these seeds, in %."""
    runs, _ = read_runs(folder, make_head)
    return np.mean([run.last['val'] for run in runs if run.seed in SEEDS])


def main():
    print('| val, % | before | now | difference |\n| --- | --- | --- | --- |')
    gaps = []
    for path in sorted(Path('results/bench/before').iterdir()):
        before = accuracy_on_val(path)
        now = accuracy_on_val(f'results/best/{path.name}')
        gaps.append(now - before)
        print(f'| {path.name} | {before:.2f} | {now:.2f} | {gaps[-1]:+.2f} |')
    print(f'| mean | | | {np.mean(gaps):+.2f} ± {half_interval(gaps):.2f} |')


if __name__ == '__main__':
    main()
