"""Groups of finished runs -> a table like the paper's Table 1, what its differences and the
probabilities are worth, figures.

    python evaluate.py out/bce out/ce [--key=value ...]
    python evaluate.py out/best --page      also what one group gets wrong: page.html and CSVs
    python evaluate.py out/tags --thresholds=f1     choose thresholds, which predict.py then uses

A group is a folder of runs seed0, seed1 ... of one config, as train.py leaves them; any number of
groups will do: each is tested against one of them, ref. Prints table.md and writes it with
summary.json, accuracy_by_run.png, accuracy_by_epoch.png, reliability.png and coverage.png, of runs
with thresholds also thresholds.png.

Notable:
- The last epoch is counted again from preds.npz; a run that is unfinished, damaged or at odds with
  its own result.json is named and left out.
- Temperature scaling (Guo 2017): logits divided by the T that is best on val, then judged on test.
- Two 95 % intervals: for other seeds, judged on the same reviews (Student's t), and for other seeds
  and other reviews. A difference is called shown if its p for the latter is at most .05, after
  Holm's correction if there are several groups. Groups with the same seeds are compared seed by
  seed.
- Thresholds are chosen on val and judged on test. Only then, or when they are taken away, something
  is written into the runs, into their result.json.
"""
import json
import math
from dataclasses import dataclass
from pathlib import Path

from nanoloss import is_out_of_memory  # before torch: it sets how OpenMP threads wait
import numpy as np
import torch
from sklearn import metrics
from tqdm import tqdm

from model import is_correct, make_head
from nanoloss.settings import configure, fail
from nanoloss.data import fingerprint, load_data
from nanoloss.escape import markdown, markdown_name, one_line, shortened
from nanoloss.figures import COLORS, draw_figures
from nanoloss.files import locked_folder, mend_folder, write_file, write_json
from nanoloss.labels import (
    Labels,
    as_json,
    can_be_unsure,
    confidence_of,
    kind_of,
    read_thresholds,
)
from nanoloss.reader import log_odds
from nanoloss.stats import (
    answered,
    as_two_runs,
    brier_score,
    calibration_error,
    calibration_floor,
    confidence_bins,
    each_decision,
    effective_groups,
    fit_temperature,
    half_interval,
    holm,
    interval,
    negative_log_likelihood,
    permutation_test,
    pooled_sd,
    seeds_needed,
    values_by_text,
    variance_of_mean,
)
from nanoloss.thresholds import choose_thresholds, flags, judge, with_another_val
from nanoloss.tokenizer import decode, tokenizer
from predict import WEIGHTS, Classifier

# -----------------------------------------------------------------------------
out_dir = ''   # where the files go; '' = the folder that holds the groups
ref = ''       # the group that all others are tested against; '' = ce if among them, else the first
target = 85.0  # accuracy on val in %; the steps to it are counted
effect = 0.26  # points; the difference for which the seeds are counted; the paper's, 86.1 - 85.84
# these are shown beside runs of the same data set, head and number of epochs; a relative path is
# looked up from the folder of this file
published = 'results/paper/published.json'  # a paper's figures; '' for none
page = False  # also page.html and CSVs on what the one group named gets wrong
data_dir = 'data'  # the folder of data sets, for the page
# one of these chooses a threshold a class on val, for predict.py and serve.py
thresholds = ''       # f1: those of the best F1; none: take away those that the runs have
at_precision = 0.0    # those with at least this precision, such as 0.95, and the highest recall
at_recall = 0.0       # the highest with at least this recall
threshold_class = ''  # the class that gets one, no other; '' = every class
# -----------------------------------------------------------------------------

folders = []  # the groups, from the command line
SPLITS = ('test', 'val')  # in the order of the report
FIGURES = ('min', 'mean', 'median', 'max', 'max-min')  # of a group's accuracies
# settings in which runs differ without a note; commit, because code says whether it matters
MAY_DIFFER = {'head', 'seed', 'n_runs', 'out_dir', 'data_dir', 'overwrite', 'ckpt_secs',
              'tensorboard', 'commit'}
# measures of the probabilities as the report orders them; all others are of the decisions
PROBABILITY_MEASURES = [
    'NLL', 'NLL, scaled', 'Brier', 'Brier, scaled', 'ECE', 'ECE floor', 'ECE, scaled',
    'ECE floor, scaled', 'temperature']
CONFIDENCES = 0.6, 0.7, 0.8, 0.9, 0.95, 0.99  # at least so sure an answer is to be
SHOWN_CLASSES = 10  # of those with a threshold
FEW_TEXTS = 20  # of val; if all of them are right, a precision is 83 to 100 % (Clopper-Pearson)
FEW_GROUPS = 20  # of reviews; with fewer, 95 % intervals for other reviews cover about 90 %
# for the page, texts are computed once for each of their tokens: so many variants at once, and so
# many tokens in all; IMDB's val has 181 million, of windows 12 minutes of a core
VARIANTS = 4096
MAX_WORTH_TOKENS = 200_000_000


# What the answers of a run are worth

def measure_decisions(probs, labels, classes):
    """F1, recall and AUROC in %: {name: value or None}.

    probs [N, classes]; labels int [N] or, of several labels a review, 0 and 1 [N, classes].
    Macro F1 and the lowest recall are over the classes that occur; the recall of another is None.
    """
    multi_label = labels.ndim == 2
    decisions = probs > 0.5 if multi_label else probs.argmax(1)
    present, = np.nonzero(flags(labels, len(classes)).any(0))
    if not len(present):  # no text has any label
        present = np.arange(len(classes))
    options = {'labels': present, 'zero_division': 0}

    measures = {'macro F1': 100 * metrics.f1_score(labels, decisions, average='macro', **options)}
    if multi_label:
        measures['micro F1'] = 100 * metrics.f1_score(labels, decisions, average='micro', **options)

    # a recall for each of a few classes, the lowest of many
    recalls = metrics.recall_score(labels, decisions, average=None, **options)
    if len(classes) <= 4:
        by_class = dict(zip(present, 100 * recalls))
        for c, name in enumerate(classes):
            measures[f'recall of {name}'] = by_class.get(c)
    else:
        measures['lowest recall'] = 100 * recalls.min()
    if len(classes) == 2 and not multi_label:
        measures['AUROC'] = None  # unless both classes occur
        if len(set(labels)) == 2:
            measures['AUROC'] = 100 * metrics.roc_auc_score(labels, probs[:, 1])
    return measures


def measure_probabilities(probs, labels):
    """probs, labels as in `measure_decisions` -> {name: value}, and the bins of confidence."""
    probs, labels = each_decision(probs, labels)
    bins = confidence_bins(probs, labels)
    measures = {
        'NLL': float(negative_log_likelihood(probs, labels)),
        'Brier': float(brier_score(probs, labels)),
        'ECE': float(calibration_error(bins)),
        'ECE floor': float(calibration_floor(bins)),
    }
    return measures, bins


