"""What a user can choose from to classify texts: accuracy on test and seconds of one core.

    python -m results.bench.choices                          -> results/bench/choices
    python -m results.bench.choices --datasets=sst2 --only='fastText|nanoloss'

Each choice is one command from its start to its end, in a process with one thread: read, fit with
every constant that is tried, choose on val, predict val and test. Measurements are appended to
measurements.jsonl, and those that are there are not repeated.

pip install fasttext-community transformers; without them, their rows are skipped.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np
import torch

from nanoloss.devices import hardware_name
from nanoloss.files import read_json_lines, write_file, write_json_lines
from nanoloss.settings import configure, fail

# -----------------------------------------------------------------------------
datasets = 'sst2,banking77,ag_news_8k,imdb'  # data sets made by prepare.py
data_dir = 'data'  # the folder of data sets
out_dir = 'results/bench/choices'  # the table, the figure and the measurements go here
only = ''  # a regular expression: choices to measure ('': all)
# -----------------------------------------------------------------------------
ROOT = Path(__file__).parents[2]
CHOICES = {  # a name, and its command
    'TF-IDF + LR': ['-m', 'tools.baseline', '--kinds=tfidf_lr'],
    'NB-SVM': ['-m', 'tools.baseline', '--kinds=nbsvm'],
    'words and characters + SVM': ['-m', 'tools.baseline', '--kinds=tfidf_chars_svm'],
    'fastText': ['-m', 'tools.baseline', '--kinds=fasttext'],
    'BERT from scratch (transformers)': ['-m', 'results.bench.bert'],
    'nanoloss': ['train.py', '--threads=1'],
}
PACKAGES = {'fastText': 'fasttext', 'BERT from scratch (transformers)': 'transformers'}


# Measuring

def measure(config, name, dataset):
    """Run a choice -> its accuracies, and the seconds of one core and of the clock."""
    command = CHOICES[name]
    with tempfile.TemporaryDirectory() as folder:
        command = [*command, f'--dataset={dataset}', f'--data_dir={config.data_dir}',
                   f'--out_dir={folder}']
        environment = os.environ | {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1',
                                    'RAYON_NUM_THREADS': '1'}
        before = os.times()
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment,
                              stdout=subprocess.DEVNULL)
        after = os.times()
        if done.returncode:
            fail(f'{name} on {dataset} failed')
        result, = Path(folder).rglob('result.json')
        last = json.loads(result.read_text())['last']
    seconds = (after.children_user + after.children_system - before.children_user
               - before.children_system)
    return {'dataset': dataset, 'choice': name, 'val': last['val']['accuracy'],
            'test': last['test']['accuracy'], 'core_seconds': seconds,
            'seconds': after.elapsed - before.elapsed, 'when': time.strftime('%Y-%m-%d')}


# The report

def write_table(rows, names, out):
    """Write and print table.md: a row per choice, two columns per data set."""
    lines = [f'{hardware_name("cpu")}, one core, torch {torch.__version__}', '',
             '| accuracy on test, %; core seconds | ' + ' | '.join(f'{name} | s' for name in names)
             + ' |', '| --- |' + ' --- | --- |' * len(names)]
    for choice in CHOICES:
        cells = []
        for name in names:
            row = rows.get((name, choice))
            cells += [f'{100 * row["test"]:.2f}', f'{row["core_seconds"]:.0f}'] if row else ['', '']
        lines.append(f'| {choice} | ' + ' | '.join(cells) + ' |')
    text = '\n'.join(lines) + '\n'
    print(text, end='')
    write_file(out / 'table.md', lambda file: file.write(text.encode()))


def draw(rows, names, path):
    """Draw accuracy over core seconds, a panel per data set."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter
    figure = Figure(figsize=(3.2 * len(names), 3.4), layout='constrained')
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names):
        for i, choice in enumerate(CHOICES):
            row = rows.get((name, choice))
            if row:
                axis.plot(row['core_seconds'], 100 * row['test'], 'o', color=f'C{i}', label=choice)
        axis.set(xscale='log', xlabel='seconds of one core', title=name)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter('{x:g}')
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel('accuracy on test, %')
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=len(labels))
    write_file(path, lambda file: figure.savefig(file, dpi=110))


def main(config):
    names = config.datasets.split(',')
    out = Path(config.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    path = out / 'measurements.jsonl'
    rows = {(row['dataset'], row['choice']): row for row in read_json_lines(path)}
    for name in names:
        for choice in CHOICES:
            if not find_spec(PACKAGES.get(choice, 'torch')):
                continue
            if re.search(config.only, choice) and (name, choice) not in rows:
                rows[name, choice] = measure(config, choice, name)
                print(json.dumps(rows[name, choice]), flush=True)
                write_json_lines(path, list(rows.values()))
    write_table(rows, names, out)
    draw(rows, names, out / 'choices.png')


if __name__ == '__main__':
    main(configure(globals()))
