"""Statistics of a few runs: intervals, permutation tests, power, and measures of their answers.

Pure functions on arrays. The answers of a group of runs are `correct`, bool [runs, texts]: whether
a run classified a text correctly. Groups that are compared were judged on the same texts.
Accuracies are in %, their differences in points.
"""
import math
from bisect import bisect_left

import numpy as np
import torch
from scipy import optimize, stats
from sklearn import metrics

from nanoloss.labels import decide

# splits in a permutation test: all of them up to 10 runs against 10, random ones beyond that
RESPLITS = 184_756
BINS = 15  # bins of confidence, for the calibration error
RESAMPLES = 1000  # resamples of runs, for the interval of a power law
POWERS = np.geomspace(0.02, 2, 200)  # exponents that are tried for a power law


def answer_noise(answers):
    """The variance that the noise of single answers, [runs, texts], adds to that of their mean.

    The noise is what remains of an answer without its run's and its text's mean.
    """
    n_runs, n_texts = answers.shape
    residuals = answers - answers.mean(1, keepdims=True) - answers.mean(0) + answers.mean()
    return (residuals ** 2).sum() / ((n_runs - 1) * (n_texts - 1) * answers.size)


def as_two_runs(correct):
    """The answers of a model without seeds, bool [1, texts], as of two runs, for `interval`: a
    second run would be the same."""
    return np.repeat(correct, 2, axis=0)


def effective_groups(clusters):
    """The number of equal clusters with as much information: (sum n)^2 / sum n^2 (Kish 1965).

    clusters: [texts], the cluster of each.
    """
    _, sizes = np.unique(clusters, return_counts=True)
    return sizes.sum() ** 2 / (sizes ** 2).sum()


def variance_of_mean(values, clusters=None):
    """The variance of the mean of values [texts] over other texts like these, which are
    independent except within a cluster. clusters: [texts], or None.

    Returns the variance and its degrees of freedom, which are infinite without clusters. Both are
    computed from the number of effective clusters. If all clusters have one size, that is their
    number. With a few unequal ones, 95 % intervals cover 89 to 94 %; with the number of all
    clusters in its place they would cover 75 to 88 %.
    """
    if clusters is None or len(np.unique(clusters)) == 1:  # one cluster says nothing about others
        return values.var(ddof=1) / values.size, math.inf
    _, cluster_of = np.unique(clusters, return_inverse=True)
    sums = np.bincount(cluster_of, values - values.mean())
    df = effective_groups(clusters) - 1
    return (df + 1) / df * (sums ** 2).sum() / values.size ** 2, df


def crossed_interval(groups, clusters):
    """The dict of `interval`, for one or two groups of any values [runs, texts], in points."""
    by_text = groups[0].mean(0) - sum(group.mean(0) for group in groups[1:])
    estimate = by_text.mean()
    if min(len(group) for group in groups) < 2:
        return {'estimate': estimate, 'seeds': None, 'both': None, 'texts': None, 'p': None}

    # the variance of the estimate that is due to the seeds, and the variance that the texts add
    seed_variances = [group.mean(1).var(ddof=1) / len(group) for group in groups]
    seed_variance = sum(seed_variances)
    noise = sum(answer_noise(group) for group in groups)
    text_variance, text_df = variance_of_mean(by_text, clusters)
    text_variance = max(0.0, text_variance - noise)

    # degrees of freedom by Satterthwaite: variance^2 / (sum of variance_i^2 / (runs_i - 1))
    seed_divisor = 0
    for variance, group in zip(seed_variances, groups):
        seed_divisor += variance ** 2 / (len(group) - 1)

    def around_estimate(variance, divisor):
        if variance == 0:
            return estimate, estimate, float(estimate == 0)
        df = math.inf
        if divisor:
            df = variance ** 2 / divisor
        half = stats.t.ppf(0.975, df) * variance ** 0.5
        return estimate - half, estimate + half, 2 * stats.t.sf(abs(estimate) / variance ** 0.5, df)

    # for other seeds on these texts; for other seeds and other texts
    seeds = around_estimate(seed_variance, seed_divisor)
    both = around_estimate(seed_variance + text_variance,
                           seed_divisor + text_variance ** 2 / text_df)
    if both[1] <= seeds[1]:  # its further degrees of freedom must not make it the narrower one
        both = seeds
    return {
        'estimate': estimate,
        'seeds': seeds[:2],
        'both': both[:2],
        'texts': 1.96 * text_variance ** 0.5,
        'p': float(both[2]),
    }


