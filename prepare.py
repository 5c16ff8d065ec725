"""Text -> data/<name>/*.npy: read the reviews, split them, drop what leaks, tokenize, write memmaps.

    python prepare.py                                     IMDB from the hub
    python prepare.py --source=PATH/aclImdb_v1.tar.gz     IMDB from the archive or its unpacked folder
    python prepare.py --source=sample                     the small set of reviews in this repository
    python prepare.py --source=my.csv --text=body --label=stars --group=author

Notable:
- Reviews have one canonical order, by the hash of label and text: IMDB is the same, bit for bit, from the
  hub and from the archive.
- Val and test have no text of train, word for word, and no movie (group) of train.
- cl100k_base needs no download: its table comes out of the bpe-openai wheel and is checked.
"""
import base64
import glob
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import warnings
import zlib
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tiktoken
from tqdm import tqdm

from config import configure, fail

# -----------------------------------------------------------------------------
source = 'imdb'  # imdb (the hub), sample, an aclImdb archive or folder, a .csv .tsv .jsonl or .parquet file
name = ''  # of the data set, data/<name>; '' means imdb, sample, or the name of the file
data_dir = 'data'  # the folder of data sets
text = 'text'  # column of your file: the review
label = 'label'  # column: its class, a string or an integer
label_sep = ''  # what stands between the labels of a review that may have several, or none; '' if each has one
group = ''  # column: what a split must not cut, such as the movie; '' for none
val_source = ''  # a file of its own for val; '' takes val_frac of the source
test_source = ''  # a file of its own for test; '' takes test_frac of the source
val_frac = 0.1  # not for IMDB, whose split is official
test_frac = 0.1
dev = False  # make <name>_dev: train, val and test all cut by movie out of train, for choosing settings
seed = 1337  # of the split
encoding = 'cl100k_base'  # any encoding of tiktoken; all but this one are downloaded
block_size = 512  # as in training, only to tell how many reviews it would cut
# -----------------------------------------------------------------------------
FORMAT_VERSION = 1  # of data/<name>; train.py takes no other
SPLITS = 'train', 'val', 'test'
IMDB_FILE = re.compile(r'(?:^|/)(train|test)/(?:urls_(neg|pos)|(neg|pos)/(\d+)_\d+)\.txt$')
IMDB_VAL = 2500  # so many reviews of the official test side become val
# The train reviews of tt0406816, of which test has 23: the archive's urls files tell which, the hub cannot.
IMDB_LEAKS = '7edf9c42d941e2cd46b3ab672c4b90f7', 'ee9a4db5ebaeb1f3172abd6a47ccad25'


def load_hub():
    """The hub's stanfordnlp/imdb -> [(side, label, '', text)]: it knows no movies. Fails within seconds."""
    import datasets  # here, because it takes a second and only the readers need it
    import huggingface_hub
    try:
        try:  # load_dataset alone tries an unreachable hub for half a minute; offline, it looks in its cache
            huggingface_hub.HfApi().dataset_info('stanfordnlp/imdb', timeout=5)
        except Exception:
            datasets.config.HF_HUB_OFFLINE = True
        hub = datasets.load_dataset('stanfordnlp/imdb')
    except Exception as error:
        fail(f'cannot get IMDB from the hub ({error}); give the archive, --source=PATH/aclImdb_v1.tar.gz, '
             'or try --source=sample')
    return [(side, ('neg', 'pos')[y], '', review) for side in ('train', 'test')
            for y, review in zip(hub[side]['label'][:], hub[side]['text'][:])]


def imdb_files(path):
    """Yield (name, bytes) of the reviews and urls files in an archive or folder."""
    if path.is_dir():
        files = (file for file in path.rglob('*.txt') if IMDB_FILE.search(file.as_posix()))
        yield from ((file.as_posix(), file.read_bytes()) for file in files)
    else:
        with tarfile.open(path, 'r|*') as archive:  # as a stream: going back in a .gz means starting again
            for member in archive:
                if IMDB_FILE.search(member.name) and member.isfile():
                    yield member.name, archive.extractfile(member).read()


