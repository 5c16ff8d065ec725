"""Text -> data/<name>/*.npy: read texts, split them, drop leaks, tokenize, write memmaps.

    python prepare.py                                     IMDB from the hub
    python prepare.py --source=PATH/aclImdb_v1.tar.gz     IMDB from the archive or its folder
    python prepare.py --source=sample                     the small set in this repository
    python prepare.py --source=my.csv --text=body --label=stars --group=author
    python prepare.py --source=my.csv --text=title,body   texts that span two columns
    python prepare.py --source=my.csv --label=rude,spam   several labels, a column of 0 and 1 each
    python prepare.py --source=my.csv --unlabelled=more.csv     and texts for a teacher to label
    python prepare.py --source=my.csv --label=            texts alone, for a language model
    python prepare.py --source='part*.jsonl.gz' --name=my       several files, also compressed
    python prepare.py --source=my/                        a folder of texts per class
    ... | python prepare.py --source=- --name=my          JSON lines from standard input
    python prepare.py --source=hub:fancyzhx/ag_news       a data set of the hub

Notable:
- A malformed file stops the program. No row is skipped silently: the table counts the rows that
  are left out, by reason.
- Rows have one canonical order, by the hash of label and text.
- No text is in two splits; texts that differ only in white space or tags count as equal. Train
  shares no group with val and test, unless the source brings its own val or test; then shared
  groups are counted.
- IMDB: train shares no movie and no text with val or test. Both of these are cut out of the
  official test side, so they may share movies and texts with each other. Only exact copies count
  as equal. Tokens and labels from the hub and from the archive are the same, bit for bit, but the
  hub does not name the movies. So data from there have no groups, and the two reviews of a movie on
  both sides are recognized by their hash.
- cl100k_base needs no download: its table comes from the bpe-openai wheel and is checked.
"""
import hashlib
import math
import os
import signal
import sys
from array import array
from pathlib import Path

import numpy as np

from nanoloss.escape import one_line
from nanoloss.files import replacing_folder, write_json
from nanoloss.rows import TextStore, in_batches, read_source, unlabelled_rows
from nanoloss.settings import check_bounds, configure, fail
from nanoloss.sources import default_name, kind_of_source
from nanoloss.split import (
    SPLITS, check_splits, draw_val_from_test, drop_shared_movies, drop_unknown_classes, in_split,
    split_train)
from nanoloss.tokenizer import table_sha256
from nanoloss.tokenizer import tokenizer as load_tokenizer

# -----------------------------------------------------------------------------
source = 'imdb'  # imdb, sample, hub:OWNER/NAME, an aclImdb archive, a folder, or a file
name = ''  # name of the data set, data/<name>; '': imdb, sample, or the name of the file
data_dir = 'data'  # the folder of data sets
text = 'text'  # column of texts; several, such as title,body, are joined by line breaks
label = 'label'  # column of classes; several, such as rude,spam, hold 0 and 1; '': no labels
label_sep = ''  # separator of several labels in one cell, such as ;  '': none
group = ''  # column of groups, such as movies: rows of one group stay in one split; '': none
val_source = ''  # separate file for val; '': val_frac of the source
test_source = ''  # separate file for test; '': test_frac of the source
encoding = 'utf-8'  # encoding of the files: utf-8, utf-16, cp1252 ...
sep = ''  # separator of the cells in CSV files: ; or | or tab; '': a comma (.tsv: a tab)
quoting = 'auto'  # quotes around CSV cells: auto, minimal (unchecked), none (quotes are text)
hub_config = ''  # configuration of hub:OWNER/NAME; '': the only one
revision = ''  # commit, tag or branch of hub:OWNER/NAME; '': the newest
train_split = 'train'  # its name on the hub; a missing val or test is taken from it
val_split = 'validation'  # its name on the hub; '': val is taken from train
test_split = 'test'  # its name on the hub; '': test is taken from train
strict = False  # treat an empty text, or a missing label or group, as an error
drop_unknown = False  # drop texts of val and test with labels that train lacks; else an error
unlabelled = ''  # texts without labels: imdb (the hub's), an aclImdb archive or folder, a file
val_frac = 0.1  # share of the rows for val; IMDB uses it with --dev only
test_frac = 0.1  # share of the rows for test; IMDB uses it with --dev only
dev = False  # make <name>_dev for choosing settings: train alone, split in three by group
seed = 1337  # seed of the split
tokenizer = 'cl100k_base'  # any encoding of tiktoken; all but this one are downloaded
block_size = 512  # tokens; only used to count the texts that the paper's model truncates
# -----------------------------------------------------------------------------
FORMAT_VERSION = 1  # of data/<name>; train.py accepts no other


# Settings

