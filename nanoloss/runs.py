"""Read finished runs and groups of runs, written by any version of the code: their files, their
answers and their weights.

A group is a folder of runs that differ only in their seed, in one of two forms:

- written by train.py: a folder seed<k> per run, see `RunFolder`
- packed by tools.pack, as in results/: runs.jsonl and, if single answers are kept, answers.npz for
  all runs, see `PackedRun`
"""
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nanoloss import is_out_of_memory
from nanoloss.files import load_checked
from nanoloss.labels import decide
from nanoloss.settings import fail

WEIGHTS = {'last': 'model.pt', 'best': 'best.pt'}  # a run's files of weights
SPLITS = ('test', 'val')  # in the order of reports

# settings of the trunks before they were classes, with their original defaults
OLD_TRANSFORMER = {'n_layer': 2, 'n_head': 4, 'n_embd': 128, 'pos': 'none', 'causal': False,
                   'dropout': 0.0}
OLD_WINDOWS = {'window': 3, 'n_embd': 256, 'dropout': 0.5}
# removed settings, with the values that the code now has as constants
REMOVED = {'keep_frac': 1.0, 'oversample': False, 'bias': True, 'pool': 50, 'beta1': 0.9,
           'beta2': 0.99, 'min_lr': 0.0, 'decay_lr': True}
# settings that older runs lack, with the values they had in effect
ADDED = {'embedding_rate': 0.0, 'tune': 0, 'always_labelled': False}
# removed heads of one experiment, and the heads with the same probabilities
OLD_HEADS = {'bce_matched': 'bce', 'ce_nudged': 'ce'}


# Older versions, and weights

def upgrade_config(config):
    """Rename the settings in a classifier's config.json of an older version. Other configs stay.

    A removed setting stays if its value differs from the constant in `REMOVED`.
    """
    if 'trunk' in config or is_baseline(config) or 'tied' in config:
        return config
    trunk = 'windows' if config.get('window') else 'transformer'
    settings = OLD_WINDOWS if trunk == 'windows' else OLD_TRANSFORMER
    gone = ('window', 'pooling', 'compile', 'at_once', 'code', *OLD_TRANSFORMER)
    kept = {}
    for key, value in config.items():
        if key not in gone and not (key in REMOVED and value == REMOVED[key]):
            kept[key] = value
    kept |= {key: config.get(key, default) for key, default in settings.items()}

    # these models no longer exist, but their weights might fit a trunk: give it an unknown name
    pooling = config.get('pooling', 'mean')
    if trunk == 'windows' and config.get('n_layer'):
        trunk = 'windows with layers'
    elif pooling != ('max' if trunk == 'windows' else 'mean'):
        trunk = f'{trunk} with {pooling} pooling'
    known = {'known_tokens': 0, 'known_ngrams': 0, 'ngrams': 'none', 'lower': False, 'spell': False}
    kept = {**known, **kept, 'trunk': trunk}
    kept['full_vocab'] = not kept['known_tokens']
    kept['head'] = OLD_HEADS.get(kept['head'], kept['head'])
    return kept


def name_code(config, code):
    """Take a run's head and trunk from the files in `code` if model.py lacks them -> a copy of its
    config.

    config: from `upgrade_config`. code: a Python file, or several as a.py,b.py, which will be
    executed; '': none. Raises ValueError if the run needs a file that `code` lacks, since a run's
    folder must not decide which programs are executed.
    """
    files = {Path(path).name: path for path in code.split(',')}
    named = dict(config)
    for kind in ('trunk', 'head'):
        path, colon, class_name = config[kind].rpartition(':')
        if not colon:  # a class of model.py
            continue
        file = Path(path).name
        if file not in files:
            raise UnnamedCodeError(f'its {kind} is {class_name} of {path}; if you trust that file, '
                                   f'name it, since it will be executed: --code={path}')
        named[kind] = f'{files[file]}:{class_name}'
    return named


