"""tools/baseline.py against pipelines of scikit-learn and arithmetic by hand; its runs in
evaluate.py."""
import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import call
from helpers import ROOT, config_of, save, script, train
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.svm import LinearSVC

from nanoloss.tokenizer import tokenizer
from tools import baseline as module

KINDS = 'tfidf_lr', 'tfidf_svm', 'nbsvm', 'tfidf_chars_svm'
SPLITS = 'train', 'val', 'test'
TOPICS = 'songs', 'jokes', 'plot', 'nowhere', 'everywhere'
COUNTRY = {'Ghent': 0, 'Mons': 0, 'Lyon': 1, 'Nice': 1, 'Turin': 2, 'Pisa': 2}


@pytest.fixture(scope='module')
def encoding():
    return tokenizer()


def baseline(data, dataset, out, *argv):
    """Run tools.baseline in this process."""
    arguments = [f'--data_dir={data}', f'--dataset={dataset}', f'--out_dir={out}', *argv]
    module.main(config_of(module, *arguments))


def evaluate(out, *groups):
    """Run evaluate.py in this process -> its summary.json."""
    module = script('evaluate')
    module.main(config_of(module), [out / group for group in groups])
    return json.loads((out / 'summary.json').read_text())


def read(out, kind):
    """A finished run -> its result.json and its preds.npz."""
    folder = out / kind / 'seed0'
    return json.loads((folder / 'result.json').read_text()), np.load(folder / 'preds.npz')


def write(folder, texts, labels, classes, encoding):
    """Write a data set; texts, labels: {split: list}."""
    splits = {}
    for name in SPLITS:
        splits[name] = [encoding.encode(text) for text in texts[name]], labels[name]
    save(folder, splits, vocab_size=100277, classes=classes)


def close(found, expected):
    """Whether logits are those expected, but for float16 and for where an optimizer stops."""
    return np.allclose(found, expected, rtol=2e-3, atol=3e-3)


def same_accuracy(found, margins, labels):
    """Whether an accuracy is that of these margins, but for those that may round to the other sign.
    """
    n_near = (abs(margins) < 3e-3).sum()
    return abs(found - np.mean((margins > 0) == labels)) * len(labels) <= n_near + 1e-6


# Two classes: the sample

@pytest.fixture(scope='module')
def sample(tmp_path_factory, encoding):
    """A folder of data sets, and the texts and labels of its `sample`, {split: list}."""
    home = tmp_path_factory.mktemp('sample')
    call(home, 'prepare.py', '--source=sample')
    texts = {}
    labels = {}
    for name in SPLITS:
        tokens = np.load(home / f'data/sample/{name}_tokens.npy')
        offsets = np.load(home / f'data/sample/{name}_offsets.npy').tolist()
        texts[name] = [encoding.decode(tokens[begin:end].tolist())
                       for begin, end in zip(offsets, offsets[1:])]
        labels[name] = np.load(home / f'data/sample/{name}_labels.npy')
    return home / 'data', texts, labels


@pytest.fixture(scope='module')
def fitted(sample, tmp_path_factory):
    """The folder of all kinds on the sample, as they are by default."""
    home = tmp_path_factory.mktemp('fitted')
    printed = call(home, 'tools.baseline', '--dataset=sample', f'--data_dir={sample[0]}')
    lines = printed.splitlines()
    sizes = ', '.join(f'{len(labels):,} {name}' for name, labels in sample[2].items())
    assert lines[0].startswith(f'sample: {sizes}; ')
    for kind, line in zip(KINDS, lines[1:]):
        assert line.startswith(f'out/sample/{kind}/seed0  done  C ')
    return home / 'out/sample'


def test_texts_are_those_that_were_prepared(sample):
    _, texts, _ = sample
    with open(ROOT / 'data/sample.csv', encoding='utf-8', newline='') as file:
        reviews = {row['review'] for row in csv.DictReader(file)}
    assert set().union(*texts.values()) <= reviews


