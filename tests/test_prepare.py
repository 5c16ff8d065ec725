"""prepare.py, on the real archive and on small files: a minute, half of it for the archive."""
import csv
import gzip
import hashlib
import io
import json
import math
import os
import random
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import prepare
from helpers import config_of
from nanoloss.data import load_data
from nanoloss.rows import digest_of
from nanoloss.sources import unlabelled_texts

ROOT = Path(__file__).parents[1]
ARCHIVE = ROOT.parent / 'shared' / 'imdb' / 'aclImdb.tar.gz'
SPLITS = 'train', 'val', 'test'
needs_archive = pytest.mark.skipif(not ARCHIVE.exists(), reason=f'{ARCHIVE} is not there')


def run(*argv):
    prepare.main(config_of(prepare, *argv))


def load(folder):
    """-> meta, {split: {'tokens': [array of each review], 'labels':, 'groups':}}."""
    meta = json.loads((folder / 'meta.json').read_text(encoding='utf-8'))
    data = {}
    for split in SPLITS:
        tokens = np.load(folder / f'{split}_tokens.npy', mmap_mode='r')
        offsets = np.load(folder / f'{split}_offsets.npy', mmap_mode='r')
        labels = np.load(folder / f'{split}_labels.npy', mmap_mode='r')
        assert (tokens.dtype, offsets.dtype) == (np.uint32, np.uint64)
        assert labels.dtype == (np.uint8 if len(meta['classes']) <= 255 else np.uint16)
        assert offsets[0] == 0 and offsets[-1] == len(tokens) and len(offsets) == len(labels) + 1
        reviews = np.split(np.asarray(tokens), offsets[1:-1].astype(int))
        data[split] = {'tokens': reviews, 'labels': labels}
        groups = folder / f'{split}_groups.npy'
        if groups.exists():
            data[split]['groups'] = np.load(groups)
            assert data[split]['groups'].dtype == np.uint32
            assert len(data[split]['groups']) == len(labels)
        assert meta['splits'][split] == {'rows': len(labels), 'tokens': len(tokens)}
    return meta, data


@pytest.fixture(scope='session')
def enc():
    return prepare.load_tokenizer()


def failure(capsys, *argv):
    """Run it, which must fail as a user's mistake does -> its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run(*argv)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == '', err
    assert err.count('\n') == 1 and 'Traceback' not in err, err
    return err


def texts_of(data, split, enc):
    return [enc.decode_bytes(tokens.tolist()).decode() for tokens in data[split]['tokens']]


def assert_same_arrays(folder, other):
    files = sorted(folder.glob('*.npy'))
    assert [file.name for file in files] == sorted(file.name for file in other.glob('*.npy'))
    for file in files:
        assert file.read_bytes() == (other / file.name).read_bytes()


# ------------------------------------------------------------------------- the real archive


@pytest.fixture(scope='session')
def archive():
    """{(side, kind, id): (text, movie)}, read in another way: all in memory, by path."""
    if not ARCHIVE.exists():
        pytest.skip(f'{ARCHIVE} is not there')
    files = {}
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(ARCHIVE.read_bytes()))) as tar:
        for member in tar:
            if member.isfile():
                files[member.name] = tar.extractfile(member).read().decode('utf-8')
    reviews = {}
    urls = {}
    for side in 'train', 'test':
        for kind in 'neg', 'pos':
            urls[side, kind] = files[f'aclImdb/{side}/urls_{kind}.txt'].split('\n')
    for path, content in files.items():
        parts = path.split('/')
        if len(parts) == 4:
            _, side, kind, file = parts
            number = int(file.split('_')[0])
            movie = int(urls[side, kind][number].split('/')[4][2:])
            reviews[side, kind, number] = content, movie
    assert len(reviews) == 50000
    return reviews


@pytest.fixture(scope='session')
def prepared(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp('real')
    started = time.process_time()
    run(f'--source={ARCHIVE}', f'--data_dir={folder}')
    assert time.process_time() - started < 60  # 20 s of all threads
    return folder / 'imdb', *load(folder / 'imdb')


@pytest.fixture(scope='session')
def decoded(prepared, enc):
    """{split: [(text, label, movie) of each row]}"""
    _, _, data = prepared
    rows = {}
    for split in SPLITS:
        labels = data[split]['labels'].tolist()
        movies = data[split]['groups'].tolist()
        rows[split] = list(zip(texts_of(data, split, enc), labels, movies))
    return rows


def test_imdb_rows_are_the_reviews_that_the_leak_rules_leave(archive, prepared, decoded):
    _, meta, _ = prepared
    assert meta['classes'] == ['neg', 'pos'] and meta['name'] == 'imdb'
    assert [len(decoded[split]) for split in SPLITS] == [24998, 2500, 22377]
    official = {'train': Counter(), 'test': Counter()}
    for (side, kind, _), (content, movie) in archive.items():
        official[side][content, int(kind == 'pos'), movie] += 1
    rows = {split: Counter(decoded[split]) for split in SPLITS}

    gone = official['train'] - rows['train']
    assert not rows['train'] - official['train'] and {movie for *_, movie in gone} == {406816}
    assert sum(gone.values()) == 2
    held_out = rows['val'] + rows['test']
    gone = official['test'] - held_out
    assert not held_out - official['test'] and sum(gone.values()) == 123
    train_texts = {content for (side, *_), (content, _) in archive.items() if side == 'train'}
    assert all(content in train_texts for content, *_ in gone)
    assert set(meta['dropped'].values()) == {0, 2, 123}


def test_train_shares_no_movie_and_no_text_with_val_or_test(archive, decoded, prepared):
    movies_of = {}  # by text, from the urls files; a repeated text may belong to several movies
    for (side, *_), (content, movie) in archive.items():
        movies_of.setdefault((side, content), set()).add(movie)
    movies = {}
    texts = {}
    for split in SPLITS:
        side = 'train' if split == 'train' else 'test'
        texts[split] = {content for content, *_ in decoded[split]}
        movies[split] = set().union(*(movies_of[side, content] for content in texts[split]))
    for split in 'val', 'test':
        assert not movies['train'] & movies[split] and not texts['train'] & texts[split]

    _, meta, data = prepared
    in_both = set(data['val']['groups'].tolist()) & set(data['test']['groups'].tolist())
    assert meta['shared_groups'] == {'train/val': 0, 'train/test': 0, 'val/test': len(in_both)}
    assert len(in_both) > 1000  # as in the paper


def test_imdb_token_totals(archive, prepared, decoded):
    """7,426,848 train and 7,256,820 test tokens of all reviews: of the kept and the dropped."""
    import bpe_openai
    other = bpe_openai.get_encoding('cl100k_base')
    _, meta, _ = prepared
    for side, total, splits in [('train', 7_426_848, ['train']),
                                ('test', 7_256_820, ['val', 'test'])]:
        dropped = Counter(content for (s, *_), (content, _) in archive.items() if s == side)
        tokens = 0
        for split in splits:
            dropped -= Counter(content for content, *_ in decoded[split])
            tokens += meta['splits'][split]['tokens']
        tokens += sum(len(other.encode(content)) for content in dropped.elements())
        assert tokens == total


def test_tokens_are_those_of_the_tokenizer(prepared, enc):
    """test_tokenizer.py shows that `enc` is tiktoken's; here is another one that agrees."""
    import bpe_openai
    other = bpe_openai.get_encoding('cl100k_base')
    _, meta, data = prepared
    assert meta['vocab_size'] == 100277
    assert meta['tokenizer'] == {
        'name': 'cl100k_base',
        'sha256': '223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7'}
    for row in random.Random(0).sample(range(22377), 300):
        tokens = data['test']['tokens'][row].tolist()
        content = enc.decode(tokens)
        assert tokens == enc.encode_ordinary(content) == other.encode(content)


def test_meta_has_the_checksum_of_each_array(prepared):
    folder, meta, _ = prepared
    files = sorted(folder.glob('*.npy'))
    assert sorted(meta['sha256']) == [file.name for file in files] and len(files) == 12
    for file in files:
        assert hashlib.sha256(np.load(file).tobytes()).hexdigest() == meta['sha256'][file.name]
    assert meta['version'] == 1


