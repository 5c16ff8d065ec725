"""Groups of finished runs -> the paper's Table 1, what it is worth, what the probabilities are worth, figures.

    python evaluate.py out/bce out/ce [--key=value ...]

A group is a folder of runs seed0, seed1 ... of one config, as train.py leaves them; any number of groups
will do: each is tested against one of them, ref. Prints table.md and writes it with summary.json,
accuracy_by_run.png, accuracy_by_epoch.png and reliability.png.

Notable:
- The last epoch is counted again from preds.npz; a run that is unfinished, damaged or at odds with its own
  result.json is named and left out.
- Temperature scaling (Guo 2017): logits divided by the T that is best on val, then judged on test.
- Two 95 % intervals: for other seeds, judged on the same reviews (Student's t), and for other seeds and
  other reviews, which alone speaks of the heads in general.
"""
import io
import itertools
import json
import math
from bisect import bisect_left
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from sklearn import metrics

from config import configure, fail, replace
from model import is_right, make_head, temperature

out_dir = ''   # where the four files go; '' = the folder that holds the groups
ref = ''        # the group that all others are tested against; '' = ce where there is one, else the first
target = 85.0  # accuracy on val in %; the steps to it are counted
effect = 0.26  # points; the difference for which the seeds are counted; the paper's, 86.1 - 85.84

# Apeinans, Kodors, Zarembo 2024, Table 1 and discussion: val accuracy in % of 5 runs of 10 epochs on IMDB
FIGURES = 'min', 'mean', 'median', 'max', 'max-min'
PAPER = {'bce': (85.48, 86.10, 86.32, 86.52, 1.04), 'ce': (84.24, 85.84, 86.36, 86.60, 2.36)}
# between runs, without a word; commit, because code says whether it matters
MAY_DIFFER = {'head', 'seed', 'n_runs', 'out_dir', 'data_dir', 'overwrite', 'ckpt_secs', 'commit'}
RESPLITS = 184_756  # in a permutation test: all there are up to 10 runs against 10, beyond that random ones
GREY, *COLORS = '#777777 #0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9'.split()  # Okabe and Ito's
SPLITS = 'test', 'val'
BINS = 15  # of confidence, for the calibration error


def read_run(folder):
    """A run folder -> a dict: curve [evaluations, 3] is epoch, train and val accuracy in %; right is a bool
    per review, whether its logits choose its label. Raises ValueError, saying why the run does not count."""
    if not (folder / 'result.json').exists():
        raise ValueError('is not finished (it has no result.json)')
    try:
        config, result = (json.loads((folder / f).read_text('utf-8')) for f in ('config.json', 'result.json'))
        log = [json.loads(line) for line in (folder / 'log.jsonl').read_text('utf-8').splitlines()]
        curve = np.array([(at['epoch'], 100 * at['train_acc'], 100 * at['val_acc']) for at in log])
        run = {'folder': str(folder), **{key: config[key] for key in ('seed', 'head', 'data', 'dataset')},
               'epochs': int(curve[-1, 0]), 'seconds': result['seconds'], 'config': config, 'curve': curve,
               'best_epoch': result['best']['epoch'], 'last': {}, 'right': {},
               'best': {split: 100 * result['best'][split]['accuracy'] for split in SPLITS}}
        preds = dict(np.load(folder / 'preds.npz'))
        if config['n_class'] != len(config['classes']):
            raise ValueError('config.json has another number of classes than names')
        head = make_head(**config | {'n_embd': 1})  # only for its probs
        logits, y = ({split: torch.from_numpy(preds[f'{split}_{name}']) for split in SPLITS}
                     for name in ('logits', 'labels'))
        for split in SPLITS:
            right = run['right'][split] = is_right(head.probs(logits[split].float()), y[split]).numpy()
            run['last'][split] = 100 * right.mean()
            counted = f'{right.sum()} of {len(right)} {split} reviews right'
            told = '{correct} of {n} {0} reviews right'.format(split, **result['last'][split])
            if counted != told or not logits[split].isfinite().all():
                raise ValueError(f'preds.npz has {counted}, result.json {told}')
        run['measures'], run['bins'] = measure(head, logits, {k: v.numpy() for k, v in y.items()}, config['classes'])
        train = result['last'].get('train')
        run['measures'] |= {'train − test': train and 100 * train['accuracy'] - run['last']['test'],
                            'steps': next((at['step'] for at in log if 100 * at['val_acc'] >= target), None),
                            'gradient, first': log[0].get('logit_grad'), 'gradient': log[-1].get('logit_grad')}
    except Exception as error:  # a damaged file can raise anything; the other runs can still be counted
        raise ValueError(f'is damaged ({type(error).__name__}: {" ".join(str(error).split())})')
    return run


