"""serve.py under load on this machine -> results/serve/load.md: python runs/load.py out/ce/seed0 (needs wrk)

First 10,000 requests of 64 clients, one review each, every answer held against predict.py's; then wrk with 1, 16 and 64
clients, 10 seconds each. The reviews are those of IMDB's val, from data/imdb.
"""
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from config import fail  # noqa: E402
from predict import Classifier  # noqa: E402

LUA = '''
local bodies, i = {}, 0
for line in io.lines(os.getenv('BODIES')) do bodies[#bodies + 1] = line end
request = function()
    i = i % #bodies + 1
    return wrk.format('POST', '/predict', {['Content-Type'] = 'application/json'}, bodies[i])
end
done = function(summary, latency)
    local e = summary.errors
    print(string.format('%f %f %f %f %d', summary.requests / summary.duration * 1e6, latency:percentile(50) / 1000,
        latency:percentile(95) / 1000, latency:percentile(99) / 1000, e.connect + e.read + e.write + e.status + e.timeout))
end
'''
if len(sys.argv) != 2 or not shutil.which('wrk'):
    fail('python runs/load.py out/ce/seed0, with wrk installed')
run = sys.argv[1]
classifier = Classifier(run)
tokens, offsets = (np.load(ROOT / f'data/imdb/val_{name}.npy') for name in ('tokens', 'offsets'))
reviews = [classifier.encoding.decode(tokens[i:j].tolist()) for i, j in zip(offsets.astype(int), offsets[1:].astype(int))]
start = time.perf_counter()
subprocess.run([sys.executable, ROOT / 'predict.py', run, 'a text'], capture_output=True, check=True)
first = time.perf_counter() - start
start = time.perf_counter()
expected = classifier.probs(reviews)
speed = len(reviews) / (time.perf_counter() - start)
lines = [f'{run}, reviews of IMDB\'s val, of {np.diff(offsets).mean():.0f} tokens on average; server and clients on the same 2 cores.', '',
         f'predict.py: {first:.1f} s from its start to a first answer; {speed:,.0f} reviews a second, from text to '
         'probabilities, in batches.', '']

server = subprocess.Popen([sys.executable, ROOT / 'serve.py', run, '--port=0'], stdout=subprocess.PIPE, text=True)
try:
    port = int(server.stdout.readline().rsplit(':', 1)[1])
    here = local()

    def ask(i):
        """One request -> its status, whether the label is predict.py's, how far the probability is from it."""
        if not hasattr(here, 'connection'):
            here.connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
        i %= len(reviews)
        here.connection.request('POST', '/predict', json.dumps({'texts': [reviews[i]]}), {'Content-Type': 'application/json'})
        reply = here.connection.getresponse()
        answer = json.loads(reply.read())
        if reply.status != 200:
            return reply.status, False, 1.0
        return 200, answer['labels'][0] == classifier.label(expected[i]), abs(
            answer['probabilities'][0][classifier.classes[0]] - expected[i, 0])
    start = time.perf_counter()
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(10_000)))
    seconds = time.perf_counter() - start
    wrong = [expected[i % len(reviews)].max() - 0.5 for i, (_, same, _) in enumerate(answers) if not same]
    lines += [f'10,000 requests of 64 clients in {seconds:.0f} s: {sum(status != 200 for status, *_ in answers)} errors, '
              f'{len(wrong)} labels other than predict.py\'s' + (f' (where its probability is at most {0.5 + max(wrong):.3f})' if wrong else '') +
              f', probabilities at most {max(distance for *_, distance in answers):.3f} apart (bfloat16 rounds a review '
              'differently in another batch).', '',
              '| clients (wrk, 10 s) | requests/s | p50, ms | p95, ms | p99, ms | errors |', '| --- | --- | --- | --- | --- | --- |']
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / 'load.lua').write_text(LUA)
        (Path(folder) / 'bodies').write_text('\n'.join(json.dumps({'texts': [review]}) for review in reviews))
        for clients in 1, 16, 64:
            out = subprocess.run(['wrk', '-t1', f'-c{clients}', '-d10s', '--timeout=10s', f'-s{folder}/load.lua',
                                  f'http://127.0.0.1:{port}'], capture_output=True, text=True, check=True,
                                 env={'BODIES': f'{folder}/bodies', 'PATH': '/usr/bin'}).stdout
            rate, *latency, errors = map(float, out.splitlines()[-1].split())
            lines.append(f'| {clients} | {rate:,.0f} | ' + ' | '.join(f'{x:,.1f}' for x in latency) + f' | {errors:.0f} |')
finally:
    server.terminate()
    server.wait()
(ROOT / 'results/serve').mkdir(parents=True, exist_ok=True)
(ROOT / 'results/serve/load.md').write_text('\n'.join(lines) + '\n')
print('\n'.join(lines))
