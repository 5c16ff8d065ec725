"""nanoloss/settings.py: how settings are read, which value wins, the message of each mistake. About
5 s."""
import contextlib
import io
import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from nanoloss.settings import check_bounds, configure, updated

ROOT = Path(__file__).parents[1]
RULE = '# ' + '-' * 77
SCRIPT = f'''"""A demo.

    python demo.py
"""
import math
before = 'no setting'
{RULE}
# what comes first
n_layer = 2  # how many blocks
learning_rate = 1e-3  # see # 3 of the paper
min_lr = -1.5
max_bytes = 2 ** 20  # of a file
compile = False  # one word

out_dir = 'out/#1'  # where it goes
head = 'bce'
verbose = True
{RULE}
_private = 3
CONSTANT = 4
sizes = [1, 2]
nothing = None
product = n_layer * 3
def helper():
    inside = 1
'''
DEFAULTS = {
    'n_layer': 2,
    'learning_rate': 1e-3,
    'min_lr': -1.5,
    'max_bytes': 1_048_576,
    'compile': False,
    'out_dir': 'out/#1',
    'head': 'bce',
    'verbose': True,
}


def gamma(settings):
    """As the `more` of train.py: the keywords of the head that the settings name."""
    return {'gamma': 2.0, 'steps': 3} if settings['head'] == 'focal' else {}


def settings_of(namespace, *args, **kwargs):
    """The settings that `configure` returns, as a dict. It must leave the namespace as it was."""
    before = dict(namespace)
    config = configure(namespace, *args, **kwargs)
    assert namespace == before
    return vars(config)


@pytest.fixture
def namespace(tmp_path, monkeypatch):
    (tmp_path / 'demo.py').write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['some/where/demo.py', '--n_layer=9'])
    return runpy.run_path('demo.py')


def write(name, text):
    Path(name).write_text(text)
    return name


def error(capsys, namespace, *argv, **kwargs):
    """The one line on stderr; the namespace must be as it was."""
    before = dict(namespace)
    with pytest.raises(SystemExit) as stop:
        configure(namespace, argv=list(argv), **kwargs)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ''
    assert err.startswith('demo.py: ')
    assert err.count('\n') == 1 and err.endswith('\n')
    assert namespace == before
    return err


# What is a setting

def test_settings_are_what_stands_between_the_rules(namespace):
    assert settings_of(namespace, argv=[]) == DEFAULTS
    assert list(settings_of(namespace, argv=[])) == list(DEFAULTS)  # in the script's order


def test_the_settings_are_one_object(namespace):
    """Each call makes a new one, and the namespace keeps the defaults."""
    before = dict(namespace)
    first = configure(namespace, argv=['--n_layer=3'])
    second = configure(namespace, argv=['--learning_rate=1'])
    assert (first.n_layer, first.learning_rate) == (3, 1e-3)
    assert (second.n_layer, second.learning_rate) == (2, 1.0)
    first.n_layer = 4
    assert second.n_layer == 2
    assert namespace == before
    assert not hasattr(second, 'product')


def test_an_updated_config_is_a_copy(namespace):
    config = configure(namespace, argv=[])
    other = updated(config, n_layer=5, device='cpu')
    assert vars(other) == DEFAULTS | {'n_layer': 5, 'device': 'cpu'}
    assert vars(updated(config)) == vars(config) == DEFAULTS
    assert updated(config) is not config


def script_with(line):
    """The demo with another line between its rules, after n_layer -> its path, its number."""
    lines = SCRIPT.splitlines()
    number = lines.index('n_layer = 2  # how many blocks') + 1
    lines[number:number] = line.splitlines()
    return write('changed.py', '\n'.join(lines)), number + 1


@pytest.mark.parametrize('line, value', [
    ('more = 2 ** 20', 1_048_576), ('more = n_layer * 0.5', 1.0), ('more = -1', -1),
    ('more = not True', False), ("more = 'a' + 'b'", 'ab'),
    ('more = math.tau / 2', 3.141592653589793), ("more = ('a'\n        'b')", 'ab'),
    ("more = ','.join(sorted(('b', 'a')))", 'a,b')])
