"""A trained run -> labels and probabilities for new texts.

    python predict.py out/bce/seed0 "a text" "another"          a line for each
    python predict.py out/bce --file=reviews.csv --text=body    CSV: label, a probability for each
                                                                class, text
    python predict.py out/bce/seed0 --explain "a text"          which tokens moved the decision
    some-program | python predict.py out/bce/seed0 --format=jsonl      one text per line

Notable:
- A folder of runs (out/bce) is an ensemble: the mean of its seeds' probabilities.
- Probabilities are temperature-scaled (Guo 2017): the logits divided by the number that was best
  on val.
- Where evaluate.py has chosen thresholds, they decide; of an ensemble, the mean of its seeds'.
- What a token is worth is exact: the log-odds of the decision with all of the text, minus those of
  the text without this token, wherever it stands; so its part in pairs and windows counts, too.
"""
import csv
import hashlib
import io
import json
import os
import re
import sys
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import nanoloss  # noqa: F401 (before torch, whose threads it tells how to wait)
import numpy as np
import torch

from model import Encoder, make_encoder
from nanoloss.configure import configure, fail
from nanoloss.data import Split, batches, spans_of
from nanoloss.devices import autocast, bfloat16_is_fast
from nanoloss.files import load_weights
from nanoloss.labels import Labels, Thresholds, kind_of, mean_thresholds, read_thresholds
from nanoloss.reader import Answers, shorten
from nanoloss.rows import TextStore
from nanoloss.sources import join_texts, split_names
from nanoloss.tables import Lines, make_format, read_rows, unit_of
from nanoloss.tokenizer import tokenizer
from nanoloss.vocabulary import Vocabulary

# -----------------------------------------------------------------------------
which = 'last'  # the weights of the last epoch, or of the best on val (best)
file = ''  # a .csv, .tsv, .json, .jsonl or .parquet file of texts
text = 'text'  # its column; several, as title,body, are joined as prepare.py joins them
encoding = 'utf-8'  # of the file and of stdin: utf-8, utf-16, cp1252 ...
sep = ''  # between the cells of a CSV file: ; or | or tab; '': a comma, in .tsv a tab
quoting = 'auto'  # of cells in CSV files: auto, minimal (unchecked), none: " is part of the texts
format = ''  # of the answers: text, csv or jsonl; '': text for texts on the command line, else csv
explain = False  # show the tokens that moved the decision
min_confidence = 0.0  # an answer that is less sure is "unsure"; evaluate.py shows what that costs
thresholds = True  # use those that evaluate.py has chosen, if any; they are of the last weights
threads = 0  # CPU threads; 0 leaves the choice to PyTorch
# -----------------------------------------------------------------------------
WEIGHTS = {'last': 'model.pt', 'best': 'best.pt'}  # the file that a run keeps them in
# what all runs of an ensemble have in common
SAME = 'data', 'classes', 'multi_label', 'block_size', 'truncate', 'pos', 'bag', 'tokenizer'
BATCH_SIZE = 256
MAX_TOKENS = 2048  # computed at once: they fit the caches, and few of them are padding
CHUNK_SIZE = 2000  # texts read at once
GREENS = 194, 157, 114, 77  # of a terminal's 256 colours, from pale to strong
REDS = 224, 217, 210, 203


# From texts to probabilities

class Run(NamedTuple):
    """What is used of a finished run."""
    config: dict
    result: dict
    model: Encoder
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
        raise ValueError('it is a language model, of pretrain.py, not a classifier')
    if not thresholds:
        result.pop('thresholds', None)
    elif 'thresholds' in result and result[which]['epoch'] != result['last']['epoch']:
        raise ValueError('its thresholds are of the last weights; --thresholds=False does without')
    weights = load_weights(folder / WEIGHTS[which])

    # config.json may be damaged: compare before memory is taken for the model that it describes
    n_layer = sum(name.endswith('qkv.weight') for name in weights)
    n_places = max(1, config.get('window', 0))
    n_tokens = config['vocab_size']
    if config.get('known_tokens'):
        n_tokens = config['known_tokens'] + 1
    size = n_layer, *weights['token_embedding.weight'].shape
    same_size = (config['n_layer'], n_tokens, n_places * config['n_embd']) == size
    if not same_size or config.get('known_ngrams', 0) != len(weights.get('ngrams.keys', ())):
        raise ValueError('config.json is of other weights')
    if config['truncate'] not in ('head', 'tail', 'both'):  # only a long text would show it
        raise ValueError(f'truncate is {config["truncate"]!r}')
    model = make_encoder(config).eval()
    model.load_state_dict(weights)
    temperature = float(result[which]['temperature'])
    return Run(config, result, model, temperature, read_thresholds(result, len(config['classes'])))


