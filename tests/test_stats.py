"""nanoloss/stats.py against hand-computed numbers, brute force and simulation."""
import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy import stats as scipy_stats
from sklearn import metrics

from model import make_head
from nanoloss import stats


def matrix(counts, n):
    """Runs with so many correct answers on n reviews each: bool [runs, reviews], the first ones."""
    return np.arange(n) < np.array(counts)[:, None]


def test_answers_that_are_sure_are_counted_one_by_one():
    rng = np.random.default_rng(0)
    confidence = rng.permutation(1000) / 1000
    correct = rng.random(1000) < confidence
    for least in (0.5, 0.501, 0.99):
        sure = [right for right, p in zip(correct, confidence) if p >= least]
        share, accuracy = stats.answered(confidence, correct, least)
        assert (share, accuracy) == pytest.approx((len(sure) / 1000, sum(sure) / len(sure)))
    assert stats.answered(confidence, correct, 1) == (0, None)
    curve = stats.accuracy_by_coverage(confidence, correct)
    for percent in (1, 37, 100):
        surest = sorted(zip(confidence, correct), reverse=True)[:10 * percent]
        assert curve[percent - 1] == pytest.approx(np.mean([right for _, right in surest]))
    assert stats.accuracy_by_coverage(confidence[:3], correct[:3]).shape == (100,)


def test_interval_over_seeds_is_students_t_and_welchs():
    a = matrix([850, 860, 870, 880, 890], 1000)
    b = matrix([800, 803, 809, 830], 1000)
    # mean 87, sd sqrt(2.5), t(0.975, 4) = 2.7764451 from the printed tables
    half = 2.7764451 * 0.5 ** 0.5
    assert stats.interval(a)['seeds'] == pytest.approx((87 - half, 87 + half))
    t_test = scipy_stats.ttest_ind(100 * a.mean(1), 100 * b.mean(1), equal_var=False)
    welch = t_test.confidence_interval()
    both = stats.interval(a, b)
    assert both['seeds'] == pytest.approx((welch.low, welch.high))
    assert both['estimate'] == pytest.approx(87 - 81.05)
    assert stats.interval(a[:1])['seeds'] is None
    assert stats.interval(a, b[:1])['both'] is None


def test_interval_of_runs_that_agree_is_that_of_resampled_reviews():
    rng = np.random.default_rng(0)
    a = rng.random(2500) < 0.86
    b = rng.random(2500) < 0.85
    a[:2150] = True
    a[2150:] = False
    rng.shuffle(a)
    one = stats.interval(np.stack([a] * 5))
    assert one['seeds'] == (86, 86)
    assert one['texts'] == pytest.approx(1.36, abs=0.005)  # 1.96 sqrt(.86 .14 / 2500)
    two = stats.interval(np.stack([a] * 5), np.stack([b] * 5))
    draws = rng.multinomial(2500, np.full(2500, 1 / 2500), 4000) @ (1.0 * a - b) / 25
    width = two['both'][1] - two['both'][0]
    assert width == pytest.approx(2 * 1.96 * draws.std(), rel=0.05)


@pytest.mark.parametrize('seed_sd, review_sd', [(0.0, 0.0), (0.15, 0.0), (0.05, 1.0)])
def test_interval_over_seeds_and_reviews_covers_the_true_difference(seed_sd, review_sd):
    """Runs as reviews' difficulty + heads' tastes (review_sd) + seeds + noise; the true difference
    is 0."""
    rng = np.random.default_rng(1)
    n = 400
    repeats = 400

    def group(difficulty):
        taste = rng.normal(0, review_sd, n)
        seeds = rng.normal(0, seed_sd, (5, 1))
        noise = rng.normal(0, 1, (5, n))
        return difficulty + taste + seeds + noise > 0

    covered = 0
    covered_seeds = 0
    for _ in range(repeats):
        difficulty = rng.normal(2.5, 2, n)
        found = stats.interval(group(difficulty), group(difficulty))
        low, high = found['both']
        seeds_low, seeds_high = found['seeds']
        assert low <= seeds_low
        assert seeds_high <= high
        covered += low <= 0 <= high
        covered_seeds += seeds_low <= 0 <= seeds_high
    # 0.95; three standard deviations of 400 draws are 0.033
    assert 0.92 <= covered / repeats <= 0.985
    if review_sd:
        assert covered_seeds / repeats < 0.9  # what the interval over seeds alone would claim


