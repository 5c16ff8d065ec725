"""A data set -> batches, for training, evaluation, prediction and the benchmark.

The texts of a batch have about the same length, so there is little padding. If the order of tokens
does not matter, a text becomes a bag, each distinct token once with its count (see model.py).
"""
import hashlib
import json
import math
from typing import NamedTuple

import numpy as np
import torch

from nanoloss import is_out_of_memory
from nanoloss.settings import fail
from nanoloss.devices import to_device
from nanoloss.files import mend_folder, replacing_folder, write_json

FORMAT_VERSION = 1  # of data/<name>, see prepare.py
SPLITS = 'train', 'val', 'test'
POOL = 50  # batches per pool, which is sorted by length: more means less padding, less shuffling
WIDTHS = 8  # batches are padded to multiples of this: each new shape costs oneDNN time and memory


class Split(NamedTuple):
    """Texts and their labels.

    tokens: uint32 [N], may be memory-mapped. spans: int64 [texts, 2], begin and end of each text.
    labels: [texts]; with several labels per text, 0 and 1 [texts, classes]; probabilities, float32
    [texts, classes]; None if unknown. ngrams: int32 [M] and ngram_spans: int64 [texts, 2], if the
    model uses n-grams (nanoloss/vocabulary.py). linear: float32 [texts, outputs], the logits of the
    linear model (nanoloss/linear.py). groups: [texts], if the source has groups.
    """
    tokens: np.ndarray
    spans: np.ndarray
    labels: np.ndarray
    ngrams: np.ndarray = None
    ngram_spans: np.ndarray = None
    linear: torch.Tensor = None
    groups: np.ndarray = None

    def take(self, rows):
        """These texts only. rows: indices or a slice."""
        return self._replace(
            spans=self.spans[rows],
            labels=None if self.labels is None else self.labels[rows],
            groups=None if self.groups is None else self.groups[rows],
            linear=None if self.linear is None else self.linear[rows],
            ngram_spans=None if self.ngram_spans is None else self.ngram_spans[rows])

    def lengths(self):
        """Tokens of each text, int64 [texts]."""
        return self.spans[:, 1] - self.spans[:, 0]

    def join(self, other):
        """These texts followed by those of another split, both without n-grams and groups."""
        return self._replace(
            groups=None,
            tokens=np.concatenate([self.tokens, other.tokens]),
            spans=np.concatenate([self.spans, other.spans + len(self.tokens)]),
            labels=None if self.labels is None else np.concatenate([self.labels, other.labels]))


def load_data(folder, labelled=True):
    """data/<name> -> ({split name: Split}, its meta.json). Fails if a file is missing or its
    checksum is wrong. labelled: whether the data must have labels."""
    remedy = f'make it with: python prepare.py --source=... --name={folder.name}'
    if not folder.exists():
        mend_folder(folder)  # prepare.py may have been killed while it replaced the folder
    splits = {}
    try:
        meta = json.loads((folder / 'meta.json').read_text())
        if meta['version'] != FORMAT_VERSION:
            fail(f'{folder} is of format {meta["version"]}, '
                 f'this code reads {FORMAT_VERSION}; {remedy}')
        if type(meta['tokenizer']['name']) is not str:
            raise ValueError('the name of its tokenizer is not a string')
        for name in SPLITS:
            splits[name] = load_split(folder, name, meta)
    except FileNotFoundError as error:
        fail(f'no data in {folder} ({error.filename} is missing); {remedy}')
    except Exception as error:  # a damaged file can raise anything
        if is_out_of_memory(error):
            raise
        fail(f'{folder} is damaged ({type(error).__name__}: {error}); {remedy}')
    if labelled and not meta['classes']:
        fail(f'{folder} has texts without labels, for lm.pretrain; {remedy} --label=COLUMN')
    train_labels = splits['train'].labels
    meta['multi_label'] = train_labels.ndim == 2
    meta['always_labelled'] = meta['multi_label'] and bool(train_labels.any(1).all())
    return splits, meta


