"""Groups of finished runs -> a table like the paper's Table 1, a verdict on the differences in
accuracy, and figures.

    python evaluate.py out/bce out/ce [--key=value ...]

A group is a folder of runs that differ only in their seed, written by train.py or tools.pack. All
groups are compared with one of them (`ref`). Prints one table and a verdict; writes table.md with
all tables, summary.json and figures.

Notable:
- Correct answers are recounted from the stored logits of the last epoch. A run that is unfinished,
  damaged or contradicts its own result.json is named and left out.
- Temperature scaling (Guo 2017): the temperature is fitted on val, and the probabilities are
  evaluated on test.
- The printed 95 % confidence interval is for the mean over all seeds and all texts of this kind;
  texts of one cluster, such as a movie, are dependent. A baseline without seeds has it, too, from
  one run. Near 100 %, the interval is not symmetric. table.md also has the interval for other seeds
  on the same texts (Student's t).
- A difference is significant if its p for other seeds and other texts is at most .05; with several
  groups, after Holm's correction. Groups with the same seeds are compared seed by seed.
"""
import json
from dataclasses import dataclass
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np
import torch

from model import make_head
from nanoloss.escape import one_line
from nanoloss.figures import COLORS, draw_figures
from nanoloss.files import write_files
from nanoloss.labels import confidence_of
from nanoloss.report import FIGURES, make_table, print_report, summarize
from nanoloss.runs import SPLITS, check_comparable, read_runs
from nanoloss.settings import configure, fail
from nanoloss.stats import (
    as_two_runs, holm, interval, measure, permutation_test, pooled_sd, seeds_needed,
    summarize_accuracy, values_by_text)
from nanoloss.thresholds import judge_group, report_thresholds, summarize_judged, thresholds_of
from nanoloss.verdict import (
    conclude, note_absent_classes, note_clusters, note_differences, note_small_groups,
    note_tuning, verdict_on_all)

# -----------------------------------------------------------------------------
out_dir = ''   # folder for table.md, summary.json and figures; '' = the one that holds the groups
ref = ''       # the group to compare all others with; '' = ce or, without it, the first
target = 85.0  # accuracy on val in %; table.md has the steps needed to reach it
effect = 0.26  # points; table.md has the runs needed to detect it; the paper's 86.1 - 85.84
# file of published accuracies, shown beside runs of the same data set, head and number of epochs;
# '' = none; a relative path starts from the folder of this file
published = 'results/paper/published.json'
code = ''  # the Python file of a head that is not in model.py; it will be executed
# -----------------------------------------------------------------------------


# Groups

@dataclass
class Published:
    """The published accuracies of one head."""
    dataset: str
    head: str
    epochs: int
    split: str              # val or test
    runs: int
    figures: dict           # {name of FIGURES: accuracy in %}


def read_published(file):
    """A file of published accuracies -> [Published], one per head; '' -> []."""
    if not file:
        return []
    path = Path(__file__).parent / file
    papers = []
    try:
        content = json.loads(path.read_text('utf-8'))
        dataset = content['dataset']
        epochs = content['epochs']
        split = content['split']
        if split not in SPLITS:
            raise ValueError(f'its split is {split!r}, not test or val')
        for head, values in content['heads'].items():
            figures = {name: float(values[name]) for name in FIGURES}
            if not np.isfinite(list(figures.values())).all():
                raise ValueError(f'a figure of {head} is not finite')
            papers.append(Published(dataset, head, epochs, split, int(content['runs']), figures))
    except OSError as error:
        fail(f'published: {path} cannot be read ({error.strerror}); --published= does without')
    except Exception as error:  # a damaged file can raise anything
        fail(f'published: {path} is damaged ({type(error).__name__}: {error})')
    return papers


@dataclass
class Group:
    """All finished runs of one config, in the order of their seeds.

    If the logits of a run are not kept, bins, confidence and by_text are None. If its single
    answers are not kept either, correct is None.
    """
    path: Path
    label: str
    color: str
    runs: list
    published: Published    # of the same data set, head and number of epochs, or None
    clusters: dict          # by split: the cluster of each text, [texts], or None
    measures: dict          # {name: [a value or None per run]}
    bins: np.ndarray        # [runs, 2, bins, 3], see `stats.measure`
    confidence: np.ndarray  # [runs, texts of test], after temperature scaling
    by_text: dict           # {measure: [runs, texts of test]}, see `values_by_text`
    judged: list = ()       # a `Judged` per run, if the runs have thresholds

    def __post_init__(self):
        self.drawn = self.runs[0].drawn
        self.has_answers = all(run.correct is not None for run in self.runs)
        self.correct = {}   # by split: bool [runs, texts], or None
        self.accuracy = {}  # by split: see `summarize_accuracy`
        for split in SPLITS:
            correct = None
            if self.has_answers:
                correct = np.stack([run.correct[split] for run in self.runs])
            self.correct[split] = correct
            counts = np.array([run.n_correct[split] for run in self.runs])
            self.accuracy[split] = summarize_accuracy(
                counts, self.runs[0].n[split], correct, self.clusters[split], self.drawn)


