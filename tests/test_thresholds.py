"""nanoloss/thresholds.py, against brute force and scikit-learn; tools.thresholds, what it writes,
and what evaluate.py and tools.predict make of it (30 s)."""
import csv
import io
import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics

import evaluate
from conftest import call
from helpers import config_of, fails
from nanoloss import thresholds
from nanoloss.labels import NO_ANSWER, Thresholds, decide
from nanoloss.stats import flags, half_interval
from nanoloss.thresholds import (
    NEUTRAL,
    choose_threshold,
    choose_thresholds,
    explain_thresholds,
    figures_of,
    judge,
    threshold_curve,
    with_another_val,
)
from tools import pack
from tools import thresholds as tool


# Choosing

def brute_force(rule, goal, scores, truth):
    """Of all sets of texts that have the highest scores, the one to be given -> bool [N]."""
    best = None
    for lowest in sorted(set(scores), reverse=True):
        chosen = [score >= lowest for score in scores]
        right = sum(a and b for a, b in zip(chosen, truth))
        precision = Fraction(right, sum(chosen))
        recall = Fraction(right, sum(truth))
        if rule == 'f1':
            merit = Fraction(2 * right, sum(chosen) + sum(truth)), 0
        elif rule == 'precision':
            reached = precision >= Fraction(str(goal))
            merit = (1, recall) if reached else (precision - 1, recall)
        else:
            merit = recall >= Fraction(str(goal)), 0
        if best is None or merit > best[0]:  # of equals the first, of the highest threshold
            best = merit, chosen
    return best[1]


@settings(deadline=None, max_examples=500)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=25),
       st.sampled_from(['f1', 'precision', 'recall']),
       st.sampled_from([0.3, 0.5, 0.75, 0.8, 0.9, 0.95, 1.0]))
def test_thresholds_against_brute_force(texts, rule, goal):
    scores = np.array([score / 30 for score, _ in texts])
    truth = np.array([true for _, true in texts])
    assume(truth.any())
    threshold = choose_threshold(rule, goal, scores, truth)
    assert 0 <= threshold <= 1
    assert (scores >= threshold).tolist() == brute_force(rule, goal, scores, truth)


def test_the_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores = rng.integers(1, 60, 400) / 60  # many are equal
    truth = rng.random(400) < scores
    thresholds, counts = threshold_curve(scores, truth)
    precision, recall, at = metrics.precision_recall_curve(truth, scores)
    assert counts.precision() == pytest.approx(precision[:-1][::-1])
    assert counts.recall() == pytest.approx(recall[:-1][::-1])
    for threshold, f1 in zip(thresholds, counts.f1()):
        assert f1 == pytest.approx(metrics.f1_score(truth, scores >= threshold))
    # midway: each is half a step of the scores below the score that it is for
    assert at[::-1] - thresholds == pytest.approx(np.append(np.full(len(at) - 1, 1 / 120), 1 / 120))


def test_thresholds_between_scores_that_no_float_parts():
    one = 1.0
    next_to_one = np.nextafter(1.0, 0)
    threshold = choose_threshold('f1', None, np.array([next_to_one, one]), np.array([False, True]))
    assert next_to_one < threshold <= one
    assert choose_threshold('recall', 1.0, np.array([0.0, 0.5]), np.array([True, False])) == 0


def test_what_val_cannot_say():
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    # nobody has it
    for rule in ('f1', 'precision', 'recall'):
        assert choose_threshold(rule, 0.9, scores, np.zeros(4, bool)) == NEUTRAL
    # at most 2 of 3 are right
    threshold = choose_threshold('precision', 0.9, scores, np.array([False, True, True, False]))
    assert 0.6 < threshold < 0.7


def test_one_class_alone():
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 50)
    truth = flags(probs.argmax(1), 3)
    chosen = choose_thresholds('f1', None, probs, truth, only=1)
    assert np.isnan(chosen.values).tolist() == [True, False, True]
    every = choose_thresholds('f1', None, probs, truth)
    assert every.values[1] == chosen.values[1]
    # then the decision on that class is the one that it was chosen for
    answers = decide(probs, False, chosen)
    assert ((answers == 1) == (probs[:, 1] >= chosen.values[1])).all()


