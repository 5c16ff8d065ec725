"""evaluate.py: the statistics against hand-computed numbers, brute force and simulation; run folders good and
bad, as train.py leaves them. About 20 s."""
import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import evaluate
from config import configure
from model import make_head

ROOT = Path(__file__).parents[1]


def run(*argv):
    before, evaluate.folders[:] = dict(vars(evaluate)), []
    try:
        configure(vars(evaluate), positional=evaluate.folders, argv=[str(arg) for arg in argv])
        evaluate.main()
    finally:
        vars(evaluate).update(before)


def make_run(folder, correct, seed=None, head='bce', n=(400, 200), best=None, **config):
    """A finished run with so many right answers on (test, val): the first reviews of each split are right."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    seed = int(folder.name[4:]) if seed is None else seed
    preds, last = {}, {}
    for split, right, n_reviews in zip(('test', 'val'), correct, n):
        labels = np.arange(n_reviews, dtype=np.uint8) % 2
        choice = np.where(np.arange(n_reviews) < right, labels, 1 - labels)
        strength = 1 + np.arange(n_reviews) % 7
        logits = np.where(choice == 1, strength, -strength)[:, None]
        if head == 'ce':
            logits = np.concatenate([3 - logits, 3 + logits], 1)
        preds |= {f'{split}_logits': logits.astype(np.float16), f'{split}_labels': labels}
        last[split] = {'n': n_reviews, 'correct': int(right), 'accuracy': right / n_reviews, 'loss': 0.5}
    np.savez(folder / 'preds.npz', **preds)
    val = last['val']['accuracy']
    curve = [val - 0.1, best or val, val]
    (folder / 'log.jsonl').write_text(''.join(json.dumps(
        {'epoch': i, 'step': 10 * i, 'train_loss': 0.5, 'train_acc': 0.6 + 0.1 * i, 'val_loss': 0.5,
         'val_acc': acc, 'lr': 1e-3, 'seconds': 1.0 * i}) + '\n' for i, acc in enumerate(curve, 1)))
    (folder / 'result.json').write_text(json.dumps(
        {'head': head, 'seed': seed, 'seconds': 1800.0, 'last': {'epoch': 3, **last},
         'best': {'epoch': 2, 'test': last['test'], 'val': last['val'] | {'accuracy': best or val}}}))
    (folder / 'config.json').write_text(json.dumps(
        {'head': head, 'seed': seed, 'dataset': 'toy', 'data': 'fingerprint', 'commit': 'abc', 'n_class': 2,
         'classes': ['neg', 'pos'], 'hardware': 'a machine', 'learning_rate': 1e-3,
         'out_dir': str(folder.parent)} | config))


BCE, CE = [(340, 170), (344, 172), (350, 176), (352, 168), (346, 174)], [(330, 160), (332, 166), (328, 163),
                                                                         (338, 167), (336, 161)]


@pytest.fixture
def out(tmp_path):
    for head, correct in ('bce', BCE), ('ce', CE):
        for seed, counts in enumerate(correct):
            make_run(tmp_path / head / f'seed{seed}', counts, head=head)
    return tmp_path


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def spoil_logit(path):
    """NaN where the answer is wrong anyway, so that the count stays the same."""
    preds = dict(np.load(path))
    preds['val_logits'][199] = np.nan
    np.savez(path, **preds)


# ----------------------------------------------------------------------------- statistics

def matrix(counts, n):
    return np.arange(n) < np.array(counts)[:, None]


def test_interval_over_seeds_is_students_t_and_welchs():
    a, b = matrix([850, 860, 870, 880, 890], 1000), matrix([800, 803, 809, 830], 1000)
    # mean 87, sd sqrt(2.5), t(0.975, 4) = 2.7764451 from the printed tables
    half = 2.7764451 * 0.5 ** 0.5
    assert evaluate.interval(a)['seeds'] == pytest.approx((87 - half, 87 + half))
    welch = stats.ttest_ind(100 * a.mean(1), 100 * b.mean(1), equal_var=False).confidence_interval()
    both = evaluate.interval(a, b)
    assert both['seeds'] == pytest.approx((welch.low, welch.high))
    assert both['estimate'] == pytest.approx(87 - 81.05)
    assert evaluate.interval(a[:1])['seeds'] is None and evaluate.interval(a, b[:1])['both'] is None


def test_interval_of_runs_that_agree_is_that_of_resampled_reviews():
    rng = np.random.default_rng(0)
    a, b = rng.random(2500) < 0.86, rng.random(2500) < 0.85
    a[:2150], a[2150:] = True, False
    rng.shuffle(a)
    one = evaluate.interval(np.stack([a] * 5))
    assert one['seeds'] == (86, 86)
    assert one['reviews'] == pytest.approx(1.36, abs=0.005)  # the figure, 1.96 sqrt(.86 .14 / 2500)
    two = evaluate.interval(np.stack([a] * 5), np.stack([b] * 5))
    draws = rng.multinomial(2500, np.full(2500, 1 / 2500), 4000) @ (1.0 * a - b) / 25
    assert two['both'][1] - two['both'][0] == pytest.approx(2 * 1.96 * draws.std(), rel=0.05)


@pytest.mark.parametrize('seed_sd, review_sd', [(0.0, 0.0), (0.15, 0.0), (0.05, 1.0)])
def test_interval_over_seeds_and_reviews_covers_the_true_difference(seed_sd, review_sd):
    """Runs as reviews' difficulty + heads' tastes (review_sd) + seeds + noise; the true difference is 0."""
    rng, n, reps = np.random.default_rng(1), 400, 400
    covered, covered_seeds = 0, 0
    for _ in range(reps):
        difficulty = rng.normal(2.5, 2, n)
        a, b = (difficulty + rng.normal(0, review_sd, n) + rng.normal(0, seed_sd, (5, 1))
                + rng.normal(0, 1, (5, n)) > 0 for _ in range(2))
        found = evaluate.interval(a, b)
        assert found['both'][0] <= found['seeds'][0] and found['seeds'][1] <= found['both'][1]
        covered += found['both'][0] <= 0 <= found['both'][1]
        covered_seeds += found['seeds'][0] <= 0 <= found['seeds'][1]
    assert 0.92 <= covered / reps <= 0.985  # 0.95, three standard deviations of 400 draws are 0.033
    if review_sd:
        assert covered_seeds / reps < 0.9  # what the interval over seeds alone would claim


def brute_force(a, b, spread):
    def apart(x, y):
        return abs(max(x) - min(x) - (max(y) - min(y))) if spread else abs(Fraction(sum(x), len(x))
                                                                           - Fraction(sum(y), len(y)))
    pool = a + b
    ways = [apart([pool[i] for i in left], [pool[i] for i in range(len(pool)) if i not in left])
            for left in itertools.combinations(range(len(pool)), len(a))]
    return sum(way >= apart(a, b) for way in ways), len(ways)


def test_permutation_test_against_hand_and_brute_force():
    apart = evaluate.permutation_test(np.array([5, 6, 7, 8, 9]), np.array([1, 2, 3, 4, 0]))
    assert apart == {'hits': 2, 'splits': 252, 'p': 2 / 252, 'exact': True}
    # the means are 5 apart here, 3 in 1 4 | 2 9, 2 in 1 9 | 2 4: only this split and its mirror reach 5
    assert evaluate.permutation_test(np.array([1, 2]), np.array([4, 9]))['hits'] == 2
    # max-min is 1 and 5 here, 3 and 7 in 1 4 | 2 9, 8 and 2 in 1 9 | 2 4: all are at least 4 apart
    assert evaluate.permutation_test(np.array([1, 2]), np.array([4, 9]), spread=True)['hits'] == 6
    rng = np.random.default_rng(2)
    for n, m, top in (2, 2, 3), (3, 5, 4), (5, 3, 30), (4, 4, 5), (2, 6, 1000), (5, 5, 8), (3, 3, 1):
        for spread in False, True:
            a, b = rng.integers(0, top, n).tolist(), rng.integers(0, top, m).tolist()
            test = evaluate.permutation_test(np.array(a), np.array(b), spread)
            assert (test['hits'], test['splits']) == brute_force(a, b, spread), (a, b, spread)
            assert test['p'] == pytest.approx(test['hits'] / test['splits']) and test['exact']


def test_permutation_test_is_enumerated_to_10_against_10_and_random_beyond(monkeypatch):
    test = evaluate.permutation_test(np.arange(10) + 100, np.arange(10))
    assert test == {'hits': 2, 'splits': 184_756, 'p': 2 / 184_756, 'exact': True}
    a, b = np.array([3, 9, 4, 8, 7, 9]), np.array([2, 5, 3, 6, 8, 1])
    hits, splits = brute_force(a.tolist(), b.tolist(), False)
    monkeypatch.setattr(evaluate, 'RESPLITS', 900)  # of 924
    test = evaluate.permutation_test(a, b)
    assert not test['exact'] and test['splits'] == 900
    assert test['p'] == pytest.approx(hits / splits, abs=0.04)
    assert evaluate.permutation_test(a + 100, b)['p'] >= 1 / 901  # the true split is always one of them


def test_seeds_needed():
    assert [evaluate.seeds_needed(sd, 0.26) for sd in (0.2, 0.3, 0.5)] == [11, 22, 60]
    rng = np.random.default_rng(3)  # the same by playing it: 22 runs a head reach 80 %, 20 do not
    found = [np.mean(stats.ttest_ind(rng.normal(0.26, 0.3, (20_000, n)), rng.normal(0, 0.3, (20_000, n)),
                                     axis=1).pvalue < 0.05) for n in (20, 22)]
    assert found[0] < 0.79 < 0.795 < found[1] < 0.83
    assert evaluate.seeds_needed(0.0, 0.26) == 2


# ----------------------------------------------------------------------------- reports

def test_table_summary_and_figures(out, capsys):
    run(out / 'bce', out / 'ce')
    text = capsys.readouterr().out
    assert text == (out / 'table.md').read_text()
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines() if line[:1] == '|']
    half = 2.7764451 * np.std([85, 86, 87.5, 88, 86.5], ddof=1) / 5 ** 0.5
    assert rows[2][:8] == ['BCE', '5', '85.00', '86.60', '86.50', '88.00', '3.00',
                           f'{86.6 - half:.2f} to {86.6 + half:.2f}']
    assert rows[3][:7] == ['CE', '5', '82.00', '83.20', '83.00', '84.50', '2.50']
    assert rows[6][:7] == ['BCE', '5', '84.00', '86.00', '86.00', '88.00', '4.00']
    assert text.index('on test') < text.index('on val') and '400 reviews: the headline' in text
    assert 'the paper' not in text and 'Beware' not in text
    assert '**On test, BCE is more accurate than CE.**' in text
    assert 'Mean: BCE is 3.40 points above CE.' in text
    assert '2 of the 252 possible splits of these runs into 5 and 5: p = 0.0079, significant' in text
    assert '0.26 points are 1.0 reviews' in text

    summary = json.loads((out / 'summary.json').read_text())
    group, pair = summary['groups'][0], summary['pairs'][0]
    assert group['test']['correct'] == [c for c, _ in BCE] and group['val']['correct'] == [c for _, c in BCE]
    assert [r['last']['test'] for r in group['runs']] == pytest.approx([c / 4 for c, _ in BCE])
    assert (pair['a'], pair['b'], pair['test']['means']['p']) == ('BCE', 'CE', 2 / 252)
    sds = [np.std([c / 4 for c, _ in counts], ddof=1) for counts in (BCE, CE)]
    sd = (sum(s ** 2 for s in sds) / 2) ** 0.5
    # chi-square with 8 degrees of freedom, from the printed tables: 17.5345 and 2.1797
    expected = [sd, sd * (8 / 17.5345) ** 0.5, sd * (8 / 2.1797) ** 0.5]
    assert pair['test']['sd'] == pytest.approx(expected, rel=1e-4)
    (low, high), (seeds_low, seeds_high) = pair['test']['both'], pair['test']['seeds']
    assert low < seeds_low < 3.4 < seeds_high < high
    for name in 'accuracy_by_run.png', 'accuracy_by_epoch.png', 'reliability.png':
        png = (out / name).read_bytes()
        assert png[:8] == b'\x89PNG\r\n\x1a\n' and len(png) < 300_000
    assert not list(out.glob('*.tmp'))


def test_paper_stands_beside_ten_epochs_of_imdb_only(tmp_path, capsys):
    for head in 'bce', 'ce':
        for seed in range(2):
            make_run(tmp_path / head / f'seed{seed}', (340 + seed, 170 + seed), head=head, dataset='imdb')
    run(tmp_path / 'bce', tmp_path / 'ce')
    assert 'the paper' not in capsys.readouterr().out
    for log in tmp_path.glob('*/*/log.jsonl'):
        log.write_text(log.read_text().replace('"epoch": 3', '"epoch": 10'))
    run(tmp_path / 'bce', tmp_path / 'ce')
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines() if 'the paper' in line]
    assert [row[5::2][:6] for row in rows] == [['5', '85.48', '86.10', '86.32', '86.52', '1.04'],
                                               ['5', '84.24', '85.84', '86.36', '86.60', '2.36']]
    assert text.index('on val') < text.index('the paper')
    assert 'no difference in accuracy between BCE and CE is shown' in text


def test_best_val_epoch_is_told_apart(tmp_path, capsys):
    for seed in range(2):
        make_run(tmp_path / 'bce' / f'seed{seed}', (340, 170), best=0.9)
    run(tmp_path / 'bce')
    text = capsys.readouterr().out
    row = [line for line in text.splitlines() if line.startswith('| BCE')][1].split('|')
    assert (row[4].strip(), row[-2].strip()) == ('85.00', '90.00') and 'on val too high' in text


def test_any_number_of_groups(tmp_path, capsys):
    """Three and more: one table against ref, Holm's p in it, brute force beside it."""
    counts = {'a': [340, 344, 348, 352], 'b': [320, 324, 326, 330],
              'ce': [339, 345, 347, 352], 'd': [330, 331, 332, 333]}
    for name, column in counts.items():
        for seed, right in enumerate(column):
            make_run(tmp_path / name / f'seed{seed}', (right, 170 + seed))
    run(*(tmp_path / name for name in counts))
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.split('## Against CE')[1].splitlines()
            if line[:1] == '|']
    raw = [evaluate.permutation_test(np.array(counts[name]), np.array(counts['ce']))['p'] for name in 'abd']
    assert raw[1:] == [2 / 70] * 2 and raw[0] > 0.5
    assert [row[:5] for row in rows[2:]] == [
        [name, f'{np.mean(counts[name]) / 4 - 345.75 / 4:+.2f}', row[2], f'{p:.2g}', f'{corrected:.2g}']
        for name, row, p, corrected in zip('abd', rows[2:], raw, [raw[0], 6 / 70, 6 / 70])]
    assert 'No difference in accuracy on test from CE is shown' in text
    assert 'With 4 and 4 runs and 3 comparisons, no p can survive' in text  # 2 / 70 * 3 > .05
    run(*(tmp_path / name for name in 'abd'), '--ref=b')
    text = capsys.readouterr().out
    assert '## Against b' in text and 'In accuracy on test, a differs from b' not in text
    for seed in range(4, 6):
        for name in 'abd':
            make_run(tmp_path / name / f'seed{seed}', (counts[name][3] + seed, 170))
    run(*(tmp_path / name for name in 'abd'), '--ref=b')
    text = capsys.readouterr().out
    assert 'In accuracy on test, a differs from b' in text and 'Beware' not in text
    with pytest.raises(SystemExit):
        run(*(tmp_path / name for name in 'abd'), '--ref=ce')
    assert "there is no group 'ce'; there are a, b, d" in capsys.readouterr().err


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and never less than the one before
    assert evaluate.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert evaluate.holm([0.5, 0.9]) == [1, 1]


