"""Files of texts, a row each: .csv, .tsv, .jsonl (or .json) and .parquet, of any size, also as .gz
or .zst; and JSON lines from standard input."""
import glob
import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

from nanoloss.configure import fail

KINDS = 'csv', 'tsv', 'json', 'jsonl', 'parquet'
PACKED = {'.gz': 'gzip', '.zst': 'zstd'}  # endings, and what pyarrow calls them


def files_of(pattern):
    """The files that a path stands for: itself or, where it has * ? or [ in it, all files that
    match, in the order of their names."""
    if pattern == '-' or Path(pattern).exists() or not glob.has_magic(pattern):
        return [pattern]
    files = sorted(file for file in glob.glob(pattern, recursive=True) if Path(file).is_file())
    if not files:
        fail(f'{pattern}: no file matches')
    return files


def name_of(path):
    """A file's name without what tells its kind: my of my.csv.gz."""
    path = Path(path)
    return Path(path.stem).stem if path.suffix in PACKED else path.stem


def unpack(path, cache):
    """A file that can be read as it is: of a packed one, or of standard input, a copy in the folder
    `cache`; the same file else."""
    if str(path) != '-' and path.suffix not in PACKED:
        return path
    import pyarrow
    folder = Path(tempfile.mkdtemp(dir=cache))
    if str(path) == '-':
        to = folder / 'stdin.jsonl'
        source = sys.stdin.buffer
    else:
        to = folder / path.stem
        source = pyarrow.input_stream(str(path), compression=PACKED[path.suffix])
    with source, open(to, 'wb') as file:
        shutil.copyfileobj(source, file)
    return to


def check_lines(path, file):
    """Make sure that a file is UTF-8 without NUL bytes, at which a reader may stop or guess.

    path: what the user calls the file."""
    with open(file, 'rb') as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                fail(f'{path}: line {number} is not UTF-8 ({error.reason}); save the file as UTF-8')
            if b'\0' in line:
                fail(f'{path}: line {number} has a NUL byte, which no text has')


def check_columns(path, columns, known):
    """Make sure that the file has these columns."""
    for column in sorted(set(columns) - set(known)):
        fail(f'{path}: no column {column!r}, only {", ".join(map(repr, known))}; '
             'see --text, --label, --group')


def strings_only(columns):
    """The type of a Dataset whose columns hold strings."""
    import datasets
    return datasets.Features({column: datasets.Value('string') for column in columns})


def read_separated(path, file, separator, columns, cache):
    """The same for a .csv or .tsv file: every cell of the columns is the string that it is."""
    import datasets
    import pandas
    options = {
        'sep': separator,
        'encoding': 'utf-8-sig',  # there may be a byte-order mark
        'index_col': False,
        'keep_default_na': False,  # a review that says "NA" is no missing one
    }
    check_columns(path, columns, list(pandas.read_csv(file, nrows=0, **options)))
    with warnings.catch_warnings():
        # pandas merely warns when it cuts a row that has too many cells
        warnings.simplefilter('error', pandas.errors.ParserWarning)
        return datasets.Dataset.from_csv(glob.escape(str(file)), features=strings_only(columns),
                                         cache_dir=cache, **options)


def json_values(lines):
    """Yield what stands in lines of JSON, and in which line it begins; several values may share a
    line, and one may have several. Raises ValueError where there is another thing."""
    # pandas writes NaN, which is no JSON, for what is missing
    decoder = json.JSONDecoder(parse_constant=lambda name: None)
    rest = ''  # of the lines so far, what is not yet a value, and where it begins
    begin = 1
    for number, line in enumerate(lines, 1):
        if not rest:
            begin = number
        rest = (rest + line).lstrip()
        while rest:
            try:
                value, end = decoder.raw_decode(rest)
            except json.JSONDecodeError as error:
                if error.pos >= len(rest.rstrip()):  # the next line goes on with it
                    break
                raise ValueError(f'line {begin}: {error.msg}') from None
            yield value, begin
            rest = rest[end:].lstrip()
            begin = number
    if rest:
        raise ValueError(f'line {begin}: its end is missing')


def json_rows(file):
    """Yield the rows of a .jsonl file or of a .json file, which may be one array, as dicts. Raises
    ValueError where there is none or another thing."""
    with open(file, encoding='utf-8-sig') as lines:
        first = next((line for line in lines if line.strip()), '')
        lines.seek(0)
        is_array = first.lstrip().startswith('[')
        n_rows = 0
        for value, line in json_values([lines.read()] if is_array else lines):
            for row in value if is_array else [value]:
                if not isinstance(row, dict):
                    raise ValueError(f'line {line}: a row is an object, by columns')
                n_rows += 1
                yield row
    if not n_rows:
        raise ValueError('there is no row')


def read_json(path, file, columns, cache):
    """The same for a .jsonl or .json file, every cell as its string. Of its other columns nothing
    is asked: what a row lacks, or has of another type than the row before it, is no mistake."""
    import datasets
    known = {}  # in the order in which they come

    def cells():
        for row in json_rows(file):
            known.update(dict.fromkeys(row))
            yield {column: string(path, column, row.get(column)) for column in columns}

    own_cache = tempfile.mkdtemp(dir=cache)  # else a file that is read again would come from there
    data = datasets.Dataset.from_generator(cells, features=strings_only(columns),
                                            cache_dir=own_cache)
    check_columns(path, columns, list(known))
    return data


def read_columns(path, columns, cache):
    """Columns of a file -> datasets.Dataset, memory-mapped from the folder `cache`.

    path: a Path; its suffix says of which kind the file is; - is standard input. The Dataset may
    have further columns. A file that cannot be read as it is, down to its last line, ends in
    `fail`.
    """
    import datasets  # takes a second, which not every caller needs to wait for
    datasets.logging.set_verbosity(datasets.logging.CRITICAL + 1)  # errors are reported below
    datasets.disable_progress_bars()

    kind = Path(path.stem).suffix if path.suffix in PACKED else path.suffix
    kind = 'jsonl' if str(path) == '-' else kind[1:].lower()
    if kind not in KINDS:
        fail(f'{path}: wanted imdb, sample, a folder, or a .tar.gz, .csv, .tsv, .jsonl or '
             '.parquet file')
    try:
        Path(cache).mkdir(exist_ok=True)
        file = unpack(path, cache)
        if kind == 'parquet':  # datasets takes a path for a pattern
            data = datasets.Dataset.from_parquet(glob.escape(str(file)), cache_dir=cache)
        elif kind in ('json', 'jsonl'):
            check_lines(path, file)
            data = read_json(path, file, columns, cache)
        else:
            check_lines(path, file)
            data = read_separated(path, file, ',' if kind == 'csv' else '\t', columns, cache)
    except Exception as error:  # of many kinds; datasets wraps the one that explains
        cause = error.__cause__ or error
        fail(f'{path}: cannot be read, or is empty: {type(cause).__name__}: {str(cause)[:300]}')
    check_columns(path, columns, data.column_names)
    return data


def string(path, column, value):
    """A value of a file's column as a string; a missing one is ''."""
    if value is None:
        return ''
    if not isinstance(value, (str, int, float)):
        fail(f'{path}: {column!r} has a {type(value).__name__} in it, wanted text or numbers')
    return str(value)


def strings(path, column, values):
    """The values of a file's column as strings."""
    return [string(path, column, value) for value in values]