def check_settings(config, kind):
    """Fail if settings contradict each other. kind: the kind of source, a name in SOURCES."""
    check_bounds(config, [(['val_frac', 'test_frac'], 0, 1), (['block_size'], 1, math.inf)])
    if config.val_frac + config.test_frac >= 1:
        fail('val_frac and test_frac must leave texts for train')
    imdb = kind in ('imdb', 'archive')
    if not config.label and (imdb or kind in ('sample', 'folders') or config.label_sep):
        fail('--label= works only with a file of your own and without --label_sep')
    has_files = config.val_source or config.test_source
    if kind == 'folders' and (config.group or config.label_sep or has_files):
        fail(f'{config.source} is a folder: its classes are the folders in it, and it has no '
             'columns for --group or --label_sep; it excludes --val_source and --test_source')
    if kind == 'hub' and has_files:
        fail('--val_source and --test_source go with files; for the hub, see --val_split and '
             '--test_split')
    if imdb and has_files:
        fail('--val_source and --test_source go with a file of your own; '
             'the split of IMDB is official')


def data_set_folder(config, kind):
    """data/<name>. Fails if that path holds anything but a data set, since it will be replaced."""
    folder_name = config.name or default_name(config.source, kind)
    if config.dev:
        folder_name += '_dev'
    folder = Path(config.data_dir) / folder_name
    foreign = folder.exists() and not (folder / 'meta.json').exists()
    if foreign or folder.name == '..' or folder.parent != Path(config.data_dir):
        fail(f'{folder} is not a data set and would be replaced; choose another --name=')
    return folder


# Splitting

def split(rows, config, imdb):
    """Assign each row to a split, or drop it, in rows.sides -> {reason: number of dropped rows}.

    imdb: whether the source is IMDB, which has an official split and known leaks."""
    dropped = {}
    if imdb:
        drop_shared_movies(rows)
        n_dropped = int((rows.sides == '').sum())
        dropped['reviews of movies that have more reviews on the other side'] = n_dropped
    else:
        val_share = 0 if 'val' in rows.sides else config.val_frac
        test_share = 0 if 'test' in rows.sides else config.test_frac
        split_train(rows, config, (val_share, test_share), join_equal=True)
    if config.dev:
        if rows.groups is None:
            fail('--dev splits by group, and this source has none; use --group=COLUMN or, for '
                 'IMDB, the archive')
        rows.sides[rows.sides != 'train'] = ''
        split_train(rows, config, (config.val_frac, config.test_frac), join_equal=not imdb)

    # accuracy on a training text is no evidence about new texts
    for side in 'val', 'test':
        repeats = in_split(rows.digests, rows.sides, side, 'train')
        rows.sides[repeats] = ''
        dropped[f'{side} texts that are in train'] = len(repeats)
    if not imdb:  # IMDB's val and test may share texts, as in the paper
        repeats = in_split(rows.digests, rows.sides, 'val', 'test')
        rows.sides[repeats] = ''
        dropped['val texts that are in test'] = len(repeats)
    elif not config.dev:
        draw_val_from_test(rows, config)
    return dropped


# Writing

def write_npy_header(file, total):
    """Write the header of np.save for a uint32 array [total]. Its size does not depend on total."""
    header = {'descr': '<u4', 'fortran_order': False, 'shape': (total,)}
    np.lib.format.write_array_header_1_0(file, header)


