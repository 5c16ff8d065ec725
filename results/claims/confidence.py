"""How often a group of runs is very sure on test, and how often it is wrong then.

    python -m results.claims.confidence results/claims/sst2/ce results/claims/trec/ce
"""
import sys

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np

from model import make_head
from nanoloss.runs import read_runs

LEAST = 0.999


def main(folders):
    print('| | answers with p of at least 99.9 % | of these wrong | after temperature scaling | '
          'of these wrong |')
    print('| --- | --- | --- | --- | --- |')
    for folder in folders:
        runs, _ = read_runs(folder, make_head)
        cells = []
        for scaled in (False, True):
            sure = np.stack([run.probs('test', run.temperature if scaled else 1.0).max(1) >= LEAST
                             for run in runs])
            wrong = sure & ~np.stack([run.correct['test'] for run in runs])
            cells += [f'{sure.mean():.1%}', f'{wrong.sum() / max(1, sure.sum()):.1%}']
        print(f'| {folder} | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
    main(sys.argv[1:])
