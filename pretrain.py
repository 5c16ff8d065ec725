"""text without labels -> a trunk: train a language model on data/<name> -> out/<name>/seed<k>/.

    python pretrain.py config/lm_ce.py                   on IMDB's train and unlabelled reviews
    python pretrain.py config/lm_sample.py               a minute on the sample set
    python pretrain.py config/lm_ce.py --head=squentropy --out_dir=out/lm/other
    torchrun --standalone --nproc_per_node=2 pretrain.py config/lm_ce.py
    python sample.py out/lm/ce/seed0 --prompt="This film"          text from it
    python train.py config/finetune.py --init_from=out/lm/ce/seed0     a classifier from its trunk

Notable:
- It trains on the texts of train and the unlabelled ones, never on those of val or test.
- Texts stand one after another, each begun by an end of text, cut into blocks; in a block, no text
  sees another (`LanguageModel` in model.py).
- Tokens that are rare in these texts are spelled, byte by byte: the output layer is a tenth of the
  tokenizer's vocabulary, and nothing is unknown. What texts cost is told in bits per byte, too,
  which compares across vocabularies.
- Any head is a loss per token. The logits of a step are never held whole (`LossInChunks`).
- With --masked=0.4 it is not the next token that is to be predicted, but those 40 % that each text
  is seen without: the trunk then reads a text in both directions, or as a bag, as train.py's does.
- How a run is saved, goes on and stops is train.py's way, by the same code (nanoloss/loop.py).
"""
import math
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import nanoloss  # noqa: F401 (before torch, whose threads it tells how to wait)
import numpy as np
import torch

from model import head_settings, make_language_model
from nanoloss import loop, parallel
from nanoloss.settings import check_bounds, configure, fail
from nanoloss.data import Split, batches, describe_data, load_data, load_unlabelled
from nanoloss.devices import autocast, peak_memory_mb, reset_peak_memory, synchronize, to_device
from nanoloss.files import write_file, write_json
from nanoloss.graphs import StepGraphs
from nanoloss.loop import Meter, Progress
from nanoloss.optim import (
    AdamW, begin_step, clip_grad_norm, parameter_groups, put_rates_on, scheduled_rate)
from nanoloss.tokenizer import decode, tokenizer
from nanoloss.vocabulary import learn_vocabulary, lower_case

# -----------------------------------------------------------------------------
# a run
out_dir = ''  # gets one folder a run, seed0, seed1, ...; '' is out/lm/ and the config file's name
dataset = 'imdb'  # made by prepare.py
data_dir = 'data'  # the folder of data sets
seed = 0  # of the first run
n_runs = 1  # so many seeds
at_once = 1  # so many of them take turns, a step each; on CUDA they share the GPU
overwrite = False  # throw away what is in a run's folder
eval_interval = 250  # steps between evaluations on val
eval_texts = 100  # of val, that are evaluated then
final_texts = 1000  # of val and of test, at the end
ckpt_secs = 60.0  # seconds after which the state is saved again
tensorboard = False  # what goes into log.jsonl also goes, as curves, into the run's tensorboard/
# model
head = 'ce'  # output layer and loss: a name in model.py's HEADS
lower = False  # texts in lower case
min_count = 0  # tokens that come less often are spelled; 0: a 200,000th of all tokens, at least 2
n_layer = 4
n_head = 4
n_embd = 256
block_size = 256  # tokens that are seen at most
pos = 'none'  # position encoding: none (attention to what came before tells positions) or learned
masked = 0.0  # this share of the tokens is left out and predicted; 0: always the next token is
bias = True  # in linear layers and norms
dropout = 0.0
tied = False  # one matrix for the token embedding and the output layer
# optimizer
max_iters = 3500  # steps
batch_size = 16  # blocks a step
learning_rate = 2e-3  # the highest
min_lr = 0.0  # the last
warmup_iters = 100  # steps from 0 to the highest rate
decay_lr = True  # from there to min_lr by a cosine
weight_decay = 0.1  # of all matrices
beta1 = 0.9
beta2 = 0.99
grad_clip = 1.0  # largest global norm of a gradient; 0: no clipping
# system
device = 'auto'  # cuda, mps or cpu; auto takes the first there is
dtype = 'auto'  # bfloat16, float16, float32 or float64; auto takes the fastest that is safe
max_tokens = 0  # so many of a batch are computed at once; 0: 8192 on CPUs, all on GPUs
graphs = True  # on CUDA, a step is one launch
compile = False  # torch.compile of the trunk
deterministic = False  # the same numbers from the same seed on CUDA too (on the CPU always)
threads = 0  # CPU threads; 0 leaves the choice to PyTorch
# -----------------------------------------------------------------------------
BOUNDS = [  # settings, the lowest value, and what they must be below
    (['n_runs', 'at_once', 'batch_size', 'block_size', 'max_iters', 'eval_interval', 'eval_texts'],
     1, math.inf),
    (['final_texts'], 10, math.inf),
    (['beta1', 'beta2', 'masked'], 0, 1),
    (['seed'], 0, 2 ** 63),
    (['max_tokens', 'warmup_iters', 'learning_rate', 'min_lr', 'min_count', 'weight_decay',
      'grad_clip', 'threads', 'ckpt_secs'], 0, math.inf),
]
# the files whose change makes it another run
CODE = ('pretrain.py', 'model.py', 'nanoloss/data.py', 'nanoloss/devices.py', 'nanoloss/graphs.py',
        'nanoloss/loop.py', 'nanoloss/optim.py', 'nanoloss/parallel.py', 'nanoloss/reader.py',
        'nanoloss/vocabulary.py')
