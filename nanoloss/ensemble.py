"""Finished runs as a model in PyTorch: the tokens of texts -> the mean of the runs' probabilities.

nanoloss/classifier.py wraps it as a classifier, and train.py uses it as a teacher.
"""
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from model import HEADS, Classifier, find_class, make_classifier
from nanoloss.data import Split, batches, load_unlabelled, spans_of
from nanoloss.devices import autocast, bfloat16_is_fast, shapes_only
from nanoloss.labels import Thresholds, kind_of, mean_thresholds, read_thresholds
from nanoloss.runs import ADDED, WEIGHTS, load_weights, name_code, upgrade_config
from nanoloss.settings import fail
from nanoloss.text import tokenize, truncated
from nanoloss.tokenizer import decode, tokenizer
from nanoloss.vocabulary import Vocabulary

# settings and facts that all runs of an ensemble share
SAME = ('data', 'classes', 'multi_label', 'always_labelled', 'lower', 'block_size', 'truncate',
        'bag', 'tokenizer')
BATCH_SIZE = 256
MAX_TOKENS = 2048  # per micro-batch: they fit the caches, and few are padding
CHUNK_SIZE = 2000  # texts per call of a teacher


class TrainedRun(NamedTuple):
    """A finished run with its model."""
    config: dict
    result: dict
    model: Classifier
    temperature: float
    thresholds: Thresholds | None


def find_runs(folder):
    """The folder of a run or of a group of runs -> the folders of its finished runs. Raises
    ValueError if there are none."""
    if (folder / 'config.json').exists():
        return [folder]
    runs = [path for path in folder.glob('seed*') if (path / 'result.json').exists()]
    if not runs:
        raise ValueError(f'{folder}: there is no finished run, nor seed0, seed1 ... with one; '
                         'train.py makes them')
    return sorted(runs)


def load_run(folder, which, thresholds, code):
    """A run's folder -> `TrainedRun`; the arguments are those of `Ensemble`.

    Raises FileNotFoundError if the run is not finished, and any exception if a file is damaged."""
    config = json.loads((folder / 'config.json').read_text())
    result = json.loads((folder / 'result.json').read_text())
    if 'tied' in config:
        raise ValueError('it is a language model, not a classifier')
    config = ADDED | name_code(upgrade_config(config), code)
    if not thresholds:
        result.pop('thresholds', None)
    elif 'thresholds' in result and result[which]['epoch'] != result['last']['epoch']:
        raise ValueError('its thresholds were chosen for its last weights; use --thresholds=False')
    if config['truncate'] not in ('head', 'tail', 'both'):  # else only a long text would fail
        raise ValueError(f'truncate is {config["truncate"]!r}')
    weights = load_weights(folder / WEIGHTS[which])

    # config.json may be damaged: compare before allocating the model that it describes
    with shapes_only():
        described = make_classifier(config).state_dict()
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if shapes != {name: tensor.shape for name, tensor in described.items()}:
        raise ValueError('config.json does not fit the weights')
    model = make_classifier(config).eval()
    model.load_state_dict(weights)
    temperature = float(result[which]['temperature'])
    return TrainedRun(config, result, model, temperature,
                      read_thresholds(result, len(config['classes'])))


def vocabulary_of(run):
    """The `Vocabulary` of a run."""
    weights = run.model.state_dict()
    tokens = weights.get('tokens', torch.zeros(0, dtype=torch.int64)).numpy()
    ngrams = weights.get('ngrams.keys', torch.zeros(0, dtype=torch.int64)).numpy()
    return Vocabulary(tokens, ngrams.view(np.uint64), run.config['ngrams'],
                      run.config['block_size'], run.config['truncate'], run.config['spell'])


def equal(a, b):
    """Whether two vocabularies are the same."""
    return all(np.array_equal(x, y) for x, y in zip(a, b))


