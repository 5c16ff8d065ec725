"""From a table to a service without PyTorch: the first commands of README.md, one after the other
(30 s)."""
import csv
import io
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, ask, call_process, start_server


def first_commands():
    """The arguments of python in the first block of README.md."""
    block = re.search('```sh\n(.*?)```', (ROOT / 'README.md').read_text('utf-8'), re.S)[1]
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines()]


def test_from_a_table_to_a_service(tmp_path):
    pytest.importorskip('datasketch')
    pytest.importorskip('onnxscript')
    tickets = subprocess.run([sys.executable, ROOT / 'tests/tickets.py'], capture_output=True,
                             encoding='utf-8', check=True).stdout
    rows = list(csv.reader(io.StringIO(tickets)))[:401]
    with open(tmp_path / 'my.csv', 'w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows(rows)

    commands = first_commands()
    assert [command[0] for command in commands] == [
        'prepare.py', 'train.py', 'evaluate.py', 'export.py', 'serve.py']
    for script, *argv in commands[:-1]:
        if script == 'train.py':
            argv += ['--n_runs=2', '--epochs=1']  # as they stand, it takes a minute more
        call_process(tmp_path, script, *argv)
    assert 'macro F1' in (tmp_path / 'out/table.md').read_text('utf-8')
    assert (tmp_path / 'out/page.html').exists()

    # on a machine that has requirements-serve.txt alone
    blocked = tmp_path / 'blocked'
    blocked.mkdir()
    for name in 'torch', 'scipy', 'sklearn', 'bpe_openai', 'datasets', 'matplotlib':
        (blocked / f'{name}.py').write_text(f'raise ImportError("no {name}")')
    environment = {**os.environ, 'PYTHONPATH': str(blocked)}
    process, port = start_server(tmp_path, *commands[-1][1:], env=environment)
    try:
        status, _, answer = ask(port, {'text': 'I was charged twice, refund me'})
        assert status == 200
        assert answer['label'] in ('billing', 'bug', 'praise')
    finally:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert error == ''