def tokenize(store, rows, enc, path):
    """Write the tokens of these rows of a `TextStore` to path, a .npy of uint32 [total].

    An empty text becomes a single end-of-text token. Returns the offsets, uint64 [rows + 1], and
    the sha256 of the tokens.
    """
    offsets = array('Q', [0])
    sha256 = hashlib.sha256()
    with open(path, 'wb') as file:
        write_npy_header(file, 0)  # overwritten below, when the total is known
        for some in in_batches(rows):
            texts = store.read(some)
            for tokens in enc.encode_ordinary_batch(texts, num_threads=os.cpu_count() or 1):
                content = np.array(tokens or [enc.eot_token], '<u4').tobytes()
                sha256.update(content)
                file.write(content)
                offsets.append(offsets[-1] + len(content) // 4)
        file.seek(0)
        write_npy_header(file, offsets[-1])
    return np.array(offsets, np.uint64), sha256.hexdigest()


def write_split(folder, side, rows, store, enc):
    """Write the arrays of a split -> {column: array} without the tokens, and {file: sha256}."""
    of_side = np.flatnonzero(rows.sides == side)
    file = f'{side}_tokens.npy'
    offsets, tokens_sha256 = tokenize(store, rows.stored[of_side].tolist(), enc, folder / file)
    checksums = {file: tokens_sha256}
    columns = {'offsets': offsets, 'labels': rows.labels[of_side]}
    if rows.groups is not None:
        columns['groups'] = rows.groups[of_side]
    for column, values in columns.items():
        file = f'{side}_{column}.npy'
        np.save(folder / file, values)
        checksums[file] = hashlib.sha256(values).hexdigest()
    return columns, checksums


def write_unlabelled(folder, config, rows, store, enc):
    """Write the arrays of the unlabelled texts -> their entry in meta.json."""
    files = 'unlabelled_tokens.npy', 'unlabelled_offsets.npy'
    offsets, tokens_sha256 = tokenize(store, rows, enc, folder / files[0])
    np.save(folder / files[1], offsets)
    checksums = tokens_sha256, hashlib.sha256(offsets).hexdigest()
    return {'source': config.unlabelled, 'rows': len(rows), 'tokens': int(offsets[-1]),
            'sha256': dict(zip(files, checksums))}


def count_split(columns):
    return {'rows': len(columns['labels']), 'tokens': int(columns['offsets'][-1])}


def count_shared_groups(columns):
    """{'train/val': number of groups in both, or None if the source has no groups, ...}"""
    shared = {}
    for a, b in ('train', 'val'), ('train', 'test'), ('val', 'test'):
        if 'groups' in columns[a]:
            shared[f'{a}/{b}'] = len(np.intersect1d(columns[a]['groups'], columns[b]['groups']))
        else:
            shared[f'{a}/{b}'] = None
    return shared


def write_data_set(folder, config, rows, store, facts, unlabelled=None):
    """Write the arrays and meta.json -> (meta, {split: {column: array}}).

    store: the `TextStore` of the rows. facts: further entries of meta.json. unlabelled: the rows of
    unlabelled texts and their `TextStore`."""
    enc = load_tokenizer(config.tokenizer)
    columns = {}
    checksums = {}
    with replacing_folder(folder) as new:
        for side in SPLITS:
            columns[side], checksums_of_split = write_split(new, side, rows, store, enc)
            checksums.update(checksums_of_split)
        meta = {
            'version': FORMAT_VERSION,
            'name': folder.name,
            'source': config.source,
            'fingerprint': rows.fingerprint,
            'tokenizer': {'name': config.tokenizer, 'sha256': table_sha256(enc._mergeable_ranks)},
            'vocab_size': enc.n_vocab,
            'classes': rows.classes,
            'splits': {side: count_split(columns[side]) for side in SPLITS},
            'shared_groups': count_shared_groups(columns),
            'seed': config.seed,
            'sha256': checksums,
            **facts,
        }
        if unlabelled:
            meta['unlabelled'] = write_unlabelled(new, config, *unlabelled, enc)
        write_json(new / 'meta.json', meta)
    return meta, columns


def print_table(folder, config, meta, columns, group_word):
    """Print a line per split, and the dropped rows. group_word: 'groups' or 'movies'."""
    classes = one_line(', '.join(meta['classes'][:20])) or 'no classes'
    if len(meta['classes']) > 20:
        classes += f', ... ({len(meta["classes"]):,} classes)'
    print(f'{folder}: {classes}; tokens of {config.tokenizer}')
    print(f'{"":6}{"texts":>10}{"tokens":>13}{group_word:>9}   over {config.block_size} tokens')
    for side in SPLITS:
        counts = meta['splits'][side]
        n_groups = len(np.unique(columns[side].get('groups', ())))
        longer = (np.diff(columns[side]['offsets']) > config.block_size).sum()
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
        print(f'warning: train shares {group_word} with val or test, so accuracy there is too high')


def main(config):
    kind = kind_of_source(config.source)
    imdb = kind in ('imdb', 'archive')
    folder = data_set_folder(config, kind)
    check_settings(config, kind)

    store = TextStore()
    rows, dropped, n_empty, commit = read_source(config, kind, store)
    dropped |= split(rows, config, imdb)
    dropped |= drop_unknown_classes(rows, config)
    warnings = check_splits(rows, config, dropped)
    if n_empty:
        warnings.insert(0, f'{n_empty:,} texts are empty')
    unlabelled = None
    if config.unlabelled:
        unlabelled_store = TextStore()
        found, n_dropped, n_blank = unlabelled_rows(config, rows, store, unlabelled_store)
        if n_blank:
            warnings.append(f'{n_blank:,} unlabelled texts are empty')
        dropped['unlabelled texts that are in val or test'] = n_dropped
        unlabelled = found, unlabelled_store

    # tokenizing takes longest, so it comes after all checks of the source
    facts = {'dropped': dropped, 'empty': n_empty}
    if commit:
        facts['commit'] = commit
    meta, columns = write_data_set(folder, config, rows, store, facts, unlabelled)
    print_table(folder, config, meta, columns, 'movies' if imdb or kind == 'sample' else 'groups')
    for warning in warnings:
        print(f'warning: {warning}')


if __name__ == '__main__':
    config = configure(globals())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # removes half-written files
    try:
        main(config)
    except MemoryError:
        fail('out of memory; nothing was written')
    except KeyboardInterrupt:
        print('\nstopped; nothing was written', file=sys.stderr)
        sys.exit(130)
