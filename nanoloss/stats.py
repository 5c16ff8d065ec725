"""What a few runs show: intervals, permutation tests, power, and what probabilities are worth.

Pure functions on arrays. The answers of a group of runs are `correct`, bool [runs, reviews]:
whether a run classified a review correctly. Groups that are compared were judged on the same
reviews. Accuracies are in %, their differences in points.
"""
import math
from bisect import bisect_left

import numpy as np
import torch
from scipy import optimize, stats

# of a permutation test: all there are up to 10 runs against 10, beyond that random ones
RESPLITS = 184_756
BINS = 15  # of confidence, for the calibration error
RESAMPLES = 1000  # of runs, for the interval of a power law
POWERS = np.geomspace(0.02, 2, 200)  # that a power law may have


def answer_noise(answers):
    """What the noise of single answers, [runs, reviews], adds to the variance of their mean.

    It is what is left of an answer without its run's and its review's mean.
    """
    n_runs, n_reviews = answers.shape
    residuals = answers - answers.mean(1, keepdims=True) - answers.mean(0) + answers.mean()
    return (residuals ** 2).sum() / ((n_runs - 1) * (n_reviews - 1) * answers.size)


def as_two_runs(correct):
    """The answers of what has no seeds, bool [1, reviews], as of two runs, for `interval`: another
    run would be the same."""
    return np.repeat(correct, 2, axis=0)


def effective_groups(clusters):
    """The number of equal clusters that carry as much information: (sum n)^2 / sum n^2 (Kish 1965).

    clusters: [reviews], the cluster of each.
    """
    _, sizes = np.unique(clusters, return_counts=True)
    return sizes.sum() ** 2 / (sizes ** 2).sum()


def variance_of_mean(values, clusters=None):
    """The variance of the mean of values [reviews] over other reviews like these, which are
    independent except within a cluster. clusters: [reviews], or None.

    Returns the variance and, with clusters, its degrees of freedom (without, there are plenty:
    inf). Both count the effective clusters. With many clusters of one size that is their number;
    counting all of a few unequal ones makes a 95 % interval cover 75 to 88 %, this one 89 to 94.
    """
    if clusters is None or len(np.unique(clusters)) == 1:  # one cluster says nothing about others
        return values.var(ddof=1) / values.size, math.inf
    _, cluster_of = np.unique(clusters, return_inverse=True)
    sums = np.bincount(cluster_of, values - values.mean())
    df = effective_groups(clusters) - 1
    return (df + 1) / df * (sums ** 2).sum() / values.size ** 2, df


def crossed_interval(groups, clusters):
    """The dict of `interval`, for one or two groups of any values [runs, reviews], in points."""
    by_review = groups[0].mean(0) - sum(group.mean(0) for group in groups[1:])
    estimate = by_review.mean()
    if min(len(group) for group in groups) < 2:
        return {'estimate': estimate, 'seeds': None, 'both': None, 'reviews': None, 'p': None}

    # the variance of the estimate that is due to the seeds, and what the reviews add to it
    seed_variances = [group.mean(1).var(ddof=1) / len(group) for group in groups]
    seed_variance = sum(seed_variances)
    noise = sum(answer_noise(group) for group in groups)
    review_variance, review_df = variance_of_mean(by_review, clusters)
    review_variance = max(0.0, review_variance - noise)

    # degrees of freedom after Satterthwaite: variance^2 / (sum of variance_i^2 / (runs_i - 1))
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

    # for other seeds on these reviews; for other seeds and other reviews
    seeds = around_estimate(seed_variance, seed_divisor)
    both = around_estimate(seed_variance + review_variance,
                           seed_divisor + review_variance ** 2 / review_df)
    if both[1] <= seeds[1]:  # its further degrees of freedom must not make it the narrower one
        both = seeds
    return {
        'estimate': estimate,
        'seeds': seeds[:2],
        'both': both[:2],
        'reviews': 1.96 * review_variance ** 0.5,
        'p': float(both[2]),
    }


