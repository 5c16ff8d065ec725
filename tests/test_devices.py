"""nanoloss/devices.py on this machine, and on simulated ones. About 1 s."""
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT

from nanoloss import devices
from nanoloss.devices import (
    autocast, choose_device, choose_dtype, hardware_name, peak_memory_mb, to_device)


def machine(monkeypatch, cuda=False, mps=False, bfloat16=False):
    """Simulate a machine with a GPU or without, and with bfloat16 in its GPU or CPU or without."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: mps)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: bfloat16)
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {'amx_bf16': bfloat16})


@pytest.mark.parametrize('cuda, mps, chosen', [
    (False, False, 'cpu'), (False, True, 'mps'), (True, False, 'cuda'), (True, True, 'cuda')])
def test_auto_is_the_first_of_cuda_mps_and_cpu(monkeypatch, cuda, mps, chosen):
    machine(monkeypatch, cuda, mps)
    assert choose_device('auto') == chosen
    assert choose_device('cpu') == 'cpu'
    for device, available in ('cuda', cuda), ('mps', mps):
        if available:
            assert choose_device(device) == device
        else:
            with pytest.raises(ValueError, match=f"device '{device}' is not available; there is"):
                choose_device(device)


def test_an_unknown_device_is_named_with_those_there_are(monkeypatch):
    machine(monkeypatch, cuda=True)
    with pytest.raises(ValueError, match="^device 'tpu' is not available; there is cuda, cpu$"):
        choose_device('tpu')


@pytest.mark.parametrize('device, bfloat16, chosen', [
    ('cuda', True, 'bfloat16'), ('cuda', False, 'float16'), ('cpu', True, 'bfloat16'),
    ('cpu', False, 'float32'), ('mps', False, 'float32'), ('mps', True, 'float32')])
def test_auto_is_the_fastest_precision_that_is_safe(monkeypatch, device, bfloat16, chosen):
    machine(monkeypatch, bfloat16=bfloat16)
    assert choose_dtype('auto', device) == chosen


@pytest.mark.parametrize('capabilities, fast', [
    ({}, False), ({'avx512_bf16': True}, True), ({'amx_bf16': True}, True),
    ({'avx512_bf16': False, 'amx_bf16': False}, False), ({'avx2': True}, False)])
def test_which_cpus_multiply_bfloat16(monkeypatch, capabilities, fast):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: capabilities)
    assert devices.bfloat16_is_fast() is fast


def test_a_given_precision():
    for dtype in 'bfloat16', 'float16', 'float32', 'float64':
        for device in 'cpu', 'cuda', 'mps':
            if (device, dtype) == ('mps', 'float64'):
                continue
            assert choose_dtype(dtype, device) == dtype
    for dtype, device in ('int8', 'cpu'), ('float64', 'mps'), ('', 'cpu'):
        with pytest.raises(ValueError, match=f'^dtype is .*, not {dtype!r}$'):
            choose_dtype(dtype, device)


@pytest.mark.parametrize('dtype, product', [
    ('bfloat16', torch.bfloat16), ('float16', torch.float16), ('float32', torch.float32),
    ('float64', torch.float32)])
def test_products_have_16_bits_only_if_the_precision_has(dtype, product):
    x = torch.randn(4, 4)
    with autocast('cpu', dtype):
        assert (x @ x).dtype == product
    assert (x @ x).dtype == torch.float32


def test_a_model_without_memory():
    """Its weights would take 4 TB. In a process of its own, because it must not import
    torch.compile, which takes as long as importing torch."""
    program = """
import sys, torch
from model import Classifier, Transformer, make_head
from nanoloss.devices import shapes_only
with shapes_only():
    model = Classifier(Transformer(10 ** 9, 20, n_embd=1000), make_head('bce', 1000, 2), 7, 9)
print({(weight.device.type, weight.dtype) for weight in model.parameters()})
print(tuple(model.trunk.token_embedding.weight.shape), tuple(model.ngrams.sums.weight.shape))
print('torch._dynamo' in sys.modules)
print(torch.nn.Linear(2, 3).weight.device, torch.nn.Embedding(2, 3).weight.abs().min().item() > 0)
"""
    process = subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True,
                             capture_output=True, text=True)
    assert process.stdout.splitlines() == [
        "{('meta', torch.float32)}", '(1000000000, 1000) (10, 1)', 'False', 'cpu True']


def test_float64_weights_stay_float64():
    x = torch.randn(4, 4, dtype=torch.float64)
    with autocast('cpu', 'float64'):
        assert (x @ x).dtype == torch.float64


def test_the_name_of_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {'cpu_name': 'Abacus 3'})
    assert hardware_name('cpu') == 'Abacus 3'
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {})
    assert hardware_name('cpu') == 'cpu'


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='not Linux')
def test_peak_memory_is_that_of_the_kernel():
    """Memory that has been freed since counts, too."""
    block = bytearray(100 * 2 ** 20)
    block[::4096] = bytes(len(block[::4096]))  # so that every page is real
    del block
    status = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    kilobytes = int(status['VmHWM'].split()[0])
    assert peak_memory_mb('cpu') == pytest.approx(kilobytes / 2 ** 10, abs=2)


def test_peak_memory_is_unknown_on_windows(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'win32')
    assert peak_memory_mb('cpu') is None


def test_arrays_go_to_a_device_as_they_are():
    for array in np.arange(6).reshape(2, 3), np.array([0.5], np.float32), np.zeros((0, 4), bool):
        for device in 'cpu', torch.device('cpu'):
            tensor = to_device(array, device)
            assert tensor.numpy().dtype == array.dtype
            assert tensor.tolist() == array.tolist() and tensor.shape == array.shape


def test_only_a_gpu_is_waited_for_and_forgets_its_peak(monkeypatch):
    called = []
    stream = SimpleNamespace(synchronize=lambda: called.append('synchronize'))
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda: stream)
    monkeypatch.setattr(torch.cuda, 'reset_peak_memory_stats', lambda: called.append('reset'))
    for device in 'cpu', 'cuda':
        devices.synchronize(device)
        devices.reset_peak_memory(device)
        assert called == ([] if device == 'cpu' else ['synchronize', 'reset'])
