"""nanoloss/tokenizer.py: against tiktoken's own definition and against bpe-openai's tokenizer."""
import base64
import csv
import gzip
import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from nanoloss import tokenizer as module
from nanoloss.tokenizer import table_sha256, tokenizer

SAMPLE = Path(__file__).parents[1] / 'data' / 'sample.csv'
SHA256 = '223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7'
AWKWARD = [
    'a <|endoftext|> b',
    "I'LL  say\n\n \u00e9\u2014\U0001f600 12345\t.",
    ' ',
    '\u00a0\u3000x',
    'line\r\nend \r\n\r\n  x',
    '\u4f60\u597d, 1234567 <br /><br />',
    '',
]


@pytest.fixture(scope='module')
def enc():
    return tokenizer()


@pytest.fixture(scope='module')
def texts():
    with open(SAMPLE, encoding='utf-8', newline='') as file:
        return [row['review'] for row in csv.DictReader(file)] + AWKWARD


def test_it_is_tiktokens_cl100k_base(enc, texts, tmp_path, monkeypatch):
    """tiktoken's own definition, fed by a file in tiktoken's own form, whose hash it checks."""
    import tiktoken
    import tiktoken.load
    from tiktoken_ext import openai_public
    path = tmp_path / 'cl100k_base.tiktoken'
    with open(path, 'w', newline='') as file:
        for rank in range(100256):
            token = base64.b64encode(enc.decode_single_token_bytes(rank)).decode()
            file.write(f'{token} {rank}\n')

    def load_from_file(url, expected_hash):
        assert expected_hash == SHA256
        return tiktoken.load.load_tiktoken_bpe(str(path), expected_hash)

    monkeypatch.setenv('TIKTOKEN_CACHE_DIR', '')
    monkeypatch.setattr(openai_public, 'load_tiktoken_bpe', load_from_file)
    official = tiktoken.Encoding(**openai_public.cl100k_base())

    assert enc.name == official.name
    assert enc.n_vocab == official.n_vocab == 100277
    assert enc.eot_token == official.eot_token == 100257
    assert enc._pat_str == official._pat_str
    assert enc._special_tokens == official._special_tokens
    assert enc.special_tokens_set == official.special_tokens_set
    assert enc._mergeable_ranks == official._mergeable_ranks
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    assert table_sha256(enc._mergeable_ranks) == SHA256
    for text in texts:
        assert enc.encode_ordinary(text) == official.encode_ordinary(text)


def test_tokens_are_those_of_another_tokenizer(enc, texts):
    import bpe_openai
    other = bpe_openai.get_encoding('cl100k_base')
    for text in texts:
        tokens = enc.encode_ordinary(text)
        assert tokens == other.encode(text, disallowed_special=())
        assert enc.decode(tokens) == text


def two_ranks_swapped(content):
    lines = gzip.decompress(content).splitlines(keepends=True)
    (first, rank), (second, next_rank) = lines[5].split(), lines[6].split()
    lines[5:7] = b'%s %s\n' % (second, rank), b'%s %s\n' % (first, next_rank)
    return gzip.compress(b''.join(lines), 1)


@pytest.mark.parametrize('change', [
    two_ranks_swapped, lambda content: content[:-9], lambda content: content[:1000] + b'!' * 9,
    lambda content: b'no gzip', lambda content: None],
    ids=['swapped', 'cut', 'damaged', 'text', 'gone'])
def test_a_table_that_is_not_the_official_one(monkeypatch, capsys, tmp_path, change):
    import bpe_openai
    real = Path(bpe_openai.__file__).parent / 'data/cl100k_base.tiktoken.gz'
    content = change(real.read_bytes())
    (tmp_path / 'data').mkdir()
    if content is not None:
        (tmp_path / 'data' / real.name).write_bytes(content)
    wheel = SimpleNamespace(origin=str(tmp_path / '__init__.py'))
    monkeypatch.setattr(module, 'find_spec', lambda name: wheel)
    monkeypatch.setattr(module, 'cl100k_from_wheel', module.cl100k_from_wheel.__wrapped__)
    with pytest.raises(SystemExit) as end:
        tokenizer()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert 'pip install bpe-openai' in error and error.count('\n') == 1


def test_without_the_wheel_and_other_names_go_to_tiktoken(monkeypatch):
    names = []
    monkeypatch.setattr(module.tiktoken, 'get_encoding', names.append)
    tokenizer('p50k_base')
    monkeypatch.setattr(module, 'find_spec', lambda name: None)
    tokenizer()
    assert names == ['p50k_base', 'cl100k_base']


@pytest.mark.parametrize('error', [ValueError('Unknown encoding'), OSError('no connection')])
def test_a_name_that_tiktoken_cannot_get(error, monkeypatch, capsys):
    def get_encoding(name):
        raise error

    monkeypatch.setattr(module.tiktoken, 'get_encoding', get_encoding)
    with pytest.raises(SystemExit) as end:
        tokenizer('nobase')
    message = capsys.readouterr().err
    assert end.value.code == 2 and message.count('\n') == 1
    assert f'--tokenizer=nobase: {error}; tiktoken has ' in message and 'cl100k_base' in message