def interval(*groups, clusters=None, paired=False):
    """95 % intervals, in points, of a mean accuracy or of the difference of two.

    groups: one or two, `correct` of each; or other values [runs, reviews], where 1 is 100 points
    clusters: see `variance_of_mean`: reviews of one movie tend to be right or wrong together
    paired: whether run i of both groups has the same seed. Then the interval is that of the seeds'
        differences, since runs of one seed tend to be good or bad together.
    Returns a dict:
        estimate: the mean accuracy, or that of the first group minus that of the second
        seeds: (low, high) for other seeds on these reviews (Student's t; of two groups that are not
            paired, Welch's)
        both: (low, high) for other seeds and other reviews, see below
        reviews: the half-width that is due to the reviews, however many the seeds
        p: of two groups only: p value for a difference of 0, for other seeds and other reviews; at
            most .05 where `both` excludes 0
    All but the estimate are None if a group is a single run.

    Runs and reviews are crossed: the variance is that between runs plus that between reviews less
    the noise of single answers, which is in both. Resampling runs and reviews counts that noise
    three times (Owen 2007, The pigeonhole bootstrap) and underestimates the spread of five runs: on
    simulated 5 + 5 runs its percentiles cover 91 to 99 %, this interval 94 to 97 %.

    `both` of one accuracy is computed with two right and two wrong reviews added (Agresti and Coull
    1998). Near 100 %, where few reviews are wrong, the interval without them covers 56 to 89 % and
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
            # the four added reviews are clusters of their own, unless there is one cluster only
            clusters = np.append(clusters, -np.arange(1, 5) * (clusters.max() > 0))
        low, high = crossed_interval([100.0 * np.hstack([correct, more])], clusters)['both']
        seeds_low, seeds_high = found['seeds']
        found['both'] = max(0.0, min(low, seeds_low)), min(100.0, max(high, seeds_high))
    return found


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

    Least squares of the relative errors: where the error is three times as large, runs scatter
    about three times as much. For each c of POWERS the best a and b are those of a straight line.
    Where a comes out below 0, these sizes show no floor; to forbid it would bend b and c, and the
    interval of `resampled_means` would cover 72 % instead of 92 where there is no floor.
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
    """The means of resampled runs, float [RESAMPLES, S], whose power laws are the law's interval.

    runs: at each of S sizes a list of numbers, two or more.

    Of n runs n - 1 are drawn, with replacement: the means of n would scatter too little, of five
    runs by a tenth. On simulated curves of seven sizes and five runs each, the middle 95 % of what
    the laws say of twice the data cover the truth in 92 to 96 %.
    """
    rng = np.random.default_rng(0)
    means = []
    for values in runs:
        drawn = rng.choice(values, (RESAMPLES, len(values) - 1))
        means.append(drawn.mean(1))
    return np.stack(means, 1)


def permutation_test(a, b, spread=False):
    """How many splits of all runs set two groups at least as far apart as a and b are?

    a, b: a number a run. Apart are their means or, with spread, their max-min distances; the splits
    are those into len(a) and len(b) runs. Of whole numbers (correct answers) a tie is a tie.
    Returns {hits, splits, p (two-sided), exact: whether these are all splits}.
    """
    def distance(x, y, axis):
        if spread:
            return abs(np.ptp(x, axis) - np.ptp(y, axis))
        # the means' distance times len(a) len(b): of whole numbers nothing is rounded
        return abs(len(b) * x.sum(axis) - len(a) * y.sum(axis))

    # a distance has no sign, so its upper tail is both sides
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
    """p-values corrected for their number: who takes those of at most .05 for found is wrong about
    any of them in at most 5 % of cases.

    Holm 1979: the smallest of n times n, the next times n - 1 ..., none below the one before it.
    """
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))  # in the order of p
    corrected[order] = np.maximum.accumulate(np.sort(p) * factors).clip(max=1)
    return corrected.tolist()


def pooled_sd(a, b):
    """The standard deviation of the accuracies of one head's runs, in points: [sd, low, high].

    a, b: `correct` of two groups, which are taken to scatter alike. Low and high are the 95 %
    interval, by chi-square.
    """
    df = len(a) + len(b) - 2
    squares = len(a) * a.mean(1).var() + len(b) * b.mean(1).var()
    sd = 100 * math.sqrt(squares / df)
    low = sd * math.sqrt(df / stats.chi2.ppf(0.975, df))
    high = sd * math.sqrt(df / stats.chi2.ppf(0.025, df))
    return [sd, low, high]


def seeds_needed(sd, points):
    """Runs a head with which a t test finds a difference of so many points in 80 % of cases.

    sd: the standard deviation of the runs, in points. The test is two-sided at .05, its power that
    of the noncentral t distribution; at 80 % the other tail is nothing.
    """
    def power(n):
        df = 2 * n - 2
        noncentrality = points / max(sd, 1e-6) * (n / 2) ** 0.5
        return stats.nct.sf(stats.t.ppf(0.975, df), df, noncentrality)

    # power grows with n, so the first n that suffices can be bisected
    return 2 + bisect_left(range(2, 10**7), 0.8, key=power)


def confident_classes(probs, labels):
    """The class that each text surely is of, by confident learning (Northcutt, Jiang and Chuang
    2021, arXiv 1911.00068): int [N], -1 where there is none.

    probs [N, classes], of models that were not trained on these labels; labels int [N].
    A text surely is of a class if its probability is at least the mean of those that are labelled
    so; of several such classes, of the likeliest. Counted by label and sure class, the texts are
    the paper's confident joint; those off its diagonal look mislabelled.
    """
    thresholds = np.full(probs.shape[1], np.inf)  # of a class that is no text's label
    for k in np.unique(labels):
        thresholds[k] = probs[labels == k, k].mean()
    sure = probs >= thresholds
    likeliest = np.where(sure, probs, -1).argmax(1)
    return np.where(sure.any(1), likeliest, -1)


def each_decision(probs, labels):
    """Turn several labels per review into decisions between no and yes: probs [N, classes] and
    labels [N, classes] -> probs [N * classes, 2], labels int [N * classes]. Data with one label per
    review are returned unchanged."""
    if labels.ndim == 1:
        return probs, labels
    return np.stack([1 - probs.ravel(), probs.ravel()], 1), labels.ravel()


def values_by_text(probs, labels):
    """Macro F1 in %, NLL and ECE in %, each as one number per text: {name: [N]}.

    Their mean is the measure, and their `interval` estimates how it varies with the texts. F1 and
    ECE are not means over texts, so their numbers are first-order: the more another text like this
    one would raise the measure, the larger its number (the influence function).

    probs [N, classes], temperature-scaled; labels int [N] or, if texts have several labels, 0 and 1
    [N, classes].
    """
    if labels.ndim == 2:
        given = probs > 0.5
        truth = labels.astype(bool)
    else:
        given = probs.argmax(1)[:, None] == np.arange(probs.shape[1])
        truth = labels[:, None] == np.arange(probs.shape[1])

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

    probs [N, classes], labels int [N] -> [BINS, 3]: how many, how many of them are correct, the sum
    of their confidences.
    """
    confidence = probs.max(1)
    correct = probs.argmax(1) == labels
    bins = bin_of(confidence)
    count = np.bincount(bins, np.ones(len(probs)), BINS)
    n_correct = np.bincount(bins, correct, BINS)
    total_confidence = np.bincount(bins, confidence, BINS)
    return np.stack([count, n_correct, total_confidence], 1)