def upgrade_weights(weights):
    """Rename weights of an older classifier or a language model, and add those that it lacks -> a
    Classifier's state_dict."""
    upgraded = {}
    if 'ngrams.sums.weight' in weights and 'mix' not in weights:  # the two parts were added
        import torch  # here, because importing it takes a second, which some scripts save
        n_outputs = weights['ngrams.sums.weight'].shape[1]
        upgraded |= {'ngrams.bias': torch.zeros(n_outputs), 'mix': torch.ones(2)}
    if any(name.startswith('trunk.') for name in weights):
        return weights | upgraded
    for name, weight in weights.items():
        if not name.startswith(('head.', 'ngrams.')) and name != 'tokens':
            name = name.replace('embed.weight', 'token_embedding.weight')
            name = 'trunk.' + name.removeprefix('windows.')
        upgraded[name] = weight
    return upgraded


def is_baseline(config):
    """Whether tools/baseline.py made a run, from its config.json."""
    return 'sklearn' in config


def load_weights(path, device='cpu'):
    """A Classifier's state_dict from model.pt or best.pt. Raises as `load_checked` does."""
    weights = load_checked(path, device)
    if not isinstance(weights, dict):
        raise ValueError(f'{path} holds no weights')
    return upgrade_weights(weights)


def load_trunk(config, meta):
    """Load the weights of config.init_from, or None if it is ''. Fails if there are none, or if
    their tokenizer or settings differ from those of the data (meta) and the config."""
    if not config.init_from:
        return None
    path = Path(config.init_from)
    if path.is_dir():
        path = path / 'model.pt'
    described = path.with_name('config.json')
    try:
        weights = load_weights(path)
    except (ValueError, OSError) as error:
        fail(error)
    other = {}
    if described.is_file():
        try:
            other = upgrade_config(json.loads(described.read_text()))
        except (ValueError, TypeError, AttributeError, KeyError, OSError) as error:
            fail(f'{described} is damaged ({error})')
    for name in ('n_head', 'lower', 'causal', 'spell'):  # the shapes of weights do not show these
        own = getattr(config, name, None)  # None: this trunk has no such setting
        if own is not None and name in other and other[name] != own:
            fail(f'{path} does not fit: its {name} is {other[name]}, here it is {own}; a language '
                 'model needs config/finetune.py')
    if other.get('tokenizer', meta['tokenizer']) != meta['tokenizer']:
        fail(f'{path} does not fit: it has another tokenizer')
    if config.spell and 'tokens' not in weights:
        fail(f'{path} does not fit: it has no tokens to spell others with')
    return weights


def copy_trunk(model, weights):
    """Copy the trunk's weights from another Classifier's state_dict. Raises ValueError if they do
    not fit."""
    tokens = model.state_dict().get('tokens')
    if tokens is not None and not ('tokens' in weights and tokens.equal(weights['tokens'])):
        raise ValueError('it knows other tokens')
    trunk = {}
    for name, weight in model.trunk.state_dict().items():
        found = weights.get(f'trunk.{name}')
        if found is None:
            raise ValueError(f'it has no {name}')
        if found.shape != weight.shape:
            raise ValueError(f'its {name} is {tuple(found.shape)}, '
                             f'but this model has {tuple(weight.shape)}')
        trunk[name] = found
    model.trunk.load_state_dict(trunk)


# The files of a group, in either form

def is_language_model(config):
    """Whether lm/pretrain.py made a run, from its config.json."""
    return 'tied' in config


class UnnamedCodeError(ValueError):
    """A run needs a file of code that the user has not named."""


class RunFolder:
    """The files of a run in a folder of its own.

    path: of the folder. config, result: the content of config.json and result.json, dicts. log: a
    dict per line of log.jsonl. samples: a dict per line of samples.jsonl, which a language model
    may have, or None.
    arrays: preds.npz, {name: array}: for each split <split>_labels int [N] or, if texts have
    several labels, 0 and 1 [N, classes]; <split>_logits float16 [N, outputs]; <split>_groups [N] if
    the data has document groups.

    Attributes are read on access, which raises an exception of any kind if a file is damaged.
    """
    measures = None  # see `PackedRun`

    def __init__(self, path):
        self.path = Path(path)

    def is_finished(self):
        """Whether the run has ended."""
        return (self.path / 'result.json').exists()

    def read_lines(self, name):
        lines = (self.path / name).read_text('utf-8').splitlines()
        return [json.loads(line) for line in lines]

    @property
    def config(self):
        return json.loads((self.path / 'config.json').read_text('utf-8'))

    @property
    def result(self):
        return json.loads((self.path / 'result.json').read_text('utf-8'))

    @property
    def log(self):
        return self.read_lines('log.jsonl')

    @property
    def samples(self):
        if not (self.path / 'samples.jsonl').exists():
            return None
        return self.read_lines('samples.jsonl')

    @property
    def arrays(self):
        with np.load(self.path / 'preds.npz') as preds:
            return dict(preds)


