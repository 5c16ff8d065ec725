"""nanoloss/tables.py: every kind of file that it reads, against what was written; and mistakes."""
import csv
import gzip
import io
import json
import os
import sys
from pathlib import Path

import pyarrow
import pytest

from nanoloss.tables import PACKED, files_of, name_of, read_columns, strings

ODD = ['he said "hello",\nand left', 'NA', 'null', 'None', 'nan', '', ' \tspaces ', 'tab\tin it',
       '1.0', '007', '#x', 'caf\u00e9 \u2014 \U0001f600 \u4f60\u597d', '"', 'a,b,,c',
       'line\r\nend', '<|endoftext|>', "it's <br /><br />"]
GOOD = 'text,label\n' + 'a text,a\nanother,b\n' * 20


def write_csv(path, rows, header=('text', 'label'), **kwargs):
    with open(path, 'w', newline='', encoding='utf-8') as file:
        csv.writer(file, **kwargs).writerows([header, *rows])
    return path


def write_json_lines(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path


def column_of(path, column, cache, *others):
    data = read_columns(path, [column, *others], str(cache))
    return strings(path, column, data[column][:])


@pytest.mark.parametrize('kind', ['csv', 'bom.csv', 'index.csv', 'CSV', 'tsv', 'json', 'jsonl',
                                  'bom.jsonl', 'parquet'])
def test_every_cell_is_read_as_it_is(kind, tmp_path):
    header = 'text', 'film'
    texts = ODD + [f'more {i}' for i in range(3000)]
    rows = [(text, f'm{i}') for i, text in enumerate(texts)]
    path = tmp_path / f'my[1]*.{kind}'  # what a shell, and datasets, would take for a pattern
    if kind == 'index.csv':  # as pandas writes its index
        write_csv(path, [(i, *row) for i, row in enumerate(rows)], ('', *header))
    elif kind.lower().endswith('sv'):
        write_csv(path, rows, header, delimiter='\t' if kind == 'tsv' else ',')
    elif kind == 'parquet':
        import pandas
        pandas.DataFrame(rows, columns=header).to_parquet(path)
    else:
        write_json_lines(path, [{'text': text, 'film': film, 'other': None} for text, film in rows])
    if kind.startswith('bom'):
        path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())

    data = read_columns(path, ['text', 'film'], str(tmp_path / 'cache'))
    assert len(data) == len(texts)
    assert strings(path, 'text', data['text'][:]) == texts
    assert strings(path, 'film', data['film'][:]) == [film for _, film in rows]
    # rows in any order, as prepare.py fetches them, and slices, as predict.py does
    some = [5, 3000, 0, 17, 5]
    assert strings(path, 'text', data[some]['text']) == [texts[row] for row in some]
    assert strings(path, 'text', data[2:12]['text']) == texts[2:12]
    # memory-mapped from the folder, and nothing is left beside the file
    files = [entry['filename'] for entry in data.cache_files]
    assert files and all(file.startswith(str(tmp_path / 'cache')) for file in files)
    assert sorted(os.listdir(tmp_path)) == ['cache', path.name]


@pytest.mark.parametrize('kind', ['csv.gz', 'jsonl.gz', 'tsv.zst', 'parquet.zst', '-'])
def test_packed_files_and_standard_input(kind, tmp_path, monkeypatch):
    texts = ODD + [f'more {i}' for i in range(300)]
    plain, _, packing = f'my.{kind}'.rpartition('.')
    plain = tmp_path / plain
    if plain.suffix in ('.csv', '.tsv'):
        delimiter = '\t' if plain.suffix == '.tsv' else ','
        write_csv(plain, [(text, i) for i, text in enumerate(texts)], delimiter=delimiter)
    elif plain.suffix == '.parquet':
        import pandas
        pandas.DataFrame({'text': texts}).to_parquet(plain)
    else:
        write_json_lines(plain, [{'text': text} for text in texts])
    path = Path('-')
    if packing == 'gz':
        path = tmp_path / f'{plain.name}.gz'
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif packing == 'zst':
        path = tmp_path / f'{plain.name}.zst'
        with pyarrow.output_stream(str(path), compression='zstd') as file:
            file.write(plain.read_bytes())
    else:
        content = io.BytesIO(plain.read_bytes())
        monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(content))
    (tmp_path / 'cache').mkdir()
    assert column_of(path, 'text', tmp_path / 'cache') == texts
    assert name_of(tmp_path / f'my.{kind}' if packing != '-' else plain) == 'my'


def test_a_packed_file_that_is_cut_short(tmp_path, capsys):
    (tmp_path / 'cache').mkdir()
    for ending in 'gz', 'zst':
        path = tmp_path / f'cut.csv.{ending}'
        content = GOOD.encode() + os.urandom(9999).hex().encode()
        with pyarrow.output_stream(str(path), compression=PACKED[f'.{ending}']) as file:
            file.write(content)
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(SystemExit):
            read_columns(path, ['text'], str(tmp_path / 'cache'))
        err = capsys.readouterr().err
        assert f'{path}: cannot be read' in err
        assert err.count('\n') == 1


def test_files_that_a_pattern_stands_for(tmp_path, capsys):
    for name in 'b.csv', 'a.csv', 'c.tsv', 'd[1].csv':
        (tmp_path / name).write_text('text\nx\n')
    (tmp_path / 'e.csv').mkdir()
    assert files_of(f'{tmp_path}/?.csv') == [f'{tmp_path}/a.csv', f'{tmp_path}/b.csv']
    assert files_of(f'{tmp_path}/d[1].csv') == [f'{tmp_path}/d[1].csv']
    assert files_of('none.csv') == ['none.csv']
    with pytest.raises(SystemExit):
        files_of(f'{tmp_path}/*.jsonl')
    assert 'no file matches' in capsys.readouterr().err


