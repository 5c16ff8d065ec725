"""Names that look like markup, in all that is made of them: Markdown against a library's reader,
figures, the page, metrics, the model card and a terminal (30 s)."""
import html
import json
import re
import warnings

import matplotlib
import numpy as np
import pytest
from helpers import config_of, make_run
from test_errors import make_page, make_predictions
from test_figures import make_group

import evaluate
import nanoloss.thresholds
from nanoloss import figures
from nanoloss.escape import figure_name, markdown, markdown_name, one_line, shortened
from nanoloss.settings import fail
from tools import thresholds

NAMES = [
    'a|b', '</script>', '<img src=x onerror=alert(1)>', '*bold*', '**b**', '_', '_x_', '__x__',
    'two\nlines', 'a\r\n# heading', '$x$', r'$\frac$', '`code`', '[a](javascript:b)', '~~gone~~',
    '![i](x)', '&lt;', '&#60;', 'back\\slash', '\\|', '\x1b[2Jred', '\u202eturned', '\u2028', '\0',
    'x' * 5000]
ORDINARY = ['neg', 'pos', 'tfidf_lr', 'out/my_run', 'R&B', 'C#', 'a-b', '77 intents', '最高',
            'naïve', '👍🏽', 'x [y]', 'a (b)', '50 %', "it's", 'mean ± sd', 'می‌خواهم',
            '{"a": [1, 2]}']


def text_of(rendered):
    """The text of HTML without its tags."""
    return html.unescape(re.sub('<[^>]*>', '', rendered)).strip()


@pytest.mark.parametrize('name', NAMES + ORDINARY)
def test_markdown_shows_a_name_as_it_is(name):
    """In a sentence and in a table, as GitHub's Markdown is read by markdown-it."""
    markdown_it = pytest.importorskip('markdown_it')
    reader = markdown_it.MarkdownIt('commonmark').enable(['table', 'strikethrough'])
    shown = one_line(name)
    assert text_of(reader.render(f'The class {markdown(name)} is rare.')) == (
        f'The class {shown} is rare.')
    assert text_of(reader.render(f'**Of {markdown(name)}.**')) == f'Of {shown}.'
    assert '<strong>Of ' in reader.render(f'**Of {markdown(name)}.**')
    table = reader.render(f'| a | b |\n| --- | --- |\n| {markdown(name)} | 1 |\n')
    cells = re.findall('<td>(.*?)</td>', table)
    assert [text_of(cell) for cell in cells] == [shown, '1']
    assert re.search(r'[^\\]\$|^\$', markdown(name)) is None  # GitHub's mathematics


@pytest.mark.parametrize('name', ORDINARY)
def test_ordinary_names_stay_as_they_are(name):
    assert markdown_name(name) == one_line(name) == figure_name(name) == name


def test_controls_and_long_names():
    assert one_line('a\n\x1b[2J\0\x9b\u202e\ud800') == r'a\n\x1b[2J\x00\x9b\u202e\ud800'
    assert shortened('x' * 100) == 'x' * 100
    assert shortened('b' * 60 + 'e' * 60) == 'b' * 49 + '…' + 'e' * 50


def test_a_message_is_one_line_without_controls(capsys):
    with pytest.raises(SystemExit):
        fail('no class \x1b[2J\u202e\u2028 of\nthis')
    error = capsys.readouterr().err
    assert error.endswith('no class \\x1b[2J\\u202e of this\n')
    assert error.count('\n') == 1


@pytest.fixture(scope='module', autouse=True)
def few_resamples():
    """Resamples and figures take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nanoloss.thresholds, 'RESAMPLES', 10)
        patch.setattr(thresholds, 'thresholds_png', lambda *args: b'')
        patch.setattr(evaluate, 'draw_figures', lambda groups, title: {})
        yield


def choose_thresholds(folder, *argv):
    """Run tools.thresholds in this process."""
    thresholds.main(config_of(thresholds, *argv), [folder])


def table_of(*folders):
    """Run evaluate.py in this process -> the content of table.md."""
    evaluate.main(config_of(evaluate), folders)
    return (folders[0].parent / 'table.md').read_text()


def evaluated(folder, classes):
    """evaluate.py's table.md, with thresholds, of a group of two runs of these classes."""
    for seed, correct in enumerate([(350, 180), (360, 170)]):
        make_run(folder / f'seed{seed}', correct, classes=classes)
    choose_thresholds(folder, '--at_precision=0.9')
    return table_of(folder)


@pytest.fixture(scope='module')
def ordinary_table(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp('a') / 'group', ['neg', 'CLASS'])


@pytest.mark.parametrize('name', NAMES)
def test_the_table(tmp_path, capsys, ordinary_table, name):
    """As many lines and cells as with an ordinary name, each of one text but for the name."""
    expected = ordinary_table
    found = evaluated(tmp_path / 'b/group', ['neg', name])
    squeezed = [re.sub(r' +|-{3,}', ' ', text) for text in (expected, found)]
    if len(name) < 100:
        assert squeezed[0].replace('CLASS', markdown_name(name)) == squeezed[1]
    assert len(squeezed[0].split('\n')) == len(squeezed[1].split('\n'))
    assert len(squeezed[1]) < len(squeezed[0]) + 1000  # a long one is cut
    assert one_line(capsys.readouterr().out.replace('\n', '')).isprintable()
    summary = json.loads((tmp_path / 'b/summary.json').read_text())
    assert f'recall of {name}' in summary['groups'][0]['measures']