def measure(head, logits, y, classes):
    """What the decisions and the probabilities of a run are worth on test -> {name: value or None}, and the bins of
    its reliability diagram, before and after temperature scaling: [2, BINS, 3], reviews, right ones, confidence.

    logits {split: [N, outputs]}; y {split: int [N] or, of several labels a review, 0 and 1 [N, C]}, whose
    probabilities are judged label by label. The Brier score is the sum over the classes."""
    def probs(divisor):
        p = head.probs(logits['test'].double() / divisor).numpy()
        return np.stack([1 - p.ravel(), p.ravel()], 1) if several else p
    labels, several = y['test'], y['test'].ndim == 2
    p = head.probs(logits['test'].double()).numpy()
    decided = p > 0.5 if several else p.argmax(1)
    kinds = None if several else range(len(classes))
    recall = metrics.recall_score(labels, decided, labels=kinds, average=None, zero_division=0)
    values = {'macro F1': 100 * metrics.f1_score(labels, decided, labels=kinds, average='macro', zero_division=0)}
    if several:
        values['micro F1'] = 100 * metrics.f1_score(labels, decided, average='micro', zero_division=0)
    if len(classes) <= 4:
        values |= {f'recall of {name}': 100 * share for name, share in zip(classes, recall)}
    else:
        values['lowest recall'] = 100 * recall.min()
    if not several and len(classes) == 2:
        values['AUROC'] = 100 * metrics.roc_auc_score(labels, p[:, 1]) if len(set(labels)) == 2 else None
    values['temperature'], bins = temperature(head, logits['val'], torch.from_numpy(y['val'].astype(np.int64))), []
    for suffix, divisor in ('', 1.0), (', scaled', values['temperature']):
        p = probs(divisor)
        confidence, right = p.max(1), p.argmax(1) == labels.ravel()
        which = np.minimum((confidence * BINS).astype(int), BINS - 1)
        bins.append(np.stack([np.bincount(which, w, BINS) for w in (np.ones(len(p)), right, confidence)], 1))
        shown = suffix or getattr(head, 'calibrated', True)
        own = p[np.arange(len(p)), labels.ravel()]
        for name, value in (('NLL', -np.log(own.clip(np.finfo(float).tiny)).mean()),
                            ('Brier', ((p - np.eye(p.shape[1])[labels.ravel()]) ** 2).sum(1).mean()),
                            ('ECE', 100 * abs(bins[-1][:, 1] - bins[-1][:, 2]).sum() / len(p))):
            values[name + suffix] = float(value) if shown else None
    return values, np.stack(bins)


def read_group(folder):
    """A folder of runs -> its finished runs, one a seed, in order; and a sentence for each run left out."""
    if (folder / 'config.json').exists():
        fail(f'{folder} is a single run; give the folder that holds it, {folder.resolve().parent.name}')
    paths = sorted((p for p in folder.glob('seed*') if p.is_dir()), key=lambda p: (len(p.name), p.name))
    if not paths:
        below = ' '.join(sorted({str(path.parent) for path in folder.glob('*/seed*')}))
        fail(f'{folder}: there are no runs (seed0, seed1 ...)' + (below and f'; did you mean {below}?'))
    runs, left_out = {}, []
    for path in paths:
        try:
            run = read_run(path)
            if runs.setdefault(run['seed'], run) is not run:
                raise ValueError(f'has the seed of {runs[run["seed"]]["folder"]}, {run["seed"]}')
        except ValueError as error:
            left_out.append(f'{path} {error}; it is left out')
    if not runs:
        fail(f'{folder}: there is no finished run; {"; ".join(left_out)}')
    return [runs[seed] for seed in sorted(runs)], left_out


