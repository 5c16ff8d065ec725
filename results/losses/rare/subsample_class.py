"""Make the last class of a data set rare in training -> a new data set in data/.

    python -m results.losses.rare.subsample_class       data/imdb -> data/imdb_rare

val and test stay as they are. The texts that are kept are the first ones of the class: a data set
is ordered by hash, so this is a random sample.
"""
import math
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np

from nanoloss.data import load_data, save_data
from nanoloss.settings import configure, fail

# -----------------------------------------------------------------------------
dataset = 'imdb'  # a data set made by prepare.py
data_dir = 'data'  # the folder of data sets
name = ''  # of the new data set ('': that of the old one with _rare)
keep_frac = 0.1111  # share of the training texts of the last class to keep
# -----------------------------------------------------------------------------


def subsample_class(split, y, keep_frac):
    """Keep the first keep_frac of the texts of class y, and all texts of the other classes."""
    rows = np.flatnonzero(split.labels == y)
    n_kept = math.ceil(keep_frac * len(rows))
    return split.take(np.delete(np.arange(len(split.labels)), rows[n_kept:]))


def main(config):
    if not 0 < config.keep_frac <= 1:
        fail(f'keep_frac must be above 0 and at most 1, not {config.keep_frac}')
    folder = Path(config.data_dir) / config.dataset
    data, meta = load_data(folder)
    if meta['multi_label']:
        fail(f'{folder} has several labels per text, so no class can be made rare')
    train = subsample_class(data['train'], len(meta['classes']) - 1, config.keep_frac)
    new = folder.with_name(config.name or f'{config.dataset}_rare')
    save_data(new, {**data, 'train': train}, meta)
    counts = np.bincount(train.labels, minlength=len(meta['classes']))
    texts = ', '.join(f'{n:,} {label}' for n, label in zip(counts, meta['classes']))
    print(f'{new}: training texts: {texts}')


if __name__ == '__main__':
    main(configure(globals()))
