"""How fast, beside what else people use -> results/bench/: a table, two figures, every measurement.

    python bench.py                                 all of it, about 30 minutes on 2 cores
    python bench.py --only='bert|nn' --repeats=1    rows whose name this regular expression finds
    python bench.py --only=company                  what it costs to share the machine
    python bench.py --device=cuda --n_reviews=24998 --out_dir=results/gpu/bench     on a GPU

Notable:
- Every row is a process of its own, on the same reviews, all in the same run; they take turns, so
  that a machine whose speed drifts does so for all. The table gives the median, and the lowest and
  the highest.
- Review tokens are counted before padding, bags and token dropout, up to block_size a review. A
  speed is that of the second epoch of train.py, or of its evaluation of val; for the peers, of
  batches spread evenly over the sizes.
- In company: beside another process that has as many threads. What that costs depends on how the
  threads wait (nanoloss/__init__.py).
- The peers (requirements-extra.txt) are trained as is usual: shuffled batches padded to their
  longest review, or batches grouped by length, torch's fused AdamW on all weights.
"""
import contextlib
import csv
import hashlib
import http.client
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nanoloss  # noqa: F401 (before torch, whose threads it tells how to wait)
import numpy as np
import torch
import torch.nn as nn
from torch.nn import functional as F

from nanoloss.settings import configure, fail
from nanoloss.data import batches, load_data, spans_of
from nanoloss.devices import (
    autocast, choose_device, hardware_name, peak_memory_mb, synchronize)
from nanoloss.files import write_file, write_json_lines
from nanoloss.tokenizer import decode, tokenizer
from nanoloss.vocabulary import learn_vocabulary

# -----------------------------------------------------------------------------
dataset = 'imdb'  # made by prepare.py
data_dir = 'data'  # the folder of data sets
out_dir = 'results/bench'  # of the table, the figures and the measurements
only = ''  # a regular expression: rows in whose name it is found
repeats = 3  # of every row
n_reviews = 5120  # of train, that speeds are measured on
n_val = 1000  # of val, likewise
sizes = '2500,8000,25000,80000,250000'  # reviews, for the cost as the data grow; '' for none
device = 'cpu'  # or cuda, which has rows of its own
n_layer = 2  # of the encoders; config/paper.py's, as are the next two
n_embd = 128
n_head = 4  # of the peers, and of our rows that are like them
threads = 0  # CPU threads of a row; 0: as many as there are cores
nanogpt = '../shared/peers/nanoGPT'  # the folder of its model.py; rows without it are skipped
child = ''  # the script calls itself with this to measure one row
# -----------------------------------------------------------------------------
ROOT = Path(__file__).parent
START = float(os.environ.get('BENCH_START', 0))  # when the parent started this process
HUGE_PAGES = {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}  # fewer page faults, on Linux
BLOCK_SIZE = 512  # config/paper.py's, as is the next
TOKEN_DROPOUT = 0.8


# The rows of the table

CPU = ('cpu',)
GPU = ('cuda',)
BOTH = ('cpu', 'cuda')


@dataclass
class Ours:
    """train.py with config/bce.py."""
    name: str
    arguments: tuple = ()  # on top of config/bce.py
    n_runs: int = 1  # at the same time, with an equal part of the threads each
    n_processes: int = 1  # that share a run, likewise
    huge_pages: bool = True
    spins: int = 0  # of its threads while they wait; 0: as the scripts choose
    once: bool = False  # not to be repeated
    devices: tuple = CPU  # that it is measured on
    package: str = 'torch'  # that it needs

    def token_dropout(self):
        return 0.0 if '--token_dropout=0' in self.arguments else TOKEN_DROPOUT

    def bag(self):
        return '--bag=False' not in self.arguments


@dataclass
class Peer:
    """What others train: 4 heads, batches of 64."""
    name: str
    package: str  # that its encoder comes from
    dtype: str
    grouped: bool  # batches of reviews of about one length
    dropout: float = 0.0  # of tokens, as ours
    devices: tuple = BOTH
    compile: bool = False

    def token_dropout(self):
        return self.dropout

    def bag(self):
        return False


@dataclass
class BagOfWords:
    """What one would use instead."""
    name: str
    kind: str  # tfidf or nbsvm
    devices: tuple = CPU
    package: str = 'sklearn'


