"""data/sample.csv is what its generator writes, and holds what the docs promise (1 s)."""
import csv
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict

import pytest
from conftest import ROOT

DATA = ROOT / 'data'


@pytest.fixture(scope='module')
def rows():
    with open(DATA / 'sample.csv', encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file, strict=True))


def test_the_generator_rewrites_the_file_byte_for_byte(tmp_path):
    script = shutil.copy(DATA / 'make_sample.py', tmp_path)
    # neither the order of sets nor the machine's own encoding may show in the file
    env = os.environ | {'PYTHONHASHSEED': '7', 'LC_ALL': 'C'}
    subprocess.run([sys.executable, script], check=True, env=env)
    assert (tmp_path / 'sample.csv').read_bytes() == (DATA / 'sample.csv').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['make_sample.py', 'sample.csv']


def test_rows_columns_films_and_balance(rows):
    assert len(rows) == 3000
    assert {tuple(row) for row in rows} == {('review', 'label', 'movie')}
    assert all(value.strip() == value != '' for row in rows for value in row.values())
    assert set(Counter(row['label'] for row in rows)) == {'neg', 'pos'}
    assert 0.48 < sum(row['label'] == 'pos' for row in rows) / 3000 < 0.52
    films = Counter(row['movie'] for row in rows)
    assert 300 <= len(films) <= 500
    assert max(films.values()) >= 20 and min(films.values()) == 1
    assert (DATA / 'sample.csv').stat().st_size < 900_000


def test_the_reviews_differ_as_promised(rows):
    texts = [row['review'] for row in rows]
    assert len(texts) - len(set(texts)) <= 30  # the same twice: at most 1 %
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[0] == 1
    assert lengths[-20] > 300
    pieces = [
        '<br /><br />', '“', '"', 'é', '—', '👍', 'Скучно', '最高', ' never ', ' I may be alone']
    for piece in pieces:
        assert sum(piece in text for text in texts) >= 5, piece
    slip = re.compile(r'(?i)[{}\n]|  |\ba [aeiou]|\ban [^aeiou\W]')
    assert not any(slip.search(text) for text in texts)


def one_word_apart(text, other):
    """Of two reviews, as lists of words."""
    return len(text) == len(other) and sum(a != b for a, b in zip(text, other)) == 1


def test_reviews_of_a_film_that_are_nearly_one(rows):
    of_film = defaultdict(list)
    for row in rows:
        of_film[row['movie']].append(row['review'].split())
    near = 0
    for texts in of_film.values():
        for i, text in enumerate(texts):
            earlier = [other for other in texts[:i] if len(text) > 3]
            near += any(one_word_apart(text, other) for other in earlier)
    assert near >= 60


def test_some_reviews_are_decided_by_word_order_alone(rows):
    by_bag = defaultdict(dict)  # sorted words -> {text: label}
    for row in rows:
        text = row['review'].lower()
        by_bag[tuple(sorted(re.findall(r'\w+', text)))][text] = row['label']
    twins = [texts for texts in by_bag.values() if len(texts) == 2]
    opposed = sum(len(set(texts.values())) == 2 for texts in twins)
    assert len(twins) >= 50
    assert opposed > 0.85 * len(twins)  # both labels right: 92 %

    # after 'but', 'yet' and 'although' the last clause decides, of which the last word speaks
    praise = {
        'wonderful', 'superb', 'lovely', 'brilliant', 'excellent', 'delightful', 'splendid',
        'great'}
    n_turned = 0
    n_decided_by_the_end = 0
    for texts in twins:
        for text, label in texts.items():
            if re.search(r'\b(but|yet|although)\b[^.]*\.$', text):
                praises = re.findall(r'\w+', text)[-1] in praise
                n_turned += 1
                n_decided_by_the_end += praises == (label == 'pos')
    assert n_turned >= 60
    assert n_decided_by_the_end > 0.9 * n_turned
