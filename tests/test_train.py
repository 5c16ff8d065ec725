"""train.py: its schedule against brute force, whole runs on small data, every mistake a user can
make. About 40 s."""
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import call
from helpers import (
    ROOT, SMALL, TINY, WINDOWS, at_evaluation, fails, interrupt, make_data, outcome, same, save,
    script, toy_reviews, train, train_config)

import model as model_script
import train as train_script
from model import Classifier, make_classifier, make_head, model_settings
from nanoloss import data as data_script
from nanoloss import loop, optim
from nanoloss.classifier import TextClassifier
from nanoloss.data import Split, load_data
from nanoloss.ensemble import pseudo_label
from nanoloss.linear import fit_mix
from nanoloss.runs import RunFolder, read_run
from nanoloss.settings import configure
from nanoloss.text import NGRAM_KINDS
from nanoloss.tokenizer import tokenizer


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data'))


def config_of(folder):
    return json.loads((folder / 'config.json').read_text())


# Whole runs

@pytest.mark.parametrize('head', ['bce', 'ce'])
def test_a_toy_task_is_learnt_and_logged(data, tmp_path, head, capsys):
    train(data, tmp_path, f'--head={head}', '--epochs=6', '--token_dropout=0.1')
    result, log, _, preds = outcome(tmp_path / 'seed0')
    assert result['last']['test']['accuracy'] > 0.85
    assert len(log) == 6
    assert log[-1]['epoch'] == 6
    assert log[-1]['train_loss'] < log[0]['train_loss']
    assert log[-1]['val_acc'] == result['last']['val']['accuracy']

    # the count by another way: one logit above 0, or the larger of two
    for split, n in ('val', 50), ('test', 70):
        z = np.array(preds[f'{split}_logits'])
        y = np.array(preds[f'{split}_labels'])
        decided = z[:, 0] > 0 if head == 'bce' else z[:, 1] > z[:, 0]
        assert (decided == y).sum() == result['last'][split]['correct']
        assert len(y) == result['last'][split]['n'] == n

    best = max(log, key=lambda row: row['val_acc'])
    assert result['best']['epoch'] == best['epoch']
    assert result['best']['val']['accuracy'] == best['val_acc']
    files = {path.name for path in (tmp_path / 'seed0').iterdir()}
    assert files == {
        'config.json', 'log.jsonl', 'result.json', 'preds.npz', 'model.pt', 'best.pt'}
    config = config_of(tmp_path / 'seed0')
    assert config['head'] == head
    assert config['epochs'] == 6
    assert config['device'] == 'cpu'
    assert config['torch']
    assert 'epoch 6/6' in capsys.readouterr().out


def test_same_seed_same_numbers_other_seed_others(data, tmp_path):
    train(data, tmp_path / 'a', '--n_runs=2', '--dropout=0.1')
    train(data, tmp_path / 'b', '--dropout=0.1')
    assert outcome(tmp_path / 'a/seed0') == outcome(tmp_path / 'b/seed0')
    assert outcome(tmp_path / 'a/seed0')[1] != outcome(tmp_path / 'a/seed1')[1]
    assert config_of(tmp_path / 'a/seed1')['seed'] == 1
    train(data, tmp_path / 'c', '--dropout=0.1', '--seed=1')
    assert outcome(tmp_path / 'a/seed1') == outcome(tmp_path / 'c/seed1')


@pytest.fixture
def steps_seen(monkeypatch):
    """A list to which each training step adds its reviews, each as its tokens and their counts, and
    a random number, drawn as dropout would draw it."""
    seen = []
    forward = Classifier.forward

    def recorded_forward(model, tokens, counts, ngrams=None):
        if model.training:
            reviews = []
            for bag in torch.stack([tokens, counts.long()], 2).tolist():
                reviews.append(tuple(sorted((token, n) for token, n in bag if n)))
            with torch.random.fork_rng(devices=[]):
                number = torch.rand(1, dtype=torch.float64).item()
            seen.append((frozenset(reviews), number))
        return forward(model, tokens, counts, ngrams)
    monkeypatch.setattr(Classifier, 'forward', recorded_forward)
    return seen


@pytest.mark.parametrize('token_dropout', [0, 0.5])
def test_every_epoch_of_every_seed_draws_anew(data, tmp_path, monkeypatch, steps_seen,
                                              token_dropout):
    """The order of the reviews, the tokens that are left out, and, at each step, dropout."""
    monkeypatch.setattr('nanoloss.data.POOL', 1)
    train(data, tmp_path, '--n_runs=2', f'--token_dropout={token_dropout}')
    assert len(steps_seen) == 2 * 2 * 14  # seeds, epochs, steps
    batches_seen = [reviews for reviews, _ in steps_seen]
    assert len(set(batches_seen)) == 2 * 2 * 14  # no two batches have the same reviews
    reviews_of_epochs = {frozenset().union(*batches_seen[i:i + 14]) for i in range(0, 56, 14)}
    assert len(reviews_of_epochs) == (4 if token_dropout else 1)
    assert len({number for _, number in steps_seen}) == 2 * 2 * 14


def test_the_training_figures_are_those_of_the_epoch_so_far(data, tmp_path):
    """Evaluations on the way do not begin them anew; the end of the epoch does."""
    logs = []
    for eval_interval in 0, 5:
        folder = tmp_path / str(eval_interval)
        train(data, folder, f'--eval_interval={eval_interval}', '--deferred=False', '--dropout=0.1')
        logs.append({row['step']: row for row in outcome(folder / 'seed0')[1]})
    once, often = logs
    assert once.keys() == {14, 28}
    for step, row in once.items():
        assert often[step] == row
    n_correct = often[15]['train_acc'] * 16  # of the first batch of the second epoch
    assert n_correct == pytest.approx(round(n_correct), abs=1e-9)


