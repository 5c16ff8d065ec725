"""Atomic writes of files and folders, locks, claims on a run's folder, checked loads (5 s)."""
import errno
import json
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from helpers import ROOT

from nanoloss import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fails(capsys, function, *args, **kwargs):
    """Call it -> the one line on stderr that it ends in, with status 2."""
    with pytest.raises(SystemExit) as stop:
        function(*args, **kwargs)
    out, error = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ''
    assert error.count('\n') == 1
    return error


# write_file and what is built on it

@pytest.mark.parametrize('old', [None, b'old'])
def test_a_file_is_written_whole(tmp_path, old):
    path = tmp_path / 'file.bin'
    if old:
        path.write_bytes(old)

    def write(file):
        file.write(b'one')
        assert names(tmp_path) == (['file.bin', 'file.bin.tmp'] if old else ['file.bin.tmp'])
        assert not old or path.read_bytes() == old  # until it is complete
        file.write(b'two')
    files.write_file(path, write)
    assert path.read_bytes() == b'onetwo'
    assert names(tmp_path) == ['file.bin']


@pytest.mark.parametrize('error', [
    OSError(errno.ENOSPC, 'No space left on device'), ValueError('no such value'),
    RuntimeError('[enforce fail at inline_container.cc:603] unexpected pos'), MemoryError()],
    ids=lambda error: type(error).__name__)
@pytest.mark.parametrize('old', [None, b'old'])
def test_a_file_that_cannot_be_completed_leaves_the_old_one(tmp_path, error, old):
    path = tmp_path / 'file.bin'
    if old:
        path.write_bytes(old)

    def write(file):
        file.write(b'half')
        raise error
    with pytest.raises(OSError) as raised:
        files.write_file(path, write)
    if isinstance(error, OSError):
        assert raised.value is error
    else:
        assert str(raised.value) == f'{path}: {error}'
        assert raised.value.__cause__ is error
    assert names(tmp_path) == (['file.bin'] if old else [])
    assert not old or path.read_bytes() == old


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path):
    (tmp_path / 'file.bin').write_bytes(b'old')
    code = ('import os, pathlib, signal\nfrom nanoloss import files\ndef write(file):\n'
            '    file.write(b"half")\n    file.flush()\n'
            '    os.kill(os.getpid(), signal.SIGKILL)\n'
            'files.write_file(pathlib.Path("file.bin"), write)')
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path,
                          env=os.environ | {'PYTHONPATH': str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / 'file.bin').read_bytes() == b'old'
    assert (tmp_path / 'file.bin.tmp').read_bytes() == b'half'
    with files.locked_folder(tmp_path):  # which is swept away when the folder is next worked in
        assert names(tmp_path) == ['file.bin']


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    fsync = os.fsync
    replace = os.replace

    def record_sync(opened):
        path = os.readlink(f'/proc/self/fd/{opened}')
        with open(path, 'rb') as file:  # what is still in a buffer is not synced
            events.append(('fsync', path, file.read()))
        fsync(opened)

    def record_replace(source, target):
        events.append(('replace', str(source), str(target)))
        replace(source, target)
    monkeypatch.setattr(files.os, 'fsync', record_sync)
    monkeypatch.setattr(files.os, 'replace', record_replace)
    path = tmp_path / 'file.bin'
    files.write_file(path, lambda file: file.write(b'content'))
    temporary = f'{path}.tmp'
    assert events == [('fsync', temporary, b'content'), ('replace', temporary, str(path))]


def test_a_folder_that_is_not_there_and_one_in_the_way(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write_file(tmp_path / 'nowhere/file', lambda file: None)
    (tmp_path / 'folder/inside').mkdir(parents=True)
    with pytest.raises(OSError):
        files.write_file(tmp_path / 'folder', lambda file: None)
    assert names(tmp_path) == ['folder']
    assert names(tmp_path / 'folder') == ['inside']


def test_of_several_processes_only_the_first_one_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'FIRST', False)
    files.write_file(tmp_path / 'file', lambda file: pytest.fail('written'))
    files.write_json(tmp_path / 'json', {})
    files.write_json_lines(tmp_path / 'lines', [{}])
    assert names(tmp_path) == []


