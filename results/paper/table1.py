"""All sets of ten runs that the paper's Table 1 allows, and their p values.

    python -m results.paper.table1    results/paper/published.json -> results/paper/table1.md

Accuracies on 2,500 reviews are multiples of 0.04 %. So min, median and max of five runs are known
exactly. The two other runs lie between them, and their sum follows from the mean, up to its
rounding. Each possible set of ten runs is tested by the permutation test over all 252 splits and by
Welch's t test.
"""
import itertools
import json
import math
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np
from scipy import stats

from nanoloss.files import write_file
from nanoloss.stats import permutation_test

FOLDER = Path(__file__).parent
REVIEWS = 2500


def possible(low, mean, median, high, rounding):
    """All sets of five runs with these figures in %, the mean within +-rounding.

    A set is five counts of correct answers, in ascending order.
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
    """{'bce': sets, 'ce': sets} -> {test: its p for each pair of sets}."""
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
    """The sets and p values for one reading of the mean of BCE: lines of Markdown."""
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
    published = json.loads((FOLDER / 'published.json').read_text())['heads']
    figures = {}
    for head, row in published.items():
        figures[head] = [row['min'], row['mean'], row['median'], row['max']]

    lines = [
        '# The runs that Table 1 allows', '',
        f'Five runs of each loss on {REVIEWS:,} reviews: the lowest and the highest p of all sets '
        'of ten runs with the printed figures. The p values are for other seeds on the same '
        'reviews.',
        '',
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
    write_file(FOLDER / 'table1.md', lambda file: file.write(text.encode()))


if __name__ == '__main__':
    main()