def vectorizer_of(kind):
    """What makes the features of a kind with TF-IDF, by scikit-learn alone."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    if kind != 'tfidf_chars_svm':
        return words
    chars = TfidfVectorizer(analyzer='char_wb', ngram_range=(2, 5), sublinear_tf=True)
    return FeatureUnion([('words', words), ('chars', chars)])


@pytest.mark.parametrize('kind, make', [
    ('tfidf_lr', lambda C: LogisticRegression(C=C, max_iter=1000)),
    ('tfidf_svm', lambda C: LinearSVC(C=C, random_state=1)),
    ('tfidf_chars_svm', lambda C: LinearSVC(C=C, random_state=1))])
def test_the_best_on_val_of_all_pipelines(kind, make, sample, fitted):
    _, texts, labels = sample
    result, preds = read(fitted, kind)
    vectorizer = vectorizer_of(kind)
    x = {'train': vectorizer.fit_transform(texts['train'])}
    for split in 'val', 'test':
        x[split] = vectorizer.transform(texts[split])
    models = {}
    accuracies = {}
    for tried in result['tried']:
        model = make(tried['C']).fit(x['train'], labels['train'])
        models[tried['C']] = model
        accuracies[tried['C']] = model.score(x['val'], labels['val'])
        assert same_accuracy(tried['val'], model.decision_function(x['val']), labels['val'])
    assert len(models) >= 5
    chosen = result['chosen']['C']
    assert chosen == max(accuracies, key=accuracies.get)
    for split in 'val', 'test':
        expected = models[chosen].decision_function(x[split])
        logits = preds[f'{split}_logits']
        assert logits.dtype == np.float16
        assert close(logits[:, -1], expected)
        if kind != 'tfidf_lr':
            assert (logits[:, 0] == -logits[:, 1]).all()
        else:
            assert logits.shape[1] == 1
        assert (preds[f'{split}_labels'] == labels[split]).all()
        assert same_accuracy(result['last'][split]['accuracy'], expected, labels[split])
    same_number = len(labels['val'])
    assert result['last']['train']['n'] == same_number
    expected = models[chosen].decision_function(x['train'][:same_number])
    accuracy = result['last']['train']['accuracy']
    assert same_accuracy(accuracy, expected, labels['train'][:same_number])


def test_the_kinds_are_good_on_the_sample(fitted):
    for kind in KINDS:
        assert read(fitted, kind)[0]['last']['test']['accuracy'] > 0.88


def test_beside_networks(sample, fitted):
    """evaluate.py counts as result.json does. Its notes are the numbers of runs and, if a split has
    few films, a warning."""
    train(sample[0], fitted / 'ce', '--dataset=sample', '--head=ce', '--n_runs=2', '--epochs=1',
          '--block_size=10', '--batch_size=100')
    summary = evaluate(fitted, 'ce', *KINDS)
    assert [group['label'] for group in summary['groups']] == ['CE', *KINDS]
    for kind, group in zip(KINDS, summary['groups'][1:]):
        result, _ = read(fitted, kind)
        for split in ('test', 'val'):
            assert group[split]['correct'] == [result['last'][split]['correct']]
        measures = group['runs'][0]['measures']
        assert measures['temperature'] == pytest.approx(result['last']['temperature'])
        assert measures['steps'] is None
        # margins are not probabilities, log-odds are
        if kind == 'tfidf_lr':
            assert measures['NLL'] == pytest.approx(result['last']['test']['loss'], rel=1e-3)
        else:
            assert measures['NLL'] is None
            assert result['last']['test']['loss'] is None
        assert 0 < measures['NLL, scaled'] < 0.4

    sizes = {'CE': 2} | dict.fromkeys(KINDS, 1)
    *few_films, note = summary['notes']
    assert note.endswith(str(sizes))
    expected = []
    for name in 'test', 'val':
        _, counts = np.unique(np.load(sample[0] / f'sample/{name}_groups.npy'), return_counts=True)
        if counts.sum() ** 2 / (counts ** 2).sum() < 20:  # Kish's effective number
            expected.append(f'The document groups of {name} carry')
    assert sorted(text.split(' the ')[0] for text in few_films) == sorted(expected)
    assert not summary['pairs']
    # the sample's reviews of a film are taken together
    table = (fitted / 'table.md').read_text('utf-8')
    assert '## Against baselines' in table
    assert 'texts of one document group, such as a movie, are taken together' in table
    films = np.load(sample[0] / 'sample/test_groups.npy')
    for folder in fitted / 'ce/seed1', fitted / 'nbsvm/seed0':
        assert (np.load(folder / 'preds.npz')['test_groups'] == films).all()
    # one fixed number minus the mean of two: Student's t with one degree of freedom
    for kind, gap in zip(KINDS, summary['against_baselines'], strict=True):
        assert (gap['a'], gap['baseline']) == ('CE', kind)
        ours, theirs = (group['test'] for group in summary['groups']
                        if group['label'] in ('CE', kind))
        assert gap['estimate'] == pytest.approx(ours['mean'] - theirs['mean'])
        accuracies = [100 * n / ours['n'] for n in ours['correct']]
        half = 12.706 * abs(accuracies[0] - accuracies[1]) / 2
        assert gap['seeds'] == pytest.approx([gap['estimate'] - half, gap['estimate'] + half],
                                             abs=1e-3)
        assert gap['both'][0] <= gap['seeds'][0] and gap['both'][1] >= gap['seeds'][1]


# Naive Bayes' weights

def test_naive_bayes_weights_by_hand():
    texts = ['good film', 'good', 'bad film', 'bad bad plot']
    x = CountVectorizer(binary=True).fit_transform(texts)  # bad, film, good, plot
    ratios = module.naive_bayes_weights(x, np.array([True, True, False, False]))
    # of the target: bad 0, film 1, good 2, plot 0; of the others: 2, 1, 0, 1; and 1 more each
    p = np.array([1, 2, 3, 1]) / 7
    q = np.array([3, 2, 1, 2]) / 8
    assert ratios == pytest.approx(np.log(p / q))


@pytest.mark.parametrize('beta', [1, 0.25])
def test_nbsvm_by_hand(beta, sample, fitted):
    """Dense arrays and Python's loops."""
    _, texts, labels = sample
    vectorizer = CountVectorizer(ngram_range=(1, 2), binary=True)
    x = vectorizer.fit_transform(texts['train'][:100])
    y = labels['train'][:100]
    dense = x.toarray()
    ratios = []
    positive = [dense[y == 1][:, j].sum() + 1 for j in range(x.shape[1])]
    negative = [dense[y == 0][:, j].sum() + 1 for j in range(x.shape[1])]
    for p, q in zip(positive, negative):
        ratios.append(np.log(p / sum(positive) / (q / sum(negative))))
    svm = LinearSVC(C=0.1, random_state=1).fit(dense * ratios, y)
    weights = svm.coef_[0]
    mixed = (1 - beta) * np.mean(np.abs(weights)) + beta * weights
    expected = dense @ (ratios * mixed) + svm.intercept_

    found, bias = module.fit_output('nbsvm', x.astype(float), y == 1, 0.1, beta)
    assert close(x @ found + bias, expected)
    assert {tried['beta'] for tried in read(fitted, 'nbsvm')[0]['tried']} == {1, 0.25}