def vocabulary_of(run):
    """The `Vocabulary` in which a run's training texts were numbered."""
    weights = run.model.state_dict()
    tokens = weights.get('tokens', torch.zeros(0, dtype=torch.int64)).numpy()
    ngrams = weights.get('ngrams.keys', torch.zeros(0, dtype=torch.int64)).numpy()
    return Vocabulary(tokens, ngrams.view(np.uint64), run.config.get('ngrams', 'none'),
                      run.config['block_size'], run.config['truncate'],
                      run.config.get('spell', False))


def equal(a, b):
    """Whether two vocabularies are one."""
    return all(np.array_equal(x, y) for x, y in zip(a, b))


class Classifier(Answers):
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
            self.lower = run.config.get('lower', False)
            self.vocabulary = vocabulary_of(run)
            self.bag = run.config['bag'] and not run.model.ordered
            low_precision = run.config['dtype'] in ('bfloat16', 'float16') and bfloat16_is_fast()
            self.dtype = 'bfloat16' if low_precision else 'float32'
        for key in SAME:
            if run.config[key] != self.config[key]:
                raise ValueError(f'its {key} is not that of the others')
        same_case = run.config.get('lower', False) == self.lower
        if not same_case or not equal(vocabulary_of(run), self.vocabulary):
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
        return batches(split, BATCH_SIZE, self.config['block_size'], self.config['truncate'],
                       self.bag)

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
        parts = []
        with autocast('cpu', self.dtype):  # around all of it: the weights are cast once
            for batch in self.make_batches(tokens):
                for part in batch.parts(MAX_TOKENS):
                    rows.append(part.rows)
                    parts.append(self.mean_probs(part))
        sorted_probs = torch.cat(parts).numpy()
        probs = np.empty_like(sorted_probs)
        probs[np.concatenate(rows)] = sorted_probs
        return probs


# The command

def check_settings(texts):
    """What a word cannot be. Returns the format of the output."""
    chosen = format or ('text' if texts else 'csv')
    if chosen not in WRITERS:
        fail(f'format is text, csv or jsonl, not {format!r}')
    if which not in WEIGHTS:
        fail(f"which is 'last' or 'best', not {which!r}")
    if texts and file:
        fail('give texts or --file, not both')
    return chosen


def read_file(path):
    """Read a file of texts -> `TextStore`. All of it is read before the first answer: a mistake in
    its last line must not end a file of answers half-way."""
    form = make_format(encoding, sep, quoting)
    columns = split_names(text)
    store = TextStore()
    for number, cells in read_rows(path, columns, form, len(columns)):
        if any(isinstance(cell, list) for cell in cells):
            fail(f'{path}, {unit_of(path)} {number}: the text is a list')
        store.append(join_texts(cells))
    return store


def texts_of_stdin():
    """Yield the lines of standard input as they come. Fails at one that cannot be decoded."""
    form = make_format(encoding, sep, quoting)
    stdin = io.TextIOWrapper(sys.stdin.buffer, form.encoding, 'surrogateescape', newline='')
    lines = Lines(stdin, form.encoding)
    try:
        for line in lines:
            yield line.rstrip('\r\n')
            lines.begin_row()
    except ValueError as error:
        fail(f'standard input: {error}')


def read_texts(texts):
    """Yield lists of texts: of the command line, else of the file, else of standard input."""
    if texts:
        yield texts
    elif file:
        store = read_file(Path(file))
        for begin in range(0, len(store), CHUNK_SIZE):
            yield store.read(range(begin, min(begin + CHUNK_SIZE, len(store))))
    else:
        lines = texts_of_stdin()
        size = 1 if sys.stdin.isatty() else CHUNK_SIZE
        chunk = list(islice(lines, size))
        while chunk:
            yield chunk
            chunk = list(islice(lines, size))


