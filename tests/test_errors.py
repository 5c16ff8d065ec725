"""tools.errors: its figures against independent counts, and what a hostile text can do."""
import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import config_of, fails

from model import make_head
from nanoloss import html
from nanoloss.data import load_data
from nanoloss.runs import read_runs
from nanoloss.stats import confident_classes, interval
from nanoloss.tokenizer import decode, tokenizer

pytest.importorskip('datasketch')
from nanoloss import errors  # noqa: E402
from tools import errors as page  # noqa: E402
from tools import pack  # noqa: E402

TAGS = set(
    'html head meta title style body header nav main section h1 h2 h3 p ol ul li a div table '
    'caption thead tbody tr th td blockquote details summary figure figcaption svg rect '
    'text'.split())
CSVS = 'confusion', 'mistakes', 'slices', 'near_duplicates'
HOSTILE = ['<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "' onfocus='alert(1)",
           '</blockquote></body><h1>', '<!-- ', '&lt;b&gt; &amp;', '\x00\x1b[2J\u202eabc',
           '=HYPERLINK("http://example.com")', '@SUM(1)', '-1+1', '<svg/onload=alert(1)>']


def make_predictions(n_runs=3, n=300, n_class=2, seed=0, **changes):
    """Predictions of made-up runs: about four of five are right; val is the first third."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_class, n)
    logits = rng.normal(size=(n, n_class)) + 2.5 * np.eye(n_class)[labels]
    logits = logits + rng.normal(scale=0.5, size=(n_runs, n, n_class))
    probs = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    sizes = [n // 3, n - n // 3]
    fields = {
        'label': 'best',
        'dataset': 'toy',
        'classes': [f'class {k}' for k in range(n_class)],
        'train_texts': ['one two three four', 'five'],
        'train_labels': np.array([0, 1]),
        'texts': [f'text {i} has {i} as its only number' for i in range(n)],
        'splits': np.repeat(['val', 'test'], sizes),
        'rows': np.concatenate([np.arange(size) for size in sizes]),
        'lengths': rng.integers(1, 100, n),
        'groups': rng.integers(0, 20, n),
        'labels': labels,
        'always_labelled': False,
        'probs': probs,
        'unscaled': probs,
        'correct': probs.argmax(2) == labels,
        'accuracy': {'mean': 80.0, 'n': sizes[1], 'both': (75.0, 85.0)},
        'measures': {'ECE': 2.0, 'ECE, scaled': 1.0, 'temperature': 1.5},
        'drawn': True,
    }
    return errors.Predictions(**fields | changes)


def make_page(predictions, attributions=None, reason='why'):
    """The page and its CSVs, {file name: bytes}."""
    return page.make_files(predictions, page.make_sections(predictions, attributions, reason))


def decided_by_hand(p, always_labelled):
    """The decisions on a text: which labels are above 0.5, or are the likeliest if none is."""
    given = p > 0.5
    if always_labelled and not given.any():
        given[p.argmax()] = True
    return given


def several_labels(predictions, always_labelled=False):
    """The same texts, each with any number of labels, or at least one."""
    labels = np.eye(len(predictions.classes), dtype=int)[predictions.labels]
    labels[::5, 0] = 1
    if not always_labelled:
        labels[::7] = 0
    decisions = [[decided_by_hand(p, always_labelled) for p in of_run]
                 for of_run in predictions.probs]
    correct = (np.array(decisions) == labels).all(2)
    return make_predictions(n_class=len(predictions.classes), labels=labels, correct=correct,
                            always_labelled=always_labelled)


def read_csv(files, name):
    """A CSV of the page as a list of dicts."""
    return list(csv.DictReader(io.StringIO(files[f'{name}.csv'].decode())))


class Parser(HTMLParser):
    """Collects the elements of a page and all of its text."""

    def __init__(self, content):
        super().__init__()
        self.elements = []
        self.open = []
        self.data = ''
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ('meta', 'rect'):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # all is closed in order

    def handle_comment(self, data):
        raise AssertionError(data)

    def handle_data(self, data):
        self.data += data


def check_page(content):
    """Every element is one of ours, nothing comes from outside -> what was parsed."""
    parsed = Parser(content)
    assert parsed.open == []
    assert content.count('<!') == 1  # the doctype
    ids = [attributes['id'] for _, attributes in parsed.elements if 'id' in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in parsed.elements:
        assert tag in TAGS
        for name, value in attributes.items():
            assert not name.startswith('on') and name not in ('src', 'style', 'srcset', 'data')
            if name == 'href':
                assert value[0] == '#' and value[1:] in ids
    style = content[content.index('<style>'):content.index('</style>')]
    assert 'url(' not in style and '@import' not in style
    assert "default-src 'none'" in content and 'unsafe' not in content
    return parsed


# Confident learning

def confident_classes_by_the_paper(probs, labels):
    """Equations 1 and 2 of Northcutt, Jiang and Chuang 2021, one text at a time."""
    n_class = probs.shape[1]
    thresholds = {}
    for j in range(n_class):
        self_confidence = [probs[x][j] for x in range(len(probs)) if labels[x] == j]
        if self_confidence:
            thresholds[j] = sum(self_confidence) / len(self_confidence)
    found = []
    for x in range(len(probs)):
        above = [j for j in thresholds if probs[x][j] >= thresholds[j]]
        found.append(max(above, key=lambda j: probs[x][j]) if above else -1)
    return found


@pytest.mark.parametrize('n_class', [2, 5])
def test_confident_classes_are_the_papers(n_class):
    rng = np.random.default_rng(n_class)
    probs = rng.dirichlet(np.ones(n_class), 500)
    labels = rng.integers(0, n_class - (n_class > 2), 500)  # of five classes, one is no label
    assert confident_classes(probs, labels).tolist() == confident_classes_by_the_paper(
        probs, labels)


def test_labels_flipped_on_purpose_are_found():
    predictions = make_predictions(n=900, n_class=3)
    truth = np.arange(900) % 3
    rng = np.random.default_rng(1)
    probs = 0.9 * np.eye(3)[truth] + 0.1 * rng.dirichlet(np.ones(3), 900)
    flipped = rng.choice(900, 40, replace=False)
    predictions.labels = truth.copy()
    predictions.labels[flipped] = (truth[flipped] + 1) % 3
    predictions.probs = np.stack([probs, probs])
    predictions.mean_probs = probs
    predictions.correct = predictions.probs.argmax(2) == predictions.labels
    rows, mislabelled, margins = errors.find_mistakes(predictions)
    assert set(rows) == set(flipped)  # the models err nowhere else
    assert mislabelled.mean() > 0.4  # those that are surer than the average of their class
    assert (np.diff(mislabelled.astype(int)) <= 0).all()  # first
    assert (np.diff(margins[mislabelled]) <= 0).all()
    i = rows[0]
    assert margins[0] == pytest.approx(probs[i, truth[i]] - probs[i, predictions.labels[i]])


def test_mistakes_are_those_of_every_seed():
    predictions = make_predictions()
    rows = read_csv(make_page(predictions), 'mistakes')
    sure = confident_classes_by_the_paper(predictions.probs.mean(0), predictions.labels)
    found = {(row['split'], int(row['row'])): row for row in rows}
    for i in range(len(predictions.texts)):
        place = str(predictions.splits[i]), int(predictions.rows[i])
        looks_wrong = sure[i] not in (-1, predictions.labels[i])
        n_wrong = sum(not correct[i] for correct in predictions.correct)
        assert (place in found) == (looks_wrong or n_wrong == 3)
        if place in found:
            assert found[place]['looks_mislabelled'] == str(looks_wrong)
            assert int(found[place]['wrong_runs']) == n_wrong
            assert found[place]['text'] == predictions.texts[i]


# Slices and confusions

def test_slices_against_a_count():
    predictions = make_predictions(n_runs=10)
    # so that texts of a group are right or wrong together
    predictions.groups[predictions.wrong] %= 6
    slices = {(row['kind'], row['name']): row for row in errors.measure_slices(predictions)}
    fifths = {name: row for (kind, name), row in slices.items() if kind == 'length'}
    assert len(fifths) == 5 and sum(row['n'] for row in fifths.values()) == 300
    for name in fifths:
        low, high = map(int, re.findall(r'\d+', name))
        n = sum(low <= length <= high for length in predictions.lengths)
        assert fifths[name]['n'] == n and 45 <= n <= 75
    groups = [group for group in range(20) if sum(predictions.groups == group) >= 10]
    assert {name for kind, name in slices if kind == 'group'} == set(map(str, groups))

    wrong = predictions.probs.mean(0).argmax(1) != predictions.labels
    for group in groups:
        row = slices['group', str(group)]
        inside = np.flatnonzero(predictions.groups == group)
        assert row['accuracy'] == pytest.approx(100 * predictions.correct[:, inside].mean())
        low, high = interval(predictions.correct[:, inside])['both']
        assert (row['low'], row['high']) == pytest.approx((low, high))
        assert low < high <= 100
        # all draws of so many texts, by how many wrong ones they have
        n = len(inside)
        n_wrong = sum(wrong)
        as_bad = sum(math.comb(n_wrong, k) * math.comb(300 - n_wrong, n - k)
                     for k in range(wrong[inside].sum(), n + 1))
        assert row['p'] == pytest.approx(as_bad / math.comb(300, n))

    # intervals of other slices take the texts of a group together
    for k in range(2):
        row = slices['class', f'class {k}']
        inside = predictions.labels == k
        correct = predictions.correct[:, inside]
        known = interval(correct, clusters=predictions.groups[inside])['both']
        unknown = interval(correct)['both']
        assert (row['low'], row['high']) == pytest.approx(known)
        assert (row['low'], row['high']) != pytest.approx(unknown)

    # Holm: the smallest p times the number of slices, the next times one less ...
    highest = 0
    for i, row in enumerate(sorted(slices.values(), key=lambda row: row['p'])):
        highest = max(highest, min(1, (len(slices) - i) * row['p']))
        assert row['holm'] == pytest.approx(highest)


def test_the_worst_slice_is_the_one_that_is_worse():
    predictions = make_predictions()
    assert 'None of 26 slices' in page.slices_section(predictions).finding
    bad = predictions.groups == 7
    predictions.correct[:, bad] = False
    predictions.wrong[bad] = True
    assert f'worst is group 7, with 0.0 % of {bad.sum()} texts' in page.slices_section(
        predictions).finding


def test_one_run_has_intervals_only_if_nothing_of_it_is_drawn():
    drawn = errors.measure_slices(make_predictions(n_runs=1))
    assert all(row['low'] is None for row in drawn)
    fixed = errors.measure_slices(make_predictions(n_runs=1, drawn=False))
    assert all(row['low'] < row['high'] for row in fixed if row['accuracy'] < 100)


@pytest.mark.parametrize('n_class', [2, 3, 20])
def test_confusions_against_a_count(n_class):
    predictions = make_predictions(n_class=n_class, n=600)
    files = make_page(predictions)
    total = 0
    for row in read_csv(files, 'confusion'):
        label = predictions.classes.index(row['label'])
        answer = predictions.classes.index(row['answer'])
        given = (predictions.labels == label) & (predictions.probs.argmax(2) == answer)
        assert float(row['texts']) == pytest.approx(given.sum() / 3, rel=1e-5)
        share = given.sum() / 3 / (predictions.labels == label).sum()
        assert float(row['share_of_label']) == pytest.approx(share, rel=1e-5)
        # of mistakes, the two surest
        mistakes = np.flatnonzero(given.any(0)) if label != answer else []
        surest = sorted(mistakes, key=lambda i: -predictions.probs.mean(0)[i, answer])[:2]
        assert row['examples'] == ' '.join(
            f'{predictions.splits[i]}:{predictions.rows[i]}' for i in surest)
        total += float(row['texts'])
    assert total == pytest.approx(600, rel=1e-4)
    assert ('Labels (rows)' in files['errors.html'].decode()) == (n_class < 20)


@pytest.mark.parametrize('always_labelled', [False, True])
def test_several_labels_go_label_by_label(always_labelled):
    predictions = several_labels(make_predictions(n_class=4), always_labelled)
    files = make_page(predictions)
    decisions = np.array([[decided_by_hand(p, always_labelled) for p in of_run]
                          for of_run in predictions.probs])
    answers = np.array([decided_by_hand(p, always_labelled) for p in predictions.probs.mean(0)])
    assert predictions.wrong.tolist() == (answers != predictions.labels).any(1).tolist()
    for row in read_csv(files, 'confusion'):
        k = predictions.classes.index(row['label'])
        given = decisions[:, :, k]
        has = predictions.labels[:, k] == 1
        # the examples are the most confident errors of the mean
        order = np.argsort(predictions.probs.mean(0)[:, k])
        wrongly = [i for i in order if answers[i, k] and not has[i]]
        missed = [i for i in order if has[i] and not answers[i, k]]
        assert page.label_examples(predictions, k) == (wrongly[-1], missed[0])
        counts = [(given & has).sum() / 3, (~given & has).sum() / 3, (given & ~has).sum() / 3]
        assert [float(row[name]) for name in ('right', 'missed', 'wrong')] == pytest.approx(
            counts, abs=1e-3)
    text = check_page(files['errors.html'].decode()).data
    assert 'left out here' in text and 'looks mislabelled' not in text
    # the margin is how far the worst probability is off
    rows = read_csv(files, 'mistakes')
    off = abs(predictions.probs.mean(0) - predictions.labels).max(1)
    expected = sorted(off[~predictions.correct.any(0)], reverse=True)
    assert [float(row['margin']) for row in rows] == pytest.approx(expected, rel=1e-5)


# Probabilities

def histogram_by_hand(probs, labels, always_labelled):
    """Right and wrong predictions by their probability, [20, 2], means over the runs."""
    counts = np.zeros((20, 2))
    for of_run in probs:
        for p, label in zip(of_run, labels):
            if np.ndim(label):  # each label is a decision
                cases = zip(p, decided_by_hand(p, always_labelled) == label)
            elif len(p) == 2:
                cases = [(p[1], p.argmax() == label)]
            else:
                cases = [(p.max(), p.argmax() == label)]
            for probability, is_right in cases:
                counts[int(20 * probability), int(not is_right)] += 1 / len(probs)
    return counts


@pytest.mark.parametrize('n_class, multi_label, always_labelled', [
    (2, False, False), (3, False, False), (3, True, False), (3, True, True)])
def test_the_histograms_against_a_count(n_class, multi_label, always_labelled):
    predictions = make_predictions(n_class=n_class)
    if multi_label:
        predictions = several_labels(predictions, always_labelled)
    predictions.unscaled = predictions.probs ** 2 / (predictions.probs ** 2).sum(2, keepdims=True)
    test = predictions.splits == 'test'
    after, before = [histogram_by_hand(probs[:, test], predictions.labels[test], always_labelled)
                     for probs in (predictions.probs, predictions.unscaled)]
    assert errors.histogram(predictions, predictions.probs) == pytest.approx(after)
    assert errors.histogram(predictions, predictions.unscaled) == pytest.approx(before)
    # in the table, those after temperature scaling come first
    body = page.probabilities_section(predictions).body
    for k in (9, 15, 19):
        line, = re.findall(f'>{5 * k} to {5 * k + 5}</th>(.*?)</tr>', body)
        cells = re.findall('>([^<>]+)</td>', line)
        assert cells == [f'{count:,.1f}' for count in (*after[k], *before[k])]


# Near-duplicates

def shingles_by_hand(text):
    words = re.findall(r'\w+', text.lower())
    if len(words) < 3:
        return {tuple(words)} if words else set()
    return {tuple(words[i:i + 3]) for i in range(len(words) - 2)}


def planted_texts():
    """Texts of random words, and in later splits copies with more and more words changed."""
    rng = np.random.default_rng(3)
    words = np.array([f'w{i}' for i in range(500)])
    texts = {'train': [' '.join(rng.choice(words, 80)) for _ in range(60)]}
    texts['train'] += ['Good!', 'so so', '...', '']
    for split, source in (('val', 'train'), ('test', 'val')):
        texts[split] = []
        for i, text in enumerate(texts[source][:60]):
            copy = np.array(text.split())
            changed = rng.choice(len(copy), i // 4, replace=False)
            copy[changed] = rng.choice(words, i // 4)
            texts[split].append(', '.join(copy).upper())
        texts[split] += ['good', 'so', '', '?!']
    return texts


def test_planted_near_duplicates_are_found():
    texts = planted_texts()
    sets = {split: [shingles_by_hand(text) for text in texts[split]] for split in texts}
    expected = {}
    for split, other in (('val', 'train'), ('test', 'train'), ('test', 'val')):
        for row, a in enumerate(sets[split]):
            similarities = [len(a & b) / len(a | b) if a | b else 0 for b in sets[other]]
            n = sum(similarity > 0.5 for similarity in similarities)
            if n:
                expected[split, row, other] = max(similarities), n
    twins = errors.find_twins(texts)
    for twin in twins:
        similarity, n = expected[twin.split, twin.row, twin.other_split]
        assert (twin.similarity, twin.n) == (pytest.approx(similarity), n)
        a = sets[twin.split][twin.row]
        b = sets[twin.other_split][twin.other_row]
        assert len(a & b) / len(a | b) == pytest.approx(similarity)
    found = {(twin.split, twin.row, twin.other_split) for twin in twins}
    sure = {key for key, (similarity, _) in expected.items() if similarity > 0.7}
    assert sure <= found and len(found) >= 0.9 * len(expected)
    assert ('val', 60, 'train') in found  # a single word, but for its case and sign
    assert len(sure) > 40
    n_train = sum(twin.other_split == 'train' for twin in twins)
    for part in twins[:n_train], twins[n_train:]:
        assert len({twin.other_split for twin in part}) == 1
        similarities = [twin.similarity for twin in part]
        assert similarities == sorted(similarities, reverse=True)


def test_accuracy_without_the_leak():
    texts = [f'this is text number {i} of those in val and test' for i in range(300)]
    train_texts = [texts[200].upper(), texts[250], 'other']
    predictions = make_predictions(texts=texts, train_texts=train_texts,
                                   train_labels=np.array([0, 1, 0]))
    twins = errors.find_twins({'train': predictions.train_texts, 'val': texts[:100],
                             'test': texts[100:]})
    leaked = {twin.row for twin in twins if (twin.split, twin.other_split) == ('test', 'train')}
    assert leaked == {100, 150}
    kept = [i for i in range(100, 300) if i - 100 not in leaked]
    section = page.twins_section(predictions)
    assert f'is {100 * predictions.correct[:, kept].mean():.2f} %' in section.body
    labels = [predictions.classes[predictions.labels[200]], predictions.classes[0]]
    assert ['test', 100, 'train', 0, 1.0, *labels] in [
        [*row[:5], *row[6:8]] for row in section.rows]


# Tokens, and all of it on runs

@pytest.fixture(autouse=True)
def one_thread():
    """Batches are so small that several threads would wait for each other."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def first_run(folder):
    return read_runs(folder, make_head)[0][0]


