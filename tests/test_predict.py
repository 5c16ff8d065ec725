"""tools.predict and `TextClassifier`: against the training loop's own logits, against a model
without the token, over the command line (30 s)."""
import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import AWKWARD, ROOT, call
from helpers import config_of

from nanoloss.classifier import TextClassifier
from tools import predict


def val_texts(home, classifier, name):
    tokens = np.load(home / f'data/{name}/val_tokens.npy')
    offsets = np.load(home / f'data/{name}/val_offsets.npy').astype(int)
    texts = []
    for begin, end in zip(offsets[:-1], offsets[1:]):
        texts.append(classifier.encoding.decode(tokens[begin:end].tolist()))
    return texts


def main(*argv):
    """Run tools.predict in this process."""
    arguments = []
    config = config_of(predict, *argv, positional=arguments)
    predict.main(arguments, config)


def fails_in(folder, monkeypatch, capsys, argv):
    """Run tools.predict in this process and in a folder -> the one line that it ends in, before any
    answer."""
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as stop:
        main(*argv)
    assert stop.value.code == 2
    output, error = capsys.readouterr()
    assert output == ''
    assert error.count('\n') == 1
    return error


def check_probabilities(home, classifier, run, temperature):
    """The probabilities of the texts of val are those of the logits in a run's preds.npz. Returns
    the probabilities."""
    p = classifier.probs(val_texts(home, classifier, 'sample'))
    logits = np.load(home / run / 'preds.npz')['val_logits'].astype(float)
    wanted = logits[:, 0]
    if logits.shape[1] == 2:
        wanted = logits[:, 1] - logits[:, 0]
    found = temperature * np.log(p[:, 1] / p[:, 0])
    # the saved logits are float16, which has 11 bits
    assert (np.abs(found - wanted) <= 2 ** -11 * np.abs(logits).sum(1) + 1e-5).all()
    assert p.sum(1) == pytest.approx(np.ones(len(p)))
    return p


@pytest.mark.parametrize('name', ['bce', 'windows'])
def test_probabilities_are_those_of_the_training_loop(home, Classifier, name):
    """From the texts of val, with other batches; a group is the mean of its runs."""
    seeds = []
    probs = []
    for run in f'out/{name}/seed0', f'out/{name}/seed1':
        classifier = Classifier(run)
        result = json.loads((home / run / 'result.json').read_text())
        seeds.append(classifier)
        probs.append(check_probabilities(home, classifier, run, result['last']['temperature']))
    group = Classifier(f'out/{name}')
    texts = val_texts(home, group, 'sample')
    assert group.probs(texts) == pytest.approx((probs[0] + probs[1]) / 2)
    assert len({seeds[0].id, seeds[1].id, group.id}) == 3
    assert group.probs([]).shape == (0, 2)


def test_best_is_the_best_weights_and_their_temperature(home, Classifier, tmp_path):
    """In a run that has the weights of another seed as its best ones."""
    run = tmp_path / 'seed0'
    shutil.copytree(home / 'out/bce/seed0', run)
    shutil.copy(home / 'out/bce/seed1/model.pt', run / 'best.pt')
    result = json.loads((run / 'result.json').read_text())
    result['last']['temperature'] = 1.5
    result['best']['temperature'] = 3.0
    (run / 'result.json').write_text(json.dumps(result))
    check_probabilities(home, Classifier(run), 'out/bce/seed0', 1.5)
    check_probabilities(home, Classifier(run, 'best'), 'out/bce/seed1', 3.0)


def test_a_text_has_the_same_probabilities_in_any_company(home, Classifier):
    """Texts of all lengths, in several batches and parts of batches, against one at a time."""
    classifier = Classifier('out/topics')
    reviews = val_texts(home, classifier, 'sample')
    texts = [' '.join(reviews[i % 7:i % 7 + 1 + i % 5]) for i in range(300)]
    together = classifier.probs(texts)
    for i in range(0, 300, 23):
        assert together[i] == pytest.approx(classifier.probs([texts[i]])[0], abs=1e-6)


