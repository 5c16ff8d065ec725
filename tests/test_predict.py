"""predict.py and serve.py: against the training loop's own logits, against a model without the token, over the command
line, over HTTP and in a browser. About 60 s."""
import concurrent.futures
import csv
import http.client
import importlib.util
import io
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]


def call(cwd, script, *argv, code=0, **kwargs):
    kwargs = {'encoding': 'utf-8'} | kwargs
    done = subprocess.run([sys.executable, ROOT / script, *map(str, argv)], cwd=cwd, capture_output=True, **kwargs)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """Two short runs on the sample, and one on reviews with several labels: the topics that they name."""
    home = tmp_path_factory.mktemp('home')
    with open(home / 'topics.csv', 'w', encoding='utf-8', newline='') as file:
        table = csv.writer(file)
        table.writerow(['text', 'label'])
        for row in csv.DictReader(open(ROOT / 'data/sample.csv', encoding='utf-8', newline='')):
            table.writerow([row['review'], '|'.join(topic for topic in ('songs', 'jokes') if topic in row['review'])])
    call(home, 'prepare.py', '--source=sample')
    call(home, 'prepare.py', '--source=topics.csv', '--label_sep=|')
    argv = [ROOT / 'config/sample_bce.py', '--threads=1', '--epochs=3', '--n_embd=32', '--learning_rate=3e-3', '--n_head=1',
            '--dtype=float32']
    call(home, 'train.py', *argv, '--n_runs=2', '--out_dir=out/bce', '--block_size=100', '--truncate=both')
    call(home, 'train.py', *argv, '--out_dir=out/topics', '--dataset=topics', '--pos=learned')
    return home


@pytest.fixture
def Classifier(home, monkeypatch):
    monkeypatch.chdir(home)
    from predict import Classifier
    return Classifier


def val_texts(home, classifier, name):
    tokens, offsets = (np.load(home / f'data/{name}/val_{what}.npy') for what in ('tokens', 'offsets'))
    return [classifier.encoding.decode(tokens[i:j].tolist()) for i, j in zip(offsets[:-1].astype(int), offsets[1:].astype(int))]


@pytest.mark.parametrize('which', ['last', 'best'])
def test_probabilities_are_those_of_the_training_loop(home, Classifier, which):
    """From the text of val, with other batches, against the logits in preds.npz; a group is the mean of its runs."""
    seeds = [Classifier(f'out/bce/seed{k}', which) for k in (0, 1)]
    texts, ours = val_texts(home, seeds[0], 'sample'), []
    for k, seed in enumerate(seeds):
        result = json.loads((home / f'out/bce/seed{k}/result.json').read_text())[which]
        p = seed.probs(texts)
        labels = np.load(home / 'data/sample/val_labels.npy')
        assert ((p[:, 1] > 0.5) == labels).sum() == pytest.approx(result['val']['correct'], abs=1)
        assert p.sum(1) == pytest.approx(np.ones(len(p)))
        if which == 'last':
            z = np.load(home / f'out/bce/seed{k}/preds.npz')['val_logits'][:, 0].astype(float) / result['temperature']
            assert p[:, 1] == pytest.approx(1 / (1 + np.exp(-z)), abs=2e-3)
        ours.append(p)
    group = Classifier('out/bce', which)
    assert group.probs(texts) == pytest.approx((ours[0] + ours[1]) / 2)
    assert len({seed.id for seed in seeds} | {group.id}) == 3 and group.probs([]).shape == (0, 2)


def test_the_temperature_is_the_best_on_val(home):
    """No other one makes the labels of val more likely."""
    run = home / 'out/bce/seed0'
    preds, fitted = np.load(run / 'preds.npz'), json.loads((run / 'result.json').read_text())['last']['temperature']
    z, y = preds['val_logits'][:, 0].astype(float), preds['val_labels']

    def loss(t):
        return np.logaddexp(0, np.where(y == 1, -z, z) / t).mean()
    grid = np.exp(np.linspace(-3, 3, 6001))
    assert fitted == pytest.approx(grid[np.argmin([loss(t) for t in grid])], rel=5e-3)