def measure(head, logits, labels, classes):
    """What the decisions and the probabilities of a run are worth on test.

    logits: by split, float tensor [N, outputs]
    labels: by split, int [N] or, of several labels a review, 0 and 1 [N, classes]; then the
        probabilities are judged label by label
    Returns {name: value or None}; the bins of the reliability diagram before and after temperature
    scaling, [2, bins, 3], see `confidence_bins`; and the probabilities after it, [N, classes].
    """
    test_logits = logits['test'].double()
    probs = head.probs(test_logits).numpy()
    measures = measure_decisions(probs, labels['test'], classes)

    # the temperature comes from val, so that test can judge it
    val_labels = torch.from_numpy(labels['val'].astype(np.int64))
    temperature = fit_temperature(head.probs, logits['val'], val_labels)
    measures['temperature'] = temperature
    scaled_probs = head.probs(test_logits / temperature).numpy()

    values, bins = measure_probabilities(probs, labels['test'])
    for name, value in values.items():
        measures[name] = value if head.calibrated else None
    scaled_values, scaled_bins = measure_probabilities(scaled_probs, labels['test'])
    for name, value in scaled_values.items():
        measures[f'{name}, scaled'] = value
    return measures, np.stack([bins, scaled_bins]), scaled_probs


def measure_training(log, train, test_accuracy):
    """How the training went: {name: value, or None where there is none}.

    log: the lines of log.jsonl; train: of result.json, which runs of the first versions lack.
    """
    gap = None
    if train:
        gap = 100 * train['accuracy'] - test_accuracy
    steps = None  # if the target is never reached
    for row in log:
        if 100 * row['val_acc'] >= target:
            steps = row['step']
            break
    return {
        'train − test': gap,
        'steps': steps,
        'gradient, first': log[0].get('logit_grad'),
        'gradient': log[-1].get('logit_grad'),
    }


# Reading a run

@dataclass
class Run:
    """A finished run of one seed. Accuracies are in %; a dict by split has test and val."""
    folder: str
    config: dict
    result: dict
    seed: int
    head: str
    data: str               # the data's fingerprint
    dataset: str
    epochs: int
    seconds: float
    curve: np.ndarray       # [evaluations, 3]: epoch, accuracy on train and on val
    best_epoch: float       # on val; 2.5 where runs are evaluated twice an epoch
    correct: dict           # by split: bool [reviews], of the last epoch
    last: dict              # by split: accuracy after the last epoch
    best: dict              # by split: accuracy after the best epoch on val
    measures: dict          # {name: value or None}, of the last epoch on test, see `measure`
    bins: np.ndarray        # [2, bins, 3], see `measure`
    confidence: np.ndarray  # [reviews of test], after temperature scaling
    by_text: dict           # {measure: [reviews of test]}, see `values_by_text`
    probs: dict             # by split: [reviews, classes], temperature-scaled as predict.py does it
    labels: dict            # by split: int [reviews], or 0 and 1 [reviews, classes]
    groups: dict            # by split: [reviews], or None, see `Split`


def check_count(split, logits, correct, result):
    """Raises ValueError where logits and result.json of a split are at odds."""
    counted = f'{correct.sum()} of {len(correct)} {split} reviews right'
    expected = f'{result["correct"]} of {result["n"]} {split} reviews right'
    if counted != expected or not logits.isfinite().all():
        raise ValueError(f'preds.npz has {counted}, result.json {expected}')


def read_finished_run(folder):
    """A run's folder -> Run. Raises an exception of any kind where a file is damaged."""
    config = json.loads((folder / 'config.json').read_text('utf-8'))
    result = json.loads((folder / 'result.json').read_text('utf-8'))
    lines = (folder / 'log.jsonl').read_text('utf-8').splitlines()
    log = [json.loads(line) for line in lines]
    curve = [(row['epoch'], 100 * row['train_acc'], 100 * row['val_acc']) for row in log]
    if config['n_class'] != len(config['classes']):
        raise ValueError('config.json has another number of classes than names')

    # the last epoch is counted again, from what the run predicted
    head = make_head(**config | {'n_embd': 1})  # only for its probs
    logits = {}
    labels = {}
    groups = {}
    correct = {}
    with np.load(folder / 'preds.npz') as preds:
        for split in SPLITS:
            logits[split] = torch.from_numpy(preds[f'{split}_logits'])
            labels[split] = preds[f'{split}_labels']
            groups[split] = preds.get(f'{split}_groups')
            if groups[split] is not None and groups[split].shape != labels[split].shape[:1]:
                raise ValueError('preds.npz has other groups than labels')
            probs = head.probs(logits[split].float())
            correct[split] = is_correct(probs, torch.from_numpy(labels[split])).numpy()
            check_count(split, logits[split], correct[split], result['last'][split])

    last = {split: 100 * correct[split].mean() for split in SPLITS}
    measures, bins, scaled_probs = measure(head, logits, labels, config['classes'])
    measures |= measure_training(log, result['last'].get('train'), last['test'])
    # baselines, and runs of the first versions, do not say it
    temperature = result['last'].get('temperature', measures['temperature'])
    scaled = {split: head.probs(logits[split].double() / temperature) for split in SPLITS}
    return Run(
        folder=str(folder),
        config=config,
        result=result,
        seed=int(config['seed']),
        head=config['head'],
        data=config['data'],
        dataset=config['dataset'],
        epochs=int(log[-1]['epoch']),
        seconds=float(result['seconds']),
        curve=np.array(curve),
        best_epoch=result['best']['epoch'],
        correct=correct,
        last=last,
        best={split: 100 * result['best'][split]['accuracy'] for split in SPLITS},
        measures=measures,
        bins=bins,
        confidence=confidence_of(scaled_probs, multi_label=labels['test'].ndim == 2),
        by_text=values_by_text(scaled_probs, labels['test']),
        probs={split: p.numpy() for split, p in scaled.items()},
        labels=labels,
        groups=groups,
    )


def read_run(folder):
    """A run's folder -> Run. Raises ValueError, saying why the run does not count."""
    if not (folder / 'result.json').exists():
        raise ValueError('is not finished (it has no result.json)')
    if '"perplexity"' in (folder / 'result.json').read_text():
        raise ValueError('is a language model, of pretrain.py, not a classifier')
    try:
        return read_finished_run(folder)
    except Exception as error:  # a damaged file can raise anything; the other runs still count
        if is_out_of_memory(error):
            raise
        message = ' '.join(str(error).split())
        raise ValueError(f'is damaged ({type(error).__name__}: {message})') from error


# Reading groups of runs

@dataclass
class Published:
    """What a paper says of its runs of one head."""
    dataset: str
    head: str
    epochs: int
    split: str              # on which the accuracy is
    runs: int
    figures: dict           # {name of FIGURES: accuracy in %}


def read_published(file):
    """The file of a paper's figures -> [Published], one a head; '' -> []."""
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