@pytest.mark.parametrize('trunk', [[], WINDOWS], ids=['transformer', 'windows'])
def test_a_resumed_run_is_the_uninterrupted_one(data, tmp_path, capsys, trunk):
    """A run that is cut in its first epoch, at the end of an epoch, in a middle epoch and in its
    last one."""
    argv = ['--epochs=3', '--dropout=0.1', *trunk, '--eval_interval=5', '--ckpt_secs=0']
    train(data, tmp_path / 'uncut', *argv)
    # 14 steps an epoch: evaluations at 5, 10, 14 | 15, 20, 25, 28 | 30, 35, 40, 42
    step = 0
    for n_evaluations, step_of_cut in (1, 4), (4, 14), (2, 19), (4, 29):
        module = at_evaluation(n_evaluations, interrupt)
        with pytest.raises(SystemExit) as stop:
            train(data, tmp_path / 'cut', *argv, module=module)
        assert stop.value.code == 130
        assert (f'resumes after step {step} of 42' in capsys.readouterr().out) == (step > 0)
        assert not (tmp_path / 'cut/seed0/result.json').exists()
        step = step_of_cut
        state = torch.load(tmp_path / 'cut/seed0/ckpt.pt', weights_only=True)
        assert state['progress']['step'] == step
    train(data, tmp_path / 'cut', *argv)
    assert 'resumes after step 29 of 42' in capsys.readouterr().out
    assert outcome(tmp_path / 'cut/seed0') == outcome(tmp_path / 'uncut/seed0')
    assert not (tmp_path / 'cut/seed0/ckpt.pt').exists()
    log = outcome(tmp_path / 'cut/seed0')[1]
    assert [row['step'] for row in log] == [5, 10, 14, 15, 20, 25, 28, 30, 35, 40, 42]
    epochs = [5 / 14, 10 / 14, 1, 15 / 14, 20 / 14, 25 / 14, 2, 30 / 14, 35 / 14, 40 / 14, 3]
    assert [row['epoch'] for row in log] == [round(epoch, 4) for epoch in epochs]


def test_the_state_is_saved_as_often_as_ckpt_secs_says(data, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(loop, 'save_checkpoint', lambda folder, state: saved.append(folder.parent))
    for name, ckpt_secs in (('each step', 0), ('never', 1000)):
        train(data, tmp_path / name, '--epochs=2', f'--ckpt_secs={ckpt_secs}')
    assert saved == [tmp_path / 'each step'] * 28


@pytest.mark.parametrize('max_tokens, trunk', [(1, []), (60, []), (60, [*WINDOWS, '--dropout=0'])],
                         ids=['one review', 'a few', 'windows'])
def test_micro_batches_are_the_whole_batch(data, tmp_path, max_tokens, trunk):
    """A step in micro-batches, of one review each or of a few, is the step of the whole batch."""
    argv = [*trunk, '--dtype=float64', '--epochs=1', '--batch_size=50', '--token_dropout=0.3']
    train(data, tmp_path / 'one', *argv)  # 210 reviews are 4 batches of 50, and one of 10
    train(data, tmp_path / 'micro', *argv, f'--max_tokens={max_tokens}')
    same(outcome(tmp_path / 'one/seed0'), outcome(tmp_path / 'micro/seed0'))


@pytest.mark.parametrize('trunk', [[], WINDOWS], ids=['transformer', 'windows'])
def test_deferred_steps_are_those_of_dense_adamw(data, tmp_path, monkeypatch, trunk):
    """A whole training in float64, with embeddings that wait and with torch's AdamW on all of them;
    eps, in which they differ, out of the way."""
    monkeypatch.setattr(optim, 'AdamW', partial(optim.AdamW, eps=1e-30))
    argv = [*trunk, '--dtype=float64', '--token_dropout=0.5', '--weight_decay=1',
            '--eval_interval=5', '--embedding_rate=0']
    module = script()
    deferred_adamw = module.DeferredAdamW
    made = []

    def make_deferred(*args):
        made.append(deferred_adamw(*args, eps=1e-30))
        return made[-1]
    module.DeferredAdamW = make_deferred
    train(data, tmp_path / 'deferred', *argv, module=module)
    assert len(made) == 1
    train(data, tmp_path / 'dense', *argv, '--deferred=False', module=script())
    assert config_of(tmp_path / 'deferred/seed0')['deferred'] is True
    assert config_of(tmp_path / 'dense/seed0')['deferred'] is False
    outcomes = [outcome(tmp_path / name / 'seed0') for name in ('deferred', 'dense')]
    for _, _, weights, _ in outcomes:  # a key's bias has no gradient but rounding
        weights.pop('trunk.blocks.0.qkv.bias', None)
    same(*outcomes)


SHARED = {  # what two processes share -> its further arguments
    'deferred': [],
    'dense, in parts': ['--deferred=False', '--max_tokens=60'],
    'windows': [*WINDOWS, '--dropout=0'],
}


@pytest.fixture(scope='module')
def odd_data(data, tmp_path_factory):
    """The data with 209 training texts: the last batch has one text, so that one of two processes
    has none."""
    folder = tmp_path_factory.mktemp('odd')
    shutil.copytree(data, folder, dirs_exist_ok=True)
    meta = json.loads((folder / 'toy/meta.json').read_text())
    for name in 'train_offsets', 'train_labels':
        array = np.load(folder / f'toy/{name}.npy')[:-1]
        np.save(folder / f'toy/{name}.npy', array)
        meta['sha256'][f'{name}.npy'] = hashlib.sha256(array).hexdigest()
    (folder / 'toy/meta.json').write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize('name', SHARED)
def test_two_processes_are_one(odd_data, tmp_path, name):
    """torchrun with two gloo processes: the same batches, half of each to a process. Only the first
    process writes and prints."""
    argv = ['--dtype=float64', '--token_dropout=0.3', *SHARED[name]]
    train(odd_data, tmp_path / 'one', *argv)
    shutil.copytree(tmp_path / 'one', tmp_path / 'two')  # a finished run in the way
    base = SMALL if '--trunk=windows' in argv else TINY
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
         ROOT / 'train.py', *base, f'--data_dir={odd_data}', f'--out_dir={tmp_path / "two"}',
         *argv, '--overwrite'], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    one = tmp_path / 'one/seed0'
    two = tmp_path / 'two/seed0'
    same(outcome(one), outcome(two))
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert config_of(one)['processes'] == 1
    assert config_of(two)['processes'] == 2
    assert done.stdout.count(f'{two}  epoch 2/2') == done.stdout.count(f'{two}  done') == 1


