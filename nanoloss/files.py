"""Atomic writes of files and folders, locks of folders, checked loads of weights."""
import json
import os
import pickle
import shutil
import subprocess
import zipfile
from contextlib import contextmanager
from pathlib import Path

from nanoloss.settings import fail

try:
    import fcntl  # Unix only
except ImportError:
    fcntl = None

FIRST = int(os.environ.get('RANK', 0)) == 0  # of the processes that share a run, only rank 0 writes


def write_file(path, write):
    """Call write(file) on a binary file with a temporary name and rename it when it is complete.

    Of several processes, only the first writes. Raises OSError; the old file is then unchanged.
    """
    if not FIRST:
        return
    temporary = path.with_name(path.name + '.tmp')
    try:
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            # without fsync the name could reach the disk before the content, and a crash in
            # between would leave an empty file
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise
        raise OSError(f'{path}: {error}') from error


def write_json(path, value):
    """`write_file` with a value as indented JSON."""
    text = json.dumps(value, indent=1) + '\n'
    write_file(path, lambda file: file.write(text.encode()))


def write_json_lines(path, rows):
    """`write_file` with one line of JSON per row."""
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    write_file(path, lambda file: file.write(text.encode()))


def read_json_lines(path):
    """The rows of such a file, or [] if there is none."""
    path = Path(path)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text('utf-8').splitlines()]


def write_files(folder, files):
    """{name: bytes} -> files in a folder, which is created if needed. Fails if that is impossible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_file(folder / name, lambda file, content=content: file.write(content))
    except OSError as error:
        fail(f'{folder}: {", ".join(files)} cannot be written there ({error}); give another '
             '--out_dir')


def sync(path):
    """Wait until a file, or the list of names in a folder, is on disk."""
    if fcntl is None:  # on Windows, which cannot open a folder
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def lock(folder):
    """Lock an existing folder for this process -> the open file that holds the lock.

    The system releases the lock of a process that dies. Fails if another process holds it.
    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        # the folder itself is locked, so no lock file can be left over
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # the other process may have deleted the folder before it released the lock
        if os.path.samestat(os.fstat(opened), os.stat(folder)):
            return opened
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(opened)
    fail(f'another process is at work in {folder}')


@contextmanager
def locked_folder(folder):
    """Create a folder and lock it against other processes while this one works in it.

    Of several processes that share a run, the first holds the lock. Windows has no lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None or not FIRST:
        yield
        return
    opened = lock(folder)
    try:
        for leftover in folder.glob('*.tmp'):  # of a process that was killed while writing
            leftover.unlink()
        yield
    finally:
        os.close(opened)


def working_folder(folder):
    """A folder -> its real path, with symbolic links resolved, and the folder beside that in which
    `replacing_folder` works. The dot in its name hides it from `ls` and `glob`."""
    folder = Path(os.path.realpath(folder))
    return folder, folder.with_name(f'.{folder.name}.work')


def clear_working_folder(folder, work):
    """Restore the old folder if no new one has taken its place, and delete everything else in work.

    This cleans up after a kill at any moment. The caller has locked work.
    """
    new = work / 'new'
    old = work / 'old'
    if old.exists() and not folder.exists():
        os.rename(old, folder)
    if new.exists():
        shutil.rmtree(new)
    if old.exists():
        os.rename(old, new)  # a half-deleted old folder must never be restored
        shutil.rmtree(new)


@contextmanager
def replacing_folder(folder):
    """Yield a new, empty folder; when the block has ended, it replaces `folder`.

    If the block raises an exception, the old folder stays. A symbolic link stays, and its target is
    replaced. If the process is killed, the next command that replaces the folder cleans up, and so
    does `mend_folder`. An OSError ends in `fail`.
    """
    target, work = working_folder(folder)
    new = work / 'new'
    try:
        with locked_folder(work):
            clear_working_folder(target, work)
            try:
                new.mkdir()
                yield new
                if target.exists() and not target.is_dir():
                    raise NotADirectoryError('there is a file of this name')
                # otherwise the name could reach the disk before the content
                for path in [*new.rglob('*'), new]:
                    sync(path)
                if target.exists():
                    os.rename(target, work / 'old')  # os.rename cannot replace a folder
                os.rename(new, target)
                sync(target.parent)
            finally:
                clear_working_folder(target, work)
                work.rmdir()
    except OSError as error:
        fail(f'{folder}: cannot be written: {error}')


def mend_folder(folder):
    """Clean up after a process that was killed while replacing a folder. The folder is then the old
    or the new one, or missing if there was no old one. Fails if that process is still running."""
    target, work = working_folder(folder)
    if not work.exists() or not FIRST:
        return
    try:
        with locked_folder(work):
            clear_working_folder(target, work)
            work.rmdir()
    except OSError as error:
        fail(f'{folder}: a process was killed while it replaced this folder, which cannot be '
             f'restored: {error}')


def current_commit():
    """The commit of this repository, with -dirty if files differ from it; '' without git."""
    if not shutil.which('git'):
        return ''
    git = ['git', '-C', str(Path(__file__).parents[1]), 'describe', '--always', '--dirty',
           '--abbrev=40', '--exclude=*']
    return subprocess.run(git, capture_output=True, text=True).stdout.strip()


def load_checked(path, device='cpu'):
    """Load a file of torch.save that holds tensors and plain values only.

    It checks every byte, which torch.load does not do. Raises ValueError if the file is damaged or
    holds anything else, which might be a program; FileNotFoundError if there is none.
    """
    import torch  # prepare.py, which writes files too, saves this second
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f'{damaged} has another checksum')
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError:  # torch's message says how to load it without the check
        raise ValueError(f'{path} holds more than tensors and plain values') from None
    except Exception as error:  # of many kinds
        raise ValueError(f'{path} is damaged ({type(error).__name__}: {error})') from None
