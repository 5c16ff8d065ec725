"""data + model -> out/<name>/seed<k>/: train an encoder with a swappable head, evaluate it.

    python train.py --dataset=my                         one run, on CUDA, MPS or the CPU
    python train.py config/bce.py                        the paper's transformer on IMDB
    python train.py config/bce.py --n_runs=5             five seeds, one after the other
    python train.py config/bce.py --learning_rate=1e-3 --out_dir=out/fast
    torchrun --standalone --nproc_per_node=2 train.py config/bce.py     one run on two processes

Notable:
- The same command again skips finished runs and continues an unfinished one, from a state that is
  saved every minute. Every random number is drawn from the seed and the step or epoch, so a run
  ends as if it had never been interrupted.
- Without a config file nothing has to be chosen: the trunk is windows and n-grams (model.py), and
  what has to follow the texts follows them (`turn_dial`).
- A batch is made of reviews of about one size and, where their order does not matter, as bags
  (model.py): little padding, each distinct token once. It is computed in parts that fit the caches,
  and only the embeddings of its own tokens are touched (nanoloss/optim.py).
- On a GPU, the step of a batch whose shape has come before is one launch (nanoloss/graphs.py), and
  --n_runs=5 --at_once=5 lets it compute for one seed while the next one's batches are made;
  a run's tokens_per_second is then its share of the GPU, its peak_memory_mb that of all.
- Mixed precision: bfloat16 where the chip has it, on CPUs too, else float16 with a GradScaler, else
  float32.
"""
import json
import math
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import nanoloss  # noqa: F401 (before torch, whose threads it tells how to wait)
import numpy as np
import torch
from tqdm import tqdm

from model import HEADS, hard_labels, head_settings, is_correct, make_encoder
from nanoloss import loop, parallel
from nanoloss.configure import check_bounds, configure, fail
from nanoloss.data import (
    batches, class_share, describe_data, draw_reviews, has_changed, load_data, load_unlabelled,
    shuffled)
from nanoloss.devices import autocast, peak_memory_mb, reset_peak_memory, synchronize
from nanoloss.files import load_weights, write_file, write_json
from nanoloss.graphs import StepGraphs
from nanoloss.loop import Meter, Progress
from nanoloss.optim import (
    SGD, AdamW, DeferredAdamW, DeferredEmbedding, begin_step, clip_grad_norm, parameter_groups,
    put_rates_on, scheduled_rate)
from nanoloss.tokenizer import decode, tokenizer
from nanoloss.vocabulary import NGRAM_SIZES, learn_vocabulary, lower_case, ngram_strength