USUAL_SPINS = 300_000  # libgomp's own choice
LIKE_PEERS = ('--batch_size=64',)  # with their heads
OURS = [
    Ours('ours: config/bce.py', devices=BOTH),
    Ours('ours without CUDA graphs', ('--graphs=False',), devices=GPU),
    Ours('ours in float16', ('--dtype=float16',), devices=GPU),
    Ours('ours, eight runs on one GPU', n_runs=8, devices=GPU),
    Ours('ours, two processes of half the threads', n_runs=2),
    Ours('ours, one run shared by two processes', n_processes=2),
    Ours('ours without token dropout', ('--token_dropout=0',), devices=BOTH),
    Ours('ours without bags', ('--bag=False',), devices=BOTH),
    Ours('ours without deferred steps', ('--deferred=False',)),
    Ours('ours without parts', ('--max_tokens=1000000000',)),
    Ours('ours without grouping by size', ('--pool=1',)),
    Ours('ours without bfloat16', ('--dtype=float32',), devices=BOTH),
    Ours('ours without huge pages', huge_pages=False),
    Ours('ours, whose threads spin as is usual', spins=USUAL_SPINS),
    Ours('ours with torch.compile', ('--compile',), once=True, devices=BOTH),  # it takes minutes
    Ours('ours, 4 heads, batch 64', LIKE_PEERS, devices=BOTH),
    Ours('ours, 4 heads, batch 64, without token dropout', (*LIKE_PEERS, '--token_dropout=0'),
         devices=BOTH),
]
PEERS = [
    Peer('nn.TransformerEncoder, bfloat16, padded', 'torch', 'bfloat16', False),
    Peer('nn.TransformerEncoder, bfloat16, grouped', 'torch', 'bfloat16', True),
    Peer('bert, float32, padded', 'transformers', 'float32', False, devices=CPU),
    Peer('bert, bfloat16, padded', 'transformers', 'bfloat16', False),
    Peer('bert, float32, grouped', 'transformers', 'float32', True, devices=CPU),
    Peer('bert, bfloat16, grouped', 'transformers', 'bfloat16', True),
    Peer('bert with torch.compile, bfloat16, grouped', 'transformers', 'bfloat16', True,
         devices=GPU, compile=True),
    Peer('bert, bfloat16, grouped, our token dropout', 'transformers', 'bfloat16', True,
         TOKEN_DROPOUT),
]
BAGS = [
    BagOfWords('TF-IDF of words and pairs + logistic regression', 'tfidf'),
    BagOfWords('NB-SVM on words and pairs', 'nbsvm'),
]


@dataclass
class Language:
    """A language model of config/lm_ce.py's shape, batch, vocabulary and precision."""
    name: str
    ours: bool = False
    compile: bool = False
    devices: tuple = BOTH
    package: str = 'torch'


LANGUAGE = [
    Language('language model, ours: config/lm_ce.py', ours=True),
    Language('language model, nanoGPT'),
    Language('language model, nanoGPT with torch.compile', compile=True),
]
LM_MIN_COUNT = 8  # in the reviews that speeds are measured on: 13,000 tokens, as in all of IMDB
LM_BLOCKS = 16
LM_BLOCK_SIZE = 256


@dataclass
class Company:
    """The same work alone and in company: a training, predict.py on a file of texts, or serve.py.

    The training is that of config/sample_ce.py on the beginnings of a few reviews, seconds of work
    in small pieces; the run that is predicted with and served is one of these."""
    name: str
    work: str  # train, predict, or serve: a training and a service beside each other
    spins: int = 0  # of the threads while they wait; 0: as the scripts choose
    devices: tuple = CPU
    package: str = 'torch'


COMPANY = [
    Company('company: two trainings', 'train'),
    Company('company: two trainings, whose threads spin as is usual', 'train', USUAL_SPINS),
    Company('company: two times predict.py', 'predict'),
    Company('company: a training and a service', 'serve', package='fastapi'),
]
COMPANY_REVIEWS = 3000  # of train, that a training in company is of
COMPANY_TOKENS = 32  # of each
COMPANY_REQUESTS = 300  # of one review each, one after the other, of a service that is alone


# What a child measures: the machine, a peer, a language model, or bags of words

def measure_peak():
    """The machine's peak: TFLOP/s of a product of two matrices, in its faster precision."""
    size = 2048 if device == 'cpu' else 8192
    a = torch.randn(size, size, device=device)
    torch.set_num_threads(threads)
    peaks = {}
    for dtype in (torch.float32, torch.bfloat16):  # without instructions for it, bfloat16 is slow
        matrix = a.to(dtype)
        times = []
        while len(times) < 12 and sum(times) < 10:
            synchronize(device)
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            synchronize(device)
            times.append(time.perf_counter() - start)
        peaks[str(dtype).removeprefix('torch.')] = 2 * size ** 3 / min(times) / 1e12
    return {'peak': max(peaks.values()), **peaks}


