"""nanoloss/linear.py against scikit-learn, brute force and the model (6 s)."""
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model import NgramWeights, make_head
from nanoloss import linear
from nanoloss.data import Split, spans_of
from nanoloss.linear import fit_linear, fit_mix, linear_logits, mixed, ngram_matrix, ngram_strength
from nanoloss.tokenizer import tokenizer
from nanoloss.vocabulary import learn_vocabulary


@pytest.fixture(scope='module')
def encoding():
    return tokenizer()


def with_ngrams(present, labels=None):
    """A split of texts with n-grams, from a table of how often each text lists each n-gram."""
    ids = [np.repeat(np.arange(len(row)) + 1, row) for row in present.astype(int)]
    spans = spans_of(np.cumsum([0, *map(len, ids)]))
    return Split(None, np.zeros((len(ids), 2), int), labels, np.concatenate(ids).astype(np.int32),
                 spans)


def random_split(n, n_class, encoding, seed=0):
    """Texts of words, of which some are more frequent in texts of a class; the last text is empty.
    Their labels are drawn, so no weights fit all of them."""
    rng = np.random.default_rng(seed)
    rows = []
    labels = rng.integers(0, n_class, n).astype(np.uint8)
    frequency = 1 / np.arange(1, 301)
    for label in labels:
        p = np.where(np.arange(300) % (2 * n_class) == label, 4, 1) * frequency
        words = rng.choice(300, rng.integers(1, 30), p=p / p.sum())
        rows.append(encoding.encode_ordinary(' '.join(f'word{word}' for word in words)))
    rows[-1] = [encoding.eot_token]
    offsets = np.cumsum([0, *map(len, rows)])
    return Split(np.concatenate(rows).astype(np.uint32), spans_of(offsets), labels)


def dense(split, strength):
    """The matrix of a split, text by text, float64."""
    matrix = np.zeros((len(split.ngram_spans), len(strength)))
    for row, (begin, end) in zip(matrix, split.ngram_spans):
        listed = split.ngrams[begin:end]
        for ngram in listed:
            row[ngram] += strength[ngram]
        length = math.sqrt((strength[listed].astype(float) ** 2).sum())
        if length:
            row /= length
    return matrix


# Strengths

@pytest.mark.parametrize('kind', ['one label', 'several labels', 'probabilities'])
def test_strength_is_idf_times_the_root_of_what_naive_bayes_learns(kind, monkeypatch):
    monkeypatch.setattr(linear, 'CELLS', 10)  # three n-grams at a time
    rng = np.random.default_rng(1)
    present = rng.random((40, 7)) < [0, 0.1, 0.3, 0.5, 0.7, 0.9, 1]
    labels = rng.integers(0, 3, 40)
    targets = np.eye(3)[labels]
    if kind == 'several labels':
        labels = targets = (rng.random((40, 3)) < 0.4).astype(np.uint8)
    elif kind == 'probabilities':
        labels = targets = rng.dirichlet([1, 1, 1], 40).astype(np.float32)
    strength = ngram_strength(with_ngrams(present, labels), 7, 3)
    assert strength.dtype == np.float32 and strength.shape == (8,)
    assert strength[0] == 0  # padding: a text's length must not depend on its company
    for gram in range(7):
        squares = 0.0
        for target in targets.T.astype(float):
            p = (present[:, gram] @ target + 1) / (target.sum() + 2)
            q = (present[:, gram] @ (1 - target) + 1) / ((1 - target).sum() + 2)
            squares += math.log(p / q) ** 2
        idf = math.log(41 / (1 + present[:, gram].sum())) + 1
        wanted = idf * (squares / 3) ** 0.25
        assert strength[gram + 1] == pytest.approx(wanted, rel=1e-5)


def test_the_idf_is_scikit_learn_s():
    """Of n-grams that tell the same about the classes."""
    text = pytest.importorskip('sklearn.feature_extraction.text')
    present = np.zeros((24, 3), bool)
    present[:2, 0] = present[:4, 1] = True
    present[:, 2] = True
    labels = np.arange(24) % 2
    labels[:4] = 1
    idf = text.TfidfTransformer().fit(present.astype(float)).idf_
    strength = ngram_strength(with_ngrams(present, labels), 3, 2)[1:] / idf
    for gram in range(3):
        p = (present[labels == 1, gram].sum() + 1) / ((labels == 1).sum() + 2)
        q = (present[labels == 0, gram].sum() + 1) / ((labels == 0).sum() + 2)
        assert strength[gram] ** 2 == pytest.approx(abs(math.log(p / q)), rel=1e-5, abs=1e-9)


