"""Measure other libraries beside our speed -> a table, a figure and every measurement.

    python -m results.bench.peers                                   20 minutes on 2 cores
    python -m results.bench.peers --only='bert|nn' --repeats=1      rows that match
    python -m results.bench.peers --device=cuda --n_train=24998     on a GPU

The encoders (torch.nn.TransformerEncoder and transformers' BERT) have the shape of config/paper.py,
but 4 heads. They are trained as is usual: shuffled batches padded to their longest text, or batches
of texts of similar length, with torch's fused AdamW on all weights. Bags of words are fitted to all
of the data set. tools/bench.py measures our rows in the same turns.

pip install -r requirements-extra.txt for transformers.
"""
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np
import torch
import torch.nn as nn
from torch.nn import functional as F

from nanoloss.data import load_data
from nanoloss.devices import (
    autocast, choose_device, hardware_name, peak_memory_mb, synchronize)
from nanoloss.files import write_file
from nanoloss.settings import check_bounds, configure, fail, updated
from nanoloss.speed import (
    HUGE_PAGES, Log, column, draw_speeds, in_new_process, introduction, speed_table, summary,
    transformer_flops)
from nanoloss.tokenizer import decode, tokenizer

# -----------------------------------------------------------------------------
dataset = 'imdb'  # a data set of two classes
data_dir = 'data'  # the folder of data sets
out_dir = 'out/bench/peers'  # the table, the figure and the measurements go here
only = ''  # a regular expression: rows of peers to measure ('': all)
repeats = 3  # measurements per row
n_train = 5120  # training texts to measure encoders on
device = 'cpu'  # cpu or cuda
n_layer = 2
n_embd = 128
n_head = 4
threads = 0  # CPU threads per row (0: one per core)
# -----------------------------------------------------------------------------
ROOT = Path(__file__).parents[2]
# of config/paper.py
BLOCK_SIZE = 512
TOKEN_DROPOUT = 0.8
CPU = ('cpu',)
GPU = ('cuda',)
BOTH = ('cpu', 'cuda')
# our rows of tools/bench.py, and their token dropout
OURS = {
    'ours: config/bce.py': TOKEN_DROPOUT,
    'ours, 4 heads, batch 64': TOKEN_DROPOUT,
    'ours, 4 heads, batch 64, without token dropout': 0.0,
}


@dataclass
class Peer:
    """An encoder of another library, with batches of 64."""
    name: str
    package: str  # of its encoder
    dtype: str
    grouped: bool  # whether the texts of a batch have about the same length
    token_dropout: float = 0.0
    devices: tuple = BOTH
    compile: bool = False


@dataclass
class BagOfWords:
    """A linear classifier of scikit-learn."""
    name: str
    kind: str  # tfidf or nbsvm
    devices: tuple = CPU
    package: str = 'sklearn'


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


# Encoders

class PlainEncoder(nn.Module):
    """Embedding, torch.nn.TransformerEncoder with its defaults, mean over the text, linear."""

    def __init__(self, vocab_size, n_layer, n_embd, n_head):
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
    """transformers' BERT of the same size, with new weights."""

    def __init__(self, vocab_size, n_layer, n_embd, n_head):
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


def choose_batches(split, grouped, n_batches, rng):
    """The rows of n_batches batches of 64: at random or, grouped, spread evenly over the texts
    sorted by length."""
    if grouped:
        order = np.argsort(split.lengths().clip(max=BLOCK_SIZE), kind='stable')
    else:
        order = rng.permutation(len(split.labels))
    chosen = []
    for i in range(n_batches):
        middle = int((i + 0.5) / n_batches * len(order))
        chosen.append(order[max(0, middle - 32):][:64])
    return chosen


def padded_batch(split, rows, token_dropout, rng):
    """The texts of these rows, padded -> ids int64 [B, T], mask bool [B, T], labels int64 [B], and
    the number of tokens before token dropout."""
    texts = []
    n_tokens = 0
    for begin, end in split.spans[rows]:
        text = split.tokens[begin:end][:BLOCK_SIZE].astype(np.int64)
        n_tokens += len(text)
        kept = text[rng.random(len(text)) >= token_dropout]
        texts.append(torch.from_numpy(kept))
    ids = nn.utils.rnn.pad_sequence(texts, batch_first=True)
    lengths = torch.tensor([len(text) for text in texts])
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    labels = torch.from_numpy(split.labels[rows].astype(np.int64))
    return ids, mask, labels, n_tokens


