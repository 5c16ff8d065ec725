"""A text -> tokens -> the input ids of a model: the same code for training and serving.

It needs only numpy and a tiktoken.Encoding, because an exported folder has a copy of this file. An
empty text becomes a single token, the tokenizer's end of text.
"""
import unicodedata
from binascii import a2b_base64
from functools import lru_cache

import numpy as np

NGRAM_KINDS = 'words', 'words+chars'  # see `ngrams_of`
OLD_KINDS = {'chars': (2, 3, 4, 5), 'tokens': (1, 2, 3)}  # of bytes and of tokens, with their sizes
WORD_SIZES = 1, 2  # words and pairs of words
CHAR_SIZES = 2, 3, 4, 5  # word endings, misspelt words, pairs of short words
# of a polynomial hash: an odd number, so it has an inverse modulo 2^64
BASE = 0x9E3779B97F4A7C15


# From texts to tokens

def read_table(table):
    """A tokenizer's table in tiktoken's file format, per line a token in base64 and its rank ->
    {token: rank}."""
    ranks = {}
    for line in table.splitlines():
        token, rank = line.split()
        ranks[a2b_base64(token)] = int(rank)
    return ranks



def tokenize(texts, encoding, lower=False, num_threads=8):
    """A list of texts -> a list of tokens for each."""
    if lower:
        texts = [text.lower() for text in texts]
    tokens = encoding.encode_ordinary_batch(texts, num_threads=num_threads)
    return [of_text or [encoding.eot_token] for of_text in tokens]


