"""evaluate.py on run folders good and bad, as train.py leaves them. The statistics and figures are
tested on their own."""
import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import evaluate
from helpers import config_of, make_run
from nanoloss import verdict
from nanoloss.report import grid
from nanoloss.stats import holm, interval, seeds_needed
from test_stats import brute_force
from tools import pack as pack_module

ROOT = Path(__file__).parents[1]
BCE = [(340, 170), (344, 172), (350, 176), (352, 168), (346, 174)]  # correct on (test, val)
CE = [(330, 160), (332, 166), (328, 163), (338, 167), (336, 161)]


def run(*argv, figures=False):
    """Run evaluate.py in this process -> the content of table.md."""
    folders = []
    config = config_of(evaluate, *argv, positional=folders)
    with pytest.MonkeyPatch.context() as patch:
        if not figures:  # they take most of the time
            patch.setattr(evaluate, 'draw_figures', lambda groups, title: {})
        evaluate.main(config, folders)
    folder = Path(config.out_dir or Path(folders[0]).resolve().parent)
    return (folder / 'table.md').read_text()


@pytest.fixture
def out(tmp_path):
    for head, group in (('bce', BCE), ('ce', CE)):
        for seed, correct in enumerate(group):
            make_run(tmp_path / head / f'seed{seed}', correct, head=head)
    return tmp_path


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def spoil_logit(path):
    """NaN where the answer is wrong anyway, so that the count stays the same."""
    preds = dict(np.load(path))
    preds['val_logits'][199] = np.nan
    np.savez(path, **preds)


def table_rows(text):
    """The rows of all tables in a Markdown text, each a list of cells."""
    rows = []
    for line in text.splitlines():
        if line.startswith('|'):
            rows.append([cell.strip() for cell in line.split('|')[1:-1]])
    return rows


# Reports

def test_table_and_summary(out):
    text = run(out / 'bce', out / 'ce')
    assert text == (out / 'table.md').read_text()
    rows = table_rows(text)
    half = 2.7764451 * np.std([85, 86, 87.5, 88, 86.5], ddof=1) / 5 ** 0.5
    assert rows[2][:8] == ['BCE', '5', '85.00', '86.60', '86.50', '88.00', '3.00',
                           f'{86.6 - half:.2f} to {86.6 + half:.2f}']
    assert rows[3][:7] == ['CE', '5', '82.00', '83.20', '83.00', '84.50', '2.50']
    assert rows[6][:7] == ['BCE', '5', '84.00', '86.00', '86.00', '88.00', '4.00']
    assert text.index('on test') < text.index('on val')
    assert '400 texts: the headline' in text
    assert 'the paper' not in text
    assert 'Beware' not in text
    assert '**On test, BCE is more accurate than CE.**' in text
    assert 'Mean: BCE is 3.40 points above CE.' in text
    assert 'if the choice of head had no effect' in text
    assert '2 of the 252 possible splits of these runs into 5 and 5: p = 0.0079.' in text
    assert '0.26 points are 1.0 texts' in text

    summary = json.loads((out / 'summary.json').read_text())
    group = summary['groups'][0]
    pair = summary['pairs'][0]
    on_test = [test for test, _ in BCE]
    assert group['test']['correct'] == on_test
    assert group['val']['correct'] == [val for _, val in BCE]
    accuracies = [one['last']['test'] for one in group['runs']]
    assert accuracies == pytest.approx([correct / 4 for correct in on_test])
    assert (pair['a'], pair['b'], pair['test']['means']['p']) == ('BCE', 'CE', 2 / 252)
    sds = [np.std([test / 4 for test, _ in counts], ddof=1) for counts in (BCE, CE)]
    sd = (sum(s ** 2 for s in sds) / 2) ** 0.5
    # chi-square with 8 degrees of freedom, from the printed tables: 17.5345 and 2.1797
    expected = [sd, sd * (8 / 17.5345) ** 0.5, sd * (8 / 2.1797) ** 0.5]
    assert pair['test']['sd'] == pytest.approx(expected, rel=1e-4)
    low, high = pair['test']['both']
    seeds_low, seeds_high = pair['test']['seeds']
    assert low < seeds_low < 3.4 < seeds_high < high
    spread = pair['test']['spread']
    expected = brute_force(on_test, [test for test, _ in CE], spread=True)
    assert (spread['hits'], spread['splits']) == expected
    counts = [seeds_needed(value, 0.26) for value in pair['test']['sd']]
    assert pair['test']['seeds_needed'] == counts
    assert f'it takes {counts[0]:,} runs per group ({counts[1]:,} to {counts[2]:,})' in text
    assert not list(out.glob('*.tmp'))