def test_the_temperature_is_the_best_on_val(home):
    """No other one makes the labels of val more likely."""
    run = home / 'out/bce/seed0'
    fitted = json.loads((run / 'result.json').read_text())['last']['temperature']
    preds = np.load(run / 'preds.npz')
    logits = preds['val_logits'][:, 0].astype(float)
    against = np.where(preds['val_labels'] == 1, -logits, logits)
    grid = np.exp(np.linspace(-3, 3, 6001))
    losses = [np.logaddexp(0, against / temperature).mean() for temperature in grid]
    assert fitted == pytest.approx(grid[np.argmin(losses)], rel=5e-3)


def log_odds(p):
    return math.log(p / (1 - p))


@pytest.mark.parametrize('run', ['out/bce/seed0', 'out/bce', 'out/topics/seed0'])
def test_an_attribution_is_that_of_leaving_a_token_out(home, Classifier, run):
    """By brute force, one shortened text after another."""
    classifier = Classifier(run)
    text = 'A wonderful film, a great film. I liked the songs, and 最高 naïve 👍'
    p, name, pieces = classifier.explain(text)
    assert ''.join(piece for piece, _ in pieces) == text
    assert p == pytest.approx(classifier.probs([text])[0])
    likeliest = classifier.classes.index(name)
    assert likeliest == p.argmax()

    review = torch.from_numpy(classifier.tokens([text])[0])
    assert len(review) == len(pieces)
    for token, (_, attribution) in zip(review, pieces):
        shorter = review[review != token][None]
        without = 0.0
        for member in classifier.model.runs:
            with torch.no_grad():
                logits = member.model(shorter, torch.ones_like(shorter)).double()
            probs = member.model.head.probs(logits / member.temperature)
            without += float(probs[0, likeliest]) / len(classifier.model.runs)
        expected = log_odds(p[likeliest]) - log_odds(without)
        assert attribution == pytest.approx(expected, abs=1e-5)


def test_an_attribution_with_n_grams_is_that_of_the_shorter_text(Classifier):
    classifier = Classifier('out/windows')
    p, name, pieces = classifier.explain('A Wonderful film, great film')
    assert ''.join(piece for piece, _ in pieces) == 'a wonderful film, great film'
    shorter = classifier.probs(['a wonderful film, film'])[0]
    y = classifier.classes.index(name)
    assert dict(pieces)[' great'] == pytest.approx(log_odds(p[y]) - log_odds(shorter[y]), abs=1e-5)


def test_runs_of_other_vocabularies_make_no_mean(home, Classifier, tmp_path):
    shutil.copytree(home / 'out/windows', tmp_path / 'mixed')
    path = tmp_path / 'mixed/seed1/model.pt'
    weights = torch.load(path, weights_only=True)
    weights['ngrams.keys'][0] -= 1
    torch.save(weights, path)
    with pytest.raises(ValueError, match='its vocabulary differs from that'):
        Classifier(tmp_path / 'mixed')


def test_the_only_distinct_token_of_a_text_has_no_attribution(Classifier):
    """Without it there would be no text: its attribution is 0."""
    p, _, pieces = Classifier('out/bce').explain(' film film film')
    assert pieces == [(' film', 0.0)] * 3
    assert np.isfinite(p).all()


@pytest.mark.parametrize('run', ['out/bce', 'out/topics/seed0'])
def test_an_answer_that_is_not_sure_enough(Classifier, run):
    plain = Classifier(run)
    texts = [f'a film {i} times good' for i in range(40)]
    probs = plain.probs(texts)
    confidence = probs.max(1)
    if plain.multi_label:
        confidence = np.maximum(probs, 1 - probs).min(1)
    least = float(np.median(confidence))
    careful = Classifier(run, min_confidence=least)
    for p, sure in zip(probs, confidence >= least):
        unsure = ['unsure'] if plain.multi_label else 'unsure'
        assert careful.label(p) == (plain.label(p) if sure else unsure)


