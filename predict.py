"""A trained run -> labels and probabilities for new texts.

    python predict.py out/bce/seed0 "a text" "another"                 a line for each
    python predict.py out/bce --file=reviews.csv --text=body           CSV: label, a probability for each class, text
    python predict.py out/bce/seed0 --explain "a text"                 which tokens moved the decision
    some-program | python predict.py out/bce/seed0 --format=jsonl      a text a line

Notable:
- A folder of runs (out/bce) is an ensemble: the mean of its seeds' probabilities.
- Probabilities are temperature-scaled (Guo 2017): the logits divided by the number that was best on val.
- What a token is worth is exact: the log-odds of the decision with all of the text, minus those without this token,
  wherever it stands. In a bag that is one count set to 0.
"""
import codecs
import csv
import hashlib
import json
import os
import re
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from config import configure, fail
from model import bfloat16_is_fast, load, make_encoder, pad, parts, shorten, to_bags
from prepare import read_columns, strings, tokenizer

# -----------------------------------------------------------------------------
which = 'last'  # the weights of the last epoch, or of the best on val (best)
file = ''  # a .csv, .tsv, .jsonl or .parquet file of texts
text = 'text'  # its column
format = ''  # text, csv or jsonl; '' is text for texts on the command line, else csv
explain = False  # show the tokens that moved the decision
threads = 0  # CPU threads; 0 leaves the choice to PyTorch
# -----------------------------------------------------------------------------
PART = 8192  # tokens computed at once, as in training
SAME = 'data', 'classes', 'multi_label', 'block_size', 'truncate', 'pos', 'bag', 'tokenizer'  # in all runs of a group


