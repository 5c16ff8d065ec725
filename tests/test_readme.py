"""The commands of README.md and of the other pages: the first ones from a table to a service, those
on one's own data with what they print, and of all others that they name what exists (60 s)."""
import csv
import io
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, ask, call, call_process, path_of, start_server

from model import HEADS, TRUNKS, keywords
from nanoloss.settings import read_settings

PAGES = [path for path in sorted(ROOT.glob('**/*.md'))
         if '.venv' not in path.parts and path.name != 'SECURITY.md']


def script_and_arguments(command):
    """'python train.py --a' or 'python -m tools.serve --a' -> the script as `call` takes it, and
    its arguments; anything else -> None."""
    words = shlex.split(command, comments=True)
    if words[:1] != ['python'] or len(words) < 2:
        return None
    if words[1] == '-m':
        return words[2], words[3:]
    return words[1], words[2:]


def blocks(page, kind):
    """The code blocks of this kind on a page."""
    return re.findall(rf'```{kind}\n(.*?)```', page.read_text('utf-8'), re.DOTALL)


# The first commands

def test_from_a_table_to_a_service(tmp_path):
    pytest.importorskip('datasketch')
    pytest.importorskip('onnxscript')
    tickets = subprocess.run([sys.executable, ROOT / 'tests/tickets.py'], capture_output=True,
                             encoding='utf-8', check=True).stdout
    rows = list(csv.reader(io.StringIO(tickets)))[:401]
    with open(tmp_path / 'my.csv', 'w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows(rows)

    block = blocks(ROOT / 'README.md', 'sh')[0]
    commands = [script_and_arguments(line) for line in block.splitlines()]
    assert [script for script, _ in commands] == [
        'prepare.py', 'train.py', 'evaluate.py', 'tools.errors', 'tools.export', 'tools.serve']
    for script, argv in commands[:-1]:
        if script == 'train.py':
            argv += ['--n_runs=2', '--epochs=1']  # as they stand, it takes a minute more
        call_process(tmp_path, script, *argv)
    assert 'macro F1' in (tmp_path / 'out/table.md').read_text('utf-8')
    assert (tmp_path / 'out/errors.html').is_file()

    # on a machine that has requirements-serve.txt alone
    blocked = tmp_path / 'blocked'
    blocked.mkdir()
    for name in 'torch', 'scipy', 'sklearn', 'bpe_openai', 'datasets', 'matplotlib':
        (blocked / f'{name}.py').write_text(f'raise ImportError("no {name}")')
    environment = {**os.environ, 'PYTHONPATH': f'{blocked}:{ROOT}'}
    process, port = start_server(tmp_path, *commands[-1][1], env=environment)
    try:
        status, _, answer = ask(port, {'text': 'I was charged twice, refund me'})
        assert status == 200
        assert answer['label'] in ('billing', 'bug', 'praise')
    finally:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert error == ''


# One's own data

def walk_through(page):
    """The commands of a page's console blocks with the lines that are shown below each."""
    steps = []
    for block in blocks(page, 'console'):
        for step in block.removeprefix('$ ').split('\n$ '):
            command, *shown = step.rstrip('\n').split('\n')
            steps.append((command, shown))
    return steps


def label_and_text(line):
    """A line that tools.predict prints, without its probabilities."""
    if line[0] == '{':
        row = json.loads(line)
        return row['label'], row['text']
    return line.split('  ')[::2]


@pytest.mark.parametrize('page', ['README.md', 'data/README.md'])
def test_ones_own_data(tmp_path, page):
    """From a file to labels; tables and labels are those on the page."""
    done = []
    for command, shown in walk_through(ROOT / page):
        script, argv = script_and_arguments(command)
        done.append(script)
        if argv[:1] == ['>']:
            (tmp_path / argv[1]).write_text(call(tmp_path, script), 'utf-8', newline='')
            continue
        if script == 'train.py':  # after three epochs of twenty the labels are the same
            argv += ['--epochs=3']
        out = call(tmp_path, script, *argv)
        if script == 'prepare.py' and shown:
            assert out.splitlines() == shown
        if script == 'train.py':
            assert float(re.search(r'test ([\d.]+)', out)[1]) > 90
        if script == 'evaluate.py':  # the same rows and columns; three epochs have other numbers
            table = [line for line in out.splitlines() if line.startswith('|')]
            table_shown = [line for line in shown if line.startswith('|')]
            assert len(table) == len(table_shown) >= 3
            assert table[0].split() == table_shown[0].split()
        if script == 'tools.predict':
            printed = [label_and_text(line) for line in out.splitlines()]
            assert printed == [label_and_text(line) for line in shown]
    wanted = {'tests/tickets.py', 'prepare.py', 'train.py', 'tools.predict'}
    assert set(done) >= wanted


# All other commands

def commands_of(page):
    """Every command of a page that runs a script of this repository."""
    lines = []
    for block in [*blocks(page, 'sh'), *blocks(page, 'console')]:
        lines += block.replace('\\\n', ' ').splitlines()
    for line in lines:
        # between &&, | and ;, which may also be part of a quoted argument
        for command in re.findall(r'''(?:'[^']*'|"[^"]*"|[^&|;'"])+''', line.removeprefix('$ ')):
            if re.match(r'\s*python \S', command):
                yield command


@pytest.mark.parametrize('page', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_names_a_script_and_settings_that_exist(page):
    of_models = set()
    for cls in [*HEADS.values(), *TRUNKS.values()]:
        of_models |= set(keywords(cls))
    for command in commands_of(page):
        script, argv = script_and_arguments(command)
        if script in ('-c', 'pip'):
            continue
        path = path_of(script)
        assert path.is_file(), command
        if 'configure(globals()' not in path.read_text('utf-8'):
            continue
        known = set(read_settings(runpy.run_path(str(path)))) | {'help'}
        own_class = any(re.match(r'--(head|trunk)=.*\.py:', argument) for argument in argv)
        for argument in argv:
            key = argument.removeprefix('--').partition('=')[0]
            if argument.startswith('--') and not own_class:
                assert key in known | of_models, command
            if re.fullmatch(r'(lm/)?config/\w+\.py', argument):
                assert (ROOT / argument).is_file(), command