def test_min_confidence_on_the_command_line(home):
    found = call(home, 'tools.predict', 'out/bce', '--min_confidence=1', 'a film')
    assert found.startswith('unsure  0.')
    for command in (['tools.predict', 'out/bce', 'a film'], ['tools.serve', 'out/bce']):
        assert 'must be in [0, 1]' in call(home, *command, '--min_confidence=1.5', code=2)


def test_long_texts_keep_both_ends(Classifier):
    classifier = Classifier('out/bce/seed0')
    text = ' '.join(map(str, range(1000)))
    everything = classifier.encoding.encode_ordinary(text)
    used, = classifier.tokens([text])
    assert used.tolist() == everything[:50] + everything[-50:]


# The command line

def test_texts_on_the_command_line(home, Classifier):
    p = Classifier('out/bce').probs(AWKWARD)
    lines = call(home, 'tools.predict', 'out/bce', *AWKWARD).splitlines()
    assert len(lines) == 5
    assert lines[1].split('  ')[2] == 'two lines'
    for line, row in zip(lines, p):
        label, likely = line.split('  ')[:2]
        assert label == ('neg', 'pos')[row.argmax()]
        assert float(likely) == pytest.approx(row.max(), abs=1e-3)


@pytest.mark.parametrize('name', ['new.csv', 'new.jsonl'])
def test_texts_of_a_file(home, Classifier, name):
    p = Classifier('out/bce').probs(AWKWARD)
    if name == 'new.csv':
        with open(home / name, 'w', encoding='utf-8', newline='') as file:
            csv.writer(file).writerows([['id', 'body'], *enumerate(AWKWARD)])
    else:
        lines = [json.dumps({'body': text}) + '\n' for text in AWKWARD]
        (home / name).write_text(''.join(lines))
    printed = call(home, 'tools.predict', 'out/bce', f'--file={name}', '--text=body')
    rows = list(csv.DictReader(io.StringIO(printed, newline='')))
    assert [row['text'] for row in rows] == AWKWARD
    assert [float(row['p_pos']) for row in rows] == pytest.approx(p[:, 1].tolist(), abs=1e-3)


def test_texts_on_standard_input(home):
    printed = call(home, 'tools.predict', 'out/bce', '--format=jsonl', encoding=None,
                   input=b'go\xc3\xb6d\nbad\r\n')
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row['text'] for row in rows] == ['go\u00f6d', 'bad']
    for bad, message in (b'good\nbad\xff\n', 'line 2 is not UTF-8'), (b'a\0b', 'NUL byte'):
        error = call(home, 'tools.predict', 'out/bce', input=bad, encoding=None, code=2)
        assert f'standard input: {message}' in error.decode() or message in error.decode()
        assert error.count(b'\n') == 1


