"""nanoloss/data.py against brute force, damaged data sets, and the weights of micro-batches
(nanoloss/parallel.py). About 5 s."""
import hashlib
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers import SIZES, make_batches, make_data, save, toy_reviews, train_config
from model import Classifier, Transformer, make_head
from nanoloss import files, parallel
from nanoloss.data import (
    Batch, Split, check_unchanged, drop_tokens, load_data, load_unlabelled, pad, sample_texts,
    to_bags)
from nanoloss.text import truncated
from train import training_batches


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def toy(data):
    splits, _ = load_data(data / 'toy')
    return splits['train']


def split_of(texts, labels=None):
    """A Split in memory of a list of token lists."""
    lengths = np.array([len(text) for text in texts])
    ends = lengths.cumsum()
    spans = np.stack([ends - lengths, ends], 1)
    return Split(np.concatenate(texts).astype(np.uint32), spans, labels)


def used(text, size, truncate):
    """The tokens that are used of a text, a list, by brute force."""
    n_cut = max(0, len(text) - size)
    begin = {'head': size, 'tail': 0, 'both': math.ceil(size / 2)}[truncate]  # of the cut
    return [token for i, token in enumerate(text) if not begin <= i < begin + n_cut]


# Batches

@pytest.mark.parametrize('seed', [None, 1])
@pytest.mark.parametrize('bag', [True, False])
def test_batches_hold_every_text_once(toy, bag, seed, monkeypatch):
    monkeypatch.setattr('nanoloss.data.POOL', 3)
    rng = None if seed is None else np.random.default_rng(seed)
    seen = []
    for batch in make_batches(toy, 16, 20, bag=bag, rng=rng):
        assert 1 <= len(batch.rows) <= 16
        assert batch.labels.tolist() == toy.labels[batch.rows].tolist()
        assert (batch.tokens[batch.counts == 0] == 0).all()
        assert batch.tokens.shape == batch.counts.shape
        for tensor in batch.tokens, batch.counts, batch.labels:
            assert tensor.dtype == torch.int64
        sizes = (batch.counts > 0).sum(1).tolist()
        assert sizes == sorted(sizes)  # the shortest first
        assert batch.counts.shape[1] == min(20, -(-sizes[-1] // 8) * 8)

        n_tokens = 0
        for row, tokens, counts in zip(batch.rows, batch.tokens, batch.counts):
            begin, end = toy.spans[row]
            text = toy.tokens[begin:end][:20].tolist()
            n_tokens += len(text)
            found = []
            for token, count in zip(tokens.tolist(), counts.tolist()):
                if count:
                    found.append((token, count))
            if bag:
                assert found == sorted(Counter(text).items())
            else:
                assert found == [(token, 1) for token in text]
        assert n_tokens == batch.n_tokens
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(SIZES['train']))
    assert seen != sorted(seen)  # by size, or shuffled


def test_a_pool_has_consecutive_texts_sorted_by_length(toy, monkeypatch):
    monkeypatch.setattr('nanoloss.data.POOL', 3)
    lengths = toy.lengths().clip(max=20)
    rows = np.concatenate([batch.rows for batch in make_batches(toy, 16, 20, bag=False)])
    for start in range(0, len(rows), 48):
        pool = rows[start:start + 48]
        assert sorted(pool) == list(range(start, min(start + 48, len(rows))))
        assert (np.diff(lengths[pool]) >= 0).all()


def test_batches_take_the_texts_in_the_given_order(toy, monkeypatch):
    monkeypatch.setattr('nanoloss.data.POOL', 1)
    order = np.array([7, 3, 3, 200, 50, 11, 9])
    found = list(make_batches(toy, 2, 20, order=order))
    pairs = [sorted(batch.rows.tolist()) for batch in found]
    assert pairs == [[3, 7], [3, 200], [11, 50], [9]]
    assert list(make_batches(toy, 2, 20, order=order[:0])) == []


def test_a_generator_s_seed_makes_the_batches(toy):
    def draw(seed):
        found = []
        rng = np.random.default_rng(seed)
        for batch in make_batches(toy, 16, 20, rng=rng, token_dropout=0.5):
            found.append((batch.rows.tolist(), batch.tokens.tolist(), batch.counts.tolist()))
        return found
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_a_generator_shuffles_whole_batches(toy):
    """Each still has texts of about one length, but any of them can be the first."""
    ordered = [tuple(batch.rows) for batch in make_batches(toy, 16, 20)]
    firsts = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        drawn = [tuple(batch.rows) for batch in make_batches(toy, 16, 20, rng=rng)]
        assert drawn != ordered
        assert sorted(drawn) == sorted(ordered)
        firsts.add(drawn[0])
    assert len(ordered) == math.ceil(SIZES['train'] / 16) == 14
    assert len(firsts) > 10


def test_each_epoch_drops_other_tokens_but_never_all(toy):
    kept = np.zeros(20, int)  # tokens, per epoch
    n_tokens = 0
    for epoch in range(20):
        rng = np.random.default_rng([0, epoch])
        for batch in make_batches(toy, 16, 20, rng=rng, token_dropout=0.7):
            assert (batch.counts.sum(1) >= 1).all()
            kept[epoch] += int(batch.counts.sum())
            n_tokens += batch.n_tokens
    # one token of a text always stays: otherwise all n would be dropped with probability .7 ** n
    lengths = np.minimum(toy.lengths(), 20)
    expected = (0.3 * lengths + 0.7 ** lengths).sum() * 20
    assert n_tokens == lengths.sum() * 20
    assert abs(kept.sum() - expected) < 5 * math.sqrt(n_tokens * 0.3 * 0.7)
    assert len(set(kept)) > 1


def test_dropped_tokens_leave_the_others_in_their_order():
    lengths = np.array([1, 4, 30, 2])
    kept, n_left = drop_tokens(lengths, 0.8, np.random.default_rng(0))
    assert kept.tolist() == sorted(set(kept.tolist()))
    texts = np.repeat(np.arange(4), lengths)
    assert np.bincount(texts[kept], minlength=4).tolist() == n_left.tolist()
    assert n_left.sum() == len(kept) < 37
    firsts, ones = drop_tokens(lengths, 1.0, np.random.default_rng(0))
    assert firsts.tolist() == [0, 1, 5, 35]  # of each text
    assert ones.tolist() == [1, 1, 1, 1]


def test_without_a_generator_no_token_is_dropped(toy):
    """So train.py evaluates with the config that it trains with."""
    found = make_batches(toy, 16, 20, token_dropout=0.9)
    n_tokens = sum(int(batch.counts.sum()) for batch in found)
    assert n_tokens == toy.lengths().clip(max=20).sum()


@pytest.mark.parametrize('truncate', ['head', 'tail', 'both'])
def test_tokens_are_dropped_from_the_truncated_texts(truncate):
    """All of them but the dropped ones, by the same draw from texts that are truncated first."""
    texts = [list(range(100 * i, 100 * i + n)) for i, n in enumerate([40, 7, 8, 9, 1, 33])]
    short = [np.array(used(text, 8, truncate)) for text in texts]
    kept, lengths = drop_tokens(np.array([len(text) for text in short]), 0.5,
                                np.random.default_rng(1))
    wanted = np.split(np.concatenate(short)[kept], lengths.cumsum())
    batch, = make_batches(split_of(texts), 6, 8, truncate, False, rng=np.random.default_rng(1),
                          token_dropout=0.5)
    for row, tokens, counts in zip(batch.rows, batch.tokens, batch.counts):
        assert tokens[counts > 0].tolist() == wanted[row].tolist()


def test_batches_do_not_wait_for_the_device(monkeypatch):
    """Except for the sizes of bags. A tensor on meta has no numbers: reading one, for which the CPU
    would wait for a GPU, fails."""
    monkeypatch.setattr('nanoloss.data.POOL', 2)
    split = split_of([[5, 5, 6], [7], list(range(20))] * 5, np.arange(15) % 2)
    split = split._replace(ngrams=np.arange(1, 16, dtype=np.int32),
                           ngram_spans=np.stack([np.arange(15), np.arange(1, 16)], 1))
    found = []
    for device in 'cpu', 'meta':
        shapes = []
        rng = np.random.default_rng(0)
        for batch in make_batches(split, 4, 10, bag=False, token_dropout=0.2, rng=rng,
                                  device=device):
            tensors = batch.tokens, batch.counts, batch.labels, batch.ngrams
            assert {tensor.device.type for tensor in tensors} == {device}
            shapes.append([batch.rows.tolist(), *(tensor.shape for tensor in tensors)])
        found.append(shapes)
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_texts_without_labels():
    split = split_of([[5, 5, 6], [7], [8, 9]])
    batch, = make_batches(split, 4, 10)
    assert batch.labels is None
    assert batch.rows.tolist() == [1, 0, 2]  # as bags: of one token, and of two each
    assert batch.take(slice(1)).labels is None
    assert [micro.labels for micro in batch.micro_batches(8)] == [None, None, None]


def test_several_labels_go_with_their_text():
    labels = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]], np.uint8)
    batch, = make_batches(split_of([[1, 2, 3], [4], [5, 6]], labels), 4, 10)
    assert batch.rows.tolist() == [1, 2, 0]
    assert batch.labels.tolist() == labels[[1, 2, 0]].tolist()


