"""Sentences about groups of runs: warnings (notes) and verdicts.

Groups, comparisons and pairs are defined in evaluate.py. A note has no full stop.
"""
import json
import math

import numpy as np

from nanoloss.escape import markdown, shortened
from nanoloss.stats import effective_groups, flags, variance_of_mean
from nanoloss.tune import name_of

# settings that may differ between runs without a note
MAY_DIFFER = {'head', 'seed', 'n_runs', 'out_dir', 'data_dir', 'overwrite', 'ckpt_secs',
              'tensorboard', 'commit', 'code'}
# facts and settings that may differ between runs of one group
OF_A_RUN = {'hardware', 'device', 'dtype', 'torch', 'threads', 'processes', 'max_tokens', 'graphs',
            'deterministic', 'known_tokens', 'known_ngrams', 'class_share', 'init_from'}
FEW_GROUPS = 20  # document groups; with fewer, 95 % intervals for other texts cover about 90 %


# Notes

def first_three(names):
    """The first three names, as 'a, b, c ...'."""
    text = ', '.join(shortened(str(name)) for name in names[:3])
    if len(names) > 3:
        text += ' ...'
    return text


def differing_settings(groups):
    """A note on each setting that differs between runs; and those of these notes that concern runs
    of one group, which should have the same config."""
    keys = set()
    for group in groups:
        for run in group.runs:
            keys |= set(run.config)

    notes = []
    within = []
    for key in sorted(keys - MAY_DIFFER):
        holders = {}  # {value: names of groups or, if runs of a group differ, of its runs}
        is_within = False
        for group in groups:
            runs = [run for run in group.runs if key in run.config]
            # as JSON, since a value may be a list
            values = {run.folder: json.dumps(run.config[key]) for run in runs}
            distinct = set(values.values())
            if len(distinct) == 1:
                values = {group.label: distinct.pop()}
            elif distinct and key not in OF_A_RUN:
                is_within = True
            for name, value in values.items():
                holders.setdefault(value, []).append(name)
        if len(holders) > 1:
            texts = [f'{value} in {first_three(names)}' for value, names in holders.items()]
            note = f'The runs differ in {key}: {"; ".join(texts)}'
            notes.append(note)
            if is_within:
                within.append(note)
    return notes, within


def note_differences(groups):
    """Notes on all differences between the runs except the head; and those of these notes that
    concern runs of one group."""
    notes, within = differing_settings(groups)
    sizes = {group.label: len(group.runs) for group in groups}
    if len(set(sizes.values())) > 1:
        notes.append(
            f'The groups differ in their number of runs, with which max-min grows: {sizes}')
    for group in groups:
        if len(group.runs) == 1 and group.drawn:
            notes.append(f'{group.label} is a single run: no interval, no comparison')
    without = [group.label for group in groups if not group.has_answers]
    if without:
        notes.append(f'Single answers of {", ".join(without)} are not kept: no interval for other '
                     'texts, no comparison')
    return notes, within


def note_absent_classes(run):
    """A note on the classes without a text in test, which is the same for all runs."""
    if run.labels is None:
        return []
    classes = run.config['classes']
    present = flags(run.labels['test'], len(classes)).any(0)
    absent = [name for name, is_there in zip(classes, present) if not is_there]
    if not absent:
        return []
    return [f'Test has no text of {first_three(absent)}: recall is undefined there, and macro F1 '
            'is the mean over the other classes']


def note_tuning(groups):
    """A note on each group whose settings train.py --tune chose."""
    notes = []
    for group in groups:
        config = group.runs[0].config
        if config.get('tune'):
            chosen = config['chosen_on_val']
            notes.append(f'Settings of {group.label}, chosen on val in {config["tune"]} trials: '
                         f'{name_of(chosen)}')
    return notes


def note_small_groups(pair):
    """A note if a pair has too few runs for a permutation test to reach p = .05."""
    n = len(pair.a.runs)
    m = len(pair.b.runs)
    # the lowest possible p: one split or, if the groups have equal size, also its mirror image
    extreme_splits = 2 if n == m else 1
    lowest = extreme_splits / math.comb(n + m, n)
    if lowest <= 0.05:
        return []
    return [f'With {n} and {m} runs no permutation test has p below {lowest:.2g}, so it can find '
            'nothing; with 4 and 4 it could']