# Adam divides by the gradients' size plus this. A square loss is a mean over the classes: of 13,000
# of them, its gradients are no larger than the usual 1e-8.
EPS = 1e-12
FIT_TOKENS = 10_000  # of val, that the temperature is fitted on
ROWS = 256  # next tokens whose logits are computed at once in an evaluation


# Settings, data and model

def settle_settings(config_files):
    """Replace '', 0 and 'auto' by what they stand for, and prepare the device."""
    global out_dir, device, dtype, max_tokens, graphs
    if not out_dir:
        name = Path(config_files[-1]).stem if config_files else dataset
        out_dir = f'out/lm/{name.removeprefix("lm_")}'
    device, dtype = loop.start_device(device, dtype, threads, deterministic)
    graphs = graphs and loop.can_use_graphs(device, dtype, max_tokens) and not compile
    if max_tokens == 0:
        max_tokens = 8192 if device == 'cpu' else 2 ** 30


def load_texts():
    """The texts to learn from and those of val and test, numbered; the length in bytes of each text
    of val and test; meta.json; and the `Vocabulary` of the numbers."""
    global min_count
    folder = Path(data_dir) / dataset
    data, meta = load_data(folder, labelled=False)
    meta['class_share'] = None  # labels play no part
    texts = {name: split._replace(labels=None) for name, split in data.items()}
    if 'unlabelled' in meta:
        texts['train'] = texts['train'].join(load_unlabelled(folder, meta))
    if len(texts['val'].spans) < 2:
        fail(f'{dataset} has but one text in val; the temperature wants one, the figures another')
    for name in ('val', 'test'):
        texts[name] = texts[name].take(slice(final_texts))
    encoding = tokenizer(meta['tokenizer']['name'])
    if lower:
        texts = {name: lower_case(split, encoding) for name, split in texts.items()}
    n_bytes = {name: bytes_of_texts(texts[name], encoding) for name in ('val', 'test')}
    if min_count == 0:
        min_count = max(2, round(len(texts['train'].tokens) / 200_000))
    # all of a text is learnt from, in as many blocks as it takes
    longest = int(texts['train'].lengths().max())
    vocabulary = learn_vocabulary(texts['train'], encoding, True, 'none', min_count, longest,
                                  'head', spell=True)
    texts = {name: vocabulary.encode(split, encoding) for name, split in texts.items()}
    return texts, n_bytes, meta, vocabulary


def bytes_of_texts(split, encoding):
    """The length of each text in bytes, int64 [texts]."""
    texts = [decode(split.tokens[begin:end], encoding) for begin, end in split.spans]
    return np.array([len(text.encode()) for text in texts])


def make_model(config, vocabulary):
    """A LanguageModel on the device, its weights drawn anew."""
    try:
        model = make_language_model(config)
    except ValueError as error:
        fail(error)
    model.tokens.copy_(torch.from_numpy(vocabulary.tokens))
    return model.to(device, torch.float64 if dtype == 'float64' else None)


# Batches