def test_bag_on_and_off_are_one_training(data, tmp_path):
    """In float64, with one batch an epoch (bags are sorted by their own size), training on bags is
    training on the sequences, the same tokens left out."""
    for bag in True, False:
        train(data, tmp_path / str(bag), '--dtype=float64', f'--bag={bag}', '--token_dropout=0.3',
              '--batch_size=300', '--epochs=12')
        assert config_of(tmp_path / str(bag) / 'seed0')['bag'] is bag
    a = outcome(tmp_path / 'True/seed0')
    b = outcome(tmp_path / 'False/seed0')
    assert a[1][-1]['train_loss'] < a[1][0]['train_loss'] - 0.01
    assert a[0]['last']['test']['loss'] == pytest.approx(b[0]['last']['test']['loss'], rel=1e-6)


@pytest.mark.parametrize('trunk', [['--ngrams=none'], ['--window=1', '--n_embd=2']],
                         ids=['windows', 'n-grams'])
def test_windows_and_n_grams_each_learn(tmp_path, trunk):
    """Whether 1 stands before 2 or after it: pairs alone can tell."""
    rng = np.random.default_rng(0)

    def reviews(n):
        labels = rng.integers(0, 2, n)
        noise = rng.integers(3, 30, (n, 8)).tolist()
        return [[*row[:4], *[(1, 2), (2, 1)][y], *row[4:]] for row, y in zip(noise, labels)], labels
    save(tmp_path / 'toy', {split: reviews(n) for split, n in {
        'train': 600, 'val': 50, 'test': 50}.items()})
    train(tmp_path, tmp_path / 'out', *WINDOWS, '--epochs=12', '--learning_rate=1e-2', *trunk)
    result, _, weights, _ = outcome(tmp_path / 'out/seed0')
    assert result['last']['test']['accuracy'] > 0.9
    config = config_of(tmp_path / 'out/seed0')
    assert config['known_tokens'] == len(weights['tokens']) == 29
    assert ('ngrams.keys' in weights) == (config['known_ngrams'] > 0)
    assert config['bag'] is (config['window'] == 1)  # only order forbids bags


@pytest.mark.parametrize('kind', NGRAM_KINDS)
def test_texts_without_n_grams_are_the_trunk_s_alone(tmp_path, kind):
    """Training and prediction of batches in which some texts, or all, have no n-grams."""
    encoding = tokenizer()
    words = encoding.encode_ordinary(' good'), encoding.encode_ordinary(' the end of a text')
    splits = {}
    for name, n in ('train', 60), ('val', 20), ('test', 20):
        labels = np.arange(n) % 2
        reviews = [3 * words[y] for y in labels]
        reviews[::6] = [[encoding.eot_token]] * len(reviews[::6])
        splits[name] = reviews, labels
    save(tmp_path / 'toy', splits, vocab_size=encoding.n_vocab)
    train(tmp_path, tmp_path / 'out', *WINDOWS, f'--ngrams={kind}', '--batch_size=3', '--epochs=3',
          '--min_count=1', '--n_embd=4')
    classifier = TextClassifier(tmp_path / 'out/seed0')
    model = classifier.model.runs[0].model
    assert model.ngrams.sums.weight.abs().max() > 0.01
    for texts in [''], ['', ' good good good', '']:
        batch = next(classifier.model.make_batches(classifier.tokens(texts)))
        trunk = model(batch.tokens, batch.counts)
        both = model(batch.tokens, batch.counts, batch.ngrams)
        added = both - model.mix[0] * trunk - model.mix[1] * model.ngrams.bias
        has_none = torch.tensor([texts[row] == '' for row in batch.rows])
        assert added[has_none].abs().max() < 1e-6
        assert (added[~has_none].abs() > 1e-3).all()
    preds = np.load(tmp_path / 'out/seed0/preds.npz')['test_logits']
    for row in preds[::6]:
        assert row == pytest.approx(both[has_none][0].tolist(), abs=1e-3)


def test_answers_that_tie_in_float16_count_as_evaluate_counts_them(data, tmp_path):
    """The counts of result.json are those of the logits in preds.npz, which are float16."""
    module = script()
    tie = torch.tensor([[1, 1.0001]])
    module.predict = lambda config, model, split, **_: tie.repeat(len(split.labels), 1)
    train(data, tmp_path, '--head=ce', '--epochs=1', module=module)
    result, log, _, preds = outcome(tmp_path / 'seed0')
    for split in 'val', 'test':
        n_first = preds[f'{split}_labels'].count(0)  # which a tie goes to
        assert n_first != len(preds[f'{split}_labels']) / 2
        assert result['last'][split]['correct'] == result['best'][split]['correct'] == n_first
    assert log[0]['val_acc'] == result['last']['val']['accuracy']
    # rejects a run whose counts differ
    run = read_run(RunFolder(tmp_path / 'seed0'), make_head)
    assert run.result['last'] == result['last']


def derived(data, folder, *argv, change=None):
    """What train.py derives from the toy data before it trains, without a cache: the splits, the
    vocabulary and the linear model. change: a split whose labels are moved by one text."""
    module = script()
    found = []

    def number_data(config, splits, head, trunk_weights):
        config.teacher = 'none'  # so there is no cache
        if change:
            splits[change] = splits[change]._replace(labels=np.roll(splits[change].labels, 1))
        found.extend(train_script.number_data(config, splits, head, trunk_weights))
        raise SystemExit
    module.number_data = number_data
    with pytest.raises(SystemExit):
        train(data, folder, *argv, module=module)
    return found


def test_the_linear_model_comes_from_the_training_texts(data, tmp_path):
    argv = [*WINDOWS, '--min_count=2']
    plain, of_train, of_val = (derived(data, tmp_path, *argv, change=change)[2]
                               for change in (None, 'train', 'val'))
    for a, b, c in zip(plain, of_train, of_val, strict=True):
        assert not np.array_equal(a, b)
        assert np.array_equal(a, c)