class Ensemble:
    """A finished run, or the mean of a group of runs, as a function from tokens to probabilities,
    on the CPU: a model of `BaseClassifier`.

    Attributes: id, a name of these weights and thresholds; thresholds, the mean of the runs'.

    folder: of the run or of the group. which: the weights of the last epoch, or of the epoch that
        is best on val (best).
    thresholds: whether to use the thresholds of the runs, if any.
    code: the file of the head or trunk, see `name_code`.
    threads: CPU threads (0: PyTorch's choice).
    Raises ValueError if there is no such run, or if it is unfinished or damaged.
    """

    def __init__(self, folder, which='last', thresholds=True, code='', threads=0):
        if threads:
            torch.set_num_threads(threads)
        folder = Path(folder)
        self.runs = []
        digest = hashlib.sha256()
        for path in find_runs(folder):
            try:
                run = load_run(path, which, thresholds, code)
                self.add(run)
            except FileNotFoundError as error:
                missing = Path(error.filename).name
                raise ValueError(f'{path} is not a finished run: {missing} is missing') from None
            except Exception as error:  # a damaged file can raise anything
                why = f'{type(error).__name__}: {" ".join(str(error).split())}'
                raise ValueError(f'{path} cannot be used ({why})') from None
            # result.json includes the duration, so it identifies a run
            digest.update(json.dumps(run.result).encode())
        self.thresholds = mean_thresholds([run.thresholds for run in self.runs])
        self.id = f'{folder.name}-{which}-{digest.hexdigest()[:12]}'

    def add(self, run):
        """Add a run to the mean. Raises ValueError if it does not match the earlier runs, or if its
        own files contradict each other."""
        if not self.runs:
            self.config = run.config
            self.encoding = tokenizer(run.config['tokenizer']['name'])
            self.classes = [str(name) for name in run.config['classes']]
            self.multi_label = run.config['multi_label']
            self.always_labelled = run.config['always_labelled']
            self.vocabulary = vocabulary_of(run)
            self.bag = run.config['bag'] and not run.model.trunk.ordered
            low_precision = run.config['dtype'] in ('bfloat16', 'float16') and bfloat16_is_fast()
            self.dtype = 'bfloat16' if low_precision else 'float32'
        for key in SAME:
            if run.config[key] != self.config[key]:
                raise ValueError(f'its {key} differs from that of the other runs')
        if not equal(vocabulary_of(run), self.vocabulary):
            raise ValueError('its vocabulary differs from that of the other runs')
        if self.runs and kind_of(run.thresholds) != kind_of(self.runs[0].thresholds):
            raise ValueError('its thresholds are of another kind than those of the other runs; '
                             'choose them for all runs of the group')
        self.runs.append(run)
        p = self.probs_of_tokens(self.tokens(['a text']))
        if p.shape != (1, len(self.classes)) or not np.isfinite(p).all():
            raise ValueError('weights, classes and temperature do not fit each other')

    def tokens(self, texts):
        """The tokens of each text that are used, a list of int64 [n]."""
        rows = tokenize(texts, self.encoding, self.config['lower'], torch.get_num_threads())
        block_size = self.config['block_size']
        return [truncated(np.array(row), block_size, self.config['truncate']) for row in rows]

    def make_batches(self, tokens):
        """The tokens of each text -> an iterator over `Batch`es, the shortest texts first."""
        offsets = np.cumsum([0, *map(len, tokens)])
        split = Split(np.concatenate(tokens), spans_of(offsets), labels=None)
        split = self.vocabulary.encode(split, self.encoding)
        config = SimpleNamespace(block_size=self.config['block_size'], bag=self.bag,
                                 truncate=self.config['truncate'])
        return batches(split, config, BATCH_SIZE)

    @torch.inference_mode()
    def mean_probs(self, batch):
        """The mean of the runs' probabilities, float64 [B, classes]."""
        probs = []
        for run in self.runs:
            with autocast('cpu', self.dtype):
                logits = run.model(batch.tokens, batch.counts, batch.ngrams)
            probs.append(run.model.head.probs(logits.double() / run.temperature))
        return torch.stack(probs).mean(0)

    def probs_of_tokens(self, tokens):
        """A list of the tokens of each text -> float64 [texts, classes]."""
        rows = []
        found = []
        with autocast('cpu', self.dtype):  # casts the weights once for all micro-batches
            for batch in self.make_batches(tokens):
                for micro in batch.micro_batches(MAX_TOKENS):
                    rows.append(micro.rows)
                    found.append(self.mean_probs(micro))
        sorted_probs = torch.cat(found).numpy()
        probs = np.empty_like(sorted_probs)
        probs[np.concatenate(rows)] = sorted_probs
        return probs


# A teacher

def pseudo_label(config, split, meta):
    """Append the unlabelled texts with pseudo-labels from config.teacher -> the split, with
    probabilities as labels, and the teacher's id. Fails if the teacher does not fit the data or the
    head cannot learn from probabilities."""
    if not find_class(config.head, HEADS).soft:
        able = ' or '.join(name for name in HEADS if HEADS[name].soft)
        fail(f'head {config.head} cannot learn from probabilities; take {able}')
    unlabelled = load_unlabelled(Path(config.data_dir) / config.dataset, meta)
    try:
        teacher = Ensemble(config.teacher, thresholds=False, code=config.code)
    except ValueError as error:
        fail(f'teacher: {error}')
    if teacher.classes != [str(name) for name in meta['classes']]:
        fail(f'teacher {config.teacher} has other classes: {", ".join(teacher.classes[:5])}')
    if teacher.config['tokenizer'] != meta['tokenizer']:
        fail(f'teacher {config.teacher} has another tokenizer')

    probs = []
    for start in tqdm(range(0, len(unlabelled.spans), CHUNK_SIZE), 'pseudo-label', leave=False,
                      unit_scale=CHUNK_SIZE, disable=None):
        spans = unlabelled.spans[start:start + CHUNK_SIZE]
        texts = [decode(unlabelled.tokens[a:b], teacher.encoding) for a, b in spans]
        probs.append(teacher.probs_of_tokens(teacher.tokens(texts)))
    unlabelled = unlabelled._replace(labels=np.concatenate(probs).astype(np.float32))
    # the labelled texts keep their labels
    labels = split.labels if meta['multi_label'] else np.eye(len(meta['classes']))[split.labels]
    return split._replace(labels=labels.astype(np.float32)).join(unlabelled), teacher.id
