"""bench.py's arithmetic and its data; its measurements are in results/bench (5 s)."""
import json
import re

import numpy as np
import pytest
import torch
from helpers import save
from torch.utils.flop_counter import FlopCounterMode

import bench
from model import Encoder, EncoderConfig
from nanoloss.data import load_data, to_bags

LENGTHS = [700, 3, 40, 512, 300]


@pytest.fixture
def toy(tmp_path):
    """A data set of five reviews -> its splits and its meta.json."""
    rng = np.random.default_rng(0)
    splits = {}
    for name in ('train', 'val', 'test'):
        reviews = [rng.integers(0, 200, n) for n in LENGTHS]
        splits[name] = reviews, [0, 1, 1, 0, 1]
    save(tmp_path / 'toy', splits, vocab_size=200)
    return load_data(tmp_path / 'toy')


def reviews_of(split):
    return [split.tokens[begin:end].tolist() for begin, end in split.spans]


def counted_flops(model, tokens, counts):
    """What torch counts in a training step's forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        model(tokens[None], counts[None])[-1].sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize('bag', [True, False])
def test_flops_are_those_that_torch_counts(toy, bag):
    data, _ = toy
    model = Encoder(EncoderConfig(vocab_size=200, n_class=2))
    total = 0
    n_tokens = 0
    for review in reviews_of(data['train']):
        tokens = torch.tensor(review[:512])
        n_tokens += len(tokens)
        counts = torch.ones(len(tokens))
        if bag:
            tokens, counts, _ = to_bags(tokens, np.array([len(tokens)]))
        total += counted_flops(model, tokens, counts)
    found = bench.flops(data['train'], 0.0, bag)
    assert found == pytest.approx(total / n_tokens, rel=0.02)


def test_flops_with_token_dropout(toy):
    """With a fifth of the tokens, about a fifth of the linear layers' products."""
    data, _ = toy
    everything = bench.flops(data['train'], 0.0, False)
    assert 0.1 * everything < bench.flops(data['train'], 0.8, False) < 0.2 * everything


@pytest.mark.parametrize('n', [2, 5, 13])
def test_repeat(toy, tmp_path, n):
    """Through the files that train.py reads."""
    data, meta = toy
    bench.save_data(tmp_path / 'repeated', {**data, 'train': bench.repeat(data['train'], n)}, meta)
    repeated, _ = load_data(tmp_path / 'repeated')
    train = repeated['train']
    original = reviews_of(data['train'])
    assert len(train.labels) == len(train.spans) == n
    assert train.spans[-1, 1] == len(train.tokens)
    assert np.load(tmp_path / 'repeated/train_offsets.npy').dtype == np.uint64
    for i, review in enumerate(reviews_of(train)):
        assert review == original[i % 5]
        assert train.labels[i] == data['train'].labels[i % 5]
    assert reviews_of(repeated['val']) == reviews_of(data['val'])


def test_a_peer_batch_is_padded_to_its_longest_review(toy):
    data, _ = toy
    rng = np.random.default_rng(0)
    ids, mask, labels, n_tokens = bench.padded_batch(data['train'], np.array([0, 1]), 0.0, rng)
    reviews = reviews_of(data['train'])
    assert ids.shape == mask.shape == (2, 512)
    assert ids[0].tolist() == reviews[0][:512]
    assert ids[1, :3].tolist() == reviews[1]
    assert mask.sum(1).tolist() == [512, 3]
    assert labels.tolist() == [0, 1]
    assert n_tokens == 515


def test_rows_differ_in_name_and_can_be_measured():
    rows = [*bench.OURS, *bench.PEERS, *bench.BAGS, *bench.LANGUAGE, *bench.COMPANY]
    assert len({row.name for row in rows}) == len(rows)
    settings = bench.Path(bench.ROOT / 'train.py').read_text()
    for row in bench.OURS:
        for argument in row.arguments:
            name = argument.removeprefix('--').partition('=')[0]
            assert re.search(rf'^{name} = ', settings, re.MULTILINE), argument


