"""lm/analysis.py, against counts by hand. A few seconds."""
import json
import math
import re
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from lm import analysis
from nanoloss.stats import half_interval

TEXTS = [np.array(text, np.uint32) for text in ([1, 2, 3, 1, 2, 3, 4], [2, 3, 1, 2], [5, 1, 2, 3])]


def write_run(folder, nll, tokens, n_bytes, **last):
    """A finished run of lm/pretrain.py, with what the tables read."""
    folder.mkdir(parents=True)
    scaled = np.array(nll) * 0.9
    test = {}
    for suffix, values in (('', np.array(nll)), ('_scaled', scaled)):
        test[f'perplexity{suffix}'] = math.exp(values.sum() / sum(tokens))
        test[f'bits_per_byte{suffix}'] = values.sum() / math.log(2) / sum(n_bytes)
    result = {'last': {'temperature': 1.5, 'val': test, 'test': test, **last}}
    (folder / 'result.json').write_text(json.dumps(result))
    np.savez(folder / 'preds.npz', test_nll=nll, test_nll_scaled=scaled, test_tokens=tokens,
             test_bytes=n_bytes)
    rows = [{'tokens': 1000 * i, 'val_bits_per_byte': 3 - i} for i in (1, 2)]
    (folder / 'log.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def test_trigrams_are_counted_by_hand():
    judge = analysis.Trigrams(TEXTS)
    by_hand = Counter()
    for text in TEXTS:
        for size in (1, 2, 3):
            for i in range(len(text) - size + 1):
                by_hand[tuple(text[i:i + size].tolist())] += 1
    text = np.array([1, 2, 3, 4, 9], np.uint32)
    expected = []
    for i in range(2, 5):
        a, b, c = text[i - 2:i + 1].tolist()
        p = 0.1 * (by_hand[c,] + 1) / (15 + 100_257)
        p += 0.3 * by_hand[b, c] / max(by_hand[b,], 1)
        p += 0.6 * by_hand[a, b, c] / max(by_hand[a, b], 1)
        expected.append(-math.log(p))
    assert judge.nll(text) == pytest.approx(expected)


def test_figures_of_texts_by_hand():
    judge = analysis.Trigrams(TEXTS)
    texts = [np.array([1, 2, 3, 1, 2, 3, 1], np.uint32), np.array([7, 8], np.uint32)]
    length, pairs, repeated, copied, _ = analysis.figures_of_texts(texts, judge)
    assert length == 4.5
    assert pairs == pytest.approx(100 * 3 / 6)  # 12, 23, 31 of six, of the text that is long enough
    assert repeated == pytest.approx(100 * 1 / 4)  # 1231 comes twice
    assert copied == pytest.approx(100 * 2 / 3)  # 12312 and 23123, not 31231


def test_the_distance_of_single_runs_is_that_of_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1, 400))
    estimate, low, high = analysis.distance(a, b)
    pairs = stats.ttest_rel(a[0], b[0]).confidence_interval()
    assert estimate == pytest.approx((a - b).mean())
    assert [low, high] == pytest.approx([pairs.low, pairs.high], abs=1e-3)


def test_the_interval_of_bits_per_byte_is_that_of_a_ratio(tmp_path):
    """Long texts have more bits, but not more a byte: the interval of a distance is that of the
    ratio over resampled texts, where the bits of each by the mean length vary with the length."""
    rng = np.random.default_rng(1)
    n_bytes = rng.integers(100, 5000, 300)
    bits = {}
    for loss, level in (('ce', 1.9), ('squentropy', 2.0)):
        rate = level + 0.05 * rng.normal(size=300)  # of each text, a byte
        bits[loss] = rate * n_bytes
        write_run(tmp_path / loss / 'seed0', bits[loss] * math.log(2), n_bytes // 4, n_bytes)
    rows = []
    for loss in bits:
        runs = analysis.finished_runs(tmp_path / loss)
        rows.append(analysis.bits_of_texts(runs, 'test_nll'))
    for row, values in zip(rows, bits.values()):
        assert row.mean() == pytest.approx(values.sum() / n_bytes.sum())
    estimate, low, high = analysis.distance(rows[1], rows[0])
    difference = bits['squentropy'] - bits['ce']
    assert estimate == pytest.approx(difference.sum() / n_bytes.sum())
    draws = rng.integers(0, 300, (4000, 300))
    resampled = difference[draws].sum(1) / n_bytes[draws].sum(1)
    assert high - low == pytest.approx(2 * 1.96 * resampled.std(), rel=0.06)


def test_the_tables(tmp_path):
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 90, 40)
    n_bytes = 4 * tokens
    for loss, level in (('ce', 4.0), ('squentropy', 4.4)):
        for seed in range(3):
            nll = tokens * (level + 0.02 * rng.normal(size=40))
            write_run(tmp_path / f'runs/{loss}/seed{seed}', nll, tokens, n_bytes)
        for rate in ('1e-3', '3e-3'):
            nll = tokens * (level + (rate == '1e-3'))
            write_run(tmp_path / f'rates/{loss}/{rate}/seed0', nll, tokens, n_bytes)
    analysis.rates(tmp_path)
    assert (tmp_path / 'best_rates.txt').read_text() == 'ce 3e-3\nsquentropy 3e-3\n'
    analysis.runs(tmp_path)
    row = [line for line in (tmp_path / 'runs.md').read_text().splitlines()
           if line.startswith('| squentropy (3)')][0].split(' | ')
    # 0.4 nats a token of 4 bytes; a tenth less with the temperature
    assert float(row[6].split()[0]) == pytest.approx(0.4 / 4 / math.log(2), abs=0.01)
    assert row[8].rstrip(' |') == '10%'
    assert (tmp_path / 'runs.png').stat().st_size > 5000


