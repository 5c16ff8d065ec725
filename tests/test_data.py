"""nanoloss/data.py against brute force, damaged data sets, and the weights of a batch's parts
(nanoloss/parallel.py). About 5 s."""
import hashlib
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers import SIZES, make_data, save, toy_reviews
from model import Encoder, EncoderConfig
from nanoloss import files, parallel
from nanoloss.data import (
    Batch, Split, batches, draw_reviews, drop_tokens, has_changed, load_data, load_unlabelled, pad,
    shuffled, to_bags)
from nanoloss.reader import shorten


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def toy(data):
    splits, _ = load_data(data / 'toy')
    return splits['train']


def split_of(reviews, labels=None):
    """A Split in memory of a list of token lists."""
    lengths = np.array([len(review) for review in reviews])
    ends = lengths.cumsum()
    spans = np.stack([ends - lengths, ends], 1)
    return Split(np.concatenate(reviews).astype(np.uint32), spans, labels)


# Batches

@pytest.mark.parametrize('seed', [None, 1])
@pytest.mark.parametrize('bag', [True, False])
def test_batches_hold_every_review_once(toy, bag, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    seen = []
    for batch in batches(toy, 16, 20, bag=bag, pool=3, rng=rng):
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
            review = toy.tokens[begin:end][:20].tolist()
            n_tokens += len(review)
            found = []
            for token, count in zip(tokens.tolist(), counts.tolist()):
                if count:
                    found.append((token, count))
            if bag:
                assert found == sorted(Counter(review).items())
            else:
                assert found == [(token, 1) for token in review]
        assert n_tokens == batch.n_tokens
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(SIZES['train']))
    assert seen != sorted(seen)  # by size, or shuffled


def test_a_pool_is_of_consecutive_reviews_and_ordered_by_size_without_a_generator(toy):
    lengths = toy.lengths().clip(max=20)
    rows = np.concatenate([batch.rows for batch in batches(toy, 16, 20, bag=False, pool=3)])
    for start in range(0, len(rows), 48):
        pool = rows[start:start + 48]
        assert sorted(pool) == list(range(start, min(start + 48, len(rows))))
        assert (np.diff(lengths[pool]) >= 0).all()


def test_batches_take_the_reviews_in_the_order_that_is_asked_for(toy):
    order = np.array([7, 3, 3, 200, 50, 11, 9])
    found = list(batches(toy, 2, 20, pool=1, order=order))
    pairs = [sorted(batch.rows.tolist()) for batch in found]
    assert pairs == [[3, 7], [3, 200], [11, 50], [9]]
    assert list(batches(toy, 2, 20, order=order[:0])) == []


def test_a_generator_s_seed_makes_the_batches(toy):
    def draw(seed):
        found = []
        for batch in batches(toy, 16, 20, rng=np.random.default_rng(seed), token_dropout=0.5):
            found.append((batch.rows.tolist(), batch.tokens.tolist(), batch.counts.tolist()))
        return found
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    # the generator shuffles whole batches of one size each, it does not mix them
    ordered = {tuple(batch.rows) for batch in batches(toy, 16, 20)}
    drawn = [tuple(batch.rows) for batch in batches(toy, 16, 20, rng=np.random.default_rng(0))]
    assert set(drawn) == ordered
    assert len(drawn) == len(ordered) == math.ceil(SIZES['train'] / 16)


def test_batches_leave_out_tokens_anew_but_never_all(toy):
    kept = np.zeros(20, int)  # tokens, per epoch
    n_tokens = 0
    for epoch in range(20):
        rng = np.random.default_rng([0, epoch])
        for batch in batches(toy, 16, 20, rng=rng, token_dropout=0.7):
            assert (batch.counts.sum(1) >= 1).all()
            kept[epoch] += int(batch.counts.sum())
            n_tokens += batch.n_tokens
    # one of a review's tokens always stays: of n, all would be left out in .7 ** n of the cases
    lengths = np.minimum(toy.lengths(), 20)
    expected = (0.3 * lengths + 0.7 ** lengths).sum() * 20
    assert n_tokens == lengths.sum() * 20
    assert abs(kept.sum() - expected) < 5 * math.sqrt(n_tokens * 0.3 * 0.7)
    assert len(set(kept)) > 1


