"""serve.py over HTTP: against predict.py's answers, with bodies that are wrong, under load, and in
a browser (30 s)."""
import concurrent.futures
import contextlib
import http.client
import re
import shutil
import signal
import time

import pytest
from conftest import AWKWARD, JSON, ask, call, start_server


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


@pytest.mark.parametrize('body, expected', [
    ({'texts': []}, 422),
    ({'texts': ['a'] * 257}, 422),
    ({'texts': ['a', 'b'], 'explain': True}, 422),
    ({'texts': ['a' * 50_001]}, 422),
    ({'texts': 'a'}, 422),
    ({'text': ['a']}, 422),
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


def test_a_server_that_cannot_start(home, server):
    for argv, message in [
        (['out/none'], 'no finished run'),
        (['out/bce', f'--port={server}'], 'cannot listen'),
        (['out/bce', '--port=99999'], 'cannot listen'),
        (['out/bce', '--max_bytes=0'], 'the limits are at least 1'),
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
