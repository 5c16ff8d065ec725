"""nanoloss/tables.py: every kind of file that it reads, against what was written; and mistakes."""
import csv
import gzip
import io
import json
import math
import os
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from nanoloss import tables
from nanoloss.tables import files_of, make_format, name_of, read_rows

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


def column_of(path, column, *others, **settings):
    form = make_format(**{'encoding': 'utf-8', 'sep': '', 'quoting': 'auto', **settings})
    return [cells[0] for _, cells in read_rows(path, [column, *others], form)]


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

    read = list(read_rows(path, ['text', 'film']))
    assert [cells for _, cells in read] == [[text, film] for text, film in rows]
    numbers = [number for number, _ in read]
    if kind == 'parquet':
        assert numbers == list(range(1, len(rows) + 1))
    elif kind.endswith('sv') or kind == 'CSV':  # the lines in which rows begin
        begins = np.cumsum([2, *(len(text.splitlines()) or 1 for text in texts)])
        assert numbers == begins[:-1].tolist()
    else:
        assert numbers == list(range(1, len(rows) + 1))
    # columns in any order, and one twice
    assert next(read_rows(path, ['film', 'text', 'film']))[1] == ['m0', texts[0], 'm0']
    assert os.listdir(tmp_path) == [path.name]  # nothing is left beside the file


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
    assert column_of(path, 'text') == texts
    assert name_of(tmp_path / f'my.{kind}' if packing != '-' else plain) == 'my'


def test_a_packed_file_that_is_cut_short(tmp_path, capsys):
    for ending, compression in ('gz', 'gzip'), ('zst', 'zstd'):
        path = tmp_path / f'cut.csv.{ending}'
        content = GOOD.encode() + b''.join(b'%s,a\n' % os.urandom(9).hex().encode()
                                           for _ in range(999))
        with pyarrow.output_stream(str(path), compression=compression) as file:
            file.write(content)
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(SystemExit):
            column_of(path, 'text')
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
    # a link that leads nowhere is no reason to read fewer files
    (tmp_path / 'f.csv').symlink_to(tmp_path / 'elsewhere.csv')
    assert f'{tmp_path}/f.csv' in files_of(f'{tmp_path}/?.csv')


def test_values_that_are_no_strings(tmp_path):
    rows = [{'text': 'a', 'n': 10, 'x': 0.5}, {'text': None, 'n': -9, 'x': 2.0}, {'n': 1, 'x': 1}]
    path = write_json_lines(tmp_path / 'n.jsonl', rows)
    assert column_of(path, 'n') == ['10', '-9', '1']
    assert column_of(path, 'x') == ['0.5', '2.0', '1']
    assert column_of(path, 'text') == ['a', None, None]
    path = write_json_lines(tmp_path / 'b.jsonl', [{'b': b} for b in (True, None, 'nan', ['x', 2])])
    path.write_text(path.read_text() + '{"b": NaN}\n')
    assert column_of(path, 'b') == ['True', None, 'nan', ['x', '2'], None]


def test_missing_values_of_a_parquet_file(tmp_path):
    """Arrow tells apart what is null and what is no number; to a data set, both are missing."""
    import pyarrow.parquet
    columns = {'text': ['nan', None, ''], 'x': [0.5, math.nan, None]}
    path = tmp_path / 'n.parquet'
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert pyarrow.parquet.read_table(path)['x'].null_count == 1
    assert column_of(path, 'text') == ['nan', None, '']
    assert column_of(path, 'x') == ['0.5', None, None]


def test_columns_that_nobody_asked_for_may_hold_anything(tmp_path):
    """Also where a type shows late, far beyond what a reader might take as a sample."""
    rows = [{'text': f'text {i}', 'label': 'a', 'day': '2024-03-05', 'note': None, 'meta': {'b': 2}}
            for i in range(40_000)]
    rows[-1] |= {'note': 'a string', 'meta': [1], 'new': 1}
    del rows[7]['note']
    path = write_json_lines(tmp_path / 'n.jsonl', rows)
    assert column_of(path, 'text') == [row['text'] for row in rows]
    assert set(column_of(path, 'day')) == {'2024-03-05'}
    assert column_of(path, 'new')[-2:] == [None, '1']


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
    assert column_of(path, 'text') == ['a', 'b\nc {', '']


