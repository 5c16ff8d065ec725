"""The tables and figures of runs/language.sh, from the runs in FOLDER (out/language).

    python -m lm.analysis rates FOLDER    rates/<loss>/<rate>/seed0 -> rates.md, best_rates.txt
    python -m lm.analysis runs FOLDER     runs/<loss>/seed<k> -> runs.md, runs.png
    python -m lm.analysis long FOLDER     long/, the longer runs -> long.md, long.png
    python -m lm.analysis texts RUNS      the runs of a loss -> samples.jsonl in each: 20 texts at
                                          temperature 1 and 20 at the fitted temperature
    python -m lm.analysis samples FOLDER  the texts of runs/ and long/ -> samples.md
    python -m lm.analysis cost FOLDER     the time per token of a sample -> cost.md
    python -m lm.analysis tune FOLDER     tune/<texts>/<start>/<setting>/seed0 -> tune.md
    python -m lm.analysis trunk FOLDER    trunk/<texts>/<start>/seed<k> -> trunk.md, trunk.png
    python -m lm.analysis small FOLDER    small/, runs of a smaller model -> small.md, small.png
    python -m lm.analysis small_trunk FOLDER    small_trunk/, classifiers on their trunks ->
                                                small_trunk.md, small_trunk.png

Bits per byte are those of the test texts of a run (500, unless the tables say otherwise). Intervals
are 95 % intervals.
"""
import math
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nanoloss.data import load_data, load_unlabelled
from nanoloss.figures import COLORS, STYLE
from nanoloss.files import write_json_lines
from nanoloss.runs import finished_runs
from nanoloss.settings import fail
from nanoloss.stats import calibration_error, confidence_bins, half_interval, interval
from nanoloss.text import ngram_keys
from nanoloss.tokenizer import tokenizer

matplotlib.use('agg')

LOSSES = {  # the name of the runs' folder, and the name in the tables
    'ce': 'cross-entropy',
    'ce_positions': 'cross-entropy, learned positions',
    'smooth': 'label smoothing 0.1',
    'squentropy': 'squentropy',
    'square': 'square, k = 1',
    'square_k100': 'square, k = 100',
    'masked': 'cross-entropy of masked tokens, as a bag',
}
STARTS = {  # the initial weights of a classifier, and their name in the tables
    'default': "train.py's default, windows and n-grams",
    'none': 'random weights',
    'none_bag': 'random weights, as a bag',
    **LOSSES,
}
PROMPTS = '', 'This film', 'I was', 'The acting', 'If you'
SAMPLES = 4  # texts per prompt


def table(header, rows):
    """Lines of Markdown."""
    lines = ['| ' + ' | '.join(header) + ' |', '| --- ' * len(header) + '|']
    lines += ['| ' + ' | '.join(row) + ' |' for row in rows]
    return '\n'.join(lines) + '\n'


def write(path, text):
    path.write_text(text, 'utf-8')
    print(text, end='')


# 1. The learning rate of each loss

def rates(folder):
    """Choose the learning rate with the fewest bits per byte at the fitted temperature, for each
    loss, on val and test of imdb_dev (which is made from the training side of IMDB alone)."""
    bits = {}
    for group in sorted(folder.glob('rates/*/*')):
        runs = finished_runs(group)
        if not runs:
            continue
        loss, rate = group.parts[-2:]
        last = runs[0].result['last']
        bits.setdefault(loss, {})[rate] = mean(
            last[split]['bits_per_byte_scaled'] for split in ('val', 'test'))
    if not bits:
        fail(f'{folder}/rates: there is no finished run')
    columns = sorted({rate for by_rate in bits.values() for rate in by_rate}, key=float)
    rows = []
    best = {}
    for loss in LOSSES:
        by_rate = bits.get(loss, {})
        if not by_rate:
            continue
        best[loss] = min(by_rate, key=by_rate.get)
        cells = []
        for rate in columns:
            text = f'{by_rate[rate]:.3f}' if rate in by_rate else ''
            cells.append(f'**{text}**' if rate == best[loss] else text)
        rows.append([LOSSES[loss], *cells])
    header = ['bits per byte, after temperature', *columns]
    write(folder / 'rates.md', table(header, rows))
    lines = [f'{loss} {rate}\n' for loss, rate in best.items()]
    (folder / 'best_rates.txt').write_text(''.join(lines))


# 2. The runs

