"""A trained run or an exported model over HTTP, with a small page.

    python serve.py out/bce/seed0 --port=8000      or out/bce, the mean of its seeds
    python serve.py model                          what export.py made, without PyTorch
    curl -d '{"text": "a text"}' -H 'Content-Type: application/json' localhost:8000/predict
    curl --data-binary @reviews.csv 'localhost:8000/batch?text=body'      a CSV in, a CSV out

It needs requirements-serve.txt, and for a run requirements.txt as well. GET / is the page, /docs
the API, /health tells that it lives, and /metrics counts what it does, in Prometheus' form.

Notable:
- Requests that come while the model computes are computed together next.
- What is too large gets a 413 or 422, what comes too slowly a 408; when too many wait, a 503 that
  says to come back. SIGTERM finishes what has been accepted, within half a minute.
- With --token_file, who asks has to send what is in it, Authorization: Bearer ...; the page and
  /health are open.
"""
import asyncio
import base64
import csv
import gc
import hashlib
import hmac
import io
import json
import os
import signal
import socket
import tempfile
import time
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from itertools import count, islice
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

from nanoloss.configure import configure, fail
from nanoloss.escape import one_line
from nanoloss.files import mend_folder

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
    from pydantic import BaseModel
except ImportError as error:
    fail(f'{error}; pip install -r requirements-serve.txt')

# -----------------------------------------------------------------------------
host = '127.0.0.1'  # who may ask: this machine alone; 0.0.0.0 for the network
port = 8000
which = 'last'  # of a run: the weights of the last epoch, or of the best on val (best)
min_confidence = 0.0  # an answer that is less sure is "unsure"; evaluate.py shows what that costs
token_file = ''  # the token that requests must bring is in this file; '': whoever asks is answered
access_log = False  # a line of JSON for each request on standard output
workers = 1  # processes, each with the model in its memory
threads = 0  # CPU threads of each; 0: the cores, divided by the workers
thresholds = True  # use those that evaluate.py has chosen, if any; they are of the last weights
max_bytes = 2 ** 20  # of a request's body
max_batch_bytes = 2 ** 30  # of a CSV; it lies in a temporary file while it is answered
max_texts = 256  # of a request
max_chars = 50_000  # of a text
max_secs = 10.0  # until the next piece of a body comes
max_waiting = 256  # requests that wait for the model; the next one is sent away
# -----------------------------------------------------------------------------
TEXTS_AT_ONCE = 64  # computed together, as soon as so many wait
BATCHES = 4  # CSVs that are answered at the same time
PATHS = '/', '/predict', '/batch', '/health', '/metrics', '/docs', '/openapi.json'
OPEN_PATHS = '/', '/health'  # without a token


# The API

class Texts(BaseModel):
    """One text, or several; with explain one."""
    text: str | None = None
    texts: list[str] | None = None
    explain: bool = False


class Answer(BaseModel):
    """Of `texts`: a label (or list of labels) and a probability for each class, per text; with
    explain also [class, [[piece of the text, what it adds to the log-odds of that class]]]."""
    model: str
    labels: list[str | list[str]]
    probabilities: list[dict[str, float]]
    explanations: list[tuple[str, list[tuple[str, float]]]] = []


class AnswerToOne(BaseModel):
    """Of `text`: the same for the one, without lists around it."""
    model: str
    label: str | list[str]
    probabilities: dict[str, float]
    explanation: tuple[str, list[tuple[str, float]]] | None = None


# The queue

class Job(NamedTuple):
    """A request that waits for the model."""
    texts: list
    explain: bool
    result: asyncio.Future  # of what `compute` returns for it


