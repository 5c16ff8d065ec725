"""What the paper's Table 1 lets its ten runs be, and what p values they can have -> results/table1.md.

    python runs/table1.py

Accuracies on 2,500 reviews are multiples of 0.04 %. So min, median and max of five runs are known exactly, and the
two other runs lie between them, with the sum that the mean, rounded as printed, allows. Every possible ten runs are
put to the permutation test over all 252 splits (evaluate.py) and to Welch's t test.
"""
import itertools
import math
import sys
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from config import replace  # noqa: E402
from evaluate import PAPER, permutation_test  # noqa: E402

REVIEWS = 2500


def possible(low, mean, median, high, rounding):
    """All five-run sets, ascending counts of right answers, with these figures in %, the mean within +-rounding."""
    low, median, high = (round(x * REVIEWS / 100) for x in (low, median, high))
    first, last = (5 * (mean + way * rounding) * REVIEWS / 100 for way in (-1, 1))
    return [(low, a, median, b, high) for a in range(low, median + 1) for b in range(median, high + 1)
            if math.ceil(first - 1e-6) <= low + a + median + b + high <= math.floor(last + 1e-6)]


def main():
    lines = ['# What Table 1 can hold', '',
             f'Five runs on {REVIEWS:,} reviews; p over all ten runs that the printed figures allow, lowest to '
             'highest. The runs of both losses were judged on the same reviews, and five runs are few: a p says what '
             'other seeds may do, not other reviews.', '']
    for reading, rounding in ('86.1 is 86.10', 0.005), ('86.1 is anything from 86.05 to 86.15', 0.05):
        sets = {name: possible(*PAPER[name][:4], rounding if name == 'bce' else 0.005) for name in ('bce', 'ce')}
        ps = {'means, permutation test': [], 'means, Welch': [], 'max − min, permutation test': []}
        for a, b in itertools.product(*map(np.array, sets.values())):
            ps['means, permutation test'].append(permutation_test(a, b)['p'])
            ps['means, Welch'].append(stats.ttest_ind(a, b, equal_var=False).pvalue)
            ps['max − min, permutation test'].append(permutation_test(a, b, spread=True)['p'])
        lines += [f'## If {reading}', '', '| | possible sets of five runs | standard deviation, points |',
                  '| --- | --- | --- |']
        for name, runs in sets.items():
            sd = np.std(runs, axis=1, ddof=1) * 100 / REVIEWS
            lines.append(f'| {name.upper()} | {len(runs)} | {sd.min():.2f} to {sd.max():.2f} |')
        lines += ['', f'| {math.prod(map(len, sets.values()))} pairs | p |', '| --- | --- |']
        lines += [f'| {test} | {min(p):.2f} to {max(p):.2f} |' for test, p in ps.items()] + ['']
    text = '\n'.join(lines)
    print(text)
    replace(ROOT / 'results' / 'table1.md', lambda file: file.write(text.encode()))


if __name__ == '__main__':
    main()