def read_imdb(path):
    """The archive aclImdb_v1.tar.gz, any of its layout, or its folder -> [(side, label, movie, text)].

    Line ID of urls_neg.txt or urls_pos.txt names the movie of review ID; tt0406816 becomes 406816.
    """
    reviews, movies, file = {}, {}, 'its beginning'
    try:
        for file, content in tqdm(imdb_files(path), 'read', unit=' files', leave=False, disable=None):
            side, urls, kind, number = IMDB_FILE.search(file).groups()
            if urls:
                movies[side, urls] = [int(tt) for tt in re.findall(r'/title/tt(\d{1,9})', content.decode())]
            else:
                reviews[side, kind, int(number)] = content.decode()
    except (OSError, EOFError, UnicodeDecodeError, tarfile.TarError, zlib.error) as error:
        fail(f'{path}: cannot be read past {file}: {error}')
    wanted = {(*part, i) for part, ids in movies.items() for i in range(len(ids))}
    if not reviews or wanted != set(reviews):
        fail(f'{path}: not a whole aclImdb: {len(reviews):,} reviews, {len(wanted):,} lines in urls files, '
             f'first difference {min(wanted ^ set(reviews), default="none")}')
    return [(side, kind, movies[side, kind][i], review) for (side, kind, i), review in reviews.items()]


def read_columns(path, columns, cache):
    """A .csv, .tsv, .jsonl (.json) or .parquet file -> datasets.Dataset, memory-mapped from the folder cache."""
    import datasets
    import pandas
    datasets.logging.set_verbosity(datasets.logging.CRITICAL + 1)  # errors are told below, once
    datasets.disable_progress_bars()
    kind = path.suffix[1:].lower()
    reader = dict(csv='csv', tsv='csv', json='json', jsonl='json', parquet='parquet').get(kind)
    if not reader:
        fail(f'{path}: wanted imdb, sample, a folder, or a .tar.gz, .csv, .tsv, .jsonl or .parquet file')
    options, has = {}, columns
    try:
        if reader != 'parquet':
            options['encoding'] = 'utf-8-sig'  # there may be a byte-order mark
            with open(path, 'rb') as lines:
                for number, line in enumerate(lines, 1):
                    line.decode()
                    if b'\0' in line:
                        fail(f'{path}: line {number} has a NUL byte, which no text has')
        if reader == 'csv':
            options |= {'sep': '\t' if kind == 'tsv' else ',', 'index_col': False, 'keep_default_na': False}
            has = list(pandas.read_csv(path, nrows=0, **options))
            options['features'] = datasets.Features({column: datasets.Value('string') for column in columns})
        if set(columns) <= set(has):
            with warnings.catch_warnings():
                warnings.simplefilter('error', pandas.errors.ParserWarning)  # that it cuts rows too long
                read = getattr(datasets.Dataset, f'from_{reader}')
                data = read(glob.escape(str(path)), cache_dir=cache, **options)
            has = data.column_names
    except UnicodeDecodeError as error:
        fail(f'{path}: line {number} is not UTF-8 ({error.reason}); save the file as UTF-8')
    except Exception as error:
        error = error.__cause__ or error
        fail(f'{path}: cannot be read, or is empty: {type(error).__name__}: {str(error)[:300]}')
    for column in sorted(set(columns) - set(has)):
        fail(f'{path}: no column {column!r}, only {", ".join(map(repr, has))}; see --text, --label, --group')
    return data


def strings(path, column, values):
    """The values of a file's column as strings; a missing one is ''."""
    for value in values:
        if not isinstance(value, (str, int, float, type(None))):
            fail(f'{path}: {column!r} has a {type(value).__name__} in it, wanted text or numbers')
    return ['' if value is None else str(value) for value in values]