@pytest.mark.parametrize('head', ['ce', 'bce'])
def test_the_linear_model_is_fitted_once_and_mixed_in(data, tmp_path, head):
    """All seeds have the weights of one fit, which training leaves alone. The answers are weighted
    sums, with the weights that `fit_mix` chooses on val."""
    argv = [*WINDOWS, f'--head={head}', '--n_runs=2', '--learning_rate=1e-2', '--dtype=float32']
    splits, vocabulary, fitted = derived(data, tmp_path / 'none', *argv)
    train(data, tmp_path, *argv)
    mixes = []
    for seed in 'seed0', 'seed1':
        for file in 'model.pt', 'best.pt':
            weights = torch.load(tmp_path / seed / file, weights_only=True)
            assert np.array_equal(weights['ngrams.sums.weight'], fitted.weight)
            assert np.array_equal(weights['ngrams.bias'], fitted.bias)
            assert np.array_equal(weights['ngrams.strength'], fitted.strength)
            assert np.array_equal(weights['ngrams.keys'].numpy().view(np.uint64), vocabulary.ngrams)

        config = config_of(tmp_path / seed)
        assert config['known_ngrams'] == len(vocabulary.ngrams) > 100
        model = make_classifier(config)
        model.load_state_dict(torch.load(tmp_path / seed / 'model.pt', weights_only=True))
        mixes.append(model.mix.tolist())
        model.eval()
        preds = np.load(tmp_path / seed / 'preds.npz')
        for name in 'val', 'test':
            split = splits[name]
            trunk = torch.zeros(split.linear.shape)
            with torch.no_grad():
                for batch in data_script.batches(split, SimpleNamespace(**config), 8):
                    trunk[batch.rows] = model(batch.tokens, batch.counts)
            if name == 'val':
                wanted = fit_mix(model.head, trunk, split.linear, split.labels)
                assert model.mix.tolist() == pytest.approx(wanted.tolist(), rel=1e-3)
            together = model.mix[0] * trunk + model.mix[1] * split.linear
            np.testing.assert_allclose(preds[f'{name}_logits'], together, rtol=2e-3, atol=2e-3)
    assert mixes[0] != mixes[1] and min(sum(mixes, [])) > 0


@pytest.mark.parametrize('n, length, wanted', [
    (10, 5, (8, 40, 'words+chars', 2)),  # 2 steps an epoch
    (10, 100, (8, 40, 'words+chars', 3)),
    (2400, 43, (32, 20, 'words+chars', 2)),
    (10_000, 12, (64, 10, 'words+chars', 2)),
    (20_000, 99, (64, 5, 'words+chars', 2)),
    (20_000, 100, (64, 5, 'words', 3)),
    (25_000, 297, (64, 4, 'words', 3)),
    (400_000, 100, (64, 4, 'words', 3)),
    (400_000, 20, (64, 4, 'words', 2)),
])
def test_automatic_settings_follow_the_texts(n, length, wanted):
    spans = np.stack([np.arange(n), np.arange(n) + length], 1)
    split = Split(None, spans, np.zeros(n))
    names = 'batch_size', 'epochs', 'ngrams', 'min_count'
    config = configure(vars(train_script), more=model_settings, argv=['--head=ce'])
    found = train_script.auto_settings(config, split)
    assert tuple(getattr(found, name) for name in names) == wanted
    assert config.batch_size == 0 and found.head == 'ce'  # a new config, the rest as it was
    # what is set, stays
    chosen = 16, 3, 'none', 5
    argv = [f'--{name}={value}' for name, value in zip(names, chosen)]
    config = configure(vars(train_script), more=model_settings, argv=argv)
    assert train_script.auto_settings(config, split) == config


def test_a_finished_run_is_skipped_and_other_settings_are_refused(data, tmp_path, capsys):
    train(data, tmp_path)
    before = (tmp_path / 'seed0/result.json').read_bytes()
    train(data, tmp_path, '--n_runs=1')
    assert 'complete already' in capsys.readouterr().out
    error = fails(capsys, data, tmp_path, '--weight_decay=0.5')
    assert 'weight_decay was 0.1, is 0.5' in error
    assert '--overwrite' in error
    assert (tmp_path / 'seed0/result.json').read_bytes() == before
    train(data, tmp_path, '--weight_decay=0.5', '--overwrite')
    assert (tmp_path / 'seed0/result.json').read_bytes() != before


def test_positions_learned_and_mixed_precision(data, tmp_path):
    train(data, tmp_path / 'learned', '--pos=learned', '--dtype=bfloat16')
    assert config_of(tmp_path / 'learned/seed0')['bag'] is False
    weights = torch.load(tmp_path / 'learned/seed0/model.pt', weights_only=True)
    assert 'trunk.positions.weight' in weights


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop.Progress, 'save_is_due', lambda self, epoch_ends, secs: epoch_ends)
    module = script()
    scheduled_rate = module.scheduled_rate

    def infinite_in_the_second_epoch(step, *args):
        return math.inf if step == 20 else scheduled_rate(step, *args)
    module.scheduled_rate = infinite_in_the_second_epoch
    error = fails(capsys, data, tmp_path, module=module)
    assert 'nan at step 21 (epoch 2)' in error
    # the last good state stays
    state = torch.load(tmp_path / 'seed0/ckpt.pt', weights_only=True)
    assert state['progress']['step'] == 14
    assert all(weight.isfinite().all() for weight in state['model'].values())


# What config.json says

@pytest.mark.parametrize('paths, folder', [
    ([], 'out/toy'), (['one.py'], 'out/one'), (['one.py', 'deep/two.py'], 'out/two'),
    (['deep/two.py', 'one.py'], 'out/one'), (['one.py', 'own.py'], 'elsewhere')])
def test_out_dir_is_the_config_files_name(data, tmp_path, paths, folder):
    """That of the last one; without any, the data set's; unless it is set."""
    (tmp_path / 'deep').mkdir()
    (tmp_path / 'one.py').write_text('n_layer = 0')
    (tmp_path / 'deep/two.py').write_text('epochs = 1')
    (tmp_path / 'own.py').write_text('out_dir = "elsewhere"')
    call(tmp_path, 'train.py', *TINY, f'--data_dir={data}', '--epochs=1', *paths)
    config = config_of(tmp_path / folder / 'seed0')
    assert config['out_dir'] == folder
    assert config['head'] == 'ce'
    assert (tmp_path / folder / 'seed0/result.json').exists()
    outputs = {path.name for path in tmp_path.iterdir()} - {'deep', 'one.py', 'own.py'}
    assert outputs == {folder.split('/')[0]}


