"""nanoloss/files.py, and claim_run and load_weights, which read and write the files of a run:
atomic writes of files and folders, locks, claims on a run's folder, checked loads. About 5 s."""
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

from nanoloss import files, loop, parallel, runs


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


# write_file and its callers

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
    with files.locked_folder(tmp_path):  # deleted when the folder is locked again
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
            # files of other tests may be deleted at any moment
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
    """Every later read finds one of them whole, and the next command leaves no other file."""
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
    """So the test above covers the case that `mend_folder` is for."""
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

CONFIG = {
    'head': 'ce',
    'trunk': 'windows',
    'epochs': 3,
    'class_share': [0.5, 0.5],
    'device': 'cpu',
    'threads': 1,
    'commit': 'c3',
    'overwrite': False,
}


def begin(folder, **changes):
    """A run's folder with the config of the test, changed so, and a checkpoint."""
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(CONFIG | changes))
    (folder / 'ckpt.pt').write_text('')
    return (folder / 'config.json').read_bytes()


def claim(folder, **changes):
    loop.claim_run(folder, CONFIG | changes)


def test_a_new_run_gets_its_config(tmp_path):
    claim(tmp_path)
    assert json.loads((tmp_path / 'config.json').read_text()) == CONFIG
    assert names(tmp_path) == ['config.json']


def test_the_same_run_is_resumed_and_keeps_its_config(tmp_path, capsys):
    before = begin(tmp_path)
    claim(tmp_path)
    for name in loop.MAY_DIFFER - {'overwrite', 'commit'}:
        claim(tmp_path, **{name: 'another'})
    assert (tmp_path / 'config.json').read_bytes() == before
    assert names(tmp_path) == ['ckpt.pt', 'config.json']
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('old, new, says', [
    ('c3', 'd4', 'was begun at commit c3, the code is now at d4'),
    ('c3', 'c3-dirty', 'was begun at commit c3, the code is now at c3-dirty'),
    ('', 'd4', 'was begun at commit unknown, the code is now at d4'),
    (None, 'd4', 'was begun at commit unknown, the code is now at d4'),
    ('c3', '', 'was begun at commit c3, the code is now at unknown')])
def test_other_code_is_a_warning(tmp_path, capsys, old, new, says):
    """It names both commits, and the run is resumed: people come to change the code."""
    before = begin(tmp_path, commit=old)
    claim(tmp_path, commit=new)
    out, error = capsys.readouterr()
    assert (out, error) == ('', f'warning: {tmp_path} {says}\n')
    assert (tmp_path / 'config.json').read_bytes() == before
    # another setting is an error, not a warning
    error = fails(capsys, claim, tmp_path, commit=new, epochs=4)
    assert 'with other epochs' in error


def test_a_run_with_other_settings_is_refused(tmp_path, capsys):
    before = begin(tmp_path)
    error = fails(capsys, claim, tmp_path, epochs=4)
    assert f'{tmp_path} holds a run with other epochs (epochs was 3, is 4)' in error
    assert f'give another --out_dir, or --overwrite to delete {tmp_path}' in error
    error = fails(capsys, claim, tmp_path, head='bce', epochs=4, threads=2)
    assert "with other head, epochs (head was 'ce', is 'bce')" in error
    error = fails(capsys, claim, tmp_path, gamma=2.0)
    assert 'with other gamma (gamma was None, is 2.0)' in error
    assert (tmp_path / 'config.json').read_bytes() == before
    assert names(tmp_path) == ['ckpt.pt', 'config.json']


def test_a_run_that_has_saved_nothing_begins_again(tmp_path, capsys):
    """For example with a lower rate, after a loss that was not finite."""
    begin(tmp_path)
    (tmp_path / 'ckpt.pt').unlink()
    claim(tmp_path, epochs=4)
    assert capsys.readouterr() == ('', '')
    assert json.loads((tmp_path / 'config.json').read_text())['epochs'] == 4
    for file in 'ckpt.pt', 'log.jsonl', 'result.json':
        (tmp_path / file).write_text('')
        assert 'with other epochs' in fails(capsys, claim, tmp_path, epochs=3)
        (tmp_path / file).unlink()


def test_an_edited_file_of_a_head_is_a_warning(tmp_path, capsys):
    begin(tmp_path, files={'mine.py': 'a', 'other.py': 'b'})
    claim(tmp_path, files={'mine.py': 'a', 'other.py': 'b'})
    assert capsys.readouterr() == ('', '')
    claim(tmp_path, files={'mine.py': 'c', 'other.py': 'b'})
    out, error = capsys.readouterr()
    assert error.startswith(f'warning: mine.py has changed since {tmp_path} was begun; give')
    assert '--overwrite' in error and error.count('\n') == 1 and not out


def test_a_run_that_is_resumed_elsewhere_is_told_where_it_can(tmp_path, capsys):
    """These settings follow from the device: nobody has set them."""
    begin(tmp_path, deferred=True, max_tokens=8192)
    gpu = {'device': 'cuda', 'deferred': False, 'max_tokens': 2 ** 30}
    error = fails(capsys, claim, tmp_path, **gpu)
    assert 'was begun with --device=cpu, with another deferred, max_tokens; resume it' in error
    error = fails(capsys, claim, tmp_path, **gpu, epochs=4)
    assert 'with other epochs, deferred, max_tokens (epochs was 3, is 4)' in error
    # on the same device, somebody has set it
    error = fails(capsys, claim, tmp_path, deferred=True, max_tokens=1)
    assert 'with other max_tokens (max_tokens was 8192, is 1)' in error


