"""tools.export and the folders that it makes: against the run, without PyTorch, and damaged (40 s).
"""
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import AWKWARD, ROOT, ROUNDING, call, export, with_checksums
from helpers import config_of, fails

from model import make_head
from nanoloss.classifier import TextClassifier
from nanoloss.data import load_data
from nanoloss.ensemble import Ensemble
from nanoloss.reader import Classifier as Exported
from nanoloss.runs import RunFolder, read_run
from nanoloss.text import OLD_KINDS
from nanoloss.tokenizer import decode
from nanoloss.vocabulary import learn_vocabulary, lower_case
from tools import export as module

TEXTS = [*AWKWARD, 'A WONDERFUL film', 'boring ' * 300, '最高 naïve ' * 80, '<|endoftext|>',
         '\0 \ud800']
HEAD = '''
import torch
from model import Head


class Mine(Head):
    """A margin of 1 on logits that are halved."""

    def loss(self, logits, labels):
        return torch.nn.functional.multi_margin_loss(logits, labels)

    def probs(self, logits):
        return (logits / 2).softmax(1)
'''


def same_answers(exported, classifier):
    """Both give the same to awkward texts and to the sample's, together and one by one."""
    texts = TEXTS + (ROOT / 'data/sample.csv').read_text('utf-8').splitlines()[1:200]
    expected = classifier.probs(texts)
    found = exported.probs(texts)
    assert found.dtype == np.float64
    distances = np.abs(found - expected)
    assert distances.max() < ROUNDING
    assert np.median(distances) < 1e-6
    assert [exported.label(p) for p in found] == [classifier.label(p) for p in expected]
    for i in range(len(TEXTS)):
        assert exported.probs([texts[i]])[0] == pytest.approx(expected[i], abs=ROUNDING)
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
    assert [x for _, x in pieces] == pytest.approx([x for _, x in expected], abs=3e-4)
    assert p == pytest.approx(p_expected, abs=ROUNDING)


@pytest.mark.parametrize('settings', [
    ['--ngrams=words+chars', '--window=2', '--head=squentropy'],
    ['--ngrams=none', '--trunk=transformer', '--n_layer=1', '--causal', '--spell',
     '--lower=False', '--truncate=tail', '--head=ce', '--min_count=40'],
], ids=['words+chars', 'spelled'])
def test_other_ways_to_read_a_text(home, Classifier, settings, tmp_path):
    run = f'out/{settings[0].strip("-").replace("=", "_")}'
    call(home, 'train.py', '--dataset=sample', '--n_train=400', '--epochs=1', '--n_embd=16',
         '--dtype=float32', '--threads=1', '--block_size=40', f'--out_dir={run}', *settings)
    exported = Exported(export(home, f'{run}/seed0', tmp_path / 'model'))
    same_answers(exported, Classifier(f'{run}/seed0'))
    if 'chars' in run:  # the model knows pairs of letters of "<|endoftext|>", which is no text
        empty, spelled_out = exported.tokens(['', '<|endoftext|>'])
        model = exported.model
        assert len(model.numbered_ngrams(empty)) == 0 < len(model.numbered_ngrams(spelled_out))


@pytest.mark.parametrize('kind', OLD_KINDS)
def test_n_grams_of_older_versions(home, Classifier, kind, tmp_path):
    """Of bytes and of tokens, in weights that lack a bias and a mix."""
    run = tmp_path / 'seed0'
    shutil.copytree(home / 'out/windows/seed0', run)
    encoding = Classifier('out/windows').encoding
    split = load_data(home / 'data/sample')[0]['train']
    split = lower_case(split, encoding)
    keys = learn_vocabulary(split, encoding, False, kind, 5, 60, 'head').ngrams
    assert len(keys) > 300

    config = json.loads((run / 'config.json').read_text())
    config |= {'ngrams': kind, 'known_ngrams': len(keys), 'ngram_rate': 50.0}
    del config['embedding_rate']
    (run / 'config.json').write_text(json.dumps(config))
    weights = torch.load(run / 'model.pt', weights_only=True)
    del weights['ngrams.bias'], weights['mix']
    torch.manual_seed(0)
    weights['ngrams.keys'] = torch.from_numpy(keys.view(np.int64))
    weights['ngrams.sums.weight'] = torch.randn(len(keys) + 1, 2)
    weights['ngrams.strength'] = torch.rand(len(keys) + 1)
    weights['ngrams.strength'][0] = 0  # padding
    torch.save(weights, run / 'model.pt')

    classifier = Classifier(run)
    exported = Exported(export(home, run, tmp_path / 'model'))
    same_answers(exported, classifier)
    empty, spelled_out = exported.tokens(['', '<|endoftext|>'])
    model = exported.model
    assert len(model.numbered_ngrams(empty)) == 0
    assert kind == 'tokens' or len(model.numbered_ngrams(spelled_out)) > 0
    # the logits of the n-grams are added as they are
    without = weights | {'ngrams.sums.weight': torch.zeros(len(keys) + 1, 2)}
    torch.save(without, run / 'model.pt')
    trunk = Classifier(run)
    p, q = (np.log(each.probs(['a wonderful film'])[0]) for each in (classifier, trunk))
    numbers = model.numbered_ngrams(exported.tokens(['a wonderful film'])[0])
    strength = weights['ngrams.strength'][numbers].double()
    added = strength / strength.norm() @ weights['ngrams.sums.weight'][numbers].double()
    temperature = classifier.model.runs[0].temperature
    wanted = (added[1] - added[0]).item() / temperature
    assert (p[1] - p[0]) - (q[1] - q[0]) == pytest.approx(wanted, abs=1e-4)


