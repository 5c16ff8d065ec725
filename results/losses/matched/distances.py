"""The runs of matched.sh -> how far each ends from CE of the same seed, as a table and a figure.

    python -m results.losses.matched.distances              of the kept runs in results/losses
    python -m results.losses.matched.distances out/losses   FOLDER/matched/<variant>/seed<k>,
        FOLDER/balanced/ce and FOLDER/float64 -> FOLDER/matched/distances.md and distances.png

A variant that trains as CE does ends as far from it as CE with one weight nudged by 1e-7: they
differ in rounding, which training magnifies. CE with clipping is that of balanced/, at the same
learning rate. The last row, CE of another seed, shows how far apart unrelated runs are.
"""
import sys
from dataclasses import dataclass
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nanoloss.runs import finished_runs
from nanoloss.settings import fail
from nanoloss.stats import half_interval

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
SCRIPT = 'results/losses/matched/matched.sh'


@dataclass
class Distances:
    """How far the runs of a variant end from those of CE on test: a number per seed each."""
    name: str
    rms: list               # root mean square of the difference in log-odds
    disagreement: list      # reviews that the two label differently, %
    gain: np.ndarray        # accuracy - that of CE, points


def read_group(folder):
    """A group's folder -> {seed: its run}. Fails if there is none."""
    runs = {run.config['seed']: run for run in finished_runs(folder)}
    if not runs:
        fail(f'{folder}: there is no finished run; make it with: bash {SCRIPT}')
    return runs


def log_odds_of(run):
    """The log-odds of class 1 on test, float64 [reviews]."""
    logits = run.arrays['test_logits'].astype(float)
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[:, 1] - logits[:, 0]


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


def compare_variants(folder):
    """The folder of all runs -> Distances of each variant, and the number of test reviews."""
    ce_group = read_group(folder / 'matched/ce')
    if len(ce_group) < 2:
        fail(f'{folder}/matched/ce: there is one run, wanted are two; bash {SCRIPT}')
    ce_runs = [log_odds_of(run) for run in ce_group.values()]
    labels = next(iter(ce_group.values())).arrays['test_labels']

    rows = []
    for variant, name in VARIANTS.items():
        group = read_group(folder / variant)
        if not ce_group.keys() <= group.keys():
            fail(f'{folder / variant}: there is no run for each seed of {folder}/matched/ce')
        runs = [log_odds_of(group[seed]) for seed in ce_group]
        rows.append(measure(name, runs, ce_runs, labels))
    shifted = ce_runs[1:] + ce_runs[:1]
    rows.append(measure(OTHER_SEED, shifted, ce_runs, labels))
    return rows, len(labels)


def in_double_precision(folder):
    """A sentence on the one epoch of CE and of matched BCE in float64."""
    val_losses = []
    log_odds = []
    for name in ('ce', 'bce_matched'):
        run = read_group(folder / 'float64' / name)[0]
        log_odds.append(log_odds_of(run))
        val_losses.append(run.log[-1]['val_loss'])
    difference = np.abs(log_odds[0] - log_odds[1]).max()
    return (f'One epoch in float64: val loss {val_losses[0]:.16f} with CE, {val_losses[1]:.16f} '
            f'with matched BCE; the largest difference of a test log-odds is {difference:.1g} '
            '(stored as float16).')


def mean_and_range(values, digits):
    """Numbers as 'mean (lowest to highest)'."""
    mean = np.mean(values)
    return f'{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})'


def make_table(rows, n_reviews, n_seeds):
    """The distances, one row per variant: lines of Markdown."""
    lines = [
        f'Each run compared with the CE run of its seed on test ({n_reviews:,} reviews, {n_seeds} '
        'seeds): mean (lowest to highest), and the mean difference in accuracy with its 95 % '
        'interval for other seeds (paired t).',
        '',
        '| | root mean square of the difference in log-odds | other labels, % '
        '| accuracy − CE, points |',
        '| --- | --- | --- | --- |',
    ]
    for row in rows:
        gain = ''  # between seeds its mean is 0
        if row.name != OTHER_SEED:
            mean = row.gain.mean()
            half = half_interval(row.gain)
            gain = f'{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})'
        rms = mean_and_range(row.rms, 3)
        disagreement = mean_and_range(row.disagreement, 2)
        lines.append(f'| {row.name} | {rms} | {disagreement} | {gain} |')
    return lines


def draw(rows):
    """Draw a dot per seed: how often its labels differ from those of CE, and the difference in
    accuracy."""
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
    left.set(xlabel='test reviews with another label\nthan from CE of the same seed, %')
    left.set(xlim=(0, None))
    right.set(xlabel='accuracy on test − that of CE\nof the same seed, points (bar: mean)')
    left.set_yticks(range(len(rows)), [row.name for row in rows])
    left.invert_yaxis()
    return figure


def main(folder):
    rows, n_reviews = compare_variants(folder)
    lines = make_table(rows, n_reviews, len(rows[0].rms))
    lines += ['', in_double_precision(folder)]
    table = '\n'.join(lines) + '\n'
    (folder / 'matched/distances.md').write_text(table, 'utf-8')
    draw(rows).savefig(folder / 'matched/distances.png', dpi=110)
    print(table, end='')


if __name__ == '__main__':
    main(Path(sys.argv[1] if len(sys.argv) > 1 else 'results/losses'))