# Many classes, several labels

@pytest.fixture(scope='module')
def countries(tmp_path_factory, encoding):
    """A data set of three classes, some labels wrong -> the folder of data sets, texts, labels."""
    rng = np.random.default_rng(0)
    towns = list(COUNTRY)
    texts = {}
    labels = {}
    for name, n in (('train', 150), ('val', 60), ('test', 80)):
        drawn = [rng.choice(towns, 2) for _ in range(n)]
        texts[name] = [f'the road from {a} to {b}' for a, b in drawn]
        wrong = rng.random(n) < 0.1
        labels[name] = [(COUNTRY[a] + int(w)) % 3 for (a, _), w in zip(drawn, wrong)]
    folder = tmp_path_factory.mktemp('countries')
    write(folder / 'countries', texts, labels, ('be', 'fr', 'it'), encoding)
    return folder, texts, labels


def test_many_classes(countries, tmp_path, capsys):
    data, texts, labels = countries
    baseline(data, 'countries', tmp_path, '--c_values=0.5')
    models = {
        'tfidf_lr': LogisticRegression(C=0.5, max_iter=1000),
        'tfidf_svm': LinearSVC(C=0.5, random_state=1),
        'tfidf_chars_svm': LinearSVC(C=0.5, random_state=1)}
    for kind, model in models.items():
        pipeline = make_pipeline(vectorizer_of(kind), model)
        pipeline.fit(texts['train'], labels['train'])
        _, preds = read(tmp_path, kind)
        assert close(preds['test_logits'], pipeline.decision_function(texts['test']))

    vectorizer = CountVectorizer(ngram_range=(1, 2), binary=True)
    x = vectorizer.fit_transform(texts['train']).toarray()
    test = vectorizer.transform(texts['test']).toarray()
    result, preds = read(tmp_path, 'nbsvm')
    beta = result['chosen']['beta']
    columns = []
    for y in range(3):
        target = np.array(labels['train']) == y
        ratios = module.naive_bayes_weights(x, target)
        svm = LinearSVC(C=0.5, random_state=1).fit(x * ratios, target)
        weights = beta * svm.coef_[0] + (1 - beta) * np.mean(np.abs(svm.coef_[0]))
        columns.append(test @ (ratios * weights) + svm.intercept_)
    assert close(preds['test_logits'], np.stack(columns, 1))

    summary = evaluate(tmp_path, *KINDS)
    for kind, group in zip(KINDS, summary['groups']):
        result, preds = read(tmp_path, kind)
        correct = (preds['test_logits'].argmax(1) == labels['test']).sum()
        assert group['test']['correct'] == [correct] == [result['last']['test']['correct']]
        assert group['measures']['recall of fr'][0] > 50
    config = json.loads((tmp_path / 'tfidf_lr/seed0/config.json').read_text())
    assert config['head'] == 'ce'
    assert config['class_share'] == pytest.approx(np.bincount(labels['train']) / 150)


