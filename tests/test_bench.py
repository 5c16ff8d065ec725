"""The arithmetic, the data and the commands of tools/bench.py and results/bench/; their
measurements are in results/bench (10 s)."""
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import config_of, fails, make_data, make_run, save
from torch.utils.flop_counter import FlopCounterMode

import train
from model import Transformer, make_head, model_settings
from nanoloss import data as data_module
from nanoloss import speed
from nanoloss.data import load_data, save_data, to_bags
from nanoloss.settings import configure
from results.bench import company, language, peers
from tools import bench

LENGTHS = [700, 3, 40, 512, 300]


@pytest.fixture
def toy(tmp_path):
    """A data set of five texts -> its splits and its meta.json."""
    rng = np.random.default_rng(0)
    splits = {}
    for name in ('train', 'val', 'test'):
        texts = [rng.integers(0, 200, n) for n in LENGTHS]
        splits[name] = texts, [0, 1, 1, 0, 1]
    save(tmp_path / 'toy', splits, vocab_size=200)
    return load_data(tmp_path / 'toy')


def texts_of(split):
    return [split.tokens[begin:end].tolist() for begin, end in split.spans]


# nanoloss/speed.py

def counted_flops(trunk, head, tokens, counts):
    """What torch counts in the forward and backward pass of a training step."""
    with FlopCounterMode(display=False) as counter:
        head(trunk(tokens[None], counts[None])).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize('bag', [True, False])
def test_flops_are_those_that_torch_counts(toy, bag):
    data, _ = toy
    trunk = Transformer(200, 512)
    head = make_head('bce', trunk.n_features, 2)
    total = 0
    n_tokens = 0
    for text in texts_of(data['train']):
        tokens = torch.tensor(text[:512])
        n_tokens += len(tokens)
        counts = torch.ones(len(tokens))
        if bag:
            tokens, counts, _ = to_bags(tokens, np.array([len(tokens)]))
        total += counted_flops(trunk, head, tokens, counts)
    found = speed.transformer_flops(data['train'], 2, 128, 512, 0.0, bag)
    assert found == pytest.approx(total / n_tokens, rel=0.02)


def test_flops_with_token_dropout(toy):
    """With a fifth of the tokens, about a fifth of the products of the linear layers."""
    data, _ = toy
    everything = speed.transformer_flops(data['train'], 2, 128, 512, 0.0, False)
    found = speed.transformer_flops(data['train'], 2, 128, 512, 0.8, False)
    assert 0.1 * everything < found < 0.2 * everything


def test_measurements_are_kept_as_they_come(tmp_path, capsys):
    log = speed.Log(tmp_path / 'measurements.jsonl')
    log.add('peak', {'peak': 0.4})
    log.add('2500 texts', {'train': 1.5, 'memory': 8})
    log.add('peak', {'peak': 0.5})
    lines = (tmp_path / 'measurements.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {'row': 'peak', 'peak': 0.4}, {'row': '2500 texts', 'train': 1.5, 'memory': 8},
        {'row': 'peak', 'peak': 0.5}]
    assert 'peak: {"peak": 0.4}' in capsys.readouterr().out
    assert speed.column(log.measured()['peak'], 'peak') == [0.4, 0.5]


def test_a_function_is_called_in_a_new_process():
    processes = {speed.in_new_process(os.getpid) for _ in range(2)}
    assert len(processes | {os.getpid()}) == 3
    with pytest.raises(ZeroDivisionError):
        speed.in_new_process(divmod, 1, 0)


# Data sets made from another one

@pytest.mark.parametrize('n', [2, 5, 13])
def test_repeat(toy, tmp_path, n):
    """Through the files that train.py reads."""
    data, meta = toy
    save_data(tmp_path / 'repeated', {**data, 'train': bench.repeat(data['train'], n)}, meta)
    repeated, repeated_meta = load_data(tmp_path / 'repeated')
    train_split = repeated['train']
    original = texts_of(data['train'])
    assert len(train_split.labels) == len(train_split.spans) == n
    assert train_split.spans[-1, 1] == len(train_split.tokens)
    assert np.load(tmp_path / 'repeated/train_offsets.npy').dtype == np.uint64
    for i, text in enumerate(texts_of(train_split)):
        assert text == original[i % 5]
        assert train_split.labels[i] == data['train'].labels[i % 5]
    assert texts_of(repeated['val']) == texts_of(data['val'])
    assert repeated_meta['splits']['train'] == {'rows': n, 'tokens': len(train_split.tokens)}
    for key in 'tokenizer', 'vocab_size', 'classes', 'multi_label':
        assert repeated_meta[key] == meta[key]