# -----------------------------------------------------------------------------
# a run
out_dir = ''  # gets one folder a run, seed0, seed1, ...; '' is out/ and the config file's name
dataset = 'imdb'  # made by prepare.py
data_dir = 'data'  # the folder of data sets
seed = 0  # of the first run
n_runs = 1  # so many seeds
at_once = 1  # so many of them take turns, a step each; on CUDA they share the GPU
n_train = 0  # so many training reviews are used, drawn by the (first) seed; 0: all
keep_frac = 1.0  # share of the last class's training reviews that is kept, to make it rare
oversample = False  # every class is drawn equally often, reviews of a rare one several times
teacher = ''  # a run's folder, or a group's: its probabilities label the unlabelled texts
init_from = ''  # a run's folder, or a file of weights: start with its trunk, under a fresh head
overwrite = False  # throw away what is in a run's folder
eval_interval = 0  # steps between evaluations on val; 0: after every epoch only
ckpt_secs = 60.0  # seconds after which the state is saved again
tensorboard = False  # what goes into log.jsonl also goes, as curves, into the run's tensorboard/
# model
head = 'bce'  # output layer and loss: a name in model.py's HEADS
lower = True  # texts in lower case
window = 3  # neighbouring tokens that the first layer sees together; 0: each on its own
ngrams = 'auto'  # a linear model beside the trunk, on chars, tokens or none; auto: see the dial
min_count = 0  # occurrences that make a token known, texts that make an n-gram known; 0: see dial
n_layer = 0  # of attention and MLP, as in the paper's transformer
n_head = 2  # of 64 dimensions each, as in GPT-2
n_embd = 256
pooling = 'max'  # over the hidden states of a review: mean or max
block_size = 1500  # so many tokens of a review are used
truncate = 'head'  # which: its first (head), its last (tail), or half of each (both)
pos = 'none'  # position encoding of the transformer: none (as in the paper) or learned
causal = False  # the transformer's tokens see those before them alone, as in a language model
spell = False  # tokens that are not known are spelled, byte by byte, as in a language model
bag = True  # compute each distinct token of a review once, where their order does not matter
bias = True  # in linear layers and norms
dropout = 0.5
token_dropout = 0.2  # share of a training review's tokens that is left out, anew each epoch
# optimizer
epochs = 0  # 0: see the dial
batch_size = 0  # reviews a step; 0: see the dial
pool = 50  # batches made together, of one size each: the larger, the less padding and randomness
learning_rate = 5e-3  # the highest
ngram_rate = 0.0  # of n-grams, by plain SGD, times the square root of the outputs; 0: see the dial
min_lr = 0.0  # the last
warmup_iters = 50  # steps from 0 to the highest rate
decay_lr = True  # from there to min_lr by a cosine
weight_decay = 0.5  # of all matrices
beta1 = 0.9
beta2 = 0.99
grad_clip = 1.0  # largest global norm of a gradient; 0: no clipping
deferred = True  # embeddings that a batch lacks make their steps later: the same AdamW (CPU only)
# system
device = 'auto'  # cuda, mps or cpu; auto takes the first there is
dtype = 'auto'  # bfloat16, float16, float32 or float64; auto takes the fastest that is safe
max_tokens = 0  # so many of a batch are computed at once; 0: 8192 on CPUs, all on GPUs
graphs = True  # on CUDA, a step is one launch where a batch of its shape has come before
compile = False  # torch.compile: a minute at first, faster from then on
deterministic = False  # the same numbers from the same seed on CUDA too (on the CPU always)
threads = 0  # CPU threads; 0 leaves the choice to PyTorch
# -----------------------------------------------------------------------------
BOUNDS = [  # settings, the lowest value, and what they must be below
    (['n_runs', 'at_once', 'pool'], 1, math.inf),
    (['token_dropout', 'beta1', 'beta2'], 0, 1),
    (['seed'], 0, 2 ** 63),
    (['n_train', 'epochs', 'batch_size', 'max_tokens', 'eval_interval', 'warmup_iters',
      'learning_rate', 'ngram_rate', 'min_lr', 'min_count', 'weight_decay', 'grad_clip', 'threads',
      'ckpt_secs'], 0, math.inf),
]
EVAL_REVIEWS = 256  # that a GPU evaluates at once, at least; but in parts of at most
EVAL_TOKENS = 2 ** 17
# the files whose change makes it another run
CODE = ('train.py', 'model.py', 'nanoloss/data.py', 'nanoloss/devices.py', 'nanoloss/graphs.py',
        'nanoloss/loop.py', 'nanoloss/optim.py', 'nanoloss/parallel.py', 'nanoloss/reader.py',
        'nanoloss/vocabulary.py')


# Settings, data and model

def check_settings():
    """What a number or a word cannot be."""
    check_bounds(globals(), BOUNDS)
    if not 0 < keep_frac <= 1:
        fail(f'keep_frac must be in (0, 1], not {keep_frac}')
    if truncate not in ('head', 'tail', 'both'):
        fail(f"truncate is 'head', 'tail' or 'both', not {truncate!r}")
    if ngrams not in ('auto', 'none', *NGRAM_SIZES):
        fail(f'ngrams is auto, none, {" or ".join(NGRAM_SIZES)}, not {ngrams!r}')
    if tensorboard:
        loop.require_tensorboard()


def turn_dial(train_split):
    """What follows the training texts where it is not set, by five rules:

    batch_size  a sixty-fourth of the texts, from 8 to 64, a power of two
    epochs      as many as make 1,500 steps, from 4 to 40
    ngrams      chars where the mean text is shorter than 100 tokens, else tokens: in a short one,
                every ending counts; a long one has thousands of them, and its words say enough
    min_count   2 for such short texts, else 3: long ones bring many rare n-grams, and a large file
    ngram_rate  50 with chars, 150 with tokens, more of which say nothing of the classes
    """
    global batch_size, epochs, ngrams, min_count, ngram_rate
    n_reviews = len(train_split.labels)
    short = train_split.lengths().mean() < 100
    if batch_size == 0:
        batch_size = 2 ** min(6, max(3, round(math.log2(n_reviews / 64))))
    if epochs == 0:
        epochs = min(40, max(4, round(1500 * batch_size / n_reviews)))
    if ngrams == 'auto':
        ngrams = 'chars' if short else 'tokens'
    if min_count == 0:
        min_count = 2 if short else 3
    if ngram_rate == 0:
        ngram_rate = 50.0 if ngrams == 'chars' else 150.0