@pytest.mark.parametrize('accuracy, n', [(0.995, 150), (0.98, 50), (0.9, 100)])
def test_the_interval_of_few_wrong_answers_covers_the_truth(accuracy, n):
    """Three seeds, which are mostly wrong about the same reviews. The interval of these answers
    alone covers 63 and 75 % at the first two accuracies: often none is wrong."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        p = rng.beta(accuracy / 4, (1 - accuracy) / 4, n)  # of a review: seeds correlate at .8
        low, high = stats.interval(rng.random((3, n)) < p)['both']
        covered += low <= 100 * accuracy <= high
        assert 0 <= low < high <= 100
    assert 0.94 <= covered / 1000 <= 0.995


@pytest.mark.parametrize('taste', [0.0, 0.6])
@pytest.mark.parametrize('shared', [0.0, 0.9])
def test_paired_seeds_cover_the_true_difference(taste, shared):
    """Runs as reviews' difficulty + heads' tastes + seeds, of which both heads' share a part +
    noise; the true difference is 0. p is at most .05 in the cases that are not covered."""
    rng = np.random.default_rng(3)
    n = 400
    covered = np.zeros(2)
    widths = np.zeros(2)
    for _ in range(400):
        difficulty = rng.normal(2, 1.5, n)
        of_both = rng.normal(0, 0.2, (5, 1)) * shared ** 0.5
        groups = []
        for _ in 'ab':
            seeds = of_both + rng.normal(0, 0.2, (5, 1)) * (1 - shared) ** 0.5
            noise = rng.normal(0, 0.5, (5, n))
            groups.append(difficulty + rng.normal(0, taste, n) + seeds + noise > 0)
        for i, paired in enumerate([False, True]):
            found = stats.interval(*groups, paired=paired)
            low, high = found['both']
            covered[i] += low <= 0 <= high
            widths[i] += high - low
            assert (found['p'] <= 0.05) == (not low <= 0 <= high)
    # 0.95; three standard deviations of 400 draws are 0.033
    assert 0.915 <= covered[1] / 400 <= 0.985
    if shared and not taste:
        assert widths[1] < 0.7 * widths[0]
        assert covered[0] >= 396  # taken as independent, the interval is needlessly wide


def test_paired_seeds_are_students_t_of_the_differences():
    a = matrix([850, 860, 870, 880, 890], 1000)
    b = matrix([845, 858, 866, 870, 889], 1000)
    t_test = scipy_stats.ttest_rel(100 * a.mean(1), 100 * b.mean(1))
    low, high = t_test.confidence_interval()
    assert stats.interval(a, b, paired=True)['seeds'] == pytest.approx((low, high))


def test_p_is_for_other_reviews_too():
    """Two heads that differ in taste alone, not in accuracy: seeds tell them apart on these reviews
    by chance, so that a test of the seeds finds a difference in most cases."""
    rng = np.random.default_rng(7)
    wrong = 0
    wrong_by_seeds = 0
    for _ in range(300):
        difficulty = rng.normal(2, 1, 200)
        groups = []
        for _ in 'ab':
            taste = rng.normal(0, 1, 200)
            groups.append(difficulty + taste + rng.normal(0, 0.2, (5, 200)) > 0)
        wrong += stats.interval(*groups)['p'] <= 0.05
        counts = [group.sum(1) for group in groups]
        wrong_by_seeds += scipy_stats.ttest_ind(*counts).pvalue <= 0.05
    assert 0.02 < wrong / 300 < 0.09
    assert wrong_by_seeds / 300 > 0.4
    same = matrix([5, 5], 9)
    assert stats.interval(same, same)['p'] == 1
    assert stats.interval(same, matrix([4, 4], 9))['p'] > 0.1


def test_effective_groups_by_hand():
    assert stats.effective_groups(np.repeat(np.arange(7), 5)) == pytest.approx(7)
    # 10^2 / (4^2 + 3^2 + 2^2 + 1)
    clusters = np.array(list('aaaabbbccd'))
    assert stats.effective_groups(clusters) == pytest.approx(100 / 30)
    values = np.arange(10.0)
    sums = np.array([0 + 1 + 2 + 3, 4 + 5 + 6, 7 + 8, 9]) - 4.5 * np.array([4, 3, 2, 1])
    variance, df = stats.variance_of_mean(values, clusters)
    assert df == pytest.approx(7 / 3)
    assert variance == pytest.approx(10 / 7 * (sums ** 2).sum() / 100)


@pytest.mark.parametrize('n_clusters, power', [(5, 1), (10, 1), (10, 1.5)])
def test_the_interval_of_few_or_unequal_clusters_covers_the_truth(n_clusters, power):
    """Sizes by Zipf's law. By the mere number of clusters the coverage is 77 to 88 %."""
    rng = np.random.default_rng(n_clusters)
    sizes = (200 / np.arange(1, n_clusters + 1) ** power).astype(int)
    clusters = np.repeat(np.arange(n_clusters), sizes)
    covered = 0
    for _ in range(400):
        p = rng.beta(20, 5, n_clusters)[clusters]
        low, high = stats.interval(rng.random((5, len(p))) < p, clusters=clusters)['both']
        covered += low < 80 < high
    assert covered / 400 > 0.885


