"""What the runs of a group get wrong, as one HTML page and CSVs: python evaluate.py out/best --page

The texts are those of val and test together, which no run was trained on; N is how many they are.
Whatever a text, a class or a token says is shown as text: every string passes through `escape`,
and the page forbids itself scripts and all that would have to be loaded.

Notable:
- Labels that look wrong, by confident learning (nanoloss/stats.py); near-duplicates by MinHash
  over shingles of words (Broder 1997), with datasketch, and their true similarity.
- Slices: the worst of many is worse by chance, so each has an exact p, corrected for their number.
- In a CSV, texts are cut to MAX_CHARS characters, and one that a spreadsheet would take for a
  formula has a ' before it.
"""
import base64
import csv
import hashlib
import io
import re
from collections import defaultdict
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np
from scipy.stats import hypergeom
from tqdm import tqdm

from nanoloss.settings import fail
from nanoloss.escape import shortened
from nanoloss.stats import as_two_runs, confident_classes, holm, interval

try:
    from datasketch import MinHash, MinHashLSH
except ImportError as error:
    fail(f'--page: {error}; pip install -r requirements-extra.txt')

SHOWN = 20        # texts, slices, tokens or twins in a list of the page; the CSVs have all
MAX_CLASSES = 12  # with more of them the confusion matrix is only in its CSV
TOKEN_CLASSES = 6  # for so many classes the page lists tokens, the most frequent first
MAX_CHARS = 2000  # of a text
SUMMARY_CHARS = 160  # of a longer text, before it is opened
MIN_TEXTS = 10    # of a slice
N_LENGTHS = 5     # slices by length
HISTOGRAM_BINS = 20

# near-duplicates: of two texts with a Jaccard similarity s, 21 bands of 3 find 1 - (1 - s^3)^21:
# 94 % at .5, 99.98 % at .7
SHINGLE = 3  # words
SIMILAR = 0.5
BANDS = 21
BAND_ROWS = 3
EARLIER = {'train': ('val', 'test'), 'val': ('test',)}  # {split: those that should not repeat it}


@dataclass
class Answers:
    """What the runs of a group answered to the texts of val and test, and these texts."""
    label: str              # of the group
    dataset: str
    classes: list           # their names
    train_texts: list       # of strings
    train_labels: np.ndarray  # as `labels`
    texts: list             # [N] strings: val, then test
    splits: np.ndarray      # [N] 'val' or 'test'
    rows: np.ndarray        # int [N], within the split
    lengths: np.ndarray     # int [N], in tokens
    groups: np.ndarray      # int [N], or None where the data has no groups
    labels: np.ndarray      # int [N] or, of several labels a text, 0 and 1 [N, classes]
    probs: np.ndarray       # [runs, N, classes], temperature-scaled
    unscaled: np.ndarray    # the same as trained, or None where these are no probabilities
    correct: np.ndarray     # bool [runs, N]
    accuracy: dict          # on test: evaluate.py's summarize_accuracy
    measures: dict          # {name: its mean over the runs, or None}, on test
    drawn: bool             # whether a run of another seed would differ

    def __post_init__(self):
        self.multi_label = self.labels.ndim == 2
        self.mean_probs = self.probs.mean(0)
        if self.multi_label:
            self.decisions = self.probs > 0.5           # bool [runs, N, classes]
            self.wrong = ((self.mean_probs > 0.5) != self.labels).any(1)
        else:
            self.decisions = self.probs.argmax(2)       # int [runs, N]
            self.wrong = self.mean_probs.argmax(1) != self.labels

    def name_of(self, label):
        """A row of `labels` or of decisions of its kind, as text."""
        if self.multi_label:
            return ';'.join(self.classes[k] for k in np.flatnonzero(label))
        return self.classes[label]

    def answer_of(self, i):
        """What the mean of the runs answers to a text, as text."""
        if self.multi_label:
            return self.name_of(self.mean_probs[i] > 0.5)
        return self.name_of(self.mean_probs[i].argmax())

    def place_of(self, i):
        """Where a text is, as 'test 17'."""
        return f'{self.splits[i]} {self.rows[i]}'


