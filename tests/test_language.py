"""lm/: language models, against brute force and closed forms. About 40 s."""
import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, call
from helpers import (
    LANGUAGE, fails, make_data, outcome, pretrain, pretrain_config, save, script, toy_reviews,
    train, two_processes)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lm.data import load_texts, number_texts, steps_per_epoch, text_stream, training_batches
from lm.model import (
    CLOSED_FORMS, KeyValueCache, LossInChunks, loss_and_gradient, make_language_model)
from lm.pretrain import make_model, score
from lm.sampler import Sampler
from model import HEADS, CEHead, Head, make_head, masked_attention
from nanoloss import loop
from nanoloss.classifier import TextClassifier
from nanoloss.data import Split
from nanoloss.tokenizer import tokenizer
from nanoloss.vocabulary import learn_vocabulary

LOSSES = [  # (head, its settings)
    ('ce', {}), ('ce', {'label_smoothing': 0.1}), ('square', {}), ('square', {'k': 100.0}),
    ('squentropy', {}), ('bce', {}), ('focal', {})]
N_TOKENS = 40


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder of data sets with `toy`, of tokens that cl100k_base has."""
    return make_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp('lm')
    pretrain(data, out)
    return out / 'seed0'


def read_run(folder, data):
    """The config of a run, its model, its texts and their bytes."""
    config = SimpleNamespace(**json.loads((folder / 'config.json').read_text()))
    config.data_dir = str(data)
    texts, vocabulary, n_bytes = number_texts(config, *load_texts(config))
    model = make_model(config, vocabulary)
    model.load_state_dict(torch.load(folder / 'model.pt', weights_only=True))
    return config, model, texts, n_bytes


# a small language model
SHAPE = {'known_tokens': N_TOKENS - 1, 'block_size': 16, 'n_layer': 2, 'n_head': 2, 'n_embd': 8,
         'pos': 'none', 'causal': True, 'dropout': 0.0, 'tied': False, 'class_weight': '',
         'label_smoothing': 0.0, 'gamma': 2.0, 'alpha': '', 'k': 1.0, 'M': 1.0}


def make(pos='none', head='ce', tied=False, dtype=torch.float64, causal=True, **settings):
    """A LanguageModel with weights large enough to matter."""
    torch.manual_seed(0)
    changes = {'pos': pos, 'head': head, 'tied': tied, 'causal': causal, **settings}
    model = make_language_model({**SHAPE, **changes}).to(dtype)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def tokens(*texts):
    """Texts as a block: each begun by a 0; int64 [1, T]."""
    return torch.tensor([[token for text in texts for token in (0, *text)]])


# The model

@pytest.mark.parametrize('pos', ['none', 'learned'])
def test_a_later_token_changes_no_earlier_state(pos):
    model = make(pos)
    a = tokens([3, 1, 4, 1, 5, 9, 2, 6])
    b = a.clone()
    b[0, 5:] = torch.tensor([7, 8, 8, 7])
    states_a, states_b = model(a), model(b)
    assert torch.equal(states_a[:, :5], states_b[:, :5])
    assert not torch.isclose(states_a[:, 5:], states_b[:, 5:]).all(-1).any()


@pytest.mark.parametrize('pos', ['none', 'learned'])
def test_a_text_does_not_depend_on_its_neighbours(pos):
    model = make(pos)
    alone = model(tokens([3, 1, 4, 1]))
    between = model(tokens([2, 7], [3, 1, 4, 1], [8, 2]))
    assert torch.allclose(between[:, 3:8], alone, rtol=1e-12, atol=1e-14)
    # nor what is left of a text at the beginning of a block on the text behind it
    cut = model(tokens([2, 7], [3, 1, 4, 1])[:, 1:])
    assert torch.allclose(cut[:, 2:], alone, rtol=1e-12, atol=1e-14)


def test_without_positions_the_order_counts_all_the_same():
    model = make()
    a, b = model(tokens([3, 1, 4])), model(tokens([1, 3, 4]))
    assert not torch.allclose(a[:, -1], b[:, -1])


@pytest.mark.parametrize('pos', ['none', 'learned'])
def test_no_token_sees_a_masked_one(pos):
    model = make(pos, causal=False)
    text = tokens([2, 7], [3, 1, 4, 1, 5], [8, 2])
    masked = torch.zeros_like(text, dtype=torch.bool)
    masked[0, [1, 5, 7]] = True
    states = model(text, masked)
    others = text.clone()
    others[masked] = torch.tensor([9, 9, 6])
    assert torch.equal(model(others, masked), states)
    # a token sees the rest of its text, on both sides, and no other text
    for place in (4, 8):
        other = text.clone()
        other[0, place] = 6
        changed = ~torch.isclose(model(other, masked), states).all(-1)[0]
        assert changed.nonzero()[:, 0].tolist() == [3, 4, 5, 6, 7, 8]
    # a text that is masked completely, as at the edge of a block, has finite states
    all_of_it = torch.ones(1, 3, dtype=torch.bool)
    assert model(torch.tensor([[5, 1, 2]]), all_of_it).isfinite().all()


def test_without_positions_masked_tokens_are_predicted_from_a_bag():
    """The masked tokens of a text are all alike. They see the other tokens as a bag, each once with
    its count, and themselves, a zero vector."""
    model = make(causal=False).eval()
    text = tokens([3, 1, 4, 1, 5, 1, 9])
    masked = torch.zeros_like(text, dtype=torch.bool)
    masked[0, [3, 5]] = True
    states = model(text, masked)
    assert torch.allclose(states[0, 3], states[0, 5], rtol=1e-12, atol=1e-14)

    rest = model.token_embedding(torch.tensor([[0, 3, 1, 9]]))
    gap = torch.zeros_like(rest[:, :1])
    counts = torch.tensor([[1, 1, 3, 1, 1]], dtype=rest.dtype)  # the last is the gap
    for block in model.blocks:
        with_gap = block(torch.cat([rest, gap], 1), counts)
        rest = block(rest, counts[:, :-1])
        gap = with_gap[:, -1:]
    assert torch.allclose(model.norm(gap)[0, 0], states[0, 3], rtol=1e-12, atol=1e-14)


def test_attention_is_that_of_a_loop():
    block = make().blocks[0]
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    q, k, v = block.queries_keys_values(x)
    expected = torch.zeros_like(q)
    for h in range(2):
        for i in range(5):
            scores = torch.stack([q[0, h, i] @ k[0, h, j] / math.sqrt(4) for j in range(i + 1)])
            expected[0, h, i] = scores.softmax(0) @ v[0, h, :i + 1]
    assert torch.allclose(masked_attention(q, k, v), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('n_layer', [0, 2])
@pytest.mark.parametrize('pos', ['none', 'learned'])
def test_token_by_token_is_all_at_once(pos, n_layer):
    model = make(pos, n_layer=n_layer).eval()
    text = tokens([3, 1, 4, 1, 5, 9, 2, 6])
    cache = KeyValueCache(16)
    states = [model(text[:, :3], cache=cache)]
    for column in range(3, 9):
        states.append(model(text[:, column:column + 1], cache=cache))
    assert torch.allclose(torch.cat(states, 1), model(text), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('head, settings', LOSSES)
@pytest.mark.parametrize('tied', [False, True])
def test_a_loss_in_chunks_is_the_whole(monkeypatch, head, settings, tied):
    monkeypatch.setattr(LossInChunks, 'PRODUCT', 7)
    monkeypatch.setattr(LossInChunks, 'LOSS', 3)
    model = make(head=head, tied=tied, **settings)
    block = torch.randint(0, N_TOKENS, (2, 13))
    x, y = block[:, :-1], block[:, 1:].flatten()
    losses = []
    gradients = []
    for in_chunks in (True, False):
        hidden = model(x).flatten(0, 1)
        loss = model.loss(hidden, y) if in_chunks else model.head.loss(model.head(hidden), y)
        gradients.append(torch.autograd.grad(3 * loss, list(model.parameters())))
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)
    for a, b in zip(*gradients):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-13)


def test_the_logits_are_never_whole():
    model = make(dtype=torch.float32)
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append((out.numel(), out.element_size()))
            return out

    n = 4 * LossInChunks.PRODUCT
    hidden = torch.randn(n, 8, requires_grad=True)
    targets = torch.randint(0, N_TOKENS, (n,))
    with Sizes(), torch.autocast('cpu', torch.bfloat16):
        model.loss(hidden, targets).backward()
    assert max(numel for numel, _ in sizes) <= LossInChunks.PRODUCT * N_TOKENS
    assert max(numel for numel, size in sizes if size == 4) <= n * 8  # the hidden states


def test_a_tied_model_has_one_matrix():
    model = make(tied=True)
    assert model.head.linear.weight is model.token_embedding.weight
    names = [name for name, _ in model.named_parameters()]
    assert 'head.linear.weight' not in names


# Heads

class ScaledHead(Head):
    """Its logits are cosines of the features and the weights, times 10."""

    def forward(self, x):
        return 10 * F.linear(F.normalize(x), F.normalize(self.linear.weight))

    def loss(self, logits, labels):
        return F.cross_entropy(logits, labels)


class DoubledHead(CEHead):
    """A loss of its own and the rest of CEHead."""

    def loss(self, logits, labels):
        return 2 * super().loss(logits, labels)


def test_a_forward_of_its_own_is_refused(monkeypatch):
    """The logits are computed in chunks, from the weights of `linear`."""
    monkeypatch.setitem(HEADS, 'scaled', ScaledHead)
    with pytest.raises(ValueError, match='scaled has a forward of its own'):
        make(head='scaled')


def test_a_subclass_has_its_own_loss(monkeypatch):
    """Not the closed form of the class that it extends."""
    monkeypatch.setitem(HEADS, 'doubled', DoubledHead)
    losses = []
    gradients = []
    for head in 'ce', 'doubled':
        model = make(head=head)
        torch.manual_seed(1)
        hidden = torch.randn(6, 8, dtype=torch.float64)
        loss = model.loss(hidden, torch.arange(6))
        gradients.append(torch.autograd.grad(loss, model.head.linear.weight)[0])
        losses.append(loss)
    torch.testing.assert_close(losses[1], 2 * losses[0])
    torch.testing.assert_close(gradients[1], 2 * gradients[0])


def test_a_head_from_a_file(data, tmp_path):
    """--head=FILE.py:CLASS, by autograd; its numbers are those of the closed form."""
    (tmp_path / 'mine.py').write_text(
        'from torch.nn import functional as F\nfrom model import Head\n'
        'class Mine(Head):\n'
        '    def __init__(self, n_features, n_class, factor=2.0):\n'
        '        super().__init__(n_features, n_class)\n'
        '        self.factor = factor\n'
        '    def loss(self, logits, labels):\n'
        '        return self.factor * F.cross_entropy(logits, labels)\n')
    argv = ['--max_iters=3', '--dtype=float64']
    pretrain(data, tmp_path / 'ce', *argv)
    pretrain(data, tmp_path / 'mine', *argv, f'--head={tmp_path}/mine.py:Mine', '--factor=1')
    ce, mine = [outcome(tmp_path / name / 'seed0') for name in ('ce', 'mine')]
    assert mine[0]['last']['test'] == pytest.approx(ce[0]['last']['test'], rel=1e-9)
    config = json.loads((tmp_path / 'mine/seed0/config.json').read_text())
    assert config['factor'] == 1.0
    # to sample executes the file, so it has to be named again
    with pytest.raises(ValueError, match='mine.py:Mine is a program'):
        Sampler(tmp_path / 'mine/seed0')
    sampler = Sampler(tmp_path / 'mine/seed0', head=f'{tmp_path}/mine.py:Mine')
    assert list(sampler.sample([], 0)) == list(Sampler(tmp_path / 'ce/seed0').sample([], 0))


@pytest.mark.parametrize('head, settings', [
    *LOSSES, ('ce', {'class_weight': '1,2,3,4,5'}), ('square', {'M': 3.0})])
def test_a_closed_form_is_that_of_autograd(head, settings):
    torch.manual_seed(0)
    head = make_head(head, 4, 5, **settings).double()
    logits = 3 * torch.randn(9, 5, dtype=torch.float64)
    labels = torch.arange(9) % 5
    loss, gradient = loss_and_gradient(head, logits.clone(), labels)
    expected = logits.requires_grad_()
    total = 9 * head.loss(expected, labels)
    torch.testing.assert_close(loss, total.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(total, expected)[0])


def test_the_fast_heads_have_a_closed_form():
    assert set(CLOSED_FORMS) == {HEADS['ce'], HEADS['square'], HEADS['squentropy']}


def test_the_closed_form_of_cross_entropy_is_exact_where_p_underflows():
    """In float32 the smallest p has a loss of 87.3; PyTorch's loss and gradient go on."""
    torch.manual_seed(0)
    z = torch.cat([torch.tensor([[0.0, 200, -50], [3e4, 0, 1]]), 5 * torch.randn(6, 3)])
    y = torch.tensor([0, 1, 0, 1, 2, 0, 1, 2])
    for label_smoothing in (0.0, 0.1):
        head = make_head('ce', 4, 3, label_smoothing=label_smoothing)
        loss, gradient = loss_and_gradient(head, z, y)
        expected = z.double().requires_grad_()
        F.cross_entropy(expected, y, reduction='sum', label_smoothing=label_smoothing).backward()
        assert loss.item() == pytest.approx(F.cross_entropy(
            z.double(), y, reduction='sum', label_smoothing=label_smoothing).item(), rel=1e-6)
        torch.testing.assert_close(gradient, expected.grad.float())


