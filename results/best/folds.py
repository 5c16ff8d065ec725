"""Settings of the default model on held-out texts of train, where test must not be read.

    python -m results.best.folds --datasets=trec,sst2     measures what is missing, prints the table
    python -m results.best.folds --datasets=              prints the table of folds.jsonl

A fifth of train is held out, twice. The model is trained on the rest, its two parts are weighted on
val, and it is judged on the held-out texts. One seed, one thread. Measurements are appended to
folds.jsonl, a line per data set, fold and variant.
"""
import json
import time
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np
import torch

import train
from model import model_settings
from nanoloss import loop
from nanoloss.data import class_share, describe_data, is_correct, load_data
from nanoloss.derived import derive
from nanoloss.files import write_file
from nanoloss.linear import fit_mix, mixed
from nanoloss.loop import Meter
from nanoloss.optim import begin_step, scheduled_rate
from nanoloss.settings import configure, updated
from nanoloss.stats import probs_of_labels
from nanoloss.tune import CANDIDATES, name_of

# -----------------------------------------------------------------------------
datasets = ''  # data sets made by prepare.py; ones with one label per text
data_dir = 'data'  # the folder of data sets
path = 'results/best/folds.jsonl'  # the measurements
# -----------------------------------------------------------------------------
FOLDS = 2  # of five
VARIANTS = CANDIDATES[:4]


def folds_of(data):
    """Yield the splits of each fold; seen is what is held out of train."""
    part = np.random.default_rng(5).permutation(len(data['train'].labels)) % 5
    for fold in range(FOLDS):
        yield fold, {'train': data['train'].take(np.flatnonzero(part != fold)),
                     'seen': data['train'].take(np.flatnonzero(part == fold)),
                     'val': data['val']}


def judge(head, logits, labels):
    """Accuracy in % and log loss."""
    labels = torch.from_numpy(np.array(labels).astype(np.int64))
    probs = head.probs(logits)
    return {'accuracy': 100 * float(is_correct(probs, labels).double().mean()),
            'log_loss': float(-probs_of_labels(probs, labels).clamp(min=1e-30).log().mean())}


def fit_trunk(config, model, split):
    """Train the trunk on a numbered split, with train.py's step."""
    optimizers = train.make_optimizers(config, model)
    scaler = torch.amp.GradScaler('cpu', enabled=False)
    steps = -(-len(split.labels) // config.batch_size)  # per epoch
    batches = train.training_batches(config, split, 0, steps)
    for step, batch in enumerate(batches, 1):
        rate = scheduled_rate(step, config.epochs * steps, config.learning_rate,
                              config.warmup_iters)
        begin_step(optimizers, rate, batch.tokens)
        loop.seed_step(config.seed, step, 'cpu')
        train.train_step(config, model, model, optimizers, scaler, Meter('cpu'), batch)


def measure(config, changes, data, meta):
    """Train a variant on a fold -> its metrics on val and on the held-out texts, and those of the
    linear model alone."""
    config = updated(config, **changes)
    config = updated(train.auto_settings(config, data['train']), **describe_data(meta))
    numbered, start = train.with_numbers(config, data, None)[1:]
    config = updated(config, known_tokens=len(start[1].tokens), known_ngrams=len(start[1].ngrams))
    torch.manual_seed(config.seed)
    model = train.make_model(config, *start)
    started = time.process_time()
    fit_trunk(config, model, numbered['train'])
    seconds = time.process_time() - started

    trunk = {name: train.predict(config, model, numbered[name]._replace(linear=None))
             for name in ('val', 'seen')}
    mix = fit_mix(model.head, trunk['val'], numbered['val'].linear, data['val'].labels)
    result = {'seconds': seconds}
    for name, split in (('val', 'val'), ('held out', 'seen')):
        logits = mixed(mix, trunk[split], numbered[split].linear)
        result[name] = judge(model.head, logits, data[split].labels)
        result[f'{name}, linear'] = judge(model.head, mix[1] * numbered[split].linear,
                                          data[split].labels)
    return result