@pytest.mark.parametrize('run', ['out/bce/seed0', 'out/bce', 'out/topics/seed0'])
def test_worth_is_that_of_leaving_a_token_out(home, Classifier, run):
    """By brute force, one shortened review after another. (With positions, the others stay where they are.)"""
    classifier = Classifier(run)
    text = 'A wonderful film, a great film. I liked the songs, and 最高 naïve 👍'
    p, name, pieces = classifier.explain(text)
    assert ''.join(piece for piece, _ in pieces) == text and p == pytest.approx(classifier.probs([text])[0])
    c, (review,) = classifier.classes.index(name), classifier.tokens([text])
    assert c == p.argmax()
    for token, (_, worth) in zip(review.tolist(), pieces):
        kept = torch.from_numpy(review)[None], torch.from_numpy(review != token).long()[None]
        rest = torch.zeros(len(classifier.classes), dtype=torch.float64)
        for model, temperature in classifier.models:
            with torch.no_grad():
                rest += model.head.probs(model(*kept).double() / temperature)[0] / len(classifier.models)
        expected = math.log(p[c] / (1 - p[c])) - math.log(rest[c] / (1 - rest[c]))
        assert worth == pytest.approx(expected, abs=1e-3)


def test_long_texts_keep_both_ends(Classifier):
    classifier = Classifier('out/bce/seed0')
    text = ' '.join(map(str, range(1000)))
    whole, (used,) = classifier.encoding.encode_ordinary(text), classifier.tokens([text])
    assert used.tolist() == whole[:50] + whole[-50:]


AWKWARD = ['Great, "really" great', 'two\nlines', '', 'Скучно 👍', '=1+1']


def test_forms_of_input_and_output(home, Classifier):
    p = Classifier('out/bce').probs(AWKWARD)
    lines = call(home, 'predict.py', 'out/bce', *AWKWARD).splitlines()
    assert len(lines) == 5 and lines[1].split('  ')[2] == 'two lines'
    for line, row in zip(lines, p):
        label, likely = line.split('  ')[:2]
        assert label == ('neg', 'pos')[row.argmax()] and float(likely) == pytest.approx(row.max(), abs=1e-3)
    with open(home / 'new.csv', 'w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows([['id', 'body'], *([i, text] for i, text in enumerate(AWKWARD))])
    (home / 'new.jsonl').write_text(''.join(json.dumps({'body': text}) + '\n' for text in AWKWARD))
    for name in 'new.csv', 'new.jsonl':
        rows = list(csv.DictReader(io.StringIO(call(home, 'predict.py', 'out/bce', f'--file={name}', '--text=body'), newline='')))
        assert [row['text'] for row in rows] == AWKWARD
        assert [float(row['p_pos']) for row in rows] == pytest.approx(p[:, 1].tolist(), abs=1e-3)
    piped = call(home, 'predict.py', 'out/bce', '--format=jsonl', input=b'good\xff\nbad\r\n', encoding=None)
    assert [json.loads(line)['text'] for line in piped.splitlines()] == ['good\ufffd', 'bad']
    row = json.loads(call(home, 'predict.py', 'out/topics', '--format=jsonl', 'The jokes felt fresh, the songs too.'))
    assert row['label'] == [name for name, p in row['probs'].items() if p > 0.5]


def test_explain_in_colour_and_in_lines(home):
    plain = call(home, 'predict.py', 'out/bce', '--explain', 'a wonderful \033[2J film')
    assert '\033' not in plain and re.search(r"[+-]\d\.\d\d  ' wonderful'", plain)
    if shutil.which('script'):
        command = f'{sys.executable} {ROOT}/predict.py out/bce --explain "a wonderful [2J film"'
        shown = subprocess.run(['script', '-qec', command, '/dev/null'], cwd=home, capture_output=True, text=True).stdout
        assert re.search(r'\033\[30;48;5;\d+m wonderful\033\[0m', shown)


def test_a_reader_that_has_seen_enough(home):
    command = f'{sys.executable} {ROOT}/predict.py out/bce --file={ROOT}/data/sample.csv --text=review | head -1'
    done = subprocess.run(['bash', '-c', command], cwd=home, capture_output=True, text=True)
    assert done.stdout == 'label,p_neg,p_pos,text\n' and done.stderr == ''


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope='module')
def broken(home):
    """Runs that are not: without weights, with flipped bytes, with a config of another model, unfinished."""
    for name, change in {
            'light': lambda p: (p / 'model.pt').unlink(),
            'flipped': lambda p: flip(p / 'model.pt'),
            'other': lambda p: (p / 'config.json').write_text((p / 'config.json').read_text().replace('"n_embd": 32', '"n_embd": 64')),
            'odd': lambda p: (p / 'config.json').write_text('[1]'),
            'deep': lambda p: (p / 'config.json').write_text('[' * 100_000),
            'unfinished': lambda p: (p / 'result.json').unlink()}.items():
        shutil.copytree(home / 'out/bce/seed0', home / 'broken' / name)
        change(home / 'broken' / name)
    return home


