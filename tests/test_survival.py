"""Runs that survive: kills at random moments, two processes on one folder, full and read-only disks, damaged and changed
files, signals, too little memory. About 40 s. KILLS=25 in the environment kills that often."""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from test_train import ROOT, TINY, data, outcome, script, train  # noqa: F401

ARGV = [*TINY, '--dropout=0.1', '--eval_interval=5', '--ckpt_secs=0']


def start(data, out, *argv, **kwargs):
    """The script in a process of its own, with its lines as they come."""
    return subprocess.Popen([sys.executable, '-u', ROOT / 'train.py', *ARGV, f'--data_dir={data}', f'--out_dir={out}', *argv],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(process.stderr.read())


def finish(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def fails(capsys, *args):
    """Run in this process -> the one line that it ends in."""
    with pytest.raises(SystemExit) as stop:
        train(*args)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count('\n') == 1
    return error


def test_killed_at_random_moments(data, tmp_path):
    """SIGKILL while it trains, evaluates and, every other time, writes: the end is that of a run that was never killed,
    bit for bit."""
    kills, rng, writing, folder = int(os.environ.get('KILLS', 4)), random.Random(0), 0, tmp_path / 'killed/seed0'
    argv = [f'--epochs={5 * kills}']
    for i in range(kills):
        process = start(data, tmp_path / 'killed', *argv)
        wait_for(process, 'goes on' if (folder / 'ckpt.pt').exists() else 'toy:')
        time.sleep(rng.uniform(0, 0.8))
        while i % 2 and process.poll() is None and not any(folder.glob('*.tmp')):
            pass  # every other time while it writes
        process.kill()
        assert process.wait() == -signal.SIGKILL, 'finished before it was killed often enough'
        process.communicate()
        writing += any(folder.glob('*.tmp'))
        assert not (folder / 'ckpt.pt').exists() or torch.load(folder / 'ckpt.pt', weights_only=True)
    assert finish(start(data, tmp_path / 'killed', *argv))[0] == 0
    train(data, tmp_path / 'whole', *ARGV, *argv)
    assert outcome(folder) == outcome(tmp_path / 'whole/seed0')
    assert {p.name for p in folder.iterdir()} == {p.name for p in (tmp_path / 'whole/seed0').iterdir()}
    assert kills < 10 or writing
    print(f'\n{kills} kills, {writing} of them while a file was being written: the same result')


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(data, tmp_path, signum):
    process = start(data, tmp_path / 'cut', '--epochs=20', '--ckpt_secs=1000')
    wait_for(process, 'epoch 2/20')
    process.send_signal(signum)
    code, _, error = finish(process)
    assert code == 128 + signum and 'the same command goes on from here' in error and 'Traceback' not in error
    step = torch.load(tmp_path / 'cut/seed0/ckpt.pt', weights_only=True)['progress'][0]
    assert step >= 28
    code, out, _ = finish(start(data, tmp_path / 'cut', '--epochs=20'))
    assert code == 0 and f'goes on after step {step} of 280' in out
    train(data, tmp_path / 'whole', *ARGV, '--epochs=20')
    assert outcome(tmp_path / 'cut/seed0') == outcome(tmp_path / 'whole/seed0')


def test_two_processes_on_one_run(data, tmp_path, capsys):
    first = start(data, tmp_path, '--epochs=1000')
    wait_for(first, 'epoch 1/')
    for argv in [], ['--overwrite']:
        assert 'another process is at work' in fails(capsys, data, tmp_path, *ARGV, '--epochs=1000', *argv)
    assert first.poll() is None
    first.kill()
    finish(first)
    train(data, tmp_path, *ARGV, '--overwrite')  # a dead process keeps no lock
    assert (tmp_path / 'seed0/result.json').exists()


@pytest.fixture
def disk(tmp_path):
    """A file system of 400 kB: a function that mounts it, with options."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    if shutil.which('mount') is None or subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=400k', 'tmpfs', folder],
                                                       capture_output=True).returncode:
        pytest.skip('a tmpfs cannot be mounted here')
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)


def test_a_full_disk(data, tmp_path, capsys, disk):
    """The disk fills up while it trains: one line, the last checkpoint stays; with room again it goes on."""
    module = script()
    there, calls = module.predict, []

    def fill(*args):
        calls.append(1)
        if len(calls) == 4:
            with open(disk / 'filler', 'wb') as file, pytest.raises(OSError):
                while True:
                    file.write(b'0' * 100)
                    file.flush()
        return there(*args)
    module.predict = fill
    argv = [*ARGV, f'--data_dir={data}', f'--out_dir={disk}']
    with pytest.raises(SystemExit) as stop:
        module.main(module.configure(vars(module), more=module.head_settings, argv=argv))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count('\n') == 1 and 'No space left' in error
    assert not list(disk.glob('seed0/*.tmp'))
    assert 0 < torch.load(disk / 'seed0/ckpt.pt', weights_only=True)['progress'][0] < 28
    (disk / 'filler').unlink()
    train(data, disk, *ARGV)
    train(data, tmp_path / 'whole', *ARGV)
    assert outcome(disk / 'seed0') == outcome(tmp_path / 'whole/seed0')


def test_files_that_may_not_grow(data, tmp_path):
    """The same where nothing can be mounted: no file may be larger than 20 kB, which a checkpoint is."""
    code, _, error = finish(start(data, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,) * 2)))
    assert code == 2 and error.count('\n') == 1 and 'File too large' in error
    assert [p.name for p in (tmp_path / 'seed0').iterdir()] == ['config.json']


def test_a_read_only_disk(data, capsys, disk):
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    assert 'Read-only file system' in fails(capsys, data, disk, *ARGV)


def test_a_flipped_bit_in_a_checkpoint(data, tmp_path, capsys):
    """Each of 60 bits, anywhere in the file: told, or without effect (zip's own fields have gaps)."""
    train(data, tmp_path / 'whole', *ARGV)
    shutil.copytree(tmp_path / 'whole', tmp_path / 'run')
    module, folder, rng = script(), tmp_path / 'run/seed0', np.random.default_rng(0)
    good, told = (folder / 'model.pt').read_bytes(), 0
    weights = torch.load(folder / 'model.pt', weights_only=True)
    for at in rng.choice(len(good), 60, replace=False):
        content = bytearray(good)
        content[at] ^= 1 << rng.integers(8)
        (folder / 'model.pt').write_bytes(content)
        try:
            assert all(torch.equal(a, b) for a, b in zip(module.load(folder / 'model.pt').values(), weights.values()))
        except ValueError as error:
            told += 'damaged' in str(error)
    assert told > 20


def test_data_that_change_under_a_run(data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / 'data')
    tokens = tmp_path / 'data/toy/train_tokens.npy'
    good, module = tokens.read_bytes(), script()
    there, calls = module.predict, []

    def swap(*args):
        calls.append(1)
        if len(calls) == 3:
            with open(tokens, 'r+b') as file:  # in place, as a program does that does not rename
                file.seek(-4, os.SEEK_END)
                file.write(b'\1\0\0\0')
        return there(*args)
    module.predict = swap
    with pytest.raises(SystemExit) as stop:
        module.main(module.configure(vars(module), more=module.head_settings,
                                     argv=[*ARGV, f'--data_dir={tmp_path / "data"}', f'--out_dir={tmp_path / "run"}']))
    assert stop.value.code == 2 and 'train_tokens.npy has changed' in capsys.readouterr().err
    assert 'is damaged' in fails(capsys, tmp_path / 'data', tmp_path / 'run', *ARGV)
    tokens.write_bytes(good)
    train(tmp_path / 'data', tmp_path / 'run', *ARGV)
    train(data, tmp_path / 'whole', *ARGV)
    assert outcome(tmp_path / 'run/seed0') == outcome(tmp_path / 'whole/seed0')


def test_too_little_memory(data, tmp_path, capsys):
    assert '--batch_size' in fails(capsys, data, tmp_path, *ARGV, f'--n_embd={2 ** 36}', '--n_layer=0')


def test_a_trunk_goes_on_under_another_head(data, tmp_path, capsys):
    train(data, tmp_path / 'ce', '--head=ce')
    train(data, tmp_path / 'bce', '--head=bce', '--epochs=1', '--learning_rate=0', f'--init_from={tmp_path / "ce/seed0"}')
    ce, bce = (torch.load(tmp_path / name / 'seed0/model.pt', weights_only=True) for name in ('ce', 'bce'))
    assert all(torch.equal(ce[name], w) for name, w in bce.items() if not name.startswith('head.'))
    assert bce['head.linear.weight'].shape == (1, 16)
    error = fails(capsys, data, tmp_path / 'wide', '--n_embd=32', f'--init_from={tmp_path / "ce/seed0"}')
    assert 'does not fit: embed.weight is (100, 16) there, (100, 32) here' in error
    content = json.dumps({'not': 'weights'}).encode()
    (tmp_path / 'other.pt').write_bytes(content)
    assert 'damaged' in fails(capsys, data, tmp_path / 'no', f'--init_from={tmp_path / "other.pt"}')
