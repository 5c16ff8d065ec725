"""nanoloss/text.py, by brute force over texts (1 s)."""
from collections import Counter

import numpy as np
import pytest

from nanoloss.text import (
    NGRAM_SIZES, find, ngram_keys, ngrams_of, number, spell_unknown, tokenize, truncated)
from nanoloss.tokenizer import tokenizer

TEXTS = ['Good film, GOOD fun', '', 'naïve 最高 👍', 'a', '<|endoftext|>', 'ÉTÉ fun 👍 ' * 3]


@pytest.fixture(scope='module')
def encoding():
    return tokenizer('cl100k_base')


def test_tokens_are_those_of_the_lower_case_text(encoding):
    for lower in False, True:
        texts = [text.lower() for text in TEXTS] if lower else TEXTS
        for text, tokens in zip(texts, tokenize(TEXTS, encoding, lower), strict=True):
            assert tokens == (encoding.encode_ordinary(text) or [encoding.eot_token])
    assert tokenize([], encoding) == []


@pytest.mark.parametrize('truncate, expected', [
    ('head', [0, 1, 2, 3, 4]), ('tail', [4, 5, 6, 7, 8]), ('both', [0, 1, 2, 7, 8])])
def test_what_is_kept_of_a_long_text(truncate, expected):
    assert truncated(np.arange(9), 5, truncate).tolist() == expected
    for n in 1, 4, 5:
        assert truncated(np.arange(n), 5, truncate).tolist() == list(range(n))


def test_known_tokens_are_numbered_from_1():
    assert number(np.array([9, 1, 5, 10, 2, 3]), np.array([2, 5, 9])).tolist() == [3, 0, 2, 0, 1, 0]


def test_unknown_tokens_are_spelled(encoding):
    """One token after another; an end of text stays."""
    known = {encoding.encode_single_token(bytes([byte])) for byte in range(256)}
    known |= set(encoding.encode_ordinary('Good film'))
    tokens = [*encoding.encode_ordinary(' '.join(TEXTS)), encoding.eot_token]
    expected = []
    lengths = []
    for token in tokens:
        spelling = [token]
        if token not in known and token != encoding.eot_token:
            spelling = []
            for byte in encoding.decode_single_token_bytes(token):
                spelling.append(encoding.encode_single_token(bytes([byte])))
        expected += spelling
        lengths.append(len(spelling))
    assert 1 in lengths and max(lengths) > 3
    found, n_tokens = spell_unknown(np.array(tokens), np.array(sorted(known)), encoding)
    assert found.tolist() == expected
    assert n_tokens.tolist() == lengths


@pytest.mark.parametrize('kind', ['chars', 'tokens'])
def test_n_grams_of_texts_together_are_those_of_each_alone(encoding, kind):
    """Each once, ascending, and as many as there are different ones."""
    tokens = [np.array(of_text) for of_text in tokenize(TEXTS, encoding)]
    keys, rows = ngrams_of(tokens, kind, encoding)
    for row, (text, of_text) in enumerate(zip(TEXTS, tokens)):
        alone, zeros = ngrams_of([of_text], kind, encoding)
        assert keys[rows == row].tolist() == alone.tolist() == sorted(set(alone.tolist()))
        assert not zeros.any()
        values = list(text.encode()) if kind == 'chars' else encoding.encode_ordinary(text)
        wanted = set()
        for size in NGRAM_SIZES[kind]:
            wanted |= {tuple(values[i:i + size]) for i in range(len(values) - size + 1)}
        assert len(alone) == len(wanted)


def test_keys_differ_where_n_grams_differ():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, 500).astype(np.uint32)
    lengths = np.array([100, 1, 0, 399])
    keys, rows = ngram_keys(values, lengths, (1, 3))
    wanted = []
    begin = 0
    for text, length in enumerate(lengths):
        piece = values[begin:begin + length].tolist()
        begin += length
        for size in 1, 3:
            wanted += [(text, *piece[i:i + size]) for i in range(length - size + 1)]
    assert len(keys) == len(wanted)
    assert len(set(zip(rows.tolist(), keys.tolist()))) == len(set(wanted))
    assert Counter(rows.tolist()) == Counter(row[0] for row in wanted)
    assert len(set(keys.tolist())) == len({row[1:] for row in wanted})


def test_a_text_shorter_than_an_n_gram_has_none():
    keys, rows = ngram_keys(np.array([7], np.uint8), np.array([1]), (2, 5))
    assert len(keys) == len(rows) == 0


def test_find_is_a_search_one_by_one():
    known = np.array([2, 5, 9])
    places, found = find(np.array([9, 1, 5, 10, 2, 3]), known)
    assert found.tolist() == [True, False, True, False, True, False]
    assert known[places[found]].tolist() == [9, 5, 2]
