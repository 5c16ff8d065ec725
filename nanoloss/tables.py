"""Read rows of a table: CSV, TSV, JSON, JSON lines or parquet, also as .gz or .zst or from stdin.

    for number, (text, label) in read_rows('my.csv', ['text', 'label']):

Notable:
- Rows are read one after another, so a file may be larger than memory.
- A file that cannot be read as intended, down to its last line, ends in `fail`.
- If a text of a CSV file begins with a quotation mark of its own, and a later text ends with one,
  csv.reader takes everything between them for one cell and swallows the rows there.
  `SwallowedRows` detects such a cell: its lines look like rows.
"""
import csv
import glob
import gzip
import io
import json
import math
import re
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from nanoloss.settings import fail

KINDS = 'csv', 'tsv', 'json', 'jsonl', 'parquet'
SPREADSHEETS = 'xlsx', 'xls', 'xlsm', 'ods', 'numbers'
PACKED = '.gz', '.zst'
MAX_CHARS = 64 * 2 ** 20  # limit of a line, and of a row of several lines
PER_LINE = 60  # overhead of a line, a string, counted like characters
MAX_VALUES = 100_000  # distinct values of a column kept to recognise a swallowed row
# Quotation marks in CSV and TSV. auto: a cell may be quoted, with the marks within it doubled;
# minimal: the same, without the check for swallowed rows; none: quotation marks are text.
QUOTING = 'auto', 'minimal', 'none'


class Format(NamedTuple):
    """How a file is written. encoding: of its bytes. sep: between the cells of a CSV file ('': by
    the file's ending). quoting: a name in QUOTING."""
    encoding: str = 'utf-8'
    sep: str = ''
    quoting: str = 'auto'


DEFAULT = Format()


def make_format(encoding, sep, quoting):
    """Settings of a script -> `Format`. Fails if a value is invalid."""
    try:
        ''.encode(encoding)
    except (LookupError, UnicodeError):
        fail(f'--encoding={encoding}: no such encoding of a file; try utf-8, utf-16 or cp1252 '
             '(prepare.py --tokenizer= chooses the tokens)')
    sep = {'\\t': '\t', 'tab': '\t'}.get(sep, sep)
    if len(sep) > 1 or sep in ('"', '\n', '\r'):
        fail(f'--sep={sep!r}: wanted one character, such as ; or | or tab')
    if quoting not in QUOTING:
        fail(f'--quoting={quoting}: wanted {", ".join(QUOTING)}')
    return Format(encoding, sep, quoting)


def files_of(pattern):
    """The files that a path or pattern names: the path itself or, if it has * ? or [ in it and does
    not exist, all files that match, sorted by name."""
    if pattern == '-' or Path(pattern).exists() or not glob.has_magic(pattern):
        return [pattern]
    # a broken link stays in the list: without it, the data set would be silently smaller
    files = sorted(file for file in glob.glob(pattern, recursive=True) if not Path(file).is_dir())
    if not files:
        fail(f'{pattern}: no file matches')
    return files


def name_of(path):
    """A file's name without its endings: my for my.csv.gz."""
    path = Path(path)
    return Path(path.stem).stem if path.suffix.lower() in PACKED else path.stem


def kind_of(path, form, others=''):
    """The kind of a file by its ending, a name in KINDS. Fails if there is none.

    others: further sources that the script accepts, for the message."""
    if str(path) == '-':
        return 'csv' if form.sep else 'jsonl'
    packed = path.suffix.lower() in PACKED
    kind = (Path(path.stem).suffix if packed else path.suffix)[1:].lower()
    if kind in SPREADSHEETS:
        fail(f'{path} is a spreadsheet; save it as CSV (in Excel: File, Save As, CSV UTF-8) and '
             'give that file')
    if kind in ('txt', 'dat') and form.sep:
        return 'csv'
    if kind not in KINDS:
        missing = '' if path.exists() else 'there is no such file or folder; '
        fail(f'{path}: {missing}wanted {others}a .csv, .tsv, .json, .jsonl or .parquet file')
    return kind


def check_columns(path, columns, known):
    """Fail if the file lacks one of these columns."""
    for column in sorted(set(columns) - set(known)):
        shown = ', '.join(map(repr, list(known)[:20]))
        hint = 'see --text, --label, --group'
        if len(known) == 1 and re.search(r'[;\t|]', *known):
            hint = 'see --sep'
        fail(f'{path}: no column {column!r}, only {shown}; {hint}')


# Lines

def has_surrogate(text):
    """Whether a string holds half of a character, which no encoding can write."""
    return not text.isascii() and bool(re.search('[\ud800-\udfff]', text))