@dataclass
class TokenWorths:
    """What the tokens of val are worth to a run, see `Classifier.leave_out`."""
    n_texts: int            # how many of the
    n_val: int              # texts of val were looked at
    ids: np.ndarray         # int [T]: the tokens
    pieces: list            # [T] strings
    counts: np.ndarray      # int [T]: in how many of the texts
    sums: np.ndarray        # [T, classes]: the sum of its worths, in log-odds of a class
    decided: np.ndarray     # int [T]: in how many of the texts it alone makes the decision


class Section(NamedTuple):
    """A part of the page."""
    id: str
    title: str
    finding: str            # a sentence for the beginning of the page, or ''
    body: str               # HTML
    columns: list = ()      # of the CSV of the section's name, if there are any
    rows: list = ()


# HTML and CSV

def clean(text):
    """Without the control characters that no page and no spreadsheet shows."""
    text = text.replace('\r\n', '\n')
    return re.sub(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]', '\ufffd', text)


def shorten(text):
    """At most MAX_CHARS characters of a text."""
    text = clean(text)
    return text if len(text) <= MAX_CHARS else text[:MAX_CHARS] + ' ...'


def paragraph(text):
    return f'<p>{escape(clean(text))}</p>'


def shown(name):
    """A name, such as a class's, as HTML."""
    return escape(clean(shortened(name)))


def quote(text):
    """A text of the data; a long one is opened by a click."""
    text = shorten(text)
    # dir isolates it: a text cannot turn round what stands beside it
    whole = f'<blockquote dir="auto">{escape(text)}</blockquote>'
    if len(text) <= SUMMARY_CHARS:
        return whole
    beginning = escape(text[:SUMMARY_CHARS])
    return f'<details><summary dir="auto">{beginning} ...</summary>{whole}</details>'


def scrolling_table(caption, headings, rows):
    """rows: lists of cells, the first of which names its row; numbers come formatted."""
    caption = shown(caption)
    head = ''.join(f'<th scope="col" dir="auto">{shown(heading)}</th>' for heading in headings)
    lines = []
    for name, *cells in rows:
        data = ''.join(f'<td dir="auto">{escape(clean(cell))}</td>' for cell in cells)
        lines.append(f'<tr><th scope="row" dir="auto">{shown(name)}</th>{data}</tr>\n')
    # a keyboard can scroll what has the focus
    return (f'<div class="wide" role="region" tabindex="0" aria-label="{caption}">\n'
            f'<table><caption>{caption}</caption>\n'
            f'<thead><tr>{head}</tr></thead>\n<tbody>{"".join(lines)}</tbody></table></div>\n')


def text_list(items):
    """items: pairs of a line and the texts below it."""
    lines = []
    for line, texts in items:
        quotes = ''.join(quote(text) for text in texts)
        lines.append(f'<li><p dir="auto">{escape(clean(line))}</p>{quotes}</li>\n')
    return f'<ol>\n{"".join(lines)}</ol>\n'


def csv_cell(value):
    """Numbers as they are, with six digits; a text so that no spreadsheet computes it."""
    if value is None:
        return ''
    if isinstance(value, (float, np.floating)):
        return f'{value:.6g}'
    if not isinstance(value, str):
        return str(value)
    text = shorten(value)
    return "'" + text if text.startswith(('=', '+', '-', '@', '\t')) else text


