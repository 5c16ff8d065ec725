"""The tables and figures of runs/language.sh, from the runs in FOLDER (out/language).

    python runs/language.py rates FOLDER      rates/<loss>/<rate>/seed0 -> rates.md, best_rates.txt
    python runs/language.py runs FOLDER       runs/<loss>/seed<k> -> runs.md, runs.png
    python runs/language.py long FOLDER       the same of longer ones, long/ -> long.md, long.png
    python runs/language.py texts RUNS        a loss's runs -> a samples.jsonl in each, 20 texts as
                                              it was trained and 20 at the fitted temperature
    python runs/language.py samples FOLDER    the texts of runs/ and long/ -> samples.md
    python runs/language.py cost FOLDER       what a token of a sample costs -> cost.md
    python runs/language.py tune FOLDER       tune/<reviews>/<start>/<setting>/seed0 -> tune.md
    python runs/language.py trunk FOLDER      trunk/<reviews>/<start>/seed<k> -> trunk.md, trunk.png
    python runs/language.py small FOLDER      runs of a smaller model, small/ -> small.md, small.png
    python runs/language.py small_trunk FOLDER   and classifiers from them -> small_trunk.md, .png

Bits per byte are those of 500 texts of test, or of what the tables say. Intervals are 95 %.
"""
import json
import math
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean

import matplotlib
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from nanoloss.settings import fail  # noqa: E402
from nanoloss.data import load_data, load_unlabelled  # noqa: E402
from nanoloss.figures import COLORS, STYLE  # noqa: E402
from nanoloss.files import write_json_lines  # noqa: E402
from nanoloss.stats import (  # noqa: E402
    calibration_error, confidence_bins, half_interval, interval)
from nanoloss.tokenizer import tokenizer  # noqa: E402
from nanoloss.vocabulary import ngram_keys  # noqa: E402

matplotlib.use('agg')

LOSSES = {  # their names in config/lm_*.py, and what the tables call them
    'ce': 'cross-entropy',
    'ce_positions': 'cross-entropy, learned positions',
    'smooth': 'label smoothing 0.1',
    'squentropy': 'squentropy',
    'square': 'square, k = 1',
    'square_k100': 'square, k = 100',
    'masked': 'cross-entropy of what is left out, as a bag',
}
STARTS = {  # of the classifiers
    'default': "train.py's default, windows and n-grams",
    'none': 'random weights',
    'none_bag': 'random weights, as a bag',
    **LOSSES,
}
PROMPTS = '', 'This film', 'I was', 'The acting', 'If you'
SAMPLES = 4  # texts a prompt


def read_json(path):
    return json.loads(path.read_text())


def finished(folder):
    """The folders of a group's finished runs."""
    return sorted(path.parent for path in folder.glob('seed*/result.json'))


def table(header, rows):
    """Lines of Markdown."""
    lines = ['| ' + ' | '.join(header) + ' |', '| --- ' * len(header) + '|']
    lines += ['| ' + ' | '.join(row) + ' |' for row in rows]
    return '\n'.join(lines) + '\n'


def write(path, text):
    path.write_text(text, 'utf-8')
    print(text, end='')


# 1. The rate of each loss