def test_numbers_in_a_csv_stay_as_they_are_written(tmp_path):
    path = write_csv(tmp_path / 'n.csv', [('a', '007'), ('b', '1.50'), ('c', ''), ('d', '1e3')])
    assert column_of(path, 'label') == ['007', '1.50', '', '1e3']


MISTAKES = [
    ('csv', b'text,label\nx,a\ncaf\xe9,b\n', 'line 3 is not UTF-8'),
    ('jsonl', '{"text": "x", "label": 1}\n'.encode('utf-16'), 'line 1 is not UTF-8'),
    ('csv', b'text,label\nx\0,a\n', 'line 2 has a NUL byte'),
    ('csv', '', 'it has no row'),
    ('csv', 'text,label\n', 'it has no row'),
    ('jsonl', '', 'it has no row'),
    ('jsonl', '\n\n', 'it has no row'),
    ('jsonl', '{"text": "x", "label": 1}\n{"text": "y", "lab\n', 'line 2: its end is missing'),
    ('jsonl', '{"text": "x", "label": 1}\n["y", 2]\n', 'line 2: a row must be an object'),
    ('json', '[{"text": "x", "label": 1}, 2]', 'line 1: a row must be an object'),
    ('json', '[]', 'it has no row'),
    ('json', '[{"text": "x", "label": 1},\n', 'the end of the array is missing'),
    ('json', '[{"text": "x", "label": 1}]\n{"text": "y"}', 'line 2: the array has ended'),
    ('jsonl', '{"text": "x", "label": 1}\n{"text": "y",\n', 'line 2: its end is missing'),
    ('jsonl', '{"text": "x",\n{"text": "y", "label": 1}\n', 'line 1: Expecting property name'),
    ('jsonl', '{"text": "x", "label": ' + '[' * 100_000 + ']' * 100_000 + '}', 'nested too deeply'),
    ('jsonl', '{"text": "x", "label": ' + '1' * 5000 + '}', 'line 1'),
    ('jsonl', '{"text": "\\ud83d", "label": 1}', "line 1: 'text' has half of a character"),
    ('jsonl', '{"text": {"a": 1}, "label": 1}', "line 1: 'text' has a dict"),
    ('jsonl', '{"text": "x", "label": 1, "text": "y"}', "the key 'text' twice"),
    ('parquet', 'PAR1 or not', 'cannot be read'),
    ('csv', 'text,label\n"x,a\ny,b\n', 'line 2: a cell begins with a quotation mark that is never'),
    ('csv', 'text,label\nx,a\ngood, bad,b\n', 'line 3 has 3 cells, the header has 2'),
    ('csv', 'text,label\ngood, bad,b\nx,a\n', 'line 2 has 3 cells'),
    ('csv', 'label,text\na,one\na,two\nlines\nb,x\n', 'line 4 (or the text of line 3'),
    ('txt', GOOD, 'wanted a .csv, .tsv, .json, .jsonl or .parquet file'),
    ('xlsx', b'PK', 'is a spreadsheet; save it as CSV'),
    ('csv', 'text,stars\nx,a\n', "no column 'label', only 'text', 'stars'; see --text, --label"),
    ('csv', 'text,text,label\nx,y,a\n', "2 columns are named 'text'"),
    ('csv', 'text;label\nx;a\n', "only 'text;label'; see --sep"),
    ('tsv', GOOD, "no column 'label', only 'text,label'"),
    ('jsonl', '{"body": "x", "label": 1}\n', "no column 'text', only 'body'"),
]


def mistake_in(path, capsys, columns=('text', 'label'), **settings):
    """Read a file, which must end in one line -> the line."""
    form = make_format(**{'encoding': 'utf-8', 'sep': '', 'quoting': 'auto', **settings})
    with pytest.raises(SystemExit) as end:
        list(read_rows(path, list(columns), form))
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == '' and err.count('\n') == 1 and 'Traceback' not in err
    assert str(path) in err
    return err


@pytest.mark.parametrize('kind, content, message', MISTAKES)
def test_mistakes_end_in_one_line(kind, content, message, tmp_path, capsys):
    path = tmp_path / f'bad.{kind}'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in mistake_in(path, capsys)


def test_a_file_that_is_not_there(tmp_path, capsys):
    for name in 'none.csv', 'none.jsonl', 'none.parquet':
        assert 'cannot be read' in mistake_in(tmp_path / name, capsys)


