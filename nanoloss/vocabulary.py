"""What a model knows of its training texts: their tokens and their n-grams.

A trunk of windows has vectors for the tokens that the training texts hold, and a weight for each of
their n-grams. So its size follows the texts, not the tokenizer. A language model, which has to say
what comes next, spells the tokens that it does not know: byte by byte, so that no text is unknown.
"""
from typing import NamedTuple

import numpy as np

from nanoloss.data import spans_of
from nanoloss.reader import NGRAM_SIZES, find, ngram_keys, shorten, without_end_of_text
from nanoloss.tokenizer import decode

CHUNK = 2000  # reviews whose n-grams are listed at once
LISTED = 2 ** 24  # n-grams that are held before they are counted, 128 MB
CELLS = 2 ** 22  # of a table of n-grams and classes, 32 MB


class Vocabulary(NamedTuple):
    """tokens int64 [n] and ngrams uint64 [m], keys of `ngram_keys`, both ascending; where one is
    empty, it is not used. ngram_kind: a name in NGRAM_SIZES, or none. block_size, truncate: which
    tokens of a review are used, see `shorten`. spell: whether tokens that are not known are
    replaced by those of their bytes."""
    tokens: np.ndarray
    ngrams: np.ndarray
    ngram_kind: str
    block_size: int
    truncate: str
    spell: bool = False

    def encode(self, split, encoding):
        """A split as the tokenizer made it -> the same in the numbers of this vocabulary.

        Known token i becomes i + 1, all others 0, or what they are spelled by. Known n-gram i of a
        review becomes i + 1, however often the review has it; unknown ones are left out.
        """
        if len(self.ngrams):
            ids = []
            lengths = []
            for keys, reviews, n_reviews in self.chunks_of_keys(split, encoding):
                places, known = find(keys, self.ngrams)
                ids.append(places[known].astype(np.int32) + 1)
                lengths.append(np.bincount(reviews[known], minlength=n_reviews))
            offsets = np.append(0, np.cumsum(np.concatenate(lengths)))
            split = split._replace(ngrams=np.concatenate(ids), ngram_spans=spans_of(offsets))
        if self.spell:
            split = spell_unknown(split, self.tokens, encoding)
        if len(self.tokens):
            places, known = find(split.tokens, self.tokens)
            split = split._replace(tokens=np.where(known, places + 1, 0).astype(np.uint32))
        return split

    def chunks_of_keys(self, split, encoding):
        """Yield the distinct n-grams of some reviews after the other: their keys, uint64 [N],
        ascending within a review, which of these reviews each is of, int64 [N], and the number of
        reviews."""
        for start in range(0, len(split.spans), CHUNK):
            spans = split.spans[start:start + CHUNK]
            pieces = []
            for begin, end in spans:
                used = shorten(split.tokens[begin:end], self.block_size, self.truncate)
                pieces.append(without_end_of_text(np.concatenate(used), encoding))
            if self.ngram_kind == 'chars':
                texts = [encoding.decode_bytes(piece.tolist()) for piece in pieces]
                pieces = [np.frombuffer(text, np.uint8) for text in texts]
            lengths = np.array([len(piece) for piece in pieces])
            sizes = NGRAM_SIZES[self.ngram_kind]
            keys, reviews = ngram_keys(np.concatenate(pieces), lengths, sizes)
            # equal ones side by side, of which the first stays
            order = np.lexsort((keys, reviews))
            keys = keys[order]
            reviews = reviews[order]
            first = np.ones(len(keys), bool)
            first[1:] = (keys[1:] != keys[:-1]) | (reviews[1:] != reviews[:-1])
            yield keys[first], reviews[first], len(spans)


def lower_case(split, encoding):
    """A split -> the same with the tokens of its texts in lower case."""
    texts = [decode(split.tokens[begin:end], encoding).lower() for begin, end in split.spans]
    reviews = encoding.encode_ordinary_batch(texts)
    reviews = [review or [encoding.eot_token] for review in reviews]
    offsets = np.cumsum([0, *map(len, reviews)])
    tokens = np.concatenate([np.array(review, np.uint32) for review in reviews])
    return split._replace(tokens=tokens, spans=spans_of(offsets))


def single_bytes(encoding):
    """The tokens of the 256 bytes, int64 [256]."""
    return np.array([encoding.encode_single_token(bytes([byte])) for byte in range(256)])