def test_the_variance_of_clusters():
    rng = np.random.default_rng(0)
    values = rng.random(300)
    plain, df = stats.variance_of_mean(values)
    assert (plain, df) == (values.var(ddof=1) / 300, np.inf)
    # clusters of one; and of copies, which say no more than one of each
    assert stats.variance_of_mean(values, np.arange(300)) == pytest.approx((plain, 299))
    copies = np.repeat(np.arange(300), 4)
    assert stats.variance_of_mean(np.repeat(values, 4), copies) == pytest.approx((plain, 299))
    # a single one tells nothing of others
    assert stats.variance_of_mean(values, np.zeros(300)) == (plain, np.inf)


@pytest.mark.parametrize('n_clusters', [20, 60])
def test_the_interval_of_clusters_covers_the_truth(n_clusters):
    """Where reviews of a movie are right or wrong together: taken as independent, it does not."""
    rng = np.random.default_rng(n_clusters)
    covered = np.zeros(2)
    for _ in range(400):
        clusters = np.repeat(np.arange(n_clusters), rng.integers(5, 15, n_clusters))
        # a movie's reviews are right with a probability of its own, on average .8
        p = rng.beta(4, 1, n_clusters)[clusters]
        correct = rng.random((5, len(p))) < p
        for i, known in enumerate([None, clusters]):
            low, high = stats.interval(correct, clusters=known)['both']
            covered[i] += low < 80 < high
    plain, clustered = covered / 400
    assert plain < 0.9
    assert 0.91 < clustered < 0.99


def test_the_noise_of_single_answers_by_hand():
    # means of the runs 1/3 and 2/3, of every review 1/2: 4/9 + 1/9 + 1/9 is left of each run, with
    # (2 - 1) (3 - 1) degrees of freedom; the mean is of six answers
    answers = np.array([[1, 0, 0], [0, 1, 1]])
    assert stats.answer_noise(answers) == pytest.approx(4 / 3 / 2 / 6)
    # runs and reviews that only add up have none
    assert stats.answer_noise(np.array([[1, 5, 2], [3, 7, 4.]])) == pytest.approx(0)


def test_the_interval_of_eight_clusters_is_students_t():
    """Of a difference where all runs agree: a t test of the eight movies' means."""
    clusters = np.repeat(np.arange(8), 5)
    a = np.ones((3, 40), bool)
    # wrong answers of b on the five reviews of each movie: mean 2, sum of squares 12
    n_wrong = np.array([0, 1, 1, 2, 2, 3, 3, 4])
    b = np.tile(np.arange(40) % 5 >= n_wrong[clusters], (3, 1))
    found = stats.interval(a, b, clusters=clusters)
    error = 20 * (12 / 7 / 8) ** 0.5  # a review of a movie is 20 points
    half = 2.3646243 * error  # t(0.975, 7) from the printed tables; 1.96 for other answers
    assert found['both'] == pytest.approx((40 - half, 40 + half))
    assert found['p'] == pytest.approx(scipy_stats.ttest_1samp(n_wrong, 0).pvalue)
    assert found['texts'] == pytest.approx(1.96 * error)


def test_degrees_of_freedom_of_runs_and_clusters_are_satterthwaites():
    """Values that are a run's plus a movie's, with no noise: both variances are known."""
    movies = np.array([0.7, 0.8, 0.9, 0.75, 0.85, 0.95])
    of_runs = [np.array([0, 0.02, 0.04]), np.array([0, 0.01, 0.05, 0.06])]
    clusters = np.repeat(np.arange(6), 4)
    values = [of_runs[0][:, None] + movies[clusters],
              of_runs[1][:, None] + np.zeros(24)]
    found = stats.interval(*values, clusters=clusters)
    variances = [100 ** 2 * group.var(ddof=1) / len(group) for group in (*of_runs, movies)]
    df = sum(variances) ** 2 / sum(np.square(variances) / [2, 3, 5])
    half = scipy_stats.t.ppf(0.975, df) * sum(variances) ** 0.5
    estimate = 100 * (0.02 + 0.825 - 0.03)
    assert found['both'] == pytest.approx((estimate - half, estimate + half))


def test_half_interval_is_students_t():
    # mean 7, sd sqrt(2.5), t(0.975, 4) = 2.7764451 from the printed tables
    assert stats.half_interval([5, 6, 7, 8, 9]) == pytest.approx(2.7764451 * 0.5 ** 0.5)