@pytest.mark.parametrize('name', ['a|b', '*bold*', '$x$', 'two\nlines', '_x_'])
def test_the_name_of_a_group(tmp_path, capsys, name):
    for group, correct in ((name, 350), ('other', 360)):
        for seed in 0, 1:
            make_run(tmp_path / group / f'seed{seed}', (correct + seed, 180))
    choose_thresholds(tmp_path / name, '--by=f1')
    table = table_of(tmp_path / name, tmp_path / 'other')
    printed = capsys.readouterr().out
    assert one_line(printed.replace('\n', '')).isprintable()
    assert f'{markdown(name)} and other on toy\n' in printed
    assert f'# {markdown(name)} and other on toy' in table
    assert f'## other against {markdown(name)}' in table
    assert f'## Thresholds of {markdown(name)}, ' in table
    unescaped = [name] if name != one_line(name) else [f' {name}', f'*{name}']
    assert not any(text in table for text in unescaped)


@pytest.mark.parametrize('name', NAMES)
def test_figures(name):
    """No name is read as mathematics, which fails at $\\frac$, or left out of a legend."""
    groups = [make_group(name, [70, 80]), make_group(f'{name}2', [60, 62])]
    with matplotlib.rc_context(figures.STYLE):
        fig = figures.draw_coverage(groups)
        shown = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
        assert shown == [figure_name(name), figure_name(f'{name}2')]
        assert not any(text.get_parse_math() for text in fig.axes[0].get_legend().get_texts())
    if name not in ('a|b', r'$\frac$', 'two\nlines', NAMES[-1]):  # to draw takes a second
        return
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph')
        warnings.filterwarnings('ignore', 'constrained_layout not applied')
        files = figures.draw_figures(groups, one_line(name)[:100])
    assert all(content.startswith(b'\x89PNG') for content in files.values())


@pytest.fixture(scope='module')
def ordinary_page():
    predictions = make_predictions(classes=['class 0', 'CLASS', 'class 2'])
    return make_page(predictions)['errors.html'].decode()


@pytest.mark.parametrize('name', NAMES)
def test_the_page(name, ordinary_page):
    predictions = make_predictions(classes=['class 0', name, 'class 2'])
    predictions.label = predictions.dataset = name
    content = make_page(predictions)['errors.html'].decode()
    elements = [re.findall('</?[a-zA-Z0-9!]+', text) for text in (content, ordinary_page)]
    assert elements[0] == elements[1]  # none comes from a name
    assert not re.search('[\0\x1b]', content)


def test_metrics():
    prometheus_client = pytest.importorskip('prometheus_client')
    pytest.importorskip('fastapi')
    from prometheus_client.parser import text_string_to_metric_families
    from tools.serve import Metrics
    metrics = Metrics()
    names = [name for name in NAMES if name.isprintable() or '\n' in name]
    try:
        metrics.count_labels([*names, 'say "x"'])
        text = prometheus_client.generate_latest(metrics.library.REGISTRY).decode()
    finally:
        for counter in metrics.requests, metrics.seconds, metrics.labels, metrics.waiting:
            metrics.library.REGISTRY.unregister(counter)
    counted = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == 'nanoloss_labels_total':
                counted[sample.labels['label']] = sample.value
    assert counted == dict.fromkeys([*names, 'say "x"'], 1)


def test_the_model_card(home, tmp_path, monkeypatch):
    """Classes, the data set, its source and the run, all of such names."""
    pytest.importorskip('onnxruntime')
    from tools import export as module
    classifier = module.TextClassifier(home / 'out/bce')
    classifier.classes = ['a|b', '</script>\n# x', 'y' * 5000]
    classifier.id = '*bold*-last-1'
    names = {'dataset': 'd|e', 'commit': '`c`'}
    classifier.model.config = {**classifier.model.config, **names}
    monkeypatch.setattr(module, 'compare', lambda *args: (0, 0.0))
    (tmp_path / 'file').write_text('')

    class Exported:
        labels = classifier.labels
        multi_label = False

        def probs(self, texts):
            return np.eye(2)[[0] * len(texts)]
    data, meta = module.load_data(home / 'data/sample')
    data = {'val': data['val']._replace(labels=np.zeros(len(data['val'].labels), int))}
    meta['source'] = '<b>|x'
    monkeypatch.setattr(module, 'describe_decisions', lambda *args: ('how', 'one of them'))
    card = module.make_card(classifier, Exported(), tmp_path, data, meta)
    assert card.startswith('# \\*bold\\*-last-1\n')
    assert f'texts into a\\|b, \\</script>\\\\n# x, {"y" * 49}…{"y" * 50}. Made' in card
    assert '| data | d\\|e, from \\<b>\\|x, fingerprint' in card
    assert 'code \\`c\\`;' in card


def test_ordinary_cards_are_as_before(home, exported):
    card = (exported['out/bce'] / 'README.md').read_text()
    assert 'A classifier of texts into neg, pos. Made by nanoloss from the mean of 2 runs' in card
    assert '| data | sample, from sample, fingerprint' in card


