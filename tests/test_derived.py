"""nanoloss/derived.py: the cache beside a data set, whole and damaged (10 s)."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import WINDOWS, make_data, outcome, train, train_config

import train as train_script
from model import make_head
from nanoloss import derived, loop
from nanoloss.data import class_share, describe_data, load_data, sample_texts
from nanoloss.derived import KEPT, cached, hash_of, number_data
from nanoloss.linear import linear_logits
from nanoloss.settings import updated
from nanoloss.tokenizer import tokenizer

ARGV = [*WINDOWS, '--epochs=1']


@pytest.fixture(scope='module')
def fresh(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('fresh'))


@pytest.fixture
def data(fresh, tmp_path):
    """The toy data set, without a cache."""
    return shutil.copytree(fresh, tmp_path / 'data')


@pytest.fixture
def computed(monkeypatch):
    """A list with an element for each time that `derive` is called."""
    calls = []
    derive = derived.derive

    def counted(*args):
        calls.append(args)
        return derive(*args)
    monkeypatch.setattr(derived, 'derive', counted)
    return calls


def files_of(data):
    return sorted((data / 'toy/cache').glob('*'))


def settled(data, *argv):
    """The arguments of number_data, as train.py makes them: config, splits, head."""
    config = train_config(data, data / 'out', *ARGV, *argv)
    splits, meta = load_data(data / 'toy')
    splits['train'] = sample_texts(splits['train'], config.n_train, config.seed)
    meta['class_share'] = class_share(splits['train'].labels, 2)
    facts = loop.describe_machine('cpu') | describe_data(meta)
    config = updated(train_script.auto_settings(config, splits['train']), **facts)
    splits['seen'] = train_script.seen_texts(config, splits)
    return config, splits, train_script.untrained_head(config)


def same_arrays(a, b):
    """Two dicts of arrays are the same, bit for bit."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in a)


# What is derived

@pytest.mark.parametrize('ngrams', ['words+chars', 'none'])
def test_splits_are_numbered_and_get_the_logits_of_the_fit(data, ngrams):
    """From scratch and from the cache."""
    config, splits, head = settled(data, f'--ngrams={ngrams}', '--block_size=9', '--truncate=both')
    encoding = tokenizer()
    first = number_data(config, splits, head, None)
    second = number_data(config, splits, head, None)
    for numbered, known, fitted in first, second:
        assert numbered.keys() == splits.keys() == {'train', 'val', 'test', 'seen'}
        assert len(known.tokens) > 50
        assert (known.block_size, known.truncate) == (9, 'both')
        for name, split in splits.items():
            wanted = known.number(split, encoding)
            assert np.array_equal(numbered[name].tokens, wanted.tokens)
            assert np.array_equal(numbered[name].spans, wanted.spans)
            assert np.array_equal(numbered[name].labels, split.labels)
            if name == 'train' or ngrams == 'none':
                assert numbered[name].linear is None
            else:
                logits = linear_logits(fitted, split, known, encoding)
                assert torch.equal(numbered[name].linear, torch.from_numpy(logits))
        assert (fitted is None) == (ngrams == 'none') == (len(known.ngrams) == 0)
    assert np.array_equal(first[1].ngrams, second[1].ngrams)
    for a, b in zip(first[2] or (), second[2] or (), strict=True):
        assert a.dtype == b.dtype == np.float32 and np.array_equal(a, b)


def test_a_run_from_the_cache_is_the_same(data, tmp_path, computed):
    train(data, tmp_path / 'first', *ARGV)
    assert len(computed) == len(files_of(data)) == 1
    train(data, tmp_path / 'second', *ARGV)
    assert len(computed) == 1
    first, second = (tmp_path / name / 'seed0' for name in ('first', 'second'))
    assert outcome(first) == outcome(second)
    assert (first / 'model.pt').read_bytes() == (second / 'model.pt').read_bytes()
    # another seed and other settings of training use it, too
    train(data, tmp_path / 'third', *ARGV, '--seed=3', '--learning_rate=1e-2', '--n_embd=8')
    assert len(computed) == len(files_of(data)) == 1
    # other settings of the texts do not
    train(data, tmp_path / 'fourth', *ARGV, '--block_size=10')
    assert len(computed) == len(files_of(data)) == 2


@pytest.mark.parametrize('argv', [
    ['--n_train=50'], ['--head=own.py:Mine'], ['--init_from=first/seed0', '--full_vocab']],
    ids=['n_train', 'head', 'init_from'])
def test_what_depends_on_more_is_not_cached(data, tmp_path, monkeypatch, argv):
    monkeypatch.chdir(tmp_path)
    Path('own.py').write_text('from model import CEHead\nclass Mine(CEHead): pass\n')
    if 'init_from' in argv[0]:
        train(data, 'first', *ARGV, '--full_vocab')
        shutil.rmtree(data / 'toy/cache')
    train(data, 'out', *ARGV, *argv)
    assert Path('out/seed0/result.json').exists()
    assert not files_of(data)


def test_pseudo_labels_are_not_cached(data):
    """They are part of the training labels, which the fingerprint of the data does not cover."""
    config, splits, head = settled(data)
    _, known, plain = number_data(config, splits, head, None)
    config.teacher = 'out/teacher'
    probs = np.full((len(splits['train'].labels), 2), 0.5, np.float32)
    splits['train'] = splits['train']._replace(labels=probs)
    _, _, fitted = number_data(config, splits, head, None)
    assert len(files_of(data)) == 1
    assert np.abs(fitted.weight).max() < 1e-3 < 0.1 < np.abs(plain.weight).max()


