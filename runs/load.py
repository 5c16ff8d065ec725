"""serve.py under load on this machine -> results/serve/load.md

    python runs/load.py out/ce/seed0                    needs wrk and data/imdb

First 10,000 requests of 64 clients, one review each, every answer held against predict.py's; then
wrk with 1, 16 and 64 clients, 10 seconds each. The reviews are those of IMDB's val.
"""
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from nanoloss.configure import fail  # noqa: E402
from nanoloss.data import load_data  # noqa: E402
from nanoloss.files import write_file  # noqa: E402
from predict import Classifier  # noqa: E402

N_REQUESTS = 10_000
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


def load_reviews(encoding):
    """The texts of IMDB's val, and their mean number of tokens."""
    data, _ = load_data(ROOT / 'data/imdb')
    val = data['val']
    texts = [encoding.decode(val.tokens[begin:end].tolist()) for begin, end in val.spans]
    return texts, val.lengths().mean()


def time_first_answer(run):
    """Seconds from predict.py's start to its end, for one text."""
    start = time.perf_counter()
    command = [sys.executable, ROOT / 'predict.py', run, 'a text']
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


@contextmanager
def serving(run):
    """serve.py with this run, as long as the context lasts; the port it listens at."""
    command = [sys.executable, ROOT / 'serve.py', run, '--port=0']
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield int(server.stdout.readline().rsplit(':', 1)[1])
    finally:
        server.terminate()
        server.wait()


class Reply(NamedTuple):
    """A server's answer to a review."""
    status: int
    label: str
    probability: float  # of the first class


def request_all(port, reviews, first_class):
    """N_REQUESTS of N_CLIENTS at once, of one review each, in turn -> their replies."""
    client = threading.local()  # each thread keeps its connection

    def request(i):
        if not hasattr(client, 'connection'):
            client.connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
        body = json.dumps({'texts': [reviews[i % len(reviews)]]})
        client.connection.request('POST', '/predict', body, JSON)
        reply = client.connection.getresponse()
        answer = json.loads(reply.read())
        if reply.status != 200:
            return Reply(reply.status, '', 0.0)
        return Reply(200, answer['labels'][0], answer['probabilities'][0][first_class])

    with ThreadPoolExecutor(N_CLIENTS) as pool:
        return list(pool.map(request, range(N_REQUESTS)))


def compare(replies, classifier, expected, seconds):
    """A sentence on how the replies differ from predict.py's probabilities [reviews, classes]."""
    n_errors = 0
    wrong = []  # predict.py's probability of its label, where the server's label is another
    distances = []
    for i, reply in enumerate(replies):
        p = expected[i % len(expected)]
        if reply.status != 200:
            n_errors += 1
            distances.append(1.0)
        else:
            distances.append(abs(reply.probability - p[0]))
        if reply.label != classifier.label(p):
            wrong.append(p.max())
    where = f' (where its probability is at most {max(wrong):.3f})' if wrong else ''
    return (f'{N_REQUESTS:,} requests of {N_CLIENTS} clients in {seconds:.0f} s: {n_errors} '
            f"errors, {len(wrong)} labels other than predict.py's{where}, probabilities at most "
            f'{max(distances):.3f} apart (bfloat16 rounds a review differently in another batch).')


def measure_with_wrk(port, reviews):
    """Lines of Markdown: a row for 1, 16 and 64 clients each."""
    lines = [
        '| clients (wrk, 10 s) | requests/s | p50, ms | p95, ms | p99, ms | errors |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    bodies = [json.dumps({'texts': [review]}) for review in reviews]
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
            lines.append(f'| {clients} | {rate:,.0f} | {p50:,.1f} | {p95:,.1f} | {p99:,.1f} '
                         f'| {errors:.0f} |')
    return lines


def main():
    if len(sys.argv) != 2 or not shutil.which('wrk'):
        fail('python runs/load.py out/ce/seed0, with wrk installed')
    run = sys.argv[1]
    classifier = Classifier(run, thresholds=True)
    reviews, mean_length = load_reviews(classifier.encoding)
    first_answer = time_first_answer(run)
    start = time.perf_counter()
    expected = classifier.probs(reviews)
    speed = len(reviews) / (time.perf_counter() - start)
    with serving(run) as port:
        start = time.perf_counter()
        replies = request_all(port, reviews, classifier.classes[0])
        seconds = time.perf_counter() - start
        table = measure_with_wrk(port, reviews)

    text = '\n'.join([
        f"{run}, reviews of IMDB's val, of {mean_length:.0f} tokens on average; server "
        'and clients on the same 2 cores.',
        '',
        f'predict.py: {first_answer:.1f} s from its start to a first answer; {speed:,.0f} reviews '
        'a second, from text to probabilities, in batches.',
        '',
        compare(replies, classifier, expected, seconds),
        '',
        *table,
    ]) + '\n'
    folder = ROOT / 'results/serve'
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / 'load.md', lambda file: file.write(text.encode()))
    print(text, end='')


if __name__ == '__main__':
    main()
