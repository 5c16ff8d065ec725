"""The vocabulary of a model: its known tokens and n-grams, learned from the training texts.

The default model has embeddings only for tokens, and weights only for n-grams, that occur at least
min_count times in train. So its size depends on the texts, not on the tokenizer. A language model
must be able to predict every next token, so it spells unknown tokens byte by byte.
"""
from typing import NamedTuple

import numpy as np

from nanoloss.data import spans_of
from nanoloss.text import find, is_first, ngrams_of, number, spell_unknown, tokenize, truncated
from nanoloss.tokenizer import decode

CHUNK = 2000  # texts per chunk when tokenizing or listing n-grams
LISTED = 2 ** 24  # n-grams to hold in memory before counting, 128 MB
MOST_TEXTS = 100_000  # to learn n-grams from; more would take gigabytes


class Vocabulary(NamedTuple):
    """The known tokens and n-grams of a model, and the settings of its preprocessing.

    tokens int64 [n] and ngrams uint64 [m], keys from `ngrams_of`, both ascending. An empty array
        means all tokens, or no n-grams. ngram_kind: see `ngrams_of`, or none.
    block_size, truncate: which tokens of a text are used, see `truncated`.
    spell: whether unknown tokens are replaced by the tokens of their bytes.
    """
    tokens: np.ndarray
    ngrams: np.ndarray
    ngram_kind: str
    block_size: int
    truncate: str
    spell: bool = False

    def encode(self, split, encoding):
        """Convert a split of the tokenizer's tokens to the input of a model: its ids of tokens and
        n-grams."""
        if len(self.ngrams):
            split = self.add_ngrams(split, encoding)
        return self.number(split, encoding)

    def number(self, split, encoding):
        """Number the tokens of a split. Known token i becomes i + 1; all others become 0, or are
        spelled."""
        if len(self.tokens):  # otherwise all are known
            if self.spell:
                split = spell_split(split, self.tokens, encoding)
            split = split._replace(tokens=number(split.tokens, self.tokens).astype(np.uint32))
        return split

    def add_ngrams(self, split, encoding):
        """Add the n-grams of a split of the tokenizer's tokens. Known n-gram i becomes i + 1, as
        often as `ngrams_of` lists it; unknown n-grams are left out."""
        ids = []
        lengths = []
        for keys, rows, n_texts in self.chunks_of_keys(split, encoding):
            places, known = find(keys, self.ngrams)
            ids.append(places[known].astype(np.int32) + 1)
            lengths.append(np.bincount(rows[known], minlength=n_texts))
        offsets = np.append(0, np.cumsum(np.concatenate(lengths)))
        return split._replace(ngrams=np.concatenate(ids), ngram_spans=spans_of(offsets))

    def chunks_of_keys(self, split, encoding):
        """Yield, chunk by chunk, the n-grams of the texts as `ngrams_of` returns them, and the
        number of texts."""
        for start in range(0, len(split.spans), CHUNK):
            spans = split.spans[start:start + CHUNK]
            texts = []
            for begin, end in spans:
                texts.append(truncated(split.tokens[begin:end], self.block_size, self.truncate))
            yield *ngrams_of(texts, self.ngram_kind, encoding), len(spans)


def lower_case(split, encoding):
    """Lower-case the texts of a split, and tokenize them again."""
    tokens = []
    lengths = [0]
    for start in range(0, len(split.spans), CHUNK):  # lists of tokens take much memory
        spans = split.spans[start:start + CHUNK]
        texts = [decode(split.tokens[begin:end], encoding) for begin, end in spans]
        rows = tokenize(texts, encoding, lower=True)
        tokens.append(np.concatenate([np.array(row, np.uint32) for row in rows]))
        lengths += map(len, rows)
    return split._replace(tokens=np.concatenate(tokens), spans=spans_of(np.cumsum(lengths)))


def spell_split(split, known, encoding):
    """Spell the unknown tokens of a split, see `spell_unknown`."""
    tokens, n_tokens = spell_unknown(split.tokens, known, encoding)
    offsets = np.append(0, np.cumsum(n_tokens))
    return split._replace(tokens=tokens.astype(np.uint32), spans=offsets[split.spans])


def single_bytes(encoding):
    """The tokens of the 256 bytes, int64 [256]."""
    return np.array([encoding.encode_single_token(bytes([byte])) for byte in range(256)])


def learn_vocabulary(split, encoding, tokens, ngrams, min_count, block_size, truncate,
                     spell=False):
    """The `Vocabulary` of a training split: the tokens that occur at least min_count times in the
    texts after truncation, and the n-grams that at least min_count of `some_texts` contain.

    tokens: whether to learn tokens. ngrams: their kind, see `ngrams_of`, or 'none'.
    block_size, truncate, spell: see `Vocabulary`.
    """
    vocabulary = Vocabulary(np.zeros(0, np.int64), np.zeros(0, np.uint64), ngrams, block_size,
                            truncate, spell)
    if tokens:
        used = []
        for begin, end in split.spans:
            used.append(truncated(split.tokens[begin:end], block_size, truncate))
        values, counts = np.unique(np.concatenate(used), return_counts=True)
        known = counts >= min_count
        if not known.any():  # a few texts, in which no token is repeated
            known[:] = True
        values = values[known]
        if spell:  # every byte is known, and an end of text is never spelled
            values = np.union1d(values[values != encoding.eot_token], single_bytes(encoding))
        vocabulary = vocabulary._replace(tokens=values.astype(np.int64))
    if ngrams != 'none':
        chunks = vocabulary.chunks_of_keys(some_texts(split), encoding)
        # each key once per text, so this counts texts
        values, counts = count_keys(keys[is_first(keys, rows)] for keys, rows, _ in chunks)
        vocabulary = vocabulary._replace(ngrams=values[counts >= min_count])
    return vocabulary


def some_texts(split):
    """At most MOST_TEXTS texts of a split, at equal distances."""
    n_texts = len(split.spans)
    if n_texts <= MOST_TEXTS:
        return split
    return split.take(np.linspace(0, n_texts - 1, MOST_TEXTS).astype(np.int64))


def count_keys(arrays):
    """Arrays of keys, uint64 -> the distinct keys, ascending, and the count of each.

    It never holds all keys in memory: a hundred thousand short texts have about a hundred million
    n-grams."""
    values = np.zeros(0, np.uint64)
    counts = np.zeros(0, np.int64)
    listed = [values]
    for keys in arrays:
        listed.append(keys)
        if sum(map(len, listed)) > LISTED:
            values, counts = add_keys(values, counts, np.concatenate(listed))
            listed = [values[:0]]
    return add_keys(values, counts, np.concatenate(listed))


def add_keys(values, counts, keys):
    """Merge keys into the distinct keys so far, ascending, and their counts -> both, updated."""
    new_values, new_counts = np.unique(keys, return_counts=True)
    if not len(values):
        return new_values, new_counts
    values = np.concatenate([values, new_values])
    counts = np.concatenate([counts, new_counts])
    order = values.argsort(kind='stable')  # merges two sorted parts
    values = values[order]
    first = np.append(True, values[1:] != values[:-1])
    return values[first], np.add.reduceat(counts[order], np.flatnonzero(first))