@pytest.fixture(scope='module')
def topics(sample, tmp_path_factory, encoding):
    """The sample's reviews with the topics that they name. No training text has one of the labels,
    and all have another one."""
    texts = {name: some[:800] for name, some in sample[1].items()}
    labels = {}
    for name in SPLITS:
        rows = np.array([[topic in text for topic in TOPICS] for text in texts[name]])
        rows[:, -1] = True
        rows[:, -2] = np.arange(len(rows)) % 50 == 7 if name != 'train' else False
        labels[name] = rows.astype(int)
    folder = tmp_path_factory.mktemp('topics')
    write(folder / 'topics', texts, labels, TOPICS, encoding)
    return folder, texts, labels


def test_several_labels(topics, tmp_path, capsys):
    data, texts, labels = topics
    baseline(data, 'topics', tmp_path, '--c_values=1,10')
    summary = evaluate(tmp_path, *KINDS)
    for kind, group in zip(KINDS, summary['groups']):
        result, preds = read(tmp_path, kind)
        decisions = preds['test_logits'] > 0
        assert decisions.shape == labels['test'].shape
        assert not decisions[:, -2].any()
        assert decisions[:, -1].all()
        correct = int((decisions == labels['test']).all(1).sum())
        assert group['test']['correct'] == [correct] == [result['last']['test']['correct']]
        assert correct > 0.85 * len(decisions)

        # the constant is that of the highest micro F1 on val
        decided = preds['val_logits'] > 0
        hits = (decided & (labels['val'] == 1)).sum()
        f1 = 2 * hits / (decided.sum() + labels['val'].sum())
        assert result['chosen']['val'] == pytest.approx(f1)
        assert f1 == pytest.approx(max(tried['val'] for tried in result['tried']))
        if kind != 'tfidf_lr':  # the scale of the margins has been fitted
            assert result['last']['temperature'] == pytest.approx(1, abs=0.01)

    result, preds = read(tmp_path, 'tfidf_lr')
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    x = vectorizer.fit_transform(texts['train'])
    for i in range(3):
        model = LogisticRegression(C=result['chosen']['C'], max_iter=1000)
        model.fit(x, labels['train'][:, i])
        expected = model.decision_function(vectorizer.transform(texts['test']))
        assert close(preds['test_logits'][:, i], expected)
    # none of n texts has it: odds of 1 to n + 1
    n = len(texts['train'])
    assert preds['test_logits'][:, -2] == pytest.approx(-np.log(n + 1), rel=1e-3)


