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
from types import SimpleNamespace

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np
import torch

import train
from model import model_settings
from nanoloss import loop
from nanoloss.data import class_share, describe_data, is_correct, load_data
from nanoloss.files import write_json_lines
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
    config = updated(config, n_train=len(data['train'].labels))  # a fold must not be cached
    config, numbered, start = train.with_numbers(config, data, None)
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


def make_table(rows):
    """Rows of folds.jsonl -> a Markdown table of means over data sets and folds. Each choice on val
    is among all variants."""
    cells = {}
    for row in rows:
        cells.setdefault((row['dataset'], row['fold']), []).append(row)
    cells = [sorted(found, key=lambda row: VARIANTS.index(row['changes']))
             for found in cells.values()]
    chosen = {'the linear model alone': [found[0]['held out, linear'] for found in cells]}
    for i, changes in enumerate(VARIANTS):
        chosen[name_of(changes)] = [found[i]['held out'] for found in cells]
    chosen['the lowest log loss on val'] = [
        min(found, key=lambda row: row['val']['log_loss'])['held out'] for found in cells]
    chosen['the highest accuracy on val'] = [
        max(found, key=lambda row: row['val']['accuracy'])['held out'] for found in cells]
    chosen['the highest accuracy on the held-out texts'] = [
        max((row['held out'] for row in found), key=lambda one: one['accuracy'])
        for found in cells]
    lines = ['| | accuracy, % | log loss |', '| --- | --- | --- |']
    for name, found in chosen.items():
        accuracy = np.mean([one['accuracy'] for one in found])
        log_loss = np.mean([one['log_loss'] for one in found])
        lines.append(f'| {name} | {accuracy:.2f} | {log_loss:.4f} |')
    return '\n'.join(lines)


def main(config):
    file = Path(config.path)
    rows = []
    if file.exists():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    known = [(row['dataset'], row['fold'], row['changes']) for row in rows]
    for name in filter(None, config.datasets.split(',')):
        settings = {key: value for key, value in vars(train).items()
                    if key.islower() and isinstance(value, bool | int | float | str)}
        settings |= {'data_dir': config.data_dir, 'dataset': name, 'device': 'cpu',
                     'dtype': 'float32', 'threads': 1, 'max_tokens': 8192, 'seed': 100}
        run_config = SimpleNamespace(**model_settings(settings) | settings)
        data, meta = load_data(Path(config.data_dir) / name)
        meta['class_share'] = class_share(data['train'].labels, len(meta['classes']))
        for fold, splits in folds_of(data):
            for changes in VARIANTS:
                if (name, fold, changes) in known:
                    continue
                row = {'dataset': name, 'fold': fold, 'changes': changes}
                rows.append(row | measure(run_config, changes, splits, meta))
                write_json_lines(file, rows)
    print(make_table(rows))


if __name__ == '__main__':
    config = configure(globals())
    torch.set_num_threads(1)
    main(config)
