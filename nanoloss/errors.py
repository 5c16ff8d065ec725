"""The errors of a group of runs: mistakes and wrong labels, slices, near-duplicates across splits,
and the attribution of each token. tools/errors.py makes a page of them.

The texts are those of val and test together, on which no run was trained; N is their number.
"""
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH
from scipy.stats import hypergeom
from tqdm import tqdm

from nanoloss.data import fingerprint, load_data
from nanoloss.files import mend_folder
from nanoloss.labels import decide, log_odds
from nanoloss.settings import fail
from nanoloss.stats import (
    as_two_runs, calibration_error, confidence_bins, confident_classes, each_decision, holm,
    interval, summarize_accuracy)
from nanoloss.tokenizer import decode, tokenizer

SPLITS = ('val', 'test')
HISTOGRAM_BINS = 20
MIN_TEXTS = 10    # of a slice
N_LENGTHS = 5     # slices by length

# near-duplicates: of two texts with a Jaccard similarity s, 21 bands of 3 find 1 - (1 - s^3)^21:
# 94 % at .5, 99.98 % at .7
SHINGLE = 3  # words
SIMILAR = 0.5
BANDS = 21
BAND_ROWS = 3
EARLIER = {'train': ('val', 'test'), 'val': ('test',)}  # {split: those that should not repeat it}

# for attributions, a text is classified once without each of its tokens: the most variants at once,
# and the most tokens in all; IMDB's val has 181 million, 12 minutes of a core with windows
VARIANTS = 4096
MAX_VARIANT_TOKENS = 200_000_000


@dataclass
class Predictions:
    """The predictions of a group of runs for the texts of val and test, and these texts."""
    label: str              # of the group
    dataset: str
    classes: list           # their names
    train_texts: list       # of strings
    train_labels: np.ndarray  # as `labels`
    texts: list             # [N] strings: val, then test
    splits: np.ndarray      # [N] 'val' or 'test'
    rows: np.ndarray        # int [N], within the split
    lengths: np.ndarray     # int [N], in tokens
    groups: np.ndarray      # int [N], or None if the data has no document groups
    labels: np.ndarray      # int [N] or, if texts have several labels, 0 and 1 [N, classes]
    always_labelled: bool   # see `decide`
    probs: np.ndarray       # [runs, N, classes], temperature-scaled
    unscaled: np.ndarray    # the same as trained, or None if these are no probabilities
    correct: np.ndarray     # bool [runs, N]
    accuracy: dict          # on test, see `stats.summarize_accuracy`
    measures: dict          # {name: its mean over the runs, or None}, on test
    drawn: bool             # whether a run of another seed would differ

    def __post_init__(self):
        self.multi_label = self.labels.ndim == 2
        self.mean_probs = self.probs.mean(0)
        self.decisions = self.decide(self.probs)     # int [runs, N] or bool [runs, N, classes]
        self.answers = self.decide(self.mean_probs)  # int [N] or bool [N, classes]
        wrong = self.answers != self.labels
        self.wrong = wrong.any(1) if self.multi_label else wrong

    def decide(self, probs):
        """Decide without thresholds, as labels.py does. probs [..., classes]."""
        return decide(probs, self.multi_label, always_labelled=self.always_labelled)

    def name_of(self, label):
        """A row of `labels` or of decisions of its kind, as text."""
        if self.multi_label:
            return ';'.join(self.classes[k] for k in np.flatnonzero(label))
        return self.classes[label]

    def answer_of(self, i):
        """The answer of the mean of the runs to a text, as text."""
        return self.name_of(self.answers[i])

    def place_of(self, i):
        """The place of a text, as 'test 17'."""
        return f'{self.splits[i]} {self.rows[i]}'


# Reading

def load_texts(path, run, data_dir):
    """The data set of a run -> its splits, its meta.json. Fails if it is not that data."""
    folder = Path(data_dir) / run.dataset
    remedy = (f'make it with: python prepare.py --source=... --name={run.dataset}, '
              'or say with --data_dir=FOLDER where it is')
    if not folder.exists():
        mend_folder(folder)
    if not (folder / 'meta.json').exists():
        fail(f'the page shows the texts that {path} classified, and there is no {folder}; {remedy}')
    data, meta = load_data(folder)
    if fingerprint(meta) != run.data:
        fail(f'{folder} is not the data on which {path} was trained, and the page shows its texts; '
             f'{remedy}')
    return data, meta


