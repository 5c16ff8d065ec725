"""Hostile input: never a traceback, a hang, a 500, or a file left half-written.

The command line is in test_settings.py; here are tables, the files of a run, what a run resumes
from, and HTTP. FUZZ cases of each, 60 if not set (40 s)."""
import contextlib
import csv
import functools
import io
import json
import os
import random
import shutil
import socket
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ask
from helpers import TINY, config_of, make_data, script

from model import make_head, model_settings
from nanoloss import ensemble, loop
from nanoloss.classifier import TextClassifier
from nanoloss.runs import RunFolder, read_run

FUZZ = int(os.environ.get('FUZZ', 60))
SLOW = 20.0  # seconds: a case that takes longer hangs
ODD = [
    '', ' ', '\0', '\ufeff', '"', '"""', ',', '\n', '\r', '\r\n', ';', '\t', 'ä', '最高', '👍',
    '\ud800', 'nan', 'NaN', '-1', '1e999', '1' * 400, 'null', 'a' * 100_000, '=1+1',
    '<|endoftext|>', '../x', '\x1b[2J', '{}', '[]', '%s', "'", '\\']
VALUES = [
    None, True, -1, 0, 2 ** 70, 1e308, float('nan'), float('inf'), '', 'x' * 10_000, [], {}, [[]],
    [None], {'': 0}, [0] * 1000, 'bce', 'none', '../../x']


def is_refused(call):
    """Whether the call ended in one line and status 2; anything but that or success is a
    failure."""
    start = time.monotonic()
    error = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        try:
            call()
        except SystemExit as stop:
            assert stop.code == 2, error.getvalue()[-2000:]
            assert error.getvalue().count('\n') == 1, error.getvalue()[-2000:]
    assert time.monotonic() - start < SLOW
    return bool(error.getvalue())


def change_bytes(rng, content):
    """Flip, cut, repeat or insert."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 3])):
        position = rng.randrange(len(content) + 1)
        kind = rng.randrange(4)
        if kind == 0 and content:
            content[position % len(content)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del content[position:position + rng.choice([1, 10, 10 ** 6])]
        elif kind == 2:
            content[position:position] = content[position:position + 100]
        else:
            content[position:position] = rng.choice(ODD).encode('utf-8', 'surrogatepass')
    return bytes(content)


def change_value(rng, value):
    """Something else somewhere in a JSON value."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        value = value.copy()
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if rng.random() < 0.15:
            del value[key]
        else:
            value[key] = change_value(rng, value[key])
        return value
    return rng.choice(VALUES)


def print_count(cases, n_refused, capsys):
    with capsys.disabled():
        print(f'\n{cases}: {FUZZ} cases, {n_refused} of them refused in one line, '
              'none in any other way')


# Tables