def test_hub_gives_the_same_arrays(archive, prepared, decoded, enc, tmp_path, monkeypatch, capsys):
    import datasets
    import huggingface_hub
    folder, meta, data = prepared
    features = datasets.Features({'text': datasets.Value('string'),
                                  'label': datasets.ClassLabel(names=['neg', 'pos'])})
    hub = {'unsupervised': datasets.Dataset.from_dict({'text': ['?'], 'label': [-1]})}
    for side in 'train', 'test':
        rows = []
        for (archive_side, kind, _), (content, _) in archive.items():
            if archive_side == side:
                rows.append((content, int(kind == 'pos')))
        random.Random(side).shuffle(rows)
        columns = {'text': [content for content, _ in rows], 'label': [y for _, y in rows]}
        hub[side] = datasets.Dataset.from_dict(columns, features)
    info = SimpleNamespace(sha='abc')
    monkeypatch.setattr(huggingface_hub.HfApi, 'dataset_info', lambda *_, **__: info)
    monkeypatch.setattr(datasets, 'load_dataset',
                        lambda path, config, revision: hub if revision == 'abc' else None)

    # tokens of these very texts are looked up, not made again, to save the time
    known = {}
    for split in SPLITS:
        for (content, *_), tokens in zip(decoded[split], data[split]['tokens']):
            known[content] = tokens

    def look_up(texts, **_):
        return [known[content].tolist() for content in texts]

    lookup = SimpleNamespace(n_vocab=enc.n_vocab, _mergeable_ranks=enc._mergeable_ranks,
                             encode_ordinary_batch=look_up)
    monkeypatch.setattr(prepare, 'load_tokenizer', lambda name: lookup)
    run(f'--data_dir={tmp_path}')
    files = sorted(file.name for file in (tmp_path / 'imdb').glob('*.npy'))
    assert len(files) == 9 and not any('groups' in file for file in files)
    for file in files:
        assert (tmp_path / 'imdb' / file).read_bytes() == (folder / file).read_bytes()
    twin = json.loads((tmp_path / 'imdb' / 'meta.json').read_text())
    for key in ('fingerprint', 'classes', 'splits', 'dropped', 'tokenizer', 'vocab_size', 'seed',
                'version'):
        assert twin[key] == meta[key]
    assert set(twin['shared_groups'].values()) == {None}

    assert '--dev splits by group' in failure(capsys, '--dev', f'--data_dir={tmp_path}')
    for side in 'train', 'test':
        hub[side] = hub[side].select(range(100))  # without the two leaks known by their hash
    assert 'not those of the archive' in failure(capsys, f'--data_dir={tmp_path}')


# ------------------------------------------------------------------------- small archives


def small_archive(path, change=None):
    """12 reviews in each of the four folders.

    Movie 7 has one of train and three of test; movie 8 two and one.
    change: a function that edits its {name: bytes}.
    """
    shared = {('train', 'neg', 0): 7, ('test', 'pos', 0): 7, ('test', 'pos', 1): 7,
              ('test', 'pos', 2): 7, ('train', 'pos', 3): 8, ('train', 'pos', 4): 8,
              ('test', 'neg', 5): 8}
    files = {'aclImdb/train/unsup/0_0.txt': b'unlabelled',
             'aclImdb/train/urls_unsup.txt': b'x/title/tt1/', 'aclImdb/README': b'\xff'}
    for s, side in enumerate(('train', 'test')):
        for k, kind in enumerate(('neg', 'pos')):
            urls = ''
            for i in range(12):
                movie = shared.get((side, kind, i), 1000 * s + 100 * k + 100 + i // 2)
                urls += f'http://www.imdb.com/title/tt{movie:07}/usercomments\n'
                files[f'aclImdb/{side}/{kind}/{i}_7.txt'] = f'{side} {kind} {i}'.encode()
            files[f'aclImdb/{side}/urls_{kind}.txt'] = urls.encode()
    if change:
        change(files)
    with tarfile.open(path, 'w:gz') as tar:
        for file, content in files.items():
            info = tarfile.TarInfo(file)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_small_archive_and_its_folder(tmp_path, enc, capsys):
    def repeat_a_train_review(files):
        files['aclImdb/test/pos/9_7.txt'] = b'train pos 9'

    path = small_archive(tmp_path / 'small.tar.gz', repeat_a_train_review)
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path)
    run(f'--source={path}', f'--data_dir={tmp_path}/a')
    out = capsys.readouterr().out
    assert 'dropped: 2 reviews of movies' in out and 'dropped: 1 test texts' in out
    run(f'--source={tmp_path}/aclImdb', f'--data_dir={tmp_path}/b')
    assert_same_arrays(tmp_path / 'a' / 'imdb', tmp_path / 'b' / 'imdb')

    _, data = load(tmp_path / 'a' / 'imdb')
    train, val, test = (texts_of(data, split, enc) for split in SPLITS)
    official = {'train': set(), 'test': set()}
    for side in 'train', 'test':
        for kind in 'neg', 'pos':
            official[side].update(f'{side} {kind} {i}' for i in range(12))
    assert sorted(train) == sorted(official['train'] - {'train neg 0'})
    assert sorted(val + test) == sorted(official['test'] - {'test neg 5', 'test pos 9'})
    assert len(val) == 11

    run(f'--source={path}', f'--data_dir={tmp_path}/a', '--dev')
    meta, data = load(tmp_path / 'a' / 'imdb_dev')
    rows = []
    for split in SPLITS:
        assert data[split]['labels'].size
        rows += texts_of(data, split, enc)
    assert sorted(rows) == sorted(train)
    movies = [set(data[split]['groups'].tolist()) for split in SPLITS]
    assert sum(map(len, movies)) == len(set.union(*movies))
    assert meta['name'] == 'imdb_dev' and not any(meta['shared_groups'].values())


def test_unlabelled_texts(tmp_path, enc, capsys):
    """From an archive, its folder and a file: the same arrays, and the labelled ones as without."""
    texts = [f'unlabelled {i % 5}' for i in range(6)] + ['train pos 9']
    path = small_archive(tmp_path / 'small.tar.gz')
    run(f'--source={path}', f'--data_dir={tmp_path}/plain')
    _, data = load(tmp_path / 'plain/imdb')
    held_out = [texts_of(data, split, enc)[0] for split in ('val', 'test')]

    def add_texts(files):
        del files['aclImdb/train/unsup/0_0.txt']
        for i, one in enumerate([*texts, *held_out]):
            files[f'aclImdb/train/unsup/{i}_0.txt'] = one.encode()

    small_archive(path, add_texts)
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path)
    with open(tmp_path / 'more.csv', 'w', newline='') as file:
        csv.writer(file).writerows([['text'], [held_out[1]], *([one] for one in texts[::-1]),
                                    [held_out[0]]])
    plain = json.loads((tmp_path / 'plain/imdb/meta.json').read_text())
    capsys.readouterr()
    arrays = []
    for i, unlabelled in enumerate([path, tmp_path / 'aclImdb', tmp_path / 'more.csv']):
        folder = tmp_path / str(i) / 'imdb'
        run(f'--source={path}', f'--unlabelled={unlabelled}', f'--data_dir={folder.parent}')
        out = capsys.readouterr().out
        assert 'unlabelled: 7 texts' in out
        assert 'dropped: 2 unlabelled texts that are in val or test' in out
        for array in (tmp_path / 'plain/imdb').glob('*.npy'):
            assert (folder / array.name).read_bytes() == array.read_bytes()
        meta = json.loads((folder / 'meta.json').read_text())
        assert meta['sha256'] == plain['sha256']  # so that a run's data are the same

        tokens = np.load(folder / 'unlabelled_tokens.npy')
        offsets = np.load(folder / 'unlabelled_offsets.npy')
        found = [enc.decode(tokens[a:b].tolist()) for a, b in zip(offsets[:-1], offsets[1:])]
        assert sorted(found) == sorted(texts)
        assert meta['unlabelled']['rows'] == 7 and meta['unlabelled']['tokens'] == len(tokens)
        for file, checksum in meta['unlabelled']['sha256'].items():
            assert hashlib.sha256(np.load(folder / file)).hexdigest() == checksum
        arrays.append((tokens.tolist(), offsets.tolist()))
    assert arrays[0] == arrays[1] == arrays[2]

    def says(message, unlabelled):
        argv = f'--source={path}', f'--unlabelled={unlabelled}', f'--data_dir={tmp_path}/none'
        assert message in failure(capsys, *argv)
        assert not (tmp_path / 'none').exists()

    says('No such file', tmp_path / 'missing.tar.gz')
    says('no text in train/unsup', tmp_path / 'plain')
    (tmp_path / 'label.csv').write_text('label\nx\n')
    says("no column 'text'", tmp_path / 'label.csv')
    (tmp_path / 'all.csv').write_text('\n'.join(['text', *held_out]))
    says('all of its texts are in val or test', tmp_path / 'all.csv')


