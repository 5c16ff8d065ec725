"""The figures of evaluate.py and tools.thresholds, in one style.

Groups are evaluate.py's: a label, a color, the runs, their accuracy by split, their measures and,
if a paper has such runs, its published figures.
"""
import io
import math

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nanoloss.escape import figure_name
from nanoloss.stats import accuracy_by_coverage
from nanoloss.thresholds import threshold_curve

GREY = '#777777'
LIGHT_GREY = '#bbbbbb'
COLORS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9']  # Okabe and Ito's
STYLE = {
    'figure.constrained_layout.use': True,
    'figure.titleweight': 'bold',
    'figure.labelsize': 8,
    'axes.titlelocation': 'left',
    'axes.edgecolor': 'white',
    'axes.grid': True,
    'grid.color': '#e6e6e6',
    'font.size': 9,
    'xtick.color': GREY,
    'ytick.color': GREY,
    'lines.solid_capstyle': 'butt',
    'text.parse_math': False,  # a name may hold dollars
}


def draw_published(ax, figures, height):
    """A grey bar from the least to the greatest published accuracy, with a stroke at the mean."""
    ax.plot([figures['min'], figures['max']], [height, height], lw=4, color='#cccccc')
    ax.plot(figures['mean'], height, '|', color=GREY)
    ax.text(figures['mean'], height + 0.4, 'the paper', size=8, color=GREY, ha='center', va='top')


def draw_mean(ax, group, accuracy, top, bottom):
    """A group's mean accuracy: a ring with its intervals, and a line down to the lowest run."""
    mean = accuracy['mean']
    ax.plot([mean, mean], [top, bottom], lw=0.8, alpha=0.4, color=group.color)
    if accuracy['both']:  # a single run has no interval
        ax.plot(accuracy['both'], [top, top], lw=1.2, color=group.color)
        ax.plot(accuracy['seeds'], [top, top], lw=6, alpha=0.4, color=group.color)
    ax.plot(mean, top, 'wo', mec=group.color, mew=1.6)
    label = f'{figure_name(group.label)} {mean:.2f}'
    ax.text(mean, top - 0.5, label, weight='bold', ha='center', color=group.color)


def draw_runs(groups, title):
    """A dot per run, and above the dots of a group their mean with its two intervals (the paper's
    Fig. 3).

    Up to three groups have a line per run; more groups have one line each.
    """
    one_line = len(groups) > 3
    n_lines = len(groups) if one_line else sum(len(group.runs) for group in groups)
    fig = Figure(figsize=(9.5, 1.4 + 0.21 * n_lines + 0.67 * len(groups)))
    axes = fig.subplots(1, 2, sharex=True, sharey=True)

    ticks = {}  # {height: label}
    top = 0  # the height of a group's mean; heights grow downwards
    for group in groups:
        if one_line:
            heights = np.full(len(group.runs), top + 1.2)
            n_seeds = len(group.runs)
            ticks[heights[0]] = '1 seed' if n_seeds == 1 else f'{n_seeds} seeds'
        else:
            heights = top + 1.2 + np.arange(len(group.runs))
            for height, run in zip(heights, group.runs):
                ticks[height] = f'seed {run.seed}'

        # one panel per split
        for ax, (split, accuracy) in zip(axes, group.accuracy.items()):
            if group.published and group.published.split == split:
                draw_published(ax, group.published.figures, heights[-1] + 1)
            draw_mean(ax, group, accuracy, top, heights[-1])
            shares = 100 * np.array(accuracy['correct']) / accuracy['n']
            alpha = 0.6 if one_line else 1  # dots on one line may hide each other
            ax.plot(shares, heights, 'o', ms=5, alpha=alpha, color=group.color)
            ax.set_title(f'{split}, {accuracy["n"]:,} texts')
        top = heights[-1] + 3.4

    axes[0].set(yticks=list(ticks), yticklabels=ticks.values(), ylim=(top - 1.2, -1.6))
    fig.suptitle(title, x=0.01, ha='left')
    fig.supxlabel(
        'Accuracy after the last epoch, %.  Dot: a run.  Ring: their mean, with its 95 % interval '
        'for other seeds (thick), for other seeds and texts (thin).')
    return fig


