"""Text -> data/<name>/*.npy: read reviews, split them, drop what leaks, tokenize, write memmaps.

    python prepare.py                                     IMDB from the hub
    python prepare.py --source=PATH/aclImdb_v1.tar.gz     IMDB from the archive or its folder
    python prepare.py --source=sample                     the small set in this repository
    python prepare.py --source=my.csv --text=body --label=stars --group=author
    python prepare.py --source=my.csv --unlabelled=more.csv     and texts for a teacher (train.py)
    python prepare.py --source=my.csv --label=            texts alone, for a language model
    python prepare.py --source='part*.jsonl.gz' --name=my       several files, also packed
    python prepare.py --source=my/                        a folder with a folder of texts a class
    ... | python prepare.py --source=- --name=my          JSON lines from standard input
    python prepare.py --source=hub:fancyzhx/ag_news       a data set of the hub

Notable:
- Reviews have one canonical order, by the hash of label and text: IMDB is the same, bit for bit,
  from the hub and from the archive.
- Val and test have no text of train, word for word, and no movie (group) of train.
- Where reviews have several labels each, the split is an iterative stratification: a rare label,
  too, is in train, val and test where that can be.
- cl100k_base needs no download: its table comes out of the bpe-openai wheel and is checked.
"""
import glob
import hashlib
import os
import re
import signal
import sys
import tarfile
import tempfile
import zlib
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nanoloss.configure import configure, fail
from nanoloss.files import replacing_folder, write_json
from nanoloss.tables import check_columns, files_of, name_of, read_columns, strings
from nanoloss.tokenizer import table_sha256, tokenizer

# -----------------------------------------------------------------------------
source = 'imdb'  # imdb, sample, hub:OWNER/NAME, an aclImdb archive, a folder, or a file
name = ''  # of the data set, data/<name>; '' means imdb, sample, or the name of the file
data_dir = 'data'  # the folder of data sets
text = 'text'  # column of your file: the review
label = 'label'  # column: its class, a string or an integer; '' for none (pretrain.py needs none)
label_sep = ''  # what stands between the labels of one review, such as ;  '' if each has one
group = ''  # column: what a split must not cut, such as the movie; '' for none
val_source = ''  # a file of its own for val; '' takes val_frac of the source
test_source = ''  # a file of its own for test; '' takes test_frac of the source
hub_config = ''  # of hub:OWNER/NAME, its configuration; '' if it has one only
revision = ''  # of it, a commit, tag or branch; '' for the newest
train_split = 'train'  # of it; val and test are cut out of train where it lacks them
val_split = 'validation'
test_split = 'test'
strict = False  # a row without a label or group is an error; else it is left out and counted
unlabelled = ''  # texts without labels: imdb (the hub's), an aclImdb archive or folder, a file
val_frac = 0.1  # not for IMDB, whose split is official
test_frac = 0.1
dev = False  # make <name>_dev, for choosing settings: all three splits cut by movie out of train
seed = 1337  # of the split
encoding = 'cl100k_base'  # any encoding of tiktoken; all but this one are downloaded
block_size = 512  # the paper's, only to tell how many reviews it would cut
# -----------------------------------------------------------------------------
HUB_SPLITS = 'train', 'validation', 'test'  # the usual names
FORMAT_VERSION = 1  # of data/<name>; train.py takes no other
SPLITS = 'train', 'val', 'test'
BATCH = 2000  # reviews whose texts are in memory at once
IMDB_FILE = re.compile(r'(?:^|/)(train|test)/(?:urls_(neg|pos)|(neg|pos)/(\d+)_\d+)\.txt$')
IMDB_UNLABELLED_FILE = re.compile(r'(?:^|/)train/unsup/\d+_\d+\.txt$')
IMDB_VAL = 2500  # so many reviews of the official test side become val
# The train reviews of tt0406816, of which test has 23: the archive's urls files tell which, the hub
# cannot.
IMDB_LEAKS = '7edf9c42d941e2cd46b3ab672c4b90f7', 'ee9a4db5ebaeb1f3172abd6a47ccad25'


def data_set_folder(imdb):
    """data/<name>. Fails where that is something else than a data set, which would be replaced."""
    folder_name = name
    if not name:
        if source == '-' or (glob.has_magic(source) and not Path(source).exists()):
            fail(f'--source={source} says no name for the data set; choose one by --name=')
        folder_name = 'imdb' if imdb else name_of(source.removeprefix('hub:'))
    if dev:
        folder_name += '_dev'
    folder = Path(data_dir) / folder_name
    foreign = folder.exists() and not (folder / 'meta.json').exists()
    if foreign or folder.name == '..' or folder.parent != Path(data_dir):
        fail(f'{folder}: not the name of a data set, which this would replace; '
             'choose one by --name=')
    return folder