def csv_bytes(columns, rows):
    """A table as the bytes of a CSV file."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator='\n')
    writer.writerow([csv_cell(name) for name in columns])
    for row in rows:
        writer.writerow([csv_cell(value) for value in row])
    return buffer.getvalue().encode()


def percent(share):
    return f'{100 * share:.1f} %'


def seeds_of(answers):
    n = len(answers.correct)
    return f'all {n} seeds' if n > 1 else 'the one run'


# Confusion

def confusion_examples(answers, label, answer):
    """Two texts of a label to which a run gave this answer, the surest first: their indices."""
    given = (answers.decisions == answer).any(0) & (answers.labels == label)
    rows = np.flatnonzero(given)
    surest = np.argsort(-answers.mean_probs[rows, answer], kind='stable')
    return rows[surest[:2]]


def confusion_section(answers):
    """How often each class is taken for which."""
    if answers.multi_label:
        return label_section(answers)
    classes = answers.classes
    n_class = len(classes)
    n_runs = len(answers.decisions)
    counts = np.zeros((n_class, n_class), np.int64)  # [label, answer], of all runs together
    for decisions in answers.decisions:
        np.add.at(counts, (answers.labels, decisions), 1)
    of_label = counts.sum(1)

    body = paragraph(f'Of the answers of {seeds_of(answers)} to val and test: the mean number of '
                     'texts, and the share of those of the label.')
    if n_class <= MAX_CLASSES:
        lines = []
        for k in range(n_class):
            cells = [f'{count / n_runs:,.1f} ({percent(count / max(1, of_label[k]))})'
                     for count in counts[k]]
            lines.append([classes[k], *cells])
        body += scrolling_table('Labels (rows) and answers (columns)', ['label', *classes], lines)

    # what is confused, the most frequent first
    rows = []
    items = []
    for cell in np.argsort(-counts, axis=None, kind='stable'):
        label, answer = divmod(int(cell), n_class)
        count = counts[label, answer]
        if not count:
            break
        examples = []
        if label != answer:
            examples = [int(i) for i in confusion_examples(answers, label, answer)]
            line = (f'{classes[label]}, taken for {classes[answer]}: {count / n_runs:,.1f} texts, '
                    f'{percent(count / of_label[label])} of the label. The surest:')
            items.append((line, [answers.texts[i] for i in examples]))
        rows.append([classes[label], classes[answer], count / n_runs, count / of_label[label],
                     ' '.join(answers.place_of(i).replace(' ', ':') for i in examples)])
    body += f'<h3>Examples</h3>\n{text_list(items[:SHOWN])}'
    return Section('confusion', 'Confusion matrix', '', body,
                   ['label', 'answer', 'texts', 'share_of_label', 'examples'], rows)


def label_section(answers):
    """Of several labels a text, how often each is given where it belongs and where it does not."""
    labels = answers.labels.astype(bool)
    rows = []
    items = []
    for k, name in enumerate(answers.classes):
        given = answers.decisions[:, :, k]
        right = (given & labels[:, k]).sum() / len(given)
        missed = labels[:, k].sum() - right
        wrong = given.sum() / len(given) - right
        rows.append([name, int(labels[:, k].sum()), right, missed, wrong])
        # the text that lacks the label and most surely gets it, and the other way round
        p = answers.mean_probs[:, k]
        surest = np.where(labels[:, k], 0, p).argmax()
        if not labels[surest, k] and p[surest] > 0.5:
            items.append((wrong, f'{name}, given where it does not belong', surest))
        surest = np.where(labels[:, k], p, 1).argmin()
        if labels[surest, k] and p[surest] <= 0.5:
            items.append((missed, f'{name}, missed', surest))
    rows.sort(key=lambda row: -row[3] - row[4])
    items.sort(key=lambda item: -item[0])

    lines = []
    for name, n, right, missed, wrong in rows:
        lines.append([name, f'{n:,}', f'{right:,.1f}', f'{missed:,.1f}', f'{wrong:,.1f}'])
    body = paragraph('A text may have several labels, so each is a decision of its own, and there '
                     'is no confusion matrix. Mean numbers of texts of val and test.')
    headings = ['label', 'texts with it', 'given and right', 'missed', 'given and wrong']
    body += scrolling_table('Each label', headings, lines)
    shown = []
    for count, line, i in items[:SHOWN]:
        shown.append((f'{line}: {count:,.1f} texts. The surest:', [answers.texts[i]]))
    body += f'<h3>Examples</h3>\n{text_list(shown)}'
    return Section('confusion', 'Label by label', '', body,
                   ['label', 'texts', 'right', 'missed', 'wrong'], rows)


# Mistakes and wrong labels

def find_mistakes(answers):
    """The texts that every run gets wrong or that look mislabelled, the latter first.

    Returns their indices int [M], whether they look mislabelled bool [M], and how far their answer
    is from their label, [M]: its probability minus that of the label or, of several labels, how
    far the worst probability is off.
    """
    p = answers.mean_probs
    if answers.multi_label:
        mislabelled = np.zeros(len(p), bool)
        margins = abs(p - answers.labels).max(1)
    else:
        sure = confident_classes(p, answers.labels)
        mislabelled = (sure >= 0) & (sure != answers.labels)
        of_label = p[np.arange(len(p)), answers.labels]
        others = p.copy()
        others[np.arange(len(p)), answers.labels] = -1
        margins = others.max(1) - of_label
    rows = np.flatnonzero(mislabelled | ~answers.correct.any(0))
    rows = rows[np.lexsort([-margins[rows], ~mislabelled[rows]])]
    return rows, mislabelled[rows], margins[rows]


def mistakes_section(answers):
    """The texts that all seeds get wrong, wrong labels first."""
    indices, mislabelled, margins = find_mistakes(answers)
    all_wrong = ~answers.correct[:, indices].any(0)
    n = len(answers.texts)
    seeds = seeds_of(answers)

    rows = []
    items = []
    for i, looks_wrong, margin, by_all in zip(indices, mislabelled, margins, all_wrong):
        label = answers.name_of(answers.labels[i])
        answer = answers.answer_of(i)
        n_wrong = int((~answers.correct[:, i]).sum())
        rows.append([str(answers.splits[i]), answers.rows[i], label, answer, margin, n_wrong,
                     bool(looks_wrong), answers.texts[i]])
        if by_all:
            note = ', looks mislabelled' if looks_wrong else ''
            items.append((f'{answers.place_of(i)}: labelled {label or "-"}, answered '
                          f'{answer or "-"} (margin {margin:.3f}){note}', [answers.texts[i]]))

    finding = f'{len(items):,} of {n:,} texts of val and test are answered wrongly by {seeds}.'
    if answers.multi_label:
        note = ('Confident learning is for one label a text, so it is left out here. The margin is '
                'how far the worst probability of a text is off.')
    else:
        count = int(mislabelled.sum())
        finding = (f'{count:,} of the {n:,} texts of val and test look mislabelled, '
                   f'{percent(count / n)}; {finding}')
        note = ('A text looks mislabelled if the mean probability of another class is at least '
                'what the texts of that class get on average (confident learning, Northcutt 2021). '
                'The models err as well, at irony for one, so these are texts to read, not labels '
                'known to be wrong. The margin is the probability of the likeliest other class '
                'minus that of the label.')
    body = paragraph(finding) + paragraph(note)
    body += paragraph(f'The first {min(SHOWN, len(items))} of those that are answered wrongly by '
                      f'{seeds}, by their margin, those that look mislabelled first:')
    body += text_list(items[:SHOWN])
    columns = ['split', 'row', 'label', 'answer', 'margin', 'wrong_runs', 'looks_mislabelled',
               'text']
    return Section('mistakes', 'Wrong in every seed', finding, body, columns, rows)


# Slices

def slice_masks(answers):
    """Yield (kind, name, bool [N]) for every slice of at least MIN_TEXTS texts."""
    n_class = len(answers.classes)
    slices = []
    for k in range(n_class):
        has = answers.labels[:, k] == 1 if answers.multi_label else answers.labels == k
        slices.append(('class', answers.classes[k], has))

    edges = np.quantile(answers.lengths, np.linspace(0, 1, N_LENGTHS + 1)[1:-1], method='lower')
    fifths = np.searchsorted(edges, answers.lengths)  # a length on an edge is in the lower one
    for k in np.unique(fifths):
        lengths = answers.lengths[fifths == k]
        slices.append(('length', f'{lengths.min():,} to {lengths.max():,} tokens', fifths == k))

    if answers.groups is not None:
        groups, counts = np.unique(answers.groups, return_counts=True)
        for group in groups[counts >= MIN_TEXTS]:
            slices.append(('group', str(group), answers.groups == group))
    for kind, name, mask in slices:
        if mask.sum() >= MIN_TEXTS:
            yield kind, name, mask


def measure_slices(answers):
    """Every slice: {kind, name, n, accuracy and its interval low, high in % (None for a single
    run), p: how likely a random draw of n texts has as many of the wrong ones, holm}, the worst
    first.

    Wrong are the texts that the mean of the runs gets wrong; the accuracy is that of the runs.
    """
    slices = []
    n_wrong = int(answers.wrong.sum())
    for kind, name, mask in slice_masks(answers):
        correct = answers.correct[:, mask]
        if not answers.drawn:
            correct = as_two_runs(correct)
        clusters = None if answers.groups is None else answers.groups[mask]
        intervals = interval(correct, clusters=clusters)
        n = int(mask.sum())
        limits = intervals['both'] or (None, None)
        wrong = int(answers.wrong[mask].sum())
        p = hypergeom.sf(wrong - 1, len(mask), n_wrong, n)
        slices.append({'kind': kind, 'name': name, 'n': n, 'accuracy': intervals['estimate'],
                       'low': limits[0], 'high': limits[1], 'p': float(min(1, p))})
    for row, corrected in zip(slices, holm([row['p'] for row in slices])):
        row['holm'] = corrected
    return sorted(slices, key=lambda row: row['accuracy'])


def slices_section(answers):
    """Accuracy by class, length and group."""
    slices = measure_slices(answers)
    shown_worse = [row for row in slices if row['holm'] <= 0.05]
    looked_at = f'{len(slices):,} slices of at least {MIN_TEXTS} texts'
    if shown_worse:
        worst = shown_worse[0]
        finding = (f'Slices that do worse than chance explains, of {looked_at}: '
                   f'{len(shown_worse)}; the worst is {worst["kind"]} {worst["name"]}, with '
                   f'{worst["accuracy"]:.1f} % of {worst["n"]:,} texts right.')
    else:
        finding = f'Of {looked_at}, none does worse than chance explains.'

    body = paragraph(finding) + paragraph(
        'Accuracy on val and test with its 95 % interval for other seeds and other texts, the '
        'worst slices first. The worst of many is bad by chance alone: p is the chance that as '
        'many texts, drawn at random, have as many of the wrong answers; Holm corrects it for the '
        'number of slices. A slice with a Holm of at most .05 does worse than the others.')
    for kind in ('class', 'length', 'group'):
        lines = []
        of_kind = [row for row in slices if row['kind'] == kind]
        for row in of_kind[:SHOWN]:
            both = '-' if row['low'] is None else f'{row["low"]:.1f} to {row["high"]:.1f}'
            lines.append([row['name'], f'{row["n"]:,}', f'{row["accuracy"]:.1f}', both,
                          f'{row["p"]:.2g}', f'{row["holm"]:.2g}'])
        if lines:
            headings = [kind, 'texts', 'accuracy, %', '95 % interval', 'p', 'Holm']
            count = f'the worst {len(lines)} of {len(of_kind):,}'
            body += scrolling_table(f'By {kind}: {count}', headings, lines)
    columns = ['kind', 'name', 'n', 'accuracy', 'low', 'high', 'p', 'holm']
    rows = [[row[name] for name in columns] for row in slices]
    return Section('slices', 'Slices that do worse', finding, body, columns, rows)


# Tokens

def tokens_section(answers, worths, reason):
    """worths: TokenWorths, or None, for this reason."""
    title = 'Tokens that move decisions'
    if worths is None:
        return Section('tokens', title, '', paragraph(f'Not known here: {reason}.'))

    over_val = worths.sums / worths.n_texts
    which = f'all {worths.n_val:,} texts'
    if worths.n_texts < worths.n_val:
        which = f'{worths.n_texts:,} of the {worths.n_val:,} texts, evenly spread,'
    body = paragraph(
        f'What a token is worth to a class: the log-odds of the class with all of a text, minus '
        f'those without this token, wherever it stands; of the first run, over {which} of val. '
        'Ranked by the mean over these texts, 0 where the token does not occur: what moves many '
        'decisions comes before what moves a few far. A token decides where the answer without it '
        'is another.')
    if len(answers.classes) == 2 and not answers.multi_label:
        body += paragraph('Of two classes, what speaks for one speaks against the other.')
    if answers.multi_label:
        sizes = answers.labels.sum(0)
    else:
        sizes = np.bincount(answers.labels, minlength=len(answers.classes))
    frequent = np.argsort(-sizes, kind='stable')[:TOKEN_CLASSES]
    for k in sorted(frequent):
        lines = []
        for i in np.argsort(-over_val[:, k], kind='stable')[:SHOWN]:
            if over_val[i, k] <= 0:
                break
            lines.append([worths.pieces[i].replace(' ', '\u2423'), f'{over_val[i, k]:+.4f}',
                          f'{worths.sums[i, k] / worths.counts[i]:+.3f}',
                          f'{worths.counts[i]:,}', f'{worths.decided[i]:,}'])
        headings = ['token', 'worth, all texts', 'where it occurs', 'texts', 'decides']
        body += scrolling_table(f'For {answers.classes[k]}', headings, lines)

    columns = ['token', 'piece', 'texts', 'decides']
    columns += [f'worth_{name}' for name in answers.classes]
    rows = []
    for i in np.argsort(-abs(over_val).max(1), kind='stable'):
        means = worths.sums[i] / worths.counts[i]
        rows.append([worths.ids[i], worths.pieces[i], worths.counts[i], worths.decided[i], *means])
    return Section('tokens', title, '', body, columns, rows)


# Near-duplicates

class Twin(NamedTuple):
    """A text and, of a split that it should not repeat, the text that is most like it."""
    split: str
    row: int
    other_split: str
    other_row: int
    similarity: float       # Jaccard's, of their shingles
    n: int                  # how many texts of the other split are about as similar


def shingles_of(texts, numbers):
    """Yield the distinct shingles of each text, uint64 [S], ascending: SHINGLE words in a row,
    lower case. A shorter text is one shingle; one without a word has none.

    numbers: {word: its number}, which grows. Up to two million words, no two shingles are one.
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
    """How similar two sets, arrays of distinct numbers, are: what they share of all they have."""
    n_shared = len(np.intersect1d(a, b, assume_unique=True))
    return n_shared / (len(a) + len(b) - n_shared)


