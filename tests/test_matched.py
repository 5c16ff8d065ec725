"""results/losses/matched: BCE that trains as CE does, CE with a nudged weight, and how far runs end
from each other (20 s)."""
import json
import re

import numpy as np
import pytest
import torch
from helpers import fails, make_data, make_run, outcome, train
from torch import nn

from model import Classifier, Transformer, make_head
from nanoloss.optim import parameter_groups
from results.losses.matched import distances

FILE = 'results/losses/matched/heads.py'
BCE = f'{FILE}:MatchedBCEHead'
CE = f'{FILE}:NudgedCEHead'
MATCHED = {'from_ce': True, 'lr_mult': 2.0, 'wd_mult': 0.5}  # the defaults


@pytest.fixture(autouse=True)
def root(monkeypatch, request):
    """The root of the repository, from which a head's file is named."""
    monkeypatch.chdir(request.config.rootpath)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data'))


# The heads

def learn(head, settings, steps=40, clip=0.0, optimizer=torch.optim.AdamW, min_lr=3e-4,
          scale_min_lr=True):
    """Train a small float64 transformer with dropout as train.py does -> losses, trunk, and the
    direction of the log-odds."""
    torch.manual_seed(3)
    trunk = Transformer(40, 512, n_head=2, n_embd=16, dropout=0.2)
    model = Classifier(trunk, make_head(head, 16, 2, **settings)).double()
    torch.manual_seed(4)  # for dropout, because heads of different sizes have drawn differently
    optimizer = optimizer(parameter_groups(model, 0.1), betas=(0.9, 0.99))
    losses = []
    generator = torch.Generator().manual_seed(4)
    for step in range(steps):
        tokens = torch.randint(0, 40, (8, 12), generator=generator)
        y = torch.randint(0, 2, (8,), generator=generator)
        lr = 3e-3 * (1 - step / steps) + min_lr
        for group in optimizer.param_groups:
            if scale_min_lr:
                group['lr'] = lr * group['lr_mult']
            else:
                group['lr'] = (lr - min_lr) * group['lr_mult'] + min_lr
        loss = model.head.loss(model(tokens, torch.ones(8, 12)), y)
        optimizer.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())

    weights = torch.cat([weight.detach().flatten() for weight in trunk.parameters()])
    linear = model.head.linear
    direction = torch.cat([linear.weight, linear.bias[:, None]], 1).detach()
    direction = direction.diff(dim=0)[0] if head == 'ce' else direction[0]
    return torch.tensor(losses, dtype=torch.float64), weights, direction


@pytest.mark.parametrize('settings', [MATCHED, {}], ids=['as configured', 'by default'])
def test_matched_bce_is_ce(settings):
    """One logit that starts from the difference of the two, at twice the rate and half the decay:
    the same training. A key's bias has no gradient but rounding, which Adam magnifies: parameters
    agree less than losses."""
    theirs = learn('ce', {})
    ours = learn(BCE, settings)
    for their, our, tolerance in zip(theirs, ours, (1e-12, 1e-8, 1e-8)):
        torch.testing.assert_close(our, their, rtol=0, atol=tolerance)


UNMATCHED = {
    'own start': (MATCHED | {'from_ce': False}, {}),
    'rate not doubled': (MATCHED | {'lr_mult': 1.0}, {}),
    'decay not halved': (MATCHED | {'wd_mult': 1.0}, {}),
    'clipping': (MATCHED, {'clip': 0.1}),
    'coupled L2': (MATCHED, {'optimizer': torch.optim.Adam}),
    'absolute minimum rate': (MATCHED, {'scale_min_lr': False}),
}


@pytest.mark.parametrize('settings, settings_of_both', UNMATCHED.values(), ids=UNMATCHED)
def test_what_is_not_matched_is_not_ce(settings, settings_of_both):
    theirs = learn('ce', {}, **settings_of_both)
    ours = learn(BCE, settings, **settings_of_both)
    assert (theirs[0] - ours[0]).abs().max() > 1e-6
    assert (theirs[2] - ours[2]).abs().max() > 1e-6


