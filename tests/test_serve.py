"""tools.serve over HTTP, with PyTorch and without: against the answers of `TextClassifier`, with
requests that are wrong, slow or abandoned, under load, and in a browser (60 s)."""
import asyncio
import collections
import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import (
    AWKWARD, JSON, ROOT, ROUNDING, ask, call, call_process, start, start_server, with_checksums)
from helpers import config_of


def test_answers_are_those_of_predict(server, Classifier):
    classifier = Classifier('out/bce')
    p = classifier.probs(AWKWARD)
    status, _, answer = ask(server, {'texts': AWKWARD})
    assert status == 200
    assert answer['model'] == classifier.id
    assert answer['labels'] == [('neg', 'pos')[row.argmax()] for row in p]
    positive = [row['pos'] for row in answer['probabilities']]
    assert positive == pytest.approx(p[:, 1].tolist(), abs=ROUNDING)

    _, _, answer = ask(server, {'texts': [AWKWARD[0]], 'explain': True})
    (name, pieces), = answer['explanations']
    assert name in ('neg', 'pos')
    assert ''.join(piece for piece, _ in pieces) == AWKWARD[0]

    status, _, health = ask(server, None, 'GET', '/health')
    assert status == 200
    assert health['status'] == 'ok'
    assert health['classes'] == ['neg', 'pos']
    assert '/predict' in ask(server, None, 'GET', '/openapi.json')[2]['paths']


def test_one_text_has_an_answer_without_lists(server, Classifier):
    classifier = Classifier('out/bce')
    p, name, pieces = classifier.explain(AWKWARD[0])
    status, _, answer = ask(server, {'text': AWKWARD[0], 'explain': True})
    assert status == 200
    assert answer['label'] == classifier.label(p)
    assert answer['probabilities']['pos'] == pytest.approx(p[1], abs=ROUNDING)
    assert answer['explanation'][0] == name
    assert [piece for piece, _ in answer['explanation'][1]] == [piece for piece, _ in pieces]
    worth = [worth for _, worth in answer['explanation'][1]]
    assert worth == pytest.approx([worth for _, worth in pieces], abs=3e-4)
    assert ask(server, {'text': AWKWARD[0]})[2]['explanation'] is None


def load(folder, *argv):
    """The classifier that tools.serve would answer with."""
    serve = pytest.importorskip('serve')
    settings = serve.configure(dict(vars(serve)), argv=argv)
    return serve.load_classifier(folder, SimpleNamespace(**settings))


@pytest.fixture
def run(home, tmp_path):
    """A run with thresholds under which nothing is sure, and with best weights that are others."""
    run = tmp_path / 'seed0'
    shutil.copytree(home / 'out/bce/seed0', run)
    result = json.loads((run / 'result.json').read_text())
    result['thresholds'] = {'rule': 'precision', 'goal': 0.99, 'values': [1.0, 1.0]}
    (run / 'result.json').write_text(json.dumps(result))
    shutil.copy(home / 'out/bce/seed1/model.pt', run / 'best.pt')
    return run


@pytest.fixture
def folder(exported, tmp_path):
    """An exported folder with such thresholds."""
    folder = tmp_path / 'exported'
    shutil.copytree(exported['out/bce'], folder)
    description = json.loads((folder / 'model.json').read_text())
    description['thresholds'] = {'rule': 'precision', 'goal': 0.99, 'values': [1.0, 1.0]}
    (folder / 'model.json').write_text(json.dumps(description))
    return with_checksums(folder)


@pytest.mark.parametrize('kind', ['run', 'folder'])
def test_thresholds_are_used_unless_they_are_not_wanted(kind, request):
    path = request.getfixturevalue(kind)
    for argv, unsure in ([], 2), (['--thresholds=False'], 0):
        classifier = load(path, *argv)
        labels = [classifier.label(row) for row in classifier.probs(['good', 'bad'])]
        assert labels.count('unsure') == unsure


@pytest.mark.parametrize('kind', ['run', 'folder'])
def test_an_answer_below_min_confidence_is_unsure(kind, request):
    path = request.getfixturevalue(kind)
    for argv, unsure in ([], 0), (['--min_confidence=1'], 2):
        classifier = load(path, '--thresholds=False', *argv)
        labels = [classifier.label(row) for row in classifier.probs(['good', 'bad'])]
        assert labels.count('unsure') == unsure