def test_the_table_of_what_was_tried(tmp_path):
    for setting, accuracy in (('3e-4', 0.75), ('1e-3', 0.5)):
        run = tmp_path / f'tune/5000/ce/{setting}/seed0'
        run.mkdir(parents=True)
        (run / 'result.json').write_text(json.dumps({'last': {'val': {'accuracy': accuracy}}}))
    analysis.tune(tmp_path)
    lines = (tmp_path / 'tune.md').read_text().splitlines()
    assert lines[2:] == ['| 5,000 | cross-entropy | 1e-3 | 50.0 |',
                         '| 5,000 | cross-entropy | 3e-4 | 75.0 |']


def classifiers(folder, counts):
    """Runs of 50 reviews, of which so many are right by seed."""
    labels = np.tile([0, 1], 25)
    for seed, n_right in enumerate(counts):
        run = folder / f'seed{seed}'
        run.mkdir(parents=True)
        (run / 'result.json').write_text(json.dumps({'last': {'temperature': 2.0}}))
        rows = [{'step': 10 * i, 'val_acc': n_right / 60 + i / 10} for i in (1, 2)]
        (run / 'log.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
        sign = np.where(np.arange(50) < n_right, 1, -1) * (2 * labels - 1)
        np.savez(run / 'preds.npz', test_logits=3.0 * sign[:, None], test_labels=labels)


def test_the_table_of_trunks(tmp_path):
    """Of 50 reviews, 40 and 41 are right from random weights, 45 and 46 from a trunk, and 44 from
    another, whose second run is not there."""
    for start, counts in (('none', (40, 41)), ('ce', (45, 46)), ('squentropy', (44,))):
        classifiers(tmp_path / 'trunk/500' / start, counts)
    analysis.trunk(tmp_path)
    rows = [line.split(' | ') for line in (tmp_path / 'trunk.md').read_text().splitlines()[2:]]
    assert [row[1] for row in rows] == ['random weights (2)', 'cross-entropy (2)', 'squentropy (1)']
    assert rows[0][2].startswith('81.00 (')
    assert rows[1][2].startswith('91.00 (')
    assert rows[0][3] == ''
    assert rows[1][3].startswith('+10.00 (')
    assert rows[2][3] == '+8.00'
    assert [row[4] for row in rows] == ['', '', '-2.00']
    assert [row[5] for row in rows] == ['20 (2 of 2)', '10 (2 of 2)', '20 (1 of 1)']
    # by logits of 3 and a temperature of 2 each answer has this confidence
    confidence = 1 / (1 + math.exp(-1.5))
    assert float(rows[1][6].rstrip(' |')) == pytest.approx(100 * (0.91 - confidence), abs=0.06)


def test_classifiers_from_random_weights_alone(tmp_path):
    """There is a table, and nothing to draw."""
    classifiers(tmp_path / 'trunk/500/none', (40, 41))
    analysis.trunk(tmp_path)
    assert (tmp_path / 'trunk.md').exists()
    assert not (tmp_path / 'trunk.png').exists()


def test_runs_of_one_seed_are_pairs(tmp_path):
    """Where the seeds scatter by tens of points and the differences by one, the interval is theirs;
    as that of numbers by Student's t, when every review counts as drawn once."""
    classifiers(tmp_path / 'a', (20, 30, 41))
    classifiers(tmp_path / 'b', (18, 29, 40))
    runs = [analysis.finished_runs(tmp_path / name) for name in 'ab']
    estimate, low, high = re.findall(r'[+-][\d.]+',
                                     analysis.in_words(analysis.difference(*runs), '+'))
    differences = [4.0, 2.0, 2.0]
    assert float(estimate) == pytest.approx(np.mean(differences), abs=0.01)
    half = half_interval(differences)
    assert half - 0.01 <= (float(high) - float(low)) / 2 < 1.5 * half
    assert analysis.difference(runs[0], []) is None
