"""Thresholds chosen on val: choosing, judging and reporting them.

nanoloss/labels.py says what a threshold does to an answer. Here `truth` is bool [N, classes]: the
labels of each text; `scores` are the probabilities of one class, [N].
"""
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nanoloss.escape import markdown, markdown_name
from nanoloss.labels import (
    NO_ANSWER, Thresholds, as_json, can_be_unsure, decide, kind_of, read_thresholds)
from nanoloss.report import grid, mean_text
from nanoloss.stats import flags
from nanoloss.verdict import first_three

RESAMPLES = 200  # resamples of val and of the runs, for intervals
NEUTRAL = 0.5  # threshold of a class that no text of val has: likelier than not
SHOWN_CLASSES = 10  # classes with a threshold that are shown
FEW_TEXTS = 20  # texts of val; if all of them are right, precision is 83 to 100 % (Clopper-Pearson)


class Counts(NamedTuple):
    """How often a label was given rightly, was given, and would have been right: numbers or arrays.
    """
    right: np.ndarray
    given: np.ndarray
    true: np.ndarray

    def precision(self):
        """From 0 to 1; NaN if the label was not given."""
        return ratio(self.right, self.given)

    def recall(self):
        """From 0 to 1; NaN if no text has the label."""
        return ratio(self.right, self.true)

    def f1(self):
        """From 0 to 1; 0 if no text has the label and it was not given."""
        return 2 * self.right / np.maximum(self.given + self.true, 1)


def ratio(a, b):
    """a / b, and NaN where b is 0."""
    return np.where(b > 0, a / np.maximum(b, 1), np.nan)


# Choosing

def threshold_curve(scores, truth):
    """All decisions on one class that a threshold can make, from the highest threshold to the
    lowest, each giving the label to at least one text.

    scores: N probabilities; truth: bool [N] -> thresholds [decisions], `Counts` of [decisions].

    A threshold lies midway between the lowest score that reaches it and the next one. So the
    rounding errors of another computation change a decision only if two scores are nearly equal.
    """
    order = np.argsort(-scores)
    ranked = scores[order]
    following = np.append(ranked[1:], 0)
    is_last = np.append(ranked[1:] < ranked[:-1], True)  # no threshold separates equal scores
    middle = (ranked + following) / 2
    middle = np.where(middle > following, middle, ranked)  # there is none between adjacent floats
    right = np.cumsum(truth[order])
    given = np.arange(1, len(scores) + 1)
    return middle[is_last], Counts(right[is_last], given[is_last], truth.sum())


def choose_threshold(rule, goal, scores, truth):
    """The threshold of one class, one of those of `threshold_curve`.

    rule 'f1': the one with the best F1; of several the highest.
    rule 'precision': of those with at least this precision, the one with the highest recall; of
        several the highest. If none has it, the goal is the highest precision that there is.
    rule 'recall': the highest with at least this recall.
    NEUTRAL if no text has the class.
    """
    thresholds, counts = threshold_curve(scores, truth)
    if not truth.any():
        return NEUTRAL
    if rule == 'f1':
        merit = counts.f1()
    elif rule == 'precision':
        precision = counts.precision()
        reached = precision >= min(goal, precision.max())
        merit = np.where(reached, counts.recall(), -1)
    else:
        merit = counts.recall() >= goal
    return float(thresholds[merit.argmax()])  # the first of the best, so the highest


def choose_thresholds(rule, goal, probs, truth, only=None):
    """probs [N, classes] -> `Thresholds`, each chosen as if its class stood alone.

    only: the number of the one class that gets a threshold.
    """
    n_class = probs.shape[1]
    values = np.full(n_class, np.nan)
    for c in range(n_class) if only is None else [only]:
        values[c] = choose_threshold(rule, goal, probs[:, c], truth[:, c])
    return Thresholds(rule, goal, values)


# Judging