def test_json_and_lines_of_json(tmp_path):
    value = {'b': [1, 2.5, None], 'a': 'é', 'c': {}}
    files.write_json(tmp_path / 'value.json', value)
    text = (tmp_path / 'value.json').read_text()
    assert text == '{\n "b": [\n  1,\n  2.5,\n  null\n ],\n "a": "\\u00e9",\n "c": {}\n}\n'
    files.write_json_lines(tmp_path / 'rows.jsonl', [value, {}, 3])
    lines = (tmp_path / 'rows.jsonl').read_text().split('\n')
    assert [json.loads(line) for line in lines[:3]] == [value, {}, 3]
    assert lines[3:] == ['']
    files.write_json_lines(tmp_path / 'rows.jsonl', [])
    assert (tmp_path / 'rows.jsonl').read_bytes() == b''


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    files.write_json(tmp_path / 'value.json', 1)
    with pytest.raises(TypeError):
        files.write_json(tmp_path / 'value.json', {1, 2})
    assert names(tmp_path) == ['value.json']
    assert (tmp_path / 'value.json').read_text() == '1\n'


# replacing_folder

@pytest.mark.parametrize('old', [False, True])
def test_a_folder_is_replaced_when_it_is_complete(tmp_path, old):
    folder = tmp_path / 'deep/folder'
    if old:
        folder.mkdir(parents=True)
        (folder / 'old').write_text('old')
    with files.replacing_folder(folder) as new:
        (new / 'new').write_text('new')
        assert new.parent == folder.parent / '.folder.work'
        assert folder.exists() == old
    assert names(folder) == ['new']
    assert names(folder.parent) == ['folder']


@pytest.mark.parametrize('error', [ValueError('bad'), KeyboardInterrupt(), SystemExit(2)],
                         ids=lambda error: type(error).__name__)
def test_a_folder_that_cannot_be_completed_leaves_the_old_one(tmp_path, error):
    folder = tmp_path / 'folder'
    folder.mkdir()
    (folder / 'old').write_text('old')
    with pytest.raises(type(error)), files.replacing_folder(folder) as new:
        (new / 'half').write_text('half')
        raise error
    assert names(tmp_path) == ['folder']
    assert names(folder) == ['old']


def test_a_folder_that_cannot_be_written_ends_in_one_line(tmp_path, capsys):
    (tmp_path / 'file').write_text('')

    def write():
        with files.replacing_folder(tmp_path / 'file/folder'):
            pytest.fail('there is no such folder')
    assert f'{tmp_path}/file/folder: cannot be written' in fails(capsys, write)

    folder = tmp_path / 'folder'
    folder.mkdir()
    (folder / 'old').write_text('old')

    def fill():
        with files.replacing_folder(folder):
            raise OSError(errno.ENOSPC, 'No space left on device')
    assert 'No space left on device' in fails(capsys, fill)
    assert names(tmp_path) == ['file', 'folder']
    assert names(folder) == ['old']


def test_if_the_new_folder_cannot_take_its_place_the_old_one_comes_back(
        tmp_path, capsys, monkeypatch):
    folder = tmp_path / 'folder'
    folder.mkdir()
    (folder / 'old').write_text('old')
    rename = os.rename

    def refuse_the_new_one(source, target):
        if source == tmp_path / '.folder.work/new':
            raise OSError(errno.EIO, 'Input/output error')
        rename(source, target)
    monkeypatch.setattr(files.os, 'rename', refuse_the_new_one)

    def write():
        with files.replacing_folder(folder) as new:
            (new / 'new').write_text('new')
    assert 'Input/output error' in fails(capsys, write)
    assert names(tmp_path) == ['folder']
    assert names(folder) == ['old']


def replace(folder, content):
    with files.replacing_folder(folder) as new:
        (new / 'inside').mkdir()
        (new / 'inside/file').write_text(content)


def killed(monkeypatch, folder, step):
    """Let a process end at the step-th call of the functions that change what is in a folder."""
    calls = []

    def patch(module, name):
        function = getattr(module, name)

        def count(target, *args, **kwargs):
            # what other tests have left may be deleted at any moment
            elsewhere = os.path.isabs(str(target)) and not str(target).startswith(str(folder))
            if not elsewhere:
                calls.append(name)
            if len(calls) == step:
                os._exit(9)
            return function(target, *args, **kwargs)
        monkeypatch.setattr(module, name, count)
    for name in 'rename', 'rmdir', 'unlink', 'fsync', 'mkdir':
        patch(os, name)