def test_an_expression_with_a_plain_value_is_a_setting(namespace, line, value):
    path, _ = script_with(line)
    settings = settings_of(runpy.run_path(path), argv=[])
    assert settings == DEFAULTS | {'more': value}
    assert type(settings['more']) is type(value)
    assert settings_of(runpy.run_path(path), argv=['--more=1'])['more'] == type(value)(1)


@pytest.mark.parametrize('line', [
    'sizes = [1, 2]', 'nothing = None', 'pair = 1, 2', 'table = {}', 'name = b"bytes"', 'z = 1j',
    'path = math', 'UPPER = 3', 'Upper = 3', '_private = 3', 'one, two = 1, 2', 'one = two = 1',
    'typed: int = 1', 'only_typed: int', 'n_layer += 1', 'def helper(): pass',
    'class thing: pass', 'import os', 'from os import sep', 'id(1)', 'if n_layer: inside = 1',
    'for i in (): pass', 'math.two = 2', 'globals()["three"] = 3', '"a string alone"',
    'del before', 'pass', 'assert True', 'one = 1; TWO = 2'])
def test_anything_else_between_the_rules_is_an_error(capsys, namespace, line):
    path, number = script_with(line)
    message = error(capsys, runpy.run_path(path))
    assert f'changed.py: line {number} is no setting' in message
    assert 'between the dashed rules' in message


def test_the_line_of_the_error_is_that_of_the_first_mistake(capsys, namespace):
    path, number = script_with('long = [1,\n        2]\nNext = 1')
    assert f'changed.py: line {number} is no setting' in error(capsys, runpy.run_path(path))


@pytest.mark.parametrize('text, n_rules', [
    (SCRIPT.replace(RULE, ''), 0),
    (SCRIPT.replace(RULE, '', 1), 1),
    (SCRIPT + RULE + '\n', 3),
    (SCRIPT.replace(RULE, '# --- settings ---'), 0),
    (SCRIPT.replace(RULE, '    ' + RULE), 0),
], ids=['none', 'one', 'three', 'short', 'indented'])
def test_a_script_without_two_rules_is_an_error(capsys, namespace, text, n_rules):
    message = error(capsys, runpy.run_path(write('changed.py', text)))
    assert 'changed.py: its settings must stand between two dashed rules' in message
    assert f'it has {n_rules}' in message


def test_nothing_between_the_rules_is_no_setting_at_all(namespace):
    path = write('bare.py', f'"""Bare."""\n{RULE}\n{RULE}\nafter = 1\n')
    assert settings_of(runpy.run_path(path), argv=[]) == {}


FILES = [*ROOT.glob('*.py'), *ROOT.glob('tools/*.py'), *ROOT.glob('lm/*.py')]
SCRIPTS = [path.relative_to(ROOT) for path in sorted(FILES)
           if 'configure(globals()' in path.read_text(encoding='utf-8')]


def test_all_scripts_are_checked():
    names = {path.name for path in SCRIPTS}
    assert names >= {'prepare.py', 'train.py', 'evaluate.py', 'predict.py', 'serve.py', 'export.py',
                     'bench.py', 'baseline.py', 'pretrain.py', 'sample.py'}


@pytest.mark.parametrize('path', SCRIPTS, ids=str)
def test_every_script_has_its_settings_between_two_rules(path):
    lines = (ROOT / path).read_text(encoding='utf-8').splitlines()
    rules = [i for i, line in enumerate(lines) if re.fullmatch('# -{20,}', line)]
    assert len(rules) == 2
    first, last = rules
    between = [line for line in lines[first + 1:last] if line and not line.startswith((' ', '#'))]
    assert between
    assert all(re.match('[a-z][a-z_0-9]* = ', line) for line in between)


# What wins

def test_without_argv_it_reads_the_command_line(namespace):
    assert configure(namespace).n_layer == 9
    assert namespace['n_layer'] == 2


