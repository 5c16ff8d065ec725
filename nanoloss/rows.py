"""Rows of a source -> rows in canonical order, with numbered labels and texts on disk.

Notable:
- Rows are sorted by the hash of label and text, so their order in the source is irrelevant.
- Texts stay on disk; memory holds a few hundred bytes per row.
- Labels that pandas has written are restored: 2.0 is 2, "['a', 'b']" is a list.
"""
import ast
import hashlib
import json
import re
import tempfile
from array import array
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from nanoloss.settings import fail
from nanoloss.sources import SOURCES, columns_of, split_names, unlabelled_texts

MAX_CLASSES = 65_535
BATCH = 2000  # texts in memory at once
FLOAT = re.compile(r'(-?\d+)\.0+')
# an entry of a list as Python and numpy write it
ENTRY = re.compile(r"""u?'(?:[^'\\]|\\.)*'|u?"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d*)?""", re.DOTALL)
MAX_LIST = 10_000  # characters of a cell that may be a list
TRUE = '1', '1.0', 'true'
FALSE = '0', '0.0', 'false'
# white space and the tags of formatted text; <int> in a program is no tag
TAGS = ('a abbr article b big blockquote body br center cite code dd del div dl dt em font h1 h2 '
        'h3 h4 h5 h6 head header hr html i img ins li main mark ol p pre q s section small span '
        'strike strong sub sup table tbody td th thead tr tt u ul').split()
LAYOUT = re.compile(rf'\s+|</?(?:{"|".join(TAGS)})(?:\s[^<>]*)?/?>', re.IGNORECASE)


# Texts

class TextStore:
    """Texts on disk, in an unnamed file, which the system removes even after a kill."""

    def __init__(self):
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the store)
        self.ends = array('Q', [0])

    def __len__(self):
        return len(self.ends) - 1

    def append(self, text):
        content = text.encode()
        try:
            self.file.write(content)
        except OSError as error:
            fail(f'{tempfile.gettempdir()}: cannot be written: {error}; TMPDIR chooses another '
                 'folder')
        self.ends.append(self.ends[-1] + len(content))

    def read(self, rows):
        """The texts of these rows, a list."""
        texts = []
        for row in rows:
            self.file.seek(self.ends[row])
            texts.append(self.file.read(self.ends[row + 1] - self.ends[row]).decode())
        return texts


def in_batches(rows):
    """Yield lists of at most BATCH rows, so that only their texts are in memory."""
    for begin in tqdm(range(0, len(rows), BATCH), unit_scale=BATCH, leave=False, disable=None):
        yield rows[begin:begin + BATCH]


def digest_of(text):
    """A hash of the text without its layout: white space and tags."""
    return hashlib.sha256(LAYOUT.sub('', text).encode()).digest()


def exact_digest_of(text):
    """A hash of the exact text: for IMDB, of which only exact copies are dropped."""
    return hashlib.sha256(text.encode()).digest()


# From cells to labels

def undo_floats(names):
    """{name: what it was before pandas read it}.

    In a column of integers with missing values, pandas turns 2 into 2.0 and a missing value into
    nan. Nothing changes unless every name has that form."""
    numbers = {name for name in names if name and name.lower() != 'nan'}
    originals = {FLOAT.sub(r'\1', name) for name in numbers}
    are_floats = numbers and all(FLOAT.fullmatch(name) for name in numbers)
    if not are_floats or len(originals) < len(numbers):  # 1.0 and 1.00 are two names
        return {name: name for name in names}
    return {name: FLOAT.sub(r'\1', name) if name in numbers else '' for name in names}


def clean_names(cells, wheres):
    """The cells of a column of labels or groups -> stripped strings, '' for a missing one.

    wheres: the file of each cell: floats are undone per file, since pandas writes one at a time."""
    names = [str(cell).strip() if cell is not None else '' for cell in cells]
    of_files = {where: set() for where in set(wheres)}
    for name, where in zip(names, wheres):
        of_files[where].add(name)
    originals = {where: undo_floats(found) for where, found in of_files.items()}
    return [originals[where][name] for name, where in zip(names, wheres)]