@dataclass
class RawReviews:
    """What a reader returns: the reviews as the source has them, a list entry each."""
    sides: list  # 'train', 'val' or 'test'
    labels: list  # the label as text; several are joined by label_sep
    groups: list  # the number of the movie, or None
    fetch: Callable  # a list of rows -> the list of their texts
    dropped: dict  # {why: number of rows that cannot be used}


def hold_in_memory(reviews):
    """[(side, label, movie, text)] -> RawReviews."""
    sides, labels, movies, texts = zip(*reviews)
    return RawReviews(sides, labels, movies, lambda rows: [texts[row] for row in rows], {})


def open_hub(path, remedy, cache=None):
    """A data set of the hub, or a folder that has its layout -> {split: datasets.Dataset}, and its
    commit, None if it is unknown. Fails within seconds, and says the remedy.

    cache: the folder to unpack a folder in; None: where the hub's data are kept."""
    import datasets  # takes a second, and only readers need it
    import huggingface_hub
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    commit = None
    try:
        if Path(path).is_dir():
            return datasets.load_dataset(path, hub_config or None, cache_dir=cache), commit
        # load_dataset tries an unreachable hub for half a minute; offline, it looks in its cache
        try:
            commit = huggingface_hub.HfApi().dataset_info(
                path, revision=revision or None, timeout=5).sha
        except Exception:
            datasets.config.HF_HUB_OFFLINE = True
        hub = datasets.load_dataset(path, hub_config or None, revision=commit or revision or None)
        return hub, commit
    except Exception as error:
        why = ' '.join(str(error).split())[:300]
        fail(f'cannot get {path} from the hub ({why}); {remedy}')


def open_imdb_hub():
    """The hub's IMDB: {split: datasets.Dataset}."""
    hub, _ = open_hub('stanfordnlp/imdb', 'give the archive, --source=PATH/aclImdb_v1.tar.gz, or '
                      'try --source=sample')
    return hub


def load_imdb_hub():
    """The reviews of the hub's IMDB -> RawReviews. It knows no movies."""
    hub = open_imdb_hub()
    reviews = []
    for side in 'train', 'test':
        for y, review in zip(hub[side]['label'][:], hub[side]['text'][:]):
            reviews.append((side, ('neg', 'pos')[y], None, review))
    return hold_in_memory(reviews)


def imdb_files(path, pattern):
    """Yield (name, text) of the files in an archive or folder whose names match. Fails where one
    cannot be read."""
    file = 'its beginning'
    try:
        for file, content in tqdm(open_files(path, pattern), 'read', unit=' files', leave=False,
                                  disable=None):
            yield file, content.decode()
    except (OSError, EOFError, UnicodeDecodeError, tarfile.TarError, zlib.error) as error:
        fail(f'{path}: cannot be read past {file}: {error}')


def open_files(path, pattern):
    """Yield (name, bytes) of these files."""
    if path.is_dir():
        for file in path.rglob('*.txt'):
            if pattern.search(file.as_posix()):
                yield file.as_posix(), file.read_bytes()
        return
    with tarfile.open(path, 'r|*') as archive:  # a stream: to go back in a .gz is to start again
        for member in archive:
            if pattern.search(member.name) and member.isfile():
                yield member.name, archive.extractfile(member).read()


def read_archive(path):
    """The archive aclImdb_v1.tar.gz, any of its layout, or its folder -> RawReviews.

    Line ID of urls_neg.txt or urls_pos.txt names the movie of review ID; tt0406816 becomes 406816.
    """
    texts = {}  # (side, kind, ID): text
    movies = {}  # (side, kind): [movie of each ID]
    for file, content in imdb_files(path, IMDB_FILE):
        side, urls, kind, number = IMDB_FILE.search(file).groups()
        if urls:
            titles = re.findall(r'/title/tt(\d{1,9})', content)
            movies[side, urls] = [int(title) for title in titles]
        else:
            texts[side, kind, int(number)] = content

    # the urls files say how many reviews there must be
    wanted = set()
    for (side, kind), movies_of_ids in movies.items():
        wanted.update((side, kind, number) for number in range(len(movies_of_ids)))
    if not texts or wanted != set(texts):
        difference = min(wanted ^ set(texts), default='none')
        fail(f'{path}: not a whole aclImdb: {len(texts):,} reviews, {len(wanted):,} lines in urls '
             f'files, first difference {difference}')

    reviews = []
    for (side, kind, number), review in texts.items():
        reviews.append((side, kind, movies[side, kind][number], review))
    return hold_in_memory(reviews)


def clean(value):
    """A label without space around it, and as it was before pandas read it.

    Of integers of which some are missing, pandas makes 2.0 and NaN.
    """
    return re.sub(r'(?i)^(nan|(-?\d+)\.0+)$', r'\2', value.strip())