def published_beside(run, papers):
    """Of what `read_published` read, that of the run's data set, head and epochs, or None."""
    for paper in papers:
        if (paper.dataset, paper.head, paper.epochs) == (run.dataset, run.head, run.epochs):
            return paper
    return None


def summarize_accuracy(correct, clusters=None, drawn=True):
    """bool [runs, reviews] -> the accuracy of a group in %, with its intervals.

    clusters: see `interval`. drawn: whether runs of other seeds would differ; if not, one run has
    an interval, too."""
    by_run = 100 * correct.mean(1)
    intervals = interval(correct if drawn else as_two_runs(correct), clusters=clusters)
    return {
        'n': correct.shape[1],
        'correct': correct.sum(1).tolist(),
        **intervals,
        'min': by_run.min(),
        'mean': by_run.mean(),
        'median': np.median(by_run),
        'max': by_run.max(),
        'max-min': np.ptp(by_run),
    }


@dataclass
class Group:
    """All finished runs of one config, one a seed, in their order."""
    path: Path
    label: str
    color: str
    runs: list
    published: Published    # or None: a paper's runs of the same data set, head and epochs
    clusters: dict          # by split: which reviews belong together, [reviews], or None
    judged: list = ()       # a `Judged` a run, of runs that have thresholds, all of one kind

    def __post_init__(self):
        # nothing of a baseline on all reviews is drawn: a second run of it would be the same
        config = self.runs[0].config
        self.drawn = 'baseline_code' not in config or config.get('n_train', 0) > 0
        self.measures = {}  # {name: the runs' values}
        for name in self.runs[0].measures:
            self.measures[name] = [run.measures.get(name) for run in self.runs]
        self.correct = {}   # by split: bool [runs, reviews]
        self.accuracy = {}  # by split: what `summarize_accuracy` says of it
        for split in SPLITS:
            self.correct[split] = np.stack([run.correct[split] for run in self.runs])
            self.accuracy[split] = summarize_accuracy(
                self.correct[split], self.clusters[split], self.drawn)


def read_runs(folder):
    """A folder of runs -> its finished runs, one a seed, in order; a note on each run left out."""
    if (folder / 'config.json').exists():
        parent = folder.resolve().parent.name
        fail(f'{folder} is a single run; give the folder that holds it, {parent}')
    paths = [path for path in folder.glob('seed*') if path.is_dir()]
    paths.sort(key=lambda path: (len(path.name), path.name))  # seed2 before seed10
    if not paths:
        groups = sorted({str(path.parent) for path in folder.glob('*/seed*')})
        hint = f'; did you mean {" ".join(groups)}?' if groups else ''
        fail(f'{folder}: there are no runs (seed0, seed1 ...){hint}')

    # a run of a seed that was there before is the same run again, and must not count twice
    runs = {}
    left_out = []
    for path in paths:
        try:
            run = read_run(path)
            if run.seed in runs:
                raise ValueError(f'has the seed of {runs[run.seed].folder}, {run.seed}')
            runs[run.seed] = run
        except ValueError as error:
            left_out.append(f'{path} {error}; it is left out')
    if not runs:
        fail(f'{folder}: there is no finished run; {"; ".join(left_out)}')
    return [runs[seed] for seed in sorted(runs)], left_out


def check_comparable(runs, first):
    """End in `fail` unless the runs have one head and the data of the first run of all."""
    for run in runs:
        for other, key in ((runs[0], 'head'), (first, 'data')):
            if getattr(run, key) != getattr(other, key):
                fail(f'{run.folder} and {other.folder} differ in {key}; '
                     'they cannot be put together')


def clusters_of(runs):
    """Which reviews belong together -> {split: [reviews] or None}, and a note where they all do.

    Of the same data, as any of the runs has kept it: those of the first versions have not."""
    clusters = {}
    notes = []
    for split in SPLITS:
        known = [run.groups[split] for run in runs if run.groups[split] is not None]
        clusters[split] = known[0] if known else None
        if known and len(np.unique(known[0])) == 1:  # which says nothing of others
            clusters[split] = None
            notes.append(f'All reviews of {split} are of one group; intervals for other reviews '
                         'are for others of that group')
        elif known and effective_groups(known[0]) < FEW_GROUPS:
            notes.append(f'The groups of {split} carry the information of '
                         f'{effective_groups(known[0]):.1f} of equal size: with fewer than '
                         f'{FEW_GROUPS}, 95 % intervals for other reviews cover about 90 %')
    return clusters, notes


def read_groups(paths, papers):
    """Folders of runs -> groups, and a note on each run that is left out.

    papers: from `read_published`.
    """
    names = {path.name for path in paths}
    all_runs = []
    notes = []
    for path in paths:
        runs, left_out = read_runs(path)
        all_runs.append(runs)
        notes += left_out
        check_comparable(runs, all_runs[0][0])

    clusters, more_notes = clusters_of(sum(all_runs, []))
    notes += more_notes
    groups = []
    for i, (path, runs) in enumerate(zip(paths, all_runs)):
        # folders of the same name are told apart by their paths
        label = path.name if len(names) == len(paths) else str(path)
        label = {'bce': 'BCE', 'ce': 'CE'}.get(label, label)
        color = COLORS[i % len(COLORS)]
        paper = published_beside(runs[0], papers)
        groups.append(Group(path, label, color, runs, paper, clusters))
    return groups, notes


# Thresholds

def rule_and_goal():
    """What the settings choose thresholds for; '' and None where they choose none."""
    if at_precision:
        return 'precision', at_precision
    if at_recall:
        return 'recall', at_recall
    if thresholds == 'f1':
        return 'f1', None
    return '', None


def check_rule(run):
    """End in `fail` where the thresholds that are asked for make no sense for a run's classes."""
    classes = run.config['classes']
    if threshold_class and threshold_class not in classes:
        fail(f'threshold_class: there is no class {threshold_class!r}; there are '
             f'{first_three(classes)}')
    multi_label = run.labels['val'].ndim == 2
    if at_recall and not multi_label and not threshold_class:
        fail('at_recall: where a text has one label, not every class can have a given recall; say '
             'with --threshold_class=NAME which one shall')


def thresholds_of(run):
    """The `Thresholds` that the settings ask for, chosen on val; else those that a run has, or
    None. Damaged ones end in `fail`."""
    if thresholds == 'none':
        return None
    rule, goal = rule_and_goal()
    classes = run.config['classes']
    multi_label = run.labels['val'].ndim == 2
    try:
        if not rule:
            return read_thresholds(run.result, len(classes))
        truth = flags(run.labels['val'], len(classes))
        only = classes.index(threshold_class) if threshold_class else None
        chosen = choose_thresholds(rule, goal, run.probs['val'], truth, only)
        Labels(classes, multi_label, chosen)  # can the answers be said?
        return chosen
    except ValueError as error:
        fail(f'{run.folder}: {error}')