def test_a_split_of_some_texts():
    split = split_of([[1, 2, 3], [4], [5, 6]], np.array([0, 1, 1]))
    assert split.lengths().tolist() == [3, 1, 2]
    for rows in [2, 0], np.array([2, 0]), slice(None, None, -2):
        some = split.take(rows)
        assert some.lengths().tolist() == [2, 3] and some.labels.tolist() == [1, 0]
        batch, = make_batches(some, 2, 8, bag=False)
        assert batch.tokens[:, :3].tolist() == [[5, 6, 0], [1, 2, 3]]


def test_texts_are_sampled_with_the_seed(toy, capsys):
    assert sample_texts(toy, 0, 5) is toy
    assert sample_texts(toy, len(toy.labels), 5).spans.tolist() == toy.spans.tolist()
    drawn = []
    for seed in 0, 0, 1:
        few = sample_texts(toy, 50, seed)
        assert len(few.labels) == len(few.spans) == 50
        assert (np.diff(few.spans[:, 0]) > 0).all()  # each once, in the order that they have
        drawn.append(few.spans.tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(SystemExit):
        sample_texts(toy, 211, 0)
    assert 'n_train is 211, but there are 210 training texts' in capsys.readouterr().err


@pytest.mark.parametrize('size', [1, 4, 5, 9, 10, 11])
def test_what_is_used_of_a_long_text(size):
    text = np.arange(10)
    kept = {}
    for truncate in 'head', 'tail', 'both':
        kept[truncate] = truncated(text, size, truncate).tolist()
    tokens = text.tolist()
    assert kept['head'] == tokens[:size]
    assert kept['tail'] == tokens[max(10 - size, 0):]
    n_head = math.ceil(size / 2)
    n_tail = size // 2
    if size >= 10:
        assert kept['both'] == tokens
    else:
        assert kept['both'] == tokens[:n_head] + tokens[10 - n_tail:]
        assert [len(part) for part in kept.values()] == [size] * 3
    for truncate, part in kept.items():
        assert part == used(tokens, size, truncate)


@pytest.mark.parametrize('size', [1, 7, 8, 12, 13])  # of an odd one, the head has a token more
@pytest.mark.parametrize('truncate', ['head', 'tail', 'both'])
def test_batches_have_the_truncated_texts(truncate, size):
    texts = [list(range(30)), list(range(100, 103)), list(range(200, 212))]
    for batch in make_batches(split_of(texts), 1, size, truncate, bag=False):
        text = texts[batch.rows[0]]
        wanted = used(text, size, truncate)
        assert batch.tokens[0, :len(wanted)].tolist() == wanted
        assert batch.counts.sum() == batch.n_tokens == len(wanted) == min(len(text), size)


def test_to_bags_counts_what_a_counter_counts():
    generator = torch.Generator().manual_seed(1)
    lengths = np.array([1, 30, 7, 200])
    tokens = torch.randint(0, 100_277, (238,), generator=generator)
    tokens[50:150] %= 5
    tokens[200] = 2 ** 32 - 1  # the largest of uint32
    distinct, counts, n_distinct = to_bags(tokens, lengths)
    assert n_distinct.sum() == len(distinct) == len(counts)
    texts = tokens.split(lengths.tolist())
    bags = distinct.split(n_distinct.tolist())
    counts_of = counts.split(n_distinct.tolist())
    for text, bag, count in zip(texts, bags, counts_of):
        wanted = sorted(Counter(text.tolist()).items())
        assert list(zip(bag.tolist(), count.tolist())) == wanted


def test_pad_makes_a_rectangle_of_the_texts():
    flat = torch.arange(10, 20)
    counts = torch.arange(1, 11)
    begins = torch.tensor([4, 0, 9])
    lengths = torch.tensor([2, 4, 1])
    tokens, padded_counts = pad(flat, counts, begins, lengths, 5)
    assert tokens.tolist() == [[14, 15, 0, 0, 0], [10, 11, 12, 13, 0], [19, 0, 0, 0, 0]]
    assert padded_counts.tolist() == [[5, 6, 0, 0, 0], [1, 2, 3, 4, 0], [10, 0, 0, 0, 0]]


# Micro-batches

def random_batch(n, widest):
    """A Batch of n texts of random lengths whose tokens say which text they are of."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, widest, (n,), generator=generator).sort()[0]
    real = torch.arange(int(lengths[-1])) < lengths[:, None]
    counts = real * torch.randint(1, 9, real.shape, generator=generator)
    tokens = counts * 1000 + torch.arange(n)[:, None] * real
    labels = torch.arange(n) % 3
    ngrams = torch.arange(3 * n).view(n, 3)
    return Batch(np.arange(n) + 100, tokens, counts, labels, 12345, ngrams), lengths


def test_micro_batches_hold_the_batch():
    batch, lengths = random_batch(30, 40)
    micros = list(batch.micro_batches(100))
    assert len(micros) > 5
    assert torch.cat([micro.labels for micro in micros]).tolist() == batch.labels.tolist()
    assert np.concatenate([micro.rows for micro in micros]).tolist() == list(range(100, 130))
    for micro in micros:
        rows = torch.from_numpy(micro.rows - 100)
        width = micro.counts.shape[1]
        assert 0 <= width - lengths[rows].max() < 8
        assert micro.counts.numel() <= 200
        assert torch.equal(micro.tokens, batch.tokens[rows, :width])
        assert torch.equal(micro.counts.sum(1), batch.counts[rows].sum(1))
        assert torch.equal(micro.labels, batch.labels[rows])
        assert torch.equal(micro.ngrams, batch.ngrams[rows])


@pytest.mark.parametrize('max_tokens, n_micro', [(10 ** 9, 1), (12 * 40, 1), (12 * 40 - 1, 2),
                                                 (1, 12), (40, 12), (41, 12)])
def test_as_many_micro_batches_as_needed_but_no_empty_one(max_tokens, n_micro):
    batch = Batch(np.arange(12), torch.ones(12, 40).long(), torch.ones(12, 40).long(), None, 480)
    micros = list(batch.micro_batches(max_tokens))
    assert len(micros) == n_micro
    assert sum(len(micro.rows) for micro in micros) == 12
    assert all(len(micro.rows) for micro in micros)
    if n_micro == 1:
        assert micros[0] is batch


def weighted_mean(logits, labels):
    """A loss that is no plain mean: its divisor is the sum of the weights of its labels."""
    weight = torch.tensor([1.0, 20.0, 5.0], dtype=logits.dtype)
    return F.cross_entropy(logits, labels, weight)


def plain_mean(logits, labels):
    weight = torch.tensor([1.0, 20.0, 5.0], dtype=logits.dtype)
    return F.cross_entropy(logits, labels, weight, reduction='none').mean()


# head, its settings, a function in place of its loss, whether the loss is a plain mean
LOSSES = {
    'ce': ('ce', {}, None, True),
    'ce, weighted and smoothed': ('ce', {'class_weight': '1,20,5', 'label_smoothing': 0.1},
                                  None, True),
    'bce': ('bce', {}, None, True),
    'focal, weighted': ('focal', {'alpha': '1,20,5'}, None, True),
    'square': ('square', {'k': 2.0}, None, True),
    'plain mean of weighted losses': ('ce', {}, plain_mean, True),
    'weighted mean': ('ce', {}, weighted_mean, False),
}


@pytest.mark.parametrize('world', [1, 3])
@pytest.mark.parametrize('n_texts', [2, 3, 13])  # of two, the third process gets none
@pytest.mark.parametrize('name', LOSSES)
def test_weighted_micro_batches_add_up_to_the_batch(monkeypatch, name, n_texts, world):
    """The mean over the processes of the micro-batches' weighted losses and gradients is that of
    the batch."""
    head, settings, loss_function, is_plain_mean = LOSSES[name]
    torch.manual_seed(0)
    trunk = Transformer(100, 40, n_layer=1, n_head=2, n_embd=8)
    model = Classifier(trunk, make_head(head, 8, 3, **settings)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    loss_function = loss_function or model.head.loss
    texts, _ = toy_reviews(n_texts, np.random.default_rng(0))
    batch, = make_batches(split_of(texts, np.arange(n_texts) ** 2 % 3), 16, 40)

    def gradient():
        flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        model.zero_grad()
        return flat

    loss = loss_function(model(batch.tokens, batch.counts), batch.labels)
    loss.backward()
    batch_gradient = gradient()

    monkeypatch.setattr(parallel, 'WORLD', world)
    seen = []
    for max_tokens in 1, 60, 10 ** 9:
        mean_loss = 0.0
        mean_gradient = torch.zeros_like(batch_gradient)
        n_micro = 0
        for rank in range(world):
            monkeypatch.setattr(parallel, 'RANK', rank)
            lasts = []
            for micro, weight, last in parallel.micro_batches(batch, max_tokens):
                logits = model(micro.tokens, micro.counts)
                micro_loss = weight * loss_function(logits, micro.labels)
                micro_loss.backward()
                mean_loss += micro_loss.item() / world
                lasts.append(last)
                if weight:
                    n_micro += 1
                    seen += micro.rows.tolist()
            # every process joins in the averaging, and once: with its last micro-batch
            assert lasts == [False] * (len(lasts) - 1) + [True]
            mean_gradient += gradient() / world
        if is_plain_mean or n_micro == 1:
            assert mean_loss == pytest.approx(loss.item(), rel=1e-12)
            torch.testing.assert_close(mean_gradient, batch_gradient, rtol=0, atol=1e-12)
        else:
            assert mean_loss != pytest.approx(loss.item(), rel=1e-3)
            assert (mean_gradient - batch_gradient).abs().max() > 1e-4
    assert Counter(seen) == {row: 3 for row in range(n_texts)}


# The order of an epoch

def test_an_epoch_has_every_text_once(toy, data):
    """In an order of its own, drawn from the seed and the epoch."""
    def orders(seed, first_step=0):
        config = train_config(data, 'out', f'--seed={seed}', '--epochs=3', '--token_dropout=0')
        rows = [batch.rows.tolist() for batch in training_batches(config, toy, first_step, 14)]
        return [rows[start:start + 14] for start in range(0, len(rows), 14)]

    drawn = [*orders(0), *orders(1)]
    assert len(drawn) == 6
    for epoch in drawn:
        assert sorted(sum(epoch, [])) == list(range(SIZES['train']))
        assert sum(epoch, []) != list(range(SIZES['train']))
    assert len({str(epoch) for epoch in drawn}) == 6
    assert orders(0) == drawn[:3]
    # from a step on: in the middle of an epoch, and at its end
    for first_step in 1, 13, 14, 15, 28, 41, 42:
        later = sum(sum(drawn[:3], [])[first_step:], [])
        assert sum(sum(orders(0, first_step), []), []) == later


# Data sets on disk

def test_a_data_set_is_loaded_as_it_was_written(tmp_path):
    rng = np.random.default_rng(1)
    written = {split: toy_reviews(n, rng) for split, n in (('train', 30), ('val', 9), ('test', 12))}
    save(tmp_path / 'toy', written, classes=['no', 'yes'])
    splits, meta = load_data(tmp_path / 'toy')
    assert list(splits) == ['train', 'val', 'test']
    assert meta['classes'] == ['no', 'yes'] and meta['multi_label'] is False
    for name, (texts, labels) in written.items():
        split = splits[name]
        assert isinstance(split.tokens, np.memmap)
        assert split.spans.dtype == np.int64
        assert split.labels.tolist() == labels.tolist()
        found = [split.tokens[begin:end].tolist() for begin, end in split.spans]
        assert found == texts
        assert split.lengths().tolist() == [len(text) for text in texts]


def test_several_labels_are_loaded(tmp_path):
    labels = [[0, 1, 1], [0, 0, 0]]
    splits = {name: ([[1, 2], [3]], labels) for name in ('train', 'val', 'test')}
    save(tmp_path / 'toy', splits, classes='abc')
    splits, meta = load_data(tmp_path / 'toy')
    assert meta['multi_label'] is True
    assert splits['val'].labels.tolist() == labels


def flip_a_bit(folder):
    path = folder / 'val_tokens.npy'
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut_short(folder):
    path = folder / 'train_tokens.npy'
    path.write_bytes(path.read_bytes()[:-10])


def empty(folder):
    (folder / 'test_labels.npy').write_bytes(b'')


def swap(folder):
    (folder / 'val_tokens.npy').rename(folder / 'other.npy')
    (folder / 'test_tokens.npy').rename(folder / 'val_tokens.npy')
    (folder / 'other.npy').rename(folder / 'test_tokens.npy')


def unlink(name):
    return lambda folder: (folder / name).unlink()


def change_meta(**changes):
    def change(folder):
        path = folder / 'meta.json'
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return change


def forget(key):
    def change(folder):
        path = folder / 'meta.json'
        meta = json.loads(path.read_text())
        del meta[key]
        path.write_text(json.dumps(meta))
    return change


def write_meta(text):
    return lambda folder: (folder / 'meta.json').write_text(text)


def rewrite(name, function):
    """Another array with its right checksum: damage that only its content shows."""
    def change(folder):
        array = function(np.load(folder / f'{name}.npy'))
        np.save(folder / f'{name}.npy', array)
        path = folder / 'meta.json'
        meta = json.loads(path.read_text())
        meta['sha256'][f'{name}.npy'] = hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
        path.write_text(json.dumps(meta))
    return change


DAMAGES = {
    'another version': (change_meta(version=0), 'is of format 0, this code reads 1'),
    'a flipped bit': (flip_a_bit, 'val_tokens.npy is damaged'),
    'cut short': (cut_short, 'damaged'),
    'an empty file': (empty, 'damaged'),
    'swapped files': (swap, 'val_tokens.npy is damaged'),
    'no meta': (unlink('meta.json'), 'meta.json is missing'),
    'no labels': (unlink('val_labels.npy'), 'val_labels.npy is missing'),
    'half a meta': (write_meta('{"version": 1'), 'is damaged'),
    'a meta that is a list': (write_meta('[1]'), 'is damaged'),
    'a meta without checksums': (forget('sha256'), "damaged (KeyError: 'sha256')"),
    'a meta without classes': (forget('classes'), "damaged (KeyError: 'classes')"),
    'no tokenizer': (change_meta(tokenizer={}), "is damaged (KeyError: 'name')"),
    'an odd tokenizer': (change_meta(tokenizer={'name': 7}), 'is damaged'),
    'too few classes': (change_meta(classes=['neg']), 'meta.json describes other arrays'),
    'too small a vocabulary': (change_meta(vocab_size=50), 'meta.json describes other arrays'),
    'labels in columns': (rewrite('val_labels', lambda y: np.eye(3, dtype=np.uint8)[y]),
                          'meta.json describes other arrays'),
    'tokens of another type': (rewrite('train_tokens', lambda x: x.astype(np.int64)),
                               'meta.json describes other arrays'),
    'labels of another type': (rewrite('test_labels', lambda x: x.astype(np.int64)),
                               'meta.json describes other arrays'),
    'no texts': (rewrite('test_labels', lambda x: x[:0]), 'damaged'),
}


@pytest.mark.parametrize('damage, says', DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_data_set_ends_in_one_line(tmp_path, capsys, damage, says):
    folder = make_data(tmp_path) / 'toy'
    load_data(folder)
    damage(folder)
    with pytest.raises(SystemExit) as stop:
        load_data(folder)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in error and error.count('\n') == 1
    assert 'make it with: python prepare.py' in error and '--name=toy' in error


def test_no_data_set_says_how_to_make_it(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        load_data(tmp_path / 'nothing')
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count('\n') == 1
    assert 'no data in' in error and 'prepare.py --source=... --name=nothing' in error


def test_a_data_set_whose_replacement_was_killed_is_found(tmp_path, capsys):
    """prepare.py was killed between its two renames, so there is no data/toy."""
    make_data(tmp_path)
    expected, _ = load_data(tmp_path / 'toy')
    expected = expected['train'].tokens.tolist()
    (tmp_path / '.toy.work').mkdir()
    (tmp_path / 'toy').rename(tmp_path / '.toy.work/old')
    make_data(tmp_path / '.toy.work/new')
    with files.locked_folder(tmp_path / '.toy.work'), pytest.raises(SystemExit):  # it is alive
        load_data(tmp_path / 'toy')
    assert 'another process is at work in' in capsys.readouterr().err
    splits, _ = load_data(tmp_path / 'toy')
    assert splits['train'].tokens.tolist() == expected
    assert [path.name for path in tmp_path.iterdir()] == ['toy']


def test_data_are_read_while_they_are_replaced(tmp_path):
    make_data(tmp_path)
    with files.replacing_folder(tmp_path / 'toy'):
        load_data(tmp_path / 'toy')


def test_tokens_that_change_while_they_are_used(tmp_path, capsys):
    folder = make_data(tmp_path) / 'toy'
    splits, meta = load_data(folder)
    check_unchanged(splits, meta)
    with open(folder / 'train_tokens.npy', 'r+b') as file:
        file.seek(-4, 2)
        file.write(b'\1\0\0\0')
    with pytest.raises(SystemExit) as stop:
        check_unchanged(splits, meta)
    assert stop.value.code == 2
    assert f'{folder / "train_tokens.npy"} has changed' in capsys.readouterr().err
    # the others have not, and a copy in memory cannot change
    check_unchanged({name: splits[name] for name in ('val', 'test')}, meta)
    copied = {name: split._replace(tokens=np.array(split.tokens)) for name, split in splits.items()}
    check_unchanged(copied, meta)


def test_unlabelled_texts_are_checked(tmp_path, capsys):
    meta = {'vocab_size': 9, 'unlabelled': {'sha256': {}}}
    tokens = np.array([3, 1, 2], np.uint32)
    offsets = np.array([0, 1, 3], np.uint64)
    for column, array in ('tokens', tokens), ('offsets', offsets):
        file = f'unlabelled_{column}.npy'
        np.save(tmp_path / file, array)
        meta['unlabelled']['sha256'][file] = hashlib.sha256(array).hexdigest()
    split = load_unlabelled(tmp_path, meta)
    assert split.tokens.tolist() == [3, 1, 2] and split.labels is None
    assert split.spans.tolist() == [[0, 1], [1, 3]]

    def says(message, meta):
        with pytest.raises(SystemExit):
            load_unlabelled(tmp_path, meta)
        assert message in capsys.readouterr().err

    says('has no unlabelled texts', {'vocab_size': 9})
    says('describes other arrays', {**meta, 'vocab_size': 3})
    np.save(tmp_path / 'unlabelled_tokens.npy', tokens[::-1])
    says('unlabelled_tokens.npy is damaged', meta)
    (tmp_path / 'unlabelled_tokens.npy').unlink()
    says('No such file', meta)


def test_joined_splits_are_one_after_the_other():
    first = split_of([[1, 2], [3]], np.array([[1, 0], [0, 1]], np.float32))
    second = split_of([[4, 5, 6]], np.array([[0.3, 0.7]], np.float32))
    joined = first.join(second)
    assert [joined.tokens[a:b].tolist() for a, b in joined.spans] == [[1, 2], [3], [4, 5, 6]]
    batch, = make_batches(joined, 8, 10, bag=False)
    assert batch.labels.dtype == torch.float32
    assert torch.equal(batch.labels, torch.from_numpy(joined.labels[batch.rows]))


def test_some_texts_are_joined_with_others():
    """As with n_train and a teacher: the tokens of texts that are left out are still there."""
    first = split_of([[1, 2], [3], [7, 8, 9]], np.array([0, 1, 0])).take([1])
    second = split_of([[4, 5, 6], [4]], np.array([1, 1]))
    joined = first.join(second)
    assert [joined.tokens[a:b].tolist() for a, b in joined.spans] == [[3], [4, 5, 6], [4]]
    assert joined.labels.tolist() == [1, 1, 1]