def test_later_wins(namespace):
    one = write('one.py', 'n_layer = 3\nout_dir = "a"\nmin_lr = 0.5')
    two = write('two.py', 'n_layer = 4')
    cases = [
        ([one], 3), ([one, two], 4), ([two, one], 3), ([one, '--n_layer=5'], 5),
        (['--n_layer=5', one], 3), (['--n_layer=5', one, '--n_layer=6', '--n_layer=7'], 7)]
    for argv, n_layer in cases:
        settings = settings_of(namespace, argv=argv)
        assert settings['n_layer'] == n_layer, argv
        assert settings.items() >= {'head': 'bce', 'verbose': True}.items()
    settings = settings_of(namespace, argv=[one, two, '--min_lr=7'])
    assert settings == DEFAULTS | {'n_layer': 4, 'out_dir': 'a', 'min_lr': 7.0}


@pytest.mark.parametrize('argument, value', [
    ('--n_layer=12', 12), ('--n_layer=-3', -3), ('--max_bytes=1000', 1000),
    ('--learning_rate=1', 1.0), ('--learning_rate=6e-4', 6e-4), ('--min_lr=-2', -2.0),
    ('--compile', True), ('--compile=True', True), ('--compile=true', True), ('--compile=1', True),
    ('--verbose=False', False), ('--verbose=false', False), ('--verbose=0', False),
    ('--verbose', True), ('--out_dir=', ''), ('--out_dir=a=b --c', 'a=b --c'),
    ('--out_dir=7', '7'),
    ('--out_dir=x.py', 'x.py'),
    ('--out_dir=__import__("os").getcwd()', '__import__("os").getcwd()')])
def test_text_takes_the_type_of_the_default(namespace, argument, value):
    result = settings_of(namespace, argv=[argument])[argument[2:].partition('=')[0]]
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize('argument, wanted', [
    ('--n_layer=2.0', 'an integer'), ('--n_layer=1e3', 'an integer'), ('--n_layer=', 'an integer'),
    ('--n_layer=1+1', 'an integer'), ('--n_layer=True', 'an integer'),
    ('--max_bytes=2**20', 'an integer'),
    ('--n_layer', '--n_layer=2'), ('--out_dir', '--out_dir=out/#1'),
    ('--learning_rate=fast', 'a number'), ('--learning_rate=1e-3x', 'a number'),
    ('--learning_rate=nan', 'finite'), ('--learning_rate=inf', 'finite'),
    ('--learning_rate=1e999', 'finite'), ('--compile=yes', 'True or False'),
    ('--compile=2', 'True or False'), ('--compile=', 'True or False')])
def test_a_wrong_type_says_which_it_wants(capsys, namespace, argument, wanted):
    message = error(capsys, namespace, argument)
    assert wanted in message
    assert argument.partition('=')[0] in message


# Config files

@pytest.mark.parametrize('line, value', [
    ('learning_rate = 1', 1.0), ('n_layer = 6 * 2', 12), ('compile = True', True),
    ('out_dir = "a" + "b"', 'ab'),
    ('import math, os.path as path\nlearning_rate = math.pi', 3.141592653589793),
    ('from math import e as _e\n_two = 2\nlearning_rate = _two * _e', 5.43656365691809)])
def test_a_config_file_is_python(namespace, line, value):
    settings = settings_of(namespace, argv=[write('c.py', line)])
    (key, result), = (settings.items() - DEFAULTS.items())
    assert f'{key} = ' in line
    assert result == value and type(result) is type(DEFAULTS[key])


