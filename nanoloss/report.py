"""The report of evaluate.py on groups of runs: the printed table, table.md and summary.json.

evaluate.py makes the groups and comparisons, nanoloss/verdict.py describes them in sentences. A
table is a list of columns, each a heading and a function from a row to a cell.
"""
import numpy as np

from nanoloss.escape import markdown, markdown_name
from nanoloss.runs import SPLITS
from nanoloss.stats import answered, half_interval
from nanoloss.verdict import describe, verdict_on

FIGURES = ('min', 'mean', 'median', 'max', 'max-min')  # of a group's accuracies
# measures of the probabilities, in the order of the report; all others measure the decisions
PROBABILITY_MEASURES = [
    'NLL', 'NLL, scaled', 'Brier', 'Brier, scaled', 'ECE', 'ECE floor', 'ECE, scaled',
    'ECE floor, scaled', 'temperature']
CONFIDENCES = 0.6, 0.7, 0.8, 0.9, 0.95, 0.99  # values of --min_confidence in the report


# Tables and cells

def grid(columns, rows):
    """A Markdown table. columns: [(heading, function of a row -> text)]."""
    lines = [[heading for heading, _ in columns]]
    for row in rows:
        lines.append([cell(row) for _, cell in columns])
    lines = [[markdown_name(text) for text in line] for line in lines]
    widths = [max(len(text) for text in column) for column in zip(*lines)]
    lines.insert(1, ['-' * width for width in widths])
    texts = []
    for line in lines:
        padded = [text.ljust(width) for text, width in zip(line, widths)]
        texts.append(f'| {" | ".join(padded)} |')
    return '\n'.join(texts)


def mean_text(values, digits):
    """'mean ± half its 95 % interval', and how many runs have the number if some lack it."""
    known = [value for value in values if value is not None]
    if not known:
        return '-'
    text = f'{np.mean(known):.{digits}f}'
    if len(known) > 1:
        text += f' ± {half_interval(known):.{digits}f}'
    if len(known) < len(values):
        text += f' ({len(known)} of {len(values)})'
    return text


def figure_cell(key):
    """row -> its figure of that key, if it has one."""
    return lambda row: f'{row[key]:.2f}' if key in row else ''


def interval_cell(key):
    """row -> its interval of that key. A single run has none, a paper may give none."""
    def cell(row):
        if key not in row:
            return ''
        if row[key] is None:
            return 'unknown'
        low, high = row[key]
        return f'{low:.2f} to {high:.2f}'
    return cell


def join_distinct(values):
    """Each different value once: 'a / b'."""
    return ' / '.join(sorted({str(value or 'unknown') for value in values}))


# What evaluate.py prints

def print_report(groups, sentences, notes):
    """One table and a verdict, for a terminal.

    notes: only those that change how to read the table.
    """
    rows = [{'label': group.label, 'runs': len(group.runs), **group.accuracy['test']}
            for group in groups]
    columns = [
        ('accuracy on test, %', lambda row: row['label']),
        ('runs', lambda row: str(row['runs'])),
        *[(name, figure_cell(name)) for name in FIGURES],
        ('95 % interval of the mean', interval_cell('both')),
    ]
    headline, runs = introduce(groups)
    print(headline.removeprefix('# '), runs, grid(columns, rows), sep='\n\n')
    if notes:
        print('\n' + '\n'.join(f'Beware: {markdown(note)}.' for note in notes))
    print(f'\n{markdown(" ".join(sentences))}')


# Blocks of table.md

def introduce(groups):
    """A heading, and a sentence about the runs."""
    runs = []
    for group in groups:
        runs += group.runs
    n_runs = '1 run' if len(runs) == 1 else f'{len(runs)} runs'
    minutes = sum(run.seconds for run in runs) / 60
    dataset = join_distinct(run.dataset for run in runs)
    epochs = join_distinct(run.epochs for run in runs)
    hardware = join_distinct(run.config.get('hardware') for run in runs)
    commit = join_distinct(run.config.get('commit') for run in runs)
    return [
        f'# {" and ".join(markdown(group.label) for group in groups)} on {markdown(dataset)}',
        f'{n_runs} of {epochs} epochs, {minutes:,.0f} minutes in all, on '
        f'{markdown(hardware)}, commit {markdown(commit)}.',
    ]