@pytest.mark.parametrize('which', ['last', 'best'])
def test_which_weights_answer(which, run, Classifier):
    found = load(run, '--thresholds=False', f'--which={which}')
    expected = Classifier(run, which)
    assert found.id == expected.id
    p = found.probs(AWKWARD)
    assert (p == expected.probs(AWKWARD)).all()
    other = Classifier(run, {'last': 'best', 'best': 'last'}[which])
    assert (p != other.probs(AWKWARD)).any(1).all()


@pytest.mark.parametrize('body, expected', [
    ({'texts': []}, 422),
    ({'texts': ['a'] * 257}, 422),
    ({'texts': ['a', 'b'], 'explain': True}, 422),
    ({'texts': ['a' * 50_000]}, 200),
    ({'texts': ['a' * 50_001]}, 422),
    ({'texts': ['a', 'a' * 50_001]}, 422),
    ({'texts': 'a'}, 422),
    ({'text': ['a']}, 422),
    ({'text': 'a', 'texts': ['a']}, 422),
    ({'text': None}, 422),
    ({'text': 'a' * 50_001}, 422),
    ({'texts': [None]}, 422),
    ([], 422),
    (b'', 422),
    (b'{', 422),
    (b'\xff\xfe', 422),
    (b'[' * 100_000, 400),
    (b'{"texts": ["\\ud800"]}', 200),
    (b'{"texts": ["\\u0000"]}', 200),
    ({'texts': ['a' * 2 ** 20]}, 413),
    (b' ' * 10_000_000, 413),
], ids=lambda x: str(x)[:30])
def test_what_is_wrong_gets_a_4xx(server, body, expected):
    status, _, answer = ask(server, body)
    assert status == expected
    if status != 200:
        assert 0 < len(str(answer['detail'])) < 300


def send_in_chunks(port, n_chunks, size):
    """Send a body without a Content-Length -> the status of the reply."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=20)
    chunks = (b' ' * size for _ in range(n_chunks))
    connection.request('POST', '/predict', chunks, JSON, encode_chunked=True)
    return connection.getresponse().status


def test_a_body_without_a_length_is_limited_too(server):
    assert send_in_chunks(server, 40, 65536) == 413


def test_the_limit_of_a_body_is_a_setting(home, exported):
    process, port = start_server(home, exported['out/bce'], '--max_bytes=1000')
    try:
        assert ask(port, {'texts': ['a' * 900]})[0] == 200
        status, _, answer = ask(port, {'texts': ['a' * 1000]})
        assert status == 413
        assert answer['detail'] == 'the body is larger than 1000 bytes'
        assert send_in_chunks(port, 11, 100) == 413
    finally:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert error == ''


def test_many_at_once_each_get_their_own_answer(server, Classifier):
    texts = (ROOT / 'data/sample.csv').read_text('utf-8').splitlines()[1:600]
    expected = Classifier('out/bce').probs(texts)[:, 1]
    # answers that would show if they were exchanged
    _, rows = np.unique(expected.round(4), return_index=True)
    texts = [texts[row] for row in rows]
    expected = expected[rows]
    assert len(texts) > 200
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: ask(server, {'texts': [text]}), texts))
    assert {status for status, _, _ in answers} == {200}
    positive = [answer['probabilities'][0]['pos'] for _, _, answer in answers]
    assert positive == pytest.approx(expected.tolist(), abs=ROUNDING)


def test_a_full_queue_and_a_stop_in_flight(home):
    """With room for two to wait, some of 40 are sent away with a 503; those accepted when SIGTERM
    comes are answered."""
    process, port = start_server(home, 'out/bce', '--max_waiting=2')
    body = {'texts': [' '.join(map(str, range(i, i + 300))) for i in range(256)]}
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        futures = [pool.submit(ask, port, body) for _ in range(40)]
        while not any(future.done() for future in futures):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        answers = []
        for future in futures:
            with contextlib.suppress(OSError):  # of those that came after the door was shut
                answers.append(future.result())
    _, error = process.communicate(timeout=20)
    assert error == ''
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 2
    for status, headers, answer in answers:
        if status == 200:
            assert len(answer['labels']) == 256
        else:
            assert headers['retry-after'] == '1'


class Panic(BaseException):
    """As a library in Rust raises it."""


@contextlib.contextmanager
def serving(home, *argv, **kwargs):
    """A server's process and port. It must end without a word on stderr."""
    process, port = start_server(home, *argv, **kwargs)
    try:
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        output, error = process.communicate(timeout=40)
    assert error == ''