def bits_of_texts(runs, key):
    """Bits per byte of test, r = sum d / sum b with d the bits and b the bytes of a text, as a mean
    over the texts: float64 [runs, texts].

    The value of a text is r + (d - r b) / mean b, with the residual of the ratio (Cochran 1977): a
    long text has many bits, but differs from the others only if it has more bits per byte.
    """
    rows = []
    for run in runs:
        arrays = run.arrays
        bits = arrays[key] / math.log(2)
        n_bytes = arrays['test_bytes']
        ratio = bits.sum() / n_bytes.sum()
        rows.append(ratio + (bits - ratio * n_bytes) / n_bytes.mean())
    return np.array(rows, float)


def distance(bits, of_ce):
    """The mean of the first minus the mean of the second, both [runs, texts], and the limits of its
    interval: for other seeds and other texts or, with one run of either, for other texts only."""
    found = interval(bits / 100, of_ce / 100)  # in points
    if found['both']:
        return found['estimate'], *found['both']
    by_text = bits.mean(0) - of_ce.mean(0)
    half = 1.96 * by_text.std(ddof=1) / math.sqrt(len(by_text))
    return found['estimate'], found['estimate'] - half, found['estimate'] + half


def run_row(loss, runs, of_ce):
    """The row of a loss. of_ce: the bits of cross-entropy, {key of preds.npz: [runs, texts]}, as
    trained and at the fitted temperature."""
    results = [run.result['last'] for run in runs]
    tests = [result['test'] for result in results]
    cells = [
        f'{LOSSES[loss]} ({len(runs)})',
        f'{mean(test["perplexity"] for test in tests):,.0f}',
        f'{mean(test["bits_per_byte"] for test in tests):.3f}',
        f'{mean(result["temperature"] for result in results):.2g}',
        f'{mean(test["perplexity_scaled"] for test in tests):,.0f}',
        f'{mean(test["bits_per_byte_scaled"] for test in tests):.3f}',
    ]
    if loss == 'ce':
        return [*cells, '', '', '']
    gaps = []
    for key, ce in of_ce.items():
        estimate, low, high = distance(bits_of_texts(runs, key), ce)
        gaps.append(estimate)
        cells.append(f'{estimate:+.3f} ({low:+.3f} to {high:+.3f})')
    explained = round(1 - gaps[1] / gaps[0], 2) + 0  # no -0 %
    return [*cells, f'{explained:.0%}']


def runs(folder, part='runs'):
    """Perplexity and bits per byte as trained and at the fitted temperature, the distance to
    cross-entropy, and the distribution over the texts."""
    groups = {}
    for loss in LOSSES:
        found = finished_runs(folder / part / loss)
        if found and loss != 'masked':  # it predicts other tokens
            groups[loss] = found
    if 'ce' not in groups:
        fail(f'{folder}/{part}/ce: there is no finished run')
    keys = 'test_nll', 'test_nll_scaled'
    of_ce = {key: bits_of_texts(groups['ce'], key) for key in keys}
    header = ['loss (seeds)', 'perplexity', 'bits per byte', 'temperature', 'perplexity after',
              'bits per byte after', 'bits minus cross-entropy', 'bits minus cross-entropy, after',
              'explained by temperature']
    rows = [run_row(loss, found, of_ce) for loss, found in groups.items()]
    text = table(header, rows)

    header = ['perplexity per text, after temperature', '10 %', 'median', '90 %',
              'correlation with cross-entropy']
    rows = []
    for loss, found in groups.items():
        by_text = text_perplexities(found)
        tenth, median, most = np.quantile(by_text, [0.1, 0.5, 0.9])
        same = np.corrcoef(np.log(by_text), np.log(text_perplexities(groups['ce'])))[0, 1]
        rows.append([LOSSES[loss], f'{tenth:.0f}', f'{median:.0f}', f'{most:.0f}', f'{same:.3f}'])
    write(folder / f'{part}.md', text + '\n' + table(header, rows))
    with matplotlib.rc_context(STYLE):
        draw(groups).savefig(folder / f'{part}.png', dpi=110)


def text_perplexities(found):
    """The perplexity of each test text, from the mean loss of the runs, at the fitted
    temperature."""
    losses = []
    for run in found:
        arrays = run.arrays
        losses.append(arrays['test_nll_scaled'] / arrays['test_tokens'])
    return np.exp(np.mean(losses, 0))


