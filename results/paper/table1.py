"""What the paper's Table 1 lets its ten runs be, and what p values they can have.

    python runs/table1.py    results/paper/published.json -> results/table1.md

Accuracies on 2,500 reviews are multiples of 0.04 %. So min, median and max of five runs are known
exactly, and the two other runs lie between them, with the sum that the mean, rounded as printed,
allows. Every possible ten runs are put to the permutation test over all 252 splits and to Welch's
t test.
"""
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from nanoloss.files import write_file  # noqa: E402
from nanoloss.stats import permutation_test  # noqa: E402

REVIEWS = 2500


def possible(low, mean, median, high, rounding):
    """All sets of five runs with these figures in %, the mean within +-rounding.

    A set is five counts of correct answers, ascending.
    """
    low = round(low * REVIEWS / 100)
    median = round(median * REVIEWS / 100)
    high = round(high * REVIEWS / 100)
    least = math.ceil(5 * (mean - rounding) * REVIEWS / 100 - 1e-6)
    most = math.floor(5 * (mean + rounding) * REVIEWS / 100 + 1e-6)
    sets = []
    for second in range(low, median + 1):
        for fourth in range(median, high + 1):
            counts = (low, second, median, fourth, high)
            if least <= sum(counts) <= most:
                sets.append(counts)
    return sets


def p_values(sets):
    """{'bce': sets, 'ce': sets} -> {test: its p of every pair of sets}."""
    means = []
    welch = []
    spreads = []
    for bce, ce in itertools.product(sets['bce'], sets['ce']):
        a = np.array(bce)
        b = np.array(ce)
        means.append(permutation_test(a, b)['p'])
        welch.append(stats.ttest_ind(a, b, equal_var=False).pvalue)
        spreads.append(permutation_test(a, b, spread=True)['p'])
    return {
        'means, permutation test': means,
        'means, Welch': welch,
        'max − min, permutation test': spreads,
    }


def section(reading, sets):
    """What follows if the mean of BCE is read so: lines of Markdown."""
    lines = [
        f'## If {reading}', '',
        '| | possible sets of five runs | standard deviation, points |',
        '| --- | --- | --- |',
    ]
    for head, counts in sets.items():
        sd = np.std(counts, axis=1, ddof=1) * 100 / REVIEWS
        lines.append(f'| {head.upper()} | {len(counts)} | {sd.min():.2f} to {sd.max():.2f} |')
    pairs = len(sets['bce']) * len(sets['ce'])
    lines += ['', f'| {pairs} pairs | p |', '| --- | --- |']
    for test, p in p_values(sets).items():
        lines.append(f'| {test} | {min(p):.2f} to {max(p):.2f} |')
    return [*lines, '']


def main():
    path = ROOT / 'results' / 'paper' / 'published.json'
    published = json.loads(path.read_text())['heads']
    figures = {}
    for head, row in published.items():
        figures[head] = [row['min'], row['mean'], row['median'], row['max']]

    lines = [
        '# What Table 1 can hold', '',
        f'Five runs on {REVIEWS:,} reviews; p over all ten runs that the printed figures allow, '
        'lowest to highest. The runs of both losses were judged on the same reviews, and five runs '
        'are few: a p says what other seeds may do, not other reviews.', '',
    ]
    # the paper prints the mean of BCE as 86.1, all other figures with two digits
    readings = {'86.1 is 86.10': 0.005, '86.1 is anything from 86.05 to 86.15': 0.05}
    for reading, rounding in readings.items():
        sets = {
            'bce': possible(*figures['bce'], rounding),
            'ce': possible(*figures['ce'], 0.005),
        }
        lines += section(reading, sets)
    text = '\n'.join(lines)
    print(text)
    write_file(ROOT / 'results' / 'table1.md', lambda file: file.write(text.encode()))


if __name__ == '__main__':
    main()