def interval(*groups, clusters=None, paired=False):
    """95 % intervals, in points, of a mean accuracy or of the difference of two.

    groups: one or two, `correct` of each; or other values [runs, texts], where 1 is 100 points
    clusters: see `variance_of_mean`; reviews of one movie tend to be right or wrong together
    paired: whether run i of both groups has the same seed. Then the interval is that of the seeds'
        differences, since runs of one seed tend to be good or bad together.
    Returns a dict:
        estimate: the mean accuracy, or that of the first group minus that of the second
        seeds: (low, high) for other seeds on these texts (Student's t; of two groups that are not
            paired, Welch's)
        both: (low, high) for other seeds and other texts, see below
        texts: the half-width that is due to the texts, however many the seeds
        p: of two groups only: p value for a difference of 0, for other seeds and other texts; at
            most .05 if `both` excludes 0
    All but the estimate are None if a group is a single run.

    Runs and texts are crossed: the variance is that between runs plus that between texts minus the
    noise of single answers, which is in both. Resampling runs and texts counts that noise three
    times (Owen 2007, The pigeonhole bootstrap) and underestimates the spread of five runs: on
    simulated 5 + 5 runs, its percentiles cover 91 to 99 %, this interval 94 to 97 %.

    `both` of one accuracy is computed with two right and two wrong texts added (Agresti and Coull
    1998). Near 100 %, where few texts are wrong, the interval without them covers 56 to 89 % and
    may have no width; this one covers 95 to 99 %.
    """
    correct = groups[0]
    is_difference = len(groups) == 2
    groups = [100.0 * group for group in groups]
    if paired:
        groups = [groups[0] - groups[1]]
    found = crossed_interval(groups, clusters)
    if is_difference:
        return found
    del found['p']
    if correct.dtype == bool and found['both']:
        more = np.tile([True, True, False, False], (len(correct), 1))
        if clusters is not None:
            _, clusters = np.unique(clusters, return_inverse=True)
            # the four added texts are clusters of their own, unless there is one cluster only
            clusters = np.append(clusters, -np.arange(1, 5) * (clusters.max() > 0))
        low, high = crossed_interval([100.0 * np.hstack([correct, more])], clusters)['both']
        seeds_low, seeds_high = found['seeds']
        found['both'] = max(0.0, min(low, seeds_low)), min(100.0, max(high, seeds_high))
    return found


def summarize_accuracy(n_correct, n, correct=None, clusters=None, drawn=True):
    """The accuracy of a group of runs: a dict with n, correct (a list), what `interval` returns,
    min, mean, median, max and max-min.

    n_correct: int [runs]; n: number of texts
    correct: bool [runs, texts], or None if single answers are not known. Then there is no interval
        for other texts.
    clusters: see `interval`. drawn: whether runs of other seeds would differ; if not, one run has
        an interval, too.
    """
    by_run = 100 * (n_correct / n)
    if correct is None:
        intervals = {'estimate': by_run.mean(), 'seeds': None, 'both': None, 'texts': None}
        if len(by_run) > 1:
            half = half_interval(by_run)
            intervals['seeds'] = (by_run.mean() - half, by_run.mean() + half)
    else:
        intervals = interval(correct if drawn else as_two_runs(correct), clusters=clusters)
    return {
        'n': n,
        'correct': n_correct.tolist(),
        **intervals,
        'min': by_run.min(),
        'mean': by_run.mean(),
        'median': np.median(by_run),
        'max': by_run.max(),
        'max-min': np.ptp(by_run),
    }


def half_interval(values):
    """Half the 95 % interval of a mean of two or more numbers for other seeds (Student's t)."""
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def power_law(law, n):
    """The error a + b n^-c for n training texts; law [..., 3] holds a, b and c."""
    return law[..., 0] + law[..., 1] * n ** -law[..., 2]


