"""A trained run or an exported model -> labels and probabilities for new texts.

    python -m tools.predict out/bce/seed0 "a text" "another"       a line for each
    python -m tools.predict out/bce --file=reviews.csv --text=body CSV: label, a probability for
                                                                   each class, text
    python -m tools.predict out/bce/seed0 --explain "a text"       which tokens mattered
    some-program | python -m tools.predict model --format=jsonl    one text per line

Notable:
- A folder of runs (out/bce) is an ensemble: the mean of its seeds' probabilities. A folder made by
  tools.export (model) can take its place.
- Probabilities are temperature-scaled on val (Guo 2017).
- Thresholds decide if they have been chosen (tools.thresholds); an ensemble uses the mean of its
  seeds'.
- --explain shows attributions: the decrease of the log-odds of the answer if a token is removed
  from the text.
"""
import csv
import io
import json
import math
import os
import re
import sys
from itertools import islice
from pathlib import Path

import numpy as np

from nanoloss.classifier import TextClassifier
from nanoloss.rows import TextStore
from nanoloss.settings import check_bounds, configure, fail
from nanoloss.sources import join_texts, split_names
from nanoloss.tables import Lines, make_format, read_rows, unit_of

# -----------------------------------------------------------------------------
which = 'last'  # weights of a run: of the last epoch, or of the epoch that is best on val (best)
code = ''  # file of the run's head or trunk, if it is not in model.py; it is executed
file = ''  # a .csv, .tsv, .json, .jsonl or .parquet file of texts
text = 'text'  # column of texts; several, such as title,body, are joined by line breaks
encoding = 'utf-8'  # of the file and of stdin: utf-8, utf-16, cp1252 ...
sep = ''  # separator of the cells in CSV files: ; or | or tab; '': a comma (.tsv: a tab)
quoting = 'auto'  # quotes around CSV cells: auto, minimal (unchecked), none (quotes are text)
format = ''  # of the answers: text, csv or jsonl; '': text for texts on the command line, else csv
explain = False  # show the tokens that mattered
min_confidence = 0.0  # a less confident answer is "unsure"; evaluate.py reports the cost
thresholds = True  # use the thresholds chosen on val, if any (for the last weights)
threads = 0  # CPU threads (0: PyTorch's choice)
# -----------------------------------------------------------------------------
CHUNK_SIZE = 2000  # texts read at once
GREENS = 194, 157, 114, 77  # of a terminal's 256 colours, from pale to strong
REDS = 224, 217, 210, 203


# Texts

def read_file(path, config):
    """Read a file of texts -> `TextStore`. All of it is read before the first answer, so that a
    mistake in its last line does not leave half a file of answers."""
    form = make_format(config.encoding, config.sep, config.quoting)
    columns = split_names(config.text)
    store = TextStore()
    for number, cells in read_rows(path, columns, form, len(columns)):
        if any(isinstance(cell, list) for cell in cells):
            fail(f'{path}, {unit_of(path)} {number}: the text is a list')
        store.append(join_texts(cells))
    return store


def read_stdin(config):
    """Yield the lines of standard input as they come. Fails if one cannot be decoded."""
    form = make_format(config.encoding, config.sep, config.quoting)
    stdin = io.TextIOWrapper(sys.stdin.buffer, form.encoding, 'surrogateescape', newline='')
    lines = Lines(stdin, form.encoding)
    try:
        for line in lines:
            yield line.rstrip('\r\n')
            lines.begin_row()
    except ValueError as error:
        fail(f'standard input: {error}')


def read_texts(texts, config):
    """Yield lists of texts: of the command line, else of the file, else of standard input."""
    if texts:
        yield texts
    elif config.file:
        store = read_file(Path(config.file), config)
        for begin in range(0, len(store), CHUNK_SIZE):
            yield store.read(range(begin, min(begin + CHUNK_SIZE, len(store))))
    else:
        lines = read_stdin(config)
        size = 1 if sys.stdin.isatty() else CHUNK_SIZE
        chunk = list(islice(lines, size))
        while chunk:
            yield chunk
            chunk = list(islice(lines, size))


# Answers

def classify(classifier, texts, explain):
    """Yield for each text its probabilities and, with explain, the explained class and the pieces
    of the text with their attributions; else None for both."""
    if explain:
        for review in texts:
            yield classifier.explain(review)
    else:
        for p in classifier.probs(texts):
            yield p, None, None


