"""benchmark/: draws, losses, trials, final runs and standings (30 s)."""
import importlib
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, config_of, make_data, train
from scipy.stats import ttest_1samp
from torch.nn import functional as F

from benchmark import protocol, standings
from benchmark.losses import LogitPenalty, Poly
from model import make_head
from nanoloss.files import locked_folder
from tools import pack

benchmark = importlib.import_module('benchmark.__main__')
MINE = '''
from model import CEHead
class Mine(CEHead):
    space = {'strength': (0.1, 10.0)}
    def __init__(self, n_features, n_class, class_share, strength=1.0):
        super().__init__(n_features, n_class, class_share)
        self.strength = strength
    def loss(self, logits, labels):
        return self.strength * super().loss(logits, labels)
'''


# The protocol

def test_draws_are_paired_and_cover_their_range():
    plain = [protocol.draw(trial, 'trec', 5000, {}) for trial in range(500)]
    other = [protocol.draw(trial, 'trec', 5000, {'gamma': (1.0, 100.0), 'epsilon': (-1.0, 3.0)})
             for trial in range(500)]
    assert plain == [{key: value for key, value in one.items() if key not in ('gamma', 'epsilon')}
                     for one in other]
    assert plain[:16] != [protocol.draw(trial, 'sst2', 5000, {}) for trial in range(16)]
    for one in plain:
        assert one['learning_rate'] == one['embedding_rate']
        assert 1e-3 <= one['learning_rate'] <= 2e-2
        assert 0.05 <= one['weight_decay'] <= 5
        assert round(48_000 / 5000) <= one['epochs'] <= round(192_000 / 5000)
    # uniform on a logarithmic scale: half are below the geometric mean
    assert np.mean([one['learning_rate'] < math.sqrt(2e-5) for one in plain]) == pytest.approx(
        0.5, abs=0.07)
    assert np.mean([one['gamma'] < 10 for one in other]) == pytest.approx(0.5, abs=0.07)
    assert np.mean([one['epsilon'] < 1 for one in other]) == pytest.approx(0.5, abs=0.07)
    assert protocol.draw(0, 'big', 10 ** 6, {})['epochs'] == 1


def test_each_loss_has_constants_that_its_head_knows():
    for name in protocol.LOSSES:
        found, head, space = protocol.find_loss(name)
        assert found == name
        for multi_label in (False, True):
            for trial in range(4):
                settings = protocol.draw(trial, 'trec', 5000, space)
                made = make_head(head, n_features=3, n_class=4, multi_label=multi_label,
                                 class_share=[.25] * 4, **settings)
                decision = made.decision if multi_label else made
                for key in space:
                    assert getattr(decision, key) == settings[key]


def test_a_loss_of_a_file(tmp_path):
    (tmp_path / 'my.py').write_text(MINE)
    head = f'{tmp_path}/my.py:Mine'
    assert protocol.find_loss(head) == ('my_mine', head, {'strength': (0.1, 10.0)})
    assert protocol.find_loss('square') == ('square', 'square', {})