def judge_thresholds(groups):
    """Give each group with thresholds its `judged` -> notes on what is wrong with them."""
    check_rule(groups[0].runs[0])  # all have the same classes
    notes = []
    for group in groups:
        found = [thresholds_of(run) for run in group.runs]
        kinds = {kind_of(one) for one in found}
        if len(kinds) > 1:
            notes.append(f'The runs of {group.label} do not all have thresholds of one kind, so '
                         'predict.py cannot take their mean; choose them again')
        elif found[0] is not None:
            pairs = zip(group.runs, found)
            group.judged = [judge(one, run.probs, run.labels) for run, one in pairs]
            notes += note_thresholds(group)
    return notes


def note_thresholds(group):
    """Notes on the classes of which val says too little."""
    classes = group.runs[0].config['classes']
    notes = []
    absent = []
    few = []
    for c in group.judged[0].rarest(None):
        n_texts = min(judged.rests_on(c) for judged in group.judged)
        if not group.judged[0].truth['val'][:, c].any():
            absent.append(classes[c])
        elif n_texts < FEW_TEXTS:
            few.append(classes[c])
    if absent:
        notes.append(f'Val of {group.label} has no text of {first_three(absent)}: a threshold of '
                     '0.5 is put there')
    if few:
        notes.append(f'In {group.label}, the thresholds of {first_three(few)} rest on fewer than '
                     f'{FEW_TEXTS} texts of val: other texts can be far from what was chosen, '
                     'however alike the seeds are')
    missed = {}  # {class: in how many runs}
    for judged in group.judged:
        for c in judged.missed():
            missed[classes[c]] = missed.get(classes[c], 0) + 1
    if missed:
        names = [f'{name} ({n} of {len(group.runs)} runs)' for name, n in missed.items()]
        notes.append(f'In {group.label}, no threshold has a precision of '
                     f'{100 * group.judged[0].thresholds.goal:g} % on val for '
                     f'{first_three(names)}; that of the highest precision is taken')
    return notes


def write_thresholds(groups):
    """Write the thresholds into each run's result.json, or take them away; all else stays as it is.
    """
    for group in groups:
        for i, run in enumerate(group.runs):
            folder = Path(run.folder)
            result = dict(run.result)
            result.pop('thresholds', None)
            if thresholds != 'none':
                result['thresholds'] = as_json(group.judged[i].thresholds)
            if result == run.result:
                continue
            try:
                with locked_folder(folder):
                    write_json(folder / 'result.json', result)
            except OSError as error:
                fail(f'{folder}: its thresholds cannot be written ({error})')


# What to beware of

def first_three(names):
    """The first three names, as 'a, b, c ...'."""
    text = ', '.join(shortened(str(name)) for name in names[:3])
    if len(names) > 3:
        text += ' ...'
    return text


def differing_settings(groups):
    """A note on each setting that is not the same in all runs that have it."""
    keys = set()
    for group in groups:
        for run in group.runs:
            keys |= set(run.config)

    notes = []
    for key in sorted(keys - MAY_DIFFER):
        holders = {}  # {value: the groups that have it; of a group that is not at one, the runs}
        for group in groups:
            runs = [run for run in group.runs if key in run.config]
            # as JSON, for a value may be a list
            values = {run.folder: json.dumps(run.config[key]) for run in runs}
            distinct = set(values.values())
            if len(distinct) == 1:
                values = {group.label: distinct.pop()}
            for name, value in values.items():
                holders.setdefault(value, []).append(name)
        if len(holders) > 1:
            texts = [f'{value} in {first_three(names)}' for value, names in holders.items()]
            notes.append(f'The runs differ in {key}: {"; ".join(texts)}')
    return notes


def note_absent_classes(run):
    """A note on the classes without a text in test, which is the same for all runs."""
    classes = run.config['classes']
    present = flags(run.labels['test'], len(classes)).any(0)
    absent = [name for name, is_there in zip(classes, present) if not is_there]
    if not absent:
        return []
    return [f'Test has no text of {first_three(absent)}: recall is undefined there, and macro F1 '
            'is the mean over the other classes']


def note_differences(groups):
    """A note on whatever else but the head the runs differ in."""
    notes = differing_settings(groups)
    sizes = {group.label: len(group.runs) for group in groups}
    if len(set(sizes.values())) > 1:
        notes.append(
            f'The groups differ in their number of runs, with which max-min grows: {sizes}')
    for group in groups:
        if len(group.runs) == 1 and group.drawn:
            notes.append(f'{group.label} is a single run: no interval, no comparison')
    return notes


def note_small_groups(pair):
    """A note if a pair has too few runs for its permutation tests to find anything."""
    n = len(pair.a.runs)
    m = len(pair.b.runs)
    # the lowest possible p: that of one split and, for groups of equal size, its mirror image
    extreme_splits = 2 if n == m else 1
    lowest = extreme_splits / math.comb(n + m, n)
    if lowest <= 0.05:
        return []
    return [f'With {n} and {m} runs no permutation test has p below {lowest:.2g}, so it can find '
            'nothing; with 4 and 4 it could']


# Comparing two groups

@dataclass
class Comparison:
    """What two groups of two or more runs each show on one split."""
    a: Group
    b: Group
    split: str
    gap: dict           # accuracy of a minus that of b in points, see `interval`
    paired: bool        # whether both have the same seeds; then gap is of the pairs
    means: dict         # the permutation test of the means, see `permutation_test`
    spread: dict        # the same of the max-min distances
    sd: list            # of the runs of one head, in points, see `pooled_sd`
    seeds_needed: list  # runs a head to find `effect`, at each of these standard deviations


def same_seeds(a, b):
    """Whether two groups have runs with the same seeds. The runs are in order of their seeds."""
    return [run.seed for run in a.runs] == [run.seed for run in b.runs]


def compare(a, b, split):
    """Two groups of two or more runs on one split -> Comparison."""
    correct_a = a.correct[split]
    correct_b = b.correct[split]
    # the tests are of whole numbers of correct answers, of which ties are exact
    counts = correct_a.sum(1), correct_b.sum(1)
    sd = pooled_sd(correct_a, correct_b)
    paired = same_seeds(a, b)
    return Comparison(
        a, b, split,
        gap=interval(correct_a, correct_b, clusters=a.clusters[split], paired=paired),
        paired=paired,
        means=permutation_test(*counts),
        spread=permutation_test(*counts, spread=True),
        sd=sd,
        seeds_needed=[seeds_needed(value, effect) for value in sd],
    )


@dataclass
class Pair:
    """A group against another."""
    a: Group
    b: Group
    comparisons: dict   # by split: Comparison
    holm: dict = None   # {measure: corrected p on test}, if there are two or more pairs


def reference_group(groups):
    """The group that all others are tested against, as the setting ref says."""
    # later entries win: the folder's name before the label, that before the label in lower case
    by_name = {group.label.lower(): group for group in groups}
    by_name |= {group.label: group for group in groups}
    by_name |= {group.path.name: group for group in groups}
    if ref and ref not in by_name:
        names = ', '.join(group.path.name for group in groups)
        fail(f'ref: there is no group {ref!r}; there are {names}')
    return by_name.get(ref or 'ce', groups[0])