def brute_force(a, b, spread):
    """Two lists of whole numbers -> hits and splits of the permutation test, in fractions."""
    def distance(x, y):
        if spread:
            return abs(max(x) - min(x) - (max(y) - min(y)))
        return abs(Fraction(sum(x), len(x)) - Fraction(sum(y), len(y)))

    pool = a + b
    hits = 0
    splits = 0
    for chosen in itertools.combinations(range(len(pool)), len(a)):
        x = [pool[i] for i in chosen]
        y = [pool[i] for i in range(len(pool)) if i not in chosen]
        hits += distance(x, y) >= distance(a, b)
        splits += 1
    return hits, splits


def test_permutation_test_against_hand_and_brute_force():
    test = stats.permutation_test(np.array([5, 6, 7, 8, 9]), np.array([1, 2, 3, 4, 0]))
    assert test == {'hits': 2, 'splits': 252, 'p': 2 / 252, 'exact': True}
    # the means are 5 apart, 3 in 1 4 | 2 9, 2 in 1 9 | 2 4: only this split and its mirror reach 5
    a = np.array([1, 2])
    b = np.array([4, 9])
    assert stats.permutation_test(a, b)['hits'] == 2
    # max-min is 1 and 5, 3 and 7 in 1 4 | 2 9, 8 and 2 in 1 9 | 2 4: all are at least 4 apart
    assert stats.permutation_test(a, b, spread=True)['hits'] == 6

    rng = np.random.default_rng(2)
    cases = [(2, 2, 3), (3, 5, 4), (5, 3, 30), (4, 4, 5), (2, 6, 1000), (5, 5, 8), (3, 3, 1)]
    for n, m, top in cases:
        for spread in (False, True):
            a = rng.integers(0, top, n).tolist()
            b = rng.integers(0, top, m).tolist()
            test = stats.permutation_test(np.array(a), np.array(b), spread)
            assert (test['hits'], test['splits']) == brute_force(a, b, spread), (a, b, spread)
            assert test['p'] == pytest.approx(test['hits'] / test['splits'])
            assert test['exact']


def test_permutation_test_is_enumerated_to_10_against_10_and_random_beyond(monkeypatch):
    test = stats.permutation_test(np.arange(10) + 100, np.arange(10))
    assert test == {'hits': 2, 'splits': 184_756, 'p': 2 / 184_756, 'exact': True}
    a = np.array([3, 9, 4, 8, 7, 9])
    b = np.array([2, 5, 3, 6, 8, 1])
    hits, splits = brute_force(a.tolist(), b.tolist(), False)
    monkeypatch.setattr(stats, 'RESPLITS', 900)  # of 924
    test = stats.permutation_test(a, b)
    assert not test['exact']
    assert test['splits'] == 900
    assert test['p'] == pytest.approx(hits / splits, abs=0.04)
    # the true split is always one of them
    assert stats.permutation_test(a + 100, b)['p'] >= 1 / 901


def test_permutation_test_of_other_numbers():
    a = [0.31, 0.35, 0.30]
    b = [0.36, 0.38, 0.33, 0.40]
    pool = np.array(a + b)
    observed = abs(np.mean(a) - np.mean(b))
    hits = 0
    for chosen in itertools.combinations(range(7), 3):
        rest = np.delete(pool, chosen)
        hits += abs(pool[list(chosen)].mean() - rest.mean()) >= observed - 1e-12
    test = stats.permutation_test(np.array(a), np.array(b))
    assert test['p'] == pytest.approx(hits / 35)


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and never less than the one before
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.5, 0.9]) == [1, 1]


def test_pooled_sd_by_hand():
    a = matrix([850, 860, 870, 880, 890], 1000)  # in points: sd sqrt(2.5)
    b = matrix([800, 810, 820, 830], 1000)  # sd sqrt(5 / 3)
    sd = (15 / 7) ** 0.5  # of squares 10 + 5 with 4 + 3 degrees of freedom
    # chi-square with 7 degrees of freedom, from the printed tables: 16.0128 and 1.68987
    expected = [sd, sd * (7 / 16.0128) ** 0.5, sd * (7 / 1.68987) ** 0.5]
    assert stats.pooled_sd(a, b) == pytest.approx(expected, rel=1e-5)


def test_seeds_needed():
    assert [stats.seeds_needed(sd, 0.26) for sd in (0.2, 0.3, 0.5)] == [11, 22, 60]
    assert stats.seeds_needed(0.0, 0.26) == 2
    # the same by simulation: 22 runs a head reach 80 %, 20 do not
    rng = np.random.default_rng(3)
    power = {}
    for n in (20, 22):
        a = rng.normal(0.26, 0.3, (20_000, n))
        b = rng.normal(0, 0.3, (20_000, n))
        power[n] = np.mean(scipy_stats.ttest_ind(a, b, axis=1).pvalue < 0.05)
    assert power[20] < 0.79 < 0.795 < power[22] < 0.83


