"""The mathematics of model.py against closed forms, torch's own layers and brute force. About 3 s."""
import math
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model import HEADS, Block, DeferredAdamW, Encoder, EncoderConfig, is_right, make_head, parts, to_bags


def encoder(**settings):
    """A small float64 encoder with weights large enough that every part of it matters."""
    torch.manual_seed(0)
    model = Encoder(EncoderConfig(**{'vocab_size': 50, 'n_class': 2, 'n_embd': 16, 'block_size': 40, **settings}))
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.double()


def pad(reviews, width=0):
    """Lists of (token, count) -> tokens and counts [B, T]; the padding is token 7, so that it could do harm."""
    width = max(width, *map(len, reviews))
    rows = [review + [(7, 0)] * (width - len(review)) for review in reviews]
    tokens, counts = torch.tensor(rows).unbind(-1)
    return tokens, counts


REVIEWS = [[3, 1, 3, 3, 9, 1], [5], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 2], [4, 8, 15, 16, 23, 42]]
SEQUENCES = [[(token, 1) for token in review] for review in REVIEWS]
BAGS = [list(Counter(review).items()) for review in REVIEWS]


def test_to_bags_counts_what_a_counter_counts():
    g = torch.Generator().manual_seed(1)
    lengths = torch.tensor([1, 30, 7, 200])
    tokens = torch.randint(0, 100_277, (238,), generator=g)
    tokens[50:150] %= 5
    kinds, counts, sizes = to_bags(tokens, lengths)
    for review, kind, count in zip(*(t.split(n.tolist()) for t, n in ((tokens, lengths), (kinds, sizes), (counts, sizes)))):
        assert list(zip(kind.tolist(), count.tolist())) == sorted(Counter(review.tolist()).items())


def test_parts_hold_the_batch():
    lengths = torch.randint(1, 40, (30,), generator=torch.Generator().manual_seed(0)).sort()[0]
    counts = (torch.arange(40) < lengths[:, None]) * torch.randint(1, 9, (30, 40))
    tokens, y = counts * 1000 + torch.arange(30)[:, None], torch.arange(30)
    cut = list(parts(100, tokens[:, :lengths[-1]], counts[:, :lengths[-1]], y))
    assert torch.cat([part[2] for part in cut]).tolist() == list(range(30)) and len(cut) > 5
    for t, c, rows in cut:
        assert 0 <= c.shape[1] - lengths[rows].max() < 8 and c.numel() <= 200
        assert torch.equal(t, tokens[rows, :t.shape[1]]) and torch.equal(c.sum(1), counts[rows].sum(1))


@pytest.mark.parametrize('width', [0, 33])
@pytest.mark.parametrize('head', ['bce', 'ce'])
def test_a_bag_is_the_full_sequence_logits_and_gradients(head, width):
    model, y = encoder(head=head), torch.tensor([0, 1, 1, 0])
    outcomes = []
    for reviews, wide in (SEQUENCES, 0), (BAGS, width):
        model.zero_grad()
        logits = model(*pad(reviews, wide))
        model.head.loss(logits, y).backward()
        outcomes.append([logits] + [p.grad for p in model.parameters()])
    for whole, bag in zip(*outcomes):
        torch.testing.assert_close(bag, whole, rtol=1e-9, atol=1e-11)
    assert all(grad.abs().max() > 1e-6 for grad in outcomes[0] if len(grad) != 48)  # 48: a key's bias has none


def test_one_review_alone_is_the_review_in_a_batch():
    model = encoder()
    together = model(*pad(BAGS))
    for bag, logits in zip(BAGS, together):
        torch.testing.assert_close(model(*pad([bag, bag]))[0], logits, rtol=1e-12, atol=1e-12)


def test_order_matters_only_with_positions():
    backwards = [review[::-1] for review in SEQUENCES]
    for pos, same in ('none', True), ('learned', False):
        model = encoder(pos=pos)
        there, back = model(*pad(SEQUENCES)), model(*pad(backwards))
        assert torch.allclose(there[0], back[0], atol=1e-12) is same


