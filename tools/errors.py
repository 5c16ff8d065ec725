"""The errors of a group of runs, as one HTML page and CSVs.

    python -m tools.errors out/my

Writes errors.html, confusion.csv, mistakes.csv, slices.csv, tokens.csv and near_duplicates.csv. It
reads the texts of val and test from the data set. The first run attributes the tokens, if its
weights are kept.

Notable:
- Labels that look wrong, by confident learning (nanoloss/stats.py); near-duplicates by MinHash over
  shingles of words (Broder 1997), with datasketch, and their true similarity.
- Slices: the worst of many slices is bad by chance alone, so each has an exact p, corrected for the
  number of slices.
- All texts, classes and tokens are escaped, and the page forbids scripts and external resources.
- In a CSV, texts are cut to 2,000 characters, and a ' precedes a text that a spreadsheet would
  interpret as a formula.
"""
import base64
import hashlib
import re
from collections import defaultdict
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np

from model import make_head
from nanoloss.classifier import TextClassifier
from nanoloss.escape import one_line
from nanoloss.files import write_files
from nanoloss.html import clean, csv_bytes, paragraph, scrolling_table, text_list
from nanoloss.runs import WEIGHTS, check_comparable, read_runs
from nanoloss.settings import configure, fail

try:
    from nanoloss.errors import (
        EARLIER, HISTOGRAM_BINS, MIN_TEXTS, SHINGLE, SIMILAR, SPLITS, attribute_tokens,
        confusion_examples, find_mistakes, find_twins, histogram, measure_slices,
        read_predictions)
except ImportError as error:  # datasketch is missing, which only this tool needs
    fail(f'{error}; pip install -r requirements-extra.txt')

# -----------------------------------------------------------------------------
out_dir = ''       # folder for the page and its CSVs; '' = the one that holds the group
data_dir = 'data'  # folder of data sets
code = ''  # the Python file of a head that is not in model.py; it will be executed
# -----------------------------------------------------------------------------
TEMPLATE = Path(__file__).with_suffix('.html')
SHOWN = 20        # texts, slices, tokens or twins in a list of the page; the CSVs have all
MAX_CLASSES = 12  # with more classes, the confusion matrix is only in its CSV
TOKEN_CLASSES = 6  # classes for which the page lists tokens, the most frequent ones


class Section(NamedTuple):
    """A section of the page."""
    id: str
    title: str
    finding: str            # a sentence for the beginning of the page, or ''
    body: str               # HTML
    columns: list = ()      # of the CSV of the section's name, if there is one
    rows: list = ()


def percent(share):
    return f'{100 * share:.1f} %'


def seeds_of(predictions):
    n = len(predictions.correct)
    return f'all {n} seeds' if n > 1 else 'the one run'


# Confusion

def confusion_section(predictions):
    """The confusion matrix."""
    if predictions.multi_label:
        return label_section(predictions)
    classes = predictions.classes
    n_class = len(classes)
    n_runs = len(predictions.decisions)
    counts = np.zeros((n_class, n_class), np.int64)  # [label, answer], of all runs together
    for decisions in predictions.decisions:
        np.add.at(counts, (predictions.labels, decisions), 1)
    of_label = counts.sum(1)

    body = paragraph(f'Of the answers of {seeds_of(predictions)} to val and test: the mean number '
                     'of texts, and the share of the texts with this label.')
    if n_class <= MAX_CLASSES:
        lines = []
        for k in range(n_class):
            cells = [f'{count / n_runs:,.1f} ({percent(count / max(1, of_label[k]))})'
                     for count in counts[k]]
            lines.append([classes[k], *cells])
        body += scrolling_table('Labels (rows) and answers (columns)', ['label', *classes], lines)

    # the most frequent confusions first
    rows = []
    items = []
    for cell in np.argsort(-counts, axis=None, kind='stable'):
        label, answer = divmod(int(cell), n_class)
        count = counts[label, answer]
        if not count:
            break
        examples = []
        if label != answer:
            examples = [int(i) for i in confusion_examples(predictions, label, answer)]
            line = (f'{classes[label]}, taken for {classes[answer]}: {count / n_runs:,.1f} texts, '
                    f'{percent(count / of_label[label])} of the label. The most confident:')
            items.append((line, [predictions.texts[i] for i in examples]))
        places = ' '.join(predictions.place_of(i).replace(' ', ':') for i in examples)
        rows.append([classes[label], classes[answer], count / n_runs, count / of_label[label],
                     places])
    body += f'<h3>Examples</h3>\n{text_list(items[:SHOWN])}'
    return Section('confusion', 'Confusion matrix', '', body,
                   ['label', 'answer', 'texts', 'share_of_label', 'examples'], rows)