class Blocks(NamedTuple):
    """A batch: tokens that stand one after another in their texts, and for each the next one."""
    rows: np.ndarray  # int64 [B]: which blocks of the batch
    tokens: torch.Tensor  # int64 [B, block_size]
    next_tokens: torch.Tensor  # int64 [B, block_size]
    gaps: torch.Tensor = None  # int64 [B, n]: columns that are left out and predicted; None: none

    def take(self, rows):
        """The same with these blocks only."""
        gaps = None if self.gaps is None else self.gaps[rows]
        return Blocks(self.rows[rows], self.tokens[rows], self.next_tokens[rows], gaps)

    def left_out(self):
        """Which tokens are, bool [B, block_size], or None."""
        if self.gaps is None:
            return None
        return torch.zeros_like(self.tokens, dtype=torch.bool).scatter(1, self.gaps, True)

    def answers(self, hidden):
        """Hidden states [B, block_size, n_embd] -> those from which a token is to be predicted
        [n, n_embd], and these tokens, int64 [n]."""
        if self.gaps is None:
            return hidden.flatten(0, 1), self.next_tokens.flatten()
        columns = self.gaps[..., None].expand(-1, -1, hidden.shape[-1])
        return hidden.gather(1, columns).flatten(0, 1), self.tokens.gather(1, self.gaps).flatten()

    def parts(self, max_tokens):
        """Yield consecutive parts of at most max_tokens tokens, at least a block each."""
        n_blocks = max(1, max_tokens // self.tokens.shape[1])
        for begin in range(0, len(self.rows), n_blocks):
            yield self.take(slice(begin, begin + n_blocks))


def text_stream(split, order):
    """The texts of these rows one after another, each begun by a 0, and a 0 at the end, [N]."""
    zero = np.zeros(1, split.tokens.dtype)
    pieces = []
    for begin, end in split.spans[order]:
        # an empty text is an end of text by itself
        tokens = split.tokens[begin:end]
        pieces += [zero, tokens[tokens > 0]]
    return np.concatenate([*pieces, zero])


def steps_of_epoch(split):
    """Batches that the texts are good for. Fails where they are too few for one."""
    n_tokens = int((split.tokens > 0).sum()) + len(split.spans)
    steps = n_tokens // (batch_size * block_size)
    if steps == 0:
        fail(f'{dataset} has {n_tokens:,} tokens to learn from, which is less than a batch of '
             f'{batch_size} blocks of {block_size}; try a lower --block_size or --batch_size')
    return steps


def training_batches(split, run_seed, first_step, steps):
    """Yield batches without end, from the one after first_step on; an epoch has so many, and its
    order of texts is drawn from the seed and the epoch."""
    size = batch_size * block_size
    for epoch in count(first_step // steps + 1):
        rng = np.random.default_rng([run_seed, epoch])
        stream = text_stream(split, rng.permutation(len(split.spans)))
        steps_done = first_step % steps if epoch == first_step // steps + 1 else 0
        for step in range(steps_done, steps):
            window = stream[step * size:(step + 1) * size + 1].astype(np.int64)
            tokens = window[:-1].reshape(batch_size, block_size)
            next_tokens = to_device(window[1:].reshape(batch_size, block_size), device)
            gaps = None
            if masked:
                rng_of_step = np.random.default_rng([run_seed, epoch, step])
                gaps = to_device(draw_gaps(tokens, rng_of_step), device)
            yield Blocks(np.arange(batch_size), to_device(tokens, device), next_tokens, gaps)


def draw_gaps(tokens, rng):
    """The columns of blocks [B, T] that are left out, int64 [B, n]: a share of `masked`, of each
    block as many, so that the parts of a batch weigh by their blocks; a beginning last of all."""
    order = np.where(tokens == 0, 1, rng.random(tokens.shape)).argsort(1)
    n = max(1, round(masked * tokens.shape[1]))
    return np.sort(order[:, :n], 1)


# Evaluation

@torch.no_grad()
def hidden_states(model, split, share_of=parallel.share_of):
    """Yield, for some of the tokens that are to be predicted of a split's texts after the other:
    the hidden states that they are predicted from [n, n_embd], the tokens int64 [n], and the text
    of each, int64 [n].

    A text longer than block_size is cut into pieces, which do not see each other. What is left out
    is always the same. share_of: what of a batch this process computes.
    """
    stream = text_stream(split, np.arange(len(split.spans)))
    gaps = np.random.default_rng(0).random(len(stream)) < masked
    gaps &= stream > 0
    if masked and not gaps.any():
        fail(f'masked={masked} leaves no token of {len(split.spans)} texts out; try a higher one')
    # text i is stream[edges[i]:edges[i + 1]], with the 0 that begins it; the next one's ends it
    edges = np.append(np.flatnonzero(stream[:-1] == 0), len(stream) - 1)
    spans = []
    text = []
    for i in range(len(split.spans)):
        for begin in range(edges[i], edges[i + 1], block_size):
            spans.append((begin, min(begin + block_size, edges[i + 1]) + 1))
            text.append(i)
    pieces = Split(stream, np.array(spans), labels=None)
    text = torch.tensor(text)

    model.eval()
    for batch in batches(pieces, batch_size, block_size + 1, bag=False, device=device):
        share = share_of(batch)
        if not len(share.rows):
            continue
        tokens = share.tokens[:, :-1]
        targets = share.tokens[:, 1:]
        asked = share.counts[:, 1:] > 0
        left_out = None
        if masked:
            targets = tokens
            columns = pieces.spans[share.rows, :1] + np.arange(tokens.shape[1])
            # what is behind a piece belongs to other texts
            left_out = to_device(gaps[columns.clip(max=len(gaps) - 1)], device)
            left_out &= asked
            asked = left_out
            if not asked.any():
                continue
        with autocast(device, dtype):
            hidden = model(tokens, left_out)
        texts = text[share.rows][:, None].expand(asked.shape).to(device)
        yield hidden[asked], targets[asked], texts[asked]
    model.train()


@torch.no_grad()
def answers(head, hidden, targets, temperature=1.0):
    """What the head makes of these hidden states -> of each next token its negative log-likelihood
    in nats, with logits divided by the temperature, and whether it is the likeliest; and the head's
    mean loss."""
    nll = []
    right = []
    total = 0.0
    for h, y in zip(hidden.split(ROWS), targets.split(ROWS)):
        with autocast(device, dtype):
            logits = head(h)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total += float(head.loss(logits, y)) * len(y)
        p = head.probs(logits / temperature).gather(1, y[:, None])[:, 0]
        nll.append(-p.clamp(min=torch.finfo(p.dtype).tiny).log().double())
        right.append(logits.argmax(1) == y)
    return torch.cat(nll), torch.cat(right), total / len(targets)


def fit_temperature(model, split):
    """The temperature that makes FIT_TOKENS tokens of these texts likeliest."""
    from nanoloss.stats import best_temperature  # scipy takes a second to import
    found = list(hidden_states(model, split, share_of=lambda batch: batch))
    hidden = torch.cat([hidden for hidden, _, _ in found])
    targets = torch.cat([targets for _, targets, _ in found])
    # drawn, as the batches begin with the shortest pieces of text
    drawn = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))[:FIT_TOKENS]
    hidden = hidden[drawn]
    targets = targets[drawn]

    def loss(temperature):
        return float(answers(model.head, hidden, targets, temperature)[0].mean())
    # the logits of a square loss are as small as the probabilities of the tokens
    return best_temperature(loss, widest=14)


