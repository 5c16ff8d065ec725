"""The heads of matched.sh: binary cross-entropy that trains as cross-entropy does, and
cross-entropy with a rounding error. Used by --head=results/losses/matched/heads.py:CLASS."""
from model import BCEHead, CEHead, seeded_linear


class MatchedBCEHead(BCEHead):
    """Binary cross-entropy whose one logit trains as the difference of the two logits of CEHead.

    from_ce: start from the difference of the two rows from which CEHead would start.
    """

    def __init__(self, n_features, n_class, from_ce=True, lr_mult=2.0, wd_mult=0.5):
        if n_class != 2:
            raise ValueError('MatchedBCEHead is for two classes')
        super().__init__(n_features, n_class)
        self.lr_mult = lr_mult
        self.wd_mult = wd_mult
        if from_ce:
            self.linear.weight.data = seeded_linear(n_features, 2).weight.detach().diff(dim=0)


class NudgedCEHead(CEHead):
    """Cross-entropy with `nudge` added to its first weight at the start, to see how far training
    magnifies a rounding error."""

    def __init__(self, n_features, n_class, class_share, nudge=1e-7):
        super().__init__(n_features, n_class, class_share)
        self.linear.weight.data[0, 0] += nudge
