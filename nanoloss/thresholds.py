"""Thresholds chosen on val, and what the answers are worth with them and without.

What a threshold does to an answer is in nanoloss/labels.py. Here `truth` is bool [N, classes]: the
labels of each text; `scores` are the probabilities of one class, [N].
"""
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nanoloss.labels import NO_ANSWER, Thresholds, decide

RESAMPLES = 200  # resamples of val and of the runs, for intervals
NEUTRAL = 0.5  # the threshold of a class that no text of val has: likelier than not


def flags(answers, n_class):
    """Classes by number, int [N], as bool [N, classes]; NO_ANSWER is none. Flags stay as they are.
    """
    if answers.ndim == 2:
        return answers.astype(bool)
    return answers[:, None] == np.arange(n_class)


class Counts(NamedTuple):
    """How often a label was given rightly, was given, and would have been right: numbers or arrays.
    """
    right: np.ndarray
    given: np.ndarray
    true: np.ndarray

    def precision(self):
        """From 0 to 1; NaN where the label was not given."""
        return ratio(self.right, self.given)

    def recall(self):
        """From 0 to 1; NaN where no text has the label."""
        return ratio(self.right, self.true)

    def f1(self):
        """From 0 to 1; 0 where no text has the label and it was not given."""
        return 2 * self.right / np.maximum(self.given + self.true, 1)


def ratio(a, b):
    """a / b, and NaN where b is 0."""
    return np.where(b > 0, a / np.maximum(b, 1), np.nan)


# Choosing

def threshold_curve(scores, truth):
    """All decisions on one class that a threshold can make, from the highest threshold to the
    lowest, each giving the label to at least one text.

    scores: N probabilities; truth: bool [N] -> thresholds [decisions], `Counts` of [decisions].

    A threshold lies midway between the lowest score that reaches it and the next one, so that the
    rounding of another computation changes a decision only where two texts score as good as alike.
    """
    order = np.argsort(-scores)
    ranked = scores[order]
    following = np.append(ranked[1:], 0)
    is_last = np.append(ranked[1:] < ranked[:-1], True)  # of equal scores, which no threshold parts
    middle = (ranked + following) / 2
    middle = np.where(middle > following, middle, ranked)  # between neighbouring floats is none
    right = np.cumsum(truth[order])
    given = np.arange(1, len(scores) + 1)
    return middle[is_last], Counts(right[is_last], given[is_last], truth.sum())


def choose_threshold(rule, goal, scores, truth):
    """The threshold of one class, of those of `threshold_curve`.

    rule 'f1': that of the best F1; of several the highest.
    rule 'precision': of those with at least this precision, that of the highest recall; of several
        the highest. Where none has it, goal is the highest precision that there is.
    rule 'recall': the highest with at least this recall.
    NEUTRAL where no text has the class.
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
    """probs [N, classes] -> `Thresholds`, for each class as if it stood alone.

    only: the number of the one class that gets a threshold.
    """
    n_class = probs.shape[1]
    values = np.full(n_class, np.nan)
    for c in range(n_class) if only is None else [only]:
        values[c] = choose_threshold(rule, goal, probs[:, c], truth[:, c])
    return Thresholds(rule, goal, values)


# Judging

def figures_of(answers, truth):
    """What answers as `decide` gives them are worth, in %: {name: [classes] or number}.

    Micro F1 of one label a text is the accuracy, unless texts have no answer. Macro F1 is the mean
    over the classes that occur in the texts.
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
    """A run's thresholds, and what its answers are worth; a dict by split has val and test."""
    thresholds: Thresholds
    multi_label: bool
    probs: dict        # by split: [N, classes], temperature-scaled
    truth: dict        # by split: bool [N, classes]
    used: dict         # by split: what `figures_of` says of the answers with thresholds
    without: dict      # by split: and of those without

    def rarest(self, most):
        """The numbers of the classes with a threshold; of more than so many, the rarest in val."""
        classes, = np.nonzero(~np.isnan(self.thresholds.values))
        by_number = np.argsort(self.truth['val'].sum(0)[classes], kind='stable')
        return np.sort(classes[by_number[:most]])

    def missed(self):
        """The numbers of the classes for which no threshold has the precision asked for on val."""
        missed = []
        if self.thresholds.rule == 'precision':
            for c in self.rarest(None):
                _, counts = threshold_curve(self.probs['val'][:, c], self.truth['val'][:, c])
                if 0 < counts.precision().max() < self.thresholds.goal:
                    missed.append(c)
        return missed

    def rests_on(self, c):
        """How many texts of val the threshold of a class rests on: those that reach it, if it was
        chosen for a precision, else those that have the class."""
        if self.thresholds.rule == 'precision':
            return int((self.probs['val'][:, c] >= self.thresholds.values[c]).sum())
        return int(self.truth['val'][:, c].sum())

    def mean_over_classes(self, figures, name):
        """The mean of a figure over the classes with a threshold that have one, or None."""
        values = figures[name][self.rarest(None)]
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else None


def judge(thresholds, probs, labels):
    """A run's `Thresholds`, and by split its probabilities [N, classes] and the labels, int [N] or
    0 and 1 [N, classes] -> `Judged`."""
    truth = {}
    used = {}
    without = {}
    for split, p in probs.items():
        multi_label = labels[split].ndim == 2
        truth[split] = flags(labels[split], p.shape[1])
        used[split] = figures_of(decide(p, multi_label, thresholds), truth[split])
        without[split] = figures_of(decide(p, multi_label), truth[split])
    return Judged(thresholds, multi_label, probs, truth, used, without)


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
