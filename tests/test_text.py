"""nanoloss/text.py, by brute force over texts (1 s)."""
from collections import Counter

import numpy as np
import pytest
from helpers import ngrams_by_hand

from nanoloss.text import (
    NGRAM_KINDS, OLD_KINDS, find, ngram_keys, ngrams_of, number, spell_unknown, tokenize, truncated)
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


@pytest.mark.parametrize('kind', [*NGRAM_KINDS, *OLD_KINDS])
def test_n_grams_of_texts_together_are_those_of_each_alone(encoding, kind):
    """Ascending, and as many different ones as there are; each once, unless it is counted."""
    tokens = [np.array(of_text) for of_text in tokenize(TEXTS, encoding)]
    keys, rows = ngrams_of(tokens, kind, encoding)
    for row, of_text in enumerate(tokens):
        alone, zeros = ngrams_of([of_text], kind, encoding)
        assert keys[rows == row].tolist() == alone.tolist() == sorted(alone.tolist())
        assert not zeros.any()
        distinct = set(alone.tolist())
        assert len(distinct) == len(ngrams_by_hand(of_text.tolist(), kind, encoding))
        assert len(alone) == len(distinct) or kind == 'words+chars'


# of Hindi, in LANGUAGES
MARKS = '\u093e\u093f\u0940\u0941\u0947\u0948\u094b\u094c\u0902\u094d'
LANGUAGES = {
    'English': ['The film\tis  good; the FILM was good.', "It isn't good", 'x_1 and x_2, 3rd',
                'a a a a', 'isgood the', 'good\n', '...'],
    'Chinese': ['这部电影很好。', '很好的电影', '电影，很好！ 电影', '好'],
    'Russian': ['Хороший фильм, очень хороший', 'фильм — плохой', 'очень\u00a0плохой фильм'],
    'Hindi': ['यह फिल्म बहुत अच्छी है', 'फिल्म अच्छी नहीं', 'फल', 'फ ल', 'नहीं है'],
    'emoji': ['good 👍👍 film', '👍', 'film👍good', '🇫🇷 film'],
    'an empty text': ['', 'a film', ' \n ', 'film', ''],
}


@pytest.mark.parametrize('kind', NGRAM_KINDS)
@pytest.mark.parametrize('language', [*LANGUAGES, 'all'])
def test_n_grams_are_scikit_learn_s(encoding, language, kind):
    """As many in each text, and shared by the same texts; with characters, 1 + log2 of its counts.
    Marks belong to words, unlike there."""
    text_module = pytest.importorskip('sklearn.feature_extraction.text')
    texts = LANGUAGES.get(language) or sum(LANGUAGES.values(), [])
    words = text_module.CountVectorizer(
        lowercase=False, token_pattern=rf'(?u)[\w{MARKS}]+', ngram_range=(1, 2))
    chars = text_module.CountVectorizer(lowercase=False, analyzer='char', ngram_range=(2, 5))
    spaced = [f' {" ".join(text.split())} ' for text in texts]
    counts = words.fit_transform(texts).toarray()
    found_there = counts > 0
    if kind == 'words+chars':
        counts = np.concatenate([counts, chars.fit_transform(spaced).toarray()], 1)
        assert counts.max() > 3 or language not in ('English', 'all')
        found_there = np.select([counts >= 8, counts >= 4, counts >= 2, counts == 1], [4, 3, 2, 1])

    tokens = [np.array(of_text) for of_text in tokenize(texts, encoding)]
    keys, rows = ngrams_of(tokens, kind, encoding)
    found = np.zeros((len(texts), len(np.unique(keys))), int)
    np.add.at(found, (rows, np.unique(keys, return_inverse=True)[1]), 1)
    assert found.sum(1).tolist() == found_there.sum(1).tolist()
    assert Counter(map(tuple, found.T.tolist())) == Counter(map(tuple, found_there.T.tolist()))


def test_a_character_that_was_cut_is_no_word(encoding):
    """The tokens of a long text are cut off, perhaps within a character; then it is U+FFFD."""
    tokens = encoding.encode_ordinary('ab 🦩')
    assert not encoding.decode_bytes(tokens[:-1]).decode(errors='ignore').endswith('🦩')
    keys, _ = ngrams_of([np.array(tokens[:-1])], 'words', encoding)
    alone, _ = ngrams_of([np.array(encoding.encode_ordinary('ab'))], 'words', encoding)
    assert keys.tolist() == alone.tolist() and len(alone) == 1


def test_one_space_between_words_is_as_many_as_you_like(encoding):
    texts = ['a  good\n\tfilm', ' a good film ', 'a\u3000good film']
    tokens = [np.array(of_text) for of_text in tokenize(texts, encoding)]
    keys, rows = ngrams_of(tokens, 'words+chars', encoding)
    first, second, third = (keys[rows == row].tolist() for row in range(3))
    assert first == second == third


def test_keys_of_words_do_not_depend_on_their_place(encoding):
    """One after another in a text of a thousand words, of which each letter has its own factor."""
    words = [f'w{i * i}' for i in range(1000)]
    tokens = [np.array(of_text) for of_text in tokenize([' '.join(words), *words], encoding)]
    keys, rows = ngrams_of(tokens, 'words', encoding)
    assert len(keys) == 1000 + 999 + 1000
    assert len(np.unique(keys)) == 1999
    assert set(keys[rows > 0].tolist()) < set(keys[rows == 0].tolist())


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
