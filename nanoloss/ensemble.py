"""A finished run or a group of runs -> labels and probabilities for texts.

`predict.py`, `serve.py`, the page of errors and the teacher of `train.py` use this class.
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
from nanoloss.devices import autocast, bfloat16_is_fast
from nanoloss.labels import Labels, Thresholds, kind_of, mean_thresholds, read_thresholds
from nanoloss.reader import Answers, shorten
from nanoloss.runs import load_weights, upgrade_config
from nanoloss.settings import fail
from nanoloss.tokenizer import decode, tokenizer
from nanoloss.vocabulary import Vocabulary

WEIGHTS = {'last': 'model.pt', 'best': 'best.pt'}  # the file of a run that holds them
# settings and facts that all runs of an ensemble share
SAME = ('data', 'classes', 'multi_label', 'lower', 'block_size', 'truncate', 'bag', 'tokenizer')
BATCH_SIZE = 256
MAX_TOKENS = 2048  # per micro-batch: they fit the caches, and few are padding
CHUNK_SIZE = 2000  # texts classified at once


class Run(NamedTuple):
    """What is used of a finished run."""
    config: dict
    result: dict
    model: Classifier
    temperature: float
    thresholds: Thresholds | None


def find_runs(folder):
    """A run's folder, or that of a group of runs -> the folders of its finished runs.

    Raises ValueError where there is none."""
    if (folder / 'config.json').exists():
        return [folder]
    runs = [path for path in folder.glob('seed*') if (path / 'result.json').exists()]
    if not runs:
        raise ValueError(f'{folder}: there is no finished run, nor seed0, seed1 ... with one; '
                         'train.py makes them')
    return sorted(runs)


def load_run(folder, which, thresholds):
    """A run's folder -> Run, with its last or its best weights, and with its thresholds or without.

    Raises FileNotFoundError where the run is not finished and, as a damaged file can, anything."""
    config = json.loads((folder / 'config.json').read_text())
    result = json.loads((folder / 'result.json').read_text())
    if 'tied' in config:
        raise ValueError('it is a language model, not a classifier')
    config = upgrade_config(config)
    if not thresholds:
        result.pop('thresholds', None)
    elif 'thresholds' in result and result[which]['epoch'] != result['last']['epoch']:
        raise ValueError('its thresholds are of the last weights; --thresholds=False does without')
    if config['truncate'] not in ('head', 'tail', 'both'):  # only a long text would show it
        raise ValueError(f'truncate is {config["truncate"]!r}')
    weights = load_weights(folder / WEIGHTS[which])

    # config.json may be damaged: compare before allocating the model that it describes
    with torch.device('meta'):
        described = make_classifier(config).state_dict()
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if shapes != {name: tensor.shape for name, tensor in described.items()}:
        raise ValueError('config.json is of other weights')
    model = make_classifier(config).eval()
    model.load_state_dict(weights)
    temperature = float(result[which]['temperature'])
    return Run(config, result, model, temperature, read_thresholds(result, len(config['classes'])))


def vocabulary_of(run):
    """The `Vocabulary` in which a run's training texts were numbered."""
    weights = run.model.state_dict()
    tokens = weights.get('tokens', torch.zeros(0, dtype=torch.int64)).numpy()
    ngrams = weights.get('ngrams.keys', torch.zeros(0, dtype=torch.int64)).numpy()
    return Vocabulary(tokens, ngrams.view(np.uint64), run.config['ngrams'],
                      run.config['block_size'], run.config['truncate'],
                      run.config['spell'])


def equal(a, b):
    """Whether two vocabularies are one."""
    return all(np.array_equal(x, y) for x, y in zip(a, b))


