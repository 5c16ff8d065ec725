"""A trained run over HTTP, with a small page: pip install -r requirements-extra.txt

    python serve.py out/bce/seed0 --port=8000      or out/bce, the mean of its seeds
    curl -d '{"texts": ["a text"]}' -H 'Content-Type: application/json' localhost:8000/predict

GET / is the page, /docs the API, /health tells that it lives. Requests that come while the model computes are computed
together next. What is too large gets a 413 or 422; when too many wait, a 503 that says to come back. SIGTERM finishes
what has been accepted.
"""
import asyncio
import socket
from contextlib import asynccontextmanager

from config import configure, fail
from predict import Classifier

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
max_bytes = 2 ** 20  # of a request's body
max_texts = 256  # of a request
max_chars = 50_000  # of a text
max_waiting = 256  # requests that wait for the model; the next one is sent away
# -----------------------------------------------------------------------------
TOGETHER = 256  # texts computed at once


class Texts(BaseModel):
    texts: list[str]
    explain: bool = False


class Answer(BaseModel):
    """A label (or list of labels) and a probability for each class, per text; with explain also [class, [[piece of the
    text, what it adds to the log-odds of that class]]]."""
    model: str
    labels: list[str | list[str]]
    probabilities: list[dict[str, float]]
    explanations: list[tuple[str, list[tuple[str, float]]]] = []


def compute(classifier, jobs):
    """[(texts, explain)] -> for each job its probabilities and explanations. Those to be explained come one by one."""
    plain = [text for texts, explain in jobs if not explain for text in texts]
    rows = iter(classifier.probs(plain))
    answers = []
    for texts, explain in jobs:
        found = [classifier.explain(text) for text in texts] if explain else []
        probs = [p for p, *_ in found] if explain else [next(rows) for _ in texts]
        answers.append((probs, [why for _, *why in found]))
    return answers


class BodyLimit:
    """ASGI: a 413 for a body that is, or turns out to be, too large, before it is read."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        seen = 0

        async def counted():
            nonlocal seen
            message = await receive()
            seen += len(message.get('body', b''))
            if seen > max_bytes:
                raise HTTPException(413, f'the body is larger than {max_bytes} bytes')
            return message
        length = dict(scope.get('headers', ())).get(b'content-length', b'0')
        if not length.isdigit() or int(length) <= max_bytes:
            return await self.app(scope, counted, send)
        await JSONResponse({'detail': f'the body is larger than {max_bytes} bytes'}, 413)(scope, receive, send)


def make_app(classifier):
    """The FastAPI application around a Classifier."""
    queue = asyncio.Queue(max_waiting)

    async def work():
        while True:
            waiting = [await queue.get()]
            while not queue.empty() and sum(len(texts) for (texts, _), _ in waiting) < TOGETHER:
                waiting.append(queue.get_nowait())
            try:
                answers = await asyncio.to_thread(compute, classifier, [job for job, _ in waiting])
            except Exception as error:
                answers = [error] * len(waiting)
            for (_, future), answer in zip(waiting, answers):
                if not future.done():  # whoever asked may have gone
                    (future.set_exception if isinstance(answer, Exception) else future.set_result)(answer)

    @asynccontextmanager
    async def lifespan(app):
        worker = asyncio.create_task(work())
        yield
        worker.cancel()

    app = FastAPI(title='nanoloss', lifespan=lifespan)
    app.add_middleware(BodyLimit)

    @app.exception_handler(RequestValidationError)
    async def refuse(request, error):
        """FastAPI's own answer repeats the input, which may be huge, or not text at all."""
        first = error.errors()[0]
        return JSONResponse({'detail': f'{".".join(map(str, first["loc"][:3]))}: {first["msg"]}'[:200]
                             .encode('ascii', 'replace').decode()}, 422)

    @app.post('/predict')
    async def predict(body: Texts) -> Answer:
        if not 1 <= len(body.texts) <= (1 if body.explain else max_texts):
            raise HTTPException(422, f'give 1 to {max_texts} texts, or 1 to explain')
        if max(map(len, body.texts)) > max_chars:
            raise HTTPException(422, f'a text is longer than {max_chars} characters')
        future = asyncio.get_running_loop().create_future()
        try:
            queue.put_nowait(((body.texts, body.explain), future))
        except asyncio.QueueFull:
            raise HTTPException(503, 'too many requests are waiting', {'Retry-After': '1'}) from None
        probs, explanations = await future
        return Answer(model=classifier.id, labels=[classifier.label(p) for p in probs], explanations=explanations,
                      probabilities=[dict(zip(classifier.classes, p.tolist())) for p in probs])

    @app.get('/health')
    async def health() -> dict:
        return {'status': 'ok', 'model': classifier.id, 'classes': classifier.classes, 'waiting': queue.qsize()}

    @app.get('/', response_class=HTMLResponse, include_in_schema=False)
    async def page():
        return PAGE
    return app


PAGE = '''<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>nanoloss</title>
<style>
body { font: 1.05rem/1.5 system-ui, sans-serif; max-width: 44rem; margin: 1rem auto; padding: 0 1rem;
       color: #111; background: #fff }
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
const form = document.forms[0], text = document.getElementById('text'), answer = document.getElementById('answer')
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
    const reply = await fetch('predict', {method: 'POST', headers: {'Content-Type': 'application/json'},
                                          body: JSON.stringify({texts: [text.value], explain: true})})
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
    const [name, pieces] = found.explanations[0], most = Math.max(...pieces.map(x => Math.abs(x[1])), 1e-9)
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
    if which not in ('last', 'best') or min(max_bytes, max_texts, max_chars, max_waiting) < 1:
        fail("which is 'last' or 'best', and the limits are at least 1")
    try:
        classifier = Classifier(folders[0], which)
        listener = socket.create_server((host, port), backlog=1024)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else a reply waits 40 ms for the client's ACK
    except ValueError as error:
        fail(error)
    except (OSError, OverflowError) as error:
        fail(f'cannot listen at {host}:{port}: {error}')
    print(f'{classifier.id} at http://{host}:{listener.getsockname()[1]}', flush=True)
    settings = uvicorn.Config(make_app(classifier), log_level='warning', timeout_graceful_shutdown=30)
    uvicorn.Server(settings).run(sockets=[listener])


if __name__ == '__main__':
    given = []
    configure(globals(), positional=given)
    main(given)