def test_permutation_test_of_other_numbers():
    a, b = [0.31, 0.35, 0.30], [0.36, 0.38, 0.33, 0.40]
    pool, observed, hits = np.array(a + b), abs(np.mean(a) - np.mean(b)), 0
    for chosen in itertools.combinations(range(7), 3):
        rest = np.delete(pool, chosen)
        hits += abs(pool[list(chosen)].mean() - rest.mean()) >= observed - 1e-12
    assert evaluate.permutation_test(np.array(a), np.array(b))['p'] == pytest.approx(hits / 35)


def logits_of(n, n_class, sharpness, rng):
    """Logits whose softmax is calibrated once they are divided by sharpness, and labels drawn from it."""
    z = rng.normal(size=(n, n_class)) * 1.5
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return torch.tensor(z * sharpness), (rng.random((n, 1)) > p.cumsum(1)).sum(1).clip(max=n_class - 1)


@pytest.mark.parametrize('n_class', [2, 3])
def test_measures_against_brute_force(n_class):
    rng = np.random.default_rng(0)
    z, y = {}, {}
    for split, n in ('val', 20_000), ('test', 3000):
        z[split], y[split] = logits_of(n, n_class, 2.5, rng)
    values, bins = evaluate.measure(make_head('ce', 1, n_class), z, y, 'abc'[:n_class])
    assert values['temperature'] == pytest.approx(2.5, rel=0.05)
    for suffix, scale in ('', 1), (', scaled', values['temperature']):
        exp = np.exp(z['test'].numpy() / scale)
        p = exp / exp.sum(1, keepdims=True)
        nll = brier = 0
        for row, label in zip(p, y['test']):
            nll -= np.log(row[label]) / len(p)
            brier += sum((x - (c == label)) ** 2 for c, x in enumerate(row)) / len(p)
        ece = 0
        for k in range(15):
            inside = [i for i, row in enumerate(p) if k / 15 <= row.max() < (k + 1) / 15 + (k == 14)]
            if inside:
                ece += abs(np.mean([p[i].argmax() == y['test'][i] for i in inside])
                           - np.mean([p[i].max() for i in inside])) * len(inside) / len(p)
        assert values['NLL' + suffix] == pytest.approx(nll)
        assert values['Brier' + suffix] == pytest.approx(brier)
        assert values['ECE' + suffix] == pytest.approx(100 * ece)
    assert values['ECE, scaled'] < 3 < values['ECE'] and values['NLL, scaled'] < values['NLL']
    assert bins.shape == (2, 15, 3) and bins[:, :, 0].sum(1).tolist() == [3000, 3000]
    decided, f1 = p.argmax(1), []
    for c, name in enumerate('abc'[:n_class]):
        hit = ((decided == c) & (y['test'] == c)).sum()
        assert values[f'recall of {name}'] == pytest.approx(100 * hit / (y['test'] == c).sum())
        f1.append(200 * hit / ((decided == c).sum() + (y['test'] == c).sum()))
    assert values['macro F1'] == pytest.approx(np.mean(f1))
    if n_class == 2:  # the share of pairs in the right order
        low, high = (p[y['test'] == c, 1] for c in (0, 1))
        order = (high[:, None] > low).mean() + (high[:, None] == low).mean() / 2
        assert values['AUROC'] == pytest.approx(100 * order)