def probs_of_runs(runs):
    """Probabilities on val and then test: [runs, N, classes], temperature-scaled, and the same as
    trained, or None if these are no probabilities."""
    scaled = []
    unscaled = []
    for run in runs:
        if not run.logits:
            fail(f'{run.folder}: its probabilities are not kept')
        scaled.append(np.concatenate([run.probs(split, run.temperature) for split in SPLITS]))
        unscaled.append(np.concatenate([run.probs(split) for split in SPLITS]))
    return np.stack(scaled), np.stack(unscaled) if runs[0].head.calibrated else None


def mean_calibration_error(probs, labels):
    """The mean ECE of the runs in %; probs [runs, N, classes]."""
    return np.mean([calibration_error(confidence_bins(*each_decision(of_run, labels)))
                    for of_run in probs])


def read_predictions(path, runs, data_dir):
    """The runs of a group and the data they were trained on -> `Predictions`."""
    data, meta = load_texts(path, runs[0], data_dir)
    encoding = tokenizer(meta['tokenizer']['name'])
    texts = {}
    for split in ('train', *SPLITS):
        tokens = data[split].tokens
        texts[split] = [decode(tokens[begin:end], encoding) for begin, end in data[split].spans]
    sizes = [len(texts[split]) for split in SPLITS]
    groups = None
    if data['val'].groups is not None:
        groups = np.concatenate([data[split].groups for split in SPLITS])

    probs, unscaled = probs_of_runs(runs)
    labels = np.concatenate([data[split].labels for split in SPLITS])
    correct = {split: np.stack([run.correct[split] for run in runs]) for split in SPLITS}
    test = slice(sizes[0], None)
    measures = {'temperature': np.mean([run.temperature for run in runs]),
                'ECE, scaled': mean_calibration_error(probs[:, test], labels[test])}
    if unscaled is not None:
        measures['ECE'] = mean_calibration_error(unscaled[:, test], labels[test])
    return Predictions(
        label=path.name,
        dataset=runs[0].dataset,
        classes=[str(name) for name in meta['classes']],
        train_texts=texts['train'],
        train_labels=np.array(data['train'].labels),
        texts=texts['val'] + texts['test'],
        splits=np.repeat(SPLITS, sizes),
        rows=np.concatenate([np.arange(size) for size in sizes]),
        lengths=np.concatenate([data[split].lengths() for split in SPLITS]),
        groups=groups,
        labels=labels,
        always_labelled=runs[0].always_labelled,
        probs=probs,
        unscaled=unscaled,
        correct=np.concatenate([correct[split] for split in SPLITS], 1),
        accuracy=summarize_accuracy(correct['test'].sum(1), sizes[1], correct['test'],
                                    data['test'].groups, runs[0].drawn),
        measures=measures,
        drawn=runs[0].drawn,
    )


# Mistakes and wrong labels

def confusion_examples(predictions, label, answer):
    """Two texts of a label to which a run gave this answer, the most confident first: their
    indices."""
    given = (predictions.decisions == answer).any(0) & (predictions.labels == label)
    rows = np.flatnonzero(given)
    surest = np.argsort(-predictions.mean_probs[rows, answer], kind='stable')
    return rows[surest[:2]]


def find_mistakes(predictions):
    """The texts that every run gets wrong or that look mislabelled, the latter first.

    Returns their indices int [M], whether they look mislabelled bool [M], and their margins [M]:
    the probability of the likeliest other class minus that of the label or, if texts have several
    labels, the largest error of a probability.
    """
    p = predictions.mean_probs
    if predictions.multi_label:
        mislabelled = np.zeros(len(p), bool)
        margins = abs(p - predictions.labels).max(1)
    else:
        confident = confident_classes(p, predictions.labels)
        mislabelled = (confident >= 0) & (confident != predictions.labels)
        of_label = p[np.arange(len(p)), predictions.labels]
        others = p.copy()
        others[np.arange(len(p)), predictions.labels] = -1
        margins = others.max(1) - of_label
    rows = np.flatnonzero(mislabelled | ~predictions.correct.any(0))
    rows = rows[np.lexsort([-margins[rows], ~mislabelled[rows]])]
    return rows, mislabelled[rows], margins[rows]


