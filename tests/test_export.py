"""export.py and the folders that it makes: against predict.py, without PyTorch, and damaged (40 s).
"""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import AWKWARD, ROOT, call, export
from helpers import fails, script

from nanoloss.reader import Classifier as Exported

TEXTS = [*AWKWARD, 'A WONDERFUL film', 'boring ' * 300, '最高 naïve ' * 80, '<|endoftext|>',
         '\0 \ud800']


def same_answers(exported, classifier):
    """Both give the same to awkward texts and to the sample's, together and one by one."""
    texts = TEXTS + (ROOT / 'data/sample.csv').read_text('utf-8').splitlines()[1:200]
    expected = classifier.probs(texts)
    found = exported.probs(texts)
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() < 1e-5
    assert [exported.label(p) for p in found] == [classifier.label(p) for p in expected]
    for i in range(len(TEXTS)):
        assert exported.probs([texts[i]])[0] == pytest.approx(expected[i], abs=1e-5)
    assert exported.probs([]).shape == (0, len(classifier.classes))


@pytest.mark.parametrize('run', ['out/bce', 'out/windows', 'out/topics'])
def test_the_folder_answers_as_predict_does(exported, Classifier, run):
    """A bag of both ends of a text, windows with n-grams, several labels with positions."""
    classifier = Classifier(run)
    folder = exported[run]
    without_torch = Exported(folder)
    assert without_torch.id == classifier.id
    same_answers(without_torch, classifier)
    p, name, pieces = without_torch.explain(AWKWARD[0])
    p_expected, name_expected, expected = classifier.explain(AWKWARD[0])
    assert (name, [piece for piece, _ in pieces]) == (
        name_expected, [piece for piece, _ in expected])
    assert [worth for _, worth in pieces] == pytest.approx([x for _, x in expected], abs=1e-3)
    assert p == pytest.approx(p_expected, abs=1e-5)


@pytest.mark.parametrize('settings', [
    ['--ngrams=chars', '--window=2', '--head=squentropy'],
    ['--ngrams=none', '--window=0', '--n_layer=1', '--causal', '--spell', '--lower=False',
     '--pooling=mean', '--truncate=tail', '--head=ce', '--min_count=40'],
], ids=['chars', 'spelled'])
def test_other_ways_to_read_a_text(home, Classifier, settings):
    run = f'out/{settings[0].strip("-").replace("=", "_")}'
    call(home, 'train.py', '--dataset=sample', '--n_train=400', '--epochs=1', '--n_embd=16',
         '--dtype=float32', '--threads=1', '--block_size=40', f'--out_dir={run}', *settings)
    exported = Exported(export(home, f'{run}/seed0'))
    same_answers(exported, Classifier(f'{run}/seed0'))
    if 'chars' in run:  # the model knows pairs of letters of "<|endoftext|>", which is no text
        empty, spelled_out = exported.tokens(['', '<|endoftext|>'])
        assert len(exported.ngrams_of(empty)) == 0 < len(exported.ngrams_of(spelled_out))


def test_spelled_texts_are_cut_in_prediction_as_in_training(home, Classifier):
    """predict.py's probabilities of val are those of which the run has kept the logits."""
    classifier = Classifier('out/ngrams_none/seed0')
    data, _ = script().load_data(home / 'data/sample')
    texts = []
    for begin, end in data['val'].spans:
        texts.append(classifier.encoding.decode(data['val'].tokens[begin:end].tolist()))
    logits = np.load(home / 'out/ngrams_none/seed0/preds.npz')['val_logits'].astype(float)
    scaled = np.exp(logits / classifier.runs[0].temperature)
    expected = scaled / scaled.sum(1, keepdims=True)
    assert classifier.probs(texts) == pytest.approx(expected, abs=2e-3)  # float16


def run_reader(folder, blocked, *texts):
    """reader.py of a folder, in a Python that has neither this repository nor PyTorch."""
    for name in 'torch', 'nanoloss', 'scipy':
        (blocked / f'{name}.py').write_text(f'raise ImportError("no {name}")')
    environment = {**os.environ, 'PYTHONPATH': str(blocked)}
    command = [sys.executable, folder / 'reader.py', *texts]
    return subprocess.run(command, capture_output=True, encoding='utf-8', cwd=blocked,
                          env=environment)


def test_the_reader_needs_neither_the_repository_nor_torch(exported, Classifier, tmp_path):
    classifier = Classifier('out/windows')
    done = run_reader(exported['out/windows'], tmp_path, 'a text', 'великолепно')
    assert done.stderr == ''
    for line, p in zip(done.stdout.splitlines(), classifier.probs(['a text', 'великолепно'])):
        answer = json.loads(line)
        assert answer['label'] == classifier.label(p)
        assert list(answer['probs'].values()) == pytest.approx(p.tolist(), abs=1e-5)


def test_the_card_says_what_the_runs_are_worth(exported, home, Classifier):
    """Its accuracy on test is that of the mean of the runs, counted from what they have kept."""
    classifier = Classifier('out/bce')
    p = 0
    for run, seed in zip(classifier.runs, ('seed0', 'seed1')):
        preds = np.load(home / 'out/bce' / seed / 'preds.npz')
        p = p + 1 / (1 + np.exp(-preds['test_logits'][:, 0].astype(float) / run.temperature))
    correct = (p / 2 > 0.5) == (preds['test_labels'] == 1)
    card = (exported['out/bce'] / 'README.md').read_text('utf-8')
    assert f'| test | {len(correct):,} | {100 * correct.mean():.2f} |' in card
    assert 'neg, pos' in card
    assert 'licence of the data | to be filled in' in card
    assert ': 0 other labels' in card


