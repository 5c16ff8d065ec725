"""data -> out/<data set>/<kind>/seed<k>/: linear classifiers on bags of words, as finished runs.

    python -m tools.baseline --dataset=imdb      all kinds -> out/imdb/<kind>
    python evaluate.py out/imdb/nbsvm out/bce out/ce --out_dir=out      compared with networks

They show whether a network beats a bag of words. All kinds use words and pairs of words; the SVMs
are one-vs-rest:
- tfidf_lr: TF-IDF, logistic regression
- tfidf_svm: TF-IDF, linear SVM
- nbsvm: naive Bayes weights, linear SVM (Wang and Manning 2012)
- tfidf_chars_svm: TF-IDF of words, concatenated with TF-IDF of n-grams of 2 to 5 characters within
  words, linear SVM; it also suits scripts without spaces between words
- fasttext: the mean of embeddings of words, pairs of words and n-grams of 2 to 5 characters within
  words (Joulin 2016), 25 epochs; it needs the package fasttext-community

Notable:
- Texts are decoded from the tokens of the data set, so the split is that of the networks.
- The constants are chosen on val, so the accuracy on val is slightly too high. The criterion is
  accuracy or, with several labels per text, micro F1, because few texts have all labels right.
- The weights are not kept, so predict, export and serve do not take these runs.
"""
import math
import sys
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

from nanoloss import is_out_of_memory  # before torch: it sets how OpenMP threads wait
import numpy as np
import scipy.linalg
import scipy.sparse
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.svm import LinearSVC

from model import make_head
from nanoloss import loop
from nanoloss.data import (
    SPLITS, class_share, describe_data, is_correct, load_data, sample_texts)
from nanoloss.devices import hardware_name
from nanoloss.files import current_commit, write_file, write_json, write_json_lines
from nanoloss.labels import decide
from nanoloss.runs import read_head
from nanoloss.settings import check_bounds, configure, fail, updated
from nanoloss.stats import fit_temperature
from nanoloss.tokenizer import decode, tokenizer

# -----------------------------------------------------------------------------
dataset = 'imdb'  # a data set made by prepare.py
data_dir = 'data'  # the folder of data sets
out_dir = ''  # one folder per kind goes here ('': out/ and the name of the data set)
n_train = 0  # training texts to use, the same as train.py samples with this seed (0: all)
seed = 0  # of that sample; nothing else is random
kinds = 'all'  # the kinds to fit, as tfidf_lr,nbsvm; all: those whose package is installed
c_values = ''  # inverse regularization strengths to choose from, as 0.1,1,10 ('': GRIDS below)
overwrite = False  # delete the previous contents of a run's folder
# -----------------------------------------------------------------------------
GRIDS = {  # of C for each kind; of the learning rate for fasttext
    'tfidf_lr': [1, 3, 10, 30, 100, 300, 1000],
    'tfidf_svm': [0.03, 0.1, 0.3, 1, 3, 10],
    'nbsvm': [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3],
    'tfidf_chars_svm': [0.03, 0.1, 0.3, 1, 3],  # 10 is no better on val, and takes half of the time
    'fasttext': [0.1, 0.5],
}
BETAS = [1, 0.25]  # of nbsvm: the SVM alone, and the paper's interpolation with naive Bayes
LABEL = '\x1f'  # begins a label in fastText's file; it is white space, so no word has it


# Settings

def read_kinds(config):
    """The setting kinds -> a list of names."""
    has_fasttext = find_spec('fasttext') is not None
    if config.kinds == 'all':
        return [name for name in GRIDS if name != 'fasttext' or has_fasttext]
    names = [name.strip() for name in config.kinds.split(',')]
    for name in names:
        if name not in GRIDS:
            fail(f'kinds: there is no {name!r}; there are {", ".join(GRIDS)}')
        if name == 'fasttext' and not has_fasttext:
            fail('kinds: fasttext needs: pip install fasttext-community')
    return names