# Spelling

@given(st.lists(st.text(max_size=30), min_size=1, max_size=5), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_spelled_tokens_are_the_same_bytes(texts, min_count):
    encoding = tokenizer()
    rows = [encoding.encode_ordinary(text) or [encoding.eot_token] for text in texts]
    offsets = np.cumsum([0, *map(len, rows)])
    split = Split(np.concatenate(rows).astype(np.uint32),
                  np.stack([offsets[:-1], offsets[1:]], 1), labels=None)
    known = split.take(slice(1))
    known = known._replace(tokens=known.tokens[:offsets[1]])
    vocabulary = learn_vocabulary(known, encoding, True, 'none', min_count, 10, 'head', spell=True)
    numbers = vocabulary.encode(split, encoding)
    for text, (begin, end) in zip(texts, numbers.spans):
        found = numbers.tokens[begin:end]
        assert (found > 0).all() == bool(text)  # an empty text is an end of text
        spelled = [encoding.decode_single_token_bytes(int(vocabulary.tokens[number - 1]))
                   for number in found if number]
        assert b''.join(spelled).decode() == text


def test_tokens_are_counted_in_all_blocks_of_a_text(tmp_path):
    """Not only in the first, as those of a classifier's texts."""
    encoding = tokenizer()
    rows = [encoding.encode_ordinary('the first block holds the block size')] * 2
    save(tmp_path / 'toy', {split: (rows, [0, 1]) for split in ('train', 'val', 'test')},
         vocab_size=encoding.n_vocab)
    config = pretrain_config(tmp_path, '', '--block_size=3', '--min_count=4')
    _, vocabulary, _ = number_texts(config, *load_texts(config))
    known = vocabulary.tokens
    assert [encoding.decode([token]) for token in known if token > 255] == [' block']


# Batches

def test_blocks_hold_every_text_once_and_the_next_tokens(data):
    config = pretrain_config(data, '', '--batch_size=2', '--block_size=8')
    rows = [[5, 6], [7], [0], [8, 9, 10] * 10]  # one is empty
    offsets = np.cumsum([0, *map(len, rows)])
    split = Split(np.concatenate(rows).astype(np.uint32),
                  np.stack([offsets[:-1], offsets[1:]], 1), labels=None)
    steps = steps_per_epoch(config, split)
    assert steps == 37 // 16  # 33 tokens and the beginnings of 4 texts
    batches = training_batches(config, split, 0, steps)
    first, second, third = [next(batches) for _ in range(3)]
    stream = torch.cat([first.tokens.flatten(), second.tokens.flatten()])
    targets = torch.cat([first.next_tokens.flatten(), second.next_tokens.flatten()])
    assert torch.equal(stream[1:], targets[:-1])
    text = ' '.join(map(str, stream.tolist()))
    assert text.startswith('0 ')
    assert {'5 6', '7', ''} & {piece.strip() for piece in re.split(r'\b0\b', text)}
    # resumed after a step
    again = training_batches(config, split, 1, steps)
    assert torch.equal(next(again).tokens, second.tokens)
    assert torch.equal(next(again).tokens, third.tokens)


def test_the_masked_tokens_of_a_batch(data):
    config = pretrain_config(data, '', '--batch_size=4', '--block_size=20', '--masked=0.3')
    row = np.arange(1, 40)
    split = Split(np.tile(row, 8).astype(np.uint32),
                  np.array([[39 * i, 39 * (i + 1)] for i in range(8)]), labels=None)
    steps = steps_per_epoch(config, split)
    found = [batch for batch, _ in zip(training_batches(config, split, 0, steps), range(200))]
    masked = torch.stack([batch.masked() for batch in found])
    beginnings = torch.stack([batch.tokens for batch in found]) == 0
    assert (masked.sum(-1) == 6).all()  # the same number in each block
    assert not (masked & beginnings).any()
    # each column equally often (but for the first, where most of these texts begin), other ones in
    # each epoch
    share = masked.float().mean((0, 1))[1:]
    assert share.min() > 0.2
    assert share.max() < 0.4
    assert not torch.equal(masked[0], masked[steps])
    # steps draw independently: two in a row mask the same column with probability 0.3 squared
    by_epoch = masked.view(-1, steps, 4, 20)
    both = by_epoch[:, 1:] & by_epoch[:, :-1]
    assert both.float().mean().item() == pytest.approx(0.09, abs=0.02)
    again = next(training_batches(config, split, 7, steps))
    assert torch.equal(again.masked(), masked[7])
    hidden = torch.arange(80.).view(4, 20, 1)
    states, targets = found[0].predictions(hidden)
    places = states[:, 0].long()
    assert targets.tolist() == found[0].tokens.flatten()[places].tolist()
    assert places.tolist() == masked[0].flatten().nonzero()[:, 0].tolist()


# Evaluation

def test_scores_are_those_of_a_loop(data, trained):
    """Text by text and token by token, in pieces of a block."""
    config, model, texts, n_bytes = read_run(trained, data)
    split = texts['test'].take(slice(8))
    figures, n_tokens, (nll, scaled) = score(config, model, split, n_bytes['test'][:8], (1.0, 2.0))

    model.eval()
    for i, (begin, end) in enumerate(split.spans):
        text = [0, *split.tokens[begin:end].tolist(), 0]
        expected = np.zeros(2)
        for j in range(1, len(text)):
            piece = (j - 1) // config.block_size * config.block_size
            with torch.no_grad():
                logits = model.head(model(torch.tensor([text[piece:j]]))[0, -1:])[0]
            expected += [-(logits / t).log_softmax(0)[text[j]].item() for t in (1, 2)]
        assert n_tokens[i] == len(text) - 1
        assert [nll[i], scaled[i]] == pytest.approx(expected, rel=1e-5)
    assert figures['perplexity'] == pytest.approx(math.exp(nll.sum() / n_tokens.sum()))
    assert figures['bits_per_byte'] == pytest.approx(
        nll.sum() / math.log(2) / n_bytes['test'][:8].sum())


@pytest.mark.parametrize('pos', ['none', 'learned'])
def test_scores_of_masked_tokens_are_those_of_a_loop(data, tmp_path, pos):
    """Piece by piece, each alone in its batch."""
    pretrain(data, tmp_path, '--masked=0.3', f'--pos={pos}')
    config, model, texts, n_bytes = read_run(tmp_path / 'seed0', data)
    split = texts['test'].take(slice(8))
    figures, n_tokens, (nll,) = score(config, model, split, n_bytes['test'][:8])
    assert 'bits_per_byte' not in figures  # which is for whole texts

    model.eval()
    stream = text_stream(split, range(8))
    masked = (np.random.default_rng(0).random(len(stream)) < 0.3) & (stream > 0)
    beginnings = [*np.flatnonzero(stream == 0)]
    for i, (begin, end) in enumerate(zip(beginnings[:-1], beginnings[1:])):
        expected = 0
        for first in range(begin, end, config.block_size):
            piece = slice(first, min(first + config.block_size, end))
            x = torch.from_numpy(stream[piece].astype(np.int64))[None]
            masked_here = torch.from_numpy(masked[piece])[None]
            with torch.no_grad():
                logits = model.head(model(x, masked_here))
            nats = -logits.log_softmax(-1)[masked_here].gather(1, x[masked_here][:, None])
            expected += float(nats.sum())
        assert n_tokens[i] == masked[begin:end].sum()
        assert nll[i] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert figures['perplexity'] == pytest.approx(math.exp(nll.sum() / n_tokens.sum()))


def test_a_model_that_knows_nothing_pays_log_v_a_token(data, tmp_path):
    pretrain(data, tmp_path, '--learning_rate=0', '--max_iters=1')
    result, *_ = outcome(tmp_path / 'seed0')
    n_known = json.loads((tmp_path / 'seed0/config.json').read_text())['known_tokens']
    assert result['last']['test']['nll'] == pytest.approx(math.log(n_known + 1), rel=0.01)


# Runs

def test_a_run_learns_and_leaves_what_a_run_leaves(trained):
    result, log, weights, preds = outcome(trained)
    assert [row['step'] for row in log] == [10, 20, 30]
    assert log[-1]['val_perplexity'] < log[0]['val_perplexity']
    assert log[0]['tokens'] == 10 * 4 * 12
    assert result['last']['test']['n'] == 70
    assert result['last']['val']['n'] == 45  # a tenth of 50 fits the temperature
    # in any order of the batches, at the best temperature the texts are no less likely
    test = result['last']['test']
    assert test['perplexity_scaled'] == pytest.approx(
        math.exp(sum(preds['test_nll_scaled']) / sum(preds['test_tokens'])), rel=1e-5)
    assert not (trained / 'ckpt.pt').exists()


@pytest.mark.parametrize('argv', [['--head=squentropy'], ['--head=square'], ['--masked=0.3']],
                         ids=' '.join)
def test_a_run_ends_as_if_it_had_not_been_interrupted(data, tmp_path, argv):
    argv = [*argv, '--dropout=0.1', '--dtype=bfloat16']
    pretrain(data, tmp_path / 'a', *argv)
    module = script('lm/pretrain')
    scheduled_rate = module.scheduled_rate

    def stop_at_17(step, *args):
        if step == 17:
            loop.stop_signal = 15
        return scheduled_rate(step, *args)
    module.scheduled_rate = stop_at_17
    try:
        with pytest.raises(SystemExit) as stop:
            pretrain(data, tmp_path / 'b', *argv, module=module)
    finally:
        loop.stop_signal = 0
    assert stop.value.code == 128 + 15
    assert torch.load(tmp_path / 'b/seed0/ckpt.pt', weights_only=True)['progress']['step'] == 17
    pretrain(data, tmp_path / 'b', *argv)
    assert outcome(tmp_path / 'a/seed0') == outcome(tmp_path / 'b/seed0')


@pytest.mark.parametrize('masked', ['0', '0.3'])
def test_two_processes_are_one(data, tmp_path, masked):
    """Each has half of the blocks; only the first one writes and prints."""
    argv = ['--dtype=float64', '--max_iters=10', f'--masked={masked}']
    pretrain(data, tmp_path / 'one', *argv)
    first, second = two_processes(tmp_path, '-m', 'lm.pretrain', *LANGUAGE, f'--data_dir={data}',
                                  '--out_dir=two', *argv)
    assert first.count('done') == 1 and second == ''
    one, two = [outcome(tmp_path / name / 'seed0') for name in ('one', 'two')]
    for split in 'val', 'test':
        assert one[0]['last'][split] == pytest.approx(two[0]['last'][split], rel=1e-9)
    for name, weight in one[2].items():
        assert np.allclose(weight, two[2][name], rtol=1e-7, atol=1e-9), name


def test_unlabelled_texts_are_learnt_from_and_val_and_test_are_not(tmp_path):
    (tmp_path / 'texts.csv').write_text('text,label\n' + ''.join(
        f'seen {word} {i},{i % 2}\n' for i, word in enumerate(['one', 'two', 'six'] * 20)))
    (tmp_path / 'more.csv').write_text('text\n' + 'unlabelled giraffe here\n' * 30)
    call(tmp_path, 'prepare.py', '--source=texts.csv', '--unlabelled=more.csv', '--name=toy')
    call(tmp_path, 'lm.pretrain', *LANGUAGE, '--max_iters=5', '--out_dir=out', '--min_count=2')
    known = torch.load(tmp_path / 'out/seed0/model.pt', weights_only=True)['tokens'].tolist()
    encoding = tokenizer()
    for token in encoding.encode_ordinary(' giraffe'):
        assert token in known
    _, _, texts, _ = read_run(tmp_path / 'out/seed0', tmp_path / 'data')
    assert len(texts['train'].spans) == 48 + 30


def test_texts_without_any_labels(tmp_path):
    (tmp_path / 'stories.csv').write_text('text\n' + ''.join(
        f'Once there was a {word} that was {i} years old.\n'
        for i, word in enumerate(['dog', 'cat', 'fox'] * 20)))
    done = call(tmp_path, 'prepare.py', '--source=stories.csv', '--label=')
    assert 'no classes' in done
    config_file = ROOT / 'lm/config/squentropy.py'  # it names the folder of the runs, too
    call(tmp_path, 'lm.pretrain', config_file, *LANGUAGE, '--dataset=stories', '--max_iters=5')
    assert (tmp_path / 'out/lm/squentropy/seed0/result.json').exists()
    error = call(tmp_path, 'train.py', '--dataset=stories', code=2)
    assert '--label=COLUMN' in error
    assert 'without --label_sep' in call(tmp_path, 'prepare.py', '--source=stories.csv', '--label=',
                                         '--label_sep=;', code=2)


# A classifier from its trunk

def test_a_classifier_starts_from_the_trunk(data, trained, tmp_path):
    argv = [f'--init_from={trained}', '--lower=False', '--causal', '--spell',
            '--n_head=2', '--token_dropout=0', '--block_size=40', '--epochs=1',
            '--full_vocab=False']
    train(data, tmp_path / 'a', *argv, '--learning_rate=0', '--weight_decay=0')
    trunk = torch.load(trained / 'model.pt', weights_only=True)
    found = torch.load(tmp_path / 'a/seed0/model.pt', weights_only=True)
    assert torch.equal(found.pop('tokens'), trunk['tokens'])
    names = [name for name in found if name.startswith('trunk.')]
    assert len(names) == len(found) - 2  # all but the head's
    for name in names:
        assert torch.equal(found[name], trunk[name.removeprefix('trunk.')]), name
    config = json.loads((tmp_path / 'a/seed0/config.json').read_text())
    assert config['bag'] is False
    # a classifier's answers on test are those of train.py
    classifier = TextClassifier(tmp_path / 'a/seed0')
    split = np.load(data / 'toy/test_tokens.npy')
    offsets = np.load(data / 'toy/test_offsets.npy')
    rows = [split[begin:end].astype(np.int64) for begin, end in zip(offsets[:-1], offsets[1:])]
    probs = classifier.model.probs_of_tokens(rows)
    logits = torch.from_numpy(np.load(tmp_path / 'a/seed0/preds.npz')['test_logits']).double()
    run, = classifier.model.runs
    expected = run.model.head.probs(logits / run.temperature)
    assert np.allclose(probs, expected.numpy(), atol=1e-3)


def test_a_bag_starts_from_a_masked_language_model(data, tmp_path):
    pretrain(data, tmp_path / 'masked', '--masked=0.4')
    argv = [f'--init_from={tmp_path}/masked/seed0', '--lower=False', '--spell', '--n_head=2',
            '--full_vocab=False', '--epochs=1']
    train(data, tmp_path / 'a', *argv, '--learning_rate=0', '--weight_decay=0')
    trunk = torch.load(tmp_path / 'masked/seed0/model.pt', weights_only=True)
    found = torch.load(tmp_path / 'a/seed0/model.pt', weights_only=True)
    assert torch.equal(found['trunk.blocks.0.qkv.weight'], trunk['blocks.0.qkv.weight'])
    config = json.loads((tmp_path / 'a/seed0/config.json').read_text())
    assert config['bag'] is True
    assert 'predicts masked tokens' in call(tmp_path, 'lm.sample', 'masked/seed0', code=2)


# Sampling

def test_the_same_seed_gives_the_same_text(trained, tmp_path):
    argv = ['lm.sample', trained, '--n=3', '--prompt=ab']
    a = call(tmp_path, *argv, encoding=None)
    assert a == call(tmp_path, *argv, encoding=None)
    texts = a.split(b'\n---\n')
    assert len(texts) == 3
    assert len(set(texts)) == 3
    assert all(text.startswith(b'ab') for text in texts)
    second, = [call(tmp_path, *argv[:2], '--n=1', '--prompt=ab', '--seed=1', encoding=None)]
    assert second.rstrip(b'\n') == texts[1].rstrip(b'\n')


def test_samples_are_drawn_from_the_models_distribution(trained):
    """The first token of many texts, against the head's probabilities; and the likeliest ones."""
    sampler = Sampler(trained)
    with torch.no_grad():
        logits = sampler.model.head(sampler.model(torch.tensor([[0]]))[0, -1:])
        p = sampler.model.head.probs(logits / 0.5)[0].numpy()
    counts = np.zeros(len(p))
    n = 2000
    for seed in range(n):
        counts[next(sampler.sample([], seed, temperature=0.5), 0)] += 1
    assert abs(counts / n - p).max() < 4 * math.sqrt(0.25 / n)
    best = int(p[1:].argmax()) + 1 if p.argmax() else 0
    assert next(sampler.sample([], 0, temperature=0), 0) == best
    few = {next(sampler.sample([], seed, top_k=3), 0) for seed in range(100)}
    assert few == set(p.argsort()[-3:].tolist())


def test_a_text_is_no_longer_than_a_block(trained):
    sampler = Sampler(trained)
    prompt = sampler.encode('abc')
    lengths = [len(list(sampler.sample(prompt, seed))) for seed in range(20)]
    assert max(lengths) == 12 - len(prompt)


# Bad input

BAD = {
    'a block longer than the data': (['--block_size=100000'], 'training tokens, fewer than'),
    'heads that do not divide': (['--n_head=3'], 'n_embd 16 is not divisible by n_head 3'),
    'no such head': (['--head=cee'], "there is no 'cee'"),
    'empty blocks': (['--block_size=0'], 'block_size must be at least 1'),
    'no steps': (['--max_iters=0'], 'max_iters must be at least 1'),
    'no data': (['--dataset=none'], 'prepare.py'),
    'everything masked': (['--masked=1'], 'masked must be'),
}


@pytest.mark.parametrize('argv, message', BAD.values(), ids=BAD)
def test_bad_settings(capsys, data, tmp_path, argv, message):
    assert message in fails(capsys, data, tmp_path / 'out', *argv, run=pretrain)
    assert not (tmp_path / 'out').exists()


def test_a_cut_checkpoint(capsys, data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(loop, 'stop_signal', 15)
        pretrain(data, tmp_path)
    capsys.readouterr()
    checkpoint = tmp_path / 'seed0/ckpt.pt'
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-100])
    assert 'start this run again with --overwrite' in fails(capsys, data, tmp_path, run=pretrain)
    assert checkpoint.read_bytes() == content[:-100]


