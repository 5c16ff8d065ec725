"""A kill at every write of prepare.py, train.py, evaluate.py and the tools that write files: after
the same command again, all files are those of a command that was never killed. About 40 s."""
import json
import os
import shutil
import subprocess
import sys

import pytest
from helpers import CLOCK, ROOT, TINY

TRAIN = [arg for arg in TINY if not arg.startswith(('--dataset', '--epochs'))]
TRAIN = ['train.py', *TRAIN, '--dataset=my', '--epochs=1', '--eval_interval=3', '--out_dir=out']
EXPORT = ['tools.export', 'out', '--to=model']


@pytest.fixture(scope='module')
def ask():
    """A function from a job to the answer of killing.py."""
    pytest.importorskip('datasketch')  # of tools.errors
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    process = subprocess.Popen(
        [sys.executable, ROOT / 'tests/killing.py'], text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, env=os.environ | {'OMP_NUM_THREADS': '1'})

    def ask(**job):
        print(json.dumps(job), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())
    yield ask
    process.stdin.close()
    assert process.wait(20) == 0


@pytest.fixture(scope='module')
def run(ask):
    """A function that runs a command in a folder, which must succeed."""
    def run(folder, command, kept=None):
        answer, = ask(folders=[str(folder)], command=command, kept=kept)
        assert answer['code'] == 0, answer['said']
    return run


def without_clock(value):
    """JSON without times."""
    if isinstance(value, list):
        return [without_clock(item) for item in value]
    if isinstance(value, dict):
        return {key: without_clock(item) for key, item in value.items() if key not in CLOCK}
    return value


def content_of(folder, bytes_only=False):
    """All that is in a folder: {path: content of the file, without times unless bytes_only, or None
    for a folder}."""
    content = {}
    for path in sorted(folder.rglob('*')):
        name = str(path.relative_to(folder))
        if path.is_dir():
            content[name] = None
        elif path.suffix in ('.json', '.jsonl') and not bytes_only:
            lines = [path.read_text()] if path.suffix == '.json' else path.read_text().splitlines()
            content[name] = [without_clock(json.loads(line)) for line in lines]
        else:
            content[name] = path.read_bytes()
    return content


@pytest.fixture
def survives(ask, run, tmp_path):
    """A function that runs a command in a folder, and again in each state in which a kill would
    have left it.

    least: the least number of different states. done: with status 2, the second command may say
    this, if the first one had done all but its last steps."""
    def survives(folder, command, least, done=None):
        kept = tmp_path / 'kept'
        run(folder, command, kept=str(kept))
        expected = content_of(folder)
        states = []
        folders = []
        for n in range(len(os.listdir(kept))):
            state = content_of(kept / str(n), bytes_only=True)
            if state not in states:  # otherwise nothing has changed between two writes
                states.append(state)
                folders.append(kept / str(n))
        assert len(states) >= least

        answers = ask(folders=list(map(str, folders)), command=command, kept=None)
        for folder, answer in zip(folders, answers, strict=True):
            if answer['code'] != 2 or not done or done not in answer['said']:
                assert answer['code'] == 0, (folder, answer['said'])
            found = content_of(folder)
            assert found.keys() == expected.keys(), folder
            for name, content in expected.items():
                assert found[name] == content, folder / name
    return survives


def write_reviews(path, n, words):
    """A CSV of texts of two classes."""
    lines = ['text,label']
    for k in range(n):
        lines.append(f'{words[k % 2]} number {k} of {words[k % 3]},{"ab"[k % 2]}')
    path.write_text('\n'.join(lines) + '\n')


@pytest.fixture(scope='module')
def home(ask, run, tmp_path_factory):
    """A folder with a file of texts, the data set made from it, and a run."""
    home = tmp_path_factory.mktemp('home')
    write_reviews(home / 'my.csv', 60, ['good', 'bad', 'long'])
    for command in (['prepare.py', '--source=my.csv'], TRAIN):
        run(home, command)
    ask(export=str(home / 'out'))
    return home


def copy_of(home, folder, *names):
    """Copies of some files and folders of `home`, in another folder."""
    folder.mkdir()
    for name in names:
        copy = shutil.copytree if (home / name).is_dir() else shutil.copy
        copy(home / name, folder / name)
    return folder


def test_prepare(home, survives, tmp_path):
    start = copy_of(home, tmp_path / 'start', 'my.csv')
    survives(start, ['prepare.py', '--source=my.csv'], 20)


def test_prepare_replaces_other_data(home, survives, tmp_path):
    start = copy_of(home, tmp_path / 'start', 'my.csv', 'data')
    write_reviews(start / 'my.csv', 50, ['new', 'other', 'words'])
    survives(start, ['prepare.py', '--source=my.csv'], 30)


def test_train(home, survives, tmp_path):
    survives(copy_of(home, tmp_path / 'start', 'data'), [*TRAIN, '--ckpt_secs=0'], 25)


def test_train_replaces_another_run(home, survives, tmp_path):
    start = copy_of(home, tmp_path / 'start', 'data', 'out')
    survives(start, [*TRAIN, '--overwrite', '--learning_rate=1e-3'], 20)


@pytest.mark.parametrize('command, least', [
    (['evaluate.py', 'out', '--out_dir=table'], 12),
    (['tools.errors', 'out', '--out_dir=table'], 15),
    (['tools.thresholds', 'out', '--by=f1', '--out_dir=table'], 8),  # written into the run, too
    (['tools.pack', 'out', 'packed', '--answers=right'], 6)])
def test_evaluate_and_its_tools(home, survives, tmp_path, command, least):
    survives(copy_of(home, tmp_path / 'start', 'data', 'out'), command, least)


def test_baseline(home, survives, tmp_path):
    start = copy_of(home, tmp_path / 'start', 'data')
    command = ['tools.baseline', '--dataset=my', '--kinds=nbsvm,tfidf_lr', '--c_values=1']
    survives(start, command, 25)


def test_export(home, survives, tmp_path):
    start = copy_of(home, tmp_path / 'start', 'data', 'out')
    survives(start, EXPORT, 15, done='model exists; give another --to')


def test_export_replaces_another_model(home, survives, tmp_path, run):
    start = copy_of(home, tmp_path / 'start', 'data', 'out')
    run(start, EXPORT)
    (start / 'model/README.md').write_text('a card')
    survives(start, [*EXPORT, '--overwrite'], 25)