def find_twins(texts):
    """{split: an iterable of texts} -> [Twin], those in train first, the most similar before the
    others: for each text of val that has one in train, of test that has one in train or in val."""
    numbers = {}
    shingles = {}
    sketches = {}
    for split in ('train', 'val', 'test'):
        shingles[split] = list(shingles_of(texts[split], numbers))
        sets = (keys.tolist() for keys in shingles[split])
        sketches[split] = list(tqdm(
            MinHash.generator(sets, num_perm=BANDS * BAND_ROWS, scheme='affine64', hashfunc=int),
            f'MinHash of {split}', leave=False, unit=' texts'))

    twins = []
    for other, later in EARLIER.items():
        index = MinHashLSH(num_perm=BANDS * BAND_ROWS, params=(BANDS, BAND_ROWS))
        for row, sketch in enumerate(sketches[other]):
            if len(shingles[other][row]):
                index.insert(row, sketch, check_duplication=False)
        for split in later:
            for row, sketch in enumerate(tqdm(sketches[split], f'{split} in {other}', leave=False)):
                keys = shingles[split][row]
                candidates = sorted(index.query(sketch)) if len(keys) else []
                similar = [(jaccard(keys, shingles[other][i]), i) for i in candidates]
                similar = [(similarity, i) for similarity, i in similar if similarity > SIMILAR]
                if similar:
                    similarity, i = max(similar, key=lambda pair: pair[0])
                    twins.append(Twin(split, row, other, i, similarity, len(similar)))
    return sorted(twins, key=lambda twin: (twin.other_split != 'train', -twin.similarity))


