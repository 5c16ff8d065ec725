"""model.py against closed forms, torch's own layers and brute force. About 5 s."""
import math
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import ROOT
from torch import nn
from torch.nn import functional as F

from model import (
    HEADS, Block, CEHead, Encoder, EncoderConfig, Head, LanguageModel, hard_labels, head_settings,
    is_correct, make_encoder, make_head)
from nanoloss.optim import parameter_groups
from nanoloss.stats import (
    calibration_error, confidence_bins, fit_temperature, negative_log_likelihood)

TWO_CLASSES_ONLY = 'bce_matched'


def encoder(**settings):
    """A small float64 encoder with weights large enough that every part of it matters."""
    torch.manual_seed(0)
    shape = {'vocab_size': 50, 'n_class': 2, 'n_embd': 16, 'block_size': 40}
    model = Encoder(EncoderConfig(**{**shape, **settings}))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double()


def pad(reviews, width=0):
    """Lists of (token, count) -> tokens and counts [B, T]; the padding is token 7, so that it could
    do harm."""
    width = max(width, *map(len, reviews))
    rows = [review + [(7, 0)] * (width - len(review)) for review in reviews]
    tokens, counts = torch.tensor(rows).unbind(-1)
    return tokens, counts


REVIEWS = [[3, 1, 3, 3, 9, 1], [5], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 2], [4, 8, 15, 16, 23, 42]]
SEQUENCES = [[(token, 1) for token in review] for review in REVIEWS]
BAGS = [list(Counter(review).items()) for review in REVIEWS]


# The encoder

def logits_and_gradients(model, tokens, counts, labels):
    """-> {'logits': ..., parameter name: its gradient}"""
    model.zero_grad()
    logits = model(tokens, counts)[-1]
    model.head.loss(logits, labels).backward()
    outcome = {'logits': logits.detach()}
    for name, parameter in model.named_parameters():
        outcome[name] = parameter.grad
    return outcome


@pytest.mark.parametrize('width', [0, 33])
@pytest.mark.parametrize('head', ['bce', 'ce'])
def test_a_bag_is_the_full_sequence_logits_and_gradients(head, width):
    model = encoder(head=head)
    labels = torch.tensor([0, 1, 1, 0])
    sequence = logits_and_gradients(model, *pad(SEQUENCES), labels)
    bag = logits_and_gradients(model, *pad(BAGS, width), labels)
    for name, wanted in sequence.items():
        torch.testing.assert_close(bag[name], wanted, rtol=1e-9, atol=1e-11)
        if not name.endswith('qkv.bias'):  # a key's bias has no gradient
            assert wanted.abs().max() > 1e-6, name
        else:
            assert (wanted.abs() > 1e-6).any(), name


def test_padding_that_would_draw_all_attention():
    """Number 0, which language models learn to look at, is what batches are padded with."""
    config = EncoderConfig(vocab_size=10, n_class=2, n_layer=1, n_head=1, n_embd=8, head='ce')
    model = Encoder(config)
    with torch.no_grad():
        side = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1])
        model.token_embedding.weight[0] = side
        model.token_embedding.weight[1:] = -side + torch.randn(9, 8) / 10
        # every query looks for number 0, and finds it 1e3 above all others
        weight = model.blocks[0].qkv.weight.zero_()
        weight[8:16] = torch.eye(8)
        weight[16:] = torch.randn(8, 8)
        model.blocks[0].qkv.bias[:8] = 200 * side
    tokens = torch.tensor([[3, 1, 4]])
    counts = torch.tensor([[1, 2, 1]])
    alone = model(tokens, counts)[-1]
    padded = model(F.pad(tokens, (0, 5)), F.pad(counts, (0, 5)))[-1]
    torch.testing.assert_close(padded, alone)