def test_a_saved_data_set_keeps_its_groups_and_the_order_of_its_rows(toy, tmp_path):
    data, meta = toy
    groups = np.array([7, 7, 8, 9, 9], np.uint32)
    splits = {name: split._replace(groups=groups).take([4, 1, 2]) for name, split in data.items()}
    save_data(tmp_path / 'some', splits, meta)
    saved, _ = load_data(tmp_path / 'some')
    for name, split in saved.items():
        assert texts_of(split) == texts_of(splits[name])
        assert split.groups.tolist() == [9, 7, 8]
        assert split.labels.tolist() == [1, 1, 1]


# tools/bench.py

def bench_config(*argv):
    return bench.read_settings(config_of(bench, '--threads=8', *argv))


def command_of(row, config, monkeypatch, folder, *arguments):
    """The arguments with which a row starts Python."""
    commands = []
    with monkeypatch.context() as patch:
        patch.setattr(bench.subprocess, 'Popen', lambda command, **_: commands.append(command))
        bench.start_training(config, row, folder, {}, *arguments)
    return commands[0][1:]


def test_rows_differ_in_name(tmp_path):
    make_data(tmp_path)
    for device in 'cpu', 'cuda':
        config = SimpleNamespace(dataset='imdb', short='toy', data_dir=tmp_path, device=device,
                                 only='')
        names = [row.name for row in bench.choose_rows(config)]
        assert len(set(names)) == len(names) > 8
        assert names[:2] == ['default model: imdb', 'default model: toy']


def test_a_missing_data_set_of_short_texts_is_skipped(tmp_path, capsys):
    config = SimpleNamespace(dataset='imdb', short='toy', data_dir=tmp_path, device='cpu', only='')
    assert bench.choose_rows(config)[1].name == 'ours: config/bce.py'
    assert 'skipped: default model: toy (no data in' in capsys.readouterr().out
    config.only = 'bce'
    assert [row.name for row in bench.choose_rows(config)] == ['ours: config/bce.py']
    assert not capsys.readouterr().out


@pytest.mark.parametrize('row', [bench.Row('default', config=''), *bench.ROWS],
                         ids=lambda row: row.name)
def test_train_py_takes_the_arguments_of_each_row(row, tmp_path, monkeypatch):
    """And the row has a value of its own for each of them."""
    config, _ = bench_config()
    command = command_of(row, config, monkeypatch, tmp_path, '--dataset=long')
    while command[0] != 'train.py' and command[0] != bench.UNSORTED:
        command = command[1:]
    if row.config:
        monkeypatch.chdir(bench.ROOT)
    found = configure(vars(train), more=model_settings, argv=command[1:])
    assert (found.trunk, found.device) == ('transformer' if row.config else 'windows', 'cpu')
    assert found.threads == 8 // (row.n_runs * row.n_processes)
    before = configure(vars(train), more=model_settings, argv=[row.config] if row.config else [])
    for argument in row.arguments:
        key = argument.removeprefix('--').partition('=')[0]
        assert vars(found)[key] != vars(before)[key]


def test_a_row_can_leave_its_batches_unsorted(tmp_path, monkeypatch):
    """Its program trains, and with pools of one batch."""
    make_data(tmp_path)
    row, = [row for row in bench.ROWS if not row.sorted]
    config, _ = bench_config()
    _, program, *argv = command_of(row, config, monkeypatch, tmp_path, '--dataset=toy',
                                   '--epochs=1')
    monkeypatch.chdir(bench.ROOT)
    monkeypatch.setattr(bench.sys, 'argv', ['-c', *argv])
    monkeypatch.setattr(data_module, 'POOL', 50)
    exec(program, {})
    assert data_module.POOL == 1
    assert list(tmp_path.glob('tmp*/seed0/result.json'))


@pytest.mark.parametrize('argv, words', [
    (['--only=('], 'only is a regular expression'),
    (['--sizes=2500,many'], 'many'),
    (['--repeats=0'], 'repeats must be at least 1'),
    (['--device=tpu'], "device 'tpu' is not available"),
    (['--only=nothing'], '--only=nothing matches no row')])
def test_mistakes_end_in_one_line(argv, words, tmp_path, capsys):
    def run():
        bench.main(config_of(bench, f'--out_dir={tmp_path}/out', f'--data_dir={tmp_path}', *argv))
    assert words in fails(capsys, run=run)
    assert not (tmp_path / 'out').exists()


