"""Runs of train.py survive kills at random moments, two processes on one folder, full and read-only
disks, damaged and changed files, signals and too little memory. About 40 s. KILLS: how many kills,
from the environment."""
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT, TINY, WINDOWS, at_evaluation, fails, make_data, outcome, train

ARGV = [*TINY, '--dropout=0.1', '--eval_interval=5', '--ckpt_secs=0']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def uncut(data, tmp_path_factory):
    """A function from a number of epochs to the folder of a run that nothing has cut."""
    @functools.cache
    def uncut(epochs):
        folder = tmp_path_factory.mktemp('uncut')
        train(data, folder, *ARGV, f'--epochs={epochs}')
        return folder / 'seed0'
    return uncut


def start(data, out, *argv, **kwargs):
    """train.py in a process of its own, whose lines can be read as it prints them."""
    command = [sys.executable, '-u', ROOT / 'train.py', *ARGV, f'--data_dir={data}',
               f'--out_dir={out}', *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **kwargs)


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(process.stderr.read())


def finish(process, seconds=120):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def checkpointed_step(folder):
    return torch.load(folder / 'ckpt.pt', weights_only=True)['progress']['step']


def test_killed_at_random_moments(data, uncut, tmp_path):
    """SIGKILL while it trains, evaluates and, every other time, writes: the result is that of a run
    that was never killed, bit for bit."""
    kills = int(os.environ.get('KILLS', 4))
    rng = random.Random(0)
    folder = tmp_path / 'killed/seed0'
    argv = [f'--epochs={5 * kills}']
    writing = 0
    for i in range(kills):
        process = start(data, tmp_path / 'killed', *argv)
        wait_for(process, 'resumes' if (folder / 'ckpt.pt').exists() else 'toy:')
        time.sleep(rng.uniform(0, 0.8))
        while i % 2 and process.poll() is None and not any(folder.glob('*.tmp')):
            pass  # until it writes
        process.kill()
        code = process.wait()
        assert code == -signal.SIGKILL, 'finished before it was killed often enough'
        process.communicate()
        writing += any(folder.glob('*.tmp'))
        assert not (folder / 'ckpt.pt').exists() or checkpointed_step(folder) > 0
    train(data, tmp_path / 'killed', *ARGV, *argv)
    assert outcome(folder) == outcome(uncut(5 * kills))
    files = {path.name for path in uncut(5 * kills).iterdir()}
    assert {path.name for path in folder.iterdir()} == files
    assert kills < 10 or writing
    print(f'\n{kills} kills, {writing} of them while a file was being written: the same result')


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(data, uncut, tmp_path, capsys, signum):
    process = start(data, tmp_path / 'cut', '--epochs=20', '--ckpt_secs=1000')
    wait_for(process, 'epoch 2/20')
    process.send_signal(signum)
    code, _, error = finish(process)
    assert code == 128 + signum
    assert 'stopped; the same command resumes' in error
    assert 'Traceback' not in error
    step = checkpointed_step(tmp_path / 'cut/seed0')
    assert step >= 28
    train(data, tmp_path / 'cut', *ARGV, '--epochs=20')
    assert f'resumes after step {step} of 280' in capsys.readouterr().out
    assert outcome(tmp_path / 'cut/seed0') == outcome(uncut(20))


def test_two_processes_on_one_run(data, tmp_path, capsys):
    first = start(data, tmp_path, '--epochs=1000')
    wait_for(first, 'epoch 1/')
    for argv in [], ['--overwrite']:
        error = fails(capsys, data, tmp_path, *ARGV, '--epochs=1000', *argv)
        assert 'another process is at work' in error
    assert first.poll() is None
    first.kill()
    finish(first)
    train(data, tmp_path, *ARGV, '--overwrite')  # a dead process keeps no lock
    assert (tmp_path / 'seed0/result.json').exists()


@pytest.fixture
def disk(tmp_path):
    """A file system of 400 kB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=400k', 'tmpfs', folder]
    if shutil.which('mount') is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('a tmpfs cannot be mounted here')
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)


def test_a_full_disk(data, uncut, capsys, disk):
    """The disk fills up in training: one line, and the last checkpoint stays; with room again, the
    run resumes."""
    def fill():
        with open(disk / 'filler', 'wb') as file, pytest.raises(OSError):
            while True:
                file.write(b'0' * 100)
                file.flush()
    error = fails(capsys, data, disk, *ARGV, module=at_evaluation(4, fill))
    assert 'No space left' in error
    assert not list(disk.glob('seed0/*.tmp'))
    assert 0 < checkpointed_step(disk / 'seed0') < 28
    (disk / 'filler').unlink()
    train(data, disk, *ARGV)
    assert outcome(disk / 'seed0') == outcome(uncut(2))


def test_files_that_may_not_grow(data, tmp_path):
    """The same without a mount: no file may be larger than 20 kB, and a checkpoint is larger."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    code, _, error = finish(start(data, tmp_path, preexec_fn=limit))
    assert code == 2
    assert error.count('\n') == 1
    assert 'File too large' in error
    assert [path.name for path in (tmp_path / 'seed0').iterdir()] == ['config.json']