def fit_power_law(sizes, errors):
    """Fit error = a + b n^-c, n the number of training texts -> float [..., 3]: a, b and c.

    sizes: float [S], three or more different ones
    errors: float [..., S], in %, above 0: the mean of the runs at each size

    The fit minimizes the squares of the relative errors, since runs scatter about in proportion to
    their error. For each c of POWERS the best a and b are those of a straight line. If a is
    negative, these sizes show no floor. Forbidding that would bend b and c: without a floor, the
    interval of `resampled_means` would then cover 72 % instead of 92.
    """
    weights = errors ** -2
    weights = weights / weights.sum(-1, keepdims=True)
    mean_error = (weights * errors).sum(-1, keepdims=True)
    least = np.full(mean_error.shape, np.inf)
    law = np.zeros((*errors.shape[:-1], 3))
    for c in POWERS:
        x = sizes ** -c
        mean_x = (weights * x).sum(-1, keepdims=True)
        covariance = (weights * (x - mean_x) * errors).sum(-1, keepdims=True)
        b = covariance / (weights * (x - mean_x) ** 2).sum(-1, keepdims=True)
        a = mean_error - b * mean_x
        misfit = (weights * (errors - a - b * x) ** 2).sum(-1, keepdims=True)
        found = np.concatenate([a, b, np.full(a.shape, c)], -1)
        law = np.where(misfit < least, found, law)
        least = np.minimum(misfit, least)
    return law


def resampled_means(runs):
    """The means of resampled runs, float [RESAMPLES, S]. The power laws that are fitted to them are
    an interval for the law.

    runs: at each of S sizes a list of numbers, two or more.

    A resample draws n - 1 of n runs, with replacement, since means of n scatter too little (by a
    tenth with five runs). On simulated curves of seven sizes and five runs each, the middle 95 % of
    the laws' predictions for twice the data cover the truth in 92 to 96 %.
    """
    rng = np.random.default_rng(0)
    means = []
    for values in runs:
        drawn = rng.choice(values, (RESAMPLES, len(values) - 1))
        means.append(drawn.mean(1))
    return np.stack(means, 1)


def permutation_test(a, b, spread=False):
    """Count the splits of all runs into two groups that are at least as far apart as a and b.

    a, b: a number per run; whole numbers (correct answers) tie exactly
    spread: compare the max-min distances of the groups, not their means
    Returns {hits, splits, p (two-sided), exact: whether these are all splits}.
    """
    def distance(x, y, axis):
        if spread:
            return abs(np.ptp(x, axis) - np.ptp(y, axis))
        # the means' distance times len(a) len(b), so that whole numbers are not rounded
        return abs(len(b) * x.sum(axis) - len(a) * y.sum(axis))

    # a distance has no sign, so its upper tail holds both sides
    test = stats.permutation_test(
        (a, b), distance, alternative='greater', n_resamples=RESPLITS, rng=0)
    hits = (test.null_distribution >= test.statistic).sum()
    return {
        'hits': int(hits),
        'splits': len(test.null_distribution),
        'p': float(test.pvalue),
        'exact': math.comb(len(a) + len(b), len(a)) <= RESPLITS,
    }


def holm(p):
    """p values corrected for their number: the chance that any of those of at most .05 is a false
    positive is at most 5 %.

    Holm 1979: the smallest of n times n, the next times n - 1 ..., none below the one before it.
    """
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))  # in the order of p
    corrected[order] = np.maximum.accumulate(np.sort(p) * factors).clip(max=1)
    return corrected.tolist()


def differs_and_equals(differences, margin):
    """p values for two claims about the mean of the population of these differences, [N]: it is not
    0 (Student's t), and it is between -margin and margin (two one-sided tests, Schuirmann 1987).
    """
    differs = stats.ttest_1samp(differences, 0).pvalue
    above = stats.ttest_1samp(differences, -margin, alternative='greater').pvalue
    below = stats.ttest_1samp(differences, margin, alternative='less').pvalue
    return float(differs), float(max(above, below))


def mean_ranks(table):
    """The mean rank of each method, 1 is best. table: accuracies [data sets, methods]."""
    return stats.rankdata(-table, axis=1).mean(0)


def critical_difference(n_sets, n_methods):
    """The smallest difference of two mean ranks that is significant at the 5 % level, by Nemenyi's
    test (Demšar 2006)."""
    q = stats.studentized_range.ppf(0.95, n_methods, np.inf) / math.sqrt(2)
    return q * math.sqrt(n_methods * (n_methods + 1) / (6 * n_sets))