# The queue

def compute(texts):
    """A model that panics at one text."""
    if 'panic' in texts:
        raise Panic('overflow')
    return [text.upper() for text in texts]


def run_queue(ask_all, **kwargs):
    """Run ask_all(queue) beside the worker of a JobQueue."""
    from tools.serve import JobQueue

    async def run():
        queue = JobQueue(compute, **{'max_waiting': 10, 'texts_at_once': 3, **kwargs})
        found = await ask_all(queue)
        assert not queue.waiting
        return found
    return asyncio.run(run())


def test_requests_that_wait_are_computed_together():
    async def ask_all(queue):
        taken = []

        def compute_and_note(texts):
            taken.append(texts)
            return compute(texts)
        queue.compute = compute_and_note
        waiting = [asyncio.create_task(queue.answers(texts, set()))
                   for texts in (['a', 'b'], ['c'], ['d'], ['e', 'f', 'g', 'h'], ['i'])]
        await asyncio.sleep(0)  # all wait before any is computed
        worker = asyncio.create_task(queue.work())
        found = await asyncio.gather(*waiting)
        worker.cancel()
        return found, taken
    found, taken = run_queue(ask_all)
    assert found == [['A', 'B'], ['C'], ['D'], ['E', 'F', 'G', 'H'], ['I']]
    assert taken == [['a', 'b', 'c'], ['d', 'e', 'f', 'g', 'h'], ['i']]


def test_a_panic_of_the_tokenizer_ends_one_request():
    async def ask_both(queue):
        worker = asyncio.create_task(queue.work())
        with pytest.raises(RuntimeError, match='Panic: overflow'):
            await queue.answers(['panic'], set())
        found = await asyncio.wait_for(queue.answers(['a'], set()), 10)
        worker.cancel()
        return found
    assert run_queue(ask_both) == ['A']


def test_a_request_whose_client_has_left_gives_up_its_place():
    from tools.serve import ClientLeft

    async def ask_all(queue):
        awaited = set()
        waiting = [asyncio.create_task(queue.answers([text], awaited)) for text in 'ab']
        await asyncio.sleep(0)
        with pytest.raises(asyncio.QueueFull):
            await queue.answers(['c'], awaited)
        assert len(queue.waiting) == len(awaited) == 2
        for future in awaited:  # as when the connection is lost
            future.cancel()
        for task in waiting:
            with pytest.raises(ClientLeft):
                await task
        assert not awaited
        again = asyncio.create_task(queue.answers(['d'], awaited))
        worker = asyncio.create_task(queue.work())
        found = await again
        worker.cancel()
        return found
    assert run_queue(ask_all, max_waiting=2) == ['D']


# Explanations

LONG = ' '.join(f'word{i}' for i in range(900))  # some 1,800 tokens; an explanation takes a second