def test_a_matched_head_that_starts_by_itself_is_bce():
    plain = learn('bce', {})
    unmatched = learn(BCE, {'from_ce': False, 'lr_mult': 1.0, 'wd_mult': 1.0})
    for ours, theirs in zip(unmatched, plain):
        assert torch.equal(ours, theirs)


def head_from_seed(name, **settings):
    torch.manual_seed(5)
    return make_head(name, 8, 2, **settings)


def test_a_matched_head_starts_from_the_difference_of_ce():
    ce = head_from_seed('ce').linear.weight
    matched = head_from_seed(BCE).linear
    exact = ce.detach().double().diff(dim=0)
    assert torch.equal(matched.weight.double(), exact)  # nothing is rounded
    assert not matched.bias.any()
    unmatched = head_from_seed(BCE, from_ce=False).linear.weight
    assert torch.equal(unmatched, head_from_seed('bce').linear.weight)


def test_a_nudged_head_is_ce_but_for_one_weight():
    ce = head_from_seed('ce').linear.weight
    nudged = head_from_seed(CE, nudge=0.25).linear.weight
    difference = torch.zeros(2, 8)
    difference[0, 0] = 0.25
    torch.testing.assert_close(nudged - ce, difference, rtol=0, atol=1e-7)
    by_default = head_from_seed(CE).linear.weight
    assert (by_default != ce).sum() == 1 and (by_default - ce).abs().max() < 2e-7


@pytest.mark.parametrize('settings, says', [
    ({'n_class': 3}, 'for two classes'),
    ({'n_class': 2, 'multi_label': True}, 'supports one label per text')])
def test_data_that_a_matched_head_cannot_do(settings, says):
    with pytest.raises(ValueError, match=says):
        make_head(BCE, 8, **settings)


# Whole runs

def test_matched_bce_is_ce_in_a_whole_run(data, tmp_path):
    """Without clipping, with dropout, token dropout, decay and schedule. Neither plain BCE nor BCE
    with the start alone or the rate alone is CE."""
    arguments = {
        'ce': ['--head=ce'],
        'matched': [f'--head={BCE}'],
        'plain': ['--head=bce'],
        'the start alone': [f'--head={BCE}', '--lr_mult=1', '--wd_mult=1'],
        'the rate alone': [f'--head={BCE}', '--from_ce=False'],
    }
    outcomes = {}
    for name, argv in arguments.items():
        train(data, tmp_path / name, *argv, '--dtype=float64', '--dropout=0.1', '--grad_clip=0')
        outcomes[name] = outcome(tmp_path / name / 'seed0')
    _, ce_log, _, ce_preds = outcomes.pop('ce')
    assert len(ce_log) == 2
    for name, (_, log, _, _) in outcomes.items():
        for row, ce_row in zip(log, ce_log, strict=True):
            for key in 'train_loss', 'val_loss':
                if name == 'matched':  # sums of the log are float32
                    assert row[key] == pytest.approx(ce_row[key], abs=1e-6)
                else:
                    assert abs(row[key] - ce_row[key]) > 1e-5, name
    z = np.array(ce_preds['test_logits'])
    z_matched = np.array(outcomes['matched'][3]['test_logits'])
    assert np.allclose(z[:, 1] - z[:, 0], z_matched[:, 0], atol=2e-3)  # float16


def test_the_config_file_trains_a_matched_head(data, tmp_path):
    train(data, tmp_path, 'results/losses/matched/bce_matched.py', '--dataset=toy', '--epochs=1',
          '--n_embd=16', '--n_layer=1', '--device=cpu', '--threads=1', '--dtype=float32',
          f'--out_dir={tmp_path}')
    config = json.loads((tmp_path / 'seed0/config.json').read_text())
    assert config['head'] == BCE
    assert (config['grad_clip'], config['lr_mult'], config['wd_mult']) == (0, 2, 0.5)