def correct_for_number(pairs):
    """Set `holm` of each pair: the p values of accuracy and of the measures of `values_by_text` on
    test, for other seeds and other reviews, corrected for the number of pairs."""
    p_values = {'accuracy': [pair.comparisons['test'].gap['p'] for pair in pairs]}
    for name in pairs[0].a.runs[0].by_text:
        p_values[name] = []
        for pair in pairs:
            values = []
            for group in (pair.a, pair.b):
                values.append(np.stack([run.by_text[name] for run in group.runs]))
            found = interval(*values, clusters=pair.a.clusters['test'],
                             paired=pair.comparisons['test'].paired)
            p_values[name].append(found['p'])
    corrected = {name: holm(p) for name, p in p_values.items()}
    for i, pair in enumerate(pairs):
        pair.holm = {name: p[i] for name, p in corrected.items()}


def compare_groups(groups, reference):
    """All groups of two or more runs against the reference -> pairs."""
    pairs = []
    for group in groups:
        if group is not reference and min(len(group.runs), len(reference.runs)) > 1:
            comparisons = {split: compare(group, reference, split) for split in SPLITS}
            pairs.append(Pair(group, reference, comparisons))
    if len(pairs) > 1:
        correct_for_number(pairs)
    return pairs


def compare_baselines(groups):
    """Each group of two or more runs against each baseline, which has no seeds -> a dict a pair: a,
    baseline and what `interval` says of their difference on test."""
    gaps = []
    for group in groups:
        for baseline in groups:
            if baseline.drawn or not group.drawn or len(group.runs) < 2:
                continue
            gap = interval(group.correct['test'], as_two_runs(baseline.correct['test'][:1]),
                           clusters=group.clusters['test'])
            gaps.append({'a': group.label, 'baseline': baseline.label, **gap})
    return gaps


# What is said of a comparison

def higher_and_lower(comparison):
    """The labels of the two groups, the more accurate one first."""
    if comparison.gap['estimate'] > 0:
        return comparison.a.label, comparison.b.label
    return comparison.b.label, comparison.a.label


def verdict_on(comparison):
    """Whether a difference is shown, for other seeds and other reviews, in a sentence."""
    higher, lower = higher_and_lower(comparison)
    if comparison.gap['p'] <= 0.05:
        verdict = f'{higher} is more accurate than {lower}'
    else:
        names = f'{comparison.a.label} and {comparison.b.label}'
        verdict = f'no difference in accuracy between {names} is shown'
    return f'On {comparison.split}, {verdict}'


def verdict_on_all(pairs):
    """The verdict on all pairs on test, in a sentence; with several pairs, by the corrected p."""
    if not pairs:
        return ''
    if len(pairs) == 1:
        return verdict_on(pairs[0].comparisons['test'])
    reference = pairs[0].b.label
    found = [pair.a.label for pair in pairs if pair.holm['accuracy'] <= 0.05]
    if not found:
        return f'No difference in accuracy on test from {reference} is shown'
    verb = 'differs' if len(found) == 1 else 'differ'
    return f'In accuracy on test, {" and ".join(found)} {verb} from {reference}'


def settings_that_differ(a, b):
    """The settings in which two groups differ, as 'head and learning_rate'; 'group' if none."""
    config_a = a.runs[0].config
    names = []
    # the head first
    for name in ['head', *sorted(config_a.keys() - MAY_DIFFER)]:
        values = []
        for group in (a, b):
            values.append({json.dumps(run.config.get(name)) for run in group.runs})
        if name in b.runs[0].config and values[0] != values[1]:
            names.append(name)
    return ' and '.join(names) or 'group'


def describe_test(test, n, m):
    """A permutation test of n runs against m, as the end of a sentence."""
    kind = 'possible' if test['exact'] else 'random'
    return (f'{test["hits"]:,} of the {test["splits"]:,} {kind} splits of these runs into '
            f'{n} and {m}: p = {test["p"]:.2g}')


def describe(comparison):
    """A comparison in sentences: Markdown."""
    a = comparison.a
    b = comparison.b
    split = comparison.split
    higher, lower = map(markdown, higher_and_lower(comparison))
    a_name = markdown(a.label)
    b_name = markdown(b.label)
    gap = comparison.gap
    low, high = gap['both']
    pairs = ', seed by seed' if comparison.paired else ''
    differing = settings_that_differ(a, b)
    means = describe_test(comparison.means, len(a.runs), len(b.runs))
    spread = describe_test(comparison.spread, len(a.runs), len(b.runs))
    sd, sd_low, sd_high = comparison.sd
    runs, runs_low, runs_high = comparison.seeds_needed

    # through the choice of the reviews alone: 1.96 standard errors of a run, in points
    reviews = a.correct[split].shape[1]
    share = a.correct[split].mean()
    variance = np.mean([variance_of_mean(run, a.clusters[split])[0] for run in a.correct[split]])
    of_reviews = 196 * math.sqrt(variance)

    return (
        f'**{markdown(verdict_on(comparison))}.**\n\n'
        f'- Mean: {higher} is {abs(gap["estimate"]):.2f} points above {lower}. 95 % interval of '
        f'{a_name} minus {b_name} for other seeds and other reviews{pairs}: '
        f'{low:+.2f} to {high:+.2f} points, p = {gap["p"]:.2g}.\n'
        f'- Chance: if the choice of {differing} had no effect, the means on these reviews would '
        f'be at least this far apart in {means}.\n'
        f'- Spread: from worst to best run, {a_name} {a.accuracy[split]["max-min"]:.2f}, '
        f'{b_name} {b.accuracy[split]["max-min"]:.2f} points; if the choice of {differing} '
        f'had no effect, these would differ at least as much in {spread}.\n'
        f'- Seeds: runs of one group scatter with a standard deviation of {sd:.2f} points '
        f'(95 % interval {sd_low:.2f} to {sd_high:.2f}). So it takes {runs:,} runs per group '
        f'({runs_low:,} to {runs_high:,}) to find a difference of {effect:g} points with 80 % '
        'power by a t test that does not pair the seeds.\n'
        f'- Reviews: {100 * share:.1f} % on {reviews:,} reviews is uncertain by +-{of_reviews:.2f} '
        'points through the choice of the reviews alone, and the difference by an estimated '
        f'+-{gap["reviews"]:.2f}, however many the seeds; {effect:g} points are '
        f'{effect / 100 * reviews:.1f} reviews.'
    )


# The report: a table is a list of columns, each a heading and a function of a row

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


def join_distinct(values):
    """Each different value once: 'a / b'."""
    return ' / '.join(sorted({str(value or 'unknown') for value in values}))


