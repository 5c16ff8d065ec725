"""Whole runs on a GPU, compared with runs on the CPU and with each other (a minute; skipped without
a GPU)."""
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    ROOT, TINY, TRAININGS, WINDOWS, at_evaluation, close, interrupt, make_batches, make_data,
    outcome, pretrain, train)
from torch.nn import functional as F

from nanoloss import data as data_module
from nanoloss import loop
from nanoloss.data import load_data

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
GPU = '--device=cuda'

# train.py as one of two processes that share a GPU, which NCCL does not allow
TWO = f'''
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from nanoloss import parallel
torch.cuda.init()
parallel.dist.init_process_group = lambda backend, join=torch.distributed.init_process_group: (
    join('gloo'))
torch.cuda.device_count = lambda: 2
torch.cuda.set_device = lambda gpu: None
import train
from model import model_settings
from nanoloss.settings import configure
train.main(configure(vars(train), more=model_settings))
'''


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data'))


def without_dropout(argv):
    return [argument for argument in argv if not argument.startswith('--dropout=')]


@pytest.mark.parametrize('run, argv', [*TRAININGS, (train, [*WINDOWS, '--dropout=0'])])
def test_it_computes_what_the_cpu_does(data, tmp_path, run, argv):
    """In float64, and without dropout, which differs on a GPU."""
    argv = [*without_dropout(argv), '--dtype=float64', '--dropout=0']
    run(data, tmp_path / 'gpu', *argv, GPU)
    if run is train:
        argv.append('--deferred=False')
    run(data, tmp_path / 'cpu', *argv)
    close(tmp_path / 'gpu/seed0', tmp_path / 'cpu/seed0')


@pytest.mark.parametrize('run, argv', [*TRAININGS, (train, WINDOWS)])
def test_a_run_of_graphs_is_the_run_without(data, tmp_path, run, argv):
    argv = [*argv, '--dtype=float64', '--deterministic', GPU]
    run(data, tmp_path / 'with', *argv)
    run(data, tmp_path / 'without', *argv, '--graphs=False')
    close(tmp_path / 'with/seed0', tmp_path / 'without/seed0')


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32'])
@pytest.mark.parametrize('trunk', [
    ['--token_dropout=0.1'], ['--token_dropout=0.1', '--causal'], WINDOWS],
    ids=['transformer', 'causal', 'windows'])
def test_a_toy_task_is_learnt_in_every_precision(data, tmp_path, trunk, dtype):
    train(data, tmp_path, *trunk, '--epochs=8', f'--dtype={dtype}', GPU)
    result, log, _, _ = outcome(tmp_path / 'seed0')
    assert result['last']['test']['accuracy'] > 0.85
    for line in (tmp_path / 'seed0/log.jsonl').read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    assert log[-1]['train_loss'] < log[0]['train_loss']


@pytest.mark.parametrize('run, argv', [*TRAININGS, (train, WINDOWS)])
def test_deterministic_runs_are_the_same(data, tmp_path, run, argv):
    argv = [*argv, '--deterministic', '--dtype=bfloat16', GPU]
    run(data, tmp_path / 'a', *argv)
    run(data, tmp_path / 'b', *argv)
    _, a_log, a_weights, _ = outcome(tmp_path / 'a/seed0')
    _, b_log, b_weights, _ = outcome(tmp_path / 'b/seed0')
    assert a_log == b_log
    assert a_weights == b_weights


@pytest.mark.parametrize('graphs', ['--graphs', '--graphs=False'])
def test_a_resumed_run_is_the_uninterrupted_one(data, tmp_path, capsys, graphs):
    """Also if it is resumed with or without graphs."""
    argv = ['--epochs=3', '--dropout=0.1', '--eval_interval=5', '--ckpt_secs=0', '--deterministic',
            '--dtype=float64', GPU]
    train(data, tmp_path / 'uncut', *argv)
    module = at_evaluation(8, interrupt)
    with pytest.raises(SystemExit):
        train(data, tmp_path / 'cut', *argv, graphs, module=module)
    train(data, tmp_path / 'cut', *argv)
    assert 'resumes after step 29 of 42' in capsys.readouterr().out
    close(tmp_path / 'cut/seed0', tmp_path / 'uncut/seed0')


def test_making_batches_does_not_make_the_cpu_wait(data, monkeypatch):
    """Except for the sizes of bags."""
    monkeypatch.setattr(data_module, 'POOL', 3)
    split = load_data(data / 'toy')[0]['train']
    made = make_batches(split, 16, 20, bag=False, rng=np.random.default_rng(0), device='cuda')
    torch.cuda.set_sync_debug_mode('error')
    try:
        on_gpu = list(made)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    on_cpu = make_batches(split, 16, 20, bag=False, rng=np.random.default_rng(0))
    for one, other in zip(on_gpu, on_cpu, strict=True):
        for name in 'tokens', 'counts', 'labels':
            assert torch.equal(getattr(one, name).cpu(), getattr(other, name))


def test_two_processes_on_one_gpu_are_one(data, tmp_path):
    argv = ['--dtype=float64', '--token_dropout=0.3', '--deterministic', GPU]
    train(data, tmp_path / 'one', *argv)
    (tmp_path / 'two.py').write_text(TWO)
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
         tmp_path / 'two.py', *TINY, f'--data_dir={data}', *argv, f'--out_dir={tmp_path / "two"}'],
        capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    close(tmp_path / 'one/seed0', tmp_path / 'two/seed0')


@pytest.mark.parametrize('length', [64, 192])
def test_masked_attention_has_a_gradient(length):
    """cuDNN gives NaN at these lengths if every score of a row is low; loop.start_device turns it
    off."""
    loop.start_device(SimpleNamespace(device='cuda', dtype='bfloat16', threads=0,
                                      deterministic=False, graphs=False, max_tokens=0))
    q = torch.full((1, 1, length, 64), 1.0, device='cuda', dtype=torch.bfloat16)
    k = torch.full_like(q, -20.0)
    v = torch.randn_like(q)
    mask = torch.ones(length, length, dtype=torch.bool, device='cuda').tril()
    for tensor in (q, k, v):
        tensor.requires_grad_()
    F.scaled_dot_product_attention(q, k, v, mask).sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in (q, k, v))


def test_a_loss_that_is_not_finite_ends_the_run(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train(data, tmp_path, '--learning_rate=1e30', '--dtype=float32', GPU)
    assert stop.value.code == 2
    assert 'the loss is nan at step' in capsys.readouterr().err


def test_the_peak_is_that_of_the_run(data, tmp_path):
    """Not that of a larger run before it in the same process."""
    peaks = []
    for n_embd in 1024, 16:
        train(data, tmp_path / str(n_embd), f'--n_embd={n_embd}', '--n_head=1', '--epochs=1', GPU)
        peaks.append(json.loads((tmp_path / f'{n_embd}/seed0/log.jsonl').read_text())
                     ['peak_memory_mb'])
    assert peaks[1] < peaks[0] / 2


def test_a_language_model_learns_in_every_precision(data, tmp_path):
    for dtype in 'bfloat16', 'float16':
        pretrain(data, tmp_path / dtype, f'--dtype={dtype}', '--learning_rate=1e-2', GPU)
        _, log, _, _ = outcome(tmp_path / dtype / 'seed0')
        assert log[-1]['val_loss'] < log[0]['val_loss']
