"""serve.py over HTTP, by PyTorch and without: against predict.py's answers, with bodies that are
wrong, under load, and in a browser (60 s)."""
import asyncio
import collections
import concurrent.futures
import contextlib
import csv
import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import AWKWARD, JSON, ROOT, ask, call, start_server

CSV = {'Content-Type': 'text/csv'}


def test_answers_are_those_of_predict(server, Classifier):
    classifier = Classifier('out/bce')
    p = classifier.probs(AWKWARD)
    status, _, answer = ask(server, {'texts': AWKWARD})
    assert status == 200
    assert answer['model'] == classifier.id
    assert answer['labels'] == [('neg', 'pos')[row.argmax()] for row in p]
    positive = [row['pos'] for row in answer['probabilities']]
    assert positive == pytest.approx(p[:, 1].tolist(), abs=1e-6)

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
    assert answer['probabilities']['pos'] == pytest.approx(p[1], abs=1e-6)
    assert answer['explanation'][0] == name
    assert [piece for piece, _ in answer['explanation'][1]] == [piece for piece, _ in pieces]
    assert ask(server, {'text': AWKWARD[0]})[2]['explanation'] is None


@pytest.mark.parametrize('body, expected', [
    ({'texts': []}, 422),
    ({'texts': ['a'] * 257}, 422),
    ({'texts': ['a', 'b'], 'explain': True}, 422),
    ({'texts': ['a' * 50_001]}, 422),
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


def test_the_limit_of_a_body_is_a_setting(home):
    process, port = start_server(home, 'out/bce/seed0', '--max_bytes=1000')
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
    words = 'good', 'boring', 'wonderful'
    texts = [f'{words[i % 3]} film number {i // 3}' for i in range(120)]
    expected = Classifier('out/bce').probs(texts)[:, 1]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: ask(server, {'texts': [text]}), texts))
    assert {status for status, _, _ in answers} == {200}
    positive = [answer['probabilities'][0]['pos'] for _, _, answer in answers]
    assert positive == pytest.approx(expected.tolist(), abs=1e-4)


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


def table(texts, column='body'):
    """A CSV of texts and of a column beside them."""
    file = io.StringIO()
    csv.writer(file).writerows([['id', column], *enumerate(texts)])
    return file.getvalue()


def test_a_table_is_answered_as_predict_answers_it(server, home, tmp_path):
    """Row by row, quotes and lines in a cell among them."""
    texts = AWKWARD + [f'{i} wonderful, "boring" films' * (i % 9) for i in range(300)]
    (tmp_path / 'a.csv').write_text(table(texts), 'utf-8')
    expected = call(home, 'predict.py', 'out/bce', f'--file={tmp_path}/a.csv', '--text=body')
    body = b'\xef\xbb\xbf' + table(texts).encode()  # as a spreadsheet begins it
    status, headers, found = ask(server, body, path='/batch?text=body', headers=CSV)
    assert status == 200
    assert headers['content-type'].startswith('text/csv')
    found = list(csv.reader(io.StringIO(found)))
    expected = list(csv.reader(io.StringIO(expected)))
    assert len(found) == len(texts) + 1
    assert found[0] == expected[0] == ['label', 'p_neg', 'p_pos', 'text']
    for row, wanted in zip(found[1:], expected[1:]):
        assert (row[0], row[3]) == (wanted[0], wanted[3])
        assert float(row[1]) == pytest.approx(float(wanted[1]), abs=2e-4)


def test_empty_lines_of_a_table_are_none(server):
    body = b'text,label\nhello,a\n\nworld,b\n\n'
    status, _, found = ask(server, body, path='/batch', headers=CSV)
    assert status == 200
    assert [row[-1] for row in csv.reader(io.StringIO(found))] == ['text', 'hello', 'world']


class Panic(BaseException):
    """As a library in Rust raises it."""


@pytest.fixture
def queue(monkeypatch):
    """A JobQueue whose classifier panics at one text."""
    import serve

    class Stub:
        def probs(self, texts):
            if 'panic' in texts:
                raise Panic('overflow')
            return [[0.5, 0.5]] * len(texts)

        def explain(self, text):
            return [0.5, 0.5], 'neg', []

    monkeypatch.setattr(serve, 'max_waiting', 10)
    return serve.JobQueue(Stub())


def test_what_takes_long_waits_for_what_does_not(queue):
    """Explanations and parts of tables, in their order, for other answers."""
    answered = []

    async def ask_all():
        waiting = []
        for text, explain, patient in [('a', True, False), ('b', False, False), ('c', False, True),
                                       ('d', True, False), ('e', False, False)]:
            task = asyncio.create_task(queue.result([text], explain, patient))
            task.add_done_callback(lambda task, text=text: answered.append(text))
            waiting.append(task)
        await asyncio.sleep(0)  # all wait before any is computed
        worker = asyncio.create_task(queue.work())
        await asyncio.gather(*waiting)
        await asyncio.sleep(0)
        worker.cancel()
    asyncio.run(ask_all())
    assert answered == ['b', 'e', 'a', 'c', 'd']