def run(*argv):
    """Run tools.errors in this process."""
    folders = []
    config = config_of(page, *argv, positional=folders)
    page.main(config, folders)


def val_texts(dataset, n):
    """The first texts of val."""
    data, _ = load_data(Path('data') / dataset)
    encoding = tokenizer()
    tokens = data['val'].tokens
    return [decode(tokens[begin:end], encoding) for begin, end in data['val'].spans[:n]]


@pytest.mark.parametrize('group, dataset', [
    ('bce', 'sample'), ('windows', 'sample'), ('topics', 'topics')])
def test_attributions_are_those_of_explain(group, dataset, home, Classifier):
    texts = [*val_texts(dataset, 6), 'film', '']
    first = first_run(f'out/{group}')
    attributions, reason = page.attribute(first, texts)
    assert not reason and attributions.n_texts == len(texts)
    classifier = Classifier(first.folder)
    sums = {}
    counts = {}
    decided = {}
    for text in texts:
        p, name, pieces = classifier.explain(text)
        k = classifier.classes.index(name)
        ids = classifier.tokens([text])[0].tolist()
        for token, (_, attribution) in dict(zip(ids, pieces)).items():
            counts[token] = counts.get(token, 0) + 1
            sums.setdefault(token, []).append((k, attribution))
            # with two classes, a token decides if its attribution exceeds the log-odds of the text
            decides = attribution > np.log(p[k] / (1 - p[k]))
            decided[token] = decided.get(token, 0) + decides
    assert attributions.ids.tolist() == sorted(counts)
    assert attributions.counts.tolist() == [counts[token] for token in sorted(counts)]
    if group != 'topics':
        assert attributions.decided.tolist() == [decided[token] for token in sorted(counts)]
        assert sum(decided.values()) > 0 or group == 'windows'
    for token, of_token in zip(attributions.ids.tolist(), attributions.sums):
        if len({k for k, _ in sums[token]}) == 1:  # the same class was explained each time
            k = sums[token][0][0]
            expected = sum(attribution for _, attribution in sums[token])
        elif group != 'topics':  # of two classes, the attributions are opposite numbers
            k = 0
            expected = sum(-attribution if i else attribution for i, attribution in sums[token])
        else:
            continue
        assert of_token[k] == pytest.approx(expected, abs=1e-3)