def expected_best(values, n):
    """The expected maximum of n values that are drawn from these, with replacement (Dodge 2019)."""
    values = np.sort(values)
    shares = np.arange(len(values) + 1) / len(values)
    return float((values * np.diff(shares ** n)).sum())


def pooled_sd(a, b):
    """The standard deviation of the accuracies of a group's runs, in points: [sd, low, high].

    a, b: `correct` of two groups, which are assumed to scatter alike. Low and high are the 95 %
    interval, by chi-square.
    """
    df = len(a) + len(b) - 2
    squares = len(a) * a.mean(1).var() + len(b) * b.mean(1).var()
    sd = 100 * math.sqrt(squares / df)
    low = sd * math.sqrt(df / stats.chi2.ppf(0.975, df))
    high = sd * math.sqrt(df / stats.chi2.ppf(0.025, df))
    return [sd, low, high]


def seeds_needed(sd, points):
    """The number of runs per group with which a t test finds a difference in 80 % of cases.

    sd: the standard deviation of the runs, in points. points: the difference. The test is two-sided
    at .05; its power is that of the noncentral t distribution, whose other tail is negligible.
    """
    def power(n):
        df = 2 * n - 2
        noncentrality = points / max(sd, 1e-6) * (n / 2) ** 0.5
        return stats.nct.sf(stats.t.ppf(0.975, df), df, noncentrality)

    # power grows with n, so bisection finds the first n that suffices
    return 2 + bisect_left(range(2, 10**7), 0.8, key=power)


def confident_classes(probs, labels):
    """The class to which each text confidently belongs, by confident learning (Northcutt, Jiang and
    Chuang 2021, arXiv 1911.00068): int [N], -1 if there is none.

    probs [N, classes], of models that were not trained on these labels; labels int [N].
    A text confidently belongs to a class if its probability is at least the mean probability of the
    texts with that label; if several classes qualify, to the likeliest. The counts of texts by
    label and confident class are the paper's confident joint; texts off its diagonal look
    mislabelled.
    """
    thresholds = np.full(probs.shape[1], np.inf)  # for a class that no text has
    for k in np.unique(labels):
        thresholds[k] = probs[labels == k, k].mean()
    confident = probs >= thresholds
    likeliest = np.where(confident, probs, -1).argmax(1)
    return np.where(confident.any(1), likeliest, -1)


# Measures of answers

def flags(answers, n_class):
    """Classes by number, int [N], as bool [N, classes]; a number of no class sets no flag. Flags
    are returned as they are."""
    if answers.ndim == 2:
        return answers.astype(bool)
    return answers[:, None] == np.arange(n_class)


def measure_decisions(probs, labels, classes, always_labelled=False):
    """F1, recall and AUROC in %: {name: value or None}.

    probs [N, classes]; labels int [N] or, if texts have several labels, 0 and 1 [N, classes];
    always_labelled: see `decide`.
    Macro F1 and the lowest recall are over the classes that occur. A class that does not occur has
    no recall: None.
    """
    multi_label = labels.ndim == 2
    decisions = decide(probs, multi_label, always_labelled=always_labelled)
    present, = np.nonzero(flags(labels, len(classes)).any(0))
    if not len(present):  # no text has any label
        present = np.arange(len(classes))
    options = {'labels': present, 'zero_division': 0}

    measures = {'macro F1': 100 * metrics.f1_score(labels, decisions, average='macro', **options)}
    if multi_label:
        measures['micro F1'] = 100 * metrics.f1_score(labels, decisions, average='micro', **options)

    # the recall of each class if there are few, else the lowest
    recalls = metrics.recall_score(labels, decisions, average=None, **options)
    if len(classes) <= 4:
        by_class = dict(zip(present, 100 * recalls))
        for c, name in enumerate(classes):
            measures[f'recall of {name}'] = by_class.get(c)
    else:
        measures['lowest recall'] = 100 * recalls.min()
    if len(classes) == 2 and not multi_label:
        measures['AUROC'] = None  # unless both classes occur
        if len(set(labels)) == 2:
            measures['AUROC'] = 100 * metrics.roc_auc_score(labels, probs[:, 1])
    return measures