OLD_SETTINGS = {'window': 0, 'n_layer': 2, 'n_head': 2, 'n_embd': 128, 'pooling': 'mean',
                'bias': True, 'pool': 50, 'beta1': 0.9, 'keep_frac': 1.0, 'compile': False,
                'code': {'train.py': 'a1', 'model.py': 'b2'}}
TRANSFORMER = {'trunk': 'transformer', 'n_layer': 2, 'n_head': 2, 'n_embd': 128}


def begin_old(folder, **changes):
    """As `begin`, with the config of a version that had no trunks."""
    old = {key: value for key, value in CONFIG.items() if key != 'trunk'}
    (folder / 'config.json').write_text(json.dumps(old | OLD_SETTINGS | changes))
    (folder / 'ckpt.pt').write_text('')


def test_a_run_of_an_older_version_has_todays_settings(tmp_path, capsys):
    begin_old(tmp_path)
    claim(tmp_path, **TRANSFORMER)
    begin_old(tmp_path, code='one checksum of all files, in the first versions')
    claim(tmp_path, **TRANSFORMER)
    assert capsys.readouterr().err == ''
    error = fails(capsys, claim, tmp_path, **TRANSFORMER | {'n_layer': 3})
    assert 'with other n_layer (n_layer was 2, is 3)' in error
    assert "with other trunk (trunk was 'transformer'" in fails(capsys, claim, tmp_path)


def test_a_removed_setting_with_another_value_is_another_run(tmp_path, capsys):
    begin_old(tmp_path, keep_frac=0.1)
    error = fails(capsys, claim, tmp_path, **TRANSFORMER)
    assert 'with other keep_frac (keep_frac was 0.1, is 1.0)' in error
    begin_old(tmp_path, pooling='max')
    error = fails(capsys, claim, tmp_path, **TRANSFORMER)
    assert "(trunk was 'transformer with max pooling', is 'transformer')" in error


@pytest.mark.parametrize('content', [
    b'', b'{', b'{}', b'[]', b'3', b'null', b'\xff\xfe\x00', b'"text"', b'NaN'])
def test_a_damaged_config_is_named(tmp_path, capsys, content):
    begin(tmp_path)
    (tmp_path / 'config.json').write_bytes(content)
    error = fails(capsys, claim, tmp_path)
    assert f'{tmp_path}/config.json is damaged; give another --out_dir, or --overwrite' in error
    assert (tmp_path / 'config.json').read_bytes() == content
    claim(tmp_path, overwrite=True)
    assert json.loads((tmp_path / 'config.json').read_text()) == CONFIG | {'overwrite': True}


def test_overwrite_deletes_what_is_there(tmp_path):
    begin(tmp_path)
    (tmp_path / 'folder/inside').mkdir(parents=True)
    claim(tmp_path, overwrite=True, epochs=4)
    assert names(tmp_path) == ['config.json']
    new = CONFIG | {'overwrite': True, 'epochs': 4}
    assert json.loads((tmp_path / 'config.json').read_text()) == new


def test_a_kill_while_a_run_is_deleted_leaves_no_run_that_looks_complete(tmp_path, monkeypatch):
    """Nor a config with other settings than those of the files beside it."""
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
    new = CONFIG | {'overwrite': True, 'epochs': 4}
    assert json.loads((folder / 'config.json').read_text()) == new


def test_the_second_process_of_a_run_deletes_nothing(tmp_path, monkeypatch):
    before = begin(tmp_path)
    monkeypatch.setattr(parallel, 'RANK', 1)
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
        'trunk.norm.weight': torch.randn(5, generator=generator),
        'trunk.token_embedding.weight': torch.randn(100, 16, generator=generator),
        'trunk.blocks.0.up.weight': torch.randn(16, 64, generator=generator, dtype=torch.float64),
    }
    torch.save(weights, tmp_path / 'model.pt')
    return tmp_path / 'model.pt', weights


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_was_saved_is_loaded(saved):
    path, weights = saved
    assert equal(files.load_checked(path), weights)
    assert equal(runs.load_weights(path), weights)
    assert equal(runs.load_weights(path, 'cpu'), weights)


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
    for load in files.load_checked, runs.load_weights:
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
        runs.load_weights(tmp_path / 'model.pt')


def test_a_file_that_is_not_there(tmp_path):
    for load in files.load_checked, runs.load_weights:
        with pytest.raises(FileNotFoundError):
            load(tmp_path / 'model.pt')


def test_a_folder_in_place_of_a_file(tmp_path):
    with pytest.raises((ValueError, OSError)):
        files.load_checked(tmp_path)


@pytest.mark.parametrize('name', ['embed.weight', 'token_embedding.weight'])
def test_weights_get_todays_names(tmp_path, name):
    """Those of the first versions, and of the versions before a model had a trunk."""
    table = torch.arange(6.).view(3, 2)
    gain = torch.ones(2)
    output = torch.ones(1, 2)
    old = {name: table, 'norm.weight': gain, 'head.linear.weight': output}
    torch.save(old, tmp_path / 'best.pt')
    assert equal(runs.load_weights(tmp_path / 'best.pt'), {
        'trunk.token_embedding.weight': table, 'trunk.norm.weight': gain,
        'head.linear.weight': output})