def test_of_long_texts_some_are_explained(home, Classifier, monkeypatch):
    monkeypatch.setattr(errors, 'MAX_VARIANT_TOKENS', 1000)
    attributions, _ = page.attribute(first_run('out/bce'), val_texts('sample', 40))
    assert 0 < attributions.n_texts < 40 and attributions.n_val == 40
    body = page.tokens_section(make_predictions(), attributions, '').body
    assert f'{attributions.n_texts} of the 40 texts' in body


@pytest.mark.parametrize('group', ['bce', 'windows', 'topics'])
def test_page_of_real_runs(group, home, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(home)
    monkeypatch.setattr(errors, 'MAX_VARIANT_TOKENS', 50_000)
    run(f'out/{group}', f'--out_dir={tmp_path}')
    printed = capsys.readouterr().out
    assert printed.endswith(f'The page: {tmp_path}/errors.html, with CSV files beside it.\n')
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    parsed = check_page(files['errors.html'].decode())
    assert sum(tag == 'h2' for tag, _ in parsed.elements) == 6
    shares = []
    for path in Path(f'out/{group}').glob('seed*/result.json'):
        shares.append(json.loads(path.read_text())['last']['test']['accuracy'])
    finding = f'{100 * np.mean(shares):.2f} % of the'
    assert finding in parsed.data
    assert f'- {finding}' in printed
    for name in (*CSVS, 'tokens'):
        rows = read_csv(files, name)
        assert len({len(row) for row in rows}) <= 1
        assert None not in {value for row in rows for value in row.values()}
    assert all(int(row['texts']) > 0 for row in read_csv(files, 'tokens'))


def test_without_weights_all_but_the_tokens(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    empty = SimpleNamespace(folder=str(tmp_path))
    attributions, reason = page.attribute(empty, ['a text'])
    assert attributions is None and 'are not kept' in reason
    section = page.tokens_section(make_predictions(), attributions, reason)
    assert 'are not kept' in section.body and not section.columns


# What a text can do

def test_hostile_texts_are_text():
    predictions = make_predictions(n_class=3)
    predictions.label = HOSTILE[0]
    predictions.dataset = HOSTILE[1]
    predictions.classes = HOSTILE[:3]
    predictions.texts = [HOSTILE[i % len(HOSTILE)] + f' and {i} more words' for i in range(300)]
    predictions.texts[5] += ' long' * 1000
    predictions.train_texts = predictions.texts[:4]
    predictions.train_labels = predictions.labels[:4]
    n = len(HOSTILE)
    attributions = errors.Attributions(300, 300, np.arange(n), HOSTILE, np.ones(n, int),
                              np.ones((n, 3)), np.ones(n, int))
    files = make_page(predictions, attributions)
    content = files['errors.html'].decode()
    parsed = check_page(content)
    assert '\x00' not in content and '\x1b' not in content
    assert '<script>alert(1)</script>' in parsed.data  # as text
    assert content.count('<h1') == 1 and content.count('<body') == 1

    for name in (*CSVS, 'tokens'):
        rows = list(csv.reader(io.StringIO(files[f'{name}.csv'].decode())))
        assert len({len(row) for row in rows}) == 1 and len(rows) > 1
        for cell in (cell for row in rows for cell in row):
            assert len(cell) <= html.MAX_CHARS + 10
            if cell.startswith(('=', '+', '-', '@', '\t')):
                float(cell)  # nothing but a number may begin so


def test_mistakes_end_in_one_line(home, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(home)
    out = f'--out_dir={tmp_path / "new"}'
    error = fails(capsys, 'out/bce', 'out/windows', out, run=run)
    assert 'one group' in error
    error = fails(capsys, 'out/bce', f'--data_dir={tmp_path}', out, run=run)
    assert 'prepare.py' in error and '--data_dir' in error
    (tmp_path / 'sample').symlink_to(home / 'data/topics')
    error = fails(capsys, 'out/bce', f'--data_dir={tmp_path}', out, run=run)
    assert 'is not the data' in error
    pack.main(config_of(pack, '--answers=right'), ['out/bce', tmp_path / 'packed'])
    error = fails(capsys, tmp_path / 'packed', out, run=run)
    assert 'its probabilities are not kept' in error
    assert not (tmp_path / 'new').exists()  # nothing is half-written


def test_a_packed_group_has_the_same_page_but_for_its_tokens(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    pack.main(config_of(pack), ['out/bce', tmp_path / 'packed/bce'])
    run('out/bce', f'--out_dir={tmp_path / "a"}')
    run(tmp_path / 'packed/bce', f'--out_dir={tmp_path / "b"}')
    for name in CSVS:
        a, b = [(tmp_path / folder / f'{name}.csv').read_bytes() for folder in 'ab']
        assert a == b
    assert not (tmp_path / 'b/tokens.csv').exists()