def read_list(cell):
    """A list as Python, pandas, numpy, JSON or Postgres writes it, such as ['a', 'b'] -> its
    entries. None if the cell has no brackets around it or is too long for a list. Raises ValueError
    or SyntaxError if what is in the brackets is no list."""
    cell = cell.strip()
    if cell[:1] + cell[-1:] not in ('[]', '()', '{}') or len(cell) > MAX_LIST:
        return None
    try:
        entries = json.loads(cell)
        if isinstance(entries, list):
            return [str(entry) for entry in entries]
    except ValueError:
        pass
    body = cell[1:-1]
    if not re.sub(r'[\s,]', '', ENTRY.sub('', body)):
        return [str(ast.literal_eval(entry)) for entry in ENTRY.findall(body)]
    if cell[0] == '{' and not re.search('[\'":]', body):
        return body.split(',')
    raise ValueError(f'{cell[:100]!r} is no list that can be read, such as [\'a\', \'b\']')


def label_sets(cells, columns, label_sep, place):
    """The labels of each row if a row may have several: a list of lists of names, with None for a
    row whose labels are missing. None if each row has one label.

    cells: `Row.label` of each row. columns: the names of the label columns. place: a function from
    an index of cells to the name of that row in messages.
    """
    if len(columns) > 1:
        return [marked_columns(cell, columns, place(i)) for i, cell in enumerate(cells)]
    lists = read_lists(cells, place)
    if lists is not None:
        check_names(lists, place)
        return lists
    if label_sep:
        return [None if cell is None else cell.split(label_sep) for cell in cells]
    return None


def read_lists(cells, place):
    """Cells that are lists, or hold one as text -> a list or None for each; None if no cell is a
    list. Fails if some labels are lists and others are not."""
    lists = []
    unreadable = {}  # {row: message} of cells in brackets
    for i, cell in enumerate(cells):
        found = cell
        if isinstance(cell, str):
            try:
                found = read_list(cell)
            except (ValueError, SyntaxError) as error:
                found = None
                unreadable[i] = str(error)
        lists.append(found)

    filled = [i for i, cell in enumerate(cells) if cell]
    if not any(found is not None for found in lists):
        # names in brackets, such as [deleted], unless all labels are in brackets and one of them
        # has the punctuation of a list
        if len(unreadable) == len(filled):
            for i, message in unreadable.items():
                if re.search('[,\'"]', cells[i]):
                    fail(f'{place(i)}: {message}')
        return None
    for i in filled:
        if lists[i] is None:
            shown = repr(cells[i][:100])
            fail(f'{place(i)}: the label {shown} is not a list, but those of other rows are')
    return lists


def check_names(lists, place):
    """Fail if the lists of labels hold 0 or 1 for each class instead of names."""
    filled = [(i, names) for i, names in enumerate(lists) if names]
    lengths = {len(names) for _, names in filled}
    if lengths and max(lengths) > 1 and len(lengths) == 1:
        marks = all(name.lower() in TRUE + FALSE for _, names in filled for name in names)
        repeated = any(len(set(names)) < len(names) for _, names in filled)
        if marks and repeated:
            fail(f'{place(filled[0][0])}: the labels are lists of 0 and 1; wanted lists of names, '
                 'or a column of 0 and 1 for each label (--label=rude,threat)')


def marked_columns(cells, columns, place):
    """The cells of a row, 0 or 1 for each column -> the names of the columns with 1."""
    names = []
    for cell, column in zip(cells, columns):
        mark = str(cell).lower()
        if mark in TRUE:
            names.append(column)
        elif mark not in FALSE:
            fail(f'{place}: {column!r} is {cell!r}, wanted 0 or 1 in each of the columns of labels')
    return names


def name_labels(cells, columns, label_sep, wheres, place):
    """The label cells of all rows -> for each row a string or, if a row may have several labels, a
    sorted tuple of strings; '' if the label is missing. Arguments: see `label_sets` and
    `clean_names`."""
    sets = label_sets(cells, columns, label_sep, place)
    if sets is None:
        return clean_names(cells, wheres)
    stripped = [[name.strip() for name in names or ()] for names in sets]
    original = undo_floats({name for names in stripped for name in names})
    labels = []
    for names, found in zip(stripped, sets):
        label = tuple(sorted({original[name] for name in names} - {''}))
        labels.append('' if found is None else label)
    return labels


