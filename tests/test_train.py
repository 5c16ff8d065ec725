"""train.py: its batches and schedule against brute force, whole runs on small data, every mistake a user can make.
About 25 s. Each test takes a fresh copy of the script, for its settings are its globals."""
import hashlib
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
TINY = ['--dataset=toy', '--n_layer=1', '--n_embd=16', '--block_size=20', '--batch_size=16', '--epochs=2',
        '--learning_rate=3e-3', '--warmup_iters=5', '--device=cpu', '--dtype=float32', '--threads=1']


def script():
    spec = importlib.util.spec_from_file_location('train', ROOT / 'train.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save(folder, splits, vocab_size=100, classes=('neg', 'pos'), version=1):
    """Write a data set as prepare.py would; splits: {split: (list of token lists, labels)}."""
    folder.mkdir(parents=True)
    arrays = {}
    for split, (reviews, labels) in splits.items():
        arrays[f'{split}_tokens.npy'] = np.array([t for review in reviews for t in review], np.uint32)
        arrays[f'{split}_offsets.npy'] = np.cumsum([0] + [len(review) for review in reviews]).astype(np.uint64)
        arrays[f'{split}_labels.npy'] = np.array(labels, np.uint8)
    for name, array in arrays.items():
        np.save(folder / name, array)
    (folder / 'meta.json').write_text(json.dumps({
        'version': version, 'vocab_size': vocab_size, 'tokenizer': {'name': 'cl100k_base'}, 'classes': list(classes),
        'sha256': {name: hashlib.sha256(array).hexdigest() for name, array in arrays.items()}}))


def toy_reviews(n, rng):
    """Class 1 has more of token 1 than of token 2, among noise."""
    labels = rng.integers(0, 2, n)
    return [[*rng.integers(3, 100, rng.integers(1, 30)), *rng.choice([1, 2], 5, p=[.1 + .8 * y, .9 - .8 * y])][::-1]
            for y in labels], labels


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
    save(folder / 'toy', {split: toy_reviews(n, rng) for split, n in (('train', 210), ('val', 50), ('test', 70))})
    return folder


def train(data, out, *argv):
    """Run the script in this process -> its module."""
    module = script()
    module.main(module.configure(vars(module), more=module.head_settings,
                                 argv=[*TINY, f'--data_dir={data}', f'--out_dir={out}', *argv]))
    return module


def outcome(folder):
    """All that a run's numbers tell: weights, log and result without the clock, predictions."""
    result, log = (json.loads((folder / 'result.json').read_text()),
                   [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()])
    for row in [result, *log]:
        for key in 'seconds', 'tokens_per_second', 'eval_tokens_per_second', 'peak_memory_mb':
            row.pop(key, None)
    weights = torch.load(folder / 'model.pt', weights_only=True)
    return result, log, {k: v.tolist() for k, v in weights.items()}, {k: v.tolist() for k, v in np.load(folder / 'preds.npz').items()}


def same(a, b):
    """Two outcomes are one but for rounding: losses, accuracies, gradient norms, every weight."""
    (a_result, a_log, a_weights, _), (b_result, b_log, b_weights, _) = a, b
    assert len(a_log) == len(b_log)
    for x, y in zip(a_log, b_log):
        assert x == pytest.approx(y, rel=1e-6)  # sums of the log are float32
    for split in 'val', 'test':
        assert a_result['last'][split] == pytest.approx(b_result['last'][split], rel=1e-9)
    for name, weight in a_weights.items():
        padding = name == 'embed.weight'  # row 0 gets nothing but rounding, which Adam magnifies
        assert np.allclose(weight[padding:], b_weights[name][padding:], rtol=1e-7, atol=1e-9), name


@pytest.mark.parametrize('bag', [True, False])
def test_batches_hold_every_review_once(data, bag):
    module = script()
    module.device, module.batch_size, module.block_size, module.bag, module.pool = 'cpu', 16, 20, bag, 3
    tokens, spans, labels = module.load_data(data / 'toy')[0]['train']
    for rng in None, np.random.default_rng(1):
        module.token_dropout = 0.0
        seen, total = [], 0
        for rows, t, c, y, n in module.batches(tokens, spans, labels, rng):
            assert len(rows) <= 16 and y.tolist() == labels[rows].tolist() and (t[c == 0] == 0).all()
            longest = int((c > 0).sum(1).max())
            assert c.shape == t.shape and c.shape[1] == min(20, -(-longest // 8) * 8)
            for row, kinds, counts in zip(rows, t, c):
                review = tokens[slice(*spans[row])][:20].tolist()
                total += len(review)
                got = [(int(kind), int(count)) for kind, count in zip(kinds, counts) if count]
                assert got == (sorted(Counter(review).items()) if bag else [(token, 1) for token in review])
            total -= n
            seen += rows.tolist()
        assert total == 0 and sorted(seen) == list(range(210))
        assert (seen == sorted(seen)) is False  # by size, or shuffled


def test_batches_leave_out_tokens_anew_but_never_all(data):
    module = script()
    module.device, module.batch_size, module.block_size, module.token_dropout = 'cpu', 16, 20, 0.7
    split = module.load_data(data / 'toy')[0]['train']
    kept, n_tokens = [], 0
    for epoch in range(20):
        for rows, t, c, _, n in module.batches(*split, np.random.default_rng([0, epoch])):
            assert (c.sum(1) >= 1).all()
            kept.append(c.sum())
            n_tokens += n
    # one of a review's tokens always stays: for a review of n, 1 - .7 ** n tokens are there in any case
    lengths = np.minimum(np.diff(split[1])[:, 0], 20)
    expected = (0.3 * lengths + 0.7 ** lengths).sum() * 20
    assert n_tokens == lengths.sum() * 20
    assert abs(int(sum(kept)) - expected) < 5 * math.sqrt(n_tokens * 0.3 * 0.7)


def test_the_rate_warms_up_and_follows_a_cosine():
    module = script()
    module.learning_rate, module.min_lr, module.warmup_iters = 1.0, 0.2, 10
    assert [module.rate(step, 110) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert module.rate(60, 110) == pytest.approx(0.6)  # half way
    assert module.rate(35, 110) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    assert module.rate(110, 110) == pytest.approx(0.2)


@pytest.mark.parametrize('head', ['bce', 'ce'])
def test_a_toy_task_is_learnt_and_logged(data, tmp_path, head, capsys):
    train(data, tmp_path, f'--head={head}', '--epochs=6', '--token_dropout=0.1')
    result, log, _, preds = outcome(tmp_path / 'seed0')
    assert result['last']['test']['accuracy'] > 0.85 and len(log) == 6 and log[-1]['epoch'] == 6
    assert log[-1]['train_loss'] < log[0]['train_loss'] and log[-1]['val_acc'] == result['last']['val']['accuracy']
    for split, n in ('val', 50), ('test', 70):  # the count by another way: one logit above 0, or the larger of two
        z, y = np.array(preds[f'{split}_logits']), np.array(preds[f'{split}_labels'])
        decided = z[:, 0] > 0 if head == 'bce' else z[:, 1] > z[:, 0]
        assert (decided == y).sum() == result['last'][split]['correct'] and len(y) == result['last'][split]['n'] == n
    best = max(log, key=lambda row: row['val_acc'])
    assert result['best']['epoch'] == best['epoch'] and result['best']['val']['accuracy'] == best['val_acc']
    files = {p.name for p in (tmp_path / 'seed0').iterdir()}
    assert files == {'config.json', 'log.jsonl', 'result.json', 'preds.npz', 'model.pt', 'best.pt'}
    config = json.loads((tmp_path / 'seed0' / 'config.json').read_text())
    assert config['head'] == head and config['epochs'] == 6 and config['device'] == 'cpu' and config['torch']
    assert 'epoch 6/6' in capsys.readouterr().out


def test_same_seed_same_numbers_other_seed_others(data, tmp_path):
    train(data, tmp_path / 'a', '--n_runs=2', '--dropout=0.1')
    train(data, tmp_path / 'b', '--dropout=0.1')
    assert outcome(tmp_path / 'a' / 'seed0') == outcome(tmp_path / 'b' / 'seed0')
    assert outcome(tmp_path / 'a' / 'seed0')[1] != outcome(tmp_path / 'a' / 'seed1')[1]


@pytest.mark.parametrize('ckpt_secs, step', [(60, 28), (0, 29)], ids=['whole epochs', 'every step'])
def test_a_resumed_run_is_the_uninterrupted_one(data, tmp_path, capsys, ckpt_secs, step):
    argv = ['--epochs=3', '--dropout=0.1', '--eval_interval=5', f'--ckpt_secs={ckpt_secs}']
    train(data, tmp_path / 'whole', *argv)
    module, calls = script(), []

    def predict_until_the_third_epoch(*args, there=module.predict):
        calls.append(1)
        if len(calls) == 8:  # 14 steps an epoch: evaluations at 5, 10, 14 | 15, 20, 25, 28 | 30
            raise KeyboardInterrupt
        return there(*args)
    module.predict = predict_until_the_third_epoch
    arguments = [*TINY, f'--data_dir={data}', f'--out_dir={tmp_path / "cut"}', *argv]
    with pytest.raises(SystemExit) as stop:
        module.main(module.configure(vars(module), more=module.head_settings, argv=arguments))
    assert stop.value.code == 130 and not (tmp_path / 'cut/seed0/result.json').exists()
    assert (tmp_path / 'cut/seed0/ckpt.pt').exists()
    train(data, tmp_path / 'cut', *argv)
    assert f'goes on after step {step} of 42' in capsys.readouterr().out
    assert outcome(tmp_path / 'cut/seed0') == outcome(tmp_path / 'whole/seed0')
    assert not (tmp_path / 'cut/seed0/ckpt.pt').exists()
    assert [row['step'] for row in outcome(tmp_path / 'cut/seed0')[1]] == [5, 10, 14, 15, 20, 25, 28, 30, 35, 40, 42]


@pytest.mark.parametrize('max_tokens', [1, 60])
def test_parts_are_the_whole_batch(data, tmp_path, max_tokens):
    """A step in parts, of one review each or of a few, is the step of the whole batch."""
    argv = ['--dtype=float64', '--epochs=1', '--batch_size=50', '--token_dropout=0.3']  # 210 = 4 * 50 + 10
    train(data, tmp_path / 'whole', *argv)
    train(data, tmp_path / 'parts', *argv, f'--max_tokens={max_tokens}')
    same(*(outcome(tmp_path / name / 'seed0') for name in ('whole', 'parts')))


def test_deferred_steps_are_those_of_dense_adamw(data, tmp_path, monkeypatch):
    """A whole training in float64, with embeddings that wait and with torch's AdamW on all of them; eps, in which they
    differ, out of the way."""
    adamw = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, 'AdamW', lambda *args, **kwargs: adamw(*args, eps=1e-30, **kwargs))
    for deferred in True, False:
        module = script()
        there = module.DeferredAdamW
        module.DeferredAdamW = lambda *args: there(*args, eps=1e-30)
        module.main(module.configure(vars(module), more=module.head_settings, argv=[
            *TINY, f'--data_dir={data}', f'--out_dir={tmp_path / str(deferred)}', '--dtype=float64',
            '--bias=False', '--token_dropout=0.5', '--weight_decay=1', f'--deferred={deferred}', '--eval_interval=5']))
        assert json.loads((tmp_path / str(deferred) / 'seed0/config.json').read_text())['deferred'] is deferred
    same(*(outcome(tmp_path / name / 'seed0') for name in ('True', 'False')))


@pytest.mark.parametrize('argv', [[], ['--deferred=False', '--max_tokens=60']], ids=['deferred', 'dense, in parts'])
def test_two_processes_are_one(data, tmp_path, argv):
    """torchrun with two gloo processes: the same batches, half of each to a process. Of 209 reviews, the last batch
    has one, so that one process has none. Only the first process writes, and tells."""
    shutil.copytree(data, tmp_path / 'data')
    folder = tmp_path / 'data/toy'
    meta = json.loads((folder / 'meta.json').read_text())
    for name in 'train_offsets', 'train_labels':
        array = np.load(folder / f'{name}.npy')[:-1]
        np.save(folder / f'{name}.npy', array)
        meta['sha256'][f'{name}.npy'] = hashlib.sha256(array).hexdigest()
    (folder / 'meta.json').write_text(json.dumps(meta))
    argv = [*TINY, f'--data_dir={tmp_path / "data"}', '--dtype=float64', '--token_dropout=0.3', *argv]
    train(tmp_path / 'data', tmp_path / 'one', *argv)
    for overwrite in [], ['--overwrite']:  # the second time, there is a finished run in the way
        two = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
                              ROOT / 'train.py', *argv, f'--out_dir={tmp_path / "two"}', *overwrite],
                             capture_output=True, text=True, cwd=tmp_path)
        assert two.returncode == 0, two.stderr
        assert two.stdout.count('epoch 2/2') == two.stdout.count('done') == 1
    same(*(outcome(tmp_path / name / 'seed0') for name in ('one', 'two')))
    assert {p.name for p in (tmp_path / 'two/seed0').iterdir()} == {p.name for p in (tmp_path / 'one/seed0').iterdir()}


def test_bag_on_and_off_are_one_training(data, tmp_path):
    """In float64, with one batch an epoch (bags are sorted by their own size), training on bags is training on the
    sequences, the same tokens left out."""
    for bag in True, False:
        train(data, tmp_path / str(bag), '--dtype=float64', f'--bag={bag}', '--token_dropout=0.3',
              '--batch_size=300', '--epochs=12')
    a, b = (outcome(tmp_path / name / 'seed0') for name in ('True', 'False'))
    assert a[1][-1]['train_loss'] < a[1][0]['train_loss'] - 0.01
    assert a[0]['last']['test']['loss'] == pytest.approx(b[0]['last']['test']['loss'], rel=1e-6)


def test_a_finished_run_is_skipped_and_other_settings_are_refused(data, tmp_path, capsys):
    train(data, tmp_path)
    before = (tmp_path / 'seed0' / 'result.json').read_bytes()
    train(data, tmp_path, '--n_runs=1')
    assert 'complete already' in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        train(data, tmp_path, '--weight_decay=0.5')
    error = capsys.readouterr().err
    assert stop.value.code == 2 and 'weight_decay was 0.1, is 0.5' in error and '--overwrite' in error
    assert (tmp_path / 'seed0' / 'result.json').read_bytes() == before
    train(data, tmp_path, '--weight_decay=0.5', '--overwrite')
    assert (tmp_path / 'seed0' / 'result.json').read_bytes() != before


def test_positions_learned_and_mixed_precision(data, tmp_path):
    module = train(data, tmp_path / 'learned', '--pos=learned', '--dtype=bfloat16')
    assert module.bag is False
    assert 'positions.weight' in torch.load(tmp_path / 'learned/seed0/model.pt', weights_only=True)


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path, capsys):
    module = script()
    rate = module.rate
    module.rate = lambda step, last: math.inf if step == 20 else rate(step, last)  # the second epoch
    with pytest.raises(SystemExit) as stop:
        module.main(module.configure(vars(module), more=module.head_settings,
                                     argv=[*TINY, f'--data_dir={data}', f'--out_dir={tmp_path}']))
    assert stop.value.code == 2 and 'nan at step 21 (epoch 2)' in capsys.readouterr().err
    state = torch.load(tmp_path / 'seed0/ckpt.pt', weights_only=True)  # the last good one stays
    assert state['progress'][0] == 14 and all(w.isfinite().all() for w in state['model'].values())