def interval(*sides):
    """95 % intervals, in points, of a mean accuracy or of the difference of two.

    sides: one or two bool [runs, reviews], right answers on the same reviews. Returns estimate; seeds, (low,
    high) for other seeds on these reviews (Student's t, Welch's for two); both, (low, high) for other seeds
    and other reviews; reviews, the half-width that is due to the reviews, however many the seeds. The last
    three are None where a side is a single run.

    Runs and reviews are crossed: the variance is that between runs plus that between reviews less the noise
    of single answers, which is in both. Resampling runs and reviews counts that noise three times (Owen 2007,
    The pigeonhole bootstrap) and takes five runs too lightly: on simulated 5 + 5 runs its percentiles cover
    91 to 99 %, this interval 94 to 97 %.
    """
    sides = [100.0 * x for x in sides]
    by_review = sides[0].mean(0) - sum(x.mean(0) for x in sides[1:])
    estimate, n = by_review.mean(), by_review.size
    if min(map(len, sides)) < 2:
        return {'estimate': estimate, 'seeds': None, 'both': None, 'reviews': None}
    runs = [x.mean(1).var(ddof=1) / len(x) for x in sides]
    noise = sum(((x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()) ** 2).sum()
                / ((len(x) - 1) * (n - 1) * x.size) for x in sides)
    reviews = max(0.0, by_review.var(ddof=1) / n - noise)
    df_part = sum(v ** 2 / (len(x) - 1) for v, x in zip(runs, sides))  # Satterthwaite

    def around(variance):
        half = stats.t.ppf(0.975, variance ** 2 / df_part if df_part else math.inf) * variance ** 0.5
        return estimate - half, estimate + half
    seeds, both = around(sum(runs)), around(sum(runs) + reviews)
    both = max(seeds, both, key=max)  # its further degrees of freedom must not make it the narrower one
    return {'estimate': estimate, 'seeds': seeds, 'both': both, 'reviews': 1.96 * reviews ** 0.5}


def permutation_test(a, b, spread=False):
    """How many splits of all runs into len(a) and len(b) set the two at least as far apart as they are?

    a, b: a number a run; apart in their means or, with spread, in their max-min distances. Of whole numbers (right
    answers) a tie is a tie. Returns {hits, splits, p (two-sided), exact: all splits}.
    """
    def apart(x, y, axis):  # the means: times len(a) len(b)
        if spread:
            return abs(np.ptp(x, axis) - np.ptp(y, axis))
        return abs(len(b) * x.sum(axis) - len(a) * y.sum(axis))
    t = stats.permutation_test((a, b), apart, alternative='greater', n_resamples=RESPLITS, rng=0)
    hits = int((t.null_distribution >= t.statistic).sum())
    return {'hits': hits, 'splits': len(t.null_distribution), 'p': float(t.pvalue),
            'exact': math.comb(len(a) + len(b), len(a)) <= RESPLITS}


def holm(p):
    """p-values -> corrected for their number (Holm 1979): the chance that any of those found is a false one."""
    order, corrected = np.argsort(p), np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected.tolist()


def seeds_needed(sd, points):
    """Runs a head with which a two-sided t test at .05 finds a difference of so many points in 80 % of cases,
    where runs scatter by sd points. Noncentral t; at 80 % the other tail is nothing."""
    def power(n):
        return stats.nct.sf(stats.t.ppf(0.975, 2 * n - 2), 2 * n - 2, points / max(sd, 1e-6) * (n / 2) ** 0.5)
    return 2 + bisect_left(range(2, 10**7), 0.8, key=power)