def read_cells(path, data, column):
    """The cells of a column of labels or groups, as clean strings; a missing one is ''."""
    return [clean(value) for value in strings(path, column, data[column][:])]


def find_missing(path, column, values, dropped):
    """Where the values are '', a set: a review without a label cannot be used, one without a group
    could leak. They are counted in dropped."""
    missing = [i for i, value in enumerate(values) if not value]
    if not missing:
        return set()
    if strict:
        fail(f'{path}: {len(missing)} reviews lack {column!r}, first no. {missing[0] + 1}')
    dropped[f'reviews that lack {column!r}, first no. {missing[0] + 1} of {path}'] = len(missing)
    return set(missing)


def read_labels(path, data, column):
    """The label of each row; several in one spelling: sorted, each once, joined by label_sep."""
    if not column:
        return [''] * len(data)
    feature = data.features[column]
    of_list = getattr(feature, 'feature', None)  # the feature of a list's entries
    if hasattr(of_list, 'names'):  # numbers of classes, several a review
        if not label_sep:
            fail(f"{path}: {column!r} has several labels a review; say --label_sep=';'")
        cells = [label_sep.join(of_list.names[y] for y in numbers) for numbers in data[column][:]]
    elif hasattr(feature, 'names'):  # the number of a class; -1 is none
        cells = [feature.names[y] if y is not None and y >= 0 else '' for y in data[column][:]]
    else:
        cells = read_cells(path, data, column)
    if not label_sep:
        return cells
    labels = []
    for cell in cells:
        names = {clean(name) for name in cell.split(label_sep)}
        labels.append(label_sep.join(sorted(names - {''})))
    return labels


def columns_wanted():
    """The names of the columns of texts, labels and groups; '' for labels or groups: none."""
    if source == 'sample':
        return 'review', 'label', 'movie'
    return text, label, group


def read_files(cache):
    """The source and, where they are set, val_source and test_source -> RawReviews."""
    text_column, *others = columns_wanted()
    columns = [text_column, *filter(None, others)]
    train_source = source
    if source == 'sample':
        train_source = str(Path(__file__).parent / 'data' / 'sample.csv')
    tables = []
    for side, given in zip(SPLITS, (train_source, val_source, test_source)):
        if given:
            for file in files_of(given):
                tables.append((side, file, read_columns(Path(file), columns, cache)))
    return read_tables(tables)


def read_hub(cache):
    """A data set of the hub -> RawReviews, and its commit, or None."""
    hub, commit = open_hub(source.removeprefix('hub:'), 'give files of it, --source=PATH', cache)
    text_column, *others = columns_wanted()
    tables = []
    for side, split, usual in zip(SPLITS, (train_split, val_split, test_split), HUB_SPLITS):
        if split in hub:
            path = f'{source}, {split}'
            check_columns(path, [text_column, *filter(None, others)], hub[split].column_names)
            tables.append((side, path, hub[split]))
        elif side == 'train' or split != usual:
            fail(f'{source} has no split {split!r}, only {", ".join(map(repr, hub))}; '
                 'see --train_split, --val_split and --test_split')
    return read_tables(tables), commit


def read_tables(tables):
    """[(side, path, datasets.Dataset)] -> RawReviews."""
    text_column, label_column, group_column = columns_wanted()
    rows = []  # those that can be used, of all tables one after another
    sides = []
    labels = []
    groups = []
    dropped = {}
    places = []  # of each table, the row of its first review, path and data
    n_rows = 0
    for side, path, data in tables:
        places.append((n_rows, path, data))
        labels_here = read_labels(path, data, label_column)
        missing = set()
        if label_column and not label_sep:
            missing |= find_missing(path, label_column, labels_here, dropped)
        groups_here = [None] * len(data)
        if group_column:
            groups_here = read_cells(path, data, group_column)
            missing |= find_missing(path, group_column, groups_here, dropped)
        for i in range(len(data)):
            if i not in missing:
                rows.append(n_rows + i)
                sides.append(side)
                labels.append(labels_here[i])
                groups.append(groups_here[i])
        n_rows += len(data)
    if not rows:
        fail(f'{source}: no review of {n_rows:,} can be used: {"; ".join(dropped)}')

    # numbered in the order of their names, so that the order of the rows does not matter
    if group_column:
        groups = np.unique(groups, return_inverse=True)[1].tolist()

    def fetch(some):
        return fetch_texts(places, text_column, [rows[row] for row in some])
    return RawReviews(sides, labels, groups, fetch, dropped)