@pytest.mark.parametrize('multi_label', [False, True])
def test_figures_are_those_of_scikit_learn(multi_label):
    rng = np.random.default_rng(1)
    answers = rng.integers(0, 3, 200)  # the fourth class is never given
    labels = rng.integers(0, 4, 200)
    if multi_label:
        answers = rng.integers(0, 2, (200, 4))
        labels = rng.integers(0, 2, (200, 4))
    figures = figures_of(answers, flags(labels, 4))
    options = {'labels': None if multi_label else range(4), 'zero_division': 0}
    for name, function in (('recall', metrics.recall_score), ('F1', metrics.f1_score)):
        expected = 100 * function(labels, answers, average=None, **options)
        assert figures[name] == pytest.approx(expected)
    options['zero_division'] = np.nan
    expected = 100 * metrics.precision_score(labels, answers, average=None, **options)
    np.testing.assert_allclose(figures['precision'], expected)
    for average in ('macro', 'micro'):
        expected = 100 * metrics.f1_score(labels, answers, average=average, **options)
        assert figures[f'{average} F1'] == pytest.approx(expected)
    assert figures['unsure'] == 0


def test_an_answer_that_is_not_given_is_neither_right_nor_given():
    answers = np.array([0, NO_ANSWER, 1, NO_ANSWER])
    figures = figures_of(answers, flags(np.array([0, 0, 1, 1]), 2))
    assert figures['precision'].tolist() == [100, 100]
    assert figures['recall'].tolist() == [50, 50]
    assert figures['unsure'] == 50


# tools.thresholds

def choose(*argv):
    """Run tools.thresholds in this process -> what it has written."""
    folders = []
    config = config_of(tool, *argv, positional=folders)
    tool.main(config, folders)
    path = Path(folders[0]).parent / 'thresholds.md'
    return path.read_text() if path.exists() else ''


def table_of(group):
    """Run evaluate.py in this process -> table.md."""
    with pytest.MonkeyPatch.context() as patch:  # figures take most of the time
        patch.setattr(evaluate, 'draw_figures', lambda groups, title: {})
        evaluate.main(config_of(evaluate), [group])
    return (group.parent / 'table.md').read_text()


def make_run(folder, logits, labels, classes, temperature=1.0):
    """A finished run with these logits and labels on val and test, of softmax or, for several
    labels a text, sigmoids."""
    folder.mkdir(parents=True)
    multi_label = labels['val'].ndim == 2
    last = {'epoch': 1, 'temperature': temperature}
    arrays = {}
    for split in ('val', 'test'):
        arrays[f'{split}_logits'] = logits[split].astype(np.float16)
        arrays[f'{split}_labels'] = labels[split].astype(np.uint8)
        half = arrays[f'{split}_logits'].astype(float)
        if multi_label:
            correct = ((half > 0) == labels[split]).all(1)
        else:
            correct = half.argmax(1) == labels[split]
        last[split] = {'n': len(correct), 'correct': int(correct.sum()),
                       'accuracy': correct.mean(), 'loss': 0.5}
    np.savez(folder / 'preds.npz', **arrays)
    row = {'epoch': 1, 'step': 1, 'train_acc': 0.5, 'val_acc': 0.5}
    (folder / 'log.jsonl').write_text(json.dumps(row) + '\n')
    result = {'head': 'x', 'seed': 0, 'last': last, 'best': last, 'seconds': 1.5}
    (folder / 'result.json').write_text(json.dumps(result, indent=1) + '\n')
    (folder / 'config.json').write_text(json.dumps({
        'head': 'bce' if multi_label else 'ce', 'seed': int(folder.name[4:]), 'dataset': 'toy',
        'data': 'fingerprint', 'n_class': len(classes), 'classes': classes,
        'multi_label': multi_label}))