def test_settings_are_written_as_they_have_been_settled(data, tmp_path, monkeypatch, capsys):
    argv = ['--epochs=1', '--device=auto', '--dtype=auto', '--threads=0', '--max_tokens=0']
    train(data, tmp_path / 'auto', *argv)
    config = config_of(tmp_path / 'auto/seed0')
    assert config['out_dir'] == str(tmp_path / 'auto')
    assert config['data_dir'] == str(data)
    if config['device'] == 'cpu':
        assert config['max_tokens'] == 8192
        assert config['dtype'] in ('bfloat16', 'float32')
        assert config['deferred'] is True
    assert config['bag'] is True
    assert config['threads'] == torch.get_num_threads()
    assert config['processes'] == 1
    # what the command settles on again is what stands there
    train(data, tmp_path / 'auto', *argv)
    assert 'complete already' in capsys.readouterr().out

    train(data, tmp_path / 'half', '--epochs=1', '--dtype=float16', '--pos=learned',
          '--max_tokens=100', '--threads=1')
    config = config_of(tmp_path / 'half/seed0')
    assert config['dtype'] == 'float16'
    assert config['deferred'] is False
    assert config['bag'] is False
    assert config['max_tokens'] == 100
    assert config['threads'] == 1


def test_what_config_says_of_the_data(data, tmp_path):
    train(data, tmp_path, '--epochs=1', '--head=focal', '--gamma=3')
    config = config_of(tmp_path / 'seed0')
    meta = json.loads((data / 'toy/meta.json').read_text())
    for key in 'tokenizer', 'vocab_size', 'classes':
        assert config[key] == meta[key]
    assert config['n_class'] == 2
    assert config['multi_label'] is False
    labels = np.load(data / 'toy/train_labels.npy')
    assert config['class_share'] == pytest.approx([1 - labels.mean(), labels.mean()])
    assert config['gamma'] == 3.0
    assert config['torch'] == torch.__version__
    assert re.fullmatch('[0-9a-f]{64}', config['data'])


def test_a_change_of_the_code_is_a_warning(data, tmp_path, capsys, monkeypatch):
    """A run is resumed by other code, with the two commits on stderr."""
    monkeypatch.setattr(loop, 'current_commit', lambda: 'a' * 40)
    with pytest.raises(SystemExit):
        train(data, tmp_path, '--ckpt_secs=0', module=at_evaluation(2, interrupt))
    assert config_of(tmp_path / 'seed0')['commit'] == 'a' * 40
    monkeypatch.setattr(loop, 'current_commit', lambda: 'b' * 40)
    capsys.readouterr()
    train(data, tmp_path, '--ckpt_secs=0')
    out, error = capsys.readouterr()
    assert 'resumes after step' in out
    assert error == (f'warning: {tmp_path}/seed0 was begun at commit {"a" * 40}, the code is now '
                     f'at {"b" * 40}\n')
    assert (tmp_path / 'seed0/result.json').exists()


# Heads and configs

def test_a_new_head_is_one_class(data, tmp_path):
    """Its keywords are settings and its lr_mult and wd_mult reach the optimizer: frozen, it stays
    where it was."""

    class Frozen(model_script.BrierHead):
        lr_mult = 0.0

        def __init__(self, n_features, n_class, gamma=2.0):
            super().__init__(n_features, n_class)
            self.gamma = gamma
    model_script.HEADS['frozen'] = Frozen
    try:
        train(data, tmp_path, '--head=frozen', '--gamma=3', '--weight_decay=1')
        assert config_of(tmp_path / 'seed0')['gamma'] == 3.0
        torch.manual_seed(0)
        start = make_classifier(config_of(tmp_path / 'seed0'))
        end = torch.load(tmp_path / 'seed0/model.pt', weights_only=True)
        assert end['head.linear.bias'].tolist() == [0, 0]
        assert torch.equal(end['head.linear.weight'], Frozen(16, 2).linear.weight)
        name = 'trunk.token_embedding.weight'
        assert not torch.equal(end[name], start.state_dict()[name])
        with pytest.raises(SystemExit):
            train(data, tmp_path / 'ce', '--head=ce', '--gamma=3')
    finally:
        del model_script.HEADS['frozen']


def test_the_loss_of_the_readme(data, tmp_path, monkeypatch):
    """The file that README.md shows trains, and its keyword is a setting."""
    section = (ROOT / 'README.md').read_text(encoding='utf-8').partition('\n## Hack it\n')[2]
    code = re.search(r'```python\n(.*?)```', section, re.DOTALL)[1]
    assert sum(map(bool, code.splitlines())) <= 12
    (tmp_path / 'poly.py').write_text(code)
    monkeypatch.chdir(tmp_path)
    train(data, tmp_path, str(ROOT / 'config/ce.py'), *TINY, f'--out_dir={tmp_path}',
          '--head=poly.py:PolyHead', '--epsilon=2')
    _, log, _, preds = outcome(tmp_path / 'seed0')
    assert log[-1]['train_loss'] < log[0]['train_loss']
    config = config_of(tmp_path / 'seed0')
    assert config['epsilon'] == 2.0
    assert config['head'] == 'poly.py:PolyHead'
    # the loss on val by hand
    z = torch.tensor(preds['val_logits']).double()
    log_p = z.log_softmax(1)[range(50), preds['val_labels']]
    assert log[-1]['val_loss'] == pytest.approx(float((-log_p + 2 * (1 - log_p.exp())).mean()),
                                                rel=1e-3)


def test_a_trunk_of_ones_own(data, tmp_path, monkeypatch):
    """A bag of embeddings, in a file, with a keyword that is a setting."""
    (tmp_path / 'bag.py').write_text('''
import torch
from model import Trunk

class Bag(Trunk):
    def __init__(self, n_tokens, block_size, n_embd=8, scale=1.0):
        super().__init__()
        self.n_features = n_embd
        self.ordered = False
        self.scale = scale
        self.token_embedding = torch.nn.Embedding(n_tokens, n_embd)

    def forward(self, tokens, counts):
        x = self.token_embedding(tokens) * counts[..., None]
        return self.scale * x.sum(1) / counts.sum(1, keepdim=True)
''')
    monkeypatch.chdir(tmp_path)
    base = [argument for argument in SMALL if not argument.startswith('--n_embd')]
    config = configure(vars(train_script), more=model_settings, argv=[
        *base, f'--data_dir={data}', '--out_dir=out', '--trunk=bag.py:Bag', '--scale=2'])
    train_script.main(config)
    _, log, weights, _ = outcome(tmp_path / 'out/seed0')
    assert log[-1]['train_loss'] < log[0]['train_loss']
    written = config_of(tmp_path / 'out/seed0')
    assert (written['trunk'], written['scale'], written['bag']) == ('bag.py:Bag', 2.0, True)
    assert len(weights['trunk.token_embedding.weight'][0]) == written['n_embd'] == 8


