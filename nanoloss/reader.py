"""Classify texts with a model that tools/export.py has made, without PyTorch.

    python reader.py "a text" "another"             in an exported folder, which has a copy

    from reader import Classifier
    classifier = Classifier('model')
    p = classifier.probs(['a text', 'another'])     # [texts, classes]
    classifier.label(p[0])

It needs numpy, tiktoken and onnxruntime, and the two files text.py and labels.py beside it.
"""
import hashlib
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

if __package__:  # in nanoloss
    from .labels import BaseClassifier, read_thresholds
    from .text import find, ngrams_of, number, read_table, spell_unknown, tokenize, truncated
else:  # in an exported folder
    from labels import BaseClassifier, read_thresholds
    from text import find, ngrams_of, number, read_table, spell_unknown, tokenize, truncated

FORMAT_VERSION = 1  # of an exported folder
MAX_TOKENS = 512  # per batch, padding included: they fit the caches, and few are padding
INPUTS = 'tokens', 'counts', 'ngrams'  # of the model; without n-grams, the first two


# The files of a folder

def read_checksums(folder):
    """SHA256SUMS -> {file name: checksum}. Raises ValueError unless each entry is a plain file in
    the folder itself, and FileNotFoundError if a file is missing."""
    sums = {}
    for line in (folder / 'SHA256SUMS').read_text('utf-8').splitlines():
        entry = re.fullmatch(r'([0-9a-f]{64})  ([\w.-]+)', line)
        if entry is None or entry[2] in ('.', '..') or entry[2] in sums:
            raise ValueError(f'SHA256SUMS cannot have the entry {line[:100]!r}')
        sums[entry[2]] = entry[1]
    if not {'model.json', 'model.onnx', 'tokenizer.tiktoken', 'vocabulary.npz'} <= set(sums):
        raise ValueError('SHA256SUMS is cut short')
    for name in sums:
        # a link could lead out of the folder, and reading a pipe or a device might never end
        real = (folder / name).resolve(strict=True)
        if real.parent != folder.resolve() or not real.is_file():
            raise ValueError(f'{name} is not a file in this folder')
    return sums


def read_folder(folder):
    """Check the files of an exported folder -> the content of model.json. Raises ValueError if a
    file has changed, and as `read_checksums` does."""
    for name, sha256 in read_checksums(folder).items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sha256:
            raise ValueError(f'{name} is damaged, or belongs to another model')
    description = json.loads((folder / 'model.json').read_text('utf-8'))
    if description['version'] != FORMAT_VERSION:
        raise ValueError(f'its format is {description["version"]}, '
                         f'this code reads format {FORMAT_VERSION}')
    return description


def read_tokenizer(path, name, pattern, special_tokens):
    """The file of a tokenizer's table, and the rest of its definition -> tiktoken.Encoding."""
    import tiktoken
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=read_table(path.read_bytes()),
                             special_tokens=special_tokens)


# The model