def note_clusters(split, clusters):
    """A note if a split has too few document groups for its intervals."""
    if clusters is None:
        return []
    if len(np.unique(clusters)) == 1:
        return [f'All texts of {split} are of one document group; intervals for other texts are '
                'for others of that group']
    n = effective_groups(clusters)
    if n >= FEW_GROUPS:
        return []
    return [f'The document groups of {split} carry the information of {n:.1f} of equal size: with '
            f'fewer than {FEW_GROUPS}, 95 % intervals for other texts cover about 90 %']


# Verdicts

def verdict_on(comparison):
    """Whether a difference is significant for other seeds and other texts: a sentence without its
    full stop."""
    a = comparison.a.label
    b = comparison.b.label
    if comparison.gap['p'] > 0.05:
        verdict = f'no difference in accuracy between {a} and {b} is shown'
    elif comparison.gap['estimate'] > 0:
        verdict = f'{a} is more accurate than {b}'
    else:
        verdict = f'{b} is more accurate than {a}'
    return f'On {comparison.split}, {verdict}'


def verdict_on_all(pairs):
    """The verdict on all pairs on test, without its full stop; several pairs are judged by the
    corrected p. '' without pairs."""
    if not pairs:
        return ''
    if len(pairs) == 1:
        return verdict_on(pairs[0].comparisons['test'])
    reference = pairs[0].b.label
    found = [pair.a.label for pair in pairs if pair.holm['accuracy'] <= 0.05]
    if not found:
        return f'No difference in accuracy on test from {reference} is shown'
    verb = 'differs' if len(found) == 1 else 'differ'
    return f'In accuracy on test, {" and ".join(found)} {verb} from {reference}'


def sentences_on_pairs(pairs, effect):
    """The verdict on all pairs, the largest difference, and the runs needed to find `effect`."""
    pair = max(pairs, key=lambda pair: abs(pair.comparisons['test'].gap['estimate']))
    comparison = pair.comparisons['test']
    gap = comparison.gap
    low, high = gap['both']
    n = pair.a.accuracy['test']['n']
    p = f'p = {gap["p"]:.2g}'
    size = f'{pair.a.label} minus {pair.b.label} is'
    if len(pairs) > 1:
        p = f"Holm's p = {pair.holm['accuracy']:.2g}"
        size = f'The largest difference, {pair.a.label} minus {pair.b.label}, is'
    return [
        f'{verdict_on_all(pairs)}.',
        f'{size} {gap["estimate"]:+.2f} points, with a 95 % interval of {low:+.2f} to {high:+.2f} '
        f'for other seeds and other texts ({p}).',
        f'It takes {comparison.seeds_needed[0]:,} runs per group to find a difference of '
        f'{effect:g} points in 80 % of cases; the choice of these {n:,} texts alone makes the '
        f'difference uncertain by +-{gap["texts"]:.2f} points.',
    ]


def sentences_on_baselines(gaps, groups):
    """The first group that was compared with baselines, against the best baseline."""
    accuracy = {group.label: group.accuracy['test']['mean'] for group in groups}
    of_first = [gap for gap in gaps if gap['a'] == gaps[0]['a']]
    gap = max(of_first, key=lambda gap: accuracy[gap['baseline']])
    a = gap['a']
    baseline = gap['baseline']
    low, high = gap['both']
    if low > 0:
        verdict = f'On test, {a} is more accurate than {baseline}'
    elif high < 0:
        verdict = f'On test, {baseline} is more accurate than {a}'
    else:
        verdict = f'On test, no difference in accuracy between {a} and {baseline} is shown'
    if len(of_first) > 1:
        verdict += f' ({baseline} is the best of the {len(of_first)} baselines)'
    return [
        f'{verdict}.',
        f'{a} minus {baseline} is {gap["estimate"]:+.2f} points, with a 95 % interval of '
        f'{low:+.2f} to {high:+.2f} for other seeds and other texts.',
        f'The choice of these {groups[0].accuracy["test"]["n"]:,} texts alone makes the difference '
        f'uncertain by +-{gap["texts"]:.2f} points.',
    ]


