"""Seconds and memory from ten thousand to a million short texts -> table.md, million.png.

    python -m results.bench.million ARCHIVE      aclImdb_v1.tar.gz; 10 minutes of a core

Each review of IMDB is cut into texts of 11 words with the label of the review. prepare.py,
train.py (one epoch, one thread) and tools.predict (the same texts, one thread) run on some of them.
Measurements are appended to million/measurements.jsonl, and those that are there are not repeated.
"""
import csv
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nanoloss.devices import hardware_name
from nanoloss.figures import STYLE
from nanoloss.files import read_json_lines, write_file, write_json_lines
from nanoloss.settings import fail
from nanoloss.sources import imdb_archive

ROOT = Path(__file__).parents[2]
OUT = Path('results/bench/million')
SIZES = 10_000, 30_000, 100_000, 300_000, 1_000_000  # texts
N_WORDS = 11  # of a text
COMMANDS = {
    'prepare.py': 'prepare.py --source={file} --name=short --data_dir={folder}',
    'train.py': 'train.py --dataset=short --data_dir={folder} --out_dir={folder}/out --epochs=1 '
                '--threads=1',
    'tools.predict': '-m tools.predict {folder}/out --file={file} --threads=1',
}
# runs a command from a small process, because a command inherits the peak memory of its parent
LAUNCHER = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(done.returncode)
"""


def write_texts(archive, path):
    """Write the reviews as rows of short texts, text and label, in random order."""
    rows = []
    for row in imdb_archive(SimpleNamespace(source=archive)).rows:
        words = row.text.split()
        for start in range(0, len(words), N_WORDS):
            rows.append((' '.join(words[start:start + N_WORDS]), row.label))
    order = np.random.default_rng(0).permutation(len(rows))[:max(SIZES)]
    with open(path, 'w', newline='') as file:
        csv.writer(file).writerows([('text', 'label'), *(rows[i] for i in order)])


def measure(command):
    """Run Python -> seconds of the clock and of the cores, and the peak memory in GB."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, '-c', LAUNCHER, sys.executable, *command.split()],
                          cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        fail(f'{command} failed: {done.stderr}')
    core_seconds, kilobytes = map(float, done.stdout.split())
    return {'seconds': time.perf_counter() - began, 'core_seconds': core_seconds,
            'gb': kilobytes / 2 ** 20}


def draw(rows, path):
    """Draw core seconds and memory over the number of texts."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.2), layout='constrained')
        axes = figure.subplots(1, 2)
        for axis, key, label in zip(axes, ('core_seconds', 'gb'), ('core seconds', 'memory, GB')):
            for name in COMMANDS:
                found = [row for row in rows if row['command'] == name]
                axis.plot([row['n'] for row in found], [row[key] for row in found], 'o-',
                          label=name)
            axis.set(xscale='log', xlabel='texts', ylabel=label)
            axis.xaxis.set_major_formatter('{x:,.0f}')
        axes[0].set_yscale('log')
        axes[0].yaxis.set_major_formatter('{x:g}')
        axes[1].set_ylim(0, 2)
        axes[0].legend()
        write_file(path, lambda file: figure.savefig(file, dpi=120))


def write_table(rows, path):
    """Write and print table.md."""
    lines = [f'{hardware_name("cpu")}, one thread', '',
             '| texts | ' + ' | '.join(f'{name}: core seconds | GB' for name in COMMANDS) + ' |',
             '| --- |' + ' --- | --- |' * len(COMMANDS)]
    for n in SIZES:
        cells = [f'{n:,}']
        for row in rows:
            if row['n'] == n:
                cells += [f'{row["core_seconds"]:.1f}', f'{row["gb"]:.2f}']
        lines.append('| ' + ' | '.join(cells) + ' |')
    text = '\n'.join(lines) + '\n'
    print(text, end='')
    write_file(path, lambda file: file.write(text.encode()))


def main(archive):
    file = OUT / 'measurements.jsonl'
    OUT.mkdir(exist_ok=True)
    rows = read_json_lines(file)
    missing = [n for n in SIZES if not any(row['n'] == n for row in rows)]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if missing:
            write_texts(archive, folder / 'all.csv')
        for n in missing:
            source = folder / 'texts.csv'
            with open(folder / 'all.csv') as texts, open(source, 'w') as some:
                some.writelines(islice(texts, n + 1))
            shutil.rmtree(folder / 'short', ignore_errors=True)
            shutil.rmtree(folder / 'out', ignore_errors=True)
            found = []
            for name, command in COMMANDS.items():
                measured = measure(command.format(file=source, folder=folder))
                found.append({'n': n, 'command': name} | measured)
            rows += found
            write_json_lines(file, rows)
    write_table(rows, OUT / 'table.md')
    draw(rows, OUT / 'million.png')


if __name__ == '__main__':
    main(sys.argv[1])