def test_report(toy, tmp_path, monkeypatch, capsys):
    """The table and the figures of made-up measurements."""
    data, _ = toy
    monkeypatch.setattr(bench, 'threads', 2)
    speeds = {'train': 400_000.0, 'eval': 300_000.0, 'memory': 1041, 'first_step': 2.81}
    slower = {'train': 5_000.0, 'eval': 60_000.0, 'memory': 2932, 'first_step': 7.5}
    measured = {
        'peak': [{'peak': 0.4}, {'peak': 0.5}, {'peak': 0.45}],
        'ours: config/bce.py': [speeds, {**speeds, 'train': 390_000.0}, speeds],
        'bert, float32, padded': [slower],
        'NB-SVM on words and pairs': [{'accuracy': 0.9086, 'seconds': 17.0}],
        'company: two trainings': [{'alone': 6.0, 'company': 14.0}, {'alone': 6.5, 'company': 12.0},
                                   {'alone': 5.9, 'company': 15.3}],
        'company: a training and a service': [
            {'alone': 6.0, 'company': 9.0, 'request_alone': 4.0, 'request_company': 12.0}],
    }
    growth = {2500: {'train': 400_000.0, 'memory': 854}, 8000: {'train': 500_000.0, 'memory': 1004}}
    bench.report(measured, growth, data['train'], tmp_path)
    table = (tmp_path / 'table.md').read_text()
    assert capsys.readouterr().out == table
    assert '0.45 (0.40 to 0.50) TFLOP/s. Median (lowest to highest) of 3.' in table
    assert re.search(r'\| ours: config/bce.py \| 400,000 \(390,000 to 400,000\) \| \d+% '
                     r'\| 300,000 \(300,000 to 300,000\) \| 2.8 \(2.8 to 2.8\) '
                     r'\| 1,041 \(1,041 to 1,041\) \|\n', table)
    assert re.search(r'\| bert, float32, padded \| 5,000 \(once\) \|', table)
    assert '| NB-SVM on words and pairs | 90.86 | 17 (once) |\n' in table
    assert '| company: two trainings, s | 6.0 (5.9 to 6.5) | 14.0 (12.0 to 15.3) | 2.3 |' in table
    assert '| company: a training and a service, a request, ms | 4.0 (once) | 12.0' in table
    assert '| 2,500 | 2.50 | 854 |\n| 8,000 | 2.00 | 1,004 |\n' in table
    for name in ('speed.png', 'growth.png'):
        assert (tmp_path / name).read_bytes().startswith(b'\x89PNG')


def test_measurements_are_kept_as_they_come(tmp_path, capsys):
    log = bench.Log(tmp_path / 'measurements.jsonl')
    log.add('peak', {'peak': 0.4})
    log.add('2500 reviews', {'train': 1.5, 'memory': 8})
    lines = (tmp_path / 'measurements.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {'row': 'peak', 'peak': 0.4}, {'row': '2500 reviews', 'train': 1.5, 'memory': 8}]
    assert 'peak: {"peak": 0.4}' in capsys.readouterr().out


def test_our_rows_run_where_the_peers_do(toy, tmp_path, monkeypatch):
    """On the CPU, on a machine with a GPU, too."""
    commands = []
    monkeypatch.setattr(bench.subprocess, 'Popen', lambda command, **_: commands.append(command))
    bench.start_training(bench.OURS[0], tmp_path, {})

    def run(command, **_):
        commands.append(command)
        raise InterruptedError
    monkeypatch.setattr(bench.subprocess, 'run', run)
    with pytest.raises(InterruptedError):
        bench.measure_growth(7, *toy, tmp_path)
    for command in commands:
        assert '--device=cpu' in command
    assert len(commands) == 2


def test_in_company_are_two_processes_at_once(monkeypatch, tmp_path):
    """Their seconds are those until both are done."""
    monkeypatch.setattr(bench, 'threads', 1)
    sleeper = tmp_path / 'sleep.py'
    sleeper.write_text('import time; time.sleep(0.5); print("x" * 100_000)')
    times = [bench.seconds_of(lambda: bench.start_script(sleeper), n) for n in (1, 2)]
    assert times[0] > 0.5
    assert 0.5 < times[1] < 0.9 + times[0]
    (tmp_path / 'broken.py').write_text('raise ValueError')
    with pytest.raises(SystemExit):
        bench.seconds_of(lambda: bench.start_script(tmp_path / 'broken.py'), 1)
