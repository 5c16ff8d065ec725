"""prepare.py, on the real archive and on small files: about a minute, half of it for the archive."""
import csv
import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiktoken

import prepare
from config import configure

ROOT = Path(__file__).parents[1]
ARCHIVE = ROOT.parent / 'shared' / 'imdb' / 'aclImdb.tar.gz'
SPLITS = 'train', 'val', 'test'
needs_archive = pytest.mark.skipif(not ARCHIVE.exists(), reason=f'{ARCHIVE} is not there')


def run(*argv):
    before = dict(vars(prepare))
    try:
        configure(vars(prepare), argv=[str(arg) for arg in argv])
        with tempfile.TemporaryDirectory() as cache:
            prepare.main(cache)
    finally:
        vars(prepare).update(before)


def load(folder):
    """-> meta, {split: {'tokens': [array of each review], 'labels':, 'groups':}}; checks the offsets."""
    meta = json.loads((folder / 'meta.json').read_text(encoding='utf-8'))
    data = {}
    for split in SPLITS:
        tokens, offsets, labels = (np.load(folder / f'{split}_{k}.npy', mmap_mode='r')
                                   for k in ('tokens', 'offsets', 'labels'))
        assert (tokens.dtype, offsets.dtype, labels.dtype) == (np.uint32, np.uint64, np.uint8)
        assert offsets[0] == 0 and offsets[-1] == len(tokens) and len(offsets) == len(labels) + 1
        data[split] = {'tokens': np.split(np.asarray(tokens), offsets[1:-1].astype(int)), 'labels': labels}
        groups = folder / f'{split}_groups.npy'
        if groups.exists():
            data[split]['groups'] = np.load(groups)
            assert data[split]['groups'].dtype == np.uint32 and len(data[split]['groups']) == len(labels)
        assert meta['splits'][split] == {'rows': len(labels), 'tokens': len(tokens)}
    return meta, data


@pytest.fixture(scope='session')
def enc():
    return prepare.tokenizer()


def failure(capsys, *argv):
    """Run it, which must fail as a user's mistake does -> its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run(*argv)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == '' and err.count('\n') == 1 and 'Traceback' not in err, err
    return err


def texts_of(data, split, enc):
    return [enc.decode_bytes(tokens.tolist()).decode() for tokens in data[split]['tokens']]


# ----------------------------------------------------------------------------- the real archive


@pytest.fixture(scope='session')
def archive():
    """{(side, kind, id): (text, movie)}, read in another way than prepare's: whole tar in memory, by path."""
    if not ARCHIVE.exists():
        pytest.skip(f'{ARCHIVE} is not there')
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(ARCHIVE.read_bytes()))) as tar:
        files = {m.name: tar.extractfile(m).read().decode('utf-8') for m in tar if m.isfile()}
    urls = {(side, kind): files[f'aclImdb/{side}/urls_{kind}.txt'].split('\n')
            for side in ('train', 'test') for kind in ('neg', 'pos')}
    reviews = {}
    for path, content in files.items():
        parts = path.split('/')
        if len(parts) == 4:
            side, kind, number = parts[1], parts[2], int(parts[3].split('_')[0])
            reviews[side, kind, number] = content, int(urls[side, kind][number].split('/')[4][2:])
    assert len(reviews) == 50000
    return reviews


