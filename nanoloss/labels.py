"""From probabilities to labels, with or without thresholds, and attributions of tokens.

It needs only numpy, because an exported folder has a copy of this file.

Thresholds are chosen on val, one for each class or for some classes:
- With several labels per text, a label is given if its probability reaches its threshold or,
  without a threshold, is above 0.5. If no thresholds were chosen and every training text has a
  label, a text with no label above 0.5 gets the likeliest.
- With one label per text, the class with the largest ratio of probability to threshold wins, among
  those that reach their threshold. If none does, the likeliest class without a threshold wins. If
  all classes have thresholds, there is no answer under the rule precision, because an answer would
  break the rule; under the other rules, the largest ratio wins.
"""
import codecs
from typing import NamedTuple

import numpy as np

UNSURE = 'unsure'  # instead of a label
RULES = 'f1', 'precision', 'recall'
NO_ANSWER = -1  # instead of the index of a class


# Thresholds


class Thresholds(NamedTuple):
    """The thresholds of a run.

    rule: one of RULES, by which they were chosen. goal: the precision or recall to reach, or None.
    values: float64 [classes], NaN if a class has none.
    """
    rule: str
    goal: float | None
    values: np.ndarray


def read_thresholds(result, n_class):
    """The content of a run's result.json -> its `Thresholds`, or None if it has none.

    Raises ValueError if they are damaged.
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
            is_number = type(value) in (int, float)  # not isinstance: True is an int
            if value is not None and not (is_number and 0 <= value <= 1):
                raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ValueError('result.json has damaged thresholds; tools.thresholds --by=none '
                         'removes them') from None
    return Thresholds(rule, goal, np.array(values, dtype=float))  # None becomes NaN


def as_json(thresholds):
    """`Thresholds` -> the value from which `read_thresholds` reads them."""
    values = [None if np.isnan(value) else float(value) for value in thresholds.values]
    return {'rule': thresholds.rule, 'goal': thresholds.goal, 'values': values}


def kind_of(thresholds):
    """The properties that runs must share for a mean of their thresholds: rule, goal, classes."""
    if thresholds is None:
        return None
    return thresholds.rule, thresholds.goal, tuple(np.isnan(thresholds.values))


def mean_thresholds(several):
    """The mean of the `Thresholds` of several runs of one kind; None if they have none."""
    if several[0] is None:
        return None
    return several[0]._replace(values=np.mean([one.values for one in several], 0))


def can_be_unsure(thresholds, multi_label):
    """Whether the decision on a text can be NO_ANSWER."""
    if thresholds is None or multi_label:
        return False
    return thresholds.rule == 'precision' and not np.isnan(thresholds.values).any()


def decide(probs, multi_label, thresholds=None, always_labelled=False):
    """Decide by the rules above; without thresholds, for the likeliest class or, with several
    labels per text, for those above 0.5.

    probs [..., classes] -> int [...], the index of a class or NO_ANSWER; or, with several labels
    per text, bool [..., classes].
    always_labelled: every training text has a label. Then a text with no label above 0.5 gets the
        likeliest, unless there are thresholds.
    """
    if thresholds is None and not multi_label:
        return probs.argmax(-1)
    if thresholds is None:
        given = probs > 0.5
        if always_labelled:  # if any label is above 0.5, the likeliest is
            np.put_along_axis(given, probs.argmax(-1, keepdims=True), True, -1)
        return given
    values = thresholds.values
    without = np.isnan(values)
    reached = probs >= values  # False for NaN
    if multi_label:
        return np.where(without, probs > 0.5, reached)

    ratios = probs / np.maximum(values, np.finfo(float).tiny)  # a threshold may be 0
    answers = np.where(reached, ratios, -1).argmax(-1)
    if can_be_unsure(thresholds, multi_label):
        otherwise = NO_ANSWER
    elif without.any():
        otherwise = np.where(without, probs, -1).argmax(-1)
    else:
        otherwise = ratios.argmax(-1)
    return np.where(reached.any(-1), answers, otherwise)


def confidence_of(probs, multi_label, always_labelled=False):
    """The confidence of each answer without thresholds, [...]: the highest probability or, with
    several labels a text, the probability of the least confident decision.

    probs [..., classes]. always_labelled: see `decide`.
    """
    if multi_label:
        given = decide(probs, multi_label, always_labelled=always_labelled)
        return np.where(given, probs, 1 - probs).min(-1)
    return probs.max(-1)


class Labels:
    """A function from the probabilities of a text to its label, by name.

    classes: their names. multi_label: a text may have several labels.
    thresholds: `Thresholds`, or None.
    min_confidence: a less confident answer becomes UNSURE; from 0 to 1.
    always_labelled: see `decide`.
    Raises ValueError if min_confidence is out of range, or if UNSURE can be an answer and is also
    the name of a class.
    """

    def __init__(self, classes, multi_label, thresholds=None, min_confidence=0.0,
                 always_labelled=False):
        if not 0 <= min_confidence <= 1:
            raise ValueError(f'min_confidence must be in [0, 1], not {min_confidence}')
        may_be_unsure = min_confidence or can_be_unsure(thresholds, multi_label)
        if may_be_unsure and UNSURE in classes:
            raise ValueError(f'there is a class {UNSURE!r}, so an answer cannot be {UNSURE!r} '
                             'because of min_confidence or of thresholds for a precision')
        self.classes = classes
        self.multi_label = multi_label
        self.thresholds = thresholds
        self.min_confidence = min_confidence
        self.always_labelled = always_labelled

    def decide(self, probs):
        """The decisions of `decide`, without min_confidence. probs [..., classes]."""
        return decide(probs, self.multi_label, self.thresholds, self.always_labelled)

    def label(self, p):
        """Probabilities [classes] -> the label; with several labels a text, a list of labels."""
        confidence = confidence_of(p, self.multi_label, self.always_labelled)
        if confidence < self.min_confidence:
            return [UNSURE] if self.multi_label else UNSURE
        decision = self.decide(p)
        if self.multi_label:
            return [name for name, given in zip(self.classes, decision) if given]
        return UNSURE if decision == NO_ANSWER else self.classes[decision]


# Classifiers

def log_odds(p):
    """Probabilities of any shape -> their log-odds, with p clipped to [1e-15, 1 - 1e-15]."""
    p = np.clip(p, 1e-15, 1 - 1e-15)
    return np.log(p) - np.log1p(-p)


class BaseClassifier:
    """A model as a function from texts to probabilities, labels and attributions.

    model: has id, classes, multi_label, always_labelled, thresholds (`Thresholds` or None),
        encoding (a tiktoken.Encoding), tokens(texts), the tokens of each text that are used, and
        probs_of_tokens(tokens), float64 [texts, classes].
    min_confidence: see `Labels`. Raises ValueError as `Labels` does.
    """

    def __init__(self, model, min_confidence=0.0):
        self.model = model
        self.id = model.id
        self.classes = model.classes
        self.multi_label = model.multi_label
        self.encoding = model.encoding
        self.labels = Labels(model.classes, model.multi_label, model.thresholds, min_confidence,
                             model.always_labelled)

    def tokens(self, texts):
        """The tokens of each text that are used, a list of int64 [n]."""
        return self.model.tokens(texts)

    def probs(self, texts):
        """A list of texts -> float64 [texts, classes]; with one label a text, rows sum to 1."""
        if not texts:
            return np.zeros((0, len(self.classes)))
        return self.model.probs_of_tokens(self.tokens(texts))

    def label(self, p):
        """Probabilities [classes] -> the label; with several labels a text, a list of labels."""
        return self.labels.label(p)

    def explained_class(self, p):
        """The index of the class to explain: the answer, or the likeliest class if there is no
        answer or a text can have several."""
        label = self.label(p)
        if label in self.classes:
            return self.classes.index(label)
        return int(p.argmax())

    def leave_out(self, tokens):
        """Remove each distinct token from its text, all of its occurrences at once.

        tokens: a list of the tokens of each text. Returns a list of (distinct tokens, ascending,
        int64 [K]; probabilities of the text, [classes]; probabilities without each of the tokens,
        [K, classes]). A text with a single distinct token keeps its probabilities.
        """
        distinct = [np.unique(of_text) for of_text in tokens]
        variants = []
        for of_text, kinds in zip(tokens, distinct):
            variants.append(of_text)
            if len(kinds) > 1:
                variants += [of_text[of_text != token] for token in kinds]
        rows = iter(self.model.probs_of_tokens(variants))

        found = []
        for kinds in distinct:
            p = next(rows)
            without = p[None]
            if len(kinds) > 1:
                without = np.stack([next(rows) for _ in kinds])
            found.append((kinds, p, without))
        return found

    def explain(self, text):
        """A text -> its probabilities [classes], the name of the explained class, and a list of
        (piece of the text, attribution).

        The attribution of a token is the log-odds of the class given the text, minus the log-odds
        given the text without any occurrence of this token. It is exact, so it includes the effect
        on windows and n-grams.
        """
        tokens, = self.tokens([text])
        (kinds, p, without), = self.leave_out([tokens])
        explained = self.explained_class(p)
        gain = log_odds(p[explained]) - log_odds(without[:, explained])
        attribution = dict(zip(kinds.tolist(), gain.tolist()))
        decoder = codecs.getincrementaldecoder('utf-8')('replace')  # a character may be two tokens
        pieces = []
        for token in tokens.tolist():
            piece = decoder.decode(self.encoding.decode_single_token_bytes(token))
            pieces.append((piece, attribution[token]))
        return p, self.classes[explained], pieces
