"""Services under load on this machine, one after the other -> a table.

    python -m results.serve.load out/ce/seed0 model load.md     a run, and its exported folder

It needs data/imdb, wrk and, for the row of fastText, fasttext-numpy2. tools/serve.py serves the run
(with PyTorch), the folder (without), and two bags of words trained on IMDB, TF-IDF with logistic
regression and fastText. The requests are the first 10,000 reviews of IMDB's test:
- for the first two, 64 clients send each review once, and every answer is compared with that of
  `TextClassifier`;
- for all, wrk measures the speed with 1, 16 and 64 clients, 10 seconds each.
"""
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np

from nanoloss.classifier import TextClassifier
from nanoloss.data import load_data
from nanoloss.devices import hardware_name
from nanoloss.files import write_file
from nanoloss.labels import BaseClassifier
from nanoloss.settings import configure, fail
from nanoloss.tokenizer import decode, tokenizer
from tools import serve

ROOT = Path(__file__).parents[2]
N_REVIEWS = 10_000
N_CLIENTS = 64
JSON = {'Content-Type': 'application/json'}
LUA = '''
local bodies, i = {}, 0
for line in io.lines(os.getenv('BODIES')) do bodies[#bodies + 1] = line end
request = function()
    i = i % #bodies + 1
    return wrk.format('POST', '/predict', {['Content-Type'] = 'application/json'}, bodies[i])
end
done = function(summary, latency)
    local e = summary.errors
    print(string.format('%f %f %f %f %d',
        summary.requests / summary.duration * 1e6,
        latency:percentile(50) / 1000,
        latency:percentile(95) / 1000,
        latency:percentile(99) / 1000,
        e.connect + e.read + e.write + e.status + e.timeout))
end
'''


def load_reviews(split):
    """The texts and labels of a split of IMDB."""
    data, meta = load_data(ROOT / 'data/imdb')
    encoding = tokenizer(meta['tokenizer']['name'])
    texts = []
    for begin, end in data[split].spans:
        texts.append(decode(data[split].tokens[begin:end], encoding))
    return texts, np.array(data[split].labels)


# Bags of words, as classifiers that tools/serve.py can serve

class Bag(BaseClassifier):
    """The base of the bags; `__init__` trains them."""

    def __init__(self):
        super().__init__(SimpleNamespace(id=type(self).__name__, classes=['neg', 'pos'],
                                         multi_label=False, thresholds=None, encoding=None))
        self.train(*load_reviews('train'))


class Tfidf(Bag):
    """Words and pairs of words, logistic regression: tfidf_lr of tools/baseline.py."""

    def train(self, texts, labels):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        self.model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
            LogisticRegression(C=30.0, max_iter=1000))
        self.model.fit(texts, labels)

    def probs(self, texts):
        return self.model.predict_proba(texts) if texts else np.zeros((0, 2))


class FastText(Bag):
    """Joulin and others 2016: pairs of words, 10 dimensions, 5 epochs."""

    def train(self, texts, labels):
        import fasttext
        with tempfile.NamedTemporaryFile('w', suffix='.txt') as file:
            for text, label in zip(texts, labels):
                file.write(f'__label__{label} {" ".join(text.lower().split())}\n')
            file.flush()
            self.model = fasttext.train_supervised(
                file.name, dim=10, epoch=5, lr=0.5, wordNgrams=2, verbose=0)

    def probs(self, texts):
        rows = []
        for text in texts:
            labels, p = self.model.predict(' '.join(text.lower().split()), k=2)
            row = dict(zip(labels, p))
            rows.append([row.get('__label__0', 0.0), row.get('__label__1', 0.0)])
        return np.array(rows).reshape(-1, 2)


BAGS = {'TF-IDF, scikit-learn': Tfidf, 'fastText': FastText}


def serve_bag(name):
    """Run tools/serve.py with a bag instead of a run."""
    serve.load_classifier = lambda folder, config: BAGS[name]()
    config = configure(vars(serve), argv=['--port=0'])
    serve.main([name], config)


# Measuring

class Server(NamedTuple):
    """A running service."""
    process: subprocess.Popen
    port: int
    seconds: float  # from its start to its first answer

    def memory_mb(self):
        """The peak memory of the process."""
        lines = Path(f'/proc/{self.process.pid}/status').read_text().splitlines()
        row, = [line for line in lines if line.startswith('VmHWM')]
        return int(row.split()[1]) // 1024


@contextmanager
def serving(*argv):
    """Start a service with these arguments of Python -> `Server`. It stops with the context."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, '-m', *argv], cwd=ROOT, stdout=subprocess.PIPE,
                               text=True)
    try:
        port = int(process.stdout.readline().rsplit(':', 1)[1])
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
        connection.request('GET', '/health')
        connection.getresponse().read()
        yield Server(process, port, time.perf_counter() - start)
    finally:
        process.terminate()
        process.wait()


class Reply(NamedTuple):
    """The service's answer to a review."""
    status: int
    label: str
    probability: float  # of the first class