def test_archives_that_are_not_right(tmp_path, capsys):
    def without(part):
        def change(files):
            for file in list(files):
                if part in file:
                    del files[file]
        return change

    def without_the_last_url(files):
        lines = files['aclImdb/test/urls_pos.txt'].splitlines(True)
        files['aclImdb/test/urls_pos.txt'] = b''.join(lines[:-1])

    def with_latin_1(files):
        files['aclImdb/test/pos/3_7.txt'] = b'caf\xe9'

    def says(message, change):
        path = small_archive(tmp_path / 'small.tar.gz', change)
        assert message in failure(capsys, f'--source={path}', f'--data_dir={tmp_path}/data')
        assert not (tmp_path / 'data').exists()

    says("('train', 'neg', 4)", without('train/neg/4_7'))
    says('not a whole', without('test/urls_pos'))
    says("('test', 'pos', 11)", without_the_last_url)
    says('no texts are left for val', without('/test/'))
    says('0 reviews', without(''))
    says('1 classes', without('neg'))
    says("can't decode", with_latin_1)

    intact = small_archive(tmp_path / 'small.tar.gz').read_bytes()
    tar = gzip.decompress(intact)
    (tmp_path / 'd.tar.gz').mkdir()
    for bad in (intact[:len(intact) // 2], intact[:-20], intact[:5], b'', b'no archive',
                gzip.compress(tar[:20000]), gzip.compress(tar[:len(tar) // 2]),
                intact[:300] + b'XXXX' + intact[304:]):
        (tmp_path / 'cut.tar.gz').write_bytes(bad)
        failure(capsys, f'--source={tmp_path}/cut.tar.gz', f'--data_dir={tmp_path}/data')
    for file, message in ('missing.tar.gz', 'No such file'), ('d.tar.gz', '0 reviews'):
        argv = f'--source={tmp_path}/{file}', f'--data_dir={tmp_path}/data'
        assert message in failure(capsys, *argv)
    assert not (tmp_path / 'data').exists()


@needs_archive
def test_real_archive_cut_short(tmp_path, capsys):
    with open(ARCHIVE, 'rb') as file:
        (tmp_path / 'aclImdb.tar.gz').write_bytes(file.read(2_000_000))
    failure(capsys, f'--source={tmp_path}/aclImdb.tar.gz', f'--data_dir={tmp_path}/data')
    assert os.listdir(tmp_path) == ['aclImdb.tar.gz']


# ------------------------------------------------------------------------- files of one's own


def write_csv(path, rows, header=('text', 'label'), **kwargs):
    with open(path, 'w', newline='', encoding='utf-8') as file:
        csv.writer(file, **kwargs).writerows([header, *rows])
    return path


def plain(n, classes=('no', 'yes')):
    return [(f'review number {i}', classes[i % len(classes)]) for i in range(n)]


ODD = ['he said "hello",\nand left', 'NA', 'null', 'None', 'nan', '', ' \tspaces ', 'tab\tin it',
       '1.0', '007', '#x', 'caf\u00e9 \u2014 \U0001f600 \u4f60\u597d', '"', 'a,b,,c',
       'line\r\nend', '<|endoftext|>', "it's <br /><br />"]


@pytest.mark.parametrize('kind', ['csv', 'bom.csv', 'index.csv', 'tsv', 'jsonl', 'bom.jsonl',
                                  'parquet'])
def test_every_kind_of_file_is_read_as_it_is(kind, tmp_path, enc):
    texts = ODD + [f'more {i}' for i in range(60)]
    rows = [(content, 'pos' if i % 2 else 'neg', f'm{i}') for i, content in enumerate(texts)]
    path = tmp_path / f'my.{kind}'
    header = 'text', 'label', 'film'
    if kind.endswith('index.csv'):  # as pandas writes its index
        write_csv(path, [(i, *row) for i, row in enumerate(rows)], ('', *header))
    elif kind.endswith('sv'):
        write_csv(path, rows, header, delimiter='\t' if kind == 'tsv' else ',')
    elif kind.endswith('jsonl'):
        lines = [json.dumps({**dict(zip(header, row)), 'other': None}) + '\n' for row in rows]
        path.write_text(''.join(lines))
    else:
        import pandas
        pandas.DataFrame(rows, columns=header).to_parquet(path)
    if kind.startswith('bom'):
        path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())

    run(f'--source={path}', '--group=film', f'--data_dir={tmp_path}/data')
    meta, data = load(tmp_path / 'data' / path.stem)
    found = []
    tokens = []
    for split in SPLITS:
        names = [meta['classes'][y] for y in data[split]['labels']]
        found += zip(texts_of(data, split, enc), names)
        tokens += [review.tolist() for review in data[split]['tokens']]
    assert sorted(found) == sorted((content or '<|endoftext|>', y) for content, y, _ in rows)
    assert tokens.count([100257]) == 1  # the empty review
    # not the special token, if it is in a text
    assert enc.encode_ordinary('<|endoftext|>') in tokens
    assert os.listdir(tmp_path / 'data') == [path.stem]


def test_several_files_are_one(tmp_path, capsys):
    rows = plain(90)
    write_csv(tmp_path / 'all.csv', rows)
    for i in range(3):
        write_csv(tmp_path / f'part{i}.csv', rows[30 * i:30 * i + 30])
    run(f'--source={tmp_path}/all.csv', f'--data_dir={tmp_path}/data')
    run(f'--source={tmp_path}/part*.csv', f'--data_dir={tmp_path}/data', '--name=parts')
    assert_same_arrays(tmp_path / 'data/all', tmp_path / 'data/parts')
    assert 'choose one with --name' in failure(
        capsys, f'--source={tmp_path}/part*.csv', f'--data_dir={tmp_path}/data')
    # unlabelled texts, too
    run(f'--source={tmp_path}/all.csv', f'--data_dir={tmp_path}/data', '--name=more',
        f'--unlabelled={tmp_path}/p*.csv')
    meta, _ = load(tmp_path / 'data/more')
    assert meta['unlabelled']['rows'] == 90 - 9 - 9


def hub_data_set(folder, splits):
    """A data set in the hub's layout: {split: (texts, numbers of classes)}."""
    import datasets
    features = datasets.Features({'text': datasets.Value('string'),
                                  'label': datasets.ClassLabel(names=['yes', 'no'])})
    (folder / 'data').mkdir(parents=True)
    for split, (texts, labels) in splits.items():
        data = datasets.Dataset.from_dict({'text': texts, 'label': labels}, features)
        data.to_parquet(folder / 'data' / f'{split}-00000-of-00001.parquet')


def test_any_data_set_of_the_hub(tmp_path, enc, capsys):
    texts = {split: [f'{split} {i}' for i in range(50)] for split in ('train', 'test')}
    labels = {'train': [0, 1] * 25, 'test': [1, 0] * 20 + [-1] * 10}
    hub_data_set(tmp_path / 'good_ones', {split: (texts[split], labels[split]) for split in texts})
    argv = [f'--source=hub:{tmp_path}/good_ones', f'--data_dir={tmp_path}/data']
    run(*argv)
    meta, data = load(tmp_path / 'data/good_ones')
    assert meta['classes'] == ['no', 'yes']  # of the features, in the order of names
    assert sorted(texts_of(data, 'test', enc)) == sorted(texts['test'][:40])
    for content, label in zip(texts_of(data, 'test', enc), data['test']['labels']):
        assert label == int(content.split()[-1]) % 2
    assert len(data['val']['labels']) == 4
    missing = f"texts without 'label', the first in hub:{tmp_path}/good_ones, test, row 41"
    assert f'dropped: 10 {missing}' in capsys.readouterr().out
    assert meta['dropped'][missing] == 10

    assert f'10 {missing}' in failure(capsys, *argv, '--strict')
    assert "has no split 'dev', only 'train', 'test'" in failure(capsys, *argv, '--val_split=dev')
    assert "no column 'body'" in failure(capsys, *argv, '--text=body')
    assert 'go with files' in failure(capsys, *argv, '--val_source=val.csv')
    run(*argv, '--train_split=test', '--test_split=train', '--name=turned')
    _, data = load(tmp_path / 'data/turned')
    assert sorted(texts_of(data, 'test', enc)) == sorted(texts['train'])


def test_several_labels_of_the_hub(tmp_path):
    import datasets
    names = datasets.ClassLabel(names=['joy', 'fear', 'love'])
    features = datasets.Features({'text': datasets.Value('string'), 'label': datasets.List(names)})
    rows = [[], [2], [0, 1]] * 20
    data = datasets.Dataset.from_dict({'text': [f'text {i}' for i in range(60)], 'label': rows},
                                      features)
    (tmp_path / 'feelings').mkdir()
    data.to_parquet(tmp_path / 'feelings/train.parquet')
    argv = [f'--source=hub:{tmp_path}/feelings', f'--data_dir={tmp_path}/data']
    run(*argv, '--label_sep=;')
    meta, data = load(tmp_path / 'data/feelings')
    assert meta['classes'] == ['fear', 'joy', 'love']
    found = np.concatenate([data[split]['labels'] for split in SPLITS])
    assert sorted(map(tuple, found)) == [(0, 0, 0)] * 20 + [(0, 0, 1)] * 20 + [(1, 1, 0)] * 20


def test_a_hub_that_cannot_be_reached(tmp_path, monkeypatch, capsys):
    """A clear line within seconds; and what is asked of it where it can be."""
    import datasets
    import huggingface_hub
    monkeypatch.setattr(datasets.config, 'HF_HUB_OFFLINE', False)
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
    done = subprocess.run(
        [sys.executable, ROOT / 'prepare.py', '--source=hub:no/such', f'--data_dir={tmp_path}'],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert 'cannot get no/such from the hub' in done.stderr
    assert done.stderr.count('\n') == 1

    asked = []
    info = SimpleNamespace(sha='abc')
    monkeypatch.setattr(huggingface_hub.HfApi, 'dataset_info',
                        lambda self, path, **options: asked.append((path, options)) or info)
    columns = {'text': [f't{i}' for i in range(40)], 'label': ['a', 'b'] * 20}
    one = datasets.Dataset.from_dict(columns)
    monkeypatch.setattr(datasets, 'load_dataset',
                        lambda *args, **options: asked.append((args, options)) or {'train': one})
    run('--source=hub:me/mine', '--hub_config=en', '--revision=v1', f'--data_dir={tmp_path}/data')
    assert asked == [('me/mine', {'revision': 'v1', 'timeout': 5}),
                     (('me/mine', 'en'), {'revision': 'abc'})]
    meta, _ = load(tmp_path / 'data/mine')
    assert meta['source'] == 'hub:me/mine'
    assert meta['commit'] == 'abc'


@pytest.mark.parametrize('sides', [[''], ['train', 'test'], ['train', 'val', 'test']], ids=' '.join)
def test_a_folder_of_classes(sides, tmp_path, enc, capsys):
    texts = {side: [f'{side} text {i}\r\n' for i in range(40)] for side in sides}
    for side in sides:
        for i, content in enumerate(texts[side]):
            file = tmp_path / 'my' / side / ('spam', 'ham')[i % 2] / 'deep' / f'{i}.txt'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode())
    argv = f'--source={tmp_path}/my/', f'--data_dir={tmp_path}/data'
    run(*argv)
    meta, data = load(tmp_path / 'data/my')
    assert meta['classes'] == ['ham', 'spam']
    found = {split: texts_of(data, split, enc) for split in SPLITS}
    for split in SPLITS:
        for content, label in zip(found[split], data[split]['labels']):
            assert label == (int(content.split()[-1]) % 2 == 0)
    if 'test' in sides:
        assert sorted(found['test']) == sorted(texts['test'])
    assert sorted(sum(found.values(), [])) == sorted(sum(texts.values(), []))

    assert 'it has no columns' in failure(capsys, *argv, '--group=film')
    assert 'readme' not in capsys.readouterr().out
    (tmp_path / 'my/readme.txt').write_text('')
    assert 'readme.txt is in no folder of a class' in failure(capsys, *argv)
    (tmp_path / 'my/readme.txt').unlink()
    file.write_bytes(b'caf\xe9')
    assert f'{file}: cannot be read' in failure(capsys, *argv)
    (tmp_path / 'none').mkdir()
    assert 'there is no .txt file' in failure(capsys, f'--source={tmp_path}/none', argv[1])


def write_folders(path, sides, n=40):
    """Texts in path/SIDE/CLASS for each of the sides -> {side: its texts}."""
    texts = {}
    for side in sides:
        texts[side] = [f'{side} text {i}' for i in range(n)]
        for i, content in enumerate(texts[side]):
            file = path / side / ('spam', 'ham')[i % 2] / f'{i}.txt'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
    return texts


@pytest.mark.parametrize('val', ['validation', 'valid', 'dev', 'VAL', None])
@pytest.mark.parametrize('train, test', [('train', 'test'), ('Train', 'Test')])
def test_folders_of_splits_by_other_names(val, train, test, tmp_path, enc):
    texts = write_folders(tmp_path / 'my', [train, test, *([val] if val else [])])
    run(f'--source={tmp_path}/my', f'--data_dir={tmp_path}/data')
    meta, data = load(tmp_path / 'data/my')
    assert meta['classes'] == ['ham', 'spam']
    assert set(texts_of(data, 'test', enc)) == set(texts[test])
    if val:
        assert set(texts_of(data, 'val', enc)) == set(texts[val])
        assert set(texts_of(data, 'train', enc)) == set(texts[train])


@pytest.mark.parametrize('train, test', [
    ('trainset', 'testset'), ('my_train', 'my_test'), ('Train Data', 'Test Data'),
    ('20news-bydate-train', '20news-bydate-test')])
def test_folders_of_splits_with_more_in_their_names(train, test, tmp_path, enc):
    texts = write_folders(tmp_path / 'my', [train, test])
    run(f'--source={tmp_path}/my', f'--data_dir={tmp_path}/data')
    meta, data = load(tmp_path / 'data/my')
    assert meta['classes'] == ['ham', 'spam']
    assert set(texts_of(data, 'test', enc)) == set(texts[test])


def test_folders_of_classes_with_such_names(tmp_path):
    write_folders(tmp_path / 'my', ['.'])
    for old, new in ('spam', 'test-drive'), ('ham', 'repair'):
        (tmp_path / 'my' / old).rename(tmp_path / 'my' / new)
    run(f'--source={tmp_path}/my', f'--data_dir={tmp_path}/data')
    assert load(tmp_path / 'data/my')[0]['classes'] == ['repair', 'test-drive']


def test_folders_that_cannot_be_read(tmp_path, capsys, monkeypatch):
    write_folders(tmp_path / 'my', ['.'])
    argv = f'--source={tmp_path}/my', f'--data_dir={tmp_path}/data'
    real = os.scandir

    def scandir(path):  # as root, tests can enter any folder
        if str(path).endswith('spam'):
            raise PermissionError(13, 'Permission denied')
        return real(path)
    monkeypatch.setattr(os, 'scandir', scandir)
    assert 'Permission denied' in failure(capsys, *argv)
    monkeypatch.undo()
    os.rename(tmp_path / 'my/spam', os.fsencode(tmp_path / 'my') + b'/caf\xe9')
    assert 'the name of its folder is not UTF-8' in failure(capsys, *argv)


@pytest.mark.parametrize('sides, message', [
    (['train', 'test', 'extra'], 'test, train are names of splits and extra are not'),
    (['test', 'val'], 'wanted one folder for train'),
    (['train', 'val', 'validation'], 'at most one for val'),
    (['train', 'Train'], 'wanted one folder for train')])
def test_folders_of_splits_and_others(sides, message, tmp_path, capsys):
    write_folders(tmp_path / 'my', sides)
    assert message in failure(capsys, f'--source={tmp_path}/my', f'--data_dir={tmp_path}/data')


def test_files_in_folders_that_are_no_texts(tmp_path, enc, capsys):
    """Those of notebooks, macOS and version control are skipped, others are counted and named."""
    texts = write_folders(tmp_path, ['my'])['my']
    for name in ('.ipynb_checkpoints/0-checkpoint.txt', '__MACOSX/spam/0.txt', '.git/a/b.txt',
                 'spam/.DS_Store', 'ham/._0.txt', 'spam/notes.md', 'ham/a.png', 'ham/b.PNG',
                 'ham/README'):
        file = tmp_path / 'my' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b'Bud1\0\xff')
    (tmp_path / 'my/ham/UPPER.TXT').write_bytes('\ufeffupper case'.encode())
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere/linked.txt').write_text('linked')
    (tmp_path / 'my/spam/link').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'elsewhere/circle').symlink_to(tmp_path / 'my/spam')
    run(f'--source={tmp_path}/my', f'--data_dir={tmp_path}/data')
    out = capsys.readouterr().out
    meta, data = load(tmp_path / 'data/my')
    assert meta['classes'] == ['ham', 'spam']
    found = sum((texts_of(data, split, enc) for split in SPLITS), [])
    assert sorted(found) == sorted([*texts, 'upper case', 'linked'])
    assert 'dropped: 2 files that are not .txt (.png)' in out
    assert 'dropped: 1 files that are not .txt (.md)' in out
    assert 'dropped: 1 files that are not .txt (no ending)' in out

    (tmp_path / 'my/ham/cp.txt').write_bytes('caf\u00e9'.encode('cp1252'))
    argv = f'--source={tmp_path}/my', f'--data_dir={tmp_path}/data'
    assert 'see --encoding' in failure(capsys, *argv)
    run(*argv, '--encoding=cp1252')
    (tmp_path / 'csvs').mkdir()
    (tmp_path / 'csvs/train.csv').write_text('text,label')
    error = failure(capsys, f'--source={tmp_path}/csvs', f'--data_dir={tmp_path}/data')
    assert 'there is no .txt file in it, only 1 files that are not .txt (.csv)' in error