def measure_probabilities(probs, labels):
    """probs, labels as in `measure_decisions` -> {name: value}, and the bins of confidence."""
    probs, labels = each_decision(probs, labels)
    bins = confidence_bins(probs, labels)
    measures = {
        'NLL': float(negative_log_likelihood(probs, labels)),
        'Brier': float(brier_score(probs, labels)),
        'ECE': float(calibration_error(bins)),
        'ECE floor': float(calibration_floor(bins)),
    }
    return measures, bins


def measure(head, logits, labels, classes, always_labelled=False):
    """Measures of a run's decisions and probabilities on test.

    head: for its `probs` and `calibrated`
    logits: by split, float tensor [N, outputs]
    labels: by split, int [N] or, if texts have several labels, 0 and 1 [N, classes]; then the
        probabilities are judged label by label
    always_labelled: see `decide`
    Returns {name: value or None}; the bins of the reliability diagram before and after temperature
    scaling, [2, bins, 3], see `confidence_bins`; and the probabilities after it, [N, classes].
    """
    test_logits = logits['test'].double()
    probs = head.probs(test_logits).numpy()
    measures = measure_decisions(probs, labels['test'], classes, always_labelled)

    # the temperature comes from val, so that test can judge it
    val_labels = torch.from_numpy(labels['val'].astype(np.int64))
    temperature = fit_temperature(head.probs, logits['val'], val_labels)
    measures['temperature'] = temperature
    scaled_probs = head.probs(test_logits / temperature).numpy()

    values, bins = measure_probabilities(probs, labels['test'])
    for name, value in values.items():
        measures[name] = value if head.calibrated else None
    scaled_values, scaled_bins = measure_probabilities(scaled_probs, labels['test'])
    for name, value in scaled_values.items():
        measures[f'{name}, scaled'] = value
    return measures, np.stack([bins, scaled_bins]), scaled_probs


def measures_of(run):
    """The measures of a Run: those that are stored with it, or those of its logits."""
    if run.measures is not None:
        return run.measures
    logits = {split: torch.from_numpy(values) for split, values in run.logits.items()}
    return measure(run.head, logits, run.labels, run.config['classes'], run.always_labelled)[0]


def each_decision(probs, labels):
    """Turn several labels per text into decisions between no and yes: probs [N, classes] and labels
    [N, classes] -> probs [N * classes, 2], labels int [N * classes]. Data with one label per text
    is returned unchanged."""
    if labels.ndim == 1:
        return probs, labels
    return np.stack([1 - probs.ravel(), probs.ravel()], 1), labels.ravel()


def values_by_text(probs, labels, always_labelled=False):
    """Macro F1 in %, NLL and ECE in %, each as one number per text: {name: [N]}.

    Their mean is the measure, and their `interval` estimates how it varies with the texts. F1 and
    ECE are not means over texts, so their numbers are first-order approximations (the influence
    function): the more another text like this one would raise the measure, the larger its number.

    probs [N, classes], temperature-scaled; labels int [N] or, if texts have several labels, 0 and 1
    [N, classes]. always_labelled: see `decide`.
    """
    decisions = decide(probs, labels.ndim == 2, always_labelled=always_labelled)
    given = flags(decisions, probs.shape[1])
    truth = flags(labels, probs.shape[1])

    # F1 = 2 right / size for each class that occurs; size: texts with it plus answers with it
    n = len(labels)
    present = truth.any(0)
    right = 2.0 * (given & truth)[:, present]
    size = (given.astype(int) + truth)[:, present]
    f1 = right.sum(0) / size.sum(0)
    of_f1 = f1 + n * (right - f1 * size) / size.sum(0)

    # ECE sums the absolute surplus of right answers of each bin, hence the sign
    probs, labels = each_decision(probs, labels)
    of_label = probs[np.arange(len(probs)), labels]
    confidence = probs.max(1)
    bins = bin_of(confidence)
    surplus = (probs.argmax(1) == labels) - confidence
    of_ece = np.sign(np.bincount(bins, surplus, BINS))[bins] * surplus
    return {
        'macro F1': 100 * of_f1.sum(1) / max(1, present.sum()),
        'NLL, scaled': -np.log(of_label.clip(np.finfo(float).tiny)).reshape(n, -1).mean(1),
        'ECE, scaled': 100 * of_ece.reshape(n, -1).mean(1),
    }