def read_files(cache):
    """The source and, where given, val_source and test_source -> sides, labels, groups or '', fetch (see main)."""
    sample = Path(__file__).parent / 'data' / 'sample.csv', 'review', 'label', 'movie'
    first, review, y, movie = sample if source == 'sample' else (source, text, label, group)
    tables, sides, labels, groups = [], [], [], []

    def plain(value):  # pandas' way with a column of integers of which some are missing is undone
        return re.sub(r'(?i)^(nan|(-?\d+)\.0+)$', r'\2', value.strip())
    for side, path in zip(SPLITS, (first, val_source, test_source)):
        if not path:
            continue
        data = read_columns(Path(path), [review, y] + [movie] * bool(movie), cache)
        for column, told in [(y, labels)] + [(movie, groups)] * bool(movie):
            values = [plain(value) for value in strings(path, column, data[column][:])]
            if label_sep and told is labels:
                values = [label_sep.join(sorted({*map(plain, value.split(label_sep))} - {''})) for value in values]
            elif '' in values:
                fail(f'{path}: {values.count("")} reviews lack {column!r}, first no. {values.index("") + 1}')
            told += values
        tables.append((len(sides), path, data))
        sides += [side] * len(data)

    def fetch(rows):
        texts = {}
        for begin, path, data in tables:
            here = [row for row in rows if begin <= row < begin + len(data)]
            texts |= zip(here, strings(path, review, data[[row - begin for row in here]][review] if here else ()))
        return [texts[row] for row in rows]
    return sides, labels, groups or [''] * len(sides), fetch


def cut(sides, labels, groups, val_share, test_share):
    """Move these shares of the train reviews to val and test, in place: by whole groups, else stratified by label
    or, where a review has several, at random."""
    rng = np.random.RandomState(seed % 2 ** 32)  # its stream never changes, as default_rng's may
    rows = np.flatnonzero(sides == 'train')
    single = groups is None and labels.ndim == 1
    strata = [rows[labels[rows] == y] for y in np.unique(labels)] if single else [rows]
    for stratum in strata:
        units = stratum if groups is None else groups[stratum]
        _, member, size = np.unique(units, return_inverse=True, return_counts=True)
        pile = rng.permutation(len(size))
        middle = np.empty(len(size))  # from 0 to 1, where in the shuffled pile a unit lies
        middle[pile] = (np.cumsum(size[pile]) - size[pile] / 2) / len(stratum)
        sides[stratum[middle[member] < val_share + test_share]] = 'val'
        sides[stratum[middle[member] < test_share]] = 'test'