def panels(n, width, height, most):
    """A figure with n panels of this size in inches, at most `most` in a row -> (figure, axes)."""
    n_rows = math.ceil(n / most)
    n_columns = math.ceil(n / n_rows)
    fig = Figure(figsize=(0.6 + width * n_columns, 1 + height * n_rows))
    axes = fig.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).flat
    for ax in axes[n:]:
        ax.remove()
    return fig, axes[:n]


def draw_curve(ax, name, curve, epochs, band, color, label_above):
    """One run's accuracy by epoch, curve [evaluations, 2], in the band of all, [runs, epochs]."""
    ax.fill_between(epochs, band.min(0), band.max(0), color=color, alpha=0.2, lw=0)
    ax.plot(curve[:, 0], curve[:, 1], 'o-', ms=3, color=color)
    offset = (7, 5 if label_above else -5)
    ax.annotate(f'{name} {curve[-1, 1]:.1f}', curve[-1], offset, textcoords='offset points',
                va='center', color=color)


def draw_epochs(groups):
    """Each group's best run by epoch, in the band of all its runs (the paper's Figs. 4 and 5)."""
    # baselines, which are not trained by epochs, have no curve to show beside others
    groups = [group for group in groups if len(group.runs[0].curve) > 1] or groups
    fig, axes = panels(len(groups), 4.3, 3.1, most=3)
    for ax, group in zip(axes, groups):
        # the band covers the epochs at which every run was evaluated
        epochs = set(group.runs[0].curve[:, 0])
        for run in group.runs:
            epochs &= set(run.curve[:, 0])
        epochs = sorted(epochs)
        curves = np.stack([run.curve[np.isin(run.curve[:, 0], epochs)] for run in group.runs])

        # place the labels at the ends of the two curves so that they do not overlap
        best = group.runs[int(np.argmax(group.accuracy['val']['correct']))]
        _, last_train, last_val = best.curve[-1]
        draw_curve(ax, 'train', best.curve[:, [0, 1]], epochs, curves[..., 1], GREY,
                   label_above=last_train > last_val)
        draw_curve(ax, 'val', best.curve[:, [0, 2]], epochs, curves[..., 2], group.color,
                   label_above=last_val > last_train)
        title = f'{figure_name(group.label)}, seed {best.seed}: val best at epoch {best.best_epoch}'
        ax.set_title(title, color=group.color)
        ax.set_xlim(left=0)
        ax.xaxis.get_major_locator().set_params(integer=True)
    fig.suptitle('Train and val accuracy by epoch, %', x=0.01, ha='left')
    fig.supxlabel(
        'Epoch\nLine: the run that ends best on val. Band: all runs. '
        'Train accuracy is measured during training, with dropout and token dropout.')
    return fig


def draw_bins(ax, bins, color):
    """Accuracy by confidence; the area of a dot shows how many texts it stands for.

    bins: [bins, 3]: number of texts, number of correct ones, sum of their confidences.
    """
    n, correct, confidence = bins[bins[:, 0] > 0].T
    x = 100 * confidence / n
    y = 100 * correct / n
    ax.plot(x, y, '-', lw=1, color=color)
    ax.scatter(x, y, 2 + 60 * n / n.sum(), color=color)


def draw_reliability(groups):
    """The share of right answers by confidence, all runs of a group together."""
    fig, axes = panels(len(groups), 2.6, 2.5, most=4)
    for ax, group in zip(axes, groups):
        ax.plot([0, 100], [0, 100], lw=0.8, color=GREY)
        as_trained, scaled = group.bins.sum(0)
        if group.measures['NLL'][0] is not None:  # as trained, these are probabilities
            draw_bins(ax, as_trained, LIGHT_GREY)
        draw_bins(ax, scaled, group.color)
        ax.set_title(figure_name(group.label), color=group.color)
    n_class = max(2, len(groups[0].runs[0].config['classes']))
    lowest = 100 / n_class  # the confidence of a uniform prediction
    axes[0].set(xlim=(lowest - 2, 102), ylim=(lowest - 12, 102))
    fig.suptitle('Right answers by confidence on test, %', x=0.01, ha='left')
    fig.supxlabel('Confidence, %.  Grey: as trained.  Color: after temperature scaling.  '
                  'Area of a dot: number of texts.')
    return fig


