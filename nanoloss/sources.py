"""Sources -> rows of text and label: IMDB, files, folders of text files, data sets of the hub.

Each source in `SOURCES` is a function from the settings of prepare.py to a `Source`. Rows are
yielded one at a time; `TextStore` keeps their texts on disk.
"""
import glob
import os
import re
import sys
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from nanoloss.settings import fail
from nanoloss.split import SPLITS
from nanoloss.tables import (
    check_columns, clean_cell, files_of, has_surrogate, make_format, name_of, read_rows, unit_of)

HUB_SPLITS = 'train', 'validation', 'test'  # the usual names
SIDE_OF = {  # names of folders and of splits on the hub, in lower case
    'train': 'train', 'training': 'train',
    'val': 'val', 'valid': 'val', 'validation': 'val', 'dev': 'val',
    'test': 'test', 'testing': 'test',
}
# the same names within longer ones: 20news-bydate-train, my_test, Train Data
SIDE_WITHIN = re.compile(r'(?:^|[^a-z])(train|training|val|valid|validation|dev|test|testing)'
                         r'[ _-]?(?:set|data)?(?:$|[^a-z])')
MAX_BYTES = 64 * 2 ** 20  # limit of a text file
IMDB_FILE = re.compile(r'(?:^|/)(train|test)/(?:urls_(neg|pos)|(neg|pos)/(\d+)_\d+)\.txt$')
IMDB_UNLABELLED_FILE = re.compile(r'(?:^|/)train/unsup/\d+_\d+\.txt$')


class Row(NamedTuple):
    """A text as it stands in its source.

    side: its split, 'train' if the source has no splits, '' for an unlabelled text. label: a
    string, a list of strings, or None; with several columns of labels, a list of their cells.
    group: a string, a number, or None. where and number: its place, for messages, such as
    'my.csv, line' and 7.
    """
    side: str
    text: str
    label: str | list | None
    group: str | int | None
    where: str
    number: int


class Source(NamedTuple):
    """rows: an iterator of `Row`. not_read: {reason: number of files skipped}. commit: of a data
    set of the hub, '' if it is unknown."""
    rows: Iterator
    not_read: dict = {}  # noqa: RUF012 (never changed)
    commit: str = ''


# IMDB

def imdb_hub(config):
    """IMDB from the hub, which does not name the movies."""
    hub, _ = open_hub('stanfordnlp/imdb', config, 'give the archive, '
                      '--source=PATH/aclImdb_v1.tar.gz, or try --source=sample')

    def rows():
        for side in 'train', 'test':
            for number, row in enumerate(hub[side], 1):
                yield Row(side, row['text'], ('neg', 'pos')[row['label']], None,
                          f'the hub, {side}', number)
    return Source(rows())


def imdb_files(path, pattern):
    """Yield (name, text) of the files in an archive or folder whose names match the pattern. Fails
    if one cannot be read."""
    file = 'its beginning'
    try:
        for file, content in tqdm(open_files(path, pattern), 'read', unit=' files', leave=False,
                                  disable=None):
            yield file, content.decode()
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        fail(f'{path}: cannot be read past {file}: {error}')


def open_files(path, pattern):
    """Yield (name, bytes) of these files. Raises ValueError if one is too large."""
    if path.is_dir():
        for file in path.rglob('*.txt'):
            if pattern.search(file.as_posix()):
                yield file.as_posix(), read_bytes(file)
        return
    with tarfile.open(path, 'r|*') as archive:  # a stream: seeking back in .gz is slow
        for member in archive:
            if pattern.search(member.name) and member.isfile():
                check_size(member.size)
                yield member.name, archive.extractfile(member).read()


def check_size(n_bytes):
    if n_bytes > MAX_BYTES:
        raise ValueError(f'the next text has {n_bytes:,} bytes, more than {MAX_BYTES:,}')


def read_bytes(file):
    """The content of a file. Raises ValueError if it is too large for a text."""
    check_size(file.stat().st_size)
    return file.read_bytes()


def imdb_archive(config):
    """IMDB from aclImdb_v1.tar.gz, from another archive of the same layout, or from its folder.

    Line ID of urls_neg.txt or urls_pos.txt names the movie of review ID; tt0406816 becomes 406816.
    """
    path = Path(config.source)
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

    def rows():
        for (side, kind, number), text in texts.items():
            movie = movies[side, kind][number]
            yield Row(side, text, kind, movie, f'{path}, {side}/{kind}', number)
    return Source(rows())


# Files

def split_names(names):
    """A setting that names columns -> their names: title,body becomes ['title', 'body']."""
    return [name.strip() for name in names.split(',')]


def join_texts(cells):
    """The cells of the text columns -> one text, a line for each; empty cells are left out."""
    return '\n'.join(cell for cell in cells if cell)


def columns_of(config):
    """The names of the columns of texts, of labels (none if --label is empty) and of the group
    (none or one): three lists."""
    if config.source == 'sample':
        return ['review'], ['label'], ['movie']
    labels = split_names(config.label) if config.label else []
    return split_names(config.text), labels, [config.group] if config.group else []