CL100K_SHA256 = '223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7'  # of tiktoken's own file
CL100K = {  # as in tiktoken_ext/openai_public.py
    'pat_str': r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
               r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s""",
    'special_tokens': {'<|endoftext|>': 100257, '<|fim_prefix|>': 100258, '<|fim_middle|>': 100259,
                       '<|fim_suffix|>': 100260, '<|endofprompt|>': 100276}}


def table_sha256(ranks):
    """{token: rank} -> sha256 of the file in which tiktoken keeps it."""
    tokens = sorted(ranks, key=ranks.get)
    return hashlib.sha256(b''.join(b'%s %d\n' % (base64.b64encode(t), ranks[t]) for t in tokens)).hexdigest()


def tokenizer(name='cl100k_base'):
    """The tiktoken.Encoding of that name: all but cl100k_base, which a wheel has brought, are downloaded."""
    if name == 'cl100k_base' and find_spec('bpe_openai'):
        import bpe_openai
        wheel = bpe_openai.get_encoding(name)
        ranks = {wheel.decode_single_token_bytes(i): i for i in range(100256)}
        if table_sha256(ranks) != CL100K_SHA256:
            fail('the installed bpe-openai has another cl100k_base table; pip install bpe-openai==0.1.4')
        return tiktoken.Encoding(name, mergeable_ranks=ranks, **CL100K)
    try:
        return tiktoken.get_encoding(name)
    except (ValueError, OSError) as error:
        fail(f'--encoding={name}: {error}; tiktoken has {", ".join(tiktoken.list_encoding_names())}')


def tokenize(texts, enc, path):
    """Write the tokens of an iterator of lists of texts to path, a .npy of uint32 [total], as they come.

    An empty text is one end-of-text. Returns the offsets, uint64 [reviews + 1], and the tokens' sha256."""
    def header(total):
        file.seek(0)  # the header's length is always the same
        np.lib.format.write_array_header_1_0(file, {'descr': '<u4', 'fortran_order': False, 'shape': (total,)})
    offsets, sha256 = [0], hashlib.sha256()
    with open(path, 'wb') as file:
        header(0)
        for batch in texts:
            for tokens in enc.encode_ordinary_batch(batch, num_threads=os.cpu_count() or 1):
                content = np.array(tokens or [enc.eot_token], '<u4').tobytes()
                sha256.update(content)
                file.write(content)
                offsets.append(offsets[-1] + len(content) // 4)
        header(offsets[-1])
    return np.array(offsets, np.uint64), sha256.hexdigest()


@contextmanager
def replacing(folder):
    """A new folder that becomes `folder`, whole or not at all; an old one is replaced at the end."""
    new, old = (folder.with_name(f'{folder.name}.{what}-{os.getpid()}') for what in ('tmp', 'old'))
    try:
        new.mkdir(parents=True)
        yield new
        if folder.exists():
            os.rename(folder, old)  # a folder cannot be renamed onto another
        os.rename(new, folder)
    except OSError as error:
        fail(f'{folder}: cannot be written: {error}')
    finally:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)


def main(cache):
    """cache: a folder that may be filled; memory-mapped from it, the texts of a file need not fit into memory."""
    imdb = source == 'imdb' or Path(source).is_dir() or bool(re.search(r'\.(tgz|tar(\.\w+)?)$', source))
    folder = Path(data_dir) / ((name or ('imdb' if imdb else Path(source).stem)) + '_dev' * dev)
    taken = folder.exists() and not (folder / 'meta.json').exists()
    if taken or folder.name == '..' or folder.parent != Path(data_dir):
        fail(f'{folder}: not the name of a data set, which this would replace; choose one by --name=')
    if imdb and (val_source or test_source):
        fail('--val_source and --test_source go with a file of your own; the split of IMDB is official')
    if imdb:
        sides, labels, groups, texts = zip(*(load_hub() if source == 'imdb' else read_imdb(Path(source))))
        fetch = lambda rows: [texts[row] for row in rows]  # noqa: E731
    else:
        sides, labels, groups, fetch = read_files(cache)

    def batches(rows, what):
        """Lists of the texts of these rows, in their order: what is read of a large file is not kept."""
        for i in tqdm(range(0, len(rows), 2000), what, unit_scale=2000, leave=False, disable=None):
            yield fetch(rows[i:i + 2000])

    # the canonical order: reviews that are equal in it differ in nothing but the movie
    digests, keys = [], []
    for review in (review for batch in batches(range(len(sides)), 'read') for review in batch):
        digests.append(hashlib.sha256(review.encode()).digest())
        keys.append(hashlib.sha256(f'{labels[len(keys)]}\0{review}'.encode()).hexdigest()[:32])
    order = sorted(range(len(sides)), key=lambda i: (sides[i], keys[i], groups[i]))
    sides, keys, groups, labels, digests = ([column[i] for i in order]
                                            for column in (sides, keys, groups, labels, digests))
    fingerprint = hashlib.sha256(' '.join([*sides, *keys]).encode()).hexdigest()
    several = [y.split(label_sep) if label_sep else [y] for y in labels]
    classes = sorted({y for ys in several for y in ys} - ({''} if label_sep else set()),
                     key=lambda y: (0, int(y), y) if re.fullmatch(r'-?\d+', y) else (1, 0, y))
    if not 2 <= len(classes) <= 255:
        fail(f'{source}: {label!r} has {len(classes)} classes, wanted 2 to 255: {", ".join(classes[:5])}')
    number = {y: i for i, y in enumerate(classes)}
    if label_sep:
        labels = np.zeros((len(several), len(classes)), np.uint8)
        for row, ys in zip(labels, several):
            row[[number[y] for y in ys if y]] = 1
    else:
        labels = np.array([number[y] for y in labels], np.uint8)
    sides = np.array(sides, '<U5')  # '' for a review that is dropped
    numbers = groups if imdb else np.unique(groups, return_inverse=True)[1]
    groups = np.array(numbers, np.uint32) if groups[0] != '' else None

    if not imdb:
        cut(sides, labels, groups, 0 if val_source else val_frac, 0 if test_source else test_frac)
    elif groups is None:
        sides[np.isin(keys, IMDB_LEAKS) & (sides == 'train')] = ''
        if (sides == '').sum() != len(IMDB_LEAKS):
            fail('the reviews of the hub are not those of the archive; use --source=PATH/aclImdb_v1.tar.gz')
    else:
        for movie in np.intersect1d(groups[sides == 'train'], groups[sides == 'test']):
            of = [np.flatnonzero((groups == movie) & (sides == side)) for side in ('train', 'test')]
            sides[min(of, key=len)] = ''
    dropped = {'reviews of a movie that has more on the other side': int((sides == '').sum())}
    if dev:
        if groups is None:
            fail('--dev cuts by movie, and this source names none; give the archive, or a column by --group=')
        sides[sides != 'train'] = ''
        cut(sides, labels, groups, val_frac, test_frac)
    known = {digests[i] for i in np.flatnonzero(sides == 'train')}
    for side in 'val', 'test':
        repeats = [i for i in np.flatnonzero(sides == side) if digests[i] in known]
        dropped[f'{side} reviews that are in train word for word'] = len(repeats)
        sides[repeats] = ''
    if imdb and not dev:
        rows = np.flatnonzero(sides == 'test')
        drawn = np.random.RandomState(seed % 2 ** 32).permutation(len(rows))[:min(IMDB_VAL, len(rows) // 2)]
        sides[rows[drawn]] = 'val'
    there = labels[sides == 'train']
    for i in range(len(classes)):
        if not (there[:, i] if label_sep else there == i).any():
            fail(f'{source}: train has no review of class {classes[i]!r}')

    for side in SPLITS:
        if side not in sides:
            fail(f'{source}: no reviews are left for {side}, of {len(sides):,} in all')

    enc = tokenizer(encoding)
    splits, movies, table, sha256 = {}, {}, [], {}
    with replacing(folder) as new:
        for side in SPLITS:
            rows = np.flatnonzero(sides == side)
            file = f'{side}_tokens.npy'
            offsets, sha256[file] = tokenize(batches([order[i] for i in rows], 'tokenize'), enc, new / file)
            columns = {'offsets': offsets, 'labels': labels[rows]}
            columns |= {} if groups is None else {'groups': groups[rows]}
            for column, array in columns.items():
                np.save(new / f'{side}_{column}.npy', array)
                sha256[f'{side}_{column}.npy'] = hashlib.sha256(array).hexdigest()
            movies[side] = set(columns.get('groups', ()))
            splits[side] = {'rows': len(rows), 'tokens': int(offsets[-1])}
            longer = (np.diff(offsets) > block_size).sum()
            table.append(f'{side:6}{len(rows):10,}{offsets[-1]:13,}{len(movies[side]):9,}{longer:9,}')
        shared = {f'{a}/{b}': None if groups is None else len(movies[a] & movies[b])
                  for a, b in (('train', 'val'), ('train', 'test'), ('val', 'test'))}
        meta = {'version': FORMAT_VERSION, 'name': folder.name, 'source': source, 'fingerprint': fingerprint,
                'tokenizer': {'name': encoding, 'sha256': table_sha256(enc._mergeable_ranks)},
                'vocab_size': enc.n_vocab, 'classes': classes, 'splits': splits, 'dropped': dropped,
                'shared_groups': shared, 'seed': seed, 'sha256': sha256}
        (new / 'meta.json').write_text(json.dumps(meta, indent=1) + '\n', encoding='utf-8')

    what = 'movies' if imdb or source == 'sample' else 'groups'
    table += [f'dropped: {count:,} {why}' for why, count in dropped.items() if count]
    if groups is not None:
        table += [f'{what} in both: ' + ', '.join(f'{pair} {count:,}' for pair, count in shared.items())]
    if shared['train/val'] or shared['train/test']:
        table += [f'warning: the files share {what}, so val or test look better than they are']
    print(f'{folder}: {", ".join(classes)}; tokens of {encoding}')
    print(f'{"":6}{"reviews":>10}{"tokens":>13}{what:>9}   over {block_size} tokens', *table, sep='\n')


if __name__ == '__main__':
    configure(globals())
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
            main(cache)
    except KeyboardInterrupt:
        print('\nstopped; nothing was written', file=sys.stderr)
        sys.exit(130)