def read_c_values(config):
    """The setting c_values -> numbers in ascending order; none if it is ''."""
    if not config.c_values:
        return []
    try:
        values = sorted({float(value) for value in config.c_values.split(',')})
    except ValueError:
        fail('c_values wants numbers with commas between them, such as 0.1,1,10, '
             f'not {config.c_values!r}')
    if not all(0 < value < math.inf for value in values):
        fail(f'c_values must be above 0 and finite, not {config.c_values!r}')
    return values


def candidates(config, kind):
    """The constants to choose from, [{name: value}], the strongest regularization first."""
    if kind == 'fasttext':
        return [{'lr': lr} for lr in GRIDS[kind]]
    grid = read_c_values(config) or GRIDS[kind]
    if kind == 'nbsvm':
        return [{'C': C, 'beta': beta} for C in grid for beta in BETAS]
    return [{'C': C} for C in grid]


# Features

def read_texts(data, meta):
    """The texts of each split, {split: list}, decoded from their tokens."""
    encoding = tokenizer(meta['tokenizer']['name'])
    texts = {}
    for name, split in data.items():
        texts[name] = [decode(split.tokens[begin:end], encoding) for begin, end in split.spans]
    return texts


def count_terms(texts, **settings):
    """Texts -> {split: sparse counts [texts, terms]} of the terms that occur in train.

    settings: those of `CountVectorizer` that define a term. Raises ValueError if train has none.
    """
    # most terms of a large vocabulary occur in one text only and are uninformative, but a small
    # training split needs all of its terms
    min_df = 2 if len(texts['train']) >= 5000 else 1
    vectorizer = CountVectorizer(min_df=min_df, **settings)
    counts = {'train': vectorizer.fit_transform(texts['train'])}
    for name in ('val', 'test'):
        counts[name] = vectorizer.transform(texts[name])
    return counts


def count_words(dataset, texts):
    """Counts of words and pairs of words, see `count_terms`."""
    try:
        counts = count_terms(texts, ngram_range=(1, 2))
    except ValueError as error:
        fail(f'{dataset}: the training texts have no words to count ({error})')
    sizes = ', '.join(f'{counts[name].shape[0]:,} {name}' for name in SPLITS)
    print(f'{dataset}: {sizes}; {counts["train"].shape[1]:,} words and pairs')
    return counts


def weigh(counts):
    """Counts -> TF-IDF, {split: sparse [texts, terms]}; each row has norm 1."""
    tfidf = TfidfTransformer(sublinear_tf=True).fit(counts['train'])
    return {name: tfidf.transform(split) for name, split in counts.items()}


def make_features(kind, texts, counts):
    """Texts and the counts of their words -> the features of a kind, {split: sparse [texts,
    features]}. fastText makes its own from the words of a line, {split: list of lines}."""
    if kind == 'fasttext':
        return {name: [' '.join(text.lower().split()) for text in texts[name]] for name in SPLITS}
    if kind == 'nbsvm':  # whether a text has a word
        return {name: (split > 0).astype(float) for name, split in counts.items()}
    features = weigh(counts)
    if kind == 'tfidf_chars_svm':  # in float32, since long texts have thousands of n-grams
        chars = weigh(count_terms(texts, analyzer='char_wb', ngram_range=(2, 5), dtype=np.float32))
        for name in SPLITS:
            both = features[name], chars[name]
            features[name] = scipy.sparse.hstack(both, format='csr', dtype=np.float32)
    return features


# Fitting: a linear function of the features for each output

def naive_bayes_weights(x, target):
    """The log-count ratio of each word, float [words], between the texts of the target and all
    others, each count increased by 1. x sparse [texts, words], target bool [texts]."""
    p = np.asarray(x[target].sum(0)).ravel() + 1
    q = np.asarray(x[~target].sum(0)).ravel() + 1
    return np.log((p / p.sum()) / (q / q.sum()))