def settle_settings(config_files):
    """Replace '', 0 and 'auto' by what they stand for, and prepare the device."""
    global out_dir, device, dtype, deferred, max_tokens, graphs
    if not out_dir:
        name = Path(config_files[-1]).stem if config_files else dataset
        out_dir = f'out/{name}'
    device, dtype = loop.start_device(device, dtype, threads, deterministic)
    # a GradScaler would have to know of it, and it divides by beta2
    if device != 'cpu' or dtype == 'float16' or beta2 == 0:
        deferred = False
    graphs = graphs and loop.can_use_graphs(device, dtype, max_tokens) and not compile
    if max_tokens == 0:
        max_tokens = 8192 if device == 'cpu' else 2 ** 30


def make_rare(split, meta):
    """Keep `keep_frac` of the last class's reviews -> the split, and each class's share of what is
    drawn from it."""
    n_class = len(meta['classes'])
    if meta['multi_label']:
        if keep_frac < 1 or oversample:
            fail('keep_frac and oversample are for data with one label a review')
        return split, class_share(split.labels, n_class)
    if keep_frac < 1:  # prepare.py's order is by hash, so the first ones are as good as drawn
        rare = np.flatnonzero(split.labels == n_class - 1)
        n_kept = math.ceil(keep_frac * len(rare))
        split = split.take(np.delete(np.arange(len(split.labels)), rare[n_kept:]))
    if oversample:
        return split, [1 / n_class] * n_class
    return split, class_share(split.labels, n_class)


def add_taught(split, meta):
    """The training split, and behind it the unlabelled texts with what the teacher says of them ->
    the split, its labels probabilities, and the teacher's id."""
    from predict import CHUNK_SIZE, Classifier  # it brings what only files of texts need
    if oversample:
        fail('oversample goes by labels, which the unlabelled texts lack; take it for the teacher')
    if head in HEADS and not HEADS[head].soft:
        able = ' or '.join(name for name in HEADS if HEADS[name].soft)
        fail(f'head {head} cannot learn from probabilities; take {able}')
    unlabelled = load_unlabelled(Path(data_dir) / dataset, meta)
    try:
        classifier = Classifier(teacher)
    except ValueError as error:
        fail(f'teacher: {error}')
    if classifier.classes != [str(name) for name in meta['classes']]:
        fail(f'teacher {teacher} is of other classes: {", ".join(classifier.classes[:5])}')
    if classifier.config['tokenizer'] != meta['tokenizer']:
        fail(f'teacher {teacher} is of another tokenizer')

    probs = []
    for start in tqdm(range(0, len(unlabelled.spans), CHUNK_SIZE), 'teach', leave=False,
                      unit_scale=CHUNK_SIZE, disable=None):
        spans = unlabelled.spans[start:start + CHUNK_SIZE]
        texts = [decode(unlabelled.tokens[a:b], classifier.encoding) for a, b in spans]
        probs.append(classifier.probs(texts))
    unlabelled = unlabelled._replace(labels=np.concatenate(probs).astype(np.float32))
    # the training texts keep the labels that they have
    labels = split.labels if meta['multi_label'] else np.eye(len(meta['classes']))[split.labels]
    split = split._replace(labels=labels.astype(np.float32))
    return split.join(unlabelled), classifier.id


def load_trunk(meta):
    """The weights of init_from, or None. Fails where they are not to be had, or were trained on
    another tokenizer's tokens than the data have; meta: theirs."""
    if not init_from:
        return None
    path = Path(init_from)
    if path.is_dir():
        path = path / 'model.pt'
    described = path.with_name('config.json')
    try:
        weights = load_weights(path)
        config = json.loads(described.read_text()) if described.is_file() else {}
    except (ValueError, OSError) as error:
        fail(error)
    for name in ('n_head', 'lower', 'causal', 'spell'):  # which the weights do not show
        if name in config and config[name] != globals()[name]:
            fail(f'{path} does not fit: its {name} is {config[name]}, here it is '
                 f'{globals()[name]}; a language model wants config/finetune.py')
    if config.get('tokenizer', meta['tokenizer']) != meta['tokenizer']:
        fail(f'{path} does not fit: it is of another tokenizer')
    if spell and 'tokens' not in weights:
        fail(f'{path} does not fit: it has no tokens that others are spelled by')
    return weights


