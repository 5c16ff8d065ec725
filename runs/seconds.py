"""What a second of training buys: accuracy against seconds, a dot a run.

    python runs/seconds.py FIGURE.png NAME=FOLDER ...      a group of runs and a color for each name

Accuracy is that of val and test together; seconds are those of the whole run, evaluation included,
on the cores that it had, and logarithmic.
"""
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from nanoloss.runs import finished_runs  # noqa: E402
from nanoloss.settings import fail  # noqa: E402
from nanoloss.figures import COLORS, STYLE  # noqa: E402

matplotlib.use('agg')


def read_runs(folder):
    """-> seconds and accuracy in %, a pair for each finished run."""
    pairs = []
    for run in finished_runs(folder):
        result = run.result
        splits = [result['last'][split] for split in ('val', 'test')]
        accuracy = sum(split['correct'] for split in splits) / sum(split['n'] for split in splits)
        pairs.append((result['seconds'], 100 * accuracy))
    if not pairs:
        fail(f'{folder}: there is no finished run')
    return pairs


def main():
    if len(sys.argv) < 3 or not all('=' in argument for argument in sys.argv[2:]):
        fail('usage: python runs/seconds.py FIGURE.png NAME=FOLDER ...')
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4))
        ax = figure.subplots()
        for i, argument in enumerate(sys.argv[2:]):
            name, folder = argument.split('=', 1)
            pairs = read_runs(folder)
            seconds, accuracies = zip(*pairs)
            color = COLORS[i % len(COLORS)]
            ax.plot(seconds, accuracies, 'o', ms=5, alpha=0.7, color=color)
            height = sum(accuracies) / len(accuracies)
            ax.annotate(name, (max(seconds), height), (7, 0), textcoords='offset points',
                        va='center', color=color)
        ax.set(xscale='log', xlabel='seconds, logarithmic', ylabel='accuracy, %')
        ax.xaxis.set_major_formatter('{x:g}')
        ax.set_xlim(right=6 * ax.get_xlim()[1])  # room for the names
        ax.set_title('What a second buys')
        figure.savefig(sys.argv[1], dpi=110)


if __name__ == '__main__':
    main()
