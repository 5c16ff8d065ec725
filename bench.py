"""How fast, beside what else people use -> results/bench/: a table, two figures, every measurement.

    python bench.py                                  all of it, about 30 minutes on 2 cores
    python bench.py --only='bert|nn' --repeats=1     the rows whose name this regular expression finds

Notable:
- Every row is a process of its own, on the same reviews, all in the same run; they take turns, so that a machine
  whose speed drifts does so for all. The table gives the median, and the lowest and the highest.
- Review tokens are counted before padding, bags and token dropout, up to block_size a review. A speed is that of
  the second epoch of train.py, or of its evaluation of val; for the peers, of batches spread evenly over the sizes.
- The peers (requirements-extra.txt) are trained as is usual: shuffled batches padded to their longest review, or
  batches grouped by length, torch's fused AdamW on all weights.
"""
import hashlib
import json
import math
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from torch.nn import functional as F

from config import configure, fail
from model import to_bags

# -----------------------------------------------------------------------------
dataset = 'imdb'  # made by prepare.py
data_dir = 'data'  # the folder of data sets
out_dir = 'results/bench'  # of the table, the figures and the measurements
only = ''  # a regular expression: rows in whose name it is found
repeats = 3  # of every row
n_reviews = 5120  # of train, that speeds are measured on
n_val = 1000  # of val, likewise
sizes = '2500,8000,25000,80000,250000'  # reviews, for the cost as the data grow; '' for none
threads = 0  # CPU threads of a row; 0: as many as there are cores
child = ''  # the script calls itself with this to measure one row
# -----------------------------------------------------------------------------
BLOCK = 512  # block_size of train.py, for the peers too
HERE = Path(__file__).parent
START = float(os.environ.get('BENCH_START', 0))  # when the parent started this process
HUGE = {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}
OURS = {  # row: arguments of train.py, on top of config/bce.py
    'ours: config/bce.py': [],
    'ours, two processes of half the threads': [],
    'ours, one run shared by two processes': [],
    'ours without token dropout': ['--token_dropout=0'],
    'ours without bags': ['--bag=False'],
    'ours without deferred steps': ['--deferred=False'],
    'ours without parts': ['--max_tokens=1000000000'],
    'ours without grouping by size': ['--pool=1'],
    'ours without bfloat16': ['--dtype=float32'],
    'ours without huge pages': [],
    'ours with torch.compile': ['--compile'],
    'ours, 4 heads, batch 64': ['--batch_size=64', '--n_head=4'],
    'ours, 4 heads, batch 64, without token dropout': ['--batch_size=64', '--n_head=4', '--token_dropout=0'],
}
PEERS = {  # row: what `peer` makes of it, 4 heads, batch 64
    'nn.TransformerEncoder, bfloat16, padded': ('torch', 'bfloat16', False, 0),
    'nn.TransformerEncoder, bfloat16, grouped': ('torch', 'bfloat16', True, 0),
    'bert, float32, padded': ('transformers', 'float32', False, 0),
    'bert, bfloat16, padded': ('transformers', 'bfloat16', False, 0),
    'bert, float32, grouped': ('transformers', 'float32', True, 0),
    'bert, bfloat16, grouped': ('transformers', 'bfloat16', True, 0),
    'bert, bfloat16, grouped, our token dropout': ('transformers', 'bfloat16', True, 0.8),
}
BAGS = {'TF-IDF of words and pairs + logistic regression': 'tfidf', 'NB-SVM on words and pairs': 'nbsvm'}


def load(split, n=None):
    """The first n reviews of a split of the data set -> tokens, offsets, labels."""
    folder = Path(data_dir) / dataset
    try:
        tokens, offsets, labels = (np.load(folder / f'{split}_{name}.npy', mmap_mode='r')
                                   for name in ('tokens', 'offsets', 'labels'))
    except FileNotFoundError as error:
        fail(f'no data in {folder} ({error.filename} is missing); make it with: python prepare.py --source=...')
    n = min(n or len(labels), len(labels))
    return tokens[:int(offsets[n])], offsets[:n + 1], labels[:n]


def save(folder, splits):
    """Write a data set as prepare.py would; splits: {split: (tokens, offsets, labels)}."""
    folder.mkdir()
    meta, sums = json.loads((Path(data_dir) / dataset / 'meta.json').read_text()), {}
    for split, arrays in splits.items():
        for name, array in zip(('tokens', 'offsets', 'labels'), arrays):
            np.save(folder / f'{split}_{name}.npy', array)
            sums[f'{split}_{name}.npy'] = hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
    (folder / 'meta.json').write_text(json.dumps({**meta, 'sha256': sums}))