SIZES = np.array([250, 500, 1250, 2500, 5000, 12_500, 25_000.])  # of training texts


@pytest.mark.parametrize('a, b, c', [(5, 60, 0.5), (0, 70, 0.2), (3, 200, 0.6), (-4, 80, 0.2)])
def test_a_power_law_is_found_again(a, b, c):
    law = stats.fit_power_law(SIZES, a + b * SIZES ** -c)
    assert law == pytest.approx([a, b, c], rel=0.02, abs=0.3)
    assert stats.power_law(law, 50_000) == pytest.approx(a + b * 50_000 ** -c, abs=0.02)


def test_a_power_law_is_that_of_curve_fit():
    """Of several curves at once, each with an optimum that scipy finds by gradients."""
    rng = np.random.default_rng(5)
    errors = 4 + 90 * SIZES ** -0.4 * rng.normal(1, 0.03, (3, 7))
    laws = stats.fit_power_law(SIZES, errors)
    for law, curve in zip(laws, errors):
        expected, _ = optimize.curve_fit(lambda n, a, b, c: a + b * n ** -c, SIZES, curve,
                                         p0=[4, 90, 0.4], sigma=curve)
        assert law == pytest.approx(expected, rel=0.05, abs=0.1)
        assert stats.power_law(law, 5e4) == pytest.approx(
            expected[0] + expected[1] * 5e4 ** -expected[2], abs=0.02)


def test_resampled_means_scatter_as_means_of_new_runs():
    runs = [[1.0, 2, 3, 4, 5], [7.0, 8], [3.0, 3, 3]]
    means = stats.resampled_means(runs)
    assert means.shape == (stats.RESAMPLES, 3)
    assert means.mean(0) == pytest.approx([3, 7.5, 3], abs=0.1)
    # variance of a mean: 2.5 / 5 and 0.5 / 2
    assert means.var(0) == pytest.approx([0.5, 0.25, 0], rel=0.15)


@pytest.mark.parametrize('a, b, c', [(5, 60, 0.32), (0, 74, 0.22), (6, 320, 0.5)])
def test_the_interval_of_a_power_law_covers_the_truth(a, b, c, monkeypatch):
    """What twice the data are worth, from five seeds at each of seven sizes; the more texts, the
    less they scatter. One of the three laws has no floor."""
    monkeypatch.setattr(stats, 'RESAMPLES', 200)
    rng = np.random.default_rng(6)
    law = np.array([a, b, c])
    deviation = 1.2 * (SIZES / 250) ** -0.5 + 0.08

    def worth(law):
        return stats.power_law(law, 25_000) - stats.power_law(law, 50_000)

    covered = 0
    repeats = 80
    for _ in range(repeats):
        runs = rng.normal(stats.power_law(law, SIZES), deviation, (5, 7)).T
        laws = stats.fit_power_law(SIZES, stats.resampled_means(runs))
        low, high = np.percentile(worth(laws), [2.5, 97.5])
        covered += low <= worth(law) <= high
    # 0.92 to 0.96 of 1000 repeats; three standard deviations of 80 are 0.09
    assert 0.83 <= covered / repeats < 1


def test_confidence_bins_and_calibration_error_by_hand():
    probs = np.array([[0.9, 0.1], [0.3, 0.7], [0.68, 0.32], [0.0, 1.0]])
    labels = np.array([0, 0, 0, 1])
    bins = stats.confidence_bins(probs, labels)
    expected = np.zeros((15, 3))
    expected[10] = [2, 1, 1.38]  # from 10/15 to 11/15: .7, which is wrong, and .68
    expected[13] = [1, 1, 0.9]
    expected[14] = [1, 1, 1]  # a confidence of 1 belongs to the last bin
    assert bins == pytest.approx(expected)
    assert stats.calibration_error(bins) == pytest.approx(100 * (0.38 + 0.1) / 4)


@pytest.mark.parametrize('n', [60, 2000])
def test_the_floor_of_the_calibration_error_is_that_of_perfect_calibration(n):
    rng = np.random.default_rng(9)
    probs = rng.dirichlet(np.full(3, 0.4), n)
    found = []
    for _ in range(400):
        labels = (rng.random((n, 1)) > probs.cumsum(1)).sum(1)
        found.append(stats.calibration_error(stats.confidence_bins(probs, labels)))
    floor = stats.calibration_floor(stats.confidence_bins(probs, labels))
    assert floor == pytest.approx(np.mean(found), rel=0.05)
    # nothing is uncertain
    assert stats.calibration_floor(stats.confidence_bins(np.eye(3), np.arange(3))) == 0