def fetch_texts(places, column, rows):
    """The texts of these rows: unlike labels and groups, they stay in their files until they are
    needed. places: of each table, the row of its first text, path and data."""
    firsts = [first for first, _, _ in places]
    rows_of_tables = {}
    for row in rows:
        rows_of_tables.setdefault(bisect(firsts, row) - 1, []).append(row)
    texts = {}
    for number, rows_of_table in rows_of_tables.items():
        first, path, data = places[number]
        values = data[[row - first for row in rows_of_table]][column]
        texts.update(zip(rows_of_table, strings(path, column, values)))
    return [texts[row] for row in rows]


def holds_imdb(folder):
    """Whether a folder has a file that is named as IMDB's are."""
    return any(IMDB_FILE.search(file.as_posix()) for file in folder.rglob('*.txt'))


def read_folders(path):
    """Text files in a folder for each class, or such folders in train, val and test ->
    RawReviews."""
    files = sorted(path.rglob('*.txt'))
    sides = []
    labels = []
    for file in files:
        *folders, _ = file.relative_to(path).parts
        side = folders.pop(0) if folders and folders[0] in SPLITS else 'train'
        if not folders:
            fail(f'{file} is in no folder of a class')
        sides.append(side)
        labels.append(folders[0])
    if not files:
        fail(f'{path}: there is no .txt file in it')

    def fetch(rows):
        texts = []
        for row in rows:
            try:
                texts.append(files[row].read_bytes().decode())
            except (OSError, UnicodeDecodeError) as error:
                fail(f'{files[row]}: cannot be read: {error}')
        return texts
    return RawReviews(sides, labels, [None] * len(files), fetch, {})


def is_archive(path):
    return bool(re.search(r'\.(tgz|tar(\.\w+)?)$', path))


def read_unlabelled(cache):
    """The texts of `unlabelled` -> their number, and a function from a list of rows to their
    texts."""
    path = Path(unlabelled)
    if unlabelled == 'imdb':
        texts = open_imdb_hub()['unsupervised']['text'][:]
    elif path.is_dir() or is_archive(unlabelled):
        texts = [content for _, content in imdb_files(path, IMDB_UNLABELLED_FILE)]
        if not texts:
            fail(f'{path}: there is no text in train/unsup')
    else:
        places = []
        n_texts = 0
        for file in files_of(unlabelled):
            data = read_columns(Path(file), [text], cache)
            places.append((n_texts, file, data))
            n_texts += len(data)
        return n_texts, partial(fetch_texts, places, text)
    return len(texts), lambda rows: [texts[row] for row in rows]


def drop_held_out(n_texts, fetch, reviews):
    """Which unlabelled texts are to be used: not those of val or test, word for word.

    Returns their rows in canonical order, and the number of those that are dropped.
    """
    held_out = np.flatnonzero(np.isin(reviews.sides, ('val', 'test')))
    held_out = {reviews.digests[row] for row in held_out}
    digests = []
    for texts in batches(fetch, range(n_texts), 'read'):
        digests += [hashlib.sha256(one.encode()).digest() for one in texts]
    rows = [row for row in range(n_texts) if digests[row] not in held_out]
    if not rows:
        fail(f'{unlabelled}: all of its texts are in val or test')
    return sorted(rows, key=digests.__getitem__), n_texts - len(rows)


@dataclass
class Reviews:
    """The reviews in canonical order, whatever the order of the source."""
    sides: np.ndarray  # str [reviews]: 'train', 'val', 'test', or '' for one that is dropped
    labels: np.ndarray  # uint8 [reviews], or 0 and 1 [reviews, classes] with several labels each
    classes: list  # the names of the labels
    groups: np.ndarray  # uint32 [reviews], or None where the source knows no groups
    keys: list  # hash of label and text
    digests: list  # hash of the text
    fingerprint: str  # of all reviews as the source has them
    source_rows: np.ndarray  # int [reviews]: their rows in the source, for fetch
    fetch: Callable  # a list of rows of the source -> the list of their texts


def batches(fetch, rows, activity):
    """Yield lists of the texts of these rows: what is read of a large file is not kept."""
    for begin in tqdm(range(0, len(rows), BATCH), activity, unit_scale=BATCH, leave=False,
                      disable=None):
        yield fetch(rows[begin:begin + BATCH])


def integers_first(class_name):
    """Sort key: integers by their value, then all other names as text."""
    if re.fullmatch(r'-?\d+', class_name):
        return 0, int(class_name), class_name
    return 1, 0, class_name