CONFIGS = sorted(path.name for path in (ROOT / 'config').glob('[!_]*.py'))


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_trains(data, tmp_path, name):
    train(data, tmp_path / 'run', str(ROOT / 'config' / name), '--epochs=1', *TINY,
          f'--out_dir={tmp_path}')
    result = json.loads((tmp_path / 'seed0/result.json').read_text())
    assert result['last']['train']['n'] == 50
    assert math.isfinite(result['last']['test']['loss'])


# Data of other kinds

def test_several_labels_a_review(tmp_path):
    """Two labels that are in the text, independent of each other, and some reviews with neither."""
    rng = np.random.default_rng(0)

    def reviews(n):
        labels = rng.integers(0, 2, (n, 2))
        texts = [[*rng.integers(5, 100, 6), *[1] * 4 * a, *[2] * 4 * b] for a, b in labels]
        return texts, labels
    sizes = {'train': 400, 'val': 60, 'test': 80}
    save(tmp_path / 'toy', {split: reviews(n) for split, n in sizes.items()})
    train(tmp_path, tmp_path / 'bce', '--head=bce', '--epochs=8', '--learning_rate=1e-2',
          '--token_dropout=0.2')
    result, log, _, preds = outcome(tmp_path / 'bce/seed0')
    z = np.array(preds['test_logits'])
    y = np.array(preds['test_labels'])
    assert z.shape == y.shape == (80, 2)
    correct = ((z > 0) == (y > 0)).all(1)  # all labels of a review
    assert result['last']['test']['correct'] == correct.sum() > 72
    assert log[-1]['val_acc'] > 0.9
    config = config_of(tmp_path / 'bce/seed0')
    assert config['multi_label'] is True
    labels = np.load(tmp_path / 'toy/train_labels.npy')
    assert config['class_share'] == pytest.approx(labels.mean(0).tolist())


def test_reviews_that_always_have_a_label(tmp_path):
    """Half of the reviews tell their label; of the others, no label is likely, and the likeliest is
    the answer. A run of an older version keeps its count."""
    rng = np.random.default_rng(0)

    def reviews(n):
        labels = rng.integers(0, 5, n)
        texts = [[*rng.integers(6, 100, 6), *[1 + y] * 4 * (i % 2)] for i, y in enumerate(labels)]
        rows = np.eye(5, dtype=int)[labels]
        rows[::10, 0] = 1
        return texts, rows
    sizes = {'train': 400, 'val': 60, 'test': 80}
    splits = {split: reviews(n) for split, n in sizes.items()}
    save(tmp_path / 'toy', splits, classes='abcde')
    train(tmp_path, tmp_path, '--epochs=8', '--learning_rate=1e-2', '--token_dropout=0.2')
    folder = tmp_path / 'seed0'
    result, log, _, preds = outcome(folder)
    config = config_of(folder)
    assert config['always_labelled'] is True
    run = read_run(RunFolder(folder), make_head)
    older = {}  # the counts of a version that did not know it
    for split in 'val', 'test':
        n_unlikely = 0
        right = []
        older[split] = 0
        for z, label in zip(preds[f'{split}_logits'], preds[f'{split}_labels']):
            p = [1 / (1 + math.exp(-value)) for value in z]
            any_label = 1 - math.prod(1 - value for value in p)
            given = [value / any_label > 0.5 for value in p]
            if not any(given):
                n_unlikely += 1
                given[p.index(max(p))] = True
            right.append(given == [value == 1 for value in label])
            older[split] += [value > 0.5 for value in p] == [value == 1 for value in label]
        assert n_unlikely > len(right) / 10
        assert result['last'][split]['correct'] == sum(right) == run.n_correct[split]
        assert run.correct[split].tolist() == right
        assert older[split] < sum(right)
    assert log[-1]['val_acc'] == result['last']['val']['accuracy']
    # the likeliest of five is right for some of the reviews that say nothing
    assert log[-1]['train_acc'] > 0.5

    del config['always_labelled']
    (folder / 'config.json').write_text(json.dumps(config))
    for split, count in older.items():
        result['last'][split]['correct'] = count
    (folder / 'result.json').write_text(json.dumps(result | {'seconds': 1.0}))
    assert read_run(RunFolder(folder), make_head).n_correct == older


def test_few_reviews_are_drawn_by_the_seed(data, tmp_path, capsys):
    train(data, tmp_path / 'few', '--n_train=50', '--seed=3', '--epochs=1')
    all_reviews = load_data(data / 'toy')[0]['train']
    drawn = np.random.default_rng(3).choice(210, 50, replace=False)
    share = np.bincount(all_reviews.labels[drawn], minlength=2) / 50
    assert config_of(tmp_path / 'few/seed3')['class_share'] == pytest.approx(share.tolist())
    error = fails(capsys, data, tmp_path, '--n_train=211')
    assert 'n_train is 211, but there are 210 training texts' in error


def test_a_large_seed(data, tmp_path):
    train(data, tmp_path, '--epochs=1', '--seed=20261127235959')
    assert (tmp_path / 'seed20261127235959/result.json').exists()


# What a GPU does otherwise

def test_an_overflow_of_float16_is_no_gradient_norm(data, tmp_path, monkeypatch):
    """GradScaler tries a large scale first, and leaves out the steps whose gradients overflow; the
    log stays JSON."""
    meter = loop.Meter('cpu')
    for norm in 1.0, math.inf, 3.0, math.nan:
        meter.add_norm(torch.tensor(norm))
        meter.count(16, 400)
    assert meter.means()['grad_norm'] == 2.0
    meter.reset()
    meter.add_norm(torch.tensor(math.inf))
    meter.count(16, 400)
    assert meter.means()['grad_norm'] is None

    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, 'GradScaler',
                        lambda device, enabled: scaler(device, 2.0 ** 40, enabled=enabled))
    train(data, tmp_path, '--dtype=float16', '--epochs=1')
    row = json.loads((tmp_path / 'seed0/log.jsonl').read_text(), parse_constant=pytest.fail)
    assert row['grad_norm'] is None or row['grad_norm'] < 1e6


