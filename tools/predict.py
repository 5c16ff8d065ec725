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
from nanoloss.settings import configure, fail
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