def load_split(folder, name, meta):
    """One split, memory-mapped. Raises ValueError if it does not fit meta.json."""
    tokens, offsets, labels = [load_array(folder, f'{name}_{column}.npy', meta['sha256'])
                               for column in ('tokens', 'offsets', 'labels')]
    n_class = len(meta['classes'])
    if labels.ndim == 1:
        labels_fit = labels.max() < max(1, n_class)
    else:
        labels_fit = labels.shape[1] == n_class
    vocabulary_fits = type(meta['vocab_size']) is int and meta['vocab_size'] <= 2 ** 32
    dtypes_fit = (tokens.dtype, offsets.dtype) == (np.uint32, np.uint64)
    dtypes_fit &= labels.dtype in (np.uint8, np.uint16)
    if not dtypes_fit or not labels_fit or not vocabulary_fits:
        raise ValueError('meta.json describes other arrays')
    if tokens.max() >= meta['vocab_size']:
        raise ValueError('meta.json describes other arrays')
    groups = None
    if f'{name}_groups.npy' in meta['sha256']:
        groups = load_array(folder, f'{name}_groups.npy', meta['sha256'])
        if groups.shape != (len(labels),):
            raise ValueError('meta.json describes other arrays')
    return Split(tokens, spans_of(offsets), labels, groups=groups)


def load_array(folder, file, sha256):
    """A memory-mapped array. Raises ValueError if its checksum is wrong."""
    array = np.load(folder / file, mmap_mode='r')
    # detect damage now, not after an hour of training
    if hashlib.sha256(array).hexdigest() != sha256[file]:
        raise ValueError(f'{file} is damaged')
    return array


def load_unlabelled(folder, meta):
    """The unlabelled texts of data/<name> -> a Split without labels. Fails if there are none."""
    remedy = 'make it with: python prepare.py --unlabelled=... as well'
    if 'unlabelled' not in meta:
        fail(f'{folder} has no unlabelled texts; {remedy}')
    try:
        tokens, offsets = [load_array(folder, f'unlabelled_{column}.npy',
                                      meta['unlabelled']['sha256'])
                           for column in ('tokens', 'offsets')]
        if tokens.max() >= meta['vocab_size'] or offsets[-1] != len(tokens):
            raise ValueError('meta.json describes other arrays')
    except Exception as error:  # a damaged file can raise anything
        fail(f'{folder} is damaged ({type(error).__name__}: {error}); {remedy}')
    return Split(tokens, spans_of(offsets), labels=None)


def spans_of(offsets):
    """Offsets uint64 [texts + 1] -> spans int64 [texts, 2]."""
    return np.stack([offsets[:-1], offsets[1:]], 1).astype(np.int64)


def sample_texts(split, n_texts, seed):
    """Sample n_texts of a split (0: all) with the seed; they keep their order."""
    if n_texts > len(split.labels):
        fail(f'n_train is {n_texts:,}, but there are {len(split.labels):,} training texts')
    if n_texts == 0:
        return split
    rows = np.random.default_rng(seed).choice(len(split.labels), n_texts, replace=False)
    return split.take(np.sort(rows))


def check_unchanged(data, meta):
    """Fail if the tokens of a memory-mapped split are no longer those of meta.json."""
    for name, split in data.items():
        if name not in SPLITS or not isinstance(split.tokens, np.memmap):  # copied to memory
            continue
        if hashlib.sha256(split.tokens).hexdigest() != meta['sha256'][f'{name}_tokens.npy']:
            fail(f'{split.tokens.filename} has changed; put the old file back and give the same '
                 'command again')


def save_data(folder, splits, meta):
    """Write a data set derived from another one.

    splits: {split name: Split}. meta: the meta.json of the other data set. Unlabelled texts are
    left out. An OSError ends in `fail`.
    """
    sizes = {}
    checksums = {}
    with replacing_folder(folder) as new:
        for name, split in splits.items():
            offsets = np.cumsum([0, *split.lengths()], dtype=np.uint64)
            arrays = {
                'tokens': np.concatenate([split.tokens[begin:end] for begin, end in split.spans]),
                'offsets': offsets,
                'labels': np.ascontiguousarray(split.labels),
            }
            if split.groups is not None:
                arrays['groups'] = np.ascontiguousarray(split.groups)
            for column, array in arrays.items():
                file = f'{name}_{column}.npy'
                np.save(new / file, array)
                checksums[file] = hashlib.sha256(array).hexdigest()
            sizes[name] = {'rows': len(split.labels), 'tokens': int(offsets[-1])}
        kept = ('version', 'source', 'fingerprint', 'tokenizer', 'vocab_size', 'classes')
        facts = {key: meta[key] for key in kept if key in meta}
        facts |= {'name': folder.name, 'splits': sizes, 'sha256': checksums}
        write_json(new / 'meta.json', facts)


def class_share(labels, n_class):
    """The share of the texts that has each label, a list of floats. labels: as in `Split`."""
    if labels.ndim == 2:
        return labels.mean(0).tolist()
    return (np.bincount(labels, minlength=n_class) / len(labels)).tolist()


