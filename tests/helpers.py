"""What several test files need: small data sets and runs of train.py on them, in this process."""
import hashlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train as train_module
from lm import pretrain as pretrain_module
from model import model_settings
from nanoloss.data import batches
from nanoloss.settings import configure

ROOT = Path(__file__).parents[1]
# what small models have in common
SMALL = ['--dataset=toy', '--lower=False', '--ngrams=none', '--token_dropout=0.8',
         '--n_embd=16', '--block_size=20', '--batch_size=16', '--epochs=2',
         '--learning_rate=3e-3', '--weight_decay=0.1', '--warmup_iters=5', '--device=cpu',
         '--dtype=float32', '--threads=1']
# a small transformer, the default of `train`
TINY = [*SMALL, '--trunk=transformer', '--full_vocab', '--n_layer=1', '--embedding_rate=0']
# a small model of windows and n-grams, for `train`
WINDOWS = ['--trunk=windows', '--ngrams=words+chars', '--dropout=0.3', '--token_dropout=0.2']
# a small language model
LANGUAGE = ['--dataset=toy', '--n_layer=1', '--n_head=2', '--n_embd=16', '--block_size=12',
            '--batch_size=4', '--max_iters=30', '--warmup_iters=5', '--eval_interval=10',
            '--eval_texts=20', '--learning_rate=1e-2', '--device=cpu', '--dtype=float32',
            '--threads=1']
SIZES = {'train': 210, 'val': 50, 'test': 70}  # reviews of the toy data set
CLOCK = 'seconds', 'tokens_per_second', 'eval_tokens_per_second', 'peak_memory_mb'


def script(name='train'):
    """A fresh copy of a top-level script, for a test that changes it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_of(module, *argv, **kwargs):
    """The config of a script's module, with these arguments."""
    return configure(vars(module), argv=list(map(str, argv)), **kwargs)


def make_batches(split, batch_size, block_size, truncate='head', bag=True, token_dropout=0.0,
                 **kwargs):
    """`batches` with a config made from these values."""
    config = SimpleNamespace(block_size=block_size, truncate=truncate, bag=bag,
                             token_dropout=token_dropout)
    return batches(split, config, batch_size, **kwargs)


def save(folder, splits, vocab_size=100, classes=('neg', 'pos'), version=1):
    """Write a data set as prepare.py would; splits: {split: (list of token lists, labels)}."""
    folder.mkdir(parents=True)
    arrays = {}
    for split, (reviews, labels) in splits.items():
        lengths = [len(review) for review in reviews]
        arrays[f'{split}_tokens.npy'] = np.concatenate(reviews).astype(np.uint32)
        arrays[f'{split}_offsets.npy'] = np.cumsum([0] + lengths).astype(np.uint64)
        arrays[f'{split}_labels.npy'] = np.array(labels, np.uint8)
    sha256 = {}
    for name, array in arrays.items():
        np.save(folder / name, array)
        sha256[name] = hashlib.sha256(array).hexdigest()
    meta = {
        'version': version,
        'vocab_size': vocab_size,
        'tokenizer': {'name': 'cl100k_base'},
        'classes': list(classes),
        'sha256': sha256,
    }
    (folder / 'meta.json').write_text(json.dumps(meta))


def sliding(values, sizes):
    """The set of n-grams of a sequence, as tuples."""
    found = set()
    for size in sizes:
        found |= {tuple(values[i:i + size]) for i in range(len(values) - size + 1)}
    return found


def ngrams_by_hand(tokens, kind, encoding):
    """The set of n-grams of a text without combining marks, from its tokens."""
    tokens = [token for token in tokens if token != encoding.eot_token]
    if kind == 'tokens':
        return sliding(tokens, (1, 2, 3))
    content = encoding.decode_bytes(tokens)
    if kind == 'chars':
        return sliding(content, (2, 3, 4, 5))
    text = content.decode(errors='replace')
    found = sliding(re.findall(r'\w+', text), (1, 2))
    if kind == 'words+chars':
        text = re.sub(r'\s+', ' ', f' {text} ')
        found |= {''.join(characters) for characters in sliding(text, (2, 3, 4, 5))}
    return found