def spell_unknown(split, known, encoding):
    """A split -> the same with each token that is not known replaced by those of its bytes.

    known: the known tokens, ascending, among them those of all bytes. An end of text, which stands
    for an empty text, stays.
    """
    byte_tokens = single_bytes(encoding)
    values, places = np.unique(split.tokens, return_inverse=True)
    # what stands for each distinct token, one after another
    spellings = []
    for value, is_known in zip(values.tolist(), find(values, known)[1]):
        if is_known or value == encoding.eot_token:
            spellings.append(np.array([value]))
        else:
            spelling = encoding.decode_single_token_bytes(value)
            spellings.append(byte_tokens[np.frombuffer(spelling, np.uint8)])
    lengths = np.array([len(spelling) for spelling in spellings])
    begins = np.cumsum(lengths) - lengths

    # token i of the split becomes so many, which begin there
    n_tokens = lengths[places]
    ends = np.cumsum(n_tokens)
    within = np.arange(ends[-1]) - np.repeat(ends - n_tokens, n_tokens)
    tokens = np.concatenate(spellings)[np.repeat(begins[places], n_tokens) + within]
    offsets = np.append(0, ends)
    return split._replace(tokens=tokens.astype(np.uint32), spans=offsets[split.spans])


def learn_vocabulary(split, encoding, tokens, ngrams, min_count, block_size, truncate,
                     spell=False):
    """The `Vocabulary` of a training split: the tokens that occur min_count times in what is used
    of its texts, and the n-grams that min_count texts have there.

    tokens: whether to list them; ngrams: which kind, a name in NGRAM_SIZES or 'none'; block_size,
    truncate, spell: see `Vocabulary`.
    """
    vocabulary = Vocabulary(np.zeros(0, np.int64), np.zeros(0, np.uint64), ngrams, block_size,
                            truncate, spell)
    if tokens:
        used = []
        for begin, end in split.spans:
            used += shorten(split.tokens[begin:end], block_size, truncate)
        values, counts = np.unique(np.concatenate(used), return_counts=True)
        known = counts >= min_count
        if not known.any():  # a few words, each of them once
            known[:] = True
        values = values[known]
        if spell:  # an end of text has a number of its own
            values = np.union1d(values[values != encoding.eot_token], single_bytes(encoding))
        vocabulary = vocabulary._replace(tokens=values.astype(np.int64))
    if ngrams != 'none':
        # a review has each of its keys once, so that counts are of reviews
        values, counts = count_keys(
            keys for keys, _, _ in vocabulary.chunks_of_keys(split, encoding))
        vocabulary = vocabulary._replace(ngrams=values[counts >= min_count])
    return vocabulary


def count_keys(arrays):
    """Arrays of keys, uint64 -> the distinct ones, ascending, and how often each comes.

    A hundred thousand short texts have some hundred million n-grams, which are never held all at
    once."""
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
    """Distinct keys, ascending, and their counts; more keys -> the same of all of them."""
    new_values, new_counts = np.unique(keys, return_counts=True)
    if not len(values):
        return new_values, new_counts
    values = np.concatenate([values, new_values])
    counts = np.concatenate([counts, new_counts])
    order = values.argsort(kind='stable')  # which merges what is sorted already
    values = values[order]
    first = np.append(True, values[1:] != values[:-1])
    return values[first], np.add.reduceat(counts[order], np.flatnonzero(first))


def ngram_strength(split, n_ngrams, n_class):
    """How much each n-gram says of the classes, float32 [n_ngrams + 1]; row 0 is padding.

    The root mean square over the classes of naive Bayes' log ratio: how much likelier a review has
    the n-gram if it has the label than if not (Wang and Manning 2012, with presence for counts).
    split: of `Vocabulary.encode`.
    """
    from scipy.sparse import csr_matrix  # half a second that runs without n-grams do without
    labels = split.labels
    n_texts = len(labels)
    if labels.ndim == 1:
        labels = csr_matrix((np.ones(n_texts), (np.arange(n_texts), labels)), (n_texts, n_class))
    else:
        labels = csr_matrix(labels, dtype=float)
    offsets = np.append(0, split.ngram_spans[:, 1])
    presence = csr_matrix((np.ones(len(split.ngrams)), split.ngrams, offsets),
                          shape=(n_texts, n_ngrams + 1))
    n_label = np.asarray(labels.sum(0))  # [1, n_class]
    n_with = np.asarray(presence.sum(0)).T  # [n_ngrams + 1, 1]
    n_both = (presence.T @ labels).tocsr()  # [n_ngrams + 1, n_class], few of them not 0

    # some n-grams at a time: with many classes, a number for each n-gram and class is too much
    strength = np.zeros(n_ngrams + 1, np.float32)
    n_rows = max(1, CELLS // n_class)
    for begin in range(0, n_ngrams + 1, n_rows):
        rows = slice(begin, begin + n_rows)
        both = n_both[rows].toarray()
        # the share of the texts with and without the label that has the n-gram, never 0 or 1
        p = (both + 1) / (n_label + 2)
        q = (n_with[rows] - both + 1) / (n_texts - n_label + 2)
        strength[rows] = np.sqrt((np.log(p / q) ** 2).mean(1))
    strength[0] = 0  # padding says nothing
    return strength
