"""Serve a trained run or an exported model over HTTP, with a small page.

    python -m tools.serve out/bce/seed0 --port=8000     or out/bce, the mean of its seeds
    python -m tools.serve model                         made by tools.export, without PyTorch
    curl -d '{"text": "a text"}' -H 'Content-Type: application/json' localhost:8000/predict

It needs requirements-serve.txt and, for a run, requirements.txt. GET / is the page, /health names
the model, /metrics has counters in Prometheus' format. For a file of texts, use
tools.predict --file; for TLS and access control, a reverse proxy (tools/README.md).

Notable:
- Requests that arrive while the model computes are batched for the next pass. Explanations have a
  queue, a thread and limits of their own, since one can cost as much as a thousand answers.
- A request that is too large gets a 413, 422 or 431; one that is too slow gets a 408 or is cut off;
  if too many wait, the next gets a 503. A waiting request is dropped if its client disconnects.
- SIGTERM finishes the accepted requests within half a minute.
"""
import asyncio
import base64
import gc
import hashlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from nanoloss.classifier import TextClassifier
from nanoloss.escape import one_line
from nanoloss.runs import WEIGHTS
from nanoloss.settings import configure, fail

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from pydantic import BaseModel
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from uvicorn.supervisors import Multiprocess

    from nanoloss.limits import BodyLimit, Protocol, TokenCheck
except ImportError as error:
    fail(f'{error}; pip install -r requirements-serve.txt')

# -----------------------------------------------------------------------------
host = '127.0.0.1'  # address to listen on: this machine only; 0.0.0.0 or :: for a network
port = 8000
which = 'last'  # weights of a run: of the last epoch, or of the epoch that is best on val (best)
code = ''  # file of the run's head or trunk, if it is not in model.py; it is executed
thresholds = True  # use the thresholds chosen on val, if any (for the last weights)
min_confidence = 0.0  # a less confident answer is "unsure"; evaluate.py reports the cost
token_file = ''  # requests must send the token in this file; '': no token is needed
allowed_hosts = ''  # accepted Host headers, as a.org,b.org; '': localhost, on a network any
examples = ''  # file of texts to try on the page, one per line (at most 10); '': built in
access_log = False  # a line on stdout for each request
workers = 1  # processes, each with a copy of the model
threads = 0  # CPU threads of each worker; 0: its share of the cores
max_bytes = 2 ** 20  # limit of a request's body
max_texts = 256  # limit of a request
max_chars = 50_000  # limit of a text
max_explained_chars = 10_000  # limit of a text to explain
max_waiting = 256  # requests that may wait for the model; the next one gets a 503
max_explanations = 16  # requests that may wait for an explanation
max_secs = 15.0  # limit for a request's head to arrive, and then for its body
# -----------------------------------------------------------------------------
TEXTS_AT_ONCE = 64  # requests are batched until they have this many texts
PATHS = '/', '/predict', '/health', '/metrics', '/openapi.json'
OPEN_PATHS = '/', '/health'  # need no token
EXAMPLES = ['A wonderful film: funny, moving and never dull.',
            'I waited for two weeks, and then it broke on the first day.',
            'How do I change the address on my account?']
PAGE = Path(__file__).with_name('serve.html').read_text('utf-8')


# The API

class Texts(BaseModel):
    """One text or several; to explain, only one."""
    text: str | None = None
    texts: list[str] | None = None
    explain: bool = False


class Answer(BaseModel):
    """The answer to `texts`: per text a label (or list of labels) and a probability for each class;
    with explain also [class, [[piece of the text, its attribution]]], see `explain` in
    nanoloss/labels.py."""
    model: str
    labels: list[str | list[str]]
    probabilities: list[dict[str, float]]
    explanations: list[tuple[str, list[tuple[str, float]]]] = []


class AnswerToOne(BaseModel):
    """The answer to `text`: the same for a single text, without the outer lists."""
    model: str
    label: str | list[str]
    probabilities: dict[str, float]
    explanation: tuple[str, list[tuple[str, float]]] | None = None


def texts_of(body, config):
    """The texts of a request. Raises HTTPException if there are none, too many or too long ones.

    body: a `Texts`."""
    if (body.text is None) == (body.texts is None):
        raise HTTPException(422, 'give text or texts')
    texts = body.texts if body.text is None else [body.text]
    if not 1 <= len(texts) <= (1 if body.explain else config.max_texts):
        raise HTTPException(422, f'give 1 to {config.max_texts} texts, or 1 to explain')
    limit = config.max_explained_chars if body.explain else config.max_chars
    if max(map(len, texts)) > limit:
        what = ' to explain' if body.explain else ''
        raise HTTPException(422, f'a text{what} has more than {limit} characters')
    return texts