def test_summary_holds_these_figures_and_no_others(out):
    run(out / 'bce', out / 'ce')
    summary = json.loads((out / 'summary.json').read_text())
    assert list(summary) == ['units', 'effect', 'notes', 'groups', 'pairs', 'against_baselines']
    group = summary['groups'][0]
    assert list(group) == ['label', 'runs', 'measures', 'answered', 'paper', 'test', 'val']
    assert list(group['answered']) == ['0.6', '0.7', '0.8', '0.9', '0.95', '0.99']
    assert list(group['runs'][0]) == [
        'folder', 'seed', 'head', 'data', 'dataset', 'epochs', 'seconds', 'best_epoch', 'last',
        'best', 'measures']
    assert list(group['test']) == [
        'n', 'correct', 'estimate', 'seeds', 'both', 'texts', 'min', 'mean', 'median', 'max',
        'max-min']
    pair = summary['pairs'][0]
    assert list(pair) == ['a', 'b', 'test', 'val']
    assert list(pair['test']) == [
        'verdict', 'estimate', 'seeds', 'both', 'texts', 'p', 'means', 'spread', 'sd',
        'seeds_needed', 'text']


def scaled_logits(run):
    """A run of BCE in summary.json -> its logits on test divided by its temperature, [N], positive
    where the answer is right."""
    preds = np.load(Path(run['folder']) / 'preds.npz')
    z = preds['test_logits'][:, 0].astype(float) / run['measures']['temperature']
    return np.where(preds['test_labels'] == 1, z, -z)


def test_sure_answers_are_counted_over_all_runs(out):
    row, = table_rows(run(out / 'bce').split('## If only confident')[1])[2:]
    group, = json.loads((out / 'summary.json').read_text())['groups']
    z = np.concatenate([scaled_logits(one) for one in group['runs']])
    confidence = 1 / (1 + np.exp(-abs(z)))
    shares = []
    for (least, (share, accuracy)), cell in zip(group['answered'].items(), row[1:], strict=True):
        sure = confidence >= float(least)
        shares.append(sure.mean())
        assert share == pytest.approx(100 * sure.mean())
        if sure.any():
            assert accuracy == pytest.approx(100 * (z[sure] > 0).mean())
            assert cell == f'{share:.1f}: {accuracy:.2f}'
        else:
            assert accuracy is None
            assert cell == '0.0: -'
    assert shares[0] > shares[2] > shares[-1] == 0


@pytest.fixture
def imdb(tmp_path):
    """Two runs a head, of ten epochs on a data set of that name."""
    for head in ('bce', 'ce'):
        for seed in range(2):
            folder = tmp_path / head / f'seed{seed}'
            make_run(folder, (340 + seed, 170 + seed), head=head, dataset='imdb')
            log = folder / 'log.jsonl'
            log.write_text(log.read_text().replace('"epoch": 3', '"epoch": 10'))
    return tmp_path


def paper_rows(text):
    return [row for row in table_rows(text) if row[0].endswith('the paper')]


def test_paper_stands_beside_ten_epochs_of_imdb_only(imdb):
    text = run(imdb / 'bce', imdb / 'ce')
    assert [row[:7] for row in paper_rows(text)] == [
        ['BCE, the paper', '5', '85.48', '86.10', '86.32', '86.52', '1.04'],
        ['CE, the paper', '5', '84.24', '85.84', '86.36', '86.60', '2.36']]
    assert text.index('on val') < text.index('the paper')
    assert 'no difference in accuracy between BCE and CE is shown' in text
    summary = json.loads((imdb / 'summary.json').read_text())
    assert summary['groups'][0]['paper'] == [85.48, 86.10, 86.32, 86.52, 1.04]

    # it is the head that counts, not the folder's name
    (imdb / 'ce').rename(imdb / 'mine')
    assert [row[0] for row in paper_rows(run(imdb / 'mine', imdb / 'bce'))] == [
        'mine, the paper', 'BCE, the paper']

    assert 'the paper' not in run(imdb / 'mine', imdb / 'bce', '--published=')

    for log in imdb.glob('*/*/log.jsonl'):
        log.write_text(log.read_text().replace('"epoch": 10', '"epoch": 3'))
    assert 'the paper' not in run(imdb / 'mine', imdb / 'bce')
    summary = json.loads((imdb / 'summary.json').read_text())
    assert summary['groups'][0]['paper'] is None


def test_published_figures_of_ones_own(imdb, tmp_path):
    content = json.loads((ROOT / 'results' / 'paper' / 'published.json').read_text())
    path = tmp_path / 'other.json'

    path.write_text(json.dumps(content | {'dataset': 'imdb_dev'}))
    assert 'the paper' not in run(imdb / 'bce', f'--published={path}')

    figures = {'min': 70, 'mean': 75, 'median': 76, 'max': 80, 'max-min': 10}
    changes = {'split': 'test', 'runs': 3, 'heads': {'bce': figures}}
    path.write_text(json.dumps(content | changes))
    text = run(imdb / 'bce', imdb / 'ce', f'--published={path}')
    assert [row[:7] for row in paper_rows(text)] == [
        ['BCE, the paper', '3', '70.00', '75.00', '76.00', '80.00', '10.00']]
    assert text.index('on test') < text.index('the paper') < text.index('on val')


@pytest.mark.parametrize('content, words', [
    (None, 'cannot be read (No such file or directory)'),
    ('{"dataset": "im', 'is damaged'),
    ('[]', 'is damaged'),
    ('{}', "is damaged (KeyError: 'dataset')"),
    ({'split': 'train'}, "its split is 'train', not test or val"),
    ({'heads': {'bce': {'min': 85.48}}}, "is damaged (KeyError: 'mean')"),
    ({'heads': {'bce': 'high'}}, 'is damaged'),
    ({'heads': None}, 'is damaged'),
    ({'runs': 'five'}, 'is damaged')])
