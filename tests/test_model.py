"""model.py against closed forms, torch's own layers and brute force. About 5 s."""
import math
from collections import Counter
from inspect import signature
from itertools import product

import numpy as np
import pytest
import torch
from helpers import ROOT, config_of, save
from torch import nn
from torch.nn import functional as F

import train
from model import (
    HEADS, TRUNKS, Block, CEHead, Head, Transformer, Windows, counted_attention, find_class,
    keywords, make_classifier, make_head, masked_attention, model_settings)
from nanoloss.data import describe_data, hard_labels, is_correct, load_data
from nanoloss.labels import decide
from nanoloss.runs import copy_trunk, finished_runs, upgrade_config, upgrade_weights
from nanoloss.stats import (
    calibration_error, confidence_bins, fit_temperature, negative_log_likelihood)
from nanoloss.windows import WINDOWS_AT_ONCE, WindowsMax


def small(trunk='transformer', head='bce', **settings):
    """The Classifier of a run's config: a small one, with the weights that it starts with."""
    config = {'trunk': trunk, 'head': head, 'n_class': 2, 'vocab_size': 50, 'block_size': 40,
              'known_tokens': 0, 'known_ngrams': 0, 'n_embd': 16, 'n_head': 4, 'dropout': 0.0,
              **settings}
    return make_classifier({**model_settings(config), **config})


def classifier(*args, **settings):
    """As `small`, in float64, with weights large enough that every part of it matters."""
    torch.manual_seed(0)
    model = small(*args, **settings)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double()


def pad(texts, width=0):
    """Lists of (token, count) -> tokens and counts [B, T]; the padding is token 7, so that it could
    do harm."""
    width = max(width, *map(len, texts))
    rows = [text + [(7, 0)] * (width - len(text)) for text in texts]
    tokens, counts = torch.tensor(rows).unbind(-1)
    return tokens, counts


TEXTS = [[3, 1, 3, 3, 9, 1], [5], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 2], [4, 8, 15, 16, 23, 42]]
SEQUENCES = [[(token, 1) for token in text] for text in TEXTS]
BAGS = [list(Counter(text).items()) for text in TEXTS]


# Trunks

def logits_and_gradients(model, tokens, counts, labels):
    """-> {'logits': ..., parameter name: its gradient}"""
    model.zero_grad()
    logits = model(tokens, counts)
    model.head.loss(logits, labels).backward()
    outcome = {'logits': logits.detach()}
    for name, parameter in model.named_parameters():
        outcome[name] = parameter.grad
    return outcome


@pytest.mark.parametrize('width', [0, 33])
@pytest.mark.parametrize('head', ['bce', 'ce'])
def test_a_bag_is_the_full_sequence_logits_and_gradients(head, width):
    model = classifier(head=head)
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
    """Batches are padded with number 0, which language models learn to look at."""
    model = small(head='ce', vocab_size=10, n_layer=1, n_head=1, n_embd=8)
    trunk = model.trunk
    with torch.no_grad():
        side = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1])
        trunk.token_embedding.weight[0] = side
        trunk.token_embedding.weight[1:] = -side + torch.randn(9, 8) / 10
        # every query looks for number 0, and finds it 1e3 above all others
        weight = trunk.blocks[0].qkv.weight.zero_()
        weight[8:16] = torch.eye(8)
        weight[16:] = torch.randn(8, 8)
        trunk.blocks[0].qkv.bias[:8] = 200 * side
    tokens = torch.tensor([[3, 1, 4]])
    counts = torch.tensor([[1, 2, 1]])
    alone = model(tokens, counts)
    padded = model(F.pad(tokens, (0, 5)), F.pad(counts, (0, 5)))
    torch.testing.assert_close(padded, alone)