async def refuse(request, error):
    """Answer an invalid request with a short 422. FastAPI's own repeats the input, which may be
    huge or not valid text."""
    first = error.errors()[0]
    field = '.'.join(map(str, first['loc'][:3]))
    detail = f'{field}: {first["msg"]}'[:200]
    return JSONResponse({'detail': detail.encode('ascii', 'replace').decode()}, 422)


# The queue

class ClientLeft(Exception):
    """The client has closed its connection before the answer."""


class JobQueue:
    """Requests that wait for the model, in order of arrival.

    compute: a function from a list of texts to a list of answers, called in a thread. max_waiting:
    number of requests that may wait. texts_at_once: requests are batched until they have this many
    texts.
    """

    def __init__(self, compute, max_waiting, texts_at_once):
        self.compute = compute
        self.max_waiting = max_waiting
        self.texts_at_once = texts_at_once
        self.waiting = {}  # {future of the answers: texts}
        self.arrived = asyncio.Event()

    async def answers(self, texts, awaited):
        """Wait for the model -> its answers to the texts. awaited: a set of futures that are
        cancelled when the client leaves. Raises asyncio.QueueFull or ClientLeft."""
        if len(self.waiting) >= self.max_waiting:
            raise asyncio.QueueFull
        found = asyncio.get_running_loop().create_future()
        self.waiting[found] = texts
        self.arrived.set()
        awaited.add(found)
        try:
            return await found
        except asyncio.CancelledError:
            raise ClientLeft from None
        finally:
            awaited.discard(found)
            self.waiting.pop(found, None)

    def take(self):
        """Remove the next batch of requests from the queue -> {future: texts}."""
        taken = {}
        n_texts = 0
        while self.waiting and n_texts < self.texts_at_once:
            found = next(iter(self.waiting))
            taken[found] = self.waiting.pop(found)
            n_texts += len(taken[found])
        return taken

    async def work(self):
        """Compute forever; in a thread, so that the event loop can accept requests meanwhile."""
        while True:
            await self.arrived.wait()
            taken = self.take()
            if not taken:
                self.arrived.clear()
                continue
            try:
                answers = await asyncio.to_thread(self.compute, sum(taken.values(), []))
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # such as a panic of the tokenizer, which is Rust
                failure = RuntimeError(f'{type(error).__name__}: {error}')
                for found in taken:
                    if not found.done():
                        found.set_exception(failure)
                continue
            for found, texts in taken.items():
                if not found.done():  # else the client has left
                    found.set_result(answers[:len(texts)])
                answers = answers[len(texts):]


# Metrics

class Metrics:
    """The metrics of GET /metrics. Those of several workers are summed, from their files in
    PROMETHEUS_MULTIPROC_DIR, which prometheus_client looks for when it is imported."""

    def __init__(self):
        import prometheus_client
        self.library = prometheus_client
        self.requests = prometheus_client.Counter(
            'nanoloss_requests', 'Requests, by path and status', ['path', 'status'])
        self.seconds = prometheus_client.Histogram(
            'nanoloss_request_seconds', 'From a request to the end of its answer', ['path'],
            buckets=(.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10))
        self.labels = prometheus_client.Counter(
            'nanoloss_labels', 'Texts, by the label that they got', ['label'])
        self.waiting = prometheus_client.Gauge(
            'nanoloss_waiting', 'Requests that wait for the model', multiprocess_mode='livesum')

    def count_labels(self, labels):
        """labels: a label, or list of labels, per text."""
        for label in labels:
            for name in [label] if isinstance(label, str) else label:
                self.labels.labels(name).inc()

    def count_request(self, path, status, seconds):
        path = path if path in PATHS else 'other'
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self, n_waiting):
        """All metrics in Prometheus' text format, bytes. n_waiting: requests that wait now."""
        self.waiting.set(n_waiting)
        registry = self.library.REGISTRY
        if 'PROMETHEUS_MULTIPROC_DIR' in os.environ:
            from prometheus_client.multiprocess import MultiProcessCollector
            registry = self.library.CollectorRegistry()
            MultiProcessCollector(registry)
        return self.library.generate_latest(registry)