def label_examples(predictions, k):
    """The most confident errors for class k: the index of a text that wrongly gets the label, and
    of one that wrongly does not get it; None if there is no such text."""
    label = predictions.labels[:, k] == 1
    answer = predictions.answers[:, k]
    p = predictions.mean_probs[:, k]
    given = max(np.flatnonzero(answer & ~label), key=p.item, default=None)
    missed = min(np.flatnonzero(label & ~answer), key=p.item, default=None)
    return given, missed


def label_section(predictions):
    """With several labels per text: how often each label is given, correctly and wrongly."""
    labels = predictions.labels.astype(bool)
    rows = []
    items = []
    for k, name in enumerate(predictions.classes):
        given = predictions.decisions[:, :, k]
        right = (given & labels[:, k]).sum() / len(given)
        missed = labels[:, k].sum() - right
        wrong = given.sum() / len(given) - right
        rows.append([name, int(labels[:, k].sum()), right, missed, wrong])
        given_to, missed_in = label_examples(predictions, k)
        if given_to is not None:
            items.append((wrong, f'{name}, given wrongly', given_to))
        if missed_in is not None:
            items.append((missed, f'{name}, missed', missed_in))
    rows.sort(key=lambda row: -row[3] - row[4])
    items.sort(key=lambda item: -item[0])

    lines = []
    for name, n, right, missed, wrong in rows:
        lines.append([name, f'{n:,}', f'{right:,.1f}', f'{missed:,.1f}', f'{wrong:,.1f}'])
    body = paragraph('A text may have several labels, so each label is a separate decision, and '
                     'there is no confusion matrix. Mean numbers of texts of val and test.')
    headings = ['label', 'texts with it', 'given and right', 'missed', 'given and wrong']
    body += scrolling_table('Each label', headings, lines)
    listed = []
    for count, line, i in items[:SHOWN]:
        listed.append((f'{line}: {count:,.1f} texts. The most confident:', [predictions.texts[i]]))
    body += f'<h3>Examples</h3>\n{text_list(listed)}'
    return Section('confusion', 'Label by label', '', body,
                   ['label', 'texts', 'right', 'missed', 'wrong'], rows)


# Mistakes and wrong labels

def mistakes_section(predictions):
    """The texts that all seeds get wrong, those that look mislabelled first."""
    indices, mislabelled, margins = find_mistakes(predictions)
    all_wrong = ~predictions.correct[:, indices].any(0)
    n = len(predictions.texts)
    seeds = seeds_of(predictions)

    rows = []
    items = []
    for i, looks_wrong, margin, by_all in zip(indices, mislabelled, margins, all_wrong):
        label = predictions.name_of(predictions.labels[i])
        answer = predictions.answer_of(i)
        n_wrong = int((~predictions.correct[:, i]).sum())
        rows.append([str(predictions.splits[i]), predictions.rows[i], label, answer, margin,
                     n_wrong, bool(looks_wrong), predictions.texts[i]])
        if by_all:
            note = ', looks mislabelled' if looks_wrong else ''
            items.append((f'{predictions.place_of(i)}: labelled {label or "-"}, answered '
                          f'{answer or "-"} (margin {margin:.3f}){note}', [predictions.texts[i]]))

    finding = f'{len(items):,} of {n:,} texts of val and test are answered wrongly by {seeds}.'
    if predictions.multi_label:
        note = ('Confident learning needs one label per text, so it is left out here. The margin '
                'is the largest error of a probability of the text.')
    else:
        count = int(mislabelled.sum())
        finding = (f'{count:,} of the {n:,} texts of val and test look mislabelled, '
                   f'{percent(count / n)}; {finding}')
        note = ('A text looks mislabelled if the mean probability of another class is at least the '
                'average probability that texts of that class get (confident learning, Northcutt '
                '2021). The models err as well, for example at irony, so these are texts to read, '
                'not labels known to be wrong. The margin is the probability of the likeliest '
                'other class minus that of the label.')
    body = paragraph(finding) + paragraph(note)
    body += paragraph(f'The first {min(SHOWN, len(items))} texts that are answered wrongly by '
                      f'{seeds}, by their margin, those that look mislabelled first:')
    body += text_list(items[:SHOWN])
    columns = ['split', 'row', 'label', 'answer', 'margin', 'wrong_runs', 'looks_mislabelled',
               'text']
    return Section('mistakes', 'Wrong in every seed', finding, body, columns, rows)


