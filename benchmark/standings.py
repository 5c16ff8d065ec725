"""The standings of the loss benchmark: runs of losses on data sets -> standings.md, standings.png.

The question is about the mean over data sets of a loss's accuracy minus that of cross-entropy, on
test, in points. The differences are a sample, one per data set, so the interval by Student's t is
for other seeds, other texts and other data sets.
"""
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmark.protocol import BASE, SAME_AS_BASE, SEEDS
from model import make_head
from nanoloss.figures import COLORS, GREY, STYLE
from nanoloss.files import read_json_lines, write_file
from nanoloss.runs import read_runs
from nanoloss.settings import fail
from nanoloss.stats import (
    critical_difference, differs_and_equals, expected_best, half_interval, holm, interval,
    mean_ranks, measures_of)

MARGIN = 0.5  # points: losses this close are equivalent
BUDGETS = 1, 4, 16  # trials
MEASURES = {'log loss': 'NLL, scaled', 'Brier': 'Brier, scaled', 'ECE': 'ECE, scaled'}


# Reading

def is_complete(path):
    """Whether this folder of a loss and a data set has packed runs or all final runs. `read_loss`
    checks their seeds."""
    return (path / 'runs.jsonl').exists() or len(list(path.glob('seed*/result.json'))) == SEEDS


def find_complete(folders, dataset, name):
    """The first folder of a loss and a data set, in `folders`, that `is_complete`, or None."""
    paths = [folder / dataset / name for folder in folders]
    return next(filter(is_complete, paths), None)


def read_loss(path, file):
    """The final runs of a loss on a data set -> a dict: correct, bool [seeds, texts of test]; the
    mean of each of `MEASURES`, after temperature scaling; trials, the accuracies on val; and data,
    the fingerprint of the data set. file: of the loss's class, or ''. Fails if a run is missing."""
    runs, left_out = read_runs(path, make_head, file)
    seeds = [run.seed for run in runs]
    if seeds != list(range(SEEDS)):
        fail(f'{path} has the seeds {seeds}, not 0 to {SEEDS - 1}; {"; ".join(left_out)}')
    measured = [measures_of(run) for run in runs]
    found = {label: np.mean([one[key] for one in measured]) for label, key in MEASURES.items()}
    # subtract the ECE that a calibrated model would have on as many texts
    found['ECE'] -= np.mean([one['ECE floor, scaled'] for one in measured])
    trials = read_json_lines(path / 'trials.jsonl')
    if not trials:
        fail(f'{path} has no trials.jsonl')
    return found | {
        'correct': np.stack([run.correct['test'] for run in runs]),
        'trials': [row['accuracy'] for row in trials],
        'data': runs[0].data,
    }


def read_all(names, losses, folders):
    """{loss: {data set: `read_loss`}} of the losses that are measured on all of these data sets,
    and the names of the others. Fails if losses were measured on different data."""
    found = {}
    unfinished = []
    data = {}
    for loss in losses:
        by_set = {}
        for dataset in names:
            same = (dataset, loss.name) in SAME_AS_BASE
            path = find_complete(folders, dataset, BASE if same else loss.name)
            if path is None:
                unfinished.append(loss.name)
                break
            by_set[dataset] = read_loss(path, loss.file)
            if data.setdefault(dataset, by_set[dataset]['data']) != by_set[dataset]['data']:
                fail(f'{path} was measured on another {dataset} than {BASE}; its texts or its '
                     'split differ')
        else:
            found[loss.name] = by_set
    return found, unfinished


# Comparing

def compare(found):
    """Compare each loss with cross-entropy -> {loss: a dict}.

    by_set: {data set: `interval`}; mean: of their estimates. With two or more data sets also half,
    half the width of the mean's interval, and two p values after Holm's correction: differs, that
    the mean is not 0, and equals, that it is within `MARGIN` of 0.
    """
    rows = {}
    for name, by_set in found.items():
        if name == BASE:
            continue
        gaps = {dataset: interval(one['correct'], found[BASE][dataset]['correct'], paired=True)
                for dataset, one in by_set.items() if (dataset, name) not in SAME_AS_BASE}
        means = np.array([gap['estimate'] for gap in gaps.values()])
        rows[name] = {'by_set': gaps, 'mean': means.mean()}
        if len(means) > 1:
            rows[name]['half'] = half_interval(means)
            rows[name]['differs'], rows[name]['equals'] = differs_and_equals(means, MARGIN)
    for key in ('differs', 'equals'):
        known = [row for row in rows.values() if key in row]
        for row, p in zip(known, holm([row[key] for row in known])):
            row[key] = p
    return rows


def gap_text(estimate, low, high):
    """A difference with its interval, as text."""
    return f'{estimate:+.2f} ({low:+.2f} to {high:+.2f})'


def mean_text(row):
    """The mean difference of a loss, with its interval if it has one, as text."""
    if 'half' not in row:
        return f'{row["mean"]:+.2f}'
    return gap_text(row['mean'], row['mean'] - row['half'], row['mean'] + row['half'])


