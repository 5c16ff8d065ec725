"""The linear model beside the trunk: logits that are a weighted sum over a text's n-grams, fitted
to the optimum of the head's loss before the trunk is trained."""
import warnings
from typing import NamedTuple

import numpy as np
import torch

from nanoloss.settings import fail
from nanoloss.vocabulary import some_texts

C = 20.0  # inverse strength of the regularization, as in scikit-learn
STEPS = 20  # of L-BFGS
CELLS = 2 ** 22  # per chunk of the table of n-grams and classes, 32 MB
CURVATURE = 0.1  # a typical second derivative of a loss with respect to a logit


class LinearPart(NamedTuple):
    """A fitted linear model of n-grams; see `NgramWeights` in model.py.

    strength float32 [n_ngrams + 1], weight float32 [n_ngrams + 1, outputs], bias float32 [outputs];
    row 0 is padding.
    """
    strength: np.ndarray
    weight: np.ndarray
    bias: np.ndarray


def ngram_strength(split, n_ngrams, n_class):
    """How informative each n-gram is, float32 [n_ngrams + 1]; row 0 is padding.

    This is the inverse document frequency, as in scikit-learn, times the square root of r. r is the
    root mean square, over the classes, of naive Bayes' log ratio log(p / q): p and q are the
    probabilities of the n-gram in a text with and without the label (Wang and Manning 2012, with
    presence instead of counts).

    split: as `Vocabulary.add_ngrams` returns it.
    """
    from scipy.sparse import csr_matrix  # importing it takes half a second
    labels = split.labels
    n_texts = len(labels)
    if labels.ndim == 1:
        labels = csr_matrix((np.ones(n_texts), (np.arange(n_texts), labels)), (n_texts, n_class))
    else:
        labels = csr_matrix(labels, dtype=float)
    offsets = np.append(0, split.ngram_spans[:, 1])
    presence = csr_matrix((np.ones(len(split.ngrams)), split.ngrams, offsets),
                          shape=(n_texts, n_ngrams + 1), copy=True)
    presence.sum_duplicates()  # in place; a text may list an n-gram more than once
    presence.data[:] = 1
    n_label = np.asarray(labels.sum(0))  # [1, n_class]
    n_with = np.asarray(presence.sum(0)).T  # [n_ngrams + 1, 1]
    n_both = (presence.T @ labels).tocsr()  # [n_ngrams + 1, n_class], mostly 0

    # in chunks, because a dense table of n-grams and many classes would be too large
    strength = np.zeros(n_ngrams + 1, np.float32)
    n_rows = max(1, CELLS // n_class)
    for begin in range(0, n_ngrams + 1, n_rows):
        rows = slice(begin, begin + n_rows)
        both = n_both[rows].toarray()
        # share of the texts with and without the label that have the n-gram, smoothed off 0 and 1
        p = (both + 1) / (n_label + 2)
        q = (n_with[rows] - both + 1) / (n_texts - n_label + 2)
        strength[rows] = np.sqrt((np.log(p / q) ** 2).mean(1))
    idf = np.log((1 + n_texts) / (1 + n_with[:, 0])) + 1
    strength = idf * np.sqrt(strength)
    strength[0] = 0  # padding adds nothing
    return strength.astype(np.float32)


def ngram_matrix(split, strength):
    """The n-grams of each text as a sparse matrix [texts, n_ngrams + 1], float32 in CSR format. A
    row has the strengths of the n-grams that the text lists, scaled to norm 1. An n-gram that is
    listed twice has two entries, which add up.

    split: as `Vocabulary.add_ngrams` returns it.
    """
    lengths = split.ngram_spans[:, 1] - split.ngram_spans[:, 0]
    values = strength[split.ngrams]
    squares = np.append(0, np.cumsum(values.astype(np.float64) ** 2))
    norms = np.sqrt(squares[split.ngram_spans[:, 1]] - squares[split.ngram_spans[:, 0]])
    values /= np.repeat(norms, lengths).clip(np.finfo(np.float32).tiny)
    offsets = np.append(0, split.ngram_spans[:, 1]).astype(np.int32)
    return csr_tensor(offsets, split.ngrams, values, (len(lengths), len(strength)))


def csr_tensor(offsets, columns, values, shape):
    """Arrays -> a sparse matrix in CSR format, which shares their memory."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # CSR tensors are in beta state
        return torch.sparse_csr_tensor(*map(torch.from_numpy, (offsets, columns, values)), shape,
                                       check_invariants=False)


def transposed(matrix):
    """The transpose of a matrix in CSR format, in CSR format."""
    from scipy.sparse import csr_matrix  # importing it takes half a second
    parts = matrix.values(), matrix.col_indices(), matrix.crow_indices()
    flipped = csr_matrix(tuple(map(np.asarray, parts)), matrix.shape).T.tocsr()
    return csr_tensor(flipped.indptr, flipped.indices, flipped.data, flipped.shape)


class Product(torch.autograd.Function):
    """matrix @ weight, with the gradient of the weight. PyTorch's own backward transposes a CSR
    matrix each time."""

    @staticmethod
    def forward(ctx, weight, matrix, transpose):
        ctx.transpose = transpose
        return matrix @ weight

    @staticmethod
    def backward(ctx, gradient):
        return ctx.transpose @ gradient.contiguous(), None, None


def fit_linear(head, split, n_class, vocabulary, encoding):
    """Fit the weights of the n-grams and a bias to the head's loss on `some_texts` of a split of
    the tokenizer's tokens -> `LinearPart`.

    Minimizes the mean loss plus |weight|^2 / (2 C texts) with L-BFGS, as scikit-learn's
    LogisticRegression does. A weight of a frequent n-gram has a larger second derivative than one
    of a rare n-gram. So each variable is a weight times the root of its second derivative (Jacobi
    preconditioning). Then 20 steps are enough instead of 100.
    """
    split = vocabulary.add_ngrams(some_texts(split), encoding)
    strength = ngram_strength(split, len(vocabulary.ngrams), n_class)
    matrix = ngram_matrix(split, strength)
    transpose = transposed(matrix)
    n_texts = matrix.shape[0]
    labels = np.asarray(split.labels)
    labels = torch.from_numpy(labels.astype(np.float32 if labels.dtype.kind == 'f' else np.int64))
    squares = torch.zeros(len(strength)).index_add_(
        0, matrix.col_indices().long(), matrix.values().square())
    scale = (CURVATURE * squares / n_texts + 1 / (C * n_texts)).rsqrt()[:, None]

    n_outputs = head.linear.out_features
    scaled = torch.zeros(len(strength), n_outputs, requires_grad=True)
    bias = torch.zeros(n_outputs, requires_grad=True)
    optimizer = torch.optim.LBFGS([scaled, bias], max_iter=STEPS, max_eval=2 * STEPS,
                                  history_size=10, line_search_fn='strong_wolfe')

    def objective():
        optimizer.zero_grad()
        weight = scaled * scale
        logits = Product.apply(weight, matrix, transpose) + bias
        value = head.loss(logits, labels) + weight.square().sum() / (2 * C * n_texts)
        value.backward()
        return value

    optimizer.step(objective)
    weight = (scaled * scale).detach().numpy()
    if not np.isfinite(weight).all():
        fail('the loss of the linear model is not finite; leave that model out: --ngrams=none')
    return LinearPart(strength, weight, bias.detach().numpy())


def linear_logits(linear, split, vocabulary, encoding):
    """The logits of the linear model for a split of the tokenizer's tokens, float32
    [texts, outputs]."""
    matrix = ngram_matrix(vocabulary.add_ngrams(split, encoding), linear.strength)
    logits = matrix @ torch.from_numpy(linear.weight) + torch.from_numpy(linear.bias)
    return logits.numpy()


def fit_mix(head, trunk, linear, labels):
    """The weights of two logits, [2], that maximize the likelihood of the labels under their sum.

    They are positive. A penalty keeps them near 1 if there are few labels.
    trunk, linear: float [N, outputs] on the CPU. labels: an array, as the head takes them.
    """
    from nanoloss.stats import probs_of_labels  # importing scipy takes a second
    device = head.linear.weight.device
    trunk = trunk.to(device)
    linear = linear.to(device)
    labels = torch.from_numpy(labels.astype(np.int64)).to(device)
    log_mix = torch.zeros(2, device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_mix], max_iter=50, line_search_fn='strong_wolfe')

    def objective():
        optimizer.zero_grad()
        probs = probs_of_labels(head.probs(mixed(log_mix.exp(), trunk, linear)), labels)
        value = -probs.clamp(min=1e-6).log().mean() + log_mix.square().sum() / len(labels)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(objective)
    return log_mix.detach().exp()


def mixed(mix, trunk, linear):
    """The weighted sum of two logits, [N, outputs]."""
    return mix[0] * trunk + mix[1] * linear