def twins_section(answers):
    """Texts that stand nearly so in a split before theirs."""
    texts = {'train': answers.train_texts}
    labels = {'train': answers.train_labels}
    first = {}  # of a split's texts, in the order of the answers
    for split in ('val', 'test'):
        rows = np.flatnonzero(answers.splits == split)
        first[split] = rows[0]
        texts[split] = [answers.texts[i] for i in rows]
        labels[split] = answers.labels[rows]
    twins = find_twins(texts)

    counts = defaultdict(int)
    in_train = np.zeros(len(answers.texts), bool)
    for twin in twins:
        counts[twin.split, twin.other_split] += 1
        if twin.other_split == 'train':
            in_train[first[twin.split] + twin.row] = True
    lines = []
    for other, later in EARLIER.items():
        for split in later:
            n = counts[split, other]
            lines.append([f'{split} in {other}', f'{n:,}', f'{len(texts[split]):,}',
                          f'{100 * n / len(texts[split]):.2f} %'])

    test = answers.splits == 'test'
    n_train = counts['val', 'train'] + counts['test', 'train']
    finding = (f'{n_train:,} texts of val and test have a near-duplicate in train, and '
               f'{counts["test", "val"]:,} of test one in val.')
    effect = ''
    if in_train[test].any() and not in_train[test].all():
        with_them = 100 * answers.correct[:, test].mean()
        without = 100 * answers.correct[:, test & ~in_train].mean()
        effect = (f' Accuracy on test is {with_them:.2f} %; without the texts that have one in '
                  f'train, it is {without:.2f} %.')

    body = paragraph(finding + effect) + paragraph(
        f'Near-duplicates: texts that share more than {100 * SIMILAR:.0f} % of their shingles of '
        f'{SHINGLE} words in a row (Jaccard similarity, in lower case, without punctuation). '
        'They are found by MinHash, which misses 6 % of those just above that limit and hardly '
        'any of those above 70 %; of each text the closest is given.')
    body += scrolling_table('Texts with a near-duplicate', ['', 'texts', 'of', 'share'], lines)

    items = []
    rows = []
    for twin in twins:
        text = texts[twin.split][twin.row]
        other_text = texts[twin.other_split][twin.other_row]
        label = answers.name_of(labels[twin.split][twin.row])
        other_label = answers.name_of(labels[twin.other_split][twin.other_row])
        line = (f'{twin.split} {twin.row} ({label or "-"}) and {twin.other_split} '
                f'{twin.other_row} ({other_label or "-"}): similarity {twin.similarity:.2f}')
        items.append((line, [text, other_text]))
        rows.append([*twin, label, other_label, text, other_text])
    body += f'<h3>The closest, those in train first</h3>\n{text_list(items[:SHOWN])}'
    columns = ['split', 'row', 'other_split', 'other_row', 'similarity', 'similar_texts', 'label',
               'other_label', 'text', 'other_text']
    return Section('near_duplicates', 'Near-duplicates across splits', finding, body, columns, rows)