def test_attention_is_torch_multihead_attention():
    torch.manual_seed(2)
    block = Block(EncoderConfig(vocab_size=1, n_class=2, n_embd=24, n_head=3)).double()
    reference = nn.MultiheadAttention(24, 3, batch_first=True).double()
    reference.load_state_dict({'in_proj_weight': block.qkv.weight, 'in_proj_bias': block.qkv.bias,
                               'out_proj.weight': block.proj.weight, 'out_proj.bias': block.proj.bias})
    x, counts = torch.randn(2, 9, 24, dtype=torch.float64), torch.ones(2, 9, dtype=torch.float64)
    counts[1, 5:] = 0
    wanted, _ = reference(x, x, x, key_padding_mask=counts == 0)
    torch.testing.assert_close(block.attend(x, counts), wanted, rtol=1e-10, atol=1e-12)
    # counts other than 0 and 1: torch takes them as log(count) added to the scores
    counts[:, 2] = 17
    mask = counts.log()[:, None].expand(-1, 9, -1).repeat_interleave(3, 0)
    wanted, _ = reference(x, x, x, attn_mask=mask)
    torch.testing.assert_close(block.attend(x, counts), wanted, rtol=1e-10, atol=1e-12)


def test_block_is_torch_encoder_layer():
    torch.manual_seed(3)
    block = Block(EncoderConfig(vocab_size=1, n_class=2, n_embd=24, n_head=3)).double()
    reference = nn.TransformerEncoderLayer(24, 3, 96, dropout=0.0, activation='relu', batch_first=True,
                                           norm_first=True).double()
    names = {'self_attn.in_proj_': 'qkv.', 'self_attn.out_proj.': 'proj.', 'linear1.': 'up.', 'linear2.': 'down.',
             'norm1.': 'norm_1.', 'norm2.': 'norm_2.'}
    state = block.state_dict()
    reference.load_state_dict({there + kind: state[here + kind] for there, here in names.items()
                               for kind in ('weight', 'bias')})
    x, counts = torch.randn(2, 9, 24, dtype=torch.float64), torch.ones(2, 9)
    torch.testing.assert_close(block(x, counts), reference(x), rtol=1e-10, atol=1e-12)


def test_bfloat16_keeps_large_counts():
    """Attention in bf16 is as near to float64 with counts as without: no count is bent."""
    block = Block(EncoderConfig(vocab_size=1, n_class=2, n_embd=64, n_head=2))
    nn.init.normal_(block.qkv.weight, std=0.2)
    x = torch.randn(4, 60, 64)
    counts = torch.randint(1, 60, (4, 60))
    errors = []
    for c in torch.ones(4, 60), counts:
        with torch.autocast('cpu', torch.bfloat16):
            near = block.attend(x, c)
        exact = block.double().attend(x.double(), c.double())
        block.float()
        errors.append(((near - exact).norm() / exact.norm()).item())
    assert errors[0] < 0.02 and errors[1] < 1.5 * errors[0]


def test_cross_entropies_are_those_of_the_article():
    def logits_for(p):
        return torch.tensor([[math.log(p / (1 - p))]], dtype=torch.float64)
    one = torch.tensor([1])
    bce, ce = make_head('bce', 4, 2), make_head('ce', 4, 2)
    for p, loss in (0.9, 0.105), (0.1, 2.303), (0.01, 4.605):
        assert bce.loss(logits_for(p), one).item() == pytest.approx(-math.log(p), abs=1e-12)
        assert bce.loss(logits_for(p), one).item() == pytest.approx(loss, abs=5e-4)
    ten = torch.tensor([.05, .02, .08, .70, .03, .04, .02, .03, .02, .01]).log()[None]
    assert make_head('ce', 4, 10).loss(ten, torch.tensor([3])).item() == pytest.approx(0.357, abs=5e-4)
    # two logits are one: CE(z0, z1) = BCE(z1 - z0)
    z, y = torch.randn(20, 2, dtype=torch.float64), torch.arange(20) % 2
    assert ce.loss(z, y).item() == pytest.approx(bce.loss(z[:, 1:] - z[:, :1], y).item(), abs=1e-12)