def report_accuracy(groups, split):
    """The accuracies of the groups on one split, each followed by those of the paper."""
    rows = []
    for group in groups:
        best = np.mean([run.best[split] for run in group.runs])
        accuracy = group.accuracy[split]
        rows.append({'label': group.label, 'runs': len(group.runs), **accuracy, 'best': best})
        paper = group.published
        if paper and paper.split == split:
            label = f'{group.label}, the paper'
            rows.append({'label': label, 'runs': paper.runs, **paper.figures})
    columns = [
        ('', lambda row: row['label']),
        ('runs', lambda row: str(row['runs'])),
        *[(name, figure_cell(name)) for name in FIGURES],
        ('mean: other seeds', interval_cell('seeds')),
        ('other seeds and texts', interval_cell('both')),
        ('at best-val epochs', figure_cell('best')),
    ]
    headline = ': the headline' if split == 'test' else ''
    n = groups[0].accuracy[split]['n']
    return [f'## Accuracy on {split}, % of {n:,} texts{headline}', grid(columns, rows)]


def explain_accuracy(groups):
    """How to read the tables of accuracies, in sentences."""
    together = 'all texts are taken as independent'
    if groups[0].clusters['test'] is not None:
        together = 'texts of one document group, such as a movie, are taken together'
    return ('Accuracy after the last epoch, with 95 % intervals of the mean for other seeds, and '
            f'for other seeds and other texts ({together}). The last column is the mean at the '
            'epochs that are best on val; on val it is too high, since val chose them.')


def measure_column(name, target):
    """A column of `grid` for one measure; its rows are groups."""
    headings = {
        'train − test': 'train − test accuracy',
        'steps': f'steps to {target:g} % on val',
        'gradient, first': 'd loss / d z, first',
        'gradient': 'last',
        'ECE': 'ECE, %',
        'ECE floor': 'its floor',
        'ECE floor, scaled': 'its floor',
    }
    if name == 'steps':
        digits = 0
    elif name.startswith(('NLL', 'Brier', 'temperature', 'gradient')):
        digits = 3
    else:  # in %
        digits = 2
    return headings.get(name, name), lambda group: mean_text(group.measures.get(name, []), digits)


def report_measures(groups, target):
    """The measures of decisions and of probabilities."""
    names = dict.fromkeys(name for group in groups for name in group.measures)
    decisions = [name for name in names if name not in PROBABILITY_MEASURES]
    blocks = []
    for title, chosen in (('decisions', decisions), ('probabilities', PROBABILITY_MEASURES)):
        if not any(name in names for name in chosen):
            continue
        columns = [('', lambda group: group.label)]
        columns += [measure_column(name, target) for name in chosen]
        blocks.append(f'## The {title} on test: mean of the runs ± half its 95 % interval '
                      'for other seeds')
        blocks.append(grid(columns, groups))
    blocks.append(
        'F1, recall and AUROC in %. Train: as many training texts as val has, without token '
        'dropout. d loss / d z: its mean norm over val at the first and the last evaluation. '
        'Brier: summed over the classes. ECE: 15 bins; its floor is the average ECE of a perfectly '
        'calibrated model on as many texts. Scaled: logits divided by the temperature that is '
        'best on val.')
    return blocks


def answered_by_group(group, least):
    """The share of the answers on test, of all runs, with at least this confidence, and their
    accuracy, both in %; an accuracy of None if there are no such answers."""
    confidence = group.confidence.ravel()
    share, accuracy = answered(confidence, group.correct['test'].ravel(), least)
    return 100 * share, None if accuracy is None else 100 * accuracy


def answered_cell(least):
    def cell(group):
        share, accuracy = answered_by_group(group, least)
        return f'{share:.1f}: ' + ('-' if accuracy is None else f'{accuracy:.2f}')
    return cell


def report_abstaining(groups):
    """Coverage and accuracy if only confident answers are given."""
    groups = [group for group in groups if group.confidence is not None]
    if not groups:
        return []
    columns = [('', lambda group: group.label)]
    columns += [(f'at least {100 * least:g} %', answered_cell(least)) for least in CONFIDENCES]
    return [
        '## If only confident answers are given, on test: their share and how many are right, in %',
        grid(columns, groups),
        'By confidence after temperature scaling, as with `--min_confidence` of tools.predict; all '
        'runs together.',
    ]


def gap_cell(pair):
    """The interval of the difference in accuracy on test for other seeds and texts."""
    low, high = pair.comparisons['test'].gap['both']
    return f'{low:+.2f} to {high:+.2f}'


def difference_cell(name):
    """pair -> the difference of the means of a measure."""
    def cell(pair):
        difference = np.mean(pair.a.measures[name]) - np.mean(pair.b.measures[name])
        return f'{difference:+.3f}'
    return cell


def holm_cell(name):
    """pair -> the corrected p of a measure."""
    return lambda pair: f'{pair.holm[name]:.2g}'