class JobQueue:
    """Requests in the order in which they came, but first those that are soon answered: neither
    parts of a table nor explanations, one of which can cost as much as a thousand answers. Those
    that wait are computed together: a batch of many texts costs less than many batches of one."""

    def __init__(self, classifier):
        self.classifier = classifier
        self.jobs = asyncio.PriorityQueue(max_waiting)  # of (explain or patient, number, Job)
        self.numbers = count()

    async def result(self, texts, explain=False, patient=False):
        """Wait for the model -> (probabilities, explanations). Raises asyncio.QueueFull, unless
        patient: then it waits for a place, too."""
        job = Job(texts, explain, asyncio.get_running_loop().create_future())
        place = explain or patient, next(self.numbers), job
        if patient:
            await self.jobs.put(place)
        else:
            self.jobs.put_nowait(place)
        return await job.result

    async def take_waiting(self):
        """Wait for a job -> it and, up to about TEXTS_AT_ONCE, those that wait behind it; one for
        an explanation comes alone."""
        *_, job = await self.jobs.get()
        jobs = [job]
        n_texts = len(job.texts)
        while not job.explain and n_texts < TEXTS_AT_ONCE and not self.jobs.empty():
            place = self.jobs.get_nowait()
            *_, another = place
            if another.explain:  # its turn comes next
                self.jobs.put_nowait(place)
                break
            jobs.append(another)
            n_texts += len(another.texts)
        return jobs

    async def work(self):
        """Compute, for ever; in a thread, so that requests come in meanwhile."""
        while True:
            jobs = await self.take_waiting()
            try:
                results = await asyncio.to_thread(compute, self.classifier, jobs)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # such as a panic of the tokenizer, which is Rust
                failure = RuntimeError(f'{type(error).__name__}: {error}')
                failure.__cause__ = error
                for job in jobs:
                    if not job.result.done():
                        job.result.set_exception(failure)
                continue
            for job, result in zip(jobs, results):
                if not job.result.done():  # whoever asked may have gone
                    job.result.set_result(result)


def compute(classifier, jobs):
    """Jobs -> for each its probabilities [texts, classes] and its explanations.

    The texts to be explained come one by one, all others together."""
    together = []
    for job in jobs:
        if not job.explain:
            together += job.texts
    rows = iter(classifier.probs(together))

    results = []
    for job in jobs:
        probs = []
        explanations = []
        for text in job.texts:
            if job.explain:
                p, name, pieces = classifier.explain(text)
                explanations.append((name, pieces))
            else:
                p = next(rows)
            probs.append(p)
        results.append((probs, explanations))
    return results


# What is refused

class BodyLimit:
    """ASGI: a 413 for a body that is, or turns out to be, too large, before it is read; a 408 where
    the rest of it does not come."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        limit = max_batch_bytes if scope.get('path') == '/batch' else max_bytes
        headers = dict(scope.get('headers', ()))
        announced = headers.get(b'content-length', b'0')
        refusal = f'the body is larger than {limit} bytes'
        if announced.isdigit() and int(announced) > limit:
            reply = JSONResponse({'detail': refusal}, 413)
            await reply(scope, receive, send)
            return

        received = 0
        complete = False

        async def receive_limited():
            nonlocal received, complete
            if complete:  # only the end of the connection is still to come
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max_secs)
            except asyncio.TimeoutError:
                raise HTTPException(408, 'the rest of the body did not come') from None
            received += len(message.get('body', b''))
            complete = not message.get('more_body', False)
            if received > limit:
                raise HTTPException(413, refusal)
            return message

        await self.app(scope, receive_limited, send)


class TokenCheck:
    """ASGI: a 401 for those who do not bring the token."""

    def __init__(self, app, token):
        self.app = app
        self.expected = b'Bearer ' + token

    async def __call__(self, scope, receive, send):
        if scope['type'] == 'http' and scope['path'] not in OPEN_PATHS:
            found = dict(scope['headers']).get(b'authorization', b'')
            if not hmac.compare_digest(found, self.expected):  # takes as long wherever they differ
                reply = JSONResponse({'detail': 'a token is wanted, Authorization: Bearer ...'},
                                     401, {'WWW-Authenticate': 'Bearer'})
                await reply(scope, receive, send)
                return
        await self.app(scope, receive, send)


def read_token():
    """The token in token_file, bytes; None where no token is wanted."""
    if not token_file:
        return None
    try:
        token = Path(token_file).read_bytes().strip()
    except OSError as error:
        fail(f'token_file: {token_file} cannot be read ({error.strerror})')
    if not token or len(token.split()) > 1:
        fail(f'token_file: {token_file} must hold a token, one word')
    return token


def texts_of(body):
    """The texts of a `Texts`. Raises HTTPException for none or too many, or too long ones."""
    if (body.text is None) == (body.texts is None):
        raise HTTPException(422, 'give text or texts')
    texts = body.texts if body.text is None else [body.text]
    if not 1 <= len(texts) <= (1 if body.explain else max_texts):
        raise HTTPException(422, f'give 1 to {max_texts} texts, or 1 to explain')
    if max(map(len, texts)) > max_chars:
        raise HTTPException(422, f'a text is longer than {max_chars} characters')
    return texts


async def refuse(request, error):
    """A short 422: FastAPI's own repeats the input, which may be huge, or not text at all."""
    first = error.errors()[0]
    field = '.'.join(map(str, first['loc'][:3]))
    detail = f'{field}: {first["msg"]}'[:200]
    return JSONResponse({'detail': detail.encode('ascii', 'replace').decode()}, 422)


