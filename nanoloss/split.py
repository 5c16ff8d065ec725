"""Split rows into train, val and test: groups stay whole, equal texts together, labels balanced.

Notable:
- Rows of one group, or with equal texts, form a unit, and a unit is never split.
- If each row has one label and there are no groups, the split is stratified by label; with groups
  it is random. If rows may have several labels, it is an iterative stratification, so that rare
  labels, too, are in train, val and test if possible.
"""
import numpy as np

from nanoloss.settings import fail

SPLITS = 'train', 'val', 'test'
IMDB_VAL = 2500  # reviews of the official test side that become val
# The keys of the two train reviews of movie tt0406816, which has 23 reviews in test. The archive's
# urls files name the movies, the hub does not.
IMDB_LEAKS = '7edf9c42d941e2cd46b3ab672c4b90f7', 'ee9a4db5ebaeb1f3172abd6a47ccad25'


def join_units(texts, groups):
    """Number the units of rows that have the same text or, transitively, the same group.

    texts: a hashable value per row. groups: int [rows], or None. Returns int [rows], the number of
    each row's unit: its smallest group or, without groups, its first row. So units have the order
    of their groups.
    """
    number = {}
    text_of = np.array([number.setdefault(text, len(number)) for text in texts], np.int64)
    if groups is None:
        _, first = np.unique(text_of, return_index=True)
        return first[text_of]

    # a graph whose nodes are texts and groups, with an edge for each row
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    names, group_of = np.unique(groups, return_inverse=True)
    n_nodes = len(number) + len(names)
    edges = text_of, len(number) + group_of
    graph = coo_matrix((np.ones(len(text_of), bool), edges), (n_nodes, n_nodes))
    n_units, unit_of_node = connected_components(graph, directed=False)
    smallest = np.full(n_units, names.max())
    np.minimum.at(smallest, unit_of_node[len(number):], names)
    return smallest[unit_of_node[text_of]]


def spread_labels(has_label, splits):
    """Place a few units so that every label is in every split.

    has_label: bool [units, labels]. splits: the numbers of the splits, train's first. Returns the
    split of each unit, int [units], -1 if it is not placed.

    A label with fewer units than splits is required in train only. No label is missing there. The
    search is greedy: where many rare labels share their units, one can be missing in val or test.
    """
    split_of = np.full(len(has_label), -1)
    free = has_label.sum(0)  # units of each label that are not yet placed
    needs = np.zeros((splits.max() + 1, len(free)), bool)  # [splits, labels], True: still required
    needs[splits] = free >= len(splits)
    needs[splits[0]] = free > 0
    while needs.any():
        # the label with the least choice: fewest units to spare, then fewest units
        choice = free - needs.sum(0) + free / (len(split_of) + 1)
        y = np.where(needs.any(0), choice, np.inf).argmin()
        split = np.flatnonzero(needs[:, y])[0]
        candidates = np.flatnonzero(has_label[:, y] & (split_of < 0))
        candidates = candidates[:1000]  # of a frequent label, any 1000 will do
        if split != splits[0]:
            # do not take from train the last unit of a label that it still needs
            reserved = needs[splits[0]] & (free == 1)
            candidates = candidates[~has_label[candidates][:, reserved].any(1)]
        if not len(candidates):
            needs[split, y] = False
            continue

        # a unit is worth more the more labels it has that this split needs, and less the more it
        # has that other splits may need; a label with few units left weighs more
        worth = np.where(needs[split], 1, -1) / np.maximum(free, 1)
        total = (has_label[candidates] * worth).sum(1)
        unit = candidates[total.round(9).argmax()]  # the last bits depend on the machine
        split_of[unit] = split
        free -= has_label[unit]
        needs[split] &= ~has_label[unit]
    return split_of