def figures_of(answers, truth):
    """Precision, recall and F1 of answers as `decide` gives them, in %: {name: [classes] or
    number}.

    With one label per text, micro F1 is the accuracy, unless texts have no answer. Macro F1 is the
    mean over the classes that occur in the texts.
    """
    given = flags(answers, truth.shape[1])
    counts = Counts((given & truth).sum(0), given.sum(0), truth.sum(0))
    in_all = Counts(*[count.sum() for count in counts])
    unsure = 0.0
    if answers.ndim == 1:
        unsure = (answers == NO_ANSWER).mean()
    return {
        'precision': 100 * counts.precision(),
        'recall': 100 * counts.recall(),
        'F1': 100 * counts.f1(),
        'macro F1': 100 * counts.f1()[counts.true > 0].sum() / max(1, (counts.true > 0).sum()),
        'micro F1': 100 * in_all.f1(),
        'unsure': 100 * unsure,
    }


@dataclass
class Judged:
    """A run's thresholds and the figures of its answers; a dict by split has val and test."""
    thresholds: Thresholds
    multi_label: bool
    always_labelled: bool  # see `decide`
    probs: dict        # by split: [N, classes], temperature-scaled
    truth: dict        # by split: bool [N, classes]
    used: dict         # by split: `figures_of` the answers with thresholds
    without: dict      # by split: and of the answers without

    def rarest(self, most):
        """The numbers of the classes with a threshold; if they are more than `most`, of those that
        are rarest in val."""
        classes, = np.nonzero(~np.isnan(self.thresholds.values))
        by_number = np.argsort(self.truth['val'].sum(0)[classes], kind='stable')
        return np.sort(classes[by_number[:most]])

    def missed(self):
        """The numbers of the classes for which no threshold reaches the wanted precision on val."""
        missed = []
        if self.thresholds.rule == 'precision':
            for c in self.rarest(None):
                _, counts = threshold_curve(self.probs['val'][:, c], self.truth['val'][:, c])
                if 0 < counts.precision().max() < self.thresholds.goal:
                    missed.append(c)
        return missed

    def rests_on(self, c):
        """The number of texts of val on which the threshold of a class rests: those that reach it
        if it was chosen for a precision, else those that have the class."""
        if self.thresholds.rule == 'precision':
            return int((self.probs['val'][:, c] >= self.thresholds.values[c]).sum())
        return int(self.truth['val'][:, c].sum())

    def mean_over_classes(self, figures, name):
        """The mean of a figure over the classes with a threshold that have one, or None."""
        values = figures[name][self.rarest(None)]
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else None


def judge(thresholds, probs, labels, always_labelled=False):
    """A run's `Thresholds`, and by split its probabilities [N, classes] and labels, int [N] or 0
    and 1 [N, classes] -> `Judged`. always_labelled: see `decide`."""
    truth = {}
    used = {}
    without = {}
    for split, p in probs.items():
        multi_label = labels[split].ndim == 2
        truth[split] = flags(labels[split], p.shape[1])
        used[split] = figures_of(decide(p, multi_label, thresholds), truth[split])
        plain = decide(p, multi_label, always_labelled=always_labelled)
        without[split] = figures_of(plain, truth[split])
    return Judged(thresholds, multi_label, always_labelled, probs, truth, used, without)


def thresholds_of(run):
    """The `Thresholds` of a finished run, or None. Raises ValueError if they are damaged."""
    try:
        return read_thresholds(run.result, len(run.config['classes']))
    except ValueError as error:
        raise ValueError(f'{run.folder}: {error}') from None


def judge_group(label, runs, found):
    """The runs of a group with the `Thresholds` of each, or None -> a `Judged` per run and notes on
    what is wrong with them. There are none unless all runs have thresholds of one kind."""
    if len({kind_of(one) for one in found}) > 1:
        note = (f'The runs of {label} do not all have thresholds of one kind, so predict cannot '
                'take their mean; choose them again with tools.thresholds')
        return [], [note]
    if found[0] is None:
        return [], []
    judged = []
    for run, thresholds in zip(runs, found):
        probs = {split: run.probs(split, run.temperature) for split in ('val', 'test')}
        judged.append(judge(thresholds, probs, run.labels, run.always_labelled))
    return judged, note_thresholds(label, judged, run.config['classes'])