def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path, enc, capsys):
    """The rest is what it would be without them."""
    rows = [(content, label, f'film {i // 4}') for i, (content, label) in enumerate(plain(80))]
    header = 'text', 'label', 'film'
    write_csv(tmp_path / 'good.csv', rows, header)
    bad = [*rows[:10], ('no label', '', 'film 1'), *rows[10:30], ('no film', 'no', ''), *rows[30:],
           ('nothing', '', '')]
    write_csv(tmp_path / 'bad.csv', bad, header)
    for name in 'good', 'bad':
        run(f'--source={tmp_path}/{name}.csv', f'--data_dir={tmp_path}/data', '--group=film')
    assert_same_arrays(tmp_path / 'data/good', tmp_path / 'data/bad')
    out = capsys.readouterr().out
    assert f"dropped: 2 texts without 'label', the first in {tmp_path}/bad.csv, line 12" in out
    assert f"dropped: 2 texts without 'film', the first in {tmp_path}/bad.csv, line 33" in out


def test_stratified_seeded_and_the_same_whatever_the_order(tmp_path, enc):
    # 600 a, 300 b, 100 c
    rows = [(f'r{i}', 'abc'[(i % 10 > 5) + (i % 10 > 8)]) for i in range(1000)]
    write_csv(tmp_path / 'one.csv', rows)
    random.Random(1).shuffle(rows)
    write_csv(tmp_path / 'two.csv', rows)
    for source, name, seed in ('one', 'one', 1), ('two', 'two', 1), ('one', 'other', 2):
        run(f'--source={tmp_path}/{source}.csv', f'--name={name}', f'--seed={seed}',
            f'--data_dir={tmp_path}', '--val_frac=0.2')
    _, data = load(tmp_path / 'one')
    for split, share in ('train', .7), ('val', .2), ('test', .1):
        wanted = [round(n * share) for n in (600, 300, 100)]
        assert np.bincount(data[split]['labels']).tolist() == wanted
    assert_same_arrays(tmp_path / 'one', tmp_path / 'two')
    _, other = load(tmp_path / 'other')
    assert set(texts_of(other, 'val', enc)) != set(texts_of(data, 'val', enc))