class PackedRun:
    """A run of a packed group, with the attributes of a `RunFolder`.

    path: results/NAME/seed0, a name only, since no such folder exists.
    arrays: may have <split>_correct, bool [N], which answers are right, instead of <split>_logits.
    Empty if no single answers are kept.
    measures: {name: value or None}, the measures of logits that are not kept, see `stats.measure`;
    None if the logits are kept.
    """

    def __init__(self, group, row, index):
        self.path = group.path / row['name']
        self.config = row['config']
        self.result = row['result']
        self.log = row['log']
        self.samples = row.get('samples')
        self.measures = row.get('measures')
        self.group = group
        self.index = index

    def is_finished(self):
        """True, because tools.pack leaves out unfinished runs."""
        return True

    @property
    def arrays(self):
        return {name: self.group.array_of(name, self.index) for name in self.group.answers}


class PackedGroup:
    """A folder with runs.jsonl and answers.npz. Raises an exception of any kind if it is damaged.

    runs.jsonl: a line per run, {name, config, result, log} and, if there are any, samples and
    measures. answers.npz holds arrays as preds.npz does, all runs together:

    - <split>_labels, _groups, _tokens and _bytes are the same for all runs, and are stored once
    - <split>_correct is a bit per text: uint8 [runs, ceil(N / 8)]
    - all others are floats [runs, ...], split into bytes, uint8 [bytes of a float, runs, ...]: the
      first bytes of all floats come first, and so on, because similar bytes compress better
    """
    SHARED = ('_labels', '_groups', '_tokens', '_bytes')

    def __init__(self, path):
        self.path = path
        lines = (path / 'runs.jsonl').read_text('utf-8').splitlines()
        rows = [json.loads(line) for line in lines]
        self.answers = {}
        if (path / 'answers.npz').exists():
            with np.load(path / 'answers.npz') as answers:
                self.answers = dict(answers)
        self.runs = [PackedRun(self, row, i) for i, row in enumerate(rows)]

    def array_of(self, name, index):
        """An array of one run."""
        array = self.answers[name]
        if name.endswith(self.SHARED):
            return array
        if name.endswith('_correct'):
            n = len(self.answers[name.replace('_correct', '_labels')])
            return np.unpackbits(array[index], count=n).astype(bool)
        of_run = np.ascontiguousarray(np.moveaxis(array[:, index], 0, -1))
        return of_run.view(f'<f{len(array)}')[..., 0]


def stored_runs(folder):
    """A group's folder -> all its runs in the order of their seeds: `PackedRun`s or `RunFolder`s.
    Fails if a packed group is damaged."""
    folder = Path(folder)
    runs = []
    if (folder / 'runs.jsonl').exists():
        try:
            runs = PackedGroup(folder).runs
        except Exception as error:  # a damaged file can raise anything
            if is_out_of_memory(error):
                raise
            fail(f'{folder} is damaged ({type(error).__name__}: {error})')
    runs += [RunFolder(path) for path in folder.glob('seed*') if path.is_dir()]
    return sorted(runs, key=lambda run: (len(run.path.name), run.path.name))


def finished_runs(folder):
    """The finished runs of `stored_runs`."""
    return [run for run in stored_runs(folder) if run.is_finished()]


# A finished classifier