def toy_reviews(n, rng):
    """Class 1 has more of token 1 than of token 2, among noise -> token lists, labels."""
    labels = rng.integers(0, 2, n)
    reviews = []
    for y in labels:
        noise = rng.integers(3, 100, rng.integers(1, 30))
        signal = rng.choice([1, 2], 5, p=[.1 + .8 * y, .9 - .8 * y])
        reviews.append([*noise, *signal][::-1])
    return reviews, labels


def make_data(folder):
    """Write the toy data set into a folder of data sets -> the folder, for --data_dir."""
    rng = np.random.default_rng(0)
    save(folder / 'toy', {split: toy_reviews(n, rng) for split, n in SIZES.items()})
    return folder


def train_config(data, out, *argv):
    """The config of a small run of train.py."""
    base = SMALL if '--trunk=windows' in argv else TINY
    return config_of(train_module, *base, f'--data_dir={data}', f'--out_dir={out}', *argv,
                     more=model_settings)


def train(data, out, *argv, module=train_module):
    """Run train.py, or a copy that a test has changed, in this process."""
    module.main(train_config(data, out, *argv))


def at_evaluation(n, act):
    """A copy of train.py, for `train`, that calls `act` before its n-th evaluation."""
    module = script()
    predict = module.predict
    calls = []

    def predict_after_the_act(*args, **kwargs):
        calls.append(1)
        if len(calls) == n:
            act()
        return predict(*args, **kwargs)
    module.predict = predict_after_the_act
    return module


def interrupt():
    raise KeyboardInterrupt


def pretrain_config(data, out, *argv):
    """The config of a small run of lm/pretrain.py."""
    return config_of(pretrain_module, *LANGUAGE, f'--data_dir={data}', f'--out_dir={out}', *argv,
                     more=pretrain_module.head_settings)


def pretrain(data, out, *argv, module=pretrain_module):
    """Run lm/pretrain.py, or a copy that a test has changed, in this process."""
    module.main(pretrain_config(data, out, *argv))


def two_processes(cwd, *argv):
    """Run `python *argv` in two processes that share a run -> what each of them prints. This is
    what torchrun does, but torchrun itself takes three seconds."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
    processes = []
    for rank in '0', '1':
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'WORLD_SIZE': '2', 'RANK': rank,
                       'LOCAL_RANK': rank, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
        processes.append(subprocess.Popen(
            [sys.executable, *argv], cwd=cwd, text=True, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    printed = []
    for process in processes:
        output, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        printed.append(output)
    return printed


# of all that a step can be: a function that trains, and its further arguments
TRAININGS = [
    (train, ['--dropout=0.2', '--head=bce']),
    (train, ['--head=ce', '--truncate=both', '--grad_clip=0.01']),
    (train, ['--head=squentropy', '--pos=learned']),
    (train, ['--causal']),
    (train, [*WINDOWS, '--ngrams=none', '--token_dropout=0', '--block_size=8']),
    (pretrain, ['--dropout=0.1']),
    (pretrain, ['--masked=0.4', '--head=squentropy']),
    (pretrain, ['--tied', '--pos=learned']),
]


def fails(capsys, *args, run=train, **kwargs):
    """Run train.py in this process as `train` does, or another script so -> the one line that it
    ends in."""
    with pytest.raises(SystemExit) as stop:
        run(*args, **kwargs)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count('\n') == 1
    return error


def outcome(folder):
    """All that a run's numbers say: result and log without the clock, weights, predictions."""
    result = json.loads((folder / 'result.json').read_text())
    log = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    for row in [result, *log]:
        for key in CLOCK:
            row.pop(key, None)
    weights = torch.load(folder / 'model.pt', weights_only=True)
    weights = {name: weight.tolist() for name, weight in weights.items()}
    preds = {name: array.tolist() for name, array in np.load(folder / 'preds.npz').items()}
    return result, log, weights, preds