# z = (1, 2, -1): e^z = 2.71828, 7.38906, 0.36788, together 10.47522; p = 0.259496, 0.705385, 0.035119. By hand, for
# the labels 1 and 2; -log p = 1.349012, 0.349012, 3.349012, their mean is 1.682345
BY_HAND = [
    ('ce', {}, (0.349012, 3.349012)),
    ('ce', {'label_smoothing': 0.1}, (0.9 * 0.349012 + 0.1682345, 0.9 * 3.349012 + 0.1682345)),
    ('ce', {'class_weight': '1,2,3'}, (0.349012 * 2 / 2.1, 3.349012 * 3 / 2.1)),  # 2.1 = .2 * 1 + .5 * 2 + .3 * 3
    ('ce', {'class_weight': 'balanced'}, (0.349012 / 0.5 / 3, 3.349012 / 0.3 / 3)),
    ('focal', {}, (0.294615 ** 2 * 0.349012, 0.964881 ** 2 * 3.349012)),
    ('focal', {'gamma': 0.5}, (0.294615 ** 0.5 * 0.349012, 0.964881 ** 0.5 * 3.349012)),
    ('focal', {'gamma': 0.0, 'alpha': '1,2,3'}, (0.349012 * 2 / 2.1, 3.349012 * 3 / 2.1)),
    ('brier', {}, (0.259496 ** 2 + 0.294615 ** 2 + 0.035119 ** 2, 0.259496 ** 2 + 0.705385 ** 2 + 0.964881 ** 2)),
    ('square', {}, ((1 + 1 + 1) / 3, (4 + 1 + 4) / 3)),
    ('square', {'k': 100.0}, ((100 + 1 + 1) / 3, (400 + 1 + 4) / 3)),
    ('square', {'k': 2.0, 'M': 10.0}, ((2 * 64 + 1 + 1) / 3, (2 * 121 + 1 + 4) / 3)),
    ('squentropy', {}, (0.349012 + (1 + 1) / 2, 3.349012 + (1 + 4) / 2)),  # the others' squares: neither the label's,
    ('bce', {}, (0.126928 + 1.313262 + 0.313262, 1.313262 + 2.126928 + 1.313262)),  # nor those of p minus one-hot
]


@pytest.mark.parametrize('head, settings, losses', BY_HAND, ids=[f'{h} {s}' for h, s, _ in BY_HAND])
def test_losses_by_hand(head, settings, losses):
    head = make_head(head, 4, 3, class_share=[0.2, 0.5, 0.3], **settings)
    z = torch.tensor([[1.0, 2, -1]])
    for y, loss in zip((1, 2), losses):
        assert head.loss(z, torch.tensor([y])).item() == pytest.approx(loss, rel=1e-5)
    both = head.loss(z.repeat(2, 1), torch.tensor([1, 2])).item()
    assert both == pytest.approx(sum(losses) / 2, rel=1e-5)  # a mean over the reviews, whatever their weights
    assert head.probs(z).argmax() == 1


def test_two_ways_to_write_a_loss_are_one():
    """Of two classes, weighted CE is BCE with pos_weight and softmax focal is sigmoid focal on the difference."""
    z, y = torch.randn(30, 2, dtype=torch.float64), (torch.arange(30) % 3 == 0).long()
    d, p = z[:, 1] - z[:, 0], (z[:, 1] - z[:, 0]).sigmoid()
    weighted = make_head('ce', 4, 2, class_share=[2 / 3, 1 / 3], class_weight='1,9').double().loss(z, y)
    reference = F.binary_cross_entropy_with_logits(d, y.double(), pos_weight=torch.tensor(9.0, dtype=torch.float64))
    assert weighted.item() == pytest.approx(reference.item() / (2 / 3 + 9 / 3), rel=1e-6)  # the weights are float32
    p_y = torch.where(y == 1, p, 1 - p)
    sigmoid = ((1 - p_y) ** 2 * F.binary_cross_entropy_with_logits(d, y.double(), reduction='none')).mean()
    assert make_head('focal', 4, 2).loss(z, y).item() == pytest.approx(sigmoid.item(), rel=1e-12)


