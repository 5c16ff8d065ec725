"""tools/learning_curve.py on made-up runs of a known law (5 s)."""
import json
import re

import numpy as np
import pytest
from helpers import config_of, fails, make_run

from tools import learning_curve as module

SIZES = 100, 200, 500, 1000, 2000, 5000, 10_000
LAW = 4.0, 120.0, 0.4  # error in % = a + b n^-c
N = 20_000, 100  # texts of test and val


def error_of(n):
    a, b, c = LAW
    return a + b * n ** -c


def write_run(folder, n, seed, rng, bend=0.0):
    """A run whose error on test is that of the law, plus noise, less a bend."""
    error = error_of(n) * rng.normal(1, 0.01) - bend
    make_run(folder / str(n) / f'seed{seed}', (round(N[0] * (1 - error / 100)), 80), n=N)


def learning_curve(*folders, out=''):
    """Run tools.learning_curve in this process."""
    module.main(config_of(module, f'--out_dir={out}'), folders)


@pytest.fixture(scope='module')
def curve(tmp_path_factory):
    folder = tmp_path_factory.mktemp('curve')
    rng = np.random.default_rng(0)
    for n in SIZES:
        for seed in range(5):
            write_run(folder, n, seed, rng)
            if n < SIZES[-1] or seed == 0:
                correct = round(N[0] * (0.94 - error_of(n) / 100)), 80
                make_run(folder / f'{n}/nbsvm/seed{seed}', correct, n=N, sklearn='1.9')
    (folder / '10000/seed9').mkdir()
    return folder


def test_table_and_figure_of_a_known_law(curve, capsys):
    learning_curve(curve)
    text = (curve / 'table.md').read_text()
    assert capsys.readouterr().out == text
    assert (curve / 'curve.png').read_bytes().startswith(b'\x89PNG')

    rows = [line.split(' | ') for line in text.splitlines() if re.match(r'\| [\d,]+ \| ', line)]
    assert [row[0].strip('| ') for row in rows] == [f'{n:,}' for n in SIZES]
    for n, row in zip(SIZES, rows):
        accuracies = []
        for seed in range(5):
            result = json.loads((curve / f'{n}/seed{seed}/result.json').read_text())
            accuracies.append(100 * result['last']['test']['correct'] / N[0])
        assert row[1] == '5'
        assert float(row[2]) == pytest.approx(np.mean(accuracies), abs=0.006)
        half = 2.7764451 * np.std(accuracies, ddof=1) / 5 ** 0.5
        assert row[3] == f'{np.mean(accuracies) - half:.2f} to {np.mean(accuracies) + half:.2f}'
        assert float(row[5]) == pytest.approx(94 - error_of(n), abs=0.01)
        assert float(row[7].strip('| ')) == pytest.approx(float(row[2]) - float(row[5]), abs=0.011)
    assert [row[4] for row in rows] == ['5'] * 6 + ['1']

    found = re.search(r'the accuracy by \+([\d.]+) \(([\d.]+) to ([\d.]+)\) points', text)
    gain, low, high = map(float, found.groups())
    truth = error_of(10_000) - error_of(20_000)
    assert low - 0.05 <= truth <= high + 0.05
    assert gain == pytest.approx(truth, abs=0.3)
    assert 'So the form of the law holds up to this size.' in text
    assert len(re.findall(r'^\| (?:\(all sizes\)|the [a-z ]+) \|', text, re.MULTILINE)) == 4
    assert 'seed9 is not finished' in text


def test_a_curve_that_bends_is_called_so(tmp_path, capsys):
    """The largest size is better by 2 points than the law of all others says."""
    rng = np.random.default_rng(1)
    for n in SIZES[1:]:
        for seed in range(3):
            write_run(tmp_path, n, seed, rng, bend=2.0 * (n == SIZES[-1]))
    learning_curve(tmp_path)
    text = capsys.readouterr().out
    assert 'the form of the law does not quite hold' in text
    assert 'nan' not in text


def test_too_few_sizes_or_seeds_have_no_law(tmp_path, capsys):
    rng = np.random.default_rng(2)
    for n in SIZES[:4]:
        for seed in range(2 if n < 1000 else 1):
            write_run(tmp_path, n, seed, rng)
    learning_curve(tmp_path)
    text = capsys.readouterr().out
    assert 'A law needs 4 sizes with at least two seeds each; there are 3.' in text
    assert 'Sizes with a single seed' not in text
    assert '| 1,000 | 1 | ' in text
    error = fails(capsys, tmp_path / 'none', run=learning_curve)
    assert 'there is no finished run' in error


def test_a_size_with_one_seed_is_not_used_for_the_law(tmp_path, capsys):
    rng = np.random.default_rng(3)
    for n in SIZES[:6]:
        for seed in range(1 if n == 500 else 3):
            write_run(tmp_path, n, seed, rng)
    learning_curve(tmp_path)
    text = capsys.readouterr().out
    assert 'Sizes with a single seed are not used for the law: 500.' in text
    assert 'Twice the data would change the accuracy by' in text


def test_table_and_figure_can_go_elsewhere(curve, tmp_path, capsys):
    before = {path.name for path in curve.iterdir()}
    learning_curve(curve, out=tmp_path / 'new/deep')
    assert {path.name for path in (tmp_path / 'new/deep').iterdir()} == {'table.md', 'curve.png'}
    assert {path.name for path in curve.iterdir()} == before
    capsys.readouterr()
    assert 'cannot write to' in fails(capsys, curve, run=learning_curve, out='/dev/null/x')
    for folders in [(), (curve, curve)]:
        assert 'give one folder' in fails(capsys, *folders, run=learning_curve)


@pytest.mark.parametrize('rows, n_class, sizes', [
    (24_998, 2, '250 500 1250 2500 5000 12499 24998'),  # IMDB
    (9003, 77, '180 450 900 1801 4502 9003'),  # 90 texts are not two a class
    (30, 2, '6 15 30')])
def test_the_sizes_of_a_data_set(tmp_path, capsys, rows, n_class, sizes):
    meta = {'splits': {'train': {'rows': rows}}, 'classes': list(range(n_class))}
    (tmp_path / 'meta.json').write_text(json.dumps(meta))
    learning_curve(tmp_path)
    assert capsys.readouterr().out == sizes + '\n'