def make_group(folder, classes, multi_label, n=400):
    """Three runs whose logits say something of the labels; the last class is rare."""
    rng = np.random.default_rng(0)
    n_class = len(classes)
    labels = {}
    for split in ('val', 'test'):
        if multi_label:
            labels[split] = (rng.random((n, n_class)) < np.linspace(0.5, 0.05, n_class)).astype(int)
        else:
            share = np.linspace(1, 0.15, n_class)
            labels[split] = rng.choice(n_class, n, p=share / share.sum())
    for k in range(3):
        logits = {}
        for split in ('val', 'test'):
            truth = flags(labels[split], n_class)
            logits[split] = 2 * truth - 1 + 0.7 * rng.normal(size=truth.shape)
        make_run(folder / f'seed{k}', logits, labels, classes)
    return folder


def result_of(run):
    return json.loads((run / 'result.json').read_text())


def probs_of(run, split):
    """By the definitions of softmax and sigmoid."""
    preds = np.load(run / 'preds.npz')
    z = preds[f'{split}_logits'].astype(float) / result_of(run)['last']['temperature']
    if preds[f'{split}_labels'].ndim == 2:
        return 1 / (1 + np.exp(-z))
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


def test_the_interval_for_another_val_covers_what_other_vals_choose(monkeypatch):
    """Val after val from one distribution, three runs that hardly differ: the precision on test is
    as far from its mean over all vals as the interval says, and much farther than seeds are."""
    monkeypatch.setattr(thresholds, 'RESAMPLES', 80)
    rng = np.random.default_rng(0)

    def draw(n):
        """Labels and what three runs make of them, calibrated but for their noise."""
        z = rng.normal(0, 1.5, n)
        labels = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int)
        p = 1 / (1 + np.exp(-z - rng.normal(0, 0.05, (3, n))))
        return labels, np.stack([1 - p, p], 2)

    test_labels, test_probs = draw(2000)
    found = []
    intervals = []
    for _ in range(30):
        val_labels, val_probs = draw(400)
        several = []
        for of_val, of_test in zip(val_probs, test_probs):
            kept = choose_thresholds('precision', 0.9, of_val, flags(val_labels, 2), only=1)
            several.append(judge(kept, {'val': of_val, 'test': of_test},
                                 {'val': val_labels, 'test': test_labels}))
        found.append([judged.used['test']['precision'][1] for judged in several])
        others = with_another_val(several, 'precision')
        assert others.shape == (80, 2)
        intervals.append(np.percentile(others[:, 1], [2.5, 97.5]))
    truth = np.mean(found)
    low, high = np.transpose(intervals)
    assert np.mean((low <= truth) & (truth <= high)) >= 0.83  # 0.95; at least 25 of 30
    half = [half_interval(values) for values in found]
    assert np.mean(np.abs(np.mean(found, 1) - truth) <= half) < 0.5
    width = np.mean(high - low)
    assert width == pytest.approx(2 * 1.96 * np.mean(found, 1).std(), rel=0.3)


def test_a_gain_for_another_val_is_that_over_no_thresholds():
    rng = np.random.default_rng(0)
    labels = {split: rng.integers(0, 3, 300) for split in ('val', 'test')}
    probs = {split: rng.dirichlet(np.ones(3), 300) for split in labels}
    kept = choose_thresholds('f1', None, probs['val'], flags(labels['val'], 3))
    judged = judge(kept, probs, labels)
    gain = with_another_val([judged, judged], 'F1', gain=True)
    plain = with_another_val([judged, judged], 'F1')
    assert np.allclose(plain - gain, judged.without['test']['F1'])


def test_without_thresholds_a_text_that_always_has_a_label_gets_one():
    """With thresholds, it can go without."""
    rng = np.random.default_rng(0)
    probs = {split: rng.random((200, 3)) ** 2 for split in ('val', 'test')}
    labels = {split: np.eye(3, dtype=int)[p.argmax(1)] for split, p in probs.items()}
    kept = choose_thresholds('precision', 0.9, probs['val'], flags(labels['val'], 3))
    judged = judge(kept, probs, labels, always_labelled=True)
    for split, p in probs.items():
        # the label is the likeliest class, so it is always given, and others are wrong
        n_given = sum(max(1, sum(value > 0.5 for value in of_text)) for of_text in p)
        f1 = 200 * len(p) / (n_given + len(p))
        assert judged.without[split]['micro F1'] == pytest.approx(f1)
        unaware = judge(kept, probs, labels)
        assert judged.used[split]['micro F1'] == unaware.used[split]['micro F1']
        assert unaware.without[split]['micro F1'] < f1
    assert not decide(probs['val'], True, kept, always_labelled=True).any(1).all()
    assert 'without: labels above 0.5, or the likeliest if none is.' in explain_thresholds(judged)