def odd_table(rng):
    """-> a kind of file, its content."""
    kind = rng.choice(['csv', 'tsv', 'jsonl', 'json'])
    rows = [[f'review {k}', rng.choice('ab'), str(k // 2)] for k in range(40)]
    for _ in range(rng.choice([0, 1, 5])):
        rows[rng.randrange(40)][rng.randrange(3)] = rng.choice(ODD)
    columns = 'text', 'label', 'movie'
    if kind in ('csv', 'tsv'):
        buffer = io.StringIO(newline='')
        table = csv.writer(buffer, delimiter=',' if kind == 'csv' else '\t',
                           lineterminator=rng.choice(['\n', '\r\n']))
        table.writerows([columns, *rows])
        content = buffer.getvalue().encode('utf-8', 'surrogatepass')
    else:
        records = [dict(zip(columns, row)) for row in rows]
        if rng.random() < 0.3:
            records[rng.randrange(40)] = change_value(rng, records[0])
        content = '\n'.join(map(json.dumps, records)).encode()
    if rng.random() < 0.5:
        content = change_bytes(rng, content)
    return kind, content


def check_data_set(folder):
    """What meta.json says is in the arrays."""
    meta = json.loads((folder / 'meta.json').read_text())
    for split, counts in meta['splits'].items():
        offsets = np.load(folder / f'{split}_offsets.npy')
        assert len(offsets) - 1 == counts['rows'] > 0
        assert (np.diff(offsets.astype(int)) > 0).all()
        assert len(np.load(folder / f'{split}_tokens.npy')) == offsets[-1]


def test_tables(tmp_path, monkeypatch, capsys):
    """Files of reviews whose cells, separators or bytes are odd, through prepare.py: a complete
    data set, or none."""
    monkeypatch.chdir(tmp_path)
    module = script('prepare')
    rng = random.Random(0)
    enc = module.load_tokenizer()
    monkeypatch.setattr(module, 'load_tokenizer', lambda name: enc)
    n_refused = 0
    for _ in range(FUZZ):
        kind, content = odd_table(rng)
        Path(f'case.{kind}').write_bytes(content)
        config = config_of(
            module, f'--source=case.{kind}', '--name=case',
            f'--group={rng.choice(["", "movie"])}', f'--label_sep={rng.choice(["", "", ";"])}',
            f'--quoting={rng.choice(["minimal", "minimal", "none"])}')
        refused = is_refused(lambda config=config: module.main(config))
        n_refused += refused
        made = sorted(os.listdir('data')) if Path('data').exists() else []
        assert made == ([] if refused else ['case']), content[:1000]
        if not refused:
            check_data_set(Path('data/case'))
            shutil.rmtree('data/case')
    assert 0 < n_refused < FUZZ
    print_count('tables', n_refused, capsys)


# The files of a run

def changed_file(rng, name, content):
    """The content of a run's file, changed in values or bytes."""
    if name == 'log.jsonl' and rng.random() < 0.8:
        rows = change_value(rng, [json.loads(line) for line in content.splitlines()])
        return '\n'.join(map(json.dumps, rows if isinstance(rows, list) else [rows])).encode()
    if name in ('config.json', 'result.json') and rng.random() < 0.8:
        return json.dumps(change_value(rng, json.loads(content))).encode()
    if name == 'preds.npz' and rng.random() < 0.5:
        arrays = dict(np.load(io.BytesIO(content)))
        key = rng.choice(list(arrays))
        array = arrays[key]
        arrays[key] = rng.choice([
            array[:-1], array.astype(object), np.zeros(0), np.full((286, 9), np.nan)])
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()
    return change_bytes(rng, content)


def test_files_of_a_run(home, tmp_path, monkeypatch, capsys):
    """config.json, result.json, log.jsonl, preds.npz and model.pt changed in values or bytes,
    through evaluate.py and `TextClassifier`: counted, or named and left out."""
    run = tmp_path / 'seed0'
    shutil.copytree(home / 'out/bce/seed0', run)
    stored = RunFolder(run)
    monkeypatch.setattr(ensemble, 'tokenizer', functools.cache(ensemble.tokenizer))
    readers = [lambda: read_run(stored, make_head),
               lambda: TextClassifier(run).probs(['a text'])]
    good = {path.name: path.read_bytes() for path in run.iterdir()}
    names = ['config.json', 'config.json', 'result.json', 'log.jsonl', 'preds.npz', 'model.pt']
    rng = random.Random(1)
    n_refused = 0
    for _ in range(FUZZ):
        name = rng.choice(names)
        (run / name).write_bytes(changed_file(rng, name, good[name]))
        refused = False
        for reader in readers:
            start = time.monotonic()
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    reader()
            except ValueError as error:
                assert str(error)
                refused = True
            except SystemExit as stop:
                assert stop.code == 2
                refused = True
            assert time.monotonic() - start < SLOW
        n_refused += refused
        (run / name).write_bytes(good[name])
    assert read_run(stored, make_head)
    assert zipfile.is_zipfile(run / 'model.pt')
    assert 0 < n_refused < FUZZ
    print_count('files of a run', n_refused, capsys)


# What train.py resumes from

def train(argv, module=None):
    module = module or script()
    module.main(config_of(module, *argv, more=model_settings))


def stop_in_the_first_epoch(argv):
    """Train as a process that gets SIGTERM while it evaluates for the first time."""
    module = script()
    predict = module.predict

    def stop_and_predict(*args, **keywords):
        loop.stop_signal = 15
        return predict(*args, **keywords)
    module.predict = stop_and_predict
    try:
        with pytest.raises(SystemExit) as stop:
            train(argv, module)
    finally:
        loop.stop_signal = 0
    assert stop.value.code == 128 + 15


def test_folders_that_a_run_goes_on_from(tmp_path, capsys):
    """What train.py finds of the data and of an earlier run, changed in values or bytes: it goes
    on, or says why not."""
    case = tmp_path / 'case'
    argv = [*TINY, '--dropout=0.1', '--eval_interval=5', '--ckpt_secs=0',
            f'--data_dir={case / "data"}', f'--out_dir={case / "out"}']
    make_data(case / 'data')
    stop_in_the_first_epoch(argv)
    shutil.copytree(case, tmp_path / 'good')
    names = [
        *['data/toy/meta.json'] * 3, 'data/toy/train_tokens.npy', 'data/toy/train_offsets.npy',
        'data/toy/train_labels.npy', 'out/seed0/config.json', 'out/seed0/config.json',
        'out/seed0/log.jsonl', 'out/seed0/ckpt.pt']
    rng = random.Random(3)
    n_refused = 0
    for _ in range(FUZZ):
        shutil.rmtree(case)
        shutil.copytree(tmp_path / 'good', case)
        path = case / rng.choice(names)
        if path.suffix == '.json' and rng.random() < 0.8:
            path.write_text(json.dumps(change_value(rng, json.loads(path.read_text()))))
        elif rng.random() < 0.1:
            path.unlink()
        else:
            path.write_bytes(change_bytes(rng, path.read_bytes()))
        refused = is_refused(lambda: train(argv))
        n_refused += refused
        assert refused or (case / 'out/seed0/result.json').exists()
        assert not list(case.rglob('*.tmp'))
    assert 0 < n_refused < FUZZ
    print_count('folders that a run resumes from', n_refused, capsys)


# HTTP

def odd_body(rng):
    good = {'texts': ['a wonderful film', 'boring'], 'explain': False}
    if rng.random() < 0.3:
        return change_bytes(rng, json.dumps(good).encode())
    if rng.random() < 0.5:
        return json.dumps(change_value(rng, good)).encode()
    texts = [rng.choice(ODD) for _ in range(rng.choice([1, 1, 3]))]
    return json.dumps({'texts': texts, 'explain': rng.random() < 0.5}).encode()


def test_bodies(server, capsys):
    """JSON of any shape, and bytes of none: 2xx or 4xx, in time, and the server lives on."""
    rng = random.Random(2)
    n_refused = 0
    for _ in range(FUZZ):
        body = odd_body(rng)
        headers = {'Content-Type': rng.choice(['application/json'] * 5 + ['text/plain', 'x'])}
        start = time.monotonic()
        status, _, answer = ask(server, body, headers=headers)
        assert status == 200 or 400 <= status < 500, (status, body[:1000])
        assert time.monotonic() - start < SLOW
        if status == 200:
            assert all(sum(row.values()) == pytest.approx(1) for row in answer['probabilities'])
        n_refused += status != 200
    assert 0 < n_refused < FUZZ
    assert ask(server, None, 'GET', '/health')[0] == 200
    print_count('bodies', n_refused, capsys)


@pytest.mark.parametrize('raw', [
    b'GET /\r\n\r\n', b'POST /predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n', b'\0' * 1000,
    b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{',
    b'GET /' + b'a' * 100_000 + b' HTTP/1.1\r\n\r\n'],
    ids=['half a line', 'negative length', 'zeros', 'cut body', 'long path'])
def test_what_is_no_request(server, raw):
    address = '127.0.0.1', server
    with (socket.create_connection(address, timeout=5) as connection,
          contextlib.suppress(OSError)):
        connection.sendall(raw)
        connection.settimeout(0.5)
        assert b' 500 ' not in connection.recv(1000)
    assert ask(server, None, 'GET', '/health')[0] == 200


def test_a_word_of_two_megabytes(home):
    """In time that grows with its length: with its square it would take hours."""
    classifier = TextClassifier(home / 'out/bce')
    texts = ['a' * 2_000_000, '最' * 700_000, '\n' * 200_000]
    start = time.process_time()  # however busy the machine is
    assert classifier.probs(texts).shape == (3, 2)
    assert time.process_time() - start < 20
