"""nanoloss/vocabulary.py, by brute force over texts (3 s)."""
from collections import Counter

import numpy as np
import pytest
from helpers import ngrams_by_hand

from nanoloss import vocabulary
from nanoloss.data import Split, spans_of
from nanoloss.text import NGRAM_KINDS, OLD_KINDS, truncated
from nanoloss.tokenizer import tokenizer
from nanoloss.vocabulary import learn_vocabulary, lower_case, some_texts

TEXTS = ['Good film, GOOD fun', 'a bad Film', 'Bad, bad. BAD', 'naïve 最高 fun', 'a', 'ÉTÉ fun 👍']
LABELS = np.array([1, 0, 0, 1, 0, 1], np.uint8)


@pytest.fixture(scope='module')
def encoding():
    return tokenizer('cl100k_base')


def as_split(texts, encoding, labels=LABELS):
    reviews = [encoding.encode_ordinary(text) or [encoding.eot_token] for text in texts]
    offsets = np.cumsum([0, *map(len, reviews)])
    return Split(np.concatenate(reviews).astype(np.uint32), spans_of(offsets), labels)


def reviews_of(split):
    return [split.tokens[begin:end].tolist() for begin, end in split.spans]


def ngrams_of(split):
    return [split.ngrams[begin:end].tolist() for begin, end in split.ngram_spans]


def test_lower_case_is_that_of_the_text(encoding):
    lower = lower_case(as_split(TEXTS, encoding), encoding)
    assert [encoding.decode(review) for review in reviews_of(lower)] == [t.lower() for t in TEXTS]
    assert reviews_of(lower) == [encoding.encode_ordinary(text.lower()) for text in TEXTS]
    assert lower.tokens.dtype == np.uint32
    # an end of text stands for a text that is empty, before and after
    empty = Split(np.array([encoding.eot_token], np.uint32), np.array([[0, 1]]), None)
    assert lower_case(empty, encoding).tokens.tolist() == [encoding.eot_token]
    assert np.array_equal(lower.labels, LABELS)


def test_known_tokens_are_those_that_training_holds_twice(encoding):
    split = lower_case(as_split(TEXTS, encoding), encoding)
    vocabulary = learn_vocabulary(split, encoding, True, 'none', 2, 100, 'head')
    counts = Counter(split.tokens.tolist())
    assert vocabulary.tokens.tolist() == sorted(t for t, count in counts.items() if count > 1)
    encoded = vocabulary.encode(split, encoding)
    for review, numbers in zip(reviews_of(split), reviews_of(encoded)):
        for token, number in zip(review, numbers, strict=True):
            if counts[token] > 1:
                assert vocabulary.tokens[number - 1] == token
            else:
                assert number == 0
    assert encoded.ngrams is None


@pytest.mark.parametrize('truncate, expected', [
    ('head', [5, 7]), ('tail', [7]), ('both', [5, 6])])
def test_known_tokens_are_counted_where_texts_are_used(truncate, expected):
    """Three tokens at most of each text: 5 6 7, 7 8 6 or 5 6 6 of the first, all of the other."""
    split = Split(np.array([5, 6, 7, 8, 6, 5, 7], np.uint32), np.array([[0, 5], [5, 7]]), None)
    vocabulary = learn_vocabulary(split, None, True, 'none', 2, 3, truncate)
    assert vocabulary.tokens.tolist() == expected


def test_words_that_come_once_are_known_where_there_are_no_others(encoding):
    split = as_split(['one two three', 'four'], encoding, LABELS[:2])
    vocabulary = learn_vocabulary(split, encoding, True, 'tokens', 2, 100, 'head')
    assert len(vocabulary.tokens) == 4
    assert len(vocabulary.ngrams) == 0
    assert vocabulary.encode(split, encoding).ngrams is None