ALL = [(head, 2, False) for head in HEADS] + [(head, 4, False) for head in HEADS] + [('bce', 2, True), ('bce', 4, True)]


def labels(n, n_class, multi_label):
    return torch.arange(n * n_class).view(n, n_class) % 3 % 2 if multi_label else torch.arange(n) % n_class


@pytest.mark.parametrize('head, n_class, multi_label', ALL)
def test_gradients_and_probabilities(head, n_class, multi_label):
    head, y = make_head(head, 4, n_class, multi_label), labels(12, n_class, multi_label)
    z = torch.randn(12, head.linear.out_features, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: head.loss(z, y), z)
    probs, best = head.probs(z), z.argmax(1) if z.shape[1] > 1 else (z[:, 0] > 0).long()
    if multi_label:
        assert torch.equal(probs > 0.5, z > 0) and probs.shape == (12, n_class)
    else:
        torch.testing.assert_close(probs.sum(1), torch.ones(12, dtype=torch.float64))
        assert torch.equal(probs.argmax(1), best) and probs.shape == (12, n_class)


@pytest.mark.parametrize('head', ['bce', 'ce'])
def test_gradient_at_the_logits_is_p_minus_y(head):
    head = make_head(head, 4, 2)
    z = torch.randn(12, head.linear.out_features, dtype=torch.float64, requires_grad=True)
    y = torch.arange(12) % 2
    head.loss(z, y).backward()
    p_minus_y = head.probs(z.detach()) - torch.eye(2, dtype=torch.float64)[y]
    torch.testing.assert_close(z.grad * 12, p_minus_y[:, 2 - z.shape[1]:], rtol=0, atol=1e-12)


def test_the_article_compares_two_gradients():
    """Its example, p = (.7, .2, .1) and (.4, .3, .3): the MSE's gradient in p, -0.6 and -1.2, beside cross-entropy's
    in z, -0.3 and -0.6. In z the MSE's is 2 sum_j (p_j - y_j) p_j ([j = y] - p_y) = -0.196 and -0.432: the smaller."""
    z, y = torch.tensor([[.7, .2, .1], [.4, .3, .3]]).log().requires_grad_(), torch.tensor([0, 0])
    for head, losses, gradients in ('ce', (.357, .916), (-.3, -.6)), ('brier', (.14, .54), (-.196, -.432)):
        head = make_head(head, 4, 3)
        for i in range(2):
            loss = head.loss(z[[i]], y[[i]])
            assert loss.item() == pytest.approx(losses[i], abs=5e-4)
            assert torch.autograd.grad(loss, z)[0][i, 0].item() == pytest.approx(gradients[i], abs=1e-6)


@pytest.mark.parametrize('settings', [{}, {'gamma': 0.5}, {'label_smoothing': 0.1}])
@pytest.mark.parametrize('head, n_class, multi_label', ALL)
def test_extreme_logits_stay_finite(head, n_class, multi_label, settings):
    head, y = make_head(head, 4, n_class, multi_label, **settings), labels(8, n_class, multi_label)
    z = torch.full((8, head.linear.out_features), -1e4)
    z[torch.arange(8), torch.arange(8) // 2 % z.shape[1]] = 1e4
    z.requires_grad_()
    loss, probs = head.loss(z, y), head.probs(z)
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all() and probs.isfinite().all()
    if not multi_label:
        torch.testing.assert_close(probs.sum(1), torch.ones(8))


def test_several_labels_are_as_many_binary_tasks():
    head, single = make_head('bce', 4, 3, True), make_head('bce', 4, 2)
    z, y = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), labels(10, 3, True)
    z[::2] = z[::2].abs() * (2 * y[::2] - 1)
    alone = sum(single.loss(z[:, [c]], y[:, c]) for c in range(3))
    torch.testing.assert_close(head.loss(z, y), alone)
    right = [all((head.probs(z)[i, c] > 0.5) == y[i, c] for c in range(3)) for i in range(10)]
    assert is_right(head.probs(z), y).tolist() == right and sum(right) in range(5, 10)