# Slices

def slices_section(predictions):
    """Accuracy by class, length and document group."""
    slices = measure_slices(predictions)
    worse = [row for row in slices if row['holm'] <= 0.05]
    tried = f'{len(slices):,} slices of at least {MIN_TEXTS} texts'
    if worse:
        worst = worse[0]
        finding = (f'{len(worse)} of {tried} do worse than chance explains; the worst is '
                   f'{worst["kind"]} {worst["name"]}, with {worst["accuracy"]:.1f} % of '
                   f'{worst["n"]:,} texts right.')
    else:
        finding = f'None of {tried} does worse than chance explains.'

    body = paragraph(finding) + paragraph(
        'Accuracy on val and test with its 95 % interval for other seeds and other texts, the '
        'worst slices first. The worst of many is bad by chance alone: p is the chance that as '
        'many random texts have at least as many of the wrong answers; Holm corrects it for the '
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

def token_table(attributions, over_val, k, name):
    """The tokens that speak most for class k."""
    lines = []
    for i in np.argsort(-over_val[:, k], kind='stable')[:SHOWN]:
        if over_val[i, k] <= 0:
            break
        lines.append([attributions.pieces[i].replace(' ', '\u2423'), f'{over_val[i, k]:+.4f}',
                      f'{attributions.sums[i, k] / attributions.counts[i]:+.3f}',
                      f'{attributions.counts[i]:,}', f'{attributions.decided[i]:,}'])
    headings = ['token', 'attribution, all texts', 'where it occurs', 'texts', 'decides']
    return scrolling_table(f'For {name}', headings, lines)


def tokens_section(predictions, attributions, reason):
    """attributions: `Attributions`, or None, for this reason."""
    title = 'Tokens that move decisions'
    if attributions is None:
        return Section('tokens', title, '', paragraph(f'Not known here: {reason}.'))

    over_val = attributions.sums / attributions.n_texts
    which = f'all {attributions.n_val:,} texts'
    if attributions.n_texts < attributions.n_val:
        which = f'{attributions.n_texts:,} of the {attributions.n_val:,} texts, evenly spaced,'
    body = paragraph(
        'The attribution of a token to a class is the log-odds of the class with the whole text, '
        'minus those without this token, wherever it stands; by the first run, over '
        f'{which} of val. Tokens are ranked by the mean over these texts, with 0 for texts without '
        'the token: a token that moves many decisions comes before one that moves a few far. A '
        'token decides a text if the answer without it is another.')
    if len(predictions.classes) == 2 and not predictions.multi_label:
        body += paragraph('A token that speaks for one of the two classes speaks against the '
                          'other.')
    if predictions.multi_label:
        sizes = predictions.labels.sum(0)
    else:
        sizes = np.bincount(predictions.labels, minlength=len(predictions.classes))
    frequent = np.argsort(-sizes, kind='stable')[:TOKEN_CLASSES]
    for k in sorted(frequent):
        body += token_table(attributions, over_val, k, predictions.classes[k])

    columns = ['token', 'piece', 'texts', 'decides']
    columns += [f'attribution_{name}' for name in predictions.classes]
    rows = []
    for i in np.argsort(-abs(over_val).max(1), kind='stable'):
        means = attributions.sums[i] / attributions.counts[i]
        rows.append([attributions.ids[i], attributions.pieces[i], attributions.counts[i],
                     attributions.decided[i], *means])
    return Section('tokens', title, '', body, columns, rows)


# Near-duplicates

def twins_finding(predictions, twins, first):
    """Sentences on the number of near-duplicates and their effect on the accuracy.

    first: {split: the index of its first text}.
    """
    in_train = np.zeros(len(predictions.texts), bool)
    n_in_val = 0
    for twin in twins:
        if twin.other_split == 'train':
            in_train[first[twin.split] + twin.row] = True
        else:
            n_in_val += 1
    finding = (f'{in_train.sum():,} texts of val and test have a near-duplicate in train, and '
               f'{n_in_val:,} of test one in val.')
    effect = ''
    test = predictions.splits == 'test'
    if in_train[test].any() and not in_train[test].all():
        with_them = 100 * predictions.correct[:, test].mean()
        without = 100 * predictions.correct[:, test & ~in_train].mean()
        effect = (f' Accuracy on test is {with_them:.2f} %; without the texts that have one in '
                  f'train, it is {without:.2f} %.')
    return finding, effect


def twin_rows(predictions, twins, texts, labels):
    """Items for `text_list` and rows for the CSV."""
    items = []
    rows = []
    for twin in twins:
        text = texts[twin.split][twin.row]
        other_text = texts[twin.other_split][twin.other_row]
        label = predictions.name_of(labels[twin.split][twin.row])
        other_label = predictions.name_of(labels[twin.other_split][twin.other_row])
        line = (f'{twin.split} {twin.row} ({label or "-"}) and {twin.other_split} '
                f'{twin.other_row} ({other_label or "-"}): similarity {twin.similarity:.2f}')
        items.append((line, [text, other_text]))
        rows.append([*twin, label, other_label, text, other_text])
    return items, rows


def twins_section(predictions):
    """Near-duplicates of texts in an earlier split: train before val before test."""
    texts = {'train': predictions.train_texts}
    labels = {'train': predictions.train_labels}
    first = {}
    for split in SPLITS:
        rows = np.flatnonzero(predictions.splits == split)
        first[split] = rows[0]
        texts[split] = [predictions.texts[i] for i in rows]
        labels[split] = predictions.labels[rows]
    twins = find_twins(texts)

    counts = defaultdict(int)
    for twin in twins:
        counts[twin.split, twin.other_split] += 1
    lines = []
    for other, later in EARLIER.items():
        for split in later:
            n = counts[split, other]
            lines.append([f'{split} in {other}', f'{n:,}', f'{len(texts[split]):,}',
                          f'{100 * n / len(texts[split]):.2f} %'])

    finding, effect = twins_finding(predictions, twins, first)
    body = paragraph(finding + effect) + paragraph(
        f'Near-duplicates are texts that share more than {100 * SIMILAR:.0f} % of their shingles '
        f'of {SHINGLE} words in a row (Jaccard similarity, in lower case, without punctuation). '
        'MinHash finds them; it misses 6 % of those just above that limit and hardly any of those '
        'above 70 %. For each text, the most similar one is listed.')
    body += scrolling_table('Texts with a near-duplicate', ['', 'texts', 'of', 'share'], lines)
    items, rows = twin_rows(predictions, twins, texts, labels)
    body += f'<h3>The most similar, those in train first</h3>\n{text_list(items[:SHOWN])}'
    columns = ['split', 'row', 'other_split', 'other_row', 'similarity', 'similar_texts', 'label',
               'other_label', 'text', 'other_text']
    return Section('near_duplicates', 'Near-duplicates across splits', finding, body, columns, rows)


# Probabilities

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


def probabilities_section(predictions):
    """The histogram before and after temperature scaling."""
    after = histogram(predictions, predictions.probs)
    before = None
    if predictions.unscaled is not None:
        before = histogram(predictions, predictions.unscaled)
    if predictions.multi_label:
        what = 'every probability of a label'
    elif len(predictions.classes) == 2:
        what = f'the probability of {predictions.classes[1]}'
    else:
        what = 'the probability of the answer'
    ece = predictions.measures['ECE, scaled']
    finding = (f'Probabilities are off by {ece:.2f} points on average after temperature scaling '
               f'(ECE on test; T = {predictions.measures["temperature"]:.2f})')
    if before is None:
        finding += '; as trained, the outputs are not probabilities.'
    else:
        finding += f', by {predictions.measures["ECE"]:.2f} as trained.'
    body = paragraph(finding) + paragraph(
        f'The number of texts of test by probability, mean of the runs: {what}. Right answers are '
        'blue, with wrong ones in orange on top of them.')

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

def describe_accuracy(predictions):
    """The accuracy, in a sentence."""
    accuracy = predictions.accuracy
    runs = len(predictions.correct)
    text = f'{accuracy["mean"]:.2f} % of the {accuracy["n"]:,} texts of test are answered correctly'
    if accuracy['both']:
        low, high = accuracy['both']
        whom = 'other seeds and other texts' if predictions.drawn else 'other texts'
        return f'{text} (95 % interval for {whom}: {low:.2f} to {high:.2f}; runs: {runs}).'
    return f'{text} (one run, so no interval for other seeds).'


def findings_of(predictions, sections):
    """The sentences at the beginning of the page."""
    findings = [section.finding for section in sections if section.finding]
    return [describe_accuracy(predictions), *findings]


def assemble(predictions, sections):
    """Sections -> the HTML page."""
    title = clean(f'Errors of {predictions.label} on {predictions.dataset}')
    findings = [f'<li>{escape(clean(finding))}</li>\n'
                for finding in findings_of(predictions, sections)]
    contents = [f'<li><a href="#{section.id}">{escape(section.title)}</a></li>\n'
                for section in sections]
    bodies = []
    for section in sections:
        note = ''
        if section.rows:
            note = paragraph(f'All of it: {section.id}.csv, beside this page.')
        bodies.append(f'<section id="{section.id}">\n<h2>{escape(section.title)}</h2>\n'
                      f'{section.body}{note}</section>\n')
    # this policy blocks scripts and external resources, and allows the style by its checksum
    template = TEMPLATE.read_text('utf-8')
    style = re.search('<style>(.*)</style>', template, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
              "form-action 'none'")
    return Template(template).substitute(
        policy=policy, title=escape(title), findings=''.join(findings),
        contents=''.join(contents), sections=''.join(bodies))


def make_sections(predictions, attributions, reason=''):
    """attributions: `Attributions` of val, or None, for this reason."""
    return [
        confusion_section(predictions),
        mistakes_section(predictions),
        slices_section(predictions),
        tokens_section(predictions, attributions, reason),
        twins_section(predictions),
        probabilities_section(predictions),
    ]


def make_files(predictions, sections):
    """The page and its CSVs, {file name: bytes}."""
    files = {'errors.html': assemble(predictions, sections).encode()}
    for section in sections:
        if section.columns:
            files[f'{section.id}.csv'] = csv_bytes(section.columns, section.rows)
    return files


# The command

def attribute(run, texts):
    """The first run and the texts of val -> `Attributions` or, if the run cannot be used, None and
    the reason."""
    folder = Path(run.folder)
    if not (folder / WEIGHTS['last']).exists():
        return None, f'the weights of {folder} are not kept'
    try:
        # the answers of this page are those without thresholds
        return attribute_tokens(TextClassifier(folder, thresholds=False), texts), ''
    except ValueError as error:
        return None, str(error)


def main(config, folders):
    if len(folders) != 1:
        fail('name one group of runs: python -m tools.errors out/my')
    path = Path(folders[0])
    runs, notes = read_runs(path, make_head, config.code)
    check_comparable(runs, runs[0])
    predictions = read_predictions(path, runs, config.data_dir)
    val_texts = predictions.texts[:int((predictions.splits == 'val').sum())]
    sections = make_sections(predictions, *attribute(runs[0], val_texts))

    # everything is computed before anything is written
    files = make_files(predictions, sections)
    folder = Path(config.out_dir or path.resolve().parent)
    write_files(folder, files)
    for finding in [*notes, *findings_of(predictions, sections)]:
        print(f'- {one_line(finding)}')
    print(f'\nThe page: {folder / "errors.html"}, with CSV files beside it.')


if __name__ == '__main__':
    folders = []
    main(configure(globals(), positional=folders), folders)