class Lines:
    """An iterator over the lines of an open text file, each checked. They keep their line ends.

    number: of the last line read, from 1. row: the lines since the last call of `begin_row`.
    Raises ValueError if a line is not in the encoding, has a NUL byte or is too long.
    """

    def __init__(self, file, encoding):
        self.file = file
        self.encoding = encoding
        self.number = 0
        self.begin_row()

    def begin_row(self):
        self.row = []
        self.n_chars = 0

    def __iter__(self):
        return self

    def __next__(self):
        try:
            line = self.file.readline(MAX_CHARS + 1)
        except UnicodeError as error:
            raise self.undecodable(f'the text after line {self.number}') from error
        if not line:
            raise StopIteration
        if self.number == 0:
            line = line.removeprefix('\ufeff')  # a byte-order mark is not part of a cell
        self.number += 1
        self.row.append(line)
        self.n_chars += len(line) + PER_LINE
        if self.n_chars > MAX_CHARS:
            raise ValueError(f'line {self.number}: a line or row has more than 64 million '
                             'characters')
        # with errors='surrogateescape' a byte that is not in the encoding becomes a surrogate
        if has_surrogate(line):
            raise self.undecodable(f'line {self.number}')
        if '\0' in line:
            raise ValueError(f'line {self.number} has a NUL byte, which no text may have; if the '
                             'file is UTF-16, add --encoding=utf-16')
        return line

    def undecodable(self, where):
        return ValueError(f'{where} is not {self.encoding.upper()}; save the file as UTF-8, or '
                          'name its encoding, such as --encoding=cp1252 or --encoding=utf-16')


def open_bytes(path):
    """Open a file, unpacked if it ends in .gz or .zst, or stdin for -."""
    if str(path) == '-':
        return sys.stdin.buffer
    if path.suffix.lower() == '.gz':
        return gzip.open(path)
    if path.suffix.lower() == '.zst':
        import pyarrow
        return pyarrow.input_stream(str(path), compression='zstd')
    return open(path, 'rb')


# CSV and TSV

def csv_rows(lines, columns, n_texts, sep, quoting, path):
    """Yield (line number, cells of the columns) for each row; each cell is a string, unchanged.

    The first n_texts columns are texts. Raises ValueError if a row has more or fewer cells than the
    header, or quotation marks that would be lost."""
    csv.field_size_limit(MAX_CHARS)
    mode = csv.QUOTE_NONE if quoting == 'none' else csv.QUOTE_MINIMAL
    reader = csv.reader(lines, delimiter=sep, strict=True, quoting=mode)
    header = None
    begin = 1
    try:
        for cells in reader:
            raw = lines.row
            if header is None:
                header = [cell.strip() for cell in cells]
                places = column_places(path, columns, header)
                swallowed = SwallowedRows(sep, header, places, n_texts)
            elif cells or len(header) == 1:  # with several columns, a blank line is no row
                cells = cells or ['']
                check_row(cells, header, begin)
                if quoting == 'auto':
                    check_spaces(cells, raw, begin)
                swallowed.add(begin, cells, raw)
                yield begin, [cells[place] for place in places]
            begin = lines.number + 1
            lines.begin_row()
    except csv.Error as error:
        raise ValueError(csv_mistake(str(error), begin, lines)) from None
    if header and quoting == 'auto':
        swallowed.check()


def check_row(cells, header, line):
    """Check a row that begins in this line. Raises ValueError if it does not have one cell for each
    column, or is the header."""
    if len(cells) != len(header):
        where = f'line {line}'
        if len(cells) < len(header):
            where += f' (or the text of line {line - 1}, if it is broken there)'
        raise ValueError(f'{where} has {len(cells)} cells, the header has {len(header)}; a text '
                         'with a separator or line break in it needs quotation marks around it')
    if len(header) > 1 and [cell.strip('\ufeff ') for cell in cells] == header:
        raise ValueError(f'line {line} is the header again; give several files by a pattern')


def check_spaces(cells, lines, line):
    """Raises ValueError if a space stands before a quoted cell, as in a, "b, c": csv.reader then
    takes the quotation marks for text."""
    for cell in cells:
        # in a quoted cell, the raw line would have these marks doubled
        if re.match(r'\s+"', cell) and cell.rstrip().endswith('"') and cell in ''.join(lines):
            raise ValueError(f'line {line}: a space stands before a quotation mark; remove it, or '
                             '--quoting=minimal, if both are part of the text')


def column_places(path, columns, header):
    """The indices of the columns in the header. Fails if one is missing or occurs twice."""
    check_columns(path, columns, header)
    for column in columns:
        if header.count(column) > 1:
            fail(f'{path}: {header.count(column)} columns are named {column!r}')
    return [header.index(column) for column in columns]