class Classifier:
    """A run's folder, or the folder of a group of runs, as a function from texts to probabilities, on the CPU.

    classes: their names. several: a text may have several labels. id: of these weights. Raises ValueError where there
    is no such run, or no whole one."""

    def __init__(self, folder, which='last'):
        folder = Path(folder)
        single = (folder / 'config.json').exists()
        paths = [folder] if single else sorted(p for p in folder.glob('seed*') if (p / 'result.json').exists())
        if not paths:
            raise ValueError(f'{folder}: there is no finished run, nor seed0, seed1 ... with one; train.py makes them')
        self.models, self.config, digest = [], None, hashlib.sha256()
        for path in paths:
            try:
                self.add(path, which, digest)
            except FileNotFoundError as error:
                raise ValueError(f'{path} is no finished run: {Path(error.filename).name} is missing') from None
            except Exception as error:  # a damaged file can raise anything
                why = f'{type(error).__name__}: {" ".join(str(error).split())}'
                raise ValueError(f'{path} cannot be used ({why})') from None
        self.id = f'{folder.name}-{which}-{digest.hexdigest()[:12]}'

    def add(self, path, which, digest):
        """Read a run; it must be of one kind with those before."""
        config, result = (json.loads((path / name).read_text()) for name in ('config.json', 'result.json'))
        weights = load(path / {'last': 'model.pt', 'best': 'best.pt'}[which])
        here = sum(name.endswith('qkv.weight') for name in weights), *weights['embed.weight'].shape
        if (config['n_layer'], config['vocab_size'], config['n_embd']) != here:  # before memory is taken for them
            raise ValueError('config.json is of other weights')
        model = make_encoder(config).eval()
        model.load_state_dict(weights)
        self.models.append((model, float(result[which]['temperature'])))
        digest.update(json.dumps(result).encode())  # with its seconds, no two runs have the same
        if self.config is None:
            self.config, self.encoding = config, tokenizer(config['tokenizer']['name'])
        for key in SAME:
            if self.config[key] != config[key]:
                raise ValueError(f'its {key} is not that of the others')
        self.classes, self.several = [str(name) for name in config['classes']], config['multi_label']
        p = self.probs(['a text'])
        if p.shape != (1, len(self.classes)) or not np.isfinite(p).all():
            raise ValueError('weights, classes and temperature do not go together')

    def tokens(self, texts):
        """The tokens of each text that are used, int64 [n]; of an empty one, an end of text."""
        size, truncate = self.config['block_size'], self.config['truncate']
        return [np.concatenate(shorten(np.array(tokens or [self.encoding.eot_token]), size, truncate))
                for tokens in self.encoding.encode_ordinary_batch(texts, num_threads=torch.get_num_threads())]

    def batch(self, reviews):
        """Tokens of reviews -> their order by size, and in this order batches of tokens and counts [B, T]."""
        flat, lengths = torch.from_numpy(np.concatenate(reviews)), torch.tensor([len(review) for review in reviews])
        flat, counts, lengths = (to_bags(flat, lengths) if self.config['bag'] and self.config['pos'] == 'none' else
                                 (flat, torch.ones_like(flat), lengths))
        begin, order, batches = lengths.cumsum(0) - lengths, lengths.argsort(), []
        for rows in order.split(256):
            width = min(-(-int(lengths[rows[-1]]) // 8) * 8, self.config['block_size'])
            batches += parts(PART, *pad(flat, counts, begin[rows], lengths[rows], width))
        return order, batches

    @torch.inference_mode()
    def run(self, batches):
        """Batches of tokens and counts -> the mean of the runs' probabilities, float64 [reviews, classes]."""
        low = bfloat16_is_fast() and self.config['dtype'] in ('bfloat16', 'float16')
        with torch.autocast('cpu', torch.bfloat16, enabled=low):
            return torch.stack([model.head.probs(torch.cat([model(*batch) for batch in batches]).double() / temperature)
                                for model, temperature in self.models]).mean(0)

    def probs(self, texts):
        """A list of texts -> float64 [texts, classes]; the rows sum to 1 unless a text may have several labels."""
        if not texts:
            return np.zeros((0, len(self.classes)))
        order, batches = self.batch(self.tokens(texts))
        p = self.run(batches)
        return torch.empty_like(p).index_copy_(0, order, p).numpy()

    def label(self, p):
        """The label of a row of probabilities; the list of its labels where it may have several."""
        if self.several:
            return [name for name, x in zip(self.classes, p) if x > 0.5]
        return self.classes[int(p.argmax())]

    def explain(self, text):
        """A text -> (its probabilities [classes], the name of the likeliest class, [(piece of text, worth)]).

        The worth of a token: the log-odds of that class with all tokens minus those without any of its kind."""
        review, = self.tokens([text])
        _, ((tokens, counts),) = self.batch([review])
        kinds = np.unique(review)
        without = counts * (tokens != torch.from_numpy(kinds)[:, None]) if len(kinds) > 1 else counts
        rows = torch.cat([counts, without])
        p = self.run([(tokens.expand(len(c), -1), c) for c in rows.split(max(1, PART // tokens.shape[1]))])
        top = int(p[0].argmax())
        odds = p[:, top].logit(eps=1e-15)
        worth = dict(zip(kinds.tolist(), (odds[0] - odds[1:]).tolist()))
        decoder = codecs.getincrementaldecoder('utf-8')('replace')  # a token may be a part of a character
        pieces = [(decoder.decode(self.encoding.decode_single_token_bytes(t)), worth[t]) for t in review.tolist()]
        return p[0].numpy(), self.classes[top], pieces


def printable(text):
    """Without what would move a terminal's cursor."""
    return re.sub(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]', '\ufffd', text)


def show(pieces):
    """The pieces of a text: on a terminal coloured, green for the decision, red against it; else the ten strongest."""
    if not sys.stdout.isatty():
        strongest = sorted(dict(pieces).items(), key=lambda item: -abs(item[1]))[:10]
        return '\n'.join(f'    {worth:+.2f}  {piece!r}' for piece, worth in strongest)
    most = max(abs(worth) for _, worth in pieces) or 1
    shades = {True: (194, 157, 114, 77), False: (224, 217, 210, 203)}  # of xterm's 256 colours
    return ''.join(printable(piece) if abs(worth) < most / 20 else
                   f'\033[30;48;5;{shades[worth > 0][min(3, int(4 * abs(worth) / most))]}m{printable(piece)}\033[0m'
                   for piece, worth in pieces)


def read(texts, cache):
    """Yield lists of texts: those given, else those of the file, else the lines of standard input as they come."""
    if texts:
        yield texts
    elif file:
        data = read_columns(Path(file), [text], cache)
        for i in range(0, len(data), 2000):
            yield strings(file, text, data[i:i + 2000][text])
    else:
        lines = (line.rstrip('\r\n') for line in sys.stdin)
        while chunk := list(islice(lines, 1 if sys.stdin.isatty() else 2000)):
            yield chunk


def main(given, cache):
    if not given:
        fail('name a run, or a group of runs: python predict.py out/bce/seed0 "a text"')
    folder, *texts = given
    kind = format or ('text' if texts else 'csv')
    if kind not in ('text', 'csv', 'jsonl'):
        fail(f'format is text, csv or jsonl, not {format!r}')
    if which not in ('last', 'best'):
        fail(f"which is 'last' or 'best', not {which!r}")
    if texts and file:
        fail('give texts or --file, not both')
    torch.set_num_threads(threads if threads > 0 else torch.get_num_threads())
    try:
        classifier = Classifier(folder, which)
    except ValueError as error:
        fail(error)
    table = csv.writer(sys.stdout, lineterminator='\n')
    if kind == 'csv':
        table.writerow(['label', *(f'p_{name}' for name in classifier.classes), 'text'])
    for chunk in read(texts, cache):
        found = [classifier.explain(review) for review in chunk] if explain else [(p,) for p in classifier.probs(chunk)]
        for review, (p, *reasons) in zip(chunk, found):
            label = classifier.label(p)
            joined = ';'.join(label) if classifier.several else label
            if kind == 'csv':
                table.writerow([joined, *(f'{x:.4f}' for x in p), review])
            elif kind == 'jsonl':
                row = {'label': label, 'probs': dict(zip(classifier.classes, np.round(p, 4).tolist())), 'text': review}
                print(json.dumps(row | ({'for': reasons[0], 'worth': reasons[1]} if explain else {})))
            else:
                print(f'{joined or "-"}  {p.max():.3f}  {printable(" ".join(review.split()))[:100]}')
                if explain:
                    print(f'  for {reasons[0]}:\n{show(reasons[1])}')
        sys.stdout.flush()


if __name__ == '__main__':
    given = []
    configure(globals(), positional=given)
    sys.stdin.reconfigure(encoding='utf-8', errors='replace')
    sys.stdout.reconfigure(encoding='utf-8', errors='backslashreplace')
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
            main(given, cache)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