def test_spelled_texts_are_cut_in_prediction_as_in_training(home, Classifier):
    """The probabilities of the texts of val are those of the run's logits."""
    classifier = Classifier('out/ngrams_none/seed0')
    data, _ = load_data(home / 'data/sample')
    texts = []
    for begin, end in data['val'].spans:
        texts.append(classifier.encoding.decode(data['val'].tokens[begin:end].tolist()))
    logits = np.load(home / 'out/ngrams_none/seed0/preds.npz')['val_logits'].astype(float)
    scaled = np.exp(logits / classifier.model.runs[0].temperature)
    expected = scaled / scaled.sum(1, keepdims=True)
    assert classifier.probs(texts) == pytest.approx(expected, abs=2e-3)  # float16


def run_alone(folder, blocked, *command):
    """Run Python in a folder, where it finds neither this repository nor PyTorch."""
    for name in 'torch', 'nanoloss', 'scipy':
        (blocked / f'{name}.py').write_text(f'raise ImportError("no {name}")')
    environment = {**os.environ, 'PYTHONPATH': str(blocked)}
    return subprocess.run([sys.executable, *command], capture_output=True, encoding='utf-8',
                          cwd=folder, env=environment)


def test_the_reader_needs_neither_the_repository_nor_torch(exported, Classifier, tmp_path):
    classifier = Classifier('out/windows')
    texts = ['a text', 'великолепно']
    done = run_alone(tmp_path, tmp_path, exported['out/windows'] / 'reader.py', *texts)
    assert done.stderr == ''
    for line, p in zip(done.stdout.splitlines(), classifier.probs(texts), strict=True):
        answer = json.loads(line)
        assert answer['label'] == classifier.label(p)
        assert list(answer['probs'].values()) == pytest.approx(p.tolist(), abs=ROUNDING)


@pytest.mark.parametrize('module, path', [('reader', ''), ('windows.reader', '..')])
def test_the_reader_as_a_module(exported, Classifier, tmp_path, module, path):
    """With the folder on the path, or as a package; it imports the files beside it, not others of
    their names."""
    folder = exported['out/windows']
    (tmp_path / 'text.py').write_text('raise ImportError("another text.py")')
    program = (f'import sys; sys.path.insert(0, "{folder / path}")\n'
               f'from {module} import Classifier\n'
               f'print(Classifier("{folder}").explain("a fine text"))')
    done = run_alone(tmp_path, tmp_path, '-c', program)
    assert done.stderr == ''
    p, name, pieces = Classifier('out/windows').explain('a fine text')
    assert repr(name) in done.stdout
    assert [piece for piece, _ in pieces] == re.findall("\\('(.*?)', ", done.stdout)


def test_a_folder_from_before_text_was_a_file(exported, Classifier, tmp_path):
    """It has a reader.py of its own time, and opens as any other."""
    folder = rewritten(exported, tmp_path, reader__py=b'# all in one file')
    sums = (folder / 'SHA256SUMS').read_text().splitlines(keepends=True)
    (folder / 'SHA256SUMS').write_text(''.join(sum for sum in sums if 'text.py' not in sum))
    (folder / 'text.py').unlink()
    assert TextClassifier(folder).id == Classifier('out/windows').id