def test_dropped_tokens_leave_the_others_in_their_order():
    lengths = np.array([1, 4, 30, 2])
    kept, n_left = drop_tokens(lengths, 0.8, np.random.default_rng(0))
    assert kept.tolist() == sorted(set(kept.tolist()))
    reviews = np.repeat(np.arange(4), lengths)
    assert np.bincount(reviews[kept], minlength=4).tolist() == n_left.tolist()
    assert n_left.sum() == len(kept) < 37
    firsts, ones = drop_tokens(lengths, 1.0, np.random.default_rng(0))
    assert firsts.tolist() == [0, 1, 5, 35]  # of each review
    assert ones.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize('truncate', ['head', 'tail', 'both'])
def test_tokens_are_dropped_from_the_shortened_reviews(truncate):
    """All of them but the dropped ones, by the same draw from reviews that are shortened first."""
    reviews = [list(range(100 * i, 100 * i + n)) for i, n in enumerate([40, 7, 8, 9, 1, 33])]
    short = [np.concatenate(shorten(np.array(review), 8, truncate)) for review in reviews]
    kept, lengths = drop_tokens(np.array([len(review) for review in short]), 0.5,
                                np.random.default_rng(1))
    wanted = np.split(np.concatenate(short)[kept], lengths.cumsum())
    batch, = batches(split_of(reviews), 6, 8, truncate, False, rng=np.random.default_rng(1),
                     token_dropout=0.5)
    for row, tokens, counts in zip(batch.rows, batch.tokens, batch.counts):
        assert tokens[counts > 0].tolist() == wanted[row].tolist()


def test_batches_do_not_wait_for_the_device():
    """But for the sizes of bags. A tensor on meta has no numbers: to ask for one, for which a GPU
    would have to be waited for, fails."""
    split = split_of([[5, 5, 6], [7], list(range(20))] * 5, np.arange(15) % 2)
    split = split._replace(ngrams=np.arange(1, 16, dtype=np.int32),
                           ngram_spans=np.stack([np.arange(15), np.arange(1, 16)], 1))
    found = []
    for device in 'cpu', 'meta':
        shapes = []
        for batch in batches(split, 4, 10, bag=False, pool=2, rng=np.random.default_rng(0),
                             token_dropout=0.2, device=device):
            tensors = batch.tokens, batch.counts, batch.labels, batch.ngrams
            assert {tensor.device.type for tensor in tensors} == {device}
            shapes.append([batch.rows.tolist(), *(tensor.shape for tensor in tensors)])
        found.append(shapes)
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_reviews_without_labels():
    split = split_of([[5, 5, 6], [7], [8, 9]])
    batch, = batches(split, 4, 10)
    assert batch.labels is None
    assert batch.rows.tolist() == [1, 0, 2]  # as bags: of one token, and of two each
    assert batch.take(slice(1)).labels is None
    assert [part.labels for part in batch.parts(8)] == [None, None, None]


def test_several_labels_a_review_go_with_it():
    labels = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]], np.uint8)
    batch, = batches(split_of([[1, 2, 3], [4], [5, 6]], labels), 4, 10)
    assert batch.rows.tolist() == [1, 2, 0]
    assert batch.labels.tolist() == labels[[1, 2, 0]].tolist()