def test_published_figures_that_cannot_be_read(content, words, imdb, tmp_path, capsys):
    path = tmp_path / 'damaged.json'
    if isinstance(content, dict):
        published = json.loads((ROOT / 'results' / 'paper' / 'published.json').read_text())
        content = json.dumps(published | content)
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as stop:
        run(imdb / 'bce', f'--published={path}')
    output, error = capsys.readouterr()
    assert stop.value.code == 2
    assert not output
    assert f'published: {path} ' in error
    assert words in error
    assert error.count('\n') == 1
    assert not (imdb / 'table.md').exists()


def test_best_val_epoch_is_told_apart(tmp_path):
    for seed in range(2):
        folder = tmp_path / 'bce' / f'seed{seed}'
        make_run(folder, (340, 170), best=0.9)
        result = json.loads((folder / 'result.json').read_text())
        edit(folder / 'result.json', best=result['best'] | {'epoch': 2.5})
    text = run(tmp_path / 'bce')
    row = [row for row in table_rows(text) if row[0] == 'BCE'][1]
    assert (row[3], row[-1]) == ('85.00', '90.00')
    assert 'on val it is too high' in text
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert [one['best_epoch'] for one in summary['groups'][0]['runs']] == [2.5, 2.5]


def test_any_number_of_groups(tmp_path, capsys):
    """Three and more: one table against ref, whose p are for other seeds and other reviews, Holm's
    correction of them by hand beside it."""
    counts = {'a': [340, 344, 348, 352], 'b': [320, 324, 326, 330],
              'ce': [339, 345, 347, 352], 'd': [330, 331, 332, 333]}
    for name, column in counts.items():
        for seed, correct in enumerate(column):
            make_run(tmp_path / name / f'seed{seed}', (correct, 170 + seed))
    three = [tmp_path / name for name in 'abd']
    text = run(*(tmp_path / name for name in counts), figures=True)
    rows = table_rows(text.split('## Against CE')[1])

    p = {}
    intervals = {}
    for name in 'abd':
        # make_run's runs are right about the first so many
        a, b = [np.arange(400) < np.array(counts[group])[:, None] for group in (name, 'ce')]
        found = interval(a, b, paired=True)
        p[name] = found['p']
        intervals[name] = '{:+.2f} to {:+.2f}'.format(*found['both'])
    assert p['a'] > 0.5 > 0.05 > p['d'] > p['b']
    corrected = {'a': p['a'], 'b': 3 * p['b'], 'd': 2 * p['d']}
    assert [row[0] for row in rows[2:]] == ['a', 'b', 'd']
    for name, row in zip('abd', rows[2:]):
        difference = np.mean(counts[name]) / 4 - 345.75 / 4
        assert row[1:5] == [f'{difference:+.2f}', intervals[name], f'{p[name]:.2g}',
                            f'{corrected[name]:.2g}']
    assert corrected['d'] < 0.05
    assert '**In accuracy on test, b and d differ from CE.**' in text
    summary = json.loads((tmp_path / 'summary.json').read_text())
    for name, pair in zip('abd', summary['pairs']):
        assert (pair['a'], pair['b']) == (name, 'CE')
        assert pair['holm']['accuracy'] == pytest.approx(corrected[name])
        assert list(pair['holm']) == ['accuracy', 'macro F1', 'NLL, scaled', 'ECE, scaled']

    # the same of another measure, from the texts' own numbers
    nll = {}
    for name, group in zip(counts, summary['groups']):
        nll[name] = np.stack([np.log1p(np.exp(-scaled_logits(one))) for one in group['runs']])
    of_nll = holm([interval(nll[name], nll['ce'], paired=True)['p'] for name in 'abd'])
    for name, row, p_of_nll, pair in zip('abd', rows[2:], of_nll, summary['pairs']):
        assert pair['holm']['NLL, scaled'] == pytest.approx(p_of_nll)
        difference = nll[name].mean() - nll['ce'].mean()
        assert row[7:9] == [f'{difference:+.3f}', f'{p_of_nll:.2g}']

    text = run(*three, '--ref=b')
    assert '## Against b' in text
    assert 'In accuracy on test, a and d differ from b' in text
    assert 'Beware' not in text
    with pytest.raises(SystemExit):
        run(*three, '--ref=ce')
    assert "there is no group 'ce'; there are a, b, d" in capsys.readouterr().err


def test_ref_takes_a_label_as_it_is_printed(out):
    make_run(out / 'd/seed0', (340, 170))
    make_run(out / 'd/seed1', (340, 170))
    for ref in ('BCE', 'bce'):
        assert '## Against BCE' in run(out / 'd', out / 'ce', out / 'bce', f'--ref={ref}')


