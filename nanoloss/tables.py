"""Files of texts, a row each: .csv, .tsv, .jsonl (or .json) and .parquet, of any size."""
import glob
import warnings

from nanoloss.configure import fail

KINDS = 'csv', 'tsv', 'json', 'jsonl', 'parquet'


def check_lines(path):
    """Make sure that a file is UTF-8 without NUL bytes, at which a reader may stop or guess."""
    with open(path, 'rb') as lines:
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


def read_separated(path, pattern, separator, columns, cache):
    """The same for a .csv or .tsv file: every cell of the columns is the string that it is."""
    import datasets
    import pandas
    options = {
        'sep': separator,
        'encoding': 'utf-8-sig',  # there may be a byte-order mark
        'index_col': False,
        'keep_default_na': False,  # a review that says "NA" is no missing one
    }
    check_columns(path, columns, list(pandas.read_csv(path, nrows=0, **options)))
    strings_only = datasets.Features({column: datasets.Value('string') for column in columns})
    with warnings.catch_warnings():
        # pandas merely warns when it cuts a row that has too many cells
        warnings.simplefilter('error', pandas.errors.ParserWarning)
        return datasets.Dataset.from_csv(pattern, features=strings_only, cache_dir=cache, **options)


def read_columns(path, columns, cache):
    """Columns of a file -> datasets.Dataset, memory-mapped from the folder `cache`.

    path: a Path; its suffix says of which kind the file is. The Dataset may have further columns.
    A file that cannot be read as it is, down to its last line, ends in `fail`.
    """
    import datasets  # takes a second, which not every caller needs to wait for
    datasets.logging.set_verbosity(datasets.logging.CRITICAL + 1)  # errors are reported below
    datasets.disable_progress_bars()

    kind = path.suffix[1:].lower()
    if kind not in KINDS:
        fail(f'{path}: wanted imdb, sample, a folder, or a .tar.gz, .csv, .tsv, .jsonl or '
             '.parquet file')
    pattern = glob.escape(str(path))  # datasets takes a path for a pattern
    try:
        if kind == 'parquet':
            data = datasets.Dataset.from_parquet(pattern, cache_dir=cache)
        elif kind in ('json', 'jsonl'):
            check_lines(path)
            data = datasets.Dataset.from_json(pattern, cache_dir=cache, encoding='utf-8-sig')
        else:
            check_lines(path)
            data = read_separated(path, pattern, ',' if kind == 'csv' else '\t', columns, cache)
    except Exception as error:  # of many kinds; datasets wraps the one that explains
        cause = error.__cause__ or error
        fail(f'{path}: cannot be read, or is empty: {type(cause).__name__}: {str(cause)[:300]}')
    check_columns(path, columns, data.column_names)
    return data


def strings(path, column, values):
    """The values of a file's column as strings; a missing one is ''."""
    texts = []
    for value in values:
        if value is None:
            texts.append('')
        elif isinstance(value, (str, int, float)):
            texts.append(str(value))
        else:
            fail(f'{path}: {column!r} has a {type(value).__name__} in it, wanted text or numbers')
    return texts
