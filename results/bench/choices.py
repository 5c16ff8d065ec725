"""What a user can choose from to classify texts: accuracy on test and seconds of one core.

    python -m results.bench.choices                          -> results/bench/choices
    python -m results.bench.choices --datasets=sst2 --only='fastText|default'

Each choice is one command from its start to its end, in a process with one thread: read, fit with
every constant that is tried, choose on val, predict val and test. Measurements are appended to
measurements.jsonl, and those that are there are not repeated.

pip install fasttext-community transformers; without a package, its rows are skipped. BERT is
trained from random weights, on data sets of short texts only: IMDB would take hours.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np
import torch
from torch.nn import functional as F

from nanoloss.data import load_data
from nanoloss.devices import hardware_name
from nanoloss.files import write_file, write_json_lines
from nanoloss.settings import configure, fail
from nanoloss.tokenizer import decode, tokenizer

# -----------------------------------------------------------------------------
datasets = 'sst2,banking77,ag_news_8k,imdb'  # data sets made by prepare.py
data_dir = 'data'  # the folder of data sets
out_dir = 'results/bench/choices'  # the table, the figure and the measurements go here
only = ''  # a regular expression: choices to measure ('': all)
train_here = ''  # fastText or BERT: train it in this process, print the accuracies and stop
# -----------------------------------------------------------------------------
ROOT = Path(__file__).parents[2]
CHOICES = {  # a name, and the command of a choice, or the package that is trained here
    'TF-IDF + LR': ['-m', 'tools.baseline', '--kinds=tfidf_lr'],
    'NB-SVM': ['-m', 'tools.baseline', '--kinds=nbsvm'],
    'words and characters + SVM': ['-m', 'tools.baseline', '--kinds=tfidf_chars_svm'],
    'fastText': 'fasttext',
    'BERT from scratch': 'transformers',
    'nanoloss': ['train.py', '--threads=1'],
}
FASTTEXT_RATES = 0.1, 0.5
BERT_EPOCHS = 10
BERT_TEXTS = 10_000  # data sets with more training texts are left out


# Choices that are trained here

def read_texts(split, encoding):
    return [decode(split.tokens[begin:end], encoding) for begin, end in split.spans]


def train_fasttext(data, encoding):
    """-> accuracy on val and on test, at the learning rate that is best on val."""
    import fasttext
    texts = {}
    for name, split in data.items():
        texts[name] = [' '.join(text.lower().split()) for text in read_texts(split, encoding)]
    best = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'train.txt'
        rows = zip(data['train'].labels, texts['train'])
        path.write_text(''.join(f'__label__{label} {text}\n' for label, text in rows), 'utf-8')
        for rate in FASTTEXT_RATES:
            model = fasttext.train_supervised(str(path), lr=rate, epoch=25, wordNgrams=2, minn=2,
                                              maxn=5, thread=1, verbose=0)
            accuracies = []
            for name in ('val', 'test'):
                labels = [found[0] for found in model.predict(texts[name])[0]]
                wanted = [f'__label__{label}' for label in data[name].labels]
                accuracies.append(np.mean(np.array(labels) == wanted))
            best = max(best, tuple(accuracies))
    return best


def train_bert(data, meta):
    """transformers' BERT of the paper's size, from random weights, at the epoch that is best on
    val -> accuracy on val and on test."""
    from transformers import BertConfig, BertForSequenceClassification
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(
        vocab_size=meta['vocab_size'], hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=512, max_position_embeddings=512, num_labels=len(meta['classes'])))
    optimizer = torch.optim.AdamW(model.parameters(), 4e-4, fused=True)
    rng = np.random.default_rng(0)

    def logits_of(split, rows):
        texts = [torch.from_numpy(split.tokens[begin:end][:512].astype(np.int64))
                 for begin, end in split.spans[rows]]
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(text) for text in texts])[:, None]
        return model(ids, attention_mask=mask).logits

    def accuracy(split):
        model.eval()
        with torch.no_grad():
            batches = np.array_split(np.arange(len(split.labels)), len(split.labels) // 256 + 1)
            found = torch.cat([logits_of(split, rows).argmax(1) for rows in batches])
        model.train()
        return float(np.mean(found.numpy() == split.labels))

    best = 0, 0
    train = data['train']
    for _ in range(BERT_EPOCHS):
        order = rng.permutation(len(train.labels))
        for rows in np.array_split(order, len(order) // 64 + 1):
            labels = torch.from_numpy(train.labels[rows].astype(np.int64))
            F.cross_entropy(logits_of(train, rows), labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        best = max(best, (accuracy(data['val']), accuracy(data['test'])))
    return best


# Measuring

def measure(config, name, dataset):
    """Run a choice -> its accuracies, and the seconds of one core and of the clock."""
    command = CHOICES[name]
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(command, str):
            command = ['-m', 'results.bench.choices', f'--train_here={name}',
                       f'--datasets={dataset}', f'--data_dir={config.data_dir}']
        else:
            command = [*command, f'--dataset={dataset}', f'--data_dir={config.data_dir}',
                       f'--out_dir={folder}']
        environment = os.environ | {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1',
                                    'RAYON_NUM_THREADS': '1'}
        before = os.times()
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment,
                              stdout=subprocess.PIPE, text=True)
        after = os.times()
        if done.returncode:
            fail(f'{name} on {dataset} failed')
        results = list(Path(folder).rglob('result.json'))
        if results:
            last = json.loads(results[0].read_text())['last']
            val, test = last['val']['accuracy'], last['test']['accuracy']
        else:
            val, test = json.loads(done.stdout.splitlines()[-1])
    seconds = (after.children_user + after.children_system - before.children_user
               - before.children_system)
    return {'dataset': dataset, 'choice': name, 'val': val, 'test': test, 'core_seconds': seconds,
            'seconds': after.elapsed - before.elapsed, 'when': time.strftime('%Y-%m-%d')}


def is_possible(config, name, dataset):
    """Whether a choice can be measured here on this data set."""
    package = CHOICES[name]
    if not isinstance(package, str):
        return True
    if not find_spec(package):
        print(f'skipped: {name}, {package} is not installed')
        return False
    if name.startswith('BERT'):
        data, _ = load_data(Path(config.data_dir) / dataset)
        return len(data['train'].labels) <= BERT_TEXTS
    return True


# The report

def write_table(rows, names, out):
    """Write and print table.md: a row per choice, two columns per data set."""
    lines = [f'{hardware_name("cpu")}, one core, torch {torch.__version__}', '',
             '| accuracy on test, %; core seconds | ' + ' | '.join(f'{name} | s' for name in names)
             + ' |', '| --- |' + ' --- | --- |' * len(names)]
    for choice in CHOICES:
        cells = []
        for name in names:
            row = rows.get((name, choice))
            cells += [f'{100 * row["test"]:.2f}', f'{row["core_seconds"]:.0f}'] if row else ['', '']
        lines.append(f'| {choice} | ' + ' | '.join(cells) + ' |')
    text = '\n'.join(lines) + '\n'
    print(text, end='')
    write_file(out / 'table.md', lambda file: file.write(text.encode()))


def draw(rows, names, path):
    """Draw accuracy over core seconds, a panel per data set."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter
    figure = Figure(figsize=(3.2 * len(names), 3.4), layout='constrained')
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names):
        for i, choice in enumerate(CHOICES):
            row = rows.get((name, choice))
            if row:
                axis.plot(row['core_seconds'], 100 * row['test'], 'o', color=f'C{i}', label=choice)
        axis.set(xscale='log', xlabel='seconds of one core', title=name)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter('{x:g}')
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel('accuracy on test, %')
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=len(labels))
    write_file(path, lambda file: figure.savefig(file, dpi=110))


def main(config):
    names = config.datasets.split(',')
    if config.train_here:
        data, meta = load_data(Path(config.data_dir) / names[0])
        if config.train_here == 'fastText':
            accuracies = train_fasttext(data, tokenizer(meta['tokenizer']['name']))
        else:
            accuracies = train_bert(data, meta)
        print(json.dumps([float(accuracy) for accuracy in accuracies]))
        return

    out = Path(config.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    path = out / 'measurements.jsonl'
    measured = []
    if path.exists():
        measured = [json.loads(line) for line in path.read_text().splitlines()]
    rows = {(row['dataset'], row['choice']): row for row in measured}
    for name in names:
        for choice in CHOICES:
            wanted = re.search(config.only, choice) and (name, choice) not in rows
            if wanted and is_possible(config, choice, name):
                rows[name, choice] = measure(config, choice, name)
                print(json.dumps(rows[name, choice]), flush=True)
                write_json_lines(path, list(rows.values()))
    write_table(rows, names, out)
    draw(rows, names, out / 'choices.png')


if __name__ == '__main__':
    main(configure(globals()))