def rates(folder):
    """The rate at which a loss has the fewest bits per byte after its temperature has been fitted:
    on val and test of imdb_dev, all of which is cut out of the training side."""
    bits = {}
    for path in sorted(folder.glob('rates/*/*/seed0/result.json')):
        loss, rate = path.parts[-4:-2]
        last = read_json(path)['last']
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
    over the texts: [runs, texts].

    A text counts as r + (d - r b) / mean b, by the residual of the ratio (Cochran 1977): a long
    text has many bits, but differs from the others only if it has more of them a byte.
    """
    rows = []
    for run in runs:
        preds = np.load(run / 'preds.npz')
        bits = preds[key] / math.log(2)
        n_bytes = preds['test_bytes']
        ratio = bits.sum() / n_bytes.sum()
        rows.append(ratio + (bits - ratio * n_bytes) / n_bytes.mean())
    return np.array(rows, float)


def distance(bits, of_ce):
    """The mean of the first minus that of the second, both [runs, texts], and its interval: for
    other seeds and other texts or, where there is one run of either, for other texts."""
    found = interval(bits / 100, of_ce / 100)  # which is in points
    if found['both']:
        return found['estimate'], *found['both']
    by_text = bits.mean(0) - of_ce.mean(0)
    half = 1.96 * by_text.std(ddof=1) / math.sqrt(len(by_text))
    return found['estimate'], found['estimate'] - half, found['estimate'] + half


def run_row(loss, runs, of_ce):
    """A loss's row; of_ce: cross-entropy's bits, before and after the temperature."""
    results = [read_json(run / 'result.json')['last'] for run in runs]
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
    """Perplexity before and after the temperature, the distance to cross-entropy, the texts."""
    groups = {}
    for loss in LOSSES:
        found = finished(folder / part / loss)
        if found and loss != 'masked':  # which is asked for other tokens
            groups[loss] = found
    if 'ce' not in groups:
        fail(f'{folder}/{part}/ce: there is no finished run')
    keys = 'test_nll', 'test_nll_scaled'
    of_ce = {key: bits_of_texts(groups['ce'], key) for key in keys}
    header = ['loss (seeds)', 'perplexity', 'bits per byte', 'temperature', 'perplexity after',
              'bits per byte after', 'bits, minus cross-entropy', 'the same after',
              'of it, only temperature']
    rows = [run_row(loss, found, of_ce) for loss, found in groups.items()]
    text = table(header, rows)

    header = ['perplexity of a text, after temperature', '10 %', 'median', '90 %',
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
    """Of each text of test, the perplexity by the mean of the runs' losses."""
    losses = []
    for run in found:
        preds = np.load(run / 'preds.npz')
        losses.append(preds['test_nll_scaled'] / preds['test_tokens'])
    return np.exp(np.mean(losses, 0))


def draw(groups):
    """Bits per byte over the tokens that have been learnt from, and the distribution over texts."""
    figure = Figure(figsize=(9.5, 3.8))
    left, right = figure.subplots(1, 2)
    for color, (loss, found) in zip(COLORS, groups.items()):
        curves = []
        for run in found:
            lines = (run / 'log.jsonl').read_text().splitlines()
            log = [json.loads(line) for line in lines]
            curves.append([row['val_bits_per_byte'] for row in log])
        millions = [row['tokens'] / 1e6 for row in log]
        curve = np.mean(curves, 0)
        if loss == 'ce':
            lowest = curve[-1]
        label = LOSSES[loss]
        if curve[-1] > 1.5 * lowest:  # which would press all others together
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


# 3. What the models write

def texts(folder):
    """The same prompts and seeds for all runs; as trained, and at the fitted temperature. No two
    texts of a run have a seed in common: they would draw the same words."""
    from sample import Sampler
    for run in finished(folder):
        sampler = Sampler(run)
        lines = []
        for kind, temperature in (('as trained', 1.0), ('scaled', sampler.fitted)):
            for i, prompt in enumerate(PROMPTS):
                for seed in range(SAMPLES * i, SAMPLES * (i + 1)):
                    numbers = sampler.sample(sampler.numbers(prompt), seed, temperature)
                    content = b''.join(sampler.bytes_of(number) for number in numbers)
                    lines.append({'kind': kind, 'prompt': prompt, 'seed': seed,
                                  'text': content.decode(errors='replace')})
        write_json_lines(run / 'samples.jsonl', lines)
        print(f'{run}: {len(lines)} texts')


class Trigrams:
    """What judges the samples: trigrams, pairs and single tokens of the training texts, mixed with
    fixed weights. None of the language models is one."""
    WEIGHTS = {1: 0.1, 2: 0.3, 3: 0.6}

    def __init__(self, texts):
        self.n_tokens = sum(map(len, texts))
        self.counts = {size: count(texts, size) for size in (1, 2, 3, 5)}

    def look_up(self, text, size):
        """How often each n-gram of a text comes in the training texts."""
        keys, counts = self.counts[size]
        found = keys_of([text], size)
        places = np.searchsorted(keys, found).clip(max=len(keys) - 1)
        return np.where(keys[places] == found, counts[places], 0)

    def nll(self, text):
        """Nats of the tokens from the third on, [n - 2]."""
        one, two, three = [self.look_up(text, size) for size in (1, 2, 3)]
        p = self.WEIGHTS[1] * (one[2:] + 1) / (self.n_tokens + 100_257)
        p = p + self.WEIGHTS[2] * two[1:] / np.maximum(one[1:-1], 1)
        p = p + self.WEIGHTS[3] * three / np.maximum(two[:-1], 1)
        return -np.log(p)