def test_a_trunk_that_does_not_fit(capsys, data, trained, tmp_path):
    argv = [f'--init_from={trained}', '--lower=False', '--causal', '--spell', '--n_head=2',
            '--full_vocab=False']
    for change, message in [('--n_embd=32', 'does not fit'), ('--n_head=1', 'its n_head is 2'),
                            ('--spell=False', 'its spell is True'), ('--lower=True', 'its lower')]:
        error = fails(capsys, data, tmp_path / 'out', *argv, change)
        assert message in error
        assert not (tmp_path / 'out').exists()


def test_a_trunk_of_another_tokenizer(capsys, data, trained, tmp_path):
    shutil.copytree(trained, tmp_path / 'lm')
    config = json.loads((tmp_path / 'lm/config.json').read_text())
    config['tokenizer'] = {'name': 'o200k_base'}
    (tmp_path / 'lm/config.json').write_text(json.dumps(config))
    argv = [f'--init_from={tmp_path}/lm', '--lower=False', '--causal', '--spell', '--n_head=2',
            '--full_vocab=False']
    assert 'it has another tokenizer' in fails(capsys, data, tmp_path / 'out', *argv)


def test_one_text_of_val_is_too_few(capsys, tmp_path):
    rng = np.random.default_rng(0)
    save(tmp_path / 'data/toy', {'train': toy_reviews(210, rng), 'val': toy_reviews(1, rng),
                                 'test': toy_reviews(9, rng)})
    error = fails(capsys, tmp_path / 'data', tmp_path / 'out', run=pretrain)
    assert 'toy has only one text in val' in error


def test_sample_of_what_is_no_language_model(home, trained, tmp_path):
    error = call(home, 'lm.sample', 'out/bce/seed0', code=2)
    assert 'it is not a language model' in error
    assert 'is missing' in call(home, 'lm.sample', 'out', code=2)
    assert 'give the folder' in call(home, 'lm.sample', code=2)
    long = 'word ' * 40
    found = call(home, 'lm.sample', trained, f'--prompt={long}', code=2)
    assert 'takes at most 11' in found
    error = call(home, 'lm.sample', trained, '--temperature=-1', code=2)
    assert 'temperature must be at least 0' in error


def test_a_language_model_is_no_classifier(trained, tmp_path):
    with pytest.raises(ValueError, match='it is a language model'):
        TextClassifier(trained.parent)
    assert 'is a language model' in call(tmp_path, 'evaluate.py', trained.parent, code=2)


@pytest.mark.parametrize('path', sorted(ROOT.glob('lm/config/*.py')), ids=lambda path: path.stem)
def test_every_config_file_trains(data, tmp_path, path):
    pretrain(data, tmp_path, path, *LANGUAGE, '--max_iters=2', '--final_texts=10')
    assert (tmp_path / 'seed0/result.json').exists()