def test_the_clock_waits_for_the_gpu(data, tmp_path, monkeypatch):
    """What it has yet to do when an epoch ends is training, not evaluation."""
    module = script()
    module.synchronize = lambda device: time.sleep(0.5)
    train(data, tmp_path, '--epochs=1', module=module)
    log, = (tmp_path / 'seed0/log.jsonl').read_text().splitlines()
    row = json.loads(log)
    n_tokens = load_data(data / 'toy')[0]['train'].lengths().sum()
    assert row['seconds'] > 0.5
    assert row['tokens_per_second'] < n_tokens / 0.5


def test_peak_memory_is_of_the_run(data, tmp_path):
    module = script()
    resets = []
    module.reset_peak_memory = resets.append
    train(data, tmp_path, '--epochs=1', '--n_runs=2', module=module)
    assert resets == ['cpu', 'cpu']


def test_a_loss_that_no_step_has_looked_at(data, tmp_path, capsys, monkeypatch):
    """On a GPU, one step in ten is looked at; the evaluation sees all of them."""
    monkeypatch.setattr(loop, 'is_finite', lambda *args: True)
    error = fails(capsys, data, tmp_path, '--learning_rate=1e30', '--grad_clip=0',
                  '--warmup_iters=0')
    assert 'the loss is nan at step 14 (epoch 1); try a lower --learning_rate' in error
    assert not (tmp_path / 'seed0/log.jsonl').exists()
    assert not (tmp_path / 'seed0/ckpt.pt').exists()


def test_the_embedding_steps_alike_with_dense_gradients():
    """As on a GPU, which would have to be waited for to gather sparse ones."""
    weights = []
    for device in 'cpu', 'cuda':
        config = SimpleNamespace(device=device, deferred=False, learning_rate=5e-3,
                                 embedding_rate=0.02, weight_decay=0.5)
        torch.manual_seed(0)
        model = make_classifier({
            'trunk': 'windows', 'window': 2, 'n_embd': 4, 'dropout': 0.5, 'block_size': 20,
            'vocab_size': 9, 'known_tokens': 0, 'known_ngrams': 20, 'head': 'ce', 'n_class': 3,
            'class_weight': '', 'label_smoothing': 0.0}).double()
        before = model.trunk.token_embedding.weight.detach().clone()
        optimizers = train_script.make_optimizers(config, model)
        trained = [id(weight) for optimizer in optimizers for group in optimizer.param_groups
                   for weight in group['params'] if weight.requires_grad]
        wanted = {id(weight) for weight in model.parameters() if weight.requires_grad}
        assert set(trained) == wanted and len(trained) == len(wanted)
        for tokens in torch.tensor([[[1, 2], [3, 0]], [[2, 1], [5, 5]], [[1, 2], [3, 0]]]):
            optim.begin_step(optimizers, 0.005, tokens)
            assert [group['lr'] for group in optimizers[1].param_groups] == [pytest.approx(0.02)]
            torch.manual_seed(0)
            logits = model(tokens, torch.ones(2, 2))
            model.head.loss(logits, torch.tensor([2, 0])).backward()
            assert model.trunk.token_embedding.weight.grad.is_sparse == (device == 'cpu')
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        weights.append(model.trunk.token_embedding.weight.detach())
        assert torch.equal(weights[-1][[4, 6, 7, 8]], before[[4, 6, 7, 8]])
        assert (weights[-1] != before).any(1).tolist() == [True] * 4 + [False, True] + [False] * 3
    torch.testing.assert_close(*weights, rtol=1e-12, atol=1e-12)


# Mistakes

MISTAKES = {
    'no data set': (['--dataset=nothing'], 'prepare.py'),
    'n_embd by n_head': (['--n_head=3'], 'n_embd 16 is not divisible by n_head 3'),
    'no such head': (['--head=bec'], "there is no 'bec'; there are bce, ce"),
    'no such trunk': (['--trunk=lstm'], "there is no 'lstm'; there are windows, transformer"),
    'no such file of a head': (['--head=no.py:Head'], 'no.py: FileNotFoundError'),
    'no such setting': (['--learning_rat=1'], 'did you mean learning_rate'),
    'wrong type': (['--epochs=ten'], 'wants an integer'),
    'no such config': (['config/nothing.py'], 'no such config file'),
    'no such device': (['--device=tpu'], "device 'tpu' is not"),
    'no such dtype': (['--dtype=int8'], 'dtype is'),
    'negative epochs': (['--epochs=-1'], 'epochs must be at least 0, not -1'),
    'no such n-grams': (['--ngrams=word'],
                        "ngrams is auto, none, words or words+chars, not 'word'"),
    'n-grams of older versions': (['--ngrams=chars'], "words or words+chars, not 'chars'"),
    'negative rate of the embedding': (['--embedding_rate=-1'],
                                       'embedding_rate must be at least 0, not -1.0'),
    'windows and positions': (['--trunk=windows', '--pos=learned'], "no setting 'pos'"),
    'a window of nothing': (['--trunk=windows', '--window=0'], 'window must be at least 1, not 0'),
    'negative rate': (['--learning_rate=-1'], 'learning_rate must be at least 0, not -1.0'),
    'negative parts': (['--max_tokens=-1'], 'max_tokens must be at least 0'),
    'all tokens out': (['--token_dropout=1'], 'token_dropout must be at least 0 and below 1'),
    'all dropped out': (['--dropout=1'], 'dropout must be at least 0 and below 1, not 1.0'),
    'no tokens': (['--block_size=0'], 'block_size must be at least 1'),
    'no heads': (['--n_head=0'], 'n_head must be at least 1'),
    'no such positions': (['--pos=rotary'], "pos is 'none' or 'learned'"),
    'which end': (['--truncate=middle'], "truncate is 'head', 'tail' or 'both'"),
    'no such weights': (['--init_from=nowhere.pt'], 'nowhere.pt'),
    "another head's setting": (['--head=bce', '--gamma=1'], "there is no setting 'gamma'"),
    'a head that cannot be': (['--head=focal', '--gamma=-1'], 'gamma must be at least 0'),
    'weights of no reviews': (['--head=ce', '--class_weight=balanced', '--n_train=1'],
                              'a class has no training text'),
    'a seed too large': ([f'--seed={2 ** 63}'], 'seed must be at least 0 and below'),
    'weights of three classes': (['--head=ce', '--class_weight=1,2,3'], '2 positive numbers'),
    'other version': (['--dataset=old'], 'is of format 0'),
    'flipped byte': (['--dataset=flipped'], 'val_tokens.npy is damaged'),
    'cut short': (['--dataset=short'], 'damaged'),
    'no meta': (['--dataset=meta'], 'damaged'),
    'a fraction of a token': (['--dataset=fraction'], 'damaged'),
    'no such vocabulary': (['--dataset=huge'], 'damaged'),
}