def compare(a, b, split):
    """Two groups of two or more runs on one split -> all figures, the verdict and the sentences on them."""
    (x, y), names = (a['right'][split], b['right'][split]), (a['label'], b['label'])
    n, m, mean, reviews, counts = len(x), len(y), x.mean(), x.shape[1], (x.sum(1), y.sum(1))
    gap, means, spread = interval(x, y), permutation_test(*counts), permutation_test(*counts, spread=True)
    sd = 100 * math.sqrt((n * x.mean(1).var() + m * y.mean(1).var()) / (df := n + m - 2))  # pooled
    sd = [sd, *(sd * math.sqrt(df / stats.chi2.ppf(q, df)) for q in (0.975, 0.025))]  # and its 95 % interval
    needed = [seeds_needed(s, effect) for s in sd]
    alone = 196 * math.sqrt(mean * (1 - mean) / reviews)  # binomial, 1.96 standard errors in points
    up, down = names if gap['estimate'] > 0 else names[::-1]
    found, excluded = means['p'] <= 0.05, gap['both'][0] * gap['both'][1] > 0
    verdict = f'On {split}, ' + (f'{up} is more accurate than {down}' if found and excluded else (
        'interval and test disagree on whether {} and {} differ' if found or excluded else
        'no difference in accuracy between {} and {} is shown').format(*names))

    def chance(test):
        kind = 'possible' if test['exact'] else 'random'
        return (f'{test["hits"]:,} of the {test["splits"]:,} {kind} splits of these runs into {n} and {m}: '
                f'p = {test["p"]:.2g}, {"not " * (test["p"] > 0.05)}significant')
    text = f"""**{verdict}.**

- Mean: {up} is {abs(gap['estimate']):.2f} points above {down}. 95 % interval of {names[0]} minus {names[1]} \
for other seeds and other reviews: {gap['both'][0]:+.2f} to {gap['both'][1]:+.2f} points.
- Chance: were the head without effect, the means would be at least this far apart in {chance(means)}.
- Spread: from worst to best run, {names[0]} {a[split]['max-min']:.2f}, {names[1]} {b[split]['max-min']:.2f} \
points; were the head without effect, these would differ at least as much in {chance(spread)}.
- Seeds: runs of one head scatter with a standard deviation of {sd[0]:.2f} points (95 % interval {sd[1]:.2f} \
to {sd[2]:.2f}). So it takes {needed[0]:,} runs per head ({needed[1]:,} to {needed[2]:,}) to find a \
difference of {effect:g} points with 80 % power.
- Reviews: {100 * mean:.1f} % on {reviews:,} reviews is uncertain by +-{alone:.2f} points through the choice \
of the reviews alone, and the difference by an estimated +-{gap['reviews']:.2f}, however many the seeds; \
{effect:g} points are {effect / 100 * reviews:.1f} reviews."""
    return {'verdict': verdict, **gap, 'means': means, 'spread': spread, 'sd': sd, 'seeds_needed': needed,
            'text': text}


def against(pairs):
    """The groups against ref, Holm-corrected for their number -> the verdict, and the rows of a table."""
    names, ps, gaps = ['macro F1', 'NLL, scaled', 'ECE, scaled'], [[p['test']['means']['p'] for _, _, p in pairs]], []
    for name in names:
        sides = [(np.array(g['measures'][name]), np.array(other['measures'][name])) for g, other, _ in pairs]
        ps.append([permutation_test(x, y)['p'] for x, y in sides])
        gaps.append([x.mean() - y.mean() for x, y in sides])
    ps = [holm(p) for p in ps]
    rows = [['', 'accuracy, points', 'other seeds and reviews', 'p', 'Holm'] + [x for n in names for x in (n, 'Holm')]]
    for i, (g, _, pair) in enumerate(pairs):
        pair['holm'] = dict(zip(('accuracy', *names), (p[i] for p in ps)))
        test = pair['test']
        rows.append([g['label'], f'{test["estimate"]:+.2f}', '{:+.2f} to {:+.2f}'.format(*test['both']),
                     f'{test["means"]["p"]:.2g}', f'{ps[0][i]:.2g}'] +
                    [x for gap, p in zip(gaps, ps[1:]) for x in (f'{gap[i]:+.3f}', f'{p[i]:.2g}')])
    other = pairs[0][1]['label']
    found = [g['label'] for (g, _, pair), p in zip(pairs, ps[0]) if p <= 0.05]
    return (f'In accuracy on test, {" and ".join(found)} differ{"s" * (len(found) == 1)} from {other}' if found else
            f'No difference in accuracy on test from {other} is shown'), rows


