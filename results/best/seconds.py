"""A figure of accuracy by seconds of training, with a dot for each run.

    python -m results.best.seconds FIGURE.png NAME=FOLDER ...     the runs FOLDER/seed<k> of a name

Accuracy is that of val and test together. Seconds are those of the whole run, with its evaluations,
on a logarithmic axis.
"""
import sys

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from nanoloss.figures import COLORS, STYLE
from nanoloss.runs import finished_runs
from nanoloss.settings import fail

matplotlib.use('agg')


def read_runs(folder):
    """The seconds and the accuracy in % of each finished run."""
    pairs = []
    for run in finished_runs(folder):
        splits = [run.result['last'][split] for split in ('val', 'test')]
        accuracy = sum(split['correct'] for split in splits) / sum(split['n'] for split in splits)
        pairs.append((run.result['seconds'], 100 * accuracy))
    if not pairs:
        fail(f'{folder}: there is no finished run')
    return pairs


def main():
    if len(sys.argv) < 3 or not all('=' in argument for argument in sys.argv[2:]):
        fail('usage: python -m results.best.seconds FIGURE.png NAME=FOLDER ...')
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
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter('{x:g}')
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlim(right=6 * ax.get_xlim()[1])  # room for the names
        ax.set_title('Accuracy by seconds of training')
        figure.savefig(sys.argv[1], dpi=110)


if __name__ == '__main__':
    main()