@pytest.mark.parametrize('old, new, message', [
    ("'strength': (0.1, 10.0)", "'texts': (0.1, 10.0)", 'texts .* must be a keyword'),
    ('strength=1.0', 'strength=1', 'strength .* a float as its default'),
    ('(0.1, 10.0)', '(10.0, 0.1)', 'no values between 10.0 and 0.1'),
])
def test_a_space_that_cannot_be_searched(tmp_path, old, new, message):
    (tmp_path / 'my.py').write_text(MINE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        protocol.find_loss(f'{tmp_path}/my.py:Mine')


# The losses

def test_poly_is_its_closed_form():
    torch.manual_seed(0)
    logits = torch.randn(20, 5, dtype=torch.float64)
    labels = torch.randint(5, (20,))
    made = Poly(3, 5, [.2] * 5, epsilon=2.5)
    expected = 0
    for z, y in zip(logits.tolist(), labels.tolist()):
        p = math.exp(z[y]) / sum(map(math.exp, z))
        expected += (-math.log(p) + 2.5 * (1 - p)) / 20
    assert made.loss(logits, labels).item() == pytest.approx(expected, rel=1e-12)


def test_the_penalty_explains_squentropy():
    """With several labels a text, which have one logit z each, squentropy is binary cross-entropy
    plus z^2 / 4. A label's two logits are -z/2 and z/2, so the penalty of 0.5 is the same loss."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(20, 4, dtype=torch.float64)
    labels = torch.randint(2, (20, 4))
    settings = {'n_features': 3, 'n_class': 4, 'multi_label': True, 'class_share': [.25] * 4}
    squentropy = make_head('squentropy', **settings).loss(logits, labels)
    penalty = make_head('benchmark/losses.py:LogitPenalty', **settings, penalty=0.5)
    bce = F.binary_cross_entropy_with_logits(logits, labels.double(), reduction='none')
    expected = (bce + logits ** 2 / 4).sum(1).mean()
    torch.testing.assert_close(squentropy, expected)
    torch.testing.assert_close(penalty.loss(logits, labels), expected)

    plain = LogitPenalty(3, 4, [.25] * 4, penalty=0.1)
    one_label = labels.argmax(1)
    torch.testing.assert_close(
        plain.loss(logits, one_label),
        F.cross_entropy(logits, one_label) + 0.1 * (logits ** 2).sum() / len(logits))


# The command

@pytest.fixture
def small(tmp_path, monkeypatch):
    """A benchmark of two trials and two seeds on small data -> a function that runs it with
    settings, which returns the arguments of each run of train.py."""
    data = make_data(tmp_path / 'data')
    (tmp_path / 'my.py').write_text(MINE)
    called = []

    def run_script(script, *argv):
        assert script == 'train.py'
        called.append(dict(argument[2:].split('=', 1) for argument in argv))
        train(data, tmp_path, *argv, '--trunk=windows', '--n_embd=8')
        return ''

    def run(**settings):
        called.clear()
        benchmark.main(SimpleNamespace(**{
            'loss': '', 'datasets': 'toy', 'folder': '', 'data_dir': data, 'measure': True,
            'out_dir': tmp_path / 'out', 'kept': str(tmp_path / 'kept'), 'threads': 1, **settings}))
        return list(called)

    for module in (benchmark, standings):
        monkeypatch.setattr(module, 'SEEDS', 2)
    monkeypatch.setattr(benchmark, 'TRIALS', 2)
    monkeypatch.setattr(benchmark, 'run_script', run_script)
    monkeypatch.setitem(protocol.SPACE, 'texts', (210, 630))
    return run


def test_a_loss_of_ones_own_beside_cross_entropy(small, tmp_path, capsys, monkeypatch):
    sides = []  # the test of each trial
    measure = benchmark.measure_trial

    def measure_and_look(*args):
        data = args[4] / 'data/trials'
        sides.append([(data / f'{split}_tokens.npy').read_bytes() for split in ('val', 'test')])
        return measure(*args)

    monkeypatch.setattr(benchmark, 'measure_trial', measure_and_look)
    calls = small(loss='ce')
    assert [call['seed'] for call in calls[:2]] == ['1000', '1001']
    assert len(calls) == 3 and calls[2]['n_runs'] == '2'
    assert len(sides) == 2 and all(val == test for val, test in sides)

    # the best trial on val has the settings of the final runs
    out = tmp_path / 'out/toy/ce'
    trials = [json.loads(line) for line in (out / 'trials.jsonl').read_text().splitlines()]
    best = max(trials, key=lambda row: (row['accuracy'], -row['log_loss']))
    assert {key: float(calls[2][key]) for key in best['settings']} == best['settings']
    assert sorted(path.name for path in out.iterdir()) == [
        'loss.json', 'seed0', 'seed1', 'trials.jsonl']

    # another loss: its trials continue after a stop, and what is measured is not repeated
    assert small(loss='ce') == []
    head = f'{tmp_path}/my.py:Mine'
    small(loss=head)
    mine = tmp_path / 'out/toy/my_mine'
    row, _ = (mine / 'trials.jsonl').read_text().splitlines()
    (mine / 'trials.jsonl').write_text(row + '\n')
    (mine / 'seed0/result.json').unlink()
    calls = small(loss=head)
    assert [call.get('seed') for call in calls] == ['1001', None]
    assert (mine / 'trials.jsonl').read_text().startswith(row)
    assert 'of 1 pairs of a data set and a loss, 0 are left' in capsys.readouterr().out

    # the standings count what the runs' result.json say
    accuracy = {}
    for name in ('ce', 'my_mine'):
        results = [json.loads((tmp_path / f'out/toy/{name}/seed{seed}/result.json').read_text())
                   for seed in range(2)]
        accuracy[name] = 100 * np.mean([result['last']['test']['accuracy'] for result in results])
    shown = (tmp_path / 'out/standings.md').read_text()
    for name, value in accuracy.items():
        assert f'| {name} | {value:.2f} |' in shown
    assert f'| my_mine | {accuracy["my_mine"] - accuracy["ce"]:+.2f} (' in shown
    assert (tmp_path / 'out/standings.png').stat().st_size > 1000


def test_a_loss_that_another_process_measures_is_left_to_it(small, tmp_path, capsys):
    with locked_folder(tmp_path / 'out/toy/ce'):
        assert small(loss='ce') == []
    assert 'another process is at work in' in capsys.readouterr().err
    assert len(small(loss='ce')) == 3


def test_a_changed_loss_is_not_mixed_with_its_former_self(small, tmp_path, capsys):
    head = f'{tmp_path}/my.py:Mine'
    small(loss=head)
    (tmp_path / 'out/toy/my_mine/seed1/result.json').unlink()
    (tmp_path / 'my.py').write_text(MINE.replace('self.strength *', '2 * self.strength *'))
    with pytest.raises(SystemExit) as stop:
        small(loss=head)
    assert stop.value.code == 2
    assert 'my.py:Mine has changed since' in capsys.readouterr().err


def test_a_trial_that_diverges_is_the_worst(small, tmp_path, monkeypatch):
    run_script = benchmark.run_script

    def run_or_diverge(script, *argv):
        if '--seed=1000' in argv:
            return 'train.py failed: train.py: out/seed1000: the loss is nan at step 7'
        return run_script(script, *argv)

    monkeypatch.setattr(benchmark, 'run_script', run_or_diverge)
    calls = small(loss='ce')
    trials = [json.loads(line)
              for line in (tmp_path / 'out/toy/ce/trials.jsonl').read_text().splitlines()]
    assert [row['accuracy'] > 0 for row in trials] == [False, True]
    assert float(calls[-1]['learning_rate']) == trials[1]['settings']['learning_rate']


def test_of_trials_with_one_accuracy_the_surest_is_chosen(small, tmp_path):
    path = tmp_path / 'out/toy/ce'
    path.mkdir(parents=True)
    rows = [{'settings': {'epochs': 1 + i}, 'accuracy': 90.0, 'log_loss': log_loss}
            for i, log_loss in enumerate([0.4, 0.3])]
    (path / 'trials.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    final, = small(loss='ce')
    assert final['epochs'] == '2' and final['n_runs'] == '2'


def test_runs_on_other_data_are_not_compared(small, tmp_path, capsys):
    small(loss=f'{tmp_path}/my.py:Mine')
    for path in (tmp_path / 'out/toy/my_mine').glob('seed*/config.json'):
        path.write_text(json.dumps(json.loads(path.read_text()) | {'data': 'other'}))
    with pytest.raises(SystemExit):
        small(measure=False, loss=f'{tmp_path}/my.py:Mine')
    assert 'was measured on another toy than ce' in capsys.readouterr().err


def test_missing_seeds_are_an_error(small, tmp_path, capsys):
    small(loss='ce')
    (tmp_path / 'out/toy/ce/seed1').rename(tmp_path / 'out/toy/ce/seed5')
    path = tmp_path / 'out/toy/ce/seed5/config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'seed': 5}))
    with pytest.raises(SystemExit):
        small(measure=False)
    assert 'has the seeds [0, 5], not 0 to 1' in capsys.readouterr().err


@pytest.mark.parametrize('settings, message', [
    ({'loss': 'pooly'}, "there is no loss 'pooly'; there are ce, bce, smoothing"),
    ({'datasets': 'nothing'}, 'give a --folder with nothing/train.csv'),
])
def test_mistakes_end_in_one_line(small, capsys, settings, message):
    with pytest.raises(SystemExit) as stop:
        small(**settings)
    assert stop.value.code == 2
    error, = capsys.readouterr().err.splitlines()
    assert message in error


def test_kept_runs_stand_in_for_losses_that_were_not_measured(small, tmp_path, capsys):
    small(loss='ce')
    measured, kept = tmp_path / 'out/toy/ce', tmp_path / 'kept/toy/ce'
    pack.main(config_of(pack, '--answers=right'), [measured, kept])
    (measured / 'trials.jsonl').rename(kept / 'trials.jsonl')
    shutil.rmtree(tmp_path / 'out')
    assert small(loss='ce') == []
    assert len(small(loss=f'{tmp_path}/my.py:Mine')) == 3
    assert '| my_mine |' in (tmp_path / 'out/standings.md').read_text()


# The standings

def test_verdicts_follow_from_the_corrected_p_values():
    def shown(mean, differs, equals):
        return standings.verdict({'mean': mean, 'differs': differs, 'equals': equals})
    assert shown(0.3, 0.2, 0.2) == 'open'
    assert shown(0.3, 0.05, 0.2) == 'better'
    assert shown(-0.3, 0.01, 0.06) == 'worse'
    assert shown(0.1, 0.01, 0.01) == 'better, equivalent within 0.5'
    assert shown(0.0, 0.9, 0.05) == 'equivalent within 0.5'


def test_differences_are_those_of_the_data_sets():
    """The mean and its p values from the formulas, and Holm's correction over the losses."""
    rng = np.random.default_rng(0)
    n = 400

    def runs(accuracy):
        return rng.random((3, n)) < accuracy

    found = {name: {f'set{i}': {'correct': runs(0.7 + gain + 0.03 * i)} for i in range(5)}
             for name, gain in (('ce', 0), ('good', 0.06), ('same', 0.0))}
    rows = standings.compare(found)
    expected = {}
    for name in ('good', 'same'):
        gaps = np.array([100 * (found[name][key]['correct'].mean() - one['correct'].mean())
                         for key, one in found['ce'].items()])
        error = gaps.std(ddof=1) / math.sqrt(5)
        assert rows[name]['mean'] == pytest.approx(gaps.mean())
        assert rows[name]['half'] == pytest.approx(2.776445 * error, rel=1e-5)  # t, 4 df
        expected[name] = ttest_1samp(gaps, 0).pvalue
    # Holm: the smaller p counts twice
    assert expected['good'] < expected['same']
    assert rows['good']['differs'] == pytest.approx(2 * expected['good'])
    assert rows['same']['differs'] == pytest.approx(max(expected['same'], 2 * expected['good']))


def test_one_loss_under_two_names_is_not_compared():
    rng = np.random.default_rng(0)
    ones = {name: {'correct': rng.random((2, 50)) < 0.7} for name in ('trec', 'sst2')}
    same = {'goemotions': {'correct': rng.random((2, 50)) < 0.7}}
    other = {name: {'correct': rng.random((2, 50)) < 0.7} for name in ones}
    rows = standings.compare({'ce': ones | same, 'bce': other | same, 'poly': other | same})
    assert list(rows['bce']['by_set']) == ['trec', 'sst2']
    assert list(rows['poly']['by_set']) == ['trec', 'sst2', 'goemotions']
    assert rows['bce']['mean'] == pytest.approx(1.5 * rows['poly']['mean'])


def test_the_readme_shows_a_head_that_works(tmp_path):
    text = (ROOT / 'benchmark/README.md').read_text()
    code = text.partition('```py\n')[2].partition('```')[0].replace('...', 'return logits.sum()')
    (tmp_path / 'my.py').write_text(code)
    name, head, space = protocol.find_loss(f'{tmp_path}/my.py:MyLoss')
    assert name == 'my_myloss' and space == {'strength': (0.01, 1.0)}
    assert make_head(head, n_features=2, n_class=3).strength == 0.1