def test_a_panic_of_the_tokenizer_ends_one_request(queue):
    async def ask_both():
        worker = asyncio.create_task(queue.work())
        with pytest.raises(RuntimeError, match='Panic: overflow'):
            await queue.result(['panic'])
        found = await asyncio.wait_for(queue.result(['a']), 10)
        worker.cancel()
        return found
    assert asyncio.run(ask_both()) == ([[0.5, 0.5]], [])


@pytest.mark.parametrize('body, message', [
    (b'', "no column 'text'"),
    (b'id,body\n1,a\n', "no column 'text', but id, body"),
    (b'id,text\n1,a\n2\n', "row 2 has no column 'text'"),
    (b'text\n' + b'a' * 50_001, 'the text of row 1 is longer than 50000 characters'),
    (b'text\n"' + b'a' * 200_000, 'it is no CSV'),
], ids=['nothing', 'column', 'row', 'long', 'quote'])
def test_a_table_that_is_wrong_is_not_answered_in_part(server, body, message):
    status, _, answer = ask(server, body, path='/batch', headers=CSV)
    assert status == 422
    assert message in answer['detail']


def test_what_has_been_done_is_counted(home, exported):
    process, port = start_server(home, exported['out/bce'], '--access_log')
    labels = collections.Counter()
    try:
        for i in range(7):
            answer = ask(port, {'texts': [f'a good film {i}', f'{i} bad films']})[2]
            labels.update(answer['labels'])
        ask(port, {'texts': []})
        ask(port, table(['good', 'bad']).encode(), path='/batch?text=body', headers=CSV)
        ask(port, None, 'GET', '/a-secret-path')
        _, headers, counts = ask(port, None, 'GET', '/metrics')
        labels.update(ask(port, {'texts': ['good', 'bad']})[2]['labels'])
    finally:
        process.send_signal(signal.SIGTERM)
        output, error = process.communicate(timeout=20)
    assert error == ''
    assert headers['content-type'].startswith('text/plain; version=0.0.4')
    found = {}
    for line in counts.splitlines():
        if not line.startswith('#'):
            name, value = line.rsplit(' ', 1)
            found[name] = float(value)
    assert found['nanoloss_requests_total{path="/predict",status="200"}'] == 7
    assert found['nanoloss_requests_total{path="/predict",status="422"}'] == 1
    assert found['nanoloss_requests_total{path="/batch",status="200"}'] == 1
    assert found['nanoloss_requests_total{path="other",status="404"}'] == 1
    assert found['nanoloss_request_seconds_count{path="/predict"}'] == 8
    assert found['nanoloss_waiting'] == 0
    for label, n in labels.items():
        assert found[f'nanoloss_labels_total{{label="{label}"}}'] == n

    lines = [json.loads(line) for line in output.splitlines()]
    assert [line['status'] for line in lines] == [200] * 7 + [422, 200, 404, 200, 200]
    assert {line['client'] for line in lines} == {'127.0.0.1'}
    assert 'film' not in output  # what was asked


def test_a_token(home, exported, tmp_path):
    (tmp_path / 'token').write_text('secret\n')
    process, port = start_server(home, exported['out/bce'], f'--token_file={tmp_path}/token')
    try:
        for path, method in ('/predict', 'POST'), ('/metrics', 'GET'), ('/docs', 'GET'):
            for authorization in (None, 'Bearer', 'Bearer secre', 'Bearer secrets', 'secret'):
                headers = {**JSON, 'Authorization': authorization} if authorization else JSON
                status, headers, _ = ask(port, b'{"text": "a"}', method, path, headers)
                assert status == 401
                assert headers['www-authenticate'] == 'Bearer'
        headers = {**JSON, 'Authorization': 'Bearer secret'}
        assert ask(port, {'text': 'a'}, headers=headers)[0] == 200
        assert ask(port, None, 'GET', '/metrics', headers)[0] == 200
        assert ask(port, None, 'GET', '/')[0] == ask(port, None, 'GET', '/health')[0] == 200
    finally:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert error == ''
    for content, message in (None, 'cannot be read'), (' \n', 'must hold a token'):
        path = tmp_path / 'other'
        if content is not None:
            path.write_text(content)
        error = call(home, 'serve.py', 'out/bce', f'--token_file={path}', code=2)
        assert message in error
        assert error.count('\n') == 1


def test_what_a_browser_may_do_with_it(server):
    for path in '/', '/health', '/predict', '/nothing':
        _, headers, _ = ask(server, None, 'GET', path)
        assert headers['x-content-type-options'] == 'nosniff'
        assert "default-src 'none'" in headers['content-security-policy']
        assert 'unsafe' not in headers['content-security-policy']


