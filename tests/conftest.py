"""Runs that several test files ask for labels, and what they ask them with."""
import csv
import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import nanoloss  # noqa: E402, F401 (before torch: it sets how OpenMP threads wait)
from helpers import script  # noqa: E402

AWKWARD = ['Great, "really" great', 'two\nlines', '', 'Скучно 👍', '=1+1']  # texts
JSON = {'Content-Type': 'application/json'}


def command(script):
    """The command of a script: 'train.py' or 'tools.predict'."""
    if script.endswith('.py'):
        return [sys.executable, ROOT / script]
    return [sys.executable, '-m', script]


def call(cwd, script, *argv, code=0, encoding='utf-8', env=(), **kwargs):
    """Run a script to its end, with this exit status -> stdout, or stderr if it has failed."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT), **dict(env)}
    done = subprocess.run([*command(script), *map(str, argv)], cwd=cwd, capture_output=True,
                          encoding=encoding, timeout=600, env=env, **kwargs)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def write_topics(path):
    """The sample's reviews, labelled with the topics that they name: none, one or two."""
    with (open(ROOT / 'data/sample.csv', encoding='utf-8', newline='') as sample,
          open(path, 'w', encoding='utf-8', newline='') as file):
        table = csv.writer(file)
        table.writerow(['text', 'label'])
        for row in csv.DictReader(sample):
            topics = [topic for topic in ('songs', 'jokes') if topic in row['review']]
            table.writerow([row['review'], '|'.join(topics)])


@pytest.fixture(scope='session')
def home(tmp_path_factory):
    """A folder with two short runs on the sample, out/bce, two of the usual trunk, out/windows, and
    one on reviews with several labels, out/topics."""
    home = tmp_path_factory.mktemp('home')
    write_topics(home / 'topics.csv')
    call(home, 'prepare.py', '--source=sample')
    call(home, 'prepare.py', '--source=topics.csv', '--label_sep=|')
    argv = [ROOT / 'config/sample_bce.py', '--threads=1', '--epochs=3', '--n_embd=32',
            '--learning_rate=3e-3', '--n_head=1', '--dtype=float32']
    call(home, 'train.py', *argv, '--n_runs=2', '--out_dir=out/bce', '--block_size=100',
         '--truncate=both')
    call(home, 'train.py', '--dataset=sample', '--threads=1', '--epochs=2', '--n_embd=16',
         '--dtype=float32', '--n_runs=2', '--block_size=60', '--out_dir=out/windows')
    call(home, 'train.py', *argv, '--out_dir=out/topics', '--dataset=topics', '--pos=learned')
    return home


@pytest.fixture
def Classifier(home, monkeypatch):
    """`TextClassifier`, in the folder `home`."""
    monkeypatch.chdir(home)
    from nanoloss.classifier import TextClassifier
    return TextClassifier


def export(home, run, *argv):
    """Run export.py in this process on a run in `home` -> the folder that it has made there."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    folder = home / 'exported' / run.replace('out/', '').replace('/', '_')
    module = script('export')
    module.configure(vars(module), argv=[f'--to={folder}', f'--data_dir={home}/data', *argv])
    module.main([home / run])
    return folder


@pytest.fixture(scope='session')
def exported(home):
    """{group of runs in `home`: the folder of it that export.py has made}."""
    return {run: export(home, run) for run in ('out/bce', 'out/windows', 'out/topics')}


def start_server(home, *argv, **kwargs):
    """Start serve.py -> its process and its port."""
    pytest.importorskip('fastapi')
    pytest.importorskip('uvicorn')
    command = [sys.executable, ROOT / 'serve.py', *argv, '--port=0']
    process = subprocess.Popen(command, cwd=home, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, **kwargs)
    line = process.stdout.readline()
    assert ' at http://127.0.0.1:' in line, process.stderr.read()
    return process, int(line.rsplit(':', 1)[1])


@pytest.fixture(scope='module', params=['runs', 'exported'])
def server(request, home):
    """The port of a server of out/bce, by PyTorch and without. It must end without a traceback."""
    folder = 'out/bce'
    if request.param == 'exported':
        folder = request.getfixturevalue('exported')['out/bce']
    process, port = start_server(home, folder)
    yield port
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=20)
    assert 'Traceback' not in error


def ask(port, body, method='POST', path='/predict', headers=JSON):
    """Send a body, bytes or a value for JSON -> status, headers, the decoded reply."""
    if not isinstance(body, bytes | None):
        body = json.dumps(body).encode()
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    content = reply.read().decode()
    if 'json' in reply.getheader('content-type', ''):
        content = json.loads(content)
    return reply.status, dict(reply.getheaders()), content