# The matrix of n-grams

def test_rows_of_the_matrix_have_length_1():
    rng = np.random.default_rng(2)
    present = rng.random((50, 9)) < 0.3
    present[7] = False  # the last, too, has none
    present[49] = False
    strength = np.append(0, rng.random(9)).astype(np.float32)
    split = with_ngrams(present)
    matrix = ngram_matrix(split, strength)
    assert matrix.shape == (50, 10) and matrix.dtype == torch.float32
    found = matrix.to_dense().numpy()
    assert np.array_equal(found[:, 1:] > 0, present)
    np.testing.assert_allclose(found, dense(split, strength), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), present.any(1), rtol=1e-6)


def test_an_n_gram_that_is_listed_twice_weighs_twice():
    rng = np.random.default_rng(4)
    present = rng.random((50, 9)) < 0.3
    listed = present * rng.integers(1, 4, present.shape)
    labels = rng.integers(0, 3, 50)
    split = with_ngrams(listed, labels)
    ids = split.ngrams.copy()
    strength = ngram_strength(split, 9, 3)
    assert np.array_equal(strength, ngram_strength(with_ngrams(present, labels), 9, 3))
    assert np.array_equal(split.ngrams, ids)
    found = ngram_matrix(split, strength).to_dense().numpy()
    np.testing.assert_allclose(found, dense(split, strength), rtol=1e-6)
    once = ngram_matrix(with_ngrams(present), strength).to_dense().numpy()
    for row, row_once, times in zip(found[:, 1:], once[:, 1:], listed):
        there = times > 0
        ratio = row[there] / row_once[there] / times[there]  # a factor, which scales the whole text
        np.testing.assert_allclose(ratio, ratio[:1].repeat(len(ratio)), rtol=1e-5)


def test_n_grams_that_tell_nothing_are_no_n_grams():
    """A text has one of them alone, which is as frequent in both classes."""
    present = np.array([[1, 1], [1, 0], [1, 1], [1, 0], [0, 1]], bool)
    strength = np.array([0, 0, 2], np.float32)
    matrix = ngram_matrix(with_ngrams(present), strength).to_dense()
    assert matrix.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]]


def test_a_product_with_the_matrix_has_the_gradient_of_the_dense_one():
    rng = np.random.default_rng(3)
    strength = np.append(0, rng.random(9)).astype(np.float32)
    matrix = ngram_matrix(with_ngrams(rng.random((20, 9)) < 0.3), strength)
    transpose = linear.transposed(matrix)
    assert torch.equal(transpose.to_dense(), matrix.to_dense().T)
    weight = torch.randn(10, 3, requires_grad=True)
    error = torch.randn(3, 20).T  # not contiguous
    found = linear.Product.apply(weight, matrix, transpose)
    wanted = matrix.to_dense() @ weight
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, weight, error),
                               torch.autograd.grad(wanted, weight, error))


# The fit

def fit(head, split, n_class, encoding, kind='words'):
    """-> the vocabulary, the fitted `LinearPart` and its matrix."""
    vocabulary = learn_vocabulary(split, encoding, False, kind, 2, 100, 'head')
    fitted = fit_linear(head, split, n_class, vocabulary, encoding)
    matrix = dense(vocabulary.add_ngrams(split, encoding), fitted.strength)
    return vocabulary, fitted, matrix


def logistic_regression(C, matrix, labels, **kwargs):
    module = pytest.importorskip('sklearn.linear_model')
    model = module.LogisticRegression(C=C, tol=1e-7, max_iter=10_000)
    return model.fit(matrix, labels, **kwargs)


def objective(head, matrix, labels, weight, bias):
    """The mean loss and the penalty of the weights, not of the bias, in float64."""
    logits = torch.tensor(matrix @ weight + bias)
    n_texts = len(labels)
    return head.loss(logits, labels).item() + (weight ** 2).sum() / (2 * 20 * n_texts)