def keys_of(texts, size):
    """The keys of the n-grams of some texts, each [n] of tokens."""
    lengths = np.array([len(text) for text in texts])
    return ngram_keys(np.concatenate(texts), lengths, (size,))[0]


def count(texts, size):
    return np.unique(keys_of(texts, size), return_counts=True)


def figures_of_texts(texts, judge):
    """Texts as tokens -> [figures]: see `samples`."""
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
    """Figures of the texts, the mean over runs, and those of as many texts of val."""
    data, meta = load_data(ROOT / 'data' / 'imdb')
    encoding = tokenizer()
    learnt = data['train']
    if 'unlabelled' in meta:
        learnt = learnt._replace(labels=None).join(
            load_unlabelled(ROOT / 'data' / 'imdb', meta))
    judge = Trigrams([learnt.tokens[begin:end] for begin, end in learnt.spans])
    n = len(PROMPTS) * SAMPLES
    val = data['val'].take(slice(n))
    real = [val.tokens[begin:min(end, begin + 200)] for begin, end in val.spans]
    rows = [['reviews of val, their first 200 tokens', '', *cells([figures_of_texts(real, judge)])]]
    examples = []
    for part, loss in product(('runs', 'long'), LOSSES):
        found = sorted((folder / part / loss).glob('seed*/samples.jsonl'))
        name = LOSSES[loss] if part == 'runs' else f'{LOSSES[loss]}, longer'
        for kind in ('as trained', 'scaled'):
            by_run = []
            for path in found:
                lines = [json.loads(line) for line in path.read_text().splitlines()]
                lines = [line for line in lines if line['kind'] == kind]
                tokens = [encoding.encode_ordinary(line['prompt'] + line['text'])
                          for line in lines]
                by_run.append(figures_of_texts([np.array(t) for t in tokens], judge))
                if path == found[0]:
                    line = lines[SAMPLES]  # the second prompt's first
                    words = ' '.join((line['prompt'] + line['text']).split())[:300]
                    examples.append(f'- {name}, {kind}: {words}')
            if by_run:
                rows.append([name, kind, *cells(by_run)])
    header = ['texts of', '', 'tokens a text', 'different pairs, %', 'fours said before, %',
              'fives of the training texts, %', 'perplexity under trigrams']
    write(folder / 'samples.md', table(header, rows) + '\n' + '\n'.join(examples) + '\n')


def cells(by_run):
    """The mean of the runs' figures, and half its interval where there are several."""
    found = []
    for values in zip(*by_run):
        text = f'{mean(values):,.1f}'
        if len(values) > 1:
            text += f' ± {half_interval(values):,.1f}'
        found.append(text)
    return found