def test_a_csv_of_answers_can_be_read_back(home):
    texts = ['a\rb', 'c\nd', 'e\r\nf', '"g"', ',']
    (home / 'lines.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
    printed = call(home, 'tools.predict', 'out/bce', '--file=lines.jsonl', encoding=None).decode()
    rows = list(csv.DictReader(io.StringIO(printed, newline='')))
    assert [row['text'] for row in rows] == texts


def answers_of(home, *argv, **kwargs):
    printed = call(home, 'tools.predict', 'out/bce', '--format=jsonl', *argv, **kwargs)
    return [json.loads(line) for line in printed.splitlines()]


def test_every_row_has_its_answer(home):
    """Blank lines, a byte-order mark, other encodings, separators and columns, lone quotation
    marks."""
    (home / 'blank.csv').write_text('\ufefftext\nfine\n\npoor\n\n')
    rows = answers_of(home, '--file=blank.csv')
    assert [row['text'] for row in rows] == ['fine', '', 'poor', '']
    rows = answers_of(home, input=b'\xef\xbb\xbffine\n\npoor\n', encoding=None)
    assert [row['text'] for row in rows] == ['fine', '', 'poor']
    assert rows[0]['probs'] == answers_of(home, 'fine')[0]['probs']
    rows = answers_of(home, '--encoding=cp1252', input='caf\u00e9\n'.encode('cp1252'),
                      encoding=None)
    assert [row['text'] for row in rows] == ['caf\u00e9']
    content = 'title;body\ncaf\u00e9;fine, poor\n"a;b";\n'
    (home / 'semicolon.csv').write_bytes(content.encode('cp1252'))
    rows = answers_of(home, '--file=semicolon.csv', '--text=title,body', '--sep=;',
                      '--encoding=cp1252')
    assert [row['text'] for row in rows] == ['caf\u00e9\nfine, poor', 'a;b']
    (home / 'quotes.tsv').write_text('id\ttext\n1\t"fine\n2\tpoor"\n3\t"so" so\n')
    rows = answers_of(home, '--file=quotes.tsv', '--quoting=none')
    assert [row['text'] for row in rows] == ['"fine', 'poor"', '"so" so']


def test_a_mistake_at_the_end_of_a_file_comes_before_any_answer(home, monkeypatch, capsys):
    (home / 'late.csv').write_text('text,id\n' + 'fine,1\n' * 5000 + 'poor\n')
    error = fails_in(home, monkeypatch, capsys, ['out/bce', '--file=late.csv'])
    assert 'late.csv: cannot be read: line 5002' in error


def test_several_labels_a_text(home):
    printed = call(home, 'tools.predict', 'out/topics', '--format=jsonl',
                   'The jokes felt fresh, the songs too.')
    row = json.loads(printed)
    assert row['label'] == [name for name, p in row['probs'].items() if p > 0.5]


def test_explain_in_lines(home):
    plain = call(home, 'tools.predict', 'out/bce', '--explain', 'a wonderful \033[2J film')
    assert '\033' not in plain
    assert re.search(r"[+-]\d\.\d\d  ' wonderful'", plain)


def test_a_character_of_several_tokens_is_one_piece():
    """The attributions of its tokens are added; the tokens before the last one are no text."""
    pieces = [('a', 0.5), ('', 1.0), ('', 0.25), ('\u7968', 0.25), ('', -3.0), ('\u304c', 1.0)]
    assert predict.strongest(pieces).splitlines() == [
        "    -2.00  '\u304c'", "    +1.50  '\u7968'", "    +0.50  'a'"]


def test_explain_as_json(home, Classifier):
    text = 'a wonderful film'
    printed = call(home, 'tools.predict', 'out/bce', '--explain', '--format=jsonl', text)
    row = json.loads(printed)
    _, name, pieces = Classifier('out/bce').explain(text)
    assert row['for'] == name
    assert [piece for piece, _ in row['worth']] == [piece for piece, _ in pieces]
    expected = [attribution for _, attribution in pieces]
    assert [attribution for _, attribution in row['worth']] == pytest.approx(expected, abs=1e-3)


def test_explain_in_colour(home, monkeypatch, capsys, Classifier):
    """On a terminal, the tokens that matter are coloured."""
    text = 'a wonderful \033[2J film'
    _, _, pieces = Classifier('out/bce').explain(text)
    most = max(abs(attribution) for _, attribution in pieces)
    wanted = [predict.printable(piece) for piece, attribution in pieces
              if abs(attribution) >= most / 20]
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    main('out/bce', '--explain', text)
    printed = capsys.readouterr().out
    assert '\033[2J' not in printed
    assert re.findall(r'\033\[30;48;5;\d+m(.*?)\033\[0m', printed) == wanted


def test_a_reader_that_has_seen_enough(home):
    command = (f'{sys.executable} -m tools.predict out/bce --file={ROOT}/data/sample.csv '
               '--text=review | head -1')
    done = subprocess.run(['bash', '-c', command], cwd=home, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.stdout == 'label,p_neg,p_pos,text\n'
    assert done.stderr == ''


# Mistakes

def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope='module')
def broken(home):
    """Unusable runs: without weights, with flipped bytes, with the config of another model,
    unfinished."""
    folders = {}
    for name in ('light', 'flipped', 'other', 'odd', 'deep', 'unfinished'):
        folders[name] = home / 'broken' / name
        shutil.copytree(home / 'out/bce/seed0', folders[name])
    (folders['light'] / 'model.pt').unlink()
    flip(folders['flipped'] / 'model.pt')
    config = folders['other'] / 'config.json'
    config.write_text(config.read_text().replace('"n_embd": 32', '"n_embd": 64'))
    (folders['odd'] / 'config.json').write_text('[1]')
    (folders['deep'] / 'config.json').write_text('[' * 100_000)
    (folders['unfinished'] / 'result.json').unlink()
    return home


@pytest.mark.parametrize('argv, message', [
    ([], 'name a run'),
    (['out/none', 'a'], 'there is no finished run'),
    (['broken', 'a'], 'there is no finished run'),
    (['broken/light', 'a'], 'model.pt is missing'),
    (['broken/flipped', 'a'], 'damaged'),
    (['broken/other', 'a'], 'cannot be used'),
    (['broken/odd', 'a'], 'cannot be used'),
    (['broken/deep', 'a'], 'cannot be used'),
    (['broken/unfinished', 'a'], 'result.json is missing'),
    (['out/bce', 'a', '--format=xml'], 'format is text, csv or jsonl'),
    (['out/bce', '--which=first', 'a'], "which is 'last' or"),
    (['out/bce', '--file=none.csv'], 'none.csv'),
    (['out/bce', '--file=topics.csv', '--text=body'], "no column 'body'"),
    (['out/bce', 'a', '--file=topics.csv'], 'not both'),
    (['out/bce', '--file=x.xlsx'], 'x.xlsx is a spreadsheet; save it as CSV'),
    (['out/bce', '--file=x.doc'], 'x.doc: there is no such file or folder; wanted a .csv'),
    (['out/bce', '--file=topics.csv', '--sep=ab'], 'wanted one character'),
    (['out/bce', '--fil=x'], 'did you mean file'),
])
def test_mistakes_end_in_one_line(broken, monkeypatch, capsys, argv, message):
    assert message in fails_in(broken, monkeypatch, capsys, argv)


def test_runs_of_two_kinds_make_no_group(home, tmp_path):
    shutil.copytree(home / 'out/bce', tmp_path / 'mixed')
    config = tmp_path / 'mixed/seed1/config.json'
    config.write_text(config.read_text().replace('"truncate": "both"', '"truncate": "head"'))
    with pytest.raises(ValueError, match='seed1 cannot be used .*truncate differs from that'):
        TextClassifier(tmp_path / 'mixed')


def test_a_run_from_before_bag_was_settled(home, tmp_path):
    """Its config.json may say bag with positions, and its embedding has another name."""
    text = 'a film, a film, a great film'
    expected = TextClassifier(home / 'out/topics/seed0').probs([text])
    run = tmp_path / 'seed0'
    shutil.copytree(home / 'out/topics/seed0', run)
    config = run / 'config.json'
    assert '"bag": false' in config.read_text()
    config.write_text(config.read_text().replace('"bag": false', '"bag": true'))
    weights = torch.load(run / 'model.pt', weights_only=True)
    weights = {name.removeprefix('trunk.'): weight for name, weight in weights.items()}
    weights['embed.weight'] = weights.pop('token_embedding.weight')
    torch.save(weights, run / 'model.pt')
    assert (TextClassifier(run).probs([text]) == expected).all()