def check_optimum(head, labels, fitted, matrix, theirs):
    """The fit comes as near to the optimum as its 20 steps bring it; the optimum is no worse.
    theirs: the weights [n_ngrams + 1, outputs] and biases of scikit-learn."""
    labels = torch.tensor(labels)
    if not labels.is_floating_point():
        labels = labels.long()
    found = objective(head, matrix, labels, fitted.weight.astype(float), fitted.bias.astype(float))
    best = objective(head, matrix, labels, *theirs)
    start = objective(head, matrix, labels, *(0 * values for values in theirs))
    assert best - 1e-6 < found < best + 2e-3 * (start - best)
    ours = matrix @ fitted.weight + fitted.bias
    wanted = matrix @ theirs[0] + theirs[1]
    assert np.abs(ours - wanted).mean() < 0.03 * np.abs(wanted).mean()
    assert np.abs(wanted).max() > 1


@pytest.mark.parametrize('name, n_class', [('bce', 2), ('ce', 4)])
def test_logits_are_fitted_as_scikit_learn_does(encoding, name, n_class):
    split = random_split(200, n_class, encoding)
    head = make_head(name, 1, n_class)
    _, fitted, matrix = fit(head, split, n_class, encoding)
    best = logistic_regression(20, matrix, split.labels)
    check_optimum(head, split.labels, fitted, matrix, (best.coef_.T, best.intercept_))


def test_ce_of_two_classes_has_half_the_weights_in_each(encoding):
    """So their squares add up to half of one output's, as if C was twice as large."""
    split = random_split(200, 2, encoding)
    head = make_head('ce', 1, 2)
    _, fitted, matrix = fit(head, split, 2, encoding)
    best = logistic_regression(40, matrix, split.labels)
    half = np.array([[-0.5, 0.5]])
    check_optimum(head, split.labels, fitted, matrix,
                  (best.coef_.T * half, best.intercept_ * half[0]))
    np.testing.assert_allclose(fitted.weight.sum(1), 0, atol=1e-4)


def test_bce_of_several_classes_is_one_fit_each(encoding):
    """The loss is the sum over the classes, so each has the optimum that it has alone."""
    split = random_split(200, 3, encoding)
    head = make_head('bce', 1, 3)
    _, fitted, matrix = fit(head, split, 3, encoding)
    best = [logistic_regression(20, matrix, split.labels == label) for label in range(3)]
    theirs = (np.concatenate([model.coef_ for model in best]).T,
              np.concatenate([model.intercept_ for model in best]))
    check_optimum(head, split.labels, fitted, matrix, theirs)


@pytest.mark.parametrize('name', ['ce', 'bce'])
def test_probabilities_as_labels_are_weighted_copies(name, encoding):
    """As many copies of a text as there are classes, weighted by the probabilities."""
    n_class = 2 if name == 'bce' else 3
    rng = np.random.default_rng(4)
    split = random_split(200, n_class, encoding)
    probs = rng.dirichlet([0.5] * n_class, 200)
    probs[np.arange(200), split.labels] += 1
    split = split._replace(labels=(probs / 2).astype(np.float32))
    head = make_head(name, 1, n_class)
    _, fitted, matrix = fit(head, split, n_class, encoding)
    copies = np.repeat(np.arange(n_class), 200)
    best = logistic_regression(20, np.tile(matrix, (n_class, 1)), copies,
                               sample_weight=split.labels.T.flatten())
    check_optimum(head, split.labels.astype(float), fitted, matrix, (best.coef_.T, best.intercept_))


@pytest.mark.parametrize('name', ['focal', 'brier', 'square', 'squentropy'])
def test_every_head_gets_a_fit_that_lowers_its_loss(name, encoding):
    split = random_split(200, 3, encoding)
    head = make_head(name, 1, 3)
    _, fitted, matrix = fit(head, split, 3, encoding)
    labels = torch.tensor(split.labels).long()
    found = objective(head, matrix, labels, fitted.weight, fitted.bias)
    start = objective(head, matrix, labels, 0 * fitted.weight, 0 * fitted.bias)
    assert found < 0.8 * start
    accuracy = ((matrix @ fitted.weight + fitted.bias).argmax(1) == split.labels).mean()
    assert accuracy > 0.9


def test_several_labels_per_text(encoding):
    """One fit each, because the loss is the sum over the labels."""
    first, second = (random_split(200, 2, encoding, seed) for seed in (0, 1))
    split = first._replace(labels=np.stack([first.labels, second.labels], 1))
    head = make_head('bce', 1, 2, multi_label=True)
    _, fitted, matrix = fit(head, split, 2, encoding)
    best = [logistic_regression(20, matrix, labels) for labels in split.labels.T]
    theirs = (np.concatenate([model.coef_ for model in best]).T,
              np.concatenate([model.intercept_ for model in best]))
    check_optimum(head, split.labels, fitted, matrix, theirs)