def test_a_new_head_is_one_class(data, tmp_path):
    """Its keywords are settings and its lr_mult and wd_mult reach the optimizer: frozen, it stays where it was."""
    import model

    class Frozen(model.BrierHead):
        lr_mult = 0.0

        def __init__(self, n_embd, n_class, gamma=2.0):
            super().__init__(n_embd, n_class)
            self.gamma = gamma
    model.HEADS['frozen'] = Frozen
    try:
        train(data, tmp_path, '--head=frozen', '--gamma=3', '--weight_decay=1')
        assert json.loads((tmp_path / 'seed0/config.json').read_text())['gamma'] == 3.0
        torch.manual_seed(0)
        start = model.Encoder(model.EncoderConfig(vocab_size=100, n_class=2, n_layer=1, n_embd=16, n_head=2))
        end = torch.load(tmp_path / 'seed0/model.pt', weights_only=True)
        assert end['head.linear.bias'].tolist() == [0, 0]
        assert not torch.equal(end['embed.weight'], start.embed.weight)
        with pytest.raises(SystemExit):
            train(data, tmp_path / 'ce', '--head=ce', '--gamma=3')
    finally:
        del model.HEADS['frozen']


def test_the_loss_of_the_readme(data, tmp_path):
    """The class that README.md shows, put at the end of a model.py, trains, and its keyword is a setting."""
    code = re.search(r'## Add a loss.*?```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)[1]
    for name in 'train.py', 'model.py', 'config/__init__.py', 'config/ce.py':
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    with open(tmp_path / 'model.py', 'a') as file:
        file.write('\n\n' + code)
    assert sum(map(bool, code.splitlines())) <= 10
    subprocess.run([sys.executable, 'train.py', 'config/ce.py', *TINY, f'--data_dir={data}', '--head=poly', '--epsilon=2',
                    '--out_dir=out/poly'], cwd=tmp_path, check=True)
    log = [json.loads(line) for line in (tmp_path / 'out/poly/seed0/log.jsonl').read_text().splitlines()]
    assert log[-1]['train_loss'] < log[0]['train_loss']
    assert json.loads((tmp_path / 'out/poly/seed0/config.json').read_text())['epsilon'] == 2.0


@pytest.mark.parametrize('config', sorted(path.name for path in (ROOT / 'config').glob('[!_]*.py')))
def test_every_config_trains(data, tmp_path, config):
    train(data, tmp_path / 'run', str(ROOT / 'config' / config), '--epochs=1', *TINY, f'--out_dir={tmp_path}')
    result = json.loads((tmp_path / 'seed0/result.json').read_text())
    assert result['last']['train']['n'] == 50 and math.isfinite(result['last']['test']['loss'])


def test_matched_bce_is_ce_in_a_whole_run(data, tmp_path):
    """config/bce_matched.py against config/ce.py without clipping: dropout, token dropout, decay and schedule on."""
    argv = ['--dtype=float64', '--dropout=0.1', '--min_lr=1e-4', '--grad_clip=0']
    train(data, tmp_path / 'ce', '--head=ce', *argv)
    train(data, tmp_path / 'bce', '--head=bce', '--from_ce', '--lr_mult=2', '--wd_mult=0.5', *argv)
    train(data, tmp_path / 'plain', '--head=bce', *argv)
    ce, bce, plain = (outcome(tmp_path / name / 'seed0') for name in ('ce', 'bce', 'plain'))
    for theirs, ours, others in zip(ce[1], bce[1], plain[1]):
        for key in 'train_loss', 'val_loss':
            assert ours[key] == pytest.approx(theirs[key], abs=1e-6)  # sums of the log are float32
            assert abs(others[key] - theirs[key]) > 1e-5
    z = np.array(ce[3]['test_logits'])
    assert np.allclose(z[:, 1] - z[:, 0], np.array(bce[3]['test_logits'])[:, 0], atol=2e-3)  # float16


@pytest.mark.parametrize('oversample', [False, True])
def test_a_rare_class(data, tmp_path, oversample):
    module = script()
    module.device, module.block_size, module.token_dropout, module.dataset = 'cpu', 20, 0.0, 'toy'
    module.keep_frac, module.oversample = 0.2, oversample
    (whole, _), (cut, meta) = script().load_data(data / 'toy'), module.load_data(data / 'toy')
    n = [(whole['train'][2] == y).sum() for y in (0, 1)]
    kept = math.ceil(0.2 * n[1])
    assert np.bincount(cut['train'][2]).tolist() == [n[0], kept] and len(cut['test'][2]) == len(whole['test'][2])
    assert meta['class_share'] == ([0.5, 0.5] if oversample else pytest.approx([n[0] / (n[0] + kept), kept / (n[0] + kept)]))
    drawn = np.zeros((3, n[0] + kept), int)
    for epoch in range(3):
        for rows, *_, y, _ in module.batches(*cut['train'], np.random.default_rng(epoch)):
            assert y.tolist() == cut['train'][2][rows].tolist()
            np.add.at(drawn[epoch], rows, 1)
    assert (drawn.sum(1) == n[0] + kept).all()
    if oversample:
        per_class = np.stack([drawn[:, cut['train'][2] == y].sum(1) for y in (0, 1)], 1)
        assert abs(np.diff(per_class)).max() <= 1
        rare = drawn[:, cut['train'][2] == 1]
        assert rare.max() - rare.min() <= 1 and drawn.max() > 1  # whole passes, then some once more
    else:
        assert (drawn == 1).all()


def test_several_labels_a_review(tmp_path, capsys):
    """Two labels that are in the text, independent of each other, and some reviews with neither."""
    rng = np.random.default_rng(0)

    def reviews(n):
        y = rng.integers(0, 2, (n, 2))
        return [[*rng.integers(5, 100, 6), *([1] * 4 * a + [2] * 4 * b)] for a, b in y], y
    save(tmp_path / 'toy', {split: reviews(n) for split, n in (('train', 400), ('val', 60), ('test', 80))})
    train(tmp_path, tmp_path / 'bce', '--epochs=8', '--learning_rate=1e-2', '--token_dropout=0.2')
    result, log, _, preds = outcome(tmp_path / 'bce/seed0')
    z, y = (np.array(preds[f'test_{name}']) for name in ('logits', 'labels'))
    assert z.shape == y.shape == (80, 2)
    right = ((z > 0) == (y > 0)).all(1)  # all labels of a review
    assert result['last']['test']['correct'] == right.sum() > 72 and log[-1]['val_acc'] > 0.9
    for argv, says in (['--head=ce'], 'take bce'), (['--oversample'], 'one label a review'):
        with pytest.raises(SystemExit):
            train(tmp_path, tmp_path / 'other', *argv)
        assert says in capsys.readouterr().err


MISTAKES = {
    'no data set': (['--dataset=nothing'], 'prepare.py'),
    'n_embd by n_head': (['--n_head=3'], 'n_embd 16 is not divisible by n_head 3'),
    'no such head': (['--head=bec'], "no head 'bec'; there are bce, ce"),
    'no such setting': (['--learning_rat=1'], 'did you mean learning_rate'),
    'wrong type': (['--epochs=ten'], 'wants an integer'),
    'no such config': (['config/nothing.py'], 'no such config file'),
    'no such device': (['--device=tpu'], "device 'tpu' is not here"),
    'no such dtype': (['--dtype=int8'], 'dtype is'),
    'no epochs': (['--epochs=0'], 'epochs must be at least 1'),
    'all tokens out': (['--token_dropout=1'], 'token_dropout must be at least 0 and below 1'),
    'which end': (['--truncate=middle'], "truncate is 'head', 'tail' or 'both'"),
    'no such weights': (['--init_from=nowhere.pt'], 'nowhere.pt'),
    'from_ce with three classes': (['--dataset=three', '--from_ce'], 'from_ce is for two classes'),
    'nothing kept': (['--keep_frac=0'], 'keep_frac must be in (0, 1]'),
    'other version': (['--dataset=old'], 'is of format 0'),
    'flipped byte': (['--dataset=flipped'], 'val_tokens.npy is damaged'),
    'cut short': (['--dataset=short'], 'damaged'),
    'no meta': (['--dataset=meta'], 'damaged'),
}


@pytest.fixture(scope='module')
def bad_data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp('bad'), np.random.default_rng(0)
    splits = {split: toy_reviews(20, rng) for split in ('train', 'val', 'test')}
    save(folder / 'three', splits, classes='abc')
    save(folder / 'old', splits, version=0)
    for name in 'toy', 'flipped', 'short', 'meta':
        save(folder / name, splits)
    content = bytearray((folder / 'flipped/val_tokens.npy').read_bytes())
    content[-3] ^= 1
    (folder / 'flipped/val_tokens.npy').write_bytes(content)
    (folder / 'short/train_tokens.npy').write_bytes((folder / 'short/train_tokens.npy').read_bytes()[:-10])
    (folder / 'meta/meta.json').write_text('{"version": 1')
    return folder


@pytest.mark.parametrize('argv, says', MISTAKES.values(), ids=MISTAKES)
def test_mistakes_end_in_one_line(bad_data, tmp_path, capsys, argv, says):
    with pytest.raises(SystemExit) as stop:
        train(bad_data, tmp_path / 'out', *argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and says in error and error.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_an_out_dir_that_cannot_be(data, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit) as stop:
        train(data, tmp_path / 'file' / 'out')
    error = capsys.readouterr().err
    assert stop.value.code == 2 and 'cannot write' in error and error.count('\n') == 1


@pytest.mark.parametrize('damage', [lambda b: b[:-1000], lambda b: b'', lambda b: b], ids=['short', 'empty', 'other'])
def test_a_damaged_checkpoint_is_named(data, tmp_path, capsys, damage):
    train(data, tmp_path)
    folder = tmp_path / 'seed0'
    (folder / 'result.json').unlink()
    shutil.copy(folder / 'model.pt', folder / 'ckpt.pt')
    (folder / 'ckpt.pt').write_bytes(damage((folder / 'ckpt.pt').read_bytes()))
    with pytest.raises(SystemExit) as stop:
        train(data, tmp_path)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and 'cannot go on' in error and '--overwrite' in error


def test_from_the_shell(tmp_path):
    """No traceback, status 2, one line, from a process of its own in another folder; --help lists the settings."""
    bad = subprocess.run([sys.executable, ROOT / 'train.py', '--dataset=nothing'], cwd=tmp_path, capture_output=True, text=True)
    assert (bad.returncode, bad.stdout, bad.stderr.count('\n')) == (2, '', 1) and bad.stderr.startswith('train.py: ')
    help = subprocess.run([sys.executable, ROOT / 'train.py', '--help'], cwd=tmp_path, capture_output=True, text=True)
    assert help.returncode == 0 and 'batch_size=' in help.stdout and 'reviews a step' in help.stdout
