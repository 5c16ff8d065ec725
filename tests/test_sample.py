"""data/sample.csv is what its generator writes, holds what the docs promise, and can be data of your own (20 s)."""
import csv
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / 'data'


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
    assert lengths[0] == 1 and lengths[-20] > 300
    for piece in ('<br /><br />', '“', '"', 'é', '—', '👍', 'Скучно', '最高', ' never ', ' I may be alone'):
        assert sum(piece in text for text in texts) >= 5, piece
    assert not any(re.search(r'(?i)[{}\n]|  |\ba [aeiou]|\ban [^aeiou\W]', text) for text in texts)

    def one_word_apart(one, other):
        return len(one) == len(other) and sum(a != b for a, b in zip(one, other)) == 1

    of_film = defaultdict(list)
    for row in rows:
        of_film[row['movie']].append(row['review'].split())
    near = sum(any(one_word_apart(text, other) for other in texts[:i] if len(text) > 3)
               for texts in of_film.values() for i, text in enumerate(texts))
    assert near >= 60


def test_some_reviews_are_decided_by_word_order_alone(rows):
    by_bag = defaultdict(dict)  # sorted words -> {text: label}
    for row in rows:
        text = row['review'].lower()
        by_bag[tuple(sorted(re.findall(r'\w+', text)))][text] = row['label']
    twins = [texts for texts in by_bag.values() if len(texts) == 2]
    opposed = sum(len(set(texts.values())) == 2 for texts in twins)
    assert len(twins) >= 50 and opposed > 0.85 * len(twins)  # both labels right: 92 %

    # after 'but', 'yet' and 'although' the last clause decides, here told by its last word
    praise = set('wonderful superb lovely brilliant excellent delightful splendid great'.split())
    told = [(re.findall(r'\w+', text)[-1] in praise, label == 'pos') for texts in twins
            for text, label in texts.items() if re.search(r'\b(but|yet|although)\b[^.]*\.$', text)]
    assert len(told) >= 60 and sum(says_good == is_good for says_good, is_good in told) > 0.9 * len(told)


@pytest.mark.parametrize('several', [False, True])
def test_your_own_data_from_file_to_table(rows, several, tmp_path):
    """Three classes, or several labels a text, through prepare.py, train.py and evaluate.py: the topics it names."""
    topics, root = ('songs', 'jokes', 'villain'), DATA.parent
    with open(tmp_path / 'topics.csv', 'w', encoding='utf-8', newline='') as file:
        table = csv.writer(file)
        table.writerow(['text', 'label'])
        for row in rows[:1800]:
            named = [topic for topic in topics if topic in row['review']]
            if several or len(named) == 1:
                table.writerow([row['review'], '|'.join(named)])

    def call(script, *argv):
        return subprocess.run([sys.executable, root / script, *argv], cwd=tmp_path, check=True, capture_output=True,
                              text=True, encoding='utf-8').stdout
    call('prepare.py', '--source=topics.csv', *['--label_sep=|'] * several)
    call('train.py', root / 'config/sample_bce.py', '--dataset=topics', '--out_dir=out', '--threads=1', '--epochs=10',
         '--learning_rate=3e-3', '--token_dropout=0')
    text = call('evaluate.py', 'out')
    head, _, row = ([cell.strip() for cell in line.split('|')[1:-1]]
                    for line in text.split('## The decisions')[1].splitlines()[2:5])
    values = dict(zip(head, row))
    assert {f'recall of {topic}' for topic in topics} <= set(values)
    assert ('micro F1' in values) == several and 'AUROC' not in values
    assert float(values['macro F1'].split()[0]) > 80