def decide_tensor(probs, multi_label, always_labelled):
    """`decide` in nanoloss/labels.py without thresholds, for tensors [B, n_class], so that a GPU
    need not wait for numpy."""
    likeliest = probs.argmax(1, keepdim=True)
    if not multi_label:
        return likeliest[:, 0]
    given = probs > 0.5
    return given.scatter(1, likeliest, True) if always_labelled else given


def hard_labels(labels, multi_label, always_labelled=False):
    """Probabilities as labels [B, n_class] -> the labels they imply; other labels stay."""
    if not labels.is_floating_point():
        return labels
    return decide_tensor(labels, multi_label, always_labelled).long()


def is_correct(probs, labels, always_labelled=False):
    """Which texts are classified correctly, bool [B]; with several labels per text, all of them.
    always_labelled: see `decide` in nanoloss/labels.py."""
    several = labels.dim() == 2
    # torch cannot compare uint16
    right = decide_tensor(probs, several, always_labelled) == labels.long()
    return right.all(1) if several else right


def fingerprint(meta):
    """The checksum of all arrays of a data set. meta: from `load_data`."""
    checksums = json.dumps(meta['sha256'], sort_keys=True)
    return hashlib.sha256(checksums.encode()).hexdigest()


def describe_data(meta):
    """Facts about the data for config.json. meta: from `load_data`, with the class_share of the
    training texts."""
    return {
        'data': fingerprint(meta),
        'n_class': len(meta['classes']),
        'tokenizer': meta.get('tokenizer'),
        'vocab_size': meta.get('vocab_size'),
        'classes': meta.get('classes'),
        'multi_label': meta['multi_label'],
        'always_labelled': meta.get('always_labelled', False),
        'class_share': meta['class_share'],
    }


class Batch(NamedTuple):
    """Texts of about the same length, sorted by length."""
    rows: np.ndarray  # int64 [B], rows of the split
    tokens: torch.Tensor  # int64 [B, T]
    counts: torch.Tensor  # int64 [B, T]; 0 is padding
    labels: torch.Tensor  # int64 [B] or [B, classes], or float32 probabilities; None if unknown
    n_tokens: int  # of the texts, after truncation, but before token dropout and bags
    ngrams: torch.Tensor = None  # int64 [B, M]; 0 is padding; None: no n-grams

    def take(self, rows):
        """These texts only; n_tokens stays that of the whole batch."""
        return self._replace(
            rows=self.rows[rows],
            tokens=self.tokens[rows],
            counts=self.counts[rows],
            labels=None if self.labels is None else self.labels[rows],
            ngrams=None if self.ngrams is None else self.ngrams[rows])

    def micro_batches(self, max_tokens):
        """Yield consecutive micro-batches of about max_tokens tokens, padding included, each as
        wide as its longest text, in steps of WIDTHS."""
        n = min(math.ceil(self.tokens.numel() / max_tokens), len(self.rows))
        if n <= 1:
            yield self
            return
        for index in torch.arange(len(self.rows)).tensor_split(n):
            micro = self.take(slice(int(index[0]), int(index[-1]) + 1))
            width = round_up(int((micro.counts[-1] > 0).sum()))
            yield micro._replace(tokens=micro.tokens[:, :width], counts=micro.counts[:, :width])


def round_up(n):
    return math.ceil(n / WIDTHS) * WIDTHS


def batches(split, config, batch_size, order=None, rng=None, device='cpu'):
    """Yield the texts of a split as `Batch`es, each of texts of about the same length.

    config: has block_size, truncate and bag, as in train.py; with rng also token_dropout.
    order: rows of the split, int64 [texts], in the order in which they are pooled; None: all rows
        in their order.
    rng: a numpy Generator, for training: it shuffles the batches of a pool and draws the tokens to
        drop. None: the batches of a pool are sorted by length, and no token is dropped.
    """
    if order is None:
        order = np.arange(len(split.spans))
    all_tokens = np.asarray(split.tokens)  # indexing a memory map is slow
    for start in range(0, len(order), POOL * batch_size):
        # the tokens of a pool of texts, one text after another
        rows = order[start:start + POOL * batch_size]
        n_tokens = np.minimum(split.lengths()[rows], config.block_size)
        if rng is not None and config.token_dropout:
            kept, lengths = drop_tokens(n_tokens, config.token_dropout, rng)
        else:
            kept = np.arange(n_tokens.sum())
            lengths = n_tokens
        index = index_of(kept, lengths, split.spans[rows], n_tokens, config.truncate)
        flat = to_device(all_tokens[index].astype(np.int64), device)
        counts = torch.ones_like(flat)
        if config.bag:
            flat, counts, lengths = to_bags(flat, lengths)

        # sort by length, here and on the device, so that a batch is a slice
        by_length = lengths.argsort(kind='stable')
        begins = (lengths.cumsum() - lengths)[by_length]
        rows = rows[by_length]
        lengths = lengths[by_length]
        n_tokens = n_tokens[by_length]
        spans = to_device(np.stack([begins, lengths]), device)
        labels = None
        if split.labels is not None:
            kind = np.float32 if split.labels.dtype.kind == 'f' else np.int64  # f: probabilities
            labels = to_device(split.labels[rows].astype(kind), device)

        # shuffle the batches for training: a pool must not go from short texts to long ones
        n_batches = math.ceil(len(rows) / batch_size)
        batch_order = range(n_batches) if rng is None else rng.permutation(n_batches)
        for k in batch_order:
            batch = slice(k * batch_size, (k + 1) * batch_size)
            width = min(round_up(lengths[batch][-1]), config.block_size)
            tokens, batch_counts = pad(flat, counts, *spans[:, batch], width)
            batch_labels = None if labels is None else labels[batch]
            ngrams = None
            if split.ngrams is not None:
                ngrams = to_device(pad_ngrams(split, rows[batch]), device)
            yield Batch(rows[batch], tokens, batch_counts, batch_labels,
                        int(n_tokens[batch].sum()), ngrams)


