"""nanoloss/tune.py and train.py --tune: trials, the choice, resumption (30 s)."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import fails, make_data, script, train
from sklearn.metrics import log_loss

from nanoloss import tune
from nanoloss.tune import CANDIDATES, SEED, choose, trials

ARGV = ['--trunk=windows', '--n_embd=8', '--head=ce', '--epochs=2']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data'))


def config_of(**settings):
    return SimpleNamespace(**{'tune': 3, 'seed': 2, 'out_dir': 'out/my', 'window': 3,
                              'label_smoothing': 0.0, 'embedding_rate': 0.005, **settings})


def test_a_trial_changes_what_its_candidate_names():
    config = config_of(tune=len(CANDIDATES))
    found = trials(config)
    assert [changes for changes, _ in found] == CANDIDATES
    for i, (changes, trial) in enumerate(found):
        assert vars(trial) == vars(config) | changes | {
            'tune': 0, 'seed': 2 + SEED, 'out_dir': f'out/my/tuning/trial{i}'}


def test_candidates_that_a_trunk_or_a_head_lacks_are_left_out(capsys):
    config = config_of(tune=2)
    del config.window, config.label_smoothing
    assert [changes for changes, _ in trials(config)] == [{}, {'embedding_rate': 0.0}]
    config.tune = 3
    with pytest.raises(SystemExit) as stop:
        trials(config)
    assert stop.value.code == 2
    assert 'tune must be at most 2 with this head and trunk, not 3' in capsys.readouterr().err


@pytest.mark.parametrize('losses, best', [([.3, .1, .2], 1), ([.1, .1, .2], 0), ([3, 2, 1], 2)])
def test_the_lowest_log_loss_is_chosen(tmp_path, losses, best):
    tried = []

    def run_trial(config):
        tried.append(config)
        return {'log_loss': losses[len(tried) - 1], 'accuracy': 1 - best, 'seconds': 1.0}

    config = choose(config_of(), run_trial, tmp_path)
    assert config.chosen_on_val == CANDIDATES[best]
    assert vars(config) == vars(config_of()) | CANDIDATES[best] | {
        'chosen_on_val': CANDIDATES[best]}
    rows = [json.loads(line) for line in (tmp_path / 'tuning.jsonl').read_text().splitlines()]
    assert [row['changes'] for row in rows] == CANDIDATES[:3]
    assert [row['log_loss'] for row in rows] == losses


def test_a_tuned_run(data, tmp_path, monkeypatch, capsys):
    """A trial is a run that nobody has seen on test, with scikit-learn's log loss. The same command
    again trains nothing."""
    monkeypatch.setattr(tune, 'SEED', 7)
    out = tmp_path / 'out'
    train(data, out, *ARGV, '--tune=3')
    rows = [json.loads(line) for line in (out / 'tuning.jsonl').read_text().splitlines()]
    config = json.loads((out / 'seed0/config.json').read_text())
    best = min(rows, key=lambda row: row['log_loss'])
    assert config['chosen_on_val'] == best['changes'] and config['tune'] == 3
    assert all(config[key] == value for key, value in best['changes'].items())
    for i, row in enumerate(rows):
        folder = out / f'tuning/trial{i}/seed7'
        assert {path.name for path in folder.iterdir()} == {
            'config.json', 'log.jsonl', 'result.json'}
        assert 'test' not in (folder / 'result.json').read_text()

        # the run of the same settings and seed
        argv = [f'--{key}={value}' for key, value in row['changes'].items()]
        train(data, tmp_path / f'run{i}', *ARGV, *argv, '--seed=7')
        preds = np.load(tmp_path / f'run{i}/seed7/preds.npz')
        result = json.loads((tmp_path / f'run{i}/seed7/result.json').read_text())['last']
        logits = torch.from_numpy(preds['val_logits'].astype(float)) / result['temperature']
        wanted = log_loss(preds['val_labels'], logits.softmax(1))
        assert row['log_loss'] == pytest.approx(wanted, abs=2e-3)
        assert row['accuracy'] == pytest.approx(result['val']['accuracy'], abs=0.01)

    before = (out / 'tuning.jsonl').read_bytes()
    capsys.readouterr()
    train(data, out, *ARGV, '--tune=3')
    assert capsys.readouterr().out.count('is complete already') == 4
    assert (out / 'tuning.jsonl').read_bytes() == before
    # other trials are another run
    assert 'with other tune' in fails(capsys, data, out, *ARGV, '--tune=2')
    script('evaluate').main(SimpleNamespace(
        out_dir='', ref='', target=85.0, effect=0.26, published='', code=''), [str(out)])
    chosen = ', '.join(f'{k} {v}' for k, v in best['changes'].items()) or 'default settings'
    assert f'chosen on val in 3 trials: {chosen}' in (tmp_path / 'table.md').read_text()