def make_step(model, optimizer, batch, device, dtype):
    """One training step or, in eval mode, one forward pass."""
    ids, mask, labels = (tensor.to(device, non_blocking=True) for tensor in batch[:3])
    with torch.set_grad_enabled(model.training), autocast(device, dtype):
        logits = model(ids, mask)
    if model.training:
        F.cross_entropy(logits.float(), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def measure_peer(peer, config, started):
    """Tokens/s of a Peer in training and evaluation, the seconds from `started` to the end of its
    first step, and its memory in MB."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    # the fast path of nn.TransformerEncoder's evaluation fails under autocast
    torch.backends.mha.set_fastpath_enabled(False)
    rng = np.random.default_rng(0)
    data, meta = load_data(Path(config.data_dir) / config.dataset)
    split = data['train'].take(slice(config.n_train))
    make_encoder = {'torch': PlainEncoder, 'transformers': Bert}[peer.package]
    model = make_encoder(meta['vocab_size'], config.n_layer, config.n_embd, config.n_head)
    model.to(config.device)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-4, fused=True)
    if peer.compile:
        model.compile(dynamic=True)
    n_batches = 8 if peer.grouped else 3
    if config.device != 'cpu':
        n_batches *= 10
    chosen = choose_batches(split, peer.grouped, n_batches, rng)

    # the first steps allocate memory and choose kernels, on GPUs for every length: they are not
    # measured
    first = chosen if config.device == 'cuda' else [chosen[len(chosen) // 2]] * 2
    measurement = {}
    for key, training in (('train', True), ('eval', False)):
        model.train(training)
        token_dropout = peer.token_dropout if training else 0.0
        for rows in first:
            batch = padded_batch(split, rows, token_dropout, rng)
            make_step(model, optimizer, batch, config.device, peer.dtype)
            synchronize(config.device)
            measurement.setdefault('first_step', time.time() - started)
        n_tokens = 0
        start = time.perf_counter()
        for rows in chosen:
            batch = padded_batch(split, rows, token_dropout, rng)
            make_step(model, optimizer, batch, config.device, peer.dtype)
            n_tokens += batch[-1]
        synchronize(config.device)
        measurement[key] = n_tokens / (time.perf_counter() - start)
    measurement['memory'] = peak_memory_mb(config.device)
    return measurement


# Bags of words

def read_texts(split, encoding):
    """The texts of a split, decoded from their tokens."""
    return [decode(split.tokens[begin:end], encoding) for begin, end in split.spans]


def measure_bag_of_words(row, config):
    """Accuracy on test, and the seconds to vectorize, fit and predict all of the data set.

    Both values of C are the best of four or five on the val of imdb_dev.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    data, meta = load_data(Path(config.data_dir) / config.dataset)
    encoding = tokenizer(meta['tokenizer']['name'])
    train_texts = read_texts(data['train'], encoding)
    test_texts = read_texts(data['test'], encoding)
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
    """Counts of words x, sparse [texts, words], labels 0 and 1 -> the log-count ratio of each word,
    a diagonal matrix."""
    import scipy.sparse
    p = x[labels == 1].sum(0) + 1
    q = x[labels == 0].sum(0) + 1
    ratio = np.log((p / p.sum()) / (q / q.sum()))
    return scipy.sparse.diags(np.asarray(ratio).ravel())


# Our rows

def measure_ours(config):
    """Measure OURS and the machine's peak once, by tools/bench.py -> [(name, measurement)]."""
    names = '|'.join(re.escape(name) for name in OURS)
    shared = ('dataset', 'data_dir', 'n_train', 'device', 'n_layer', 'n_embd', 'n_head', 'threads')
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-m', 'tools.bench', f'--only=^({names})$', '--repeats=1',
                   f'--out_dir={folder}', *(f'--{key}={vars(config)[key]}' for key in shared)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        if done.returncode:
            fail('tools/bench.py failed')
        lines = (Path(folder) / 'measurements.jsonl').read_text().splitlines()
    measurements = [json.loads(line) for line in lines]
    return [(measurement.pop('row'), measurement) for measurement in measurements]


# The report

def bags_table(measured):
    """Lines of Markdown, one per row of BAGS."""
    lines = ['', '| | accuracy on test, % | seconds |', '| --- | --- | --- |']
    for row in BAGS:
        if row.name in measured:
            values = measured[row.name]
            lines.append(f'| {row.name} | {100 * values[0]["accuracy"]:.2f} '
                         f'| {summary(column(values, "seconds"))} |')
    return lines


def report(config, measured, split, out):
    """Print table.md, and write it and the figure. split: the texts that encoders trained on."""
    shape = config.n_layer, config.n_embd, BLOCK_SIZE
    flops = {}
    for name, token_dropout in OURS.items():
        flops[name] = transformer_flops(split, *shape, token_dropout, bag=True)
    for peer in PEERS:
        if peer.name in measured:
            flops[peer.name] = transformer_flops(split, *shape, peer.token_dropout, bag=False)
    lines = [introduction(hardware_name(config.device), config.threads, measured)]
    lines += speed_table(measured, flops)
    if any(row.name in measured for row in BAGS):
        lines += bags_table(measured)
    text = '\n'.join(lines) + '\n'
    print(text, end='')
    write_file(out / 'table.md', lambda file: file.write(text.encode()))
    draw_speeds(measured, list(flops), out / 'speed.png')


# Command

def choose_rows(config):
    """The rows for this device that --only selects and whose package is installed."""
    rows = []
    for row in (*PEERS, *BAGS):
        if not re.search(config.only, row.name) or config.device not in row.devices:
            continue
        if find_spec(row.package):
            rows.append(row)
        else:
            print(f'skipped: {row.name} ({row.package} is not installed; '
                  'pip install -r requirements-extra.txt)')
    return rows


def main(config):
    check_bounds(config, [(['repeats', 'n_train'], 1, math.inf)])
    try:
        device = choose_device(config.device)
    except ValueError as error:
        fail(error)
    config = updated(config, device=device, threads=config.threads or os.cpu_count() or 1,
                     data_dir=str(Path(config.data_dir).resolve()))
    rows = choose_rows(config)
    data, _ = load_data(Path(config.data_dir) / config.dataset)
    out = Path(config.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / 'measurements.jsonl')
    os.environ.update(HUGE_PAGES)  # for all processes that this one starts
    for _ in range(config.repeats):
        for name, measurement in measure_ours(config):
            log.add(name, measurement)
        for row in rows:
            if row in PEERS:
                measurement = in_new_process(measure_peer, row, config, time.time())
            else:
                measurement = in_new_process(measure_bag_of_words, row, config)
            log.add(row.name, measurement)
    report(config, log.measured(), data['train'].take(slice(config.n_train)), out)


if __name__ == '__main__':
    main(configure(globals()))