def test_macro_f1_is_of_the_classes_that_texts_have():
    figures = figures_of(np.array([0, 0, 1]), flags(np.array([0, 0, 0]), 3))
    assert figures['macro F1'] == pytest.approx(80)  # of class 0: 2 right of 2, of 3


@pytest.mark.parametrize('argv, rule, goal', [
    (['--by=f1'], 'f1', None),
    (['--at_precision=0.9'], 'precision', 0.9),
    (['--at_recall=0.8'], 'recall', 0.8)])
def test_chosen_thresholds_and_what_the_table_says(tmp_path, capsys, argv, rule, goal):
    """Several labels, where each is a decision of its own: on val brute force, on test the share
    that is right."""
    classes = ['a', 'b', 'rare']
    group = make_group(tmp_path / 'tags', classes, multi_label=True)
    text = choose(group, *argv)
    assert capsys.readouterr().out == text
    table = table_of(group)
    summary = json.loads((tmp_path / 'summary.json').read_text())['groups'][0]['thresholds']
    found = []  # precision, recall on test of the rare class
    for k in range(3):
        run = group / f'seed{k}'
        kept = result_of(run)['thresholds']
        assert (kept['rule'], kept['goal']) == (rule, goal)
        labels = np.load(run / 'preds.npz')
        p = probs_of(run, 'val')
        for c in range(3):
            chosen = (p[:, c] >= kept['values'][c]).tolist()
            truth = labels['val_labels'][:, c] == 1
            assert chosen == brute_force(rule, goal, p[:, c].tolist(), truth.tolist())
        answers = probs_of(run, 'test')[:, 2] >= kept['values'][2]
        truth = labels['test_labels'][:, 2]
        found.append([100 * metrics.precision_score(truth, answers),
                      100 * metrics.recall_score(truth, answers)])
        assert summary[k]['values'] == kept['values']
        with_thresholds = summary[k]['with']['test']
        assert with_thresholds['precision'][2] == pytest.approx(found[-1][0])
        at_half = probs_of(run, 'test') > 0.5
        expected = 100 * metrics.f1_score(labels['test_labels'], at_half, average='macro')
        assert summary[k]['without']['test']['macro F1'] == pytest.approx(expected)
        other = 'with' if rule == 'f1' else 'without'
        assert summary[k][other]['val']['macro F1'] >= summary[k]['without']['val']['macro F1']
    row, = [line for line in text.splitlines() if line.startswith('| rare, at ')]
    cells = [cell.strip() for cell in row.split('|')]
    precision, recall = np.mean(found, 0)
    assert cells[3].startswith(f'{precision:.2f} ± ')
    assert cells[5].startswith(f'{recall:.2f} ± ')
    assert (tmp_path / 'thresholds.png').read_bytes()[:4] == b'\x89PNG'

    # evaluate.py reports the thresholds that the runs have
    assert text.split('\n\n- Beware: ')[0].strip() in table


def test_none_takes_away_what_was_put_in_and_nothing_else(tmp_path):
    group = make_group(tmp_path / 'kinds', ['a', 'b', 'c'], multi_label=False)
    files = sorted(path for path in group.rglob('*') if path.is_file())
    before = {path: path.read_bytes() for path in files}
    choose(group, '--by=none')
    assert 'hresholds of' not in table_of(group)
    assert not (tmp_path / 'thresholds.png').exists()
    for argv in (['--by=f1'], ['--at_precision=0.9', '--threshold_class=c']):
        choose(group, *argv)
        for k in range(3):
            result = result_of(group / f'seed{k}')
            assert list(result)[-1] == 'thresholds'
            del result['thresholds']
            assert result == json.loads(before[group / f'seed{k}' / 'result.json'])
    assert result_of(group / 'seed0')['thresholds']['values'][:2] == [None, None]
    # damaged ones can be taken away, too
    result = result_of(group / 'seed1')
    (group / 'seed1' / 'result.json').write_text(json.dumps(result | {'thresholds': 7}))
    choose(group, '--by=none')
    assert {path: path.read_bytes() for path in files} == before
    assert sorted(path for path in group.rglob('*') if path.is_file()) == files