def decisions_by_hand(probs, always_labelled):
    """The labels above 0.5 or, if every text has a label and none is, the likeliest one."""
    decisions = []
    for p in probs.tolist():
        given = [value > 0.5 for value in p]
        if always_labelled and not any(given):
            given[p.index(max(p))] = True
        decisions.append(given)
    return np.array(decisions)


@pytest.mark.parametrize('multi_label, always_labelled', [
    (False, False), (True, False), (True, True)])
def test_values_by_text_are_the_measures_and_scatter_as_they_do(multi_label, always_labelled):
    """Their mean is the measure, and its standard error is that over resampled texts."""
    rng = np.random.default_rng(11)
    n = 1500
    probs = rng.dirichlet([1.5, 1, 0.5, 0.2], n)
    labels = (rng.random((n, 1)) > (0.3 / 4 + 0.7 * probs).cumsum(1)).sum(1)  # too sure
    if multi_label:
        labels = (rng.random((n, 4)) < 0.1 + 0.8 * probs).astype(int)

    def measures(rows):
        decisions = probs[rows].argmax(1)
        if multi_label:
            decisions = decisions_by_hand(probs[rows], always_labelled)
        p, y = stats.each_decision(probs[rows], labels[rows])
        return [
            100 * metrics.f1_score(labels[rows], decisions, average='macro', zero_division=0),
            stats.negative_log_likelihood(p, y),
            stats.calibration_error(stats.confidence_bins(p, y)),
        ]

    nothing = stats.values_by_text(probs, np.zeros((n, 4), int))  # no text has any label
    assert nothing['macro F1'].mean() == 0
    values = stats.values_by_text(probs, labels, always_labelled)
    assert list(values) == ['macro F1', 'NLL, scaled', 'ECE, scaled']
    means = [value.mean() for value in values.values()]
    assert means == pytest.approx(measures(np.arange(n)))
    draws = [measures(rng.integers(0, n, n)) for _ in range(150)]
    errors = [value.std() / n ** 0.5 for value in values.values()]
    assert errors == pytest.approx(np.std(draws, 0), rel=0.25)


def test_negative_log_likelihood_and_brier_score_by_hand():
    probs = np.array([[0.5, 0.25, 0.25], [1, 0, 0]])
    assert stats.negative_log_likelihood(probs, [0, 0]) == pytest.approx(np.log(2) / 2)
    assert stats.brier_score(probs, [0, 0]) == pytest.approx((0.25 + 2 * 0.0625) / 2)
    assert stats.brier_score(probs, [0, 2]) == pytest.approx((0.25 + 2 * 0.0625 + 2) / 2)
    # a label that was ruled out is as unlikely as a float can say
    assert 300 < stats.negative_log_likelihood(probs, [0, 1]) < np.inf


def softmax(logits):
    return logits.softmax(1)


@pytest.mark.parametrize('multi_label', [False, True])
def test_fitted_temperature_is_the_best_there_is(multi_label):
    rng = np.random.default_rng(4)
    logits = torch.tensor(rng.normal(size=(500, 3)) * 2, dtype=torch.float32)
    if multi_label:
        labels = torch.tensor(rng.integers(0, 2, (500, 3)) | (logits.numpy() > 0))
        probs = torch.sigmoid
    else:
        noise = torch.tensor(rng.gumbel(size=(500, 3)))
        labels = (logits / 3 + noise).argmax(1)  # drawn from the softmax at a temperature of 3
        probs = softmax

    def likelihood(temperature):
        p = probs(logits.double() / temperature)
        if multi_label:
            return torch.where(labels.bool(), p, 1 - p).log().mean()
        return p[torch.arange(500), labels].log().mean()

    temperature = stats.fit_temperature(probs, logits, labels)
    assert likelihood(temperature) > likelihood(1.01 * temperature)
    assert likelihood(temperature) > likelihood(temperature / 1.01)
    if not multi_label:
        assert temperature == pytest.approx(3, rel=0.3)


# Measures

def logits_of(n, n_class, sharpness, rng):
    """Logits whose softmax is calibrated once they are divided by sharpness, and labels drawn from
    it."""
    logits = rng.normal(size=(n, n_class)) * 1.5
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((n, 1)) > p.cumsum(1)).sum(1).clip(max=n_class - 1)
    return torch.tensor(logits * sharpness), labels


def probabilities_by_brute_force(p, labels):
    """NLL, Brier score and ECE, review by review and bin by bin."""
    n = len(p)
    nll = 0
    brier = 0
    for row, label in zip(p, labels):
        nll -= np.log(row[label]) / n
        for c, x in enumerate(row):
            brier += (x - (c == label)) ** 2 / n
    ece = 0
    for k in range(15):
        inside = [i for i, row in enumerate(p) if k / 15 <= row.max() < (k + 1) / 15 + (k == 14)]
        if inside:
            accuracy = np.mean([p[i].argmax() == labels[i] for i in inside])
            confidence = np.mean([p[i].max() for i in inside])
            ece += abs(accuracy - confidence) * len(inside) / n
    return nll, brier, 100 * ece