def inline_hash(tag):
    """The hash by which the content security policy allows the page's own style or script."""
    content = PAGE.split(f'<{tag}>')[1].split(f'</{tag}>')[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


HEADERS = [
    (b'x-content-type-options', b'nosniff'),
    (b'referrer-policy', b'no-referrer'),
    (b'cache-control', b'no-store'),
    (b'content-security-policy', (
        f"default-src 'none'; script-src {inline_hash('script')}; style-src {inline_hash('style')};"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ).encode()),
]


class Observer:
    """ASGI middleware: counts and times each request, and adds the HEADERS to each answer."""

    def __init__(self, app, metrics):
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope, receive, send):
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0  # stays if the client leaves before the answer

        async def send_observed(message):
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
                message['headers'] = [*message['headers'], *HEADERS]
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        finally:
            self.metrics.count_request(scope['path'], status, time.perf_counter() - started)


# The application

def answer_as_json(body, classifier, labels, probs, explanations):
    """The classifier's answer to a request: an `Answer` or an `AnswerToOne`.

    It bypasses FastAPI's validation, which would take as long as writing it."""
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


def hosts_of(config):
    """The names that a request's Host header may have. Without this check, a page of another site
    could reach a service on the visitor's machine under the site's own name (DNS rebinding)."""
    if config.allowed_hosts:
        return [name.strip() for name in config.allowed_hosts.split(',')]
    if config.host in ('127.0.0.1', 'localhost', '::1'):
        return ['127.0.0.1', 'localhost', '::1', '[::1]']
    return ['*']


def add_middleware(app, config, token, metrics):
    """Add the limits, the checks of token and host, and the `Observer`. The one that is added last
    runs first."""
    app.add_middleware(BodyLimit, max_bytes=config.max_bytes, max_secs=config.max_secs)
    if token is not None:
        app.add_middleware(TokenCheck, token=token, open_paths=OPEN_PATHS)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts_of(config), www_redirect=False)
    app.add_middleware(Observer, metrics=metrics)


def add_predict(app, classifier, config, answering, explaining, metrics):
    """Add POST /predict. answering, explaining: the two `JobQueue`s."""

    @app.post('/predict', response_model=Answer | AnswerToOne)
    async def predict(body: Texts, request: Request):
        texts = texts_of(body, config)
        queue = explaining if body.explain else answering
        try:
            answers = await queue.answers(texts, request.scope['awaited'])
        except asyncio.QueueFull:
            raise HTTPException(503, 'too many requests wait', {'Retry-After': '1'}) from None
        except ClientLeft:
            return Response(status_code=499)  # nginx's status for this; nobody reads it
        explanations = []
        if body.explain:
            explanations = [(name, pieces) for _, name, pieces in answers]
            answers = [p for p, _, _ in answers]
        labels = [classifier.label(p) for p in answers]
        metrics.count_labels(labels)
        return answer_as_json(body, classifier, labels, answers, explanations)


def make_app(classifier, config, token=None, texts_to_try=()):
    """The FastAPI application around a `TextClassifier`.

    token: bytes that requests must send; None: no token is needed. texts_to_try: examples for the
    page."""
    answering = JobQueue(lambda texts: list(classifier.probs(texts)), config.max_waiting,
                         TEXTS_AT_ONCE)
    explaining = JobQueue(lambda texts: [classifier.explain(text) for text in texts],
                          config.max_explanations, 1)
    metrics = Metrics()

    def n_waiting():
        return len(answering.waiting) + len(explaining.waiting)

    @asynccontextmanager
    async def lifespan(app):
        tasks = [asyncio.create_task(queue.work()) for queue in (answering, explaining)]
        yield
        for task in tasks:
            task.cancel()

    app = FastAPI(title='nanoloss', lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestValidationError, refuse)
    add_middleware(app, config, token, metrics)

    add_predict(app, classifier, config, answering, explaining, metrics)

    @app.get('/health')
    async def health() -> dict:
        return {
            'status': 'ok',
            'model': classifier.id,
            'classes': classifier.classes,
            'examples': list(texts_to_try),
            'waiting': n_waiting(),
        }

    @app.get('/metrics', include_in_schema=False)
    async def counts():
        return Response(metrics.text(n_waiting()),
                        media_type='text/plain; version=0.0.4; charset=utf-8')

    @app.get('/', response_class=HTMLResponse, include_in_schema=False)
    async def page():
        return PAGE

    return app


# The server

def read_token(path):
    """The token in a file, bytes; None if no file is named."""
    if not path:
        return None
    try:
        token = Path(path).read_bytes().strip()
    except OSError as error:
        fail(f'token_file: {path} cannot be read ({error.strerror})')
    if not token or len(token.split()) > 1:
        fail(f'token_file: {path} must hold a token, one word')
    return token


