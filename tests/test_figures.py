"""nanoloss/figures.py: what stands where in the figures."""
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest

from nanoloss import figures
from nanoloss.labels import Thresholds
from nanoloss.thresholds import judge


def make_group(label, counts, published=None, calibrated=True):
    """A group of two-class runs with so many correct answers of 100 on test, and half on val."""
    runs = []
    all_bins = []
    all_correct = []
    for seed, count in enumerate(counts):
        bins = np.zeros((2, 15, 3))
        bins[0, 9] = [10, 8, 6.5]
        bins[0, 14] = [30, 24, 29]
        bins[1, 12] = [40, 32, 33]
        curve = np.array([[1, 60, 55], [2, 70, count / 2], [3, 80, count / 2]])
        correct = np.arange(100) < count
        runs.append(SimpleNamespace(
            seed=seed, curve=curve, best_epoch=2, config={'classes': ['neg', 'pos']}))
        all_bins.append(bins)
        all_correct.append(correct)
    accuracy = {
        'test': {'n': 100, 'correct': counts, 'mean': np.mean(counts), 'seeds': (70, 80),
                 'both': (65, 85)},
        'val': {'n': 100, 'correct': [count / 2 for count in counts], 'mean': np.mean(counts) / 2,
                'seeds': None, 'both': None},
    }
    nll = [0.3 if calibrated else None] * len(counts)
    confidence = np.tile(1 - np.arange(100) / 200, (len(counts), 1))
    return SimpleNamespace(
        label=label, color=figures.COLORS[0], runs=runs, accuracy=accuracy, measures={'NLL': nll},
        published=published, judged=[], bins=np.stack(all_bins), confidence=confidence,
        correct={'test': np.stack(all_correct)})


def texts(ax):
    return [text.get_text() for text in ax.texts]


def points(ax, marker):
    """The x of all lines of an axes that are drawn with a marker."""
    x = []
    for line in ax.lines:
        if line.get_marker() == marker:
            x += list(line.get_xdata())
    return x


def test_runs_are_dots_below_their_mean():
    published = SimpleNamespace(
        split='val', figures={'min': 30, 'mean': 33, 'median': 34, 'max': 36, 'max-min': 6})
    groups = [make_group('BCE', [70, 80], published), make_group('CE', [60, 62])]
    fig = figures.draw_runs(groups, 'a title')
    test, val = fig.axes
    assert fig.get_suptitle() == 'a title'
    assert (test.get_title(), val.get_title()) == ('test, 100 texts', 'val, 100 texts')
    # each mean is a ring, followed by the dots of its runs
    assert points(test, 'o') == [75, 70, 80, 61, 60, 62]
    assert points(val, 'o') == [37.5, 35, 40, 30.5, 30, 31]
    assert texts(test) == ['BCE 75.00', 'CE 61.00']
    assert texts(val) == ['the paper', 'BCE 37.50', 'CE 30.50']
    assert points(val, '|') == [33]
    labels = [label.get_text() for label in test.get_yticklabels()]
    assert labels == ['seed 0', 'seed 1'] * 2
    # intervals are drawn where there are some: a line down, two intervals, a ring, the dots
    assert len(test.lines) == 2 * 5
    assert len(val.lines) == 2 * 3 + 2


def test_many_groups_have_a_line_each():
    groups = [make_group(label, [70, 80, 75]) for label in 'abcd']
    fig = figures.draw_runs(groups, '')
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ['3 seeds'] * 4


def test_epochs_are_those_of_the_run_that_ends_best_on_val():
    group = make_group('BCE', [70, 80, 60])
    group.accuracy['test']['correct'] = [80, 60, 70]  # seed 0 ends best on test
    group.runs[0].curve = group.runs[0].curve[[0, 2]]  # evaluated less often
    ax, = figures.draw_epochs([group]).axes
    assert ax.get_title() == 'BCE, seed 1: val best at epoch 2'
    train, val = ax.lines
    assert list(train.get_ydata()) == [60, 70, 80]
    assert list(val.get_ydata()) == [55, 40, 40]
    assert texts(ax) == ['train 80.0', 'val 40.0']
    # the band is of the epochs that all runs have: 1 and 3
    band = ax.collections[1].get_paths()[0].vertices
    assert set(band[:, 0]) == {1, 3}
    assert (band[:, 1].min(), band[:, 1].max()) == (30, 55)


@pytest.mark.parametrize('calibrated', [True, False])
def test_reliability_puts_runs_together(calibrated):
    group = make_group('square', [70, 80], calibrated=calibrated)
    ax, = figures.draw_reliability([group]).axes
    diagonal, *lines = ax.lines
    assert lines[-1].get_color() == group.color
    assert lines[-1].get_xydata() == pytest.approx(np.array([[82.5, 80]]))
    if calibrated:
        assert lines[0].get_xydata() == pytest.approx(np.array([[65, 80], [2900 / 30, 80]]))
    # raw outputs that are no log-odds are shown after temperature scaling only
    assert len(lines) == (2 if calibrated else 1)


