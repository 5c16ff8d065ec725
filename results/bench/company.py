"""Measure the same work alone and beside another process -> table.md and every measurement.

    python -m results.bench.company                      10 minutes on 2 cores
    python -m results.bench.company --only=service       rows that match a regular expression

The work is a small training, predict on a file of texts, or a service: seconds of work in small
pieces. Each process has as many threads as there are cores, so two of them compete for the cores;
what that costs depends on how idle threads wait (nanoloss/__init__.py).
"""
import csv
import http.client
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)

from nanoloss.data import load_data, save_data
from nanoloss.devices import hardware_name
from nanoloss.files import write_file
from nanoloss.settings import check_bounds, configure, fail, updated
from nanoloss.speed import HUGE_PAGES, Log, column, introduction, summary
from nanoloss.tokenizer import decode, tokenizer

# -----------------------------------------------------------------------------
dataset = 'imdb'  # a data set made by prepare.py
data_dir = 'data'  # the folder of data sets
out_dir = 'out/bench/company'  # the table and the measurements go here
only = ''  # a regular expression: rows to measure ('': all)
repeats = 3  # measurements per row
threads = 0  # CPU threads of each process (0: one per core)
# -----------------------------------------------------------------------------
ROOT = Path(__file__).parents[2]
USUAL_SPINS = 300_000  # libgomp's default
N_TRAIN = 3000  # texts
BLOCK_SIZE = 32  # tokens used of each
N_REQUESTS = 300  # of one text each, one after the other, to a service that is alone


@dataclass
class Row:
    """What is measured alone and in company."""
    name: str
    work: str  # train, predict, or serve: a training and a service beside each other
    spins: int = 0  # turns that an idle OpenMP thread spins (0: as nanoloss sets it)


ROWS = [
    Row('company: two trainings', 'train'),
    Row('company: two trainings with the usual spinning of idle threads', 'train', USUAL_SPINS),
    Row('company: two times predict', 'predict'),
    Row('company: a training and a service', 'serve'),
]


# Processes

def start_process(config, *command, spins=0, stdout=subprocess.DEVNULL):
    """Start Python with these arguments -> the process."""
    environment = {**os.environ, **HUGE_PAGES, 'OMP_NUM_THREADS': str(config.threads)}
    if spins:
        environment['GOMP_SPINCOUNT'] = str(spins)
    return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, text=True,
                            stdout=stdout)


def start_training(config, folder, out='', spins=0):
    """Start config/sample_ce.py on the beginnings of the texts of folder/small."""
    out = out or tempfile.mkdtemp(dir=folder)
    return start_process(config, 'train.py', 'config/sample_ce.py', '--device=cpu',
                         '--dataset=small', f'--data_dir={folder}', f'--out_dir={out}',
                         f'--block_size={BLOCK_SIZE}', spins=spins)


def finish(*processes):
    """Wait for processes. Fails if one of them has failed."""
    for process in processes:
        if process.wait():
            fail(f'{" ".join(map(str, process.args[1:]))} failed')


def seconds_of(start, n):
    """The seconds until n processes, started by start(), have all finished."""
    began = time.perf_counter()
    finish(*[start() for _ in range(n)])
    return time.perf_counter() - began


# Measuring

