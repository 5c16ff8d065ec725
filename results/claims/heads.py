"""Two mistakes with cross-entropy, of which a document warns (README.md).

    python train.py --dataset=sst2 --head=results/claims/heads.py:Naive
"""
from model import CEHead


class Naive(CEHead):
    """Cross-entropy without log-softmax: exp overflows in float32 if a logit is above 88."""

    def __init__(self, n_features, n_class, class_share):
        super().__init__(n_features, n_class, class_share)

    def loss(self, logits, labels):
        exp = logits.exp()
        p = exp / exp.sum(1, keepdim=True)
        return -p.gather(1, labels[:, None]).log().mean()


class DoubleSoftmax(CEHead):
    """Cross-entropy of the softmax of a softmax: probabilities are taken for logits."""

    def __init__(self, n_features, n_class, class_share):
        super().__init__(n_features, n_class, class_share)

    def loss(self, logits, labels):
        return super().loss(logits.softmax(1), labels)
