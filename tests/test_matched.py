# Not adapted: taken as they were from tests/test_model.py, for the experiment with these heads.
"""Heads of one experiment: one logit that is trained as two, and two with another start."""
import math

import pytest
import torch

from model import HEADS, Encoder, EncoderConfig, head_settings, make_head
from nanoloss.optim import parameter_groups

TWO_CLASSES_ONLY = 'bce_matched'
MATCHED = {'from_ce': True, 'lr_mult': 2.0, 'wd_mult': 0.5}  # config/bce_matched.py

# rows and lines of tests that stay in tests/test_model.py, where HEADS had these heads too

BY_HAND = [
    ('ce_nudged', {}, (0.349012, 3.349012)),
]

ALL = [(head, 2, False) for head in HEADS]
ALL += [(head, 4, False) for head in HEADS if head != TWO_CLASSES_ONLY]
ALL += [(head, n_class, True) for head in HEADS for n_class in (2, 4) if head != TWO_CLASSES_ONLY]

IMPOSSIBLE_HEADS = [
    ({'head': 'bce_matched', 'multi_label': True}, 'for one label a review'),
    ({'head': 'bce_matched', 'n_class': 3}, 'two classes'),
]


def test_a_head_s_keywords_are_its_settings():
    assert head_settings({'head': 'bce_matched'}) == MATCHED
    assert head_settings({'head': 'ce_nudged'}) == {'nudge': 1e-7}


def test_only_the_square_head_s_logits_are_no_log_odds():
    heads = {name: make_head(name, 4, 2) for name in HEADS}
    assert [name for name, head in heads.items() if not head.calibrated] == ['square']
    scaled = [name for name, head in heads.items() if (head.lr_mult, head.wd_mult) != (1, 1)]
    assert scaled == ['bce_matched']


# Matched heads

def learn(head, settings, steps=40, clip=0.0, optimizer=torch.optim.AdamW, min_lr=3e-4,
          scale_min_lr=True):
    """Train a small float64 encoder with dropout as train.py does -> losses, trunk, and the
    log-odds' direction."""
    torch.manual_seed(3)
    config = EncoderConfig(vocab_size=40, n_class=2, n_embd=16, n_head=2, dropout=0.2, head=head,
                           head_settings=settings)
    model = Encoder(config).double()
    torch.manual_seed(4)  # for dropout: heads of different sizes have drawn differently
    optimizer = optimizer(parameter_groups(model, 0.1), betas=(0.9, 0.99))
    losses = []
    generator = torch.Generator().manual_seed(4)
    for step in range(steps):
        tokens = torch.randint(0, 40, (8, 12), generator=generator)
        y = torch.randint(0, 2, (8,), generator=generator)
        lr = 3e-3 * (1 - step / steps) + min_lr
        for group in optimizer.param_groups:
            if scale_min_lr:
                group['lr'] = lr * group['lr_mult']
            else:
                group['lr'] = (lr - min_lr) * group['lr_mult'] + min_lr
        loss = model.head.loss(model(tokens, torch.ones(8, 12))[-1], y)
        optimizer.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())

    trunk = []
    for name, parameter in model.named_parameters():
        if not name.startswith('head.'):
            trunk.append(parameter.detach().flatten())
    linear = model.head.linear
    direction = torch.cat([linear.weight, linear.bias[:, None]], 1).detach()
    direction = direction.diff(dim=0)[0] if head == 'ce' else direction[0]
    return torch.tensor(losses, dtype=torch.float64), torch.cat(trunk), direction


@pytest.mark.parametrize('settings', [MATCHED, {}], ids=['as configured', 'by default'])
def test_matched_bce_is_ce(settings):
    """One logit that starts from the difference of the two, at twice the rate and half the decay:
    the same training. A key's bias has no gradient but rounding, which Adam magnifies: parameters
    agree less than losses."""
    theirs = learn('ce', {})
    ours = learn('bce_matched', settings)
    for their, our, tolerance in zip(theirs, ours, (1e-12, 1e-8, 1e-8)):
        torch.testing.assert_close(our, their, rtol=0, atol=tolerance)


UNMATCHED = {
    'own start': (MATCHED | {'from_ce': False}, {}),
    'rate not doubled': (MATCHED | {'lr_mult': 1.0}, {}),
    'decay not halved': (MATCHED | {'wd_mult': 1.0}, {}),
    'clipping': (MATCHED, {'clip': 0.1}),
    'coupled L2': (MATCHED, {'optimizer': torch.optim.Adam}),
    'absolute minimum rate': (MATCHED, {'scale_min_lr': False}),
}


@pytest.mark.parametrize('settings, settings_of_both', UNMATCHED.values(), ids=UNMATCHED)
def test_what_is_not_matched_is_not_ce(settings, settings_of_both):
    theirs = learn('ce', {}, **settings_of_both)
    ours = learn('bce_matched', settings, **settings_of_both)
    assert (theirs[0] - ours[0]).abs().max() > 1e-6
    assert (theirs[2] - ours[2]).abs().max() > 1e-6


def test_a_matched_head_that_starts_by_itself_is_bce():
    plain = learn('bce', {})
    unmatched = learn('bce_matched', {'from_ce': False, 'lr_mult': 1.0, 'wd_mult': 1.0})
    for ours, theirs in zip(unmatched, plain):
        assert torch.equal(ours, theirs)


def head_from_seed(name, **settings):
    torch.manual_seed(5)
    return make_head(name, 8, 2, **settings)


def test_a_matched_head_starts_from_the_difference_of_ce():
    ce = head_from_seed('ce').linear.weight
    matched = head_from_seed('bce_matched').linear
    exact = ce.detach().double().diff(dim=0)
    assert torch.equal(matched.weight.double(), exact)  # nothing is rounded
    assert not matched.bias.any()
    unmatched = head_from_seed('bce_matched', from_ce=False).linear.weight
    assert torch.equal(unmatched, head_from_seed('bce').linear.weight)


def test_a_nudged_head_is_ce_but_for_one_weight():
    ce = head_from_seed('ce').linear.weight
    nudged = head_from_seed('ce_nudged', nudge=0.25).linear.weight
    difference = torch.zeros(2, 8)
    difference[0, 0] = 0.25
    torch.testing.assert_close(nudged - ce, difference, rtol=0, atol=1e-7)
    by_default = head_from_seed('ce_nudged').linear.weight
    assert (by_default != ce).sum() == 1 and (by_default - ce).abs().max() < 2e-7


# Initial weights

def test_the_trunk_does_not_depend_on_the_head():
    states = []
    for head in HEADS:
        torch.manual_seed(5)
        model = Encoder(EncoderConfig(vocab_size=30, n_class=2, n_embd=8, head=head))
        states.append(model.state_dict())
        largest = 0.03
        if head == 'bce_matched':  # the difference of two
            largest *= math.sqrt(2)
        assert 0.008 < model.head.linear.weight.std() < largest
        assert not model.head.linear.bias.any()
    for state in states[1:]:
        for name in states[0]:
            if not name.startswith('head.'):
                assert torch.equal(states[0][name], state[name])

