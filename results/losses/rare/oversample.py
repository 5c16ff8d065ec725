"""train.py with epochs that have equally many texts of every class; those of a rare class come
several times.

    python -m results.losses.rare.oversample config/ce.py --dataset=imdb_rare

The settings are those of train.py.
"""
import math
from itertools import islice

import numpy as np

import train
from model import model_settings
from nanoloss import loop
from nanoloss.data import batches
from nanoloss.settings import configure, fail, updated


def oversampled(labels, rng):
    """The training texts of an epoch in random order, int64 [texts], equally many of every class.

    labels: int [texts]. Each text of a class comes once before one of them comes again.
    """
    classes = np.unique(labels)
    per_class = math.ceil(len(labels) / len(classes))
    drawn = []
    for y in classes:
        rows = np.flatnonzero(labels == y)
        passes = math.ceil(per_class / len(rows))
        drawn.append(np.concatenate([rng.permutation(rows) for _ in range(passes)])[:per_class])
    return rng.permutation(np.concatenate(drawn))[:len(labels)]


def training_batches(config, split, first_step, steps):
    """As in train.py, but with another order of the texts."""
    if split.labels.ndim == 2:
        fail('texts with several labels, or with pseudo-labels, have no class to oversample')
    first_epoch = first_step // steps + 1
    for epoch in range(first_epoch, config.epochs + 1):
        rng = np.random.default_rng([config.seed, epoch])
        order = oversampled(split.labels, rng)
        epoch_batches = batches(split, config, config.batch_size, order, rng, config.device)
        steps_done = first_step % steps if epoch == first_epoch else 0
        yield from islice(epoch_batches, steps_done, None)


def main(config):
    train.training_batches = training_batches
    train.main(updated(config, oversample=True))


if __name__ == '__main__':
    loop.stop_at_signals()
    config_files = []
    config = configure(vars(train), more=model_settings, config_files=config_files)
    main(loop.with_out_dir(config, config_files, 'out'))