def stratify(labels, units, shares, random):
    """Split texts that may have several labels so that each split has its share of every label.

    labels: 0 and 1 [texts, classes]. units: int [texts]; texts with the same number stay together.
    shares: fraction of the texts for each split, [splits]. Returns the split of each text, int
    [texts].

    This is iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the stratification of
    multi-label data, 2011): in turn, the units of the label with the fewest units left are
    assigned, each to the split that lacks most texts of this label. A share of a rare label can be
    less than one text, so `spread_labels` comes first. Having no label counts as one more label.
    """
    labels = np.column_stack([labels, ~labels.any(1)])
    _, unit_of, sizes = np.unique(units, return_inverse=True, return_counts=True)
    counts = np.zeros((len(sizes), labels.shape[1]), np.int32)  # [units, labels], in texts
    np.add.at(counts, unit_of, labels)

    # large units first, while every split has room for them; otherwise in random order
    order = random.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind='stable')]
    sizes = sizes[order]
    counts = counts[order]
    has_label = counts > 0

    splits = np.flatnonzero(shares > 0)
    split_of = spread_labels(has_label, splits)
    lacking = shares * sizes.sum()  # texts that each split lacks
    lacking_of = np.outer(shares, counts.sum(0))  # [splits, labels], the same for each label
    for split in splits:
        lacking[split] -= sizes[split_of == split].sum()
        lacking_of[split] -= counts[split_of == split].sum(0)

    left = has_label[split_of < 0].sum(0)  # units of each label that are not yet assigned
    while left.any():
        y = np.where(left > 0, left, len(sizes) + 1).argmin()
        for unit in np.flatnonzero(has_label[:, y] & (split_of < 0)):
            # a full split gets no more, so that the splits have the right size, too
            with_room = [split for split in splits if lacking[split] >= 0.5]
            split = max(with_room or splits, key=lambda j: (lacking_of[j, y], lacking[j]))
            split_of[unit] = split
            lacking[split] -= sizes[unit]
            lacking_of[split] -= counts[unit]
            left -= has_label[unit]

    split_of_unit = np.empty_like(split_of)
    split_of_unit[order] = split_of
    return split_of_unit[unit_of]


def split_rows(labels, units, shares, seed, has_groups):
    """Split rows into train, val and test by units.

    labels: int [rows] or, if a row may have several, 0 and 1 [rows, classes]. units: int [rows].
    shares: of val and of test, from 0 to 1. has_groups: whether units are groups of the source,
    which are split at random; else units are equal texts, stratified by label.
    Returns the name of each row's split, str [rows].
    """
    random = np.random.RandomState(seed % 2 ** 32)  # unlike default_rng's, its stream is fixed
    offsets = np.random.RandomState([seed % 2 ** 32, 1])
    val_share, test_share = shares
    if labels.ndim == 2:
        all_shares = np.array([1 - val_share - test_share, val_share, test_share])
        return np.array(SPLITS)[stratify(labels, units, all_shares, random)]

    # the stratum of a unit is the label of its first row
    _, first, unit_of = np.unique(units, return_index=True, return_inverse=True)
    stratum_of = np.zeros(len(units), np.int64) if has_groups else labels[first][unit_of]
    sides = np.full(len(units), 'train')
    for stratum in np.unique(stratum_of):
        rows = np.flatnonzero(stratum_of == stratum)
        _, unit_of, sizes = np.unique(units[rows], return_inverse=True, return_counts=True)
        pile = random.permutation(len(sizes))
        # position of each unit's middle in the shuffled pile, from 0 to 1: the first units become
        # test, the next ones val, the rest train
        middle = np.empty(len(sizes))
        middle[pile] = (np.cumsum(sizes[pile]) - sizes[pile] / 2) / len(rows)
        # in a stratum with few units, no middle may fall into val or test, in every such stratum
        # alike; a random offset gives each split its share of these strata, and at least one
        # unit stays in train
        smallest = min([share for share in shares if share > 0], default=1)
        few = len(sizes) * smallest < 0.8 and len(sizes) * (1 - val_share - test_share) >= 1
        if few and not has_groups:
            middle = (middle + offsets.random_sample()) % 1
        position = middle[unit_of]
        sides[rows[position < val_share + test_share]] = 'val'
        sides[rows[position < test_share]] = 'test'
    return sides


def in_split(digests, sides, side, other):
    """The rows of a side whose text is also in the other side: int [n]."""
    known = {digests[row] for row in np.flatnonzero(sides == other)}
    return np.array([row for row in np.flatnonzero(sides == side) if digests[row] in known], int)


# Rows: their field `sides` has the split of each row, '' if it is dropped