def with_another_val(several, name, gain=False):
    """A figure on test with thresholds chosen on resamples of val: float [RESAMPLES, classes].

    several: a `Judged` for each run, all on the same texts. name: a figure of `figures_of` that
    has a value per class. gain: subtract the figure of the answers without thresholds.

    A resample draws texts of val with replacement, the same for all runs, and one run fewer than
    there are (see `stats.resampled_means`). The middle 95 % of the resamples are an interval for
    other seeds and another val.
    """
    first = several[0]
    classes = first.rarest(None)
    only = classes[0] if len(classes) == 1 else None
    rule, goal, _ = first.thresholds
    n_val = len(first.truth['val'])
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(RESAMPLES):
        texts = rng.integers(0, n_val, n_val)
        drawn = rng.integers(0, len(several), max(1, len(several) - 1))
        values = []
        for run in drawn:
            judged = several[run]
            truth = judged.truth['val'][texts]
            chosen = choose_thresholds(rule, goal, judged.probs['val'][texts], truth, only)
            answers = decide(judged.probs['test'], judged.multi_label, chosen)
            value = figures_of(answers, judged.truth['test'])[name]
            values.append(value - judged.without['test'][name] if gain else value)
        rows.append(np.mean(values, 0))
    return np.array(rows)


# Reporting: judged is a `Judged` for each run of a group

def note_thresholds(label, judged, classes):
    """Notes on the classes for which val has too few texts."""
    notes = []
    absent = []
    few = []
    for c in judged[0].rarest(None):
        n_texts = min(one.rests_on(c) for one in judged)
        if not judged[0].truth['val'][:, c].any():
            absent.append(classes[c])
        elif n_texts < FEW_TEXTS:
            few.append(classes[c])
    if absent:
        notes.append(f'Val of {label} has no text of {first_three(absent)}, so the threshold is '
                     f'{NEUTRAL}')
    if few:
        notes.append(f'In {label}, the thresholds of {first_three(few)} rest on fewer than '
                     f'{FEW_TEXTS} texts of val: on other texts, the result can be far from what '
                     'was chosen, even if the seeds agree')
    missed = {}  # {class: in how many runs}
    for one in judged:
        for c in one.missed():
            missed[classes[c]] = missed.get(classes[c], 0) + 1
    if missed:
        names = [f'{name} ({n} of {len(judged)} runs)' for name, n in missed.items()]
        notes.append(f'In {label}, no threshold reaches a precision of '
                     f'{100 * judged[0].thresholds.goal:g} % on val for {first_three(names)}; the '
                     'one with the highest precision is used')
    return notes


def threshold_cell(split, name):
    """row -> a figure of all runs, see `report_thresholds`."""
    def cell(row):
        values = []
        for by_split in row['figures']:
            value = by_split[split][name]
            if np.ndim(value):  # one a class
                value = value[row['class']]
            values.append(None if np.isnan(value) else value)
        return mean_text(values, 2)
    return cell


def threshold_columns(names):
    """Columns of `grid`, for each figure one on val and one on test."""
    columns = [('', lambda row: row['label'])]
    for name in names:
        columns.append((f'{name}: val', threshold_cell('val', name)))
        columns.append(('test', threshold_cell('test', name)))
    return columns