SPEEDS = {'train': 400_000.0, 'eval': 300_000.0, 'memory': 1041, 'first_step': 2.81}
SLOWER = {'train': 5_000.0, 'eval': 60_000.0, 'memory': 2932, 'first_step': 7.5}


def test_report(toy, tmp_path, capsys):
    """The table and the figures of made-up measurements."""
    data, _ = toy
    config, _ = bench_config()
    rows = [bench.Row('default model: imdb', config=''), bench.ROWS[0]]
    measured = {
        'peak': [{'peak': 0.4}, {'peak': 0.5}, {'peak': 0.45}],
        'ours: config/bce.py': [SPEEDS, {**SPEEDS, 'train': 390_000.0}, SPEEDS],
        'default model: imdb': [{**SLOWER, 'first_step': None}],
    }
    growth = {2500: {'train': 400_000.0, 'memory': 854}, 8000: {'train': 500_000.0, 'memory': 1004}}
    flops = {row.name: row.flops(data['train'], config) for row in rows}
    bench.report(config, measured, growth, flops, tmp_path)
    table = (tmp_path / 'table.md').read_text()
    assert capsys.readouterr().out == table
    assert '0.45 (0.40 to 0.50) TFLOP/s. Median (lowest to highest) of 3.' in table
    share = round(100 * 400_000 * flops['ours: config/bce.py'] / 0.45e12)
    assert (f'| ours: config/bce.py | 400,000 (390,000 to 400,000) | {share}% '
            '| 300,000 (300,000 to 300,000) | 2.8 (2.8 to 2.8) '
            '| 1,041 (1,041 to 1,041) |\n') in table
    assert '| default model: imdb | 5,000 (once) |  | 60,000 (once) |  | 2,932 (once) |\n' in table
    assert '| 2,500 | 2.50 | 854 |\n| 8,000 | 2.00 | 1,004 |\n' in table
    for name in ('speed.png', 'growth.png'):
        assert (tmp_path / name).read_bytes().startswith(b'\x89PNG')


def test_a_row_s_speeds_are_those_of_all_its_runs(tmp_path, monkeypatch):
    """With one data set for the first step, and another for the speed."""
    started = []

    def start_training(config, row, folder, environment, *arguments, stderr=None):
        started.append([*arguments, environment.get('GLIBC_TUNABLES')])
        out = tmp_path / str(len(started))
        seed = next(int(a[7:]) for a in arguments if a.startswith('--seed='))
        make_run(out / f'seed{seed}', (300, 150))
        line = {'tokens_per_second': 10 ** seed, 'eval_tokens_per_second': 2, 'peak_memory_mb': 3}
        (out / f'seed{seed}/log.jsonl').write_text(json.dumps(line) + '\n')
        return out, SimpleNamespace(wait=lambda: 0, poll=lambda: None, terminate=lambda: None)

    monkeypatch.setattr(bench, 'start_training', start_training)
    monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1')
    config, _ = bench_config()
    found = bench.measure(config, bench.Row('three', n_runs=3), tmp_path)
    assert (found['train'], found['eval'], found['memory']) == (111, 6, 9)
    assert 0 <= found['first_step'] < 5
    assert [arguments[0] for arguments in started] == ['--dataset=long_start'] + 3 * [
        '--dataset=long']
    assert {arguments[-1] for arguments in started} == {'glibc.malloc.hugetlb=1'}
    bench.measure(config, bench.Row('one', huge_pages=False), tmp_path)
    assert started[-1][-1] is None


# results/bench/

def test_a_peer_batch_is_padded_to_its_longest_text(toy):
    data, _ = toy
    rng = np.random.default_rng(0)
    ids, mask, labels, n_tokens = peers.padded_batch(data['train'], np.array([0, 1]), 0.0, rng)
    texts = texts_of(data['train'])
    assert ids.shape == mask.shape == (2, 512)
    assert ids[0].tolist() == texts[0][:512]
    assert ids[1, :3].tolist() == texts[1]
    assert mask.sum(1).tolist() == [512, 3]
    assert labels.tolist() == [0, 1]
    assert n_tokens == 515


def test_peers_are_measured_beside_our_rows():
    names = [row.name for row in (*peers.PEERS, *peers.BAGS)]
    assert len(set(names)) == len(names)
    ours = {row.name: row for row in bench.ROWS}
    for name, token_dropout in peers.OURS.items():
        assert ('--token_dropout=0' in ours[name].arguments) == (token_dropout == 0)
        assert ours[name].devices == bench.BOTH


