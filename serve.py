"""A trained run over HTTP, with a small page: pip install -r requirements-extra.txt

    python serve.py out/bce/seed0 --port=8000      or out/bce, the mean of its seeds
    curl -d '{"texts": ["a text"]}' -H 'Content-Type: application/json' localhost:8000/predict

GET / is the page, /docs the API, /health tells that it lives. Requests that come while the model
computes are computed together next. What is too large gets a 413 or 422; when too many wait, a 503
that says to come back. SIGTERM finishes what has been accepted.
"""
import asyncio
import socket
from contextlib import asynccontextmanager
from typing import NamedTuple

from nanoloss.configure import configure, fail
from predict import WEIGHTS, Classifier

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import BaseModel
except ImportError as error:
    fail(f'{error}; pip install -r requirements-extra.txt')

# -----------------------------------------------------------------------------
host = '127.0.0.1'  # who may ask: this machine alone; 0.0.0.0 for the network
port = 8000
which = 'last'  # the weights of the last epoch, or of the best on val (best)
min_confidence = 0.0  # an answer that is less sure is "unsure"; evaluate.py shows what that costs
thresholds = True  # use those that evaluate.py has chosen, if any; they are of the last weights
max_bytes = 2 ** 20  # of a request's body
max_texts = 256  # of a request
max_chars = 50_000  # of a text
max_waiting = 256  # requests that wait for the model; the next one is sent away
# -----------------------------------------------------------------------------
TEXTS_AT_ONCE = 256  # computed together, as soon as so many wait


# The API

class Texts(BaseModel):
    texts: list[str]
    explain: bool = False


class Answer(BaseModel):
    """A label (or list of labels) and a probability for each class, per text; with explain also
    [class, [[piece of the text, what it adds to the log-odds of that class]]]."""
    model: str
    labels: list[str | list[str]]
    probabilities: list[dict[str, float]]
    explanations: list[tuple[str, list[tuple[str, float]]]] = []


# The queue

class Job(NamedTuple):
    """A request that waits for the model."""
    texts: list
    explain: bool
    result: asyncio.Future  # of what `compute` returns for it


class JobQueue:
    """Requests in the order in which they came. Those that wait are computed together: a batch of
    many texts costs less than many batches of one."""

    def __init__(self, classifier):
        self.classifier = classifier
        self.jobs = asyncio.Queue(max_waiting)

    async def result(self, texts, explain):
        """Wait for the model -> (probabilities, explanations). Raises asyncio.QueueFull."""
        job = Job(texts, explain, asyncio.get_running_loop().create_future())
        self.jobs.put_nowait(job)
        return await job.result

    async def take_waiting(self):
        """Wait for a job -> it and, up to about TEXTS_AT_ONCE, those that wait behind it."""
        jobs = [await self.jobs.get()]
        n_texts = len(jobs[0].texts)
        while n_texts < TEXTS_AT_ONCE and not self.jobs.empty():
            jobs.append(self.jobs.get_nowait())
            n_texts += len(jobs[-1].texts)
        return jobs

    async def work(self):
        """Compute, for ever; in a thread, so that requests come in meanwhile."""
        while True:
            jobs = await self.take_waiting()
            try:
                results = await asyncio.to_thread(compute, self.classifier, jobs)
            except Exception as error:
                for job in jobs:
                    if not job.result.done():
                        job.result.set_exception(error)
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
    """ASGI: a 413 for a body that is, or turns out to be, too large, before it is read."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        headers = dict(scope.get('headers', ()))
        announced = headers.get(b'content-length', b'0')
        refusal = f'the body is larger than {max_bytes} bytes'
        if announced.isdigit() and int(announced) > max_bytes:
            reply = JSONResponse({'detail': refusal}, 413)
            await reply(scope, receive, send)
            return

        received = 0

        async def receive_limited():
            nonlocal received
            message = await receive()
            received += len(message.get('body', b''))
            if received > max_bytes:
                raise HTTPException(413, refusal)
            return message

        await self.app(scope, receive_limited, send)


def check_texts(body):
    """Raises HTTPException for too few or too many texts, or too long ones."""
    if not 1 <= len(body.texts) <= (1 if body.explain else max_texts):
        raise HTTPException(422, f'give 1 to {max_texts} texts, or 1 to explain')
    if max(map(len, body.texts)) > max_chars:
        raise HTTPException(422, f'a text is longer than {max_chars} characters')


async def refuse(request, error):
    """A short 422: FastAPI's own repeats the input, which may be huge, or not text at all."""
    first = error.errors()[0]
    field = '.'.join(map(str, first['loc'][:3]))
    detail = f'{field}: {first["msg"]}'[:200]
    return JSONResponse({'detail': detail.encode('ascii', 'replace').decode()}, 422)