def test_measures_of_several_labels_and_of_square_logits():
    rng = np.random.default_rng(1)
    z = {split: torch.tensor(rng.normal(size=(500, 3)) * 2) for split in ('val', 'test')}
    y = {split: (rng.random((500, 3)) < 1 / (1 + np.exp(-x.numpy()))).astype(int) for split, x in z.items()}
    values, _ = evaluate.measure(make_head('bce', 1, 3, True), z, y, 'abc')
    hits, decided = ((z['test'].numpy() > 0) & (y['test'] == 1)), z['test'].numpy() > 0
    f1 = 200 * hits.sum(0) / (decided.sum(0) + y['test'].sum(0))
    assert values['macro F1'] == pytest.approx(f1.mean())
    assert values['micro F1'] == pytest.approx(200 * hits.sum() / (decided.sum() + y['test'].sum()))
    p = np.where(y['test'] == 1, 1, -1) * z['test'].numpy()
    assert values['NLL'] == pytest.approx(np.log1p(np.exp(-p)).mean()) and 'AUROC' not in values
    z = {split: x[:, :2] for split, x in z.items()}
    values, _ = evaluate.measure(make_head('square', 1, 2), z, {k: v[:, 0] for k, v in y.items()}, 'ab')
    assert values['NLL'] is values['ECE'] is values['Brier'] is None and values['NLL, scaled'] > 0


