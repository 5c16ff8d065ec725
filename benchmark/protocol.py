"""The protocol of the loss benchmark, see README.md: data sets, losses and search space."""
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model import HEADS
from nanoloss.settings import find_class, keywords

DATASETS = {  # a name: a further argument of prepare.py
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
    'texts': (48_000, 192_000),  # seen in training, in whole epochs; by default 47,000 to 174,000
}
TRIALS = 16  # random configurations per loss and data set
TRIAL_SEED = 1_000  # of trial 0; no final run has a seed of a trial
SEEDS = 10  # final runs, seeds 0 to 9
BASE = 'ce'  # what the others are compared with
SAME_AS_BASE = [('goemotions', 'bce')]  # with several labels per text, BCE is CE


class Loss(NamedTuple):
    """A loss to measure. name: of its folder. head: for --head of train.py. space: the search space
    of its own constants, {name: (lowest, highest)}."""
    name: str
    head: str
    space: dict

    @property
    def file(self):
        """The file of its class, '' if that is in model.py."""
        return self.head.rpartition(':')[0]


def find_loss(name):
    """A name in LOSSES or in HEADS, or FILE.py:CLASS -> `Loss`. The class of a file has its search
    space as the attribute `space`. Raises ValueError if there is no such loss, or if a constant
    cannot be tuned."""
    head, space = LOSSES.get(name, (name, {}))
    if ':' not in head and head not in HEADS:
        raise ValueError(f'there is no loss {name!r}; there are {", ".join(LOSSES | HEADS)}, or '
                         'FILE.py:CLASS')
    cls = find_class(head, HEADS)
    space = space or getattr(cls, 'space', {})
    for key, (low, high) in space.items():
        if type(keywords(cls).get(key)) is not float:
            raise ValueError(f'{key} in the space of {name} must be a keyword of its __init__ with '
                             'a float as its default')
        if not low < high:
            raise ValueError(f'{key} in the space of {name} has no values between {low} and {high}')
    if ':' in name:  # so that classes with one name have different folders
        file, _, class_name = name.rpartition(':')
        name = f'{Path(file).stem}_{class_name}'.lower()
    return Loss(name, head, space)


def draw(trial, dataset, n_train, space):
    """The settings of a trial, {name: value}. Its rate, weight decay and epochs are the same for
    every loss.

    n_train: number of training texts. space: of the loss's own constants.
    """
    rng = np.random.default_rng([trial, zlib.crc32(dataset.encode())])
    drawn = {name: between(low, high, rng.random())
             for name, (low, high) in [*SPACE.items(), *space.items()]}
    rate = drawn.pop('rate')
    epochs = max(1, round(drawn.pop('texts') / n_train))
    return {'learning_rate': rate, 'embedding_rate': rate, 'epochs': epochs, **drawn}


def between(low, high, share):
    """The value at a share, from 0 to 1, of the way from low to high, with four digits. The scale
    is logarithmic if low is positive."""
    value = low * (high / low) ** share if low > 0 else low + share * (high - low)
    return float(f'{value:.4g}')