def test_seeds_are_paired_where_both_groups_have_them(out):
    """Of runs whose seeds move up and down together, the difference is known far better."""
    for seed in range(5):
        make_run(out / f'x/seed{seed}', (BCE[seed][0] - 5 - seed % 2, 170))
    text = run(out / 'bce', out / 'x')
    assert 'for other seeds and other texts, seed by seed: ' in text
    low, high = json.loads((out / 'summary.json').read_text())['pairs'][0]['test']['seeds']
    # differences of 5, 6, 5, 6, 5 of 400: mean 1.35 points; t(0.975, 4) from the printed tables
    half = 2.7764451 * np.std([5, 6, 5, 6, 5], ddof=1) / 4 / 5 ** 0.5
    assert (low, high) == pytest.approx((-1.35 - half, -1.35 + half))

    (out / 'x/seed4').rename(out / 'x/seed7')
    edit(out / 'x/seed7/config.json', seed=7)
    assert 'seed by seed' not in run(out / 'bce', out / 'x')
    low, high = json.loads((out / 'summary.json').read_text())['pairs'][0]['test']['seeds']
    assert high - low > 5 * half


def test_a_comparison_names_what_differs(tmp_path):
    for name, config in (('a', {}), ('b', {'truncate': 'tail', 'gamma': 2.0}), ('c', {})):
        for seed in range(4):
            make_run(tmp_path / name / f'seed{seed}', (340 + seed, 170),
                     **({'truncate': 'head'} | config))
    text = run(tmp_path / 'a', tmp_path / 'b')
    assert 'if the choice of truncate had no effect' in text
    assert 'of one group scatter' in text
    assert 'head had no effect' not in text
    assert 'if the choice of group had no effect' in run(tmp_path / 'a', tmp_path / 'c')


@pytest.mark.parametrize('n, m, lowest', [(3, 3, '0.1'), (2, 4, '0.067'), (4, 4, None),
                                          (2, 5, None)])
def test_too_few_runs_for_a_permutation_test_are_named(n, m, lowest, tmp_path):
    for name, n_runs, correct in (('a', n, 350), ('b', m, 300)):
        for seed in range(n_runs):
            make_run(tmp_path / name / f'seed{seed}', (correct + seed, 170))
    text = run(tmp_path / 'a', tmp_path / 'b')
    note = (f'With {m} and {n} runs no permutation test has p below {lowest}, so it can find '
            'nothing; with 4 and 4 it could')
    assert (note in text) == (lowest is not None)
    assert 'can find nothing' in text or lowest is None


@pytest.mark.parametrize('of_a, of_b, expected', [
    (0.04, 0.05, 'In accuracy on test, a and b differ from CE'),
    (0.04, 0.06, 'In accuracy on test, a differs from CE'),
    (0.06, 1, 'No difference in accuracy on test from CE is shown'),
])
def test_a_difference_of_many_is_shown_by_its_corrected_p(of_a, of_b, expected):
    pairs = []
    for label, p in (('a', of_a), ('b', of_b)):
        pairs.append(SimpleNamespace(a=SimpleNamespace(label=label), b=SimpleNamespace(label='CE'),
                                     holm={'accuracy': p}))
    assert verdict.verdict_on_all(pairs) == expected


def add_groups(folder, n_groups):
    """Let a run's preds.npz say which reviews belong together."""
    preds = dict(np.load(folder / 'preds.npz'))
    for split in ('test', 'val'):
        preds[f'{split}_groups'] = np.sort(np.arange(len(preds[f'{split}_labels'])) % n_groups)
    np.savez_compressed(folder / 'preds.npz', **preds)


def test_groups_that_one_run_knows_are_those_of_all(out):
    """For all of them answer the same reviews; of runs that do not say it, too."""
    assert '(all texts are taken as independent)' in run(out / 'bce', out / 'ce')
    before = json.loads((out / 'summary.json').read_text())
    for seed in range(5):
        add_groups(out / f'ce/seed{seed}', 8)
    text = run(out / 'bce', out / 'ce')
    assert 'texts of one document group, such as a movie, are taken together' in text
    assert 'groups of test carry the information of 8.0 of equal size: with fewer' in text
    after = json.loads((out / 'summary.json').read_text())
    for old, new in zip(before['groups'], after['groups']):
        assert new['test']['seeds'] == old['test']['seeds']
        # the right ones come first, so that groups are all right or all wrong
        assert new['test']['texts'] > 3 * old['test']['texts']

    for seed in range(5):
        add_groups(out / f'ce/seed{seed}', 1)
    text = run(out / 'bce', out / 'ce')
    assert 'All texts of test are of one document group' in text
    assert '(all texts are taken as independent)' in text
    assert json.loads((out / 'summary.json').read_text())['groups'] == before['groups']


def widths(summary):
    """The widths of all intervals of differences for other seeds and other reviews: the pairs', on
    both splits, and the baselines'."""
    gaps = [pair[split] for pair in summary['pairs'] for split in ('test', 'val')]
    gaps += summary['against_baselines']
    return np.array([gap['both'][1] - gap['both'][0] for gap in gaps])


def of_reviews(summary):
    """The uncertainty of one run through the choice of the reviews, as the text has it."""
    return float(re.search(r'uncertain by \+-([0-9.]+)', summary['pairs'][0]['test']['text'])[1])