def test_groups_are_not_cut(tmp_path, enc, capsys):
    rng = random.Random(5)
    rows = []
    for i in range(1500):
        y = rng.choice('ab')
        rows.append((f'r{i}', y, f'author {int(rng.paretovariate(.5)) % 80}'))
    author_of = {content: author for content, _, author in rows}
    write_csv(tmp_path / 'g.csv', rows, ('text', 'label', 'who'))
    for extra, name in ([], 'g'), (['--dev'], 'g_dev'):
        run(f'--source={tmp_path}/g.csv', '--group=who', f'--data_dir={tmp_path}', *extra)
        meta, data = load(tmp_path / name)
        texts = [texts_of(data, split, enc) for split in SPLITS]
        train, val, test = ({author_of[content] for content in split} for split in texts)
        assert train and val and test
        assert not train & val and not train & test and not val & test
        assert set(meta['shared_groups'].values()) == {0}
    out = capsys.readouterr().out
    assert 'groups in both: train/val 0, train/test 0, val/test 0' in out
    _, data = load(tmp_path / 'g')
    assert set(texts_of(data, 'train', enc)) == set().union(*texts)  # dev is g's train


# ------------------------------------------------------------------------- several labels a text


def test_several_labels(tmp_path, enc, capsys):
    """Each row of 0 and 1 is the set of names in the cell.

    In the cell they are in any order, with repeats and spaces, or there are none.
    """
    rng = random.Random(3)
    names = ['caf\u00e9', 'plot', 'acting', '7', '10']
    rows = []
    sets = {}
    for i in range(600):
        chosen = [name for name in names if rng.random() < 0.4]
        sets[f'r{i}'] = set(chosen)
        if rng.random() < 0.2:
            chosen += chosen[:1]
        cell = [f' {name} ' if rng.random() < 0.3 else name for name in chosen]
        rng.shuffle(cell)
        if rng.random() < 0.1:
            cell.append('')
        rows.append((f'r{i}', ';'.join(cell)))
    for name in 'one', 'two':
        write_csv(tmp_path / f'{name}.csv', rows)
        argv = f'--source={tmp_path}/{name}.csv', '--label_sep=;', f'--data_dir={tmp_path}'
        run(*argv, '--val_frac=0.2')
        rows = [(review, ';'.join(reversed(cell.split(';')))) for review, cell in reversed(rows)]

    meta, data = load(tmp_path / 'one')
    assert meta['classes'] == ['7', '10', 'acting', 'caf\u00e9', 'plot']
    for split, n in ('train', 420), ('val', 120), ('test', 60):
        assert data[split]['labels'].shape == (n, 5)
        assert any(not row.any() for row in data[split]['labels'])
        for review, row in zip(texts_of(data, split, enc), data[split]['labels']):
            assert {meta['classes'][i] for i in np.flatnonzero(row)} == sets[review]
            assert row.max() <= 1
    assert_same_arrays(tmp_path / 'one', tmp_path / 'two')

    write_csv(tmp_path / 'same.csv', [(f'r{i}', 'a') for i in range(30)])
    argv = f'--source={tmp_path}/same.csv', '--label_sep=;', f'--data_dir={tmp_path}'
    assert 'wanted 2 to 65,535' in failure(capsys, *argv)


@pytest.mark.parametrize('n', [2, 3, 5, 6, 7])
def test_many_classes_of_a_few_texts_each(n, tmp_path):
    """Each split gets about what it is due, and every class has one in train."""
    rows = [(f'text {i} of {y}', f'class {y}') for y in range(100) for i in range(n)]
    write_csv(tmp_path / 'few.csv', rows)
    run(f'--source={tmp_path}/few.csv', f'--data_dir={tmp_path}')
    labels = {side: np.load(tmp_path / f'few/{side}_labels.npy') for side in SPLITS}
    assert len(np.unique(labels['train'])) == 100
    for side in 'val', 'test':
        # of each class none or one: at most 1/4 of variance each
        assert abs(len(labels[side]) - 10 * n) < 4 * math.sqrt(100 / 4)
        assert len(np.unique(labels[side])) == len(labels[side])


@pytest.mark.parametrize('extra', [[], ['--group=customer']])
def test_rare_labels_end_to_end(extra, tmp_path, enc):
    """Through the command: a file with labels that only three customers use, and with none."""
    rows = []
    for i in range(300):
        labels = {'often'} if i % 3 else set()
        if i % 5 == 0:
            labels.add('sometimes')
        if i in (20, 21, 90, 200):
            labels.add('rare')
        rows.append((f'text {i}', ','.join(sorted(labels)), f'customer {i // 4}'))
    path = write_csv(tmp_path / 'tags.csv', rows, ('text', 'label', 'customer'))
    argv = [f'--source={path}', '--label_sep=,', f'--data_dir={tmp_path}', *extra]
    run(*argv)
    run(*argv, '--name=again')
    run(*argv, '--name=other', '--seed=2')
    assert_same_arrays(tmp_path / 'tags', tmp_path / 'again')

    meta, data = load(tmp_path / 'tags')
    assert meta['classes'] == ['often', 'rare', 'sometimes']
    customer_of = {content: customer for content, _, customer in rows}
    customers = []
    for split, n in ('train', 240), ('val', 30), ('test', 30):
        assert abs(len(data[split]['labels']) - n) <= 2
        counts = data[split]['labels'].sum(0, dtype=int)
        assert abs(counts[0] - n * 2 / 3) <= 3 and abs(counts[2] - n / 5) <= 2 and counts[1] >= 1
        assert not data[split]['labels'].any(1).all()
        customers.append({customer_of[content] for content in texts_of(data, split, enc)})
    if extra:
        assert set(meta['shared_groups'].values()) == {0}
        assert sum(map(len, customers)) == 75 == len(set.union(*customers))
    _, other = load(tmp_path / 'other')
    assert set(texts_of(other, 'val', enc)) != set(texts_of(data, 'val', enc))

    # a file of its own for val: nothing of the source goes there
    write_csv(tmp_path / 'val.csv', [('new text', 'rare', 'somebody else')],
              ('text', 'label', 'customer'))
    run(*argv, f'--val_source={tmp_path}/val.csv', '--name=own')
    _, data = load(tmp_path / 'own')
    assert texts_of(data, 'val', enc) == ['new text']
    assert abs(len(data['test']['labels']) - 30) <= 2
    assert data['train']['labels'].any(0).all() and data['test']['labels'].any(0).all()


