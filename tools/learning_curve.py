"""Runs on samples of the training texts -> accuracy by the number of texts, and an estimate of the
gain from twice as many: table.md and curve.png.

    python -m tools.learning_curve FOLDER        the runs FOLDER/<texts>/seed<k> and, of the
                                                 baseline, FOLDER/<texts>/nbsvm/seed<k>
    python -m tools.learning_curve data/NAME     prints the sample sizes for a data set

runs/learning_curve.sh trains the runs. The law, error = a + b n^-c, is fitted to the mean of the
seeds at each size, so that each size has the same weight; its interval comes from resampled seeds
(nanoloss/stats.py). Two checks test the form of the law: a fit without the largest size predicts
its error, and further fits leave out the small sizes.
"""
import json
from dataclasses import dataclass
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from model import make_head
from nanoloss.figures import COLORS, GREY, STYLE, png
from nanoloss.files import write_file
from nanoloss.runs import check_comparable, finished_runs, read_runs
from nanoloss.settings import configure, fail
from nanoloss.stats import fit_power_law, interval, power_law, resampled_means

# -----------------------------------------------------------------------------
out_dir = ''  # folder for table.md and curve.png ('': the folder of the runs)
# -----------------------------------------------------------------------------
PERCENT = 1, 2, 5, 10, 20, 50, 100  # of the training texts
BASELINE = 'nbsvm'
LEAST = 4  # sizes needed to fit a law with three constants


def sizes_of(meta):
    """meta.json of a data set -> the sample sizes, at least two texts per class."""
    n_train = meta['splits']['train']['rows']
    sizes = {round(percent / 100 * n_train) for percent in PERCENT}
    return sorted(n for n in sizes if n >= 2 * len(meta['classes']))


# Reading

@dataclass
class Point:
    """The runs of one size, and those of the baseline, if any."""
    n: int  # training texts
    runs: list
    baseline: list

    def errors(self):
        """The error of each run on test, in %."""
        n_test = len(self.runs[0].correct['test'])
        # the law is fitted to relative errors, so an error of 0 becomes that of half a text
        return [max(100 - run.last['test'], 50 / n_test) for run in self.runs]


def read_points(folder):
    """The folder of a curve -> [Point], by size, and a note for each run that is left out."""
    points = []
    notes = []
    sizes = [path for path in folder.glob('*') if path.name.isdigit()]
    for path in sorted(sizes, key=lambda path: int(path.name)):
        groups = []
        for group in (path, path / BASELINE):
            runs = []
            if finished_runs(group):
                runs, left_out = read_runs(group, make_head)
                notes += left_out
            groups.append(runs)
        if groups[0]:
            points.append(Point(int(path.name), *groups))
    if not points:
        fail(f'{folder}: there is no finished run; make them with: bash runs/learning_curve.sh')
    for point in points:
        check_comparable(point.runs, points[0].runs[0])
        check_comparable(point.baseline, points[0].runs[0])
    return points, notes


# The law

@dataclass
class Law:
    """A law that was fitted to some sizes, and the laws of the resampled seeds."""
    sizes: np.ndarray    # [S]
    law: np.ndarray      # [3]
    resampled: np.ndarray  # [RESAMPLES, 3]

    def accuracy(self, n):
        """Accuracy with n training texts, in %: the estimate, and those of the resampled seeds."""
        return 100 - power_law(self.law, n), 100 - power_law(self.resampled, n)

    def gain(self, n):
        """The gain from twice n texts, in points: the estimate, and that of each resample."""
        estimate, resampled = self.accuracy(n)
        estimate_of_twice, resampled_of_twice = self.accuracy(2 * n)
        return estimate_of_twice - estimate, resampled_of_twice - resampled


def fit(points, means):
    """[Point] and the `resampled_means` of their errors -> Law."""
    sizes = np.array([float(point.n) for point in points])
    errors = np.array([np.mean(point.errors()) for point in points])
    return Law(sizes, fit_power_law(sizes, errors), fit_power_law(sizes, means))


def fit_all(points):
    """[Point] -> {left-out sizes: Law} and the `resampled_means` of the errors. The law without a
    left-out size has the name ''; the others test its form."""
    subsets = {
        '': slice(None),
        'the largest': slice(-1),
        'the smallest': slice(1, None),
        'the two smallest': slice(2, None),
    }
    means = resampled_means([point.errors() for point in points])
    laws = {}
    for name, subset in subsets.items():
        if len(points[subset]) >= LEAST:
            laws[name] = fit(points[subset], means[:, subset])
    return laws, means