def test_intervals_of_pairs_and_of_baselines_widen_with_groups(out):
    """All right answers come first, so that a group's are all right or all wrong."""
    make_run(out / 'nb/seed0', (300, 140), sklearn='1.0')
    for seed, correct in enumerate(CE):
        make_run(out / f'x/seed{seed}', (correct[0] - 20, correct[1] - 20))
    run(out / 'bce', out / 'ce', out / 'x', out / 'nb')
    before = json.loads((out / 'summary.json').read_text())
    assert [gap['baseline'] for gap in before['against_baselines']] == ['nb'] * 3
    for seed in range(5):
        add_groups(out / f'ce/seed{seed}', 40)
    run(out / 'bce', out / 'ce', out / 'x', out / 'nb')
    after = json.loads((out / 'summary.json').read_text())
    assert (widths(after) > 1.5 * widths(before)).all()
    # ten reviews of a group are as one: the standard error is sqrt(10) times as large
    assert of_reviews(after) == pytest.approx(10 ** 0.5 * of_reviews(before), rel=0.05)
    # Holm's p of all measures is for other groups of reviews, too
    for name in ('accuracy', 'macro F1', 'NLL, scaled'):
        assert after['pairs'][0]['holm'][name] > 2 * before['pairs'][0]['holm'][name], name


@pytest.mark.parametrize('counts, ce_counts, is_shown', [
    ([342] * 5, [340] * 5, False),  # the runs differ, by two reviews that chance may have chosen
    ([340, 341], [300, 301], True)])  # two runs and two are too few for a permutation test
def test_a_difference_is_shown_by_the_interval_where_the_permutation_test_disagrees(
        tmp_path, counts, ce_counts, is_shown):
    for name, correct in (('bce', counts), ('ce', ce_counts)):
        for seed, n in enumerate(correct):
            make_run(tmp_path / f'{name}/seed{seed}', (n, 170), head=name)
    text = run(tmp_path / 'bce', tmp_path / 'ce')
    comparison = json.loads((tmp_path / 'summary.json').read_text())['pairs'][0]['test']
    assert (comparison['means']['p'] > 0.05) == is_shown
    assert (comparison['both'][0] > 0) == (comparison['p'] <= 0.05) == is_shown
    shown = 'On test, BCE is more accurate than CE'
    not_shown = 'On test, no difference in accuracy between BCE and CE is shown'
    assert f'**{shown if is_shown else not_shown}.**' in text


def test_steps_gap_and_what_older_runs_lack(out):
    for seed in range(5):  # val rises from .74 to .84 and stays, at steps 10, 20, 30
        path = out / 'bce' / f'seed{seed}' / 'result.json'
        result = json.loads(path.read_text())
        result['last']['train'] = {'n': 200, 'correct': 190, 'accuracy': 0.95, 'loss': 0.2}
        path.write_text(json.dumps(result))
        log = out / 'bce' / f'seed{seed}' / 'log.jsonl'
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        lines = [json.dumps({**row, 'logit_grad': 0.5 / row['epoch']}) for row in rows]
        log.write_text('\n'.join(lines) + '\n')
    text = run(out / 'bce', out / 'ce', '--target=87')
    head, _, bce, ce = table_rows(text.split('## The decisions')[1])[:4]
    bce = dict(zip(head, bce))
    ce = dict(zip(head, ce))
    assert bce['train − test accuracy'].startswith(f'{95 - 86.6:.2f} ±')
    assert ce['train − test accuracy'] == '-'
    assert bce['steps to 87 % on val'] == '20 ± 0 (2 of 5)'
    assert ce['steps to 87 % on val'] == '-'
    assert bce['d loss / d z, first'] == '0.500 ± 0.000'
    assert bce['last'] == '0.167 ± 0.000'
    assert ce['d loss / d z, first'] == ce['last'] == '-'


def test_grid_pads_its_columns():
    columns = [('', str), ('square', lambda row: str(row ** 2))]
    assert grid(columns, [2, 1000]) == (
        '|      | square  |\n'
        '| ---- | ------- |\n'
        '| 2    | 4       |\n'
        '| 1000 | 1000000 |')


def test_a_class_that_no_text_has_is_noted(tmp_path):
    folder = tmp_path / 'a/seed0'
    make_run(folder, (400, 170))
    preds = dict(np.load(folder / 'preds.npz'))
    preds['test_labels'][:] = 0
    preds['test_logits'][:] = -1
    np.savez(folder / 'preds.npz', **preds)
    text = run(tmp_path / 'a')
    assert 'Test has no text of pos: recall is undefined there' in text
    head, _, row = table_rows(text.split('## The decisions')[1])[:3]
    row = dict(zip(head, row))
    assert row['recall of pos'] == '-'
    assert row['macro F1'] == '100.00'


# What is printed

