"""The configurator: a script's settings are plain variables at its top, as in nanoGPT.

    python SCRIPT.py [config/FILE.py ...] [--key=value ...]

The settings are what the script assigns between its two dashed rules: bools, ints, floats and
strings. The comment beside an assignment is its help. A config file is plain Python that assigns
some of them. Later arguments win. `config = configure(globals())` returns all of them as one
object, and the script's functions take `config`.
"""
import ast
import difflib
import io
import math
import os
import re
import runpy
import sys
import tokenize
from inspect import signature
from pathlib import Path
from types import ModuleType, SimpleNamespace

from nanoloss.escape import one_line

RULE = re.compile(r'# -{20,}\s*')
KINDS = {bool: 'True or False', int: 'an integer', float: 'a number', str: 'a string'}


def fail(message):
    """End the program after an error of the user: one line on stderr, exit status 2."""
    message = one_line(' '.join(str(message).split()))  # a name in it may hold anything
    print(f'{Path(sys.argv[0]).name}: {message}', file=sys.stderr)
    raise SystemExit(2)


def configure(namespace, more=None, positional=None, config_files=None, argv=None):
    """Read a script's settings, config files and --key=value arguments -> one object with an
    attribute per setting (a SimpleNamespace).

    namespace: the script's globals(), which hold its settings and their defaults.
    more: a function from the settings so far, a dict, to a dict of further settings with their
        defaults (the keywords of a head and a trunk, known once these are chosen). It may raise
        ValueError.
    positional: a list to which all other arguments are appended; None: they are an error.
    config_files: a list to which the paths of the config files are appended.
    argv: the arguments; None: sys.argv[1:].

    A user's mistake ends in `fail`.
    """
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack characters of a text
        sys.stdout.reconfigure(errors='backslashreplace')
    notes = read_settings(namespace)
    settings = {key: namespace[key] for key in notes}
    assignments = read_arguments(argv, positional, config_files)

    # two passes, because the script's own settings decide which further ones exist
    for source, key, value in assignments:
        if key in settings:
            settings[key] = convert(source, key, value, settings[key])
    try:
        further = more(settings) if more else {}
    except ValueError as error:
        fail(error)
    for key, default in further.items():
        if key in settings:
            fail(f'the keyword {key!r} of the head or the trunk is a setting of this script, too; '
                 'give it another name')
        if type(default) not in KINDS:
            fail(f'the keyword {key}={default!r} of the head or the trunk cannot be a setting: '
                 'its default must be a bool, an int, a float or a string')
    for source, key, value in assignments:
        if key in further:
            further[key] = convert(source, key, value, further[key])
        elif key not in settings:
            near = difflib.get_close_matches(key, [*settings, *further], n=3, cutoff=0.6)
            hint = f'did you mean {", ".join(near)}?' if near else '--help lists all settings'
            fail(f'{source}: there is no setting {key!r}; {hint}')
    settings.update(further)

    # after the arguments have been read, because the settings depend on them
    if '--help' in argv or '-h' in argv:
        show_help(namespace.get('__doc__') or '', settings, notes)
        raise SystemExit(0)
    return SimpleNamespace(**settings)


def updated(config, **values):
    """A copy of the settings with some values replaced or added."""
    return SimpleNamespace(**{**vars(config), **values})


def check_bounds(config, bounds):
    """Fail if a number is out of bounds: [(names of settings, lowest value, what they must be
    below)]."""
    for names, lowest, below in bounds:
        for name in names:
            value = getattr(config, name)
            if not lowest <= value < below:
                limit = '' if below == math.inf else f' and below {below}'
                fail(f'{name} must be at least {lowest}{limit}, not {value}')


def read_settings(namespace):
    """The names that a script assigns between its dashed rules -> {name: the comment beside it}.

    Any other assignment there would look like a setting, so it is an error.
    """
    path = Path(namespace['__file__'])
    source = path.read_text(encoding='utf-8')
    rules = []
    for number, line in enumerate(source.split('\n'), 1):
        if RULE.fullmatch(line):
            rules.append(number)
    if len(rules) != 2:
        fail(f'{path}: its settings must stand between two dashed rules (# ----), '
             f'and it has {len(rules)}')

    # ast drops comments, so take them from the tokens, by line
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip('# ')

    notes = {}
    for node in ast.parse(source).body:
        if not rules[0] < node.lineno < rules[1]:
            continue
        # name = value, and nothing else: no a = b = 1, no a, b = 1, 2, no a: int = 1
        plain = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        name = node.targets[0].id if plain else ''
        named = len(getattr(node, 'targets', ())) == 1 and name.islower() and name[:1] != '_'
        if not named or type(namespace.get(name)) not in KINDS:
            fail(f'{path}: line {node.lineno} is no setting: between the dashed rules stands '
                 'name = value, in lower case, a bool, an int, a float or a string')
        notes[name] = comments.get(node.end_lineno, '')
    return notes