def introduce(groups):
    """The headline, and a sentence on the runs."""
    runs = []
    for group in groups:
        runs += group.runs
    minutes = sum(run.seconds for run in runs) / 60
    dataset = join_distinct(run.dataset for run in runs)
    epochs = join_distinct(run.epochs for run in runs)
    hardware = join_distinct(run.config.get('hardware') for run in runs)
    commit = join_distinct(run.config.get('commit') for run in runs)
    return [
        f'# {" and ".join(markdown(group.label) for group in groups)} on {markdown(dataset)}',
        f'{len(runs)} runs of {epochs} epochs, together {minutes:,.0f} minutes, on '
        f'{markdown(hardware)}, commit {markdown(commit)}.',
    ]


def figure_cell(key):
    """row -> its figure of that key, if it has one."""
    return lambda row: f'{row[key]:.2f}' if key in row else ''


def interval_cell(key):
    """row -> its interval of that key; a single run has none, and a paper gives none."""
    def cell(row):
        if key not in row:
            return ''
        if row[key] is None:
            return 'unknown'
        low, high = row[key]
        return f'{low:.2f} to {high:.2f}'
    return cell


def report_accuracy(groups, split):
    """The accuracies of the groups on one split, those of the paper below each."""
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
        ('other seeds and reviews', interval_cell('both')),
        ('at best-val epochs', figure_cell('best')),
    ]
    headline = ': the headline' if split == 'test' else ''
    n = groups[0].accuracy[split]['n']
    return [f'## Accuracy on {split}, % of {n:,} reviews{headline}', grid(columns, rows)]


def mean_text(values, digits):
    """'mean ± half its 95 % interval'; where not all runs have the number, also how many have."""
    known = [value for value in values if value is not None]
    if not known:
        return '-'
    text = f'{np.mean(known):.{digits}f}'
    if len(known) > 1:
        text += f' ± {half_interval(known):.{digits}f}'
    if len(known) < len(values):
        text += f' ({len(known)} of {len(values)})'
    return text


def measure_column(name):
    """A column of `grid` for one measure, whose rows are groups."""
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
    return headings.get(name, name), lambda group: mean_text(group.measures[name], digits)


def report_measures(groups):
    """What the decisions and the probabilities of the groups are worth."""
    decisions = [name for name in groups[0].measures if name not in PROBABILITY_MEASURES]
    blocks = []
    for title, names in (('decisions', decisions), ('probabilities', PROBABILITY_MEASURES)):
        columns = [('', lambda group: group.label), *[measure_column(name) for name in names]]
        blocks.append(f'## The {title} on test: mean of the runs ± half its 95 % interval '
                      'for other seeds')
        blocks.append(grid(columns, groups))
    blocks.append(
        'F1, recall and AUROC in %. Train: as many training reviews as val has, without token '
        'dropout. d loss / d z: its mean norm over val at the first and the last evaluation. '
        'Brier: summed over the classes. ECE: 15 bins; its floor is what perfect calibration would '
        'have on average on so many reviews. Scaled: logits divided by the temperature that is '
        'best on val.')
    return blocks


def answered_by_group(group, least):
    """The share of the answers of all runs on test that have at least this confidence, and how many
    of them are right, both in %; None where there are none."""
    confidence = np.concatenate([run.confidence for run in group.runs])
    correct = np.concatenate(group.correct['test'])
    share, accuracy = answered(confidence, correct, least)
    return 100 * share, None if accuracy is None else 100 * accuracy


def answered_cell(least):
    def cell(group):
        share, accuracy = answered_by_group(group, least)
        return f'{share:.1f}: ' + ('-' if accuracy is None else f'{accuracy:.2f}')
    return cell


def report_abstaining(groups):
    """What is left, and how good it is, if answers that are not sure enough are not given."""
    columns = [('', lambda group: group.label)]
    columns += [(f'at least {100 * least:g} %', answered_cell(least)) for least in CONFIDENCES]
    return [
        '## If only sure answers are given, on test: their share and how many are right, in %',
        grid(columns, groups),
        'By their confidence after temperature scaling, as `predict.py --min_confidence` takes it; '
        'of all runs together.',
    ]


def threshold_cell(split, name):
    """row -> a figure of all runs, see `report_thresholds`."""
    def cell(row):
        values = []
        for by_split in row['figures']:
            value = by_split[split][name]
            if np.ndim(value):  # one a class
                value = value[row['class']]
            values.append(None if np.isnan(value) else value)
        return mean_text(values, 2)
    return cell


def threshold_columns(names):
    """Columns of `grid`, for each figure one on val and one on test."""
    columns = [('', lambda row: row['label'])]
    for name in names:
        columns.append((f'{name}: val', threshold_cell('val', name)))
        columns.append(('test', threshold_cell('test', name)))
    return columns