# Quotation marks

@pytest.mark.parametrize('sep', [',', '\t'], ids=['csv', 'tsv'])
def test_texts_that_begin_with_a_lone_quotation_mark(sep, tmp_path, capsys):
    """Rows 10 and 40 do: whatever stands between them must not become one text."""
    path = tmp_path / ('q.tsv' if sep == '\t' else 'q.csv')
    texts = [('"' if i in (10, 40) else '') + f'kettle number {i}' for i in range(60)]
    lines = [f'{text}{sep}{"ab"[i % 2]}' for i, text in enumerate(texts)]
    path.write_text('\n'.join([f'text{sep}label', *lines, '']))
    error = mistake_in(path, capsys)
    assert 'line 42, in a cell that begins in line 12' in error and '--quoting=none' in error
    assert column_of(path, 'text', quoting='none') == texts

    # the second text ends with a mark, before the separator: csv takes all between for one cell
    texts[40] = 'kettle number 40"'
    lines = [f'{text}{sep}{"ab"[i % 2]}' for i, text in enumerate(texts)]
    path.write_text('\n'.join([f'text{sep}label', *lines, '']))
    with open(path, newline='') as file:
        assert len(list(csv.reader(file, delimiter=sep, strict=True))) == 61 - 30
    error = mistake_in(path, capsys)
    assert 'lines 12 to 42 are one cell' in error and '--quoting=none' in error
    assert mistake_in(path, capsys, ['text']) == error  # also if no label is asked for
    assert column_of(path, 'text', quoting='none') == texts


SWALLOWED = {  # header, row i, the columns that are asked for
    'classes that follow each other': ('text,label', lambda i, text: f'{text},c{i // 6}',
                                       ['text', 'label']),
    'labels first': ('label,text', lambda i, text: f'c{i // 6},{text}', ['text', 'label']),
    'a blank line': ('text,label', lambda i, text: f'{text},{i % 2}' + '\n' * (i == 20),
                     ['text', 'label']),
    'blank lines': ('text,label', lambda i, text: f'{text},{i % 2}\r', ['text', 'label']),
    'a separator in a text': ('text,label',
                              lambda i, text: f'{text}{", and" * (i == 30)},{i % 2}',
                              ['text', 'label']),
    'many columns': ('text,' + ','.join(f'x{k}' for k in range(60)) + ',label',
                     lambda i, text: f'{text},{",".join("abc" * 20)},{i % 2}', ['text', 'label']),
    'labels and names': ('id,text,label', lambda i, text: f'{hash(text)},{text},{i % 3}',
                         ['text', 'label']),
    'names alone': ('id,text', lambda i, text: f'{hash(text):x},{text}', ['text']),
    'dates': ('date,text', lambda i, text: f'2024-03-{i},{text}', ['text']),
    'numbers': ('text,score', lambda i, text: f'{text},0.{i}', ['text']),
    'two texts': ('title,body', lambda i, text: f'{text},body {i}', ['title', 'body']),
}


@pytest.mark.parametrize('header, row, columns', SWALLOWED.values(), ids=SWALLOWED.keys())
def test_rows_between_two_marks(header, row, columns, tmp_path, capsys):
    """Text 10 begins with one, text 40 ends with one: whatever the other columns are."""
    lines = []
    for i in range(60):
        text = f'kettle number {i}'
        if i == 10:
            text = '"' + text
        if i == 40:
            text += '"'
        lines.append(row(i, text))
    if not lines[10].startswith('"'):  # a mark within a cell is a mark of its own
        lines[10] = lines[10].replace(',"', ',"')
    path = tmp_path / 's.csv'
    path.write_text('\n'.join([header, *lines, '']), newline='')
    form = make_format('utf-8', '', 'auto')
    with pytest.raises(SystemExit):
        list(read_rows(path, columns, form, n_texts=2 if 'body' in columns else 1))
    error = capsys.readouterr().err
    assert 'are one cell in quotation marks' in error or 'closing quotation mark' in error
    if 'and' not in row(30, ''):
        form = make_format('utf-8', '', 'none')
        assert len(list(read_rows(path, columns, form))) == 60