def test_one_review_alone_is_the_review_in_a_batch():
    model = encoder()
    together = model(*pad(BAGS))[-1]
    for bag, logits in zip(BAGS, together):
        alone = model(*pad([bag, bag]))[-1][0]
        torch.testing.assert_close(alone, logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('pos, ordered', [('none', False), ('learned', True)])
def test_order_matters_only_with_positions(pos, ordered):
    model = encoder(pos=pos)
    forwards = model(*pad(SEQUENCES))[-1]
    backwards = model(*pad([review[::-1] for review in SEQUENCES]))[-1]
    assert torch.allclose(forwards[0], backwards[0], atol=1e-12) is not ordered
    assert model.ordered is ordered


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('pos', ['none', 'learned'])
def test_embed_encode_pool_and_head_make_forward(pos, training):
    model = encoder(pos=pos, dropout=0.3, n_class=3, head='ce').train(training)
    tokens, counts = pad(BAGS)
    weights = counts.double()
    torch.manual_seed(1)
    wanted = model(tokens, counts)[-1]
    torch.manual_seed(1)
    x = model.embed(tokens, counts)
    hidden = model.encode(x, weights)
    pooled = model.pool(hidden, weights)
    assert torch.equal(model.head(pooled), wanted)
    assert x.shape == hidden.shape == (*tokens.shape, 16)
    assert pooled.shape == (4, 16) and wanted.shape == (4, 3)
    # dropout draws in training only
    assert torch.equal(model(tokens, counts)[-1], wanted) is not training

    # a review's mean, token by token
    for review, vectors, mean in zip(BAGS, hidden, pooled):
        total = sum(count * vector for (_, count), vector in zip(review, vectors))
        by_hand = total / sum(count for _, count in review)
        torch.testing.assert_close(mean, by_hand, rtol=1e-12, atol=1e-12)


EMBEDDED = (4, 12, 16)  # REVIEWS, padded, by n_embd
POOLED = (4, 16)


@pytest.mark.parametrize('shape, dropped', [
    ({'n_layer': 0}, [EMBEDDED]),
    ({'n_layer': 2}, [EMBEDDED] * 5),  # the embedding, then attention and MLP of each block
    ({'n_layer': 2, 'causal': True}, [EMBEDDED] * 5),
    ({'n_layer': 0, 'window': 3}, [POOLED]),
    ({'n_layer': 1, 'window': 3}, [EMBEDDED] * 2),  # those of the block alone
], ids=str)
def test_what_is_dropped_out_in_training(shape, dropped, monkeypatch):
    model = encoder(dropout=0.3, **shape)
    found = []
    real = F.dropout

    def dropout(x, p, training):
        if training:
            assert p == 0.3
            found.append(tuple(x.shape))
        return real(x, p, training)

    monkeypatch.setattr(F, 'dropout', dropout)
    tokens, counts = pad(SEQUENCES)
    model.train()(tokens, counts)
    assert found == dropped
    model.eval()(tokens, counts)
    assert found == dropped


def test_embeddings_are_the_token_s_and_the_position_s_rows():
    model = encoder(pos='learned')
    tokens, counts = pad(SEQUENCES)
    x = model.embed(tokens, counts)
    for b, t in (0, 0), (0, 2), (2, 11), (3, 5):
        row = model.token_embedding.weight[tokens[b, t]] + model.positions.weight[t]
        assert torch.equal(x[b, t], row)


def test_hidden_states_leave_the_encoder_normalised():
    model = encoder()
    nn.init.ones_(model.norm.weight)
    nn.init.zeros_(model.norm.bias)
    tokens, counts = pad(BAGS)
    hidden = model.encode(model.embed(tokens, counts), counts.double())
    assert hidden.mean(-1).abs().max() < 1e-12
    assert (hidden.var(-1, correction=0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize('window', [1, 2, 3, 4, 7, 40])  # also wider than the longest review
def test_windows_are_a_convolution_of_one_hot_tokens(window):
    """torch's own, with a kernel that holds the tables; the review is padded with zeros."""
    model = encoder(window=window, n_layer=0)
    tokens, counts = pad(SEQUENCES, width=15)
    hidden = model.embed(tokens, counts)
    one_hot = F.one_hot(tokens, 50).double() * (counts > 0)[..., None]
    kernel = model.token_embedding.weight.view(50, window, 16).permute(2, 0, 1)
    before = (window - 1) // 2
    signal = F.pad(one_hot.mT, (before, window - 1 - before))
    wanted = F.conv1d(signal, kernel, model.windows.bias).relu().mT
    real = counts > 0
    torch.testing.assert_close(hidden[real], wanted[real], rtol=1e-12, atol=1e-12)
    assert model.ordered == (window > 1)


@pytest.mark.parametrize('pooling', ['mean', 'max'])
def test_padding_changes_nothing_of_windows(pooling):
    model = encoder(window=3, n_layer=0, pooling=pooling)
    alone = torch.cat([model(*pad([review]))[-1] for review in SEQUENCES])
    torch.testing.assert_close(model(*pad(SEQUENCES, width=33))[-1], alone, rtol=1e-12, atol=1e-12)


def test_windows_wider_than_a_text():
    model = encoder(window=8, n_layer=0)
    short = [[(7, 1)], [(3, 1), (4, 1)]]
    torch.testing.assert_close(model(*pad(short))[-1], model(*pad(short, width=20))[-1],
                               rtol=1e-12, atol=1e-12)


def test_max_pooling_is_the_largest_of_the_real_tokens():
    model = encoder(window=3, n_layer=0, pooling='max')
    tokens, counts = pad(SEQUENCES)
    x = torch.randn(*tokens.shape, 16, dtype=torch.float64) - 5  # below the padding's zeros
    pooled = model.pool(x, counts.double())
    for row, vectors, review in zip(pooled, x, SEQUENCES):
        assert torch.equal(row, vectors[:len(review)].max(0).values)


def test_n_grams_add_a_linear_model_of_unit_length():
    model = encoder(window=3, n_layer=0, known_ngrams=6, n_class=3, head='ce')
    weights = model.ngrams.sums.weight.detach()
    model.ngrams.strength.copy_(torch.tensor([0.0, 1, 2, 3, 0.5, 0, 4]))
    tokens, counts = pad(SEQUENCES)
    ngrams = torch.tensor([[1, 3, 6], [2, 0, 0], [0, 0, 0], [5, 0, 0]])
    without = model.head(model.pool(model.encode(model.embed(tokens, counts), counts.double()),
                                    counts.double()))
    trunk, together = model(tokens, counts, ngrams)
    assert torch.equal(trunk, without)
    added = together - without
    by_hand = (1 * weights[1] + 3 * weights[3] + 4 * weights[6]) / math.sqrt(1 + 9 + 16)
    torch.testing.assert_close(added[0], by_hand, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(added[1], weights[2], rtol=1e-12, atol=1e-12)
    # none is known, or it says nothing
    torch.testing.assert_close(added[2:], torch.zeros(2, 3).double(), rtol=0, atol=1e-12)


def test_the_trunk_learns_as_if_there_were_no_n_grams():
    shape = {'window': 3, 'n_layer': 0, 'n_class': 3, 'head': 'ce'}
    model = encoder(**shape, known_ngrams=6)
    model.ngrams.strength.copy_(torch.arange(7.0))
    tokens, counts = pad(SEQUENCES)
    ngrams = torch.tensor([[1, 3, 6], [2, 0, 0], [0, 0, 0], [5, 0, 0]])
    labels = torch.tensor([0, 1, 2, 1])
    trunk, together = model(tokens, counts, ngrams)
    sum(model.head.loss(logits, labels) for logits in (trunk, together)).backward()

    plain = Encoder(EncoderConfig(vocab_size=50, n_embd=16, block_size=40, **shape)).double()
    plain.load_state_dict({name: weight for name, weight in model.state_dict().items()
                           if not name.startswith('ngrams.')})
    plain.head.loss(plain(tokens, counts)[-1], labels).backward()
    for name, parameter in plain.named_parameters():
        assert torch.equal(model.get_parameter(name).grad, parameter.grad), name

    # and the n-grams learn from the cross-entropy of both: error of the probabilities, times input
    error = (together.softmax(1) - F.one_hot(labels, 3)).detach() / len(labels)
    gradient = model.ngrams.sums.weight.grad.to_dense()
    torch.testing.assert_close(gradient[2], error[1])
    torch.testing.assert_close(gradient[6], error[0] * 6 / math.sqrt(1 + 9 + 36))


def test_n_grams_leave_the_trunk_and_the_head_as_they_start():
    torch.manual_seed(3)
    shape = {'vocab_size': 50, 'n_class': 2, 'n_embd': 16, 'window': 3, 'n_layer': 0}
    plain = Encoder(EncoderConfig(**shape)).state_dict()
    torch.manual_seed(3)
    beside = Encoder(EncoderConfig(**shape, known_ngrams=9)).state_dict()
    assert beside['ngrams.sums.weight'].eq(0).all()
    for name, weight in plain.items():
        assert torch.equal(beside[name], weight)


@pytest.mark.parametrize('name, n_class, multi_label', [
    *((name, 2, False) for name in HEADS if HEADS[name].soft),
    ('ce', 4, False), ('bce', 4, False), ('bce', 2, True), ('bce', 4, True), ('ce', 4, True)])
def test_probabilities_as_labels(name, n_class, multi_label):
    """The loss of a teacher's probabilities is its expectation over labels drawn from them."""
    torch.manual_seed(4)
    head = make_head(name, 8, n_class, multi_label).double()
    logits = head(torch.randn(3, 8, dtype=torch.float64))
    p = torch.rand(3, n_class, dtype=torch.float64)
    if multi_label:  # each label on its own
        every = torch.cartesian_prod(*[torch.arange(2)] * n_class)  # [2^n_class, n_class]
        chances = torch.where(every[:, None] == 1, p, 1 - p).prod(-1)  # [2^n_class, 3]
    else:
        p = p / p.sum(1, keepdim=True)
        every = torch.arange(n_class)
        chances = p.T
    wanted = 0.0
    for labels, chance in zip(every, chances):
        for row in range(3):
            wanted += chance[row] * head.loss(logits[[row]], labels[None]) / 3
    found = head.loss(logits, p.float())
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_hard_labels():
    p = torch.tensor([[0.7, 0.6, 0.1], [0.2, 0.3, 0.4]])
    assert hard_labels(p, False).tolist() == [0, 2]
    assert hard_labels(p, True).tolist() == [[1, 1, 0], [0, 0, 0]]
    whole = torch.tensor([[0, 1, 1]])
    assert hard_labels(whole, True) is whole


def test_another_vocabulary_is_no_start():
    shape = {'vocab_size': 50, 'n_class': 2, 'n_embd': 16, 'window': 3, 'known_tokens': 7}
    first = Encoder(EncoderConfig(**shape))
    second = Encoder(EncoderConfig(**shape))
    second.load_trunk(first.state_dict())
    first.tokens += 1
    with pytest.raises(ValueError, match='other tokens'):
        second.load_trunk(first.state_dict())


def test_attention_is_torch_multihead_attention():
    torch.manual_seed(2)
    block = Block(EncoderConfig(vocab_size=1, n_class=2, n_embd=24, n_head=3)).double()
    reference = nn.MultiheadAttention(24, 3, batch_first=True).double()
    reference.load_state_dict({
        'in_proj_weight': block.qkv.weight,
        'in_proj_bias': block.qkv.bias,
        'out_proj.weight': block.proj.weight,
        'out_proj.bias': block.proj.bias,
    })
    x = torch.randn(2, 9, 24, dtype=torch.float64)
    counts = torch.ones(2, 9, dtype=torch.float64)
    counts[1, 5:] = 0
    wanted, _ = reference(x, x, x, key_padding_mask=counts == 0)
    torch.testing.assert_close(block.attention(x, counts), wanted, rtol=1e-10, atol=1e-12)
    # counts other than 0 and 1: torch takes them as log(count) added to the scores
    counts[:, 2] = 17
    mask = counts.log()[:, None].expand(-1, 9, -1).repeat_interleave(3, 0)
    wanted, _ = reference(x, x, x, attn_mask=mask)
    torch.testing.assert_close(block.attention(x, counts), wanted, rtol=1e-10, atol=1e-12)


def test_block_is_torch_encoder_layer():
    torch.manual_seed(3)
    block = Block(EncoderConfig(vocab_size=1, n_class=2, n_embd=24, n_head=3)).double()
    reference = nn.TransformerEncoderLayer(24, 3, 96, dropout=0.0, activation='relu',
                                           batch_first=True, norm_first=True).double()
    prefixes = {
        'self_attn.in_proj_': 'qkv.',
        'self_attn.out_proj.': 'proj.',
        'linear1.': 'up.',
        'linear2.': 'down.',
        'norm1.': 'norm_1.',
        'norm2.': 'norm_2.',
    }
    state = {}
    for theirs, ours in prefixes.items():
        for kind in 'weight', 'bias':
            state[theirs + kind] = block.state_dict()[ours + kind]
    reference.load_state_dict(state)
    x = torch.randn(2, 9, 24, dtype=torch.float64)
    counts = torch.ones(2, 9)
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
            near = block.attention(x, c)
        exact = block.double().attention(x.double(), c.double())
        block.float()
        errors.append(((near - exact).norm() / exact.norm()).item())
    assert errors[0] < 0.02
    assert errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize('count', [3, 255, 257, 385])
def test_no_count_is_rounded_in_bfloat16(count):
    """A value of 1 beside one of 0 that has this count and the same score: their mean is
    1 / (count + 1). Both sums are numbers of bf16, so only the quotient is rounded."""
    block = Block(EncoderConfig(vocab_size=1, n_class=2, n_embd=32, n_head=1)).bfloat16()
    with torch.no_grad():
        block.qkv.weight.zero_()
        block.qkv.bias.zero_()
        block.qkv.weight[64:] = torch.eye(32)
        block.proj.weight.copy_(torch.eye(32))
        block.proj.bias.zero_()
        x = torch.stack([torch.ones(32), torch.zeros(32)])[None].bfloat16()
        found = block.attention(x, torch.tensor([[1.0, count]]))
    assert (found == torch.tensor(1 / (count + 1)).bfloat16()).all()


def test_float16_keeps_padding_out_of_the_softmax():
    """Beside a score of padding that is far above the others, they would all be 0 in float16."""
    torch.manual_seed(5)
    block = Block(EncoderConfig(vocab_size=1, n_class=2, n_embd=32, n_head=1))
    x = torch.randn(1, 6, 32)
    x[:, 4:] = 10.0  # padding
    counts = torch.tensor([[1.0, 2, 1, 3, 0, 0]])
    with torch.no_grad():
        # every query is 1 everywhere, a key is its token: a score is the sum over the square root
        block.qkv.weight[:32] = 0.0
        block.qkv.bias[:32] = 1.0
        block.qkv.weight[32:64] = torch.eye(32)
        scores = x[0].sum(1) / 32 ** 0.5
        assert (scores[:4].max() - scores[4]).exp().half() == 0
        alone = block.attention(x[:, :4], counts[:, :4])
        found = block.half().attention(x.half(), counts)[:, :4]
    torch.testing.assert_close(found.float(), alone, rtol=1e-2, atol=1e-3)


def test_pooling_has_no_outer_product():
    """Whose gradient torch 2.13 compiles with Triton on a GPU, and so needs a C compiler there."""
    model = encoder().float()
    pending = [model.pool(torch.randn(2, 5, 8, requires_grad=True), torch.ones(2, 5)).grad_fn]
    names = set()
    while pending:
        node = pending.pop()
        if node is not None:
            names.add(node.name())
            pending += [following for following, _ in node.next_functions]
    assert 'SumBackward1' in names
    assert not any('mm' in name.lower() for name in names)


def test_logits_are_float32_under_autocast():
    model = encoder().float()
    with torch.autocast('cpu', torch.bfloat16):
        logits = model(*pad(BAGS))[-1]
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())  # and not only by name


# Losses

def test_cross_entropies_are_those_of_the_article():
    def logits_for(p):
        return torch.tensor([[math.log(p / (1 - p))]], dtype=torch.float64)
    one = torch.tensor([1])
    bce = make_head('bce', 4, 2)
    ce = make_head('ce', 4, 2)
    for p, loss in (0.9, 0.105), (0.1, 2.303), (0.01, 4.605):
        assert bce.loss(logits_for(p), one).item() == pytest.approx(-math.log(p), abs=1e-12)
        assert bce.loss(logits_for(p), one).item() == pytest.approx(loss, abs=5e-4)
    ten = torch.tensor([.05, .02, .08, .70, .03, .04, .02, .03, .02, .01]).log()[None]
    loss = make_head('ce', 4, 10).loss(ten, torch.tensor([3]))
    assert loss.item() == pytest.approx(0.357, abs=5e-4)
    # two logits are one: CE(z0, z1) = BCE(z1 - z0)
    z = torch.randn(20, 2, dtype=torch.float64)
    y = torch.arange(20) % 2
    difference = z[:, 1:] - z[:, :1]
    assert ce.loss(z, y).item() == pytest.approx(bce.loss(difference, y).item(), abs=1e-12)


# z = (1, 2, -1): e^z = 2.71828, 7.38906, 0.36788, together 10.47522; p = 0.259496, 0.705385,
# 0.035119. By hand, for the labels 1 and 2; -log p = 1.349012, 0.349012, 3.349012, their mean is
# 1.682345
BY_HAND = [
    ('ce', {}, (0.349012, 3.349012)),
    ('ce', {'label_smoothing': 0.1}, (0.9 * 0.349012 + 0.1682345, 0.9 * 3.349012 + 0.1682345)),
    # 2.1 = .2 * 1 + .5 * 2 + .3 * 3
    ('ce', {'class_weight': '1,2,3'}, (0.349012 * 2 / 2.1, 3.349012 * 3 / 2.1)),
    ('ce', {'class_weight': 'balanced'}, (0.349012 / 0.5 / 3, 3.349012 / 0.3 / 3)),
    ('focal', {}, (0.294615 ** 2 * 0.349012, 0.964881 ** 2 * 3.349012)),
    ('focal', {'gamma': 0.5}, (0.294615 ** 0.5 * 0.349012, 0.964881 ** 0.5 * 3.349012)),
    ('focal', {'gamma': 0.0, 'alpha': '1,2,3'}, (0.349012 * 2 / 2.1, 3.349012 * 3 / 2.1)),
    # 1 - p is of the probability, whatever the class weighs
    ('focal', {'alpha': '1,2,3'}, (0.294615 ** 2 * 0.349012 * 2 / 2.1,
                                   0.964881 ** 2 * 3.349012 * 3 / 2.1)),
    ('brier', {}, (0.259496 ** 2 + 0.294615 ** 2 + 0.035119 ** 2,
                   0.259496 ** 2 + 0.705385 ** 2 + 0.964881 ** 2)),
    ('square', {}, ((1 + 1 + 1) / 3, (4 + 1 + 4) / 3)),
    ('square', {'k': 100.0}, ((100 + 1 + 1) / 3, (400 + 1 + 4) / 3)),
    ('square', {'k': 2.0, 'M': 10.0}, ((2 * 64 + 1 + 1) / 3, (2 * 121 + 1 + 4) / 3)),
    # the others' squares: neither the label's, nor those of p minus one-hot
    ('squentropy', {}, (0.349012 + (1 + 1) / 2, 3.349012 + (1 + 4) / 2)),
    ('bce', {}, (0.126928 + 1.313262 + 0.313262, 1.313262 + 2.126928 + 1.313262)),
    ('ce_nudged', {}, (0.349012, 3.349012)),
]


@pytest.mark.parametrize('head, settings, losses', BY_HAND, ids=[f'{h} {s}' for h, s, _ in BY_HAND])
def test_losses_by_hand(head, settings, losses):
    head = make_head(head, 4, 3, class_share=[0.2, 0.5, 0.3], **settings)
    z = torch.tensor([[1.0, 2, -1]])
    for y, loss in zip((1, 2), losses):
        assert head.loss(z, torch.tensor([y])).item() == pytest.approx(loss, rel=1e-5)
    both = head.loss(z.repeat(2, 1), torch.tensor([1, 2])).item()
    # a mean over the reviews, whatever their weights
    assert both == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert head.probs(z).argmax() == 1


def test_two_ways_to_write_a_loss_are_one():
    """Of two classes, weighted CE is BCE with pos_weight and softmax focal is sigmoid focal on the
    difference."""
    z = torch.randn(30, 2, dtype=torch.float64)
    y = (torch.arange(30) % 3 == 0).long()
    difference = z[:, 1] - z[:, 0]
    p = difference.sigmoid()
    head = make_head('ce', 4, 2, class_share=[2 / 3, 1 / 3], class_weight='1,9').double()
    weighted = head.loss(z, y)
    nine = torch.tensor(9.0, dtype=torch.float64)
    reference = F.binary_cross_entropy_with_logits(difference, y.double(), pos_weight=nine)
    # the weights are float32
    assert weighted.item() == pytest.approx(reference.item() / (2 / 3 + 9 / 3), rel=1e-6)
    p_y = torch.where(y == 1, p, 1 - p)
    bce = F.binary_cross_entropy_with_logits(difference, y.double(), reduction='none')
    sigmoid_focal = ((1 - p_y) ** 2 * bce).mean()
    focal = make_head('focal', 4, 2).loss(z, y)
    assert focal.item() == pytest.approx(sigmoid_focal.item(), rel=1e-12)


def test_any_loss_does_several_labels():
    """Label by label, as a decision between no and yes: what sums of sigmoid losses are by hand."""
    z = torch.randn(30, 4, dtype=torch.float64)
    y = labels_of(30, 4, True)
    p = torch.where(y == 1, z.sigmoid(), (-z).sigmoid())  # of what each label is
    bce = make_head('bce', 8, 4, True)
    losses = {}
    for name in 'ce', 'focal', 'brier', 'square', 'squentropy':
        head = make_head(name, 8, 4, True)
        losses[name] = head.loss(z, y).item()
        torch.testing.assert_close(head.probs(z), bce.probs(z), rtol=1e-12, atol=0)
    assert losses['ce'] == pytest.approx(bce.loss(z, y).item(), rel=1e-12)
    assert losses['focal'] == pytest.approx((-(1 - p) ** 2 * p.log()).sum(1).mean().item())
    assert losses['brier'] == pytest.approx((2 * (1 - p) ** 2).sum(1).mean().item())
    half = torch.where(y == 1, z, -z) / 2  # the logit of what each label is; the other's is -half
    square = ((half - 1) ** 2 + half ** 2) / 2
    assert losses['square'] == pytest.approx(square.sum(1).mean().item())
    squentropy = -p.log() + half ** 2
    assert losses['squentropy'] == pytest.approx(squentropy.sum(1).mean().item())
    # 'balanced' makes the share of yes, a third, as heavy as that of no
    weighted = make_head('ce', 8, 4, True, class_share=[1 / 3] * 4, class_weight='balanced')
    wanted = (torch.where(y == 1, 3.0, 1.5) / 2 * -p.log()).sum(1).mean().item()
    assert weighted.double().loss(z, y).item() == pytest.approx(wanted, rel=1e-6)


ALL = [(head, 2, False) for head in HEADS]
ALL += [(head, 4, False) for head in HEADS if head != TWO_CLASSES_ONLY]
ALL += [(head, n_class, True) for head in HEADS for n_class in (2, 4) if head != TWO_CLASSES_ONLY]


def labels_of(n, n_class, multi_label):
    if multi_label:
        return torch.arange(n * n_class).view(n, n_class) % 3 % 2
    return torch.arange(n) % n_class


@pytest.mark.parametrize('head, n_class, multi_label', ALL)
def test_gradients_and_probabilities(head, n_class, multi_label):
    head = make_head(head, 4, n_class, multi_label)
    y = labels_of(12, n_class, multi_label)
    z = torch.randn(12, head.linear.out_features, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: head.loss(z, y), z)
    probs = head.probs(z)
    assert probs.shape == (12, n_class)
    if multi_label:
        assert torch.equal(probs > 0.5, z > 0)
        return
    best = z.argmax(1) if z.shape[1] > 1 else (z[:, 0] > 0).long()
    torch.testing.assert_close(probs.sum(1), torch.ones(12, dtype=torch.float64))
    assert torch.equal(probs.argmax(1), best)


@pytest.mark.parametrize('head, n_class, multi_label', ALL)
def test_every_loss_is_a_plain_mean_over_reviews(head, n_class, multi_label):
    """Which is what Head's contract asks for; also with class weights and uneven classes."""
    settings = {}
    if n_class == 4:
        weights = '1,9' if multi_label else '1,2,3,9'  # of no and yes, or of the classes
        settings = {'class_weight': weights, 'alpha': weights, 'label_smoothing': 0.1}
    head = make_head(head, 4, n_class, multi_label, **settings)
    y = labels_of(11, n_class, multi_label)
    z = torch.randn(11, head.linear.out_features, generator=torch.Generator().manual_seed(0))
    each = [head.loss(z[[i]], y[[i]]).item() for i in range(11)]
    assert head.loss(z, y).item() == pytest.approx(sum(each) / 11, rel=1e-6)


@pytest.mark.parametrize('head', ['bce', 'ce'])
def test_gradient_at_the_logits_is_p_minus_y(head):
    head = make_head(head, 4, 2)
    z = torch.randn(12, head.linear.out_features, dtype=torch.float64, requires_grad=True)
    y = torch.arange(12) % 2
    head.loss(z, y).backward()
    p_minus_y = head.probs(z.detach()) - torch.eye(2, dtype=torch.float64)[y]
    torch.testing.assert_close(z.grad * 12, p_minus_y[:, 2 - z.shape[1]:], rtol=0, atol=1e-12)


def test_the_article_compares_two_gradients():
    """Its example, p = (.7, .2, .1) and (.4, .3, .3): the MSE's gradient in p, -0.6 and -1.2,
    beside cross-entropy's in z, -0.3 and -0.6. In z the MSE's is
    2 sum_j (p_j - y_j) p_j ([j = y] - p_y) = -0.196 and -0.432: the smaller."""
    z = torch.tensor([[.7, .2, .1], [.4, .3, .3]]).log().requires_grad_()
    y = torch.tensor([0, 0])
    cases = ('ce', (.357, .916), (-.3, -.6)), ('brier', (.14, .54), (-.196, -.432))
    for head, losses, gradients in cases:
        head = make_head(head, 4, 3)
        for i in range(2):
            loss = head.loss(z[[i]], y[[i]])
            gradient, = torch.autograd.grad(loss, z)
            assert loss.item() == pytest.approx(losses[i], abs=5e-4)
            assert gradient[i, 0].item() == pytest.approx(gradients[i], abs=1e-6)


@pytest.mark.parametrize('settings', [{}, {'gamma': 0.5}, {'label_smoothing': 0.1}])
@pytest.mark.parametrize('head, n_class, multi_label', ALL)
def test_extreme_logits_stay_finite(head, n_class, multi_label, settings):
    head = make_head(head, 4, n_class, multi_label, **settings)
    y = labels_of(8, n_class, multi_label)
    z = torch.full((8, head.linear.out_features), -1e4)
    z[torch.arange(8), torch.arange(8) // 2 % z.shape[1]] = 1e4
    z.requires_grad_()
    loss = head.loss(z, y)
    probs = head.probs(z)
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()
    assert probs.isfinite().all()
    if not multi_label:
        torch.testing.assert_close(probs.sum(1), torch.ones(8))


def test_several_labels_are_as_many_binary_tasks():
    head = make_head('bce', 4, 3, True)
    single = make_head('bce', 4, 2)
    z = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    y = labels_of(10, 3, True)
    z[::2] = z[::2].abs() * (2 * y[::2] - 1)
    alone = sum(single.loss(z[:, [c]], y[:, c]) for c in range(3))
    torch.testing.assert_close(head.loss(z, y), alone)
    probs = head.probs(z)
    correct = []
    for i in range(10):
        correct.append(all((probs[i, c] > 0.5) == y[i, c] for c in range(3)))
    assert is_correct(probs, y).tolist() == correct
    assert sum(correct) in range(5, 10)


def test_one_label_is_correct_where_its_class_is_the_likeliest():
    probs = torch.tensor([[.2, .5, .3], [.4, .3, .3], [.1, .1, .8]])
    assert is_correct(probs, torch.tensor([1, 1, 2])).tolist() == [True, False, True]


# What a head is

def test_a_head_without_a_loss_says_so():
    head = Head(4, 3)
    logits = head(torch.randn(5, 4))
    assert logits.shape == (5, 3)
    exp = torch.exp(logits)
    torch.testing.assert_close(head.probs(logits), exp / exp.sum(1, keepdim=True))
    with pytest.raises(NotImplementedError):
        head.loss(logits, torch.zeros(5, dtype=torch.int64))


class ScaledHead(CEHead):
    """Cross-entropy on logits of its own making."""

    def forward(self, x):
        return 2 * self.linear(x)


class DoubledHead(CEHead):
    """A loss of its own, beside the closed form that it inherits."""

    def loss(self, logits, labels):
        return 2 * super().loss(logits, labels)


def test_a_forward_of_its_own_is_used_or_refused(monkeypatch):
    monkeypatch.setitem(HEADS, 'scaled', ScaledHead)
    tokens, counts = pad(SEQUENCES)
    plain = encoder(head='ce')
    scaled = encoder(head='scaled')
    torch.testing.assert_close(scaled(tokens, counts)[-1], 2 * plain(tokens, counts)[-1])

    with pytest.raises(ValueError, match='scaled is for one label a review'):
        make_head('scaled', 4, 2, multi_label=True)
    shape = {'vocab_size': 5, 'n_class': 5, 'n_embd': 8, 'causal': True}
    with pytest.raises(ValueError, match='scaled has a forward of its own'):
        LanguageModel(EncoderConfig(head='scaled', **shape), tied=False)
    LanguageModel(EncoderConfig(head='ce', **shape), tied=False)


def test_a_loss_of_its_own_is_that_of_a_language_model(monkeypatch):
    monkeypatch.setitem(HEADS, 'doubled', DoubledHead)
    shape = {'vocab_size': 5, 'n_class': 5, 'n_embd': 8, 'causal': True}
    losses = []
    for name in 'ce', 'doubled':
        torch.manual_seed(0)
        model = LanguageModel(EncoderConfig(head=name, **shape), tied=False)
        torch.manual_seed(1)
        losses.append(model.loss(torch.randn(6, 8), torch.arange(6) % 5))
    torch.testing.assert_close(losses[1], 2 * losses[0])


def test_a_head_s_keywords_are_its_settings():
    assert head_settings({'head': 'bce'}) == head_settings({'head': 'brier'}) == {}
    assert head_settings({'head': 'ce'}) == {'class_weight': '', 'label_smoothing': 0.0}
    assert head_settings({'head': 'focal'}) == {'gamma': 2.0, 'alpha': ''}
    assert head_settings({'head': 'square'}) == {'k': 1.0, 'M': 1.0}
    assert head_settings({'head': 'bce_matched'}) == MATCHED
    assert head_settings({'head': 'ce_nudged'}) == {'nudge': 1e-7}
    assert head_settings({'head': 'no such'}) == {}


def test_the_closed_form_of_cross_entropy_is_exact_where_p_underflows():
    """In float32 the smallest p has a loss of 87.3; PyTorch's loss and gradient go on."""
    torch.manual_seed(0)
    z = torch.cat([torch.tensor([[0.0, 200, -50], [3e4, 0, 1]]), 5 * torch.randn(6, 3)])
    y = torch.tensor([0, 1, 0, 1, 2, 0, 1, 2])
    for label_smoothing in (0.0, 0.1):
        head = make_head('ce', 4, 3, label_smoothing=label_smoothing)
        loss, gradient = head.loss_and_gradient(z, y)
        expected = z.double().requires_grad_()
        F.cross_entropy(expected, y, reduction='sum', label_smoothing=label_smoothing).backward()
        assert loss.item() == pytest.approx(F.cross_entropy(
            z.double(), y, reduction='sum', label_smoothing=label_smoothing).item(), rel=1e-6)
        torch.testing.assert_close(gradient, expected.grad.float())


def test_bce_of_several_classes_is_read_by_a_softmax():
    """On the kept answers of trec, of six classes and seeds: after temperature scaling that is
    better calibrated than sigmoids over their sum, and as it was trained it is not."""
    head = make_head('bce', 4, 6)
    assert not head.calibrated
    assert make_head('bce', 4, 2).calibrated
    assert make_head('bce', 4, 6, multi_label=True).calibrated
    torch.manual_seed(0)
    z = torch.randn(5, 6)
    torch.testing.assert_close(head.probs(z), z.exp() / z.exp().sum(1, keepdim=True))

    def sigmoids_over_their_sum(z):
        return z.sigmoid() / z.sigmoid().sum(1, keepdim=True)

    losses = []
    errors = []
    for path in sorted((ROOT / 'results/losses2/trec/bce').glob('seed*/preds.npz')):
        preds = np.load(path)
        val_logits = torch.from_numpy(preds['val_logits']).double()
        val_labels = torch.from_numpy(preds['val_labels'].astype(int))
        for probs in (head.probs, sigmoids_over_their_sum):
            temperature = fit_temperature(probs, val_logits, val_labels)
            p = probs(torch.from_numpy(preds['test_logits']).double() / temperature).numpy()
            losses.append(negative_log_likelihood(p, preds['test_labels']))
            errors.append(calibration_error(confidence_bins(p, preds['test_labels'])))
    assert len(losses) == 12
    assert np.mean(losses[::2]) < np.mean(losses[1::2]) - 0.01
    assert np.mean(errors[::2]) < np.mean(errors[1::2]) - 1


def test_only_the_square_head_s_logits_are_no_log_odds():
    heads = {name: make_head(name, 4, 2) for name in HEADS}
    assert [name for name, head in heads.items() if not head.calibrated] == ['square']
    scaled = [name for name, head in heads.items() if (head.lr_mult, head.wd_mult) != (1, 1)]
    assert scaled == ['bce_matched']


class FastHead(CEHead):
    lr_mult = 2.0
    wd_mult = 0.5


def test_several_labels_keep_what_a_head_says_of_itself(monkeypatch):
    monkeypatch.setitem(HEADS, 'fast', FastHead)
    fast = make_head('fast', 4, 3, multi_label=True)
    assert (fast.lr_mult, fast.wd_mult, fast.calibrated) == (2, 0.5, True)
    square = make_head('square', 4, 3, multi_label=True)
    assert (square.lr_mult, square.wd_mult, square.calibrated) == (1, 1, False)


def test_an_encoder_of_a_flat_config():
    """As a run's config.json is: settings of the model and of its head among many others."""
    config = {'vocab_size': 30, 'n_class': 3, 'n_embd': 8, 'n_head': 2, 'n_layer': 1, 'pos': 'none',
              'head': 'focal', 'gamma': 0.5, 'alpha': '1,2,3', 'class_share': [0.2, 0.5, 0.3],
              'epochs': 7, 'label_smoothing': 0.9, 'out_dir': 'out/x'}
    model = make_encoder(config)
    assert model.config.n_layer == len(model.blocks) == 1
    assert model.head.gamma == 0.5
    torch.testing.assert_close(model.head.weight, torch.tensor([1.0, 2, 3]) / 2.1)
    with pytest.raises(ValueError, match='gamma'):
        make_encoder({**config, 'gamma': -1.0})


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


MATCHED = {'from_ce': True, 'lr_mult': 2.0, 'wd_mult': 0.5}  # config/bce_matched.py


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


def test_initial_weights_are_gpt_2_s():
    torch.manual_seed(6)
    config = EncoderConfig(vocab_size=400, n_class=2, n_embd=64, pos='learned', block_size=100)
    for name, parameter in Encoder(config).named_parameters():
        if name.endswith('bias'):
            assert not parameter.any(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        elif name.endswith(('proj.weight', 'down.weight')):
            assert parameter.std().item() == pytest.approx(0.02 / 2, rel=0.05), name  # sqrt(2 * 2)
        elif name != 'head.linear.weight':
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name


def test_a_window_starts_as_strong_as_one_token():
    """The sum of the vectors of its places has the same deviation for every size."""
    for window in 1, 4, 9:
        torch.manual_seed(6)
        config = EncoderConfig(vocab_size=400, n_class=2, n_embd=64, window=window, n_layer=0)
        places = Encoder(config).token_embedding.weight.view(400, window, 64)
        assert places.sum(1).std().item() == pytest.approx(0.1, rel=0.05)


def test_a_head_starts_from_the_seed():
    weights = []
    for seed in 5, 5, 6:
        torch.manual_seed(seed)
        weights.append(make_head('ce', 8, 3).linear.weight)
    assert torch.equal(weights[0], weights[1])
    assert not (weights[0] == weights[2]).any()


def test_a_trunk_is_taken_from_another_encoder():
    shape = {'vocab_size': 30, 'n_class': 2, 'n_embd': 8, 'n_head': 2, 'n_layer': 1}
    torch.manual_seed(7)
    source = Encoder(EncoderConfig(**shape, head='ce')).state_dict()
    model = Encoder(EncoderConfig(**shape, head='bce'))
    head = model.head.linear.weight.detach().clone()
    model.load_trunk(source)
    for name, weight in model.state_dict().items():
        if not name.startswith('head.'):
            assert torch.equal(weight, source[name])
    assert torch.equal(model.head.linear.weight, head)

    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    deeper = Encoder(EncoderConfig(**{**shape, 'n_layer': 2}))
    with pytest.raises(ValueError, match='it lacks blocks.1'):
        deeper.load_trunk(source)
    larger = Encoder(EncoderConfig(**{**shape, 'vocab_size': 31}))
    with pytest.raises(ValueError, match=r'token_embedding.weight is \(31, 8\).* has \(30, 8\)'):
        model.load_trunk(larger.state_dict())
    for name, weight in model.state_dict().items():  # all or nothing
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize('n_known', [6, 9, 0])
def test_a_trunk_is_taken_without_the_n_grams(n_known):
    """They were chosen for other data: a model keeps its own, as many or more, or none."""
    shape = {'window': 3, 'n_layer': 0}
    source = encoder(**shape, known_ngrams=6)
    source.ngrams.keys.copy_(torch.arange(6))
    model = Encoder(EncoderConfig(vocab_size=50, n_class=2, n_embd=16, known_ngrams=n_known,
                                  **shape)).double()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_trunk(source.state_dict())
    for name, weight in model.state_dict().items():
        own = name.startswith(('head.', 'ngrams.'))
        assert torch.equal(weight, before[name] if own else source.state_dict()[name]), name
        assert own or not torch.equal(weight, before[name]), name


# Mistakes

IMPOSSIBLE_SHAPES = [
    ({'n_embd': 10, 'n_head': 4}, 'n_embd 10 is not divisible by n_head 4'),
    ({'pos': 'rotary'}, "not 'rotary'"),
    ({'dropout': 1.0}, 'dropout'),
    ({'n_layer': -1}, 'n_layer'),
    ({'n_head': 0}, 'n_head'),
    ({'n_embd': 0}, 'n_embd'),
    ({'block_size': 0}, 'block_size'),
]


@pytest.mark.parametrize('wrong, says', IMPOSSIBLE_SHAPES)
def test_impossible_shapes(wrong, says):
    with pytest.raises(ValueError, match=says):
        EncoderConfig(vocab_size=5, n_class=2, **wrong)


IMPOSSIBLE_HEADS = [
    ({'head': 'bec'}, "no head 'bec'; there are bce, ce"),
    ({'head': 'bce_matched', 'multi_label': True}, 'for one label a review'),
    ({'head': 'bce_matched', 'n_class': 3}, 'two classes'),
    ({'head': 'ce', 'head_settings': {'label_smoothing': 1.0}}, 'label_smoothing must be in'),
    ({'head': 'ce', 'head_settings': {'class_weight': '1,2,3'}}, '2 positive numbers'),
    ({'head': 'ce', 'head_settings': {'class_weight': '1,-1'}}, '2 positive numbers'),
    ({'head': 'ce', 'head_settings': {'class_weight': 'even'}}, "not 'even'"),
    ({'head': 'focal', 'head_settings': {'gamma': -1.0}}, 'gamma must not be negative'),
]


@pytest.mark.parametrize('wrong, says', IMPOSSIBLE_HEADS)
def test_impossible_heads(wrong, says):
    with pytest.raises(ValueError, match=says):
        Encoder(EncoderConfig(**{'vocab_size': 5, 'n_class': 2, **wrong}))