def score(model, split, n_bytes, temperatures=(1.0,)):
    """Figures of a split's texts, and of each text: its tokens, and its negative log-likelihood in
    nats at each temperature, float64 [texts]."""
    n_texts = len(split.spans)
    tokens = torch.zeros(n_texts, dtype=torch.float64)
    nll = torch.zeros(len(temperatures), n_texts, dtype=torch.float64)
    sums = torch.zeros(2, dtype=torch.float64)  # of losses and of right answers
    for hidden, targets, texts in hidden_states(model, split):
        texts = texts.cpu()
        tokens.index_add_(0, texts, torch.ones(len(texts), dtype=torch.float64))
        for i, temperature in enumerate(temperatures):
            found, right, loss = answers(model.head, hidden, targets, temperature)
            nll[i].index_add_(0, texts, found.cpu())
        sums += torch.tensor([loss * len(targets), float(right.sum())], dtype=torch.float64)
    for tensor in (tokens, nll, sums):
        parallel.sum_over_processes(tensor)

    n_tokens = float(tokens.sum())
    figures = {
        'n': n_texts,
        'n_tokens': int(n_tokens),
        'n_bytes': int(n_bytes.sum()),
        'loss': float(sums[0]) / n_tokens,
        'accuracy': float(sums[1]) / n_tokens,
    }
    # as they are, and by the temperature that was fitted
    for suffix, row in zip(('', '_scaled'), nll.sum(1).tolist()):
        figures[f'nll{suffix}'] = row / n_tokens
        figures[f'perplexity{suffix}'] = math.exp(row / n_tokens)
        if not masked:  # else these are not all tokens of the texts
            figures[f'bits_per_byte{suffix}'] = row / math.log(2) / figures['n_bytes']
    return figures, tokens.numpy(), nll.numpy()