def test_texts_that_always_have_a_label(tmp_path, encoding):
    """Half of the texts name their label. The others must still get their likeliest label. The
    labels are independent: if one is above 0.5, its logit is above 0."""
    rng = np.random.default_rng(0)
    words = 'red', 'green', 'blue', 'grey', 'pink'
    texts = {}
    labels = {}
    for name, n in (('train', 300), ('val', 100), ('test', 100)):
        numbers = rng.integers(0, 5, n)
        texts[name] = [f'{words[y] if i % 2 else "thing"} {rng.integers(100)}'
                       for i, y in enumerate(numbers)]
        labels[name] = np.eye(5, dtype=int)[numbers]
    write(tmp_path / 'colours', texts, labels, words, encoding)
    baseline(tmp_path, 'colours', tmp_path / 'out', '--kinds=tfidf_lr,tfidf_svm')
    summary = evaluate(tmp_path / 'out', 'tfidf_lr', 'tfidf_svm')
    for kind, group in zip(('tfidf_lr', 'tfidf_svm'), summary['groups']):
        result, preds = read(tmp_path / 'out', kind)
        decisions = {}
        for name in ('val', 'test'):
            decisions[name] = preds[f'{name}_logits'] > 0
            for row, z in zip(decisions[name], preds[f'{name}_logits']):
                row[z.argmax()] = True  # if a logit is above 0, the largest is
            correct = int((decisions[name] == labels[name]).all(1).sum())
            assert result['last'][name]['correct'] == correct == group[name]['correct'][0]
            at_half = ((preds[f'{name}_logits'] > 0) == labels[name]).all(1).sum()
            assert correct > at_half + 3
        hits = (decisions['val'] & (labels['val'] == 1)).sum()
        f1 = 2 * hits / (decisions['val'].sum() + 100)
        assert result['chosen']['val'] == pytest.approx(f1)


def test_a_script_without_spaces(tmp_path, encoding):
    """A pair of signs decides. Each text is one word, which no other text has."""
    rng = np.random.default_rng(0)
    signs = [chr(0x4e00 + i) for i in range(100)]
    texts = {}
    labels = {}
    for name, n in (('train', 200), ('val', 100), ('test', 100)):
        labels[name] = np.arange(n) % 2
        texts[name] = []
        for y in labels[name]:
            around = ''.join(rng.choice(signs, 12))
            texts[name].append(around[:6] + ('好看', '難看')[y] + around[6:])
    write(tmp_path / 'signs', texts, labels, ('good', 'bad'), encoding)
    baseline(tmp_path, 'signs', tmp_path / 'out', '--kinds=tfidf_svm,tfidf_chars_svm')
    accuracies = [read(tmp_path / 'out', kind)[0]['last']['test']['accuracy']
                  for kind in ('tfidf_svm', 'tfidf_chars_svm')]
    assert accuracies[0] == 0.5
    assert accuracies[1] > 0.95


# Runs as those of train.py, and mistakes

def test_finished_is_skipped_and_others_refused(countries, tmp_path, capsys):
    data, _, _ = countries
    baseline(data, 'countries', tmp_path, '--kinds=nbsvm')
    folder = tmp_path / 'nbsvm/seed0'
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(files) == {'config.json', 'log.jsonl', 'preds.npz', 'result.json'}
    capsys.readouterr()

    baseline(data, 'countries', tmp_path, '--kinds=nbsvm')
    assert capsys.readouterr().out == f'{folder} is complete already\n'
    with pytest.raises(SystemExit):
        baseline(data, 'countries', tmp_path, '--kinds=nbsvm', '--c_values=1')
    error = capsys.readouterr().err
    assert "holds a run with other c_values (c_values was '', is '1')" in error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files

    # another version of scikit-learn is no reason to fit again; older runs name their code
    config = json.loads(files['config.json'])
    old = {**config, 'sklearn': '0.1', 'baseline_code': 'abc', 'out_dir': str(tmp_path)}
    (folder / 'config.json').write_text(json.dumps(old))
    baseline(data, 'countries', tmp_path, '--kinds=nbsvm')
    assert 'is complete already' in capsys.readouterr().out
    (folder / 'config.json').write_bytes(files['config.json'])

    # an interrupted run is fitted again, with the same result
    (folder / 'result.json').unlink()
    baseline(data, 'countries', tmp_path, '--kinds=nbsvm,tfidf_svm')
    assert 'done' in capsys.readouterr().out
    assert (folder / 'preds.npz').read_bytes() == files['preds.npz']
    assert (tmp_path / 'tfidf_svm/seed0/result.json').exists()

    baseline(data, 'countries', tmp_path, '--kinds=nbsvm', '--c_values=1', '--overwrite')
    assert read(tmp_path, 'nbsvm')[0]['chosen']['C'] == 1