def test_a_head_of_ones_own(home, tmp_path):
    """Its file is executed only if it is named, by predict and export; an exported folder does not
    need it."""
    (tmp_path / 'mine.py').write_text(HEAD)
    call(home, 'train.py', '--dataset=sample', '--n_train=200', '--epochs=1', '--n_embd=16',
         '--dtype=float32', '--threads=1', '--block_size=40', '--out_dir=out/mine',
         f'--head={tmp_path}/mine.py:Mine')
    (tmp_path / 'mine.py').write_text('raise SystemExit("executed")')
    (tmp_path / 'moved').mkdir()
    code = tmp_path / 'moved/mine.py'
    code.write_text(HEAD)
    folder = export(home, 'out/mine', tmp_path / 'model', f'--code={code}')
    same_answers(TextClassifier(folder), TextClassifier(home / 'out/mine', code=str(code)))
    printed = call(home, 'tools.predict', 'out/mine', f'--code={code}', 'a text')
    assert printed.split('  ')[0] == TextClassifier(folder).label(
        TextClassifier(folder).probs(['a text'])[0])
    for argv in [], ['--code=other.py']:
        error = call(home, 'tools.predict', 'out/mine', 'a text', *argv, code=2)
        assert f'its head is Mine of {tmp_path}/mine.py; if you trust that file' in error
        assert error.count('\n') == 1


def test_the_card_has_the_accuracy_of_the_runs(exported, home, Classifier):
    """On test it is that of the mean of the runs, counted from their preds.npz."""
    classifier = Classifier('out/bce')
    p = 0
    for run, seed in zip(classifier.model.runs, ('seed0', 'seed1')):
        preds = np.load(home / 'out/bce' / seed / 'preds.npz')
        p = p + 1 / (1 + np.exp(-preds['test_logits'][:, 0].astype(float) / run.temperature))
    correct = (p / 2 > 0.5) == (preds['test_labels'] == 1)
    card = (exported['out/bce'] / 'README.md').read_text('utf-8')
    assert f'| test | {len(correct):,} | {100 * correct.mean():.2f} |' in card
    assert 'neg, pos' in card
    assert 'licence of the data | to be filled in' in card
    assert ': 0 different labels' in card


def test_the_card_of_several_labels_counts_texts_with_all_labels_right(exported, home):
    card = (exported['out/topics'] / 'README.md').read_text('utf-8')
    preds = np.load(home / 'out/topics/seed0/preds.npz')
    for split in 'val', 'test':
        right = (preds[f'{split}_logits'] > 0) == (preds[f'{split}_labels'] == 1)
        n_right = int(right.all(1).sum())
        assert n_right < right.any(1).sum()  # or the figure would be the same
        low, high = proportion_confint(n_right, len(right))
        assert (f'| {split} | {len(right):,} | {100 * n_right / len(right):.2f} '
                f'| {100 * low:.2f} to {100 * high:.2f} |') in card


def proportion_confint(n_right, n):
    """Wilson's interval of a share: the solutions of |share - p| = z sqrt(p (1 - p) / n)."""
    z = 1.959964
    share = n_right / n
    return np.sort(np.roots([1 + z ** 2 / n, -2 * share - z ** 2 / n, share ** 2]))


