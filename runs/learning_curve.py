"""The runs of runs/learning_curve.sh -> accuracy by the number of training texts, and what twice as
many would be worth: FOLDER/table.md and curve.png.

    python runs/learning_curve.py FOLDER        FOLDER/<texts>/seed<k>, and of the baseline
                                                FOLDER/<texts>/nbsvm/seed<k>
    python runs/learning_curve.py data/NAME     of a data set: the numbers of texts to train on

The law, error = a + b n^-c, is fitted to the mean of the seeds at each size, so that each size
counts alike, however many of its seeds are finished; its interval comes from resampled seeds
(nanoloss/stats.py). Two things show how far its form can be trusted: what it says of the largest
size when it has not seen it, and what it becomes without the small ones.
"""
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from model import make_head  # noqa: E402
from nanoloss.settings import fail  # noqa: E402
from nanoloss.figures import COLORS, GREY, STYLE, png  # noqa: E402
from nanoloss.files import write_file  # noqa: E402
from nanoloss.runs import check_comparable, read_runs, stored_runs  # noqa: E402
from nanoloss.stats import (  # noqa: E402
    fit_power_law, interval, power_law, resampled_means)

matplotlib.use('agg')

PERCENT = 1, 2, 5, 10, 20, 50, 100  # of the training texts
BASELINE = 'nbsvm'
LEAST = 4  # sizes that a law of three constants is fitted to


def sizes_of(meta):
    """meta.json of a data set -> the numbers of training texts, at least two a class."""
    n_train = meta['splits']['train']['rows']
    sizes = {round(percent / 100 * n_train) for percent in PERCENT}
    return sorted(n for n in sizes if n >= 2 * len(meta['classes']))


# Reading

@dataclass
class Point:
    """The runs of one size, and those of the baseline, which may be none."""
    n: int  # training texts
    runs: list
    baseline: list

    def errors(self):
        """Of each run on test, in %."""
        n_test = len(self.runs[0].correct['test'])
        # relative errors, of which the law is, know no 0: half a text in its place
        return [max(100 - run.last['test'], 50 / n_test) for run in self.runs]


def read_points(folder):
    """The folder of a curve -> [Point], by size, and a note on each run that is left out."""
    points = []
    notes = []
    sizes = [path for path in folder.glob('*') if path.name.isdigit()]
    for path in sorted(sizes, key=lambda path: int(path.name)):
        groups = []
        for group in (path, path / BASELINE):
            runs = []
            if any(run.is_finished() for run in stored_runs(group)):
                runs, left_out = read_runs(group, make_head)
                notes += left_out
            groups.append(runs)
        if groups[0]:
            points.append(Point(int(path.name), *groups))
    if not points:
        fail(f'{folder}: there is no finished run; bash runs/learning_curve.sh makes them')
    for point in points:
        check_comparable(point.runs, points[0].runs[0])
        check_comparable(point.baseline, points[0].runs[0])
    return points, notes


# The law

@dataclass
class Law:
    """A law that was fitted to some sizes, and those of the resampled seeds."""
    sizes: np.ndarray    # [S]
    law: np.ndarray      # [3]
    resampled: np.ndarray  # [RESAMPLES, 3]

    def accuracy(self, n):
        """With n training texts, in %: its estimate, and those of the resampled seeds."""
        return 100 - power_law(self.law, n), 100 - power_law(self.resampled, n)

    def worth(self, n):
        """Of twice n texts, in points, likewise."""
        estimate, resampled = self.accuracy(n)
        estimate_of_twice, resampled_of_twice = self.accuracy(2 * n)
        return estimate_of_twice - estimate, resampled_of_twice - resampled


def fit(points, means):
    """[Point] and the `resampled_means` of their errors -> Law."""
    sizes = np.array([float(point.n) for point in points])
    errors = np.array([np.mean(point.errors()) for point in points])
    return Law(sizes, fit_power_law(sizes, errors), fit_power_law(sizes, means))


