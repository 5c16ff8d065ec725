"""Losses of the benchmark that are not in model.py: --head=benchmark/losses.py:Poly in train.py.

The attribute `space` is the search space of a loss's own constants: {name: (lowest, highest)}.
"""
from model import CEHead


class Poly(CEHead):
    """Cross-entropy plus epsilon (1 - p_y): of its series in powers of 1 - p_y, the first term has
    the weight 1 + epsilon (Leng 2022, arXiv 2204.12511)."""
    space = {'epsilon': (-1.0, 6.0)}  # noqa: RUF012 (never changed)

    def __init__(self, n_features, n_class, class_share, epsilon=1.0):
        super().__init__(n_features, n_class, class_share)
        self.epsilon = epsilon

    def loss(self, logits, labels):
        p = logits.softmax(1).gather(1, labels[:, None])
        return super().loss(logits, labels) + self.epsilon * (1 - p).mean()


class LogitPenalty(CEHead):
    """Cross-entropy plus penalty times the sum of the squared logits of all classes.

    It is a control for squentropy. With several labels per text, where a label has one logit z,
    squentropy is binary cross-entropy plus z^2 / 4, and so is LogitPenalty
    with a penalty of 0.5."""
    space = {'penalty': (1e-3, 1.0)}  # noqa: RUF012

    def __init__(self, n_features, n_class, class_share, penalty=0.1):
        super().__init__(n_features, n_class, class_share)
        self.penalty = penalty

    def loss(self, logits, labels):
        return super().loss(logits, labels) + self.penalty * logits.square().sum(1).mean()