def test_unsure_is_counted(tmp_path):
    group = make_group(tmp_path / 'kinds', list('abcdef'), multi_label=False)
    text = choose(group, '--at_precision=0.9')
    table_of(group)
    summary = json.loads((tmp_path / 'summary.json').read_text())['groups'][0]['thresholds']
    run = group / 'seed1'
    values = np.array(result_of(run)['thresholds']['values'])
    p = probs_of(run, 'test')
    unsure = 100 * (p < values).all(1).mean()
    assert 0 < unsure < 100
    assert summary[1]['with']['test']['unsure'] == pytest.approx(unsure)
    assert 'unsure: val' in text
    assert 'Mean of 6 classes: chosen for a precision of 90 % on val' in text
    assert 'unsure: val' not in choose(group, '--by=f1')


def test_of_many_classes_the_rarest_are_shown(tmp_path):
    """In val, in their order; in test others are the rarest."""
    classes = [f'k{i}' for i in range(14)]
    counts = {'val': np.array([9, 20, 3, 19, 4, 18, 5, 17, 6, 16, 7, 8, 15, 10])}
    counts['test'] = 25 - counts['val']
    labels = {split: np.repeat(np.arange(14), n) for split, n in counts.items()}
    rng = np.random.default_rng(0)
    logits = {}
    for split, of_split in labels.items():
        logits[split] = 3 * np.eye(14)[of_split] + rng.normal(size=(len(of_split), 14))
    make_run(tmp_path / 'kinds/seed0', logits, labels, classes)
    text = choose(tmp_path / 'kinds', '--by=f1')
    shown = [line.split(',')[0][2:] for line in text.splitlines() if ', at ' in line]
    assert shown == ['k0', 'k2', 'k4', 'k6', 'k8', 'k9', 'k10', 'k11', 'k12', 'k13']
    assert 'The classes are the 10 of 14 that are rarest in val' in text


def test_notes_on_what_val_cannot_say(tmp_path):
    """A class that val lacks, and one whose likeliest text is of another class."""
    labels = {'val': np.array([0] * 20 + [1] * 20), 'test': np.array([0, 1, 2] * 10)}
    logits = {}
    for split, y in labels.items():
        logits[split] = 2.0 * flags(y, 3) + np.linspace(0, 0.1, len(y))[:, None]
    logits['val'][0] = [0, 9, 0]
    for k in range(2):
        make_run(tmp_path / f'kinds/seed{k}', logits, labels, ['a', 'b', 'c'])
    text = choose(tmp_path / 'kinds', '--at_precision=0.99')
    assert 'Val of kinds has no text of c, so the threshold is 0.5.' in text
    assert 'the thresholds of a rest on fewer than 20 texts of val' in text  # 19 reach it
    assert 'no threshold reaches a precision of 99 % on val for b (2 of 2 runs);' in text
    assert result_of(tmp_path / 'kinds/seed0')['thresholds']['values'][2] == NEUTRAL


def test_a_packed_group_is_judged_and_stays_as_it_is(tmp_path):
    group = make_group(tmp_path / 'kinds', ['a', 'b', 'c'], multi_label=False)
    expected = choose(group, '--at_precision=0.9')
    shutil.move(tmp_path / 'thresholds.md', tmp_path / 'of_runs.md')
    choose(group, '--by=none')
    pack.main(config_of(pack), [group, tmp_path / 'packed/kinds'])
    before = (tmp_path / 'packed/kinds/runs.jsonl').read_bytes()
    assert choose(tmp_path / 'packed/kinds', '--at_precision=0.9') == expected
    assert (tmp_path / 'packed/kinds/runs.jsonl').read_bytes() == before
    assert len(list((tmp_path / 'packed/kinds').iterdir())) == 2