@pytest.mark.parametrize('old', [False, True])
def test_a_kill_at_every_step_leaves_the_old_folder_or_the_new_one(tmp_path, monkeypatch, old):
    """Every read after it finds one of them whole, and the next command leaves nothing over."""
    for step in range(1, 100):
        folder = tmp_path / f'{step}/folder'
        folder.parent.mkdir()
        if old:
            replace(folder, 'old')
        child = os.fork()
        if not child:
            killed(monkeypatch, folder.parent, step)
            replace(folder, 'new')
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        files.mend_folder(folder)
        found = (folder / 'inside/file').read_text() if folder.exists() else None
        assert found in ('new', 'old' if old else None)
        assert names(tmp_path / str(step)) == ['folder'] * (found is not None)
        replace(folder, 'new')
        assert names(tmp_path / str(step)) == ['folder']
        if code == 0:
            break
        assert code == 9
    assert step > (10 if old else 7)
    assert found == 'new'


def test_between_the_renames_there_is_no_folder(tmp_path, monkeypatch):
    """The case that has to be mended is among those of the test above."""
    folder = tmp_path / 'folder'
    replace(folder, 'old')
    rename = os.rename

    def look(source, target):
        rename(source, target)
        if source == folder:
            assert names(tmp_path) == ['.folder.work']
            assert not list(tmp_path.glob('folder*'))
            assert names(tmp_path / '.folder.work') == ['new', 'old']
    monkeypatch.setattr(files.os, 'rename', look)
    replace(folder, 'new')
    assert (folder / 'inside/file').read_text() == 'new'


def test_an_old_folder_that_is_half_deleted_does_not_come_back(tmp_path, monkeypatch):
    folder = tmp_path / 'folder'
    replace(folder, 'old')
    rmtree = files.shutil.rmtree
    child = os.fork()
    if not child:
        def delete_half(path):
            (path / 'inside/file').unlink()
            os._exit(9)
        monkeypatch.setattr(files.shutil, 'rmtree', delete_half)
        replace(folder, 'new')
    os.waitpid(child, 0)
    assert names(tmp_path / '.folder.work') == ['new']
    rmtree(folder)  # the user deletes the new one
    files.mend_folder(folder)
    assert names(tmp_path) == []


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    replace(tmp_path / 'elsewhere/target', 'old')
    (tmp_path / 'link').symlink_to('elsewhere/target')
    replace(tmp_path / 'link', 'new')
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'elsewhere/target/inside/file').read_text() == 'new'
    assert names(tmp_path) == ['elsewhere', 'link']
    assert names(tmp_path / 'elsewhere') == ['target']


def test_a_file_is_not_replaced_by_a_folder(tmp_path, capsys):
    (tmp_path / 'folder').write_text('a file')
    error = fails(capsys, replace, tmp_path / 'folder', 'new')
    assert f'{tmp_path}/folder: cannot be written: there is a file of this name' in error
    assert names(tmp_path) == ['folder']
    assert (tmp_path / 'folder').read_text() == 'a file'


def test_two_processes_do_not_replace_one_folder_at_once(tmp_path, capsys):
    folder = tmp_path / 'folder'
    with files.replacing_folder(folder) as new:
        (new / 'file').write_text('first')
        for function, *args in (replace, folder, 'second'), (files.mend_folder, folder):
            error = fails(capsys, function, *args)
            assert f'another process is at work in {tmp_path}/.folder.work' in error
        replace(tmp_path / 'other', 'other')
    assert (folder / 'file').read_text() == 'first'
    assert names(tmp_path) == ['folder', 'other']


def test_the_lock_of_a_folder_that_was_deleted_is_worth_nothing(tmp_path, capsys, monkeypatch):
    """The other process deletes it between the opening and the locking."""
    flock = files.fcntl.flock

    def delete_and_lock(opened, operation):
        (tmp_path / 'folder').rmdir()
        (tmp_path / 'folder').mkdir()
        flock(opened, operation)
    monkeypatch.setattr(files.fcntl, 'flock', delete_and_lock)
    assert 'another process is at work' in fails(capsys, enter, tmp_path / 'folder')


def test_a_new_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    fsync = os.fsync
    rename = os.rename
    monkeypatch.setattr(files.os, 'fsync', lambda opened: (
        events.append(os.readlink(f'/proc/self/fd/{opened}')), fsync(opened)))
    monkeypatch.setattr(files.os, 'rename', lambda source, target: (
        events.append('rename'), rename(source, target)))
    replace(tmp_path / 'folder', 'new')
    new = tmp_path / '.folder.work/new'
    expected = {str(new), str(new / 'inside'), str(new / 'inside/file')}
    assert set(events[:3]) == expected
    assert events[3:] == ['rename', str(tmp_path)]


