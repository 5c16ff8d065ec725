"""A service under 64 clients, a third of whose requests are broken: its answers and its memory.

    python runs/soak.py model [100000]      the number of requests; model: a folder to serve

The clients send short made-up texts, of which the answers are known, and in between: JSON that is
none, bodies too large, with and without a length, bodies that stop half-way, wrong paths and
methods; or they leave before the answer. Exits with 1 if there was a wrong label or a status that
is neither 200, 4xx nor 503.
"""
import collections
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tools import serve  # noqa: E402
from nanoloss.settings import configure, fail  # noqa: E402

N_CLIENTS = 64
JSON = {'Content-Type': 'application/json'}
WORDS = 'a the film was plot good bad great dull fine actor never always love hate more'.split()
SECS = 1  # max_secs of tools.serve, so that a slow body does not take ten seconds


def make_texts(n):
    rng = random.Random(0)
    return [' '.join(rng.choices(WORDS, k=rng.randint(1, 60))) for _ in range(n)]


class Client:
    """One of the clients: sends, and counts what comes back."""

    def __init__(self, port, expected, seed):
        self.port = port
        self.expected = expected  # {text: its label}
        self.texts = list(expected)
        self.rng = random.Random(seed)
        self.counts = collections.Counter()
        self.connection = None

    def send(self, body, method='POST', path='/predict', **kwargs):
        """-> the status and the answer."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
        try:
            self.connection.request(method, path, body, JSON, **kwargs)
            reply = self.connection.getresponse()
            content = reply.read()
            return reply.status, content
        except (OSError, http.client.HTTPException):  # it refused while the body was being sent
            self.connection = None
            return 'closed', b''

    def good(self):
        text = self.rng.choice(self.texts)
        status, content = self.send(json.dumps({'text': text}))
        if status == 200 and json.loads(content)['label'] != self.expected[text]:
            return 'wrong label'
        return status

    def no_json(self):
        return self.send(self.rng.randbytes(self.rng.randint(0, 200)))[0]

    def other_json(self):
        value = self.rng.choice([{}, [], {'text': 1}, {'texts': []}, {'texts': [None]}, None,
                                 {'text': 'a', 'texts': ['a']}, {'text': 'a' * 60_000}])
        return self.send(json.dumps(value))[0]

    def huge(self):
        return self.send(b' ' * (2 ** 20 + 1))[0]

    def huge_without_length(self):
        pieces = (b' ' * 2 ** 18 for _ in range(6))
        return self.send(pieces, encode_chunked=True)[0]

    def wrong_place(self):
        method = self.rng.choice(['GET', 'PUT', 'DELETE'])
        return self.send(b'{}', method, self.rng.choice(['/predict', '/x', '/../etc/passwd']))[0]

    def unfinished(self, wait):
        """Announce more than is sent; then wait for what the service says, or leave."""
        with socket.create_connection(('127.0.0.1', self.port), timeout=60) as connection:
            connection.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\n'
                               b'Content-Length: 100\r\nContent-Type: application/json\r\n\r\n'
                               b'{"text": "a')
            if not wait:
                return 'left'
            answer = connection.recv(100)
        return int(answer.split()[1]) if answer else 'closed'

    def leave(self):
        """Ask for what takes long, and do not wait for it."""
        with socket.create_connection(('127.0.0.1', self.port), timeout=60) as connection:
            body = json.dumps({'texts': self.texts[:100]}).encode()
            connection.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\n'
                               b'Content-Length: %d\r\nContent-Type: application/json\r\n\r\n%s'
                               % (len(body), body))
        return 'left'

    def request(self):
        x = self.rng.random()
        if x < 2 / 3:
            kind, status = 'good', self.good()
        else:
            kinds = {
                'no JSON': self.no_json, 'other JSON': self.other_json, 'too large': self.huge,
                'too large, no length': self.huge_without_length, 'wrong place': self.wrong_place,
                'half a body': lambda: self.unfinished(wait=self.rng.random() < 0.1),
                'left': self.leave,
            }
            kind = self.rng.choice(list(kinds))
            status = kinds[kind]()
        self.counts[kind, status] += 1


def resident_mb(pid):
    lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    row, = [line for line in lines if line.startswith('VmRSS')]
    return int(row.split()[1]) / 1024


def main():
    if len(sys.argv) not in (2, 3):
        fail('python runs/soak.py model [REQUESTS]')
    folder = sys.argv[1]
    n_requests = int(sys.argv[2]) if len(sys.argv) == 3 else 100_000
    texts = make_texts(500)
    config = configure(vars(serve), argv=["--threads=1"])
    classifier = serve.load_classifier(folder, config)
    expected = {text: classifier.label(p) for text, p in zip(texts, classifier.probs(texts))}
    command = [sys.executable, '-m', 'tools.serve', os.path.abspath(folder), '--port=0',
               f'--max_secs={SECS}']
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    port = int(process.stdout.readline().rsplit(':', 1)[1])

    started = iter(range(n_requests))
    lock = threading.Lock()

    clients = [Client(port, expected, seed) for seed in range(N_CLIENTS)]

    def work(client):
        while True:
            with lock:
                i = next(started, None)
            if i is None:
                return
            if i % max(1, n_requests // 10) == 0:
                print(f'{i:,} requests: {resident_mb(process.pid):.0f} MB', flush=True)
            client.request()

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f'{n_requests:,} requests: {resident_mb(process.pid):.0f} MB')
    process.terminate()
    _, error = process.communicate(timeout=60)

    counts = sum((client.counts for client in clients), collections.Counter())
    failures = 'Traceback' in error
    for (kind, status), n in sorted(counts.items(), key=str):
        print(f'{kind}: {status} {n:,}')
        known = status in (200, 503, 'left', 'closed') or str(status).startswith('4')
        failures += not known or (kind == 'good' and status not in (200, 503))
    print('errors of the server:', error or 'none')
    sys.exit(failures > 0)


if __name__ == '__main__':
    main()
