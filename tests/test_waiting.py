"""nanoloss/__init__.py: how OpenMP's threads wait, and how a script ends that runs out of memory,
which are settled before torch is there, in every script. About 20 s."""
import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from functools import partial

import pytest
from helpers import ROOT, make_data, make_run

import nanoloss
from model import make_head
from nanoloss import data, loop, runs

SCRIPTS = [path.name for path in sorted(ROOT.glob('*.py'))
           if re.search(r"__name__ == '__main__'", path.read_text())]
# in torch's place: says what the environment is at its import, and ends the process
STUB = '''
import os
print([os.environ.get(name) for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'KMP_BLOCKTIME')],
      flush=True)
os._exit(0)
'''


def environment_at_import(folder, script, **chosen):
    """What the script has done to the three variables when it imports torch."""
    (folder / 'torch.py').write_text(STUB)
    environment = {name: value for name, value in os.environ.items()
                   if name not in nanoloss.WAITING}
    environment |= {'PYTHONPATH': str(folder), **chosen}
    # a script's own folder comes before PYTHONPATH, but has no torch
    done = subprocess.run([sys.executable, ROOT / script, '--help'], env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[0]


def test_these_are_the_scripts():
    assert {'train.py', 'pretrain.py', 'predict.py', 'serve.py', 'bench.py'} <= set(SCRIPTS)


# prepare.py imports no torch, and serve.py only for a run
@pytest.mark.parametrize('script', [name for name in SCRIPTS
                                    if name not in ('prepare.py', 'serve.py')])
def test_waiting_is_settled_before_torch_is_imported(tmp_path, script):
    assert environment_at_import(tmp_path, script) == f"['{nanoloss.SPINS}', None, None]"


@pytest.mark.parametrize('name, found', [
    ('GOMP_SPINCOUNT', "['17', None, None]"),
    ('OMP_WAIT_POLICY', "[None, '17', None]"),
    ('KMP_BLOCKTIME', "[None, None, '17']")])
def test_a_choice_of_the_user_stays(tmp_path, name, found):
    assert environment_at_import(tmp_path, 'predict.py', **{name: '17'}) == found


def test_libgomp_reads_it():
    """It says so itself, where torch has it."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in nanoloss.WAITING}
    environment['OMP_DISPLAY_ENV'] = 'verbose'
    done = subprocess.run([sys.executable, ROOT / 'predict.py', '--help'], env=environment,
                          capture_output=True, text=True)
    if 'GOMP_SPINCOUNT' not in done.stderr:
        pytest.skip("torch has another OpenMP than GNU's")
    assert re.search(f"GOMP_SPINCOUNT = '{nanoloss.SPINS}'", done.stderr)


# Too little memory

@pytest.mark.parametrize('error, expected', [
    (MemoryError(), True),
    (OSError(errno.ENOMEM, 'Cannot allocate memory'), True),
    (OSError(errno.ENOSPC, 'No space left on device'), False),
    (ImportError('libtorch_cpu.so: failed to map segment from shared object'), True),
    (ImportError("No module named 'torch'"), False),
    (RuntimeError("can't start new thread"), True),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
    (RuntimeError('shapes do not match'), False),
    (SystemError('error return without exception set'), True),
    (ValueError('out of memory'), False)])
def test_what_too_little_memory_looks_like(error, expected, capsys):
    assert nanoloss.is_out_of_memory(error) is expected
    # before a run's own words for it
    status = None
    try:
        nanoloss.report_uncaught(type(error), error, None)
    except SystemExit as stop:
        status = stop.code
    assert (status == 2) is expected
    assert ('out of memory\n' in capsys.readouterr().err) is (expected or 'out of' in str(error))
    # and during it
    with pytest.raises((SystemExit, type(error))) as stop, loop.ending_well('out'):
        raise error
    assert ('out of memory; try' in capsys.readouterr().err) is expected
    if expected:
        assert stop.value.code == 2


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (300 * 2 ** 20, 300 * 2 ** 20))


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux limits what is mapped')
@pytest.mark.parametrize('name', ['train.py', 'baseline.py', 'evaluate.py'])
def test_memory_that_torch_does_not_fit_in(tmp_path, name):
    environment = {**os.environ, 'OPENBLAS_NUM_THREADS': '1'}  # each has 32 MB
    done = subprocess.run([sys.executable, ROOT / name], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, preexec_fn=limit_memory)
    assert done.returncode == 2
    assert done.stderr == f'{name}: out of memory\n'


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux limits what is mapped')
def test_memory_for_prepare(tmp_path):
    """With less and less of it, the data set is whole, or there is none and a line says why."""
    rows = ''.join(f'kettle number {i},{"ab"[i % 2]}\n' for i in range(60))
    (tmp_path / 'my.csv').write_text('text,label\n' + rows)
    environment = {**os.environ, 'OPENBLAS_NUM_THREADS': '1'}
    codes = []
    for megabytes in 700, 400, 300, 200:
        limit = partial(resource.setrlimit, resource.RLIMIT_AS, (megabytes * 2 ** 20,) * 2)
        done = subprocess.run([sys.executable, ROOT / 'prepare.py', '--source=my.csv'],
                              cwd=tmp_path, env=environment, capture_output=True, text=True,
                              preexec_fn=limit)
        codes.append(done.returncode)
        assert done.stderr.count('\n') == (done.returncode != 0), done.stderr
        assert (tmp_path / 'data').exists() == (done.returncode == 0)
        shutil.rmtree(tmp_path / 'data', ignore_errors=True)
    assert codes[0] == 0 and codes[-1] == 2 and set(codes) == {0, 2}


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    """Neither of a data set nor of a run, which evaluate.py would leave out."""
    folder = make_data(tmp_path) / 'toy'

    def no_memory(*args, **kwargs):
        raise MemoryError
    monkeypatch.setattr(data.np, 'load', no_memory)
    with pytest.raises(MemoryError):
        data.load_data(folder)
    make_run(tmp_path / 'run/seed0', (300, 150))
    monkeypatch.setattr(runs.np, 'load', no_memory)
    with pytest.raises(MemoryError):
        runs.read_runs(tmp_path / 'run', make_head)