# The key

CHANGES = {
    'data': 'another', 'lower': True, 'block_size': 19, 'truncate': 'both', 'full_vocab': True,
    'spell': True, 'ngrams': 'words', 'min_count': 5}


def test_every_setting_of_the_texts_is_in_the_key(data):
    config, _, head = settled(data)
    key = hash_of(config, head)
    assert hash_of(updated(config), head) == key
    keys = {key}
    for name, value in CHANGES.items():
        assert getattr(config, name) != value
        keys.add(hash_of(updated(config, **{name: value}), head))
    assert len(keys) == 1 + len(CHANGES)
    others = {'seed': 5, 'learning_rate': 1.0, 'n_embd': 3, 'out_dir': 'x', 'dropout': 0.9}
    assert hash_of(updated(config, **others), head) == key


def test_the_head_and_its_settings_are_in_the_key(data):
    config, *_ = settled(data)
    heads = [
        ('ce', {}), ('bce', {}), ('brier', {}), ('square', {}), ('square', {'k': 3.0}),
        ('square', {'M': 2.0}), ('focal', {}), ('focal', {'gamma': 3.0}),
        ('focal', {'alpha': '1,2'}), ('ce', {'label_smoothing': 0.1}),
        ('ce', {'class_weight': '1,2'}), ('ce', {'class_weight': '1,3'})]
    keys = []
    for several in False, True:
        for name, settings in heads:
            if several and name == 'bce':  # which is ce then
                continue
            keys.append(hash_of(config, make_head(name, 1, 2, several, **settings)))
    keys.append(hash_of(config, make_head('ce', 1, 3)))
    assert len(set(keys)) == len(keys)
    # but not the weights that it starts with
    torch.manual_seed(8)
    assert hash_of(config, make_head('ce', 1, 2)) == keys[0]


@pytest.mark.parametrize('name', [
    'model.py', 'nanoloss/derived.py', 'nanoloss/linear.py', 'nanoloss/text.py',
    'nanoloss/vocabulary.py'])
def test_code_is_in_the_key(data, monkeypatch, name):
    config, _, head = settled(data)
    key = hash_of(config, head)
    read = Path.read_bytes
    monkeypatch.setattr(
        Path, 'read_bytes', lambda path: read(path) + b'#' * str(path).endswith(f'/{name}'))
    assert hash_of(config, head) != key
    monkeypatch.undo()
    assert hash_of(config, head) == key


# The files

ARRAYS = {'a': np.arange(1000), 'b': np.zeros((0, 3), np.float32), 'c': np.array([2 ** 64 - 1])}


def no_second_time():
    raise AssertionError('computed again')


def test_arrays_are_computed_once(tmp_path):
    assert same_arrays(cached(tmp_path, 'key', lambda: ARRAYS), ARRAYS)
    assert same_arrays(cached(tmp_path, 'key', no_second_time), ARRAYS)
    with pytest.raises(AssertionError, match='computed again'):
        cached(tmp_path, 'other', no_second_time)
    assert [path.name for path in (tmp_path / 'cache').iterdir()] == ['key.npz']


@pytest.mark.parametrize('damage', [
    lambda content: b'', lambda content: b'no zip', lambda content: content[:-1],
    lambda content: content[:len(content) // 2],
    lambda content: content[:3000] + bytes([content[3000] ^ 1]) + content[3001:]],
    ids=['empty', 'text', 'cut', 'half', 'flipped'])
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    cached(tmp_path, 'key', lambda: ARRAYS)
    path = tmp_path / 'cache/key.npz'
    content = path.read_bytes()
    path.write_bytes(damage(content))
    others = {'a': np.arange(3)}
    assert same_arrays(cached(tmp_path, 'key', lambda: others), others)
    assert same_arrays(cached(tmp_path, 'key', no_second_time), others)


def test_a_run_with_a_damaged_file_is_the_same(data, tmp_path, computed):
    train(data, tmp_path / 'first', *ARGV)
    path, = files_of(data)
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2] + b'!' + content[len(content) // 2 + 1:])
    train(data, tmp_path / 'second', *ARGV)
    assert len(computed) == 2
    assert outcome(tmp_path / 'first/seed0') == outcome(tmp_path / 'second/seed0')
    assert path.read_bytes() == content


def test_the_oldest_files_are_deleted(tmp_path):
    names = [f'key{i}' for i in (3, 1, 4, 5, 9, 2, 6)]
    for age, name in enumerate(names):
        cached(tmp_path, name, lambda: ARRAYS)
        path = tmp_path / f'cache/{name}.npz'
        os.utime(path, (0, 1000 + age))
        left = {path.stem for path in (tmp_path / 'cache').iterdir()}
        assert left == set(names[max(0, age + 1 - KEPT):age + 1])
    assert len(left) == KEPT == 4


@pytest.mark.parametrize('how', ['a file in the way', 'a full disk'])
def test_without_a_place_there_is_no_cache(data, tmp_path, monkeypatch, computed, how):
    """The run is the same."""
    train(data, tmp_path / 'first', *ARGV)
    shutil.rmtree(data / 'toy/cache')
    if how == 'a file in the way':
        (data / 'toy/cache').write_text('')
    else:
        def full(path, write):
            raise OSError('No space left on device')
        monkeypatch.setattr(derived, 'write_file', full)
    for name in 'second', 'third':
        train(data, tmp_path / name, *ARGV)
        assert outcome(tmp_path / 'first/seed0') == outcome(tmp_path / f'{name}/seed0')
    assert len(computed) == 3
    assert not files_of(data)