@pytest.mark.parametrize('line, words', [
    ('n_layer = 2.0', ['n_layer', 'an integer', '2.0']), ('n_layer = True', ['an integer', 'True']),
    ('n_layer = "2"', ['an integer', "'2'"]), ('compile = 1', ['True or False']),
    ('compile = None', ['None']), ('out_dir = 3', ['a string']), ('out_dir = ("a",)', ["('a',)"]),
    ('min_lr = False', ['a number']), ('min_lr = float("inf")', ['finite']),
    ('min_lr = -10 ** 400', ['finite']),
    ('n_layer = = 3', ['SyntaxError', 'line 1']), ('n_layer = n_heads', ['NameError', 'n_heads']),
    ('raise RuntimeError("two\\nlines")', ['RuntimeError', 'two lines']),
    ('import no_such_module', ['no_such_module']),
    ('n_leyer = 3', ['n_leyer', 'did you mean n_layer']),
    ('product = 7', ["'product'"]), ('CONSTANT = 5', ["'CONSTANT'"]), ('sizes = [3]', ["'sizes'"]),
    ('nothing = None', ["'nothing'"]), ('before = "x"', ["'before'"]),
    ('inside = 2', ["'inside'"]), ('def helper(): pass', ["'helper'"]),
    ('from math import pi', ["'pi'"]), ('def print(*args): pass', ["'print'"])])
def test_a_mistake_in_a_config_file(capsys, namespace, line, words):
    message = error(capsys, namespace, write('bad.py', line))
    assert all(word in message for word in ['bad.py', *words]), message


def test_files_that_are_no_config_file(capsys, namespace):
    assert 'config/nope.py: no such config file' in error(capsys, namespace, 'config/nope.py')
    Path('config').mkdir()
    for name in ('ce.py', 'bce.py', '__init__.py'):
        write(f'config/{name}', '')
    message = error(capsys, namespace, 'config/nope.py')
    assert message.endswith('there are config/bce.py, config/ce.py\n')
    Path('folder.py').mkdir()
    assert 'folder.py: no such config file' in error(capsys, namespace, 'folder.py')
    assert 'no such config file' in error(capsys, namespace, 'x' * 5000 + '.py')
    Path('latin.py').write_bytes(b'out_dir = "caf\xe9"')
    assert 'latin.py: SyntaxError' in error(capsys, namespace, 'latin.py')


def test_the_paths_of_the_config_files_are_collected(namespace):
    one = write('one.py', 'n_layer = 3')
    two = write('two.py', 'n_layer = 4')
    cases = [([], []), ([one], [one]), ([two, '--n_layer=5', one, two], [two, one, two])]
    for argv, paths in cases:
        found = []
        configure(namespace, argv=argv, config_files=found)
        assert found == paths
    found = []
    rest = []
    configure(namespace, argv=['a.txt', one, 'nope.py'], positional=rest, config_files=found)
    assert (found, rest) == ([one], ['a.txt', 'nope.py'])


# Arguments that are neither

@pytest.mark.parametrize('argument, near', [
    ('--n_layers=3', 'did you mean n_layer'), ('--n-layer=3', 'did you mean n_layer'),
    ('--lerning_rate=3', 'did you mean learning_rate'), ('--outdir=3', 'out_dir'),
    ('--compil', 'compile'), ('--zzzzzz=3', '--help lists all settings'), ('--=3', '--help'),
    ('--', '--help'), ('--_private=1', '_private'), ('--__file__=x', '__file__'),
    ('--CONSTANT=1', 'CONSTANT'), ('--N_LAYER=3', 'N_LAYER'), ('--sizes=1', 'sizes'),
    ('--product=1', 'product'), ('--before=1', 'before'), ('--nothing=1', 'nothing')])
def test_an_unknown_setting_names_the_nearest(capsys, namespace, argument, near):
    message = error(capsys, namespace, argument)
    assert f'{argument}: there is no setting' in message
    assert near in message


def test_positional_arguments(capsys, namespace):
    assert "'movie.txt' is neither" in error(capsys, namespace, 'movie.txt')
    assert "'-n' is neither" in error(capsys, namespace, '-n')
    rest = []
    settings = settings_of(namespace, positional=rest, argv=[
        'out/bce', '--n_layer=3', write('c.py', 'min_lr = 1'), 'out/ce', ''])
    assert rest == ['out/bce', 'out/ce', '']
    assert settings == DEFAULTS | {'n_layer': 3, 'min_lr': 1.0}