def test_fewer_texts_are_those_that_train_py_samples(sample, tmp_path, capsys):
    """The class shares of both are those of one sample; and the runs of two seeds are two runs."""
    data, texts, labels = sample
    for seed in (0, 1):
        baseline(data, 'sample', tmp_path / 'few', '--kinds=tfidf_lr', '--c_values=10',
                 '--n_train=301', f'--seed={seed}')
    train(data, tmp_path / 'net', '--dataset=sample', '--n_train=301', '--seed=1', '--epochs=1',
          '--block_size=10', '--batch_size=100')
    runs = tmp_path / 'few/tfidf_lr/seed1', tmp_path / 'net/seed1'
    ours, trained = [json.loads((run / 'config.json').read_text()) for run in runs]
    assert (ours['n_train'], ours['seed']) == (trained['n_train'], trained['seed']) == (301, 1)
    assert ours['class_share'] == trained['class_share']

    rows = np.sort(np.random.default_rng(1).choice(len(texts['train']), 301, replace=False))
    few = [texts['train'][row] for row in rows]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    pipeline = make_pipeline(vectorizer, LogisticRegression(C=10, max_iter=1000))
    pipeline.fit(few, labels['train'][rows])
    preds = np.load(tmp_path / 'few/tfidf_lr/seed1/preds.npz')
    assert close(preds['test_logits'][:, 0], pipeline.decision_function(texts['test']))

    capsys.readouterr()
    summary = evaluate(tmp_path / 'few', 'tfidf_lr')
    of_test = summary['groups'][0]['test']
    assert len(set(of_test['correct'])) == 2
    half = 12.706 * abs(np.subtract(*of_test['correct'])) / of_test['n'] * 50  # t(0.975, 1) sd
    mean = of_test['mean']
    assert of_test['seeds'] == pytest.approx([mean - half, mean + half], abs=0.01)


# fastText

@pytest.mark.parametrize('several', [False, True])
def test_fasttext_is_the_library(several, tmp_path, encoding):
    """The probabilities are those of the library with its own label prefix, for texts that do not
    contain it; texts that do, and empty texts, do not become labels."""
    fasttext = pytest.importorskip('fasttext', reason='fasttext-community is not installed')
    rng = np.random.default_rng(0)
    words = ['red', 'Green', 'blue', 'one', 'two', 'three']
    texts = {name: [' '.join(rng.choice(words, 6)) for _ in range(90)] for name in SPLITS}
    labels = {}
    for name in SPLITS:
        has = np.array([[word in text for word in ('red', 'one', 'two')] for text in texts[name]])
        labels[name] = has.astype(int) if several else has[:, :2].sum(1)
    write(tmp_path / 'words', texts, labels, 'abc', encoding)
    baseline(tmp_path, 'words', tmp_path / 'out', '--kinds=fasttext')
    result, preds = read(tmp_path / 'out', 'fasttext')

    path = tmp_path / 'train.txt'
    with open(path, 'w') as file:
        for text, label in zip(texts['train'], labels['train']):
            numbers = np.flatnonzero(label) if several else [label]
            print(*(f'__label__{k}' for k in numbers), text.lower(), file=file)
    model = fasttext.train_supervised(
        str(path), lr=result['chosen']['lr'], epoch=25, wordNgrams=2, minn=2, maxn=5,
        loss='ova' if several else 'softmax', thread=1, verbose=0)
    for text, logits in zip(texts['test'], preds['test_logits'].astype(float)):
        names, probs = model.predict(text.lower(), k=-1)
        found = 1 / (1 + np.exp(-logits)) if several else np.exp(logits)
        for name, prob in zip(names, probs):
            assert found[int(name[-1])] == pytest.approx(prob, abs=3e-3)


def test_a_label_in_a_text_is_no_label_of_fasttext(tmp_path, encoding):
    pytest.importorskip('fasttext', reason='fasttext-community is not installed')
    texts = {name: ['good __label__1 \x1f1', 'bad __label__0 \x1f0', '', '!'] * 20
             for name in SPLITS}
    labels = {name: np.array([0, 1, 0, 0] * 20) for name in SPLITS}
    write(tmp_path / 'words', texts, labels, 'ab', encoding)
    baseline(tmp_path, 'words', tmp_path / 'out', '--kinds=fasttext')
    result, preds = read(tmp_path / 'out', 'fasttext')
    assert preds['test_logits'].shape == (80, 2)
    assert result['last']['test']['accuracy'] == 1