def request_one_by_one(port, texts, until):
    """Send one text after the other until until(number of requests) -> seconds per request."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    n_requests = 0
    began = time.perf_counter()
    while not until(n_requests):
        body = json.dumps({'texts': [texts[n_requests % len(texts)][:5000]]})
        connection.request('POST', '/predict', body, {'Content-Type': 'application/json'})
        reply = connection.getresponse()
        reply.read()
        if reply.status != 200:
            fail(f'the service answers with {reply.status}')
        n_requests += 1
    return (time.perf_counter() - began) / n_requests


def measure_service(config, folder, run, texts):
    """Measure a training and a service, alone and beside each other: seconds, and milliseconds per
    request."""
    server = start_process(config, '-m', 'tools.serve', run, '--port=0', stdout=subprocess.PIPE)
    try:
        port = int(server.stdout.readline().rsplit(':', 1)[1])
        request_one_by_one(port, texts, lambda n: n >= 20)  # the first ones allocate memory
        alone = request_one_by_one(port, texts, lambda n: n >= N_REQUESTS)
        train_alone = seconds_of(lambda: start_training(config, folder), 1)  # the service is idle
        began = time.perf_counter()
        training = start_training(config, folder)
        beside = request_one_by_one(port, texts, lambda n: training.poll() is not None)
        train_beside = time.perf_counter() - began
        finish(training)
    finally:
        server.terminate()
        server.wait()
    return {'alone': train_alone, 'company': train_beside,
            'request_alone': 1000 * alone, 'request_company': 1000 * beside}


def measure(config, row, folder):
    """The seconds of a row's work, alone and in company."""
    if row.work == 'train':
        def start():
            return start_training(config, folder, spins=row.spins)
    else:
        run = folder / 'served/seed0'
        if not run.exists():
            finish(start_training(config, folder, folder / 'served'))
        data, meta = load_data(folder / 'small')
        encoding = tokenizer(meta['tokenizer']['name'])
        split = data['train']
        texts = [decode(split.tokens[begin:end], encoding) for begin, end in split.spans]
        if row.work == 'serve':
            return measure_service(config, folder, run, texts)
        file = folder / 'texts.csv'
        with open(file, 'w', encoding='utf-8', newline='') as table:
            csv.writer(table).writerows([['text'], *[[text] for text in texts * 4]])

        def start():
            return start_process(config, '-m', 'tools.predict', run, f'--file={file}')
    return {'alone': seconds_of(start, 1), 'company': seconds_of(start, 2)}


# The report

def company_table(measured):
    """Lines of Markdown, one per row and, for a service, one for its requests."""
    lines = ['', '| | alone | in company | ratio |', '| --- | --- | --- | --- |']
    for row in ROWS:
        if row.name not in measured:
            continue
        values = measured[row.name]
        prefixes = {'s': ''}  # {what is measured: prefix of its keys}
        if row.work == 'serve':
            prefixes = {'the training, s': '', 'a request, ms': 'request_'}
        for what, prefix in prefixes.items():
            alone = column(values, f'{prefix}alone')
            company = column(values, f'{prefix}company')
            ratio = statistics.median(company) / statistics.median(alone)
            lines.append(f'| {row.name}, {what} | {summary(alone, 1)} | {summary(company, 1)} '
                         f'| {ratio:.1f} |')
    return lines


def main(config):
    check_bounds(config, [(['repeats'], 1, math.inf), (['threads'], 0, math.inf)])
    config = updated(config, threads=config.threads or os.cpu_count() or 1)
    rows = [row for row in ROWS if re.search(config.only, row.name)]
    if not find_spec('fastapi'):
        print('without fastapi, no service is measured; pip install -r requirements-extra.txt')
        rows = [row for row in rows if row.work != 'serve']
    if not rows:
        fail(f'--only={config.only} matches no row that can be measured')
    data, meta = load_data(Path(config.data_dir) / config.dataset)
    out = Path(config.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / 'measurements.jsonl')
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        save_data(folder / 'small', {'train': data['train'].take(slice(N_TRAIN)),
                                     'val': data['val'].take(slice(300)),
                                     'test': data['test'].take(slice(8))}, meta)
        for _ in range(config.repeats):
            for row in rows:
                log.add(row.name, measure(config, row, folder))
    measured = log.measured()
    lines = [introduction(hardware_name('cpu'), config.threads, measured)]
    text = '\n'.join(lines + company_table(measured)) + '\n'
    print(text, end='')
    write_file(out / 'table.md', lambda file: file.write(text.encode()))


if __name__ == '__main__':
    main(configure(globals()))
