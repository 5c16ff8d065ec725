"""--tensorboard: TensorBoard reads the numbers of log.jsonl as curves. About 10 s."""
import json
import sys

import pytest
from helpers import fails, make_data, pretrain, script, train

from nanoloss import loop

pytest.importorskip('tensorboard')
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

CLASSIFIER = ['--epochs=3', '--eval_interval=4']
LANGUAGE_MODEL = ['--eval_interval=5']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data'))


def check_curves(folder):
    """TensorBoard finds each number of log.jsonl once, at its step, and nothing else."""
    expected = {}
    steps = []
    for line in (folder / 'log.jsonl').read_text().splitlines():
        row = json.loads(line)
        step = row.pop('step')
        steps.append(step)
        for name, value in row.items():
            if value is not None:
                expected.setdefault(name, []).append((step, value))
    assert steps == sorted(set(steps))

    events = EventAccumulator(str(folder / 'tensorboard'))
    events.Reload()
    assert set(events.Tags()['scalars']) == set(expected)
    for name, points in expected.items():
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in points]
        assert [value for _, value in found] == pytest.approx([value for _, value in points])
    return steps


def interrupt(module, at_step, run, *args):
    """Run a script that gets a signal at a step."""
    scheduled_rate = module.scheduled_rate

    def stop(step, *args):
        if step == at_step:
            loop.stop_signal = 15
        return scheduled_rate(step, *args)
    module.scheduled_rate = stop
    try:
        with pytest.raises(SystemExit):
            run(*args, module=module)
    finally:
        loop.stop_signal = 0


@pytest.mark.parametrize('name, run, argv, before', [
    ('train', train, CLASSIFIER, True), ('train', train, CLASSIFIER, False),
    ('lm/pretrain', pretrain, ['--eval_interval=5'], True)],
    ids=['from the start', 'since it resumed', 'of a language model'])
def test_curves_are_the_log(data, tmp_path, name, run, argv, before):
    """Also those of a run that computes some points again, after a kill between checkpoints."""
    begun = [*argv, '--ckpt_secs=1000', f'--tensorboard={before}']
    interrupt(script(name), 13, run, data, tmp_path, *begun)
    folder = tmp_path / 'seed0'
    saved = (folder / 'ckpt.pt').read_bytes()
    interrupt(script(name), 24, run, data, tmp_path, *begun)
    assert (folder / 'tensorboard').exists() == before
    (folder / 'ckpt.pt').write_bytes(saved)  # as if the second process had been killed

    run(data, tmp_path, *argv, '--tensorboard')
    steps = check_curves(folder)
    assert len(steps) > 5
    assert (folder / 'result.json').exists()


def test_without_the_setting_there_are_no_curves(data, tmp_path, capsys):
    train(data, tmp_path)
    assert not (tmp_path / 'seed0/tensorboard').exists()
    # with it, the run is the same
    train(data, tmp_path, '--tensorboard')
    assert 'is complete already' in capsys.readouterr().out


@pytest.mark.parametrize('run', [train, pretrain], ids=['train', 'pretrain'])
def test_a_missing_package_ends_in_one_line(data, tmp_path, monkeypatch, capsys, run):
    monkeypatch.setitem(sys.modules, 'tensorboard', None)
    for name in [name for name in sys.modules if name.startswith('torch.utils.tensorboard')]:
        monkeypatch.delitem(sys.modules, name)
    error = fails(capsys, data, tmp_path / 'out', '--tensorboard', run=run)
    assert 'pip install tensorboard' in error
    assert not (tmp_path / 'out').exists()