def test_a_nudged_ce_is_nearly_ce(data, tmp_path):
    train(data, tmp_path / 'ce', '--head=ce', '--dtype=float64')
    for nudge in '0', '1e-7':
        train(data, tmp_path / nudge, f'--head={CE}', f'--nudge={nudge}', '--dtype=float64')
    _, _, ce, _ = outcome(tmp_path / 'ce/seed0')
    _, _, same_weights, _ = outcome(tmp_path / '0/seed0')
    _, _, nudged, _ = outcome(tmp_path / '1e-7/seed0')
    assert same_weights == ce
    assert nudged != ce
    for name, weight in ce.items():
        assert np.allclose(nudged[name], weight, atol=1e-3), name


# distances.py

@pytest.fixture
def losses(tmp_path):
    """Runs of all variants. Those of bce differ from those of ce by two answers and by four; the
    others do not differ."""
    for variant in ('matched/ce', 'matched/ce_nudged', 'matched/bce_matched', 'matched/bce_start',
                    'matched/bce_rate', 'balanced/ce'):
        for seed in range(2):
            make_run(tmp_path / variant / f'seed{seed}', (300 + 10 * seed, 100), head='ce')
    for seed in range(2):
        correct = 302 + 12 * seed
        make_run(tmp_path / f'matched/bce/seed{seed}', (correct, 100), head='bce')
    for head, name in (('ce', 'ce'), ('bce', 'bce_matched')):
        make_run(tmp_path / 'float64' / name / 'seed0', (300, 100), head=head)
    return tmp_path


def test_distances_by_hand(losses, capsys):
    """make_run gives the log-odds +-2, 4 .. 14 with two logits, and half of these with one."""
    distances.main(losses)
    table = capsys.readouterr().out
    assert table == (losses / 'matched/distances.md').read_text('utf-8')
    assert (losses / 'matched/distances.png').read_bytes().startswith(b'\x89PNG')
    rows = {}
    for line in table.splitlines()[4:11]:
        name, rms, labels, gain = [cell.strip() for cell in line.strip('|').split('|')]
        rows[name] = rms, labels, gain
    zero = '0.000 (0.000 to 0.000)', '0.00 (0.00 to 0.00)', '+0.00 (+0.00 to +0.00)'
    for name in ('CE, a weight nudged by 1e-7', 'BCE, start and rate of CE', 'CE, clipped'):
        assert rows[name] == zero

    # of 400 texts, two and four have another label, and are right
    strength = 1 + np.arange(400) % 7
    rms = []
    for seed, n_other in enumerate((2, 4)):
        first = 300 + 10 * seed
        difference = strength.astype(float)
        difference[first:first + n_other] *= 3
        rms.append(np.sqrt(np.mean(difference ** 2)))
    found = [float(number) for number in re.findall(r'\d+\.\d+', rows['BCE'][0])]
    assert found == pytest.approx([np.mean(rms), *sorted(rms)], abs=1e-3)
    assert rows['BCE'][1] == '0.75 (0.50 to 1.00)'
    half = 12.7062 * 0.25  # t(0.975, 1) times the standard error of 0.5 and 1
    assert rows['BCE'][2] == f'+0.75 ({0.75 - half:+.2f} to {0.75 + half:+.2f})'
    assert rows['CE, another seed'][1:] == ('2.50 (2.50 to 2.50)', '')


@pytest.mark.parametrize('path, says', [
    ('matched/ce/seed1', 'matched/ce: there is one run, wanted are two'),
    ('matched/bce/seed1', 'matched/bce: there is no run for each seed of'),
    ('matched/bce_rate', 'matched/bce_rate: there is no finished run'),
    ('float64/ce', 'float64/ce: there is no finished run')])
def test_missing_runs_end_in_a_line(losses, capsys, path, says):
    for folder in [losses / path, *(losses / path).glob('seed*')]:
        (folder / 'result.json').unlink(missing_ok=True)
    assert says in fails(capsys, losses, run=distances.main)