def describe(figures, suffix=''):
    """What the tokens of some texts cost, in a few words."""
    text = f'perplexity {figures[f"perplexity{suffix}"]:.1f}'
    if not masked:
        text += f', {figures[f"bits_per_byte{suffix}"]:.3f} bits/byte'
    return text


# Training

def train(folder, run_seed, texts, n_bytes, config, vocabulary):
    """Train the run of one seed in its folder, from where it was saved if it was begun before."""
    torch.manual_seed(run_seed)
    reset_peak_memory(device)
    model = make_model(config, vocabulary)
    groups = parameter_groups(model, weight_decay)
    optimizer = AdamW(groups, betas=(beta1, beta2), eps=EPS, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=dtype == 'float16')  # saves small gradients
    meter = Meter(device)
    progress = Progress()
    state = {'model': model, 'optimizer': optimizer, 'scaler': scaler, 'meter': meter,
             'progress': progress}
    loop.load_checkpoint(folder, state, max_iters, device)
    if compile:
        model.compile()
    forward = parallel.data_parallel(model)
    learn_batch = partial(learn, model, forward, optimizer, scaler, meter)
    if graphs:
        put_rates_on(device, [optimizer])
        learn_batch = StepGraphs(learn_batch)
    steps = steps_of_epoch(texts['train'])

    progress.start_clock()
    meter.start_clock()
    for batch in training_batches(texts['train'], run_seed, progress.step, steps):
        if progress.step == max_iters:
            break
        progress.step += 1
        step = progress.step
        lr = scheduled_rate(step, max_iters, learning_rate, min_lr, warmup_iters, decay_lr)
        begin_step([optimizer], lr, batch.tokens)
        loop.seed_step(run_seed, step)
        loss = learn_batch(batch)
        if not loop.is_finite(loss, device, step):
            loop.fail_at_loss(loss.item(), folder, f'step {step}')
        meter.count(batch.tokens.numel(), batch.tokens.numel())
        show_progress(folder, step, loss, meter)

        # evaluate and log if due, save if due
        evaluated = step % eval_interval == 0 or step == max_iters
        if evaluated:
            evaluate_and_log(folder, model, texts['val'], n_bytes['val'], progress, meter, lr)
        if progress.save_is_due(evaluated, ckpt_secs):
            loop.save_checkpoint(folder, state)
        if loop.stop_signal:
            raise KeyboardInterrupt
        meter.start_clock()
        yield  # the other runs' turn, see at_once

    finish(folder, model, texts, n_bytes, progress)


def learn(model, forward, optimizer, scaler, meter, batch):
    """The step that a batch makes of the weights -> its mean loss, a tensor."""
    # forward and backward over the parts of the batch; their gradients add up to the batch's
    loss_of_batch = 0
    for part, weight, last in parallel.parts_of_share(batch, max_tokens):
        with autocast(device, dtype), parallel.averaging(forward, last):
            hidden = forward(part.tokens, part.left_out())
            loss = model.loss(*part.answers(hidden))
        scaler.scale(loss * weight).backward()
        loss = loss.detach()
        loss_of_batch += loss * weight
        if weight:
            meter.add_part(loss, torch.zeros_like(loss), part.tokens.numel())

    # clip the norm of all gradients, step, and forget them
    scaler.unscale_(optimizer)
    meter.add_norm(clip_grad_norm([optimizer], grad_clip))
    scaler.step(optimizer)
    optimizer.zero_grad()
    scaler.update()
    return loss_of_batch


def show_progress(folder, step, loss, meter):
    """A line on the terminal that the next one overwrites."""
    if sys.stdout.isatty() and step % 5 == 0:
        seconds_left = (max_iters - step) * batch_size * block_size / meter.tokens_per_second()
        print(f'\r{folder}  step {step}/{max_iters}  loss {loss.item():.4f}  '
              f'{meter.tokens_per_second():,.0f} tokens/s  {seconds_left / 60:.0f} min left\033[K',
              end='', flush=True)