def number_labels(cells):
    """Labels as text -> (names of the classes, uint8 [reviews] or 0 and 1 [reviews, classes])."""
    if not label:
        return [], np.zeros(len(cells), np.uint8)
    label_lists = []
    for cell in cells:
        if label_sep:
            label_lists.append(cell.split(label_sep) if cell else [])
        else:
            label_lists.append([cell])
    classes = sorted(set().union(*label_lists), key=integers_first)
    if not 2 <= len(classes) <= 255:  # their numbers are written as uint8
        fail(f'{source}: {label!r} has {len(classes)} classes, wanted 2 to 255: '
             f'{", ".join(classes[:5])}')

    number = {class_name: i for i, class_name in enumerate(classes)}
    if not label_sep:
        return classes, np.array([number[cell] for cell in cells], np.uint8)
    labels = np.zeros((len(cells), len(classes)), np.uint8)
    for i, names in enumerate(label_lists):
        labels[i, [number[class_name] for class_name in names]] = 1
    return classes, labels


def put_in_order(raw):
    """RawReviews -> Reviews. Those that are equal in this order differ in nothing but the movie."""
    # the texts are read twice, here and for `tokenize`; in between, their hashes will do
    digests = []
    keys = []
    for texts in batches(raw.fetch, range(len(raw.sides)), 'read'):
        for review in texts:
            labelled = f'{raw.labels[len(keys)]}\0{review}'
            digests.append(hashlib.sha256(review.encode()).digest())
            keys.append(hashlib.sha256(labelled.encode()).hexdigest()[:32])

    order = sorted(range(len(keys)), key=lambda i: (raw.sides[i], keys[i], raw.groups[i] or 0))
    sides = [raw.sides[i] for i in order]
    keys = [keys[i] for i in order]
    classes, labels = number_labels([raw.labels[i] for i in order])
    groups = None
    if raw.groups[0] is not None:
        groups = np.array([raw.groups[i] for i in order], np.uint32)
    return Reviews(
        sides=np.array(sides, '<U5'),
        labels=labels,
        classes=classes,
        groups=groups,
        keys=keys,
        digests=[digests[i] for i in order],
        fingerprint=hashlib.sha256(' '.join(sides + keys).encode()).hexdigest(),
        source_rows=np.array(order),
        fetch=raw.fetch)


def spread_labels(has_label, splits):
    """Place a few units so that every label is in every split.

    has_label: bool [units, labels]. splits: their numbers, that of train first. Returns the split
    of each unit, int [units], -1 for one that is not placed.

    A label with fewer units than splits needs the first split alone. No label is missing there. The
    search is greedy: where many rare labels share their units, one can be missing in another split.
    """
    split_of = np.full(len(has_label), -1)
    free = has_label.sum(0)  # units of each label that are not placed
    needs = np.zeros((splits.max() + 1, len(free)), bool)  # [splits, labels]
    needs[splits] = free >= len(splits)
    needs[splits[0]] = free > 0
    while needs.any():
        # the label with the least choice: few units more than it needs, then few units
        choice = free - needs.sum(0) + free / (len(split_of) + 1)
        y = np.where(needs.any(0), choice, np.inf).argmin()
        split = np.flatnonzero(needs[:, y])[0]
        candidates = np.flatnonzero(has_label[:, y] & (split_of < 0))
        candidates = candidates[:1000]  # of a frequent label, any will do
        if split != splits[0]:
            # train, the first, does not lose the last unit of a label that it still needs
            reserved = needs[splits[0]] & (free == 1)
            candidates = candidates[~has_label[candidates][:, reserved].any(1)]
        if not len(candidates):
            needs[split, y] = False
            continue

        # labels that this split needs gain by a unit, the others lose one that another split may
        # need, and both matter more where few are left
        worth = np.where(needs[split], 1, -1) / np.maximum(free, 1)
        total = (has_label[candidates] * worth).sum(1)
        unit = candidates[total.round(9).argmax()]  # the last bits depend on the machine
        split_of[unit] = split
        free -= has_label[unit]
        needs[split] &= ~has_label[unit]
    return split_of


