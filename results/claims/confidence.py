"""How often cross-entropy is very sure on test, and how often it is wrong then.

    python -m results.claims.confidence out/claims     counts answers of the runs out/claims/*/ce
    python -m results.claims.confidence                prints the table of confidence.jsonl
"""
import sys
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np

from model import make_head
from nanoloss.files import read_json_lines, write_json_lines
from nanoloss.runs import read_runs

FILE = Path('results/claims/confidence.jsonl')  # a line per data set
LEAST = 0.999


def count(folder):
    """The answers of a group of runs on test, those that are very sure, and the wrong ones of
    these: numbers of all runs together."""
    runs, _ = read_runs(folder, make_head)
    sure = np.stack([run.probs('test').max(1) >= LEAST for run in runs])
    wrong = sure & ~np.stack([run.correct['test'] for run in runs])
    return {'dataset': runs[0].dataset, 'answers': sure.size, 'sure': int(sure.sum()),
            'wrong': int(wrong.sum())}


if __name__ == '__main__':
    if len(sys.argv) > 1:
        write_json_lines(FILE, [count(path) for path in sorted(Path(sys.argv[1]).glob('*/ce'))])
    print('| | answers with p of at least 99.9 % | of these wrong |\n| --- | --- | --- |')
    for row in read_json_lines(FILE):
        print(f'| {row["dataset"]} | {row["sure"] / row["answers"]:.1%} '
              f'| {row["wrong"] / row["sure"]:.1%} |')