def read_arguments(argv, positional, config_files):
    """Command line -> [(source for messages, key, value)], in the order of the arguments.

    The value is text, (value,) from a config file, or None for a bare --key.
    """
    assignments = []
    for argument in argv:
        if argument in ('--help', '-h'):
            continue
        if argument.startswith('--'):
            key, equals, text = argument[2:].partition('=')
            assignments.append((argument, key, text if equals else None))
        elif argument.endswith('.py') and (positional is None or os.path.isfile(argument)):
            for key, value in read_config(argument).items():
                assignments.append((f'{argument}: {key}', key, (value,)))
            if config_files is not None:
                config_files.append(argument)
        elif positional is not None:
            positional.append(argument)
        else:
            fail(f'{argument!r} is neither a config file (config/NAME.py) nor --key=value')
    return assignments


def read_config(path):
    """Run a config file -> its assignments, without imported modules and _private names."""
    if not os.path.isfile(path):  # Path.is_file raises if the folder is not accessible
        known = sorted(str(file) for file in Path('config').glob('[!_]*.py'))
        hint = f'; there are {", ".join(known)}' if known else ''
        fail(f'{path}: no such config file{hint}')
    try:
        assigned = runpy.run_path(path)
    except Exception as error:  # a mistake in the user's file can raise anything
        fail(f'{path}: {type(error).__name__}: {error}')
    settings = {}
    for key, value in assigned.items():
        if not key.startswith('_') and not isinstance(value, ModuleType):
            settings[key] = value
    return settings


def convert(source, key, value, default):
    """Convert a setting's new value (see `read_arguments`) to the type of its default."""
    kind = type(default)
    if value is None and kind is bool:
        return True
    if value is None:
        fail(f'{source}: {key} needs a value, such as --{key}={default}')
    try:
        if isinstance(value, tuple):
            value, = value
            # by type, not isinstance: True is an int, but no number
            int_for_float = kind is float and type(value) is int
            if type(value) is not kind and not int_for_float:
                raise ValueError
            result = kind(value)
        elif kind is bool:
            result = {'true': True, '1': True, 'false': False, '0': False}[value.lower()]
        else:
            result = kind(value)
        if kind is float and not math.isfinite(result):
            raise OverflowError
    except (ValueError, KeyError):
        fail(f'{source}: {key} wants {KINDS[kind]}, not {value!r}')
    except OverflowError:
        fail(f'{source}: {key} wants a finite number')
    return result


def show_help(doc, settings, notes):
    """Print the script's docstring and its settings, each with its value and its comment."""
    print(doc.strip(), end='\n\nsettings, as --key=value or in a config file:\n')
    width = max(len(f'{key}={value!r}') for key, value in settings.items())
    for key, value in settings.items():
        note = notes.get(key, 'keyword of the head or the trunk, see model.py')
        print(f'  {f"{key}={value!r}":{width}}  {note}'.rstrip())


# Classes whose keywords are settings

def find_class(name, known):
    """The class of that name: one of `known`, {name: class}, or 'FILE.py:CLASS' from that file,
    which is executed. Raises ValueError if there is none."""
    if name in known:
        return known[name]
    file, _, class_name = name.rpartition(':')
    if not file.endswith('.py'):
        raise ValueError(f'there is no {name!r}; there are {", ".join(known)}, or FILE.py:CLASS')
    try:
        found = runpy.run_path(file).get(class_name)
    except Exception as error:  # a mistake in the user's file can raise anything
        raise ValueError(f'{file}: {type(error).__name__}: {error}') from None
    if isinstance(found, type):
        return found
    raise ValueError(f'{file} has no class {class_name!r}')


def keywords(cls):
    """The parameters of `__init__` that have a default: {name: default}."""
    parameters = signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