def send(port, body):
    """Send a request and do not wait for the answer -> the connection."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    connection.request('POST', '/predict', json.dumps(body).encode(), JSON)
    return connection


def waiting(port):
    return ask(port, None, 'GET', '/health')[2]['waiting']


def test_explanations_have_limits_of_their_own(home, exported):
    """In number and in length; meanwhile other requests are answered, and those whose clients have
    left are dropped."""
    folder = exported['out/bce']
    with serving(home, folder, '--max_explanations=3', '--max_explained_chars=8000') as (_, port):
        status, _, answer = ask(port, {'text': 'a' * 8001, 'explain': True})
        assert status == 422
        assert answer['detail'] == 'a text to explain has more than 8000 characters'
        assert ask(port, {'text': 'a' * 8001})[0] == 200

        connections = [send(port, {'text': LONG, 'explain': True}) for _ in range(30)]
        assert waiting(port) == 3
        assert ask(port, {'text': 'a film'})[0] == 200
        statuses = [connection.getresponse().status for connection in connections]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= 4

        # all leave: soon nothing waits, and the next explanation is computed
        connections = [send(port, {'text': LONG, 'explain': True}) for _ in range(4)]
        for connection in connections:
            connection.close()
        deadline = time.monotonic() + 20
        while waiting(port) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert time.monotonic() < deadline
        assert ask(port, {'text': 'a good film', 'explain': True})[0] == 200


def test_a_stop_with_abandoned_explanations(home, exported):
    """It takes no longer than the one that is being computed."""
    with serving(home, exported['out/bce'], '--max_explanations=200') as (_, port):
        for _ in range(100):
            send(port, {'text': LONG, 'explain': True}).close()
        started = time.monotonic()
    assert time.monotonic() - started < 15


# Connections

def test_silent_connections_and_slow_heads_are_closed(home, exported):
    with serving(home, exported['out/bce'], '--max_secs=1') as (_, port):
        address = '127.0.0.1', port
        with socket.create_connection(address, timeout=10) as silent:
            started = time.monotonic()
            assert silent.recv(10) == b''
            assert 0.5 < time.monotonic() - started < 5
        # a first request in time, then a second head that trickles
        with socket.create_connection(address, timeout=10) as slow:
            slow.sendall(b'GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n')
            assert b' 200 ' in slow.recv(10_000)
            slow.sendall(b'GET /health HTTP/1.1\r\nHost: localhost\r\n')
            started = time.monotonic()
            with pytest.raises(OSError):
                while time.monotonic() - started < 10:
                    slow.sendall(b'X: y\r\n')
                    time.sleep(0.05)
            assert time.monotonic() - started < 5


def limit_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))


def test_more_silent_connections_than_the_system_allows(home, exported):
    """They lock others out for no longer than max_secs."""
    folder = exported['out/bce']
    with (serving(home, folder, '--max_secs=1', preexec_fn=limit_files) as (_, port),
          contextlib.ExitStack() as stack):
        for _ in range(300):
            connection = socket.create_connection(('127.0.0.1', port), timeout=10)
            stack.enter_context(connection)
        started = time.monotonic()
        status = None
        while status != 200 and time.monotonic() - started < 10:
            with contextlib.suppress(OSError):  # refused, as long as there is no place
                status = ask(port, {'text': 'a film'})[0]
        assert status == 200


@pytest.mark.parametrize('head', [b'X: ' + b'a' * 70_000 + b'\r\n\r\n',
                                  b'X: y\r\n' * 15_000 + b'\r\n', b'X: ' + b'a' * 10_000_000],
                         ids=['one', 'many', 'endless'])
def test_a_head_that_is_too_large(server, head):
    with socket.create_connection(('127.0.0.1', server), timeout=10) as connection:
        with contextlib.suppress(OSError):  # it does not read all of it
            connection.sendall(b'GET /health HTTP/1.1\r\nHost: localhost\r\n' + head)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000).startswith(b'HTTP/1.1 431 ')
    assert ask(server, None, 'GET', '/health')[0] == 200


def test_pipelined_requests(server):
    """Their bodies do not count as heads."""
    body = json.dumps({'text': 'film ' * 8000}).encode()
    request = (b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'
               b'Content-Length: %d\r\n\r\n%s' % (len(body), body))
    found = b''
    with socket.create_connection(('127.0.0.1', server), timeout=20) as connection:
        connection.sendall(6 * request)
        while found.count(b'"explanation":null}') < 6:
            received = connection.recv(2 ** 16)
            assert received, found
            found += received
    assert found.count(b'HTTP/1.1 200 ') == 6


@pytest.mark.parametrize('argv, host, status', [
    ([], 'localhost:8000', 200), ([], '127.0.0.1', 200), ([], 'rebound.example', 400),
    ([], '[::1]:80', 200), (['--allowed_hosts=a.org, *.b.org'], 'a.org', 200),
    (['--allowed_hosts=a.org, *.b.org'], 'x.b.org:8000', 200),
    (['--allowed_hosts=a.org, *.b.org'], 'localhost', 400)])
def test_the_hosts_that_a_request_may_name(argv, host, status, monkeypatch):
    """A page of another site can reach a service on this machine, but only under a name of its
    own."""
    pytest.importorskip('fastapi')
    from starlette.testclient import TestClient

    from tools import serve
    config = config_of(serve, *argv)

    class Stub:
        id = 'stub'
        classes = ['a', 'b']
    # its counters exist once per process
    monkeypatch.setattr(serve, 'Metrics', lambda: SimpleNamespace(count_request=lambda *_: None))
    client = TestClient(serve.make_app(Stub(), config))
    assert client.get('/health', headers={'Host': host}).status_code == status


def test_the_loopback_address_of_ipv6(home, exported):
    # a shell may have had its background commands ignore Ctrl-C
    process = start(home, 'tools.serve', exported['out/bce'], '--host=::1', '--port=0',
                    preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL))
    line = process.stdout.readline()
    if not line and 'Cannot assign requested address' in process.stderr.read():
        pytest.skip('this machine has no IPv6')
    try:
        assert ' at http://[::1]:' in line
        connection = http.client.HTTPConnection('::1', int(line.rsplit(':', 1)[1]), timeout=20)
        connection.request('POST', '/predict', b'{"text": "a"}', JSON)
        assert connection.getresponse().status == 200
    finally:
        process.send_signal(signal.SIGINT)  # Ctrl-C
        _, error = process.communicate(timeout=20)
    assert (error, process.returncode) == ('serve.py: stopped\n', 130)


def test_what_has_been_done_is_counted(home, exported):
    labels = collections.Counter()
    with serving(home, exported['out/bce']) as (_, port):
        for i in range(7):
            answer = ask(port, {'texts': [f'a good film {i}', f'{i} bad films']})[2]
            labels.update(answer['labels'])
        ask(port, {'texts': []})
        ask(port, None, 'GET', '/a-secret-path')
        _, headers, counts = ask(port, None, 'GET', '/metrics')
    assert headers['content-type'].startswith('text/plain; version=0.0.4')
    found = {}
    for line in counts.splitlines():
        if not line.startswith('#'):
            name, value = line.rsplit(' ', 1)
            found[name] = float(value)
    assert found['nanoloss_requests_total{path="/predict",status="200"}'] == 7
    assert found['nanoloss_requests_total{path="/predict",status="422"}'] == 1
    assert found['nanoloss_requests_total{path="other",status="404"}'] == 1
    assert found['nanoloss_request_seconds_count{path="/predict"}'] == 8
    assert found['nanoloss_waiting'] == 0
    for label, n in labels.items():
        assert found[f'nanoloss_labels_total{{label="{label}"}}'] == n


def test_the_access_log(home, exported):
    """A line per request without its text; if nobody reads it any more, requests are answered all
    the same."""
    process, port = start_server(home, exported['out/bce'], '--access_log')
    try:
        ask(port, {'text': 'a secret film'})
        line = process.stdout.readline()
        assert '"POST /predict HTTP/1.1" 200' in line and '127.0.0.1' in line
        process.stdout.close()
        for _ in range(5):
            assert ask(port, {'text': 'a secret film'})[0] == 200
    finally:
        process.send_signal(signal.SIGTERM)
        error = process.stderr.read()
        process.wait(timeout=20)
    assert 'secret' not in line + error
    assert 'Traceback' not in error


def test_a_token(home, exported, tmp_path):
    (tmp_path / 'token').write_text('secret\n')
    process, port = start_server(home, exported['out/bce'], f'--token_file={tmp_path}/token')
    try:
        for path, method in ('/predict', 'POST'), ('/metrics', 'GET'), ('/openapi.json', 'GET'):
            for authorization in (None, 'Bearer', 'Bearer secre', 'Bearer secrets', 'secret'):
                headers = {**JSON, 'Authorization': authorization} if authorization else JSON
                status, headers, _ = ask(port, b'{"text": "a"}', method, path, headers)
                assert status == 401
                assert headers['www-authenticate'] == 'Bearer'
        headers = {**JSON, 'Authorization': 'Bearer secret'}
        assert ask(port, {'text': 'a'}, headers=headers)[0] == 200
        assert ask(port, None, 'GET', '/metrics', headers)[0] == 200
        for scheme in 'bearer', 'BEARER':
            headers['Authorization'] = f'{scheme}  secret'
            assert ask(port, {'text': 'a'}, headers=headers)[0] == 200
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=20)
        connection.putrequest('GET', '/metrics')
        connection.putheader('Authorization', 'Bearer secret')
        connection.putheader('Authorization', 'Bearer secret')
        connection.endheaders()
        assert connection.getresponse().status == 400
        assert ask(port, None, 'GET', '/')[0] == ask(port, None, 'GET', '/health')[0] == 200
    finally:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert error == ''
    for content, message in (None, 'cannot be read'), (' \n', 'must hold a token'):
        path = tmp_path / 'other'
        if content is not None:
            path.write_text(content)
        error = call(home, 'tools.serve', 'out/bce', f'--token_file={path}', code=2)
        assert message in error
        assert error.count('\n') == 1


def test_what_a_browser_may_do_with_it(server):
    for path in '/', '/health', '/predict', '/nothing':
        _, headers, _ = ask(server, None, 'GET', path)
        assert headers['x-content-type-options'] == 'nosniff'
        assert "default-src 'none'" in headers['content-security-policy']
        assert 'unsafe' not in headers['content-security-policy']


def workers_of(process, n=2):
    """The pids of the n workers that a server has started; skips if the system does not tell."""
    path = f'/proc/{process.pid}/task/{process.pid}/children'
    if not os.path.exists(path):
        process.terminate()
        pytest.skip('this system does not tell the processes of a process')
    # uvicorn waits a minute for a worker that is killed just when it is asked whether it lives
    deadline = time.monotonic() + 100
    pids = []
    while len(pids) != n and time.monotonic() < deadline:
        with open(path) as file:
            pids = [pid for pid in file.read().split() if 'spawn_main' in command_of(pid)]
        time.sleep(0.05)
    assert len(pids) == n
    return pids


def command_of(pid):
    try:
        with open(f'/proc/{pid}/cmdline') as file:
            return file.read()
    except FileNotFoundError:
        return ''


def has_ended(pid):
    """Whether a process is gone, or is only still listed."""
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rsplit(') ', 1)[1][0] == 'Z'
    except FileNotFoundError:
        return True


def all_end(pids, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(map(has_ended, pids)):
            return True
        time.sleep(0.05)
    return False


def test_several_workers(home, exported):
    """All answer, their counts are added up; one that is killed is replaced; all of them stop."""
    process, port = start_server(home, exported['out/bce'], '--workers=2')
    try:
        pids = workers_of(process)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda i: ask(port, {'text': f'film {i}'}), range(60)))
        assert {status for status, _, _ in answers} == {200}
        # a request is counted after its answer, by the worker that has given it
        counted = 'nanoloss_requests_total{path="/predict",status="200"} 60.0'
        deadline = time.monotonic() + 10
        while counted not in ask(port, None, 'GET', '/metrics')[2]:
            assert time.monotonic() < deadline
        os.kill(int(pids[1]), signal.SIGKILL)
        assert all_end(pids[1:])
        now = workers_of(process)
        assert pids[1] not in now
        assert ask(port, {'text': 'a film'})[0] == 200
    finally:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=40)
    assert error == ''
    assert all_end(now)
    error = call(home, 'tools.serve', 'out/none', '--workers=2', '--port=0', code=2)
    assert error.count('\n') == 1


def test_workers_end_with_their_parent(home, exported):
    """Also if it is killed: else they would keep the port."""
    process, port = start_server(home, exported['out/bce'], '--workers=2')
    pids = workers_of(process)
    assert ask(port, {'text': 'a film'})[0] == 200
    process.kill()
    process.communicate(timeout=20)
    assert all_end(pids)
    with pytest.raises(OSError):
        socket.create_connection(('127.0.0.1', port), timeout=5)


@pytest.mark.parametrize('package', ['prometheus_client', 'onnxruntime'])
def test_a_missing_package(exported, package):
    script = (f'import sys; sys.modules[{package!r}] = None; from tools import serve\n'
              'config = serve.configure(vars(serve), argv=["--port=0"])\n'
              'serve.main(sys.argv[1:], config)')
    done = subprocess.run([sys.executable, '-c', script, exported['out/bce']], cwd=ROOT,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f'-c: {package} is missing; pip install -r requirements-serve.txt\n'


def test_a_body_that_stops_half_way_or_trickles(home, exported):
    process, port = start_server(home, exported['out/bce'], '--max_secs=0.5')
    try:
        for trickles in False, True:
            connection = http.client.HTTPConnection('127.0.0.1', port, timeout=20)
            connection.putrequest('POST', '/predict')
            connection.putheader('Content-Length', '1000')
            connection.endheaders()
            connection.send(b'{"text": "a')
            started = time.monotonic()
            while trickles and not select.select([connection.sock], [], [], 0.05)[0]:
                assert time.monotonic() - started < 10
                connection.send(b'a')
            assert connection.getresponse().status == 408
        assert ask(port, {'text': 'a'})[0] == 200
    finally:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert error == ''


def test_without_torch(home, exported, tmp_path):
    """An exported model is served where PyTorch, scipy and the like are missing; a run is not."""
    for name in 'torch', 'scipy', 'sklearn', 'bpe_openai', 'tqdm', 'datasets':
        (tmp_path / f'{name}.py').write_text(f'raise ImportError("no {name}")')
    environment = {**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}
    process, port = start_server(home, exported['out/windows'], env=environment)
    try:
        assert ask(port, {'text': 'a good film', 'explain': True})[0] == 200
    finally:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert error == ''
    error = call_process(home, 'tools.serve', 'out/bce', '--port=0', code=2, env=environment)
    assert 'a run needs the packages in requirements.txt (no torch)' in error
    assert error.count('\n') == 1


def test_a_third_of_the_requests_is_broken(exported):
    """64 clients; no wrong label, no 500 (100,000 of them: results/robustness.md)."""
    command = [sys.executable, '-m', 'results.serve.soak', exported['out/bce'], '400']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'good: 200' in done.stdout
    assert 'errors of the server: none' in done.stdout


def test_a_server_that_cannot_start(home):
    with socket.create_server(('127.0.0.1', 0)) as other:
        port = other.getsockname()[1]
        for argv, message in [
            (['out/none', '--port=0'], 'no finished run'),
            (['out/bce', f'--port={port}'], f'cannot listen at 127.0.0.1:{port}: '),
            (['out/bce', '--port=99999'], 'cannot listen'),
            (['out/bce', '--host=no.such.host'], 'cannot listen'),
            (['out/bce', '--max_bytes=0'], 'the limits must be at least 1'),
            (['out/bce', '--workers=0'], 'workers and the limits must be at least 1'),
            (['out/bce', '--which=first'], "which is 'last' or 'best', not 'first'"),
            (['out/bce', '--port=0', '--min_confidence=2'], 'min_confidence must be in [0, 1]'),
            (['out/bce', '--examples=none.txt'], 'examples: none.txt cannot be read'),
            ([], 'give one run'),
        ]:
            error = call(home, 'tools.serve', *argv, code=2)
            assert message in error
            assert error.count('\n') == 1


def test_a_full_stdout(home, exported):
    command = [sys.executable, '-m', 'tools.serve', exported['out/bce'], '--port=0']
    with open('/dev/full', 'w') as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True,
                              timeout=60)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert 'cannot write to stdout' in done.stderr


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium, a phone's width."""
    webdriver = pytest.importorskip('selenium.webdriver')
    if not (shutil.which('chromium') and shutil.which('chromedriver')):
        pytest.skip('there is no chromium with chromedriver')
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    for flag in ('headless', 'no-sandbox', 'disable-gpu', 'no-first-run',
                 'disable-background-networking', 'disable-component-update', 'disable-sync',
                 f'user-data-dir={tmp_path}', 'window-size=500,900'):
        options.add_argument(f'--{flag}')
    service = webdriver.ChromeService(shutil.which('chromedriver'))
    browser = webdriver.Chrome(options, service)
    yield browser
    browser.quit()