def evaluate_and_log(folder, model, val, n_bytes, progress, meter, lr):
    """Evaluate on some texts of val, and add a line to log.jsonl."""
    step = progress.step
    synchronize(device)  # what a GPU has yet to do is training's time, not evaluation's
    meter.stop_clock()
    seconds = progress.seconds()
    means = meter.means()
    if not math.isfinite(means['train_loss']):  # a step that was not looked at
        loop.fail_at_loss(means['train_loss'], folder, f'step {step}')
    started = time.perf_counter()
    some = slice(eval_texts)
    figures, tokens, _ = score(model, val.take(some), n_bytes[some])
    eval_seconds = time.perf_counter() - started
    row = {
        'step': step,
        'tokens': step * batch_size * block_size,
        'train_loss': means['train_loss'],
        'val_loss': figures['loss'],
        'val_perplexity': figures['perplexity'],
        'val_bits_per_byte': figures.get('bits_per_byte'),
        'val_acc': figures['accuracy'],
        'lr': lr,
        'grad_norm': means['grad_norm'],
        'seconds': seconds,
        'tokens_per_second': means['tokens_per_second'],
        'peak_memory_mb': peak_memory_mb(device),
        'eval_tokens_per_second': float(tokens.sum()) / eval_seconds,
    }
    loop.log_row(folder, progress, row, tensorboard)
    start_of_line = '\r' if sys.stdout.isatty() else ''
    print(f'{start_of_line}{folder}  step {step}/{max_iters}  train loss {means["train_loss"]:.4f}'
          f'  val loss {figures["loss"]:.4f}  {describe(figures)}  '
          f'{means["tokens_per_second"]:,.0f} tokens/s  {seconds:.0f} s', flush=True)
    meter.reset()


def finish(folder, model, texts, n_bytes, progress):
    """The final figures, before and after a temperature that is fitted on the first tenth of val,
    which its figures leave out. result.json is written last and says that the run is complete."""
    n_fit = max(1, min(final_texts, len(texts['val'].spans)) // 10)
    temperature = fit_temperature(model, texts['val'].take(slice(n_fit)))
    result = {'head': head, 'seed': int(folder.name.removeprefix('seed'))}
    result['last'] = {'step': max_iters, 'temperature': temperature}
    arrays = {}
    for name, first in (('val', n_fit), ('test', 0)):
        split = texts[name].take(slice(first, None))
        figures, tokens, nll = score(model, split, n_bytes[name][first:], (1.0, temperature))
        result['last'][name] = figures
        arrays[f'{name}_tokens'] = tokens.astype(np.int32)
        arrays[f'{name}_bytes'] = n_bytes[name][first:].astype(np.int32)
        arrays[f'{name}_nll'] = nll[0].astype(np.float32)
        arrays[f'{name}_nll_scaled'] = nll[1].astype(np.float32)
    write_file(folder / 'preds.npz', lambda file: np.savez_compressed(file, **arrays))
    write_file(folder / 'model.pt', lambda file: torch.save(model.state_dict(), file))
    result['seconds'] = progress.seconds()
    write_json(folder / 'result.json', result)
    test = result['last']['test']
    print(f'{folder}  done  test {describe(test)}; at temperature {temperature:.2f} '
          f'{describe(test, "_scaled")}  {result["seconds"]:.0f} s')


# The command

def main(settings, config_files=()):
    check_bounds(globals(), BOUNDS)
    if tensorboard:
        loop.require_tensorboard()
    settle_settings(config_files)
    texts, n_bytes, meta, vocabulary = load_texts()
    steps = steps_of_epoch(texts['train'])
    config = {name: globals()[name] for name in settings}  # as they have been settled
    config |= loop.describe_machine(device, CODE) | describe_data(meta)
    config |= {
        'causal': not masked,
        'spell': True,
        'known_tokens': len(vocabulary.tokens),
        'unlabelled': meta.get('unlabelled', {}).get('sha256'),
    }
    with loop.ending_well(out_dir):
        model = make_model(config, vocabulary)
        introduce(model, texts, vocabulary, steps)
        del model
        loop.run_seeds(config, partial(train, texts=texts, n_bytes=n_bytes, config=config,
                                       vocabulary=vocabulary))


def introduce(model, texts, vocabulary, steps):
    """Say what is trained on what."""
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f'{"masked " if masked else ""}language model, {head} head, {n_parameters:,} parameters, '
          f'{device}, {dtype}, {torch.get_num_threads()} threads')
    print(f'{dataset}: {len(texts["train"].spans):,} texts, {len(texts["train"].tokens):,} tokens, '
          f'{len(vocabulary.tokens):,} of them different (min_count {min_count}: rarer ones are '
          f'spelled)')
    print(f'{max_iters} steps of {batch_size} x {block_size} tokens, '
          f'{max_iters / steps:.2f} times through the texts')


if __name__ == '__main__':
    loop.stop_at_signals()
    config_files = []
    main(configure(globals(), more=head_settings, config_files=config_files), config_files)
