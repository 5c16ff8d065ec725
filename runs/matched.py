"""results/losses/matched/<variant>/seed<k> -> how far each ends from CE of the same seed: matched.md, matched.png.

A variant that trains as CE does ends as far from it as CE with one weight nudged by 1e-7 does: rounding differs,
and training magnifies it. CE with clipping is that of balanced/, of the same rate. The last row, CE of another seed,
says how far apart unrelated runs are.
"""
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

matplotlib.use('agg')
out = Path(__file__).parents[1] / 'results' / 'losses'
NAMES = {'matched/ce_nudged': 'CE, a weight nudged by 1e-7', 'matched/bce_matched': 'BCE, start and rate of CE',
         'matched/bce_start': 'BCE, start of CE', 'matched/bce_rate': 'BCE, rate of CE', 'matched/bce': 'BCE',
         'balanced/ce': 'CE, clipped', 'other': 'CE, another seed'}


def margins(folder):
    """The log-odds of class 1 and the labels, on test: float [reviews] each."""
    preds = np.load(folder / 'preds.npz')
    z = preds['test_logits'].astype(float)
    return z[:, -1] - (z[:, 0] if z.shape[1] > 1 else 0), preds['test_labels']


seeds = sorted(path.name for path in (out / 'matched/ce').glob('seed*'))
ce = [margins(out / 'matched/ce' / seed)[0] for seed in seeds]
y = margins(out / 'matched/ce' / seeds[0])[1]
table = [f'Test, {len(y):,} reviews, {len(seeds)} seeds; each run beside the CE run of its seed: mean (lowest to '
         'highest), and the mean difference in accuracy with its 95 % interval for other seeds (t of the pairs).', '',
         '| | root mean square of the difference in log-odds | decided otherwise, % | accuracy − CE, points |',
         '| --- | --- | --- | --- |']
rows = {}
for variant, name in NAMES.items():
    runs = ce[1:] + ce[:1] if variant == 'other' else [margins(out / variant / seed)[0] for seed in seeds]
    rms = [np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(runs, ce)]
    otherwise = [100 * np.mean((a > 0) != (b > 0)) for a, b in zip(runs, ce)]
    gain = np.array([100 * (np.mean((a > 0) == y) - np.mean((b > 0) == y)) for a, b in zip(runs, ce)])
    rows[name] = otherwise, gain
    half = stats.t.ppf(0.975, len(gain) - 1) * stats.sem(gain)
    gains = f'{gain.mean():+.2f} ({gain.mean() - half:+.2f} to {gain.mean() + half:+.2f})' if variant != 'other' else ''
    table.append(f'| {name} | {np.mean(rms):.3f} ({min(rms):.3f} to {max(rms):.3f}) | {np.mean(otherwise):.2f} '
                 f'({min(otherwise):.2f} to {max(otherwise):.2f}) | {gains} |')
a, b = ([json.loads(line)['val_loss'] for line in (out / f'float64/{name}/seed0/log.jsonl').open()]
        for name in ('ce', 'bce_matched'))
difference = np.abs(margins(out / 'float64/ce/seed0')[0] - margins(out / 'float64/bce_matched/seed0')[0]).max()
table += ['', f'One epoch in float64: val loss {a[-1]:.16f} with CE, {b[-1]:.16f} with matched BCE; the largest '
          f'difference of a test log-odds is {difference:.1g} (stored as float16).']
(out / 'matched.md').write_text('\n'.join(table) + '\n')
print('\n'.join(table))

figure = Figure(figsize=(9, 3.4), layout='constrained')
axes = figure.subplots(1, 2, sharey=True)
for i, (name, (otherwise, gain)) in enumerate(rows.items()):
    color = 'tab:gray' if name.startswith('CE') else 'tab:blue'
    axes[0].plot(otherwise, [i] * len(otherwise), 'o', color=color, alpha=0.6)
    if 'another' not in name:
        axes[1].plot(gain, [i] * len(gain), 'o', color=color, alpha=0.6)
        axes[1].plot(gain.mean(), i, '|', color='black', ms=18)
axes[1].axvline(0, color='black', lw=0.6)
axes[0].set(xlabel='test reviews decided otherwise\nthan by CE of the same seed, %', xlim=(0, None))
axes[1].set(xlabel='accuracy on test − that of CE\nof the same seed, points (bar: mean)')
axes[0].set_yticks(range(len(rows)), rows)
axes[0].invert_yaxis()
figure.savefig(out / 'matched.png', dpi=110)