def learn(head, settings, steps=40, clip=0.0, optimizer=torch.optim.AdamW, min_lr=3e-4, scale_min_lr=True):
    """Train a small float64 encoder with dropout as train.py does -> losses, trunk, and the log-odds' direction."""
    torch.manual_seed(3)
    model = Encoder(EncoderConfig(vocab_size=40, n_class=2, n_embd=16, n_head=2, dropout=0.2, head=head,
                                  head_settings=settings)).double()
    torch.manual_seed(4)  # for dropout: heads of different sizes have drawn differently
    optimizer, losses = optimizer(model.parameter_groups(0.1), betas=(0.9, 0.99)), []
    generator = torch.Generator().manual_seed(4)
    for step in range(steps):
        tokens, y = (torch.randint(0, n, size, generator=generator) for n, size in ((40, (8, 12)), (2, (8,))))
        lr = 3e-3 * (1 - step / steps) + min_lr
        for group in optimizer.param_groups:
            group['lr'] = lr * group['lr_mult'] if scale_min_lr else (lr - min_lr) * group['lr_mult'] + min_lr
        loss = model.head.loss(model(tokens, torch.ones(8, 12)), y)
        optimizer.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    trunk = torch.cat([p.detach().flatten() for name, p in model.named_parameters() if not name.startswith('head.')])
    linear = model.head.linear
    direction = torch.cat([linear.weight, linear.bias[:, None]], 1).detach()
    return torch.tensor(losses, dtype=torch.float64), trunk, direction.diff(dim=0)[0] if head == 'ce' else direction[0]


MATCHED = {'from_ce': True, 'lr_mult': 2.0, 'wd_mult': 0.5}  # config/bce_matched.py