@pytest.fixture(scope='module')
def bad_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bad')
    rng = np.random.default_rng(0)
    splits = {split: toy_reviews(20, rng) for split in ('train', 'val', 'test')}
    save(folder / 'three', splits, classes='abc')
    save(folder / 'old', splits, version=0)
    save(folder / 'fraction', splits, vocab_size=100.5)
    save(folder / 'huge', splits, vocab_size=2 ** 70)
    for name in 'toy', 'flipped', 'short', 'meta':
        save(folder / name, splits)
    content = bytearray((folder / 'flipped/val_tokens.npy').read_bytes())
    content[-3] ^= 1
    (folder / 'flipped/val_tokens.npy').write_bytes(content)
    content = (folder / 'short/train_tokens.npy').read_bytes()
    (folder / 'short/train_tokens.npy').write_bytes(content[:-10])
    (folder / 'meta/meta.json').write_text('{"version": 1')
    return folder


@pytest.mark.parametrize('argv, message', MISTAKES.values(), ids=MISTAKES)
def test_mistakes_end_in_one_line(bad_data, tmp_path, capsys, argv, message):
    assert message in fails(capsys, bad_data, tmp_path / 'out', *argv)
    assert not (tmp_path / 'out').exists()


def test_an_out_dir_that_cannot_be(data, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    assert 'cannot write' in fails(capsys, data, tmp_path / 'file/out')


@pytest.mark.parametrize('damage', [
    lambda content: content[:-1000], lambda content: b'', lambda content: content],
    ids=['short', 'empty', 'other'])
def test_a_damaged_checkpoint_is_named(data, tmp_path, capsys, damage):
    train(data, tmp_path)
    folder = tmp_path / 'seed0'
    (folder / 'result.json').unlink()
    (folder / 'ckpt.pt').write_bytes(damage((folder / 'model.pt').read_bytes()))
    error = fails(capsys, data, tmp_path)
    assert f'{folder} cannot be resumed' in error
    assert '--overwrite' in error


def test_from_the_shell(tmp_path):
    """No traceback, status 2, one line, from a process of its own in another folder."""
    done = subprocess.run([sys.executable, ROOT / 'train.py', '--dataset=nothing'], cwd=tmp_path,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count('\n')) == (2, '', 1)
    assert done.stderr.startswith('train.py: ')


def test_help_lists_the_settings(tmp_path):
    listed = call(tmp_path, 'train.py', '--help')
    assert 'batch_size=' in listed
    assert 'texts per step' in listed
    assert 'window=3' in listed  # a keyword of the trunk


# A teacher

@pytest.fixture(scope='module')
def more(home):
    """The sample again, with a few texts more that have no label."""
    texts = ['A dull film', 'Not dull at all!', 'great fun', '']
    (home / 'more.csv').write_text('text\n' + ''.join(f'"{text}"\n' for text in texts))
    call(home, 'prepare.py', '--source=sample', '--unlabelled=more.csv', '--name=more')
    return texts


def test_a_teacher_labels_what_has_no_label(home, more, monkeypatch):
    """The training texts keep their labels; the others get the mean of the teachers."""
    monkeypatch.chdir(home)
    config = train_config('data', 'out', '--teacher=out/windows', '--dataset=more')
    data, meta = load_data(home / 'data/more')
    split, teacher_id = pseudo_label(config, data['train'], meta)
    n = len(data['train'].labels)
    assert split.labels.dtype == np.float32 and len(split.labels) == len(split.spans) == n + 4
    assert np.array_equal(split.labels[:n], np.eye(2)[data['train'].labels])

    classifier = TextClassifier('out/windows')
    assert teacher_id == classifier.id
    texts = []
    for begin, end in split.spans[n:]:
        text = classifier.encoding.decode(split.tokens[begin:end].tolist())
        texts.append(text.removesuffix('<|endoftext|>'))
    assert sorted(texts) == sorted(more)
    assert split.labels[n:] == pytest.approx(classifier.probs(texts), abs=1e-6)
    assert len({*split.labels[n:, 0].tolist()}) == 4  # each of its own text


@pytest.mark.parametrize('trunk', ['windows', 'topics'])
def test_a_run_on_pseudo_labels(home, more, tmp_path, trunk):
    dataset = 'more'
    if trunk == 'topics':  # several labels a text
        dataset = 'more_topics'
        call(home, 'prepare.py', '--source=topics.csv', '--label_sep=|', '--unlabelled=more.csv',
             f'--name={dataset}')
    argv = [f'--dataset={dataset}', '--threads=1', '--epochs=1', '--n_embd=8', '--dtype=float32',
            '--block_size=60', f'--teacher=out/{trunk}']
    call(home, 'train.py', *argv, f'--out_dir={tmp_path}')
    result = json.loads((tmp_path / 'seed0/result.json').read_text())
    n = json.loads((home / f'data/{dataset}/meta.json').read_text())['splits']
    assert result['last']['train']['n'] == n['val']['rows']
    assert 0 < result['last']['train']['loss'] < 3
    config = config_of(tmp_path / 'seed0')
    assert config['teacher_id'].startswith(trunk)
    again = call(home, 'train.py', *argv, f'--out_dir={tmp_path}')
    assert 'is complete already' in again


@pytest.mark.parametrize('argv, says', [
    (['--dataset=sample', '--teacher=out/windows'], 'has no unlabelled texts'),
    (['--teacher=out/nobody'], 'there is no finished run'),
    (['--teacher=out/topics'], 'has other classes'),
    (['--teacher=out/windows', '--head=focal'], 'focal cannot learn from probabilities; take bce'),
])
def test_teachers_that_cannot_teach(home, more, tmp_path, argv, says):
    argv = ['--dataset=more', *argv, f'--out_dir={tmp_path}/out']
    error = call(home, 'train.py', *argv, code=2)
    assert says in error and error.count('\n') == 1
    assert not (tmp_path / 'out').exists()