# Probabilities

def histogram(answers, probs):
    """The probabilities on test in HISTOGRAM_BINS bins from 0 to 1, means over the runs: [bins, 2],
    right and wrong ones.

    Of two classes that of the second, of more that of the answer, of several labels each of them;
    right is the decision.
    """
    test = answers.splits == 'test'
    p = probs[:, test]
    if answers.multi_label:
        right = (p > 0.5) == answers.labels[test]
    else:
        right = p.argmax(2) == answers.labels[test]
        p = p[:, :, 1] if p.shape[2] == 2 else p.max(2)
    counts = []
    for mask in (right, ~right):
        counts.append(np.histogram(p[mask], HISTOGRAM_BINS, (0, 1))[0] / len(probs))
    return np.stack(counts, 1)


def draw_histogram(title, counts, highest):
    """Bars as SVG: right answers, and wrong ones on top of them."""
    width = 320
    height = 130
    left = 8
    step = (width - 2 * left) / len(counts)
    bars = []
    for k, (right, wrong) in enumerate(counts):
        x = left + k * step
        base = height
        for kind, count in (('right', right), ('wrong', wrong)):
            size = (height - 10) * count / highest
            base -= size
            bars.append(f'<rect class="{kind}" x="{x + 0.5:.1f}" y="{base:.2f}" '
                        f'width="{step - 1:.1f}" height="{size:.2f}"/>')
    ticks = []
    for share in (0, 0.5, 1):
        x = left + share * (width - 2 * left)
        ticks.append(f'<text x="{x:.0f}" y="{height + 14}">{100 * share:.0f} %</text>')
    return (f'<figure><svg viewBox="-12 0 {width + 24} {height + 20}" role="img" '
            f'aria-label="{escape(title)}: histogram; its numbers are in the table below">'
            f'{"".join(bars)}{"".join(ticks)}</svg><figcaption>{escape(title)}</figcaption>'
            '</figure>\n')


