"""Hostile input: never a traceback, a hang, a 500, or a file left half-written. The command line is in test_config.py;
here are tables, the files of a run, what a run goes on from, and HTTP. FUZZ cases of each, 60 if not said (40 s)."""
import contextlib
import csv
import functools
import importlib.util
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
from test_predict import ask, home, server  # noqa: F401
from test_survival import ARGV
from test_train import data, script as train_script  # noqa: F401

ROOT = Path(__file__).parents[1]
FUZZ = int(os.environ.get('FUZZ', 60))
SLOW = 20.0  # seconds: a case that takes longer hangs
ODD = ['', ' ', '\0', '\ufeff', '"', '"""', ',', '\n', '\r', '\r\n', ';', '\t', 'ä', '最高', '👍', '\ud800', 'nan', 'NaN', '-1',
       '1e999', '1' * 400, 'null', 'a' * 100_000, '=1+1', '<|endoftext|>', '../x', '\x1b[2J', '{}', '[]', '%s', "'", '\\']
VALUES = [None, True, -1, 0, 2 ** 70, 1e308, float('nan'), float('inf'), '', 'x' * 10_000, [], {}, [[]], [None], {'': 0},
          [0] * 1000, 'bce', 'none', '../../x']


def script(name):
    spec = importlib.util.spec_from_file_location(f'{name}_again', ROOT / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def told(call):
    """Whether the call ended in one line and status 2; anything but that or success is a failure."""
    start = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            call()
        except SystemExit as stop:
            assert stop.code == 2 and error.getvalue().count('\n') == 1, error.getvalue()[-2000:]
    assert time.monotonic() - start < SLOW
    return bool(error.getvalue())


def change_bytes(rng, content):
    """Flip, cut, repeat or insert."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(content) + 1)
        kind = rng.randrange(4)
        if kind == 0 and content:
            content[at % len(content)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del content[at:at + rng.choice([1, 10, 10 ** 6])]
        elif kind == 2:
            content[at:at] = content[at:at + 100]
        else:
            content[at:at] = rng.choice(ODD).encode('utf-8', 'surrogatepass')
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


def count(what, n, bad, capsys):
    with capsys.disabled():
        print(f'\n{what}: {n} cases, {bad} of them refused in one line, none in any other way')


def test_tables(tmp_path, monkeypatch, capsys):
    """Files of reviews whose cells, separators or bytes are odd, through prepare.py: a whole data set, or none."""
    monkeypatch.chdir(tmp_path)
    module, rng, bad = script('prepare'), random.Random(0), 0
    enc = module.tokenizer()
    monkeypatch.setattr(module, 'tokenizer', lambda name: enc)
    defaults = {key: getattr(module, key) for key in ('source', 'text', 'label', 'label_sep', 'group', 'name')}
    for i in range(FUZZ):
        kind = rng.choice(['csv', 'tsv', 'jsonl', 'json'])
        rows = [[f'review {k}', rng.choice('ab'), str(k // 2)] for k in range(40)]
        for _ in range(rng.choice([0, 1, 5])):
            rows[rng.randrange(40)][rng.randrange(3)] = rng.choice(ODD)
        if kind in ('csv', 'tsv'):
            buffer = io.StringIO(newline='')
            csv.writer(buffer, delimiter=',' if kind == 'csv' else '\t', lineterminator=rng.choice(['\n', '\r\n'])).writerows(
                [['text', 'label', 'movie'], *rows])
            content = buffer.getvalue().encode('utf-8', 'surrogatepass')
        else:
            records = [dict(zip(('text', 'label', 'movie'), row)) for row in rows]
            if rng.random() < 0.3:
                records[rng.randrange(40)] = change_value(rng, records[0])
            content = '\n'.join(map(json.dumps, records)).encode()
        if rng.random() < 0.5:
            content = change_bytes(rng, content)
        Path(f'case.{kind}').write_bytes(content)
        vars(module).update(defaults | {'source': f'case.{kind}', 'name': 'case', 'group': rng.choice(['', 'movie']),
                                        'label_sep': rng.choice(['', '', ';'])})
        cache = tmp_path / 'cache'
        refused = told(lambda: module.main(str(cache)))
        shutil.rmtree(cache, ignore_errors=True)
        bad += refused
        there = sorted(os.listdir('data')) if Path('data').exists() else []
        assert there == ([] if refused else ['case']), content[:1000]
        if not refused:
            meta = json.loads(Path('data/case/meta.json').read_text())
            for split, told_of in meta['splits'].items():
                offsets = np.load(f'data/case/{split}_offsets.npy')
                assert len(offsets) - 1 == told_of['rows'] > 0 and (np.diff(offsets.astype(int)) > 0).all()
                assert len(np.load(f'data/case/{split}_tokens.npy')) == offsets[-1]
            shutil.rmtree('data/case')
    count('tables', FUZZ, bad, capsys)


def test_files_of_a_run(home, tmp_path, monkeypatch, capsys):
    """config.json, result.json, log.jsonl, preds.npz and model.pt changed in values or bytes, through evaluate.py and
    predict.py: counted, or named and left out."""
    run, rng, bad = tmp_path / 'seed0', random.Random(1), 0
    shutil.copytree(home / 'out/bce/seed0', run)
    evaluate, predict = script('evaluate'), script('predict')
    monkeypatch.setattr(predict, 'tokenizer', functools.cache(predict.tokenizer))
    good = {path.name: path.read_bytes() for path in run.iterdir()}
    for i in range(FUZZ):
        name = rng.choice(['config.json', 'config.json', 'result.json', 'log.jsonl', 'preds.npz', 'model.pt'])
        if name == 'log.jsonl' and rng.random() < 0.8:
            rows = change_value(rng, [json.loads(line) for line in good[name].splitlines()])
            content = '\n'.join(map(json.dumps, rows if isinstance(rows, list) else [rows])).encode()
        elif name.startswith(('config', 'result')) and rng.random() < 0.8:
            content = json.dumps(change_value(rng, json.loads(good[name]))).encode()
        elif name == 'preds.npz' and rng.random() < 0.5:
            arrays = dict(np.load(io.BytesIO(good[name])))
            key = rng.choice(list(arrays))
            arrays[key] = rng.choice([arrays[key][:-1], arrays[key].astype(object), np.zeros(0), np.full((286, 9), np.nan)])
            np.savez(buffer := io.BytesIO(), **arrays)
            content = buffer.getvalue()
        else:
            content = change_bytes(rng, good[name])
        (run / name).write_bytes(content)
        refused = False
        for reader in (lambda: evaluate.read_run(run), lambda: predict.Classifier(run).probs(['a text'])):
            start = time.monotonic()
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    reader()
            except ValueError as error:
                refused = bool(str(error))
            except SystemExit as stop:
                refused = stop.code == 2
            assert time.monotonic() - start < SLOW
        bad += refused
        (run / name).write_bytes(good[name])
    assert evaluate.read_run(run) and zipfile.is_zipfile(run / 'model.pt')
    count('files of a run', FUZZ, bad, capsys)


def test_folders_that_a_run_goes_on_from(data, tmp_path, capsys):
    """What train.py finds of the data and of an earlier run, changed in values or bytes: it goes on, or says why not."""
    argv = [*ARGV, f'--data_dir={tmp_path / "case/data"}', f'--out_dir={tmp_path / "case/out"}']
    shutil.copytree(data, tmp_path / 'good/data')
    shutil.copytree(tmp_path / 'good', tmp_path / 'case')
    module, rng, bad = train_script(), random.Random(3), 0
    there, module.predict = module.predict, lambda *args: (setattr(module, '_stopped', 15), there(*args))[1]
    with pytest.raises(SystemExit) as stop:  # it is told to stop in its first epoch
        module.main(module.configure(vars(module), more=module.head_settings, argv=argv))
    assert stop.value.code == 128 + 15
    shutil.copytree(tmp_path / 'case/out', tmp_path / 'good/out')
    names = ['data/toy/meta.json'] * 3 + [f'data/toy/train_{name}.npy' for name in ('tokens', 'offsets', 'labels')] + [
        f'out/seed0/{name}' for name in ('config.json', 'config.json', 'log.jsonl', 'ckpt.pt', 'best.pt')]
    for i in range(FUZZ):
        shutil.rmtree(tmp_path / 'case')
        shutil.copytree(tmp_path / 'good', tmp_path / 'case')
        path = tmp_path / 'case' / rng.choice(names)
        if path.suffix == '.json' and rng.random() < 0.8:
            path.write_text(json.dumps(change_value(rng, json.loads(path.read_text()))))
        elif rng.random() < 0.1:
            path.unlink()
        else:
            path.write_bytes(change_bytes(rng, path.read_bytes()))
        module = train_script()
        refused = told(lambda: module.main(module.configure(vars(module), more=module.head_settings, argv=argv)))
        bad += refused
        assert refused or (tmp_path / 'case/out/seed0/result.json').exists()
        assert not list((tmp_path / 'case').rglob('*.tmp'))
    count('folders that a run goes on from', FUZZ, bad, capsys)


def test_bodies(server, capsys):
    """JSON of any shape, and bytes of none: 2xx or 4xx, in time, and the server lives on."""
    rng, bad = random.Random(2), 0
    good = {'texts': ['a wonderful film', 'boring'], 'explain': False}
    for i in range(FUZZ):
        if rng.random() < 0.3:
            body = change_bytes(rng, json.dumps(good).encode())
        elif rng.random() < 0.5:
            body = json.dumps(change_value(rng, good)).encode()
        else:
            body = json.dumps(good | {'texts': [rng.choice(ODD) for _ in range(rng.choice([1, 1, 3]))],
                                      'explain': rng.random() < 0.5}).encode()
        start = time.monotonic()
        status, _, answer = ask(server, body, headers={'Content-Type': rng.choice(['application/json'] * 5 + ['text/plain', 'x'])})
        assert status == 200 or 400 <= status < 500, (status, body[:1000])
        assert time.monotonic() - start < SLOW
        if status == 200:
            assert all(sum(row.values()) == pytest.approx(1) for row in answer['probabilities'])
        bad += status != 200
    for raw in b'GET /\r\n\r\n', b'POST /predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n', b'\0' * 1000, b'POST /predict HTTP/1.1\r\n' \
            b'Host: x\r\nContent-Length: 99\r\n\r\n{', b'GET /' + b'a' * 100_000 + b' HTTP/1.1\r\n\r\n':
        with socket.create_connection(('127.0.0.1', server), timeout=5) as connection, contextlib.suppress(OSError):
            connection.sendall(raw)
            connection.settimeout(0.5)
            assert b' 500 ' not in connection.recv(1000)
    assert ask(server, None, 'GET', '/health')[0] == 200
    count('bodies', FUZZ, bad, capsys)


def test_a_word_of_ten_megabytes(home, tmp_path):
    predict = script('predict')
    classifier = predict.Classifier(home / 'out/bce')
    start = time.monotonic()
    assert classifier.probs(['a' * 10_000_000, '最' * 3_000_000, '\n' * 1_000_000]).shape == (3, 2)
    assert time.monotonic() - start < 60