def classify(classifier, texts):
    """Yield what `Classifier.explain` returns for each text; with nothing explained if that is not
    asked for."""
    if explain:
        for review in texts:
            yield classifier.explain(review)
    else:
        for p in classifier.probs(texts):
            yield p, '', []


def write_csv_row(row):
    # csv.writer does not see that a lone carriage return ends a line
    quoting = csv.QUOTE_ALL if '\r' in ''.join(row) else csv.QUOTE_MINIMAL
    csv.writer(sys.stdout, lineterminator='\n', quoting=quoting).writerow(row)


def joined_label(classifier, p):
    """The label as one string."""
    label = classifier.label(p)
    return ';'.join(label) if classifier.multi_label else label


def write_csv(classifier, review, p, name, pieces):
    probabilities = [f'{probability:.4f}' for probability in p]
    write_csv_row([joined_label(classifier, p), *probabilities, review])


def write_jsonl(classifier, review, p, name, pieces):
    rounded = np.round(p, 4).tolist()
    row = {
        'label': classifier.label(p),
        'probs': dict(zip(classifier.classes, rounded)),
        'text': review,
    }
    if explain:
        row['for'] = name
        row['worth'] = pieces
    print(json.dumps(row))


def write_text(classifier, review, p, name, pieces):
    beginning = printable(' '.join(review.split()))[:100]
    probability = p[classifier.explained_class(p)]
    label = printable(joined_label(classifier, p))
    print(f'{label or "-"}  {probability:.3f}  {beginning}')
    if explain:
        shown = highlighted(pieces) if sys.stdout.isatty() else strongest(pieces)
        print(f'  for {printable(name)}:\n{shown}')


WRITERS = {'text': write_text, 'csv': write_csv, 'jsonl': write_jsonl}


def printable(text):
    """Without what would move a terminal's cursor."""
    return re.sub(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]', '\ufffd', text)


def highlighted(pieces):
    """The text in a terminal's colours: green speaks for the decision, red against it."""
    most = max(abs(worth) for _, worth in pieces) or 1
    coloured = []
    for piece, worth in pieces:
        shown = printable(piece)
        if abs(worth) >= most / 20:
            shades = GREENS if worth > 0 else REDS
            shade = shades[min(3, int(4 * abs(worth) / most))]
            shown = f'\033[30;48;5;{shade}m{shown}\033[0m'
        coloured.append(shown)
    return ''.join(coloured)


def strongest(pieces):
    """The ten pieces that are worth most, for or against the decision, a line each."""
    worths = {}
    of_character = 0.0
    for piece, worth in pieces:
        of_character += worth
        if piece:  # else a token that ends within a character
            worths[piece] = of_character
            of_character = 0.0
    if of_character:  # the text has been cut within one
        worths['\ufffd'] = of_character
    ranked = sorted(worths.items(), key=lambda item: -abs(item[1]))
    return '\n'.join(f'    {worth:+.2f}  {piece!r}' for piece, worth in ranked[:10])


def main(arguments):
    """arguments: a run and texts."""
    if not arguments:
        fail('name a run, or a group of runs: python predict.py out/bce/seed0 "a text"')
    folder, *texts = arguments
    chosen_format = check_settings(texts)
    if threads > 0:
        torch.set_num_threads(threads)
    try:
        classifier = Classifier(folder, which, min_confidence, thresholds)
    except ValueError as error:
        fail(error)

    write = WRITERS[chosen_format]
    chunks = read_texts(texts)
    chunk = next(chunks, None)  # a file that cannot be read ends here, before the header
    if chosen_format == 'csv':
        write_csv_row(['label', *(f'p_{name}' for name in classifier.classes), 'text'])
    while chunk:
        for review, answer in zip(chunk, classify(classifier, chunk)):
            write(classifier, review, *answer)
        sys.stdout.flush()
        chunk = next(chunks, None)


if __name__ == '__main__':
    arguments = []
    configure(globals(), positional=arguments)
    sys.stdout.reconfigure(encoding='utf-8', errors='backslashreplace')
    try:
        main(arguments)
    except MemoryError:
        fail('out of memory; give fewer or shorter texts at once')
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