def test_values_that_are_no_strings(tmp_path):
    rows = [{'text': 'a', 'n': 10, 'x': 0.5}, {'text': None, 'n': -9, 'x': 2.0}, {'n': 1, 'x': 1}]
    path = write_json_lines(tmp_path / 'n.jsonl', rows)
    assert column_of(path, 'n', tmp_path / 'cache') == ['10', '-9', '1']
    assert column_of(path, 'x', tmp_path / 'cache') == ['0.5', '2.0', '1']
    assert column_of(path, 'text', tmp_path / 'cache') == ['a', '', '']
    assert strings(path, 'b', [True, None, 3, 'x', 1.5]) == ['True', '', '3', 'x', '1.5']


def test_columns_that_nobody_asked_for_may_hold_anything(tmp_path):
    """Also where a type shows late, far beyond what a reader might take as a sample."""
    rows = [{'text': f'text {i}', 'label': 'a', 'day': '2024-03-05', 'note': None, 'meta': {'b': 2}}
            for i in range(40_000)]
    rows[-1] |= {'note': 'a string', 'meta': [1], 'new': 1}
    del rows[7]['note']
    path = write_json_lines(tmp_path / 'n.jsonl', rows)
    assert column_of(path, 'text', tmp_path / 'cache') == [row['text'] for row in rows]
    assert set(column_of(path, 'day', tmp_path / 'cache')) == {'2024-03-05'}
    assert column_of(path, 'new', tmp_path / 'cache')[-2:] == ['', '1']


ROWS = [{'text': 'a', 'x': [1, {}]}, {'text': 'b\nc {'}, {'text': ''}]


@pytest.mark.parametrize('content', [
    '\n ' + json.dumps(ROWS, indent=1),
    '\n\n'.join(json.dumps(row, indent=2) for row in ROWS),
    ' '.join(json.dumps(row) for row in ROWS) + '\n',
    '\r\n'.join(json.dumps(row) for row in ROWS),
], ids=['array', 'objects of several lines', 'one line', 'carriage returns'])
def test_rows_of_json_however_they_are_laid_out(content, tmp_path):
    path = tmp_path / 'n.json'
    path.write_bytes(content.encode())
    for _ in range(2):  # the second time, it is not taken from a cache that knows no columns
        assert column_of(path, 'text', tmp_path / 'cache') == ['a', 'b\nc {', '']


def test_numbers_in_a_csv_stay_as_they_are_written(tmp_path):
    path = write_csv(tmp_path / 'n.csv', [('a', '007'), ('b', '1.50'), ('c', ''), ('d', '1e3')])
    assert column_of(path, 'label', tmp_path / 'cache', 'text') == ['007', '1.50', '', '1e3']


MISTAKES = [
    ('csv', b'text,label\nx,a\ncaf\xe9,b\n', 'line 3 is not UTF-8'),
    ('jsonl', '{"text": "x", "label": 1}\n'.encode('utf-16'), 'line 1 is not UTF-8'),
    ('csv', b'text,label\nx\0,a\n', 'line 2 has a NUL byte'),
    ('csv', '', 'is empty'),
    ('csv', 'text,label\n', 'is empty'),
    ('jsonl', '', 'is empty'),
    ('jsonl', '\n\n', 'is empty'),
    ('jsonl', '{"text": "x", "label": 1}\n{"text": "y", "lab\n', 'cannot be read'),
    ('jsonl', '{"text": "x", "label": 1}\n["y", 2]\n', 'line 2: a row is an object'),
    ('json', '[{"text": "x", "label": 1}, 2]', 'a row is an object'),
    ('json', '[]', 'is empty'),
    ('jsonl', '{"text": "x", "label": 1}\n{"text": "y",\n', 'line 2: its end is missing'),
    ('jsonl', '{"text": "x",\n{"text": "y", "label": 1}\n', 'line 1: Expecting property name'),
    ('parquet', 'PAR1 or not', 'cannot be read'),
    ('csv', 'text,label\n"x,a\ny,b\n', 'EOF inside string'),
    ('csv', 'text,label\nx,a\ngood, bad,b\n', 'Expected 2 fields in line 3, saw 3'),
    ('csv', 'text,label\ngood, bad,b\nx,a\n', 'cannot be read'),
    ('txt', GOOD, 'wanted imdb, sample, a folder'),
    ('csv', 'text,stars\nx,a\n', "no column 'label', only 'text', 'stars'; see --text, --label"),
    ('tsv', GOOD, "no column 'label', only 'text,label'"),
    ('jsonl', '{"body": "x", "label": 1}\n', "no column 'text', only 'body', 'label'"),
]


@pytest.mark.parametrize('kind, content, message', MISTAKES)
def test_mistakes_end_in_one_line(kind, content, message, tmp_path, capsys):
    path = tmp_path / f'bad.{kind}'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit) as end:
        read_columns(path, ['text', 'label'], str(tmp_path / 'cache'))
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == '' and err.count('\n') == 1
    assert str(path) in err and message in err and 'Traceback' not in err


def test_a_file_that_is_not_there(tmp_path, capsys):
    for name in 'none.csv', 'none.jsonl', 'none.parquet':
        with pytest.raises(SystemExit):
            read_columns(tmp_path / name, ['text'], str(tmp_path / 'cache'))
        assert 'cannot be read' in capsys.readouterr().err


def test_a_column_of_lists(tmp_path, capsys):
    path = write_json_lines(tmp_path / 'l.jsonl', [{'text': 'x', 'label': ['a', 'b']}])
    with pytest.raises(SystemExit):
        column_of(path, 'label', tmp_path / 'cache')
    assert "'label' has a list in it, wanted text or numbers" in capsys.readouterr().err