@pytest.mark.parametrize('n_class', [2, 3])
def test_measures_against_brute_force(n_class):
    rng = np.random.default_rng(0)
    logits = {}
    labels = {}
    for split, n in (('val', 20_000), ('test', 3000)):
        logits[split], labels[split] = logits_of(n, n_class, 2.5, rng)
    classes = 'abc'[:n_class]
    head = make_head('ce', 1, n_class)
    values, bins, scaled_probs = stats.measure(head, logits, labels, classes)
    assert values['temperature'] == pytest.approx(2.5, rel=0.05)
    y = labels['test']
    for suffix, divisor in (('', 1), (', scaled', values['temperature'])):
        exp = np.exp(logits['test'].numpy() / divisor)
        p = exp / exp.sum(1, keepdims=True)
        nll, brier, ece = probabilities_by_brute_force(p, y)
        if suffix:
            assert scaled_probs == pytest.approx(p)
        assert values['NLL' + suffix] == pytest.approx(nll)
        assert values['Brier' + suffix] == pytest.approx(brier)
        assert values['ECE' + suffix] == pytest.approx(ece)
    assert values['ECE, scaled'] < 3 < values['ECE']
    assert values['NLL, scaled'] < values['NLL']
    assert bins.shape == (2, 15, 3)
    assert bins[:, :, 0].sum(1).tolist() == [3000, 3000]

    decided = p.argmax(1)
    f1 = []
    for c, name in enumerate(classes):
        hits = ((decided == c) & (y == c)).sum()
        assert values[f'recall of {name}'] == pytest.approx(100 * hits / (y == c).sum())
        f1.append(200 * hits / ((decided == c).sum() + (y == c).sum()))
    assert values['macro F1'] == pytest.approx(np.mean(f1))
    if n_class == 2:  # the share of pairs in the right order
        low = p[y == 0, 1]
        high = p[y == 1, 1]
        order = (high[:, None] > low).mean() + (high[:, None] == low).mean() / 2
        assert values['AUROC'] == pytest.approx(100 * order)


def test_the_temperature_is_fitted_on_val():
    """The logits of val are 2.5 times too large, those of test half as large as they should be."""
    rng = np.random.default_rng(5)
    logits = {}
    labels = {}
    for split, sharpness in (('val', 2.5), ('test', 0.5)):
        logits[split], labels[split] = logits_of(5000, 3, sharpness, rng)
    values, *_ = stats.measure(make_head('ce', 1, 3), logits, labels, 'abc')
    assert values['temperature'] == pytest.approx(2.5, rel=0.1)


def test_measures_of_several_labels_and_of_square_logits():
    rng = np.random.default_rng(1)
    logits = {}
    labels = {}
    for split in ('val', 'test'):
        logits[split] = torch.tensor(rng.normal(size=(500, 3)) * 2)
    for split in ('val', 'test'):
        p = 1 / (1 + np.exp(-logits[split].numpy()))
        labels[split] = (rng.random((500, 3)) < p).astype(int)
    values, *_ = stats.measure(make_head('bce', 1, 3, True), logits, labels, 'abc')
    y = labels['test']
    decided = logits['test'].numpy() > 0
    hits = decided & (y == 1)
    f1 = 200 * hits.sum(0) / (decided.sum(0) + y.sum(0))
    assert values['macro F1'] == pytest.approx(f1.mean())
    micro = 200 * hits.sum() / (decided.sum() + y.sum())
    assert values['micro F1'] == pytest.approx(micro)
    of_label = np.where(y == 1, 1, -1) * logits['test'].numpy()
    assert values['NLL'] == pytest.approx(np.log1p(np.exp(-of_label)).mean())
    assert 'AUROC' not in values

    # if every text has a label
    head = make_head('bce', 1, 3, True, always_labelled=True)
    values, *_ = stats.measure(head, logits, labels, 'abc', always_labelled=True)
    decided = decisions_by_hand(head.probs(logits['test']).numpy(), True)
    micro = 200 * (decided & (y == 1)).sum() / (decided.sum() + y.sum())
    assert values['micro F1'] == pytest.approx(micro)

    logits = {split: both[:, :2] for split, both in logits.items()}
    labels = {split: both[:, 0] for split, both in labels.items()}
    values, *_ = stats.measure(make_head('square', 1, 2), logits, labels, 'ab')
    assert values['NLL'] is values['ECE'] is values['Brier'] is None
    assert values['NLL, scaled'] > 0