def draw(groups):
    """Bits per byte by training tokens, and the distribution of the perplexity over texts."""
    figure = Figure(figsize=(9.5, 3.8))
    left, right = figure.subplots(1, 2)
    for color, (loss, found) in zip(COLORS, groups.items()):
        curves = []
        for run in found:
            log = run.log
            curves.append([row['val_bits_per_byte'] for row in log])
        millions = [row['tokens'] / 1e6 for row in log]
        curve = np.mean(curves, 0)
        if loss == 'ce':
            lowest = curve[-1]
        label = LOSSES[loss]
        if curve[-1] > 1.5 * lowest:  # drawing it would flatten all others
            left.plot([], [], '.-', color=color, label=f'{label}: {curve[-1]:.1f} at the end')
        else:
            left.plot(millions, curve, '.-', lw=1, color=color, label=label)
        by_text = np.sort(text_perplexities(found))
        right.plot(by_text, np.linspace(0, 100, len(by_text)), lw=1, color=color)
    left.set(xlabel='million tokens', title='Bits per byte of val, as trained')
    left.legend(fontsize=8)
    right.set(xscale='log', xlabel='perplexity', title='Texts of test up to a perplexity, %, '
              'after temperature')
    return figure


# 3. Texts from the models

def texts(folder):
    """Sample texts from each run, with the same prompts and seeds for all runs, at temperature 1
    and at the fitted one. Each text of a run has its own seed: texts of one seed would share
    words."""
    from lm.sampler import Sampler  # importing torch takes a second
    for run in finished_runs(folder):
        sampler = Sampler(run.path)
        lines = []
        for kind, temperature in (('as trained', 1.0), ('scaled', sampler.fitted)):
            for i, prompt in enumerate(PROMPTS):
                for seed in range(SAMPLES * i, SAMPLES * (i + 1)):
                    tokens = sampler.sample(sampler.encode(prompt), seed, temperature)
                    content = b''.join(sampler.bytes_of(token) for token in tokens)
                    lines.append({'kind': kind, 'prompt': prompt, 'seed': seed,
                                  'text': content.decode(errors='replace')})
        write_json_lines(run.path / 'samples.jsonl', lines)
        print(f'{run.path}: {len(lines)} texts')


class Trigrams:
    """An independent language model that judges the samples: n-grams of one to three tokens of the
    training texts, mixed with fixed weights."""
    WEIGHTS = {1: 0.1, 2: 0.3, 3: 0.6}  # by the size of the n-gram

    def __init__(self, texts):
        self.n_tokens = sum(map(len, texts))
        self.counts = {size: count(texts, size) for size in (1, 2, 3, 5)}

    def look_up(self, text, size):
        """How often each n-gram of a text occurs in the training texts, int64 [n - size + 1]."""
        keys, counts = self.counts[size]
        found = keys_of([text], size)
        places = np.searchsorted(keys, found).clip(max=len(keys) - 1)
        return np.where(keys[places] == found, counts[places], 0)

    def nll(self, text):
        """The negative log-likelihood in nats of each token from the third on, [n - 2]."""
        one, two, three = [self.look_up(text, size) for size in (1, 2, 3)]
        p = self.WEIGHTS[1] * (one[2:] + 1) / (self.n_tokens + 100_257)
        p = p + self.WEIGHTS[2] * two[1:] / np.maximum(one[1:-1], 1)
        p = p + self.WEIGHTS[3] * three / np.maximum(two[:-1], 1)
        return -np.log(p)


def keys_of(texts, size):
    """The keys of the n-grams of texts, a list of arrays of tokens -> uint64 [M]."""
    lengths = np.array([len(text) for text in texts])
    return ngram_keys(np.concatenate(texts), lengths, (size,))[0]


def count(texts, size):
    """The distinct n-grams of texts and how often each occurs."""
    return np.unique(keys_of(texts, size), return_counts=True)


def figures_of_texts(texts, judge):
    """Texts as arrays of tokens -> the columns of the table of `samples`."""
    long = [text for text in texts if len(text) >= 5]
    everything = keys_of(long, 2)
    repeated = []
    copied = []
    for text in long:
        fours = keys_of([text], 4)
        repeated.append(1 - len(np.unique(fours)) / len(fours))
        copied.append((judge.look_up(text, 5) > 0).mean())
    nll = np.concatenate([judge.nll(text) for text in long])
    return [mean(len(text) for text in texts), 100 * len(np.unique(everything)) / len(everything),
            100 * mean(repeated), 100 * mean(copied), math.exp(nll.mean())]