def test_our_rows_are_measured_by_tools_bench(tmp_path, monkeypatch):
    """With the settings of the peers; the command selects our rows, and no others."""
    commands = []

    def run(command, **_):
        commands.append(command[1:])
        out = next(a for a in command if a.startswith('--out_dir='))[10:]
        lines = [{'row': 'peak', 'peak': 0.4}, {'row': 'ours: config/bce.py', **SPEEDS}]
        with open(f'{out}/measurements.jsonl', 'w') as file:
            file.writelines(json.dumps(line) + '\n' for line in lines)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(peers.subprocess, 'run', run)
    config = config_of(peers, '--n_layer=6', '--n_train=7', '--device=cpu', '--threads=2',
                       f'--data_dir={tmp_path}')
    assert peers.measure_ours(config) == [('peak', {'peak': 0.4}), ('ours: config/bce.py', SPEEDS)]
    module, *argv = commands[0][1:]
    assert module == 'tools.bench'
    found, sizes = bench.read_settings(config_of(bench, *argv))
    assert (found.n_layer, found.n_train, found.repeats, sizes) == (6, 7, 1, [])
    assert [row.name for row in bench.choose_rows(found)] == list(peers.OURS)


def test_a_peer_is_measured(toy, tmp_path):
    config = config_of(peers, f'--data_dir={tmp_path}', '--dataset=toy', '--n_embd=16',
                       '--n_layer=1', '--threads=1')
    found = peers.measure_peer(peers.PEERS[1], config, 0.0)
    assert found.keys() == {'train', 'eval', 'first_step', 'memory'}
    assert all(value > 0 for value in found.values())


def test_report_of_peers(toy, tmp_path, capsys):
    data, _ = toy
    config = config_of(peers, '--threads=2')
    measured = {
        'peak': [{'peak': 0.4}],
        **{name: [SPEEDS] for name in peers.OURS},
        'bert, float32, padded': [SLOWER],
        'NB-SVM on words and pairs': [{'accuracy': 0.9086, 'seconds': 17.0}],
    }
    peers.report(config, measured, data['train'], tmp_path)
    table = (tmp_path / 'table.md').read_text()
    assert capsys.readouterr().out == table
    assert '| ours: config/bce.py | 400,000 (once) |' in table
    assert '| bert, float32, padded | 5,000 (once) |' in table
    assert '| NB-SVM on words and pairs | 90.86 | 17 (once) |\n' in table
    assert (tmp_path / 'speed.png').read_bytes().startswith(b'\x89PNG')


def test_the_two_tables_weigh_words_alike():
    """naive_bayes_weights of the peers is that of the baseline."""
    from scipy import sparse

    from tools.baseline import naive_bayes_weights
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(rng.integers(0, 2, (50, 20)).astype(float))
    labels = rng.integers(0, 2, 50)
    expected = naive_bayes_weights(x, labels == 1)
    assert np.allclose(peers.naive_bayes_weights(x, labels).diagonal(), expected)


def test_language_table():
    values = {'memory': 978, 'vocabulary': 13_118}
    measured = {'peak': [{'peak': 2.97}],
                **{name: [{'train': 15_566.0, **values}] for name in
                   (language.OURS, *language.PEERS)}}
    lines = language.language_table(measured)
    assert lines[3] == f'| {language.OURS} | 15,566 (once) | 21% | 978 (once) |'
    assert len(lines) == 6


def test_company_table():
    measured = {
        'company: two trainings': [{'alone': 6.0, 'company': 14.0}, {'alone': 6.5, 'company': 12.0},
                                   {'alone': 5.9, 'company': 15.3}],
        'company: a training and a service': [
            {'alone': 6.0, 'company': 9.0, 'request_alone': 4.0, 'request_company': 12.0}],
    }
    table = '\n'.join(company.company_table(measured))
    assert '| company: two trainings, s | 6.0 (5.9 to 6.5) | 14.0 (12.0 to 15.3) | 2.3 |' in table
    assert '| company: a training and a service, a request, ms | 4.0 (once) | 12.0' in table


def test_in_company_are_two_concurrent_processes(tmp_path):
    """Their seconds are those until both have finished."""
    config = SimpleNamespace(threads=1)
    sleeper = tmp_path / 'sleep.py'
    sleeper.write_text('import time; time.sleep(0.5); print("x" * 100_000)')
    times = [company.seconds_of(lambda: company.start_process(config, sleeper), n) for n in (1, 2)]
    assert times[0] > 0.5
    assert 0.5 < times[1] < 0.9 + times[0]
    (tmp_path / 'broken.py').write_text('raise ValueError')
    with pytest.raises(SystemExit):
        company.seconds_of(lambda: company.start_process(config, tmp_path / 'broken.py'), 1)