def test_measures_of_many_classes_and_of_one_that_does_not_occur():
    rng = np.random.default_rng(2)
    probs = rng.dirichlet(np.ones(6), 300)
    labels = rng.integers(0, 6, 300)
    values = stats.measure_decisions(probs, labels, 'abcdef')
    decided = probs.argmax(1)
    recalls = [np.mean(decided[labels == c] == c) for c in range(6)]
    assert values['lowest recall'] == pytest.approx(100 * min(recalls))
    assert list(values) == ['macro F1', 'lowest recall']


@pytest.mark.parametrize('n_given', [0, 2])
def test_recalls_have_their_names_where_a_class_in_the_middle_is_absent(n_given):
    """No text has it, and no answer or two are it."""
    labels = np.array([0] * 4 + [2] * 5)
    given = np.array([0, 0, 0, 2, 2, 2, 2, 0, 0])
    given[:n_given] = 1
    values = stats.measure_decisions(np.eye(3)[given], labels, ['a', 'b', 'c'])
    recalls = {name: value for name, value in values.items() if name.startswith('recall')}
    assert recalls == {'recall of a': 25 * (3 - n_given), 'recall of b': None, 'recall of c': 60}
    # F1 = 2 right / (with the class + given it), of a and c
    f1 = 2 * (3 - n_given) / (4 + 5 - n_given), 2 * 3 / (5 + 4)
    assert values['macro F1'] == pytest.approx(100 * np.mean(f1))


def test_a_class_that_no_text_has():
    """It has no recall, and does not halve macro F1."""
    probs = np.array([[0.9, 0.1]] * 9 + [[0.2, 0.8]])
    values = stats.measure_decisions(probs, np.zeros(10, int), 'ab')
    assert values['AUROC'] is values['recall of b'] is None
    assert values['recall of a'] == pytest.approx(90)
    assert values['macro F1'] == pytest.approx(100 * 18 / 19)  # of a: 9 right, 9 given, 10 true
    several = np.tile([1, 0], (10, 1))
    values = stats.measure_decisions(probs, several, 'ab')
    assert values['macro F1'] == pytest.approx(100 * 18 / 19)
    assert values['recall of b'] is None
    values = stats.measure_decisions(np.tile(np.eye(6)[0], (10, 1)), np.zeros(10, int), 'abcdef')
    assert values['lowest recall'] == values['macro F1'] == 100


def test_a_run_of_which_nothing_is_drawn_has_an_interval_over_texts():
    """The interval of a share of independent answers; a single drawn run has none."""
    correct = np.arange(400)[None] % 8 != 0
    counts = correct.sum(1)
    summary = stats.summarize_accuracy(counts, 400, correct, drawn=False)
    assert summary['seeds'] == (87.5, 87.5)
    share = 352 / 404  # with two more right and two more wrong ones
    half = 196 * (share * (1 - share) / 403) ** 0.5
    assert summary['both'] == pytest.approx((100 * share - half, 100 * share + half), abs=1e-3)
    assert stats.summarize_accuracy(counts, 400, correct)['both'] is None


# Many data sets

def test_differs_and_equals_are_students_t():
    rng = np.random.default_rng(0)
    for mean in (-0.6, 0.0, 0.1):
        values = rng.normal(mean, 0.3, 6)
        t = scipy_stats.t(5)
        error = values.std(ddof=1) / 6 ** 0.5
        differs = 2 * t.sf(abs(values.mean()) / error)
        # the interval of 90 % is within the margin if and only if equality is shown
        low, high = values.mean() + error * t.ppf(0.95) * np.array([-1, 1])
        found = stats.differs_and_equals(values, 0.5)
        assert found[0] == pytest.approx(differs)
        assert (found[1] <= 0.05) == (low >= -0.5 and high <= 0.5)
        assert found[1] == pytest.approx(t.sf((0.5 - abs(values.mean())) / error))


def test_ranks_and_their_critical_difference():
    table = np.array([[90, 80, 80, 70], [60, 50, 40, 30]])
    assert stats.mean_ranks(table).tolist() == [1, 2.25, 2.75, 4]
    # Demšar 2006, table 5(a), and his example of four methods on 14 data sets
    for k, q in ((2, 1.960), (5, 2.728), (10, 3.164)):
        assert stats.critical_difference(1, k) == pytest.approx(
            q * (k * (k + 1) / 6) ** 0.5, rel=1e-3)
    assert stats.critical_difference(14, 4) == pytest.approx(1.25, abs=0.01)


def test_the_expected_best_is_the_mean_of_all_draws():
    values = [3.0, 1.0, 7.0, 7.0, 2.0]
    for n in (1, 2, 3):
        draws = list(itertools.product(values, repeat=n))
        assert stats.expected_best(values, n) == pytest.approx(np.mean([max(one) for one in draws]))