def test_one_table_and_three_sentences(out, capsys):
    run(out / 'bce', out / 'ce')
    printed = capsys.readouterr().out
    rows = table_rows(printed)
    assert len(rows) == 4
    assert rows[0][0] == 'accuracy on test, %'
    low, high = json.loads((out / 'summary.json').read_text())['groups'][0]['test']['both']
    assert rows[2] == ['BCE', '5', '85.00', '86.60', '86.50', '88.00', '3.00',
                       f'{low:.2f} to {high:.2f}']
    pair = json.loads((out / 'summary.json').read_text())['pairs'][0]['test']
    low, high = pair['both']
    expected = (
        'On test, BCE is more accurate than CE. BCE minus CE is +3.40 points, with a 95 % interval '
        f'of {low:+.2f} to {high:+.2f} for other seeds and other texts (p = {pair["p"]:.2g}). It '
        f'takes {pair["seeds_needed"][0]:,} runs per group to find a difference of 0.26 points in '
        '80 % of cases; the choice of these 400 texts alone makes the difference uncertain by '
        f'+-{pair["texts"]:.2f} points.')
    blocks = printed.strip().split('\n\n')
    assert blocks[3] == expected
    assert len(blocks) == 5


def test_of_several_groups_the_largest_difference_is_printed(out, capsys):
    for seed in range(5):
        make_run(out / f'x/seed{seed}', (200 + seed, 170))
    run(out / 'bce', out / 'x', out / 'ce')
    printed = capsys.readouterr().out.strip().split('\n\n')
    assert printed[3].startswith('In accuracy on test, BCE and x differ from CE. The largest '
                                 'difference, x minus CE, is -32.70 points, ')
    assert "Holm's p = " in printed[3]


def test_a_group_beside_baselines_is_compared_with_the_best(out, capsys):
    for name, correct in (('tfidf', 320), ('nbsvm', 346)):
        make_run(out / f'{name}/seed0', (correct, 160), sklearn='1.0')
    run(out / 'bce', out / 'tfidf', out / 'nbsvm')
    printed = capsys.readouterr().out.strip().split('\n\n')
    gaps = json.loads((out / 'summary.json').read_text())['against_baselines']
    assert [gap['baseline'] for gap in gaps] == ['tfidf', 'nbsvm']
    low, high = gaps[1]['both']
    assert low < 0 < high
    assert printed[3].startswith(
        'On test, no difference in accuracy between BCE and nbsvm is shown (nbsvm is the best of '
        f'the 2 baselines). BCE minus nbsvm is +0.10 points, with a 95 % interval of {low:+.2f} '
        f'to {high:+.2f} ')

    run(out / 'bce', out / 'tfidf')
    assert 'On test, BCE is more accurate than tfidf. ' in capsys.readouterr().out


def test_a_group_alone_and_runs_alone(out, capsys):
    run(out / 'bce')
    low, high = json.loads((out / 'summary.json').read_text())['groups'][0]['test']['both']
    assert (f'BCE classifies 86.60 % of the 400 texts of test correctly, with a 95 % interval of '
            f'{low:.2f} to {high:.2f} ') in capsys.readouterr().out
    for seed in range(1, 5):
        shutil.rmtree(out / f'bce/seed{seed}')
        shutil.rmtree(out / f'ce/seed{seed}')
    run(out / 'bce')
    assert 'It is a single run, so there is no interval' in capsys.readouterr().out
    run(out / 'bce', out / 'ce')
    assert 'Nothing is compared' in capsys.readouterr().out


def test_only_notes_that_matter_are_printed(out, capsys):
    """Runs that are left out, and runs of one group that are of two configs."""
    edit(out / 'ce/seed0/config.json', hardware='another')
    for seed in range(5):
        edit(out / f'ce/seed{seed}/config.json', truncate='tail')
        edit(out / f'bce/seed{seed}/config.json', truncate='head')
    run(out / 'bce', out / 'ce')
    assert 'Beware' not in capsys.readouterr().out
    (out / 'ce/seed1/result.json').unlink()
    edit(out / 'ce/seed2/config.json', learning_rate=7.0)
    table = run(out / 'bce', out / 'ce')
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith('Beware: ')]
    assert len(notes) == 2
    assert f'{out}/ce/seed1 is not finished' in notes[0]
    assert 'The runs differ in learning_rate: 0.001 in BCE' in notes[1]
    assert 'The runs differ in truncate' in table
    assert 'The runs differ in hardware' in table


# Packed groups

def pack(folder, answers):
    """A group of runs in the place of which stands the packed group."""
    pack_module.main(config_of(pack_module, f'--answers={answers}'), [folder, folder])
    for path in folder.glob('seed*'):
        shutil.rmtree(path)
    assert {path.name for path in folder.iterdir()} <= {'runs.jsonl', 'answers.npz'}


def summary_of(out, *groups):
    run(*(out / group for group in groups))
    return json.loads((out / 'summary.json').read_text())


def test_a_packed_group_is_as_its_runs(out):
    for seed in range(5):
        add_groups(out / f'bce/seed{seed}', 40)
    before = summary_of(out, 'bce', 'ce')
    table = (out / 'table.md').read_text()
    for group in ('bce', 'ce'):
        pack(out / group, 'logits')
    assert summary_of(out, 'bce', 'ce') == before
    assert (out / 'table.md').read_text() == table


