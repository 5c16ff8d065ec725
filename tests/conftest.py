"""Runs that several test files ask for labels, and what they ask them with."""
import csv
import fcntl
import functools
import hashlib
import http.client
import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import nanoloss  # noqa: E402, F401 (before torch: it sets how OpenMP threads wait)
from helpers import config_of  # noqa: E402

from nanoloss import reader, tokenizer  # noqa: E402

AWKWARD = ['Great, "really" great', 'two\nlines', '', 'Скучно 👍', '=1+1']  # texts
JSON = {'Content-Type': 'application/json'}
ROUNDING = 3e-5  # of a probability in float32: a few texts in a hundred have 1e-6, and one 1e-5


def path_of(script):
    """The file of a script: of 'train.py', of 'tools.predict', or of the package 'benchmark'."""
    if script.endswith('.py'):
        return ROOT / script
    path = ROOT / script.replace('.', '/')
    package = path / '__main__.py'
    return package if package.exists() else path.with_suffix('.py')


def command(script):
    """The command of a script: of 'train.py' or of 'tools.predict'."""
    if script.endswith('.py'):
        return [sys.executable, path_of(script)]
    return [sys.executable, '-m', script]


def call_process(cwd, script, *argv, code=0, encoding='utf-8', env=(), **kwargs):
    """Run a script to its end, with this exit status -> stdout, or stderr if it has failed."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT), **dict(env)}
    done = subprocess.run([*command(script), *map(str, argv)], cwd=cwd, capture_output=True,
                          encoding=encoding, timeout=600, env=env, **kwargs)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def call(cwd, script, *argv, code=0, encoding='utf-8', input=''):
    """`call_process` within this process, which saves the seconds that imports take.

    encoding: None if input and output are bytes.
    """
    content = input.encode(encoding) if encoding else input or b''
    files = {'stdin': io.TextIOWrapper(io.BytesIO(content), 'utf-8')}
    for name in 'stdout', 'stderr':
        files[name] = io.TextIOWrapper(io.BytesIO(), 'utf-8')
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    status = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, 'argv', [script, *map(str, argv)])
        for name, file in files.items():
            patch.setattr(sys, name, file)
        try:
            runpy.run_path(str(path_of(script)), run_name='__main__')
        except SystemExit as stop:
            status = stop.code
        finally:
            for signum, handler in handlers.items():
                signal.signal(signum, handler)

    output = {}
    for name in 'stdout', 'stderr':
        files[name].flush()
        output[name] = files[name].buffer.getvalue()
        if encoding:
            output[name] = output[name].decode(encoding)
    assert status == code, output['stderr']
    return output['stderr' if code else 'stdout']


def write_topics(path):
    """The sample's reviews, labelled with the topics that they name: none, one or two."""
    with (open(ROOT / 'data/sample.csv', encoding='utf-8', newline='') as sample,
          open(path, 'w', encoding='utf-8', newline='') as file):
        table = csv.writer(file)
        table.writerow(['text', 'label'])
        for row in csv.DictReader(sample):
            topics = [topic for topic in ('songs', 'jokes') if topic in row['review']]
            table.writerow([row['review'], '|'.join(topics)])


def cached(function, key):
    """A function that is computed once for each key(*args, **kwargs)."""
    known = {}

    @functools.wraps(function)
    def look_up(*args, **kwargs):
        wanted = key(*args, **kwargs)
        if wanted not in known:
            # with its arguments, so that no other object gets their id
            known[wanted] = function(*args, **kwargs), args
        return known[wanted][0]
    return look_up


@pytest.fixture(scope='session', autouse=True)
def one_tokenizer():
    """Make cl100k_base, its file and what a reader makes of it once, for each takes 0.2 s, and
    scripts ask for them again and again."""
    tokenizer.cl100k_from_wheel = functools.cache(tokenizer.cl100k_from_wheel)
    tokenizer.table_file = cached(tokenizer.table_file, id)
    reader.read_tokenizer = cached(
        reader.read_tokenizer, lambda path, **definition: (path.read_bytes(), str(definition)))


def made_once(factory, name, make):
    """A new folder with what make(folder) writes there. The first of pytest's processes makes it,
    the others copy it. factory: the fixture tmp_path_factory."""
    base = factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:  # then that of all processes is one above
        base = base.parent
    original = base / f'original_{name}'
    with open(base / f'{name}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not original.exists():
            folder = factory.mktemp(name)
            make(folder)
            folder.rename(original)
    return shutil.copytree(original, factory.mktemp(name), dirs_exist_ok=True)


@pytest.fixture(scope='session')
def home(tmp_path_factory):
    """A folder with two short runs on the sample, out/bce, two of the default model, out/windows,
    and one on reviews with several labels, out/topics."""
    return made_once(tmp_path_factory, 'home', make_home)


def make_home(home):
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


@pytest.fixture
def Classifier(home, monkeypatch):
    """`TextClassifier`, in the folder `home`."""
    monkeypatch.chdir(home)
    from nanoloss.classifier import TextClassifier
    return TextClassifier


def export(home, run, folder, *argv):
    """Run tools.export in this process on a run in `home` -> the folder that it makes."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    from tools import export as module
    config = config_of(module, f'--to={folder}', f'--data_dir={home}/data', *argv)
    module.main([home / run], config)
    return folder


def with_checksums(folder):
    """Make the checksums of an exported folder fit its files -> the folder."""
    sums = []
    for line in (folder / 'SHA256SUMS').read_text().splitlines():
        name = line.split()[1]
        sums.append(f'{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n')
    (folder / 'SHA256SUMS').write_text(''.join(sums))
    return folder


@pytest.fixture(scope='session')
def exported(home, tmp_path_factory):
    """{group of runs in `home`: the folder of it that tools.export has made}."""
    names = 'bce', 'windows', 'topics'

    def make(folder):
        for name in names:
            export(home, f'out/{name}', folder / name)
    folder = made_once(tmp_path_factory, 'exported', make)
    return {f'out/{name}': folder / name for name in names}


def start(home, script, *argv, env=os.environ, **kwargs):
    """Start a script, 'tools.serve' -> its process, with pipes of text as stdout and stderr."""
    path = os.pathsep.join(filter(None, [env.get('PYTHONPATH'), str(ROOT)]))
    return subprocess.Popen([*command(script), *argv], cwd=home, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**env, 'PYTHONPATH': path}, **kwargs)


def start_server(home, *argv, **kwargs):
    """Start tools.serve -> its process and its port."""
    pytest.importorskip('fastapi')
    pytest.importorskip('uvicorn')
    process = start(home, 'tools.serve', *argv, '--port=0', **kwargs)
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