class TextClassifier(Answers):
    """A run, or a folder of runs, as a function from texts to probabilities, on the CPU.

    Of several runs the probabilities are the mean, and so are the thresholds.
    classes: their names. multi_label: a text may have several labels. id: of these weights and the
    thresholds that are used.
    min_confidence: see `Labels`. thresholds: whether to use those of the runs.
    Raises ValueError as `Labels` does, and where there is no such run, or it is unfinished or
    damaged.
    """

    def __init__(self, folder, which='last', min_confidence=0.0, thresholds=False):
        folder = Path(folder)
        self.runs = []
        digest = hashlib.sha256()
        for path in find_runs(folder):
            try:
                run = load_run(path, which, thresholds)
                self.add(run)
            except FileNotFoundError as error:
                missing = Path(error.filename).name
                raise ValueError(f'{path} is no finished run: {missing} is missing') from None
            except Exception as error:  # a damaged file can raise anything
                why = f'{type(error).__name__}: {" ".join(str(error).split())}'
                raise ValueError(f'{path} cannot be used ({why})') from None
            # result.json has the seconds that a run took, so no two runs have the same
            digest.update(json.dumps(run.result).encode())
        chosen = mean_thresholds([run.thresholds for run in self.runs])
        self.labels = Labels(self.classes, self.multi_label, chosen, min_confidence)
        self.id = f'{folder.name}-{which}-{digest.hexdigest()[:12]}'

    def add(self, run):
        """Take a run into the mean. Raises ValueError if it is of another kind than the others."""
        if not self.runs:
            self.config = run.config
            self.encoding = tokenizer(run.config['tokenizer']['name'])
            self.classes = [str(name) for name in run.config['classes']]
            self.multi_label = run.config['multi_label']
            self.lower = run.config['lower']
            self.vocabulary = vocabulary_of(run)
            self.bag = run.config['bag'] and not run.model.trunk.ordered
            low_precision = run.config['dtype'] in ('bfloat16', 'float16') and bfloat16_is_fast()
            self.dtype = 'bfloat16' if low_precision else 'float32'
        for key in SAME:
            if run.config[key] != self.config[key]:
                raise ValueError(f'its {key} is not that of the others')
        if not equal(vocabulary_of(run), self.vocabulary):
            raise ValueError('its vocabulary is not that of the others')
        if self.runs and kind_of(run.thresholds) != kind_of(self.runs[0].thresholds):
            raise ValueError('its thresholds are not of the kind of the others\'; evaluate.py '
                             'chooses them for all runs of a group')
        self.runs.append(run)
        p = self.probs(['a text'])
        if p.shape != (1, len(self.classes)) or not np.isfinite(p).all():
            raise ValueError('weights, classes and temperature do not go together')

    def tokens(self, texts):
        """The tokens that are used of each text, int64 [n]; of an empty one, an end of text."""
        if self.lower:
            texts = [text.lower() for text in texts]
        encoded = self.encoding.encode_ordinary_batch(texts, num_threads=torch.get_num_threads())
        used = []
        for tokens in encoded:
            tokens = np.array(tokens or [self.encoding.eot_token])
            pieces = shorten(tokens, self.config['block_size'], self.config['truncate'])
            used.append(np.concatenate(pieces))
        return used

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
                logits = run.model(batch.tokens, batch.counts, batch.ngrams)[-1]
            probs.append(run.model.head.probs(logits.double() / run.temperature))
        return torch.stack(probs).mean(0)

    def probs_of_tokens(self, tokens):
        """The tokens of each text -> as `probs`."""
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
    """Append the unlabelled texts with the probabilities that config.teacher gives them -> the
    split, whose labels are then probabilities, and the teacher's id. Fails if the teacher does not
    fit the data or the head cannot learn from probabilities."""
    if not find_class(config.head, HEADS).soft:
        able = ' or '.join(name for name in HEADS if HEADS[name].soft)
        fail(f'head {config.head} cannot learn from probabilities; take {able}')
    unlabelled = load_unlabelled(Path(config.data_dir) / config.dataset, meta)
    try:
        classifier = TextClassifier(config.teacher)
    except ValueError as error:
        fail(f'teacher: {error}')
    if classifier.classes != [str(name) for name in meta['classes']]:
        fail(f'teacher {config.teacher} has other classes: {", ".join(classifier.classes[:5])}')
    if classifier.config['tokenizer'] != meta['tokenizer']:
        fail(f'teacher {config.teacher} has another tokenizer')

    probs = []
    for start in tqdm(range(0, len(unlabelled.spans), CHUNK_SIZE), 'pseudo-label', leave=False,
                      unit_scale=CHUNK_SIZE, disable=None):
        spans = unlabelled.spans[start:start + CHUNK_SIZE]
        texts = [decode(unlabelled.tokens[a:b], classifier.encoding) for a, b in spans]
        probs.append(classifier.probs(texts))
    unlabelled = unlabelled._replace(labels=np.concatenate(probs).astype(np.float32))
    # the labelled texts keep their labels
    labels = split.labels if meta['multi_label'] else np.eye(len(meta['classes']))[split.labels]
    return split._replace(labels=labels.astype(np.float32)).join(unlabelled), classifier.id