def number_data(data, meta, trunk):
    """The data in lower case, and in the numbers of the training texts' vocabulary, where the trunk
    wants them so -> the data, the `Vocabulary`, and how much each of its n-grams says."""
    encoding = None
    if lower or spell or ngrams != 'none':
        encoding = tokenizer(meta['tokenizer']['name'])
    if lower:
        data = {name: lower_case(split, encoding) for name, split in data.items()}
    vocabulary = learn_vocabulary(data['train'], encoding, window > 0 or spell, ngrams, min_count,
                                  block_size, truncate, spell)
    if spell and trunk is not None:  # its embedding is of the tokens that it knows
        vocabulary = vocabulary._replace(tokens=trunk['tokens'].numpy())
    data = {name: vocabulary.encode(split, encoding) for name, split in data.items()}
    strength = None
    if len(vocabulary.ngrams):
        strength = ngram_strength(data['train'], len(vocabulary.ngrams), len(meta['classes']))
    return data, vocabulary, strength


def make_model(config, trunk, vocabulary, strength):
    """An Encoder on the device, its weights drawn anew or, but for the head's, from a trunk's."""
    try:
        model = make_encoder(config)
    except ValueError as error:
        fail(error)
    if len(vocabulary.tokens):
        model.tokens.copy_(torch.from_numpy(vocabulary.tokens))
    if len(vocabulary.ngrams):
        model.ngrams.keys.copy_(torch.from_numpy(vocabulary.ngrams.view(np.int64)))
        model.ngrams.strength.copy_(torch.from_numpy(strength))
    if trunk is not None:
        try:
            model.load_trunk(trunk)
        except ValueError as error:
            fail(f'{init_from} does not fit: {error}')
    return model.to(device, torch.float64 if dtype == 'float64' else None)


def make_optimizers(model):
    """AdamW for all weights, or a deferred one for the embedding and AdamW for all others; SGD for
    the weights of n-grams, for Adam would move a rare one as far as a common one.

    An optimizer that is added here is stepped, clipped, saved and restored with the others.
    """
    others = []
    exclude = []  # the parameters that are not AdamW's
    if deferred:
        table = model.token_embedding.weight.detach()
        embedding = DeferredEmbedding.from_pretrained(table, freeze=False, sparse=True)
        model.token_embedding = embedding
        others.append(DeferredAdamW(embedding, (beta1, beta2), weight_decay))
        exclude.append(embedding.weight)
    if model.config.known_ngrams:
        weights = model.ngrams.sums.weight
        # a batch has few of the n-grams; but to gather them, a GPU would have to be waited for
        on_cpu = device == 'cpu'
        model.ngrams.sums.sparse = on_cpu
        # of many classes each is rare, and seldom pulls its output up
        rate = ngram_rate * math.sqrt(weights.shape[1])
        group = {'params': [weights], 'lr_mult': rate / (learning_rate or math.inf)}
        others.append(SGD([group], lr=0.0, fused=not on_cpu))
        exclude.append(weights)
    groups = parameter_groups(model, weight_decay, exclude)
    return [AdamW(groups, betas=(beta1, beta2), fused=True), *others]


# Evaluation

@torch.no_grad()
def predict(model, split):
    """The model's logits for a whole split, float32 (or float64) [reviews, outputs], on the CPU."""
    model.eval()
    rows = []
    parts = []
    # a GPU is done with a batch of few reviews before it has been asked for the next
    n_reviews = batch_size if device == 'cpu' else max(batch_size, EVAL_REVIEWS)
    for batch in batches(split, n_reviews, block_size, truncate, bag, pool, device=device):
        share = parallel.share_of(batch)
        rows.append(share.rows)
        with autocast(device, dtype):  # around all parts: the weights are cast once
            for part in share.parts(min(max_tokens, EVAL_TOKENS)):
                parts.append(model(part.tokens, part.counts, part.ngrams)[-1])

    # in the order of the split; 0 where another process has the logits, so that a sum joins them
    found = torch.cat(parts).cpu()
    logits = torch.zeros(len(split.labels), found.shape[1], dtype=found.dtype)
    logits[np.concatenate(rows)] = found
    model.train()
    return parallel.sum_over_processes(logits)