def request_all(port, reviews, first_class):
    """Send each review once, from N_CLIENTS concurrent clients -> the replies."""
    client = threading.local()  # each thread keeps its connection

    def request(review):
        if not hasattr(client, 'connection'):
            client.connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
        body = json.dumps({'text': review})
        client.connection.request('POST', '/predict', body, JSON)
        reply = client.connection.getresponse()
        answer = json.loads(reply.read())
        if reply.status != 200:
            return Reply(reply.status, '', 0.0)
        return Reply(200, answer['label'], answer['probabilities'][first_class])

    with ThreadPoolExecutor(N_CLIENTS) as pool:
        return list(pool.map(request, reviews))


def compare(replies, classifier, expected, seconds):
    """A sentence on how the replies differ from the expected probabilities [reviews, classes]."""
    n_errors = 0
    n_other = 0
    distances = []
    for reply, p in zip(replies, expected):
        if reply.status != 200:
            n_errors += 1
            continue
        distances.append(abs(reply.probability - p[0]))
        n_other += reply.label != classifier.label(p)
    return (f'{len(replies):,} requests of {N_CLIENTS} clients in {seconds:.0f} s: {n_errors} '
            f'errors, {n_other} other labels than from `TextClassifier`, probabilities that differ '
            f'by at most {max(distances):.5f}.')


def measure_with_wrk(name, port, reviews):
    """Lines of Markdown, one row for each number of clients."""
    lines = []
    bodies = [json.dumps({'text': review}) for review in reviews]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / 'load.lua').write_text(LUA)
        (Path(folder) / 'bodies').write_text('\n'.join(bodies))
        environment = {'BODIES': f'{folder}/bodies', 'PATH': '/usr/bin'}
        for clients in (1, 16, 64):
            command = ['wrk', '-t1', f'-c{clients}', '-d10s', '--timeout=10s',
                       f'-s{folder}/load.lua', f'http://127.0.0.1:{port}']
            done = subprocess.run(command, capture_output=True, text=True, check=True,
                                  env=environment)
            rate, p50, p95, p99, errors = map(float, done.stdout.splitlines()[-1].split())
            lines.append(f'| {name} | {clients} | {rate:,.0f} | {p50:,.1f} | {p95:,.1f} '
                         f'| {p99:,.1f} | {errors:.0f} |')
    return lines


def main():
    if len(sys.argv) != 4 or not shutil.which('wrk'):
        fail('usage: python -m results.serve.load out/ce/seed0 model load.md, with wrk installed')
    run, folder, table = sys.argv[1:]
    classifier = TextClassifier(run, thresholds=True)
    reviews = load_reviews('test')[0][:N_REVIEWS]
    start = time.perf_counter()
    expected = classifier.probs(reviews)
    speed = len(reviews) / (time.perf_counter() - start)

    folder = os.path.abspath(folder)
    services = {
        'PyTorch': ['tools.serve', os.path.abspath(run), '--port=0'],
        'exported': ['tools.serve', folder, '--port=0'],
        'exported, 2 workers': ['tools.serve', folder, '--port=0', '--workers=2'],
        'TF-IDF, scikit-learn': ['results.serve.load', 'serve', 'TF-IDF, scikit-learn'],
    }
    if find_spec('fasttext'):
        services['fastText'] = ['results.serve.load', 'serve', 'fastText']
    facts = []
    rows = []
    for name, argv in services.items():
        with serving(*argv) as server:
            if name in ('PyTorch', 'exported'):
                start = time.perf_counter()
                replies = request_all(server.port, reviews, classifier.classes[0])
                fact = compare(replies, classifier, expected, time.perf_counter() - start)
                facts.append(f'- **{name}**: first answer {server.seconds:.1f} s after its start, '
                             f'peak memory {server.memory_mb()} MB. {fact}')
            rows += measure_with_wrk(name, server.port, reviews)
        print('\n'.join(rows[-3:]), flush=True)

    text = '\n'.join([
        f'{run} ({classifier.id}), reviews of the test split of IMDB; service and clients on the '
        f'same {os.cpu_count()} cores, {hardware_name("cpu")}.',
        '',
        f'`TextClassifier`: {speed:,.0f} reviews per second, from text to probabilities, in '
        'batches.',
        '',
        *facts,
        '',
        '| service | clients (wrk, 10 s) | requests/s | p50, ms | p95, ms | p99, ms | errors |',
        '| --- | --- | --- | --- | --- | --- | --- |',
        *rows,
    ]) + '\n'
    write_file(ROOT / 'results/serve' / table, lambda file: file.write(text.encode()))
    print(text, end='')


if __name__ == '__main__':
    if sys.argv[1:2] == ['serve']:
        serve_bag(sys.argv[2])
    else:
        main()