def stratify(labels, units, shares, random):
    """Split texts that have several labels each so that each split has its share of every label.

    labels: 0 and 1 [texts, classes]. units: int [texts], texts of one number are not parted.
    shares: of all texts, [splits]. Returns the split of each text, int [texts].

    This is iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the stratification of
    multi-label data, 2011): the label with the fewest units left deals them out, each to the split
    that lacks most texts of this label. The share of a rare label can be less than a text, so
    `spread_labels` comes first. Texts without labels are stratified as if that were one more label.
    """
    labels = np.column_stack([labels, ~labels.any(1)])
    _, unit_of, sizes = np.unique(units, return_inverse=True, return_counts=True)
    counts = np.zeros((len(sizes), labels.shape[1]), np.int32)  # texts of a unit with a label
    np.add.at(counts, unit_of, labels)

    # in random order, but large units first, while every split has room for them
    order = random.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind='stable')]
    sizes = sizes[order]
    counts = counts[order]
    has_label = counts > 0

    splits = np.flatnonzero(shares > 0)
    split_of = spread_labels(has_label, splits)
    lacking = shares * sizes.sum()  # texts that each split lacks
    lacking_of = np.outer(shares, counts.sum(0))  # [splits, labels], those with the label
    for split in splits:
        lacking[split] -= sizes[split_of == split].sum()
        lacking_of[split] -= counts[split_of == split].sum(0)

    left = has_label[split_of < 0].sum(0)  # units of each label that are not dealt out yet
    while left.any():
        y = np.where(left > 0, left, len(sizes) + 1).argmin()
        for unit in np.flatnonzero(has_label[:, y] & (split_of < 0)):
            # a full split gets no more, so that the shares of all texts are right too
            with_room = [split for split in splits if lacking[split] >= 0.5]
            split = max(with_room or splits, key=lambda j: (lacking_of[j, y], lacking[j]))
            split_of[unit] = split
            lacking[split] -= sizes[unit]
            lacking_of[split] -= counts[unit]
            left -= has_label[unit]

    split_of_unit = np.empty_like(split_of)
    split_of_unit[order] = split_of
    return split_of_unit[unit_of]


def split_train(reviews, val_share, test_share):
    """Move these shares of the train reviews to val and test, in place.

    Where the source names groups, whole groups move; else single reviews, as many of every label.
    Reviews with several labels each are stratified by label with and without groups.
    """
    random = np.random.RandomState(seed % 2 ** 32)  # its stream never changes, as default_rng's may
    offsets = np.random.RandomState([seed % 2 ** 32, 1])
    rows = np.flatnonzero(reviews.sides == 'train')
    labels = reviews.labels[rows]
    units = np.arange(len(rows)) if reviews.groups is None else reviews.groups[rows]
    if labels.ndim == 2:
        shares = np.array([1 - val_share - test_share, val_share, test_share])
        reviews.sides[rows] = np.array(SPLITS)[stratify(labels, units, shares, random)]
        return

    shares = [share for share in (val_share, test_share) if share > 0]
    strata = [np.arange(len(rows))]
    if reviews.groups is None:
        strata = [np.flatnonzero(labels == y) for y in np.unique(labels)]
    for stratum in strata:
        _, unit_of, sizes = np.unique(units[stratum], return_inverse=True, return_counts=True)
        pile = random.permutation(len(sizes))
        # where in the shuffled pile the middle of a unit lies, from 0 to 1: test is what lies at
        # the beginning, then comes val
        middle = np.empty(len(sizes))
        middle[pile] = (np.cumsum(sizes[pile]) - sizes[pile] / 2) / len(stratum)
        # the middles of a few reviews lie where one split, of all such classes, gets none; at least
        # one stays in train
        few = len(sizes) * min(shares, default=1) < 0.8 and len(sizes) * (1 - sum(shares)) >= 1
        if reviews.groups is None and few:
            middle = (middle + offsets.random_sample()) % 1
        position = middle[unit_of]
        reviews.sides[rows[stratum[position < val_share + test_share]]] = 'val'
        reviews.sides[rows[stratum[position < test_share]]] = 'test'


def drop_shared_movies(reviews):
    """Of a movie that is in train and in test, drop the reviews on the side that has fewer."""
    sides = reviews.sides
    if reviews.groups is None:  # from the hub
        sides[np.isin(reviews.keys, IMDB_LEAKS) & (sides == 'train')] = ''
        if (sides == '').sum() != len(IMDB_LEAKS):
            fail('the reviews of the hub are not those of the archive; '
                 'use --source=PATH/aclImdb_v1.tar.gz')
        return
    movies = reviews.groups
    # the archive has 25 reviews of one movie on both sides
    for movie in np.intersect1d(movies[sides == 'train'], movies[sides == 'test']):
        in_train = np.flatnonzero((movies == movie) & (sides == 'train'))
        in_test = np.flatnonzero((movies == movie) & (sides == 'test'))
        sides[min(in_train, in_test, key=len)] = ''


def split_by_movie_for_dev(reviews):
    """Drop all but train, and take val and test out of it."""
    if reviews.groups is None:
        fail('--dev cuts by movie, and this source names none; give the archive, or a column '
             'by --group=')
    reviews.sides[reviews.sides != 'train'] = ''
    split_train(reviews, val_frac, test_frac)


def drop_repeats(reviews, side):
    """Drop the reviews of val or test that are in train word for word -> their number."""
    train = np.flatnonzero(reviews.sides == 'train')
    digests = {reviews.digests[row] for row in train}
    rows = np.flatnonzero(reviews.sides == side)
    repeats = [row for row in rows if reviews.digests[row] in digests]
    reviews.sides[repeats] = ''
    return len(repeats)