@dataclass
class Run:
    """A finished run of a classifier. Accuracies are in %; a dict by split has test and val.

    If single answers are not kept, labels, groups, logits and correct are None. If only their
    correctness is kept, logits is None.
    """
    folder: str
    config: dict
    result: dict
    log: list               # a dict per evaluation
    seed: int
    data: str               # the fingerprint of the data
    dataset: str
    head: object            # a head of model.py, for its `probs`; its weights are untrained
    always_labelled: bool   # see `decide`
    labels: dict            # by split: int [N] or, if texts have several labels, [N, classes]
    groups: dict            # by split: the document group of each text, [N], or None
    logits: dict            # by split: float16 [N, outputs], of the last epoch
    correct: dict           # by split: bool [N], of the last epoch
    n: dict                 # by split: number of texts
    n_correct: dict         # by split: how many of them are classified correctly
    best: dict              # by split: accuracy after the best epoch on val
    best_epoch: float       # 2.5 if the run is evaluated twice an epoch
    measures: dict          # see `stats.measure`; stored if the logits are not kept, else None
    epochs: int
    seconds: float
    curve: np.ndarray       # [evaluations, 3]: epoch, accuracy on train and on val

    @property
    def last(self):
        """By split: accuracy after the last epoch."""
        return {split: 100 * (self.n_correct[split] / self.n[split]) for split in SPLITS}

    @property
    def drawn(self):
        """Whether another seed gives another run. A baseline on all texts does not use its seed."""
        return not is_baseline(self.config) or self.config.get('n_train', 0) > 0

    @property
    def multi_label(self):
        """Whether a text may have several labels."""
        return self.labels['val'].ndim == 2

    @cached_property
    def temperature(self):
        """The temperature that is best on val, from result.json. Runs of the first versions lack
        it, so it is fitted here."""
        if 'temperature' in self.result['last']:
            return self.result['last']['temperature']
        import torch

        from nanoloss.stats import fit_temperature  # importing scipy takes a second
        labels = torch.from_numpy(self.labels['val'].astype(np.int64))
        return fit_temperature(self.head.probs, torch.from_numpy(self.logits['val']), labels)

    def probs(self, split, temperature=1.0):
        """Probabilities of the last epoch, float64 [N, classes]."""
        return probs_of(self.head, self.logits[split], temperature)


def probs_of(head, logits, temperature=1.0, dtype='float64'):
    """Logits float16 [N, outputs] -> the head's probabilities, float [N, classes]."""
    import torch  # here, because importing it takes a second, which some scripts save
    logits = torch.from_numpy(logits).to(getattr(torch, dtype))
    return head.probs(logits / temperature).numpy()


def read_head(config, make_head, code):
    """The head of a run, for its `probs`. Raises ValueError if there is no such head, or if its
    file is missing in `code`, see `name_code`."""
    head = OLD_HEADS.get(config['head'], config['head'])
    named = name_code({'head': head, 'trunk': ''}, code)  # its trunk is not used
    changes = {'head': named['head'], 'n_features': 1}
    if is_baseline(config):  # independent classifiers: their probabilities have no such condition
        changes['always_labelled'] = False
    return make_head(**config | changes)


def read_answers(arrays, head, result, always_labelled):
    """The arrays and result.json of a run -> labels, groups, logits, correct: dicts by split.

    always_labelled: see `decide`. Raises ValueError if the counts of correct answers are not those
    of result.json.
    """
    labels = {}
    groups = {}
    logits = {}
    correct = {}
    for split in SPLITS:
        labels[split] = arrays[f'{split}_labels']
        groups[split] = arrays.get(f'{split}_groups')
        if groups[split] is not None and groups[split].shape != labels[split].shape[:1]:
            raise ValueError('preds.npz has other groups than labels')
        if f'{split}_correct' in arrays:
            correct[split] = arrays[f'{split}_correct']
            continue
        logits[split] = arrays[f'{split}_logits']
        # in float32, as train.py counts them
        probs = probs_of(head, logits[split], dtype='float32')
        decisions = decide(probs, labels[split].ndim == 2, always_labelled=always_labelled)
        right = decisions == labels[split]
        correct[split] = right if right.ndim == 1 else right.all(1)
        if not np.isfinite(logits[split]).all():
            raise ValueError(f'preds.npz has {split} logits that are not finite')
    for split in SPLITS:
        counted = f'{correct[split].sum()} of {len(correct[split])} {split} texts right'
        expected = f'{result[split]["correct"]} of {result[split]["n"]} {split} texts right'
        if counted != expected:
            raise ValueError(f'preds.npz has {counted}, result.json {expected}')
    return labels, groups, logits or None, correct