def fit_output(kind, x, target, C, beta=1):
    """Fit one output -> its weights [words] and its bias. x sparse [texts, words], target bool
    [texts]."""
    n_true = target.sum()
    n_false = len(target) - n_true
    if n_true == 0 or n_false == 0:  # no training text has the label, or all have it
        log_odds = math.log((n_true + 1) / (n_false + 1))  # the rule of succession
        bias = log_odds if kind == 'tfidf_lr' else math.copysign(1, log_odds)
        return np.zeros(x.shape[1]), bias

    if kind == 'tfidf_lr':
        model = LogisticRegression(C=C, max_iter=1000).fit(x, target)
        return model.coef_[0], model.intercept_[0]
    # liblinear copies x, at 16 bytes a number, and crashes if memory is short, so try with NumPy
    # first, which raises MemoryError
    np.empty(2 ** 24 + 32 * x.nnz, np.uint8)
    svm = LinearSVC(C=C, dual='auto', random_state=0)
    if kind != 'nbsvm':
        svm.fit(x, target)
        return svm.coef_[0], svm.intercept_[0]

    ratios = naive_bayes_weights(x, target)
    svm.fit(x @ scipy.sparse.diags(ratios), target)
    weights = svm.coef_[0]
    # equal weights for all words would be naive Bayes
    weights = beta * weights + (1 - beta) * abs(weights).mean()
    return ratios * weights, svm.intercept_[0]


def fit(kind, x, labels, n_class, constants):
    """Fit all outputs -> weights [words, outputs] and biases [outputs].

    x sparse [texts, words]; labels int [texts] or, if a text has several labels, 0 and 1
    [texts, classes]. Two classes have one output, that of class 1.
    """
    if kind == 'tfidf_lr' and labels.ndim == 1 and n_class > 2:
        model = LogisticRegression(**constants, max_iter=1000).fit(x, labels)  # one softmax
        return model.coef_.T, model.intercept_
    if labels.ndim == 2:
        targets = labels == 1
    elif n_class == 2:
        targets = (labels == 1)[:, None]
    else:
        targets = labels[:, None] == np.arange(n_class)
    outputs = [fit_output(kind, x, target, **constants) for target in targets.T]
    weights, biases = zip(*outputs)
    return np.stack(weights, 1), np.array(biases)


# fastText

def fit_fasttext(lines, labels, n_class, lr):
    """Fit fastText to the lines of train -> its log-odds (of several labels) or log-probabilities,
    {split: float [texts, classes]}. labels: those of train, as in `fit`."""
    import fasttext
    several = labels.ndim == 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'train.txt'
        with open(path, 'w', encoding='utf-8') as file:
            for line, label in zip(lines['train'], labels):
                classes = np.flatnonzero(label) if several else [label]
                names = [f'{LABEL}{k}' for k in classes]
                print(*names, line, file=file)
        # one thread, because with several the result differs from run to run
        model = fasttext.train_supervised(
            str(path), lr=lr, epoch=25, wordNgrams=2, minn=2, maxn=5, label=LABEL,
            loss='ova' if several else 'softmax', thread=1, verbose=0)

    logits = {}
    for name, split in lines.items():
        probs = np.zeros((len(split), n_class))
        found = zip(*model.predict(split, k=-1))
        for row, (names, values) in zip(probs, found):
            row[[int(name.removeprefix(LABEL)) for name in names]] = values
        probs = probs.clip(1e-6, 1 - 1e-6)
        logits[name] = np.log(probs / (1 - probs)) if several else np.log(probs)
    return logits


# From outputs to the logits of a head

def choose_head(kind, meta):
    """The name of the head in model.py that interprets its logits as this kind's outputs."""
    if meta['multi_label']:
        return 'bce'
    if kind == 'fasttext':
        return 'ce'
    if kind == 'tfidf_lr':
        return 'bce' if len(meta['classes']) == 2 else 'ce'
    # margins are not log-odds; the logits of the square head are not either, so evaluate.py judges
    # the probabilities after temperature scaling only
    return 'square'