def negative_log_likelihood(probs, labels):
    """Mean of -log p of the label. probs [N, classes], labels int [N]."""
    # a probability that has underflowed to 0 counts as the smallest float
    of_label = probs[np.arange(len(probs)), labels]
    return -np.log(of_label.clip(np.finfo(float).tiny)).mean()


def brier_score(probs, labels):
    """Mean over N of the squared error to the one-hot label, summed over the classes (Brier 1950).

    probs [N, classes], labels int [N].
    """
    one_hot = np.eye(probs.shape[1])[labels]
    return ((probs - one_hot) ** 2).sum(1).mean()


def bin_of(confidence):
    """The bin of each confidence, int [N]; a confidence of 1 belongs to the last."""
    return np.minimum((confidence * BINS).astype(int), BINS - 1)


def confidence_bins(probs, labels):
    """Predictions by their confidence, the highest probability of a row.

    probs [N, classes], labels int [N] -> [BINS, 3]: number of predictions, number of correct ones,
    sum of their confidences.
    """
    confidence = probs.max(1)
    correct = probs.argmax(1) == labels
    bins = bin_of(confidence)
    count = np.bincount(bins, np.ones(len(probs)), BINS)
    n_correct = np.bincount(bins, correct, BINS)
    total_confidence = np.bincount(bins, confidence, BINS)
    return np.stack([count, n_correct, total_confidence], 1)


def answered(confidence, correct, least):
    """The share of answers [N] that have at least a confidence, and the share of these that are
    correct (None if there are none), from 0 to 1."""
    sure = confidence >= least
    return float(sure.mean()), float(correct[sure].mean()) if sure.any() else None


def accuracy_by_coverage(confidence, correct):
    """The accuracy of the most confident 1 %, 2 %, ... 100 % of the answers [N]: [100]."""
    surest_first = np.argsort(-confidence, kind='stable')
    n_correct = np.cumsum(correct[surest_first])
    n_given = np.ceil(np.arange(1, 101) * len(correct) / 100).astype(int)
    return n_correct[n_given - 1] / n_given


def calibration_error(bins):
    """ECE, the mean distance of accuracy and confidence over the bins, in points (Guo 2017).

    bins: from `confidence_bins`.
    """
    distances = abs(bins[:, 1] - bins[:, 2])
    return 100 * distances.sum() / bins[:, 0].sum()


def calibration_floor(bins):
    """The average ECE, in points, of a perfectly calibrated model on as many answers.

    bins: from `confidence_bins`. For such a model, the number of right answers in a bin is
    binomial. Its mean absolute deviation is de Moivre's (Diaconis and Zabell 1991),
    2 k (1 - p) P(k), with k the smallest integer above n p.
    """
    bins = bins[bins[:, 0] > 0]
    n = bins[:, 0]
    p = bins[:, 2] / n
    k = np.floor(n * p) + 1
    distances = 2 * k * (1 - p) * stats.binom.pmf(k, n, p)
    return 100 * distances.sum() / n.sum()


def probs_of_labels(probs, labels):
    """The probability of each text's label, [N, 1] or, if texts have several labels, of each
    decision, [N, classes]. probs [N, classes]; labels: as `fit_temperature` takes them."""
    if labels.dim() == 1:
        return probs.gather(1, labels[:, None])
    return torch.where(labels.bool(), probs, 1 - probs)


def fit_temperature(probs, logits, labels):
    """The temperature, e^-7 to e^7: logits divided by it make the labels likeliest (Guo 2017).

    probs: a head's function, logits -> probabilities [N, classes]
    logits: float tensor [N, outputs]
    labels: int64 tensor [N] or, if texts have several labels, 0 and 1 [N, classes]
    """
    def loss(temperature):
        p = probs_of_labels(probs(logits.double() / temperature), labels)
        return -p.clamp(min=torch.finfo(p.dtype).tiny).log().mean().item()

    return best_temperature(loss)


def best_temperature(loss, widest=7):
    """The temperature, e^-widest to e^widest, with the lowest loss(temperature)."""
    # on a logarithmic scale, where doubling and halving the logits are changes of one size
    minimum = optimize.minimize_scalar(lambda log_temperature: loss(math.exp(log_temperature)),
                                       bounds=(-widest, widest), method='bounded')
    return math.exp(minimum.x)