# ------------------------------------------------------------------------- more files of one's own


def test_files_of_their_own_for_val_and_test(tmp_path, enc, capsys):
    train = [(f'r{i}', 'ab'[i % 2], f'm{i % 7}') for i in range(50)]
    val = [(f'v{i}', 'ab'[i % 2], f'm{6 + i % 4}') for i in range(20)] + [('r3', 'a', 'm9')]
    test = [(f't{i}', 'ab'[i % 2], f'n{i % 4}') for i in range(20)]
    for file, rows in ('train', train), ('val', val), ('test', test):
        write_csv(tmp_path / f'{file}.csv', rows, ('text', 'label', 'm'))
    argv = [f'--source={tmp_path}/train.csv', f'--test_source={tmp_path}/test.csv',
            f'--data_dir={tmp_path}']
    run(*argv, f'--val_source={tmp_path}/val.csv', '--group=m')
    out = capsys.readouterr().out
    meta, data = load(tmp_path / 'train')
    for split, rows in ('train', train), ('val', val[:-1]), ('test', test):
        assert sorted(texts_of(data, split, enc)) == sorted(content for content, *_ in rows)
    assert meta['shared_groups'] == {'train/val': 1, 'train/test': 0, 'val/test': 0}
    assert 'train/val 1' in out and 'warning' in out and 'dropped: 1 val texts' in out

    # val is cut out of train, and has no text of test
    write_csv(tmp_path / 'test.csv', test + train[:40], ('text', 'label', 'm'))
    run(*argv, '--name=same')
    meta, data = load(tmp_path / 'same')
    texts = [set(texts_of(data, split, enc)) for split in SPLITS]
    assert sum(map(len, texts)) == len(set.union(*texts))
    assert meta['dropped']['val texts that are in test'] > 0
    capsys.readouterr()
    write_csv(tmp_path / 'test.csv', test, ('text', 'label', 'm'))

    run(*argv, '--name=two')
    meta, data = load(tmp_path / 'two')
    val_rows = meta['splits']['val']['rows']
    assert val_rows in (4, 6)  # a tenth of 25 and of 25
    assert [meta['splits'][split]['rows'] for split in SPLITS] == [50 - val_rows, val_rows, 20]
    assert set(meta['shared_groups'].values()) == {None}
    assert 'warning' not in capsys.readouterr().out


def test_the_table(tmp_path, capsys):
    words = [(' the' * n, 'ab'[n % 2]) for n in range(1, 101)]
    write_csv(tmp_path / 't.csv', words)
    run(f'--source={tmp_path}/t.csv', f'--data_dir={tmp_path}', '--block_size=90')
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:5]]
    rows = {split: cells for split, *cells in lines}
    _, data = load(tmp_path / 't')
    for split in SPLITS:
        sizes = [len(tokens) for tokens in data[split]['tokens']]
        longer = sum(n > 90 for n in sizes)
        assert rows[split] == [str(len(sizes)), f'{sum(sizes):,}', '0', str(longer)]
    assert sum(int(row[3]) for row in rows.values()) == 10


# ------------------------------------------------------------------------- equal texts


def test_equal_texts_stay_on_one_side(tmp_path, enc, capsys):
    """A rare class that was oversampled before the split is in train and val, not only in train."""
    rows = [(f'rare thing {i}', 'rare') for i in range(12)] * 10
    rows += [(f'fine kettle {i}', 'common') for i in range(60)]
    write_csv(tmp_path / 'o.csv', rows)
    run(f'--source={tmp_path}/o.csv', f'--data_dir={tmp_path}', '--val_frac=0.3', '--test_frac=0.3')
    assert 'warning' not in capsys.readouterr().out
    meta, data = load(tmp_path / 'o')
    texts = [set(texts_of(data, split, enc)) for split in SPLITS]
    assert sum(map(len, texts)) == 72 == len(set.union(*texts))
    assert sum(counts['rows'] for counts in meta['splits'].values()) == len(rows)
    assert not any(meta['dropped'].values())
    for split in SPLITS:
        assert set(data[split]['labels']) == {0, 1}


