"""A text -> tokens -> the input ids of a model: the same code for training and serving.

It needs only numpy and a tiktoken.Encoding, because an exported folder has a copy of this file. An
empty text becomes a single token, the tokenizer's end of text.
"""
import numpy as np

NGRAM_SIZES = {  # kind of n-gram: its lengths
    'chars': (2, 3, 4, 5),  # bytes: word endings, misspelt words, pairs of words
    'tokens': (1, 2, 3),
}


# From texts to tokens

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
    """The distinct n-grams of each text: their keys, uint64 [N], ascending within a text, and the
    index of the text of each, int64 [N].

    texts: a list of the tokens of each. kind: a name in NGRAM_SIZES.
    """
    values = [without_end_of_text(tokens, encoding) for tokens in texts]
    if kind == 'chars':
        characters = [encoding.decode_bytes(tokens.tolist()) for tokens in values]
        values = [np.frombuffer(of_text, np.uint8) for of_text in characters]
    lengths = np.array([len(of_text) for of_text in values])
    keys, rows = ngram_keys(np.concatenate(values), lengths, NGRAM_SIZES[kind])
    # sort equal n-grams of a text side by side, and keep the first
    order = np.lexsort((keys, rows))
    keys = keys[order]
    rows = rows[order]
    first = np.ones(len(keys), bool)
    first[1:] = (keys[1:] != keys[:-1]) | (rows[1:] != rows[:-1])
    return keys[first], rows[first]


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