def test_a_read_only_disk(data, capsys, disk):
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    assert 'Read-only file system' in fails(capsys, data, disk, *ARGV)


def test_data_that_change_under_a_run(data, uncut, tmp_path, capsys):
    shutil.copytree(data, tmp_path / 'data')
    # tokens from the cache are in memory
    shutil.rmtree(tmp_path / 'data/toy/cache', ignore_errors=True)
    tokens = tmp_path / 'data/toy/train_tokens.npy'
    good = tokens.read_bytes()

    def swap():
        with open(tokens, 'r+b') as file:  # in place, not by a rename
            file.seek(-4, os.SEEK_END)
            file.write(b'\1\0\0\0')
    module = at_evaluation(3, swap)
    error = fails(capsys, tmp_path / 'data', tmp_path / 'run', *ARGV, module=module)
    assert 'train_tokens.npy has changed' in error
    assert 'is damaged' in fails(capsys, tmp_path / 'data', tmp_path / 'run', *ARGV)
    tokens.write_bytes(good)
    train(tmp_path / 'data', tmp_path / 'run', *ARGV)
    assert outcome(tmp_path / 'run/seed0') == outcome(uncut(2))


def test_too_little_memory(data, tmp_path, capsys):
    error = fails(capsys, data, tmp_path, *ARGV, f'--n_embd={2 ** 36}', '--n_layer=0')
    assert '--batch_size' in error


def old_names(weights, embedding='token_embedding'):
    """The weights of a transformer with the names that they had before there were trunks."""
    old = {}
    for name, weight in weights.items():
        name = name.removeprefix('trunk.').replace('token_embedding', embedding)
        old[name] = weight
    return old


def test_a_trunk_gets_another_head(data, tmp_path, capsys):
    trunk = tmp_path / 'ce/seed0'
    train(data, tmp_path / 'ce', '--head=ce')
    argv = ['--head=bce', '--epochs=1', '--learning_rate=0']
    train(data, tmp_path / 'bce', *argv, f'--init_from={trunk}')
    ce = torch.load(trunk / 'model.pt', weights_only=True)
    bce = torch.load(tmp_path / 'bce/seed0/model.pt', weights_only=True)
    assert bce['head.linear.weight'].shape == (1, 16)
    for name, weight in bce.items():
        assert name.startswith('head.') or torch.equal(ce[name], weight)

    # a file of weights, of this version and of older ones
    for i, weights in enumerate([ce, old_names(ce), old_names(ce, embedding='embed')]):
        torch.save(weights, tmp_path / 'weights.pt')
        train(data, tmp_path / str(i), *argv, f'--init_from={tmp_path / "weights.pt"}')
        assert outcome(tmp_path / f'{i}/seed0') == outcome(tmp_path / 'bce/seed0')

    error = fails(capsys, data, tmp_path / 'wide', '--n_embd=32', f'--init_from={trunk}')
    assert 'does not fit: its token_embedding.weight is (100, 16)' in error
    assert 'but this model has (100, 32)' in error
    error = fails(capsys, data, tmp_path / 'deep', '--n_layer=2', f'--init_from={trunk}')
    assert 'does not fit: it has no blocks.1.' in error
    error = fails(capsys, data, tmp_path / 'heads', '--n_head=4', f'--init_from={trunk}')
    assert 'does not fit: its n_head is 2, here it is 4' in error
    error = fails(capsys, data, tmp_path / 'some', '--full_vocab=False', f'--init_from={trunk}')
    assert 'does not fit: it knows other tokens' in error
    error = fails(capsys, data, tmp_path / 'no', *WINDOWS, f'--init_from={trunk}')
    assert 'does not fit: it knows other tokens' in error
    (tmp_path / 'other.pt').write_text(json.dumps({'not': 'weights'}))
    error = fails(capsys, data, tmp_path / 'no', f'--init_from={tmp_path / "other.pt"}')
    assert 'damaged' in error
    for content in '{', '{}', '[]', '3':
        (trunk / 'config.json').write_text(content)
        error = fails(capsys, data, tmp_path / 'no', f'--init_from={trunk}')
        assert f'{trunk}/config.json is damaged' in error


def test_windows_of_an_older_version_get_another_head(data, tmp_path):
    """Their config.json has settings of a transformer, which they did not use."""
    train(data, tmp_path / 'ce', *WINDOWS, '--head=ce')
    run = tmp_path / 'ce/seed0'
    argv = [*WINDOWS, '--head=bce', '--epochs=1', '--learning_rate=0', f'--init_from={run}']
    train(data, tmp_path / 'bce', *argv)

    weights = torch.load(run / 'model.pt', weights_only=True)
    config = json.loads((run / 'config.json').read_text())
    weights['windows.bias'] = weights.pop('trunk.bias')
    weights['token_embedding.weight'] = weights.pop('trunk.token_embedding.weight')
    del config['trunk']
    old = {'n_layer': 0, 'n_head': 4, 'pos': 'none', 'causal': False, 'pooling': 'max'}
    torch.save(weights, run / 'model.pt')
    (run / 'config.json').write_text(json.dumps(config | old))
    train(data, tmp_path / 'again', *argv)
    assert outcome(tmp_path / 'again/seed0') == outcome(tmp_path / 'bce/seed0')