# A CSV in, a CSV out

class Table:
    """A CSV in a temporary file, which goes with it, and its column of texts; it is read once to
    check it, and again to answer it."""

    def __init__(self, column):
        self.column = column
        self.file = tempfile.TemporaryFile()  # noqa: SIM115

    async def receive(self, request):
        async for piece in request.stream():
            self.file.write(piece)

    def rows(self):
        """Yield the cells of each row, the header first. Bytes that are no text become marks of
        that, as where predict.py reads standard input."""
        self.file.seek(0)
        text = io.TextIOWrapper(self.file, 'utf-8-sig', errors='replace', newline='')
        try:
            yield from (row for row in csv.reader(text) if row)  # an empty line is none
        finally:
            text.detach()  # the file stays open

    def check(self):
        """Raises ValueError, saying what is wrong where, before anything has been answered."""
        rows = self.rows()
        try:
            header = next(rows, [])
            if self.column not in header:
                shown = ', '.join(header[:10])[:200]
                raise ValueError(f'there is no column {self.column!r}, but {shown}')
            self.place = header.index(self.column)
            for number, row in enumerate(rows, 1):
                if len(row) <= self.place:
                    raise ValueError(f'row {number} has no column {self.column!r}')
                if len(row[self.place]) > max_chars:
                    raise ValueError(f'the text of row {number} is longer than {max_chars} '
                                     'characters')
        except csv.Error as error:
            raise ValueError(f'it is no CSV: {error}') from None

    def texts(self):
        """Yield the texts, TEXTS_AT_ONCE of them at a time."""
        rows = self.rows()
        next(rows)
        texts = (row[self.place] for row in rows)
        chunk = list(islice(texts, TEXTS_AT_ONCE))
        while chunk:
            yield chunk
            chunk = list(islice(texts, TEXTS_AT_ONCE))


def csv_lines(rows):
    """Rows of cells -> the lines of a CSV, as one string."""
    lines = io.StringIO()
    csv.writer(lines, lineterminator='\n').writerows(rows)
    return lines.getvalue()


async def answer_table(table, classifier, queue, metrics):
    """Yield the lines of predict.py's CSV for a checked table: label, probabilities, text."""
    yield csv_lines([['label', *(f'p_{name}' for name in classifier.classes), 'text']])
    for texts in table.texts():
        probs, _ = await queue.result(texts, patient=True)
        rows = []
        labels = []
        for text, p in zip(texts, probs):
            label = classifier.label(p)
            labels.append(label)
            joined = ';'.join(label) if classifier.multi_label else label
            rows.append([joined, *(f'{probability:.4f}' for probability in p), text])
        metrics.count_labels(labels)
        yield csv_lines(rows)


# What is counted, and written down

