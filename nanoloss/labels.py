"""From probabilities to labels, with thresholds that were chosen on val or without: numpy alone.

What a threshold of a class means:
- Several labels a text: a label is given where its probability reaches its threshold or, where the
  label has none, is above 0.5.
- One label a text: of the classes that reach their thresholds, that whose probability is the
  largest multiple of its threshold. Where none does, the likeliest of the classes without a
  threshold; if there is no such class, no answer under the rule precision, which could not be held,
  else the class with the largest multiple.
"""
from typing import NamedTuple

import numpy as np

UNSURE = 'unsure'  # in the place of a label
RULES = 'f1', 'precision', 'recall'
NO_ANSWER = -1  # in the place of a class's number


class Thresholds(NamedTuple):
    """The thresholds of a run.

    rule: what they were chosen for, of RULES. goal: the precision or recall to be had, or None.
    values: float64 [classes], NaN where a class has none.
    """
    rule: str
    goal: float | None
    values: np.ndarray


def read_thresholds(result, n_class):
    """The content of a run's result.json -> its `Thresholds`, or None where it has none.

    Raises ValueError where they are damaged.
    """
    if 'thresholds' not in result:
        return None
    kept = result['thresholds']
    try:
        rule = kept['rule']
        goal = kept['goal']
        values = kept['values']
        if rule not in RULES or (goal is None) != (rule == 'f1') or len(values) != n_class:
            raise ValueError
        for value in [goal, *values]:
            is_number = type(value) in (int, float)  # True and False are none
            if value is not None and not (is_number and 0 <= value <= 1):
                raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ValueError('result.json has damaged thresholds; tools.thresholds --by=none '
                         'removes them') from None
    return Thresholds(rule, goal, np.array(values, dtype=float))  # None becomes NaN


def as_json(thresholds):
    """`Thresholds` as `read_thresholds` reads them."""
    values = [None if np.isnan(value) else float(value) for value in thresholds.values]
    return {'rule': thresholds.rule, 'goal': thresholds.goal, 'values': values}


def kind_of(thresholds):
    """What the thresholds of runs must have in common to be averaged: rule, goal, which classes."""
    if thresholds is None:
        return None
    return thresholds.rule, thresholds.goal, tuple(np.isnan(thresholds.values))


def mean_thresholds(several):
    """The mean of the `Thresholds` of several runs, all of one kind; None where they have none."""
    if several[0] is None:
        return None
    return several[0]._replace(values=np.mean([one.values for one in several], 0))


def can_be_unsure(thresholds, multi_label):
    """Whether there can be NO_ANSWER to a text."""
    if thresholds is None or multi_label:
        return False
    return thresholds.rule == 'precision' and not np.isnan(thresholds.values).any()


def decide(probs, multi_label, thresholds=None):
    """The decisions on texts by the rules above; without thresholds the likeliest class or, where a
    text may have several labels, those above 0.5.

    probs [N, classes] -> int [N], the number of a class or NO_ANSWER; or bool [N, classes].
    """
    if thresholds is None:
        return probs > 0.5 if multi_label else probs.argmax(1)
    values = thresholds.values
    without = np.isnan(values)
    reached = probs >= values  # never of NaN
    if multi_label:
        return np.where(without, probs > 0.5, reached)

    # a threshold of 0 is reached by all
    multiples = probs / np.maximum(values, np.finfo(float).tiny)
    answers = np.where(reached, multiples, -1).argmax(1)
    if can_be_unsure(thresholds, multi_label):
        otherwise = NO_ANSWER
    elif without.any():
        otherwise = np.where(without, probs, -1).argmax(1)
    else:
        otherwise = multiples.argmax(1)
    return np.where(reached.any(1), answers, otherwise)


def confidence_of(probs, multi_label):
    """How sure each answer is, [N]: its highest probability or, where a text may have several
    labels, that of its least sure decision. probs [N, classes]."""
    if multi_label:
        return np.maximum(probs, 1 - probs).min(1)
    return probs.max(1)


class Labels:
    """A function from the probabilities of a text to its label, by name.

    classes: their names. multi_label: a text may have several labels.
    thresholds: `Thresholds`, or None.
    min_confidence: an answer that is less sure is UNSURE; from 0 to 1.
    Raises ValueError for another one, and where UNSURE can be an answer and is a class.
    """

    def __init__(self, classes, multi_label, thresholds=None, min_confidence=0.0):
        if not 0 <= min_confidence <= 1:
            raise ValueError(f'min_confidence must be in [0, 1], not {min_confidence}')
        may_be_unsure = min_confidence or can_be_unsure(thresholds, multi_label)
        if may_be_unsure and UNSURE in classes:
            raise ValueError(f'there is a class {UNSURE!r}: neither min_confidence nor thresholds '
                             'for a precision can say it of an answer')
        self.classes = classes
        self.multi_label = multi_label
        self.thresholds = thresholds
        self.min_confidence = min_confidence

    def label(self, p):
        """Probabilities [classes] -> the label; the list of labels where there may be several."""
        confidence, = confidence_of(p[None], self.multi_label)
        if confidence < self.min_confidence:
            return [UNSURE] if self.multi_label else UNSURE
        decision, = decide(p[None], self.multi_label, self.thresholds)
        if self.multi_label:
            return [name for name, given in zip(self.classes, decision) if given]
        return UNSURE if decision == NO_ANSWER else self.classes[decision]