class PlainEncoder(nn.Module):
    """Embedding, torch.nn.TransformerEncoder with its defaults, mean over the review, linear."""

    def __init__(self, vocab_size):
        super().__init__()
        layer = nn.TransformerEncoderLayer(n_embd, n_head, 4 * n_embd, batch_first=True)
        self.embed = nn.Embedding(vocab_size, n_embd)
        self.linear = nn.Linear(n_embd, 2)
        self.encoder = nn.TransformerEncoder(layer, n_layer)

    def forward(self, ids, mask):
        """ids int64 [B, T], mask bool [B, T] (False: padding) -> logits [B, 2]."""
        x = self.encoder(self.embed(ids), src_key_padding_mask=~mask)
        return self.linear((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


class Bert(nn.Module):
    """transformers' BERT of the same size, with fresh weights."""

    def __init__(self, vocab_size):
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification
        config = BertConfig(
            vocab_size=vocab_size, hidden_size=n_embd, num_hidden_layers=n_layer,
            num_attention_heads=n_head, intermediate_size=4 * n_embd,
            max_position_embeddings=BLOCK_SIZE, num_labels=2)
        self.bert = BertForSequenceClassification(config)

    def forward(self, ids, mask):
        """As `PlainEncoder.forward`."""
        return self.bert(ids, attention_mask=mask).logits


def choose_batches(split, grouped, rng):
    """The rows of some batches of 64: of 8 (on a GPU, 80) that are spread evenly over the
    reviews sorted by length, or of 3 (30) at random."""
    if grouped:
        order = np.argsort(split.lengths().clip(max=BLOCK_SIZE), kind='stable')
        n_batches = 8
    else:
        order = rng.permutation(len(split.labels))
        n_batches = 3
    n_batches *= 1 if device == 'cpu' else 10
    chosen = []
    for i in range(n_batches):
        middle = int((i + 0.5) / n_batches * len(order))
        chosen.append(order[max(0, middle - 32):][:64])
    return chosen


def padded_batch(split, rows, token_dropout, rng):
    """The reviews of these rows as is usual -> ids int64 [B, T], mask bool [B, T], labels int64
    [B], and how many tokens they have before token dropout."""
    reviews = []
    n_tokens = 0
    for begin, end in split.spans[rows]:
        review = split.tokens[begin:end][:BLOCK_SIZE].astype(np.int64)
        n_tokens += len(review)
        kept = review[rng.random(len(review)) >= token_dropout]
        reviews.append(torch.from_numpy(kept))
    ids = nn.utils.rnn.pad_sequence(reviews, batch_first=True)
    lengths = torch.tensor([len(review) for review in reviews])
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    labels = torch.from_numpy(split.labels[rows].astype(np.int64))
    return ids, mask, labels, n_tokens


def make_step(model, optimizer, batch, dtype):
    """A step of training or, of a model in eval mode, only its answers."""
    ids, mask, labels = (tensor.to(device, non_blocking=True) for tensor in batch[:3])
    with torch.set_grad_enabled(model.training), autocast(device, dtype):
        logits = model(ids, mask)
    if model.training:
        F.cross_entropy(logits.float(), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def measure_peer(peer):
    """Review tokens/s of a Peer in training and evaluation, its first step, its memory in MB."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    # the fast path of nn.TransformerEncoder's evaluation fails under autocast
    torch.backends.mha.set_fastpath_enabled(False)
    rng = np.random.default_rng(0)
    data, meta = load_data(Path(data_dir) / dataset)
    split = data['train'].take(slice(n_reviews))
    model = {'torch': PlainEncoder, 'transformers': Bert}[peer.package](meta['vocab_size'])
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-4, fused=True)
    if peer.compile:
        model.compile(dynamic=True)
    chosen = choose_batches(split, peer.grouped, rng)

    # the first steps take memory and choose kernels, on GPUs for every length: they are no measure
    # of the speed
    first = chosen if device == 'cuda' else [chosen[len(chosen) // 2]] * 2
    measurement = {}
    for key, training in (('train', True), ('eval', False)):
        model.train(training)
        token_dropout = peer.dropout if training else 0.0
        for rows in first:
            make_step(model, optimizer, padded_batch(split, rows, token_dropout, rng), peer.dtype)
            synchronize(device)
            measurement.setdefault('first_step', time.time() - START)
        n_tokens = 0
        start = time.perf_counter()
        for rows in chosen:
            batch = padded_batch(split, rows, token_dropout, rng)
            make_step(model, optimizer, batch, peer.dtype)
            n_tokens += batch[-1]
        synchronize(device)
        measurement[key] = n_tokens / (time.perf_counter() - start)
    measurement['memory'] = peak_memory_mb(device)
    return measurement


def measure_nanogpt(row):
    """Tokens/s of nanoGPT's model in nanoGPT's training step, with bfloat16 autocast."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    spec = importlib.util.spec_from_file_location('nanogpt', Path(nanogpt) / 'model.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    data, meta = load_data(Path(data_dir) / dataset)
    split = data['train'].take(slice(n_reviews))
    pieces = [split.tokens[begin:end] for begin, end in split.spans]
    split = split._replace(tokens=np.concatenate(pieces),
                           spans=spans_of(np.cumsum([0, *split.lengths()])))
    encoding = tokenizer()
    vocabulary = learn_vocabulary(split, encoding, True, 'none', LM_MIN_COUNT,
                                  int(split.lengths().max()), 'head', spell=True)
    stream = vocabulary.encode(split, encoding).tokens.astype(np.int64)
    config = module.GPTConfig(block_size=LM_BLOCK_SIZE, vocab_size=len(vocabulary.tokens) + 1,
                              n_layer=4, n_head=4, n_embd=256, dropout=0.0, bias=True)
    with contextlib.redirect_stdout(sys.stderr):
        model = module.GPT(config)
        model.to(device)
        optimizer = model.configure_optimizers(0.1, 2e-3, (0.9, 0.99), device)
    if row.compile:
        model = torch.compile(model)
    rng = np.random.default_rng(0)
    n_steps = 12 if device == 'cpu' else 100
    for step in range(n_steps + 3):
        if step == 3:  # the first ones take memory, compile, choose kernels
            synchronize(device)
            start = time.perf_counter()
        begins = rng.integers(0, len(stream) - LM_BLOCK_SIZE - 1, LM_BLOCKS)
        x = torch.from_numpy(np.stack([stream[i:i + LM_BLOCK_SIZE] for i in begins]))
        y = torch.from_numpy(np.stack([stream[i + 1:i + 1 + LM_BLOCK_SIZE] for i in begins]))
        with torch.autocast(device, torch.bfloat16):
            _, loss = model(x.to(device), y.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    synchronize(device)
    seconds = time.perf_counter() - start
    return {'train': n_steps * LM_BLOCKS * LM_BLOCK_SIZE / seconds,
            'memory': peak_memory_mb(device), 'vocabulary': config.vocab_size}


def decoded(split, encoding):
    """The reviews of a split as texts."""
    return [decode(split.tokens[begin:end], encoding) for begin, end in split.spans]


def measure_bag_of_words(row):
    """Accuracy on test, and the seconds to vectorize, fit and predict all of the data set.

    Both values of C are the best of four or five on the val of imdb_dev."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    data, _ = load_data(Path(data_dir) / dataset)
    encoding = tokenizer()
    train_texts = decoded(data['train'], encoding)
    test_texts = decoded(data['test'], encoding)
    train_labels = np.array(data['train'].labels)

    start = time.perf_counter()
    if row.kind == 'tfidf':
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        model = LogisticRegression(C=30, max_iter=1000)
    else:  # Wang and Manning 2012: a linear SVM on words weighted by naive Bayes
        vectorizer = CountVectorizer(ngram_range=(1, 2), binary=True, min_df=2)
        model = LinearSVC(C=0.003)
    train_x = vectorizer.fit_transform(train_texts)
    test_x = vectorizer.transform(test_texts)
    if row.kind == 'nbsvm':
        weights = naive_bayes_weights(train_x, train_labels)
        train_x = train_x @ weights
        test_x = test_x @ weights
    model.fit(train_x, train_labels)
    accuracy = model.score(test_x, data['test'].labels)
    return {'accuracy': accuracy, 'seconds': time.perf_counter() - start}


def naive_bayes_weights(x, labels):
    """Counts of words x, sparse [reviews, words], labels 0 and 1 -> the log-count ratio of each
    word, a diagonal matrix."""
    import scipy.sparse
    p = x[labels == 1].sum(0) + 1
    q = x[labels == 0].sum(0) + 1
    ratio = np.log((p / p.sum()) / (q / q.sum()))
    return scipy.sparse.diags(np.asarray(ratio).ravel())


def measure_as_child(name):
    """What the row of this name measures in this process."""
    if name == 'peak':
        return measure_peak()
    row, = [row for row in (*PEERS, *BAGS, *LANGUAGE) if row.name == name]
    if row in LANGUAGE:
        return measure_nanogpt(row)
    return measure_peer(row) if row in PEERS else measure_bag_of_words(row)


# What the parent does: it runs children and train.py

def call_child(name):
    """Measure a row in a process of its own."""
    command = [sys.executable, __file__, f'--child={name}', f'--dataset={dataset}',
               f'--data_dir={data_dir}', f'--threads={threads}', f'--n_reviews={n_reviews}',
               f'--nanogpt={nanogpt}', *shape(), f'--device={device}']
    environment = {**os.environ, **HUGE_PAGES, 'BENCH_START': str(time.time())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        fail(f'--child={name}: {done.stderr.strip()[-500:]}')
    return json.loads(done.stdout.splitlines()[-1])


def shape():
    """The arguments that say how large the encoders are."""
    return f'--n_layer={n_layer}', f'--n_embd={n_embd}', f'--n_head={n_head}'


def save_data(folder, splits, meta):
    """Write a data set as prepare.py would."""
    folder.mkdir()
    checksums = {}
    for name, split in splits.items():
        reviews = [split.tokens[begin:end] for begin, end in split.spans]
        arrays = {
            'tokens': np.concatenate(reviews),
            'offsets': np.cumsum([0, *split.lengths()], dtype=np.uint64),
            'labels': np.ascontiguousarray(split.labels),
        }
        for key, array in arrays.items():
            file = f'{name}_{key}.npy'
            np.save(folder / file, array)
            checksums[file] = hashlib.sha256(array).hexdigest()
    meta = {key: value for key, value in meta.items() if key != 'unlabelled'}
    (folder / 'meta.json').write_text(json.dumps({**meta, 'sha256': checksums}))


def repeat(split, n):
    """A split of n reviews: those of the given one again and again."""
    return split.take(np.arange(n) % len(split.labels))


def start_training(row, folder, environment, *arguments):
    """Start train.py on a data set in `folder` -> its out_dir, and its process."""
    out = tempfile.mkdtemp(dir=folder)
    launch = []
    if row.n_processes > 1:
        launch = ['-m', 'torch.distributed.run', '--standalone',
                  f'--nproc_per_node={row.n_processes}']
    threads_each = max(1, threads // (row.n_runs * row.n_processes))
    like_peers = row.arguments[:1] == LIKE_PEERS
    command = [sys.executable, *launch, 'train.py', 'config/bce.py', f'--device={device}',
               *(shape() if like_peers else shape()[:2]), f'--data_dir={folder}',
               f'--threads={threads_each}', *row.arguments, f'--out_dir={out}', *arguments]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    return Path(out), process


def spinning(spins):
    """The environment in which threads that wait spin so many times; 0: as the scripts choose."""
    return {'GOMP_SPINCOUNT': str(spins)} if spins else {}


def last_line(log):
    """The last line of a log.jsonl."""
    return json.loads(log.read_text().splitlines()[-1])


def measure_ours(row, folder):
    """Run train.py on folder/start and folder/data -> the seconds to its first step, and its speeds
    and peak memory, of all runs together."""
    environment = {**os.environ, 'TORCHINDUCTOR_CACHE_DIR': tempfile.mkdtemp(dir=folder)}
    if row.huge_pages:
        environment.update(HUGE_PAGES)
    environment.update(spinning(row.spins))

    first_step = None  # on a GPU the same seconds for all rows
    if device == 'cpu' or not row.arguments:
        first_step = time_first_step(row, folder, environment)

    runs = []
    for seed in range(row.n_runs):
        runs.append(start_training(row, folder, environment, '--dataset=data', f'--seed={seed}',
                                   f'--epochs={2 if device == "cpu" else 5}'))
    statuses = [process.wait() for _, process in runs]
    if any(statuses):
        fail(f'{row.name}: train.py failed')
    measurement = {'train': 0, 'eval': 0, 'memory': 0}
    for seed, (out, _) in enumerate(runs):
        line = last_line(out / f'seed{seed}/log.jsonl')
        measurement['train'] += line['tokens_per_second']
        measurement['eval'] += line['eval_tokens_per_second']
        measurement['memory'] += line['peak_memory_mb']
    measurement['first_step'] = first_step
    return measurement


def time_first_step(row, folder, environment):
    """The seconds from a row's start to the end of its first step."""
    # it ends just before the first line of the log, on a val of a few reviews
    began = time.time()
    out, process = start_training(row, folder, environment, '--dataset=start', '--seed=0',
                                  '--eval_interval=1')
    while not (out / 'seed0/log.jsonl').exists() and process.poll() is None:
        time.sleep(0.01)
    seconds = time.time() - began
    process.terminate()  # not kill: torchrun is to end its processes first
    process.wait()
    return seconds


def measure_language(folder):
    """Run pretrain.py on folder/data -> its speed and peak memory."""
    out = tempfile.mkdtemp(dir=folder)
    interval = 15 if device == 'cpu' else 150
    command = [sys.executable, 'pretrain.py', 'config/lm_ce.py', f'--device={device}',
               '--dataset=data', f'--data_dir={folder}', f'--out_dir={out}',
               f'--threads={threads}', f'--min_count={LM_MIN_COUNT}',
               f'--max_iters={2 * interval}', f'--eval_interval={interval}', '--eval_texts=1',
               '--final_texts=10']
    environment = {**os.environ, **HUGE_PAGES}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    line = last_line(Path(out) / 'seed0/log.jsonl')  # of the second half
    config = json.loads((Path(out) / 'seed0/config.json').read_text())
    return {'train': line['tokens_per_second'], 'memory': line['peak_memory_mb'],
            'vocabulary': config['known_tokens'] + 1}


def start_script(script, *arguments, spins=0, stdout=subprocess.DEVNULL):
    """Start a script with as many threads as bench.py is to use -> its process."""
    environment = {**os.environ, **HUGE_PAGES, 'OMP_NUM_THREADS': str(threads), **spinning(spins)}
    return subprocess.Popen([sys.executable, script, *arguments], cwd=ROOT, env=environment,
                            text=True, stdout=stdout)


def finish(*processes):
    """Wait for processes of `start_script`."""
    for process in processes:
        if process.wait():
            fail(f'{" ".join(map(str, process.args[1:]))} failed')


def start_small_training(folder, out='', spins=0):
    """config/sample_ce.py on folder/small."""
    out = out or tempfile.mkdtemp(dir=folder)
    return start_script('train.py', 'config/sample_ce.py', '--device=cpu', '--dataset=small',
                        f'--data_dir={folder}', f'--out_dir={out}',
                        f'--block_size={COMPANY_TOKENS}', spins=spins)


def seconds_of(start, n):
    """The seconds until n processes, which start() starts, are all done."""
    began = time.perf_counter()
    finish(*[start() for _ in range(n)])
    return time.perf_counter() - began


def request_one_by_one(port, reviews, until):
    """Ask a server for one review after the other, until(requests so far) -> seconds a request."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    n_requests = 0
    began = time.perf_counter()
    while not until(n_requests):
        body = json.dumps({'texts': [reviews[n_requests % len(reviews)][:5000]]})
        connection.request('POST', '/predict', body, {'Content-Type': 'application/json'})
        reply = connection.getresponse()
        reply.read()
        if reply.status != 200:
            fail(f'serve.py answers with {reply.status}')
        n_requests += 1
    return (time.perf_counter() - began) / n_requests


def measure_service(folder, run, reviews):
    """A training and a service alone and beside each other: seconds, and milliseconds a request."""
    server = start_script('serve.py', run, '--port=0', stdout=subprocess.PIPE)
    try:
        port = int(server.stdout.readline().rsplit(':', 1)[1])
        request_one_by_one(port, reviews, lambda n: n >= 20)  # the first ones take memory
        alone = request_one_by_one(port, reviews, lambda n: n >= COMPANY_REQUESTS)
        train_alone = seconds_of(lambda: start_small_training(folder), 1)  # the server is idle
        began = time.perf_counter()
        training = start_small_training(folder)
        beside = request_one_by_one(port, reviews, lambda n: training.poll() is not None)
        train_beside = time.perf_counter() - began
        finish(training)
    finally:
        server.terminate()
        server.wait()
    return {'alone': train_alone, 'company': train_beside,
            'request_alone': 1000 * alone, 'request_company': 1000 * beside}


def measure_company(row, folder):
    """The seconds of a Company's work, alone and in company."""
    if row.work == 'train':
        def start():
            return start_small_training(folder, spins=row.spins)
    else:
        run = folder / 'served/seed0'
        if not run.exists():
            finish(start_small_training(folder, folder / 'served'))
        data, meta = load_data(folder / 'small')
        reviews = decoded(data['train'], tokenizer(meta['tokenizer']['name']))
        if row.work == 'serve':
            return measure_service(folder, run, reviews)
        file = folder / 'texts.csv'
        with open(file, 'w', encoding='utf-8', newline='') as table:
            csv.writer(table).writerows([['text'], *[[review] for review in reviews * 4]])

        def start():
            return start_script('predict.py', run, f'--file={file}')
    return {'alone': seconds_of(start, 1), 'company': seconds_of(start, 2)}


def measure_growth(n, splits, meta, folder):
    """Train for an epoch on n reviews -> speed and peak memory."""
    save_data(folder / str(n), {**splits, 'train': repeat(splits['train'], n)}, meta)
    out = folder / f'out{n}'
    command = [sys.executable, 'train.py', 'config/bce.py', '--device=cpu',
               f'--data_dir={folder}', f'--dataset={n}', f'--out_dir={out}',
               f'--threads={threads}', '--epochs=1']
    environment = {**os.environ, **HUGE_PAGES}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    line = last_line(out / 'seed0/log.jsonl')
    return {'train': line['tokens_per_second'], 'memory': line['peak_memory_mb']}


# The report

def flops(split, token_dropout, bag):
    """FLOPs that training needs per review token: 3 times those of the matrix products of a forward
    pass, without padding."""
    rng = np.random.default_rng(0)
    forward = 0.0
    n_tokens = 0
    for batch in batches(split, 256, BLOCK_SIZE, bag=bag, rng=rng, token_dropout=token_dropout):
        lengths = (batch.counts > 0).sum(1).double()
        linear = 24 * n_embd ** 2 * lengths  # qkv, proj, up, down
        attention = 4 * n_embd * lengths ** 2  # scores and weighted values
        forward += n_layer * float((linear + attention).sum())
        n_tokens += batch.n_tokens
    return 3 * forward / n_tokens


def summary(values, digits=0):
    """'median (lowest to highest)'."""
    median = f'{statistics.median(values):,.{digits}f}'
    if len(values) == 1:
        return f'{median} (once)'
    return f'{median} ({min(values):,.{digits}f} to {max(values):,.{digits}f})'


def column(measurements, key):
    """One figure of all measurements of a row."""
    return [measurement[key] for measurement in measurements]


def speed_table(measured, split):
    """Lines of Markdown: a row of OURS or PEERS each; split: the reviews that were trained on."""
    peak = statistics.median(column(measured['peak'], 'peak'))
    lines = [
        '',
        '| | training, review tokens/s | share of the peak | evaluation, review tokens/s '
        '| first step, s | MB |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for row in (*OURS, *PEERS):
        if row.name not in measured:
            continue
        values = measured[row.name]
        speed = statistics.median(column(values, 'train'))
        first_steps = column(values, 'first_step')
        share_of_peak = speed * flops(split, row.token_dropout(), row.bag()) / peak / 1e12
        lines.append(f'| {row.name} | {summary(column(values, "train"))} | {share_of_peak:.0%} '
                     f'| {summary(column(values, "eval"))} '
                     f'| {summary(first_steps, 1) if all(first_steps) else ""} '
                     f'| {summary(column(values, "memory"))} |')
    return lines


def bags_table(measured):
    """Lines of Markdown: a row of BAGS each."""
    lines = ['', '| | accuracy on test, % | seconds |', '| --- | --- | --- |']
    for row in BAGS:
        if row.name in measured:
            values = measured[row.name]
            lines.append(f'| {row.name} | {100 * values[0]["accuracy"]:.2f} '
                         f'| {summary(column(values, "seconds"))} |')
    return lines


def language_flops(vocabulary):
    """FLOPs that training needs per token: 3 times those of the matrix products of a forward
    pass; a token sees half of its block, on the mean."""
    size = 256
    layer = 24 * size ** 2 + 4 * size * LM_BLOCK_SIZE / 2
    return 3 * (4 * layer + 2 * size * vocabulary)


def language_table(measured):
    """Lines of Markdown: a row of LANGUAGE each."""
    peak = statistics.median(column(measured['peak'], 'peak'))
    lines = ['', '| | training, tokens/s | share of the peak | MB |', '| --- | --- | --- | --- |']
    for row in LANGUAGE:
        if row.name in measured:
            values = measured[row.name]
            speed = statistics.median(column(values, 'train'))
            share = speed * language_flops(values[0]['vocabulary']) / peak / 1e12
            lines.append(f'| {row.name} | {summary(column(values, "train"))} | {share:.0%} '
                         f'| {summary(column(values, "memory"))} |')
    return lines


def company_table(measured):
    """Lines of Markdown: a row or, of a service, two of COMPANY each."""
    lines = ['', '| | alone | in company | times |', '| --- | --- | --- | --- |']
    for row in COMPANY:
        if row.name not in measured:
            continue
        values = measured[row.name]
        parts = {'s': ''}  # {what the row says of them: the beginning of their keys}
        if row.work == 'serve':
            parts = {'the training, s': '', 'a request, ms': 'request_'}
        for part, prefix in parts.items():
            alone = column(values, f'{prefix}alone')
            company = column(values, f'{prefix}company')
            times = statistics.median(company) / statistics.median(alone)
            lines.append(f'| {row.name}, {part} | {summary(alone, 1)} | {summary(company, 1)} '
                         f'| {times:.1f} |')
    return lines


def growth_table(growth):
    """Lines of Markdown; growth: {reviews: measurement}."""
    lines = ['', '| reviews | microseconds a review token | MB |', '| --- | --- | --- |']
    for n, measurement in growth.items():
        lines.append(f'| {n:,} | {1e6 / measurement["train"]:.2f} | {measurement["memory"]:,} |')
    return lines


def draw_speeds(measured, path):
    """Bars of the speeds in training, ours in blue, with a dot for each measurement."""
    from matplotlib.figure import Figure
    ours = [row.name for row in OURS]
    speeds = {}
    for row in (*OURS, *PEERS):
        if row.name in measured:
            speeds[row.name] = column(measured[row.name], 'train')
    names = sorted(speeds, key=lambda name: statistics.median(speeds[name]))

    figure = Figure(figsize=(9, 0.8 + 0.3 * len(names)), layout='constrained')
    axis = figure.subplots()
    medians = [statistics.median(speeds[name]) for name in names]
    colors = ['tab:blue' if name in ours else 'tab:gray' for name in names]
    axis.barh(names, medians, color=colors)
    for i, name in enumerate(names):
        axis.plot(speeds[name], [i] * len(speeds[name]), 'k.', markersize=3)
    axis.set(xscale='log', xlabel='review tokens a second in training (log scale)')
    axis.grid(axis='x', which='both', alpha=0.3)
    write_file(path, lambda file: figure.savefig(file, dpi=110))


def draw_growth(growth, path):
    """Time a token and peak memory over the number of reviews; growth: {reviews: measurement}."""
    from matplotlib.figure import Figure
    panels = {
        'microseconds a review token': [1e6 / m['train'] for m in growth.values()],
        'peak memory, GB': [m['memory'] / 1024 for m in growth.values()],
    }
    figure = Figure(figsize=(9, 3.2), layout='constrained')
    axes = figure.subplots(1, 2)
    for axis, (label, values) in zip(axes, panels.items()):
        axis.plot(list(growth), values, 'o-')
        axis.set(xscale='log', xlabel='training reviews', ylabel=label,
                 ylim=(0, 1.3 * max(values)))
        axis.grid(alpha=0.3)
    write_file(path, lambda file: figure.savefig(file, dpi=110))


def report(measured, growth, split, out):
    """Print table.md, write it and the figures.

    measured: {name of a row: [measurements]}; growth: {reviews: measurement}."""
    line = f'{hardware_name(device)}, {threads} threads, torch {torch.__version__}'
    if measured['peak']:
        peaks = column(measured['peak'], 'peak')
        line += f'; a matrix product reaches {summary(peaks, 2)} TFLOP/s'
    n_turns = max(len(values) for values in measured.values())
    lines = [f'{line}. Median (lowest to highest) of {n_turns}.']
    has_speeds = any(row.name in measured for row in (*OURS, *PEERS))
    if has_speeds:
        lines += speed_table(measured, split)
    if any(row.name in measured for row in LANGUAGE):
        lines += language_table(measured)
    if any(row.name in measured for row in BAGS):
        lines += bags_table(measured)
    if any(row.name in measured for row in COMPANY):
        lines += company_table(measured)
    if growth:
        lines += growth_table(growth)
    text = '\n'.join(lines) + '\n'
    print(text, end='')
    write_file(out / 'table.md', lambda file: file.write(text.encode()))
    if has_speeds:
        draw_speeds(measured, out / 'speed.png')
    if growth:
        draw_growth(growth, out / 'growth.png')


# The command

class Log:
    """Measurements as they come: each is printed, and measurements.jsonl has all so far."""

    def __init__(self, path):
        self.path = path
        self.lines = []

    def add(self, name, measurement):
        print(f'{time.strftime("%H:%M:%S")} {name}: {json.dumps(measurement)}', flush=True)
        self.lines.append({'row': name, **measurement})
        write_json_lines(self.path, self.lines)


def choose_rows():
    """The rows that are asked for and whose package is installed."""
    rows = []
    for row in (*OURS, *PEERS, *BAGS, *LANGUAGE, *COMPANY):
        if not re.search(only, row.name) or device not in row.devices:
            continue
        if row in LANGUAGE and not row.ours and not (Path(nanogpt) / 'model.py').is_file():
            print(f'skipped: {row.name} (no model.py in --nanogpt={nanogpt})')
        elif find_spec(row.package):
            rows.append(row)
        else:
            print(f'skipped: {row.name} ({row.package} is not installed; '
                  'pip install -r requirements-extra.txt)')
    return rows


def measure_turn(rows, turn, folder):
    """Measure every row once, and the peak if a row is about speed; yield (name, measurement)."""
    if any(row not in COMPANY for row in rows):
        yield 'peak', call_child('peak')
    for row in rows:
        if row in LANGUAGE and row.ours:
            yield row.name, measure_language(folder)
        elif row in COMPANY:
            yield row.name, measure_company(row, folder)
        elif row in OURS and not (turn and row.once):
            yield row.name, measure_ours(row, folder)
        elif row not in OURS:
            yield row.name, call_child(row.name)


def main():
    rows = choose_rows()
    data, meta = load_data(Path(data_dir) / dataset)
    train = data['train'].take(slice(n_reviews))
    val = data['val']
    test = data['test'].take(slice(8))  # which no row is about
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / 'measurements.jsonl')
    measured = {'peak': []}
    growth = {}

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        timed = {'train': train, 'val': val.take(slice(n_val)), 'test': test}
        save_data(folder / 'data', timed, meta)
        save_data(folder / 'start', {**timed, 'val': val.take(slice(8))}, meta)
        save_data(folder / 'small', {'train': train.take(slice(COMPANY_REVIEWS)),
                                     'val': val.take(slice(300)), 'test': test}, meta)
        for turn in range(repeats):
            for name, measurement in measure_turn(rows, turn, folder):
                log.add(name, measurement)
                measured.setdefault(name, []).append(measurement)

        grown = {'train': data['train'], 'val': val.take(slice(256)), 'test': test}
        for size in sizes.split(','):
            if size and not only and device == 'cpu':
                n = int(size)
                growth[n] = measure_growth(n, grown, meta, folder)
                log.add(f'{n} reviews', growth[n])
    report(measured, growth, train, out)


if __name__ == '__main__':
    configure(globals())
    threads = threads or os.cpu_count() or 1
    try:
        device = choose_device(device)
    except ValueError as error:
        fail(error)
    if child:
        print(json.dumps(measure_as_child(child)))
    else:
        main()