class Metrics:
    """The counters of GET /metrics. Of several workers, those of all are added up: their files lie
    in PROMETHEUS_MULTIPROC_DIR, which prometheus_client looks for when it is imported."""

    def __init__(self, queue):
        import prometheus_client
        self.library = prometheus_client
        self.requests = prometheus_client.Counter(
            'nanoloss_requests', 'Requests, by what they asked for and how it ended',
            ['path', 'status'])
        self.seconds = prometheus_client.Histogram(
            'nanoloss_request_seconds', 'From a request to the end of its answer', ['path'],
            buckets=(.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10))
        self.labels = prometheus_client.Counter(
            'nanoloss_labels', 'Texts, by the label that they got', ['label'])
        self.waiting = prometheus_client.Gauge(
            'nanoloss_waiting', 'Requests that wait for the model', multiprocess_mode='livesum')
        self.queue = queue

    def count_labels(self, labels):
        """labels: a label, or list of labels, a text."""
        for label in labels:
            for name in [label] if isinstance(label, str) else label:
                self.labels.labels(name).inc()

    def count_request(self, path, status, seconds):
        path = path if path in PATHS else 'other'
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self):
        """All of them in Prometheus' text form, bytes."""
        self.waiting.set(self.queue.jobs.qsize())
        registry = self.library.REGISTRY
        if 'PROMETHEUS_MULTIPROC_DIR' in os.environ:
            from prometheus_client.multiprocess import MultiProcessCollector
            registry = self.library.CollectorRegistry()
            MultiProcessCollector(registry)
        return self.library.generate_latest(registry)


