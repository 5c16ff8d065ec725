"""results/losses/rare: a data set with a rare class, and epochs in which it is as frequent as the
others (10 s)."""
import json
import math

import numpy as np
import pytest
from helpers import config_of, fails, make_data, outcome, save, toy_reviews, train, train_config

import train as train_module
from nanoloss.data import Split, load_data, spans_of
from results.losses.rare import oversample, subsample_class


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The toy data set, and toy_rare with a fifth of class 1 -> the folder of data sets."""
    folder = make_data(tmp_path_factory.mktemp('data'))
    subsample_class.main(config_of(subsample_class, f'--data_dir={folder}', '--dataset=toy',
                                   '--keep_frac=0.2'))
    return folder


def texts_of(split):
    return [split.tokens[begin:end].tolist() for begin, end in split.spans]


# The data set

def test_the_first_texts_of_the_last_class_are_kept(data):
    splits, _ = load_data(data / 'toy')
    rare, meta = load_data(data / 'toy_rare')
    labels = splits['train'].labels
    kept = math.ceil(0.2 * labels.sum())
    rows = [*np.flatnonzero(labels == 0), *np.flatnonzero(labels == 1)[:kept]]
    texts = texts_of(splits['train'])
    assert texts_of(rare['train']) == [texts[row] for row in sorted(rows)]
    assert rare['train'].labels.tolist() == labels[sorted(rows)].tolist()
    assert meta['splits']['train']['rows'] == len(rows) < len(labels)
    for name in 'val', 'test':
        assert texts_of(rare[name]) == texts_of(splits[name])
        assert rare[name].labels.tolist() == splits[name].labels.tolist()


def test_the_head_knows_the_shares_of_what_is_kept(data, tmp_path):
    train(data, tmp_path, '--dataset=toy_rare', '--head=ce', '--class_weight=balanced')
    labels = np.load(data / 'toy/train_labels.npy')
    kept = math.ceil(0.2 * labels.sum())
    n = (labels == 0).sum() + kept
    config = json.loads((tmp_path / 'seed0/config.json').read_text())
    assert config['class_share'] == pytest.approx([1 - kept / n, kept / n])
    _, log, _, _ = outcome(tmp_path / 'seed0')
    assert log[-1]['step'] == 2 * math.ceil(n / 16)


@pytest.mark.parametrize('argv, says', [
    (['--dataset=toy', '--keep_frac=0'], 'keep_frac must be above 0 and at most 1, not 0.0'),
    (['--dataset=toy', '--keep_frac=1.5'], 'keep_frac must be above 0 and at most 1'),
    (['--dataset=many'], 'several labels per text'),
    (['--dataset=none'], 'no data in')])
def test_data_sets_that_cannot_be_made(argv, says, tmp_path, capsys):
    make_data(tmp_path)
    save(tmp_path / 'many', {name: ([[1], [2]], [[0, 1], [1, 1]])
                             for name in ('train', 'val', 'test')})

    def run():
        subsample_class.main(config_of(subsample_class, f'--data_dir={tmp_path}', *argv))
    assert says in fails(capsys, run=run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['many', 'toy']


# Oversampling

@pytest.mark.parametrize('classes', [[90, 10], [3, 80, 17], [50, 50], [1, 99], [33, 33, 34]])
def test_an_epoch_has_equally_many_texts_of_every_class(classes):
    labels = np.repeat(np.arange(len(classes)), classes)
    n = len(labels)
    for seed in range(3):
        order = oversample.oversampled(labels, np.random.default_rng(seed))
        assert len(order) == n
        per_class = np.bincount(labels[order], minlength=len(classes))
        assert per_class.max() - per_class.min() <= len(classes) - 1
        drawn = np.bincount(order, minlength=n)
        for y in range(len(classes)):
            of_class = drawn[labels == y]
            # whole passes, then some texts once more; the surplus of the epoch is dropped
            passes = math.ceil(n / len(classes)) // classes[y]
            assert of_class.max() <= passes + 1
            assert (of_class < passes).sum() <= len(classes) - 1
        first_half = np.bincount(labels[order[:n // 2]], minlength=len(classes))
        assert (first_half > 0).all()  # the classes are mixed


def test_an_epoch_draws_the_extra_texts_anew():
    """Of 97 texts of class 0, 50 are drawn; of 3 of class 1, two 17 times and one 16 times."""
    labels = (np.arange(100) >= 97).astype(np.uint8)
    n_drawn = np.zeros(97, int)
    n_fewer = np.zeros(3, int)
    for seed in range(60):
        order = oversample.oversampled(labels, np.random.default_rng(seed))
        drawn = np.bincount(order, minlength=100)
        assert drawn[:97].max() == 1
        n_drawn += drawn[:97]
        assert sorted(drawn[97:]) == [16, 17, 17]
        n_fewer += drawn[97:] == 16
    # binomial counts of mean 31 and 20: five standard deviations
    assert abs(n_drawn - 60 * 50 / 97).max() < 20
    assert abs(n_fewer - 20).max() < 19


def test_oversampled_texts_make_batches():
    """Of a class with four texts in a hundred, each comes about as often as the others do."""
    reviews, _ = toy_reviews(100, np.random.default_rng(0))
    labels = (np.arange(100) % 25 == 0).astype(np.uint8)
    offsets = np.cumsum([0, *map(len, reviews)])
    split = Split(np.concatenate(reviews).astype(np.uint32), spans_of(offsets), labels)
    config = config_of(train_module, '--block_size=20', '--batch_size=16', '--epochs=3')
    drawn = np.zeros(100, int)
    config.device = 'cpu'
    for batch in oversample.training_batches(config, split, 0, 7):
        assert batch.labels.tolist() == labels[batch.rows].tolist()
        np.add.at(drawn, batch.rows, 1)
    assert drawn.sum() == 300 and drawn[labels == 1].sum() == 150
    rare = drawn[labels == 1]
    assert rare.max() - rare.min() <= 3  # at most one more an epoch


def test_a_resumed_epoch_continues_with_the_same_batches(data):
    splits, _ = load_data(data / 'toy_rare')
    config = config_of(train_module, '--block_size=20', '--batch_size=16', '--epochs=2')
    config.device = 'cpu'
    steps = math.ceil(len(splits['train'].labels) / 16)
    everything = list(oversample.training_batches(config, splits['train'], 0, steps))
    assert len(everything) == 2 * steps
    for first_step in 3, steps, steps + 2:
        rest = oversample.training_batches(config, splits['train'], first_step, steps)
        for batch, expected in zip(rest, everything[first_step:], strict=True):
            assert batch.rows.tolist() == expected.rows.tolist()
            assert batch.tokens.equal(expected.tokens)


def test_a_run_finds_more_of_the_rare_class(data, tmp_path, monkeypatch):
    """And its config.json says that it is not a run of train.py."""
    argv = ['--dataset=toy_rare', '--token_dropout=0.2', '--head=ce']
    train(data, tmp_path / 'plain', *argv)
    monkeypatch.setattr(train_module, 'training_batches', None)  # which it replaces
    oversample.main(train_config(data, tmp_path / 'over', *argv))
    n = len(np.load(data / 'toy_rare/train_labels.npy'))
    recalls = []
    for name in 'plain', 'over':
        _, log, _, preds = outcome(tmp_path / name / 'seed0')
        assert log[-1]['step'] == 2 * math.ceil(n / 16)
        found = np.argmax(preds['test_logits'], 1) == 1
        recalls.append(found[np.array(preds['test_labels']) == 1].mean())
    assert recalls[0] < 0.2 and recalls[1] > 0.7
    config = json.loads((tmp_path / 'over/seed0/config.json').read_text())
    assert config['oversample'] is True


def test_texts_with_several_labels_are_refused(tmp_path, monkeypatch, capsys):
    save(tmp_path / 'many', {name: ([[1], [2]], [[0, 1], [1, 1]])
                             for name in ('train', 'val', 'test')})
    monkeypatch.setattr(train_module, 'training_batches', None)  # which it replaces
    config = train_config(tmp_path, tmp_path / 'out', '--dataset=many')
    assert 'have no class to oversample' in fails(capsys, config, run=oversample.main)