def samples(folder):
    """Figures of the sampled texts, means over runs, and of the same number of texts of val."""
    imdb = Path('data/imdb')
    data, meta = load_data(imdb)
    encoding = tokenizer()
    train = data['train']
    if 'unlabelled' in meta:
        train = train._replace(labels=None).join(load_unlabelled(imdb, meta))
    judge = Trigrams([train.tokens[begin:end] for begin, end in train.spans])
    n = len(PROMPTS) * SAMPLES
    val = data['val'].take(slice(n))
    real = [val.tokens[begin:min(end, begin + 200)] for begin, end in val.spans]
    rows = [['reviews of val, their first 200 tokens', '', *cells([figures_of_texts(real, judge)])]]
    examples = []
    for part, loss in product(('runs', 'long'), LOSSES):
        sampled = [run.samples for run in finished_runs(folder / part / loss) if run.samples]
        name = LOSSES[loss] if part == 'runs' else f'{LOSSES[loss]}, longer'
        for kind in ('as trained', 'scaled'):
            by_run = []
            for all_lines in sampled:
                lines = [line for line in all_lines if line['kind'] == kind]
                tokens = [encoding.encode_ordinary(line['prompt'] + line['text'])
                          for line in lines]
                by_run.append(figures_of_texts([np.array(t) for t in tokens], judge))
                if len(by_run) == 1:
                    line = lines[SAMPLES]  # the first text of the second prompt
                    words = ' '.join((line['prompt'] + line['text']).split())[:300]
                    examples.append(f'- {name}, {kind}: {words}')
            if by_run:
                rows.append([name, kind, *cells(by_run)])
    header = ['texts of', '', 'tokens per text', 'distinct 2-grams, %', 'repeated 4-grams, %',
              '5-grams of the training texts, %', 'perplexity under trigrams']
    write(folder / 'samples.md', table(header, rows) + '\n' + '\n'.join(examples) + '\n')


def cells(by_run):
    """The mean of the runs' figures and, with several runs, half of its interval."""
    found = []
    for values in zip(*by_run):
        text = f'{mean(values):,.1f}'
        if len(values) > 1:
            text += f' ± {half_interval(values):,.1f}'
        found.append(text)
    return found