def verdict(row):
    """What the corrected p values of a loss show, in words."""
    found = []
    if row.get('differs', 1) <= 0.05:
        found.append('better' if row['mean'] > 0 else 'worse')
    if row.get('equals', 1) <= 0.05:
        found.append(f'equivalent within {MARGIN}')
    return ', '.join(found) or 'open'


# Reporting

def table(head, rows):
    """Lines of a Markdown table."""
    lines = ['| ' + ' | '.join(head) + ' |', '| --- |' + ' --- |' * (len(head) - 1)]
    return lines + ['| ' + ' | '.join(row) + ' |' for row in rows]


def standings_lines(names, found, rows):
    """The lines of standings.md."""
    accuracy = np.array([[100 * by_set[dataset]['correct'].mean() for by_set in found.values()]
                         for dataset in names])
    ranks = mean_ranks(accuracy)
    body = []
    for (name, by_set), mean, rank in zip(found.items(), accuracy.mean(0), ranks):
        gap = [mean_text(rows[name]), verdict(rows[name])] if name in rows else ['', '']
        cells = [name, f'{mean:.2f}', *gap, f'{rank:.1f}']
        cells += [f'{np.mean([one[label] for one in by_set.values()]):.4g}' for label in MEASURES]
        body.append(cells)
    lines = table(['mean over data sets', 'accuracy, %', f'minus {BASE}, points', 'verdict', 'rank',
                   *MEASURES], body)
    lines += ['', f'Data sets: {len(names)}, with {SEEDS} seeds each. In brackets, 95 % intervals '
              'for other seeds, other texts and other data sets. The verdicts are corrected for '
              f'{len(rows)} losses (Holm); equivalent: within {MARGIN} points. By Nemenyi\'s test, '
              f'two losses differ if their mean ranks are '
              f'{critical_difference(*accuracy.shape):.1f} apart. Log loss, Brier score and ECE '
              '(in %, minus that of a calibrated model) are after temperature scaling.', '']

    body = []
    for name, row in rows.items():
        cells = [name]
        for dataset in names:
            gap = row['by_set'].get(dataset)
            cells.append(gap_text(gap['estimate'], *gap['both']) if gap else 'the same loss')
        body.append(cells)
    lines += table([f'minus {BASE}, points', *names], body)
    lines += ['', 'By data set, with 95 % intervals for other seeds and other texts, without a '
              'verdict.', '']

    body = []
    for name, by_set in found.items():
        cells = [name]
        for budget in BUDGETS:
            means = [expected_best(one['trials'], budget) for one in by_set.values()]
            cells.append(f'{np.mean(means):.2f}')
        body.append(cells)
    lines += table(['accuracy on val, %', *(f'best of {n}' for n in BUDGETS)], body)
    return [*lines, '', 'The expected best of that many random configurations (Dodge 2019).']


def draw_standings(names, rows, path):
    """Draw the differences from cross-entropy: a dot per data set, and the mean with its interval.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 1 + 0.45 * len(rows)))
        axis = figure.subplots()
        axis.axvspan(-MARGIN, MARGIN, color='#f0f0f0', lw=0)
        axis.axvline(0, color=GREY, lw=1)
        for i, row in enumerate(rows.values()):
            for k, (dataset, color) in enumerate(zip(names, COLORS * len(names))):
                height = i + 0.1 + 0.6 * k / len(names)
                gap = row['by_set'].get(dataset)
                if gap:
                    axis.plot(gap['both'], [height] * 2, color=color, lw=1, alpha=0.5)
                    axis.plot(gap['estimate'], height, 'o', ms=3, color=color)
                if i == 0:
                    axis.plot([], [], 'o', ms=3, color=color, label=dataset)
            axis.errorbar(row['mean'], i - 0.1, xerr=row.get('half', 0), fmt='o', ms=6, lw=2,
                          color='black', label='mean over data sets' if i == 0 else None)
        axis.set(yticks=range(len(rows)), yticklabels=list(rows),
                 xlabel=f'accuracy on test minus that of {BASE}, points')
        axis.invert_yaxis()
        axis.grid(axis='y', visible=False)
        figure.legend(loc='outside right upper', fontsize=8)
        write_file(path, lambda file: figure.savefig(file, dpi=130))


def show_standings(names, losses, out, folders):
    """Print the standings of these losses, cross-entropy first, on these data sets, whose runs are
    in `folders`, and write standings.md and standings.png to the folder `out`."""
    found, unfinished = read_all(names, losses, folders)
    for name in unfinished:
        print(f'{name} is not measured on all of {", ".join(names)}')
    if BASE not in found or len(found) < 2:
        return
    rows = compare(found)
    out.mkdir(parents=True, exist_ok=True)
    lines = standings_lines(names, found, rows)
    print('\n'.join(lines))
    text = '\n'.join(lines) + '\n'
    write_file(out / 'standings.md', lambda file: file.write(text.encode()))
    draw_standings(names, rows, out / 'standings.png')
