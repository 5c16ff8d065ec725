"""The default model beside bags of words, over all data sets: one table, and a figure.

    python -m results.best.summary                  results/best/<set> -> table.md, sets.png
    python -m results.best.summary --folder=out     the runs of runs/best.sh

A data set's peers are in the folders <set>/<kind>. The best of them on val, which a user would
choose, is compared on test.

- Per set: the accuracy on test of every kind and of the default model (the mean of its seeds), and
  the 95 % interval of the difference for other seeds and other texts.
- Over the sets: the mean difference with its 95 % interval for other data sets (Student's t), and
  mean ranks on test with the critical difference of Nemenyi's test (Demšar 2006).
"""
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from model import make_head
from nanoloss.figures import STYLE
from nanoloss.files import write_file
from nanoloss.runs import read_runs
from nanoloss.settings import configure, fail
from nanoloss.stats import (
    as_two_runs, critical_difference, half_interval, holm, interval, mean_ranks)

# -----------------------------------------------------------------------------
folder = 'results/best'  # the runs: <set>, <set>/tuned and <set>/<kind>
sets = ''  # names with commas between them ('': all sets that have every kind)
# -----------------------------------------------------------------------------
KINDS = {
    'tfidf_lr': 'TF-IDF + LR',
    'tfidf_svm': 'TF-IDF + SVM',
    'nbsvm': 'NB-SVM',
    'tfidf_chars_svm': 'words + characters SVM',
    'fasttext': 'fastText',
}
MODELS = {'nanoloss': '.', 'nanoloss --tune=4': 'tuned'}  # in a data set's folder


def read_correct(group):
    """The answers of a packed group -> {split: correct, bool [runs, texts]}, and its clusters on
    test, [texts] or None."""
    runs, left_out = read_runs(group, make_head)
    if left_out:
        fail('; '.join(left_out))
    correct = {split: np.stack([run.correct[split] for run in runs]) for split in ('val', 'test')}
    return correct, runs[0].groups and runs[0].groups['test']


def compare(path):
    """A data set's folder -> a dict: the accuracies of all kinds and models on test, the kind that
    is best on val, and the `interval` of each model's difference to it."""
    peers = {kind: read_correct(path / kind)[0] for kind in KINDS}
    best = max(peers, key=lambda kind: peers[kind]['val'].mean())  # of equals, the first
    accuracy = {kind: 100 * peer['test'].mean() for kind, peer in peers.items()}
    gaps = {}
    for name, sub in MODELS.items():
        correct, clusters = read_correct(path / sub)
        accuracy[name] = 100 * correct['test'].mean()
        gaps[name] = interval(correct['test'], as_two_runs(peers[best]['test'][:1]),
                              clusters=clusters)
    return {'accuracy': accuracy, 'best': best, 'gaps': gaps, 'n': correct['test'].shape[1]}


def mean_and_interval(values):
    """'+1.00 (+0.50 to +1.50)': the mean with its 95 % interval, Student's t."""
    half = half_interval(values)
    mean = np.mean(values)
    return f'{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})'


def over_sets(rows):
    """A table of means and of mean ranks over the data sets, and what Nemenyi's test says."""
    names = [*KINDS, *MODELS]
    table = np.array([[row['accuracy'][name] for name in names] for row in rows.values()])
    best = np.array([row['accuracy'][row['best']] for row in rows.values()])
    plain = table[:, len(KINDS)]
    ranks = mean_ranks(table)
    lines = ['| over the data sets | mean accuracy, % | nanoloss minus it | mean rank |',
             '| --- | --- | --- | --- |']
    for name, values, rank in zip(names, table.T, ranks):
        difference = '' if name == 'nanoloss' else mean_and_interval(plain - values)
        lines.append(f'| {KINDS.get(name, name)} | {values.mean():.2f} | {difference} | '
                     f'{rank:.1f} |')
    difference = mean_and_interval(plain - best)
    lines.append(f'| the best bag on val | {best.mean():.2f} | {difference} | |')

    tuned = mean_and_interval(table[:, -1] - best)
    return '\n'.join(lines) + (
        f'\n\n{len(table)} data sets; in brackets, 95 % intervals for other data sets. '
        f'With --tune=4, nanoloss minus the best bag on val is {tuned}. By Nemenyi\'s test, two '
        f'methods differ if their mean ranks (1 is best) are '
        f'{critical_difference(*table.shape):.1f} apart.\n')


def write_table(rows, path):
    """Write and print table.md."""
    corrected = {}
    for name in MODELS:
        corrected[name] = dict(zip(rows, holm([row['gaps'][name]['p'] for row in rows.values()])))
    headings = ['accuracy on test, %', 'texts', *KINDS.values()]
    for name in MODELS:
        headings += [name, 'minus the best', '95 % interval']
    lines = ['| ' + ' | '.join(headings) + ' |', '| --- |' + ' --- |' * (len(headings) - 1)]
    for name, row in rows.items():
        cells = [name, f'{row["n"]:,}']
        for kind in KINDS:
            shown = f'{row["accuracy"][kind]:.1f}'
            cells.append(f'*{shown}*' if kind == row['best'] else shown)
        for model, gap in row['gaps'].items():
            difference = f'{gap["estimate"]:+.1f}'
            if corrected[model][name] <= 0.05:
                difference = f'**{difference}**'
            low, high = gap['both']
            cells += [f'{row["accuracy"][model]:.1f}', difference, f'{low:+.1f} to {high:+.1f}']
        lines.append('| ' + ' | '.join(cells) + ' |')
    text = '\n'.join(lines) + (
        '\n\nItalic: the best on val. Bold: p at most .05 after Holm\'s correction for the number '
        'of sets.\n\n' + over_sets(rows))
    print(text, end='')
    write_file(path, lambda file: file.write(text.encode()))


def draw(rows, path):
    """Draw the difference on each set with its interval, and the mean over the sets."""
    gaps = {name: row['gaps']['nanoloss'] for name, row in rows.items()}
    order = sorted(gaps, key=lambda name: gaps[name]['estimate'])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 0.28 * len(order) + 1))
        ax = figure.subplots()
        for y, name in enumerate(order):
            ax.plot(gaps[name]['both'], [y, y], color='C0')
            ax.plot(gaps[name]['estimate'], y, 'o', color='C0')
        ax.axvline(0, color='black', linewidth=0.8)
        mean = np.mean([gap['estimate'] for gap in gaps.values()])
        ax.axvline(mean, color='C1', linestyle='--', label=f'mean {mean:+.2f}')
        ax.set_yticks(range(len(order)), order)
        ax.set_xlabel('accuracy on test minus that of the best bag of words on val, points')
        ax.legend(loc='lower right')
        write_file(path, lambda file: figure.savefig(file, dpi=110, bbox_inches='tight'))


def main(config):
    home = Path(config.folder)
    names = config.sets.split(',') if config.sets else sorted(
        path.parent.name for path in home.glob('*/fasttext'))
    if not names:
        fail(f'{home} has no data set with every kind')
    rows = {name: compare(home / name) for name in names}
    write_table(rows, home / 'table.md')
    draw(rows, home / 'sets.png')


if __name__ == '__main__':
    main(configure(globals()))