@pytest.mark.parametrize('file', [
    'model.onnx', 'tokenizer.tiktoken', 'vocabulary.npz', 'model.json', 'SHA256SUMS', 'reader.py',
    'text.py', 'labels.py'])
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
    """model: a model.onnx to copy, because making one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        if model:
            patch.setattr(module, 'write_model', lambda ensemble, path: shutil.copy(model, path))
        module.main([home / run], config_of(module, *argv))


def test_what_cannot_be_exported(home, exported, capsys, tmp_path):
    data = f'--data_dir={home}/data'
    for run, argv, message in [
        ('out/none', [f'--to={tmp_path}/a'], 'no finished run'),
        ('out/bce', [f'--to={tmp_path}/a'], 'no data in data/sample'),
        ('out/topics', [f'--to={tmp_path}'], 'is not an exported model; give another --to'),
        (exported['out/bce'], [f'--to={tmp_path}/a'], 'is an exported model already'),
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
    """The exported model decides by those of the runs, and by none with --thresholds=False."""
    shutil.copytree(home / 'out/bce', tmp_path / 'out/bce')
    for seed, values in ('seed0', [0.8, 0.7]), ('seed1', [0.7, 0.8]):
        path = tmp_path / 'out/bce' / seed / 'result.json'
        result = json.loads(path.read_text())
        result['thresholds'] = {'rule': 'precision', 'goal': 0.9, 'values': values}
        path.write_text(json.dumps(result))
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

    # the card counts the answers of the folder; "unsure" is never right
    data, _ = load_data(home / 'data/sample')
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
        assert ('The answer is the likeliest class.' in card) == (name == 'without')
    for plain in Exported(tmp_path / 'without'), Exported(tmp_path / 'with', thresholds=False):
        assert 'unsure' not in [plain.label(row) for row in p]


def test_a_model_that_differs_from_the_run_is_not_kept(home, exported, capsys, tmp_path):
    """The mean of two seeds instead of one."""
    error = fails(capsys, home, 'out/bce/seed0', f'--to={tmp_path}/model',
                  f'--data_dir={home}/data', run=run_export,
                  model=exported['out/bce'] / 'model.onnx')
    assert 'from that of the run' in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('wrong', [np.nan, 0.0021])
def test_one_wrong_probability_is_enough(wrong, capsys):
    def answering(p):
        return SimpleNamespace(probs=lambda texts: p, label=lambda row: row.argmax(),
                               model=SimpleNamespace())
    right = np.array([[0.3, 0.7], [0.501, 0.499], [0.1, 0.9]])
    near = right + [[0.0019, -0.0019]]
    near[1] = [0.4999, 0.5001]
    n_other, distance = module.compare(answering(right), answering(near), ['a', 'b', 'c'])
    assert n_other == 1 and distance == pytest.approx(0.0019)
    near[2] = right[2] + wrong
    error = fails(capsys, answering(right), answering(near), ['a', 'b', 'c'], run=module.compare)
    assert 'from that of the run on a text of val; nothing was written' in error


def test_other_data_are_no_check(home, capsys, tmp_path):
    shutil.copytree(home / 'data/topics', tmp_path / 'data/sample')
    error = fails(capsys, home, 'out/bce', f'--to={tmp_path}/model', f'--data_dir={tmp_path}/data',
                  run=run_export)
    assert 'is not the data that the run was trained on' in error


# Folders that were not made by tools.export

def rewritten(exported, tmp_path, run='out/windows', **files):
    """A copy of an exported folder with some files replaced, by content or by a function of the
    content, and with checksums that fit."""
    folder = tmp_path / 'model'
    shutil.copytree(exported[run], folder)
    for name, content in files.items():
        path = folder / name.replace('__', '.')
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)
    return with_checksums(folder)


def refusal(folder):
    with pytest.raises(ValueError) as error:
        Exported(folder)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('entry', [
    '/etc/passwd', '../outside', 'inside/../../outside', '..', '.', 'inside/file', '\\\\host\\file',
    'model.json', '', 'a b', 'link', 'pipe', 'inside', 'linked/outside'])
def test_only_plain_files_of_the_folder_are_opened(exported, tmp_path, entry, monkeypatch):
    """A pipe would never end, and a link could lead to a secret; nothing is hashed before that."""
    folder = rewritten(exported, tmp_path)
    (tmp_path / 'outside').write_text('a secret')
    (folder / 'inside').mkdir()
    (folder / 'inside/file').write_text('')
    (folder / 'link').symlink_to('../outside')
    (folder / 'linked').symlink_to('..')
    os.mkfifo(folder / 'pipe')
    with open(folder / 'SHA256SUMS', 'a') as file:
        file.write(f'{hashlib.sha256(b"a secret").hexdigest()}  {entry}\n')
    monkeypatch.setattr(hashlib, 'sha256', lambda content: pytest.fail('hashed'))
    assert 'SHA256SUMS cannot have the' in refusal(folder) or 'is not a file' in refusal(folder)


def test_a_link_within_the_folder_is_one_of_its_files(exported, tmp_path):
    folder = rewritten(exported, tmp_path)
    (folder / 'model.onnx').rename(folder / 'weights')
    (folder / 'model.onnx').symlink_to('weights')
    (tmp_path / 'link').symlink_to(folder)
    assert Exported(tmp_path / 'link').classes == ['neg', 'pos']


def described(**changes):
    """A function from the content of a model.json to one with other values."""
    def change(content):
        description = json.loads(content)
        for name, value in changes.items():
            part = description if name in description else description['texts']
            part[name] = value
        return json.dumps(description).encode()
    return change


@pytest.mark.parametrize('changes, message', [
    ({'classes': ['neg', 'pos', 'neutral']}, 'model.json has 3 classes'),
    ({'classes': ['neg']}, 'model.json has 1 classes'),
    ({'classes': ['neg', 'neg']}, 'two classes have one name'),
    ({'classes': []}, 'or there is none'),
    ({'classes': 'np'}, 'no list of names'),
    ({'classes': [1, 2]}, 'no list of names'),
    ({'id': None}, 'id is no name'),
    ({'block_size': 0}, 'block_size is 0'),
    ({'block_size': '60'}, "block_size is '60'"),
    ({'truncate': 'middle'}, "truncate is 'middle'"),
    ({'ngrams': 'letters'}, 'cannot be used (ValueError'),
    ({'texts': {}}, 'KeyError'),
])
def test_a_description_of_another_model_is_refused(exported, tmp_path, changes, message):
    folder = rewritten(exported, tmp_path, model__json=described(**changes))
    assert message in refusal(folder)


@pytest.mark.parametrize('run, column, change, message', [
    ('out/windows', 'tokens', lambda known: np.append(known, known[-1] + 1), 'InvalidArgument'),
    ('out/windows', 'ngrams', lambda known: np.append(known, known[-1] + 1), 'InvalidArgument'),
    ('out/windows', 'ngrams', lambda known: known[:0], 'has the inputs tokens, counts, ngrams'),
    ('out/windows', 'tokens', lambda known: known[::-1], 'do not ascend'),
    ('out/windows', 'ngrams', lambda known: known[None], 'do not ascend'),
    ('out/bce', 'ngrams', lambda known: np.arange(5, dtype=np.uint64), 'has the inputs tokens, co'),
], ids=['token', 'n-gram', 'no n-grams', 'order', 'shape', 'n-grams'])
def test_a_vocabulary_of_another_model_is_refused(
        exported, tmp_path, run, column, change, message, capfd):
    def changed(content):
        with np.load(io.BytesIO(content)) as arrays:
            arrays = dict(arrays)
        arrays[column] = change(arrays[column])
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()
    assert message in refusal(rewritten(exported, tmp_path, run, vocabulary__npz=changed))
    assert capfd.readouterr().err == ''  # the line above is all that a user sees


def onnx_file(outputs, inputs=('tokens', 'counts', 'ngrams')):
    """A model.onnx that gives each text these numbers."""
    from onnx import TensorProto, helper, numpy_helper
    nodes = [
        helper.make_node('Shape', [inputs[0]], ['rows'], start=0, end=1),
        helper.make_node('Concat', ['rows', 'columns'], ['shape'], axis=0),
        helper.make_node('Expand', ['numbers', 'shape'], ['probs']),
    ]
    constants = [numpy_helper.from_array(np.array([outputs], np.float32), 'numbers'),
                 numpy_helper.from_array(np.array([len(outputs)]), 'columns')]
    read = [helper.make_tensor_value_info(name, TensorProto.INT64, ['n', name]) for name in inputs]
    written = [helper.make_tensor_value_info('probs', TensorProto.FLOAT, ['n', len(outputs)])]
    graph = helper.make_graph(nodes, 'constant', read, written, constants)
    opset = [helper.make_opsetid('', 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


@pytest.mark.parametrize('model, message', [
    (([0.2, 0.8],), ''),
    (([0.2, 0.7],), 'do not sum to 1'),
    (([-0.5, 1.5],), 'does not answer probabilities'),
    (([np.nan, np.nan],), 'does not answer probabilities'),
    (([0.2, 0.3, 0.5],), 'answers an array [1, 3] to a text'),
    (([1.0],), 'answers an array [1, 1] to a text'),
    (([0.2, 0.8], ('tokens', 'counts')), 'has the inputs tokens, counts, not tokens, counts, ngr'),
    (([0.2, 0.8], ('ids', 'counts', 'ngrams')), 'has the inputs ids'),
], ids=['good', 'sum', 'negative', 'nan', 'three', 'one', 'no ngrams', 'names'])
def test_a_model_that_answers_no_probabilities_is_refused(exported, tmp_path, model, message):
    pytest.importorskip('onnx')
    folder = rewritten(exported, tmp_path, model__onnx=onnx_file(*model))
    if message:
        assert message in refusal(folder)
    else:
        assert Exported(folder).probs(['a', 'b']) == pytest.approx(np.array([[0.2, 0.8]] * 2))


def test_several_labels_need_not_sum_to_1(exported, tmp_path):
    pytest.importorskip('onnx')
    files = {'model__onnx': onnx_file([0.9, 0.8])}
    description = described(multi_label=True)
    assert Exported(rewritten(exported, tmp_path, model__json=description, **files)).multi_label


# Texts that always have a label

@pytest.fixture(scope='module')
def moods(home, tmp_path_factory):
    """A run on reviews with the topics that they name or else one of four moods, which nothing in
    the text tells, and its exported folder. The temperature is 1, so that the decisions are those
    that train.py counts."""
    with (open(home / 'topics.csv', encoding='utf-8', newline='') as topics,
          open(home / 'moods.csv', 'w', encoding='utf-8', newline='') as file):
        table = csv.writer(file)
        table.writerow(['text', 'label'])
        for i, row in enumerate(csv.DictReader(topics)):
            table.writerow([row['text'], row['label'] or 'wxyz'[i * i % 7 % 4]])
    call(home, 'prepare.py', '--source=moods.csv', '--label_sep=|')
    call(home, 'train.py', '--dataset=moods', '--threads=1', '--epochs=2', '--n_embd=16',
         '--dtype=float32', '--block_size=60', '--out_dir=out/moods')
    run = home / 'out/moods/seed0'
    result = json.loads((run / 'result.json').read_text())
    result['last']['temperature'] = 1.0
    (run / 'result.json').write_text(json.dumps(result))
    return run, export(home, run, tmp_path_factory.mktemp('moods') / 'model')


def labels_by_hand(p):
    """The numbers of the labels above 0.5 or, if there are none, of the likeliest."""
    return [k for k in range(len(p)) if p[k] > 0.5] or [int(p.argmax())]


def test_all_give_the_likeliest_label_if_none_is_likely(home, moods):
    """train.py, evaluate.py, predict, the exported folder and its card, against a loop."""
    run, folder = moods
    exported = Exported(folder)
    classifier = TextClassifier(run)
    same_answers(exported, classifier)
    card = (folder / 'README.md').read_text('utf-8')
    assert 'a probability above 0.5 or, if there is none, the likeliest class.' in card

    result = json.loads((run / 'result.json').read_text())['last']
    correct = read_run(RunFolder(run), make_head).correct
    data, meta = load_data(home / 'data/moods')
    preds = np.load(run / 'preds.npz')
    for name in 'val', 'test':
        split = data[name]
        texts = [decode(split.tokens[begin:end], classifier.encoding)
                 for begin, end in split.spans]
        found = {'predict': classifier.probs(texts), 'folder': exported.probs(texts)}
        counts = dict.fromkeys(('stored', 'predict', 'folder', 'unlikely', 'differ'), 0)
        for i, (z, row) in enumerate(zip(preds[f'{name}_logits'].astype(float), split.labels)):
            p = 1 / (1 + np.exp(-z))
            p = p / (1 - np.prod(1 - p))
            given = labels_by_hand(p)
            truth = np.flatnonzero(row).tolist()
            assert correct[name][i] == (given == truth)
            counts['stored'] += given == truth
            counts['unlikely'] += p.max() <= 0.5
            for who, made in ('predict', classifier), ('folder', exported):
                of_who = labels_by_hand(found[who][i])
                assert made.label(found[who][i]) == [meta['classes'][k] for k in of_who]
                counts[who] += of_who == truth
                counts['differ'] += of_who != given
        assert counts['unlikely'] > len(texts) / 5
        assert result[name]['correct'] == counts['stored']
        assert counts['differ'] < len(texts) / 50  # the stored logits are float16
        assert counts['predict'] == counts['folder']
        share = 100 * counts['folder'] / len(texts)
        assert f'| {name} | {len(texts):,} | {share:.2f} |' in card


def test_a_folder_or_run_of_an_earlier_version_can_give_no_label(moods, tmp_path):
    run, folder = moods
    folder = shutil.copytree(folder, tmp_path / 'model')
    description = json.loads((folder / 'model.json').read_text())
    assert description.pop('always_labelled') is True
    (folder / 'model.json').write_text(json.dumps(description))
    shutil.copytree(run, tmp_path / 'group/seed0')
    config = json.loads((run / 'config.json').read_text())
    del config['always_labelled']
    (tmp_path / 'group/seed0/config.json').write_text(json.dumps(config))
    for older in Exported(with_checksums(folder)), TextClassifier(tmp_path / 'group'):
        p = np.full(len(older.classes), 0.3)
        assert older.label(p) == []
        p[-1] = 0.6
        assert older.label(p) == [older.classes[-1]]

    shutil.copytree(run, tmp_path / 'group/seed1')
    with pytest.raises(ValueError, match='its always_labelled differs'):
        Ensemble(tmp_path / 'group')