def cost(folder):
    """Milliseconds per token by its position in the text, with and without keeping the keys and
    values of earlier tokens."""
    import torch  # a second

    from lm.model import KeyValueCache
    from lm.sampler import Sampler
    sampler = Sampler(finished_runs(folder / 'runs' / 'ce')[0].path)
    model = sampler.model
    block_size = sampler.config['block_size']
    seconds = {'kept': [], 'not kept': []}
    with torch.inference_mode():
        for _ in range(3):
            cache = KeyValueCache(block_size)
            kept = []
            not_kept = []
            given = torch.zeros(1, block_size, dtype=torch.int64)
            given[0, 1:] = torch.randint(1, sampler.config['known_tokens'], (block_size - 1,))
            for position in range(block_size):
                start = time.perf_counter()
                model.head(model(given[:, position:position + 1], cache=cache)[:, -1])
                kept.append(time.perf_counter() - start)
                start = time.perf_counter()
                model.head(model(given[:, :position + 1])[:, -1])
                not_kept.append(time.perf_counter() - start)
            seconds['kept'].append(kept)
            seconds['not kept'].append(not_kept)
    rows = []
    for begin in range(0, block_size, block_size // 4):
        row = [f'{begin + 1} to {begin + block_size // 4}']
        for times in seconds.values():
            part = np.array(times)[:, begin:begin + block_size // 4]
            row.append(f'{1000 * np.median(part):.2f}')
        rows.append(row)
    header = ['milliseconds per token, by its position', 'keys and values kept', 'not kept']
    threads = f'{torch.get_num_threads()} threads, median\n'
    write(folder / 'cost.md', table(header, rows) + '\n' + threads)


# 4. Classifiers on the trunks

def tune(folder):
    """Accuracy on val of imdb_dev after the last epoch, for each setting that was tried."""
    rows = []
    for group in sorted((folder / 'tune').glob('*/*/*')):
        runs = finished_runs(group)
        if not runs:
            continue
        size, start, setting = group.parts[-3:]
        accuracy = runs[0].result['last']['val']['accuracy']
        rows.append([f'{int(size):,}', STARTS[start], setting.replace('_', ', '),
                     f'{100 * accuracy:.1f}'])
    header = ['labelled reviews', 'trunk of', 'rate', 'accuracy on val of imdb_dev, %']
    write(folder / 'tune.md', table(header, rows))


def trunk(folder, part='trunk'):
    """Tabulate the classifiers: accuracy, its difference to random weights and to the trunk of
    cross-entropy, steps to 85 % on val, calibration. Draw the differences to random weights."""
    rows = []
    gains = {}  # {labelled texts: {loss: `difference` to random weights}}
    sizes = sorted((path.name for path in (folder / part).glob('*')), key=int)
    for size in sizes:
        groups = {start: finished_runs(folder / part / size / start) for start in STARTS}
        for start, found in groups.items():
            if not found:
                continue
            random = []
            of_ce = []
            if start in LOSSES:
                random = groups['none_bag' if start == 'masked' else 'none']
                of_ce = groups['ce'] if start not in ('ce', 'masked') else []
            rows.append(trunk_row(size, start, found, random, of_ce))
            if start != 'masked' and random:
                gains.setdefault(size, {})[start] = difference(found, random)
    header = ['labelled reviews', 'trunk of (seeds)', 'accuracy on test, %',
              'minus random weights, points', "minus cross-entropy's trunk, points",
              'steps to 85 % on val', 'calibration error, points']
    write(folder / f'{part}.md', table(header, rows))
    if gains:
        with matplotlib.rc_context(STYLE):
            draw_gains(gains).savefig(folder / f'{part}.png', dpi=110)


def draw_gains(gains):
    """Points of accuracy that the trunk of each loss adds to random weights, with a panel for each
    number of labelled texts. gains: {labelled texts: {loss: what `difference` returns}}."""
    figure = Figure(figsize=(9.5, 2.6))
    panels = figure.subplots(1, len(gains), sharey=True, squeeze=False)[0]
    for panel, (size, by_loss) in zip(panels, gains.items()):
        for color, (loss, found) in zip(COLORS, by_loss.items()):
            estimate = found['estimate']
            low, high = found['both'] or (estimate, estimate)
            panel.plot([low, high], [LOSSES[loss]] * 2, color=color, lw=1.5)
            panel.plot(estimate, LOSSES[loss], 'o', color=color)
        panel.axvline(0, color='0.5', lw=1)
        panel.set(xlabel='points that the trunk adds, on test',
                  title=f'{int(size):,} labelled reviews')
    panels[0].invert_yaxis()
    return figure


def correct_of(runs):
    """Which texts of test these classifiers classify correctly: bool [runs, texts]."""
    rows = []
    for run in runs:
        arrays = run.arrays
        if 'test_correct' in arrays:
            rows.append(arrays['test_correct'])
        else:
            rows.append((arrays['test_logits'][:, 0] > 0) == arrays['test_labels'])
    return np.array(rows)


def scaled_calibration_error(run):
    """The calibration error on test of a classifier with one logit, at its fitted temperature."""
    if run.measures:
        return run.measures['ECE, scaled']
    arrays = run.arrays
    logits = arrays['test_logits'][:, 0].astype(np.float64)
    p = 1 / (1 + np.exp(-logits / run.result['last']['temperature']))
    return calibration_error(confidence_bins(np.stack([1 - p, p], 1), arrays['test_labels']))


def in_words(found, sign=''):
    """Format the result of `interval`: the estimate and, if known, its interval. None: ''."""
    if found is None:
        return ''
    text = f'{found["estimate"]:{sign}.2f}'
    if found['both']:
        low, high = found['both']
        text += f' ({low:{sign}.2f} to {high:{sign}.2f})'
    return text


def difference(runs, others):
    """The `interval` of the accuracy of classifiers minus that of others; None if they have no seed
    in common. Runs of the same seed are pairs, because they have the same labelled texts."""
    others = {run.path.name: run for run in others}
    pairs = [(run, others[run.path.name]) for run in runs if run.path.name in others]
    if not pairs:
        return None
    runs, others = zip(*pairs)
    return interval(correct_of(runs).astype(float) - correct_of(others))


def trunk_row(size, start, found, random, of_ce):
    """The row of a group of classifiers. random, of_ce: those from random weights and on the trunk
    of cross-entropy, with which it is compared; may be empty."""
    steps = []
    for run in found:
        reached = [row['step'] for row in run.log if row['val_acc'] >= 0.85]
        if reached:
            steps.append(reached[0])
    errors = [scaled_calibration_error(run) for run in found]
    reached = f'{mean(steps):,.0f} ({len(steps)} of {len(found)})' if steps else 'never'
    return [f'{int(size):,}', f'{STARTS[start]} ({len(found)})',
            in_words(interval(correct_of(found))), in_words(difference(found, random), '+'),
            in_words(difference(found, of_ce), '+'), reached, f'{mean(errors):.1f}']


PARTS = {'rates': rates, 'runs': runs, 'long': partial(runs, part='long'), 'texts': texts,
         'samples': samples, 'cost': cost, 'tune': tune, 'trunk': trunk,
         'small': partial(runs, part='small'), 'small_trunk': partial(trunk, part='small_trunk')}


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in PARTS:
        fail(f'usage: python -m lm.analysis {"|".join(PARTS)} FOLDER')
    PARTS[sys.argv[1]](Path(sys.argv[2]))


if __name__ == '__main__':
    main()
