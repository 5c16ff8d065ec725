"""The runs of runs/matched.sh -> how far each ends from CE of the same seed, as table and figure.

    python runs/matched.py out/losses    FOLDER/matched/<variant>/seed<k>, FOLDER/balanced/ce and
                                         FOLDER/float64 -> FOLDER/matched.md and matched.png;
                                         results/losses by default

A variant that trains as CE does ends as far from it as CE with one weight nudged by 1e-7 does:
rounding differs, and training magnifies it. CE with clipping is that of balanced/, of the same
rate. The last row, CE of another seed, says how far apart unrelated runs are.
"""
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from nanoloss.runs import finished_runs  # noqa: E402
from nanoloss.settings import fail  # noqa: E402
from nanoloss.stats import half_interval  # noqa: E402

matplotlib.use('agg')

VARIANTS = {  # {folder: name}, in the order of the table
    'matched/ce_nudged': 'CE, a weight nudged by 1e-7',
    'matched/bce_matched': 'BCE, start and rate of CE',
    'matched/bce_start': 'BCE, start of CE',
    'matched/bce_rate': 'BCE, rate of CE',
    'matched/bce': 'BCE',
    'balanced/ce': 'CE, clipped',
}
OTHER_SEED = 'CE, another seed'


@dataclass
class Distances:
    """How far the runs of a variant end from those of CE: a number a seed each, on test."""
    name: str
    rms: list               # root mean square of the difference in log-odds
    disagreement: list      # reviews that the two classify differently, %
    gain: np.ndarray        # accuracy - that of CE, points


def read_group(folder):
    """A group of runs -> {name of the run's folder: the run}."""
    return {run.path.name: run for run in finished_runs(folder)}


def read_predictions(group, name):
    """A run of a group -> the log-odds of class 1, float64 [reviews], and the labels, on test."""
    runs = read_group(group)
    if name not in runs:
        fail(f'{group / name} is no finished run; bash runs/matched.sh makes it')
    arrays = runs[name].arrays
    logits = arrays['test_logits'].astype(float)
    labels = arrays['test_labels']
    if logits.shape[1] == 1:
        return logits[:, 0], labels
    return logits[:, 1] - logits[:, 0], labels


def measure(name, runs, ce_runs, labels):
    """Distances of runs from those of CE, both [seeds] lists of log-odds [reviews]."""
    rms = []
    disagreement = []
    gain = []
    for log_odds, of_ce in zip(runs, ce_runs):
        decisions = log_odds > 0
        ce_decisions = of_ce > 0
        rms.append(np.sqrt(np.mean((log_odds - of_ce) ** 2)))
        disagreement.append(100 * np.mean(decisions != ce_decisions))
        accuracy_gain = np.mean(decisions == labels) - np.mean(ce_decisions == labels)
        gain.append(100 * accuracy_gain)
    return Distances(name, rms, disagreement, np.array(gain))


def compare_variants(folder, seeds):
    """The folder of all runs -> Distances of each variant, and the number of test reviews."""
    ce_runs = []
    for seed in seeds:
        log_odds, labels = read_predictions(folder / 'matched/ce', seed)
        ce_runs.append(log_odds)

    rows = []
    for variant, name in VARIANTS.items():
        runs = [read_predictions(folder / variant, seed)[0] for seed in seeds]
        rows.append(measure(name, runs, ce_runs, labels))
    shifted = ce_runs[1:] + ce_runs[:1]
    rows.append(measure(OTHER_SEED, shifted, ce_runs, labels))
    return rows, len(labels)


def in_double_precision(folder):
    """A sentence on the one epoch of CE and of matched BCE that was computed in float64."""
    val_losses = []
    log_odds = []
    for name in ('ce', 'bce_matched'):
        group = folder / 'float64' / name
        log_odds.append(read_predictions(group, 'seed0')[0])
        val_losses.append(read_group(group)['seed0'].log[-1]['val_loss'])
    difference = np.abs(log_odds[0] - log_odds[1]).max()
    return (f'One epoch in float64: val loss {val_losses[0]:.16f} with CE, {val_losses[1]:.16f} '
            f'with matched BCE; the largest difference of a test log-odds is {difference:.1g} '
            '(stored as float16).')


def mean_and_range(values, digits):
    """Numbers as 'mean (lowest to highest)'."""
    mean = np.mean(values)
    return f'{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})'


def make_table(rows, n_reviews, n_seeds):
    """The distances, a row a variant: lines of Markdown."""
    lines = [
        f'Test, {n_reviews:,} reviews, {n_seeds} seeds; each run beside the CE run of its seed: '
        'mean (lowest to highest), and the mean difference in accuracy with its 95 % interval for '
        'other seeds (t of the pairs).',
        '',
        '| | root mean square of the difference in log-odds | decided otherwise, % '
        '| accuracy − CE, points |',
        '| --- | --- | --- | --- |',
    ]
    for row in rows:
        gain = ''  # between seeds, its mean is 0
        if row.name != OTHER_SEED:
            mean = row.gain.mean()
            half = half_interval(row.gain)
            gain = f'{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})'
        rms = mean_and_range(row.rms, 3)
        disagreement = mean_and_range(row.disagreement, 2)
        lines.append(f'| {row.name} | {rms} | {disagreement} | {gain} |')
    return lines


def draw(rows):
    """A dot a seed: at the left how often it differs from CE, at the right what that is worth."""
    figure = Figure(figsize=(9, 3.4), layout='constrained')
    left, right = figure.subplots(1, 2, sharey=True)
    for height, row in enumerate(rows):
        color = 'tab:gray' if row.name.startswith('CE') else 'tab:blue'
        heights = [height] * len(row.gain)
        left.plot(row.disagreement, heights, 'o', color=color, alpha=0.6)
        if row.name != OTHER_SEED:
            right.plot(row.gain, heights, 'o', color=color, alpha=0.6)
            right.plot(row.gain.mean(), height, '|', color='black', ms=18)
    right.axvline(0, color='black', lw=0.6)
    left.set(xlabel='test reviews decided otherwise\nthan by CE of the same seed, %')
    left.set(xlim=(0, None))
    right.set(xlabel='accuracy on test − that of CE\nof the same seed, points (bar: mean)')
    left.set_yticks(range(len(rows)), [row.name for row in rows])
    left.invert_yaxis()
    return figure


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / 'results/losses'
    seeds = list(read_group(folder / 'matched/ce'))
    if len(seeds) < 2:
        fail(f'{folder}/matched/ce: there are no two runs; bash runs/matched.sh makes them')
    rows, n_reviews = compare_variants(folder, seeds)
    lines = make_table(rows, n_reviews, len(seeds))
    lines += ['', in_double_precision(folder)]
    table = '\n'.join(lines) + '\n'
    (folder / 'matched.md').write_text(table, 'utf-8')
    draw(rows).savefig(folder / 'matched.png', dpi=110)
    print(table, end='')


if __name__ == '__main__':
    main()