# Probabilities

def histogram(predictions, probs):
    """The probabilities on test in HISTOGRAM_BINS bins from 0 to 1, means over the runs: [bins, 2],
    right and wrong ones.

    With two classes, the probability of the second; with more, that of the answer; with several
    labels per text, that of each label. Right or wrong is the decision.
    """
    test = predictions.splits == 'test'
    p = probs[:, test]
    right = predictions.decide(p) == predictions.labels[test]
    if not predictions.multi_label:
        p = p[:, :, 1] if p.shape[2] == 2 else p.max(2)
    counts = []
    for mask in (right, ~right):
        counts.append(np.histogram(p[mask], HISTOGRAM_BINS, (0, 1))[0] / len(probs))
    return np.stack(counts, 1)


# Slices

def slice_masks(predictions):
    """Yield (kind, name, bool [N]) for every slice of at least MIN_TEXTS texts."""
    labels = predictions.labels
    slices = []
    for k, name in enumerate(predictions.classes):
        has = labels[:, k] == 1 if predictions.multi_label else labels == k
        slices.append(('class', name, has))

    lengths = predictions.lengths
    edges = np.quantile(lengths, np.linspace(0, 1, N_LENGTHS + 1)[1:-1], method='lower')
    fifths = np.searchsorted(edges, lengths)  # a length on an edge is in the lower one
    for k in np.unique(fifths):
        inside = lengths[fifths == k]
        slices.append(('length', f'{inside.min():,} to {inside.max():,} tokens', fifths == k))

    if predictions.groups is not None:
        groups, counts = np.unique(predictions.groups, return_counts=True)
        for group in groups[counts >= MIN_TEXTS]:
            slices.append(('group', str(group), predictions.groups == group))
    for kind, name, mask in slices:
        if mask.sum() >= MIN_TEXTS:
            yield kind, name, mask


def measure_slices(predictions):
    """Every slice: {kind, name, n, accuracy and its interval low, high in % (None for a single
    run), p: how likely it is that n random texts have at least as many of the wrong ones, holm},
    the worst first.

    A text is wrong if the mean of the runs gets it wrong; the accuracy is that of the runs.
    """
    slices = []
    n_wrong = int(predictions.wrong.sum())
    for kind, name, mask in slice_masks(predictions):
        correct = predictions.correct[:, mask]
        if not predictions.drawn:
            correct = as_two_runs(correct)
        clusters = None if predictions.groups is None else predictions.groups[mask]
        intervals = interval(correct, clusters=clusters)
        n = int(mask.sum())
        limits = intervals['both'] or (None, None)
        wrong = int(predictions.wrong[mask].sum())
        p = hypergeom.sf(wrong - 1, len(mask), n_wrong, n)
        slices.append({'kind': kind, 'name': name, 'n': n, 'accuracy': intervals['estimate'],
                       'low': limits[0], 'high': limits[1], 'p': float(min(1, p))})
    for row, corrected in zip(slices, holm([row['p'] for row in slices])):
        row['holm'] = corrected
    return sorted(slices, key=lambda row: row['accuracy'])


# Near-duplicates

class Twin(NamedTuple):
    """A text and the most similar text of a split that it should not repeat."""
    split: str
    row: int
    other_split: str
    other_row: int
    similarity: float       # Jaccard's, of their shingles
    n: int                  # how many texts of the other split are similar


def shingles_of(texts, numbers):
    """Yield the distinct shingles of each text, uint64 [S], ascending: SHINGLE words in a row,
    lower case. A shorter text is one shingle; a text without a word has none.

    numbers: {word: its number}, which grows. Up to two million words, shingles are distinct.
    """
    for text in texts:
        words = re.findall(r'\w+', text.lower())
        ids = [numbers.setdefault(word, len(numbers) + 1) for word in words]
        if words:
            ids += [0] * (SHINGLE - len(ids))
        ids = np.array(ids, np.uint64) % np.uint64(2 ** 21)
        keys = np.zeros(max(0, len(ids) - SHINGLE + 1), np.uint64)
        for k in range(SHINGLE):
            keys = keys << np.uint64(21) | ids[k:len(keys) + k]
        yield np.unique(keys)


