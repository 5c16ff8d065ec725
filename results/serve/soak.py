"""A service under load by 64 clients, with a third of broken requests: its answers and its memory.

    python -m results.serve.soak MODEL [REQUESTS]     MODEL: a folder to serve; 100,000 requests

The clients send short random texts whose labels are known. Between these they send invalid JSON,
bodies that are too large, with and without a length, bodies that stop half-way, and wrong paths and
methods, or they leave before the answer. The exit status is 1 if a label is wrong or if a status is
not 200, 4xx or 503.
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

from nanoloss.classifier import TextClassifier
from nanoloss.settings import fail

ROOT = Path(__file__).parents[2]
N_CLIENTS = 64
JSON = {'Content-Type': 'application/json'}
WORDS = 'a the film was plot good bad great dull fine actor never always love hate more'.split()
MAX_SECS = 1  # of the service, so that it waits for a slow body for one second, not for ten


def make_texts(n):
    rng = random.Random(0)
    return [' '.join(rng.choices(WORDS, k=rng.randint(1, 60))) for _ in range(n)]


class Client:
    """Sends requests, and counts the replies by their kind and status."""

    def __init__(self, port, expected, seed):
        self.port = port
        self.expected = expected  # {text: its label}
        self.texts = list(expected)
        self.rng = random.Random(seed)
        self.counts = collections.Counter()
        self.connection = None

    def send(self, body, method='POST', path='/predict', **kwargs):
        """Send a request -> the status and the content of the reply."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
        try:
            self.connection.request(method, path, body, JSON, **kwargs)
            reply = self.connection.getresponse()
            content = reply.read()
            return reply.status, content
        except (OSError, http.client.HTTPException):  # refused before the body was complete
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
        """Announce a longer body than is sent, then wait for the reply, or leave."""
        with socket.create_connection(('127.0.0.1', self.port), timeout=60) as connection:
            connection.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\n'
                               b'Content-Length: 100\r\nContent-Type: application/json\r\n\r\n'
                               b'{"text": "a')
            if not wait:
                return 'left'
            answer = connection.recv(100)
        return int(answer.split()[1]) if answer else 'closed'

    def leave(self):
        """Send a request that takes long, and leave before the reply."""
        with socket.create_connection(('127.0.0.1', self.port), timeout=60) as connection:
            body = json.dumps({'texts': self.texts[:100]}).encode()
            connection.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\n'
                               b'Content-Length: %d\r\nContent-Type: application/json\r\n\r\n%s'
                               % (len(body), body))
        return 'left'

    def request(self):
        x = self.rng.random()
        if x < 2 / 3:
            kind = 'good'
            status = self.good()
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
        fail('usage: python -m results.serve.soak MODEL [REQUESTS]')
    folder = sys.argv[1]
    n_requests = int(sys.argv[2]) if len(sys.argv) == 3 else 100_000
    texts = make_texts(500)
    classifier = TextClassifier(folder, thresholds=True, threads=1)
    expected = {text: classifier.label(p) for text, p in zip(texts, classifier.probs(texts))}
    command = [sys.executable, '-m', 'tools.serve', os.path.abspath(folder), '--port=0',
               f'--max_secs={MAX_SECS}']
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