@pytest.mark.parametrize('file', [
    'model.onnx', 'tokenizer.tiktoken', 'vocabulary.npz', 'model.json', 'SHA256SUMS', 'reader.py',
    'labels.py'])
@pytest.mark.parametrize('damage', ['cut', 'flipped', 'gone', 'of another model'])
def test_a_damaged_folder_is_refused(exported, tmp_path, file, damage):
    folder = tmp_path / 'model'
    shutil.copytree(exported['out/bce'], folder)
    path = folder / file
    content = path.read_bytes()
    if damage == 'cut':
        path.write_bytes(content[:len(content) // 2])
    elif damage == 'flipped':
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:])
    elif damage == 'gone':
        path.unlink()
    elif (exported['out/windows'] / file).read_bytes() == content:
        pytest.skip('both have the same')
    else:
        shutil.copy(exported['out/windows'] / file, path)
    with pytest.raises(ValueError) as error:
        Exported(folder)
    assert '\n' not in str(error.value)
    if damage == 'gone':
        assert f'{file} is missing' in str(error.value)


def test_a_card_may_be_filled_in(exported, tmp_path):
    shutil.copytree(exported['out/bce'], tmp_path / 'model')
    (tmp_path / 'model/README.md').write_text('CC BY 4.0')
    assert Exported(tmp_path / 'model').classes == ['neg', 'pos']


def run_export(home, run, *argv, model=None):
    """model: a model.onnx that is taken, for it takes seconds to make one."""
    module = script('export')
    if model:
        module.write_model = lambda classifier, path: shutil.copy(model, path)
    module.configure(vars(module), argv=list(map(str, argv)))
    module.main([home / run])


def test_what_cannot_be_exported(home, exported, capsys, tmp_path):
    data = f'--data_dir={home}/data'
    for run, argv, message in [
        ('out/none', [f'--to={tmp_path}/a'], 'no finished run'),
        ('out/bce', [f'--to={tmp_path}/a'], 'no data in data/sample'),
        ('out/topics', [f'--to={tmp_path}'], 'is no exported model; give another --to'),
        ('out/bce', [f'--to={exported["out/bce"]}', data], '--overwrite to replace it'),
        ('out/bce', [f'--to={exported["out/bce"]}', data, '--which=first'], '--overwrite'),
        ('out/bce', [f'--to={tmp_path}/a', data, '--which=first'], "'last' or 'best'"),
    ]:
        monkey = pytest.MonkeyPatch()
        monkey.chdir(tmp_path)
        error = fails(capsys, home, run, *argv, run=run_export)
        monkey.undo()
        assert message in error
        assert list(tmp_path.iterdir()) == []


def test_thresholds_go_along(home, exported, Classifier, tmp_path):
    """The exported model decides by those of the runs, and by none where they are left behind."""
    shutil.copytree(home / 'out/bce', tmp_path / 'out/bce')
    call(home, 'evaluate.py', tmp_path / 'out/bce', '--at_precision=0.9')
    classifier = Classifier(tmp_path / 'out/bce', thresholds=True)
    texts = (ROOT / 'data/sample.csv').read_text('utf-8').splitlines()[1:400]
    p = classifier.probs(texts)
    expected = [classifier.label(row) for row in p]
    assert 'unsure' in expected
    for folder, *argv in ('with',), ('without', '--thresholds=False'):
        run_export(tmp_path, 'out/bce', f'--to={tmp_path / folder}', f'--data_dir={home}/data',
                   *argv, model=exported['out/bce'] / 'model.onnx')
    deciding = Exported(tmp_path / 'with')
    assert [deciding.label(row) for row in p] == expected

    # the card counts what the folder answers, of which "unsure" is none that is right
    data, _ = script().load_data(home / 'data/sample')
    for name in 'with', 'without':
        folder = Exported(tmp_path / name)
        card = (tmp_path / name / 'README.md').read_text('utf-8')
        for side in 'val', 'test':
            rows = [data[side].tokens[begin:end].tolist() for begin, end in data[side].spans]
            found = [folder.label(row) for row in folder.probs(
                [folder.encoding.decode(row) for row in rows])]
            n_right = sum(label == ('neg', 'pos')[y] for label, y in zip(found, data[side].labels))
            assert f'| {side} | {len(rows):,} | {100 * n_right / len(rows):.2f} |' in card
            if name == 'with':
                assert f'{found.count("unsure") / len(rows):.1%} of {side}' in card
        assert ('a precision of 90 %' in card) == (name == 'with')
        assert ('The likeliest class is the answer.' in card) == (name == 'without')
    for plain in Exported(tmp_path / 'without'), Exported(tmp_path / 'with', thresholds=False):
        assert 'unsure' not in [plain.label(row) for row in p]


def test_what_does_not_answer_as_predict_is_not_kept(home, exported, capsys, tmp_path):
    """The mean of two seeds in the place of one."""
    error = fails(capsys, home, 'out/bce/seed0', f'--to={tmp_path}/model',
                  f'--data_dir={home}/data', run=run_export,
                  model=exported['out/bce'] / 'model.onnx')
    assert 'away from predict.py' in error
    assert list(tmp_path.iterdir()) == []


def test_other_data_are_no_check(home, capsys, tmp_path):
    shutil.copytree(home / 'data/topics', tmp_path / 'data/sample')
    error = fails(capsys, home, 'out/bce', f'--to={tmp_path}/model', f'--data_dir={tmp_path}/data',
                  run=run_export)
    assert 'is not the data that the run was trained on' in error