def test_a_split_of_some_reviews():
    split = split_of([[1, 2, 3], [4], [5, 6]], np.array([0, 1, 1]))
    assert split.lengths().tolist() == [3, 1, 2]
    for rows in [2, 0], np.array([2, 0]), slice(None, None, -2):
        some = split.take(rows)
        assert some.lengths().tolist() == [2, 3] and some.labels.tolist() == [1, 0]
        batch, = batches(some, 2, 8, bag=False)
        assert batch.tokens[:, :3].tolist() == [[5, 6, 0], [1, 2, 3]]


def test_few_reviews_are_drawn_by_the_seed(toy, capsys):
    assert draw_reviews(toy, 0, 5) is toy
    assert draw_reviews(toy, len(toy.labels), 5).spans.tolist() == toy.spans.tolist()
    drawn = []
    for seed in (0, 0, 1):
        few = draw_reviews(toy, 50, seed)
        assert len(few.labels) == len(few.spans) == 50
        assert (np.diff(few.spans[:, 0]) > 0).all()  # each once, in the order that they have
        drawn.append(few.spans.tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(SystemExit):
        draw_reviews(toy, 211, 0)
    assert 'n_train is 211, but there are 210' in capsys.readouterr().err


@pytest.mark.parametrize('size', [1, 4, 5, 9, 10, 11])
def test_what_is_used_of_a_long_review(size):
    review = np.arange(10)
    used = {}
    for truncate in 'head', 'tail', 'both':
        used[truncate] = np.concatenate(shorten(review, size, truncate)).tolist()
    tokens = review.tolist()
    assert used['head'] == tokens[:size]
    assert used['tail'] == tokens[max(10 - size, 0):]
    n_head = math.ceil(size / 2)
    n_tail = size // 2
    if size >= 10:
        assert used['both'] == tokens
    else:
        assert used['both'] == tokens[:n_head] + tokens[10 - n_tail:]
        assert [len(kept) for kept in used.values()] == [size] * 3


@pytest.mark.parametrize('truncate', ['head', 'tail', 'both'])
def test_batches_are_of_the_shortened_reviews(truncate):
    reviews = [np.arange(30), np.arange(100, 103), np.arange(200, 212)]
    for batch in batches(split_of(reviews), 1, 8, truncate, bag=False):
        review = reviews[batch.rows[0]]
        wanted = np.concatenate(shorten(review, 8, truncate)).tolist()
        assert batch.tokens[0, :len(wanted)].tolist() == wanted
        assert batch.counts.sum() == batch.n_tokens == len(wanted) == min(len(review), 8)


def test_to_bags_counts_what_a_counter_counts():
    generator = torch.Generator().manual_seed(1)
    lengths = np.array([1, 30, 7, 200])
    tokens = torch.randint(0, 100_277, (238,), generator=generator)
    tokens[50:150] %= 5
    tokens[200] = 2 ** 32 - 1  # the largest of uint32
    distinct, counts, n_distinct = to_bags(tokens, lengths)
    assert n_distinct.sum() == len(distinct) == len(counts)
    reviews = tokens.split(lengths.tolist())
    bags = distinct.split(n_distinct.tolist())
    counts_of = counts.split(n_distinct.tolist())
    for review, bag, count in zip(reviews, bags, counts_of):
        wanted = sorted(Counter(review.tolist()).items())
        assert list(zip(bag.tolist(), count.tolist())) == wanted


def test_pad_is_a_rectangle_of_the_reviews():
    flat = torch.arange(10, 20)
    counts = torch.arange(1, 11)
    begins = torch.tensor([4, 0, 9])
    lengths = torch.tensor([2, 4, 1])
    tokens, padded_counts = pad(flat, counts, begins, lengths, 5)
    assert tokens.tolist() == [[14, 15, 0, 0, 0], [10, 11, 12, 13, 0], [19, 0, 0, 0, 0]]
    assert padded_counts.tolist() == [[5, 6, 0, 0, 0], [1, 2, 3, 4, 0], [10, 0, 0, 0, 0]]


# Parts of a batch

def random_batch(n, widest):
    """A Batch of n reviews of random sizes whose tokens say which review they are of."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, widest, (n,), generator=generator).sort()[0]
    real = torch.arange(int(lengths[-1])) < lengths[:, None]
    counts = real * torch.randint(1, 9, real.shape, generator=generator)
    tokens = counts * 1000 + torch.arange(n)[:, None] * real
    labels = torch.arange(n) % 3
    return Batch(np.arange(n) + 100, tokens, counts, labels, 12345), lengths


def test_parts_hold_the_batch():
    batch, lengths = random_batch(30, 40)
    parts = list(batch.parts(100))
    assert len(parts) > 5
    assert torch.cat([part.labels for part in parts]).tolist() == batch.labels.tolist()
    assert np.concatenate([part.rows for part in parts]).tolist() == list(range(100, 130))
    for part in parts:
        rows = torch.from_numpy(part.rows - 100)
        width = part.counts.shape[1]
        assert 0 <= width - lengths[rows].max() < 8
        assert part.counts.numel() <= 200
        assert torch.equal(part.tokens, batch.tokens[rows, :width])
        assert torch.equal(part.counts.sum(1), batch.counts[rows].sum(1))
        assert torch.equal(part.labels, batch.labels[rows])


@pytest.mark.parametrize('max_tokens, n_parts', [(10 ** 9, 1), (12 * 40, 1), (12 * 40 - 1, 2),
                                                 (1, 12), (40, 12), (41, 12)])
def test_as_many_parts_as_needed_but_no_empty_one(max_tokens, n_parts):
    batch = Batch(np.arange(12), torch.ones(12, 40).long(), torch.ones(12, 40).long(), None, 480)
    parts = list(batch.parts(max_tokens))
    assert len(parts) == n_parts
    assert sum(len(part.rows) for part in parts) == 12
    assert all(len(part.rows) for part in parts)
    if n_parts == 1:
        assert parts[0] is batch


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
@pytest.mark.parametrize('n_reviews', [2, 3, 13])  # of two, the third process gets none
@pytest.mark.parametrize('name', LOSSES)
def test_weighted_parts_add_up_to_the_batch(monkeypatch, name, n_reviews, world):
    """The mean over the processes of the parts' weighted losses and gradients is the batch's."""
    head, settings, loss_function, is_plain_mean = LOSSES[name]
    torch.manual_seed(0)
    config = EncoderConfig(vocab_size=100, n_class=3, n_layer=1, n_head=2, n_embd=8, head=head,
                           head_settings=settings)
    model = Encoder(config).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    loss_function = loss_function or model.head.loss
    reviews, _ = toy_reviews(n_reviews, np.random.default_rng(0))
    batch, = batches(split_of(reviews, np.arange(n_reviews) ** 2 % 3), 16, 40)

    def gradient():
        flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        model.zero_grad()
        return flat

    loss = loss_function(model(batch.tokens, batch.counts)[-1], batch.labels)
    loss.backward()
    batch_gradient = gradient()

    monkeypatch.setattr(parallel, 'WORLD', world)
    seen = []
    for max_tokens in 1, 60, 10 ** 9:
        mean_loss = 0.0
        mean_gradient = torch.zeros_like(batch_gradient)
        n_parts = 0
        for rank in range(world):
            monkeypatch.setattr(parallel, 'RANK', rank)
            lasts = []
            for part, weight, last in parallel.parts_of_share(batch, max_tokens):
                part_loss = weight * loss_function(model(part.tokens, part.counts)[-1], part.labels)
                part_loss.backward()
                mean_loss += part_loss.item() / world
                lasts.append(last)
                if weight:
                    n_parts += 1
                    seen += part.rows.tolist()
            # every process joins in the averaging, and once: with its last part
            assert lasts == [False] * (len(lasts) - 1) + [True]
            mean_gradient += gradient() / world
        if is_plain_mean or n_parts == 1:
            assert mean_loss == pytest.approx(loss.item(), rel=1e-12)
            torch.testing.assert_close(mean_gradient, batch_gradient, rtol=0, atol=1e-12)
        else:
            assert mean_loss != pytest.approx(loss.item(), rel=1e-3)
            assert (mean_gradient - batch_gradient).abs().max() > 1e-4
    assert Counter(seen) == {row: 3 for row in range(n_reviews)}


# The order of an epoch

def test_an_epoch_has_every_review_once():
    labels = np.arange(50) % 2
    order = shuffled(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(50))
    assert order.tolist() != list(range(50))
    assert order.tolist() == shuffled(labels, np.random.default_rng(0)).tolist()
    assert order.tolist() != shuffled(labels, np.random.default_rng(1)).tolist()


# Data sets on disk

def test_a_data_set_is_loaded_as_it_was_written(tmp_path):
    rng = np.random.default_rng(1)
    written = {split: toy_reviews(n, rng) for split, n in (('train', 30), ('val', 9), ('test', 12))}
    save(tmp_path / 'toy', written, classes=['no', 'yes'])
    splits, meta = load_data(tmp_path / 'toy')
    assert list(splits) == ['train', 'val', 'test']
    assert meta['classes'] == ['no', 'yes'] and meta['multi_label'] is False
    for name, (reviews, labels) in written.items():
        split = splits[name]
        assert isinstance(split.tokens, np.memmap)
        assert split.spans.dtype == np.int64
        assert split.labels.tolist() == labels.tolist()
        found = [split.tokens[begin:end].tolist() for begin, end in split.spans]
        assert found == reviews
        assert split.lengths().tolist() == [len(review) for review in reviews]


def test_several_labels_a_review_are_loaded(tmp_path):
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
    'too few classes': (change_meta(classes=['neg']), 'meta.json is of other arrays'),
    'too small a vocabulary': (change_meta(vocab_size=50), 'meta.json is of other arrays'),
    'labels in columns': (rewrite('val_labels', lambda y: np.eye(3, dtype=np.uint8)[y]),
                          'meta.json is of other arrays'),
    'tokens of another type': (rewrite('train_tokens', lambda x: x.astype(np.int64)),
                               'meta.json is of other arrays'),
    'labels of another type': (rewrite('test_labels', lambda x: x.astype(np.int64)),
                               'meta.json is of other arrays'),
    'no reviews': (rewrite('test_labels', lambda x: x[:0]), 'damaged'),
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


def test_tokens_that_change_while_they_are_used(tmp_path):
    folder = make_data(tmp_path) / 'toy'
    splits, meta = load_data(folder)
    for name, split in splits.items():
        assert not has_changed(split, meta['sha256'][f'{name}_tokens.npy'])
    with open(folder / 'train_tokens.npy', 'r+b') as file:
        file.seek(-4, 2)
        file.write(b'\1\0\0\0')
    assert has_changed(splits['train'], meta['sha256']['train_tokens.npy'])
    assert not has_changed(splits['val'], meta['sha256']['val_tokens.npy'])


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
    says('of other arrays', {**meta, 'vocab_size': 3})
    np.save(tmp_path / 'unlabelled_tokens.npy', tokens[::-1])
    says('unlabelled_tokens.npy is damaged', meta)
    (tmp_path / 'unlabelled_tokens.npy').unlink()
    says('No such file', meta)


def test_joined_splits_are_one_after_the_other():
    first = split_of([[1, 2], [3]], np.array([[1, 0], [0, 1]], np.float32))
    second = split_of([[4, 5, 6]], np.array([[0.3, 0.7]], np.float32))
    joined = first.join(second)
    assert [joined.tokens[a:b].tolist() for a, b in joined.spans] == [[1, 2], [3], [4, 5, 6]]
    batch, = batches(joined, 8, 10, bag=False)
    assert batch.labels.dtype == torch.float32
    assert torch.equal(batch.labels, torch.from_numpy(joined.labels[batch.rows]))
