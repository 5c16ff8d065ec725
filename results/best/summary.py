"""The default model beside bags of words, over all data sets: one table, and a figure.

    python -m results.best.summary      the packed runs results/best/<set> -> table.md, sets.png

A data set's peers are packed in results/best/<set>/<kind>. The best of them is chosen on val, as a
user would choose; it is compared on test.

- Per set: accuracy on test of the best peer and of the default model (mean of its seeds), and the
  95 % interval of their difference for other seeds and other texts. A difference is marked if its p
  is at most .05 after Holm's correction for the number of sets.
- Over the sets: the mean difference with its 95 % interval for other data sets (Student's t), and
  mean ranks on test with the critical difference of Nemenyi's test (Demšar 2006).
"""
import math
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from model import make_head
from nanoloss.figures import STYLE
from nanoloss.files import write_file
from nanoloss.runs import read_runs
from nanoloss.settings import configure, fail
from nanoloss.stats import as_two_runs, holm, interval

# -----------------------------------------------------------------------------
folder = 'results/best'  # the packed runs: <set>/runs.jsonl and <set>/<kind>/runs.jsonl
sets = ''  # names with commas between them ('': all sets that have every kind)
# -----------------------------------------------------------------------------
KINDS = {
    'tfidf_lr': 'TF-IDF + LR',
    'tfidf_svm': 'TF-IDF + SVM',
    'nbsvm': 'NB-SVM',
    'tfidf_chars_svm': 'words + characters SVM',
    'fasttext': 'fastText',
}


def read_correct(group):
    """The answers of a packed group -> {split: correct, bool [runs, texts]}, and its clusters on
    test, [texts] or None."""
    runs, left_out = read_runs(group, make_head)
    if left_out:
        fail('; '.join(left_out))
    correct = {split: np.stack([run.correct[split] for run in runs]) for split in ('val', 'test')}
    return correct, runs[0].groups and runs[0].groups['test']


def compare(path):
    """A data set's folder -> a dict: the accuracies of all kinds and of the default model on test,
    the kind that is best on val, and the `interval` of the difference."""
    default, clusters = read_correct(path)
    peers = {kind: read_correct(path / kind)[0] for kind in KINDS}
    best = max(peers, key=lambda kind: peers[kind]['val'].mean())  # of equals, the first
    accuracy = {kind: 100 * peer['test'].mean() for kind, peer in peers.items()}
    accuracy['default'] = 100 * default['test'].mean()
    gap = interval(default['test'], as_two_runs(peers[best]['test'][:1]), clusters=clusters)
    return {'accuracy': accuracy, 'best': best, 'gap': gap, 'n': default['test'].shape[1]}


def over_sets(rows):
    """Sentences on the mean difference over the data sets and on mean ranks."""
    gaps = np.array([row['gap']['estimate'] for row in rows.values()])
    n = len(gaps)
    mean = gaps.mean()
    half = stats.t.ppf(0.975, n - 1) * gaps.std(ddof=1) / math.sqrt(n)
    names = [*KINDS, 'default']
    table = np.array([[row['accuracy'][name] for name in names] for row in rows.values()])
    ranks = stats.rankdata(-table, axis=1).mean(0)
    k = len(names)
    critical = stats.studentized_range.ppf(0.95, k, np.inf) / math.sqrt(2) * math.sqrt(
        k * (k + 1) / (6 * n))
    shown = ', '.join(f'{KINDS.get(name, "nanoloss")} {rank:.1f}'
                      for rank, name in sorted(zip(ranks, names)))
    return (f'Mean difference over {n} data sets: {mean:+.2f} points, 95 % interval for other data '
            f'sets {mean - half:+.2f} to {mean + half:+.2f}.\n\n'
            f'Mean ranks on test, 1 is best: {shown}. By Nemenyi\'s test, two methods differ if '
            f'their ranks are {critical:.1f} apart.\n')


def write_table(rows, path):
    """Write and print table.md."""
    corrected = dict(zip(rows, holm([row['gap']['p'] for row in rows.values()])))
    lines = ['| accuracy on test, % | texts | ' + ' | '.join(KINDS.values())
             + ' | nanoloss | minus the best on val | 95 % interval |',
             '| --- |' + ' --- |' * (len(KINDS) + 4)]
    for name, row in rows.items():
        cells = []
        for kind in KINDS:
            shown = f'{row["accuracy"][kind]:.1f}'
            cells.append(f'*{shown}*' if kind == row['best'] else shown)
        gap = row['gap']
        difference = f'{gap["estimate"]:+.1f}'
        if corrected[name] <= 0.05:
            difference = f'**{difference}**'
        low, high = gap['both']
        cells += [f'{row["accuracy"]["default"]:.1f}', difference, f'{low:+.1f} to {high:+.1f}']
        lines.append(f'| {name} | {row["n"]:,} | ' + ' | '.join(cells) + ' |')
    text = '\n'.join(lines) + (
        '\n\nItalic: the best on val. Bold: p at most .05 after Holm\'s correction.\n\n'
        + over_sets(rows))
    print(text, end='')
    write_file(path, lambda file: file.write(text.encode()))


def draw(rows, path):
    """Draw the difference on each set with its interval, and the mean over the sets."""
    order = sorted(rows, key=lambda name: rows[name]['gap']['estimate'])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 0.28 * len(order) + 1))
        ax = figure.subplots()
        for y, name in enumerate(order):
            gap = rows[name]['gap']
            ax.plot(gap['both'], [y, y], color='C0')
            ax.plot(gap['estimate'], y, 'o', color='C0')
        ax.axvline(0, color='black', linewidth=0.8)
        mean = np.mean([row['gap']['estimate'] for row in rows.values()])
        ax.axvline(mean, color='C1', linestyle='--', label=f'mean {mean:+.2f}')
        ax.set_yticks(range(len(order)), order)
        ax.set_xlabel('accuracy on test minus that of the best bag of words on val, points')
        ax.legend(loc='lower right')
        write_file(path, lambda file: figure.savefig(file, dpi=110, bbox_inches='tight'))


def main(config):
    home = Path(config.folder)
    names = config.sets.split(',') if config.sets else sorted(
        path.parent.parent.name for path in home.glob('*/fasttext/runs.jsonl'))
    if not names:
        fail(f'{home} has no data set with every kind')
    rows = {name: compare(home / name) for name in names}
    write_table(rows, home / 'table.md')
    draw(rows, home / 'sets.png')


if __name__ == '__main__':
    main(configure(globals()))