def probabilities_section(answers):
    """The histogram before and after temperature scaling."""
    after = histogram(answers, answers.probs)
    before = None if answers.unscaled is None else histogram(answers, answers.unscaled)
    if answers.multi_label:
        what = 'every probability of a label'
    elif len(answers.classes) == 2:
        what = f'the probability of {answers.classes[1]}'
    else:
        what = 'the probability of the answer'
    ece = answers.measures['ECE, scaled']
    finding = (f'Probabilities are off by {ece:.2f} points on average after temperature scaling '
               f'(ECE on test; T = {answers.measures["temperature"]:.2f})')
    if before is None:
        finding += '; as trained, the outputs are no probabilities.'
    else:
        finding += f', by {answers.measures["ECE"]:.2f} as trained.'
    body = paragraph(finding) + paragraph(
        f'How many texts of test get which probability, mean of the runs: {what}. '
        'Below, in blue, right answers, on top of them, in orange, wrong ones.')

    highest = after.sum(1).max()
    headings = ['probability, %', 'after: right', 'wrong']
    columns = [after]
    figures = ''
    if before is not None:
        highest = max(highest, before.sum(1).max())
        headings += ['before: right', 'wrong']
        columns.append(before)
        figures += draw_histogram('Before temperature scaling', before, highest)
    figures += draw_histogram('After temperature scaling', after, highest)
    lines = []
    for k, counts in enumerate(np.concatenate(columns, 1)):
        low = 100 * k / HISTOGRAM_BINS
        name = f'{low:.0f} to {low + 100 / HISTOGRAM_BINS:.0f}'
        lines.append([name, *[f'{count:,.1f}' for count in counts]])
    table = scrolling_table('Mean number of answers', headings, lines)
    body += (f'<div class="figures">{figures}</div>\n'
             f'<details><summary>The numbers</summary>{table}</details>\n')
    return Section('probabilities', 'Probabilities before and after calibration', finding, body)


