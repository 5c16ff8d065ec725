"""Rows of a table: CSV, TSV, JSON, JSON lines or parquet; also as .gz or .zst, or from stdin.

    for number, (text, label) in read_rows('my.csv', ['text', 'label']):

Notable:
- Rows are read one after another, so a file may be larger than the memory.
- A file that cannot be read as it was meant, down to its last line, ends in `fail`.
- CSV has no standard for a quotation mark that belongs to a text. A file in which some texts begin
  with one can be read in two ways; this is noticed and is an error.
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
from pathlib import Path
from typing import NamedTuple

from nanoloss.configure import fail

KINDS = 'csv', 'tsv', 'json', 'jsonl', 'parquet'
SPREADSHEETS = 'xlsx', 'xls', 'xlsm', 'ods', 'numbers'
PACKED = '.gz', '.zst'
MAX_CHARS = 64 * 2 ** 20  # of a line, and of a row of several lines
# of a column, the distinct values that are kept to recognise a swallowed row
MAX_VALUES = 1000
MAX_COLUMNS = 50
QUOTING = {  # of cells in CSV and TSV: keywords of csv.reader
    'minimal': {},  # a cell may stand in quotation marks; one within it is doubled
    'backslash': {'escapechar': '\\', 'doublequote': False},  # one within it has a backslash before
    'none': {'quoting': csv.QUOTE_NONE},  # quotation marks are text
}


class Format(NamedTuple):
    """How files are written: encoding of the bytes, sep between the cells of a CSV file ('': by the
    file's ending), quoting: a name in QUOTING."""
    encoding: str = 'utf-8'
    sep: str = ''
    quoting: str = 'minimal'


DEFAULT = Format()


def make_format(encoding, sep, quoting):
    """The settings of a script -> `Format`. Fails if one is unknown."""
    try:
        ''.encode(encoding)
    except LookupError:
        fail(f'--encoding={encoding}: no such encoding of a file; try utf-8, utf-16 or cp1252 '
             '(prepare.py --tokenizer= chooses the tokens)')
    sep = {'\\t': '\t', 'tab': '\t'}.get(sep, sep)
    if len(sep) > 1 or sep in ('"', '\n', '\r'):
        fail(f'--sep={sep!r}: wanted one character, such as ; or | or tab')
    if quoting not in QUOTING:
        fail(f'--quoting={quoting}: wanted {", ".join(QUOTING)}')
    return Format(encoding, sep, quoting)


def files_of(pattern):
    """The files that a path stands for: the path itself or, if it has * ? or [ in it, all files
    that match, sorted by name."""
    if pattern == '-' or Path(pattern).exists() or not glob.has_magic(pattern):
        return [pattern]
    files = sorted(file for file in glob.glob(pattern, recursive=True) if Path(file).is_file())
    if not files:
        fail(f'{pattern}: no file matches')
    return files


def name_of(path):
    """A file's name without the endings of its kind: my for my.csv.gz."""
    path = Path(path)
    return Path(path.stem).stem if path.suffix.lower() in PACKED else path.stem


def kind_of(path, form, others=''):
    """The kind of a file, a name in KINDS, by its ending. others: further sources that the script
    takes, for the message."""
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
        fail(f'{path}: wanted {others}a .csv, .tsv, .json, .jsonl or .parquet file')
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
    """The lines of an open text file, each checked. They keep their line ends.

    number: of the last line, from 1. row: the lines since the last call of `begin_row`.
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
            line = line.removeprefix('\ufeff')  # a byte-order mark is no part of a cell
        self.number += 1
        self.row.append(line)
        self.n_chars += len(line)
        if self.n_chars > MAX_CHARS:
            raise ValueError(f'line {self.number}: a line or row has more than 64 million '
                             'characters')
        # with errors='surrogateescape' a byte that is not in the encoding becomes a surrogate
        if has_surrogate(line):
            raise self.undecodable(f'line {self.number}')
        if '\0' in line:
            raise ValueError(f'line {self.number} has a NUL byte, and no text has one; if the file '
                             'is UTF-16, add --encoding=utf-16')
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
    """Yield (line number, cells of the columns) for each row; every cell is the string that it is.
    The first n_texts columns are texts. Raises ValueError if a row has more or fewer cells than the
    header."""
    csv.field_size_limit(MAX_CHARS)
    reader = csv.reader(lines, delimiter=sep, strict=True, **QUOTING[quoting])
    header = None
    swallowed = None
    begin = 1
    try:
        for cells in reader:
            if header is None:
                header = cells
                places = column_places(path, columns, header)
                swallowed = SwallowedRows(sep, header, places[:n_texts])
            elif cells or len(header) == 1:  # a blank line is a row only if a cell may be blank
                cells = cells or ['']
                if len(cells) != len(header):
                    where = f'line {begin}'
                    if len(cells) < len(header):
                        where += f' (or the text of line {begin - 1}, if it is broken there)'
                    raise ValueError(f'{where} has {len(cells)} cells, the header has '
                                     f'{len(header)}; a text with a separator or line break in it '
                                     'needs quotation marks around it')
                swallowed.add(begin, cells, lines.row)
                yield begin, [cells[place] for place in places]
            begin = lines.number + 1
            lines.begin_row()
    except csv.Error as error:
        raise ValueError(csv_mistake(str(error), begin, lines)) from None
    if swallowed and quoting != 'none':
        swallowed.check()


def column_places(path, columns, header):
    """Where the columns stand in the header. Fails if one is missing or stands there twice."""
    check_columns(path, columns, header)
    for column in columns:
        if header.count(column) > 1:
            fail(f'{path}: {header.count(column)} columns are named {column!r}')
    return [header.index(column) for column in columns]


def csv_mistake(message, begin, lines):
    """What csv.reader says of a row -> a line that says what to do."""
    quotes_are_text = '--quoting=none, if quotation marks are part of the texts'
    if '\\"' in ''.join(lines.row[:1000]):
        quotes_are_text = '--quoting=backslash, if \\" stands for a quotation mark'
    if 'expected after' in message:
        where = f'line {lines.number}' if lines.number == begin else \
            f'line {lines.number}, in a cell that begins in line {begin}'
        return (f'{where}: a closing quotation mark must be followed by a separator or the end of '
                f'the line; {quotes_are_text}')
    if 'end of data' in message:
        return (f'line {begin}: a cell begins with a quotation mark that is never closed; '
                f'{quotes_are_text}')
    return f'line {begin}: {message}'


class SwallowedRows:
    """Finds quoted cells that are more likely several rows.

    If one text begins with a quotation mark, and a later one ends with one, all between them is one
    cell. Each of its lines then is a whole row, too: it has as many cells as the header, and in one
    column, such as that of labels, values that other rows have.
    """

    def __init__(self, sep, header, texts):
        """texts: the places of the columns of texts, where any value may stand."""
        self.sep = sep
        self.n_cells = len(header)
        others = [place for place in range(len(header)) if place not in texts]
        self.values = {place: set() for place in others[:MAX_COLUMNS]}
        self.suspects = []  # (line of the first row, line of the last row, cells of each line)

    def add(self, begin, cells, lines):
        """A row: its first line, its cells, its lines."""
        for place, values in self.values.items():
            if len(values) < MAX_VALUES:
                values.add(cells[place])
        if len(lines) == 1 or len(self.suspects) == MAX_VALUES:
            return
        rows = [line.rstrip('\r\n').split(self.sep) for line in lines]
        if all(len(row) == self.n_cells for row in rows):
            columns = {place: {row[place] for row in rows} for place in self.values}
            self.suspects.append((begin, begin + len(lines) - 1, columns))

    def check(self):
        """Raises ValueError if there is such a cell."""
        for begin, end, columns in self.suspects:
            for place, found in columns.items():
                are_numbers = all(re.fullmatch(r'\d+', value) for value in found)
                if found <= self.values[place] or are_numbers:
                    raise ValueError(
                        f'lines {begin} to {end} are one cell in quotation marks, but each of '
                        'them looks like a row; --quoting=none, if quotation marks are part of the '
                        'texts')


# JSON

BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]')  # strings as a whole, and brackets outside
SPACE = re.compile(r'\s*')
# pandas writes NaN, which is no JSON, for a missing value
decoder = json.JSONDecoder(parse_constant=lambda name: None)


def depth_of(line):
    """How many more brackets a line opens than it closes."""
    depth = 0
    for token in BRACKETS.findall(line):
        if token in '{[':
            depth += 1
        elif token in '}]':
            depth -= 1
    return depth


def json_values(lines):
    """Yield (line number, value) for the JSON values of a file. Several may share a line, and one
    may take several lines; if an array begins in the first line, each of its entries is a value.
    Raises ValueError at anything else."""
    parts = []  # the lines of a value that is not complete
    depth = 0  # of its brackets
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
        if depth <= 0:  # else the next line goes on with it, and nothing is parsed twice
            yield from parse_values(''.join(parts), begin, in_array)
            parts = []
            lines.begin_row()
    if parts:
        parse_value(''.join(parts), 0, begin)
        raise ValueError(f'line {begin}: its end is missing')
    if in_array and depth == 0:
        raise ValueError('the end of the array is missing')


def parse_values(text, line, in_array):
    """Yield (line number, value) for the values in a text that has them whole."""
    end = SPACE.match(text).end()
    while end < len(text):
        if in_array and text[end] in ',]':
            end += 1
        else:
            value, end = parse_value(text, end, line)
            yield line, value
        end = SPACE.match(text, end).end()


def parse_value(text, start, line):
    """The value that begins there -> value, end. Raises ValueError if there is none."""
    try:
        return decoder.raw_decode(text, start)
    except RecursionError:
        raise ValueError(f'line {line}: a value is nested too deeply') from None
    except json.JSONDecodeError as error:
        reason = error.msg
        if error.pos >= len(text.rstrip()):
            reason = 'its end is missing'
        raise ValueError(f'line {line}: {reason}') from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f'line {line}: {error}') from None


def json_rows(lines, columns, path):
    """Yield (line number, cells) for each row of a .jsonl or .json file. The other columns may hold
    anything, and a row may lack any."""
    known = {}  # in the order in which they come
    for line, row in json_values(lines):
        if not isinstance(row, dict):
            raise ValueError(f'line {line}: a row must be an object with a value for each column')
        known.update(dict.fromkeys(row))
        yield line, [row.get(column) for column in columns]
    if known:
        check_columns(path, columns, known)


# Parquet

def unpacked(file, path):
    """A file that can be read from any place: its index stands at its end."""
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
        check_columns(path, columns, table.schema_arrow.names)
        for batch in table.iter_batches(1000, columns=list(dict.fromkeys(columns))):
            for cells in zip(*[batch.column(column).to_pylist() for column in columns]):
                number += 1
                yield number, cells
    except pyarrow.ArrowException as error:
        raise ValueError(error) from None


# All of them

def clean_cell(value, place, column):
    """A value as a file has it -> a string, a list of strings, or None for a missing value."""
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

    path: its ending tells its kind; - is stdin. columns: the names of those wanted, of which the
    first n_texts are texts. form: a `Format`. others: see `kind_of`.
    number: of the row's first line or, in a parquet file, of the row, from 1. cells: of these
    columns, each a string, a list of strings, or None for a missing value.
    A file that cannot be read as it was meant ends in `fail`; some mistakes show only after the
    last row.
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