def report_many(pairs, verdict):
    """Several pairs, all with the same second group: a row each."""
    columns = [
        ('', lambda pair: pair.a.label),
        ('accuracy, points', lambda pair: f'{pair.comparisons["test"].gap["estimate"]:+.2f}'),
        ('other seeds and texts', gap_cell),
        ('p', lambda pair: f'{pair.comparisons["test"].gap["p"]:.2g}'),
        ('Holm', holm_cell('accuracy')),
    ]
    for name in list(pairs[0].holm)[1:]:  # all but accuracy
        columns.append((name, difference_cell(name)))
        columns.append(('Holm', holm_cell(name)))
    return [
        f'## Against {markdown(pairs[0].b.label)}, on test',
        f'**{markdown(verdict)}.**',
        grid(columns, pairs),
        'Differences of the means, with p for other seeds and other texts (the interval excludes 0 '
        "if it is at most .05) and Holm's p, which is corrected for the number of groups; for the "
        "other measures, Holm's p alone. Groups with the same seeds are compared seed by seed.",
    ]


def report_baselines(gaps):
    """The differences of groups and baselines, a row per group."""
    by_group = {}
    for gap in gaps:
        by_group.setdefault(gap['a'], {})[gap['baseline']] = gap
    baselines = list(dict.fromkeys(gap['baseline'] for gap in gaps))

    def cell(baseline):
        def text(label):
            gap = by_group[label][baseline]
            low, high = gap['both']
            return f'{gap["estimate"]:+.2f} ({low:+.2f} to {high:+.2f})'
        return text

    columns = [('', lambda label: label), *[(f'minus {name}', cell(name)) for name in baselines]]
    return [
        '## Against baselines, which have no seeds, accuracy on test in points',
        grid(columns, list(by_group)),
        'With 95 % intervals for other seeds and other texts, which are not corrected for their '
        'number. An interval that contains 0 shows no difference.',
    ]


def make_table(groups, pairs, gaps, notes, verdict, target, threshold_blocks):
    """All tables and sentences: table.md."""
    blocks = introduce(groups)
    if notes:
        items = [f'- {markdown(note)}.' for note in notes]
        blocks.append('**Beware:**\n\n' + '\n'.join(items))
    for split in SPLITS:
        blocks += report_accuracy(groups, split)
    blocks.append(explain_accuracy(groups))
    blocks += report_measures(groups, target)
    blocks += report_abstaining(groups)
    blocks += threshold_blocks

    # a pair in sentences, several pairs in a table
    if len(pairs) > 1:
        blocks += report_many(pairs, verdict)
    elif pairs:
        pair = pairs[0]
        blocks.append(f'## {markdown(pair.a.label)} against {markdown(pair.b.label)}')
        blocks += [describe(pair.comparisons[split]) for split in SPLITS]
    if gaps:
        blocks += report_baselines(gaps)
    return '\n\n'.join(blocks) + '\n'


# summary.json

def summarize_run(run, measures):
    """A run without its arrays and its config."""
    return {
        'folder': run.folder,
        'seed': run.seed,
        'head': run.config['head'],
        'data': run.data,
        'dataset': run.dataset,
        'epochs': run.epochs,
        'seconds': run.seconds,
        'best_epoch': run.best_epoch,
        'last': run.last,
        'best': run.best,
        'measures': measures,
    }


def summarize_group(group):
    paper = group.published
    runs = []
    for i, run in enumerate(group.runs):
        measures = {name: values[i] for name, values in group.measures.items()}
        runs.append(summarize_run(run, measures))
    answered_at = None
    if group.confidence is not None:
        answered_at = {least: answered_by_group(group, least) for least in CONFIDENCES}
    return {
        'label': group.label,
        'runs': runs,
        'measures': group.measures,
        'answered': answered_at,
        'paper': list(paper.figures.values()) if paper else None,  # in the order of FIGURES
        **group.accuracy,
    }


def summarize_pair(pair):
    summary = {'a': pair.a.label, 'b': pair.b.label}
    for split, comparison in pair.comparisons.items():
        summary[split] = {
            'verdict': verdict_on(comparison),
            **comparison.gap,
            'means': comparison.means,
            'spread': comparison.spread,
            'sd': comparison.sd,
            'seeds_needed': comparison.seeds_needed,
            'text': describe(comparison),
        }
    if pair.holm:
        summary['holm'] = pair.holm
    return summary


def summarize(groups, pairs, gaps, notes, effect):
    """All figures of table.md and of the runs, for summary.json."""
    return {
        'units': 'accuracy in %, difference in points',
        'effect': effect,
        'notes': notes,
        'groups': [summarize_group(group) for group in groups],
        'pairs': [summarize_pair(pair) for pair in pairs],
        'against_baselines': gaps,
    }