def measure_training(run, target):
    """Measures of the training of a run: {name: value or None}."""
    gap = None
    train = run.result['last'].get('train')  # runs of the first versions lack it
    if train:
        gap = 100 * train['accuracy'] - run.last['test']
    steps = None  # if the target is never reached
    for row in run.log:
        if 100 * row['val_acc'] >= target:
            steps = row['step']
            break
    return {
        'train − test': gap,
        'steps': steps,
        'gradient, first': run.log[0].get('logit_grad'),
        'gradient': run.log[-1].get('logit_grad'),
    }


def measure_runs(runs, target):
    """The runs of a group -> the fields measures, bins, confidence and by_text of `Group`."""
    rows = []
    bins = []
    confidence = []
    by_text = []
    for run in runs:
        measures = run.measures or {}
        if run.logits:
            logits = {split: torch.from_numpy(run.logits[split]) for split in SPLITS}
            measures, of_run, probs = measure(run.head, logits, run.labels, run.config['classes'],
                                              run.always_labelled)
            bins.append(of_run)
            confidence.append(confidence_of(probs, run.multi_label, run.always_labelled))
            by_text.append(values_by_text(probs, run.labels['test'], run.always_labelled))
        rows.append(measures | measure_training(run, target))
    measures = {name: [row.get(name) for row in rows] for name in rows[0]}
    if len(bins) < len(runs):
        return {'measures': measures, 'bins': None, 'confidence': None, 'by_text': None}
    by_name = {name: np.stack([of_run[name] for of_run in by_text]) for name in by_text[0]}
    return {'measures': measures, 'bins': np.stack(bins), 'confidence': np.stack(confidence),
            'by_text': by_name}


def find_clusters(runs):
    """The cluster of each text, such as its movie -> {split: [texts] or None}. All runs have the
    same data, so the first run that stores them will do."""
    clusters = dict.fromkeys(SPLITS)
    for run in runs:
        for split in SPLITS:
            if clusters[split] is None and run.groups:
                clusters[split] = run.groups[split]
    return clusters


def read_groups(paths, config):
    """Folders of runs -> groups; a note on each run that is left out; further notes."""
    papers = read_published(config.published)
    names = {path.name for path in paths}
    all_runs = []
    left_out = []
    for path in paths:
        runs, notes = read_runs(path, make_head, config.code)
        all_runs.append(runs)
        left_out += notes
        check_comparable(runs, all_runs[0][0])

    clusters = find_clusters(sum(all_runs, []))
    notes = []
    for split in SPLITS:
        notes += note_clusters(split, clusters[split])
        if clusters[split] is not None and len(np.unique(clusters[split])) == 1:
            clusters[split] = None  # a single cluster says nothing about others
    groups = []
    for i, (path, runs) in enumerate(zip(paths, all_runs)):
        # paths distinguish folders of the same name
        label = path.name if len(names) == len(paths) else str(path)
        label = {'bce': 'BCE', 'ce': 'CE'}.get(label, label)
        run = runs[0]
        of_run = run.dataset, run.config['head'], run.epochs
        beside = [one for one in papers if (one.dataset, one.head, one.epochs) == of_run]
        groups.append(Group(
            path, label, COLORS[i % len(COLORS)], runs, beside[0] if beside else None, clusters,
            **measure_runs(runs, config.target)))
    return groups, left_out, notes


def judge_thresholds(group):
    """Judge the thresholds of a group's runs, if they have any -> notes."""
    try:
        found = [thresholds_of(run) for run in group.runs]
    except ValueError as error:
        fail(error)
    if group.confidence is None:
        return []
    group.judged, notes = judge_group(group.label, group.runs, found)
    return notes


# Comparing two groups

@dataclass
class Comparison:
    """Two groups of two or more runs each, on one split."""
    a: Group
    b: Group
    split: str
    gap: dict           # accuracy of a minus that of b in points, see `interval`
    paired: bool        # whether both have the same seeds; then gap is of the pairs
    means: dict         # the permutation test of the means, see `permutation_test`
    spread: dict        # the permutation test of the max-min distances
    sd: list            # standard deviation of the runs of a group, in points, see `pooled_sd`
    effect: float       # in points
    seeds_needed: list  # runs per group to find the effect, at each of these standard deviations


@dataclass
class Pair:
    """A group against another."""
    a: Group
    b: Group
    comparisons: dict   # by split: Comparison
    holm: dict = None   # {measure: corrected p on test}, if there are two or more pairs


def compare(a, b, split, effect):
    """Two groups of two or more runs on one split -> Comparison."""
    correct_a = a.correct[split]
    correct_b = b.correct[split]
    # the tests compare integer counts of correct answers, so that ties are exact
    counts = correct_a.sum(1), correct_b.sum(1)
    sd = pooled_sd(correct_a, correct_b)
    paired = [run.seed for run in a.runs] == [run.seed for run in b.runs]
    return Comparison(
        a, b, split,
        gap=interval(correct_a, correct_b, clusters=a.clusters[split], paired=paired),
        paired=paired,
        means=permutation_test(*counts),
        spread=permutation_test(*counts, spread=True),
        sd=sd,
        effect=effect,
        seeds_needed=[seeds_needed(value, effect) for value in sd],
    )