def wait_for_children(process, n):
    """The pids of the n processes that a process has started; skips where the system does not tell.
    """
    path = f'/proc/{process.pid}/task/{process.pid}/children'
    if not os.path.exists(path):
        process.terminate()
        pytest.skip('this system does not tell the processes of a process')
    pids = []
    deadline = time.monotonic() + 20
    while len(pids) < n and time.monotonic() < deadline:
        with open(path) as file:
            pids = file.read().split()
    assert len(pids) == n
    return pids


def test_several_workers(home, exported):
    """All answer, their counts are added up, and all of them stop."""
    process, port = start_server(home, exported['out/bce'], '--workers=2')
    try:
        pids = wait_for_children(process, 2)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda i: ask(port, {'text': f'film {i}'}), range(60)))
        assert {status for status, _, _ in answers} == {200}
        counts = ask(port, None, 'GET', '/metrics')[2]
        assert 'nanoloss_requests_total{path="/predict",status="200"} 60.0' in counts
    finally:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert error == ''
    assert not [pid for pid in pids if os.path.exists(f'/proc/{pid}')]
    error = call(home, 'serve.py', 'out/none', '--workers=2', '--port=0', code=2)
    assert error.count('\n') == 1


def test_a_worker_that_takes_its_time_to_end():
    """Its end of the pipe is closed some time before the process is gone."""
    pytest.importorskip('uvicorn')
    script = '''
import os, time
import serve
def load_classifier(folder, n_threads):
    os.closerange(3, 256)
    time.sleep(0.5)
    os._exit(2)
serve.load_classifier = load_classifier
serve.workers = 2
serve.port = 0
serve.main(['folder'])
'''
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 2, done.stderr


@pytest.mark.parametrize('package', ['prometheus_client', 'onnxruntime'])
def test_a_missing_package(exported, package):
    script = f'import sys; sys.modules[{package!r}] = None; import serve; serve.main(sys.argv[1:])'
    done = subprocess.run([sys.executable, '-c', script, exported['out/bce']], cwd=ROOT,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f'-c: {package} is missing; pip install -r requirements-serve.txt\n'


def test_a_worker_that_dies_takes_the_others_with_it(home, exported):
    process, _ = start_server(home, exported['out/bce'], '--workers=2')
    try:
        pids = wait_for_children(process, 2)
        os.kill(int(pids[1]), signal.SIGKILL)
        _, error = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 1
    assert error == ''
    assert not os.path.exists(f'/proc/{pids[0]}')


def test_a_body_that_stops_half_way(home, exported):
    process, port = start_server(home, exported['out/bce'], '--max_secs=0.3')
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=20)
    try:
        connection.putrequest('POST', '/predict')
        connection.putheader('Content-Length', '100')
        connection.endheaders()
        connection.send(b'{"text": "a')
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
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    process, port = start_server(home, exported['out/windows'], env=environment)
    try:
        assert ask(port, {'text': 'a good film', 'explain': True})[0] == 200
    finally:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert error == ''
    error = call(home, 'serve.py', 'out/bce', '--port=0', code=2, env=environment)
    assert 'a run needs what is in requirements.txt (no torch)' in error
    assert error.count('\n') == 1


def test_a_third_of_the_requests_is_broken(exported):
    """64 clients; no wrong label, no 500 (100,000 of them: results/robustness.md)."""
    done = subprocess.run([sys.executable, ROOT / 'runs/soak.py', exported['out/bce'],
                           '400'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'good: 200' in done.stdout
    assert 'errors of the server: none' in done.stdout


def test_a_server_that_cannot_start(home, server):
    for argv, message in [
        (['out/none'], 'no finished run'),
        (['out/bce', f'--port={server}'], 'cannot listen'),
        (['out/bce', '--port=99999'], 'cannot listen'),
        (['out/bce', '--max_bytes=0'], 'the limits are at least 1'),
        (['out/bce', '--workers=0'], 'workers and the limits are at least 1'),
        ([], 'name one run'),
    ]:
        error = call(home, 'serve.py', *argv, code=2)
        assert message in error
        assert error.count('\n') == 1


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
    text = 'A wonderful film <script>alert(1)</script> & a boring plot'
    browser.switch_to.active_element.send_keys(text, Keys.TAB, Keys.ENTER)  # the button is next
    answer = browser.find_element('id', 'answer')
    WebDriverWait(browser, 20).until(lambda _: 'Green speaks for' in answer.text)
    assert text in answer.text
    assert re.search(r'(pos|neg) \d+\.\d %', answer.text)
    marks = answer.find_elements('tag name', 'mark')
    assert len(marks) > 8
    assert len({mark.value_of_css_property('background-color') for mark in marks}) > 2
    width, page_width = browser.execute_script(
        'return [window.innerWidth, document.documentElement.scrollWidth]')
    assert page_width <= width
    entries = browser.get_log('browser')
    assert not [entry for entry in entries if 'favicon' not in entry['message']]