@pytest.mark.parametrize('min_count', [1, 2])
@pytest.mark.parametrize('truncate', ['head', 'both'])
@pytest.mark.parametrize('kind', [*NGRAM_KINDS, *OLD_KINDS])
def test_n_grams_are_those_of_min_count_texts_each_once(encoding, kind, truncate, min_count,
                                                        monkeypatch):
    monkeypatch.setattr('nanoloss.vocabulary.CHUNK', 4)
    texts = [text.lower() for text in TEXTS]
    split = as_split(texts, encoding)
    vocabulary = learn_vocabulary(split, encoding, False, kind, min_count, 5, truncate)
    sets = []
    for review in reviews_of(split):
        used = truncated(np.array(review), 5, truncate).tolist()
        sets.append(ngrams_by_hand(used, kind, encoding))
    counts = Counter(gram for found in sets for gram in found)
    known = {gram for gram, count in counts.items() if count >= min_count}
    assert len(vocabulary.ngrams) == len(known) > 3

    # a number stands for one n-gram, in every text
    encoded = ngrams_of(vocabulary.encode(split, encoding))
    meaning = {}
    for numbers, found in zip(encoded, sets):
        assert len(set(numbers)) == len(found & known)
        assert len(set(numbers)) == len(numbers) or kind == 'words+chars'
        for number in numbers:
            meaning[number] = meaning.get(number, known) & found
    for number, candidates in meaning.items():
        holders = [number in numbers for numbers in encoded]
        assert any([gram in found for found in sets] == holders for gram in candidates)

    # what no training text has is left out
    strange = as_split(['zzqx', texts[0]], encoding, None)
    assert ngrams_of(vocabulary.encode(strange, encoding)) == [[], encoded[0]]


@pytest.mark.parametrize('kind', [*NGRAM_KINDS, *OLD_KINDS])
def test_an_empty_text_has_no_n_grams(encoding, kind):
    """But a text has those that it spells out, be they the name of the end of text."""
    texts = ['', '<|endoftext|>', 'the end of a text', '']
    split = as_split(texts, encoding, None)
    vocabulary = learn_vocabulary(split, encoding, False, kind, 1, 100, 'head')
    sets = [ngrams_by_hand(encoding.encode_ordinary(text), kind, encoding) for text in texts]
    assert [len(set(found)) for found in ngrams_of(vocabulary.encode(split, encoding))] == [
        len(wanted) for wanted in sets]
    assert len(vocabulary.ngrams) == len(set().union(*sets))
    # and a training split of empty texts has none to know
    empty = split.take(np.array([0, 3]))
    assert len(learn_vocabulary(empty, encoding, False, kind, 1, 100, 'head').ngrams) == 0
    assert [list(ids) for ids in ngrams_of(vocabulary.encode(empty, encoding))] == [[], []]


@pytest.mark.parametrize('listed', [0, 7, 50, 10 ** 6])
def test_keys_are_counted_alike_however_many_are_held(monkeypatch, listed):
    """Also with the largest that there are, and with none at all."""
    monkeypatch.setattr(vocabulary, 'LISTED', listed)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 30, n).astype(np.uint64) for n in (5, 0, 40, 3, 12)]
    arrays[2][:4] = 2 ** 64 - 1
    wanted = sorted(Counter(np.concatenate(arrays).tolist()).items())
    values, counts = vocabulary.count_keys(iter(arrays))
    assert values.dtype == np.uint64
    assert list(zip(values.tolist(), counts.tolist())) == wanted
    values, counts = vocabulary.count_keys([])
    assert len(values) == len(counts) == 0


@pytest.mark.parametrize('n', [5, 7, 8, 1000])
def test_n_grams_are_learned_from_some_texts_at_equal_distances(n, monkeypatch):
    monkeypatch.setattr(vocabulary, 'MOST_TEXTS', 7)
    split = Split(np.arange(n), np.stack([np.arange(n), np.arange(n) + 1], 1), np.arange(n))
    rows = some_texts(split).labels
    assert rows[0] == 0 and rows[-1] == n - 1 and len(rows) == min(7, n)
    distances = np.diff(rows)
    assert distances.min() > 0 and np.ptp(distances) <= 1


def test_tokens_are_those_of_the_reviews_that_are_taken():
    split = Split(np.array([5, 6, 6, 7, 8, 8], np.uint32), np.array([[0, 3], [3, 4], [4, 6]]),
                  labels=np.array([0, 1, 0]))
    for rows, expected in (([0, 1, 2], [6, 8]), ([0, 1], [6]), ([2], [8])):
        found = learn_vocabulary(split.take(np.array(rows)), None, True, 'none', 2, 10, 'head')
        assert found.tokens.tolist() == expected