def truncated(tokens, block_size, truncate):
    """Truncate the tokens of a text, int64 [n], to at most block_size.

    truncate: which tokens of a longer text to keep: its head, its tail, or half of each (both)."""
    if len(tokens) <= block_size:
        return tokens
    n_head = {'head': block_size, 'tail': 0, 'both': block_size - block_size // 2}[truncate]
    return np.concatenate([tokens[:n_head], tokens[len(tokens) - block_size + n_head:]])


def without_end_of_text(tokens, encoding):
    """The tokens of a text, without the end of text that represents an empty text.

    The string <|endoftext|> in a text is encoded as ordinary tokens, which stay."""
    return tokens[tokens != encoding.eot_token]


# From tokens to numbers

def find(values, known):
    """The index of each value in `known`, which is ascending, and whether it is there."""
    places = np.searchsorted(known, values).clip(max=len(known) - 1)
    return places, known[places] == values


def number(tokens, known):
    """Tokens -> their input ids, int64: known token i becomes i + 1, all others become 0."""
    places, is_known = find(tokens, known)
    return np.where(is_known, places + 1, 0)


def spell_unknown(tokens, known, encoding):
    """Replace each unknown token by the tokens of its bytes -> the new tokens, int64 [M], and how
    many of them each old token became, int64 [N].

    tokens: [N]; known: ascending, includes the tokens of all bytes. An end of text stays.
    """
    values, places = np.unique(tokens, return_inverse=True)
    # the spelling of each distinct token, one after another
    spellings = []
    lengths = []
    for value, is_known in zip(values.tolist(), find(values, known)[1]):
        spelling = [value]
        if not is_known and value != encoding.eot_token:
            characters = encoding.decode_single_token_bytes(value)
            spelling = [encoding.encode_single_token(bytes([byte])) for byte in characters]
        spellings += spelling
        lengths.append(len(spelling))
    lengths = np.array(lengths)
    begins = np.cumsum(lengths) - lengths

    # where each token's spelling begins, and the places within it
    n_tokens = lengths[places]
    ends = np.cumsum(n_tokens)
    within = np.arange(ends[-1]) - np.repeat(ends - n_tokens, n_tokens)
    return np.array(spellings)[np.repeat(begins[places], n_tokens) + within], n_tokens


# From tokens to n-grams

def ngrams_of(texts, kind, encoding):
    """The n-grams of each text: their keys, uint64 [N], ascending within a text, and the index of
    the text of each, int64 [N].

    A text lists each n-gram once or, with words+chars, 1 + log2(its count) times, rounded down. In
    long texts, the count of an n-gram of characters says more than its presence.

    texts: a list of the tokens of each, at most 65,536 texts.
    kind: words, which are words and pairs of words, or words+chars, also 2 to 5 characters. Models
        of older versions have chars, which are 2 to 5 bytes, or tokens, 1 to 3 of them.
    """
    values = [without_end_of_text(tokens, encoding) for tokens in texts]
    if kind != 'tokens':
        values = [encoding.decode_bytes(tokens.tolist()) for tokens in values]
    if kind in NGRAM_KINDS:
        points, lengths = code_points(values)
        keys, rows = word_keys(points, lengths)
        if kind == 'words+chars':
            of_chars, rows_of_chars = ngram_keys(points, lengths, CHAR_SIZES)
            keys = np.concatenate([keys, of_chars])
            rows = np.concatenate([rows, rows_of_chars])
    else:
        if kind == 'chars':
            values = [np.frombuffer(of_text, np.uint8) for of_text in values]
        lengths = np.array([len(of_text) for of_text in values])
        keys, rows = ngram_keys(np.concatenate(values), lengths, OLD_KINDS[kind])
    return list_keys(keys, rows, len(texts), counted=kind == 'words+chars')


def list_keys(keys, rows, n_texts, counted):
    """The keys of each text, ascending, and the index of the text of each. A key is listed once or,
    if counted, 1 + log2(its count) times, rounded down."""
    keys = keys[rows.astype(np.uint16).argsort(kind='stable')]  # of 16 bits: a radix sort
    n_keys = np.bincount(rows, minlength=n_texts)
    ends = n_keys.cumsum()
    for begin, end in zip(ends - n_keys, ends):
        keys[begin:end].sort()
    rows = np.repeat(np.arange(n_texts), n_keys)
    first = is_first(keys, rows)
    if not counted:
        return keys[first], rows[first]
    # list the 1st, 2nd, 4th, 8th ... of equal keys, which have 0, 1, 3, 7 ... before them
    begins = np.flatnonzero(first)
    before = np.arange(len(keys)) - np.repeat(begins, np.diff(begins, append=len(keys)))
    listed = (before & (before + 1)) == 0
    return keys[listed], rows[listed]


def is_first(keys, rows):
    """Whether each key is the first of its value in its text, bool [N]. keys ascend in a text."""
    first = np.ones(len(keys), bool)
    first[1:] = (keys[1:] != keys[:-1]) | (rows[1:] != rows[:-1])
    return first


def code_points(texts):
    """UTF-8 of texts -> their code points, int64 [N], and how many each text has, int64 [texts].

    Each text begins and ends with a space, and has one space between two words, so no word spans
    two texts.
    """
    strings = []
    for text in texts:
        words = text.decode('utf-8', 'replace').split()
        strings.append(f' {" ".join(words)} ' if words else ' ')
    points = np.frombuffer(''.join(strings).encode('utf-32-le'), np.uint32).astype(np.int64)
    return points, np.array([len(string) for string in strings])


@lru_cache(maxsize=2 ** 16)
def is_word_character(point):
    """Whether a code point is a letter, a digit, _ or a mark, such as a vowel sign of Hindi."""
    character = chr(point)
    return character.isalnum() or character == '_' or unicodedata.category(character)[0] == 'M'


def word_keys(points, lengths):
    """The keys of words and pairs of words, and the index of the text of each. A word is a run of
    letters, digits, _ and marks, as long as possible. points, lengths: from `code_points`."""
    table = np.zeros(points.max() + 1, bool)
    table[points] = True
    present = np.flatnonzero(table)
    table[present] = [is_word_character(point) for point in present.tolist()]
    in_word = table[points]
    begins, ends = np.flatnonzero(np.diff(in_word, prepend=False, append=False)).reshape(-1, 2).T
    # a word's hash is the sum of mix(character) BASE^i, i the place in the word: a difference of
    # two running sums, divided by BASE^begin
    sums = np.zeros(len(points) + 1, np.uint64)
    np.cumsum(mix(points.view(np.uint64)) * powers(BASE, len(points)), out=sums[1:])
    keys = mix((sums[ends] - sums[begins]) * powers(pow(BASE, -1, 2 ** 64), len(points))[begins])
    rows = np.searchsorted(lengths.cumsum(), begins, 'right')
    pairs = mix(keys[:-1] * np.uint64(3) + keys[1:])  # two equal words must not give 0
    in_text = rows[1:] == rows[:-1]
    keys = np.concatenate([keys, pairs[in_text]])
    return keys, np.concatenate([rows, rows[:-1][in_text]])


def powers(base, n):
    """base^0 to base^(n - 1) modulo 2^64, uint64 [n]."""
    factors = np.full(n, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def ngram_keys(values, lengths, sizes):
    """Hash the n-grams of concatenated texts. Two different n-grams get the same key with a
    probability of 2^-64.

    values: unsigned [N]; lengths: int64 [texts], sum N. Returns keys uint64 [M] and the index of
    the text of each, int64 [M].
    """
    row = np.repeat(np.arange(len(lengths)), lengths)
    values = values.astype(np.uint64)
    all_keys = []
    all_rows = []
    keys = np.zeros(len(values), np.uint64)
    for size in range(1, max(sizes) + 1):
        # extend the keys of the n-grams that are one value shorter by the next value
        keys = mix(keys[:len(values) - size + 1] + values[size - 1:] + np.uint64(1))
        if size in sizes:
            within_text = row[:len(keys)] == row[size - 1:]
            all_keys.append(keys[within_text])
            all_rows.append(row[:len(keys)][within_text])
    return np.concatenate(all_keys), np.concatenate(all_rows)


def mix(keys):
    """A bijective hash of uint64: the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    keys = (keys ^ keys >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ keys >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return keys ^ keys >> np.uint64(31)