# The server

def make_app(classifier):
    """The FastAPI application around a Classifier."""
    queue = JobQueue(classifier)

    @asynccontextmanager
    async def lifespan(app):
        worker = asyncio.create_task(queue.work())
        yield
        worker.cancel()

    app = FastAPI(title='nanoloss', lifespan=lifespan)
    app.add_middleware(BodyLimit)
    app.add_exception_handler(RequestValidationError, refuse)

    @app.post('/predict')
    async def predict(body: Texts) -> Answer:
        check_texts(body)
        try:
            probs, explanations = await queue.result(body.texts, body.explain)
        except asyncio.QueueFull:
            detail = 'too many requests are waiting'
            raise HTTPException(503, detail, {'Retry-After': '1'}) from None
        return Answer(
            model=classifier.id,
            labels=[classifier.label(p) for p in probs],
            probabilities=[dict(zip(classifier.classes, p.tolist())) for p in probs],
            explanations=explanations,
        )

    @app.get('/health')
    async def health() -> dict:
        return {
            'status': 'ok',
            'model': classifier.id,
            'classes': classifier.classes,
            'waiting': queue.jobs.qsize(),
        }

    @app.get('/', response_class=HTMLResponse, include_in_schema=False)
    async def page():
        return PAGE

    return app


PAGE = '''<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nanoloss</title>
<style>
body { font: 1.05rem/1.5 system-ui, sans-serif; max-width: 44rem; margin: 1rem auto;
       padding: 0 1rem; color: #111; background: #fff }
textarea { width: 100%; box-sizing: border-box; min-height: 9rem; font: inherit; padding: .5rem }
button { font: inherit; padding: .5rem 1.2rem; margin: .5rem 0 }
meter { width: 8rem; margin-right: .5rem } mark { color: inherit; border-radius: .2rem }
p { overflow-wrap: anywhere; white-space: pre-wrap }
</style>
<h1>nanoloss</h1>
<form><label for="text">A text</label>
<textarea id="text" autofocus required></textarea><button>Classify (Ctrl+Enter)</button></form>
<div id="answer" role="status" aria-live="polite"></div>
<script>
const form = document.forms[0]
const text = document.getElementById('text')
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
    const reply = await fetch('predict', {
      method: 'POST',
      headers: {'Content-Type': 'application/json'},
      body: JSON.stringify({texts: [text.value], explain: true}),
    })
    const found = await reply.json()
    answer.textContent = ''
    if (!reply.ok) { add(answer, 'p', found.detail); return }
    add(answer, 'h2', [found.labels[0]].flat().join(', ') || 'no label')
    for (const [name, p] of Object.entries(found.probabilities[0]).sort((a, b) => b[1] - a[1])) {
      const row = add(answer, 'div', ''), bar = add(row, 'meter', '')
      bar.value = p
      bar.setAttribute('aria-hidden', 'true')
      add(row, 'span', name + ' ' + (100 * p).toFixed(1) + ' %')
    }
    const [name, pieces] = found.explanations[0]
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


def main(folders):
    if len(folders) != 1:
        fail('name one run, or one group of runs: python serve.py out/bce/seed0')
    if which not in WEIGHTS or min(max_bytes, max_texts, max_chars, max_waiting) < 1:
        fail("which is 'last' or 'best', and the limits are at least 1")
    try:
        classifier = Classifier(folders[0], which, min_confidence, thresholds)
        listener = socket.create_server((host, port), backlog=1024)
    except ValueError as error:
        fail(error)
    except (OSError, OverflowError) as error:
        fail(f'cannot listen at {host}:{port}: {error}')
    # else a reply waits 40 ms for the client's acknowledgement of its first packet
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(f'{classifier.id} at http://{host}:{listener.getsockname()[1]}', flush=True)
    app = make_app(classifier)
    config = uvicorn.Config(app, log_level='warning', timeout_graceful_shutdown=30)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == '__main__':
    folders = []
    configure(globals(), positional=folders)
    main(folders)