def score(head, logits, labels):
    """Figures of a split.

    Correct are the logits as preds.npz stores them; logit_grad is the mean over the reviews of the
    norm of d loss / d logits.
    """
    labels = torch.from_numpy(labels.astype(np.int64)).to(device)
    logits = logits.to(device).requires_grad_()
    # float16 can tie or reorder logits: evaluate.py, which has no others, must count the same
    correct = int(is_correct(head.probs(logits.half().float()), labels).sum())
    loss = head.loss(logits, labels)
    gradient, = torch.autograd.grad(loss, logits)  # of a mean: the sum of norms is their mean
    return {
        'n': len(labels),
        'correct': correct,
        'accuracy': correct / len(labels),
        'loss': loss.item(),
        'logit_grad': float(gradient.norm(dim=1).sum()),
    }


# Saving

class Best:
    """The weights that are best on val so far; they stay on the device until they are saved."""

    def __init__(self):
        self.epoch = 0
        self.correct = -1  # of the answers on val
        self.weights = {}

    def keep(self, model, epoch, correct):
        self.epoch = epoch
        self.correct = correct
        self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def state_dict(self):
        return dict(vars(self))

    def load_state_dict(self, state):
        vars(self).update(state)


def save_checkpoint(folder, state, data, meta):
    """Write ckpt.pt; state: {name: object with a state_dict}."""
    for name, split in data.items():
        file = f'{name}_tokens.npy'
        if not isinstance(split.tokens, np.memmap):
            continue  # a copy in memory
        if has_changed(split, meta['sha256'][file]):  # a run on changed data is worth nothing
            fail(f'{data_dir}/{dataset}/{file} has changed; '
                 'the run goes on once the old file is back')
    loop.save_checkpoint(folder, state)


# Training