def drop_shared_movies(rows):
    """Drop, of each movie in both train and test, the reviews on the side that has fewer."""
    sides = rows.sides
    if rows.groups is None:  # from the hub
        sides[np.isin(rows.keys, IMDB_LEAKS) & (sides == 'train')] = ''
        if (sides == '').sum() != len(IMDB_LEAKS):
            fail('the reviews of the hub are not those of the archive; '
                 'use --source=PATH/aclImdb_v1.tar.gz')
        return
    movies = rows.groups
    # in the archive one movie, with 2 reviews in train and 23 in test
    for movie in np.intersect1d(movies[sides == 'train'], movies[sides == 'test']):
        of_train = np.flatnonzero((movies == movie) & (sides == 'train'))
        of_test = np.flatnonzero((movies == movie) & (sides == 'test'))
        sides[min(of_train, of_test, key=len)] = ''


def split_train(rows, config, shares, join_equal):
    """Move shares (of val, of test) of the train rows to val and test, in place. join_equal:
    whether equal texts stay in one split."""
    train = np.flatnonzero(rows.sides == 'train')
    groups = None if rows.groups is None else rows.groups[train]
    units = groups
    if join_equal:
        units = join_units([rows.digests[row] for row in train], groups)
    rows.sides[train] = split_rows(rows.labels[train], units, shares, config.seed,
                                   groups is not None)


def draw_val_from_test(rows, config):
    """Move a part of test to val, since IMDB has no official val."""
    test = np.flatnonzero(rows.sides == 'test')
    shuffled = test[np.random.RandomState(config.seed % 2 ** 32).permutation(len(test))]
    rows.sides[shuffled[:min(IMDB_VAL, len(test) // 2)]] = 'val'


def classes_in(rows, side):
    """Which classes have a text in a split, bool [classes]."""
    labels = rows.labels[rows.sides == side]
    if labels.ndim == 2:
        return labels.any(0)
    return np.bincount(labels, minlength=len(rows.classes)) > 0


def drop_unknown_classes(rows, config):
    """Drop the texts of val and test whose label train lacks, and those classes -> {reason: count}.
    Fails if train lacks a class and --drop_unknown is not set."""
    if not rows.classes:
        return {}
    known = classes_in(rows, 'train')
    if known.all():
        return {}
    unknown = [name for name, is_known in zip(rows.classes, known) if not is_known]
    what = f'texts of classes that train lacks ({", ".join(map(repr, unknown[:5]))})'
    if not config.drop_unknown:
        fail(f'{config.source}: train has no text of class {unknown[0]!r} '
             f'({len(unknown)} such classes); --drop_unknown drops the texts of val and test that '
             'have it')
    if known.sum() < 2:
        fail(f'{config.source}: train has {known.sum()} classes, wanted at least 2')
    if rows.labels.ndim == 2:
        has_unknown = rows.labels[:, ~known].any(1)
        rows.labels = rows.labels[:, known]
    else:
        has_unknown = ~known[rows.labels]
        number = np.cumsum(known) - 1
        rows.labels = np.where(has_unknown, 0, number[rows.labels]).astype(rows.labels.dtype)
    n_dropped = int((has_unknown & (rows.sides != '')).sum())
    rows.sides[has_unknown] = ''
    rows.classes = [name for name, is_known in zip(rows.classes, known) if is_known]
    return {what: n_dropped}


def check_splits(rows, config, dropped):
    """Fail if a split is empty -> a list of warnings about classes that val or test lacks.

    dropped: {reason: count}, for the message."""
    n_rows = len(rows.sides)
    n_texts = len(set(rows.digests))
    cause = ''
    if n_texts < n_rows:
        cause = (f'; only {n_texts:,} of the {n_rows:,} texts are different, and equal ones stay '
                 'in one split')
    if rows.labels is not None and n_rows > 20 and len(rows.classes) > n_rows / 2:
        cause += f'; there are {len(rows.classes):,} classes: is {config.label!r} the right column?'
    gone = ''.join(f'; dropped: {count:,} {reason}' for reason, count in dropped.items() if count)
    for side in SPLITS:
        if side not in rows.sides:
            fail(f'{config.source}: no texts are left for {side}, of {n_rows:,} in all{gone}{cause}'
                 '; try other --val_frac and --test_frac')

    warnings = []
    for side in 'val', 'test':
        if not rows.classes:
            continue
        found = classes_in(rows, side)
        lacking = [name for name, is_there in zip(rows.classes, found) if not is_there]
        if lacking:
            names = ', '.join(map(repr, lacking[:5])) + (', ...' if len(lacking) > 5 else '')
            number = f'{len(lacking)} classes: ' if len(lacking) > 1 else 'class '
            warnings.append(f'{side} has no text of {number}{names}{cause}')
    return warnings