def read_examples(path):
    """The first ten lines of a file of examples; EXAMPLES if no file is named."""
    if not path:
        return EXAMPLES
    try:
        lines = Path(path).read_text('utf-8-sig').splitlines()
    except (OSError, ValueError) as error:
        fail(f'examples: {path} cannot be read ({error})')
    return [line for line in lines if line.strip()][:10]


def require(package):
    """Fail early if a package that is imported later is missing."""
    if find_spec(package) is None:
        fail(f'{package} is missing; pip install -r requirements-serve.txt')


def load_classifier(folder, config):
    """A run, a group of runs or an exported folder -> its `TextClassifier`. Fails if it is none of
    these."""
    n_threads = config.threads or max(1, (os.cpu_count() or 1) // config.workers)
    try:
        return TextClassifier(folder, config.which, config.min_confidence, config.thresholds,
                              config.code, n_threads)
    except ValueError as error:
        fail(error)


def make_complete_app(classifier, config):
    """The application, with the token and the examples from their files."""
    Protocol.max_secs = config.max_secs
    logging.raiseExceptions = False  # no tracebacks if stdout is closed
    app = make_app(classifier, config, read_token(config.token_file),
                   read_examples(config.examples))
    gc.freeze()  # else each collection would traverse the model and delay all answers
    return app


def stop_with_parent():
    """End this worker when its parent process has ended, even if that was killed."""
    parent = multiprocessing.parent_process()

    def wait():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=wait, daemon=True).start()


def load_app(folder, config):
    """Load the model in a worker -> its application."""
    stop_with_parent()
    try:
        return make_complete_app(load_classifier(folder, config), config)
    except SystemExit:
        sys.exit(3)  # uvicorn's STARTUP_FAILURE: it stops instead of starting another worker


def open_socket(config):
    """A socket that listens on the host and port. Fails if that is not possible."""
    family = socket.AF_INET6 if ':' in config.host else socket.AF_INET
    try:
        listener = socket.create_server((config.host, config.port), family=family, backlog=1024)
    except (OSError, OverflowError, UnicodeError) as error:
        fail(f'cannot listen at {config.host}:{config.port}: {error}; try another --host or --port')
    # else a reply waits 40 ms for the client's acknowledgement of its first packet
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def allow_many_connections():
    """Raise the limit of open files to the maximum that the system allows this process."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def announce(classifier, config, listener):
    """Print the model and the address. The port is the one chosen by the system if --port=0."""
    shown = f'[{config.host}]' if ':' in config.host else config.host
    address = f'http://{shown}:{listener.getsockname()[1]}'
    try:
        print(f'{one_line(classifier.id)} at {address}', flush=True)
    except OSError as error:
        fail(f'cannot write to stdout: {error}')


def run_server(folder, config, listener):
    """Answer requests on a listening socket until a signal ends it."""
    options = {
        'http': Protocol,
        'access_log': config.access_log,
        'log_level': 'info' if config.access_log else 'error',
        'timeout_graceful_shutdown': 30,
        'timeout_worker_healthcheck': 60,  # else a worker that takes long to start is replaced
    }
    # with several workers too, although each loads it again: so an unusable folder is reported once
    classifier = load_classifier(folder, config)
    if config.workers == 1:
        app = make_complete_app(classifier, config)
        announce(classifier, config, listener)
        uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[listener])
        return
    announce(classifier, config, listener)
    del classifier
    with tempfile.TemporaryDirectory() as counts:
        os.environ['PROMETHEUS_MULTIPROC_DIR'] = counts
        load = partial(load_app, folder, config)
        workers = uvicorn.Config(load, factory=True, workers=config.workers, **options)
        Multiprocess(workers, sockets=[listener]).run()


def main(folders, config):
    if len(folders) != 1:
        fail('give one run, one group of runs or an exported model: '
             'python -m tools.serve out/bce/seed0')
    require('prometheus_client')
    limits = (config.max_bytes, config.max_texts, config.max_chars, config.max_explained_chars,
              config.max_waiting, config.max_explanations, config.workers)
    if config.which not in WEIGHTS:
        fail(f"which is 'last' or 'best', not {config.which!r}")
    if min(limits) < 1 or config.threads < 0 or config.max_secs <= 0:
        fail('workers and the limits must be at least 1, max_secs more than 0, threads at least 0')
    read_token(config.token_file)  # fail before the model is loaded
    read_examples(config.examples)
    allow_many_connections()
    run_server(folders[0], config, open_socket(config))


if __name__ == '__main__':
    folders = []
    config = configure(globals(), positional=folders)
    try:
        main(folders, config)
    except KeyboardInterrupt:
        print('serve.py: stopped', file=sys.stderr)
        sys.exit(130)