def with_interval(estimate, resampled, digits=1):
    """'0.8 (0.4 to 1.2)', the middle 95 % of the resampled in brackets."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    values = [round(value, digits) + 0 for value in (estimate, low, high)]  # no -0.0
    return '{:.{d}f} ({:.{d}f} to {:.{d}f})'.format(*values, d=digits)


def gain_text(law, n):
    """The gain from twice the data, with its sign and interval."""
    text = with_interval(*law.gain(n))
    return text if text.startswith('-') else f'+{text}'


# The table

def accuracy_cells(runs):
    """Number of seeds, mean accuracy and its interval for other seeds, as texts."""
    if not runs:
        return ['', '', '']
    found = interval(np.stack([run.correct['test'] for run in runs]))
    between = ''
    if found['seeds']:
        between = f'{found["seeds"][0]:.2f} to {found["seeds"][1]:.2f}'
    return [str(len(runs)), f'{found["estimate"]:.2f}', between]


def accuracy_table(points):
    """Lines of Markdown, one row per size."""
    lines = [
        f'| training texts | seeds | accuracy, % | 95 % interval | {BASELINE}: seeds | accuracy, % '
        '| 95 % interval | difference |',
        '| --- ' * 8 + '|',
    ]
    for point in points:
        difference = ''
        if point.baseline:
            means = [np.mean([run.last['test'] for run in runs])
                     for runs in (point.runs, point.baseline)]
            difference = f'{means[0] - means[1]:+.2f}'
        cells = [f'{point.n:,}', *accuracy_cells(point.runs), *accuracy_cells(point.baseline),
                 difference]
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def law_table(laws, n):
    """Lines of Markdown, one row per law; n: the largest size."""
    lines = [
        f'| fitted without | a, % | c | accuracy with {n:,} texts | with {2 * n:,} '
        '| twice the data |',
        '| --- ' * 6 + '|',
    ]
    for name, law in laws.items():
        a, _, c = law.law
        cells = [name or '(all sizes)', f'{a:.1f}', f'{c:.2f}',
                 with_interval(*law.accuracy(n), 2), with_interval(*law.accuracy(2 * n), 2),
                 gain_text(law, n)]
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
    text = (f'The law of all smaller sizes predicts {predicted:.2f} % for {n:,} texts; measured is '
            f'{measured:.2f} %, a difference of {with_interval(miss, misses, 2)} points. ')
    if low <= 0 <= high:
        return text + 'So the form of the law holds up to this size.'
    return text + ('So the form of the law does not quite hold, and the interval of the first '
                   'sentence, which assumes it, is too narrow.')


def conclude(points):
    """The gain from twice the data and its reliability, lines of Markdown; and the law of all
    sizes, or None."""
    fitted = [point for point in points if len(point.runs) > 1]
    if len(fitted) < LEAST:
        return [f'A law needs {LEAST} sizes with at least two seeds each; there are '
                f'{len(fitted)}.'], None
    laws, means = fit_all(fitted)
    law = laws['']
    n = fitted[-1].n
    a, b, c = law.law
    lines = [
        f'**Twice the data would change the accuracy by {gain_text(law, n)} points**: '
        f'{with_interval(*law.accuracy(2 * n))} % with {2 * n:,} texts, if the error continues to '
        f'follow {a:.2f} + {b:.4g} n^-{c:.2f} %.',
        '',
        'This is an extrapolation: no run has used as many texts. The interval is for other seeds '
        'and assumes the form of the law. '
        + judge(laws, fitted, means),
        '',
        *law_table(laws, n),
    ]
    if len(fitted) < len(points):
        alone = ', '.join(f'{point.n:,}' for point in points if len(point.runs) == 1)
        lines += ['', f'Sizes with a single seed are not used for the law: {alone}.']
    return lines, law


def make_table(points, notes):
    """table.md, and the law of all sizes or None."""
    run = points[0].runs[0]
    n_test = len(run.correct['test'])
    lines = [
        f'Accuracy on test of {run.dataset}, {n_test:,} texts, after the last epoch: the mean of '
        'the seeds, with its interval for other seeds and the training texts that they sample '
        '(with all texts, the seeds share them).',
        '',
        *accuracy_table(points),
        '',
    ]
    conclusion, law = conclude(points)
    lines += conclusion
    for note in notes:
        lines += ['', f'Note: {note}.']
    return '\n'.join(lines) + '\n', law


# The figure

def draw_runs(ax, sizes, groups, color, name):
    """Draw a dot for each run and a stroke for each mean."""
    for n, runs in zip(sizes, groups):
        ax.plot([n] * len(runs), [run.last['test'] for run in runs], 'o', ms=3, alpha=0.5,
                color=color)
    means = [np.mean([run.last['test'] for run in runs]) for runs in groups]
    ax.plot(sizes, means, '_', ms=14, mew=1.6, color=color, label=name)


def draw(points, law):
    """Draw accuracy by the number of texts, on a logarithmic axis, and the law up to twice as
    many."""
    figure = Figure(figsize=(7, 4))
    ax = figure.subplots()
    sizes = [point.n for point in points]
    draw_runs(ax, sizes, [point.runs for point in points], COLORS[0], 'nanoloss')
    with_baseline = [point for point in points if point.baseline]
    if with_baseline:
        draw_runs(ax, [point.n for point in with_baseline],
                  [point.baseline for point in with_baseline], COLORS[1], BASELINE)
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
        ax.annotate(f'twice the data\n{gain_text(law, n)}', (2 * n, curve[-1]), (0, -30),
                    textcoords='offset points', ha='center', size=8, color=GREY)
    ax.set(xscale='log', xticks=sizes, xticklabels=[f'{n:,}' for n in sizes])
    ax.minorticks_off()
    ax.set_xlim(right=3 * sizes[-1])
    ax.legend(loc='lower right', fontsize=8)
    figure.suptitle('Accuracy on test by the number of training texts, %', x=0.01, ha='left')
    figure.supxlabel('Training texts, logarithmic.  Dot: a run.  Stroke: the mean of the seeds.  '
                     'Line and band: the law and its 95 % interval.')
    return figure


# Command

def main(config, folders):
    if len(folders) != 1:
        fail('give one folder, that of the runs of runs/learning_curve.sh or of a data set')
    folder = Path(folders[0])
    if (folder / 'meta.json').is_file():  # a data set, not a curve
        print(*sizes_of(json.loads((folder / 'meta.json').read_text())))
        return
    points, notes = read_points(folder)
    table, law = make_table(points, notes)
    matplotlib.use('agg')
    with matplotlib.rc_context(STYLE):
        figure = png(draw(points, law), 110)
    out = Path(config.out_dir or folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / 'table.md', lambda file: file.write(table.encode()))
        write_file(out / 'curve.png', lambda file: file.write(figure))
    except OSError as error:
        fail(f'cannot write to {out}: {error}')
    print(table, end='')


if __name__ == '__main__':
    folders = []
    main(configure(globals(), positional=folders), folders)