def test_thresholds_need_probabilities(tmp_path, capsys):
    group = make_group(tmp_path / 'kinds', ['a', 'b', 'c'], multi_label=False)
    pack.main(config_of(pack, '--answers=right'), [group, tmp_path / 'packed/kinds'])
    error = fails(capsys, tmp_path / 'packed/kinds', '--by=f1', run=choose)
    assert 'its probabilities are not kept' in error


def test_runs_of_two_kinds_are_noted(tmp_path):
    group = make_group(tmp_path / 'kinds', ['a', 'b'], multi_label=False)
    choose(group, '--by=f1')
    result = result_of(group / 'seed1')
    del result['thresholds']
    (group / 'seed1/result.json').write_text(json.dumps(result))
    text = table_of(group)
    assert 'The runs of kinds do not all have thresholds of one kind' in text
    assert '## Thresholds' not in text


def test_mistakes_end_in_one_line_and_write_nothing(tmp_path, capsys):
    group = make_group(tmp_path / 'kinds', ['a', 'b', 'unsure'], multi_label=False)
    before = {path: path.read_bytes() for path in group.rglob('result.json')}
    for argv, words in [
        (['--by=F1'], "by is 'f1' or 'none'"),
        ([], 'give one of'),
        (['--by=f1', '--at_recall=0.9'], 'give one of'),
        (['--at_precision=0.9', '--at_recall=0.9'], 'give one of'),
        (['--by=none', '--at_precision=0.9'], 'give one of'),
        (['--at_precision=1.1'], 'above 0 and at most 1'),
        (['--at_recall=-0.5', '--threshold_class=a'], 'above 0 and at most 1'),
        (['--at_recall=0.9'], 'choose one with --threshold_class=NAME'),
        (['--threshold_class=a'], 'give one of'),
        (['--by=none', '--threshold_class=a'], 'removes the thresholds of all classes'),
        (['--by=f1', tmp_path], 'name one group'),
        (['--by=f1', '--threshold_class=x'], "no class 'x'; there are a, b, unsure"),
        (['--at_precision=0.9'], "there is a class 'unsure'"),
    ]:
        assert words in fails(capsys, group, *argv, run=choose), argv
        assert {path: path.read_bytes() for path in group.rglob('result.json')} == before
        assert not (tmp_path / 'thresholds.md').exists()
    result = result_of(group / 'seed2')
    damaged = {'rule': 'f1', 'goal': None, 'values': [0.5, 2, 0.5]}
    (group / 'seed2/result.json').write_text(json.dumps(result | {'thresholds': damaged}))
    assert 'seed2: result.json has damaged thresholds' in fails(capsys, group, run=table_of)


# tools.predict and tools.serve

@pytest.fixture(scope='module')
def with_thresholds(home, tmp_path_factory):
    """Copies of runs of `home`, with thresholds: {name: folder of the group}."""
    groups = {}
    for name, argv in (('bce', ['--at_precision=0.9']), ('topics', ['--by=f1'])):
        folder = tmp_path_factory.mktemp('with') / name
        shutil.copytree(home / f'out/{name}', folder)
        choose(folder, *argv)
        groups[name] = folder
    return groups


def texts_of_val(home, classifier, name):
    tokens = np.load(home / f'data/{name}/val_tokens.npy')
    offsets = np.load(home / f'data/{name}/val_offsets.npy').astype(int)
    texts = []
    for begin, end in zip(offsets[:-1], offsets[1:]):
        texts.append(classifier.encoding.decode(tokens[begin:end].tolist()))
    return texts


