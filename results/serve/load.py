"""Services under load on this machine, one after the other -> a table for results/serve/

    python runs/load.py out/ce/seed0 model load.md     a run, and what export.py has made of it

It needs data/imdb, wrk and, for its row, fastText (pip install fasttext-numpy2). All are served by
serve.py, and asked for the first 10,000 reviews of IMDB's test: the run by PyTorch, the folder
without, and two bags of words that are trained on IMDB's train first, fastText and TF-IDF with
logistic regression.

Of the first two, each review by one of 64 clients, every answer held against predict.py's; of all,
wrk with 1, 16 and 64 clients, 10 seconds each.
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

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from nanoloss.settings import configure, fail  # noqa: E402
from nanoloss.data import load_data  # noqa: E402
from nanoloss.devices import hardware_name  # noqa: E402
from nanoloss.files import write_file  # noqa: E402
from nanoloss.labels import Labels  # noqa: E402
from nanoloss.reader import Answers  # noqa: E402
from nanoloss.tokenizer import decode, tokenizer  # noqa: E402

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
    """The texts of a split of IMDB, and its labels."""
    data, meta = load_data(ROOT / 'data/imdb')
    encoding = tokenizer(meta['tokenizer']['name'])
    texts = []
    for begin, end in data[split].spans:
        texts.append(decode(data[split].tokens[begin:end], encoding))
    return texts, np.array(data[split].labels)


# Bags of words, as classifiers that serve.py can serve

class Bag(Answers):
    """What the bags have in common; they are trained when they are made."""
    classes = ['neg', 'pos']
    multi_label = False

    def __init__(self):
        self.id = type(self).__name__
        self.labels = Labels(self.classes, self.multi_label)
        self.train(*load_reviews('train'))


class Tfidf(Bag):
    """Words and pairs of words, logistic regression: baseline.py's tfidf_lr."""

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
    """serve.py with a bag in the place of a run."""
    import serve
    serve.load_classifier = lambda folder, config: BAGS[name]()
    config = configure(vars(serve), argv=["--port=0"])
    serve.main([name], config)


# Measuring

class Server(NamedTuple):
    """A service that has been started."""
    process: subprocess.Popen
    port: int
    seconds: float  # until it answered

    def memory_mb(self):
        """The most memory that the process has had."""
        lines = Path(f'/proc/{self.process.pid}/status').read_text().splitlines()
        row, = [line for line in lines if line.startswith('VmHWM')]
        return int(row.split()[1]) // 1024


@contextmanager
def serving(*argv):
    """A service, as long as the context lasts."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *argv], stdout=subprocess.PIPE, text=True)
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
    """A server's answer to a review."""
    status: int
    label: str
    probability: float  # of the first class


def request_all(port, reviews, first_class):
    """A request a review, of N_CLIENTS at once -> their replies."""
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
    """A sentence on how the replies differ from predict.py's probabilities [reviews, classes]."""
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
            f"errors, {n_other} labels other than predict.py's, probabilities at most "
            f'{max(distances):.5f} apart.')


def measure_with_wrk(name, port, reviews):
    """Lines of Markdown: a row for 1, 16 and 64 clients each."""
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
        fail('python runs/load.py out/ce/seed0 model load.md, with wrk installed')
    run, folder, table = sys.argv[1:]
    from predict import Classifier
    classifier = Classifier(run, thresholds=True)
    reviews = load_reviews('test')[0][:N_REVIEWS]
    start = time.perf_counter()
    expected = classifier.probs(reviews)
    speed = len(reviews) / (time.perf_counter() - start)

    serve = str(ROOT / 'serve.py')
    services = {
        'PyTorch': [serve, run, '--port=0'],
        'exported': [serve, folder, '--port=0'],
        'exported, 2 workers': [serve, folder, '--port=0', '--workers=2'],
        'TF-IDF, scikit-learn': [__file__, 'serve', 'TF-IDF, scikit-learn'],
    }
    if find_spec('fasttext'):
        services['fastText'] = [__file__, 'serve', 'fastText']
    facts = []
    rows = []
    for name, argv in services.items():
        with serving(*argv) as server:
            if name in ('PyTorch', 'exported'):
                start = time.perf_counter()
                replies = request_all(server.port, reviews, classifier.classes[0])
                told = compare(replies, classifier, expected, time.perf_counter() - start)
                facts.append(f'- **{name}**: an answer {server.seconds:.1f} s after its start, '
                             f'{server.memory_mb()} MB at most. {told}')
            rows += measure_with_wrk(name, server.port, reviews)
        print('\n'.join(rows[-3:]), flush=True)

    text = '\n'.join([
        f"{run} ({classifier.id}), reviews of IMDB's test; server and clients on the same "
        f'{os.cpu_count()} cores, {hardware_name("cpu")}.',
        '',
        f'predict.py: {speed:,.0f} reviews a second, from text to probabilities, in batches.',
        '',
        *facts,
        '',
        '| service | clients (wrk, 10 s) | requests/s | p50, ms | p95, ms | p99, ms | errors |',
        '| --- | --- | --- | --- | --- | --- | --- |',
        *rows,
    ]) + '\n'
    target = ROOT / 'results/serve'
    target.mkdir(parents=True, exist_ok=True)
    write_file(target / table, lambda file: file.write(text.encode()))
    print(text, end='')


if __name__ == '__main__':
    if sys.argv[1:2] == ['serve']:
        serve_bag(sys.argv[2])
    else:
        main()