class ExportedModel:
    """An exported folder as a function from tokens to probabilities: a model of `BaseClassifier`.

    thresholds: whether to use the folder's thresholds, if any.
    threads: CPU threads (0: one per core).
    Raises ValueError if a file is missing or damaged, or belongs to another model.
    """

    def __init__(self, folder, thresholds=True, threads=0):
        import onnxruntime  # here, so that a script can report that it is missing
        folder = Path(folder)
        try:
            description = read_folder(folder)
            self.id = description['id']
            self.classes = description['classes']
            self.multi_label = description['multi_label']
            # folders of earlier versions lack it
            self.always_labelled = description.get('always_labelled', False)
            self.texts = description['texts']  # settings of the preprocessing
            self.thresholds = None
            if thresholds:
                self.thresholds = read_thresholds(description, len(self.classes))
            self.encoding = read_tokenizer(folder / 'tokenizer.tiktoken',
                                           **description['tokenizer'])
            with np.load(folder / 'vocabulary.npz') as vocabulary:
                self.known_tokens = vocabulary['tokens']
                self.known_ngrams = vocabulary['ngrams']
            # a pool of threads processes texts, and then batches, with one thread for each
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 4  # errors are raised, so do not print them as well
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

    def check_description(self):
        """Raises ValueError if no model can have this model.json or vocabulary.npz."""
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
        """Run the model on some texts, to fail now instead of at the first request. Raises an
        exception of any kind if model.json or vocabulary.npz does not fit it, ValueError for wrong
        outputs."""
        inputs = [node.name for node in self.session.get_inputs()]
        expected = list(INPUTS if len(self.known_ngrams) else INPUTS[:2])
        if inputs != expected or len(self.session.get_outputs()) != 1:
            raise ValueError(f'model.onnx has the inputs {", ".join(inputs)}, not '
                             f'{", ".join(expected)}, or not one output')

        # a text with the largest possible number of a token and of an n-gram
        largest = len(self.known_tokens) or self.encoding.n_vocab - 1
        arrays = [[[1, largest]], [[1, 1]], [[1, len(self.known_ngrams)]]][:len(inputs)]
        self.check_probs(self.run(map(np.array, arrays)))
        # an empty text, a short one, and one of block_size tokens unless that is absurdly large
        for text in '', 'a text', 'a text ' * min(self.texts['block_size'], 10_000):
            tokens, = self.tokens([text])
            self.check_probs(self.run(array[None] for array in self.inputs_of(tokens)))

    def check_probs(self, probs):
        """Raises ValueError unless these are the probabilities of one text, [1, classes]."""
        if probs.shape != (1, len(self.classes)):
            raise ValueError(f'model.onnx answers an array {list(probs.shape)} to a text, and '
                             f'model.json has {len(self.classes)} classes')
        if not (probs >= -1e-6).all() or not (probs <= 1 + 1e-6).all():  # False for nan
            raise ValueError('model.onnx does not answer probabilities')
        if not self.multi_label and not np.allclose(probs.sum(1), 1, atol=1e-3):
            raise ValueError('the probabilities of model.onnx do not sum to 1')

    def tokens(self, texts):
        """The tokens of each text that are used, a list of int64 [n]."""
        rows = tokenize(texts, self.encoding, self.texts['lower'], num_threads=1)
        return [self.truncated(np.array(row)) for row in rows]

    def truncated(self, tokens):
        """Truncate the tokens of a text, see `truncated` in text.py."""
        return truncated(tokens, self.texts['block_size'], self.texts['truncate'])

    def inputs_of(self, tokens):
        """The tokens of a text -> the inputs of the model: the ids of the tokens and their counts,
        each int64 [T], and the ids of the n-grams, int64 [M], if the model has any."""
        ngrams = [self.numbered_ngrams(tokens)] if len(self.known_ngrams) else []
        if len(self.known_tokens):  # otherwise all are known
            if self.texts['spell']:
                tokens, _ = spell_unknown(tokens, self.known_tokens, self.encoding)
                tokens = self.truncated(tokens)
            tokens = number(tokens, self.known_tokens)
        counts = np.ones_like(tokens)
        if self.texts['bag']:
            tokens, counts = np.unique(tokens, return_counts=True)
        return [tokens, counts, *ngrams]

    def numbered_ngrams(self, tokens):
        """The ids of the known n-grams of a text, from 1, int64 [M]."""
        keys, _ = ngrams_of([tokens], self.texts['ngrams'], self.encoding)
        places, known = find(keys, self.known_ngrams)
        return places[known] + 1

    def run(self, columns):
        """Inputs, each int64 [texts, n] -> probabilities, float32 [texts, classes]."""
        return self.session.run(None, dict(zip(INPUTS, columns)))[0]

    def probs_of_tokens(self, tokens):
        """A list of the tokens of each text -> float64 [texts, classes]."""
        inputs = list(self.pool.map(self.inputs_of, tokens))
        batches = batches_by_length([len(of_text[0]) for of_text in inputs])

        def run_batch(rows):
            columns = zip(*(inputs[row] for row in rows))  # all tokens, all counts, all n-grams
            return self.run(map(padded, columns))

        probs = np.empty((len(inputs), len(self.classes)))
        for rows, found in zip(batches, self.pool.map(run_batch, batches)):
            probs[rows] = found
        return probs


def batches_by_length(lengths):
    """Lengths of texts -> a list of the rows of each batch: texts of about the same length, with at
    most MAX_TOKENS tokens, padding included, or a single text."""
    lengths = np.array(lengths)
    rows = lengths.argsort(kind='stable')
    batches = []
    while len(rows):
        n_rows = 1
        while n_rows < len(rows) and (n_rows + 1) * lengths[rows[n_rows]] <= MAX_TOKENS:
            n_rows += 1
        batches.append(rows[:n_rows])
        rows = rows[n_rows:]
    return batches


def padded(arrays):
    """Stack arrays int64 [n] -> int64 [arrays, longest], padded with zeros."""
    rows = np.zeros((len(arrays), max(1, *map(len, arrays))), np.int64)
    for row, array in zip(rows, arrays):
        row[:len(array)] = array
    return rows


class Classifier(BaseClassifier):
    """An exported folder as a function from texts to probabilities, labels and attributions.

    min_confidence: see `Labels`. thresholds, threads: see `ExportedModel`. Raises ValueError as
    these two do.
    """

    def __init__(self, folder, min_confidence=0.0, thresholds=True, threads=0):
        super().__init__(ExportedModel(folder, thresholds, threads), min_confidence)


if __name__ == '__main__':
    try:
        classifier = Classifier(Path(__file__).parent)
    except ValueError as error:
        sys.exit(str(error))
    for p in classifier.probs(sys.argv[1:]):
        print(json.dumps({'label': classifier.label(p), 'probs': dict(zip(classifier.classes, p))}))