@pytest.mark.parametrize('name, data', [('bce', 'sample'), ('topics', 'topics')])
def test_labels_of_predict_are_the_decisions_of_evaluate(home, Classifier, with_thresholds, name,
                                                         data):
    """On val, from its texts, against the logits in preds.npz and the rules of labels.py."""
    run = with_thresholds[name] / 'seed0'
    classifier = Classifier(run)
    kept = result_of(run)['thresholds']
    chosen = Thresholds(kept['rule'], kept['goal'], np.array(kept['values']))
    preds = np.load(run / 'preds.npz')
    head = classifier.model.runs[0].model.head
    logits = torch.from_numpy(preds['val_logits']).double()
    p = head.probs(logits / result_of(run)['last']['temperature']).numpy()
    answers = decide(p, classifier.multi_label, chosen)
    texts = texts_of_val(home, classifier, data)
    agree = 0
    for answer, row in zip(answers, classifier.probs(texts)):
        label = classifier.label(row)
        if classifier.multi_label:
            agree += label == [classifier.classes[c] for c in np.nonzero(answer)[0]]
        else:
            agree += label == ('unsure' if answer == NO_ANSWER else classifier.classes[answer])
    assert agree == len(texts)
    plain = Classifier(run, thresholds=False)
    assert plain.id == Classifier(home / f'out/{name}/seed0').id != classifier.id
    differing = [row for row in p if plain.label(row) != classifier.label(row)]
    assert differing


def test_an_ensemble_has_the_mean_of_its_thresholds(Classifier, with_thresholds, tmp_path):
    group = with_thresholds['bce']
    values = [result_of(group / f'seed{k}')['thresholds']['values'] for k in (0, 1)]
    ensemble = Classifier(group)
    assert ensemble.labels.thresholds.values == pytest.approx(np.mean(values, 0))

    shutil.copytree(group, tmp_path / 'mixed')
    path = tmp_path / 'mixed/seed1/result.json'
    result = json.loads(path.read_text())
    other_goal = {**result, 'thresholds': result['thresholds'] | {'goal': 0.8}}
    without = {key: value for key, value in result.items() if key != 'thresholds'}
    for other in (other_goal, without):
        path.write_text(json.dumps(other))
        with pytest.raises(ValueError, match='seed1 cannot be used .*of another kind than'):
            Classifier(tmp_path / 'mixed')
    Classifier(tmp_path / 'mixed', thresholds=False)


def test_thresholds_on_the_command_line(home, Classifier, with_thresholds):
    """One that all texts reach: the label is not the likeliest class, and the number is its own."""
    run = with_thresholds['bce'].parent / 'forced'
    shutil.copytree(with_thresholds['bce'] / 'seed0', run)
    result = result_of(run)
    result['thresholds'] = {'rule': 'recall', 'goal': 1.0, 'values': [0.0, None]}
    (run / 'result.json').write_text(json.dumps(result))
    text = 'a wonderful film'
    printed = call(home, 'tools.predict', run, '--format=csv', text, 'a boring film')
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row['label'] for row in rows] == ['neg', 'neg']
    lines = call(home, 'tools.predict', run, '--explain', text).splitlines()
    label, probability, _ = lines[0].split('  ')
    assert label == 'neg'
    assert float(probability) == pytest.approx(float(rows[0]['p_neg']), abs=1e-3)
    assert lines[1] == '  for neg:'

    result['thresholds']['values'] = [0.5]
    (run / 'result.json').write_text(json.dumps(result))
    error = call(home, 'tools.serve', run, code=2)
    assert 'result.json has damaged thresholds' in error
    assert error.count('\n') == 1
    with pytest.raises(ValueError, match='cannot be used .*damaged thresholds'):
        Classifier(run)
    assert call(home, 'tools.predict', run, text, '--thresholds=False')


def test_thresholds_are_of_the_last_weights(Classifier, with_thresholds, tmp_path):
    shutil.copytree(with_thresholds['bce'] / 'seed0', tmp_path / 'seed0')
    result = result_of(tmp_path / 'seed0')
    for best, last in ((2, 3), (3, 3)):
        result['best']['epoch'] = best
        result['last']['epoch'] = last
        (tmp_path / 'seed0/result.json').write_text(json.dumps(result))
        if best != last:
            with pytest.raises(ValueError, match='thresholds were chosen for its last weights'):
                Classifier(tmp_path / 'seed0', 'best')
        else:
            Classifier(tmp_path / 'seed0', 'best')
        Classifier(tmp_path / 'seed0', 'best', thresholds=False)