# locked_folder

def enter(folder):
    with files.locked_folder(folder):
        pass


def test_a_folder_is_for_one_process_at_a_time(tmp_path, capsys):
    folder = tmp_path / 'deep/folder'
    with files.locked_folder(folder):
        assert folder.is_dir()
        assert f'another process is at work in {folder}' in fails(capsys, enter, folder)
        enter(tmp_path / 'other')
        fails(capsys, enter, folder)  # an attempt leaves the lock as it was
    enter(folder)
    with pytest.raises(ValueError), files.locked_folder(folder):
        raise ValueError
    enter(folder)
    assert names(folder) == []


def test_a_dead_process_keeps_no_lock(tmp_path, capsys):
    code = ('import pathlib, time\nfrom nanoloss import files\n'
            'with files.locked_folder(pathlib.Path("folder")):\n'
            '    print("locked", flush=True)\n    time.sleep(60)')
    process = subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, env=os.environ | {'PYTHONPATH': str(ROOT)})
    try:
        assert process.stdout.readline() == 'locked\n'
        assert 'another process' in fails(capsys, enter, tmp_path / 'folder')
    finally:
        process.kill()
        process.communicate()
    enter(tmp_path / 'folder')


def test_leftovers_go_and_nothing_else_does(tmp_path):
    for name in 'ckpt.pt.tmp', 'ckpt.pt', 'log.jsonl':
        (tmp_path / name).write_text(name)
    with files.locked_folder(tmp_path):
        assert names(tmp_path) == ['ckpt.pt', 'log.jsonl']


def test_what_another_process_writes_stays_where_the_lock_is_refused(tmp_path, capsys):
    with files.locked_folder(tmp_path):
        (tmp_path / 'ckpt.pt.tmp').write_text('which the other one writes just now')
        assert 'another process' in fails(capsys, enter, tmp_path)
        assert names(tmp_path) == ['ckpt.pt.tmp']


def test_processes_that_share_a_run_share_its_lock(tmp_path, monkeypatch):
    with files.locked_folder(tmp_path):
        (tmp_path / 'ckpt.pt.tmp').write_text('which the first one writes just now')
        monkeypatch.setattr(files, 'FIRST', False)
        enter(tmp_path)
        assert names(tmp_path) == ['ckpt.pt.tmp']


# claim_run

CODE = {'train.py': 'a1', 'model.py': 'b2'}
CONFIG = {
    'head': 'ce',
    'epochs': 3,
    'class_share': [0.5, 0.5],
    'threads': 1,
    'commit': 'c3',
    'code': CODE,
}
FREE = 'threads', 'commit'


def begin(folder, **changes):
    """A run's folder with the config of the test, changed so, and a checkpoint."""
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(CONFIG | changes))
    (folder / 'ckpt.pt').write_text('')
    return (folder / 'config.json').read_bytes()


def claim(folder, overwrite=False, **changes):
    files.claim_run(folder, CONFIG | changes, FREE, overwrite)


def test_a_new_run_gets_its_config(tmp_path):
    claim(tmp_path)
    assert json.loads((tmp_path / 'config.json').read_text()) == CONFIG
    assert names(tmp_path) == ['config.json']


def test_the_same_run_goes_on_and_keeps_its_config(tmp_path):
    before = begin(tmp_path)
    claim(tmp_path)
    claim(tmp_path, threads=2, commit='another')
    assert (tmp_path / 'config.json').read_bytes() == before
    assert names(tmp_path) == ['ckpt.pt', 'config.json']


def test_a_run_with_other_settings_is_refused(tmp_path, capsys):
    before = begin(tmp_path)
    error = fails(capsys, claim, tmp_path, epochs=4)
    assert f'{tmp_path} holds a run with other epochs (epochs was 3, is 4)' in error
    assert f'give another --out_dir, or --overwrite to throw away {tmp_path}' in error
    error = fails(capsys, claim, tmp_path, head='bce', epochs=4, threads=2)
    assert "with other head, epochs (head was 'ce', is 'bce')" in error
    error = fails(capsys, claim, tmp_path, gamma=2.0)
    assert 'with other gamma (gamma was None, is 2.0)' in error
    error = fails(capsys, claim, tmp_path, epochs=4, code={'train.py': 'x'})
    assert 'with other epochs, code (epochs was 3, is 4)' in error
    assert (tmp_path / 'config.json').read_bytes() == before
    assert names(tmp_path) == ['ckpt.pt', 'config.json']


