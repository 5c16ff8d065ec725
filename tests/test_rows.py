"""nanoloss/rows.py: from cells to labels, and which texts are equal."""
import io
import time

import numpy as np
import pandas
import pytest

from nanoloss.rows import TextStore, digest_of, name_labels, read_list


def labels_of(cells, columns=('label',), label_sep='', wheres=None):
    return name_labels(cells, columns, label_sep, wheres or [''] * len(cells), 'row {}'.format)


def error_of(capsys, cells, *args):
    with pytest.raises(SystemExit) as end:
        labels_of(cells, *args)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count('\n') == 1
    return error


@pytest.mark.parametrize('cells, labels', [
    (['10', '9', '1'], ['10', '9', '1']), (['2.0', '1.0', '-3.0'], ['2', '1', '-3']),
    (['2.0', '', '1.0', 'nan', None], ['2', '', '1', '', '']),  # as pandas makes them of 2 and 1
    (['2', '2.0', '3.1'], ['2', '2.0', '3.1']), (['2.0', 'x'], ['2.0', 'x']),
    (['nan', 'other', 'NaN'], ['nan', 'other', 'NaN']), (['nan', '1'], ['nan', '1']),
    (['pos ', '\tpos', 'neg'], ['pos', 'pos', 'neg']), (['True', None], ['True', '']),
    (['a;b', 'a'], ['a;b', 'a']), (['[deleted]', '[ok]'], ['[deleted]', '[ok]'])])
def test_one_label_a_text(cells, labels):
    assert labels_of(cells) == labels


LISTS = [['bad', 'rare'], ['bad'], [], ['it\'s', 'a "word"', 'a, b', 'back\\slash'], ['x', 'x']]
TUPLES = [('bad', 'rare'), ('bad',), (), ('a "word"', 'a, b', 'back\\slash', "it's"), ('x',)]


def test_floats_of_pandas_are_those_of_a_file():
    """It reads integers as floats only in the file in which some are missing."""
    cells = ['0', '1', '2', '0.0', '1.0', '']
    assert labels_of(cells, wheres=['a'] * 3 + ['b'] * 3) == ['0', '1', '2', '0', '1', '']
    assert labels_of(cells) == cells
    assert labels_of(['1.0', '1.00']) == ['1.0', '1.00']


def test_lists_of_labels():
    """As Python, pandas, numpy and JSON write them, and as they are."""
    assert labels_of(LISTS) == TUPLES
    assert labels_of([str(names) for names in LISTS]) == TUPLES
    assert labels_of([str(np.array(names, dtype=object)) for names in LISTS]) == TUPLES
    frame = pandas.DataFrame({'label': [names or None for names in LISTS]})
    written = pandas.read_csv(io.StringIO(frame.to_csv()), keep_default_na=False)
    assert labels_of(written['label'].tolist()) == [names or '' for names in TUPLES]
    assert labels_of(['["a", "b"]', '["b"]', None, '', '[]']) == [('a', 'b'), ('b',), '', '', ()]
    assert labels_of(["('a', 'b')", "{'b'}", '()']) == [('a', 'b'), ('b',), ()]
    assert labels_of(['{a,b}', '{b}']) == [('a', 'b'), ('b',)]  # Postgres
    assert labels_of(["[u'a', u'b']"]) == [('a', 'b')]
    assert labels_of(['[1. 2.]', '[2.]']) == [('1', '2'), ('2',)]
    assert labels_of(['["\\ud83d\\ude00", "a\\/b"]']) == [('a/b', '\U0001f600')]
    assert labels_of(['[1, 2]', '[2]']) == [('1', '2'), ('2',)]
    assert labels_of(["['a', 'b']"], label_sep=',') == [('a', 'b')]
    wide = np.array([f'label {i}' for i in range(30)])  # numpy breaks its lines
    assert '\n' in str(wide)
    assert labels_of([str(wide)]) == [tuple(sorted(wide.tolist()))]


def test_what_is_no_list():
    for cell in 'a', "['a'", "['a'] b", '[' + 'a,' * 9999 + ']':
        assert read_list(cell) is None
    for cell in '[a]', '[a, b]', "['it's']", "[array(['a'])]", '{"a": 1}':
        with pytest.raises(ValueError, match='is no list that can be read'):
            read_list(cell)
    started = time.monotonic()
    assert read_list('[' + "\\'" * 20_000 + ']') is None
    assert time.monotonic() - started < 1


def test_lists_that_cannot_be_read(capsys):
    """If all labels have the form of one: names in brackets are names, lists in them are not."""
    for cell in "['it's']", '[a, b]', "[array(['a'])]":
        assert f'row 0: {cell!r} is no list that can be read' in error_of(capsys, [cell, cell])
    assert labels_of(['[deleted]', '[a, b]', 'c']) == ['[deleted]', '[a, b]', 'c']


@pytest.mark.parametrize('cells', [
    [['1', '0', '1'], ['0', '0', '0']], ['[1 0 1]', '[0 0 1]'], ['[1.0, 0.0, 0.0]'],
    ['[true, false, false]']])
def test_lists_of_0_and_1(cells, capsys):
    assert 'the labels are lists of 0 and 1; wanted lists of names' in error_of(capsys, cells)


def test_lists_among_other_labels(capsys):
    error = error_of(capsys, ["['a', 'b']", 'c', ''])
    assert "row 1: the label 'c' is not a list, but those of other rows are" in error


def test_several_labels_a_cell():
    assert labels_of([' a ;b;', '', 'b;b', None], label_sep=';') == [('a', 'b'), (), ('b',), '']
    assert labels_of(['1.0;2.0', '2.0'], label_sep=';') == [('1', '2'), ('2',)]
    assert labels_of(['nan;b', 'b'], label_sep=';') == [('b', 'nan'), ('b',)]


def test_a_column_a_label(capsys):
    cells = [['1', '0'], ['0', 'True'], ['1.0', 'TRUE'], ['False', '0.0']]
    assert labels_of(cells, ['x', 'y']) == [('x',), ('y',), ('x', 'y'), ()]
    for bad in '2', '', None, 'yes':
        assert "row 1: 'y' is" in error_of(capsys, [['1', '0'], ['1', bad]], ['x', 'y'])


def test_texts_that_are_equal_but_for_their_layout():
    same = ['One two. Three', 'One two.Three', ' One\ntwo. \tThree\r\n',
            'One two.<br /><br />Three', '<p class="a">One <b>two</b>.</P><BR>Three',
            'One\u00a0two.\u2003Three']
    other = ['one two. Three', 'One two, Three', 'One <int> two. Three', 'One <two>. Three',
             'One < b two. b > Three']
    assert len({digest_of(text) for text in same}) == 1
    assert len({digest_of(text) for text in [same[0], *other]}) == 1 + len(other)


def test_texts_on_the_disk():
    texts = ['', 'caf\u00e9', 'x' * 10_000, '', '\U0001f600\n']
    store = TextStore()
    for i, text in enumerate(texts):
        store.append(text)
        assert store.read([i]) == [text]  # read and write by turns
    assert len(store) == 5
    assert store.read([4, 0, 2, 1, 2]) == [texts[i] for i in (4, 0, 2, 1, 2)]