def fit_and_predict(kind, features, labels, meta, constants):
    """Fit to train -> {split: logits float16 [texts, outputs of the head]}, as preds.npz stores
    them."""
    n_class = len(meta['classes'])
    if kind == 'fasttext':
        outputs_of = fit_fasttext(features, labels, n_class, **constants)
    else:
        weights, biases = fit(kind, features['train'], labels, n_class, constants)
        outputs_of = {name: x @ weights + biases for name, x in features.items()}
    logits = {}
    for name, outputs in outputs_of.items():
        outputs = torch.from_numpy(outputs)
        if choose_head(kind, meta) == 'square' and outputs.shape[1] == 1:
            outputs = torch.cat([-outputs, outputs], 1)
        logits[name] = outputs.half()
    return logits


def scale_margins(head, logits, val_labels):
    """Divide the margins of several labels by the temperature that is best on val.

    The head for several labels reads logits as log-odds, and scaled margins approximate these. No
    decision changes.
    """
    temperature = fit_temperature(head.probs, logits['val'], torch.from_numpy(val_labels).long())
    for name in logits:
        logits[name] = (logits[name].float() / temperature).half()


def choose(config, kind, head, features, labels, meta):
    """Fit all candidates -> the logits of the best on val, its constants and score on val, and the
    constants and scores of all candidates."""
    best = None
    tried = []
    for constants in candidates(config, kind):
        logits = fit_and_predict(kind, features, labels['train'], meta, constants)
        probs = head.probs(logits['val'].float())
        if meta['multi_label']:
            answers = decide(probs.numpy(), True, always_labelled=config.always_labelled)
            figure = f1_score(labels['val'], answers, average='micro', zero_division=0)
        else:
            figure = is_correct(probs, torch.from_numpy(labels['val'])).double().mean()
        tried.append({**constants, 'val': float(figure)})
        if best is None or tried[-1]['val'] > best['val']:  # of equals, the most regularized
            best = tried[-1]
            best_logits = logits
    return best_logits, best, tried


def score(config, head, logits, labels):
    """Metrics of a split, from its stored logits. Margins have no loss."""
    logits = logits.float()
    labels = torch.from_numpy(labels).long()
    correct = int(is_correct(head.probs(logits), labels, config.always_labelled).sum())
    return {
        'n': len(labels),
        'correct': correct,
        'accuracy': correct / len(labels),
        'loss': head.loss(logits, labels).item() if head.calibrated else None,
    }


# Runs

def fit_run(folder, kind, config, data, meta, texts, counts, count_seconds):
    """Fit a kind and fill its folder. result.json is written last: a run that has it is complete.

    counts: of the words, which took count_seconds.
    """
    started = time.perf_counter() - count_seconds
    head = read_head(vars(config), make_head, code='')  # for its probs and loss; see there
    labels = {name: np.array(data[name].labels) for name in SPLITS}
    features = make_features(kind, texts, counts)
    logits, best, tried = choose(config, kind, head, features, labels, meta)
    if meta['multi_label'] and kind not in ('tfidf_lr', 'fasttext'):
        scale_margins(head, logits, labels['val'])

    arrays = {}
    figures = {'epoch': 1}
    for name in ('val', 'test'):
        arrays[f'{name}_logits'] = logits[name].numpy()
        arrays[f'{name}_labels'] = labels[name]
        if data[name].groups is not None:
            arrays[f'{name}_groups'] = np.array(data[name].groups)
        figures[name] = score(config, head, logits[name], labels[name])
    n_val = len(labels['val'])  # train.py evaluates as many training texts
    figures['train'] = score(config, head, logits['train'][:n_val], labels['train'][:n_val])
    val_labels = torch.from_numpy(labels['val']).long()
    figures['temperature'] = fit_temperature(head.probs, logits['val'], val_labels)
    seconds = time.perf_counter() - started

    write_file(folder / 'preds.npz', lambda file: np.savez_compressed(file, **arrays))
    write_json_lines(folder / 'log.jsonl', [{
        'epoch': 1,
        'step': None,  # there are no steps to count
        'train_loss': figures['train']['loss'],
        'train_acc': figures['train']['accuracy'],
        'val_loss': figures['val']['loss'],
        'val_acc': figures['val']['accuracy'],
        'seconds': seconds,
    }])
    write_json(folder / 'result.json', {
        'head': config.head,
        'seed': config.seed,
        'kind': kind,
        'chosen': best,
        'tried': tried,
        'last': figures,
        'best': figures,
        'seconds': seconds,
    })
    constants = ', '.join(f'{name} {best[name]:g}' for name in best if name != 'val')
    print(f'{folder}  done  {constants} (of {len(tried)})  '
          f'val {100 * figures["val"]["accuracy"]:.2f}  '
          f'test {100 * figures["test"]["accuracy"]:.2f}  {seconds:.0f} s', flush=True)