def sentences_on_group(group):
    """The accuracy of a group without a comparison, and its uncertainty."""
    accuracy = group.accuracy['test']
    first = (f'{group.label} classifies {accuracy["mean"]:.2f} % of the {accuracy["n"]:,} texts of '
             'test correctly')
    if accuracy['both']:
        low, high = accuracy['both']
        return [
            f'{first}, with a 95 % interval of {low:.2f} to {high:.2f} for other seeds and other '
            'texts.',
            f'The choice of these texts alone makes it uncertain by +-{accuracy["texts"]:.2f} '
            'points.',
        ]
    if accuracy['seeds']:
        low, high = accuracy['seeds']
        return [f'{first}, with a 95 % interval of {low:.2f} to {high:.2f} for other seeds on '
                'these texts.']
    return [f'{first}.', 'It is a single run, so there is no interval for other seeds; train more '
            'with --n_runs=5.']


def conclude(groups, pairs, gaps, effect):
    """The verdict in at most three sentences: whether there is a difference, its size, and what
    limits its precision."""
    if pairs:
        return sentences_on_pairs(pairs, effect)
    if gaps:
        return sentences_on_baselines(gaps, groups)
    if len(groups) == 1:
        return sentences_on_group(groups[0])
    return ['Nothing is compared: that takes two groups of two or more runs each, whose single '
            'answers are known.']


# A comparison in sentences

def settings_that_differ(a, b):
    """The settings in which two groups differ, as 'head and learning_rate'; 'group' if none."""
    config_a = a.runs[0].config
    names = []
    # the head first
    for name in ['head', *sorted(config_a.keys() - MAY_DIFFER)]:
        values = []
        for group in (a, b):
            values.append({json.dumps(run.config.get(name)) for run in group.runs})
        if name in b.runs[0].config and values[0] != values[1]:
            names.append(name)
    return ' and '.join(names) or 'group'


def describe_test(test, n, m):
    """The end of a sentence: a permutation test of n runs against m."""
    kind = 'possible' if test['exact'] else 'random'
    return (f'{test["hits"]:,} of the {test["splits"]:,} {kind} splits of these runs into '
            f'{n} and {m}: p = {test["p"]:.2g}')


def describe(comparison):
    """A comparison in sentences: Markdown."""
    a = comparison.a
    b = comparison.b
    split = comparison.split
    gap = comparison.gap
    names = [markdown(a.label), markdown(b.label)]
    higher, lower = names if gap['estimate'] > 0 else names[::-1]
    low, high = gap['both']
    pairs = ', seed by seed' if comparison.paired else ''
    differing = settings_that_differ(a, b)
    means = describe_test(comparison.means, len(a.runs), len(b.runs))
    spread = describe_test(comparison.spread, len(a.runs), len(b.runs))
    sd, sd_low, sd_high = comparison.sd
    runs, runs_low, runs_high = comparison.seeds_needed
    effect = f'{comparison.effect:g}'

    # uncertainty from the choice of the texts alone: 1.96 standard errors of a run, in points
    n = a.accuracy[split]['n']
    share = a.correct[split].mean()
    variance = np.mean([variance_of_mean(run, a.clusters[split])[0] for run in a.correct[split]])
    of_texts = 196 * math.sqrt(variance)

    return (
        f'**{markdown(verdict_on(comparison))}.**\n\n'
        f'- Mean: {higher} is {abs(gap["estimate"]):.2f} points above {lower}. 95 % interval of '
        f'{names[0]} minus {names[1]} for other seeds and other texts{pairs}: '
        f'{low:+.2f} to {high:+.2f} points, p = {gap["p"]:.2g}.\n'
        f'- Chance: if the choice of {differing} had no effect, the means on these texts would '
        f'be at least this far apart in {means}.\n'
        f'- Spread: from worst to best run, {names[0]} {a.accuracy[split]["max-min"]:.2f}, '
        f'{names[1]} {b.accuracy[split]["max-min"]:.2f} points; if the choice of {differing} '
        f'had no effect, these would differ at least as much in {spread}.\n'
        f'- Seeds: runs of one group scatter with a standard deviation of {sd:.2f} points '
        f'(95 % interval {sd_low:.2f} to {sd_high:.2f}). So it takes {runs:,} runs per group '
        f'({runs_low:,} to {runs_high:,}) to find a difference of {effect} points '
        'with 80 % power by a t test that does not pair the seeds.\n'
        f'- Texts: {100 * share:.1f} % on {n:,} texts is uncertain by +-{of_texts:.2f} points due '
        'to the choice of the texts alone, and the difference by an estimated '
        f'+-{gap["texts"]:.2f}, with any number of seeds; {effect} points are '
        f'{comparison.effect / 100 * n:.1f} texts.'
    )
