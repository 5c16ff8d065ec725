"""nanoloss/split.py: units, shares, stratification, against brute force."""
import numpy as np
import pytest

from nanoloss.split import in_split, join_units, split_rows, stratify


def components(texts, groups):
    """The units by brute force: merge sets of rows until nothing changes."""
    units = [{i} for i in range(len(texts))]
    changed = True
    while changed:
        changed = False
        for a in range(len(units)):
            for b in range(a):
                linked = any(texts[i] == texts[j] or groups[i] == groups[j]
                             for i in units[a] for j in units[b])
                if linked and units[a]:
                    units[b] |= units[a]
                    units[a] = set()
                    changed = True
    return {frozenset(unit) for unit in units if unit}


@pytest.mark.parametrize('seed', range(5))
def test_units_of_texts_and_groups(seed):
    rng = np.random.default_rng(seed)
    texts = rng.integers(0, 30, 40).tolist()
    groups = rng.integers(5, 30, 40)
    units = join_units(texts, groups)
    found = {frozenset(np.flatnonzero(units == unit).tolist()) for unit in np.unique(units)}
    assert found == components(texts, groups)
    for unit in np.unique(units):  # its smallest group, so that groups alone keep their numbers
        assert unit == groups[units == unit].min()
    distinct = [str(i) for i in range(40)]
    assert (join_units(distinct, groups) == groups).all()
    # without groups, the first row
    assert join_units(['a', 'b', 'a', 'c', 'b'], None).tolist() == [0, 1, 0, 3, 1]


@pytest.mark.parametrize('repeats', [1, 3])
def test_single_labels_are_stratified(repeats):
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    units = np.arange(1000) // repeats * repeats
    sides = split_rows(labels, units, (.2, .1), 7, False)
    for unit in np.unique(units):
        assert len(set(sides[units == unit])) == 1
    for side, share in ('train', .7), ('val', .2), ('test', .1):
        counts = np.bincount(labels[sides == side], minlength=3)
        off = np.abs(counts - share * np.array([600, 300, 100])).max()
        assert off <= (0 if repeats == 1 else repeats)
    assert (sides == split_rows(labels, units, (.2, .1), 7, False)).all()
    assert (sides != split_rows(labels, units, (.2, .1), 8, False)).any()


def test_rows_of_a_unit_with_two_labels_stay_together():
    labels = np.tile([0, 1], 50)
    units = np.arange(100) // 2 * 2
    sides = split_rows(labels, units, (.2, .2), 0, False)
    assert (sides[::2] == sides[1::2]).all()
    assert [(sides == side).sum() for side in ('train', 'val', 'test')] == [60, 20, 20]


def test_rows_whose_text_train_has():
    sides = np.array(['train', 'val', 'val', 'test', 'train', ''])
    assert in_split('abcadc', sides, 'val', 'train').tolist() == []
    assert in_split('abaaba', sides, 'val', 'train').tolist() == [1, 2]
    assert in_split('abcaba', sides, 'test', 'train').tolist() == [3]
    assert in_split('xbcbyz', sides, 'val', 'test').tolist() == [1]


def draw_labels(seed, n_texts=1200, n_classes=30):
    """0 and 1 [texts, classes]: the first labels are frequent, the last ones rare.

    A third of the texts has no label; every label has at least three texts.
    """
    rng = np.random.default_rng(seed)
    frequency = 0.4 / np.arange(1, n_classes + 1) ** 1.5
    labels = (rng.random((n_texts, n_classes)) < frequency).astype(np.uint8)
    labels[rng.random(n_texts) < 1 / 3] = 0
    for y in range(n_classes):
        absent = np.flatnonzero(labels[:, y] == 0)
        labels[rng.choice(absent, max(0, 3 - int(labels[:, y].sum())), replace=False), y] = 1
    return labels


def split_at_random(units, shares, seed):
    """What a split that knows no labels does: shuffle the units, cut the pile -> split [texts]."""
    _, unit_of = np.unique(units, return_inverse=True)
    order = np.random.default_rng(seed).permutation(unit_of.max() + 1)
    position = np.argsort(order)[unit_of] / len(order)
    return np.searchsorted(np.cumsum(shares[:-1]), position, 'right')


def label_counts(labels, split_of):
    """-> int [splits, classes]"""
    return np.stack([labels[split_of == split].sum(0) for split in range(3)]).astype(int)