def test_steps_gap_and_what_older_runs_lack(out, capsys):
    for seed in range(5):  # val rises from .74 to .84 and stays, at steps 10, 20, 30
        path = out / 'bce' / f'seed{seed}' / 'result.json'
        result = json.loads(path.read_text())
        result['last']['train'] = {'n': 200, 'correct': 190, 'accuracy': 0.95, 'loss': 0.2}
        path.write_text(json.dumps(result))
    run(out / 'bce', out / 'ce', '--target=87')
    text = capsys.readouterr().out
    head, _, bce, ce = ([cell.strip() for cell in line.split('|')[1:-1]] for line in
                        text.split('## The decisions')[1].splitlines()[2:6])
    bce, ce = dict(zip(head, bce)), dict(zip(head, ce))
    assert bce['train − test accuracy'].startswith(f'{95 - 86.6:.2f} ±') and ce['train − test accuracy'] == '-'
    assert bce['steps to 87 % on val'] == '20 ± 0 (2 of 5)' and ce['steps to 87 % on val'] == '-'
    assert bce['last'] == '-'


def test_runs_that_do_not_count_are_named_and_left_out(out, capsys):
    seed = {i: out / 'bce' / f'seed{i}' for i in range(5)}
    (seed[0] / 'result.json').unlink()
    result = json.loads((seed[1] / 'result.json').read_text())
    result['last']['test']['correct'] += 1
    (seed[1] / 'result.json').write_text(json.dumps(result))
    npz = (seed[2] / 'preds.npz').read_bytes()
    (seed[2] / 'preds.npz').write_bytes(npz[:len(npz) // 2])
    run(out / 'bce', out / 'ce')
    text = capsys.readouterr().out
    assert f'{seed[0]} is not finished' in text
    assert f'{seed[1]} is damaged (ValueError: preds.npz has 344 of 400 test reviews right, ' \
           'result.json 345 of 400' in text
    assert f'{seed[2]} is damaged' in text
    assert 'max-min grows' in text and "'BCE': 2" in text
    assert json.loads((out / 'summary.json').read_text())['groups'][0]['test']['correct'] == [352, 346]


@pytest.mark.parametrize('file, spoil', [
    ('preds.npz', lambda path: path.unlink()),
    ('config.json', lambda path: path.write_text('{"head": "bc')),
    ('config.json', lambda path: path.write_bytes(b'\xff\xfe')),
    ('config.json', lambda path: edit(path, head='gone')),
    ('result.json', lambda path: path.write_text('[]')),
    ('log.jsonl', lambda path: path.write_text('')),
    ('log.jsonl', lambda path: path.write_text('{"epoch": 1}\n')),
    ('preds.npz', spoil_logit),
    ('preds.npz', lambda path: np.savez(path, **dict(np.load(path)) | {'val_logits': np.zeros((9, 1))}))])
def test_every_kind_of_damage(file, spoil, out, capsys):
    spoil(out / 'bce' / 'seed3' / file)
    run(out / 'bce')
    text = capsys.readouterr().out
    assert f'{out / "bce" / "seed3"} is damaged' in text
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['groups'][0]['test']['correct'] == [340, 344, 350, 346]


def test_a_seed_counts_once(out, capsys):
    shutil.copytree(out / 'bce' / 'seed1', out / 'bce' / 'seed7')
    run(out / 'bce')
    assert f'{out / "bce" / "seed7"} has the seed of {out / "bce" / "seed1"}, 1; it is left out' \
        in capsys.readouterr().out
    assert len(json.loads((out / 'summary.json').read_text())['groups'][0]['runs']) == 5


def test_a_single_run_is_not_compared(out, capsys):
    for seed in range(1, 5):
        shutil.rmtree(out / 'ce' / f'seed{seed}')
    run(out / 'bce', out / 'ce')
    text = capsys.readouterr().out
    assert 'CE is a single run: no interval, no comparison' in text and '| unknown' in text
    assert 'against' not in text and (out / 'accuracy_by_run.png').exists()


def test_other_settings_are_told(out, capsys):
    edit(out / 'bce' / 'seed2' / 'config.json', learning_rate=0.5, gamma=2.0)
    edit(out / 'bce' / 'seed3' / 'config.json', gamma=3.0)  # a setting that only some heads have
    run(out / 'bce', out / 'ce')
    text = capsys.readouterr().out
    assert 'The runs differ in learning_rate: ' in text and f'0.5 in {out / "bce" / "seed2"}' in text
    assert f'differ in gamma: 2.0 in {out / "bce" / "seed2"}; 3.0 in {out / "bce" / "seed3"}.' in text
    assert 'differ in seed' not in text and 'differ in out_dir' not in text


def test_mistakes_end_in_one_line(out, capsys):
    shutil.copytree(out / 'bce', out / 'far' / 'bce')
    make_run(out / 'mixed' / 'seed0', (340, 170))
    make_run(out / 'mixed' / 'seed1', (340, 170), head='ce')
    make_run(out / 'other' / 'seed0', (340, 170), data='other')
    make_run(out / 'begun' / 'seed0', (340, 170))
    (out / 'begun' / 'seed0' / 'result.json').unlink()
    (out / 'empty').mkdir()
    (out / 'file').write_text('')
    for argv, words in [([], 'python evaluate.py out/bce out/ce'),
                        ([out / 'bce', out / 'far' / '..' / 'bce'], 'each once'),
                        ([out / 'bce', out / 'far' / 'bce'], '--out_dir='),
                        ([out / 'bce', out / 'nowhere'], 'no runs (seed0, seed1 ...)'),
                        ([out / 'empty'], 'no runs'),
                        ([out], f'did you mean {out / "bce"} {out / "begun"}'),
                        ([out / 'bce' / 'seed0'], 'is a single run; give the folder that holds it, bce'),
                        ([out / 'begun'], f'no finished run; {out}/begun/seed0 is not finished'),
                        ([out / 'mixed'], 'differ in head'),
                        ([out / 'bce', out / 'other'], 'differ in data'),
                        ([out / 'bce', '--effect=0'], 'effect must be above 0'),
                        ([out / 'bce', '--effekt=1'], 'did you mean effect'),
                        ([out / 'bce', f'--out_dir={out / "file"}'], 'cannot be written there')]:
        with pytest.raises(SystemExit) as exit:
            run(*argv)
        output, error = capsys.readouterr()
        assert exit.value.code == 2 and not output
        assert words in error and error.count('\n') == 1, (argv, error)
        assert not (out / 'table.md').exists() and not (out / 'summary.json').exists()


def test_command_line(out):
    argv = [sys.executable, ROOT / 'evaluate.py', 'bce', 'ce', '--out_dir=there/deep']
    done = subprocess.run(argv, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout == (out / 'there' / 'deep' / 'table.md').read_text()
    assert done.stdout.startswith('# BCE and CE on toy\n\n10 runs of 3 epochs, together 300 minutes, on a machine')
    assert not (out / 'table.md').exists()


def test_the_runs_that_table_1_allows():
    """runs/table1.py against a search through all pairs of the two unknown runs, by what would have been printed."""
    spec = importlib.util.spec_from_file_location('table1', ROOT / 'runs' / 'table1.py')
    table1 = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table1)
    for figures, printed in ((85.48, 86.10, 86.32, 86.52), '86.10'), ((84.24, 85.84, 86.36, 86.60), '85.84'):
        found = []
        for pair in itertools.combinations_with_replacement(range(2100, 2170), 2):
            runs = sorted([*pair, *(round(25 * x) for x in (figures[0], *figures[2:]))])
            shown = [f'{runs[i] / 25:.2f}' for i in (0, 2, 4)]
            if f'{sum(runs) / 125:.2f}' == printed and shown == [f'{figures[i]:.2f}' for i in (0, 2, 3)]:
                found.append(tuple(runs))
        assert sorted(found) == sorted(table1.possible(*figures, 0.005)) and len(found) in (7, 12)