def fit_all(points):
    """-> {what is left out: Law}: of all sizes '', and those that test the form of the law."""
    parts = {
        '': slice(None),
        'the largest': slice(-1),
        'the smallest': slice(1, None),
        'the two smallest': slice(2, None),
    }
    means = resampled_means([point.errors() for point in points])
    laws = {}
    for name, part in parts.items():
        if len(points[part]) >= LEAST:
            laws[name] = fit(points[part], means[:, part])
    return laws, means


def with_interval(estimate, resampled, digits=1):
    """'0.8 (0.4 to 1.2)', the middle 95 % of the resampled in brackets."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    values = [round(value, digits) + 0 for value in (estimate, low, high)]  # no -0.0
    return '{:.{d}f} ({:.{d}f} to {:.{d}f})'.format(*values, d=digits)


def worth_text(law, n):
    """What twice the data would be worth, with its sign."""
    text = with_interval(*law.worth(n))
    return text if text.startswith('-') else f'+{text}'


# The table

def accuracy_cells(runs):
    """Number of seeds, mean accuracy and its interval for other seeds, as text."""
    if not runs:
        return ['', '', '']
    found = interval(np.stack([run.correct['test'] for run in runs]))
    between = ''
    if found['seeds']:
        between = f'{found["seeds"][0]:.2f} to {found["seeds"][1]:.2f}'
    return [str(len(runs)), f'{found["estimate"]:.2f}', between]


def accuracy_table(points):
    """Lines of Markdown, a row a size."""
    lines = [
        f'| training texts | seeds | accuracy, % | 95 % interval | {BASELINE}: seeds | accuracy, % '
        '| 95 % interval | distance |',
        '| --- ' * 8 + '|',
    ]
    for point in points:
        distance = ''
        if point.baseline:
            means = [np.mean([run.last['test'] for run in runs])
                     for runs in (point.runs, point.baseline)]
            distance = f'{means[0] - means[1]:+.2f}'
        cells = [f'{point.n:,}', *accuracy_cells(point.runs), *accuracy_cells(point.baseline),
                 distance]
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def law_table(laws, n):
    """Lines of Markdown, a row a law; n: the largest size."""
    lines = [
        f'| fitted without | a, % | c | accuracy with {n:,} texts | with {2 * n:,} '
        '| twice the data |',
        '| --- ' * 6 + '|',
    ]
    for name, law in laws.items():
        a, _, c = law.law
        cells = [name or '(all sizes)', f'{a:.1f}', f'{c:.2f}',
                 with_interval(*law.accuracy(n), 2), with_interval(*law.accuracy(2 * n), 2),
                 worth_text(law, n)]
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def judge(laws, points, means):
    """How well the law of the smaller sizes predicts the largest, in a sentence or two."""
    if 'the largest' not in laws:
        return 'There are too few sizes to test the form of the law.'
    n = points[-1].n
    measured = 100 - np.mean(points[-1].errors())
    predicted, resampled = laws['the largest'].accuracy(n)
    miss = measured - predicted
    misses = 100 - means[:, -1] - resampled
    low, high = np.percentile(misses, [2.5, 97.5])
    text = (f'The law of all smaller sizes predicts {predicted:.2f} % for {n:,} texts, which have '
            f'{measured:.2f}: off by {with_interval(miss, misses, 2)} points. ')
    if low <= 0 <= high:
        return text + 'So far, the form of the law holds.'
    return text + ('So the form of the law does not hold quite, and the interval of the first '
                   'sentence, which takes it for granted, is too narrow.')


def conclude(points):
    """What twice the data would be worth, and how far that can be trusted: lines of Markdown; and
    the law of all sizes, or None."""
    fitted = [point for point in points if len(point.runs) > 1]
    if len(fitted) < LEAST:
        return [f'A law needs {LEAST} sizes with two seeds each; there are {len(fitted)}.'], None
    laws, means = fit_all(fitted)
    law = laws['']
    n = fitted[-1].n
    a, b, c = law.law
    lines = [
        f'**Twice the data would be worth {worth_text(law, n)} points**: '
        f'{with_interval(*law.accuracy(2 * n))} % with {2 * n:,} texts, if the error goes on as '
        f'{a:.2f} + {b:.4g} n^-{c:.2f} %.',
        '',
        'No run has seen so many texts. The interval is for other seeds, and takes the form of the '
        'law for granted. '
        + judge(laws, fitted, means),
        '',
        *law_table(laws, n),
    ]
    if len(fitted) < len(points):
        alone = ', '.join(f'{point.n:,}' for point in points if len(point.runs) == 1)
        lines += ['', f'Not in the law, for they have one seed only: {alone}.']
    return lines, law


def make_table(points, notes):
    """All of it as Markdown, and the law of all sizes, or None."""
    run = points[0].runs[0]
    n_test = len(run.correct['test'])
    lines = [
        f'Accuracy on test of {run.dataset}, {n_test:,} texts, after the last epoch; mean of the '
        'seeds, with its interval for other seeds and for the other training texts that they draw '
        '(where all texts are used, all seeds have the same).',
        '',
        *accuracy_table(points),
        '',
    ]
    conclusion, law = conclude(points)
    lines += conclusion
    for note in notes:
        lines += ['', f'Beware: {note}.']
    return '\n'.join(lines) + '\n', law


# The figure

def draw_runs(ax, sizes, groups, color, name):
    """A dot a run, and a line through the means."""
    for n, runs in zip(sizes, groups):
        ax.plot([n] * len(runs), [run.last['test'] for run in runs], 'o', ms=3, alpha=0.5,
                color=color)
    means = [np.mean([run.last['test'] for run in runs]) for runs in groups]
    ax.plot(sizes, means, '_', ms=14, mew=1.6, color=color, label=name)


def draw(points, law):
    """Accuracy over the number of texts, on a logarithmic axis, and the law up to twice as many."""
    figure = Figure(figsize=(7, 4))
    ax = figure.subplots()
    sizes = [point.n for point in points]
    draw_runs(ax, sizes, [point.runs for point in points], COLORS[0], 'nanoloss')
    beside = [point for point in points if point.baseline]
    if beside:
        draw_runs(ax, [point.n for point in beside], [point.baseline for point in beside],
                  COLORS[1], BASELINE)
    if law:
        n = law.sizes[-1]
        grid = np.geomspace(law.sizes[0], 2 * n, 60)
        curve = 100 - power_law(law.law, grid)
        band = 100 - power_law(law.resampled[:, None], grid)
        low, high = np.percentile(band, [2.5, 97.5], axis=0)
        seen = grid <= n
        ax.fill_between(grid, low, high, color=COLORS[0], alpha=0.2, lw=0)
        ax.plot(grid[seen], curve[seen], lw=1, color=COLORS[0])
        ax.plot(grid[~seen], curve[~seen], ':', lw=1.5, color=COLORS[0])
        ax.annotate(f'twice the data\n{worth_text(law, n)}', (2 * n, curve[-1]), (0, -30),
                    textcoords='offset points', ha='center', size=8, color=GREY)
    ax.set(xscale='log', xticks=sizes, xticklabels=[f'{n:,}' for n in sizes])
    ax.minorticks_off()
    ax.set_xlim(right=3 * sizes[-1])
    ax.legend(loc='lower right', fontsize=8)
    figure.suptitle('Accuracy on test by the number of training texts, %', x=0.01, ha='left')
    figure.supxlabel('Training texts, logarithmic.  Dot: a run.  Stroke: the mean of the seeds.  '
                     'Band: the law, with its 95 % interval.')
    return figure


def main(folder):
    if (folder / 'meta.json').is_file():  # a data set, not a curve
        print(*sizes_of(json.loads((folder / 'meta.json').read_text())))
        return
    points, notes = read_points(folder)
    table, law = make_table(points, notes)
    with matplotlib.rc_context(STYLE):
        figure = png(draw(points, law), 110)
    write_file(folder / 'table.md', lambda file: file.write(table.encode()))
    write_file(folder / 'curve.png', lambda file: file.write(figure))
    print(table, end='')


if __name__ == '__main__':
    if len(sys.argv) != 2:
        fail('usage: python runs/learning_curve.py FOLDER, that of runs/learning_curve.sh')
    main(Path(sys.argv[1]))