@pytest.mark.parametrize('argv, words', [
    (['--n_train=151'], 'n_train is 151, but there are 150 training texts'),
    (['--n_train=-1'], 'n_train must be at least 0'),
    (['--seed=1'], 'seed samples the n_train texts'),
    (['--kinds=bayes'], "there is no 'bayes'; there are tfidf_lr, tfidf_svm, nbsvm, tfidf_c"),
    (['--kinds='], "there is no ''"),
    (['--c_values=1,many'], 'c_values wants numbers'),
    (['--c_values=1,,2'], 'c_values wants numbers'),
    (['--c_values=1,0'], 'must be above 0 and finite'),
    (['--c_values=inf'], 'must be above 0 and finite'),
    (['--c_values=nan'], 'must be above 0 and finite'),
    (['--dataset=nothing'], 'prepare.py'),
    (['--dataset=letters'], 'letters: the training texts have no words to count'),
    (['--out_dir=/dev/null'], 'cannot write to /dev/null')])
def test_mistakes_end_in_one_line(argv, words, countries, tmp_path, encoding, capsys):
    data, _, labels = countries
    if not (data / 'letters').exists():
        texts = {name: ['a !' for _ in labels[name]] for name in SPLITS}
        write(data / 'letters', texts, labels, 'abc', encoding)
    with pytest.raises(SystemExit) as stop:
        baseline(data, 'countries', tmp_path / 'out', *argv)
    output, error = capsys.readouterr()
    assert stop.value.code == 2
    assert not output
    assert words in error
    assert error.count('\n') == 1
    assert not list(tmp_path.glob('out/*/*/result.json'))


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux limits what is mapped')
@pytest.mark.parametrize('megabytes, begin', [(8, 'make_features'), (16, 'reserve_blas_buffer')])
def test_too_little_memory_for_openblas(countries, tmp_path, megabytes, begin):
    """The limit, set at the call of a function, is less than the buffer of OpenBLAS, which would
    retry without end."""
    program = f'''
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
from tools import baseline

def limited(*args):
    pages = int(open('/proc/self/statm').read().split()[0])
    limit = pages * resource.getpagesize() + {megabytes} * 2 ** 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return function(*args)

function = baseline.{begin}
baseline.{begin} = limited
from nanoloss.settings import configure
baseline.main(configure(vars(baseline)))
'''
    command = [sys.executable, '-c', program, f'--data_dir={countries[0]}', '--dataset=countries',
               f'--out_dir={tmp_path}', '--kinds=tfidf_lr']
    done = subprocess.run(command, capture_output=True, text=True, timeout=60,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})
    if begin == 'make_features':  # the buffer is there
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2
        assert done.stderr.endswith('out of memory; try one of the --kinds, or a lower --n_train\n')
        assert done.stderr.count('\n') == 1


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux limits what is mapped')
def test_too_little_memory_for_liblinear():
    """Without the check, it ends in a segmentation fault."""
    program = f'''
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
import numpy, scipy.sparse
from tools import baseline

x = scipy.sparse.csr_matrix(numpy.random.rand(1000, 3000))
pages = int(open('/proc/self/statm').read().split()[0])
limit = pages * resource.getpagesize() + 30 * 2 ** 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    baseline.fit_output('tfidf_svm', x, numpy.arange(1000) % 2 == 0, 1.0)
except MemoryError:
    print('MemoryError')
'''
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, 'MemoryError\n')


def test_a_data_set_of_one_word(countries, tmp_path, encoding, capsys):
    data, _, labels = countries
    texts = {name: ['word' for _ in labels[name]] for name in SPLITS}
    write(tmp_path / 'one', texts, labels, 'abc', encoding)
    baseline(tmp_path, 'one', tmp_path / 'out')
    for kind in KINDS:
        _, preds = read(tmp_path / 'out', kind)
        assert len({tuple(row) for row in preds['test_logits'].tolist()}) == 1