def csv_mistake(message, begin, lines):
    """The message of csv.reader about a row -> one that says what to do."""
    remedy = '--quoting=none, if quotation marks are part of the texts'
    if any('\\"' in line for line in lines.row[:1000]):
        remedy = 'CSV doubles a quotation mark within a cell, and does not write \\"'
    if 'expected after' in message:
        where = f'line {lines.number}'
        if lines.number > begin:
            where += f', in a cell that begins in line {begin}'
        return (f'{where}: a closing quotation mark must be followed by a separator or the end of '
                f'the line; {remedy}')
    if 'end of data' in message:
        return f'line {begin}: a cell begins with a quotation mark that is never closed; {remedy}'
    return f'line {begin}: {message}'


class SwallowedRows:
    """Detects quoted cells that are probably several rows.

    A line looks like a row if it has as many separators as the header. A cell of which 80 % of the
    lines, and at least two, look like rows is a suspect. It counts as swallowed rows if the values
    in a column of labels or groups are known, from other rows or other lines. If no such column is
    asked for, known values in any column but the texts count, and so do four lines like rows.
    """

    def __init__(self, sep, header, places, n_texts):
        """places: indices of the columns that are asked for; the first n_texts are texts."""
        self.sep = sep
        self.n_separators = len(header) - 1
        texts = places[:n_texts]
        self.has_labels = len(places) > n_texts
        others = [place for place in range(len(header)) if place not in texts]
        self.values = {place: set() for place in places[n_texts:] or others}
        self.n_rows = 0
        self.suspects = []  # (first line, last line, lines like rows, {place: their values})

    def add(self, begin, cells, lines):
        """Add a row: the number of its first line, its cells, its lines."""
        self.n_rows += 1
        for place, values in self.values.items():
            if len(values) < MAX_VALUES:
                values.add(cells[place])
        if len(lines) == 1 or not self.n_separators or len(self.suspects) == MAX_VALUES:
            return
        lines = [line.strip('\r\n') for line in lines if line.strip('\r\n')]
        like_rows = [line for line in lines if line.count(self.sep) == self.n_separators]
        if len(like_rows) < max(2, 0.8 * len(lines)):
            return
        rows = [line.split(self.sep) for line in like_rows[:MAX_VALUES]]
        columns = {place: [row[place] for row in rows] for place in self.values}
        self.suspects.append((begin, begin + len(lines) - 1, len(like_rows), columns))

    def check(self):
        """Raises ValueError if a cell is probably several rows."""
        for begin, end, n_lines, columns in self.suspects:
            looks_known = any(self.are_known(place, found) for place, found in columns.items())
            if looks_known or (n_lines >= 4 and not self.has_labels):
                raise ValueError(
                    f'lines {begin} to {end} are one cell in quotation marks, but each of them '
                    'looks like a row; --quoting=none, if quotation marks are part of the texts, '
                    '--quoting=minimal, if it is one cell')

    def are_known(self, place, found):
        """Whether most values found in a column are those of other rows or lines. A column without
        repeated values, such as an ID, tells nothing."""
        if len(self.values[place]) == self.n_rows:
            return False
        counts = Counter(found)
        known = [value for value in found if value in self.values[place] or counts[value] > 1]
        return len(known) >= 0.8 * len(found)


# JSON

SPACE = re.compile(r'\s*')


