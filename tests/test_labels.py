"""nanoloss/labels.py: decisions against a slow loop, damaged thresholds, what can be unsure."""
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conftest import ROOT
from nanoloss.labels import (
    UNSURE, Labels, Thresholds, as_json, confidence_of, decide, kind_of, mean_thresholds,
    read_thresholds)

CLASSES = ['a', 'b', 'c', 'd']


def slow_label(p, multi_label, rule, values):
    """The rules of the module, one class at a time; a value of None is no threshold."""
    if multi_label:
        labels = []
        for name, probability, value in zip(CLASSES, p, values):
            if value is None:
                reached = probability > 0.5
            else:
                reached = probability >= value
            if reached:
                labels.append(name)
        return labels
    best = None
    largest = -1
    for name, probability, value in zip(CLASSES, p, values):
        if value is not None and probability >= value and probability / value > largest:
            best = name
            largest = probability / value
    if best is not None:
        return best
    free = [i for i in range(len(p)) if values[i] is None]
    if free:
        return CLASSES[max(free, key=lambda i: p[i])]
    if rule == 'precision':
        return UNSURE
    return CLASSES[max(range(len(p)), key=lambda i: p[i] / values[i])]


# coarse, so that probabilities meet each other and thresholds
SHARES = st.integers(1, 16).map(lambda n: n / 16)


@settings(deadline=None, max_examples=300)
@given(arrays(float, (5, 4), elements=SHARES), st.lists(st.none() | SHARES, min_size=4, max_size=4),
       st.sampled_from(['f1', 'precision', 'recall']), st.booleans(), st.booleans())
def test_labels_against_a_slow_loop(probs, values, rule, multi_label, always_labelled):
    """Thresholds decide, whether or not every training text has a label."""
    thresholds = Thresholds(rule, None, np.array(values, dtype=float))
    labels = Labels(CLASSES, multi_label, thresholds,
                    always_labelled=multi_label and always_labelled)
    for p in probs:
        assert labels.label(p) == slow_label(p, multi_label, rule, values)


@settings(deadline=None)
@given(arrays(float, (5, 4), elements=SHARES))
def test_without_thresholds_the_likeliest_or_those_above_a_half(probs):
    assert decide(probs, False).tolist() == [max(range(4), key=lambda i: p[i]) for p in probs]
    assert decide(probs, True).tolist() == (probs > 0.5).tolist()
    # and so with thresholds of which no class has one
    none = Thresholds('f1', None, np.full(4, np.nan))
    assert decide(probs, False, none).tolist() == decide(probs, False).tolist()
    assert decide(probs, True, none).tolist() == decide(probs, True).tolist()


@settings(deadline=None)
@given(arrays(float, (2, 5, 4), elements=SHARES))
def test_if_texts_always_have_a_label_none_goes_without(probs):
    """The first of the likeliest labels, if none is above 0.5; for arrays of any shape."""
    decisions = decide(probs, True, always_labelled=True)
    labels = Labels(CLASSES, True, always_labelled=True)
    for of_run, decided_by_run in zip(probs, decisions):
        for p, decision in zip(of_run, decided_by_run):
            wanted = [i for i in range(4) if p[i] > 0.5] or [list(p).index(max(p))]
            assert np.flatnonzero(decision).tolist() == wanted
            assert labels.label(p) == [CLASSES[i] for i in wanted]
            confidence = min(p[i] if i in wanted else 1 - p[i] for i in range(4))
            assert confidence_of(p, True, always_labelled=True) == confidence
            unsure = Labels(CLASSES, True, None, np.nextafter(confidence, 2), always_labelled=True)
            assert unsure.label(p) == [UNSURE]


def test_a_threshold_of_0_is_reached_by_all():
    thresholds = Thresholds('recall', 1.0, np.array([0.0, np.nan]))
    assert decide(np.array([[0.0, 1.0], [0.3, 0.7]]), False, thresholds).tolist() == [0, 0]
    assert decide(np.array([[0.0, 0.4]]), True, thresholds).tolist() == [[True, False]]