def draw_val_from_test(reviews):
    """Give val a part of test, since IMDB has no val of its own."""
    rows = np.flatnonzero(reviews.sides == 'test')
    shuffled = rows[np.random.RandomState(seed % 2 ** 32).permutation(len(rows))]
    reviews.sides[shuffled[:min(IMDB_VAL, len(rows) // 2)]] = 'val'


def split_reviews(reviews, imdb):
    """Settle which split each review is in, or that it is dropped -> {why: number of dropped}."""
    if imdb:
        drop_shared_movies(reviews)
    else:
        val_share = 0 if 'val' in reviews.sides else val_frac
        test_share = 0 if 'test' in reviews.sides else test_frac
        split_train(reviews, val_share, test_share)

    shared = (reviews.sides == '').sum()
    dropped = {'reviews of a movie that has more on the other side': int(shared)}
    if dev:
        split_by_movie_for_dev(reviews)

    # a text that was trained on says nothing about new ones
    for side in 'val', 'test':
        dropped[f'{side} reviews that are in train word for word'] = drop_repeats(reviews, side)
    if imdb and not dev:
        draw_val_from_test(reviews)
    return dropped


def check_splits(reviews):
    """Every class must be in train, and no split empty."""
    in_train = reviews.labels[reviews.sides == 'train']
    for i, class_name in enumerate(reviews.classes):
        of_class = in_train[:, i] if label_sep else in_train == i
        if not of_class.any():
            fail(f'{source}: train has no review of class {class_name!r}')
    for side in SPLITS:
        if side not in reviews.sides:
            fail(f'{source}: no reviews are left for {side}, of {len(reviews.sides):,} in all; try '
                 'other --val_frac and --test_frac')


def write_npy_header(file, total):
    """The header that np.save gives a uint32 array of this length, always as many bytes."""
    header = {'descr': '<u4', 'fortran_order': False, 'shape': (total,)}
    np.lib.format.write_array_header_1_0(file, header)


def tokenize(texts, enc, path):
    """Write the tokens of an iterator of lists of texts to path, a .npy of uint32 [total].

    They are written as they come. An empty text is one end-of-text. Returns the offsets, uint64
    [reviews + 1], and the tokens' sha256.
    """
    offsets = [0]
    sha256 = hashlib.sha256()
    with open(path, 'wb') as file:
        write_npy_header(file, 0)  # to be replaced by one of the same length, with the total
        for batch in texts:
            for tokens in enc.encode_ordinary_batch(batch, num_threads=os.cpu_count() or 1):
                content = np.array(tokens or [enc.eot_token], '<u4').tobytes()
                sha256.update(content)
                file.write(content)
                offsets.append(offsets[-1] + len(content) // 4)
        file.seek(0)
        write_npy_header(file, offsets[-1])
    return np.array(offsets, np.uint64), sha256.hexdigest()


def write_split(folder, side, reviews, enc):
    """Write the arrays of a split -> ({column: array}, all but the tokens; {file: sha256})."""
    rows = np.flatnonzero(reviews.sides == side)
    texts = batches(reviews.fetch, reviews.source_rows[rows].tolist(), 'tokenize')
    file = f'{side}_tokens.npy'
    offsets, tokens_sha256 = tokenize(texts, enc, folder / file)
    checksums = {file: tokens_sha256}
    columns = {'offsets': offsets, 'labels': reviews.labels[rows]}
    if reviews.groups is not None:
        columns['groups'] = reviews.groups[rows]
    for column, array in columns.items():
        file = f'{side}_{column}.npy'
        np.save(folder / file, array)
        checksums[file] = hashlib.sha256(array).hexdigest()
    return columns, checksums


def write_unlabelled(folder, rows, fetch, enc):
    """Write the arrays of the unlabelled texts -> what meta.json says of them."""
    files = 'unlabelled_tokens.npy', 'unlabelled_offsets.npy'
    texts = batches(fetch, rows, 'tokenize')
    offsets, tokens_sha256 = tokenize(texts, enc, folder / files[0])
    np.save(folder / files[1], offsets)
    checksums = tokens_sha256, hashlib.sha256(offsets).hexdigest()
    return {'source': unlabelled, 'rows': len(rows), 'tokens': int(offsets[-1]),
            'sha256': dict(zip(files, checksums))}


def count_split(columns):
    return {'rows': len(columns['labels']), 'tokens': int(columns['offsets'][-1])}


def count_shared_groups(columns):
    """{'train/val': how many groups are in both, or None where the source knows no groups, ...}"""
    shared = {}
    for a, b in ('train', 'val'), ('train', 'test'), ('val', 'test'):
        if 'groups' in columns[a]:
            shared[f'{a}/{b}'] = len(np.intersect1d(columns[a]['groups'], columns[b]['groups']))
        else:
            shared[f'{a}/{b}'] = None
    return shared


def write_data_set(folder, reviews, dropped, more=None, commit=None):
    """Write the arrays and meta.json -> (meta, {split: {column: array}}). more: rows and fetch of
    unlabelled texts. commit: that of the source, on the hub."""
    enc = tokenizer(encoding)
    columns = {}
    checksums = {}
    with replacing_folder(folder) as new:
        for side in SPLITS:
            columns[side], checksums_of_split = write_split(new, side, reviews, enc)
            checksums.update(checksums_of_split)
        meta = {
            'version': FORMAT_VERSION,
            'name': folder.name,
            'source': source,
            'fingerprint': reviews.fingerprint,
            'tokenizer': {'name': encoding, 'sha256': table_sha256(enc._mergeable_ranks)},
            'vocab_size': enc.n_vocab,
            'classes': reviews.classes,
            'splits': {side: count_split(columns[side]) for side in SPLITS},
            'dropped': dropped,
            'shared_groups': count_shared_groups(columns),
            'seed': seed,
            'sha256': checksums,
        }
        if commit:
            meta['commit'] = commit
        if more:
            meta['unlabelled'] = write_unlabelled(new, *more, enc)
        write_json(new / 'meta.json', meta)
    return meta, columns


def print_table(folder, meta, columns, group_word):
    """group_word: what the source's groups are, in the plural."""
    classes = ', '.join(meta['classes']) or 'no classes'
    print(f'{folder}: {classes}; tokens of {encoding}')
    print(f'{"":6}{"reviews":>10}{"tokens":>13}{group_word:>9}   over {block_size} tokens')
    for side in SPLITS:
        counts = meta['splits'][side]
        n_groups = len(np.unique(columns[side].get('groups', ())))
        longer = (np.diff(columns[side]['offsets']) > block_size).sum()
        print(f'{side:6}{counts["rows"]:10,}{counts["tokens"]:13,}{n_groups:9,}{longer:9,}')

    if 'unlabelled' in meta:
        counts = meta['unlabelled']
        print(f'unlabelled: {counts["rows"]:,} texts, {counts["tokens"]:,} tokens')
    for reason, count in meta['dropped'].items():
        if count:
            print(f'dropped: {count:,} {reason}')
    shared = meta['shared_groups']
    if 'groups' in columns['train']:
        pairs = ', '.join(f'{pair} {count:,}' for pair, count in shared.items())
        print(f'{group_word} in both: {pairs}')
    if shared['train/val'] or shared['train/test']:
        print(f'warning: the files share {group_word}, so val or test look better than they are')


def main(cache):
    """cache: a folder for what is read of files, so that their texts need not fit into memory."""
    is_folder = Path(source).is_dir()
    in_folders = is_folder and not holds_imdb(Path(source))
    imdb = source == 'imdb' or is_archive(source) or (is_folder and not in_folders)
    folder = data_set_folder(imdb)
    if not label and (imdb or source == 'sample' or label_sep):
        fail('an empty --label goes with a file of your own, and without --label_sep')
    if in_folders and (group or label_sep or val_source or test_source):
        fail(f'{source} is a folder: its classes are the folders in it, and it has no columns for '
             '--group or --label_sep, nor files for --val_source and --test_source')
    if source.startswith('hub:') and (val_source or test_source):
        fail('--val_source and --test_source go with files; of the hub, see --val_split and '
             '--test_split')
    if imdb and (val_source or test_source):
        fail('--val_source and --test_source go with a file of your own; '
             'the split of IMDB is official')

    commit = None
    if source == 'imdb':
        raw = load_imdb_hub()
    elif source.startswith('hub:'):
        raw, commit = read_hub(cache)
    elif imdb:
        raw = read_archive(Path(source))
    elif in_folders:
        raw = read_folders(Path(source))
    else:
        raw = read_files(cache)
    reviews = put_in_order(raw)
    dropped = raw.dropped | split_reviews(reviews, imdb)
    check_splits(reviews)
    more = None
    if unlabelled:
        n_texts, fetch = read_unlabelled(cache)
        rows, n_dropped = drop_held_out(n_texts, fetch, reviews)
        dropped['unlabelled texts that are in val or test word for word'] = n_dropped
        more = rows, fetch

    # whatever is wrong with the source has ended the program before the longest part
    meta, columns = write_data_set(folder, reviews, dropped, more, commit)
    print_table(folder, meta, columns, 'movies' if imdb or source == 'sample' else 'groups')


if __name__ == '__main__':
    configure(globals())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is half-written goes
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
            main(cache)
    except KeyboardInterrupt:
        print('\nstopped; nothing was written', file=sys.stderr)
        sys.exit(130)