# The page

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --faint: #5c5c5c; --line: #ccc;
  --panel: #f4f4f4; --link: #005a96; --right: #0072b2; --wrong: #d55e00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #161616; --faint: #a8a8a8;
  --line: #444; --panel: #222; --link: #7cc0f0; --right: #56b4e9; --wrong: #e69f00 } }
body { max-width: 54rem; margin: 0 auto; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1, h2, h3 { line-height: 1.2 }
h2 { margin-top: 2.5rem; padding-top: .5rem; border-top: 1px solid var(--line) }
a { color: var(--link) }
.wide { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal }
caption { text-align: left; font-weight: bold; padding-bottom: .3rem }
td { white-space: nowrap }
th, td { padding: .2rem .7rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line) }
th[scope=row], th:first-child { text-align: left; font-weight: normal; white-space: pre-wrap }
thead th, thead th:first-child { color: var(--faint); font-weight: normal; vertical-align: bottom }
li { margin-bottom: .8rem }
li p { margin: 0 }
blockquote { margin: .3rem 0; padding: .4rem .8rem; background: var(--panel);
  border-left: 3px solid var(--line); white-space: pre-wrap }
summary { cursor: pointer }
.figures { display: flex; flex-wrap: wrap; gap: 1rem }
figure { flex: 1 1 16rem; margin: 0 }
svg { width: 100%; border-bottom: 0 }
svg text { fill: var(--faint); font-size: 11px; text-anchor: middle }
.right { fill: var(--right) }
.wrong { fill: var(--wrong) }
"""


def verdict(answers):
    """The accuracy, a sentence."""
    accuracy = answers.accuracy
    runs = len(answers.correct)
    text = f'{accuracy["mean"]:.2f} % of the {accuracy["n"]:,} texts of test are answered right'
    if accuracy['both']:
        low, high = accuracy['both']
        whom = 'other seeds and other texts' if answers.drawn else 'other texts'
        return f'{text} (95 % interval for {whom}: {low:.2f} to {high:.2f}; runs: {runs}).'
    return f'{text} (one run, so no interval for other seeds).'


def assemble(answers, sections):
    """Sections -> the HTML page."""
    title = clean(f'What {answers.label} gets wrong on {answers.dataset}')
    findings = [verdict(answers), *[section.finding for section in sections if section.finding]]
    items = ''.join(f'<li>{escape(clean(finding))}</li>\n' for finding in findings)
    contents = ''.join(f'<li><a href="#{section.id}">{escape(section.title)}</a></li>\n'
                       for section in sections)
    bodies = []
    for section in sections:
        note = ''
        if section.rows:
            note = paragraph(f'All of it: {section.id}.csv, beside this page.')
        bodies.append(f'<section id="{section.id}">\n<h2>{escape(section.title)}</h2>\n'
                      f'{section.body}{note}</section>\n')
    # no script runs and nothing is loaded, whatever a text says; the style is known by its checksum
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = (f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
              "form-action 'none'")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1 dir="auto">{escape(title)}</h1>
<ul>
{items}</ul>
</header>
<nav aria-label="Contents">
<ol>
{contents}</ol>
</nav>
<main>
{"".join(bodies)}</main>
</body>
</html>
"""


def make_page(answers, worths, reason=''):
    """The page and its CSVs, {file name: bytes}.

    worths: the TokenWorths of val, or None, for this reason.
    """
    sections = [
        confusion_section(answers),
        mistakes_section(answers),
        slices_section(answers),
        tokens_section(answers, worths, reason),
        twins_section(answers),
        probabilities_section(answers),
    ]
    files = {'page.html': assemble(answers, sections).encode()}
    for section in sections:
        if section.columns:
            files[f'{section.id}.csv'] = csv_bytes(section.columns, section.rows)
    return files