def test_the_page_in_a_browser(server, browser):
    """By keyboard alone."""
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
    browser.get(f'http://127.0.0.1:{server}/')
    model = browser.find_element('id', 'model')
    WebDriverWait(browser, 20).until(lambda _: 'knows 2 classes: neg, pos.' in model.text)
    text = 'A wonderful film <script>alert(1)</script> & a boring plot'
    browser.switch_to.active_element.send_keys(text, Keys.TAB, Keys.ENTER)  # the button is next
    answer = browser.find_element('id', 'answer')
    WebDriverWait(browser, 20).until(lambda _: 'Green speaks for' in answer.text)
    assert text in answer.text
    assert re.search(r'(pos|neg) \d+\.\d %', answer.text)
    marks = answer.find_elements('tag name', 'mark')
    assert len(marks) > 8
    assert len({mark.value_of_css_property('background-color') for mark in marks}) > 2
    # an example is a button
    examples = browser.find_elements('css selector', '#examples button')
    assert len(examples) == 3
    examples[0].send_keys(Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda _: examples[0].text in answer.text)
    width, page_width = browser.execute_script(
        'return [window.innerWidth, document.documentElement.scrollWidth]')
    assert page_width <= width
    entries = browser.get_log('browser')
    assert not [entry for entry in entries if 'favicon' not in entry['message']]