def write_csv_row(row):
    # csv.writer does not see that a lone carriage return ends a line
    quoting = csv.QUOTE_ALL if '\r' in ''.join(row) else csv.QUOTE_MINIMAL
    csv.writer(sys.stdout, lineterminator='\n', quoting=quoting).writerow(row)


def joined_label(classifier, p):
    """The label, or all labels, as one string."""
    label = classifier.label(p)
    return ';'.join(label) if classifier.multi_label else label


def write_csv(classifier, text, p, explained, pieces):
    probabilities = [f'{probability:.4f}' for probability in p]
    write_csv_row([joined_label(classifier, p), *probabilities, text])


def write_jsonl(classifier, text, p, explained, pieces):
    rounded = np.round(p, 4).tolist()
    row = {
        'label': classifier.label(p),
        'probs': dict(zip(classifier.classes, rounded)),
        'text': text,
    }
    if pieces is not None:
        row['for'] = explained
        row['worth'] = pieces
    print(json.dumps(row))


def write_text(classifier, text, p, explained, pieces):
    beginning = printable(' '.join(text.split()))[:100]
    probability = p[classifier.explained_class(p)]
    label = printable(joined_label(classifier, p))
    print(f'{label or "-"}  {probability:.3f}  {beginning}')
    if pieces is not None:
        shown = highlighted(pieces) if sys.stdout.isatty() else strongest(pieces)
        print(f'  for {printable(explained)}:\n{shown}')


WRITERS = {'text': write_text, 'csv': write_csv, 'jsonl': write_jsonl}


def printable(text):
    """Replace the characters that would move a terminal's cursor."""
    return re.sub(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]', '\ufffd', text)


def highlighted(pieces):
    """The text in a terminal's colours: green speaks for the answer, red against it."""
    most = max(abs(attribution) for _, attribution in pieces) or 1
    coloured = []
    for piece, attribution in pieces:
        shown = printable(piece)
        if abs(attribution) >= most / 20:
            shades = GREENS if attribution > 0 else REDS
            shade = shades[min(3, int(4 * abs(attribution) / most))]
            shown = f'\033[30;48;5;{shade}m{shown}\033[0m'
        coloured.append(shown)
    return ''.join(coloured)


def strongest(pieces):
    """The ten pieces with the largest attributions, for or against the answer, a line each."""
    attributions = {}
    of_character = 0.0
    for piece, attribution in pieces:
        of_character += attribution
        if piece:  # empty if the token ends within a character
            attributions[piece] = of_character
            of_character = 0.0
    if of_character:  # the text has been truncated within a character
        attributions['\ufffd'] = of_character
    ranked = sorted(attributions.items(), key=lambda item: -abs(item[1]))
    return '\n'.join(f'    {attribution:+.2f}  {piece!r}' for piece, attribution in ranked[:10])


# Command

def main(arguments, config):
    """arguments: a folder, and texts."""
    if not arguments:
        fail('name a run, a group of runs or an exported model: '
             'python -m tools.predict out/bce/seed0 "a text"')
    folder, *texts = arguments
    chosen_format = config.format or ('text' if texts else 'csv')
    if chosen_format not in WRITERS:
        fail(f'format is text, csv or jsonl, not {config.format!r}')
    if texts and config.file:
        fail('give texts or --file, not both')
    check_bounds(config, [(['threads'], 0, math.inf)])
    try:
        classifier = TextClassifier(folder, config.which, config.min_confidence, config.thresholds,
                                    config.code, config.threads)
    except ValueError as error:
        fail(error)

    write = WRITERS[chosen_format]
    chunks = read_texts(texts, config)
    chunk = next(chunks, None)  # a file that cannot be read ends here, before the header
    if chosen_format == 'csv':
        write_csv_row(['label', *(f'p_{name}' for name in classifier.classes), 'text'])
    while chunk:
        for text, answer in zip(chunk, classify(classifier, chunk, config.explain)):
            write(classifier, text, *answer)
        sys.stdout.flush()
        chunk = next(chunks, None)


if __name__ == '__main__':
    arguments = []
    config = configure(globals(), positional=arguments)
    sys.stdout.reconfigure(encoding='utf-8', errors='backslashreplace')
    try:
        main(arguments, config)
    except MemoryError:
        fail('out of memory; give fewer or shorter texts at once')
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
