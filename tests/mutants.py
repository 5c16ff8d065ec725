"""Mutation testing: put one small bug at a time into a copy of the code and see which test fails.

    python tests/mutants.py                      all mutants of mutants.json; -j 2: two at a time
    python tests/mutants.py train.py stats.py    the mutants of these files
    python tests/mutants.py 12 31                the mutants with these numbers
    python tests/mutants.py --check              only check that each mutant applies and compiles

Notable:
- Each mutant gets its own copy of the tracked files, in which TESTS are run until one fails.
- The test that failed is run again without the mutation: it must pass, or it proves nothing.
- The outcome is written into the table of README.md after each mutant. The outcomes of mutants that
  were not run stay, unless mutants.json has changed there.
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUTANTS = json.loads((ROOT / 'tests/mutants.json').read_text('utf-8'))
PAGE = ROOT / 'tests/README.md'
BEGIN = '<!-- begin of the table of tests/mutants.py -->\n'
END = '<!-- end of the table of tests/mutants.py -->\n'
TIME_LIMIT = 3600  # seconds, many times what the tests take; beyond it, a mutant counts as caught
TESTS = {  # the tests most likely to notice a bug in a file, the likeliest first
    'benchmark/__main__.py': 'benchmark',
    'benchmark/standings.py': 'benchmark',
    'evaluate.py': 'evaluate stats thresholds figures',
    'model.py': 'model train data',
    'prepare.py': 'prepare split rows files',
    'train.py': 'train data optim kill',
    'tools/baseline.py': 'baseline',
    'tools/errors.py': 'errors',
    'tools/export.py': 'export files serve',
    'tools/predict.py': 'predict labels',
    'tools/serve.py': 'serve hostile',
    'tools/thresholds.py': 'thresholds',
    'lm/data.py': 'language',
    'lm/model.py': 'language',
    'lm/pretrain.py': 'language',
    'lm/sampler.py': 'language',
    'nanoloss/__init__.py': 'waiting survival settings',
    'nanoloss/classifier.py': 'predict train export',
    'nanoloss/data.py': 'data train parallel',
    'nanoloss/derived.py': 'derived train',
    'nanoloss/devices.py': 'devices train optim',
    'nanoloss/errors.py': 'errors',
    'tools/pack.py': 'results evaluate',
    'nanoloss/verdict.py': 'evaluate',
    'nanoloss/html.py': 'errors',
    'nanoloss/ensemble.py': 'predict train export',
    'nanoloss/escape.py': 'escape evaluate export',
    'nanoloss/figures.py': 'figures evaluate',
    'nanoloss/files.py': 'files kill survival train',
    'nanoloss/labels.py': 'labels thresholds predict',
    'nanoloss/limits.py': 'serve hostile',
    'nanoloss/linear.py': 'linear train',
    'nanoloss/loop.py': 'train kill tensorboard parallel',
    'nanoloss/optim.py': 'optim train',
    'nanoloss/parallel.py': 'parallel train',
    'nanoloss/reader.py': 'export predict serve',
    'nanoloss/report.py': 'evaluate thresholds',
    'nanoloss/rows.py': 'rows prepare labels',
    'nanoloss/runs.py': 'evaluate model files',
    'nanoloss/settings.py': 'settings train',
    'nanoloss/sources.py': 'prepare rows tables',
    'nanoloss/split.py': 'split prepare',
    'nanoloss/stats.py': 'stats evaluate thresholds learning_curve',
    'nanoloss/tables.py': 'tables prepare',
    'nanoloss/text.py': 'text vocabulary export predict',
    'nanoloss/thresholds.py': 'thresholds evaluate',
    'nanoloss/tokenizer.py': 'tokenizer prepare',
    'nanoloss/tune.py': 'tune',
    'nanoloss/vocabulary.py': 'vocabulary train language',
    'nanoloss/windows.py': 'model',
}


def mutated(number):
    """The text of a mutant's file with the mutation. Raises ValueError or SyntaxError if it cannot
    be applied exactly once, or does not compile."""
    mutant = MUTANTS[number - 1]
    text = (ROOT / mutant['file']).read_text('utf-8')
    count = text.count(mutant['old'])
    if count != 1 or mutant['old'] == mutant['new']:
        raise ValueError(f'its old text occurs {count} times in {mutant["file"]}, or is its new')
    text = text.replace(mutant['old'], mutant['new'])
    compile(text, mutant['file'], 'exec')
    return text


def run_tests(folder, tests):
    """Run tests, a list of arguments of pytest, in a copy -> the id of the first one that failed,
    '' if all passed, 'the time limit' if they took too long."""
    command = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', *tests]
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, 'OMP_NUM_THREADS': '1'}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True)
    try:
        output, _ = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and what the tests have started
        process.communicate()
        return 'the time limit'
    if process.returncode == 0:
        return ''
    found = re.search(r'^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$', output, re.MULTILINE)
    if not found:
        raise RuntimeError(f'pytest ended with {process.returncode}: {output[-1000:]}')
    return found[1]


def copy_repository(folder):
    """Copy the tracked files, as they are in the working tree."""
    files = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, check=True)
    for name in files.stdout.decode().split('\0')[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def try_mutant(number):
    """Run the tests on one mutant -> its outcome, and the seconds that it took."""
    started = time.perf_counter()
    mutant = MUTANTS[number - 1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary, 'nanoloss')
        copy_repository(folder)
        (folder / mutant['file']).write_text(mutated(number), 'utf-8')
        files = [f'tests/test_{name}.py' for name in TESTS[mutant['file']].split()]
        test = run_tests(folder, files)
        outcome = f'caught by {test.removeprefix("tests/")}' if test else 'NOT CAUGHT'
        if '.py' in test:
            shutil.copy2(ROOT / mutant['file'], folder / mutant['file'])
            if run_tests(folder, [test]):
                outcome = f'UNKNOWN: {test} fails without the mutation, too'
    return outcome, time.perf_counter() - started


def change_of(mutant):
    """The words in which old and new differ, with a few around them, as Markdown."""
    words = [re.findall(r'\w+|\s+|[^\w\s]', mutant[key]) for key in ('old', 'new')]
    begin = max(0, len(os.path.commonprefix(words)) - 5)
    words = [of_text[begin:] for of_text in words]
    end = max(0, len(os.path.commonprefix([of_text[::-1] for of_text in words])) - 5)
    shown = []
    for of_text in words:
        text = ' '.join(''.join(of_text[:len(of_text) - end]).split())
        text = text if len(text) <= 70 else f'{text[:67]}...'
        quote = '``' if '`' in text else '`'
        shown.append(f'{quote}{text}{quote}' if text else 'nothing')
    return ' → '.join(shown)


def table_cell(text):
    return text.replace('|', '\\|')


def write_table(outcomes):
    """Put outcomes, {number: text}, into the table of the page."""
    before, _, rest = PAGE.read_text('utf-8').partition(BEGIN)
    table, _, after = rest.partition(END)
    known = dict(line[2:-2].rsplit(' | ', 1) for line in table.splitlines() if ' | ' in line)
    lines = ['| | file | mutation | effect | outcome |', '| --- | --- | --- | --- | --- |']
    for number, mutant in enumerate(MUTANTS, 1):
        cells = [str(number), mutant['file'], change_of(mutant), mutant['effect']]
        row = ' | '.join(map(table_cell, cells))
        outcome = known.get(row, 'not run')
        if number in outcomes:
            outcome = table_cell(outcomes[number])
        lines.append(f'| {row} | {outcome} |')
    PAGE.write_text(before + BEGIN + '\n'.join(lines) + '\n' + END + after, 'utf-8')


def read_arguments():
    """The command line -> the numbers of the mutants to run, and the settings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('which', nargs='*')
    parser.add_argument('-j', type=int, default=1)
    parser.add_argument('--check', action='store_true')
    arguments = parser.parse_args()
    chosen = set()
    for name in arguments.which:
        of_name = set()
        for number, mutant in enumerate(MUTANTS, 1):
            if name in (str(number), mutant['file'], Path(mutant['file']).name):
                of_name.add(number)
        if not of_name:
            parser.error(f'there is no mutant {name}')
        chosen |= of_name
    return sorted(chosen) or list(range(1, len(MUTANTS) + 1)), arguments


def main():
    numbers, arguments = read_arguments()
    wrong = []
    for number in numbers:
        try:
            mutated(number)
        except (ValueError, SyntaxError) as error:
            wrong.append(f'mutant {number}: {error}')
    if wrong:
        sys.exit('\n'.join(wrong))
    if arguments.check:
        print(f'{len(numbers)} mutants apply and compile')
        return

    outcomes = {}
    with ThreadPoolExecutor(arguments.j) as executor:
        futures = {executor.submit(try_mutant, number): number for number in numbers}
        for future in as_completed(futures):
            number = futures[future]
            outcomes[number], seconds = future.result()
            print(f'{number:3}  {MUTANTS[number - 1]["file"]:24}  {outcomes[number]}  '
                  f'{seconds:.0f} s', flush=True)
            write_table(outcomes)
    n_caught = sum(outcome.startswith('caught') for outcome in outcomes.values())
    print(f'caught {n_caught} of {len(outcomes)}')


if __name__ == '__main__':
    main()