def make_row(side, cells, columns, where, number):
    """The cells of a row -> `Row`. Fails if a text or group is a list.

    cells: of all columns, texts first, then labels, then the group. columns: see `columns_of`."""
    texts, labels, groups = columns
    n_texts = len(texts)
    for cell in [*cells[:n_texts], *cells[n_texts + len(labels):]]:
        if isinstance(cell, list):
            fail(f'{where} {number}: a text or group is a list; wanted text or a number')
    label = cells[n_texts:n_texts + len(labels)]
    if len(labels) < 2:
        label = label[0] if labels else ''
    group = cells[-1] if groups else None
    return Row(side, join_texts(cells[:n_texts]), label, group, where, number)


def files(config):
    """Tables: the source and, if they are set, val_source and test_source."""
    columns = columns_of(config)
    form = make_format(config.encoding, config.sep, config.quoting)
    train = config.source
    if train == 'sample':
        train = str(Path(__file__).parents[1] / 'data' / 'sample.csv')
    tables = []
    for side, pattern in zip(SPLITS, (train, config.val_source, config.test_source)):
        if pattern:
            tables += [(side, file) for file in files_of(pattern)]

    def rows():
        for side, file in tables:
            where = f'{file}, {unit_of(file)}'
            for number, cells in read_rows(file, sum(columns, []), form, len(columns[0]),
                                           'imdb, sample, a folder, a .tar.gz, or '):
                yield make_row(side, cells, columns, where, number)
    return Source(rows())


# Folders

def text_files(folder):
    """Walk through a folder -> its .txt files, sorted, and {reason: number of other files}. Hidden
    files and folders and __MACOSX are ignored."""
    found = []
    endings = Counter()
    seen = set()  # real paths, since links may form a cycle

    def refuse(error):
        fail(f'{folder}: cannot be read: {error}')

    for path, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = [name for name in folders if name[0] != '.' and name != '__MACOSX']
        if os.path.realpath(path) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(path))
        for name in names:
            ending = Path(name).suffix.lower()
            if ending == '.txt' and name[0] != '.':
                found.append(Path(path, name))
            elif name[0] != '.':
                endings[ending or 'no ending'] += 1
    not_read = {f'files that are not .txt ({ending})': n for ending, n in sorted(endings.items())}
    return sorted(found), not_read


def sides_of_folders(path, names):
    """The names of the folders in a source -> {name: split}, empty if the folders are classes.

    Fails if some are splits and some classes, if train is missing, or if two are the same split."""
    sides = {name: SIDE_OF[name.lower()] for name in names if name.lower() in SIDE_OF}
    within = {name: SIDE_WITHIN.search(name.lower()) for name in names}
    if not sides and all(within.values()):
        sides = {name: SIDE_OF[found[1]] for name, found in within.items()}
    classes = sorted(set(names) - set(sides))
    if sides and classes:
        fail(f'{path}: {", ".join(sorted(sides))} are names of splits and {", ".join(classes[:5])} '
             'are not; put a folder for each class into each split, or rename the folder')
    if sides and sorted(sides.values()) != sorted({'train', *sides.values()}):
        fail(f'{path}: wanted one folder for train, and at most one for val and for test, not '
             f'{", ".join(sorted(sides))}')
    return sides


def folders(config):
    """A folder of text files for each class, or a folder of such folders for each split."""
    path = Path(config.source)
    paths, not_read = text_files(path)
    if not paths:
        found = '; '.join(f'{n} {what}' for what, n in not_read.items())
        fail(f'{path}: there is no .txt file in it{", only " + found if found else ""}')
    parts = [file.relative_to(path).parts for file in paths]
    for file, names in zip(paths, parts):
        if len(names) < 2:
            fail(f'{file} is in no folder of a class')
    sides = sides_of_folders(path, {names[0] for names in parts})
    form = make_format(config.encoding, '', 'auto')

    def rows():
        for file, names in zip(paths, parts):
            side = 'train'
            *folders_of_file, _ = names
            if sides:
                side = sides[folders_of_file.pop(0)]
            if not folders_of_file:
                fail(f'{file} is in no folder of a class')
            if has_surrogate(folders_of_file[0]):
                fail(f'{ascii(str(file))}: the name of its folder is not UTF-8; rename the folder')
            yield Row(side, read_text(file, form.encoding), folders_of_file[0], None, str(file), 1)
    return Source(rows(), not_read)


def read_text(file, encoding):
    """The text of a file, without a byte-order mark."""
    try:
        text = read_bytes(file).decode(encoding).removeprefix('\ufeff')
        if '\0' in text:
            raise ValueError('it has a NUL byte, which no text may have')
        return text
    except (OSError, ValueError) as error:
        fail(f'{file}: cannot be read: {error}; see --encoding')


# The hub

