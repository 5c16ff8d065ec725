"""Accuracy of the default model before it was made fast, and now.

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


def accuracies(folder):
    """The mean accuracies of the runs of these seeds on val and test, in %: [2]."""
    runs, _ = read_runs(folder, make_head)
    return np.mean([[run.last[split] for split in ('val', 'test')]
                    for run in runs if run.seed in SEEDS], 0)


def main():
    print('| | val, % before | now | difference | test, % before | now | difference |')
    print('| --- |' + ' --- |' * 6)
    gaps = []
    for path in sorted(Path('results/bench/before').iterdir()):
        before = accuracies(path)
        now = accuracies(f'results/best/{path.name}')
        gaps.append(now - before)
        cells = [f'{before[i]:.2f} | {now[i]:.2f} | {now[i] - before[i]:+.2f}' for i in (0, 1)]
        print(f'| {path.name} | ' + ' | '.join(cells) + ' |')
    on_val, on_test = [f' | | {np.mean(one):+.2f} ± {half_interval(one):.2f} |'
                       for one in np.transpose(gaps)]
    print(f'| mean |{on_val}{on_test}')


if __name__ == '__main__':
    main()