def grid(rows):
    """Rows of cells, the first one the head -> a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows = [rows[0], ['-' * width for width in widths], *rows[1:]]
    return '\n'.join(f'| {" | ".join(map(str.ljust, row, widths))} |' for row in rows)


def spread(values, digits):
    """'mean ± half its 95 % interval for other seeds'; of runs that have no such number, how many have."""
    there = [value for value in values if value is not None]
    if not there:
        return '-'
    half = f' ± {stats.t.ppf(0.975, len(there) - 1) * stats.sem(there):.{digits}f}' if len(there) > 1 else ''
    some = f' ({len(there)} of {len(values)})' * (len(there) < len(values))
    return f'{np.mean(there):.{digits}f}{half}{some}'


def report(groups, pairs, notes, verdict, rows):
    """All in tables and sentences: blocks of Markdown, which a terminal shows well too."""
    runs = [run for g in groups for run in g['runs']]
    minutes = sum(run['seconds'] for run in runs) / 60
    dataset, epochs, hardware, commit = (
        ' / '.join(sorted({str((run['config'] | run).get(key) or 'unknown') for run in runs}))
        for key in ('dataset', 'epochs', 'hardware', 'commit'))
    yield f'# {" and ".join(g["label"] for g in groups)} on {dataset}'
    yield f'{len(runs)} runs of {epochs} epochs, together {minutes:,.0f} minutes, on {hardware}, commit {commit}.'
    if notes:
        yield '**Beware:**\n\n' + '\n'.join(f'- {note}.' for note in notes)
    for split in SPLITS:
        table = [['', 'runs', *FIGURES, 'mean: other seeds', 'other seeds and reviews', 'at best-val epochs']]
        for g in groups:
            s, best = g[split], np.mean([run['best'][split] for run in g['runs']])
            ends = ('{:.2f} to {:.2f}'.format(*s[key]) if s[key] else 'unknown' for key in ('seeds', 'both'))
            row = (f'{s[key]:.2f}' for key in FIGURES)
            table.append([g['label'], str(len(g['runs'])), *row, *ends, f'{best:.2f}'])
            if split == 'val' and g['paper']:
                table.append([f'{g["label"]}, the paper', '5', *(f'{x:.2f}' for x in g['paper']), '', '', ''])
        yield f'## Accuracy on {split}, % of {s["n"]:,} reviews' + ': the headline' * (split == 'test')
        yield grid(table)
    yield ('After the last epoch, with 95 % intervals of the mean for other seeds and for other seeds and '
           'reviews. Last column: the mean at the best-val epochs; on val too high, for val chose them.')
    calibration = [name + suffix for name in ('NLL', 'Brier', 'ECE') for suffix in ('', ', scaled')] + ['temperature']
    decisions = [name for name in groups[0]['measures'] if name not in calibration]
    heads = {'train − test': 'train − test accuracy', 'steps': f'steps to {target:g} % on val',
             'gradient, first': 'd loss / d z, first', 'gradient': 'last'}
    for title, names in ('The decisions', decisions), ('The probabilities', calibration):
        yield f'## {title} on test: mean of the runs ± half its 95 % interval for other seeds'
        yield grid([['', *(heads.get(name, name) + ', %' * (name == 'ECE') for name in names)]] + [
            [g['label'], *(spread(g['measures'][name], 0 if name == 'steps' else
                                  2 if name in decisions and 'gradient' not in name or 'ECE' in name else 3)
                           for name in names)] for g in groups])
    yield ('F1, recall and AUROC in %. Train: as many training reviews as val has, without token dropout. '
           'd loss / d z: its mean norm over val at the first and the last evaluation. Brier: summed over the classes. '
           'ECE: 15 bins. Scaled: logits divided by the temperature that is best on val.')
    if rows:
        yield f'## Against {pairs[0][1]["label"]}, on test'
        yield f'**{verdict}.**'
        yield grid(rows)
        yield ('Differences of the means, with p of the permutation test and, corrected for the number of groups, '
               "Holm's; of the other measures Holm's alone.")
    else:
        for a, b, pair in pairs:
            yield f'## {a["label"]} against {b["label"]}'
            yield from (pair[split]['text'] for split in SPLITS)


def draw_runs(groups, title):
    """The paper's Fig. 3: a dot a run, above the dots their mean with its two intervals; many groups: a line each."""
    line = len(groups) > 3
    fig = Figure(figsize=(9.5, 1.4 + 0.21 * sum(1 if line else len(g['runs']) for g in groups) + 0.67 * len(groups)))
    axes, ticks, y = fig.subplots(1, 2, sharex=True, sharey=True), {}, 0
    for g in groups:
        at, style = y + 1.2 + np.arange(len(g['runs'])) * (not line), {'color': g['color']}
        ticks.update({at[0]: f'{len(at)} seeds'} if line else zip(at, (f'seed {run["seed"]}' for run in g['runs'])))
        if g['paper']:
            low, mean, _, high, _ = g['paper']
            axes[1].plot([low, high], [at[-1] + 1] * 2, lw=4, color='#cccccc')
            axes[1].plot(mean, at[-1] + 1, '|', color=GREY)
            axes[1].text(mean, at[-1] + 1.4, 'the paper', size=8, color=GREY, ha='center', va='top')
        for ax, split in zip(axes, SPLITS):
            s = g[split]
            ax.plot([s['mean']] * 2, [y, at[-1]], lw=0.8, alpha=0.4, **style)
            if s['both']:
                ax.plot(s['both'], [y, y], lw=1.2, **style)
                ax.plot(s['seeds'], [y, y], lw=6, alpha=0.4, **style)
            ax.plot(s['mean'], y, 'wo', mec=g['color'], mew=1.6)
            ax.text(s['mean'], y - 0.5, f'{g["label"]} {s["mean"]:.2f}', weight='bold', ha='center', **style)
            ax.plot(100 * np.array(s['correct']) / s['n'], at, 'o', ms=5, alpha=0.6 if line else 1, **style)
            ax.set_title(f'{split}, {s["n"]:,} reviews')
        y = at[-1] + 3.4
    axes[0].set(yticks=list(ticks), yticklabels=ticks.values(), ylim=(y - 1.2, -1.6))
    fig.suptitle(title, x=0.01, ha='left')
    fig.supxlabel('Accuracy after the last epoch, %.  Dot: a run.  Ring: their mean, with its 95 % interval '
                  'for other seeds (thick), for other seeds and reviews (thin).')
    return fig