def answered(confidence, correct, least):
    """Of answers [N], those with at least a confidence: their share, and how many of them are
    correct, from 0 to 1, or None where there are none."""
    sure = confidence >= least
    return float(sure.mean()), float(correct[sure].mean()) if sure.any() else None


def accuracy_by_coverage(confidence, correct):
    """The accuracy if only the surest 1 %, 2 %, ... 100 % of the answers [N] are given: [100]."""
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

    bins: from `confidence_bins`. The number of right answers in each bin is then binomial. Its mean
    absolute deviation is de Moivre's (Diaconis and Zabell 1991), 2 k (1 - p) P(k), with k the
    smallest integer above n p.
    """
    bins = bins[bins[:, 0] > 0]
    n = bins[:, 0]
    p = bins[:, 2] / n
    k = np.floor(n * p) + 1
    distances = 2 * k * (1 - p) * stats.binom.pmf(k, n, p)
    return 100 * distances.sum() / n.sum()


def fit_temperature(probs, logits, labels):
    """The number, e^-7 to e^7, by which logits are divided to make the labels likeliest (Guo 2017).

    probs: a head's function, logits -> probabilities [N, classes]
    logits: float tensor [N, outputs]
    labels: int64 tensor [N] or, of several labels a review, 0 and 1 [N, classes]
    """
    def loss(temperature):
        p = probs(logits.double() / temperature)
        if labels.dim() == 1:
            p = p.gather(1, labels[:, None])
        else:
            p = torch.where(labels.bool(), p, 1 - p)
        return -p.clamp(min=torch.finfo(p.dtype).tiny).log().mean().item()

    return best_temperature(loss)


def best_temperature(loss, widest=7):
    """The number, e^-widest to e^widest, at which loss(temperature) is least."""
    # by its logarithm, for to double the logits and to halve them are changes of a size
    minimum = optimize.minimize_scalar(lambda log_temperature: loss(math.exp(log_temperature)),
                                       bounds=(-widest, widest), method='bounded')
    return math.exp(minimum.x)
