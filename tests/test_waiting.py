"""nanoloss/__init__.py: how OpenMP threads wait, and how a script ends that runs out of memory.

Both are set before torch is imported (20 s)."""
import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from functools import partial

import pytest
from conftest import command
from helpers import ROOT, make_data, make_run

import nanoloss
from model import make_head
from nanoloss import data, loop, runs


def is_script(path):
    return "__name__ == '__main__'" in path.read_text()


SCRIPTS = [path.name for path in sorted(ROOT.glob('*.py')) if is_script(path)]
for path in [*sorted(ROOT.glob('tools/*.py')), *sorted(ROOT.glob('lm/*.py'))]:
    if is_script(path):
        SCRIPTS.append(f'{path.parent.name}.{path.stem}')
# these import torch when they open a run, the others when they begin
ARGUMENTS = {'tools.predict': ['none', 'a text'], 'tools.serve': ['none', '--port=0']}
# instead of torch: prints the environment at its import, and ends the process
STUB = '''
import os
print([os.environ.get(name) for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'KMP_BLOCKTIME')],
      flush=True)
os._exit(0)
'''


def environment_at_import(folder, script, **chosen):
    """The three variables when the script imports torch."""
    (folder / 'torch.py').write_text(STUB)
    environment = {name: value for name, value in os.environ.items()
                   if name not in nanoloss.WAITING}
    environment |= {'PYTHONPATH': f'{folder}{os.pathsep}{ROOT}', **chosen}
    argv = ARGUMENTS.get(script, ['--help'])
    done = subprocess.run([*command(script), *argv], cwd=folder, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[0]


def test_these_are_the_scripts():
    names = 'train.py', 'evaluate.py', 'tools.predict', 'tools.serve', 'tools.export'
    assert set(names) <= set(SCRIPTS)


@pytest.mark.parametrize('script', [name for name in SCRIPTS if name != 'prepare.py'])
def test_waiting_is_set_before_torch_is_imported(tmp_path, script):
    """prepare.py does not import torch."""
    if script == 'tools.serve':
        pytest.importorskip('fastapi')
    assert environment_at_import(tmp_path, script) == f"['{nanoloss.SPINS}', None, None]"


@pytest.mark.parametrize('name, found', [
    ('GOMP_SPINCOUNT', "['17', None, None]"),
    ('OMP_WAIT_POLICY', "[None, '17', None]"),
    ('KMP_BLOCKTIME', "[None, None, '17']")])
def test_a_choice_of_the_user_stays(tmp_path, name, found):
    assert environment_at_import(tmp_path, 'train.py', **{name: '17'}) == found


def test_libgomp_reads_it():
    """It can print its settings, if torch uses it."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in nanoloss.WAITING}
    environment['OMP_DISPLAY_ENV'] = 'verbose'
    done = subprocess.run([sys.executable, ROOT / 'train.py', '--help'], env=environment,
                          capture_output=True, text=True)
    if 'GOMP_SPINCOUNT' not in done.stderr:
        pytest.skip('torch uses another OpenMP than that of GNU')
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
def test_what_too_little_memory_looks_like(error, expected, capsys, monkeypatch):
    assert nanoloss.is_out_of_memory(error) is expected
    monkeypatch.setattr(os, '_exit', sys.exit)
    # before a run's own words for it
    status = None
    try:
        nanoloss.report_uncaught(type(error), error, None)
    except SystemExit as stop:
        status = stop.code
    assert (status == 2) is expected
    assert ('out of memory\n' in capsys.readouterr().err) is (expected or 'out of' in str(error))
    # and during it
    with pytest.raises((SystemExit, type(error))) as stop, loop.clean_exit('out'):
        raise error
    assert ('out of memory; try' in capsys.readouterr().err) is expected
    if expected:
        assert stop.value.code == 2


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (300 * 2 ** 20, 300 * 2 ** 20))


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux limits what is mapped')
@pytest.mark.parametrize('name', ['train.py', 'tools.baseline', 'evaluate.py', 'tools.predict'])
def test_memory_that_torch_does_not_fit_in(tmp_path, name):
    # each thread of OpenBLAS has 32 MB
    environment = {**os.environ, 'OPENBLAS_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([*command(name), *ARGUMENTS.get(name, [])], cwd=tmp_path, text=True,
                          env=environment, capture_output=True, preexec_fn=limit_memory)
    assert done.returncode == 2
    file = f'{name.removeprefix("tools.").removesuffix(".py")}.py'
    assert done.stderr == f'{file}: out of memory\n'


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux limits what is mapped')
def test_memory_for_prepare(tmp_path):
    """With less and less of it, the data set is whole, or there is none and a line says why."""
    rows = ''.join(f'kettle number {i},{"ab"[i % 2]}\n' for i in range(60))
    (tmp_path / 'my.csv').write_text('text,label\n' + rows)
    environment = {**os.environ, 'OPENBLAS_NUM_THREADS': '1'}
    codes = []
    for megabytes in 700, 400, 200, 140:
        limit = partial(resource.setrlimit, resource.RLIMIT_AS, (megabytes * 2 ** 20,) * 2)
        done = subprocess.run([sys.executable, ROOT / 'prepare.py', '--source=my.csv'],
                              cwd=tmp_path, env=environment, capture_output=True, text=True,
                              preexec_fn=limit)
        codes.append(done.returncode)
        assert done.stderr.count('\n') == (done.returncode != 0), done.stderr
        written = [path.name for path in (tmp_path / 'data').rglob('*') if path.is_file()]
        assert len(written) == (10 if done.returncode == 0 else 0)
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