@pytest.fixture(scope='session')
def prepared(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp('real')
    started = time.time()
    run(f'--source={ARCHIVE}', f'--data_dir={folder}')
    assert time.time() - started < 60  # 13 s on two free cores
    return folder / 'imdb', *load(folder / 'imdb')


@pytest.fixture(scope='session')
def decoded(prepared, enc):
    """{split: [(text, label, movie) of each row]}"""
    _, _, data = prepared
    return {split: list(zip(texts_of(data, split, enc), data[split]['labels'].tolist(),
                            data[split]['groups'].tolist())) for split in SPLITS}


def test_imdb_rows_are_the_reviews_that_the_leak_rules_leave(archive, prepared, decoded):
    _, meta, _ = prepared
    assert meta['classes'] == ['neg', 'pos'] and meta['name'] == 'imdb'
    assert [len(decoded[split]) for split in SPLITS] == [24998, 2500, 22377]
    official = {side: Counter((content, int(kind == 'pos'), movie)
                              for (s, kind, _), (content, movie) in archive.items() if s == side)
                for side in ('train', 'test')}
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
    movies = {split: set().union(*(movies_of['train' if split == 'train' else 'test', content]
                                   for content, *_ in decoded[split])) for split in SPLITS}
    texts = {split: {content for content, *_ in decoded[split]} for split in SPLITS}
    for split in 'val', 'test':
        assert not movies['train'] & movies[split] and not texts['train'] & texts[split]
    _, meta, data = prepared
    assert meta['shared_groups'] == {'train/val': 0, 'train/test': 0, 'val/test': len(
        set(data['val']['groups'].tolist()) & set(data['test']['groups'].tolist()))}
    assert meta['shared_groups']['val/test'] > 1000  # as in the paper


def test_imdb_token_totals(archive, prepared, decoded):
    """shared/README.md: 7,426,848 train and 7,256,820 test tokens, here of the kept and the dropped."""
    import bpe_openai
    other = bpe_openai.get_encoding('cl100k_base')
    _, meta, _ = prepared
    for side, total, splits in ('train', 7_426_848, ['train']), ('test', 7_256_820, ['val', 'test']):
        kept = Counter(content for split in splits for content, *_ in decoded[split])
        dropped = Counter(content for (s, *_), (content, _) in archive.items() if s == side) - kept
        assert total == (sum(meta['splits'][split]['tokens'] for split in splits)
                         + sum(len(other.encode(content)) for content in dropped.elements()))


def test_tokens_are_tiktokens(archive, prepared, enc, tmp_path, monkeypatch):
    """Against tiktoken's own definition, fed by a file of its own form, and bpe-openai's tokenizer."""
    import base64
    import bpe_openai
    import tiktoken.load
    from tiktoken_ext import openai_public
    other = bpe_openai.get_encoding('cl100k_base')
    file = tmp_path / 'cl100k_base.tiktoken'
    with open(file, 'w', newline='') as lines:
        for i in range(100256):
            lines.write(base64.b64encode(enc.decode_single_token_bytes(i)).decode() + f' {i}\n')
    monkeypatch.setenv('TIKTOKEN_CACHE_DIR', '')
    monkeypatch.setattr(openai_public, 'load_tiktoken_bpe',
                        lambda url, expected_hash: tiktoken.load.load_tiktoken_bpe(str(file), expected_hash))
    official = tiktoken.Encoding(**openai_public.cl100k_base())
    assert (official.n_vocab, official.eot_token) == (enc.n_vocab, enc.eot_token) == (100277, 100257)
    assert official.special_tokens_set == enc.special_tokens_set
    _, meta, data = prepared
    assert meta['vocab_size'] == 100277
    assert meta['tokenizer']['sha256'] == hashlib.sha256(file.read_bytes()).hexdigest() == (
        '223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7')
    rows = random.Random(0).sample(range(22377), 300)
    for i in rows:
        tokens = data['test']['tokens'][i].tolist()
        content = enc.decode(tokens)
        assert tokens == official.encode_ordinary(content) == other.encode(content)
    for content in 'a <|endoftext|> b', "I'LL  say\n\n \u00e9\u2014\U0001f600 12345\t.", ' ', '\u00a0\u3000x':
        assert enc.encode_ordinary(content) == official.encode_ordinary(content)


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
    hub = {}
    for side in 'train', 'test':
        rows = [(content, int(kind == 'pos')) for (s, kind, _), (content, _) in archive.items() if s == side]
        random.Random(side).shuffle(rows)
        columns = {'text': [content for content, _ in rows], 'label': [y for _, y in rows]}
        hub[side] = datasets.Dataset.from_dict(columns, features)
    hub['unsupervised'] = datasets.Dataset.from_dict({'text': ['?'], 'label': [-1]})
    monkeypatch.setattr(huggingface_hub.HfApi, 'dataset_info', lambda *_, **__: None)
    monkeypatch.setattr(datasets, 'load_dataset', lambda path: {'stanfordnlp/imdb': hub}[path])
    # tokens of these very texts are looked up, not made again, to save the time
    known = {row[0]: tokens for split in SPLITS for row, tokens in zip(decoded[split], data[split]['tokens'])}
    lookup = SimpleNamespace(n_vocab=enc.n_vocab, _mergeable_ranks=enc._mergeable_ranks,
                             encode_ordinary_batch=lambda texts, **_: [known[t].tolist() for t in texts])
    monkeypatch.setattr(prepare, 'tokenizer', lambda name: lookup)
    run(f'--data_dir={tmp_path}')
    files = sorted(file.name for file in (tmp_path / 'imdb').glob('*.npy'))
    assert files == sorted(f'{split}_{k}.npy' for split in SPLITS for k in ('tokens', 'offsets', 'labels'))
    for file in files:
        assert (tmp_path / 'imdb' / file).read_bytes() == (folder / file).read_bytes()
    twin = json.loads((tmp_path / 'imdb' / 'meta.json').read_text())
    for key in 'fingerprint', 'classes', 'splits', 'dropped', 'tokenizer', 'vocab_size', 'seed', 'version':
        assert twin[key] == meta[key]
    assert set(twin['shared_groups'].values()) == {None}
    assert '--dev cuts by movie' in failure(capsys, '--dev', f'--data_dir={tmp_path}')
    for side in 'train', 'test':
        hub[side] = hub[side].select(range(100))  # without the two leaks that are known by their hash
    assert 'not those of the archive' in failure(capsys, f'--data_dir={tmp_path}')


# ----------------------------------------------------------------------------- small archives


def small_archive(path, change=None):
    """12 reviews in each of the four folders. Movie 7 has one of train, three of test; movie 8 two and one.

    change: a function that edits its {name: bytes}.
    """
    shared = {('train', 'neg', 0): 7, ('test', 'pos', 0): 7, ('test', 'pos', 1): 7, ('test', 'pos', 2): 7,
              ('train', 'pos', 3): 8, ('train', 'pos', 4): 8, ('test', 'neg', 5): 8}
    files = {'aclImdb/train/unsup/0_0.txt': b'unlabelled', 'aclImdb/train/urls_unsup.txt': b'x/title/tt1/',
             'aclImdb/README': b'\xff'}
    for s, side in enumerate(('train', 'test')):
        for k, kind in enumerate(('neg', 'pos')):
            movies = [shared.get((side, kind, i), 1000 * s + 100 * k + 100 + i // 2) for i in range(12)]
            files |= {f'aclImdb/{side}/{kind}/{i}_7.txt': f'{side} {kind} {i}'.encode() for i in range(12)}
            files[f'aclImdb/{side}/urls_{kind}.txt'] = ''.join(
                f'http://www.imdb.com/title/tt{movie:07}/usercomments\n' for movie in movies).encode()
    if change:
        change(files)
    with tarfile.open(path, 'w:gz') as tar:
        for file, content in files.items():
            info = tarfile.TarInfo(file)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_small_archive_and_its_folder(tmp_path, enc, capsys):
    path = small_archive(tmp_path / 'small.tar.gz',
                         lambda files: files.update({'aclImdb/test/pos/9_7.txt': b'train pos 9'}))
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path)
    run(f'--source={path}', f'--data_dir={tmp_path}/a')
    out = capsys.readouterr().out
    assert 'dropped: 2 reviews of a movie' in out and 'dropped: 1 test reviews' in out
    run(f'--source={tmp_path}/aclImdb', f'--data_dir={tmp_path}/b')
    for file in (tmp_path / 'a' / 'imdb').glob('*.npy'):
        assert file.read_bytes() == (tmp_path / 'b' / 'imdb' / file.name).read_bytes()
    _, data = load(tmp_path / 'a' / 'imdb')
    train, val, test = (texts_of(data, split, enc) for split in SPLITS)
    every = {side: {f'{side} {kind} {i}' for kind in ('neg', 'pos') for i in range(12)}
             for side in ('train', 'test')}
    assert sorted(train) == sorted(every['train'] - {'train neg 0'})
    assert sorted(val + test) == sorted(every['test'] - {'test neg 5', 'test pos 9'})
    assert len(val) == 11
    run(f'--source={path}', f'--data_dir={tmp_path}/a', '--dev')
    meta, data = load(tmp_path / 'a' / 'imdb_dev')
    rows = [content for split in SPLITS for content in texts_of(data, split, enc)]
    assert sorted(rows) == sorted(train) and all(data[split]['labels'].size for split in SPLITS)
    movies = [set(data[split]['groups'].tolist()) for split in SPLITS]
    assert sum(map(len, movies)) == len(set.union(*movies))
    assert meta['name'] == 'imdb_dev' and not any(meta['shared_groups'].values())


def test_archives_that_are_not_right(tmp_path, capsys):
    def without(part):
        return lambda files: [files.pop(file) for file in list(files) if part in file]

    def says(message, **kwargs):
        path = small_archive(tmp_path / 'small.tar.gz', **kwargs)
        assert message in failure(capsys, f'--source={path}', f'--data_dir={tmp_path}/data')
        assert not (tmp_path / 'data').exists()

    says("('train', 'neg', 4)", change=without('train/neg/4_7'))
    says('not a whole', change=without('test/urls_pos'))
    says("('test', 'pos', 11)", change=lambda files: files.update(
        {'aclImdb/test/urls_pos.txt': b''.join(files['aclImdb/test/urls_pos.txt'].splitlines(True)[:-1])}))
    says('no reviews are left for val', change=without('/test/'))
    says('0 reviews', change=lambda files: files.clear())
    says('1 classes', change=without('neg'))
    says("can't decode", change=lambda files: files.update({'aclImdb/test/pos/3_7.txt': b'caf\xe9'}))

    whole = small_archive(tmp_path / 'small.tar.gz').read_bytes()
    tar = gzip.decompress(whole)
    (tmp_path / 'd.tar.gz').mkdir()
    for bad in (whole[:len(whole) // 2], whole[:-20], whole[:5], b'', b'no archive',
                gzip.compress(tar[:20000]), gzip.compress(tar[:len(tar) // 2]),
                whole[:300] + b'XXXX' + whole[304:]):
        (tmp_path / 'cut.tar.gz').write_bytes(bad)
        failure(capsys, f'--source={tmp_path}/cut.tar.gz', f'--data_dir={tmp_path}/data')
    for file, message in ('missing.tar.gz', 'No such file'), ('d.tar.gz', '0 reviews'):
        assert message in failure(capsys, f'--source={tmp_path}/{file}', f'--data_dir={tmp_path}/data')
    assert not (tmp_path / 'data').exists()


@needs_archive
def test_real_archive_cut_short(tmp_path, capsys):
    with open(ARCHIVE, 'rb') as file:
        (tmp_path / 'aclImdb.tar.gz').write_bytes(file.read(2_000_000))
    failure(capsys, f'--source={tmp_path}/aclImdb.tar.gz', f'--data_dir={tmp_path}/data')
    assert os.listdir(tmp_path) == ['aclImdb.tar.gz']


# ----------------------------------------------------------------------------- files of one's own


def write_csv(path, rows, header=('text', 'label'), **kwargs):
    with open(path, 'w', newline='', encoding='utf-8') as file:
        csv.writer(file, **kwargs).writerows([header, *rows])
    return path


def plain(n, classes=('no', 'yes')):
    return [(f'review number {i}', classes[i % len(classes)]) for i in range(n)]


ODD = ['he said "hello",\nand left', 'NA', 'null', 'None', 'nan', '', ' \tspaces ', 'tab\tin it', '1.0',
       '007', '#x', 'caf\u00e9 \u2014 \U0001f600 \u4f60\u597d', '"', 'a,b,,c', 'line\r\nend', '<|endoftext|>',
       "it's <br /><br />"]


@pytest.mark.parametrize('kind', ['csv', 'bom.csv', 'index.csv', 'tsv', 'jsonl', 'bom.jsonl', 'parquet'])
def test_every_kind_of_file_is_read_as_it_is(kind, tmp_path, enc):
    texts = ODD + [f'more {i}' for i in range(60)]
    rows = [(content, 'pos' if i % 2 else 'neg', f'm{i}') for i, content in enumerate(texts)]
    path, header = tmp_path / f'my.{kind}', ('text', 'label', 'film')
    if kind.endswith('index.csv'):  # as pandas writes its index
        write_csv(path, [(i, *row) for i, row in enumerate(rows)], ('', *header))
    elif kind.endswith('sv'):
        write_csv(path, rows, header, delimiter='\t' if kind == 'tsv' else ',')
    elif kind.endswith('jsonl'):
        path.write_text(''.join(json.dumps({**dict(zip(header, row)), 'other': None}) + '\n' for row in rows))
    else:
        import pandas
        pandas.DataFrame(rows, columns=header).to_parquet(path)
    if kind.startswith('bom'):
        path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    run(f'--source={path}', '--group=film', f'--data_dir={tmp_path}/data')
    meta, data = load(tmp_path / 'data' / path.stem)
    got = [(content, meta['classes'][y]) for split in SPLITS
           for content, y in zip(texts_of(data, split, enc), data[split]['labels'])]
    assert sorted(got) == sorted((content or '<|endoftext|>', y) for content, y, _ in rows)
    tokens = [tokens.tolist() for split in SPLITS for tokens in data[split]['tokens']]
    assert tokens.count([100257]) == 1  # the empty review
    assert enc.encode_ordinary('<|endoftext|>') in tokens  # not the special token, if it is in a text
    assert os.listdir(tmp_path / 'data') == [path.stem]


@pytest.mark.parametrize('values, classes', [
    (['10', '9', '1'], ['1', '9', '10']), ([10, 9, 1], ['1', '9', '10']), ([2.0, 1.0, 3.0], ['1', '2', '3']),
    (['2.0', '1.0'], ['1', '2']), (['b', 'A', 'a'], ['A', 'a', 'b']), ([True, False], ['False', 'True']),
    ([1, 'x'], ['1', 'x']), ([-1, 1], ['-1', '1']), ([0.5, 1.5], ['0.5', '1.5']),
    (['pos ', 'pos', 'neg'], ['neg', 'pos'])])
def test_labels(values, classes, tmp_path):
    rows = [{'text': f't{i}', 'label': values[i % len(values)]} for i in range(60)]
    (tmp_path / 'l.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    run(f'--source={tmp_path}/l.jsonl', f'--data_dir={tmp_path}')
    meta, data = load(tmp_path / 'l')
    assert meta['classes'] == classes
    want = Counter(classes.index(str(row['label']).strip().removesuffix('.0')) for row in rows)
    assert want == Counter(y for split in SPLITS for y in data[split]['labels'].tolist())


def test_stratified_seeded_and_the_same_whatever_the_order(tmp_path, enc):
    rows = [(f'r{i}', 'abc'[(i % 10 > 5) + (i % 10 > 8)]) for i in range(1000)]  # 600 a, 300 b, 100 c
    write_csv(tmp_path / 'one.csv', rows)
    random.Random(1).shuffle(rows)
    write_csv(tmp_path / 'two.csv', rows)
    for source, name, seed in ('one', 'one', 1), ('two', 'two', 1), ('one', 'other', 2):
        run(f'--source={tmp_path}/{source}.csv', f'--name={name}', f'--seed={seed}', f'--data_dir={tmp_path}',
            '--val_frac=0.2')
    _, data = load(tmp_path / 'one')
    for split, share in ('train', .7), ('val', .2), ('test', .1):
        assert np.bincount(data[split]['labels']).tolist() == [round(n * share) for n in (600, 300, 100)]
    for file in (tmp_path / 'one').glob('*.npy'):
        assert file.read_bytes() == (tmp_path / 'two' / file.name).read_bytes()
    _, other = load(tmp_path / 'other')
    assert set(texts_of(other, 'val', enc)) != set(texts_of(data, 'val', enc))


def test_several_labels(tmp_path, enc, capsys):
    """Each row of 0 and 1 is the set of names in the cell: in any order, with repeats and spaces, or with none."""
    rng, names = random.Random(3), ['caf\u00e9', 'plot', 'acting', '7', '10']
    rows, sets = [], {}
    for i in range(600):
        chosen = [name for name in names if rng.random() < 0.4]
        sets[f'r{i}'] = set(chosen)
        cell = [f' {name} ' if rng.random() < 0.3 else name for name in chosen + chosen[:rng.random() < 0.2]]
        rng.shuffle(cell)
        rows.append((f'r{i}', ';'.join(cell) + ';' * (rng.random() < 0.1)))
    for name in 'one', 'two':
        write_csv(tmp_path / f'{name}.csv', rows)
        run(f'--source={tmp_path}/{name}.csv', '--label_sep=;', f'--data_dir={tmp_path}', '--val_frac=0.2')
        rows = [(review, ';'.join(reversed(cell.split(';')))) for review, cell in reversed(rows)]
    meta, data = load(tmp_path / 'one')
    assert meta['classes'] == ['7', '10', 'acting', 'caf\u00e9', 'plot']
    for split, n in ('train', 420), ('val', 120), ('test', 60):
        assert data[split]['labels'].shape == (n, 5)
        for review, row in zip(texts_of(data, split, enc), data[split]['labels']):
            assert {name for name, on in zip(meta['classes'], row) if on} == sets[review] and row.max() <= 1
    assert any(not row.any() for row in data['val']['labels'])
    for file in (tmp_path / 'one').glob('*.npy'):
        assert file.read_bytes() == (tmp_path / 'two' / file.name).read_bytes()
    write_csv(tmp_path / 'same.csv', [(f'r{i}', 'a') for i in range(30)])
    argv = f'--source={tmp_path}/same.csv', '--label_sep=;', f'--data_dir={tmp_path}'
    assert 'wanted 2 to 255' in failure(capsys, *argv)


def test_groups_are_not_cut(tmp_path, enc, capsys):
    rng = random.Random(5)
    rows = [(f'r{i}', rng.choice('ab'), f'author {int(rng.paretovariate(.5)) % 80}') for i in range(1500)]
    author = {content: who for content, _, who in rows}
    write_csv(tmp_path / 'g.csv', rows, ('text', 'label', 'who'))
    for extra, name in ([], 'g'), (['--dev'], 'g_dev'):
        run(f'--source={tmp_path}/g.csv', '--group=who', f'--data_dir={tmp_path}', *extra)
        meta, data = load(tmp_path / name)
        who = [{author[content] for content in texts_of(data, split, enc)} for split in SPLITS]
        assert not (who[0] & who[1] or who[0] & who[2] or who[1] & who[2]) and all(who)
        assert set(meta['shared_groups'].values()) == {0}
    assert 'groups in both: train/val 0, train/test 0, val/test 0' in capsys.readouterr().out
    full = {content for split in ['train'] for content in texts_of(load(tmp_path / 'g')[1], split, enc)}
    assert full == {content for split in SPLITS for content in texts_of(data, split, enc)}  # dev is g's train


def test_files_of_their_own_for_val_and_test(tmp_path, enc, capsys):
    train = [(f'r{i}', 'ab'[i % 2], f'm{i % 7}') for i in range(50)]
    val = [(f'v{i}', 'ab'[i % 2], f'm{6 + i % 4}') for i in range(20)] + [('r3', 'a', 'm9')]
    test = [(f't{i}', 'ab'[i % 2], f'n{i % 4}') for i in range(20)]
    for file, rows in ('train', train), ('val', val), ('test', test):
        write_csv(tmp_path / f'{file}.csv', rows, ('text', 'label', 'm'))
    argv = f'--source={tmp_path}/train.csv', f'--test_source={tmp_path}/test.csv', f'--data_dir={tmp_path}'
    run(*argv, f'--val_source={tmp_path}/val.csv', '--group=m')
    out = capsys.readouterr().out
    meta, data = load(tmp_path / 'train')
    for split, rows in ('train', train), ('val', val[:-1]), ('test', test):
        assert sorted(texts_of(data, split, enc)) == sorted(content for content, *_ in rows)
    assert meta['shared_groups'] == {'train/val': 1, 'train/test': 0, 'val/test': 0}
    assert 'train/val 1' in out and 'warning' in out and 'dropped: 1 val reviews' in out
    run(*argv, '--name=two')
    meta, data = load(tmp_path / 'two')
    val_rows = meta['splits']['val']['rows']
    assert val_rows in (4, 6)  # a tenth of 25 and of 25
    assert [meta['splits'][split]['rows'] for split in SPLITS] == [50 - val_rows, val_rows, 20]
    assert set(meta['shared_groups'].values()) == {None} and 'warning' not in capsys.readouterr().out


def test_reviews_that_are_in_train_word_for_word_go(tmp_path, enc, capsys):
    write_csv(tmp_path / 'd.csv', [(f'r{i % 40}', 'ab'[i % 2]) for i in range(200)])
    run(f'--source={tmp_path}/d.csv', f'--data_dir={tmp_path}', '--val_frac=0.3', '--test_frac=0.3')
    meta, data = load(tmp_path / 'd')
    train, val, test = (set(texts_of(data, split, enc)) for split in SPLITS)
    assert not train & val and not train & test
    assert sum(meta['dropped'].values()) == 200 - sum(s['rows'] for s in meta['splits'].values()) > 0


def test_the_table(tmp_path, capsys):
    words = [(' the' * n, 'ab'[n % 2]) for n in range(1, 101)]
    write_csv(tmp_path / 't.csv', words)
    run(f'--source={tmp_path}/t.csv', f'--data_dir={tmp_path}', '--block_size=90')
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[2:5]}
    meta, data = load(tmp_path / 't')
    for split in SPLITS:
        sizes = [len(tokens) for tokens in data[split]['tokens']]
        assert rows[split] == [str(len(sizes)), f'{sum(sizes):,}', '0', str(sum(n > 90 for n in sizes))]
    assert sum(int(row[3]) for row in rows.values()) == 10


# ----------------------------------------------------------------------------- mistakes


def test_mistakes_in_files(tmp_path, capsys):
    def says(message, content, *argv, kind='csv'):
        path = tmp_path / f'bad.{kind}'
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert message in failure(capsys, f'--source={path}', f'--data_dir={tmp_path}/data', *argv)
        assert not (tmp_path / 'data').exists()

    good = ''.join(f'r{i},{"ab"[i % 2]}\n' for i in range(40))
    says("no column 'label', only 'text', 'stars'", 'text,stars\n' + good)
    says("no column 'film'", 'text,label\n' + good, '--group=film')
    says("no column ''", 'text,label\n' + good, '--text=')
    says("no column 'text', only 'body', 'label'", '{"body": "x", "label": 1}\n', kind='jsonl')
    says("1 classes", 'text,label\nx,a\ny,a\n')
    says('256 classes', 'text,label\n' + ''.join(f'x,{i}\n' for i in range(256)))
    says("2 reviews lack 'label', first no. 2", 'text,label\nx,a\ny,\nz,NaN\nu,b\n')
    says("1 reviews lack 'label', first no. 41",
         '{"text": "x", "label": 1}\n' * 40 + '{"text": "x", "label": NaN}\n', kind='jsonl')
    says("1 reviews lack 'label', first no. 1", '{"text": "x"}\n{"text": "x", "label": 1}\n', kind='jsonl')
    says("lack 'film'", 'text,label,film\nx,a,\ny,b,m\n', '--group=film')
    says("'label' has a list in it", '{"text": "x", "label": ["a", "b"]}\n', kind='jsonl')
    says('line 3 is not UTF-8', b'text,label\nx,a\ncaf\xe9,b\n')
    says('line 1 is not UTF-8', '{"text": "x", "label": 1}\n'.encode('utf-16'), kind='jsonl')
    says('line 2 has a NUL', b'text,label\nx\0,a\n')
    says('is empty', '')
    says('is empty', 'text,label\n')
    says('is empty', '', kind='jsonl')
    says('is empty', '\n\n', kind='jsonl')
    says('cannot be read', '{"text": "x", "label": 1}\n{"text": "y", "lab\n', kind='jsonl')
    says('cannot be read', 'PAR1 or not', kind='parquet')
    says('EOF inside string', 'text,label\n"x,a\ny,b\n')
    says('Expected 2 fields in line 3, saw 3', 'text,label\nx,a\ngood, bad,b\n')
    says('cannot be read', 'text,label\ngood, bad,b\nx,a\n')
    says('wanted imdb, sample', good, kind='txt')
    says('no reviews are left for', 'text,label\nx,a\ny,b\nz,a\n')
    says('no reviews are left for val', 'text,label\n' + good, '--val_frac=0')
    says('no reviews are left for val', 'text,label\n' + good, '--val_frac=-0.2')
    says('train has no review', 'text,label\n' + good, '--val_frac=0.6', '--test_frac=0.5')
    says('--dev cuts by movie', 'text,label\n' + good, '--dev')
    says('nobase', 'text,label\n' + good, '--encoding=nobase')
    says('--name', 'text,label\n' + good, '--name=a/b')
    says('--name', 'text,label\n' + good, '--name=..')

    write_csv(tmp_path / 'good.csv', plain(40))
    (tmp_path / 'c.csv').write_text('text,label\n' + ''.join(f'v{i},new\n' for i in range(9)))
    good, new = f'{tmp_path}/good.csv', f'{tmp_path}/c.csv'
    for message, *argv in (['No such file', f'--source={tmp_path}/none.csv'],
                           ['wanted imdb, sample', '--source=imbd'],
                           ['the split of IMDB is official', f'--val_source={good}'],
                           ["no review of class 'new'", f'--source={good}', f'--val_source={new}'],
                           ['cannot be written', f'--source={good}', f'--data_dir={new}'],
                           ['cannot be written', f'--source={good}', '--data_dir=/dev/null/data']):
        assert message in failure(capsys, f'--data_dir={tmp_path}/data', *argv)
        assert not (tmp_path / 'data').exists()


def test_a_folder_that_is_no_data_set_is_left_alone(tmp_path, capsys):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('years of work')
    write_csv(tmp_path / 'mine.csv', plain(40))
    for extra in [], ['--name=mine.csv']:
        assert '--name' in failure(capsys, f'--source={tmp_path}/mine.csv', f'--data_dir={tmp_path}', *extra)
    assert (tmp_path / 'mine' / 'thesis.txt').read_text() == 'years of work'


@pytest.mark.parametrize('error, where', [
    (RuntimeError, 'save'), (KeyboardInterrupt, 'save'), (OSError, 'save'), (OSError, 'rename')])
def test_whatever_happens_the_old_set_stays_whole(error, where, tmp_path, monkeypatch, capsys):
    write_csv(tmp_path / 'a.csv', plain(40))
    write_csv(tmp_path / 'b.csv', plain(60, 'xyz'))
    argv = f'--data_dir={tmp_path}/data', '--name=a'
    run(f'--source={tmp_path}/a.csv', *argv)
    old = {file.name: file.read_bytes() for file in (tmp_path / 'data' / 'a').iterdir()}
    module, calls = (np if where == 'save' else os), []
    real = getattr(module, where)

    def breaks(*args):
        calls.append(args)
        if len(calls) == 5 if where == 'save' else '.tmp-' in str(args[0]):  # the old set is aside
            raise error('the disk is full')
        return real(*args)

    monkeypatch.setattr(module, where, breaks)
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


def test_a_table_that_is_not_the_official_one(monkeypatch, capsys):
    import bpe_openai
    real = bpe_openai.get_encoding('cl100k_base')

    class Other:
        def decode_single_token_bytes(self, i):
            return real.decode_single_token_bytes({5: 6, 6: 5}.get(i, i))

    monkeypatch.setattr(bpe_openai, 'get_encoding', lambda name: Other())
    with pytest.raises(SystemExit):
        prepare.tokenizer()
    assert 'pip install bpe-openai' in capsys.readouterr().err


def test_the_command(tmp_path):
    """As a user calls it, from another folder, with an empty home; and the hub out of reach."""
    environment = {key: value for key, value in os.environ.items() if key[:3] not in ('HF_', 'XDG')}
    environment |= {'HOME': str(tmp_path / 'home'), 'TMPDIR': str(tmp_path / 'tmp'),
                    'HF_ENDPOINT': 'http://127.0.0.1:9'}
    (tmp_path / 'home').mkdir()
    (tmp_path / 'tmp').mkdir()

    def command(*argv):
        return subprocess.run([sys.executable, ROOT / 'prepare.py', *argv], cwd=tmp_path, env=environment,
                              capture_output=True, text=True)

    done = command('--source=sample')
    assert done.returncode == 0 and done.stderr == '', done.stderr
    meta, data = load(tmp_path / 'data' / 'sample')
    with open(ROOT / 'data' / 'sample.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    assert sum(s['rows'] for s in meta['splits'].values()) + sum(meta['dropped'].values()) == len(rows)
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