def open_hub(path, config, remedy):
    """Load a data set of the hub, or a folder with the layout of one -> {split: datasets.Dataset},
    and its commit, '' if it is unknown.

    Fails within seconds if the hub is unreachable and the data set not in the cache. remedy: what
    the message advises."""
    import datasets  # takes a second, and only the hub needs it
    import huggingface_hub
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    name = config.hub_config or None
    try:
        if Path(path).is_dir():
            cache = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            folder = datasets.load_dataset(path, name, cache_dir=cache.name)
            folder.cache = cache  # so that the cache is deleted with the data set
            return folder, ''
        # load_dataset would try an unreachable hub for half a minute; offline, it uses its cache
        commit = ''
        try:
            commit = huggingface_hub.HfApi().dataset_info(
                path, revision=config.revision or None, timeout=5).sha
        except Exception:
            datasets.config.HF_HUB_OFFLINE = True
        hub = datasets.load_dataset(path, name, revision=commit or config.revision or None)
        return hub, commit
    except Exception as error:  # there are many kinds
        why = ' '.join(str(error).split())[:300]
        fail(f'cannot get {path} from the hub ({why}); {remedy}')


def hub_splits(config, known):
    """Find train, val and test among the splits of a data set of the hub -> {side: its name}. Fails
    if there is no train, or if a split that a setting names does not exist.

    known: the names of the splits on the hub."""
    splits = {}
    wanted = config.train_split, config.val_split, config.test_split
    for side, split, usual in zip(SPLITS, wanted, HUB_SPLITS):
        others = [name for name in known if SIDE_OF.get(name.lower()) == side]
        if split in known:
            splits[side] = split
        elif split == usual and len(others) == 1:  # such as dev or Test
            splits[side] = others[0]
        elif side == 'train' or split not in ('', usual) or (split and others):
            fail(f'{config.source} has no split {split!r}, only {", ".join(map(repr, known))}; '
                 'see --train_split, --val_split and --test_split')
    return splits


def hub(config):
    """Any data set of the hub."""
    splits_of_hub, commit = open_hub(config.source.removeprefix('hub:'), config,
                                     'give files of it, --source=PATH')
    columns = columns_of(config)
    splits = hub_splits(config, list(splits_of_hub))
    for split in splits.values():
        check_columns(f'{config.source}, {split}', sum(columns, []),
                      splits_of_hub[split].features)

    def rows():
        for side, split in splits.items():
            where = f'{config.source}, {split}, row'
            features = splits_of_hub[split].features
            for number, row in enumerate(splits_of_hub[split], 1):
                cells = []
                for column in sum(columns, []):
                    value = class_names(row[column], features[column])
                    cells.append(clean_cell(value, f'{where} {number}', column))
                yield make_row(side, cells, columns, where, number)
    return Source(rows(), commit=commit)


def class_names(value, feature):
    """A value of the hub -> the value or, if the feature numbers its classes, their names."""
    of_list = getattr(feature, 'feature', None)  # the feature of a list's entries
    if hasattr(of_list, 'names') and value is not None:
        return [of_list.names[y] for y in value]
    if hasattr(feature, 'names'):  # -1 is a missing label
        return feature.names[value] if value is not None and value >= 0 else None
    return value


# Which source it is

SOURCES = {'imdb': imdb_hub, 'archive': imdb_archive, 'sample': files, 'files': files,
           'folders': folders, 'hub': hub}


def is_archive(path):
    return bool(re.search(r'\.(tgz|tar(\.\w+)?)$', path))


def holds_imdb(folder):
    """Whether a folder has a file named like those of IMDB."""
    return any(IMDB_FILE.search(file.as_posix()) for file in folder.rglob('*.txt'))


def kind_of_source(source):
    """--source -> a name in SOURCES."""
    if source in ('imdb', 'sample'):
        return source
    if source.startswith('hub:'):
        return 'hub'
    if is_archive(source):
        return 'archive'
    if Path(source).is_dir():
        return 'archive' if holds_imdb(Path(source)) else 'folders'
    return 'files'


def default_name(source, kind):
    """The name of a source's data set if --name is empty. Fails if the source suggests none."""
    if kind in ('imdb', 'archive'):
        return 'imdb'
    if source == '-' or (glob.has_magic(source) and not Path(source).exists()):
        fail(f'--source={source} suggests no name for the data set; choose one with --name=')
    return name_of(source.removeprefix('hub:'))


# Texts without labels

def unlabelled_texts(config):
    """Yield the texts of --unlabelled."""
    path = Path(config.unlabelled)
    if config.unlabelled == 'imdb':
        unlabelled, _ = open_hub('stanfordnlp/imdb', config, 'give the archive')
        yield from unlabelled['unsupervised']['text']
    elif path.is_dir() or is_archive(config.unlabelled):
        n_texts = 0
        for _, text in imdb_files(path, IMDB_UNLABELLED_FILE):
            n_texts += 1
            yield text
        if not n_texts:
            fail(f'{path}: there is no text in train/unsup')
    else:
        columns = split_names(config.text)
        form = make_format(config.encoding, config.sep, config.quoting)
        for file in files_of(config.unlabelled):
            for number, cells in read_rows(file, columns, form, len(columns)):
                yield make_row('', cells, (columns, [], []), file, number).text
