"""The runs of runs/losses2.sh -> which rate is best for each loss, and what the losses do there.

    python runs/losses2.py out/losses2/trec            FOLDER/<loss>/<times>/seed<k>: a row a loss
    python runs/losses2.py out/losses2/trec --best     a line a loss: its name, its best rate

Best is the highest accuracy on val, the mean of the first three seeds. Accuracy in %, on test the
mean of all seeds at that rate with its 95 % interval for other seeds.
"""
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from nanoloss.configure import fail  # noqa: E402
from nanoloss.stats import half_interval  # noqa: E402

N_SEEDS = 3  # by which the rate is chosen


def read_accuracies(folder):
    """-> {loss: {times: {seed: {split: accuracy in %}}}}"""
    accuracies = {}
    for path in sorted(folder.glob('*/*/seed*/result.json')):
        loss, times, _ = path.parts[-4:-1]
        result = json.loads(path.read_text())
        run = {split: 100 * result['last'][split]['accuracy'] for split in ('val', 'test')}
        accuracies.setdefault(loss, {}).setdefault(times, {})[result['seed']] = run
    return accuracies


def val_accuracy(runs):
    """{seed: {split: accuracy}} -> the mean on val by which the rate is chosen."""
    return np.mean([runs[seed]['val'] for seed in range(N_SEEDS)])


def find_best(accuracies):
    """-> {loss: its best rate, as times the usual one}"""
    best = {}
    for loss, by_rate in accuracies.items():
        best[loss] = max(by_rate, key=lambda times: val_accuracy(by_rate[times]))
    return best


def make_table(accuracies, best):
    """A row a loss: Markdown."""
    rates = sorted(next(iter(accuracies.values())), key=float)
    header = ' | '.join(f'val, {times} x' for times in rates)
    lines = [
        f'| loss | {header} | test at the best rate | 95 % interval | seeds |',
        '| --- ' * (len(rates) + 4) + '|',
    ]
    for loss, by_rate in accuracies.items():
        cells = []
        for times in rates:
            cell = f'{val_accuracy(by_rate[times]):.2f}'
            cells.append(f'**{cell}**' if times == best[loss] else cell)
        test = [run['test'] for run in by_rate[best[loss]].values()]
        mean = np.mean(test)
        half = half_interval(test)
        cells += [f'{mean:.2f}', f'{mean - half:.2f} to {mean + half:.2f}', str(len(test))]
        lines.append(f'| {loss} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def main():
    if len(sys.argv) < 2:
        fail('usage: python runs/losses2.py FOLDER [--best]')
    folder = Path(sys.argv[1])
    accuracies = read_accuracies(folder)
    if not accuracies:
        fail(f'{folder}: there is no finished run; bash runs/losses2.sh makes them')
    for loss, by_rate in accuracies.items():
        for times, runs in by_rate.items():
            if not set(range(N_SEEDS)) <= set(runs):
                fail(f'{folder}/{loss}/{times}: seeds 0 to {N_SEEDS - 1} are not all finished')
    best = find_best(accuracies)
    if '--best' in sys.argv:
        for loss, times in best.items():
            print(loss, times)
    else:
        print(make_table(accuracies, best))


if __name__ == '__main__':
    main()