def test_what_is_not_sure_enough_comes_first():
    p = np.array([0.6, 0.4])
    thresholds = Thresholds('f1', None, np.array([0.9, 0.2]))
    assert Labels(['a', 'b'], False, thresholds).label(p) == 'b'
    assert Labels(['a', 'b'], False, thresholds, min_confidence=0.6).label(p) == 'b'
    assert Labels(['a', 'b'], False, thresholds, min_confidence=0.61).label(p) == UNSURE
    assert Labels(['a', 'b'], True, thresholds, min_confidence=0.61).label(p) == [UNSURE]


def test_the_confidence_of_several_labels_is_that_of_the_least_sure():
    probs = np.array([[0.9, 0.2, 0.6], [0.01, 0.02, 0.99]])
    assert confidence_of(probs, multi_label=True).tolist() == pytest.approx([0.6, 0.98])
    assert confidence_of(probs, multi_label=False).tolist() == pytest.approx([0.9, 0.99])


def test_unsure_must_not_be_a_class_where_it_can_be_an_answer():
    classes = [UNSURE, 'b']
    every = Thresholds('precision', 0.9, np.array([0.5, 0.5]))
    one = Thresholds('precision', 0.9, np.array([0.5, np.nan]))
    for thresholds, min_confidence in ((every, 0.0), (None, 0.1)):
        with pytest.raises(ValueError, match="there is a class 'unsure'"):
            Labels(classes, False, thresholds, min_confidence)
    Labels(classes, False, one)
    Labels(classes, True, every)
    Labels(classes, False, every._replace(rule='f1'))
    with pytest.raises(ValueError, match='must be in'):
        Labels(['a', 'b'], False, min_confidence=math.nan)


# In result.json

def test_thresholds_as_json_and_back():
    thresholds = Thresholds('precision', 0.95, np.array([0.1, np.nan, 1.0]))
    text = json.dumps({'thresholds': as_json(thresholds)}, allow_nan=False)
    read = read_thresholds(json.loads(text), 3)
    assert read[:2] == thresholds[:2]
    np.testing.assert_array_equal(read.values, thresholds.values)
    assert read_thresholds({'last': {}}, 3) is None


GOOD = {'rule': 'precision', 'goal': 0.95, 'values': [0.5, None]}


@pytest.mark.parametrize('damaged', [
    None, [], 'f1', 3, {},
    *[GOOD | {'rule': rule} for rule in ('best', None, [], 'f1')],
    *[GOOD | {'goal': goal} for goal in (None, '0.95', 1.5, -1, math.nan, True, [])],
    *[GOOD | {'values': values} for values in (
        None, 1, [], [0.5], [0.5] * 3, [0.5, -0.1], [0.5, 1.01], [0.5, math.nan], [0.5, math.inf],
        [0.5, '0.5'], [0.5, True], [0.5, [0.5]], {'a': 0.5, 'b': 0.5}, '12')],
], ids=str)
def test_damaged_thresholds(damaged):
    assert read_thresholds({'thresholds': GOOD}, 2) is not None
    with pytest.raises(ValueError, match='result.json has damaged thresholds'):
        read_thresholds({'thresholds': damaged}, 2)


def test_the_mean_is_of_thresholds_of_one_kind():
    a = Thresholds('recall', 0.9, np.array([0.2, np.nan]))
    b = Thresholds('recall', 0.9, np.array([0.4, np.nan]))
    assert kind_of(a) == kind_of(b)
    mean = mean_thresholds([a, b])
    np.testing.assert_allclose(mean.values, [0.3, np.nan])
    assert kind_of(mean) == kind_of(a)
    assert mean_thresholds([None, None]) is None
    others = [None, a._replace(rule='precision'), a._replace(goal=0.8),
              a._replace(values=np.array([0.2, 0.3]))]
    for other in others:
        assert kind_of(other) != kind_of(a)


def test_labels_need_no_pytorch():
    code = "import sys; sys.modules['torch'] = None; import nanoloss.labels"
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