def test_equal_texts_join_groups(tmp_path, enc):
    """A text of two authors joins their groups, and so on: a chain of authors is never cut. Layout
    makes no difference, case does."""
    rows = [(f'text {i}', 'ab'[i % 2], f'author {i // 2}') for i in range(200)]
    variants = ['shared  {}', ' shared<br />{} ', '<p class="x">shared\n{}</p>', 'Shared {}']
    for i in range(60):  # author 10 k and the next two have the same text, but for the layout
        rows.append((variants[i % 4].format(i // 4), 'a', f'author {i // 4 * 5 + i % 4}'))
    write_csv(tmp_path / 'j.csv', rows, ('text', 'label', 'who'))
    run(f'--source={tmp_path}/j.csv', '--group=who', f'--data_dir={tmp_path}')
    meta, data = load(tmp_path / 'j')
    author_of = {content: author for content, _, author in rows}
    side_of = {}
    for split in SPLITS:
        assert data[split]['labels'].size
        for content in texts_of(data, split, enc):
            side_of.setdefault(author_of[content], set()).add(split)
    assert all(len(sides) == 1 for sides in side_of.values())
    for i in range(15):
        assert len({tuple(side_of[f'author {5 * i + k}']) for k in range(3)}) == 1
    # those in upper case are other texts, so that their authors are not all on the same side
    assert len({(*side_of[f'author {5 * i}'], *side_of[f'author {5 * i + 3}'])
                for i in range(15)} - {('train', 'train')}) > 0
    assert set(meta['shared_groups'].values()) == {0}
    assert sum(counts['rows'] for counts in meta['splits'].values()) == len(rows)


def test_texts_that_are_in_train_but_for_their_layout_go(tmp_path, enc, capsys):
    write_csv(tmp_path / 'train.csv', plain(40))
    new = [('a new\ttext', 'no'), (' review<br/>number  3\n', 'yes'), ('Review number 4', 'no'),
           ('review number <int> 5', 'yes')]
    write_csv(tmp_path / 'test.csv', new)
    write_csv(tmp_path / 'more.csv', [('<p>a new text</p>', ''), ('another', ''),
                                      ('reviewnumber 3', '')])
    run(f'--source={tmp_path}/train.csv', f'--test_source={tmp_path}/test.csv',
        f'--unlabelled={tmp_path}/more.csv', f'--data_dir={tmp_path}')
    out = capsys.readouterr().out
    meta, data = load(tmp_path / 'train')
    assert 'dropped: 1 test texts that are in train' in out
    assert set(texts_of(data, 'test', enc)) == {new[0][0], new[2][0], new[3][0]}
    assert 'dropped: 1 unlabelled texts that are in val or test' in out
    assert meta['unlabelled']['rows'] == 2


@needs_archive
def test_unlabelled_reviews_of_imdb_that_are_in_val_or_test(prepared, decoded):
    """The copy without <br /> has 268 of them, of which 109 are equal byte for byte."""
    path = ARCHIVE.parent / 'unsup.tar.xz'
    if not path.exists():
        pytest.skip(f'{path} is not there')
    held_out = [content for split in ('val', 'test') for content, *_ in decoded[split]]
    exact = set(held_out)
    digests = set(map(digest_of, held_out))
    without_layout = {''.join(content.replace('<br />', '').split()) for content in held_out}
    n_exact = 0
    n_normalised = 0
    for content in unlabelled_texts(SimpleNamespace(unlabelled=str(path))):
        n_exact += content in exact
        without = ''.join(content.split()) in without_layout
        n_normalised += without
        assert (digest_of(content) in digests) >= without
    assert (n_exact, n_normalised) == (109, 268)


def test_what_val_and_test_lack_is_said(tmp_path, capsys):
    rows = plain(60) + [('only one', 'rare'), *[(f'rare {i}', f'class {i}') for i in range(7)]]
    write_csv(tmp_path / 'r.csv', rows)
    run(f'--source={tmp_path}/r.csv', f'--data_dir={tmp_path}')
    out = capsys.readouterr().out
    meta, data = load(tmp_path / 'r')
    for side in 'val', 'test':
        lacking = [name for i, name in enumerate(meta['classes']) if i not in data[side]['labels']]
        assert len(lacking) > 5
        shown = ', '.join(map(repr, lacking[:5]))
        assert f'warning: {side} has no text of {len(lacking)} classes: {shown}, ...' in out
    # the cause, if texts are equal
    write_csv(tmp_path / 's.csv', [('the same', 'a'), ('as always', 'b'), ('a third', 'a')] * 20)
    argv = f'--source={tmp_path}/s.csv', f'--data_dir={tmp_path}'
    error = failure(capsys, *argv, '--val_frac=.01')
    assert 'only 3 of the 60 texts are different' in error and 'no texts are left for' in error


# ------------------------------------------------------------------------- labels and texts


def test_labels_that_train_lacks(tmp_path, enc, capsys):
    write_csv(tmp_path / 'train.csv', plain(40, 'bd'))
    new = [(f'unknown {i}', 'ac'[i % 2]) for i in range(9)]
    write_csv(tmp_path / 'test.csv', [*new, ('new one', 'b'), ('new d', 'd')])
    argv = [f'--source={tmp_path}/train.csv', f'--test_source={tmp_path}/test.csv',
            f'--data_dir={tmp_path}']
    error = failure(capsys, *argv)
    assert "train has no text of class 'a' (2 such classes); --drop_unknown" in error
    run(*argv, '--drop_unknown')
    out = capsys.readouterr().out
    meta, data = load(tmp_path / 'train')
    assert meta['classes'] == ['b', 'd']
    assert sorted(texts_of(data, 'test', enc)) == ['new d', 'new one']
    by_text = dict(zip(texts_of(data, 'test', enc), data['test']['labels']))
    assert by_text == {'new one': 0, 'new d': 1}
    assert "dropped: 9 texts of classes that train lacks ('a', 'c')" in out

    # several labels a text: a text that has such a label goes
    write_csv(tmp_path / 'train.csv', [(f'm {i}', ['x', 'x;z', ''][i % 3]) for i in range(40)])
    write_csv(tmp_path / 'test.csv', [('t1', 'x;y'), ('t2', 'z'), ('t3', ''), ('t4', 'y')])
    run(*argv, '--drop_unknown', '--label_sep=;')
    meta, data = load(tmp_path / 'train')
    assert meta['classes'] == ['x', 'z']
    by_text = dict(zip(texts_of(data, 'test', enc), data['test']['labels'].tolist()))
    assert by_text == {'t2': [0, 1], 't3': [0, 0]}


def test_a_source_for_test_without_labels_is_an_error(tmp_path, capsys):
    write_csv(tmp_path / 'train.csv', plain(40))
    write_csv(tmp_path / 'test.csv', [(f'new {i}', '') for i in range(9)])
    argv = f'--source={tmp_path}/train.csv', f'--data_dir={tmp_path}/data'
    for side in 'test', 'val':
        error = failure(capsys, *argv, f'--{side}_source={tmp_path}/test.csv')
        assert f'none of the 9 texts of {side} can be used' in error
        assert f'without it, {side} is cut out of train' in error
        # several labels a text: none of them has any
        write_csv(tmp_path / 'several.csv', plain(40, ['a;b', 'b']))
        error = failure(capsys, f'--source={tmp_path}/several.csv', argv[1], '--label_sep=;',
                        f'--{side}_source={tmp_path}/test.csv')
        assert f'none of the 9 texts of {side} can be used' in error
    hub_data_set(tmp_path / 'glue', {'train': ([f'a {i}' for i in range(40)], [0, 1] * 20),
                                     'test': ([f'b {i}' for i in range(9)], [-1] * 9)})
    argv = f'--source=hub:{tmp_path}/glue', f'--data_dir={tmp_path}/data'
    assert 'none of the 9 texts of test can be used' in failure(capsys, *argv)
    run(*argv, '--test_split=')
    assert load(tmp_path / 'data/glue')[0]['splits']['test']['rows'] == 4


def test_empty_texts_are_kept_and_counted(tmp_path, enc, capsys):
    rows = plain(40) + [('', 'no'), ('  ', 'no'), ('\n', 'yes')]
    path = write_csv(tmp_path / 'e.csv', rows)
    argv = f'--source={path}', f'--data_dir={tmp_path}'
    run(*argv)
    assert 'warning: 3 texts are empty' in capsys.readouterr().out
    meta, data = load(tmp_path / 'e')
    assert meta['empty'] == 3
    assert sum(counts['rows'] for counts in meta['splits'].values()) == 43
    error = failure(capsys, *argv, '--strict')
    assert f'3 empty texts, the first in {path}, line 42' in error
    lines = [json.dumps({'text': content, 'label': y}) + '\n' for content, y in plain(40)]
    (tmp_path / 'e.jsonl').write_text(''.join(lines) + '{"label": "no"}\n')
    argv = f'--source={tmp_path}/e.jsonl', f'--data_dir={tmp_path}'
    run(*argv)
    assert 'warning: 1 texts are empty' in capsys.readouterr().out
    assert 'e.jsonl, line 41' in failure(capsys, *argv, '--strict')
    write_csv(tmp_path / 'good.csv', plain(40))
    argv = f'--source={tmp_path}/good.csv', f'--unlabelled={path}', f'--data_dir={tmp_path}'
    run(*argv)
    assert 'warning: 3 unlabelled texts are empty' in capsys.readouterr().out
    assert '3 of its texts are empty' in failure(capsys, *argv, '--strict')


def test_texts_of_several_columns(tmp_path, enc):
    rows = [(f'title {i}', f'body {i}' if i % 3 else '', 'ab'[i % 2]) for i in range(60)]
    write_csv(tmp_path / 't.csv', rows, ('title', 'body', 'label'))
    run(f'--source={tmp_path}/t.csv', '--text=title,body', f'--data_dir={tmp_path}')
    _, data = load(tmp_path / 't')
    found = sum((texts_of(data, split, enc) for split in SPLITS), [])
    assert sorted(found) == sorted(f'{a}\n{b}' if b else a for a, b, _ in rows)


def test_a_column_of_0_and_1_for_each_label(tmp_path, enc, capsys):
    rows = [(f'text {i}', i % 2, ['0', '1.0', 'True'][i % 3]) for i in range(60)]
    write_csv(tmp_path / 'l.csv', rows, ('text', 'rude', 'threat'))
    argv = f'--source={tmp_path}/l.csv', '--label=rude,threat', f'--data_dir={tmp_path}'
    run(*argv)
    meta, data = load(tmp_path / 'l')
    assert meta['classes'] == ['rude', 'threat']
    for split in SPLITS:
        for content, row in zip(texts_of(data, split, enc), data[split]['labels']):
            i = int(content.split()[1])
            assert row.tolist() == [i % 2, i % 3 > 0]
    # a column without any 1 is a class that nothing can learn
    write_csv(tmp_path / 'l.csv', [(*row, 0) for row in rows], ('text', 'rude', 'threat', 'none'))
    error = failure(capsys, *argv, '--label=rude,threat,none')
    assert "train has no text of class 'none'" in error
    write_csv(tmp_path / 'l.csv', [*rows, ('x', 2, 0)], ('text', 'rude', 'threat'))
    assert "line 62: 'rude' is '2', wanted 0 or 1" in failure(capsys, *argv)


@pytest.mark.parametrize('n_classes', [256, 65_535])
def test_many_classes(n_classes, tmp_path, enc):
    with open(tmp_path / 'm.csv', 'w') as file:
        file.write('text,label\n')
        for i in range(max(3000, n_classes)):
            file.write(f'{i},{i % n_classes}\n')
    for name in 'vt':
        write_csv(tmp_path / f'{name}.csv', [(f'{name}{i}', i) for i in (0, 255, n_classes - 1)])
    run(f'--source={tmp_path}/m.csv', f'--data_dir={tmp_path}', f'--val_source={tmp_path}/v.csv',
        f'--test_source={tmp_path}/t.csv')
    meta, data = load(tmp_path / 'm')
    assert len(meta['classes']) == n_classes
    for split in SPLITS:
        assert data[split]['labels'].dtype == np.uint16
    by_text = dict(zip(texts_of(data, 'val', enc), data['val']['labels'].tolist()))
    assert by_text == {f'v{i}': i for i in (0, 255, n_classes - 1)}
    loaded, _ = load_data(tmp_path / 'm')
    assert loaded['train'].labels.max() == n_classes - 1


def test_encoding_and_separator(tmp_path, enc):
    content = 'text;label\n' + ''.join(f'caf\u00e9, {i};{"ab"[i % 2]}\n' for i in range(40))
    (tmp_path / 'e.csv').write_bytes(content.encode('cp1252'))
    run(f'--source={tmp_path}/e.csv', '--sep=;', '--encoding=cp1252', f'--data_dir={tmp_path}')
    _, data = load(tmp_path / 'e')
    found = sum((texts_of(data, split, enc) for split in SPLITS), [])
    assert sorted(found) == sorted(f'caf\u00e9, {i}' for i in range(40))


# ------------------------------------------------------------------------- mistakes


def test_mistakes_in_files(tmp_path, capsys):
    """Those in reading alone are in test_tables.py; some are here again, through the command."""
    def says(message, content, *argv, kind='csv'):
        path = tmp_path / f'bad.{kind}'
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        argv = f'--source={path}', f'--data_dir={tmp_path}/data', *argv
        assert message in failure(capsys, *argv)
        assert not (tmp_path / 'data').exists()

    good = 'text,label\n' + ''.join(f'r{i},{"ab"[i % 2]}\n' for i in range(40))
    line = '{"text": "x", "label": 1}\n'
    says("no column 'label', only 'text', 'stars'", good.replace('label', 'stars'))
    says("no column 'film'", good, '--group=film')
    says("no column ''", good, '--text=')
    says('1 classes', 'text,label\nx,a\ny,a\n')
    says('65,536 classes', 'text,label\n' + ''.join(f'x,{i}\n' for i in range(65_536)))
    says("2 texts without 'label', the first in", 'text,label\nx,a\ny,\nz,  \nu,b\n', '--strict')
    says('line 3', 'text,label\nx,a\ny,\nz,  \nu,b\n', '--strict')
    says("1 texts without 'label'", line * 40 + '{"text": "x", "label": NaN}\n',
         '--strict', kind='jsonl')
    says("line 1", '{"text": "x"}\n' + line, '--strict', kind='jsonl')
    says("without 'film'", 'text,label,film\nx,a,\ny,b,m\n', '--group=film', '--strict')
    says("none of the 2 texts of train can be used: texts without 'label', the first in",
         'text,label\nx,\ny,\n')
    says('a text or group is a list', '{"text": ["x"], "label": "a"}\n', kind='jsonl')
    says('line 3 is not UTF-8', b'text,label\nx,a\ncaf\xe9,b\n')
    says('it has no row', '')
    says('cannot be read', 'PAR1 or not', kind='parquet')
    says('wanted imdb, sample', good, kind='txt')
    says('no texts are left for', 'text,label\nx,a\ny,b\nz,a\n')
    says('no texts are left for val', good, '--val_frac=0')
    says('val_frac must be at least 0 and below 1', good, '--val_frac=-0.2')
    says('must leave texts for train', good, '--val_frac=.5', '--test_frac=.5')
    says('block_size must be at least 1', good, '--block_size=0')
    says('there is no such file or folder; wanted imdb', '', '--source=missing')
    says("there are 60 classes: is 'label' the right column?",
         'text,label\n' + ''.join(f'x{i},{i}\n' for i in range(60)))
    for extra in [], ['--label_sep=;']:
        says('no texts are left for val', good, '--val_frac=0', *extra)
    says('--dev splits by group', good, '--dev')
    says('nobase', good, '--tokenizer=nobase')
    says('prepare.py --tokenizer= chooses', good, '--encoding=cl100k_base')
    says('--name', good, '--name=a/b')
    says('--name', good, '--name=..')


def test_mistakes_in_settings(tmp_path, capsys):
    good = write_csv(tmp_path / 'good.csv', plain(40))
    new = write_csv(tmp_path / 'c.csv', [(f'v{i}', 'new') for i in range(9)])
    for message, *argv in (
            ['No such file', f'--source={tmp_path}/none.csv'],
            ['wanted imdb, sample', '--source=imbd'],
            ['the split of IMDB is official', f'--val_source={good}'],
            ["no text of class 'new'", f'--source={good}', f'--val_source={new}'],
            ['cannot be written', f'--source={good}', f'--data_dir={new}'],
            ['cannot be written', f'--source={good}', '--data_dir=/dev/null/data']):
        assert message in failure(capsys, f'--data_dir={tmp_path}/data', *argv)
        assert not (tmp_path / 'data').exists()


def test_a_folder_that_is_no_data_set_is_left_alone(tmp_path, capsys):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('years of work')
    write_csv(tmp_path / 'mine.csv', plain(40))
    for extra in [], ['--name=mine.csv']:
        argv = f'--source={tmp_path}/mine.csv', f'--data_dir={tmp_path}', *extra
        assert '--name' in failure(capsys, *argv)
    assert (tmp_path / 'mine' / 'thesis.txt').read_text() == 'years of work'


@pytest.mark.parametrize('error, function', [
    (RuntimeError, 'save'), (KeyboardInterrupt, 'save'), (OSError, 'save'), (OSError, 'rename')])
def test_whatever_happens_the_old_set_stays_whole(error, function, tmp_path, monkeypatch, capsys):
    write_csv(tmp_path / 'a.csv', plain(40))
    write_csv(tmp_path / 'b.csv', plain(60, 'xyz'))
    argv = f'--data_dir={tmp_path}/data', '--name=a'
    run(f'--source={tmp_path}/a.csv', *argv)
    old = {file.name: file.read_bytes() for file in (tmp_path / 'data' / 'a').iterdir()}
    module = np if function == 'save' else os
    real = getattr(module, function)
    calls = []

    def breaks(*args):
        calls.append(args)
        if function == 'save':
            fails = len(calls) == 5
        else:
            fails = str(args[0]).endswith('.work/new')  # the old set has been moved aside
        if fails:
            raise error('the disk is full')
        return real(*args)

    monkeypatch.setattr(module, function, breaks)
    if error is OSError:
        assert 'the disk is full' in failure(capsys, f'--source={tmp_path}/b.csv', *argv)
    else:
        with pytest.raises(error):
            run(f'--source={tmp_path}/b.csv', *argv)
    monkeypatch.undo()
    assert os.listdir(tmp_path / 'data') == ['a']
    assert {file.name: file.read_bytes() for file in (tmp_path / 'data' / 'a').iterdir()} == old
    run(f'--source={tmp_path}/b.csv', *argv)  # and a good one takes its place
    assert os.listdir(tmp_path / 'data') == ['a']
    assert load(tmp_path / 'data' / 'a')[0]['classes'] == ['x', 'y', 'z']


def test_the_command(tmp_path):
    """As a user calls it, from another folder, with an empty home; and the hub out of reach."""
    environment = {}
    for key, value in os.environ.items():
        if key[:3] not in ('HF_', 'XDG'):
            environment[key] = value
    environment |= {'HOME': str(tmp_path / 'home'), 'TMPDIR': str(tmp_path / 'tmp'),
                    'HF_ENDPOINT': 'http://127.0.0.1:9'}
    (tmp_path / 'home').mkdir()
    (tmp_path / 'tmp').mkdir()

    def command(*argv):
        return subprocess.run([sys.executable, ROOT / 'prepare.py', *argv], cwd=tmp_path,
                              env=environment, capture_output=True, text=True)

    done = command('--source=sample')
    assert done.returncode == 0 and done.stderr == '', done.stderr
    meta, data = load(tmp_path / 'data' / 'sample')
    with open(ROOT / 'data' / 'sample.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    kept = sum(counts['rows'] for counts in meta['splits'].values())
    assert kept + sum(meta['dropped'].values()) == len(rows)
    assert meta['classes'] == ['neg', 'pos'] and set(meta['shared_groups'].values()) == {0}
    movies = set().union(*(data[split]['groups'].tolist() for split in SPLITS))
    assert len({row['movie'] for row in rows}) == len(movies)

    started = time.time()
    hub = command()
    assert time.time() - started < 30  # 2 s; without the probe 25 s more
    assert hub.returncode == 2 and hub.stderr.count('\n') == 1 and hub.stdout == ''
    assert '--source=PATH/aclImdb_v1.tar.gz' in hub.stderr and '--source=sample' in hub.stderr
    assert os.listdir(tmp_path / 'data') == ['sample']
    assert sorted(os.listdir(tmp_path)) == ['data', 'home', 'tmp']
    assert not os.listdir(tmp_path / 'tmp') and not os.listdir(tmp_path / 'home')