def read_finished_run(stored, config, make_head, code):
    """A finished run and its config -> Run. Raises an exception of any kind if a file is damaged.
    """
    if config['n_class'] != len(config['classes']):
        raise ValueError('config.json has another number of classes than names')
    result = stored.result
    log = stored.log
    curve = [(row['epoch'], 100 * row['train_acc'], 100 * row['val_acc']) for row in log]
    head = read_head(config, make_head, code)
    always_labelled = (ADDED | config)['always_labelled']
    last = {split: result['last'][split] for split in SPLITS}
    arrays = stored.arrays
    labels = groups = logits = correct = None
    if arrays or isinstance(stored, RunFolder):
        labels, groups, logits, correct = read_answers(arrays, head, last, always_labelled)
    return Run(
        folder=str(stored.path),
        config=config,
        result=result,
        log=log,
        seed=int(config['seed']),
        data=config['data'],
        dataset=config['dataset'],
        head=head,
        always_labelled=always_labelled,
        labels=labels,
        groups=groups,
        logits=logits,
        correct=correct,
        n={split: int(last[split]['n']) for split in SPLITS},
        n_correct={split: int(last[split]['correct']) for split in SPLITS},
        best={split: 100 * result['best'][split]['accuracy'] for split in SPLITS},
        best_epoch=result['best']['epoch'],
        measures=stored.measures,
        epochs=int(log[-1]['epoch']),
        seconds=float(result['seconds']),
        curve=np.array(curve),
    )


def read_run(stored, make_head, code=''):
    """A `RunFolder` or `PackedRun` -> Run. Raises ValueError with the reason if it is unusable.

    make_head: the function in model.py, which this module does not import. code: see `name_code`.
    """
    if not stored.is_finished():
        raise ValueError('is not finished (it has no result.json)')
    try:
        config = stored.config
        if not is_language_model(config):
            return read_finished_run(stored, config, make_head, code)
    except UnnamedCodeError:
        raise
    except Exception as error:  # a damaged file can raise anything; the other runs still count
        if is_out_of_memory(error):
            raise
        message = ' '.join(str(error).split())
        raise ValueError(f'is damaged ({type(error).__name__}: {message})') from error
    raise ValueError('is a language model, not a classifier')


def read_runs(folder, make_head, code=''):
    """A group's folder -> its finished runs, one per seed, in order, and a note on each run that is
    left out. Fails if there is none. make_head, code: see `read_run`."""
    folder = Path(folder)
    if (folder / 'config.json').exists():
        parent = folder.resolve().parent.name
        fail(f'{folder} is a single run; give the folder that holds it, {parent}')
    found = stored_runs(folder)
    if not found:
        groups = {str(path.parent) for path in folder.glob('*/seed*')}
        groups |= {str(path.parent) for path in folder.glob('*/runs.jsonl')}
        hint = f'; did you mean {" ".join(sorted(groups))}?' if groups else ''
        fail(f'{folder}: there are no runs (seed0, seed1 ...){hint}')

    # a second run with the same seed is a copy, and must not count twice
    runs = {}
    left_out = []
    for stored in found:
        try:
            run = read_run(stored, make_head, code)
            if run.seed in runs:
                raise ValueError(f'has the seed of {runs[run.seed].folder}, {run.seed}')
            runs[run.seed] = run
        except ValueError as error:
            left_out.append(f'{stored.path} {error}; it is left out')
    if not runs:
        fail(f'{folder}: there is no finished run; {"; ".join(left_out)}')
    return [runs[seed] for seed in sorted(runs)], left_out


def check_comparable(runs, first):
    """Fail unless the runs have the same head, and the same data as `first`."""
    for run in runs:
        for other, key in ((runs[0], 'head'), (first, 'data')):
            if run.config[key] != other.config[key]:
                fail(f'{run.folder} and {other.folder} differ in {key}; '
                     'they cannot be compared')
