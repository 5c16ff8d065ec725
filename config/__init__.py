"""The configurator, after nanoGPT's: the settings of a script are its own plain module variables.

    python SCRIPT.py [config/FILE.py ...] [--key=value ...]

Every lower-case name that the script assigns a bool, int, float or string at top level, before it
calls `configure`, is a setting; the comment beside the assignment is its help. A config file is plain
Python that assigns some of them; later arguments win.
"""
import ast
import difflib
import io
import json
import math
import os
import runpy
import shutil
import sys
import tokenize
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

try:
    import fcntl  # Unix only
except ImportError:
    fcntl = None


def fail(message):
    """End the program over something the user can put right: one line on stderr, exit status 2."""
    print(f'{Path(sys.argv[0]).name}: {" ".join(str(message).split())}', file=sys.stderr)
    raise SystemExit(2)


def replace(path, write):
    """Let write(file) write a file that is there whole or not at all; of several processes, only the first writes."""
    if int(os.environ.get('RANK', 0)):
        return
    temporary = path.with_name(path.name + '.tmp')
    try:
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        raise error if isinstance(error, OSError) else OSError(f'{path}: {error}') from error


def replace_json(path, *rows, indent=None):
    """The same with a line of JSON a row."""
    text = ''.join(json.dumps(row, indent=indent) + '\n' for row in rows)
    replace(path, lambda file: file.write(text.encode()))


@contextmanager
def alone(folder):
    """Make a folder and keep other processes out of it while this one is at work there; the system lets go of the lock
    of a dead process. Of several processes that share the work, the first holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not fcntl or int(os.environ.get('RANK', 0)):
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in folder.glob('*.tmp'):  # by a process that was killed while it wrote
            left.unlink()
        yield
    except BlockingIOError:
        fail(f'another process is at work in {folder}')
    finally:
        os.close(lock)


def claim(folder, config, may_differ, overwrite):
    """Write config.json into a run's folder; what is there must be of the same config, or overwrite throws it away."""
    for path in folder.iterdir() if overwrite and not int(os.environ.get('RANK', 0)) else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if overwrite or not (folder / 'config.json').exists():
        return replace_json(folder / 'config.json', config, indent=1)
    way_out = f'give another --out_dir, or --overwrite to throw away {folder}'
    try:
        there = json.loads((folder / 'config.json').read_text())
        differing = [key for key in config if key not in may_differ and there.get(key) != config[key]]
    except (ValueError, AttributeError):
        fail(f'{folder}/config.json is damaged; {way_out}')
    if differing:
        key = differing[0]
        fail(f'{folder} holds a run with other {", ".join(differing)} ({key} was {there.get(key)!r}, '
             f'is {config[key]!r}); {way_out}')


def configure(namespace, more=None, positional=None, argv=None):
    """Lay config files and --key=value arguments over a script's settings.

    namespace: the script's globals(); its settings are read from it and replaced in it.
    more: a function from the settings so far to a dict of further settings with their defaults
        (a head's keywords, which are known only once `head` is).
    positional: a list that takes the arguments that are neither; without it they are an error.
    argv: the arguments, sys.argv[1:] by default.
    Returns the dict of all settings. What the user got wrong ends in `fail`.
    """
    argv = sys.argv[1:] if argv is None else argv
    notes = read_notes(Path(namespace['__file__']).read_text(encoding='utf-8'))
    settings = {key: namespace[key] for key in notes if key in namespace}

    given = []  # (where it was said, key, value or its text), in the order of the arguments
    for arg in argv:
        if arg in ('--help', '-h'):
            continue
        if arg.startswith('--'):
            key, equals, text = arg[2:].partition('=')
            given.append((arg, key, text if equals else None))
        elif arg.endswith('.py') and (positional is None or os.path.isfile(arg)):
            given += [(f'{arg}: {key}', key, (value,)) for key, value in read_config(arg).items()]
        elif positional is not None:
            positional.append(arg)
        else:
            fail(f'{arg!r} is neither a config file (config/NAME.py) nor --key=value')

    # two passes, because which further settings there are can depend on the first ones
    for where, key, value in given:
        if key in settings:
            settings[key] = convert(where, key, value, settings[key])
    extra = more(settings) if more else {}
    for where, key, value in given:
        if key in extra:
            extra[key] = convert(where, key, value, extra[key])
        elif key not in settings:
            near = difflib.get_close_matches(key, [*settings, *extra], n=3, cutoff=0.6)
            hint = f'did you mean {", ".join(near)}?' if near else '--help lists all settings'
            fail(f'{where}: there is no setting {key!r}; {hint}')
    settings.update(extra)
    if {'--help', '-h'} & set(argv):
        show_help(namespace.get('__doc__') or '', settings, notes)
        raise SystemExit(0)
    namespace.update(settings)
    return settings


def read_notes(source):
    """A script's source -> {setting: the comment beside it}, in the script's order."""
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip('# ')
    notes = {}
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        name = node.targets[0].id
        try:
            is_setting = isinstance(ast.literal_eval(node.value), (bool, int, float, str))
        except ValueError:
            continue
        if is_setting and name.islower() and not name.startswith('_'):
            notes[name] = comments.get(node.end_lineno, '')
    return notes


def read_config(path):
    """Run a config file -> what it assigned, imported modules and _private names aside."""
    if not os.path.isfile(path):  # Path.is_file raises over a folder that may not be entered
        here = sorted(str(p) for p in Path('config').glob('[!_]*.py'))
        fail(f'{path}: no such config file' + (f'; there are {", ".join(here)}' if here else ''))
    try:
        assigned = runpy.run_path(path)
    except Exception as error:  # whatever went wrong, it went wrong in the user's file
        fail(f'{path}: {type(error).__name__}: {error}')
    return {key: value for key, value in assigned.items()
            if not key.startswith('_') and not isinstance(value, ModuleType)}


def convert(where, key, value, default):
    """A setting's new value in the type of its default, from text, from a config file's (value,), or
    from None (a bare --key, which is True)."""
    kind = type(default)
    if value is None and kind is bool:
        return True
    if value is None:
        fail(f'{where}: {key} needs a value, such as --{key}={default}')
    try:
        if isinstance(value, tuple):
            value, = value
            if type(value) is not kind and (kind, type(value)) != (float, int):
                raise ValueError
            result = kind(value)
        else:
            yes = {'true': True, '1': True, 'false': False, '0': False}
            result = yes[value.lower()] if kind is bool else kind(value)
        if kind is float and not math.isfinite(result):
            raise OverflowError
    except (ValueError, KeyError):
        names = {bool: 'True or False', int: 'an integer', float: 'a number', str: 'a string'}
        fail(f'{where}: {key} wants {names[kind]}, not {value!r}')
    except OverflowError:
        fail(f'{where}: {key} wants a finite number')
    return result


def show_help(doc, settings, notes):
    print(doc.strip(), end='\n\nsettings, as --key=value or in a config file:\n')
    width = max(len(f'{key}={value!r}') for key, value in settings.items())
    for key, value in settings.items():
        print(f'  {f"{key}={value!r}":{width}}  {notes.get(key, "")}'.rstrip())