def distinct_keys(pairs):
    """The keys and values of an object -> dict. Raises ValueError if a key comes twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
        raise ValueError(f'an object has the key {twice[0]!r} twice')
    return row


# pandas writes NaN, which is not JSON, for a missing value
decoder = json.JSONDecoder(parse_constant=lambda name: None, object_pairs_hook=distinct_keys)


def depth_of(line):
    """How many more brackets a line of JSON opens than it closes, outside of strings."""
    line = re.sub(r'\\.', '', line)
    line = re.sub(r'"[^"]*"?', '', line)
    return line.count('{') + line.count('[') - line.count('}') - line.count(']')


def json_values(lines):
    """Yield (line number, value) for the JSON values of a file. Several may share a line, and one
    may span several lines; if the file begins with an array, each of its entries is a value.
    Raises ValueError at anything else."""
    parts = []  # the lines of an incomplete value
    depth = 0  # of brackets, without the array's
    in_array = None
    for line in lines:
        if in_array is None and line.strip():
            in_array = line.lstrip().startswith('[')
            if in_array:
                line = line.lstrip()[1:]
        if in_array and depth < 0 and line.strip():
            raise ValueError(f'line {lines.number}: the array has ended before')
        if not parts:
            begin = lines.number
        parts.append(line)
        depth += depth_of(line)
        if depth <= 0:  # else the value continues in the next line; so nothing is parsed twice
            yield from parse_values(''.join(parts), begin, in_array)
            parts = []
            lines.begin_row()
    if parts:
        parse_value(''.join(parts), 0, begin)
        raise ValueError(f'line {begin}: its end is missing')
    if in_array and depth == 0:
        raise ValueError('the end of the array is missing')


def parse_values(text, line, in_array):
    """Yield (line number, value) for the values in a text, all of them complete."""
    end = SPACE.match(text).end()
    while end < len(text):
        if in_array and text[end] in ',]':
            end += 1
        else:
            value, end = parse_value(text, end, line)
            yield line, value
        end = SPACE.match(text, end).end()


def parse_value(text, start, line):
    """Parse the value at start -> value, end. line: for messages. Raises ValueError if there is
    none."""
    try:
        return decoder.raw_decode(text, start)
    except RecursionError:
        raise ValueError(f'line {line}: a value is nested too deeply') from None
    except json.JSONDecodeError as error:
        reason = error.msg
        if error.pos >= len(text.rstrip()):
            reason = 'its end is missing'
        raise ValueError(f'line {line}: {reason}') from None
    except ValueError as error:  # a number of thousands of digits, a repeated key
        raise ValueError(f'line {line}: {error}') from None


def json_rows(lines, columns, path):
    """Yield (line number, cells) for each row of a .jsonl or .json file. A row may lack a column,
    and other columns may hold anything. Fails if no row has a column."""
    known = {}  # names of columns, in order of appearance
    for line, row in json_values(lines):
        if not isinstance(row, dict):
            raise ValueError(f'line {line}: a row must be an object with a value for each column')
        known.update(dict.fromkeys(row))
        yield line, [row.get(column) for column in columns]
    if known:
        check_columns(path, columns, known)


# Parquet

def unpacked(file, path):
    """A seekable copy of a compressed file, since the index of a parquet file is at its end."""
    if path.suffix.lower() not in PACKED:
        return file
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the caller reads it)
    shutil.copyfileobj(file, copy)
    return copy


def parquet_rows(file, columns, path):
    """Yield (row number, cells) for each row of a .parquet file."""
    import pyarrow
    import pyarrow.parquet
    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(unpacked(file, path))
        column_places(path, columns, table.schema_arrow.names)
        for batch in table.iter_batches(1000, columns=list(dict.fromkeys(columns))):
            for cells in zip(*[batch.column(column).to_pylist() for column in columns]):
                number += 1
                yield number, cells
    except pyarrow.ArrowException as error:
        raise ValueError(error) from None


# Any kind

def clean_cell(value, place, column):
    """A value of a file -> a string, a list of strings, or None if it is missing. Raises ValueError
    for any other type."""
    if value is None:
        return None
    if isinstance(value, str):
        if has_surrogate(value):
            raise ValueError(f'{place}: {column!r} has half of a character (a lone surrogate)')
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, list):
        entries = [clean_cell(entry, place, column) for entry in value]
        if all(isinstance(entry, str) for entry in entries):
            return entries
    raise ValueError(f'{place}: {column!r} has a {type(value).__name__}, wanted text, a number or '
                     'a list of them')


def unit_of(path):
    """A word for what `read_rows` counts in a file."""
    return 'row' if '.parquet' in Path(path).name.lower() else 'line'


def read_rows(path, columns, form=DEFAULT, n_texts=1, others=''):
    """Yield (number, cells) for each row of a file.

    path: its ending tells its kind; - is stdin. columns: their names; the first n_texts are texts.
    form: a `Format`. others: see `kind_of`.
    number: of the row's first line or, in a parquet file, of the row, from 1. cells: one for each
    column: a string, a list of strings, or None for a missing value.
    A file that cannot be read as intended ends in `fail`; some errors show only after the last row.
    """
    path = Path(path)
    kind = kind_of(path, form, others)
    is_empty = True
    try:
        with open_bytes(path) as file:
            if kind == 'parquet':
                rows = parquet_rows(file, columns, path)
            else:
                text = io.TextIOWrapper(file, form.encoding, 'surrogateescape', newline='')
                lines = Lines(text, form.encoding)
                if kind in ('json', 'jsonl'):
                    rows = json_rows(lines, columns, path)
                else:
                    sep = form.sep or {'csv': ',', 'tsv': '\t'}[kind]
                    rows = csv_rows(lines, columns, n_texts, sep, form.quoting, path)
            for number, cells in rows:
                is_empty = False
                place = f'{unit_of(path)} {number}'
                yield number, [clean_cell(cell, place, column)
                               for cell, column in zip(cells, columns)]
        if is_empty:
            raise ValueError('it has no row')
    except (OSError, EOFError, ValueError, zlib.error) as error:
        fail(f'{path}: cannot be read: {error}')