@pytest.mark.parametrize('argv, says', [
    ([], 'name a run'), (['out/none', 'a'], 'there is no finished run'), (['broken', 'a'], 'there is no finished run'),
    (['broken/light', 'a'], 'model.pt is missing'), (['broken/flipped', 'a'], 'damaged'), (['broken/other', 'a'], 'cannot be used'),
    (['broken/odd', 'a'], 'cannot be used'), (['broken/deep', 'a'], 'cannot be used'), (['broken/unfinished', 'a'], 'result.json is missing'),
    (['out/bce', 'a', '--format=xml'], 'format is text, csv or jsonl'), (['out/bce', '--which=first', 'a'], "which is 'last' or"),
    (['out/bce', '--file=none.csv'], 'none.csv'), (['out/bce', '--file=topics.csv', '--text=body'], "no column 'body'"),
    (['out/bce', 'a', '--file=topics.csv'], 'not both'), (['out/bce', '--fil=x'], 'did you mean file')])
def test_mistakes_end_in_one_line(broken, tmp_path, monkeypatch, capsys, argv, says):
    monkeypatch.chdir(broken)
    spec = importlib.util.spec_from_file_location('predict_again', ROOT / 'predict.py')
    module, given = importlib.util.module_from_spec(spec), []
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit) as stop:
        module.configure(vars(module), positional=given, argv=argv)
        module.main(given, tmp_path)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and says in error and error.count('\n') == 1


# over HTTP

def start(home, *argv):
    pytest.importorskip('fastapi')
    pytest.importorskip('uvicorn')
    process = subprocess.Popen([sys.executable, ROOT / 'serve.py', *argv, '--port=0'], cwd=home, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line = process.stdout.readline()
    assert ' at http://127.0.0.1:' in line, process.stderr.read()
    return process, int(line.rsplit(':', 1)[1])


@pytest.fixture(scope='module')
def server(home):
    process, port = start(home, 'out/bce')
    yield port
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=20)
    assert 'Traceback' not in error