def cost(folder):
    """Milliseconds a token by its place in the text, with the keys and values of those before it
    kept and without."""
    import torch

    from model import Past
    from sample import Sampler
    sampler = Sampler(finished(folder / 'runs' / 'ce')[0])
    model = sampler.model
    block_size = sampler.config['block_size']
    seconds = {'kept': [], 'not kept': []}
    with torch.inference_mode():
        for _ in range(3):
            past = [Past(block_size) for _ in model.blocks]
            kept = []
            anew = []
            given = torch.zeros(1, block_size, dtype=torch.int64)
            given[0, 1:] = torch.randint(1, sampler.config['known_tokens'], (block_size - 1,))
            for place in range(block_size):
                start = time.perf_counter()
                model.head(model(given[:, place:place + 1], past=past)[:, -1])
                kept.append(time.perf_counter() - start)
                start = time.perf_counter()
                model.head(model(given[:, :place + 1])[:, -1])
                anew.append(time.perf_counter() - start)
            seconds['kept'].append(kept)
            seconds['not kept'].append(anew)
    rows = []
    for begin in range(0, block_size, block_size // 4):
        row = [f'{begin + 1} to {begin + block_size // 4}']
        for times in seconds.values():
            part = np.array(times)[:, begin:begin + block_size // 4]
            row.append(f'{1000 * np.median(part):.2f}')
        rows.append(row)
    header = ['milliseconds a token, by its place', 'keys and values kept', 'not kept']
    threads = f'{torch.get_num_threads()} threads, median\n'
    write(folder / 'cost.md', table(header, rows) + '\n' + threads)


# 4. What a trunk is worth

def tune(folder):
    """Accuracy on val of imdb_dev after the last epoch of each setting that was tried."""
    rows = []
    for run in sorted((folder / 'tune').glob('*/*/*/seed0')):
        size, start, setting = run.parts[-4:-1]
        accuracy = read_json(run / 'result.json')['last']['val']['accuracy']
        rows.append([f'{int(size):,}', STARTS[start], setting.replace('_', ', '),
                     f'{100 * accuracy:.1f}'])
    header = ['labelled reviews', 'trunk of', 'rate', 'accuracy on val of imdb_dev, %']
    write(folder / 'tune.md', table(header, rows))


def trunk(folder, part='trunk'):
    """Accuracy, what the trunk adds to it and how far it is from cross-entropy's, steps to 85 % on
    val and calibration of the classifiers; and a figure of what the trunks add."""
    rows = []
    worth = {}  # {reviews: {loss: what its trunk adds}}
    sizes = sorted((path.name for path in (folder / part).glob('*')), key=int)
    for size in sizes:
        groups = {start: finished(folder / part / size / start) for start in STARTS}
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
                worth.setdefault(size, {})[start] = difference(found, random)
    header = ['labelled reviews', 'trunk of (seeds)', 'accuracy on test, %',
              'minus random weights, points', "minus cross-entropy's trunk, points",
              'steps to 85 % on val', 'calibration error, points']
    write(folder / f'{part}.md', table(header, rows))
    if worth:
        with matplotlib.rc_context(STYLE):
            draw_worth(worth).savefig(folder / f'{part}.png', dpi=110)


def draw_worth(worth):
    """Points of accuracy that each loss's trunk adds to random weights, a panel for each number of
    labelled reviews; worth: {reviews: {loss: what `difference` returns}}."""
    figure = Figure(figsize=(9.5, 2.6))
    panels = figure.subplots(1, len(worth), sharey=True, squeeze=False)[0]
    for panel, (size, by_loss) in zip(panels, worth.items()):
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


def answers_of(run):
    """A classifier's logits on test [reviews], and their labels."""
    preds = np.load(run / 'preds.npz')
    return preds['test_logits'][:, 0].astype(np.float64), preds['test_labels']


def right_of(runs):
    """Which answers of these classifiers on test are right: bool [runs, reviews]."""
    rows = []
    for run in runs:
        logits, labels = answers_of(run)
        rows.append((logits > 0) == labels)
    return np.array(rows)


def in_words(found, sign=''):
    """What `interval` returns: the estimate, and the interval where there is one; '' of nothing."""
    if found is None:
        return ''
    text = f'{found["estimate"]:{sign}.2f}'
    if found['both']:
        low, high = found['both']
        text += f' ({low:{sign}.2f} to {high:{sign}.2f})'
    return text


def difference(runs, others):
    """The `interval` of some classifiers' accuracy minus that of others, or None where there are
    none. Runs of one seed are pairs: they have the same labelled reviews."""
    others = {run.name: run for run in others}
    pairs = [(run, others[run.name]) for run in runs if run.name in others]
    if not pairs:
        return None
    runs, others = zip(*pairs)
    return interval(right_of(runs).astype(float) - right_of(others))


def trunk_row(size, start, found, random, of_ce):
    """The row of a group of classifiers; those from random weights and from cross-entropy's trunk
    that it is held against, if any."""
    steps = []
    errors = []
    for run in found:
        logits, labels = answers_of(run)
        temperature = read_json(run / 'result.json')['last']['temperature']
        p = 1 / (1 + np.exp(-logits / temperature))
        errors.append(calibration_error(confidence_bins(np.stack([1 - p, p], 1), labels)))
        log = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
        reached = [row['step'] for row in log if row['val_acc'] >= 0.85]
        if reached:
            steps.append(reached[0])
    reached = f'{mean(steps):,.0f} ({len(steps)} of {len(found)})' if steps else 'never'
    return [f'{int(size):,}', f'{STARTS[start]} ({len(found)})',
            in_words(interval(right_of(found))), in_words(difference(found, random), '+'),
            in_words(difference(found, of_ce), '+'), reached, f'{mean(errors):.1f}']


PARTS = {'rates': rates, 'runs': runs, 'long': partial(runs, part='long'), 'texts': texts,
         'samples': samples, 'cost': cost, 'tune': tune, 'trunk': trunk,
         'small': partial(runs, part='small'), 'small_trunk': partial(trunk, part='small_trunk')}


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in PARTS:
        fail(f'usage: python runs/language.py {"|".join(PARTS)} FOLDER')
    PARTS[sys.argv[1]](Path(sys.argv[2]))


if __name__ == '__main__':
    main()