def panels(n, width, height, most):
    """A figure with n panels of this size, at most so many in a row."""
    columns = math.ceil(n / (rows := math.ceil(n / most)))
    fig = Figure(figsize=(0.6 + width * columns, 1 + height * rows))
    axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for ax in axes[n:]:
        ax.remove()
    return fig, axes[:n]


def draw_epochs(groups):
    """The paper's Figs. 4 and 5: each group's best run by epoch, in the band of all its runs."""
    fig, axes = panels(len(groups), 4.3, 3.1, 3)
    for ax, g in zip(axes, groups):
        best = g['runs'][int(np.argmax(g['val']['correct']))]
        shared = sorted(set.intersection(*(set(run['curve'][:, 0]) for run in g['runs'])))
        band = np.stack([run['curve'][np.isin(run['curve'][:, 0], shared)] for run in g['runs']])
        end = best['curve'][-1]
        for i, name, color in (1, 'train', GREY), (2, 'val', g['color']):
            ax.fill_between(shared, band[..., i].min(0), band[..., i].max(0), color=color, alpha=0.2, lw=0)
            ax.plot(*best['curve'][:, [0, i]].T, 'o-', ms=3, color=color)
            ax.annotate(f'{name} {end[i]:.1f}', (end[0], end[i]), (7, 5 if end[i] > end[3 - i] else -5),
                        textcoords='offset points', va='center', color=color)
        ax.set_title('{}, seed {seed}: val best at epoch {best_epoch}'.format(g['label'], **best), c=color)
        ax.set_xlim(left=0)
        ax.xaxis.get_major_locator().set_params(integer=True)
    fig.suptitle('Train and val accuracy by epoch, %', x=0.01, ha='left')
    fig.supxlabel('Epoch\nLine: the run that ends best on val. Band: all runs. '
                  'Train accuracy is taken while training, with dropout and token dropout.')
    return fig