def test_bits_are_enough_to_compare_accuracies(out):
    for seed in range(5):
        make_run(out / f'x/seed{seed}', (345, 170))
    before = summary_of(out, 'bce', 'ce', 'x')
    for group in ('bce', 'ce'):
        pack(out / group, 'right')
    after = summary_of(out, 'bce', 'ce', 'x')
    for old, new in zip(before['groups'], after['groups']):
        assert new['test'] == old['test'] and new['val'] == old['val']
        assert new['measures'] == old['measures']
    assert after['groups'][0]['answered'] is None
    for old, new in zip(before['pairs'], after['pairs']):
        assert (new['test'], new['val']) == (old['test'], old['val'])
        assert new['holm'] == {'accuracy': old['holm']['accuracy']}
    run(out / 'bce', out / 'ce', figures=True)
    assert (out / 'accuracy_by_run.png').exists() and not (out / 'coverage.png').exists()
    run(out / 'bce', out / 'x', figures=True)
    assert (out / 'coverage.png').exists()


def test_counts_alone_give_accuracies_and_their_scatter(out, capsys):
    before = summary_of(out, 'bce')['groups'][0]['test']
    pack(out / 'bce', 'none')
    text = run(out / 'bce', out / 'ce')
    after = json.loads((out / 'summary.json').read_text())['groups'][0]['test']
    assert after['both'] is after['texts'] is None
    assert after['seeds'] == pytest.approx(before['seeds'])
    for name in ('n', 'correct', 'min', 'mean', 'median', 'max', 'max-min'):
        assert after[name] == before[name]
    assert 'Single answers of BCE are not kept' in text
    assert 'Nothing is compared' in capsys.readouterr().out


@pytest.mark.parametrize('spoil', [
    lambda folder: (folder / 'runs.jsonl').write_text('{"name": "seed0"}\n'),
    lambda folder: (folder / 'runs.jsonl').write_bytes(b'\xff'),
    lambda folder: (folder / 'answers.npz').write_bytes(b'PK'),
    lambda folder: (folder / 'answers.npz').write_bytes(
        (folder / 'answers.npz').read_bytes()[:-300])])
def test_a_damaged_packed_group(spoil, out, capsys):
    pack(out / 'bce', 'right')
    spoil(out / 'bce')
    with pytest.raises(SystemExit):
        run(out / 'bce')
    assert f'{out / "bce"} is damaged (' in capsys.readouterr().err


def test_packed_answers_of_other_runs_are_damage(out, capsys):
    pack(out / 'bce', 'logits')
    lines = (out / 'bce/runs.jsonl').read_text().splitlines()
    (out / 'bce/runs.jsonl').write_text('\n'.join([lines[1], lines[0], *lines[2:]]) + '\n')
    text = run(out / 'bce')
    assert f'{out}/bce/seed0 is damaged (ValueError: preds.npz has 344 of 400' in text
    assert f'{out}/bce/seed1 is damaged' in text


def test_language_models_are_left_out(out):
    """A language model's config says whether its embeddings are tied."""
    edit(out / 'bce/seed1/config.json', tied=False)
    assert f'{out}/bce/seed1 is a language model, not a classifier; it is left out' in run(
        out / 'bce')


def test_heads_of_an_experiment_are_read_by_the_heads_that_they_are_made_of(out):
    before = summary_of(out, 'bce', 'ce')
    for group, head in (('bce', 'bce_matched'), ('ce', 'ce_nudged')):
        for seed in range(5):
            edit(out / f'{group}/seed{seed}/config.json', head=head)
    after = summary_of(out, 'bce', 'ce')
    for old, new in zip(before['groups'], after['groups']):
        assert (new['measures'], new['test']) == (old['measures'], old['test'])


# Runs that do not count

