"""Choose a threshold for each class on val, judge them on test, and write them into the runs.

    python -m tools.thresholds out/tags --by=f1                  the best F1 of each class
    python -m tools.thresholds out/tickets --at_precision=0.95 --threshold_class=urgent
    python -m tools.thresholds out/tags --by=none                remove them

Prints precision, recall and F1 with the thresholds and without, and writes them to thresholds.md,
with a figure, thresholds.png. tools.predict, tools.serve and tools.export read the thresholds from
the runs' result.json; for several runs, they use the mean. Nothing is written into a packed group,
because it has no weights.
"""
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
from model import make_head
from nanoloss.escape import markdown
from nanoloss.figures import thresholds_png
from nanoloss.files import locked_folder, write_files, write_json
from nanoloss.labels import Labels, as_json
from nanoloss.runs import check_comparable, read_runs
from nanoloss.settings import configure, fail
from nanoloss.stats import flags
from nanoloss.thresholds import choose_thresholds, judge_group, report_thresholds
from nanoloss.verdict import first_three

# -----------------------------------------------------------------------------
by = ''             # f1: the best F1 of each class; none: remove the thresholds of the runs
at_precision = 0.0  # at least this precision, such as 0.95, and the highest recall
at_recall = 0.0     # at least this recall, and the highest threshold
threshold_class = ''  # the only class that gets a threshold; '' = every class
out_dir = ''        # folder for thresholds.md and thresholds.png; '' = the one that holds the group
code = ''  # the Python file of a head that is not in model.py; it will be executed
# -----------------------------------------------------------------------------


def check_settings(config, folders):
    """Fail if the command line is invalid."""
    if len(folders) != 1:
        fail('name one group of runs: python -m tools.thresholds out/tags --by=f1')
    if (config.by != '') + (config.at_precision != 0) + (config.at_recall != 0) != 1:
        fail('give one of --by, --at_precision and --at_recall')
    if config.by not in ('', 'f1', 'none'):
        fail(f"by is 'f1' or 'none', not {config.by!r}")
    for name in ('at_precision', 'at_recall'):
        goal = getattr(config, name)
        if not 0 <= goal <= 1:
            fail(f'{name} is above 0 and at most 1, such as 0.95, not {goal:g}')
    if config.threshold_class and config.by == 'none':
        fail('threshold_class: --by=none removes the thresholds of all classes')


def rule_and_goal(config):
    """The settings as the rule and the goal of `Thresholds`."""
    if config.at_precision:
        return 'precision', config.at_precision
    if config.at_recall:
        return 'recall', config.at_recall
    return 'f1', None


def check_classes(config, run):
    """Fail if the settings do not fit a run's classes, or if its logits are not kept."""
    classes = run.config['classes']
    if not run.logits:
        fail(f'{run.folder}: its probabilities are not kept')
    if config.threshold_class and config.threshold_class not in classes:
        fail(f'threshold_class: there is no class {config.threshold_class!r}; there are '
             f'{first_three(classes)}')
    if config.at_recall and not run.multi_label and not config.threshold_class:
        fail('at_recall: with one label per text, not every class can have a given recall; choose '
             'one with --threshold_class=NAME')


def choose(config, run):
    """The `Thresholds` of a run, chosen on val."""
    rule, goal = rule_and_goal(config)
    classes = run.config['classes']
    only = classes.index(config.threshold_class) if config.threshold_class else None
    probs = run.probs('val', run.temperature)
    chosen = choose_thresholds(rule, goal, probs, flags(run.labels['val'], len(classes)), only)
    try:
        Labels(classes, run.multi_label, chosen)  # raises if its answers would be ambiguous
    except ValueError as error:
        fail(f'{run.folder}: {error}')
    return chosen


def write_into(run, thresholds):
    """Write `Thresholds` into a run's result.json, or remove those that it has (None). Everything
    else stays as it is."""
    folder = Path(run.folder)
    result = dict(run.result)
    result.pop('thresholds', None)
    if thresholds is not None:
        result['thresholds'] = as_json(thresholds)
    if result == run.result:
        return
    try:
        with locked_folder(folder):
            write_json(folder / 'result.json', result)
    except OSError as error:
        fail(f'{folder}: its thresholds cannot be written ({error})')


def main(config, folders):
    check_settings(config, folders)
    path = Path(folders[0])
    is_packed = (path / 'runs.jsonl').exists()
    runs, notes = read_runs(path, make_head, config.code)
    check_comparable(runs, runs[0])
    if is_packed and config.by == 'none':
        fail(f'{path} is packed, so its thresholds stay')
    if config.by == 'none':
        for run in runs:
            write_into(run, None)
        print(f'{path}: the thresholds are removed')
        return

    for run in runs:
        check_classes(config, run)
    chosen = [choose(config, run) for run in runs]
    classes = runs[0].config['classes']
    judged, more_notes = judge_group(path.name, runs, chosen)
    blocks = report_thresholds(path.name, classes, judged)
    notes += more_notes
    if notes:
        blocks.append('\n'.join(f'- Beware: {markdown(note)}.' for note in notes))
    text = '\n\n'.join(blocks) + '\n'
    figure = thresholds_png(path.name, runs[0], judged[0])

    # everything is computed before anything is written
    folder = Path(config.out_dir or path.resolve().parent)
    write_files(folder, {'thresholds.md': text.encode(), 'thresholds.png': figure})
    if not is_packed:
        for run, thresholds in zip(runs, chosen):
            write_into(run, thresholds)
    print(text, end='')


if __name__ == '__main__':
    folders = []
    main(configure(globals(), positional=folders), folders)