def draw_reliability(groups):
    """How many are right of those predicted with a confidence, runs put together; before and after scaling."""
    fig, axes = panels(len(groups), 2.6, 2.5, 4)
    for ax, g in zip(axes, groups):
        ax.plot([0, 100], [0, 100], lw=0.8, color=GREY)
        for bins, color in zip(sum(run['bins'] for run in g['runs']), ('#bbbbbb', g['color'])):
            if color != g['color'] and g['measures']['NLL'][0] is None:
                continue
            n, right, confidence = bins[bins[:, 0] > 0].T
            ax.plot(100 * confidence / n, 100 * right / n, '-', lw=1, color=color)
            ax.scatter(100 * confidence / n, 100 * right / n, 2 + 60 * n / n.sum(), color=color)
        ax.set_title(g['label'], c=g['color'])
    low = 100 / max(2, len(groups[0]['runs'][0]['config']['classes']))
    axes[0].set(xlim=(low - 2, 102), ylim=(low - 12, 102))
    fig.suptitle('Right answers by confidence on test, %', x=0.01, ha='left')
    fig.supxlabel('Confidence, %.  Grey: as trained.  Colour: after temperature scaling.  Dots: as many reviews.')
    return fig


def main():
    paths = [Path(folder) for folder in folders]
    parents = {path.resolve().parent for path in paths}
    if not paths or len({path.resolve() for path in paths}) < len(paths):
        fail('name the groups of runs, each once: python evaluate.py out/bce out/ce')
    if len(parents) > 1 and not out_dir:
        fail('the groups lie in different folders; say with --out_dir=FOLDER where the table goes')
    if effect <= 0:
        fail(f'effect must be above 0, not {effect:g}')
    groups, notes = [], []
    for path, color in zip(paths, itertools.cycle(COLORS)):
        runs, left_out = read_group(path)
        label = path.name if len({p.name for p in paths}) == len(paths) else str(path)
        g = {'label': {'bce': 'BCE', 'ce': 'CE'}.get(label, label), 'color': color, 'runs': runs}
        groups, notes = [*groups, g], notes + left_out
        g['measures'] = {name: [run['measures'].get(name) for run in runs] for name in runs[0]['measures']}
        for run, (other, key) in itertools.product(runs, ((runs[0], 'head'), (groups[0]['runs'][0], 'data'))):
            if run[key] != other[key]:
                fail(f'{run["folder"]} and {other["folder"]} differ in {key}; they cannot be put together')
        g['paper'] = PAPER.get(path.name) if (runs[0]['dataset'], runs[0]['epochs']) == ('imdb', 10) else None
        g['right'] = {split: np.stack([run['right'][split] for run in runs]) for split in SPLITS}
        for split, right in g['right'].items():
            x = 100 * right.mean(1)
            g[split] = {'n': right.shape[1], 'correct': right.sum(1).tolist(), **interval(right),
                        **dict(zip(FIGURES, (x.min(), x.mean(), np.median(x), x.max(), np.ptp(x))))}
    runs = [run for g in groups for run in g['runs']]
    for key in sorted(set().union(*(run['config'] for run in runs)) - MAY_DIFFER):
        where = {}
        for g in groups:
            own = {run['folder']: json.dumps(run['config'][key]) for run in g['runs'] if key in run['config']}
            for name, value in own.items() if len(set(own.values())) > 1 else zip([g['label']], own.values()):
                where.setdefault(value, []).append(name)
        if len(where) > 1:
            notes.append(f'The runs differ in {key}: ' + '; '.join(
                f'{value} in {", ".join(names[:3])}{" ..." * (len(names) > 3)}' for value, names in where.items()))
    sizes = {g['label']: len(g['runs']) for g in groups}
    if len(set(sizes.values())) > 1:
        notes.append(f'The groups differ in their number of runs, with which max-min grows: {sizes}')
    notes += [f'{label} is a single run: no interval, no comparison' for label, n in sizes.items() if n == 1]
    named = {g['label'].lower(): g for g in groups} | {path.name: g for path, g in zip(paths, groups)}
    if ref and ref not in named:
        fail(f'ref: there is no group {ref!r}; there are {", ".join(path.name for path in paths)}')
    many, other = [g for g in groups if len(g['runs']) > 1], named.get(ref or 'ce', groups[0])
    pairs = [(g, other, {split: compare(g, other, split) for split in SPLITS})
             for g in many if g is not other and other in many]
    verdict, rows = against(pairs) if len(pairs) > 1 else (pairs[0][2]['test']['verdict'] if pairs else '', [])
    for g, _, _ in pairs if rows else ():
        n, m = len(g['runs']), len(other['runs'])
        if (1 + (n == m)) / math.comb(n + m, n) * len(pairs) > 0.05:
            notes.append(f'With {n} and {m} runs and {len(pairs)} comparisons, no p can survive the correction')
            break
    text = '\n\n'.join(report(groups, pairs, notes, verdict, rows)) + '\n'
    matplotlib.rcParams.update({
        'figure.constrained_layout.use': True, 'figure.titleweight': 'bold', 'figure.labelsize': 8,
        'axes.titlelocation': 'left', 'axes.edgecolor': 'white', 'axes.grid': True, 'grid.color': '#e6e6e6',
        'font.size': 9, 'xtick.color': GREY, 'ytick.color': GREY, 'lines.solid_capstyle': 'butt'})
    files = {'table.md': text.encode()}
    for name, fig in (('accuracy_by_run', draw_runs(groups, verdict or 'Accuracy of every run')),
                      ('accuracy_by_epoch', draw_epochs(groups)), ('reliability', draw_reliability(groups))):
        fig.savefig(buffer := io.BytesIO(), dpi=150 if len(groups) < 4 else 100)
        files[f'{name}.png'] = buffer.getvalue()
    for item in groups + runs:  # no arrays in the summary
        for key in {'right', 'color', 'config', 'curve', 'bins'} & set(item):
            del item[key]
    summary = {'units': 'accuracy in %, difference in points', 'effect': effect, 'notes': notes,
               'groups': groups, 'pairs': [{'a': a['label'], 'b': b['label']} | p for a, b, p in pairs]}
    files['summary.json'] = json.dumps(summary, indent=1, allow_nan=False).encode()
    out = Path(out_dir or parents.pop())
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            replace(out / name, lambda file: file.write(content))
    except OSError as error:
        fail(f'{out}: the table cannot be written there ({error}); give another --out_dir')
    print(text, end='')


folders = []
if __name__ == '__main__':
    configure(globals(), positional=folders)
    main()