def training_batches(split, run_seed, first_step, steps):
    """Yield the batches of all epochs, each of so many steps, from the one after first_step on.

    Order and token dropout of an epoch are drawn from the seed and the epoch."""
    for epoch in range(first_step // steps + 1, epochs + 1):
        rng = np.random.default_rng([run_seed, epoch])
        order = shuffled(split.labels, rng, oversample)
        epoch_batches = batches(split, batch_size, block_size, truncate, bag, pool, order, rng,
                                token_dropout, device)
        steps_done = first_step % steps if epoch == first_step // steps + 1 else 0
        yield from islice(epoch_batches, steps_done, None)


def train(folder, run_seed, data, meta, config, known):
    """Train the run of one seed in its folder, from where it was saved if it was begun before.

    known: what `make_model` starts from beside the settings."""
    torch.manual_seed(run_seed)
    reset_peak_memory(device)
    model = make_model(config, *known)
    optimizers = make_optimizers(model)
    scaler = torch.amp.GradScaler(device, enabled=dtype == 'float16')  # saves small gradients
    meter = Meter(device)
    progress = Progress()
    best = Best()
    state = {'model': model, 'scaler': scaler, 'meter': meter, 'progress': progress, 'best': best}
    state |= {f'optimizer_{i}': optimizer for i, optimizer in enumerate(optimizers)}
    steps = math.ceil(len(data['train'].labels) / batch_size)  # an epoch
    loop.load_checkpoint(folder, state, epochs * steps, device)
    if compile:
        compile_model(model)
    forward = parallel.data_parallel(model)
    learn_batch = partial(learn, model, forward, optimizers, scaler, meter)
    if graphs:
        put_rates_on(device, optimizers)
        learn_batch = StepGraphs(learn_batch)

    progress.start_clock()
    meter.start_clock()
    for batch in training_batches(data['train'], run_seed, progress.step, steps):
        progress.step += 1
        step = progress.step
        lr = scheduled_rate(step, epochs * steps, learning_rate, min_lr, warmup_iters, decay_lr)
        begin_step(optimizers, lr, batch.tokens)
        loop.seed_step(run_seed, step)
        loss = learn_batch(batch)
        if not loop.is_finite(loss, device, step):
            fail_at_loss(loss.item(), folder, step, steps)
        meter.count(len(batch.rows), batch.n_tokens)
        show_progress(folder, step, steps, meter)

        # evaluate and log if due, save if due
        epoch_ends = step % steps == 0
        if epoch_ends or (eval_interval and step % eval_interval == 0):
            evaluate_and_log(folder, model, data['val'], progress, best, meter, lr, steps)
        if progress.save_is_due(epoch_ends, ckpt_secs):
            save_checkpoint(folder, state, data, meta)
        if loop.stop_signal:
            raise KeyboardInterrupt
        meter.start_clock()
        yield  # the other runs' turn, see at_once

    finish(folder, model, data, progress, best)


def learn(model, forward, optimizers, scaler, meter, batch):
    """The step that a batch makes of the weights -> its mean loss (the answers' own), a tensor."""
    # forward and backward over the parts of the batch; their gradients add up to the batch's
    loss_of_batch = 0
    for part, weight, last in parallel.parts_of_share(batch, max_tokens):
        with autocast(device, dtype), parallel.averaging(forward, last):
            outputs = forward(part.tokens, part.counts, part.ngrams)
        losses = [model.head.loss(logits, part.labels) for logits in outputs]
        scaler.scale(sum(losses) * weight).backward()
        loss = losses[-1].detach()  # the last logits are the answer
        loss_of_batch += loss * weight
        if weight:
            labels = hard_labels(part.labels, model.config.multi_label)
            correct = is_correct(model.head.probs(outputs[-1].detach()), labels).sum()
            meter.add_part(loss, correct, len(labels))

    # clip the joint norm of all gradients, step, and forget them
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    meter.add_norm(clip_grad_norm(optimizers, grad_clip))
    for optimizer in optimizers:
        scaler.step(optimizer)
        optimizer.zero_grad()
    scaler.update()
    return loss_of_batch


def compile_model(model):
    """torch.compile, of training and evaluation; but not of a deferred embedding, whose lookups
    change it."""
    if deferred:
        embedding = model.token_embedding
        embedding.forward = torch.compiler.disable(embedding.forward)
    model.compile(dynamic=True)


def fail_at_loss(loss, folder, step, steps):
    loop.fail_at_loss(loss, folder, f'step {step} (epoch {math.ceil(step / steps)})')


def show_progress(folder, step, steps, meter):
    """A line on the terminal that the next one overwrites."""
    if sys.stdout.isatty():
        epoch = math.ceil(step / steps)
        print(f'\r{folder}  epoch {epoch}/{epochs}  step {step - steps * (epoch - 1)}/{steps}  '
              f'{meter.tokens_per_second():,.0f} tokens/s\033[K', end='', flush=True)


def evaluate_and_log(folder, model, val, progress, best, meter, lr, steps):
    """Evaluate on the whole of val, add a line to log.jsonl, keep the weights that are best."""
    step = progress.step
    epoch = step // steps if step % steps == 0 else round(step / steps, 4)
    synchronize(device)  # what a GPU has yet to do is training's time, not evaluation's
    meter.stop_clock()
    seconds = progress.seconds()
    means = meter.means()
    if not math.isfinite(means['train_loss']):  # a step that was not looked at
        fail_at_loss(means['train_loss'], folder, step, steps)
    model.eval()  # brings deferred embeddings up to date, which is not evaluation's time
    started = time.perf_counter()
    figures = score(model.head, predict(model, val), val.labels)
    eval_seconds = time.perf_counter() - started
    val_tokens = int(val.lengths().clip(max=block_size).sum())
    row = {
        'epoch': epoch,
        'step': step,
        'train_loss': means['train_loss'],
        'train_acc': means['train_acc'],
        'val_loss': figures['loss'],
        'val_acc': figures['accuracy'],
        'logit_grad': figures['logit_grad'],
        'lr': lr,
        'grad_norm': means['grad_norm'],
        'seconds': seconds,
        'tokens_per_second': means['tokens_per_second'],
        'peak_memory_mb': peak_memory_mb(device),
        'eval_tokens_per_second': val_tokens / eval_seconds,
    }
    if figures['correct'] > best.correct:
        best.keep(model, epoch, figures['correct'])
    loop.log_row(folder, progress, row, tensorboard)

    start_of_line = '\r' if sys.stdout.isatty() else ''
    print(f'{start_of_line}{folder}  epoch {epoch}/{epochs}  '
          f'train loss {means["train_loss"]:.4f} acc {100 * means["train_acc"]:.2f}  '
          f'val loss {figures["loss"]:.4f} acc {100 * figures["accuracy"]:.2f}  '
          f'{means["tokens_per_second"]:,.0f} tokens/s  {seconds:.0f} s', flush=True)
    if step % steps == 0:
        meter.reset()


def finish(folder, model, data, progress, best):
    """The final figures: of the last epoch, the headline, and of the best on val. result.json is
    written last and says that the run is complete."""
    from nanoloss.stats import fit_temperature  # scipy takes a second to import
    splits = dict(data)
    train_split = data['train'].take(slice(len(data['val'].labels)))  # as many as val has
    labels = torch.from_numpy(np.array(train_split.labels))
    labels = hard_labels(labels, model.config.multi_label)
    splits['train'] = train_split._replace(labels=labels.numpy())
    logits = {name: predict(model, split) for name, split in splits.items()}

    # what evaluate.py counts again
    arrays = {}
    for name in ('val', 'test'):
        arrays[f'{name}_logits'] = logits[name].half().numpy()
        arrays[f'{name}_labels'] = np.array(data[name].labels)
        if data[name].groups is not None:
            arrays[f'{name}_groups'] = np.array(data[name].groups)
    write_file(folder / 'preds.npz', lambda file: np.savez_compressed(file, **arrays))
    write_file(folder / 'model.pt', lambda file: torch.save(model.state_dict(), file))
    write_file(folder / 'best.pt', lambda file: torch.save(best.weights, file))

    result = {'head': head, 'seed': int(folder.name.removeprefix('seed'))}
    for which, epoch in (('last', epochs), ('best', best.epoch)):
        if epoch != epochs:  # else the weights are those of the last epoch
            model.load_state_dict(best.weights)
            logits = {name: predict(model, split) for name, split in splits.items()}
        result[which] = {'epoch': epoch}
        for name, split in splits.items():
            result[which][name] = score(model.head, logits[name], split.labels)
        val_labels = torch.from_numpy(data['val'].labels.astype(np.int64))
        result[which]['temperature'] = fit_temperature(model.head.probs, logits['val'], val_labels)
    result['seconds'] = progress.seconds()
    write_json(folder / 'result.json', result)
    last = result['last']
    print(f'{folder}  done  val {100 * last["val"]["accuracy"]:.2f}  '
          f'test {100 * last["test"]["accuracy"]:.2f}  {result["seconds"]:.0f} s')


# The command

def main(settings, config_files=()):
    global bag
    check_settings()
    data, meta = load_data(Path(data_dir) / dataset)
    data['train'] = draw_reviews(data['train'], n_train, seed)
    data['train'], meta['class_share'] = make_rare(data['train'], meta)
    settle_settings(config_files)
    if teacher:
        data['train'], teacher_id = add_taught(data['train'], meta)
    turn_dial(data['train'])
    config = {name: globals()[name] for name in settings}  # as they have been settled
    config |= loop.describe_machine(device, CODE) | describe_data(meta)
    if teacher:
        config['teacher_id'] = teacher_id
    with loop.ending_well(out_dir):
        trunk = load_trunk(meta)
        data, vocabulary, strength = number_data(data, meta, trunk)
        config['known_tokens'] = len(vocabulary.tokens)
        config['known_ngrams'] = len(vocabulary.ngrams)
        known = trunk, vocabulary, strength
        model = make_model(config, *known)
        bag = bag and not model.ordered
        config['bag'] = bag
        introduce(model, data)
        del model

        loop.run_seeds(config, partial(train, data=data, meta=meta, config=config, known=known))


def introduce(model, data):
    """Say what is trained on what."""
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f'{head} head, {n_parameters:,} parameters, {device}, {dtype}, '
          f'{torch.get_num_threads()} threads')
    sizes = ', '.join(f'{len(split.labels):,} {name}' for name, split in data.items())
    cut = (data['train'].lengths() > block_size).mean()
    print(f'dial: batch_size {batch_size}, epochs {epochs}, ngrams {ngrams}, '
          f'min_count {min_count}, ngram_rate {ngram_rate:g}')
    print(f'{dataset}: {sizes}; {block_size} tokens of a review are used (truncate={truncate}), '
          f'which cuts {cut:.1%} of the training reviews')


if __name__ == '__main__':
    loop.stop_at_signals()
    config_files = []
    main(configure(globals(), more=head_settings, config_files=config_files), config_files)