def test_a_run_that_goes_on_elsewhere_is_told_where_it_can(tmp_path, capsys):
    """What the device has chosen, another device chooses otherwise; nobody has set it."""
    begin(tmp_path, device='cpu', deferred=True, max_tokens=8192)
    gpu = {'device': 'cuda', 'deferred': False, 'max_tokens': 2 ** 30}
    may_differ = (*FREE, 'device')
    error = fails(capsys, files.claim_run, tmp_path, CONFIG | gpu, may_differ, False)
    assert 'was begun with --device=cpu, where deferred, max_tokens were others' in error
    longer = CONFIG | gpu | {'epochs': 4}
    error = fails(capsys, files.claim_run, tmp_path, longer, may_differ, False)
    assert 'with other epochs, deferred, max_tokens (epochs was 3, is 4)' in error


@pytest.mark.parametrize('code, changed', [
    ({'train.py': 'a1', 'model.py': 'xx'}, 'model.py'),
    ({'train.py': 'x', 'model.py': 'y'}, 'train.py, model.py'),
    ({'train.py': 'a1', 'model.py': 'b2', 'nanoloss/data.py': 'new'}, 'nanoloss/data.py')])
def test_other_code_is_named_and_the_commit_to_go_back_to(tmp_path, capsys, code, changed):
    before = begin(tmp_path)
    error = fails(capsys, claim, tmp_path, code=code, commit='d4')
    assert f'{tmp_path} was begun by other code: {changed} changed since then' in error
    assert 'if only by a comment' in error
    assert 'put the old code back (commit c3)' in error
    assert f'--overwrite to throw away {tmp_path}' in error
    assert (tmp_path / 'config.json').read_bytes() == before


def test_other_code_of_an_unknown_commit(tmp_path, capsys):
    for old in ({'commit': ''}, {'commit': None}, {'commit': '', 'code': None}):
        begin(tmp_path, **old)
        error = fails(capsys, claim, tmp_path, code={'train.py': 'xx', 'model.py': 'b2'})
        assert 'begun by other code: train.py' in error
        assert '(commit unknown)' in error


def test_code_of_which_a_file_is_gone(tmp_path, capsys):
    """Then the run is of other code as well, though each file of this code is as it was."""
    begin(tmp_path)
    error = fails(capsys, claim, tmp_path, code={'train.py': 'a1'})
    assert 'begun by other code: model.py changed' in error


def test_a_run_from_when_code_was_one_checksum(tmp_path, capsys):
    """Its config is not damaged."""
    begin(tmp_path, code='c45962702e436b3aaad35efe3cd2329ecca8f9b7cc57e9aabc779e6052bec485')
    error = fails(capsys, claim, tmp_path)
    assert 'begun by other code' in error
    assert '(commit c3)' in error
    error = fails(capsys, claim, tmp_path, epochs=4)
    assert 'with other epochs, code (epochs was 3, is 4)' in error


@pytest.mark.parametrize('content', [
    b'', b'{', b'[]', b'3', b'null', b'\xff\xfe\x00', b'"text"', b'NaN'])
def test_a_damaged_config_is_named(tmp_path, capsys, content):
    begin(tmp_path)
    (tmp_path / 'config.json').write_bytes(content)
    error = fails(capsys, claim, tmp_path)
    assert f'{tmp_path}/config.json is damaged; give another --out_dir, or --overwrite' in error
    assert (tmp_path / 'config.json').read_bytes() == content
    claim(tmp_path, overwrite=True)
    assert json.loads((tmp_path / 'config.json').read_text()) == CONFIG


def test_overwrite_throws_away_what_is_there(tmp_path):
    begin(tmp_path)
    (tmp_path / 'folder/inside').mkdir(parents=True)
    claim(tmp_path, overwrite=True, epochs=4)
    assert names(tmp_path) == ['config.json']
    assert json.loads((tmp_path / 'config.json').read_text()) == CONFIG | {'epochs': 4}


def test_a_kill_while_a_run_is_thrown_away_leaves_no_run_that_looks_complete(
        tmp_path, monkeypatch):
    """Nor a config of other settings than those of the files beside it."""
    for step in range(1, 100):
        folder = tmp_path / str(step)
        begin(folder)
        for name in 'a.pt', 'result.json', 'z.pt':
            (folder / name).write_text('old')
        child = os.fork()
        if not child:
            killed(monkeypatch, folder, step)
            claim(folder, overwrite=True, epochs=4)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        assert json.loads((folder / 'config.json').read_text()) == CONFIG
        left = {'ckpt.pt', 'a.pt', 'z.pt'} & set(names(folder))
        assert step == 1 or not (folder / 'result.json').exists()
        assert len(left) == 3 - max(0, step - 2) or step > 4
    assert step > 4
    assert json.loads((folder / 'config.json').read_text()) == CONFIG | {'epochs': 4}