def reference_group(groups, ref):
    """The group to compare all others with, chosen by the setting ref."""
    # later entries win, so the folder's name has precedence over the label in any case
    by_name = {group.label.lower(): group for group in groups}
    by_name |= {group.label: group for group in groups}
    by_name |= {group.path.name: group for group in groups}
    if ref and ref not in by_name:
        names = ', '.join(group.path.name for group in groups)
        fail(f'ref: there is no group {ref!r}; there are {names}')
    return by_name.get(ref or 'ce', groups[0])


def correct_for_number(pairs):
    """Set `holm` of each pair: the p of accuracy and of the measures of `values_by_text` on test,
    for other seeds and other texts, corrected for the number of pairs."""
    p_values = {'accuracy': [pair.comparisons['test'].gap['p'] for pair in pairs]}
    groups = [pairs[0].b, *[pair.a for pair in pairs]]
    names = []
    if all(group.by_text is not None for group in groups):
        names = list(groups[0].by_text)
    for name in names:
        p_values[name] = []
        for pair in pairs:
            found = interval(pair.a.by_text[name], pair.b.by_text[name],
                             clusters=pair.a.clusters['test'],
                             paired=pair.comparisons['test'].paired)
            p_values[name].append(found['p'])
    corrected = {name: holm(p) for name, p in p_values.items()}
    for i, pair in enumerate(pairs):
        pair.holm = {name: p[i] for name, p in corrected.items()}


def compare_groups(groups, reference, effect):
    """Compare all groups of two or more runs with the reference -> pairs."""
    pairs = []
    for group in groups:
        both = (group, reference)
        if group is not reference and all(len(g.runs) > 1 and g.has_answers for g in both):
            comparisons = {split: compare(group, reference, split, effect) for split in SPLITS}
            pairs.append(Pair(group, reference, comparisons))
    if len(pairs) > 1:
        correct_for_number(pairs)
    return pairs


def compare_baselines(groups):
    """Compare each group of two or more runs with each baseline, which has no seeds -> a dict per
    pair: a, baseline and the `interval` of their difference on test."""
    gaps = []
    groups = [group for group in groups if group.has_answers]
    for group in groups:
        for baseline in groups:
            if baseline.drawn or not group.drawn or len(group.runs) < 2:
                continue
            gap = interval(group.correct['test'], as_two_runs(baseline.correct['test'][:1]),
                           clusters=group.clusters['test'])
            gaps.append({'a': group.label, 'baseline': baseline.label, **gap})
    return gaps


# The command

def check_arguments(paths, config):
    """Fail if the command line is invalid."""
    resolved = {path.resolve() for path in paths}
    if not paths or len(resolved) < len(paths):
        fail('name the groups of runs, each once: python evaluate.py out/bce out/ce')
    if len({path.parent for path in resolved}) > 1 and not config.out_dir:
        fail('the groups lie in different folders; choose one for the table with --out_dir=')
    if config.effect <= 0:
        fail(f'effect must be above 0, not {config.effect:g}')


def main(config, folders):
    paths = [Path(folder) for folder in folders]
    check_arguments(paths, config)
    groups, left_out, notes = read_groups(paths, config)
    for group in groups:
        notes += judge_thresholds(group)
    differences, within = note_differences(groups)
    notes = left_out + notes + differences + note_absent_classes(groups[0].runs[0])
    notes += note_tuning(groups)

    pairs = compare_groups(groups, reference_group(groups, config.ref), config.effect)
    if len(pairs) == 1:
        notes += note_small_groups(pairs[0])
    gaps = compare_baselines(groups)
    verdict = verdict_on_all(pairs)

    # everything is computed before anything is written
    blocks = []
    summary = summarize(groups, pairs, gaps, notes, config.effect)
    for group, described in zip(groups, summary['groups']):
        if group.judged:
            classes = group.runs[0].config['classes']
            blocks += report_thresholds(group.label, classes, group.judged)
            described['thresholds'] = [summarize_judged(judged) for judged in group.judged]
    table = make_table(groups, pairs, gaps, notes, verdict, config.target, blocks)
    folder = Path(config.out_dir or paths[0].resolve().parent)
    write_files(folder, {
        'table.md': table.encode(),
        **draw_figures(groups, one_line(verdict) or 'Accuracy of every run'),
        'summary.json': json.dumps(summary, indent=1, allow_nan=False).encode(),
    })
    print_report(groups, conclude(groups, pairs, gaps, config.effect), left_out + within)
    print(f'\nAll tables, notes and figures: {folder / "table.md"} and the files beside it.')


if __name__ == '__main__':
    folders = []
    main(configure(globals(), positional=folders), folders)