def integers_first(class_name):
    """Sort key: integers by their value, then all other names as text."""
    if re.fullmatch(r'-?\d{1,1000}', class_name):
        return 0, int(class_name), class_name
    return 1, 0, class_name


def number_labels(names, config):
    """Names of labels, a string per row or, if a row may have several, a tuple of strings -> the
    names of the classes, and the labels: uint8 (over 255 classes: uint16) [rows], or 0 and 1
    [rows, classes]. Fails if there are too few or too many classes."""
    if not config.label:
        return [], np.zeros(len(names), np.uint8)
    several = isinstance(names[0], tuple)
    distinct = set().union(*names) if several else set(names)
    if config.source != 'sample' and len(split_names(config.label)) > 1:
        distinct = set(split_names(config.label))  # also those that no text has
    classes = sorted(distinct, key=integers_first)
    if not 2 <= len(classes) <= MAX_CLASSES:
        fail(f'{config.source}: {config.label!r} has {len(classes):,} classes, wanted 2 to '
             f'{MAX_CLASSES:,}: {", ".join(classes[:5])}')

    number = {class_name: i for i, class_name in enumerate(classes)}
    if not several:
        dtype = np.uint8 if len(classes) <= 255 else np.uint16
        return classes, np.array([number[name] for name in names], dtype)
    labels = np.zeros((len(names), len(classes)), np.uint8)
    for row, names_of_row in zip(labels, names):
        row[[number[name] for name in names_of_row]] = 1
    return classes, labels


# From the source to rows in order

@dataclass
class RawRows:
    """The rows in the order of the source, each field with one entry per row."""
    sides: list  # 'train', 'val' or 'test'
    cells: list  # labels, see `Row.label`
    groups: list  # the number of the movie, a cell, or None
    digests: list  # hash of the text
    empty: list  # indices of the rows with an empty text; not one entry per row
    wheres: list  # for messages, see `Row`
    numbers: array

    def place(self, i):
        """The name of row i in messages: its file and line."""
        return f'{self.wheres[i]} {self.numbers[i]}'


def read(rows, texts, hash_text):
    """Read an iterator of `Row` -> `RawRows`. texts: the `TextStore` that the texts go into.
    hash_text: `digest_of` or `exact_digest_of`."""
    raw = RawRows([], [], [], [], [], [], array('Q'))
    for row in tqdm(rows, 'read', unit=' texts', leave=False, disable=None):
        if not row.text.strip():
            raw.empty.append(len(texts))
        texts.append(row.text)
        raw.sides.append(row.side)
        raw.cells.append(row.label)
        raw.groups.append(row.group)
        raw.digests.append(hash_text(row.text))
        raw.wheres.append(row.where)
        raw.numbers.append(row.number)
    return raw


@dataclass
class Rows:
    """The rows in canonical order, independent of that of the source. Their texts are in a
    `TextStore`."""
    sides: np.ndarray  # str [rows]: 'train', 'val', 'test', or '' for a dropped row
    labels: np.ndarray  # see `number_labels`
    classes: list  # names, in the order of their numbers
    groups: np.ndarray  # uint32 [rows], or None if the source has no groups
    keys: list  # hash of label and text
    digests: list  # hash of the text: rows with the same hash have equal texts
    fingerprint: str  # hash of the sides in the source and the keys of all rows
    stored: np.ndarray  # int [rows]: index of their texts in the TextStore


def leave_out(raw, config, labels, groups):
    """Which rows can be used, bool [rows], and {reason: count} of the others.

    A row without a label is useless, one without a group could leak. labels, groups: a name per
    row, '' if it is missing; or [] if there are none at all."""
    usable = np.ones(len(raw.sides), bool)
    dropped = {}
    for names, column in (labels, config.label), (groups, config.group):
        missing = [i for i, name in enumerate(names) if name == '']
        if missing:
            what = f'texts without {column!r}, the first in {raw.place(missing[0])}'
            if config.strict:
                fail(f'{len(missing):,} {what}')
            dropped[what] = len(missing)
            usable[missing] = False
    if raw.empty and config.strict:
        fail(f'{len(raw.empty):,} empty texts, the first in {raw.place(raw.empty[0])}')

    sides = np.array(raw.sides)
    for side in np.unique(sides):
        of_side = np.flatnonzero(sides == side)
        if labels and not any(labels[i] for i in of_side):  # several per text, but all empty
            dropped.setdefault(f'texts without {config.label!r}', len(of_side))
            usable[of_side] = False
        if not usable[of_side].any():
            way_out = '' if side == 'train' else f'; without it, {side} is cut out of train'
            fail(f'{config.source}: none of the {len(of_side):,} texts of {side} can be '
                 f'used: {"; ".join(dropped)}{way_out}')
    return usable, dropped