def another_val_text(values):
    """The middle 95 % of one column of `with_another_val`, as the end of a sentence."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return f'{low:.1f} to {high:.1f} for other seeds and another val'


def judge_f1(judged, subject):
    """The gain in F1 by thresholds for the best F1, in a sentence."""
    gains = {}
    for split in ('val', 'test'):
        values = []
        for one in judged:
            before = one.mean_over_classes(one.without[split], 'F1')
            values.append(one.mean_over_classes(one.used[split], 'F1') - before)
        gains[split] = mean_text(values, 2)
    classes = judged[0].rarest(None)
    others = with_another_val(judged, 'F1', gain=True)[:, classes].mean(1)
    return (f'{subject}: F1 with thresholds minus F1 without is {gains["val"]} points on val, for '
            f'which they were chosen, and **{gains["test"]} on test** '
            f'({another_val_text(others)}).')


def judge_goal(judged, subject, classes):
    """How well a precision or recall that was chosen on val holds on test, in a sentence."""
    first = judged[0]
    rule = first.thresholds.rule
    means = {}
    for split in ('val', 'test'):
        values = [one.mean_over_classes(one.used[split], rule) for one in judged]
        means[split] = mean_text(values, 2)
    others = with_another_val(judged, rule)
    over_classes = np.nanmean(others[:, first.rarest(None)], 1)
    text = (f'{subject}: chosen for a {rule} of {100 * first.thresholds.goal:g} % on val, where it '
            f'is {means["val"]}, it is **{means["test"]} on test** '
            f'({another_val_text(over_classes)})')

    # a mean over several classes can hide one that is far from the goal
    by_class = {}
    for c in first.rarest(None):
        values = np.array([one.used['test'][rule][c] for one in judged])
        if not np.isnan(values).any():
            by_class[c] = values
    if len(by_class) > 1:
        least = min(by_class, key=lambda c: by_class[c].mean())
        name = markdown_name(str(classes[least]))
        text += (f'; lowest there: {name}, {mean_text(by_class[least], 2)} '
                 f'({another_val_text(others[:, least])})')
    return text + '.'


def class_rows(judged, classes):
    """Rows for `threshold_columns`: two for each class, with its threshold and without."""
    used = [one.used for one in judged]
    without = [one.without for one in judged]
    rows = []
    for c in judged[0].rarest(SHOWN_CLASSES):
        values = [one.thresholds.values[c] for one in judged]
        label = f'{classes[c]}, at {mean_text(values, 3)}'
        rows.append({'label': label, 'class': c, 'figures': used})
        rows.append({'label': 'without', 'class': c, 'figures': without})
    return rows


def explain_thresholds(first):
    """How to read the tables, in sentences; first: the `Judged` of the first run."""
    sentences = []
    n_classes = len(first.rarest(None))
    if n_classes > SHOWN_CLASSES:
        sentences.append(f'The classes are the {SHOWN_CLASSES} of {n_classes} that are rarest in '
                         'val.')
    plain = 'the likeliest class'
    if first.multi_label:
        plain = 'labels above 0.5'
    if first.always_labelled:
        plain = 'labels above 0.5, or the likeliest if none is'
    sentences.append(f'In %, mean of the runs ± half its 95 % interval for other seeds on these '
                     f'texts; without: {plain}.')
    if n_classes > 1 and not first.multi_label:
        sentences.append('Each was chosen as if its class stood alone; a text has one label, so a '
                         'class that reaches its threshold can lose to another.')
    return ' '.join(sentences)


def report_thresholds(label, classes, judged):
    """The thresholds of a group and the figures with them and without: blocks of Markdown."""
    first = judged[0]
    kept = first.thresholds
    all_classes = [{'label': 'with', 'figures': [one.used for one in judged]},
                   {'label': 'without', 'figures': [one.without for one in judged]}]
    names = ['macro F1', 'micro F1']
    if can_be_unsure(kept, first.multi_label):
        names.append('unsure')
    with_one = first.rarest(None)
    subject = f'Mean of {len(with_one)} classes'
    if len(with_one) == 1:
        subject = markdown_name(str(classes[with_one[0]]))
    if kept.rule == 'f1':
        goal = 'the best F1'
        verdict = judge_f1(judged, subject)
    else:
        goal = f'a {kept.rule} of {100 * kept.goal:g} %'
        verdict = judge_goal(judged, subject, classes)
    return [
        f'## Thresholds of {markdown(label)}, chosen on val for {goal}',
        verdict,
        grid(threshold_columns(['precision', 'recall', 'F1']), class_rows(judged, classes)),
        grid(threshold_columns(names), all_classes),
        explain_thresholds(first),
    ]


# For summary.json

def summarize_figures(by_split):
    """Figures of `figures_of` by split, without NaN, which JSON does not have."""
    summary = {}
    for split, figures in by_split.items():
        summary[split] = {}
        for name, value in figures.items():
            known = np.where(np.isnan(value), None, value)
            summary[split][name] = known.tolist()
    return summary


def summarize_judged(judged):
    """A run's thresholds and figures."""
    return {
        **as_json(judged.thresholds),
        'with': summarize_figures(judged.used),
        'without': summarize_figures(judged.without),
    }