def test_matched_bce_is_ce():
    """One logit that starts from the difference of the two, at twice the rate and half the decay: the same training.
    A key's bias has no gradient but rounding, which Adam magnifies: parameters agree less than losses."""
    for theirs, ours, tolerance in zip(learn('ce', {}), learn('bce', MATCHED), (1e-12, 1e-8, 1e-8)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize('ours, both', [
    (MATCHED | {'from_ce': False}, {}), (MATCHED | {'lr_mult': 1.0}, {}), (MATCHED | {'wd_mult': 1.0}, {}),
    (MATCHED, {'clip': 0.1}), (MATCHED, {'optimizer': torch.optim.Adam}), (MATCHED, {'scale_min_lr': False})],
    ids=['own start', 'rate not doubled', 'decay not halved', 'clipping', 'coupled L2', 'absolute minimum rate'])
def test_what_is_not_matched_is_not_ce(ours, both):
    theirs, mine = learn('ce', {}, **both), learn('bce', ours, **both)
    assert (theirs[0] - mine[0]).abs().max() > 1e-6 and (theirs[2] - mine[2]).abs().max() > 1e-6


def test_the_trunk_does_not_depend_on_the_head():
    states = []
    for head in HEADS:
        torch.manual_seed(5)
        model = Encoder(EncoderConfig(vocab_size=30, n_class=2, n_embd=8, head=head))
        states.append(model.state_dict())
        assert 0.008 < model.head.linear.weight.std() < 0.03 and not model.head.linear.bias.any()
    for name in states[0]:
        if not name.startswith('head.'):
            assert torch.equal(states[0][name], states[1][name])


@pytest.mark.parametrize('wrong, says', [
    (dict(n_embd=10, n_head=4), 'n_embd 10 is not divisible by n_head 4'),
    (dict(pos='rotary'), "not 'rotary'"), (dict(dropout=1.0), 'dropout'), (dict(n_layer=-1), 'n_layer'),
    (dict(n_head=0), 'n_head')])
def test_impossible_shapes(wrong, says):
    with pytest.raises(ValueError, match=says):
        EncoderConfig(vocab_size=5, n_class=2, **wrong)


@pytest.mark.parametrize('wrong, says', [
    (dict(head='bec'), "no head 'bec'; there are bce, ce"), (dict(head='ce', multi_label=True), 'take bce'),
    (dict(head='bce', n_class=3, head_settings={'from_ce': True}), 'two classes'),
    (dict(head='ce', head_settings={'label_smoothing': 1.0}), 'label_smoothing must be in'),
    (dict(head='ce', head_settings={'class_weight': '1,2,3'}), '2 positive numbers'),
    (dict(head='ce', head_settings={'class_weight': '1,-1'}), '2 positive numbers'),
    (dict(head='ce', head_settings={'class_weight': 'even'}), "not 'even'"),
    (dict(head='focal', head_settings={'gamma': -1.0}), 'gamma must not be negative')])
def test_impossible_heads(wrong, says):
    with pytest.raises(ValueError, match=says):
        Encoder(EncoderConfig(**{'vocab_size': 5, 'n_class': 2, **wrong}))


@pytest.mark.parametrize('dtype, eps, tolerance', [(torch.float64, 1e-30, 1e-13), (torch.float32, 1e-30, 1e-5),
                                                   (torch.float32, 1e-8, 2e-3)])
def test_deferred_adamw_is_adamw(dtype, eps, tolerance):
    """Against torch.optim.AdamW over the whole table: rows that come often, seldom and never, changing rates, a
    checkpoint on the way. In float64 exactly; eps, which a waiting row's sqrt(v) takes along, shows in float32."""
    torch.manual_seed(0)
    start = torch.randn(50, 4, dtype=dtype) * 0.02
    dense = torch.nn.Parameter(start.clone())
    adamw = torch.optim.AdamW([dense], betas=(0.9, 0.99), weight_decay=0.3, eps=eps)
    deferred = DeferredAdamW(torch.nn.Parameter(start.clone()), (0.9, 0.99), 0.3, eps)
    for step in range(1, 301):
        lr = adamw.param_groups[0]['lr'] = 1e-2 * (1 + step % 7) / (1 + step / 50)
        tokens = torch.randint(0, 10, (3, 2)) if step % 40 else torch.randint(0, 40, (3, 2))
        gradient = torch.randn(3, 2, 4, dtype=dtype) * 1e-3
        dense.grad = torch.zeros_like(dense).index_add_(0, tokens.flatten(), gradient.flatten(0, 1))
        adamw.step()
        places, table = deferred.rows(tokens)
        assert len(table) == len(tokens.unique())
        (table[places] * gradient).sum().backward()
        deferred.step(lr)
        if step == 130:
            state, weight = deferred.state_dict(), deferred.weight
            deferred = DeferredAdamW(weight, (0.9, 0.99), 0.3, eps)
            deferred.load_state_dict(state)
    assert not torch.allclose(deferred.weight, dense, rtol=0, atol=1e-3)  # some rows wait
    deferred.settle()
    assert torch.allclose(deferred.weight, dense, rtol=0, atol=tolerance)
    assert torch.allclose(deferred.m, adamw.state[dense]['exp_avg'], rtol=1e-4, atol=1e-12)
    assert torch.allclose(deferred.v, adamw.state[dense]['exp_avg_sq'], rtol=1e-4, atol=1e-12)
    assert (dense[40:] - start[40:]).abs().max() > 1e-3 and (dense - start).abs().mean() > 0.02
