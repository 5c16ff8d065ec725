"""nanoloss/__init__.py: how OpenMP's threads wait is settled before torch is there, in every
script. About 10 s."""
import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT

import nanoloss

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