def same(a, b):
    """Two outcomes are one but for rounding: losses, accuracies, gradient norms, every weight."""
    a_result, a_log, a_weights, _ = a
    b_result, b_log, b_weights, _ = b
    assert len(a_log) == len(b_log)
    for x, y in zip(a_log, b_log):
        assert x == pytest.approx(y, rel=1e-6)  # sums of the log are float32
    for split in 'val', 'test':
        assert a_result['last'][split] == pytest.approx(b_result['last'][split], rel=1e-9)
    assert a_weights.keys() == b_weights.keys()
    for name, weight in a_weights.items():
        # row 0, the padding, gets nothing but rounding, which Adam magnifies
        first = 1 if name.endswith('token_embedding.weight') else 0
        assert np.allclose(weight[first:], b_weights[name][first:], rtol=1e-7, atol=1e-9), name


def close(folder, other):
    """The logs and weights of two runs' folders are one, but for learning rates in float32."""
    _, a_log, a_weights, _ = outcome(folder)
    _, b_log, b_weights, _ = outcome(other)
    for a, b in zip(a_log, b_log, strict=True):
        for name in a:
            if a[name] is not None:
                assert a[name] == pytest.approx(b[name], rel=1e-5), name
    for name, weight in a_weights.items():
        first = 1 if name.endswith('token_embedding.weight') else 0  # row 0: see `same`
        assert np.allclose(weight[first:], b_weights[name][first:], rtol=1e-5, atol=1e-7), name


def make_run(folder, correct, seed=None, head='bce', n=(400, 200), best=None, **config):
    """A finished run that is correct on the first so many reviews of (test, val)."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    if seed is None:
        seed = int(folder.name[4:])
    preds = {}
    last = {}
    for split, n_correct, n_reviews in zip(('test', 'val'), correct, n):
        labels = np.arange(n_reviews, dtype=np.uint8) % 2
        choice = np.where(np.arange(n_reviews) < n_correct, labels, 1 - labels)
        strength = 1 + np.arange(n_reviews) % 7
        logits = np.where(choice == 1, strength, -strength)[:, None]
        if head == 'ce':
            logits = np.concatenate([3 - logits, 3 + logits], 1)
        preds[f'{split}_logits'] = logits.astype(np.float16)
        preds[f'{split}_labels'] = labels
        accuracy = n_correct / n_reviews
        last[split] = {'n': n_reviews, 'correct': int(n_correct), 'accuracy': accuracy, 'loss': 0.5}
    np.savez(folder / 'preds.npz', **preds)

    val = last['val']['accuracy']
    lines = []
    for epoch, accuracy in enumerate([val - 0.1, best or val, val], 1):
        lines.append(json.dumps({
            'epoch': epoch, 'step': 10 * epoch, 'train_loss': 0.5, 'train_acc': 0.6 + 0.1 * epoch,
            'val_loss': 0.5, 'val_acc': accuracy, 'lr': 1e-3, 'seconds': 1.0 * epoch}))
    (folder / 'log.jsonl').write_text('\n'.join(lines) + '\n')
    best_val = last['val'] | {'accuracy': best or val}
    (folder / 'result.json').write_text(json.dumps({
        'head': head, 'seed': seed, 'seconds': 1800.0, 'last': {'epoch': 3, **last},
        'best': {'epoch': 2, 'test': last['test'], 'val': best_val}}))
    (folder / 'config.json').write_text(json.dumps({
        'head': head, 'seed': seed, 'dataset': 'toy', 'data': 'fingerprint', 'commit': 'abc',
        'n_class': 2, 'classes': ['neg', 'pos'], 'hardware': 'a machine', 'learning_rate': 1e-3,
        'out_dir': str(folder.parent), **config}))