def distance_of_shares(labels, split_of, shares):
    """The paper's LD: how far the odds of a label in a split are from its odds in all texts."""
    counts = label_counts(labels, split_of)
    sizes = np.bincount(split_of, minlength=3)[:, None]
    odds = counts / (sizes - counts)
    odds_of_all = labels.sum(0) / (len(labels) - labels.sum(0))
    return np.abs(odds - odds_of_all).mean()


@pytest.mark.parametrize('texts_of_a_group', [1, 5])
@pytest.mark.parametrize('val_share, test_share', [(0.1, 0.1), (0.25, 0.05), (0, 0.2)])
def test_iterative_stratification(texts_of_a_group, val_share, test_share):
    shares = np.array([1 - val_share - test_share, val_share, test_share])
    ours = []
    at_random = []
    missing = 0
    for seed in range(10):
        labels = draw_labels(seed)
        units = np.arange(len(labels))
        if texts_of_a_group > 1:
            n_groups = len(labels) // texts_of_a_group
            units = np.random.default_rng(seed).integers(7, 7 + n_groups, len(labels))
        split_of = stratify(labels, units, shares, np.random.RandomState(seed))

        # the share of each split in all texts and in each frequent label, to a text where texts are
        # single; of groups, a small split needs some more to have all rare labels
        sizes = np.bincount(split_of, minlength=3)
        counts = label_counts(labels, split_of)
        off = np.abs(counts - np.outer(shares, labels.sum(0)))[:, labels.sum(0) >= 30]
        assert np.abs(sizes - shares * len(labels)).max() < (1 if texts_of_a_group == 1 else 60)
        assert off.max() < (1 if texts_of_a_group == 1 else 20)

        # groups are not cut; every label with three texts, or nearly every one with three groups,
        # is in every split
        for unit in np.unique(units):
            assert len(set(split_of[units == unit])) == 1
        for y in range(labels.shape[1]):
            n_units = len(np.unique(units[labels[:, y] == 1]))
            assert counts[0, y] > 0
            if n_units >= 3 and texts_of_a_group == 1:
                assert (counts[shares > 0, y] > 0).all()
            elif n_units >= 3:
                missing += (counts[shares > 0, y] == 0).sum()
        assert (sizes[shares == 0] == 0).all()

        # fixed by the seed, another with another one
        again = stratify(labels, units, shares, np.random.RandomState(seed))
        other = stratify(labels, units, shares, np.random.RandomState(seed + 1))
        assert (again == split_of).all() and (other != split_of).any()

        if val_share:
            ours.append(distance_of_shares(labels, split_of, shares))
            split_of = split_at_random(units, shares, seed)
            at_random.append(distance_of_shares(labels, split_of, shares))

    assert missing <= 2  # of 10 times 30 labels, where rare labels share groups
    if val_share:
        assert np.mean(ours) < 0.75 * np.mean(at_random)
    if val_share and texts_of_a_group == 1:
        assert max(ours) < min(at_random)


def test_iterative_stratification_of_single_labels_is_stratification():
    """Where each text has one label, the shares are those of a split stratified by label."""
    labels = np.eye(3, dtype=np.uint8)[np.repeat([0, 1, 2], [600, 300, 100])]
    split_of = stratify(labels, np.arange(1000), np.array([.7, .2, .1]),
                                np.random.RandomState(0))
    assert label_counts(labels, split_of).tolist() == [[420, 210, 70], [120, 60, 20], [60, 30, 10]]


def test_rare_labels_that_overlap():
    """Labels of three texts each, which share some of them: all are in all three splits."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        labels = np.zeros((200, 12), np.uint8)
        for y in range(12):
            labels[rng.choice(60, 3, replace=False), y] = 1
        split_of = stratify(labels, np.arange(200), np.array([.8, .1, .1]),
                                    np.random.RandomState(seed))
        assert (label_counts(labels, split_of) == 1).all()
        assert np.bincount(split_of).tolist() == [160, 20, 20]


def test_labels_with_fewer_units_than_splits_are_in_split():
    """A class that train lacks cannot be learned, and prepare.py refuses the data."""
    for seed in range(30):
        labels = np.zeros((60, 8), np.uint8)
        rng = np.random.default_rng(seed)
        for y, n in enumerate([1, 1, 2, 2, 2, 30, 40, 50]):
            labels[rng.choice(60, n, replace=False), y] = 1
        split_of = stratify(labels, np.arange(60), np.array([.6, .2, .2]),
                                    np.random.RandomState(seed))
        assert label_counts(labels, split_of)[0].all()