def another_val_text(values):
    """The middle 95 % of one column of `with_another_val`, as the end of a sentence."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return f'{low:.1f} to {high:.1f} for other seeds and another val'


def judge_f1(group, subject):
    """What thresholds for the best F1 are worth on test, in a sentence."""
    gains = {}
    for split in SPLITS:
        values = []
        for judged in group.judged:
            before = judged.mean_over_classes(judged.without[split], 'F1')
            values.append(judged.mean_over_classes(judged.used[split], 'F1') - before)
        gains[split] = mean_text(values, 2)
    classes = group.judged[0].rarest(None)
    others = with_another_val(group.judged, 'F1', gain=True)[:, classes].mean(1)
    return (f'{subject}: F1 with thresholds minus F1 without is {gains["val"]} points on val, for '
            f'which they were chosen, and **{gains["test"]} on test** '
            f'({another_val_text(others)}).')


def judge_goal(group, subject):
    """How far a precision or recall that was asked for on val holds on test, in a sentence."""
    first = group.judged[0]
    rule = first.thresholds.rule
    means = {}
    for split in SPLITS:
        values = [one.mean_over_classes(one.used[split], rule) for one in group.judged]
        means[split] = mean_text(values, 2)
    others = with_another_val(group.judged, rule)
    over_classes = np.nanmean(others[:, first.rarest(None)], 1)
    text = (f'{subject}: chosen for a {rule} of {100 * first.thresholds.goal:g} % on val, where it '
            f'is {means["val"]}, it is **{means["test"]} on test** '
            f'({another_val_text(over_classes)})')

    # of several classes, a mean can hide one that is far from the goal
    by_class = {}
    for c in first.rarest(None):
        values = np.array([one.used['test'][rule][c] for one in group.judged])
        if not np.isnan(values).any():
            by_class[c] = values
    if len(by_class) > 1:
        least = min(by_class, key=lambda c: by_class[c].mean())
        name = markdown_name(str(group.runs[0].config['classes'][least]))
        text += (f'; lowest there: {name}, {mean_text(by_class[least], 2)} '
                 f'({another_val_text(others[:, least])})')
    return text + '.'


def report_thresholds(group):
    """What the thresholds of a group are, and what the answers are worth with them and without."""
    first = group.judged[0]
    kept = first.thresholds
    used = [judged.used for judged in group.judged]
    without = [judged.without for judged in group.judged]
    rows = []
    for c in first.rarest(SHOWN_CLASSES):
        values = [judged.thresholds.values[c] for judged in group.judged]
        name = group.runs[0].config['classes'][c]
        label = f'{name}, at {mean_text(values, 3)}'
        rows.append({'label': label, 'class': c, 'figures': used})
        rows.append({'label': 'without', 'class': c, 'figures': without})
    all_classes = [{'label': 'with', 'figures': used}, {'label': 'without', 'figures': without}]
    names = ['macro F1', 'micro F1']
    if can_be_unsure(kept, first.multi_label):
        names.append('unsure')

    # what is to be known to read them
    remarks = []
    n_classes = len(first.rarest(None))
    if n_classes > SHOWN_CLASSES:
        remarks.append(f'The classes are the {SHOWN_CLASSES} of {n_classes} that are rarest in '
                       'val.')
    plain = 'labels above 0.5' if first.multi_label else 'the likeliest class'
    remarks.append(f'In %, mean of the runs ± half its 95 % interval for other seeds on these '
                   f'texts; without: {plain}.')
    if n_classes > 1 and not first.multi_label:
        remarks.append('Each was chosen as if its class stood alone; a text has one label, so a '
                       'class that reaches its threshold can lose to another.')
    remarks.append('The thresholds stand in result.json of the runs; `predict.py` and `serve.py` '
                   'use them.')
    subject = f'Mean of {n_classes} classes'
    if n_classes == 1:
        subject = markdown_name(str(group.runs[0].config['classes'][first.rarest(None)[0]]))
    if kept.rule == 'f1':
        goal = 'the best F1'
        verdict = judge_f1(group, subject)
    else:
        goal = f'a {kept.rule} of {100 * kept.goal:g} %'
        verdict = judge_goal(group, subject)
    return [
        f'## Thresholds of {markdown(group.label)}, chosen on val for {goal}',
        verdict,
        grid(threshold_columns(['precision', 'recall', 'F1']), rows),
        grid(threshold_columns(names), all_classes),
        ' '.join(remarks),
    ]


def gap_cell(pair):
    """The interval of the difference in accuracy on test for other seeds and reviews."""
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
        ('other seeds and reviews', gap_cell),
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
        'Differences of the means, with p for other seeds and other reviews (the interval excludes '
        "0 if it is at most .05) and, corrected for the number of groups, Holm's; of the other "
        "measures Holm's alone. Groups of the same seeds are compared seed by seed.",
    ]


def report_baselines(gaps):
    """The differences of groups and baselines, a row a group."""
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
        '## Against what has no seeds, accuracy on test in points',
        grid(columns, list(by_group)),
        'With 95 % intervals for other seeds and other reviews, which are not corrected for their '
        'number. One that holds 0 shows no difference.',
    ]


def report(groups, pairs, gaps, notes, verdict):
    """All of it in tables and sentences: Markdown, which a terminal shows well too."""
    blocks = introduce(groups)
    if notes:
        items = [f'- {markdown(note)}.' for note in notes]
        blocks.append('**Beware:**\n\n' + '\n'.join(items))
    for split in SPLITS:
        blocks += report_accuracy(groups, split)
    together = 'all of which are taken as independent'
    if groups[0].clusters['test'] is not None:
        together = 'where those of a group, such as a movie, are taken together'
    blocks.append(
        'After the last epoch, with 95 % intervals of the mean for other seeds and for other seeds '
        f'and reviews, {together}. Last column: the mean at the best-val epochs; on val too high, '
        'for val chose them.')
    blocks += report_measures(groups)
    blocks += report_abstaining(groups)
    for group in groups:
        if group.judged:
            blocks += report_thresholds(group)

    # sentences on a pair, a table of several
    if len(pairs) > 1:
        blocks += report_many(pairs, verdict)
    elif pairs:
        pair = pairs[0]
        a = markdown(pair.a.label)
        blocks.append(f'## {a} against {markdown(pair.b.label)}')
        blocks += [describe(pair.comparisons[split]) for split in SPLITS]
    if gaps:
        blocks += report_baselines(gaps)
    return '\n\n'.join(blocks) + '\n'


# The page

def load_texts(group):
    """The data set that a group was trained on -> its splits, its meta.json."""
    run = group.runs[0]
    folder = Path(data_dir) / run.dataset
    remedy = (f'make it with: python prepare.py --source=... --name={run.dataset}, '
              'or say with --data_dir=FOLDER where it is')
    if not folder.exists():
        mend_folder(folder)
    if not (folder / 'meta.json').exists():
        fail(f'--page shows the texts that {group.path} answered, and there is no {folder}; '
             f'{remedy}')
    data, meta = load_data(folder)
    if fingerprint(meta) != run.data:
        fail(f'{folder} is not the data that {group.path} was trained on, and --page shows its '
             f'texts; {remedy}')
    return data, meta


def read_probs(run):
    """What a run said of val and then test: its probabilities as trained and temperature-scaled,
    each float64 [N, classes]."""
    head = make_head(**run.config | {'n_embd': 1})
    with np.load(Path(run.folder) / 'preds.npz') as preds:
        logits = np.concatenate([preds['val_logits'], preds['test_logits']])
    logits = torch.from_numpy(logits).double()
    scaled = head.probs(logits / run.measures['temperature'])
    return head.probs(logits).numpy(), scaled.numpy()


def measure_tokens(run, texts):
    """What each token of these texts is worth to a run -> TokenWorths or, where there are no
    weights, None and the reason."""
    from nanoloss.page import TokenWorths
    folder = Path(run.folder)
    if not (folder / WEIGHTS['last']).exists():
        return None, f'{folder} has no weights; its logs alone are kept'
    try:
        classifier = Classifier(folder)
    except ValueError as error:
        return None, str(error)

    # of many long texts, some of all parts of val will do
    tokens = classifier.tokens(texts)
    cost = sum(len(np.unique(review)) * len(review) for review in tokens)
    tokens = tokens[::math.ceil(cost / MAX_WORTH_TOKENS)]

    n_vocab = classifier.encoding.n_vocab
    counts = np.zeros(n_vocab, np.int64)
    decided = np.zeros(n_vocab, np.int64)
    sums = np.zeros((n_vocab, len(classifier.classes)))
    waiting = []
    n_variants = 0
    for i, review in enumerate(tqdm(tokens, 'tokens', unit=' texts', leave=False)):
        waiting.append(review)
        n_variants += len(np.unique(review)) + 1
        if n_variants < VARIANTS and i < len(tokens) - 1:
            continue
        for kinds, p, without in classifier.leave_out(waiting):
            counts[kinds] += 1
            sums[kinds] += log_odds(p) - log_odds(without)
            if classifier.multi_label:
                decided[kinds] += ((p > 0.5) != (without > 0.5)).any(1)
            else:
                decided[kinds] += p.argmax() != without.argmax(1)
        waiting = []
        n_variants = 0

    ids = np.flatnonzero(counts)
    pieces = []
    for token in ids.tolist():
        piece = classifier.encoding.decode_single_token_bytes(token)
        pieces.append(piece.decode('utf-8', 'replace'))
    worths = TokenWorths(
        n_texts=len(tokens),
        n_val=len(texts),
        ids=ids,
        pieces=pieces,
        counts=counts[ids],
        sums=sums[ids],
        decided=decided[ids],
    )
    return worths, ''


def draw_page(group):
    """What a group gets wrong -> {file name: bytes}, a page and CSVs."""
    from nanoloss.page import Answers, make_page  # needs a package that nothing else here does
    data, meta = load_texts(group)
    encoding = tokenizer(meta['tokenizer']['name'])
    texts = {}
    for split in ('train', 'val', 'test'):
        tokens = data[split].tokens
        texts[split] = [decode(tokens[begin:end], encoding) for begin, end in data[split].spans]

    order = ('val', 'test')
    sizes = [len(texts[split]) for split in order]
    groups = None
    if data['val'].groups is not None:
        groups = np.concatenate([data[split].groups for split in order])
    probs = [read_probs(run) for run in group.runs]
    unscaled = None
    if group.measures['NLL'][0] is not None:  # as trained, these are probabilities
        unscaled = np.stack([before for before, _ in probs])
    known = {}
    for name in PROBABILITY_MEASURES:
        values = group.measures[name]
        known[name] = None if values[0] is None else float(np.mean(values))

    worths, reason = measure_tokens(group.runs[0], texts['val'])
    return make_page(Answers(
        label=group.label,
        dataset=group.runs[0].dataset,
        classes=[str(name) for name in meta['classes']],
        train_texts=texts['train'],
        train_labels=np.array(data['train'].labels),
        texts=texts['val'] + texts['test'],
        splits=np.repeat(order, sizes),
        rows=np.concatenate([np.arange(size) for size in sizes]),
        lengths=np.concatenate([data[split].lengths() for split in order]),
        groups=groups,
        labels=np.concatenate([data[split].labels for split in order]),
        probs=np.stack([after for _, after in probs]),
        unscaled=unscaled,
        correct=np.concatenate([group.correct[split] for split in order], 1),
        accuracy=group.accuracy['test'],
        measures=known,
        drawn='baseline_code' not in group.runs[0].config,
    ), worths, reason)


# Writing

def summarize_run(run):
    """A run for summary.json: all but its arrays and its config."""
    return {
        'folder': run.folder,
        'seed': run.seed,
        'head': run.head,
        'data': run.data,
        'dataset': run.dataset,
        'epochs': run.epochs,
        'seconds': run.seconds,
        'best_epoch': run.best_epoch,
        'last': run.last,
        'best': run.best,
        'measures': run.measures,
    }


def summarize_figures(by_split):
    """Figures of `figures_of` by split for summary.json."""
    summary = {}
    for split, figures in by_split.items():
        summary[split] = {}
        for name, value in figures.items():
            known = np.where(np.isnan(value), None, value)  # JSON has no NaN
            summary[split][name] = known.tolist()
    return summary


def summarize_judged(judged):
    """A run's thresholds and what they do, for summary.json."""
    return {
        **as_json(judged.thresholds),
        'with': summarize_figures(judged.used),
        'without': summarize_figures(judged.without),
    }