def test_one_text_alone_is_the_text_in_a_batch():
    model = classifier()
    together = model(*pad(BAGS))
    for bag, logits in zip(BAGS, together):
        alone = model(*pad([bag, bag]))[0]
        torch.testing.assert_close(alone, logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('trunk, settings, ordered', [
    ('transformer', {}, False), ('transformer', {'pos': 'learned'}, True),
    ('transformer', {'causal': True}, True), ('windows', {'window': 1}, False),
    ('windows', {'window': 2}, True), ('windows', {'window': 3}, True)])
def test_a_trunk_says_whether_order_matters(trunk, settings, ordered):
    model = classifier(trunk, **settings)
    forwards = model(*pad(SEQUENCES))
    backwards = model(*pad([text[::-1] for text in SEQUENCES]))
    assert torch.allclose(forwards[0], backwards[0], atol=1e-12) is not ordered
    assert model.trunk.ordered is ordered


def features_and_states(trunk, tokens, counts):
    """A transformer's features, the hidden states before its last norm, and those after it."""
    seen = []
    hook = trunk.norm.register_forward_hook(lambda norm, args, output: seen.extend([*args, output]))
    features = trunk(tokens, counts)
    hook.remove()
    return features, *seen


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('pos', ['none', 'learned'])
def test_the_head_gets_the_mean_of_the_hidden_states(pos, training):
    model = classifier(pos=pos, dropout=0.3, n_class=3, head='ce').train(training)
    tokens, counts = pad(BAGS)
    torch.manual_seed(1)
    wanted = model(tokens, counts)
    torch.manual_seed(1)
    features, _, hidden = features_and_states(model.trunk, tokens, counts)
    assert torch.equal(model.head(features), wanted)
    assert hidden.shape == (*tokens.shape, 16)
    assert features.shape == (4, model.trunk.n_features) == (4, 16) and wanted.shape == (4, 3)
    # dropout draws in training only
    assert torch.equal(model(tokens, counts), wanted) is not training

    # a text's mean, token by token
    for text, vectors, mean in zip(BAGS, hidden, features):
        total = sum(count * vector for (_, count), vector in zip(text, vectors))
        by_hand = total / sum(count for _, count in text)
        torch.testing.assert_close(mean, by_hand, rtol=1e-12, atol=1e-12)


EMBEDDED = (4, 12, 16)  # TEXTS, padded, by n_embd
FEATURES = (4, 16)


@pytest.mark.parametrize('trunk, settings, dropped', [
    ('transformer', {'n_layer': 0}, [EMBEDDED]),
    # the embedding, then attention and MLP of each block
    ('transformer', {'n_layer': 2}, [EMBEDDED] * 5),
    ('transformer', {'n_layer': 2, 'causal': True}, [EMBEDDED] * 5),
    ('windows', {'window': 3}, [FEATURES]),
], ids=str)
def test_dropout_in_training(trunk, settings, dropped, monkeypatch):
    model = classifier(trunk, dropout=0.3, **settings)
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
    trunk = classifier(pos='learned', n_layer=0).trunk
    tokens, counts = pad(SEQUENCES)
    _, x, _ = features_and_states(trunk, tokens, counts)
    for b, t in (0, 0), (0, 2), (2, 11), (3, 5):
        row = trunk.token_embedding.weight[tokens[b, t]] + trunk.positions.weight[t]
        assert torch.equal(x[b, t], row)


def test_hidden_states_leave_the_transformer_normalised():
    """Those of texts of one token, which are their features."""
    trunk = classifier().trunk
    nn.init.ones_(trunk.norm.weight)
    nn.init.zeros_(trunk.norm.bias)
    features = trunk(*pad([[(token, count)] for token in range(50) for count in (1, 3)]))
    assert features.mean(-1).abs().max() < 1e-12
    assert (features.var(-1, correction=0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize('window', [1, 2, 3, 4, 7, 40])  # also wider than the longest text
def test_windows_are_a_convolution_of_one_hot_tokens(window):
    """torch's own, with a kernel that holds the tables, then the maximum over the real tokens; the
    texts are padded with zeros. Features and gradients, of texts of every length."""
    trunk = classifier('windows', window=window).trunk
    generator = torch.Generator().manual_seed(0)
    texts = []
    for length in range(1, 16):
        for tokens in torch.randint(0, 50, (8, length), generator=generator).tolist():
            texts.append([(token, 1) for token in tokens])
    tokens, counts = pad(texts, width=17)
    real = counts > 0

    one_hot = F.one_hot(tokens, 50).double() * real[..., None]
    weight = trunk.token_embedding.weight
    kernel = weight.view(50, window, 16).permute(2, 0, 1)
    before = (window - 1) // 2
    signal = F.pad(one_hot.mT, (before, window - 1 - before))
    convolved = F.conv1d(signal, kernel, trunk.bias).relu()
    wanted = convolved.masked_fill(~real[:, None], -math.inf).amax(2)
    features = trunk(tokens, counts)
    torch.testing.assert_close(features, wanted, rtol=1e-12, atol=1e-12)

    error = torch.randn(features.shape, generator=generator, dtype=torch.float64)
    parameters = [weight, trunk.bias]
    found = torch.autograd.grad((features * error).sum(), parameters)
    expected = torch.autograd.grad((wanted * error).sum(), parameters)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def features_and_gradients(compute, trunk, error):
    """The features, and the gradients of table and bias. error: the gradient of the features."""
    trunk.zero_grad()
    features = compute()
    features.backward(error)
    table = trunk.token_embedding.weight.grad
    assert table.is_sparse is trunk.token_embedding.sparse
    return features.detach(), table.to_dense(), trunk.bias.grad


@pytest.mark.parametrize('sparse', [False, True])
@pytest.mark.parametrize('n_texts, longest', [(9, 12), (70, 70), (3, WINDOWS_AT_ONCE + 5)],
                         ids=['short', 'some at a time', 'one at a time'])
@pytest.mark.parametrize('window', [1, 2, 3, 4, 5])
def test_the_fast_windows_are_the_plain_ones(window, n_texts, longest, sparse):
    """The first text has one token, the second one token again and again, the third two windows in
    turn: of windows that are equal, one gets the gradient, or both get half. That is the same."""
    trunk = classifier('windows', window=window).trunk
    trunk.token_embedding.sparse = sparse
    generator = torch.Generator().manual_seed(window)
    texts = [[5], [9] * longest, ([4, 8, 15] * longest)[:longest]]
    for _ in range(n_texts - 3):
        length = int(torch.randint(1, longest + 1, (), generator=generator))
        texts.append(torch.randint(0, 50, (length,), generator=generator).tolist())
    tokens, counts = pad([[(token, 1) for token in text] for text in texts], longest + 3)
    assert counts.numel() > WINDOWS_AT_ONCE or longest == 12
    error = torch.randn(n_texts, 16, generator=generator, dtype=torch.float64)
    fast = features_and_gradients(lambda: trunk(tokens, counts), trunk, error)
    plain = features_and_gradients(lambda: trunk.plain_features(tokens, counts), trunk, error)
    for found, wanted in zip(fast, plain, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(trunk(tokens, counts), plain[0], rtol=1e-12, atol=1e-12)


def test_the_gradient_of_windows_is_that_of_finite_differences():
    tokens, counts = pad(SEQUENCES)
    for window in 1, 2, 3:
        trunk = classifier('windows', window=window, n_embd=3, vocab_size=45).trunk
        inputs = trunk.token_embedding.weight, trunk.bias
        assert torch.autograd.gradcheck(
            lambda table, bias: WindowsMax.apply(table, bias, tokens, counts, False), inputs)


def test_padding_changes_nothing_of_windows():
    model = classifier('windows')
    alone = torch.cat([model(*pad([text])) for text in SEQUENCES])
    torch.testing.assert_close(model(*pad(SEQUENCES, width=33)), alone, rtol=1e-12, atol=1e-12)


def test_windows_wider_than_a_text():
    model = classifier('windows', window=8)
    short = [[(7, 1)], [(3, 1), (4, 1)]]
    torch.testing.assert_close(model(*pad(short)), model(*pad(short, width=20)),
                               rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('trunk', TRUNKS)
def test_only_the_rows_of_the_texts_are_looked_up(trunk):
    """The row of the padding would get an update, if only by the optimizer's momentum."""
    model = classifier(trunk)
    model.trunk.token_embedding.sparse = True
    model(*pad([SEQUENCES[0], SEQUENCES[1]])).sum().backward()
    rows = model.trunk.token_embedding.weight.grad.coalesce().indices()[0]
    assert rows.tolist() == sorted({*TEXTS[0], *TEXTS[1]})


# N-grams

NGRAMS = torch.tensor([[1, 3, 6], [2, 0, 0], [0, 0, 0], [5, 0, 0]])  # of SEQUENCES


def test_n_grams_add_a_linear_model_of_unit_length():
    model = classifier('windows', known_ngrams=6, n_class=3, head='ce')
    weights = model.ngrams.sums.weight.detach()
    bias = torch.tensor([0.5, -1, 2]).double()
    model.ngrams.bias.copy_(bias)
    model.ngrams.strength.copy_(torch.tensor([0.0, 1, 2, 3, 0.5, 0, 4]))
    tokens, counts = pad(SEQUENCES)
    without = model.head(model.trunk(tokens, counts))
    assert torch.equal(model(tokens, counts), without)
    together = model(tokens, counts, NGRAMS)
    added = together - without
    by_hand = (1 * weights[1] + 3 * weights[3] + 4 * weights[6]) / math.sqrt(1 + 9 + 16)
    torch.testing.assert_close(added[0], by_hand + bias, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(added[1], weights[2] + bias, rtol=1e-12, atol=1e-12)
    # a text without known n-grams, and one whose n-gram has a strength of 0
    torch.testing.assert_close(added[2:], bias.expand(2, 3), rtol=0, atol=1e-12)

    # the sum of both, weighted
    model.mix.copy_(torch.tensor([0.5, 3]))
    weighted = model(tokens, counts, NGRAMS)
    torch.testing.assert_close(weighted, 0.5 * without + 3 * added, rtol=1e-12, atol=1e-12)
    assert torch.equal(model(tokens, counts), without)


@pytest.mark.parametrize('given', [False, True])
def test_the_trunk_learns_as_if_there_were_no_n_grams(given):
    """And the n-grams do not learn from it, even if they are given."""
    settings = {'n_class': 3, 'head': 'ce'}
    model = classifier('windows', **settings, known_ngrams=6)
    model.ngrams.strength.copy_(torch.arange(7.0))
    tokens, counts = pad(SEQUENCES)
    labels = torch.tensor([0, 1, 2, 1])
    logits = model(tokens, counts, NGRAMS) if given else model(tokens, counts)
    model.head.loss(logits, labels).backward()

    plain = small('windows', **settings).double()
    plain.load_state_dict({name: weight for name, weight in model.state_dict().items()
                           if name != 'mix' and not name.startswith('ngrams.')})
    trunk = plain(tokens, counts)
    added = (logits - trunk).detach()
    assert added.any() == given
    plain.head.loss(trunk + added, labels).backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, rtol=1e-12,
                                   atol=1e-14)
        assert given or torch.equal(model.get_parameter(name).grad, parameter.grad), name
    learn = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learn == dict(plain.named_parameters()).keys()
    assert model.ngrams.sums.weight.grad is None


def test_n_grams_leave_the_trunk_and_the_head_as_they_start():
    torch.manual_seed(3)
    plain = small('windows').state_dict()
    torch.manual_seed(3)
    beside = small('windows', known_ngrams=9).state_dict()
    assert beside['ngrams.sums.weight'].eq(0).all()
    assert beside['ngrams.bias'].eq(0).all()
    assert beside['mix'].tolist() == [1, 1]
    for name, weight in plain.items():
        assert torch.equal(beside[name], weight)


@pytest.mark.parametrize('known_tokens, rows', [(0, 50), (7, 8)])
def test_each_known_token_has_a_row_and_all_others_share_one(known_tokens, rows):
    model = small(known_tokens=known_tokens)
    assert len(model.trunk.token_embedding.weight) == rows
    assert ('tokens' in model.state_dict()) == (known_tokens > 0)
    assert not known_tokens or model.tokens.tolist() == [0] * 7


# Attention

def attend(block, x, counts):
    """The attention of a block: without its norm and its residual."""
    q, k, v = block.queries_keys_values(x)
    return block.join_heads(counted_attention(q, k, v, counts))


def multihead_attention(block):
    """torch's own, with the weights of the block."""
    reference = nn.MultiheadAttention(24, 3, batch_first=True).double()
    reference.load_state_dict({
        'in_proj_weight': block.qkv.weight,
        'in_proj_bias': block.qkv.bias,
        'out_proj.weight': block.proj.weight,
        'out_proj.bias': block.proj.bias,
    })
    return reference


def test_attention_is_torch_multihead_attention():
    torch.manual_seed(2)
    block = Block(24, 3, causal=False, dropout=0.0).double()
    reference = multihead_attention(block)
    x = torch.randn(2, 9, 24, dtype=torch.float64)
    counts = torch.ones(2, 9, dtype=torch.float64)
    counts[1, 5:] = 0
    wanted, _ = reference(x, x, x, key_padding_mask=counts == 0)
    torch.testing.assert_close(attend(block, x, counts), wanted, rtol=1e-10, atol=1e-12)
    # counts other than 0 and 1: torch takes them as log(count) added to the scores
    counts[:, 2] = 17
    mask = counts.log()[:, None].expand(-1, 9, -1).repeat_interleave(3, 0)
    wanted, _ = reference(x, x, x, attn_mask=mask)
    torch.testing.assert_close(attend(block, x, counts), wanted, rtol=1e-10, atol=1e-12)


def test_causal_attention_is_torch_multihead_attention():
    torch.manual_seed(2)
    block = Block(24, 3, causal=True, dropout=0.0).double()
    x = torch.randn(2, 9, 24, dtype=torch.float64)
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)
    wanted, _ = multihead_attention(block)(x, x, x, attn_mask=hidden)
    found = block.join_heads(masked_attention(*block.queries_keys_values(x)))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('T, S, masked', [(9, 9, True), (4, 9, True), (1, 9, True), (1, 9, False)])
def test_attention_with_a_mask_is_torch_s(T, S, masked):
    """One token alone, without a mask, sees all keys: it is the last of its text."""
    torch.manual_seed(2)
    q = torch.randn(2, 3, T, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, 3, S, 8, dtype=torch.float64)
    mask = None
    if masked:
        mask = torch.rand(2, 1, T, S) < 0.5
        mask[..., 0] = True  # each token sees one at least
    wanted = F.scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(masked_attention(q, k, v, mask), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('causal', [False, True])
def test_block_is_torch_encoder_layer(causal):
    torch.manual_seed(3)
    block = Block(24, 3, causal, dropout=0.0).double()
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
    mask = torch.ones(9, 9, dtype=torch.bool).triu(1) if causal else None
    wanted = reference(x, src_mask=mask)
    torch.testing.assert_close(block(x, counts), wanted, rtol=1e-10, atol=1e-12)


def test_a_causal_trunk_reads_a_text_from_its_beginning():
    """The hidden state of a token does not depend on later tokens."""
    trunk = classifier(causal=True, pos='learned').trunk
    texts = [[3, 1, 4, 1, 5], [3, 1, 4, 9, 2]]
    states = features_and_states(trunk, *pad([[(token, 1) for token in t] for t in texts]))[2]
    torch.testing.assert_close(states[0, :3], states[1, :3], rtol=1e-12, atol=1e-12)
    assert (states[0, 3:] - states[1, 3:]).abs().amax(1).min() > 1e-3


# Precision

def test_bfloat16_keeps_large_counts():
    """Attention in bf16 is as near to float64 with counts as without: no count is rounded."""
    block = Block(64, 2, causal=False, dropout=0.0)
    nn.init.normal_(block.qkv.weight, std=0.2)
    x = torch.randn(4, 60, 64)
    counts = torch.randint(1, 60, (4, 60))
    errors = []
    for c in torch.ones(4, 60), counts:
        with torch.autocast('cpu', torch.bfloat16):
            near = attend(block, x, c)
        exact = attend(block.double(), x.double(), c.double())
        block.float()
        errors.append(((near - exact).norm() / exact.norm()).item())
    assert errors[0] < 0.02
    assert errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize('count', [3, 255, 257, 385])
def test_no_count_is_rounded_in_bfloat16(count):
    """A value of 1 beside one of 0 that has this count and the same score: their mean is
    1 / (count + 1). Both sums are numbers of bf16, so only the quotient is rounded."""
    block = Block(32, 1, causal=False, dropout=0.0).bfloat16()
    with torch.no_grad():
        block.qkv.weight.zero_()
        block.qkv.bias.zero_()
        block.qkv.weight[64:] = torch.eye(32)
        block.proj.weight.copy_(torch.eye(32))
        block.proj.bias.zero_()
        x = torch.stack([torch.ones(32), torch.zeros(32)])[None].bfloat16()
        found = attend(block, x, torch.tensor([[1.0, count]]))
    assert (found == torch.tensor(1 / (count + 1)).bfloat16()).all()


def test_float16_keeps_padding_out_of_the_softmax():
    """Beside a score of padding that is far above the others, they would all be 0 in float16."""
    torch.manual_seed(5)
    block = Block(32, 1, causal=False, dropout=0.0)
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
        alone = attend(block, x[:, :4], counts[:, :4])
        found = attend(block.half(), x.half(), counts)[:, :4]
    torch.testing.assert_close(found.float(), alone, rtol=1e-2, atol=1e-3)


def test_pooling_has_no_outer_product():
    """On a GPU, torch 2.13 compiles the gradient of one with Triton, which needs a C compiler."""
    trunk = classifier(n_layer=0).float().trunk
    pending = [trunk(*pad(BAGS)).grad_fn]
    names = set()
    while pending:
        node = pending.pop()
        if node is not None:
            names.add(node.name())
            pending += [following for following, _ in node.next_functions]
    assert 'SumBackward1' in names
    assert not any('mm' in name.lower() for name in names)


@pytest.mark.parametrize('trunk', TRUNKS)
def test_logits_are_float32_under_autocast(trunk):
    model = classifier(trunk, known_ngrams=6).float()
    model.ngrams.strength.fill_(1.0)
    with torch.autocast('cpu', torch.bfloat16):
        trunk = model(*pad(SEQUENCES))
        together = model(*pad(SEQUENCES), NGRAMS)
    assert not torch.equal(trunk, together)
    for logits in trunk, together:
        assert logits.dtype == torch.float32
        assert not torch.equal(logits, logits.bfloat16().float())  # and not only by name


# Labels

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
    assert hard_labels(p, True, always_labelled=True).tolist() == [[1, 1, 0], [0, 0, 1]]
    whole = torch.tensor([[0, 1, 1]])
    assert hard_labels(whole, True) is whole



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
]


@pytest.mark.parametrize('head, settings, losses', BY_HAND, ids=[f'{h} {s}' for h, s, _ in BY_HAND])
def test_losses_by_hand(head, settings, losses):
    head = make_head(head, 4, 3, class_share=[0.2, 0.5, 0.3], **settings)
    z = torch.tensor([[1.0, 2, -1]])
    for y, loss in zip((1, 2), losses):
        assert head.loss(z, torch.tensor([y])).item() == pytest.approx(loss, rel=1e-5)
    both = head.loss(z.repeat(2, 1), torch.tensor([1, 2])).item()
    # a mean over the texts, whatever their weights
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
    """Label by label, as a decision between no and yes: sums of sigmoid losses by hand."""
    z = torch.randn(30, 4, dtype=torch.float64)
    y = labels_of(30, 4, True)
    p = torch.where(y == 1, z.sigmoid(), (-z).sigmoid())  # of the right answer
    bce = make_head('bce', 8, 4, True)
    losses = {}
    for name in 'ce', 'focal', 'brier', 'square', 'squentropy':
        head = make_head(name, 8, 4, True)
        losses[name] = head.loss(z, y).item()
        torch.testing.assert_close(head.probs(z), bce.probs(z), rtol=1e-12, atol=0)
    assert losses['ce'] == pytest.approx(bce.loss(z, y).item(), rel=1e-12)
    assert losses['focal'] == pytest.approx((-(1 - p) ** 2 * p.log()).sum(1).mean().item())
    assert losses['brier'] == pytest.approx((2 * (1 - p) ** 2).sum(1).mean().item())
    half = torch.where(y == 1, z, -z) / 2  # the logit of the right answer; the other is -half
    square = ((half - 1) ** 2 + half ** 2) / 2
    assert losses['square'] == pytest.approx(square.sum(1).mean().item())
    squentropy = -p.log() + half ** 2
    assert losses['squentropy'] == pytest.approx(squentropy.sum(1).mean().item())
    # 'balanced' makes the share of yes, a third, as heavy as that of no
    weighted = make_head('ce', 8, 4, True, class_share=[1 / 3] * 4, class_weight='balanced')
    wanted = (torch.where(y == 1, 3.0, 1.5) / 2 * -p.log()).sum(1).mean().item()
    assert weighted.double().loss(z, y).item() == pytest.approx(wanted, rel=1e-6)


ALL = list(product(HEADS, (2, 4), (False, True)))


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
def test_every_loss_is_a_plain_mean_over_texts(head, n_class, multi_label):
    """As the docstring of Head requires; also with class weights and classes of unequal size."""
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


def test_texts_that_always_have_a_label_are_correct_by_the_rule_of_labels_py():
    """Coarse probabilities, many of which are equal or exactly 0.5."""
    generator = torch.Generator().manual_seed(0)
    probs = torch.randint(1, 8, (300, 3), generator=generator) / 10
    y = torch.randint(0, 2, (300, 3), generator=generator)
    decisions = decide(probs.numpy(), True, always_labelled=True)
    y[::2] = torch.from_numpy(decisions)[::2].long()
    correct = (decisions == y.numpy()).all(1)
    assert is_correct(probs, y, always_labelled=True).tolist() == correct.tolist()
    assert hard_labels(probs, True, always_labelled=True).tolist() == decisions.astype(int).tolist()
    assert 150 < correct.sum() < 200
    assert (probs <= 0.5).all(1).any()


def test_one_label_is_correct_if_its_class_is_the_likeliest():
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


def test_a_forward_of_its_own_is_used_or_refused(monkeypatch):
    monkeypatch.setitem(HEADS, 'scaled', ScaledHead)
    tokens, counts = pad(SEQUENCES)
    plain = classifier(head='ce')
    scaled = classifier(head='scaled')
    torch.testing.assert_close(scaled(tokens, counts), 2 * plain(tokens, counts))
    with pytest.raises(ValueError, match='scaled supports one label per text, but this data'):
        make_head('scaled', 4, 2, multi_label=True)


class TunedHead(CEHead):
    """A head whose rate and decay are settings."""

    def __init__(self, n_features, n_class, class_share, lr_mult=2.0, wd_mult=0.5):
        super().__init__(n_features, n_class, class_share)
        self.lr_mult = lr_mult
        self.wd_mult = wd_mult


def test_each_label_has_the_factors_of_its_decision(monkeypatch):
    monkeypatch.setitem(HEADS, 'tuned', TunedHead)
    head = make_head('tuned', 4, 3, multi_label=True, wd_mult=0.25)
    assert (head.lr_mult, head.wd_mult) == (2.0, 0.25)
    assert make_head('square', 4, 3, multi_label=True).calibrated is False
    assert make_head('ce', 4, 3, multi_label=True).calibrated is True


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
    for run in finished_runs(ROOT / 'results/losses2/trec/bce'):
        preds = run.arrays
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
    assert all((head.lr_mult, head.wd_mult) == (1, 1) for head in heads.values())


class FastHead(CEHead):
    lr_mult = 2.0
    wd_mult = 0.5


def test_several_labels_keep_what_a_head_says_of_itself(monkeypatch):
    monkeypatch.setitem(HEADS, 'fast', FastHead)
    fast = make_head('fast', 4, 3, multi_label=True)
    assert (fast.lr_mult, fast.wd_mult, fast.calibrated) == (2, 0.5, True)
    square = make_head('square', 4, 3, multi_label=True)
    assert (square.lr_mult, square.wd_mult, square.calibrated) == (1, 1, False)


# From settings to a model

def test_the_keywords_of_head_and_trunk_are_settings():
    assert keywords(HEADS['bce']) == keywords(HEADS['brier']) == {}
    assert keywords(HEADS['ce']) == {'class_weight': '', 'label_smoothing': 0.0}
    assert keywords(HEADS['focal']) == {'gamma': 2.0, 'alpha': ''}
    assert keywords(HEADS['square']) == {'k': 1.0, 'M': 1.0}
    windows = {'window': 3, 'n_embd': 256, 'dropout': 0.5}
    assert keywords(Windows) == windows
    transformer = {'n_layer': 2, 'n_head': 2, 'n_embd': 128, 'pos': 'none', 'causal': False,
                   'dropout': 0.0}
    assert keywords(Transformer) == transformer
    found = model_settings({'trunk': 'windows', 'head': 'square', 'epochs': 3})
    assert found == {**windows, 'k': 1.0, 'M': 1.0}
    assert model_settings({'trunk': 'transformer', 'head': 'bce'}) == transformer


def test_no_keyword_means_two_things():
    """Of a trunk, of a head, or of train.py, whose settings and facts make_classifier reads too."""
    facts = ['n_class', 'multi_label', 'class_share', 'vocab_size', 'known_tokens', 'known_ngrams']
    taken = {*vars(config_of(train)), *facts}
    of_heads = {key for head in HEADS.values() for key in signature(head).parameters}
    for name, trunk in TRUNKS.items():
        assert not set(keywords(trunk)) & {*taken, *of_heads}, name
    for name, head in HEADS.items():
        assert not set(keywords(head)) & taken, name


OWN_CLASSES = """
import torch
from model import Head, Trunk

class Margin(Head):
    def __init__(self, n_features, n_class, margin=1.5):
        super().__init__(n_features, n_class)
        self.margin = margin

    def loss(self, logits, labels):
        own = logits.gather(1, labels[:, None])
        return (self.margin - own).relu().mean()

class MeanEmbedding(Trunk):
    def __init__(self, n_tokens, block_size, width=4):
        super().__init__()
        self.n_features = width
        self.ordered = False
        self.table = torch.nn.Embedding(n_tokens, width)

    def forward(self, tokens, counts):
        weights = counts / counts.sum(1, keepdim=True)
        return (weights[..., None] * self.table(tokens)).sum(1)

class Dropped(Margin):
    def __init__(self, n_features, n_class, dropout=0.3):
        super().__init__(n_features, n_class)

function = len
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file own.py with a head and a trunk, in the working directory."""
    (tmp_path / 'own.py').write_text(OWN_CLASSES)
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'own.py'


def test_a_class_of_one_s_own(own):
    for file in 'own.py', str(own):
        names = {'trunk': f'{file}:MeanEmbedding', 'head': f'{file}:Margin'}
        assert model_settings(names) == {'width': 4, 'margin': 1.5}
        model = small(**names, n_class=3, width=6, margin=2.0)
        tokens, counts = pad(BAGS)
        logits = model(tokens, counts)
        # by hand: the mean of the rows of the first text, and one logit per class
        features = model.trunk.table.weight[torch.tensor(TEXTS[0])].mean(0)
        torch.testing.assert_close(logits[0], model.head.linear(features))
        assert features.shape == (6,) and logits.shape == (4, 3)
        loss = model.head.loss(torch.tensor([[0.5, 9, 9], [9, 3, 9]]), torch.tensor([0, 1]))
        assert loss.item() == pytest.approx((1.5 + 0) / 2)


@pytest.mark.parametrize('name, says', [
    ('mean', "there is no 'mean'; there are windows, transformer, or FILE.py:CLASS"),
    ('', "there is no ''; there are windows"),
    ('own.py', "there is no 'own.py'; there are windows"),
    ('own:MeanEmbedding', "there is no 'own:MeanEmbedding'; there are windows"),
    ('no.py:MeanEmbedding', 'no.py: FileNotFoundError: '),
    ('own.py:Mean', "own.py has no class 'Mean'"),
    ('own.py:', "own.py has no class ''"),
    ('own.py:function', "own.py has no class 'function'"),
    ('bad.py:Mean', 'bad.py: ZeroDivisionError: division by zero'),
    ('cut.py:Mean', 'cut.py: SyntaxError: '),
])
def test_a_class_that_is_not_there(own, name, says):
    own.with_name('bad.py').write_text('1 / 0\nclass Mean: pass\n')
    own.with_name('cut.py').write_text('class Mean(')
    with pytest.raises(ValueError) as error:
        find_class(name, TRUNKS)
    assert str(error.value).startswith(says)
    for settings in {'trunk': name, 'head': 'bce'}, {'trunk': 'windows', 'head': name}:
        with pytest.raises(ValueError):
            model_settings(settings)
    with pytest.raises(ValueError):
        make_head(name, 4, 2)


def test_one_keyword_of_head_and_trunk(own):
    with pytest.raises(ValueError, match="^the trunk and the head both have a keyword 'dropout'$"):
        model_settings({'trunk': 'windows', 'head': 'own.py:Dropped'})
    settings = {'trunk': 'own.py:MeanEmbedding', 'head': 'own.py:Dropped'}
    assert model_settings(settings) == {'width': 4, 'dropout': 0.3}


def test_a_classifier_of_a_config():
    """As a run's config.json is: settings of the model among many others."""
    config = {'vocab_size': 30, 'n_class': 3, 'trunk': 'transformer', 'n_embd': 8, 'n_head': 2,
              'n_layer': 1, 'pos': 'none', 'causal': False, 'dropout': 0.0, 'block_size': 20,
              'head': 'focal', 'gamma': 0.5, 'alpha': '1,2,3', 'class_share': [0.2, 0.5, 0.3],
              'epochs': 7, 'label_smoothing': 0.9, 'out_dir': 'out/x', 'window': 3,
              'known_tokens': 0, 'known_ngrams': 0}
    model = make_classifier(config)
    assert type(model.trunk) is Transformer
    assert len(model.trunk.blocks) == 1
    assert model.head.gamma == 0.5
    torch.testing.assert_close(model.head.weight, torch.tensor([1.0, 2, 3]) / 2.1)
    with pytest.raises(ValueError, match='gamma'):
        make_classifier({**config, 'gamma': -1.0})
    assert type(make_classifier({**config, 'trunk': 'windows'}).trunk) is Windows


# Initial weights

@pytest.mark.parametrize('trunk', TRUNKS)
def test_the_trunk_does_not_depend_on_the_head(trunk):
    states = []
    for head in HEADS:
        torch.manual_seed(5)
        model = small(trunk, head, vocab_size=30, n_embd=8)
        states.append(model.state_dict())
        assert 0.008 < model.head.linear.weight.std() < 0.03
        assert not model.head.linear.bias.any()
    for state in states[1:]:
        for name in states[0]:
            if not name.startswith('head.'):
                assert torch.equal(states[0][name], state[name])


def test_each_seed_has_a_head_of_its_own():
    heads = set()
    for seed in 0, 1, 2:
        torch.manual_seed(seed)
        heads.add(tuple(make_head('bce', 8, 2).linear.weight[0].tolist()))
    torch.manual_seed(2)
    torch.randn(3)  # numbers drawn before do not matter
    heads.add(tuple(make_head('bce', 8, 2).linear.weight[0].tolist()))
    assert len(heads) == 3


def test_initial_weights_are_gpt_2_s():
    torch.manual_seed(6)
    trunk = Transformer(400, 100, n_layer=2, n_head=4, n_embd=64, pos='learned')
    for name, parameter in trunk.named_parameters():
        if name.endswith('bias'):
            assert not parameter.any(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        elif name.endswith(('proj.weight', 'down.weight')):
            assert parameter.std().item() == pytest.approx(0.02 / 2, rel=0.05), name  # sqrt(2 * 2)
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name


def test_a_head_starts_from_the_seed():
    weights = []
    for seed in 5, 5, 6:
        torch.manual_seed(seed)
        weights.append(make_head('ce', 8, 3).linear.weight)
    assert torch.equal(weights[0], weights[1])
    assert not (weights[0] == weights[2]).any()


@pytest.mark.parametrize('window', [1, 4])
def test_windows_start_with_a_variance_of_one_hundredth(window):
    """The variance of a sum over the window, for any size of it."""
    torch.manual_seed(6)
    trunk = Windows(400, 100, window=window, n_embd=64)
    assert not trunk.bias.any()
    std = trunk.token_embedding.weight.std().item()
    assert std == pytest.approx((0.01 / window) ** 0.5, rel=0.02)


# The trunk of another run

def test_a_trunk_is_taken_from_another_classifier():
    shape = {'vocab_size': 30, 'n_embd': 8, 'n_head': 2, 'n_layer': 1}
    torch.manual_seed(7)
    source = small(**shape, head='ce').state_dict()
    model = small(**shape, head='bce')
    head = model.head.linear.weight.detach().clone()
    copy_trunk(model, source)
    for name, weight in model.state_dict().items():
        if not name.startswith('head.'):
            assert torch.equal(weight, source[name])
    assert torch.equal(model.head.linear.weight, head)

    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    deeper = small(**{**shape, 'n_layer': 2})
    with pytest.raises(ValueError, match='it has no blocks.1'):
        copy_trunk(deeper, source)
    larger = small(**{**shape, 'vocab_size': 31})
    with pytest.raises(ValueError, match=r'token_embedding.weight is \(31, 8\), but this model has '
                                         r'\(30, 8\)'):
        copy_trunk(model, larger.state_dict())
    for name, weight in model.state_dict().items():  # all or nothing
        assert torch.equal(weight, before[name])


def test_another_vocabulary_is_no_start():
    first = small('windows', known_tokens=7)
    second = small('windows', known_tokens=7)
    copy_trunk(second, first.state_dict())
    first.tokens += 1
    with pytest.raises(ValueError, match='^it knows other tokens$'):
        copy_trunk(second, first.state_dict())
    with pytest.raises(ValueError, match='^it knows other tokens$'):
        copy_trunk(small('windows', known_tokens=6), first.state_dict())


def test_a_trunk_of_all_tokens_is_no_start_for_one_of_some():
    every = small('windows')
    some = small('windows', known_tokens=7)
    with pytest.raises(ValueError, match='^it knows other tokens$'):
        copy_trunk(some, every.state_dict())
    with pytest.raises(ValueError, match='token_embedding.weight is'):
        copy_trunk(every, some.state_dict())


@pytest.mark.parametrize('n_known', [6, 9, 0])
def test_a_trunk_is_taken_without_the_n_grams(n_known):
    """They were chosen for other data: a model keeps its own, as many or more, or none."""
    source = classifier('windows', known_ngrams=6)
    source.ngrams.keys.copy_(torch.arange(6))
    source.mix.copy_(torch.tensor([2, 3]))
    model = small('windows', known_ngrams=n_known).double()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    copy_trunk(model, source.state_dict())
    for name, weight in model.state_dict().items():
        own = name == 'mix' or name.startswith(('head.', 'ngrams.'))
        assert torch.equal(weight, before[name] if own else source.state_dict()[name]), name
        assert own or not torch.equal(weight, before[name]), name


# Runs of older versions

OLD_NAMES_OF_TRANSFORMER = {
    'token_embedding.weight': 'trunk.token_embedding.weight',
    'positions.weight': 'trunk.positions.weight',
    'blocks.0.norm_1.weight': 'trunk.blocks.0.norm_1.weight',
    'blocks.0.norm_1.bias': 'trunk.blocks.0.norm_1.bias',
    'blocks.0.norm_2.weight': 'trunk.blocks.0.norm_2.weight',
    'blocks.0.norm_2.bias': 'trunk.blocks.0.norm_2.bias',
    'blocks.0.qkv.weight': 'trunk.blocks.0.qkv.weight',
    'blocks.0.qkv.bias': 'trunk.blocks.0.qkv.bias',
    'blocks.0.proj.weight': 'trunk.blocks.0.proj.weight',
    'blocks.0.proj.bias': 'trunk.blocks.0.proj.bias',
    'blocks.0.up.weight': 'trunk.blocks.0.up.weight',
    'blocks.0.up.bias': 'trunk.blocks.0.up.bias',
    'blocks.0.down.weight': 'trunk.blocks.0.down.weight',
    'blocks.0.down.bias': 'trunk.blocks.0.down.bias',
    'norm.weight': 'trunk.norm.weight',
    'norm.bias': 'trunk.norm.bias',
    'head.linear.weight': 'head.linear.weight',
    'head.linear.bias': 'head.linear.bias',
}
OLD_NAMES_OF_WINDOWS = {
    'token_embedding.weight': 'trunk.token_embedding.weight',
    'tokens': 'tokens',
    'windows.bias': 'trunk.bias',
    'head.linear.weight': 'head.linear.weight',
    'head.linear.bias': 'head.linear.bias',
    'ngrams.strength': 'ngrams.strength',
    'ngrams.keys': 'ngrams.keys',
    'ngrams.sums.weight': 'ngrams.sums.weight',
}


@pytest.mark.parametrize('trunk, settings, old_names', [
    ('transformer', {'n_layer': 1, 'pos': 'learned'}, OLD_NAMES_OF_TRANSFORMER),
    ('windows', {'known_tokens': 7, 'known_ngrams': 6}, OLD_NAMES_OF_WINDOWS),
], ids=['transformer', 'windows'])
def test_weights_of_an_older_version(trunk, settings, old_names):
    state = classifier(trunk, **settings).state_dict()
    old = {name: state[new] for name, new in old_names.items()}
    known = old_names.values()

    def check(upgraded):
        assert upgraded.keys() == state.keys()
        assert all(upgraded[name] is state[name] for name in known)
        # older versions added the logits of the two parts, without a bias
        assert all(torch.equal(upgraded[name].double(), state[name]) for name in state)
        assert upgraded.keys() - known == ({'ngrams.bias', 'mix'} if trunk == 'windows' else set())

    check(upgrade_weights(old))
    check(upgrade_weights({name: state[name] for name in known}))  # without a bias, but a trunk
    assert upgrade_weights(state) == state

    # the first versions had another name for the embedding
    old['embed.weight'] = old.pop('token_embedding.weight')
    check(upgrade_weights(old))


@pytest.mark.parametrize('prefixed', [False, True])
def test_the_logits_of_an_older_version_are_the_sum_of_the_parts(prefixed):
    settings = {'known_tokens': 60, 'known_ngrams': 6, 'n_class': 3, 'head': 'ce'}
    state = classifier('windows', **settings).state_dict()
    state['ngrams.strength'] = torch.arange(7.0).double()
    old = {new if prefixed else name: state[new] for name, new in OLD_NAMES_OF_WINDOWS.items()}
    model = small('windows', **settings).double()
    model.load_state_dict(upgrade_weights(old))
    tokens, counts = pad(SEQUENCES)
    features = model.trunk(tokens, counts)
    logits = features @ state['head.linear.weight'].T + state['head.linear.bias']
    for row, ngrams in enumerate(NGRAMS.tolist()):
        length = math.sqrt(sum(n ** 2 for n in ngrams))  # n-gram n has the strength n
        for n in filter(None, ngrams):
            logits[row] += n / length * state['ngrams.sums.weight'][n]
    torch.testing.assert_close(model(tokens, counts, NGRAMS), logits, rtol=1e-12, atol=1e-12)


DATA = '2ae768e182cb11567b5ba37cbcac8221b090c2cbf8e7e99c3b4bea8365ca9eb6'
# config.json of kept runs: of the best model on IMDB, of the paper's on a GPU, and of the paper's
# in one of the first versions
WINDOWS_RUN = {
    'out_dir': 'out/best', 'dataset': 'imdb', 'data_dir': 'data', 'seed': 0, 'n_runs': 3,
    'keep_frac': 1.0, 'oversample': False, 'init_from': '', 'overwrite': False, 'eval_interval': 0,
    'ckpt_secs': 60.0, 'head': 'bce', 'lower': True, 'window': 3, 'ngrams': 'tokens',
    'min_count': 3, 'n_layer': 0, 'n_head': 2, 'n_embd': 256, 'pooling': 'max', 'block_size': 1500,
    'truncate': 'head', 'pos': 'none', 'bag': False, 'bias': True, 'dropout': 0.5,
    'token_dropout': 0.2, 'epochs': 5, 'batch_size': 64, 'pool': 50, 'learning_rate': 0.005,
    'ngram_rate': 150.0, 'min_lr': 0.0, 'warmup_iters': 50, 'decay_lr': True, 'weight_decay': 0.5,
    'beta1': 0.9, 'beta2': 0.99, 'grad_clip': 1.0, 'deferred': True, 'device': 'cpu',
    'dtype': 'bfloat16', 'max_tokens': 8192, 'compile': False, 'deterministic': False, 'threads': 1,
    'hardware': 'Intel Xeon', 'processes': 1, 'torch': '2.13.0+cpu',
    'commit': '8899d0aad5786378e5b5210f6cb926a54b1ff575',
    'code': {'train.py': '249f887b0a97a739', 'model.py': '10fb9f3eda517e6b'}, 'data': DATA,
    'n_class': 2, 'tokenizer': {'name': 'cl100k_base'}, 'vocab_size': 100277,
    'classes': ['neg', 'pos'], 'multi_label': False,
    'class_share': [0.49995999679974396, 0.500040003200256], 'known_tokens': 27894,
    'known_ngrams': 662372,
}
TRANSFORMER_RUN = {
    'out_dir': 'out/gpu/paper/ce', 'dataset': 'imdb', 'data_dir': 'data', 'seed': 10, 'n_runs': 5,
    'n_train': 0, 'keep_frac': 1.0, 'oversample': False, 'teacher': '', 'init_from': '',
    'overwrite': False, 'eval_interval': 0, 'ckpt_secs': 60.0, 'tensorboard': False, 'head': 'ce',
    'lower': False, 'window': 0, 'ngrams': 'none', 'min_count': 3, 'n_layer': 2, 'n_head': 2,
    'n_embd': 128, 'pooling': 'mean', 'block_size': 512, 'truncate': 'head', 'pos': 'none',
    'causal': False, 'spell': False, 'bag': True, 'bias': True, 'dropout': 0.0,
    'token_dropout': 0.8, 'epochs': 10, 'batch_size': 256, 'pool': 50, 'learning_rate': 0.0004,
    'ngram_rate': 150.0, 'min_lr': 0.0, 'warmup_iters': 50, 'decay_lr': True, 'weight_decay': 0.1,
    'beta1': 0.9, 'beta2': 0.99, 'grad_clip': 1.0, 'deferred': False, 'device': 'cuda',
    'dtype': 'bfloat16', 'max_tokens': 1073741824, 'graphs': True, 'compile': False,
    'deterministic': False, 'threads': 1, 'class_weight': '', 'label_smoothing': 0.0,
    'hardware': 'NVIDIA H200', 'processes': 1, 'torch': '2.11.0+cu130',
    'commit': '4f2ac884e9f9ec83231a41577a69cdf0760ec332',
    'code': {'train.py': '8e32571397ccc377'}, 'data': DATA, 'n_class': 2,
    'tokenizer': {'name': 'cl100k_base'}, 'vocab_size': 100277, 'classes': ['neg', 'pos'],
    'multi_label': False, 'class_share': [0.49995999679974396, 0.500040003200256],
    'known_tokens': 0, 'known_ngrams': 0,
}
FIRST_RUN = {
    'out_dir': 'out/bce', 'dataset': 'imdb', 'data_dir': 'data', 'seed': 0, 'n_runs': 1,
    'overwrite': False, 'eval_interval': 0, 'head': 'bce', 'n_layer': 2, 'n_head': 2, 'n_embd': 128,
    'block_size': 512, 'pos': 'none', 'bag': True, 'bias': True, 'dropout': 0.0,
    'token_dropout': 0.8, 'epochs': 10, 'batch_size': 256, 'pool': 50, 'learning_rate': 0.0004,
    'min_lr': 0.0, 'warmup_iters': 50, 'decay_lr': True, 'weight_decay': 0.1, 'beta1': 0.9,
    'beta2': 0.99, 'grad_clip': 1.0, 'deferred': True, 'device': 'cpu', 'dtype': 'bfloat16',
    'max_tokens': 0, 'compile': False, 'deterministic': False, 'threads': 1, 'hardware': 'AMD EPYC',
    'processes': 1, 'torch': '2.13.0+cpu', 'commit': 'f9c6a6f8c32d62e09986a2595949efcdf7d48746',
    'code': 'c45962702e436b3aaad35efe3cd2329ecca8f9b7cc57e9aabc779e6052bec485', 'data': DATA,
    'n_class': 2, 'classes': ['neg', 'pos'],
}
GONE = ['keep_frac', 'oversample', 'pooling', 'bias', 'pool', 'min_lr', 'decay_lr', 'beta1',
        'beta2', 'compile', 'code']


def without(config, *names):
    return {key: value for key, value in config.items() if key not in names}


def test_the_config_of_an_older_version():
    names_of_transformer = ['n_layer', 'n_head', 'pos']
    assert upgrade_config(WINDOWS_RUN) == {
        **without(WINDOWS_RUN, *GONE, *names_of_transformer), 'trunk': 'windows', 'spell': False,
        'full_vocab': False}
    assert upgrade_config(TRANSFORMER_RUN) == {
        **without(TRANSFORMER_RUN, *GONE, 'window'), 'trunk': 'transformer', 'full_vocab': True}
    assert upgrade_config(FIRST_RUN) == {
        **without(FIRST_RUN, *GONE), 'trunk': 'transformer', 'causal': False, 'lower': False,
        'spell': False, 'ngrams': 'none', 'full_vocab': True, 'known_tokens': 0, 'known_ngrams': 0}
    for config in WINDOWS_RUN, TRANSFORMER_RUN, FIRST_RUN:
        upgraded = upgrade_config(config)
        assert upgrade_config(upgraded) == upgraded
    baseline = {'baseline_code': 'a1', 'sklearn': '1.8.0', 'kind': 'nbsvm', 'head': 'ce'}
    assert upgrade_config(baseline) == baseline


@pytest.mark.parametrize('config, n_parameters', [
    # an embedding of 3 x 256 with a row for all other tokens, a bias; an output; a weight each
    (WINDOWS_RUN, 27895 * 768 + 256 + 257 + 662373),
    # an embedding; two blocks: two norms, attention and MLP; a norm; two outputs
    (TRANSFORMER_RUN, 100277 * 128 + 2 * (4 * 128 + 4 * 128 * 129 + 512 * 129 + 128 * 513)
     + 256 + 2 * 129),
], ids=['windows', 'transformer'])
def test_the_model_of_an_older_config(config, n_parameters):
    with torch.device('meta'):
        model = make_classifier(upgrade_config(config))
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters


@pytest.mark.parametrize('config, changes', [
    (WINDOWS_RUN, {'pooling': 'mean'}), (WINDOWS_RUN, {'n_layer': 1}),
    (TRANSFORMER_RUN, {'pooling': 'max'})], ids=['mean of windows', 'layers on windows', 'max'])
def test_models_that_are_no_longer_made(config, changes):
    """Their weights might fit, but the model would be another one."""
    upgraded = upgrade_config({**config, **changes})
    assert upgraded['trunk'] not in TRUNKS
    with pytest.raises(ValueError, match=f"there is no '{upgraded['trunk']}'"):
        make_classifier(upgraded)


@pytest.mark.parametrize('changes', [
    {'keep_frac': 0.1}, {'oversample': True}, {'beta1': 0.8}, {'beta2': 0.999}, {'min_lr': 1e-5},
    {'decay_lr': False}, {'bias': False}, {'pool': 1}], ids=str)
def test_a_removed_setting_that_had_another_value_stays(changes):
    """Such a run is not one of today's, see `claim_run`."""
    upgraded = upgrade_config({**TRANSFORMER_RUN, **changes})
    assert upgraded == {**upgrade_config(TRANSFORMER_RUN), **changes}


# Mistakes

IMPOSSIBLE_TRUNKS = [
    (Transformer, {'n_embd': 10, 'n_head': 4}, 'n_embd 10 is not divisible by n_head 4'),
    (Transformer, {'pos': 'rotary'}, "pos is 'none' or 'learned', not 'rotary'"),
    (Transformer, {'dropout': 1.0}, 'dropout must be at least 0 and below 1, not 1.0'),
    (Transformer, {'n_layer': -1}, 'n_layer must be at least 0, not -1'),
    (Transformer, {'n_head': 0}, 'n_head must be at least 1, not 0'),
    (Transformer, {'n_embd': 0}, 'n_embd must be at least 1, not 0'),
    (Transformer, {'block_size': 0}, 'block_size must be at least 1, not 0'),
    (Windows, {'window': 0}, 'window must be at least 1, not 0'),
    (Windows, {'n_embd': 0}, 'n_embd must be at least 1, not 0'),
    (Windows, {'dropout': 1.0}, 'dropout must be at least 0 and below 1, not 1.0'),
    (Windows, {'dropout': -0.1}, 'dropout must be at least 0 and below 1, not -0.1'),
]


@pytest.mark.parametrize('trunk, wrong, says', IMPOSSIBLE_TRUNKS)
def test_impossible_trunks(trunk, wrong, says):
    with pytest.raises(ValueError, match=f'^{says}$'):
        trunk(**{'n_tokens': 5, 'block_size': 10, **wrong})


IMPOSSIBLE_HEADS = [
    ({'head': 'bec'}, "there is no 'bec'; there are bce, ce, focal, brier, square, squentropy"),
    ({'head': 'ce', 'label_smoothing': 1.0}, r'label_smoothing must be in \[0, 1\), not 1.0'),
    ({'head': 'ce', 'class_weight': '1,2,3'}, "'balanced' or 2 positive numbers, not '1,2,3'"),
    ({'head': 'ce', 'class_weight': '1,-1'}, "2 positive numbers, not '1,-1'"),
    ({'head': 'ce', 'class_weight': 'even'}, "not 'even'"),
    ({'head': 'focal', 'gamma': -1.0}, 'gamma must be at least 0, not -1.0'),
    ({'head': 'ce', 'class_weight': 'balanced', 'class_share': [0.0, 1.0]},
     'class weights cannot be balanced: a class has no training text'),
]


@pytest.mark.parametrize('wrong, says', IMPOSSIBLE_HEADS)
def test_impossible_heads(wrong, says):
    with pytest.raises(ValueError, match=says):
        small(**wrong)


# Several labels, at least one

@pytest.mark.parametrize('head', ['ce', 'bce'])
def test_texts_that_always_have_a_label_by_brute_force(head):
    """Over all sets of labels but the empty one: the probability of each label, the loss, and its
    gradient."""
    torch.manual_seed(0)
    made = make_head(head, 4, 3, multi_label=True, always_labelled=True).double()
    logits = (3 * torch.randn(5, 3, dtype=torch.float64)).requires_grad_()
    sets = torch.tensor(list(product([0, 1], repeat=3)))[1:].double()
    weight = (logits @ sets.T).exp()  # of each set, up to a factor
    share = weight / weight.sum(1, keepdim=True)
    torch.testing.assert_close(made.probs(logits), share @ sets)

    labels = sets[[0, 6, 2, 4, 5]].long()
    index = [0, 6, 2, 4, 5]
    wanted = -share[torch.arange(5), index].log().mean()
    loss = made.loss(logits, labels)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(torch.autograd.grad(loss, logits, retain_graph=True),
                               torch.autograd.grad(wanted, logits))


@pytest.mark.parametrize('head', HEADS)
def test_the_likeliest_label_of_unlikely_ones(head):
    """With logits far below and above 0, nothing is NaN, and no text has no label."""
    plain = make_head(head, 4, 3, multi_label=True)
    made = make_head(head, 4, 3, multi_label=True, always_labelled=True)
    logits = torch.tensor([[-60.0, -70, -90], [-1e4, -2e4, -3e4], [60, 70, -90], [-60, 3, -80],
                           [0, 0, 0]], requires_grad=True)
    p = made.probs(logits)
    assert p.isfinite().all() and (p >= 0).all() and (p <= 1).all()
    assert (p >= plain.probs(logits) - 1e-6).all()
    gradient, = torch.autograd.grad(p.square().sum(), logits, retain_graph=True)
    assert gradient.isfinite().all()
    if head in ('ce', 'bce'):
        assert (p.argmax(1) == logits.argmax(1))[[0, 3]].all()
        assert p[0].tolist() == pytest.approx([1, math.exp(-10), math.exp(-30)], rel=1e-3)
        gradient, = torch.autograd.grad(made.loss(logits, torch.eye(3).long()[[0, 0, 0, 1, 2]]),
                                        logits)
        assert gradient.isfinite().all()


def test_data_say_whether_texts_always_have_a_label(tmp_path):
    for name, empty in (('some', 1), ('always', 0)):
        labels = np.array([[1, 0], [0, 1], [1 - empty, 0], [1, 1]])
        splits = {split: ([[1, 2], [3], [4], [5]], labels) for split in ('train', 'val', 'test')}
        save(tmp_path / name, splits)
        _, meta = load_data(tmp_path / name)
        meta['class_share'] = [0.5, 0.5]
        assert describe_data(meta)['always_labelled'] is (not empty)


def test_the_loss_of_texts_that_always_have_a_label_is_bounded_below():
    """If all logits fall together, the likelihood of one label approaches that of a softmax,
    and an optimizer must not follow them forever."""
    made = make_head('ce', 4, 3, multi_label=True, always_labelled=True).double()
    logits = torch.tensor([[1.0, 0, -1]], dtype=torch.float64)
    label = torch.tensor([[1, 0, 0]])
    losses = [float(made.loss(logits - shift, label)) for shift in (10, 12, 20, 40)]
    assert losses[1] == pytest.approx(float(-logits.log_softmax(1)[0, 0]), abs=1e-3)
    assert losses[0] > losses[1] and losses[1] + 1 < losses[2] and losses[2] + 19 < losses[3]