def ask(port, body, method='POST', path='/predict', headers={'Content-Type': 'application/json'}):
    """-> status, headers, the decoded body."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body).encode(), headers)
    reply = connection.getresponse()
    content = reply.read()
    return reply.status, dict(reply.getheaders()), (json.loads(content) if 'json' in reply.getheader('content-type', '') else
                                                    content.decode())


def test_answers_are_those_of_predict(server, Classifier):
    classifier = Classifier('out/bce')
    p = classifier.probs(AWKWARD)
    status, _, answer = ask(server, {'texts': AWKWARD})
    assert status == 200 and answer['model'] == classifier.id
    assert answer['labels'] == [('neg', 'pos')[row.argmax()] for row in p]
    assert [row['pos'] for row in answer['probabilities']] == pytest.approx(p[:, 1].tolist(), abs=1e-6)
    _, _, answer = ask(server, {'texts': [AWKWARD[0]], 'explain': True})
    (name, pieces), = answer['explanations']
    assert name in ('neg', 'pos') and ''.join(piece for piece, _ in pieces) == AWKWARD[0]
    status, _, health = ask(server, None, 'GET', '/health')
    assert status == 200 and health['status'] == 'ok' and health['classes'] == ['neg', 'pos']
    assert '/predict' in ask(server, None, 'GET', '/openapi.json')[2]['paths']


@pytest.mark.parametrize('body, expected', [
    ({'texts': []}, 422), ({'texts': ['a'] * 257}, 422), ({'texts': ['a', 'b'], 'explain': True}, 422),
    ({'texts': ['a' * 50_001]}, 422), ({'texts': 'a'}, 422), ({'text': ['a']}, 422), ({'texts': [None]}, 422),
    ([], 422), (b'', 422), (b'{', 422), (b'\xff\xfe', 422), (b'[' * 100_000, 400), (b'{"texts": ["\\ud800"]}', 200),
    (b'{"texts": ["\\u0000"]}', 200), ({'texts': ['a' * 2 ** 20]}, 413), (b' ' * 10_000_000, 413)],
    ids=lambda x: str(x)[:30])
def test_what_is_wrong_gets_a_4xx(server, body, expected):
    status, _, answer = ask(server, body)
    assert status == expected and (status == 200 or 0 < len(str(answer['detail'])) < 300)


def test_a_body_without_a_length_is_limited_too(server):
    connection = http.client.HTTPConnection('127.0.0.1', server, timeout=20)
    connection.request('POST', '/predict', (b' ' * 65536 for _ in range(40)), {'Content-Type': 'application/json'},
                       encode_chunked=True)
    assert connection.getresponse().status == 413


def test_many_at_once_each_get_their_own_answer(server, Classifier):
    texts = [f'{word} film number {i}' for i in range(40) for word in ('good', 'boring', 'wonderful')]
    expected = Classifier('out/bce').probs(texts)[:, 1]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: ask(server, {'texts': [text]}), texts))
    assert {status for status, *_ in answers} == {200}
    assert [answer['probabilities'][0]['pos'] for *_, answer in answers] == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_full_queue_and_a_stop_in_flight(home):
    """With room for two to wait, some of 40 are sent away with a 503; those accepted when SIGTERM comes are answered."""
    process, port = start(home, 'out/bce', '--max_waiting=2')
    body = {'texts': [' '.join(map(str, range(i, i + 300))) for i in range(256)]}
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = [pool.submit(ask, port, body) for _ in range(40)]
        while not any(future.done() for future in answers):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        found = []
        for future in answers:
            try:
                found.append(future.result())
            except OSError:
                pass  # came after the door was shut
    _, error = process.communicate(timeout=20)
    statuses = [status for status, *_ in found]
    assert set(statuses) == {200, 503} and statuses.count(200) >= 2 and error == ''
    assert all(len(answer['labels']) == 256 for status, _, answer in found if status == 200)
    assert all(headers['retry-after'] == '1' for status, headers, _ in found if status == 503)


def test_a_server_that_cannot_start(home, server):
    for argv, says in ((['out/none'], 'no finished run'), (['out/bce', f'--port={server}'], 'cannot listen'),
                       (['out/bce', '--port=99999'], 'cannot listen'), ([], 'name one run')):
        error = call(home, 'serve.py', *argv, code=2)
        assert says in error and error.count('\n') == 1


def test_the_page_in_a_browser(server, tmp_path):
    """Headless Chromium, a phone's width, by keyboard alone."""
    webdriver = pytest.importorskip('selenium.webdriver')
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
    if not (shutil.which('chromium') and shutil.which('chromedriver')):
        pytest.skip('there is no chromium with chromedriver')
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    for flag in ('headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update '
                 f'disable-sync user-data-dir={tmp_path} window-size=500,900').split():
        options.add_argument(f'--{flag}')
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which('chromedriver')))
    try:
        browser.get(f'http://127.0.0.1:{server}/')
        text = 'A wonderful film <script>alert(1)</script> & a boring plot'
        browser.switch_to.active_element.send_keys(text, Keys.TAB, Keys.ENTER)  # the button is next
        answer = browser.find_element('id', 'answer')
        WebDriverWait(browser, 20).until(lambda _: 'Green speaks for' in answer.text)
        assert text in answer.text and re.search(r'(pos|neg) \d+\.\d %', answer.text)
        marks = answer.find_elements('tag name', 'mark')
        assert len(marks) > 8 and len({mark.value_of_css_property('background-color') for mark in marks}) > 2
        width, page = browser.execute_script('return [window.innerWidth, document.documentElement.scrollWidth]')
        assert page <= width
        assert not [entry for entry in browser.get_log('browser') if 'favicon' not in entry['message']]
    finally:
        browser.quit()