# The linear part in the model

@pytest.mark.parametrize('kind', ['words', 'words+chars'])
def test_logits_are_those_of_the_model(kind, encoding):
    split = random_split(60, 3, encoding)
    vocabulary, fitted, matrix = fit(make_head('ce', 1, 3), split, 3, encoding, kind)
    other = random_split(30, 3, encoding, seed=5)
    logits = linear_logits(fitted, other, vocabulary, encoding)
    assert logits.dtype == np.float32 and logits.shape == (30, 3)

    model = NgramWeights(len(vocabulary.ngrams), 3)
    model.sums.weight.copy_(torch.from_numpy(fitted.weight))
    model.bias.copy_(torch.from_numpy(fitted.bias))
    model.strength.copy_(torch.from_numpy(fitted.strength))
    other = vocabulary.add_ngrams(other, encoding)
    texts = [torch.from_numpy(other.ngrams[begin:end]).long() for begin, end in other.ngram_spans]
    padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    torch.testing.assert_close(torch.from_numpy(logits), model(padded), rtol=1e-5, atol=1e-5)
    assert np.array_equal(logits[-1], fitted.bias)  # the empty text


# The mix

def nll(head, mix, trunk, part, labels):
    """What fit_mix minimizes, in float64: the mean negative log-likelihood, of a text's labels
    together or of all labels alike, and the squares of the logarithms of the weights."""
    probs = head.probs(mix[0] * trunk + mix[1] * part)
    if labels.dim() == 1:
        p = probs[torch.arange(len(labels)), labels]
    else:
        p = probs * labels + (1 - probs) * (1 - labels)
    penalty = (math.log(mix[0]) ** 2 + math.log(mix[1]) ** 2) / len(labels)
    return -p.clamp(min=1e-6).log().mean().item() + penalty


@pytest.mark.parametrize('n', [20, 500])
@pytest.mark.parametrize('name, n_class, several', [
    ('bce', 2, False), ('ce', 3, False), ('bce', 3, True), ('brier', 3, False)])
def test_the_mix_is_the_best_of_a_grid(name, n_class, several, n):
    torch.manual_seed(n)
    head = make_head(name, 1, n_class, several)
    labels = torch.randint(0, 2, (n, n_class)) if several else torch.randint(0, n_class, (n,))
    one_hot = labels if several else F.one_hot(labels, n_class)
    if head.linear.out_features == 1:
        one_hot = one_hot[:, 1:]
    trunk = (one_hot - 0.5 + torch.randn(one_hot.shape)).float()
    part = (one_hot - 0.5 + 2 * torch.randn(one_hot.shape)).float()
    mix = fit_mix(head, trunk, part, labels.numpy().astype(np.uint8))
    assert mix.shape == (2,) and (mix > 0).all() and not mix.requires_grad

    centre = np.zeros(2)
    for width in 3.0, 0.3, 0.03, 0.003:
        grid = [centre + width / 5 * np.array([i, j]) for i in range(-5, 6) for j in range(-5, 6)]
        values = [nll(head, np.exp(point), trunk.double(), part.double(), labels)
                  for point in grid]
        centre = grid[int(np.argmin(values))]
    assert np.log(mix.numpy()) == pytest.approx(centre, abs=2e-3)
    assert nll(head, mix.tolist(), trunk.double(), part.double(), labels) < min(values) + 1e-6
    assert mix[0] > mix[1]  # the trunk's are the better ones here


@pytest.mark.parametrize('n, lowest, highest', [(2000, 0.001, 0.1), (4, 0.2, 0.9)])
def test_a_part_that_is_wrong_gets_a_small_weight_but_a_positive_one(n, lowest, highest):
    """With a few labels to choose by, it is nearer to 1."""
    torch.manual_seed(6)
    head = make_head('ce', 1, 2)
    labels = torch.arange(n) % 2
    truth = F.one_hot(labels, 2) - 0.5
    mix = fit_mix(head, 2 * truth + torch.randn(n, 2), torch.randn(n, 2) - truth, labels.numpy())
    assert lowest < mix[1] < highest < mix[0]


def test_the_logits_of_a_mix():
    trunk, part = torch.randn(2, 5, 3)
    for a, b in pairwise([0.0, 1.0, 2.5]):
        torch.testing.assert_close(mixed(torch.tensor([a, b]), trunk, part), a * trunk + b * part)