def drop_tokens(lengths, share, rng):
    """Drop a random share of the tokens of concatenated texts.

    lengths: int64 [B], tokens of each text, at least 1. A text that would lose all tokens keeps its
    first. Returns the indices of the tokens that are kept, ascending int64 [M], and how many each
    text keeps, int64 [B].
    """
    keep = rng.random(lengths.sum(), dtype=np.float32) >= share
    begins = np.cumsum(lengths) - lengths
    keep[begins] |= ~np.logical_or.reduceat(keep, begins)
    kept = np.flatnonzero(keep)
    return kept, np.diff(np.searchsorted(kept, begins), append=len(kept))


def index_of(kept, lengths, spans, n_tokens, truncate):
    """The indices in their split of the tokens of truncated texts, int64 [M].

    kept: int64 [M], indices into the concatenated truncated texts; lengths: int64 [B], how many of
    them each text has, sum M. spans int64 [B, 2]: begin and end of the whole texts; n_tokens int64
    [B]: their lengths after truncation. truncate: keep the head, the tail or both, as `truncated`
    does.
    """
    begins = n_tokens.cumsum() - n_tokens
    index = kept + np.repeat(spans[:, 0] - begins, lengths)
    # a truncated text continues at its tail after its head
    n_cut = spans[:, 1] - spans[:, 0] - n_tokens
    if truncate != 'head' and n_cut.any():
        n_head = {'tail': 0 * n_tokens, 'both': n_tokens - n_tokens // 2}[truncate]
        in_tail = kept >= np.repeat(begins + n_head, lengths)
        index += in_tail * np.repeat(n_cut, lengths)
    return index


def to_bags(tokens, lengths):
    """Texts as bags: the distinct tokens of each text in ascending order, with their counts.

    tokens: int64 [N] on any device, the concatenated texts; lengths: int64 [B] in numpy, tokens of
    each text, sum N. Returns tokens [M] and counts [M], concatenated again, and the new lengths
    [B] in numpy, which synchronizes with a GPU.
    """
    sizes = to_device(lengths, tokens.device)
    text = torch.arange(len(sizes), device=tokens.device)
    # with output_size, repeat_interleave does not synchronize with a GPU
    keys = text.repeat_interleave(sizes, output_size=len(tokens)) << 32 | tokens
    keys, counts = torch.unique(keys, return_counts=True)  # sorted by text, then by token
    ends = torch.searchsorted(keys, text + 1 << 32).cpu().numpy()
    return keys & 0xFFFFFFFF, counts, np.diff(ends, prepend=0)


def pad(flat, counts, begins, lengths, width):
    """Texts flat[begin:begin + length] and their counts, each [N]; begins, lengths [B] -> tokens
    and counts [B, width], padded with zeros."""
    # gather all texts with one index: no loop, and a single kernel on a GPU
    column = torch.arange(width, device=flat.device)
    real = column < lengths[:, None]
    index = torch.where(real, begins[:, None] + column, 0)
    return torch.where(real, flat[index], 0), torch.where(real, counts[index], 0)


def pad_ngrams(split, rows):
    """The n-grams of these texts, int64 [rows, M], padded with zeros."""
    spans = split.ngram_spans[rows]
    lengths = spans[:, 1] - spans[:, 0]
    padded = np.zeros((len(rows), max(1, lengths.max())), np.int64)
    for row, (begin, end) in zip(padded, spans):
        row[:end - begin] = split.ngrams[begin:end]
    return padded