def test_a_head_brings_settings_of_its_own(capsys, namespace):
    # gamma before `head` is known, and an int for a float
    focal = write('focal.py', 'gamma = 1\nhead = "focal"')
    assert settings_of(namespace, gamma, argv=[]) == DEFAULTS
    settings = settings_of(namespace, gamma, argv=[focal, '--steps=5'])
    assert settings == DEFAULTS | {'head': 'focal', 'gamma': 1.0, 'steps': 5}
    assert type(settings['gamma']) is float
    settings = settings_of(namespace, gamma, argv=['--gamma=4', focal, '--gamma=7'])
    assert settings['gamma'] == 7.0
    assert settings_of(namespace, gamma, argv=['--head=focal'])['gamma'] == 2.0

    unknown = "there is no setting 'gamma'"
    assert unknown in error(capsys, namespace, '--gamma=4', more=gamma)
    assert unknown in error(capsys, namespace, focal, '--head=bce', more=gamma)
    message = error(capsys, namespace, '--head=focal', '--gama=4', more=gamma)
    assert 'did you mean gamma' in message
    message = error(capsys, namespace, '--head=focal', '--steps=4.5', more=gamma)
    assert 'an integer' in message


def test_no_such_head(capsys, namespace):
    def more(settings):
        raise ValueError('there is no\n"focal"')
    assert error(capsys, namespace, more=more) == 'demo.py: there is no "focal"\n'


def test_a_keyword_of_a_head_is_no_other_setting(capsys, namespace):
    """Otherwise its default would silently replace the script's value."""
    for argv in [], ['--n_layer=3']:
        message = error(capsys, namespace, *argv, more=lambda settings: {'n_layer': 5})
        assert "the keyword 'n_layer' of the head or the trunk is a setting of this" in message


@pytest.mark.parametrize('default', [None, (1, 2), [], print])
def test_a_keyword_of_a_head_has_the_default_of_a_setting(capsys, namespace, default):
    for argv in [], ['--weight=1']:
        message = error(capsys, namespace, *argv, more=lambda settings: {'weight': default})
        assert f'the keyword weight={default!r} of the head or the trunk cannot be a' in message
        assert 'a bool, an int, a float or a string' in message


# Bounds

@pytest.mark.parametrize('n_layer, below, says', [
    (1, 3, ''), (2, 3, ''), (0, 3, 'n_layer must be at least 1 and below 3, not 0'),
    (3, 3, 'n_layer must be at least 1 and below 3, not 3'),
    (-1, math.inf, 'n_layer must be at least 1, not -1'), (10 ** 9, math.inf, '')])
def test_bounds(capsys, namespace, n_layer, below, says):
    config = configure(namespace, argv=[f'--n_layer={n_layer}'])
    bounds = [(['max_bytes', 'n_layer'], 1, math.inf), (['n_layer'], 1, below)]
    if not says:
        check_bounds(config, bounds)
        return
    with pytest.raises(SystemExit) as stop:
        check_bounds(config, bounds[1:])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f'demo.py: {says}\n'


# Help, and the command line itself

@pytest.mark.parametrize('argv', [['--help'], ['-h']])
def test_help_lists_every_setting(capsys, namespace, argv):
    with pytest.raises(SystemExit) as stop:
        configure(namespace, argv=argv)
    out, err = capsys.readouterr()
    assert stop.value.code == 0
    assert err == ''
    text, _, listed = out.partition('settings')
    assert text.startswith('A demo.\n\n    python demo.py\n')
    lines = [line.split(maxsplit=1) for line in listed.splitlines()[1:]]
    assert [line[0] for line in lines] == [f'{key}={value!r}' for key, value in DEFAULTS.items()]
    comments = dict(line for line in lines if len(line) == 2)
    assert comments == {
        'n_layer=2': 'how many blocks',
        'learning_rate=0.001': 'see # 3 of the paper',
        'max_bytes=1048576': 'of a file',
        'compile=False': 'one word',
        "out_dir='out/#1'": 'where it goes',
    }
    assert '  n_layer=2            how many blocks\n' in out

    with pytest.raises(SystemExit):
        configure(namespace, lambda settings: {'gamma': 2.0}, argv=['--help'])
    note = 'keyword of the head or the trunk, see model.py'
    assert capsys.readouterr().out == out + f'  gamma=2.0            {note}\n'
    # with the other arguments, which name the head that has the keywords
    with pytest.raises(SystemExit):
        configure(namespace, argv=['--help', '--n_layer=3'])
    assert '  n_layer=3            how many blocks\n' in capsys.readouterr().out
    assert namespace['n_layer'] == 2


