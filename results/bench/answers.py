"""How fast the default model answers, beside that of an earlier commit -> table.md.

    python -m results.bench.answers --against=86c14b0     15 minutes on 2 cores

The code of each commit trains the default model on IMDB for one epoch (the speed of an answer does
not depend on how long it was trained) and exports it. Then they take turns: tools.predict
classifies reviews of test from a file, and clients send the same reviews to tools.serve, one review
per request. Every measurement is in measurements.jsonl.
"""
import csv
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)

from nanoloss.data import load_data
from nanoloss.devices import hardware_name
from nanoloss.files import write_file
from nanoloss.settings import configure, fail
from nanoloss.speed import HUGE_PAGES, Log, column
from nanoloss.tokenizer import decode, tokenizer

# -----------------------------------------------------------------------------
against = 'HEAD~1'  # a commit
repeats = 5  # measurements per row
data_dir = 'data'  # the folder of data sets; it must have imdb
out_dir = 'results/bench/answers'  # the table and the measurements go here
n_texts = 10_000  # for tools.predict
n_clients = 8  # of the service
seconds = 8.0  # how long they send requests
# -----------------------------------------------------------------------------
ROOT = Path(__file__).parents[2]
MODELS = {'a run': 'out/seed0', 'an exported folder': 'model'}
ENVIRONMENT = os.environ | HUGE_PAGES


def command(code, *argv, **options):
    """Run Python in a folder with the code."""
    done = subprocess.run([sys.executable, *argv], cwd=code, env=ENVIRONMENT,
                          stdout=subprocess.DEVNULL, **options)
    if done.returncode:
        fail(f'{" ".join(map(str, argv))} failed in {code}')


def checkout(commit, folder):
    """Check out a commit in a folder that does not exist."""
    done = subprocess.run(['git', 'worktree', 'add', '-q', '--detach', folder, commit], cwd=ROOT,
                          capture_output=True, text=True)
    if done.returncode:
        fail(f'--against={commit}: {done.stderr.strip()}')


def make_models(config, code, folder):
    """Train a run in folder/out and export it to folder/model."""
    data_dir = Path(config.data_dir).resolve()
    command(code, 'train.py', '--dataset=imdb', f'--data_dir={data_dir}', '--epochs=1',
            f'--out_dir={folder}/out')
    command(code, '-m', 'tools.export', f'{folder}/out/seed0', f'--to={folder}/model',
            f'--data_dir={data_dir}')


def measure_predict(config, code, model, file):
    """Texts per second of tools.predict, from the start of the command to its end."""
    began = time.perf_counter()
    command(code, '-m', 'tools.predict', model, f'--file={file}')
    return config.n_texts / (time.perf_counter() - began)


def measure_service(config, code, model, texts):
    """Requests per second of a service that is kept busy."""
    server = subprocess.Popen([sys.executable, '-m', 'tools.serve', model, '--port=0'], cwd=code,
                              env=ENVIRONMENT, text=True, stdout=subprocess.PIPE)

    def send(first, until):
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
        n = 0
        while time.perf_counter() < until:
            text = texts[(first + n * config.n_clients) % len(texts)]
            connection.request('POST', '/predict', json.dumps({'texts': [text]}),
                               {'Content-Type': 'application/json'})
            reply = connection.getresponse()
            reply.read()
            if reply.status != 200:
                fail(f'the service answers with {reply.status}')
            n += 1
        return n

    try:
        port = int(server.stdout.readline().rsplit(':', 1)[1])
        send(0, time.perf_counter() + 1)  # the first requests allocate memory
        began = time.perf_counter()
        with ThreadPoolExecutor(config.n_clients) as pool:
            sent = pool.map(lambda first: send(first, began + config.seconds),
                            range(config.n_clients))
            return sum(sent) / (time.perf_counter() - began)
    finally:
        server.terminate()
        server.wait()


def write_table(config, measured, out):
    """Write and print table.md. measured: see `Log.measured`."""
    lines = [f'{hardware_name("cpu")}; median of {config.repeats} (lowest to highest)', '',
             f'| per second | now | at {config.against} | ratio |', '| --- | --- | --- | --- |']
    for work in ('texts of tools.predict', 'requests of tools.serve'):
        for model in MODELS:
            both = [column(measured[name], 'per_second')
                    for name in (f'{work}, {model}', f'{work}, {model}, at {config.against}')]
            cells = [f'{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})'
                     for values in both]
            ratio = statistics.median(both[0]) / statistics.median(both[1])
            lines.append(f'| {work}, {model} | {cells[0]} | {cells[1]} | {ratio:.1f} |')
    text = '\n'.join(lines) + '\n'
    print(text, end='')
    write_file(out / 'table.md', lambda file: file.write(text.encode()))


def main(config):
    data, meta = load_data(Path(config.data_dir) / 'imdb')
    encoding = tokenizer(meta['tokenizer']['name'])
    test = data['test']
    texts = [decode(test.tokens[a:b], encoding) for a, b in test.spans[:config.n_texts]]
    out = Path(config.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / 'measurements.jsonl')
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        with open(folder / 'texts.csv', 'w', newline='') as file:
            csv.writer(file).writerows([['text'], *([text] for text in texts)])
        codes = {'': ROOT, f', at {config.against}': folder / 'code'}
        checkout(config.against, folder / 'code')
        for code in codes.values():
            make_models(config, code, folder / f'models of {code.name}')
        for _ in range(config.repeats):
            for (model, place), (commit, code) in product(MODELS.items(), codes.items()):
                path = folder / f'models of {code.name}' / place
                log.add(f'texts of tools.predict, {model}{commit}',
                        {'per_second': measure_predict(config, code, path, folder / 'texts.csv')})
                log.add(f'requests of tools.serve, {model}{commit}',
                        {'per_second': measure_service(config, code, path, texts)})
    subprocess.run(['git', 'worktree', 'prune'], cwd=ROOT, check=True)
    write_table(config, log.measured(), out)


if __name__ == '__main__':
    main(configure(globals()))