def test_more_labels_than_a_thousand(tmp_path, capsys):
    lines = [f'{"x" if i != 10 else chr(34)} text {i}{chr(34) * (i == 2900)},c{i // 2}'
             for i in range(3000)]
    (tmp_path / 'm.csv').write_text('\n'.join(['text,label', *lines, '']))
    assert 'are one cell' in mistake_in(tmp_path / 'm.csv', capsys)


def test_cells_of_several_lines_are_not_taken_for_rows(tmp_path, capsys):
    """Poems and addresses, each line with as many commas as a row has, and numbers in them; where
    that is not clear, --quoting=minimal says so."""
    texts = ['Roses are red, he said\nViolets are blue, she said', 'a, b\nc, d\ne, 5\n6, 7',
             '1 Main Street, Springfield\nUSA, Earth\n', 'a,1\nb', '7\n1,000 dollars', 'x', 'y']
    path = write_csv(tmp_path / 'p.csv', [(text, 'ab'[i % 2]) for i, text in enumerate(texts)])
    assert column_of(path, 'text', 'label') == texts
    path = write_csv(tmp_path / 'i.csv', enumerate(texts[4:]), ('id', 'text'))
    assert column_of(path, 'text') == texts[4:]
    quoting = ['the sample,a\nis what', 'x', 'y']  # which quotes a row
    path = write_csv(tmp_path / 'q.csv', [(text, 'ab'[i % 2]) for i, text in enumerate(quoting)])
    assert '--quoting=minimal, if it is one cell' in mistake_in(path, capsys)
    assert column_of(path, 'text', 'label', quoting='minimal') == quoting


def test_quotation_marks_after_a_space(tmp_path, capsys):
    path = tmp_path / 's.csv'
    for line in 'x, "good"', ' "a text",good', 'x,\t"good" ':
        path.write_text(f'text,label\ny,bad\n{line}\n')
        assert 'line 3: a space stands before a quotation mark' in mistake_in(path, capsys)
        assert len(column_of(path, 'text', quoting='minimal')) == 2
    texts = [' "a text"', 'he said, "so"', 'at the end, ', 'a line\n ', ' ', ' " ']
    path = write_csv(path, [(text, 'a') for text in texts])
    assert column_of(path, 'text') == texts


def test_a_header_in_the_middle(tmp_path, capsys):
    path = tmp_path / 'h.csv'
    for again in 'text,label', '\ufefftext,label':
        path.write_text(f'\ufefftext,label\nx,a\n{again}\ny,b\n')
        assert 'line 3 is the header again' in mistake_in(path, capsys)
    path.write_text('text , label\nx,a\n')  # names without the space around them
    assert column_of(path, 'text', 'label') == ['x']


@pytest.mark.parametrize('line, message', [
    ('"Good" said he: x,a', 'line 3: a closing quotation mark must be followed by a separator'),
    ('"a \\"quoted\\" word",a', 'CSV doubles a quotation mark within a cell'),
    ('"open,a', 'line 3: a cell begins with a quotation mark that is never closed')])
def test_quotation_marks_are_not_lost(line, message, tmp_path, capsys):
    path = tmp_path / 'q.csv'
    path.write_text(f'text,label\nx,b\n{line}\n')
    assert message in mistake_in(path, capsys)
    assert column_of(path, 'text', quoting='none') == ['x', line.removesuffix(',a')]


# Encodings and separators

@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be',
                                      'utf-32', 'cp1252', 'latin-1'])
@pytest.mark.parametrize('kind', ['csv', 'jsonl'])
def test_encodings(kind, encoding, tmp_path):
    texts = ['caf\u00e9, "na\u00efve"', '\u00fcber\nalles', 'x']
    path = tmp_path / f'e.{kind}'
    if kind == 'csv':
        content = io.StringIO(newline='')
        csv.writer(content).writerows([['text'], *([text] for text in texts)])
        content = content.getvalue()
    else:
        content = ''.join(json.dumps({'text': text}, ensure_ascii=False) + '\n' for text in texts)
    if encoding in ('utf-16-le', 'utf-16-be'):
        content = '\ufeff' + content  # as Windows writes it; Python does so for utf-16 alone
    path.write_bytes(content.encode(encoding))
    assert column_of(path, 'text', encoding=encoding) == texts


