"""bench.py's arithmetic; its measurements are in results/bench."""
import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import bench
from model import Encoder, EncoderConfig, to_bags


@pytest.fixture
def data(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    lengths = [700, 3, 40, 512, 300]
    folder = tmp_path / 'toy'
    folder.mkdir()
    np.save(folder / 'train_tokens.npy', rng.integers(0, 200, sum(lengths)).astype(np.uint32))
    np.save(folder / 'train_offsets.npy', np.cumsum([0] + lengths).astype(np.uint64))
    np.save(folder / 'train_labels.npy', np.array([0, 1, 1, 0, 1], np.uint8))
    (folder / 'meta.json').write_text(json.dumps({'version': 1}))
    monkeypatch.setattr(bench, 'data_dir', tmp_path)
    monkeypatch.setattr(bench, 'dataset', 'toy')


@pytest.mark.parametrize('bag', [True, False])
def test_flops_are_those_that_torch_counts(data, bag):
    tokens, offsets, _ = bench.load('train')
    model, count, n_tokens = Encoder(EncoderConfig(vocab_size=200, n_class=2)), 0, 0
    for a, b in zip(offsets.astype(int), offsets.astype(int)[1:]):
        review = torch.from_numpy(tokens[a:b][:512].astype(np.int64))
        n_tokens += len(review)
        kinds, counts, _ = to_bags(review, torch.tensor([len(review)])) if bag else (review, torch.ones(len(review)), 0)
        with FlopCounterMode(display=False) as counter:
            model(kinds[None], counts[None]).sum().backward()
        count += counter.get_total_flops()
    assert bench.flops(1.0, bag) == pytest.approx(count / n_tokens, rel=0.02)


@pytest.mark.parametrize('n', [2, 5, 13])
def test_repeat(data, tmp_path, n):
    tokens, offsets, labels = bench.repeat(bench.load('train'), n)
    there = bench.load('train')
    assert len(labels) == n and len(offsets) == n + 1 and offsets[-1] == len(tokens) and offsets.dtype == np.uint64
    for i in range(n):
        a, b = (int(x) for x in there[1][i % 5:i % 5 + 2])
        assert tokens[int(offsets[i]):int(offsets[i + 1])].tolist() == there[0][a:b].tolist()
        assert labels[i] == there[2][i % 5]
