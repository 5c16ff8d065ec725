"""Atomic writes of files and folders, folders for one process at a time, checked loads."""
import json
import os
import pickle
import shutil
import subprocess
import zipfile
from contextlib import contextmanager
from pathlib import Path

from nanoloss.configure import fail

try:
    import fcntl  # Unix only
except ImportError:
    fcntl = None

FIRST = int(os.environ.get('RANK', 0)) == 0  # of the processes that share a run, only it writes


def write_file(path, write):
    """Let write(file) write a binary file under a temporary name; rename it when it is complete.

    Of several processes only the first writes. Raises OSError; then the old file is still there.
    """
    if not FIRST:
        return
    temporary = path.with_name(path.name + '.tmp')
    try:
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            # else the name could reach the disk before the content, and a crash in between
            # would leave an empty file
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
    """`write_file` with a line of JSON a row."""
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    write_file(path, lambda file: file.write(text.encode()))


def sync(path):
    """Wait until a file or the names in a folder are on the disk."""
    if fcntl is None:  # Windows cannot open a folder
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
        # the folder itself is locked: no lock file can be left over
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
    """Make a folder and keep other processes out of it while this one works there.

    Of several processes that share a run, the first one holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None or not FIRST:
        yield
        return
    opened = lock(folder)
    try:
        for leftover in folder.glob('*.tmp'):  # of a process that was killed while it wrote
            leftover.unlink()
        yield
    finally:
        os.close(opened)


def working_folder(folder):
    """A folder -> the folder that a symbolic link in its path points to, and the folder beside it
    in which `replacing_folder` works. The dot in its name hides it from `ls` and `glob`."""
    folder = Path(os.path.realpath(folder))
    return folder, folder.with_name(f'.{folder.name}.work')


def clear_working_folder(folder, work):
    """Rename the old folder back if no new one has its name, and delete everything else.

    This is all it takes after a kill at any moment; the working folder is locked.
    """
    new = work / 'new'
    old = work / 'old'
    if old.exists() and not folder.exists():
        os.rename(old, folder)
    if new.exists():
        shutil.rmtree(new)
    if old.exists():
        os.rename(old, new)  # an old folder that is half deleted must never be renamed back
        shutil.rmtree(new)


@contextmanager
def replacing_folder(folder):
    """A new folder that becomes `folder` when it is complete; then it replaces the old one.

    A symbolic link stays and its target is replaced. If the process is killed, the next command
    that replaces the folder clears up, and so does `mend_folder`.
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
                # else the name could reach the disk before the content does
                for path in [*new.rglob('*'), new]:
                    sync(path)
                if target.exists():
                    os.rename(target, work / 'old')  # a folder cannot be renamed onto another
                os.rename(new, target)
                sync(target.parent)
            finally:
                clear_working_folder(target, work)
                work.rmdir()
    except OSError as error:
        fail(f'{folder}: cannot be written: {error}')


def mend_folder(folder):
    """Clear up after a process that was killed while it replaced a folder: the folder is the old
    or the new one then, or missing if there was no old one. Fails if a process is still at work."""
    target, work = working_folder(folder)
    if not work.exists() or not FIRST:
        return
    try:
        with locked_folder(work):
            clear_working_folder(target, work)
            work.rmdir()
    except OSError as error:
        fail(f'{folder}: a process was killed while it replaced this folder, which cannot be '
             f'mended: {error}')


def current_commit():
    """The commit of this repository, with -dirty where files differ from it; '' without git."""
    if not shutil.which('git'):
        return ''
    git = ['git', '-C', str(Path(__file__).parents[1]), 'describe', '--always', '--dirty',
           '--abbrev=40', '--exclude=*']
    return subprocess.run(git, capture_output=True, text=True).stdout.strip()


def claim_run(folder, config, may_differ, overwrite):
    """Write config.json into a run's folder, or make sure that the run there is of the same config.

    may_differ: the settings in which the two may differ. overwrite: throw away what is there.
    """
    if overwrite and FIRST:
        # after a kill in between, what is left must not look complete, or be of another config:
        # result.json goes first, and config.json stays until it is replaced
        (folder / 'result.json').unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != 'config.json':
                path.unlink()
    if overwrite or not (folder / 'config.json').exists():
        write_json(folder / 'config.json', config)
        return

    way_out = f'give another --out_dir, or --overwrite to throw away {folder}'
    try:
        old = json.loads((folder / 'config.json').read_text())
        differing = [key for key in config if key not in may_differ and old.get(key) != config[key]]
    except (ValueError, AttributeError):
        fail(f'{folder}/config.json is damaged; {way_out}')
    # the likeliest and the least obvious difference: a script was edited since
    if differing == ['code']:
        old_code = old.get('code')
        if not isinstance(old_code, dict):  # one checksum of all, until November 2026
            old_code = {}
        both = {**config['code'], **old_code}
        changed = [name for name in both if old_code.get(name) != config['code'].get(name)]
        fail(f'{folder} was begun by other code: {", ".join(changed)} changed since then, if only '
             f'by a comment; put the old code back (commit {old.get("commit") or "unknown"}), or '
             f'{way_out}')
    # what follows the device: with it, the optimizers' state would be of another kind
    moved = old.get('device') != config.get('device')
    if moved and differing and set(differing) <= {'dtype', 'deferred', 'max_tokens'}:
        fail(f'{folder} was begun with --device={old.get("device")}, where {", ".join(differing)} '
             f'were others; let it go on there, or {way_out}')
    if differing:
        key = differing[0]
        fail(f'{folder} holds a run with other {", ".join(differing)} ({key} was {old.get(key)!r}, '
             f'is {config[key]!r}); {way_out}')


def load_checked(path, device='cpu'):
    """What torch.save wrote, tensors and plain values only.

    Every byte is checked, which torch.load does not do. Raises ValueError if the file is damaged or
    holds more, which might be a program; FileNotFoundError if there is none.
    """
    import torch  # a second that prepare.py, which writes files too, does without
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f'{damaged} has another checksum')
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError:  # torch would tell how to load it all the same
        raise ValueError(f'{path} holds more than tensors and plain values') from None
    except Exception as error:  # of many kinds
        raise ValueError(f'{path} is damaged ({type(error).__name__}: {error})') from None


def load_weights(path, device='cpu'):
    """A model's state_dict from model.pt or best.pt. Raises as `load_checked` does."""
    weights = load_checked(path, device)
    if not isinstance(weights, dict):
        raise ValueError(f'{path} holds no weights')
    if 'embed.weight' in weights:  # its name until November 2026
        weights['token_embedding.weight'] = weights.pop('embed.weight')
    return weights