def jaccard(a, b):
    """The similarity of two sets, arrays of distinct numbers: the size of their intersection over
    that of their union."""
    n_shared = len(np.intersect1d(a, b, assume_unique=True))
    return n_shared / (len(a) + len(b) - n_shared)


def find_twins(texts):
    """{split: an iterable of texts} -> [Twin], those in train first, the most similar before the
    others: one for each text of val with a near-duplicate in train, and for each of test with one
    in train or in val."""
    numbers = {}
    shingles = {}
    sketches = {}
    for split in ('train', 'val', 'test'):
        shingles[split] = list(shingles_of(texts[split], numbers))
        sets = (keys.tolist() for keys in shingles[split])
        sketches[split] = list(tqdm(
            MinHash.generator(sets, num_perm=BANDS * BAND_ROWS, scheme='affine64', hashfunc=int),
            f'MinHash of {split}', leave=False, unit=' texts', disable=None))

    twins = []
    for other, later in EARLIER.items():
        index = MinHashLSH(num_perm=BANDS * BAND_ROWS, params=(BANDS, BAND_ROWS))
        for row, sketch in enumerate(sketches[other]):
            if len(shingles[other][row]):
                index.insert(row, sketch, check_duplication=False)
        for split in later:
            for row, sketch in enumerate(tqdm(sketches[split], f'{split} in {other}', leave=False,
                                               disable=None)):
                keys = shingles[split][row]
                candidates = sorted(index.query(sketch)) if len(keys) else []
                similar = [(jaccard(keys, shingles[other][i]), i) for i in candidates]
                similar = [(similarity, i) for similarity, i in similar if similarity > SIMILAR]
                if similar:
                    similarity, i = max(similar, key=lambda pair: pair[0])
                    twins.append(Twin(split, row, other, i, similarity, len(similar)))
    return sorted(twins, key=lambda twin: (twin.other_split != 'train', -twin.similarity))


# Tokens

@dataclass
class Attributions:
    """The attributions of the tokens of val: see `TextClassifier.leave_out`."""
    n_texts: int            # number of texts that were used
    n_val: int              # number of texts of val
    ids: np.ndarray         # int [T]: the tokens
    pieces: list            # [T] strings
    counts: np.ndarray      # int [T]: number of texts that contain the token
    sums: np.ndarray        # [T, classes]: sum of its attributions, in log-odds of a class
    decided: np.ndarray     # int [T]: number of texts whose answer would change without it


def attribute_tokens(classifier, texts):
    """A `TextClassifier` and the texts of val -> `Attributions`. The attribution of a token to a
    class is the log-odds of the class, minus those without the token, wherever it stands."""
    # if there are many long texts, every k-th is enough
    tokens = classifier.tokens(texts)
    cost = sum(len(np.unique(text)) * len(text) for text in tokens)
    tokens = tokens[::math.ceil(cost / MAX_VARIANT_TOKENS)]

    n_vocab = classifier.encoding.n_vocab
    counts = np.zeros(n_vocab, np.int64)
    decided = np.zeros(n_vocab, np.int64)
    sums = np.zeros((n_vocab, len(classifier.classes)))
    waiting = []
    n_variants = 0
    for i, text in enumerate(tqdm(tokens, 'tokens', unit=' texts', leave=False, disable=None)):
        waiting.append(text)
        n_variants += len(np.unique(text)) + 1
        if n_variants < VARIANTS and i < len(tokens) - 1:
            continue
        for kinds, p, without in classifier.leave_out(waiting):
            counts[kinds] += 1
            sums[kinds] += log_odds(p) - log_odds(without)
            changed = classifier.labels.decide(without) != classifier.labels.decide(p)
            decided[kinds] += changed.any(1) if classifier.multi_label else changed
        waiting = []
        n_variants = 0

    ids = np.flatnonzero(counts)
    pieces = []
    for token in ids.tolist():
        piece = classifier.encoding.decode_single_token_bytes(token)
        pieces.append(piece.decode('utf-8', 'replace'))
    return Attributions(
        n_texts=len(tokens),
        n_val=len(texts),
        ids=ids,
        pieces=pieces,
        counts=counts[ids],
        sums=sums[ids],
        decided=decided[ids],
    )