def put_in_order(raw, config, labels, groups, usable, texts):
    """The usable rows -> `Rows`, sorted by side, by hash of label and text, and by group.

    labels: a name or a tuple of names per row. groups: a name or number per row, or []."""
    rows = np.flatnonzero(usable).tolist()
    group_of = dict.fromkeys(rows, 0)
    if groups and isinstance(groups[0], str):
        # numbered in the order of their names, so that the order of the rows is irrelevant
        number = {name: k for k, name in enumerate(sorted({groups[i] for i in rows}))}
        group_of = {i: number[groups[i]] for i in rows}
    elif groups:
        group_of = {i: groups[i] for i in rows}
    joined = {}
    for i in rows:
        joined[i] = labels[i]
        if isinstance(labels[i], tuple):
            joined[i] = (config.label_sep or ';').join(labels[i])
    keys = {}
    for some in in_batches(rows):
        for i, text in zip(some, texts.read(some)):
            labelled = f'{joined[i]}\0{text}'
            keys[i] = hashlib.sha256(labelled.encode()).hexdigest()[:32]

    order = sorted(rows, key=lambda i: (raw.sides[i], keys[i], group_of[i]))
    classes, numbers = number_labels([labels[i] for i in order], config)
    sides = [raw.sides[i] for i in order]
    keys = [keys[i] for i in order]
    return Rows(
        sides=np.array(sides, '<U5'),
        labels=numbers,
        classes=classes,
        groups=np.array([group_of[i] for i in order], np.uint32) if groups else None,
        keys=keys,
        digests=[raw.digests[i] for i in order],
        fingerprint=hashlib.sha256(' '.join(sides + keys).encode()).hexdigest(),
        stored=np.array(order))


def read_source(config, kind, texts):
    """Read the source -> `Rows`, {reason: number of rows or files left out}, the number of empty
    texts, and the source's commit on the hub. texts: the `TextStore` that the texts go into."""
    imdb = kind in ('imdb', 'archive')
    source = SOURCES[kind](config)
    raw = read(source.rows, texts, exact_digest_of if imdb else digest_of)
    if not raw.sides:
        fail(f'{config.source}: there is no text in it')

    labels = raw.cells
    _, label_columns, group_columns = columns_of(config)
    if kind not in ('imdb', 'archive', 'folders') and label_columns:
        labels = name_labels(raw.cells, label_columns, config.label_sep, raw.wheres, raw.place)
    groups = []
    if group_columns and not imdb:
        groups = clean_names(raw.groups, raw.wheres)
    elif raw.groups[0] is not None:
        groups = raw.groups  # movies
    usable, dropped = leave_out(raw, config, labels if label_columns else [], groups)
    rows = put_in_order(raw, config, labels, groups, usable, texts)
    return rows, source.not_read | dropped, len(raw.empty), source.commit


# Texts without labels

def unlabelled_rows(config, rows, texts, store):
    """Read the unlabelled texts into store, a `TextStore` -> the indices of those that are not in
    val or test, in canonical order; the number of those that are; the number of empty texts.

    rows, texts: the labelled `Rows` and their `TextStore`."""
    held_out = np.flatnonzero(np.isin(rows.sides, ('val', 'test')))
    known = set()
    for some in in_batches(rows.stored[held_out].tolist()):
        known.update(map(digest_of, texts.read(some)))
    found = []  # (hash, index in store)
    n_empty = 0
    for text in tqdm(unlabelled_texts(config), 'read', unit=' texts', leave=False, disable=None):
        n_empty += not text.strip()
        if digest_of(text) not in known:
            found.append((exact_digest_of(text), len(store)))
        store.append(text)
    if not found:
        fail(f'{config.unlabelled}: all of its texts are in val or test')
    if n_empty and config.strict:
        fail(f'{config.unlabelled}: {n_empty:,} of its texts are empty')
    return [row for _, row in sorted(found)], len(store) - len(found), n_empty
