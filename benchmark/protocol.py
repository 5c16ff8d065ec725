"""The protocol of the loss benchmark, see README.md: data sets, losses and search space."""
import zlib

import numpy as np

from model import HEADS
from nanoloss.settings import find_class

DATASETS = {  # a name, and what prepare.py needs to know besides its files
    'sst2': '',
    'tweeteval_stance': '',
    'tweeteval_emotion': '',
    'trec': '',
    'banking77': '',
    'goemotions': '--label_sep=;',  # several labels per text
}
LOSSES = {  # a name: --head, and the search space of its constants; a file's class has its own
    'ce': ('ce', {}),
    'bce': ('bce', {}),
    'smoothing': ('ce', {'label_smoothing': (0.01, 0.3)}),
    'focal': ('focal', {'gamma': (0.25, 5.0)}),
    'brier': ('brier', {}),
    'squentropy': ('squentropy', {}),
    'poly': ('benchmark/losses.py:Poly', {}),
    'penalty': ('benchmark/losses.py:LogitPenalty', {}),
}
SPACE = {  # what is tuned for every loss: the lowest and the highest value
    'rate': (1e-3, 2e-2),  # learning_rate and embedding_rate
    'weight_decay': (0.05, 5.0),
    'texts': (48_000, 192_000),  # seen in training, in whole epochs; the default model's: 96,000
}
TRIALS = 16  # random configurations per loss and data set
TRIAL_SEED = 1_000  # of trial 0; no final run has a seed of a trial
SEEDS = 10  # final runs, seeds 0 to 9


def loss_of(name):
    """A name in LOSSES, or FILE.py:CLASS -> the name of its folder, --head, and the search space of
    its own constants. Raises ValueError if there is no such loss."""
    head, space = LOSSES.get(name, (name, {}))
    cls = find_class(head, HEADS)
    return name.rpartition(':')[2].lower(), head, space or getattr(cls, 'space', {})


def draw(trial, dataset, n_train, space):
    """The settings of a trial, {name: value}. Its rate, weight decay and epochs are the same for
    every loss.

    n_train: number of training texts. space: of the loss's own constants.
    """
    rng = np.random.default_rng([trial, zlib.crc32(dataset.encode())])
    drawn = {name: between(low, high, rng.random())
             for name, (low, high) in {**SPACE, **space}.items()}
    rate = drawn.pop('rate')
    epochs = max(1, round(drawn.pop('texts') / n_train))
    return {'learning_rate': rate, 'embedding_rate': rate, 'epochs': epochs, **drawn}


def between(low, high, share):
    """A share of the way from low to high, on a logarithmic scale if both are positive, with four
    digits."""
    value = low * (high / low) ** share if low > 0 else low + share * (high - low)
    return float(f'{value:.4g}')