def test_the_second_process_of_a_run_throws_away_nothing(tmp_path, monkeypatch):
    before = begin(tmp_path)
    monkeypatch.setattr(files, 'FIRST', False)
    claim(tmp_path, overwrite=True, epochs=4)
    assert (tmp_path / 'config.json').read_bytes() == before
    assert names(tmp_path) == ['ckpt.pt', 'config.json']


# load_checked and load_weights

@pytest.fixture
def saved(tmp_path):
    """A file of weights -> its path, the weights."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        'norm.weight': torch.randn(5, generator=generator),
        'token_embedding.weight': torch.randn(100, 16, generator=generator),
        'blocks.0.up.weight': torch.randn(16, 64, generator=generator, dtype=torch.float64),
    }
    torch.save(weights, tmp_path / 'model.pt')
    return tmp_path / 'model.pt', weights


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_was_saved_is_loaded(saved):
    path, weights = saved
    assert equal(files.load_checked(path), weights)
    assert equal(files.load_weights(path), weights)
    assert equal(files.load_weights(path, 'cpu'), weights)


def test_a_flipped_bit_in_a_file(saved):
    """Each of 200 bits, anywhere in the file: an error, or no effect (zip's own fields have
    gaps)."""
    path, weights = saved
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    n_errors = 0
    for position in rng.choice(len(good), 200, replace=False):
        content = bytearray(good)
        content[position] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            assert equal(files.load_checked(path), weights)
        except ValueError as error:
            n_errors += 1
            assert str(error).startswith(f'{path} is damaged (')
    assert n_errors > 150


@pytest.mark.parametrize('content', [
    b'', b'PK', b'\0' * 1000, b'{"not": "weights"}', b'PK\3\4' + b'\0' * 100])
def test_what_is_no_file_of_weights(tmp_path, content):
    path = tmp_path / 'model.pt'
    path.write_bytes(content)
    for load in files.load_checked, files.load_weights:
        with pytest.raises(ValueError, match='model.pt is damaged'):
            load(path)


def test_a_file_cut_short(saved):
    path, _ = saved
    good = path.read_bytes()
    for size in 1, 10, 1000, len(good) // 2, len(good) - 1000, len(good) - 1:
        path.write_bytes(good[:size])
        with pytest.raises(ValueError, match='is damaged'):
            files.load_checked(path)


def test_a_zip_file_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / 'model.pt', 'w') as archive:
        archive.writestr('data.pkl', b'hello')
    with pytest.raises(ValueError, match='is damaged'):
        files.load_checked(tmp_path / 'model.pt')


class Opener:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return open, ('made', 'w')


def test_a_file_with_code_in_it_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'norm.weight': Opener()}, 'model.pt')
    with pytest.raises(ValueError, match='model.pt holds more than tensors and plain values$'):
        files.load_checked('model.pt')
    assert names(tmp_path) == ['model.pt']


@pytest.mark.parametrize('content', [torch.zeros(3), [torch.zeros(3)], 3, None, 'text'])
def test_a_file_of_something_else_than_weights(tmp_path, content):
    torch.save(content, tmp_path / 'model.pt')
    with pytest.raises(ValueError, match='model.pt'):
        files.load_weights(tmp_path / 'model.pt')


def test_a_file_that_is_not_there(tmp_path):
    for load in files.load_checked, files.load_weights:
        with pytest.raises(FileNotFoundError):
            load(tmp_path / 'model.pt')


def test_a_folder_in_place_of_a_file(tmp_path):
    with pytest.raises((ValueError, OSError)):
        files.load_checked(tmp_path)


def test_the_embedding_has_its_new_name(tmp_path):
    """In the weights of runs from before it was renamed."""
    table = torch.arange(6.).view(3, 2)
    gain = torch.ones(2)
    torch.save({'embed.weight': table, 'norm.weight': gain}, tmp_path / 'best.pt')
    weights = files.load_weights(tmp_path / 'best.pt')
    assert equal(weights, {'token_embedding.weight': table, 'norm.weight': gain})