def repeat(split, n):
    """A split of n reviews: those of the given one again and again."""
    tokens, offsets, labels = split
    times, rest = divmod(n, len(labels))
    starts = np.arange(times, dtype=np.uint64)[:, None] * offsets[-1] + offsets[:-1]
    last = times * offsets[-1] + offsets[:rest + 1]
    return (np.concatenate([tokens] * times + [tokens[:int(offsets[rest])]]), np.concatenate([starts.ravel(), last]),
            np.concatenate([labels] * times + [labels[:rest]]))


# what one process measures

def matrix_product():
    """The machine's peak: TFLOP/s of a product of two bfloat16 matrices."""
    a, n = torch.randn(2048, 2048).bfloat16(), 2048
    torch.set_num_threads(threads)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return {'peak': 2 * n ** 3 / min(times) / 1e12}


class Plain(nn.Module):
    """Embedding, torch.nn.TransformerEncoder with its defaults, mean, linear: ids, mask [B, T] -> logits [B, 2]."""

    def __init__(self, vocab_size):
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
        self.embed, self.linear = nn.Embedding(vocab_size, 128), nn.Linear(128, 2)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, ids, mask):
        x = self.encoder(self.embed(ids), src_key_padding_mask=~mask)
        return self.linear((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def peer(library, dtype, grouped, token_dropout):
    """Speed of a peer, on batches of 64: 3 of reviews drawn at random, or 8 spread evenly over the sorted reviews."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)  # of nn.TransformerEncoder's evaluation: it fails under autocast
    rng, (tokens, offsets, labels) = np.random.default_rng(0), load('train', n_reviews)
    vocab_size = json.loads((Path(data_dir) / dataset / 'meta.json').read_text())['vocab_size']
    if library == 'torch':
        model = forward = Plain(vocab_size)
    else:
        from transformers import BertConfig, BertForSequenceClassification
        model = BertForSequenceClassification(BertConfig(
            vocab_size=vocab_size, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512,
            max_position_embeddings=BLOCK, num_labels=2))
        forward = lambda ids, mask: model(ids, attention_mask=mask).logits  # noqa: E731
    optimizer = torch.optim.AdamW(model.parameters(), 4e-4, fused=True)
    reviews = [tokens[int(a):int(b)][:BLOCK].astype(np.int64) for a, b in zip(offsets, offsets[1:])]
    order = np.argsort([len(review) for review in reviews], kind='stable') if grouped else rng.permutation(len(reviews))
    n = 8 if grouped else 3

    def batch(i, leave_out):
        rows = order[max(0, int((i + 0.5) / n * len(order)) - 32):][:64]
        kept = [torch.from_numpy(reviews[k][rng.random(len(reviews[k])) >= leave_out]) for k in rows]
        ids = nn.utils.rnn.pad_sequence(kept, batch_first=True)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(review) for review in kept])[:, None]
        return ids, mask, torch.from_numpy(labels[rows].astype(np.int64)), sum(len(reviews[k]) for k in rows)

    def step(ids, mask, y, training=True):
        with torch.set_grad_enabled(training), torch.autocast('cpu', torch.bfloat16, enabled=dtype == 'bfloat16'):
            logits = forward(ids, mask)
        if training:
            F.cross_entropy(logits.float(), y).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    step(*batch(n // 2, token_dropout)[:3])
    got = {'first_step': time.time() - START}
    step(*batch(n // 2, token_dropout)[:3])
    for name, training in ('train', True), ('eval', False):
        model.train(training)
        start, done = time.perf_counter(), 0
        for i in range(n):
            *inputs, count = batch(i, token_dropout * training)
            step(*inputs, training)
            done += count
        got[name] = done / (time.perf_counter() - start)
    return got | {'memory': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2 ** 10}


def bag_of_words(kind):
    """What one would use instead: accuracy on test, and the seconds to vectorize, fit and predict the whole data set.

    Both values of C are the best of four or five on the val of imdb_dev."""
    import scipy.sparse
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    from prepare import tokenizer
    enc, texts, labels = tokenizer(), {}, {}
    for split in 'train', 'test':
        tokens, offsets, labels[split] = load(split)
        texts[split] = [enc.decode(tokens[int(a):int(b)].tolist()) for a, b in zip(offsets, offsets[1:])]
    start, y = time.perf_counter(), np.asarray(labels['train'])
    if kind == 'tfidf':
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        x, weigh = vectorizer.fit_transform(texts['train']), lambda x: x
        model = LogisticRegression(C=30, max_iter=1000)
    else:  # Wang and Manning 2012: a linear SVM on words weighted by naive Bayes' log-count ratio
        vectorizer = CountVectorizer(ngram_range=(1, 2), binary=True, min_df=2)
        x = vectorizer.fit_transform(texts['train'])
        p, q = (x[y == k].sum(0) + 1 for k in (1, 0))
        ratio = scipy.sparse.diags(np.asarray(np.log((p / p.sum()) / (q / q.sum()))).ravel())
        weigh, model = lambda x: x @ ratio, LinearSVC(C=0.003)
    model.fit(weigh(x), y)
    accuracy = model.score(weigh(vectorizer.transform(texts['test'])), labels['test'])
    return {'accuracy': accuracy, 'seconds': time.perf_counter() - start}


# what the parent does

def call(args):
    """Measure in a process of its own -> what it says on its last line, or None."""
    got = subprocess.run([sys.executable, __file__, *args, f'--dataset={dataset}', f'--data_dir={data_dir}',
                          f'--threads={threads}', f'--n_reviews={n_reviews}'], capture_output=True, text=True,
                         env={**os.environ, **HUGE, 'BENCH_START': str(time.time())})
    if got.returncode:
        fail(f'{" ".join(args)}: {got.stderr.strip()[-500:]}')
    return json.loads(got.stdout.splitlines()[-1])


def train(folder, name):
    """Run train.py on folder/data and folder/start -> its speeds, peak memory, and the time to its first step."""
    environment = {**os.environ, **(HUGE if 'huge' not in name else {}),
                   'TORCHINDUCTOR_CACHE_DIR': tempfile.mkdtemp(dir=folder)}
    processes = 2 if 'two processes' in name else 1
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2'] if 'shared' in name else []
    own = [f'--data_dir={folder}', f'--threads={max(1, threads // processes)}', *OURS[name]]

    def start(data, seed, *more):
        out = tempfile.mkdtemp(dir=folder)
        command = [sys.executable, *launch, 'train.py', 'config/bce.py', *own, f'--dataset={data}', f'--out_dir={out}',
                   f'--seed={seed}', *more]
        return Path(out) / f'seed{seed}/log.jsonl', subprocess.Popen(command, env=environment, cwd=HERE,
                                                                     stdout=subprocess.DEVNULL)

    began = time.time()  # the first step ends just before the first line of the log, on a val of a few reviews
    log, process = start('start', 0, '--eval_interval=1')
    while not log.exists() and process.poll() is None:
        time.sleep(0.01)
    first = time.time() - began
    process.terminate()  # not kill: torchrun is to end its processes first
    process.wait()
    runs = [start('data', seed, '--epochs=2') for seed in range(1 if launch else processes)]
    if any([process.wait() for _, process in runs]):
        fail(f'{name}: train.py failed')
    logs = [json.loads(log.read_text().splitlines()[-1]) for log, _ in runs]
    total = {ours: sum(log[theirs] for log in logs) for ours, theirs in
             (('train', 'tokens_per_second'), ('eval', 'eval_tokens_per_second'), ('memory', 'peak_memory_mb'))}
    return total | {'first_step': first}


def flops(share_kept, bag):
    """FLOPs that training needs per review token: 3 times forward's, of matrix products, without padding."""
    tokens, offsets, _ = load('train', n_reviews)
    lengths = np.minimum(np.diff(offsets).astype(np.int64), BLOCK)
    flat = np.concatenate([tokens[int(a):int(a) + n] for a, n in zip(offsets, lengths)]).astype(np.int64)
    keep = np.random.default_rng(0).random(len(flat)) < share_kept
    keep[np.cumsum(lengths) - lengths] = True
    size = torch.from_numpy(np.add.reduceat(keep, np.cumsum(lengths) - lengths, dtype=np.int64))
    if bag:
        size = to_bags(torch.from_numpy(flat[keep]), size)[2]
    size = size.double()
    return 3 * 2 * float((24 * 128 ** 2 * size + 4 * 128 * size ** 2).sum()) / lengths.sum()


def middle(values, digits=0):
    """'median (lowest to highest)'."""
    return ' '.join([f'{statistics.median(values):,.{digits}f}',
                     f'({min(values):,.{digits}f} to {max(values):,.{digits}f})' if len(values) > 1 else '(once)'])


def show(rows, scaling, out):
    """Write table.md and the figures from {row: [measurements]} and [(reviews, measurement)]."""
    import matplotlib
    matplotlib.use('agg')
    from matplotlib import pyplot as plt
    peak = statistics.median(m['peak'] for m in rows['peak'])
    lines = [f'{torch.cpu.get_capabilities().get("cpu_name", "CPU")}, {threads} threads, torch {torch.__version__}; '
             f'a bfloat16 matrix product reaches {middle([m["peak"] for m in rows["peak"]], 2)} TFLOP/s. '
             f'Median (lowest to highest) of {len(rows["peak"])}.', '',
             '| | training, review tokens/s | share of the peak | evaluation, review tokens/s | first step, s | MB |',
             '| --- | --- | --- | --- | --- | --- |']
    speeds = {}
    for name, got in rows.items():
        if name in OURS or name in PEERS:
            speeds[name] = [m['train'] for m in got]
            dropped = 'without token dropout' not in name if name in OURS else PEERS[name][3]
            needed = flops(0.2 if dropped else 1, name in OURS and 'without bags' not in name)
            share = statistics.median(speeds[name]) * needed / peak / 1e12
            lines.append(f'| {name} | {middle(speeds[name])} | {share:.0%} | {middle([m["eval"] for m in got])} | '
                         f'{middle([m["first_step"] for m in got], 1)} | {middle([m["memory"] for m in got])} |')
    if any(name in BAGS for name in rows):
        lines += ['', '| | accuracy on test, % | seconds |', '| --- | --- | --- |']
        lines += [f'| {name} | {100 * got[0]["accuracy"]:.2f} | {middle([m["seconds"] for m in got])} |'
                  for name, got in rows.items() if name in BAGS]
    if scaling:
        lines += ['', '| reviews | microseconds a review token | MB |', '| --- | --- | --- |']
        lines += [f'| {n:,} | {1e6 / m["train"]:.2f} | {m["memory"]:,} |' for n, m in scaling]
    (out / 'table.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))

    if speeds:
        names = sorted(speeds, key=lambda name: statistics.median(speeds[name]))
        figure, axis = plt.subplots(figsize=(9, 0.8 + 0.3 * len(names)), layout='constrained')
        axis.barh(names, [statistics.median(speeds[name]) for name in names],
                  color=['tab:blue' if name in OURS else 'tab:gray' for name in names])
        for i, name in enumerate(names):
            axis.plot(speeds[name], [i] * len(speeds[name]), 'k.', markersize=3)
        axis.set(xscale='log', xlabel='review tokens a second in training (log scale)')
        axis.grid(axis='x', which='both', alpha=0.3)
        figure.savefig(out / 'speed.png', dpi=110)
    if scaling:
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout='constrained')
        n = [n for n, _ in scaling]
        for axis, values, label in ((axes[0], [1e6 / m['train'] for _, m in scaling], 'microseconds a review token'),
                                    (axes[1], [m['memory'] / 1024 for _, m in scaling], 'peak memory, GB')):
            axis.plot(n, values, 'o-')
            axis.set(xscale='log', xlabel='training reviews', ylabel=label, ylim=(0, 1.3 * max(values)))
            axis.grid(alpha=0.3)
        figure.savefig(out / 'growth.png', dpi=110)


def main():
    rows = {'peak': []} | {name: [] for name in [*OURS, *PEERS, *BAGS] if re.search(only, name)}
    for package, names in ('transformers', [n for n in PEERS if 'bert' in n]), ('sklearn', BAGS):
        for name in names if not find_spec(package) else ():
            if rows.pop(name, None) is not None:
                print(f'skipped: {name} ({package} is not installed; pip install -r requirements-extra.txt)')
    out, scaling = Path(out_dir), []
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, open(out / 'measurements.jsonl', 'w') as log:
        def note(name, got):
            print(f'{time.strftime("%H:%M:%S")} {name}: {json.dumps(got)}', flush=True)
            log.write(json.dumps({'row': name, **got}) + '\n')
            log.flush()
            return got
        folder = Path(folder)
        reviews, val = load('train', n_reviews), load('val', n_val)
        save(folder / 'data', {'train': reviews, 'val': val, 'test': load('test', 8)})
        save(folder / 'start', {'train': reviews, 'val': load('val', 8), 'test': load('test', 8)})
        for turn in range(repeats):
            for name, got in rows.items():
                if name == 'peak':
                    got.append(note(name, call(['--child=peak'])))
                elif name in OURS and not (turn and 'compile' in name):  # minutes; once is enough
                    got.append(note(name, train(folder, name)))
                elif name in PEERS or name in BAGS:
                    got.append(note(name, call([f'--child={name}'])))
        for n in (int(size) for size in sizes.split(',') if size and not only):
            save(folder / f'{n}', {'train': repeat(load('train'), n), 'val': load('val', 256), 'test': load('test', 8)})
            subprocess.run([sys.executable, 'train.py', 'config/bce.py', f'--data_dir={folder}', f'--dataset={n}',
                            f'--out_dir={folder}/out{n}', f'--threads={threads}', '--epochs=1'], check=True,
                           cwd=HERE, env={**os.environ, **HUGE}, stdout=subprocess.DEVNULL)
            got = json.loads((folder / f'out{n}/seed0/log.jsonl').read_text().splitlines()[-1])
            got = {'train': got['tokens_per_second'], 'memory': got['peak_memory_mb']}
            scaling.append((n, note(f'{n} reviews', got)))
    show(rows, scaling, out)


if __name__ == '__main__':
    configure(globals())
    threads = threads or os.cpu_count() or 1
    if child == 'peak':
        print(json.dumps(matrix_product()))
    elif child:
        print(json.dumps(peer(*PEERS[child]) if child in PEERS else bag_of_words(BAGS[child])))
    else:
        main()