class Observer:
    """ASGI: counts each request and how long it took, writes it down if asked to, and gives each
    answer the headers that keep a browser from doing more with it than it should."""

    def __init__(self, app, metrics):
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope, receive, send):
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        path = scope['path']
        policy = DOCS_POLICY if path == '/docs' else PAGE_POLICY
        status = 0  # of one who left before the answer

        async def send_observed(message):
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
                message['headers'] = [
                    *message['headers'], *HEADERS, (b'content-security-policy', policy.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.count_request(path, status, seconds)
            if access_log:
                write_access(scope, status, seconds)


def write_access(scope, status, seconds):
    """A line of JSON on a request; what it asked is nobody's business."""
    client = scope.get('client') or ('', 0)
    print(json.dumps({
        'time': datetime.now(timezone.utc).isoformat(timespec='milliseconds'),
        'client': client[0],
        'method': scope['method'],
        'path': scope['path'][:200],
        'status': status,
        'ms': round(1000 * seconds, 1),
    }), flush=True)


# The application

def answer_as_json(body, classifier, labels, probs, explanations):
    """What the classifier says of the texts of a request: an `Answer` or an `AnswerToOne`.

    It goes out as it is, for to check its types would take as long as to write it."""
    probabilities = [dict(zip(classifier.classes, p.tolist())) for p in probs]
    if body.text is None:
        return JSONResponse({
            'model': classifier.id,
            'labels': labels,
            'probabilities': probabilities,
            'explanations': explanations,
        })
    return JSONResponse({
        'model': classifier.id,
        'label': labels[0],
        'probabilities': probabilities[0],
        'explanation': explanations[0] if explanations else None,
    })


def make_app(classifier, token=None):
    """The FastAPI application around a `Classifier` of predict.py or nanoloss/reader.py.

    token: bytes that requests have to bring; None: none."""
    queue = JobQueue(classifier)
    metrics = Metrics(queue)
    tables = asyncio.Semaphore(BATCHES)

    @asynccontextmanager
    async def lifespan(app):
        worker = asyncio.create_task(queue.work())
        yield
        worker.cancel()

    app = FastAPI(title='nanoloss', lifespan=lifespan, redoc_url=None)
    app.add_exception_handler(RequestValidationError, refuse)
    app.add_middleware(BodyLimit)  # the last one added is asked first
    if token is not None:
        app.add_middleware(TokenCheck, token=token)
    app.add_middleware(Observer, metrics=metrics)

    @app.post('/predict', response_model=Answer | AnswerToOne)
    async def predict(body: Texts):
        texts = texts_of(body)
        try:
            probs, explanations = await queue.result(texts, body.explain)
        except asyncio.QueueFull:
            raise HTTPException(503, 'too many requests wait', {'Retry-After': '1'}) from None
        labels = [classifier.label(p) for p in probs]
        metrics.count_labels(labels)
        return answer_as_json(body, classifier, labels, probs, explanations)

    @app.post('/batch', response_class=StreamingResponse)
    async def batch(request: Request, text: str = 'text'):
        """A CSV with a column of texts -> a CSV of label, p_CLASS for each class, and text."""
        if tables.locked():
            raise HTTPException(503, 'too many tables are being answered', {'Retry-After': '10'})
        table = Table(text)
        async with tables:
            await table.receive(request)
            try:
                await asyncio.to_thread(table.check)
            except ValueError as error:
                raise HTTPException(422, str(error)) from None

        async def lines():
            async with tables:
                async for some in answer_table(table, classifier, queue, metrics):
                    yield some

        return StreamingResponse(lines(), media_type='text/csv; charset=utf-8')

    @app.get('/health')
    async def health() -> dict:
        return {
            'status': 'ok',
            'model': classifier.id,
            'classes': classifier.classes,
            'waiting': queue.jobs.qsize(),
        }

    @app.get('/metrics', include_in_schema=False)
    async def counts():
        return Response(metrics.text(), media_type='text/plain; version=0.0.4; charset=utf-8')

    @app.get('/', response_class=HTMLResponse, include_in_schema=False)
    async def page():
        return PAGE

    return app


PAGE = '''<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nanoloss</title>
<style>
:root { color-scheme: light dark }
body { font: 1.05rem/1.5 system-ui, sans-serif; max-width: 44rem; margin: 1rem auto;
       padding: 0 1rem }
textarea, input { width: 100%; box-sizing: border-box; font: inherit; padding: .5rem }
textarea { min-height: 9rem }
button { font: inherit; padding: .5rem 1.2rem; margin: .5rem 0 }
meter { width: 8rem; margin-right: .5rem } mark { color: inherit; border-radius: .2rem }
p { overflow-wrap: anywhere; white-space: pre-wrap }
</style>
<h1>nanoloss</h1>
<form><label for="text">A text</label>
<textarea id="text" autofocus required></textarea>
<label id="token" hidden>Token <input type="password" autocomplete="off"></label>
<button>Classify (Ctrl+Enter)</button></form>
<div id="answer" role="status" aria-live="polite"></div>
<script>
const form = document.forms[0]
const text = document.getElementById('text')
const token = document.getElementById('token')
const answer = document.getElementById('answer')
const add = (parent, tag, content) => {
  const e = document.createElement(tag)
  e.textContent = content
  parent.append(e)
  return e
}
text.onkeydown = e => {
  if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) { e.preventDefault(); form.requestSubmit() }
}
form.onsubmit = async e => {
  e.preventDefault()
  answer.textContent = '...'
  try {
    const headers = {'Content-Type': 'application/json'}
    if (!token.hidden) headers.Authorization = 'Bearer ' + token.firstElementChild.value
    const reply = await fetch('predict', {
      method: 'POST',
      headers,
      body: JSON.stringify({text: text.value, explain: true}),
    })
    const found = await reply.json()
    answer.textContent = ''
    if (reply.status === 401) { token.hidden = false; token.firstElementChild.focus() }
    if (!reply.ok) { add(answer, 'p', found.detail); return }
    add(answer, 'h2', [found.label].flat().join(', ') || 'no label')
    for (const [name, p] of Object.entries(found.probabilities).sort((a, b) => b[1] - a[1])) {
      const row = add(answer, 'div', ''), bar = add(row, 'meter', '')
      bar.value = p
      bar.setAttribute('aria-hidden', 'true')
      add(row, 'span', name + ' ' + (100 * p).toFixed(1) + ' %')
    }
    const [name, pieces] = found.explanation
    const most = Math.max(...pieces.map(x => Math.abs(x[1])), 1e-9)
    const words = add(answer, 'p', '')
    for (const [piece, worth] of pieces) {
      const mark = add(words, 'mark', piece)
      const strength = (0.6 * Math.abs(worth) / most).toFixed(2)
      mark.style.background = `rgba(${worth > 0 ? '0,150,80' : '220,60,0'},${strength})`
      mark.title = worth.toFixed(2)
    }
    add(answer, 'small', 'Green speaks for ' + name + ', orange against it.')
  } catch (error) { answer.textContent = 'There was no answer: ' + error.message }
}
</script></html>
'''


def inline_hash(tag):
    """What a content policy calls the page's own style or script by."""
    content = PAGE.split(f'<{tag}>')[1].split(f'</{tag}>')[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


PAGE_POLICY = (
    f"default-src 'none'; script-src {inline_hash('script')}; style-src {inline_hash('style')}; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
# FastAPI's page on the API is made by scripts of another host
DOCS_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src https://fastapi.tiangolo.com data:; "
    "script-src https://cdn.jsdelivr.net 'unsafe-inline'; "
    "style-src https://cdn.jsdelivr.net 'unsafe-inline'; frame-ancestors 'none'")
HEADERS = [
    (b'x-content-type-options', b'nosniff'),
    (b'referrer-policy', b'no-referrer'),
    (b'cache-control', b'no-store'),
]


# The server

def require(package):
    """Fail where a package is missing that is imported later."""
    if find_spec(package) is None:
        fail(f'{package} is missing; pip install -r requirements-serve.txt')


def load_classifier(folder, n_threads):
    """A run, a group of runs or an exported folder -> its `Classifier`. Fails where it is none."""
    if not Path(folder).exists():
        mend_folder(Path(folder))  # export.py may have been killed while it replaced the folder
    try:
        if (Path(folder) / 'model.onnx').exists():
            require('onnxruntime')
            from nanoloss.reader import Classifier
            return Classifier(folder, min_confidence, thresholds, n_threads)
        try:
            import torch
            from predict import Classifier
        except ImportError as error:
            fail(f'{folder} is no exported model, and a run needs what is in requirements.txt '
                 f'({error})')
        torch.set_num_threads(n_threads)
        return Classifier(folder, which, min_confidence, thresholds)
    except ValueError as error:
        fail(error)


def announce(name, listener):
    print(f'{one_line(name)} at http://{host}:{listener.getsockname()[1]}', flush=True)


def serve(folder, listener, token, when_ready):
    """Answer what comes to the listening socket, until a signal.

    when_ready: is called with the model's id as soon as it is loaded."""
    n_threads = threads or max(1, (os.cpu_count() or 1) // workers)
    classifier = load_classifier(folder, n_threads)
    app = make_app(classifier, token)
    gc.freeze()  # what is here now stays: to look through it again and again would stop all answers
    when_ready(classifier.id)
    config = uvicorn.Config(app, log_level='warning', access_log=False,
                            timeout_graceful_shutdown=30)
    uvicorn.Server(config).run(sockets=[listener])


def serve_by_workers(folder, listener, token):
    """The same by several processes, which take what comes to the socket in turn. When one ends, so
    do the others, so that whoever started them sees it."""
    def stop(signum, frame):
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    context = get_context('fork')  # before any of them has threads
    receiver, sender = context.Pipe(duplex=False)
    processes = []

    def work():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        serve(folder, listener, token, sender.send)

    def start():
        process = context.Process(target=work)
        process.start()
        processes.append(process)

    with tempfile.TemporaryDirectory() as counts:
        os.environ['PROMETHEUS_MULTIPROC_DIR'] = counts
        try:
            start()
            # a folder that cannot be used is one mistake, and not one for each worker
            if receiver not in wait([receiver, processes[0].sentinel]):
                processes[0].join()
                raise SystemExit(processes[0].exitcode or 1)
            announce(receiver.recv(), listener)
            for _ in range(workers - 1):
                start()
            wait([process.sentinel for process in processes])
            raise SystemExit(1)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()


def main(folders):
    if len(folders) != 1:
        fail('name one run, one group of runs or an exported model: '
             'python serve.py out/bce/seed0')
    require('prometheus_client')
    limits = max_bytes, max_batch_bytes, max_texts, max_chars, max_waiting, workers
    if which not in ('last', 'best') or min(limits) < 1 or threads < 0 or max_secs <= 0:
        fail("which is 'last' or 'best', and workers and the limits are at least 1")
    if workers > 1 and not hasattr(os, 'fork'):
        fail('this system has no fork; workers has to be 1')
    token = read_token()
    try:
        listener = socket.create_server((host, port), backlog=1024)
    except (OSError, OverflowError) as error:
        fail(f'cannot listen at {host}:{port}: {error}')
    # else a reply waits 40 ms for the client's acknowledgement of its first packet
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if workers > 1:
        serve_by_workers(folders[0], listener, token)
    else:
        serve(folders[0], listener, token, partial(announce, listener=listener))


if __name__ == '__main__':
    folders = []
    configure(globals(), positional=folders)
    main(folders)