def run_settings(config, meta):
    """The config of all runs of this command: its settings, the machine, the code and the data."""
    settings = {name: value for name, value in vars(config).items() if name != 'kinds'}
    facts = {
        'hardware': hardware_name('cpu'),
        'sklearn': sklearn.__version__,
        'commit': current_commit(),
        **describe_data(meta),
    }
    return SimpleNamespace(**settings, **facts)


def fit_all(config, kinds, data, meta):
    """Fit all kinds, each in its folder; skip finished runs."""
    counts = None
    for kind in kinds:
        run_config = updated(config, head=choose_head(kind, meta),
                             out_dir=f'{config.out_dir}/{kind}')
        with loop.run_folder(run_config) as folder:
            if folder is None:
                continue
            if counts is None:  # all kinds share them
                started = time.perf_counter()
                texts = read_texts(data, meta)
                counts = count_words(config.dataset, texts)
                count_seconds = time.perf_counter() - started
            fit_run(folder, kind, run_config, data, meta, texts, counts, count_seconds)


# Command

def reserve_blas_buffer():
    """Let SciPy's OpenBLAS, which L-BFGS calls, allocate its buffer of 32 MB, which it keeps.

    Later, memory may be short, and OpenBLAS 0.3.30 then retries forever. NumPy allocates 64 MB
    first, and raises MemoryError if there is too little.
    """
    np.empty(2 ** 26, np.uint8)
    scipy.linalg.cholesky(np.eye(3))


def main(config):
    # with a large C, an SVM may stop before its optimum; val judges what it has reached
    warnings.simplefilter('ignore', ConvergenceWarning)
    kinds = read_kinds(config)
    read_c_values(config)  # a mistake ends the program before the data are read
    check_bounds(config, [(['n_train', 'seed'], 0, math.inf)])
    if config.seed and not config.n_train:  # a second run would count as another sample
        fail('seed samples the n_train texts; all texts need no sample')
    data, meta = load_data(Path(config.data_dir) / config.dataset)
    data['train'] = sample_texts(data['train'], config.n_train, config.seed)
    meta['class_share'] = class_share(data['train'].labels, len(meta['classes']))
    config = updated(config, out_dir=config.out_dir or f'out/{config.dataset}')
    try:
        reserve_blas_buffer()
        fit_all(run_settings(config, meta), kinds, data, meta)
    except KeyboardInterrupt:
        print('\nstopped; the same command resumes', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if is_out_of_memory(error):
            fail('out of memory; try one of the --kinds, or a lower --n_train')
        if isinstance(error, OSError):
            fail(f'cannot write to {config.out_dir}: {error}')
        raise


if __name__ == '__main__':
    main(configure(globals()))