def summarize_group(group):
    """A group for summary.json."""
    paper = group.published
    summary = {
        'label': group.label,
        'runs': [summarize_run(run) for run in group.runs],
        'measures': group.measures,
        'answered': {least: answered_by_group(group, least) for least in CONFIDENCES},
        'paper': list(paper.figures.values()) if paper else None,  # in the order of FIGURES
        **group.accuracy,
    }
    if group.judged:
        summary['thresholds'] = [summarize_judged(judged) for judged in group.judged]
    return summary


def summarize_pair(pair):
    """A pair for summary.json."""
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


def summarize(groups, pairs, gaps, notes):
    """All figures of the report and of its runs, for summary.json."""
    return {
        'units': 'accuracy in %, difference in points',
        'effect': effect,
        'notes': notes,
        'groups': [summarize_group(group) for group in groups],
        'pairs': [summarize_pair(pair) for pair in pairs],
        'against_baselines': gaps,
    }


def write_files(folder, files):
    """{name: bytes} -> files in a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_file(folder / name, lambda file, content=content: file.write(content))
    except OSError as error:
        fail(f'{folder}: the table cannot be written there ({error}); give another --out_dir')


def check_arguments(paths):
    """End in `fail` where the command line cannot be meant so."""
    resolved = {path.resolve() for path in paths}
    if not paths or len(resolved) < len(paths):
        fail('name the groups of runs, each once: python evaluate.py out/bce out/ce')
    if len({path.parent for path in resolved}) > 1 and not out_dir:
        fail('the groups lie in different folders; say with --out_dir=FOLDER where the table goes')
    if page and len(paths) > 1:
        fail('--page is of one group; name it alone')
    if effect <= 0:
        fail(f'effect must be above 0, not {effect:g}')
    check_threshold_settings()


def check_threshold_settings():
    """The same for the settings that choose thresholds."""
    if (thresholds != '') + (at_precision != 0) + (at_recall != 0) > 1:
        fail('give one of --thresholds, --at_precision and --at_recall')
    if thresholds not in ('', 'f1', 'none'):
        fail(f"thresholds is 'f1' or 'none', not {thresholds!r}")
    for name, goal in (('at_precision', at_precision), ('at_recall', at_recall)):
        if not 0 <= goal <= 1:
            fail(f'{name} is above 0 and at most 1, such as 0.95, not {goal:g}')
    if threshold_class and not rule_and_goal()[0]:
        fail('threshold_class: also say what for: --thresholds=f1, --at_precision or --at_recall')


def main():
    paths = [Path(folder) for folder in folders]
    check_arguments(paths)
    groups, notes = read_groups(paths, read_published(published))
    notes += judge_thresholds(groups)
    notes += note_differences(groups)
    notes += note_absent_classes(groups[0].runs[0])
    pairs = compare_groups(groups, reference_group(groups))
    if len(pairs) == 1:
        notes += note_small_groups(pairs[0])
    gaps = compare_baselines(groups)
    verdict = verdict_on_all(pairs)
    page_files = draw_page(groups[0]) if page else {}
    text = report(groups, pairs, gaps, notes, verdict)

    # all is computed before anything is written
    summary = summarize(groups, pairs, gaps, notes)
    files = {
        'table.md': text.encode(),
        **draw_figures(groups, one_line(verdict) or 'Accuracy of every run'),
        'summary.json': json.dumps(summary, indent=1, allow_nan=False).encode(),
        **page_files,
    }
    write_files(Path(out_dir or paths[0].resolve().parent), files)
    if thresholds or rule_and_goal()[0]:
        write_thresholds(groups)
    print(text, end='')


if __name__ == '__main__':
    configure(globals(), positional=folders)
    main()