def draw_coverage(groups):
    """Accuracy of the most confident answers by their share: the mean of each group."""
    fig = Figure(figsize=(4.6, 3.1))
    ax = fig.subplots()
    share = np.arange(1, 101)
    for group in groups:
        curves = []
        for confidence, correct in zip(group.confidence, group.correct['test']):
            curves.append(accuracy_by_coverage(confidence, correct))
        ax.plot(share, 100 * np.mean(curves, 0), color=group.color,
                label=figure_name(group.label))
    ax.legend(fontsize=8)
    fig.suptitle('Accuracy of the most confident answers on test, %', x=0.01, ha='left')
    fig.supxlabel('Share of the texts that get an answer, %')
    return fig


def draw_thresholds(label, run, judged):
    """Precision by recall on test, a line per class, of a run with thresholds; label: its group's.
    """
    fig = Figure(figsize=(5.6, 4.4))
    ax = fig.subplots()
    kept = judged.thresholds
    classes = judged.rarest(len(COLORS))
    for color, c in zip(COLORS, classes):
        _, counts = threshold_curve(judged.probs['test'][:, c], judged.truth['test'][:, c])
        ax.plot(100 * counts.recall(), 100 * counts.precision(), lw=1.2, color=color,
                label=figure_name(str(run.config['classes'][c])))
        for figures, face in ((judged.without, 'white'), (judged.used, color)):
            ax.plot(figures['test']['recall'][c], figures['test']['precision'][c], 'o', ms=7,
                    mfc=face, mec=color, mew=1.6, clip_on=False, zorder=3)
    ax.set(xlim=(0, 101), xlabel='Recall, %', ylabel='Precision, %')
    ax.legend(fontsize=8, loc='lower left')

    caption = 'Line: all thresholds of a class.  Dot: answers with the chosen ones.  Ring: without.'
    if kept.rule != 'f1':
        goal_line = ax.axhline if kept.rule == 'precision' else ax.axvline
        goal_line(100 * kept.goal, lw=0.8, ls='--', color=GREY)
        caption += f'\nDashed: the {kept.rule} for which they were chosen on val.'
    n_classes = len(judged.rarest(None))
    if len(classes) < n_classes:
        caption += f'\nThe {len(classes)} of {n_classes} classes that are rarest in val.'
    title = f'{figure_name(label)}, seed {run.seed}: thresholds on test'
    fig.suptitle(title, x=0.01, ha='left')
    fig.supxlabel(caption)
    return fig


def png(fig, dpi):
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    fig.savefig(buffer, dpi=dpi)
    return buffer.getvalue()


def draw_figures(groups, title):
    """All figures of some groups -> {file name: PNG bytes}. title: of the first figure. The figure
    of thresholds shows the first group that has any."""
    dpi = 150 if len(groups) < 4 else 100
    with_probs = [group for group in groups if group.bins is not None]
    judged = [group for group in groups if group.judged]
    with matplotlib.rc_context(STYLE):
        files = {
            'accuracy_by_run.png': png(draw_runs(groups, title), dpi),
            'accuracy_by_epoch.png': png(draw_epochs(groups), dpi),
        }
        if with_probs:
            files['reliability.png'] = png(draw_reliability(with_probs), dpi)
            files['coverage.png'] = png(draw_coverage(with_probs), dpi)
    if judged:
        group = judged[0]
        files['thresholds.png'] = thresholds_png(group.label, group.runs[0], group.judged[0])
    return files


def thresholds_png(label, run, judged):
    """`draw_thresholds` as PNG bytes."""
    with matplotlib.rc_context(STYLE):
        return png(draw_thresholds(label, run, judged), 150)
