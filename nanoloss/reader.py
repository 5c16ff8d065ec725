"""A model that export.py has written, without PyTorch: texts -> probabilities and labels.

    python reader.py "a text" "another"             in the model's folder, where a copy of this is

    from reader import Classifier
    classifier = Classifier('model')
    p = classifier.probs(['a text', 'another'])     # [texts, classes]
    classifier.label(p[0])

It needs numpy, tiktoken and onnxruntime, and of nanoloss only labels.py, of which a copy is there,
too. What training does with a text in the same way comes from here.
"""
import base64
import codecs
import hashlib
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nanoloss.labels import Labels, read_thresholds

FORMAT_VERSION = 1  # of an exported folder
MAX_TOKENS = 512  # computed at once: they fit the caches, and few of them are padding
INPUTS = 'tokens', 'counts', 'ngrams'  # of the model, which may have no n-grams
NGRAM_SIZES = {  # what an n-gram is made of: how many of them
    'chars': (2, 3, 4, 5),  # bytes of the text: endings, misspelt words, pairs of words
    'tokens': (1, 2, 3),
}


# From a text to numbers

def shorten(tokens, size, truncate):
    """What is used of a review of more than size tokens, as a list of pieces: its head, its tail,
    or half of each (both)."""
    if len(tokens) <= size:
        return [tokens]
    n_head = {'head': size, 'tail': 0, 'both': size - size // 2}[truncate]
    return [tokens[:n_head], tokens[len(tokens) - size + n_head:]]


def without_end_of_text(tokens, encoding):
    """The tokens of a text without the end of text that stands for an empty one.

    A text that spells out <|endoftext|> is encoded as ordinary tokens, and keeps them."""
    return tokens[tokens != encoding.eot_token]


def find(values, known):
    """Where each value stands in `known`, which ascends, and whether it does."""
    places = np.searchsorted(known, values).clip(max=len(known) - 1)
    return places, known[places] == values


def ngram_keys(values, lengths, sizes):
    """Number the n-grams of reviews that stand one after another: any two get different numbers,
    but for one in 2^64.

    values: unsigned [N]; lengths: int64 [reviews], sum N. Returns keys uint64 [M] and the review of
    each, int64 [M].
    """
    review = np.repeat(np.arange(len(lengths)), lengths)
    values = values.astype(np.uint64)
    all_keys = []
    all_reviews = []
    keys = np.zeros(len(values), np.uint64)
    for size in range(1, max(sizes) + 1):
        # those of one value less, and the next value
        keys = mixed(keys[:len(values) - size + 1] + values[size - 1:] + np.uint64(1))
        if size in sizes:
            inside = review[:len(keys)] == review[size - 1:]
            all_keys.append(keys[inside])
            all_reviews.append(review[:len(keys)][inside])
    return np.concatenate(all_keys), np.concatenate(all_reviews)


def mixed(keys):
    """A one-to-one mapping of uint64 that leaves no pattern (the finalizer of SplitMix64; Steele,
    Lea and Flood 2014)."""
    keys = (keys ^ keys >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ keys >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return keys ^ keys >> np.uint64(31)


# From probabilities to an answer

def log_odds(p):
    """Probabilities of any shape -> their log-odds; 0 and 1 count as 1e-15 away."""
    p = np.clip(p, 1e-15, 1 - 1e-15)
    return np.log(p) - np.log1p(-p)


class Answers:
    """What a classifier makes of its probabilities.

    A subclass has classes, their names; multi_label: a text may have several labels; labels, the
    `Labels` of these; encoding, the tiktoken.Encoding; tokens(texts), the tokens that are used of
    each; and probs_of_tokens, [texts, classes] of these.
    """

    def probs(self, texts):
        """A list of texts -> float64 [texts, classes]; if a text has one label, rows sum to 1."""
        if not texts:
            return np.zeros((0, len(self.classes)))
        return self.probs_of_tokens(self.tokens(texts))

    def label(self, p):
        """The label of a row of probabilities; the list of its labels if it may have several."""
        return self.labels.label(p)

    def explained_class(self, p):
        """The number of the class that an answer is about: the one that it gives or, if it gives
        none or may give several, the likeliest."""
        label = self.label(p)
        if label in self.classes:
            return self.classes.index(label)
        return int(p.argmax())

    def leave_out(self, tokens):
        """The tokens of each text -> for each a triple: its distinct tokens, ascending, int64 [K];
        its probabilities [classes]; those of the text without all of a kind, [K, classes].

        A text of one kind cannot do without it and keeps its probabilities."""
        kinds = [np.unique(review) for review in tokens]
        variants = []
        for review, of_review in zip(tokens, kinds):
            variants.append(review)
            if len(of_review) > 1:
                variants += [review[review != kind] for kind in of_review]
        rows = iter(self.probs_of_tokens(variants))

        triples = []
        for of_review in kinds:
            p = next(rows)
            without = p[None]
            if len(of_review) > 1:
                without = np.stack([next(rows) for _ in of_review])
            triples.append((of_review, p, without))
        return triples

    def explain(self, text):
        """A text -> its probabilities [classes], a class, [(piece of text, worth)].

        The class: see `explained_class`. The worth of a token: the log-odds of that class with all
        tokens, minus those without any of its kind."""
        review, = self.tokens([text])
        (kinds, p, without), = self.leave_out([review])
        explained = self.explained_class(p)
        gain = log_odds(p[explained]) - log_odds(without[:, explained])
        worth = dict(zip(kinds.tolist(), gain.tolist()))
        decoder = codecs.getincrementaldecoder('utf-8')('replace')  # a character may be two tokens
        pieces = []
        for token in review.tolist():
            piece = decoder.decode(self.encoding.decode_single_token_bytes(token))
            pieces.append((piece, worth[token]))
        return p, self.classes[explained], pieces


# A folder

def read_checksums(folder):
    """SHA256SUMS -> {file name: checksum}, every file being a plain one in the folder itself.

    Nothing else is opened. Raises ValueError where an entry is anything else, FileNotFoundError
    where a file is missing."""
    sums = {}
    for line in (folder / 'SHA256SUMS').read_text('utf-8').splitlines():
        entry = re.fullmatch(r'([0-9a-f]{64})  ([\w.-]+)', line)
        if entry is None or entry[2] in ('.', '..') or entry[2] in sums:
            raise ValueError(f'SHA256SUMS has no such entries as {line[:100]!r}')
        sums[entry[2]] = entry[1]
    if not {'model.json', 'model.onnx', 'tokenizer.tiktoken', 'vocabulary.npz'} <= set(sums):
        raise ValueError('SHA256SUMS is cut short')
    for name in sums:
        # a link may lead anywhere, and reading a pipe or a device may never end
        real = (folder / name).resolve(strict=True)
        if real.parent != folder.resolve() or not real.is_file():
            raise ValueError(f'{name} is no file in this folder')
    return sums


def read_folder(folder):
    """An exported folder -> its model.json, every file being as it was written.

    Raises ValueError where one is not, as `read_checksums` does, too."""
    for name, sha256 in read_checksums(folder).items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sha256:
            raise ValueError(f'{name} is damaged, or of another model')
    description = json.loads((folder / 'model.json').read_text('utf-8'))
    if description['version'] != FORMAT_VERSION:
        raise ValueError(f'it is of format {description["version"]}, '
                         f'this code reads {FORMAT_VERSION}')
    return description


def read_tokenizer(path, name, pattern, special_tokens):
    """A table in tiktoken's file form, a token in base64 and its rank a line, and the rest of its
    definition -> tiktoken.Encoding."""
    import tiktoken
    ranks = {}
    for line in path.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks,
                             special_tokens=special_tokens)


class Classifier(Answers):
    """An exported folder as a function from texts to probabilities.

    id: of these weights and thresholds. thresholds: whether to use those of the folder, if any.
    min_confidence: see `Labels`. threads: of the CPU; 0: one a core.
    Raises ValueError as `Labels` does, and where a file is missing, damaged or of another model.
    """

    def __init__(self, folder, min_confidence=0.0, thresholds=True, threads=0):
        import onnxruntime  # which training does without
        folder = Path(folder)
        try:
            description = read_folder(folder)
            self.id = description['id']
            self.classes = description['classes']
            self.multi_label = description['multi_label']
            self.texts = description['texts']  # what is done with them
            chosen = read_thresholds(description, len(self.classes)) if thresholds else None
            self.encoding = read_tokenizer(folder / 'tokenizer.tiktoken',
                                           **description['tokenizer'])
            with np.load(folder / 'vocabulary.npz') as vocabulary:
                self.known_tokens = vocabulary['tokens']
                self.known_ngrams = vocabulary['ngrams']
            # texts, and then parts of all, are computed side by side, each by one thread
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 4  # an error is raised; it need not be printed, too
            self.pool = ThreadPoolExecutor(threads or os.cpu_count())
            self.session = onnxruntime.InferenceSession(
                folder / 'model.onnx', options, providers=['CPUExecutionProvider'])
            self.check_description()
            self.check_model()
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise ValueError(f'{folder} is no exported model: {missing} is missing') from None
        except Exception as error:  # a damaged file can raise anything
            why = f'{type(error).__name__}: {" ".join(str(error).split())}'
            raise ValueError(f'{folder} cannot be used ({why})') from None
        self.labels = Labels(self.classes, self.multi_label, chosen, min_confidence)

    def check_description(self):
        """Raises ValueError where model.json or vocabulary.npz cannot be of any model."""
        names = self.classes
        if type(names) is not list or not all(type(name) is str for name in [self.id, *names]):
            raise ValueError('model.json: id is no name, or classes no list of names')
        if len(set(names)) < len(names) or not names:
            raise ValueError('model.json: two classes have one name, or there is none')
        size = self.texts['block_size']
        if type(size) is not int or size < 1:
            raise ValueError(f'model.json: block_size is {size!r}')
        if self.texts['truncate'] not in ('head', 'tail', 'both'):
            raise ValueError(f'model.json: truncate is {self.texts["truncate"]!r}')
        for known in self.known_tokens, self.known_ngrams:
            if known.ndim != 1 or known.dtype.kind not in 'iu' or (known[1:] <= known[:-1]).any():
                raise ValueError('vocabulary.npz: its numbers do not ascend')

    def check_model(self):
        """Let the model answer some texts. Raises, as a request for an answer would, an exception
        of any kind where it does not go with its description; ValueError for wrong answers."""
        inputs = [node.name for node in self.session.get_inputs()]
        expected = list(INPUTS if len(self.known_ngrams) else INPUTS[:2])
        if inputs != expected or len(self.session.get_outputs()) != 1:
            raise ValueError(f'model.onnx has the inputs {", ".join(inputs)}, not '
                             f'{", ".join(expected)}, or not one output')

        # a text with the largest number of a token and of an n-gram that there can be
        largest = len(self.known_tokens) or self.encoding.n_vocab - 1
        arrays = [[[1, largest]], [[1, 1]], [[1, len(self.known_ngrams)]]][:len(inputs)]
        self.check_probs(self.run(map(np.array, arrays)))
        # an empty text, a short one, and one of block_size tokens unless that is absurdly large
        for text in '', 'a text', 'a text ' * min(self.texts['block_size'], 10_000):
            tokens, = self.tokens([text])
            self.check_probs(self.run(array[None] for array in self.inputs_of(tokens)))

    def check_probs(self, probs):
        """Raises ValueError unless these are the probabilities of a text, [1, classes]."""
        if probs.shape != (1, len(self.classes)):
            raise ValueError(f'model.onnx answers an array {list(probs.shape)} to a text, and '
                             f'model.json has {len(self.classes)} classes')
        if not (probs >= -1e-6).all() or not (probs <= 1 + 1e-6).all():  # nan is not, either
            raise ValueError('model.onnx does not answer probabilities')
        if not self.multi_label and not np.allclose(probs.sum(1), 1, atol=1e-3):
            raise ValueError('the probabilities of model.onnx do not sum to 1')

    def run(self, columns):
        """All tokens, all counts and, if the model has any, all n-grams, each int64 [texts, n] ->
        probabilities float32 [texts, classes]."""
        return self.session.run(None, dict(zip(INPUTS, columns)))[0]

    def tokens(self, texts):
        """The tokens that are used of each text, int64 [n]; of an empty one, an end of text."""
        if self.texts['lower']:
            texts = [text.lower() for text in texts]
        used = []
        for tokens in self.encoding.encode_ordinary_batch(texts, num_threads=1):
            used.append(self.shortened(np.array(tokens or [self.encoding.eot_token])))
        return used

    def shortened(self, tokens):
        return np.concatenate(
            shorten(tokens, self.texts['block_size'], self.texts['truncate']))

    def spelled(self, tokens):
        """Tokens, of which those that are not known are replaced by those of their bytes."""
        spelling = []
        for token, known in zip(tokens.tolist(), find(tokens, self.known_tokens)[1]):
            if known or token == self.encoding.eot_token:
                spelling.append(token)
                continue
            for byte in self.encoding.decode_single_token_bytes(token):
                spelling.append(self.encoding.encode_single_token(bytes([byte])))
        return self.shortened(np.array(spelling))

    def ngrams_of(self, tokens):
        """The known n-grams of a text, by number from 1, int64 [m]."""
        values = without_end_of_text(tokens, self.encoding)
        if self.texts['ngrams'] == 'chars':
            values = np.frombuffer(self.encoding.decode_bytes(values.tolist()), np.uint8)
        sizes = NGRAM_SIZES[self.texts['ngrams']]
        keys, _ = ngram_keys(values, np.array([len(values)]), sizes)
        places, known = find(np.unique(keys), self.known_ngrams)
        return places[known] + 1

    def inputs_of(self, tokens):
        """The tokens of a text -> what the model reads: their numbers and counts, each int64 [T],
        and its n-grams, int64 [M], if the model has any."""
        ngrams = [self.ngrams_of(tokens)] if len(self.known_ngrams) else []
        if self.texts['spell']:
            tokens = self.spelled(tokens)
        if len(self.known_tokens):
            places, known = find(tokens, self.known_tokens)
            tokens = np.where(known, places + 1, 0)
        counts = np.ones_like(tokens)
        if self.texts['bag']:
            tokens, counts = np.unique(tokens, return_counts=True)
        return [tokens, counts, *ngrams]

    def probs_of_tokens(self, tokens):
        """The tokens of each text -> as `probs`."""
        texts = list(self.pool.map(self.inputs_of, tokens))
        lengths = np.array([len(inputs[0]) for inputs in texts])
        # texts of about one length together
        rows = lengths.argsort(kind='stable')
        parts = []
        while len(rows):
            n_rows = 1
            while n_rows < len(rows) and (n_rows + 1) * lengths[rows[n_rows]] <= MAX_TOKENS:
                n_rows += 1
            parts.append(rows[:n_rows])
            rows = rows[n_rows:]

        def run(part):
            columns = zip(*(texts[row] for row in part))  # all tokens, all counts, all n-grams
            return self.run(map(padded, columns))

        probs = np.empty((len(texts), len(self.classes)))
        for part, found in zip(parts, self.pool.map(run, parts)):
            probs[part] = found
        return probs


def padded(arrays):
    """Arrays int64 [n] -> side by side, [arrays, longest], filled up with zeros."""
    rows = np.zeros((len(arrays), max(1, *map(len, arrays))), np.int64)
    for row, array in zip(rows, arrays):
        row[:len(array)] = array
    return rows


if __name__ == '__main__':
    try:
        classifier = Classifier(Path(__file__).parent)
    except ValueError as error:
        sys.exit(str(error))
    for p in classifier.probs(sys.argv[1:]):
        print(json.dumps({'label': classifier.label(p), 'probs': dict(zip(classifier.classes, p))}))