def test_runs_that_do_not_count_are_named_and_left_out(out):
    seed = {i: out / 'bce' / f'seed{i}' for i in range(5)}
    (seed[0] / 'result.json').unlink()
    result = json.loads((seed[1] / 'result.json').read_text())
    result['last']['test']['correct'] += 1
    (seed[1] / 'result.json').write_text(json.dumps(result))
    npz = (seed[2] / 'preds.npz').read_bytes()
    (seed[2] / 'preds.npz').write_bytes(npz[:len(npz) // 2])
    text = run(out / 'bce', out / 'ce')
    assert f'{seed[0]} is not finished' in text
    assert f'{seed[1]} is damaged (ValueError: preds.npz has 344 of 400 test texts right, ' \
           'result.json 345 of 400' in text
    assert f'{seed[2]} is damaged' in text
    assert 'max-min grows' in text
    assert "'BCE': 2" in text
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['groups'][0]['test']['correct'] == [352, 346]


@pytest.mark.parametrize('file, spoil', [
    ('preds.npz', lambda path: path.unlink()),
    ('config.json', lambda path: path.write_text('{"head": "bc')),
    ('config.json', lambda path: path.write_bytes(b'\xff\xfe')),
    ('config.json', lambda path: edit(path, head='gone')),
    ('config.json', lambda path: edit(path, seed=[])),
    ('result.json', lambda path: path.write_text('[]')),
    ('result.json', lambda path: edit(path, seconds=None)),
    ('log.jsonl', lambda path: path.write_text('')),
    ('log.jsonl', lambda path: path.write_text('{"epoch": 1}\n')),
    ('preds.npz', spoil_logit),
    ('preds.npz', lambda path: np.savez(
        path, **dict(np.load(path)) | {'val_logits': np.zeros((9, 1))}))])
def test_every_kind_of_damage(file, spoil, out):
    spoil(out / 'bce' / 'seed3' / file)
    text = run(out / 'bce')
    assert f'{out / "bce" / "seed3"} is damaged' in text
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['groups'][0]['test']['correct'] == [340, 344, 350, 346]


def test_a_seed_counts_once(out):
    shutil.copytree(out / 'bce' / 'seed1', out / 'bce' / 'seed7')
    text = run(out / 'bce')
    twin = out / 'bce' / 'seed7'
    assert f'{twin} has the seed of {out / "bce" / "seed1"}, 1; it is left out' in text
    assert len(json.loads((out / 'summary.json').read_text())['groups'][0]['runs']) == 5


def test_a_single_run_is_not_compared(out):
    for seed in range(1, 5):
        shutil.rmtree(out / 'ce' / f'seed{seed}')
    text = run(out / 'bce', out / 'ce', figures=True)
    assert 'CE is a single run: no interval, no comparison' in text
    assert '| unknown' in text
    assert 'against' not in text
    assert (out / 'accuracy_by_run.png').exists()


def test_differing_settings_are_named(out):
    edit(out / 'bce' / 'seed2' / 'config.json', learning_rate=0.5, gamma=2.0)
    edit(out / 'bce' / 'seed3' / 'config.json', gamma=3.0)  # a setting that only some heads have
    text = run(out / 'bce', out / 'ce')
    seed2 = out / 'bce' / 'seed2'
    seed3 = out / 'bce' / 'seed3'
    assert 'The runs differ in learning_rate: ' in text
    assert f'0.5 in {seed2}' in text
    assert f'differ in gamma: 2.0 in {seed2}; 3.0 in {seed3}.' in text
    assert 'differ in seed' not in text
    assert 'differ in out_dir' not in text


# The command line

def test_mistakes_end_in_one_line(out, capsys):
    shutil.copytree(out / 'bce', out / 'far' / 'bce')
    make_run(out / 'mixed' / 'seed0', (340, 170))
    make_run(out / 'mixed' / 'seed1', (340, 170), head='ce')
    make_run(out / 'other' / 'seed0', (340, 170), data='other')
    make_run(out / 'begun' / 'seed0', (340, 170))
    (out / 'begun' / 'seed0' / 'result.json').unlink()
    (out / 'empty').mkdir()
    (out / 'file').write_text('')
    cases = [
        ([], 'python evaluate.py out/bce out/ce'),
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
        ([out / 'bce', f'--out_dir={out / "file"}'], 'cannot be written there'),
    ]
    for argv, words in cases:
        with pytest.raises(SystemExit) as stop:
            run(*argv)
        output, error = capsys.readouterr()
        assert stop.value.code == 2
        assert not output
        assert words in error, argv
        assert error.count('\n') == 1, (argv, error)
        assert not (out / 'table.md').exists()
        assert not (out / 'summary.json').exists()


def test_command_line(out):
    argv = [sys.executable, ROOT / 'evaluate.py', 'bce', 'ce', '--out_dir=new/deep']
    done = subprocess.run(argv, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    new = out / 'new/deep'
    assert sorted(path.name for path in new.iterdir()) == [
        'accuracy_by_epoch.png', 'accuracy_by_run.png', 'coverage.png', 'reliability.png',
        'summary.json', 'table.md']
    for path in new.glob('*.png'):
        png = path.read_bytes()
        assert png[:8] == b'\x89PNG\r\n\x1a\n'
        assert len(png) < 300_000
    assert (new / 'table.md').read_text().startswith(
        '# BCE and CE on toy\n\n10 runs of 3 epochs, 300 minutes in all, on a machine')
    assert done.stdout.startswith('BCE and CE on toy\n\n10 runs of 3 epochs, 300 minutes in all')
    assert done.stdout.endswith(
        '\n\nAll tables, notes and figures: new/deep/table.md and the files beside it.\n')
    assert not (out / 'table.md').exists()


# results/paper/table1.py

def table1_module():
    spec = importlib.util.spec_from_file_location('table1', ROOT / 'results/paper/table1.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_runs_that_table_1_allows():
    """Against a search through all pairs of the two unknown runs, by what would be printed."""
    table1 = table1_module()
    published = json.loads((ROOT / 'results' / 'paper' / 'published.json').read_text())['heads']
    for head, figures, mean in (('bce', (85.48, 86.10, 86.32, 86.52), '86.10'),
                                ('ce', (84.24, 85.84, 86.36, 86.60), '85.84')):
        assert [published[head][name] for name in ('min', 'mean', 'median', 'max')] == [*figures]
        minimum, _, median, maximum = figures
        known = [round(25 * accuracy) for accuracy in (minimum, median, maximum)]
        expected = [f'{accuracy:.2f}' for accuracy in (minimum, median, maximum)]
        found = []
        for pair in itertools.combinations_with_replacement(range(2100, 2170), 2):
            counts = sorted([*pair, *known])
            printed = [f'{counts[i] / 25:.2f}' for i in (0, 2, 4)]
            if f'{sum(counts) / 125:.2f}' == mean and printed == expected:
                found.append(tuple(counts))
        assert sorted(found) == sorted(table1.possible(*figures, 0.005))
        assert len(found) in (7, 12)