def test_an_encoding_that_is_not_that_of_the_file(tmp_path, capsys):
    path = write_csv(tmp_path / 'e.csv', [('caf\u00e9', 'a')])
    path.write_bytes(path.read_bytes() + 'x,a\n'.encode('utf-16'))
    assert 'is not UTF-16' in mistake_in(path, capsys, encoding='utf-16')
    assert 'is not UTF-8' in mistake_in(path, capsys)
    for encoding in 'cl100k_base', 'base64', 'undefined', 'no such':
        with pytest.raises(SystemExit):
            make_format(encoding, '', 'auto')
        assert 'no such encoding' in capsys.readouterr().err


@pytest.mark.parametrize('name, sep', [('s.csv', ';'), ('s.csv', '|'), ('s.txt', 'tab'),
                                       ('s.csv', '\\t'), ('s.tsv', ',')])
def test_separators(name, sep, tmp_path, capsys):
    character = {'tab': '\t', '\\t': '\t'}.get(sep, sep)
    texts = [*ODD, f'a{character}b']
    path = write_csv(tmp_path / name, [(text, 'a') for text in texts], delimiter=character)
    assert column_of(path, 'text', sep=sep) == texts
    for bad in ';;', '"', '\n':
        with pytest.raises(SystemExit):
            make_format('utf-8', bad, 'auto')
        assert 'wanted one character' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        make_format('utf-8', '', 'all')
    assert 'wanted auto, minimal, none' in capsys.readouterr().err


def test_a_blank_line_of_a_file_with_one_column_is_an_empty_text(tmp_path):
    (tmp_path / 'one.csv').write_text('text\nfirst\n\nthird\n\n\n')
    assert column_of(tmp_path / 'one.csv', 'text') == ['first', '', 'third', '', '']
    (tmp_path / 'two.csv').write_text('text,label\nfirst,a\n\nthird,b\n\n')
    assert column_of(tmp_path / 'two.csv', 'text') == ['first', 'third']


# Bounds

@pytest.mark.parametrize('name, begin, middle', [
    ('a.csv.gz', 'text,label\n', 'x' * 100), ('b.csv.gz', 'text,label\n"', 'x\n'),
    ('c.csv.gz', 'text,label\n', '"\n",'), ('d.jsonl.gz', '{', ' '), ('e.json.gz', '[{', '\n')])
def test_a_line_that_is_too_long_ends_early(name, begin, middle, tmp_path, capsys, monkeypatch):
    """A packed file of a megabyte may hold gigabytes: no more than a line's bound is kept."""
    monkeypatch.setattr(tables, 'MAX_CHARS', 10_000)
    path = tmp_path / name
    with gzip.open(path, 'wt') as file:
        file.write(begin + middle * (5_000_000 // len(middle)))
    tracemalloc.start()
    assert 'has more than' in mistake_in(path, capsys)
    assert tracemalloc.get_traced_memory()[1] < 2_500_000
    tracemalloc.stop()


@pytest.mark.parametrize('shape', ['wrapped', 'indented', 'one line', 'columns', 'escapes'])
def test_time_is_linear(shape, tmp_path, capsys):
    """A quadratic reader took minutes: 39 s for 12,000 wrapped rows, 22 s for 20,000 columns."""
    n = 60_000
    rows = [{'text': f'text {i}', 'label': i % 2} for i in range(n)]
    path = tmp_path / 'n.json'
    mistake = ''
    if shape == 'wrapped':  # one object around a row per line: no column, but soon
        path.write_text('{"data": [\n' + ',\n'.join(map(json.dumps, rows)) + '\n]}\n')
        mistake = "no column 'label', only 'data'"
    elif shape == 'escapes':  # a string that goes on in the next line
        path.write_text('{"text": "' + '\\"' * n + '\n","label": 1}')
        mistake = 'line 1'
    elif shape == 'indented':
        path.write_text(json.dumps(rows, indent=1))
    elif shape == 'one line':
        path.write_text(' '.join(map(json.dumps, rows)))
    else:
        path = tmp_path / 'n.csv'
        path.write_text('text,' + ','.join(['x'] * n) + '\ny,' + ','.join(['1'] * n) + '\n')
    started = time.perf_counter()
    if mistake:
        assert mistake in mistake_in(path, capsys)
    else:
        assert len(column_of(path, 'text')) == (1 if shape == 'columns' else n)
    assert time.perf_counter() - started < 10
