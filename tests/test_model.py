"""The mathematics of model.py against closed forms, torch's own layers and brute force. About 3 s."""
import math
from collections import Counter

import pytest
import torch
from torch import nn

from model import HEADS, Block, DeferredAdamW, Encoder, EncoderConfig, to_bags


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


@pytest.mark.parametrize('width', [0, 33])
@pytest.mark.parametrize('head', HEADS)
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


def test_losses_are_the_closed_forms():
    def logits_for(p):
        return torch.tensor([[math.log(p / (1 - p))]], dtype=torch.float64)
    one = torch.tensor([1])
    bce, ce = HEADS['bce'](4, 2), HEADS['ce'](4, 2)
    for p, loss in (0.9, 0.105), (0.1, 2.303), (0.01, 4.605):
        assert bce.loss(logits_for(p), one).item() == pytest.approx(-math.log(p), abs=1e-12)
        assert bce.loss(logits_for(p), one).item() == pytest.approx(loss, abs=5e-4)
    ten = torch.tensor([.05, .02, .08, .70, .03, .04, .02, .03, .02, .01]).log()[None]
    assert HEADS['ce'](4, 10).loss(ten, torch.tensor([3])).item() == pytest.approx(0.357, abs=5e-4)
    # two logits are one: CE(z0, z1) = BCE(z1 - z0)
    z, y = torch.randn(20, 2, dtype=torch.float64), torch.arange(20) % 2
    assert ce.loss(z, y).item() == pytest.approx(bce.loss(z[:, 1:] - z[:, :1], y).item(), abs=1e-12)


@pytest.mark.parametrize('head', HEADS)
def test_gradient_at_the_logits_is_p_minus_y(head):
    head = HEADS[head](4, 2)
    z = torch.randn(12, head.linear.out_features, dtype=torch.float64, requires_grad=True)
    y = torch.arange(12) % 2
    head.loss(z, y).backward()
    p_minus_y = head.probs(z.detach()) - torch.eye(2, dtype=torch.float64)[y]
    torch.testing.assert_close(z.grad * 12, p_minus_y[:, 2 - z.shape[1]:], rtol=0, atol=1e-12)


@pytest.mark.parametrize('head', HEADS)
def test_extreme_logits_stay_finite(head):
    head = HEADS[head](4, 2)
    z = torch.tensor([[1e4], [-1e4], [1e4], [-1e4]]).repeat(1, head.linear.out_features)
    z[:, :-1] *= -1
    z.requires_grad_()
    loss = head.loss(z, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    probs = head.probs(z)
    assert loss.isfinite() and z.grad.isfinite().all() and probs.isfinite().all()
    torch.testing.assert_close(probs.sum(1), torch.ones(4))
    assert probs.argmax(1).tolist() == [1, 0, 1, 0]


def test_the_trunk_does_not_depend_on_the_head():
    states = []
    for head in HEADS:
        torch.manual_seed(5)
        model = Encoder(EncoderConfig(vocab_size=30, n_class=2, n_embd=8, head=head))
        states.append(model.state_dict())
        assert 0.01 < model.head.linear.weight.std() < 0.03 and not model.head.linear.bias.any()
    for name in states[0]:
        if not name.startswith('head.'):
            assert torch.equal(states[0][name], states[1][name])


@pytest.mark.parametrize('wrong, says', [
    (dict(n_embd=10, n_head=4), 'n_embd 10 is not divisible by n_head 4'), (dict(head='bec'), "no head 'bec'"),
    (dict(pos='rotary'), "not 'rotary'"), (dict(dropout=1.0), 'dropout'), (dict(n_layer=-1), 'n_layer'),
    (dict(n_head=0), 'n_head')])
def test_impossible_shapes(wrong, says):
    with pytest.raises(ValueError, match=says):
        EncoderConfig(vocab_size=5, n_class=2, **wrong)


def test_bce_is_for_two_classes():
    with pytest.raises(ValueError, match='have 3'):
        Encoder(EncoderConfig(vocab_size=5, n_class=3, head='bce'))
    assert Encoder(EncoderConfig(vocab_size=5, n_class=3, head='ce'))(*pad([[(1, 1)]])).shape == (1, 3)


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