def test_the_comment_of_a_value_over_two_lines_stands_at_its_end(capsys, namespace):
    path, _ = script_with("more = ('a'  # not this one\n        'b')  # but this one")
    with pytest.raises(SystemExit):
        configure(runpy.run_path(path), argv=['--help'])
    assert re.search(r"more='ab' +but this one\n", capsys.readouterr().out)


def test_on_the_command_line(tmp_path):
    """One line, exit status 2, no traceback; an error of the script's own keeps its traceback."""
    script = tmp_path / 'demo.py'
    script.write_text(SCRIPT + 'from nanoloss.settings import configure\n'
                      'config = configure(globals())\nprint(config.n_layer, 1 / config.n_layer)')
    (tmp_path / 'bad.py').write_text('n_layer = 1 / 0')

    def run(*argv):
        done = subprocess.run([sys.executable, script, *argv], capture_output=True, text=True,
                              cwd=tmp_path, env=os.environ | {'PYTHONPATH': str(ROOT)})
        return done.returncode, done.stdout, done.stderr

    assert run('--n_layer=4') == (0, '4 0.25\n', '')
    message = 'demo.py: bad.py: ZeroDivisionError: division by zero\n'
    assert run('--n_layer=4', 'bad.py') == (2, '', message)
    code, _, err = run('--n_layer=0')
    assert code == 1
    assert 'Traceback' in err


def test_any_arguments_end_in_settings_or_a_clear_exit(tmp_path):
    """200 command lines, or FUZZ of the environment, made from parts of settings and from any
    text."""
    hypothesis = pytest.importorskip('hypothesis')
    st = hypothesis.strategies
    (tmp_path / 'demo.py').write_text(SCRIPT)
    namespace = runpy.run_path(str(tmp_path / 'demo.py'))
    part = st.text(max_size=3) | st.sampled_from([
        *DEFAULTS, 'gamma', 'steps', '--', '=', '1', '-1', '1e5', 'True', 'focal', '.py', '\0',
        '--help'])
    argument = st.builds('{}{}{}{}'.format, st.sampled_from(['', '--']), part,
                         st.sampled_from(['', '=']), part)

    @hypothesis.settings(max_examples=int(os.environ.get('FUZZ', 200)), deadline=None,
                         derandomize=True, database=None)
    @hypothesis.given(st.lists(argument, max_size=4))
    def check(argv):
        before = dict(namespace)
        out = io.StringIO()
        err = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                settings = vars(configure(namespace, gamma, argv=argv, positional=[]))
            except SystemExit as stop:
                assert (stop.code, err.getvalue().count('\n')) in [(0, 0), (2, 1)]
                return
            finally:
                assert namespace == before
        types = {key: type(value) for key, value in (DEFAULTS | gamma(settings)).items()}
        assert {key: type(value) for key, value in settings.items()} == types

    check()


def test_a_ctrl_c_is_one_line(tmp_path):
    """Also in scripts that do not handle it; other exceptions keep their traceback."""
    script = tmp_path / 'script.py'
    for raised, lines in (('KeyboardInterrupt', 1), ('ValueError', 4)):
        script.write_text(f"""from nanoloss.settings import configure
# -----------------------------------------------------------------------------
size = 1  # a setting
# -----------------------------------------------------------------------------
configure(globals())
raise {raised}
""")
        done = subprocess.run([sys.executable, script], capture_output=True, text=True,
                              env=os.environ | {'PYTHONPATH': str(ROOT)})
        assert len(done.stderr.strip().splitlines()) >= lines
        assert ('Traceback' in done.stderr) is (raised == 'ValueError')
        assert done.returncode in (130, -2) or raised == 'ValueError'