@pytest.mark.parametrize('n, shape', [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3))])
def test_panels_fill_their_rows(n, shape):
    fig, axes = figures.panels(n, 2, 1, most=3)
    assert len(axes) == len(fig.axes) == n
    assert axes[0].get_gridspec().get_geometry() == shape


def test_figures_are_png_and_leave_the_settings_of_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    files = figures.draw_figures([make_group('BCE', [70, 80])], 'a title')
    assert list(files) == ['accuracy_by_run.png', 'accuracy_by_epoch.png', 'reliability.png',
                           'coverage.png']
    for content in files.values():
        assert content[:8] == b'\x89PNG\r\n\x1a\n'
    assert dict(matplotlib.rcParams) == before


def test_groups_without_probabilities_have_no_figure_of_them():
    groups = [make_group('BCE', [70, 80]), make_group('CE', [60, 62])]
    groups[0].bins = groups[0].confidence = None
    assert 'coverage.png' in figures.draw_figures(groups, '')
    assert list(figures.draw_figures(groups[:1], '')) == ['accuracy_by_run.png',
                                                          'accuracy_by_epoch.png']


def test_coverage_is_the_mean_of_the_runs():
    """Of 100 answers the surest 70 and 80 are right."""
    ax, = figures.draw_coverage([make_group('BCE', [70, 80])]).axes
    share, accuracy = ax.lines[0].get_data()
    assert share.tolist() == list(range(1, 101))
    assert accuracy[[0, 69, 99]] == pytest.approx([100, 100, 75])
    assert accuracy[74] == pytest.approx((100 * 70 / 75 + 100) / 2)


def test_what_was_evaluated_once_has_no_panel_beside_curves():
    network = make_group('CE', [60, 62])
    bag_of_words = make_group('nbsvm', [70])
    for run in bag_of_words.runs:
        run.curve = run.curve[:1]
    titles = [ax.get_title() for ax in figures.draw_epochs([network, bag_of_words]).axes]
    assert titles == ['CE, seed 1: val best at epoch 2']
    alone = [ax.get_title() for ax in figures.draw_epochs([bag_of_words]).axes]
    assert alone == ['nbsvm, seed 0: val best at epoch 2']


def test_one_seed_is_no_plural():
    groups = [make_group(f'group {i}', [60, 62]) for i in range(3)]
    fig = figures.draw_runs([*groups, make_group('alone', [70])], '')
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert labels == ['2 seeds'] * 3 + ['1 seed']


@pytest.mark.parametrize('rule, goal', [('f1', None), ('precision', 0.9), ('recall', 0.8)])
def test_thresholds_are_points_on_the_curves_of_their_classes(rule, goal):
    """Eight labels, each a decision of its own; the six rarest that have a threshold are shown."""
    rng = np.random.default_rng(0)
    probs = {split: rng.random((200, 8)) for split in ('val', 'test')}
    labels = {}
    for split, p in probs.items():
        labels[split] = (rng.random(p.shape) < p * np.linspace(1, 0.3, 8)).astype(int)
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, np.nan])
    run = make_group('tags', [60, 62]).runs[0]
    run.config = {'classes': list('abcdefgh')}
    judged = judge(Thresholds(rule, goal, values), probs, labels)
    fig = figures.draw_thresholds('tags', run, judged)
    ax, = fig.axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list('bcdefg')
    curves = [line for line in ax.lines if line.get_label() in list('bcdefg')]
    dots = [line for line in ax.lines if line.get_marker() == 'o']
    assert len(curves) == 6
    for c, curve in enumerate(curves, 1):
        ring, dot = dots[2 * c - 2:2 * c]
        assert ring.get_markerfacecolor() == 'white'
        assert dot.get_markerfacecolor() == ring.get_markeredgecolor() == curve.get_color()
        for point, threshold in ((ring, 0.5), (dot, values[c])):
            reached = probs['test'][:, c] >= threshold
            right = (reached & (labels['test'][:, c] == 1)).sum()
            (x,), (y,) = point.get_data()
            assert x == pytest.approx(100 * right / labels['test'][:, c].sum())
            assert y == pytest.approx(100 * right / reached.sum())
            assert abs(curve.get_xdata() - x).min() + abs(curve.get_ydata() - y).min() < 1e-9
    dashed = [line for line in ax.lines if line.get_linestyle() == '--']
    assert len(dashed) == (rule != 'f1')
    assert 'The 6 of 7 classes that are rarest in val' in fig.get_supxlabel()
