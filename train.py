"""data + model -> out/<name>/seed<k>/: train a text classifier and evaluate it.

    python train.py --dataset=my                         one run, on CUDA, MPS or the CPU
    python train.py --dataset=my --tune=4                choose settings on val first
    python train.py config/bce.py                        the paper's transformer on IMDB
    python train.py config/bce.py --n_runs=5             five seeds, one after the other
    python train.py config/bce.py --learning_rate=1e-3 --out_dir=out/fast
    torchrun --standalone --nproc_per_node=2 train.py config/bce.py     one run on two processes

Notable:
- The same command again skips finished runs and resumes an unfinished one from its checkpoint,
  saved every minute. All random numbers come from the seed and the step or epoch, so a run that is
  resumed on a CPU ends exactly as an uninterrupted one.
- Without a config file, the model has two parts, which are trained separately. A linear model of
  n-grams is fitted first (nanoloss/linear.py). Then the steps below train windows of tokens. The
  logits of the two are added, with weights that each evaluation fits on val.
- `auto_settings` chooses the settings that depend on the number and length of the texts.
- The texts of a batch have about the same length, so there is little padding. If the order of
  tokens does not matter, a text is a bag: each distinct token once, with its count (model.py).
- On a CPU, a batch is computed in micro-batches that fit the caches, and the optimizer updates only
  the embedding rows with a gradient (nanoloss/optim.py). On CUDA, a step is replayed as a CUDA
  graph from the third batch of a shape on (nanoloss/graphs.py).
- Mixed precision: bfloat16 on CPUs and GPUs that have it, float16 with a GradScaler on other CUDA
  GPUs, else float32.
"""
import json
import math
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np
import torch

from model import make_classifier, make_head, model_settings
from nanoloss import loop, parallel
from nanoloss.data import (
    SPLITS, batches, check_unchanged, class_share, describe_data, hard_labels, is_correct,
    load_data, sample_texts)
from nanoloss.derived import number_data
from nanoloss.devices import autocast, peak_memory_mb, reset_peak_memory, synchronize
from nanoloss.files import write_file, write_json
from nanoloss.graphs import StepGraphs
from nanoloss.linear import fit_mix, mixed
from nanoloss.loop import Best, Meter, Progress
from nanoloss.optim import (
    AdamW, DeferredAdamW, DeferredEmbedding, RowRMSprop, begin_step, clip_grad_norm,
    parameter_groups, put_rates_on, scheduled_rate)
from nanoloss.runs import copy_trunk, load_trunk
from nanoloss.settings import check_bounds, configure, fail, updated
from nanoloss.text import NGRAM_KINDS
from nanoloss.tune import choose

# -----------------------------------------------------------------------------
# run
out_dir = ''  # the folder of the runs seed0, seed1 ...; '': out/NAME of the config file or data set
dataset = 'imdb'  # a data set made by prepare.py
data_dir = 'data'  # the folder of data sets
seed = 0  # of the first run
n_runs = 1  # seeds to train, one after the other
n_train = 0  # training texts to use, sampled with the first seed (0: all)
teacher = ''  # folder of a run or of a group of runs that labels the unlabelled texts
code = ''  # file of the teacher's head or trunk, if it is not in model.py; it is executed
init_from = ''  # folder of a run, or a file of weights, to take the trunk from
overwrite = False  # delete the previous contents of a run's folder
tune = 0  # candidates to try on val first (0: none); see nanoloss/tune.py
eval_interval = 0  # steps between evaluations on val (0: after each epoch only)
ckpt_secs = 60.0  # seconds between checkpoints
tensorboard = False  # also write log.jsonl as curves to the run's folder tensorboard/
# text
lower = True  # lower-case the texts
block_size = 1500  # longest text in tokens; longer ones are truncated
truncate = 'head'  # which tokens of a long text to keep: head, tail or both
full_vocab = False  # embed all tokens of the tokenizer, not only those of the training texts
spell = False  # spell unknown tokens byte by byte, as a language model does
ngrams = 'auto'  # of the linear model: words, words+chars, none, or auto (see auto_settings)
min_count = 0  # tokens and n-grams that occur less often are unknown (0: see auto_settings)
bag = True  # give each distinct token of a text once, with its count, if order does not matter
token_dropout = 0.2  # share of the tokens of a training text to drop, drawn anew each epoch
# model; the keywords of the head and of the trunk (model.py) are settings too
head = 'ce'  # output layer and loss: a name in HEADS, or FILE.py:CLASS
trunk = 'windows'  # a name in TRUNKS, or FILE.py:CLASS
# optimizer
epochs = 0  # 0: see auto_settings
batch_size = 0  # texts per step (0: see auto_settings)
learning_rate = 5e-3  # peak rate; linear warm-up, then a cosine to 0
embedding_rate = 0.005  # peak rate of RMSprop for the token embedding (0: AdamW)
warmup_iters = 50  # steps of linear warm-up
weight_decay = 0.5  # AdamW's, for matrices; an embedding with RMSprop has none
grad_clip = 1.0  # largest global norm of the gradient (0: no clipping)
deferred = True  # on CPUs, AdamW updates an embedding row when a batch needs it; same result
# system
device = 'auto'  # cuda, mps or cpu; auto: the first of these that is available
dtype = 'auto'  # bfloat16, float16, float32 or float64; auto: the fastest that is safe
max_tokens = 0  # tokens per micro-batch (0: 8192 on CPUs, the whole batch on GPUs)
graphs = True  # on CUDA, use CUDA graphs
deterministic = False  # the same numbers from the same seed on CUDA too (CPUs always do so)
threads = 0  # CPU threads (0: PyTorch's choice)
# -----------------------------------------------------------------------------
BOUNDS = [  # settings, the lowest value, and what they must be below
    (['n_runs', 'block_size'], 1, math.inf),
    (['token_dropout'], 0, 1),
    (['seed'], 0, 2 ** 63),
    (['n_train', 'epochs', 'batch_size', 'max_tokens', 'eval_interval', 'warmup_iters',
      'learning_rate', 'embedding_rate', 'min_count', 'weight_decay', 'grad_clip', 'ckpt_secs',
      'tune'], 0, math.inf),
    (['threads'], 0, 1025),  # PyTorch crashes with several thousand
]
EVALUATED = 'seen', 'val', 'test'  # evaluated when a run ends; seen: the first texts of train
BETAS = 0.9, 0.99  # of AdamW; 0.99 forgets faster than the usual 0.999, for short runs
# on a GPU, evaluate at least this many texts at once, in micro-batches of at most this many tokens
EVAL_TEXTS = 256
EVAL_TOKENS = 2 ** 17


# Settings

def check_settings(config):
    """Fail if a setting has an impossible value."""
    check_bounds(config, BOUNDS)
    if config.truncate not in ('head', 'tail', 'both'):
        fail(f"truncate is 'head', 'tail' or 'both', not {config.truncate!r}")
    if config.ngrams not in ('auto', 'none', *NGRAM_KINDS):
        fail(f'ngrams is auto, none, {" or ".join(NGRAM_KINDS)}, not {config.ngrams!r}')
    if config.tensorboard:
        loop.require_tensorboard()


def auto_settings(config, train_split):
    """Replace settings that are 0 or 'auto' by what suits the training texts -> a new config.

    batch_size  a power of two from 8 to 64, near the number of texts / 64
    epochs      about 1,500 steps, at least 4 and at most 40 epochs
    ngrams      words+chars, or words if train has more than 2 million tokens, for which n-grams of
                characters take minutes and add little
    min_count   2 if texts have fewer than 100 tokens on average, else 3, because long texts have
                many rare n-grams
    """
    n_texts = len(train_split.labels)
    n_tokens = train_split.lengths().sum()
    chosen = updated(config)
    if config.batch_size == 0:
        chosen.batch_size = 2 ** min(6, max(3, round(math.log2(n_texts / 64))))
    if config.epochs == 0:
        chosen.epochs = min(40, max(4, round(1500 * chosen.batch_size / n_texts)))
    if config.ngrams == 'auto':
        chosen.ngrams = 'words+chars' if n_tokens < 2e6 else 'words'
    if config.min_count == 0:
        chosen.min_count = 2 if n_tokens < 100 * n_texts else 3
    return chosen


# Data, model and optimizers

def untrained_head(config):
    """A head whose loss is used, but not its weights."""
    try:
        return make_head(**{**vars(config), 'n_features': 1})
    except ValueError as error:
        fail(error)


def seen_texts(config, data):
    """The first texts of train, as many as val has, with labels instead of probabilities."""
    split = data['train'].take(slice(len(data['val'].labels)))
    labels = torch.from_numpy(np.array(split.labels))
    labels = hard_labels(labels, config.multi_label, config.always_labelled)
    return split._replace(labels=labels.numpy())


def make_model(config, trunk_weights, vocabulary, linear):
    """A Classifier on the device, with new weights or with a trained trunk, and the linear model of
    n-grams, if there is one."""
    try:
        model = make_classifier(vars(config))
        if len(vocabulary.tokens):
            model.tokens.copy_(torch.from_numpy(vocabulary.tokens))
        if trunk_weights is not None:
            copy_trunk(model, trunk_weights)
    except ValueError as error:
        fail(f'{config.init_from} does not fit: {error}' if trunk_weights else error)
    if linear is not None:
        model.ngrams.keys.copy_(torch.from_numpy(vocabulary.ngrams.view(np.int64)))
        model.ngrams.strength.copy_(torch.from_numpy(linear.strength))
        model.ngrams.sums.weight.copy_(torch.from_numpy(linear.weight))
        model.ngrams.bias.copy_(torch.from_numpy(linear.bias))
    return model.to(config.device, torch.float64 if config.dtype == 'float64' else None)


def make_optimizers(config, model):
    """RMSprop with a step size per row for the token embedding, AdamW for all other weights that
    are trained. With --embedding_rate=0, the embedding has AdamW too, deferred on a CPU.

    To add an optimizer, append it to `others`; AdamW then leaves its parameters out. It is stepped,
    saved and restored with the others. Its rate is the schedule of learning_rate, times the
    `lr_mult` of a parameter group, if that has one.
    """
    others = []
    embedding = getattr(model.trunk, 'token_embedding', None)
    if embedding is not None and config.embedding_rate:
        embedding.sparse = config.device == 'cpu'  # on a GPU, it would synchronize
        lr_mult = config.embedding_rate / (config.learning_rate or math.inf)
        others.append(RowRMSprop(embedding.weight, lr_mult))
    elif embedding is not None and config.deferred:
        embedding = DeferredEmbedding.from_pretrained(
            embedding.weight.detach(), freeze=False, sparse=True)
        model.trunk.token_embedding = embedding
        others.append(DeferredAdamW(embedding, BETAS, config.weight_decay))

    groups = parameter_groups(model, config.weight_decay, others)
    if not groups:
        return others
    return [AdamW(groups, betas=BETAS, fused=True), *others]


# Evaluation

@torch.no_grad()
def predict(config, model, split, choose_mix=False):
    """The model's logits for a whole split, float32 or float64 [texts, outputs], on the CPU.

    choose_mix: first choose on this split how the trunk and the linear model are weighted.
    """
    model.eval()
    rows = []
    found = []
    # with small batches, a GPU would wait for Python
    n_texts = config.batch_size if config.device == 'cpu' else max(config.batch_size, EVAL_TEXTS)
    for batch in batches(split, config, n_texts, device=config.device):
        share = parallel.share_of(batch)
        rows.append(share.rows)
        with autocast(config.device, config.dtype):  # casts the weights once for all micro-batches
            for micro in share.micro_batches(min(config.max_tokens, EVAL_TOKENS)):
                found.append(model(micro.tokens, micro.counts))

    # back to the order of the split; texts of other processes are 0 here, and the sum fills them
    found = torch.cat(found).cpu()
    logits = torch.zeros(len(split.labels), found.shape[1], dtype=found.dtype)
    logits[np.concatenate(rows)] = found
    model.train()
    logits = parallel.sum_over_processes(logits)
    if split.linear is None:
        return logits
    if choose_mix:
        model.mix.copy_(fit_mix(model.head, logits, split.linear, split.labels))
    return mixed(model.mix.cpu(), logits, split.linear)


def score(config, head, logits, labels):
    """Metrics of a split, a dict. logit_grad: the mean over the texts of |d loss / d logits|."""
    labels = torch.from_numpy(labels.astype(np.int64)).to(config.device)
    logits = logits.to(config.device).requires_grad_()
    # preds.npz stores float16, which can tie or reorder logits. Round here, too, so that
    # evaluate.py counts the same.
    probs = head.probs(logits.half().float())
    correct = int(is_correct(probs, labels, config.always_labelled).sum())
    loss = head.loss(logits, labels)
    # the loss is a mean over the texts, so the sum of its gradients' norms is the mean norm
    gradient, = torch.autograd.grad(loss, logits)
    return {
        'n': len(labels),
        'correct': correct,
        'accuracy': correct / len(labels),
        'loss': loss.item(),
        'logit_grad': float(gradient.norm(dim=1).sum()),
    }


# Training

def training_batches(config, split, first_step, steps):
    """Yield the batches of all epochs after first_step; steps: per epoch. The order of the texts
    and the dropped tokens of an epoch are drawn from the seed and the epoch."""
    first_epoch = first_step // steps + 1
    for epoch in range(first_epoch, config.epochs + 1):
        rng = np.random.default_rng([config.seed, epoch])
        order = rng.permutation(len(split.labels))
        epoch_batches = batches(split, config, config.batch_size, order, rng, config.device)
        steps_done = first_step % steps if epoch == first_epoch else 0
        yield from islice(epoch_batches, steps_done, None)


def train_step(config, model, forward, optimizers, scaler, meter, batch):
    """One step: forward and backward over the micro-batches, clip, update -> the mean loss."""
    # the gradients of the micro-batches add up to that of the batch
    loss_of_batch = 0
    for micro, weight, last in parallel.micro_batches(batch, config.max_tokens):
        with autocast(config.device, config.dtype), parallel.averaging(forward, last):
            logits = forward(micro.tokens, micro.counts)
        loss = model.head.loss(logits, micro.labels)
        scaler.scale(loss * weight).backward()
        loss = loss.detach()
        loss_of_batch += loss * weight
        if weight:
            labels = hard_labels(micro.labels, config.multi_label, config.always_labelled)
            probs = model.head.probs(logits.detach())
            correct = is_correct(probs, labels, config.always_labelled).sum()
            meter.add_micro_batch(loss, correct, len(labels))

    # clip the joint norm of all gradients, update the weights, clear the gradients
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    meter.add_norm(clip_grad_norm(optimizers, config.grad_clip))
    for optimizer in optimizers:
        scaler.step(optimizer)
        optimizer.zero_grad()
    scaler.update()
    return loss_of_batch


def train(config, folder, data, meta, start, is_trial=False):
    """Train the run of one seed in its folder, or resume it from its checkpoint.

    start: the trained trunk, the vocabulary and the linear model that `make_model` takes. is_trial:
        whether the run is a trial of --tune, which is evaluated on val alone.
    """
    # the state that a checkpoint holds
    torch.manual_seed(config.seed)
    reset_peak_memory(config.device)
    model = make_model(config, *start)
    optimizers = make_optimizers(config, model)
    scaler = torch.amp.GradScaler(config.device, enabled=config.dtype == 'float16')
    meter = Meter(config.device)
    progress = Progress()
    best = Best()
    state = {'model': model, 'scaler': scaler, 'meter': meter, 'progress': progress, 'best': best}
    state |= {f'optimizer_{i}': optimizer for i, optimizer in enumerate(optimizers)}
    steps = math.ceil(len(data['train'].labels) / config.batch_size)  # per epoch
    last_step = config.epochs * steps
    loop.load_checkpoint(folder, state, last_step, config.device)

    forward = parallel.data_parallel(model)
    step_of = partial(train_step, config, model, forward, optimizers, scaler, meter)
    if config.graphs:
        put_rates_on(config.device, optimizers)
        step_of = StepGraphs(step_of)

    progress.start_clock()
    meter.start_clock()
    for batch in training_batches(config, data['train'], progress.step, steps):
        # one training step
        progress.step += 1
        step = progress.step
        lr = scheduled_rate(step, last_step, config.learning_rate, config.warmup_iters)
        begin_step(optimizers, lr, batch.tokens)
        loop.seed_step(config.seed, step, config.device)
        loss = step_of(batch)
        if not loop.is_finite(loss, config.device, step):
            loop.fail_at_loss(loss.item(), folder, step, steps)
        meter.count(len(batch.rows), batch.n_tokens)
        loop.show_progress(folder, step, steps, config.epochs, meter)

        # evaluate, log and save, if it is time
        epoch_ends = step % steps == 0
        if epoch_ends or (config.eval_interval and step % config.eval_interval == 0):
            evaluate_and_log(config, folder, model, data['val'], progress, best, meter, lr, steps)
        if progress.save_is_due(epoch_ends, config.ckpt_secs):
            check_unchanged(data, meta)  # changed data would invalidate the run
            loop.save_checkpoint(folder, state)
        if loop.stop_signal:
            raise KeyboardInterrupt
        meter.start_clock()

    if is_trial:
        finish_trial(config, folder, model, data['val'], progress)
    else:
        finish(config, folder, model, data, progress, best)


def evaluate_and_log(config, folder, model, val, progress, best, meter, lr, steps):
    """Evaluate on val, append a line to log.jsonl, and keep the weights if they are the best."""
    step = progress.step
    epoch = step // steps if step % steps == 0 else round(step / steps, 4)
    synchronize(config.device)  # pending GPU work counts as training time
    meter.stop_clock()
    seconds = progress.seconds()
    means = meter.means()
    if not math.isfinite(means['train_loss']):  # on a GPU, not every step is checked
        loop.fail_at_loss(means['train_loss'], folder, step, steps)
    model.eval()  # also applies deferred updates, so it is not timed as evaluation
    started = time.perf_counter()
    logits = predict(config, model, val, choose_mix=True)
    figures = score(config, model.head, logits, val.labels)
    eval_seconds = time.perf_counter() - started
    val_tokens = int(val.lengths().clip(max=config.block_size).sum())
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
        'peak_memory_mb': peak_memory_mb(config.device),
        'eval_tokens_per_second': val_tokens / eval_seconds,
    }
    if figures['correct'] > best.correct:
        best.keep(model, epoch, figures['correct'])
    loop.log_row(folder, progress, row, config.tensorboard)

    start_of_line = '\r' if sys.stdout.isatty() else ''
    print(f'{start_of_line}{folder}  epoch {epoch}/{config.epochs}  '
          f'train loss {means["train_loss"]:.4f} acc {100 * means["train_acc"]:.2f}  '
          f'val loss {figures["loss"]:.4f} acc {100 * figures["accuracy"]:.2f}  '
          f'{means["tokens_per_second"]:,.0f} tokens/s  {seconds:.0f} s', flush=True)
    if step % steps == 0:
        meter.reset()


def finish(config, folder, model, data, progress, best):
    """Write weights, predictions and the final metrics: of the last epoch, the one that is
    reported, and of the best epoch on val. result.json is written last and marks a run as
    complete."""
    from nanoloss.stats import fit_temperature  # importing scipy takes a second
    logits = {name: predict(config, model, data[name]) for name in EVALUATED}

    # evaluate.py recounts the correct answers from these
    arrays = {}
    for name in ('val', 'test'):
        arrays[f'{name}_logits'] = logits[name].half().numpy()
        arrays[f'{name}_labels'] = np.array(data[name].labels)
        if data[name].groups is not None:
            arrays[f'{name}_groups'] = np.array(data[name].groups)
    write_file(folder / 'preds.npz', lambda file: np.savez_compressed(file, **arrays))
    write_file(folder / 'model.pt', lambda file: torch.save(model.state_dict(), file))
    write_file(folder / 'best.pt', lambda file: torch.save(best.weights, file))

    result = {'head': config.head, 'seed': config.seed}
    for which, epoch in (('last', config.epochs), ('best', best.epoch)):
        if epoch != config.epochs:  # otherwise the best weights are those of the last epoch
            model.load_state_dict(best.weights)
            logits = {name: predict(config, model, data[name]) for name in EVALUATED}
        result[which] = {'epoch': epoch}
        for name in EVALUATED:
            key = 'train' if name == 'seen' else name
            result[which][key] = score(config, model.head, logits[name], data[name].labels)
        val_labels = torch.from_numpy(data['val'].labels.astype(np.int64))
        result[which]['temperature'] = fit_temperature(model.head.probs, logits['val'], val_labels)
    result['seconds'] = progress.seconds()
    write_json(folder / 'result.json', result)
    last = result['last']
    print(f'{folder}  done  val {100 * last["val"]["accuracy"]:.2f}  '
          f'test {100 * last["test"]["accuracy"]:.2f}  {result["seconds"]:.0f} s')


def finish_trial(config, folder, model, val, progress):
    """Write the metrics of a trial on val, its log loss after temperature scaling among them."""
    from nanoloss.stats import each_decision, fit_temperature, negative_log_likelihood
    logits = predict(config, model, val).double()
    labels = torch.from_numpy(val.labels.astype(np.int64))
    temperature = fit_temperature(model.head.probs, logits, labels)
    probs = model.head.probs(logits / temperature)
    write_json(folder / 'result.json', {
        'log_loss': negative_log_likelihood(*each_decision(probs.numpy(), labels.numpy())),
        'accuracy': float(is_correct(probs, labels, config.always_labelled).double().mean()),
        'seconds': progress.seconds(),
    })


# Command

def with_numbers(config, data, trunk_weights):
    """Number the data -> the config with what follows from them, the data, what each seed starts
    from (see `train`), and an untrained model."""
    data, vocabulary, linear = number_data(config, data, untrained_head(config), trunk_weights)
    start = trunk_weights, vocabulary, linear
    config = updated(config, known_tokens=len(vocabulary.tokens),
                     known_ngrams=len(vocabulary.ngrams))
    model = make_model(config, *start)
    return updated(config, bag=config.bag and not model.trunk.ordered), data, start, model


def run_trial(config, data, meta, trunk_weights):
    """Train a trial of --tune, unless that is done already -> its result."""
    config, data, start, _ = with_numbers(config, data, trunk_weights)
    with loop.run_folder(config) as folder:
        if folder is not None:
            train(config, folder, data, meta, start, is_trial=True)
    parallel.wait()
    path = Path(config.out_dir) / f'seed{config.seed}' / 'result.json'
    return json.loads(path.read_text())


def main(config):
    check_settings(config)
    data, meta = load_data(Path(config.data_dir) / config.dataset)
    data['train'] = sample_texts(data['train'], config.n_train, config.seed)
    meta['class_share'] = class_share(data['train'].labels, len(meta['classes']))
    config = loop.start_device(config)
    if config.device != 'cpu' or config.dtype == 'float16':
        config.deferred = False  # a GradScaler would have to know about deferred rows
    facts = loop.describe_machine(config.device) | describe_data(meta)
    facts['files'] = loop.describe_files(config)
    if config.teacher:
        from nanoloss.ensemble import pseudo_label  # only a teacher needs it
        data['train'], facts['teacher_id'] = pseudo_label(config, data['train'], meta)
    config = updated(auto_settings(config, data['train']), **facts)

    with loop.clean_exit(config.out_dir):
        trunk_weights = load_trunk(config, meta)
        data['seen'] = seen_texts(config, data)
        if config.tune:
            trial = partial(run_trial, data=data, meta=meta, trunk_weights=trunk_weights)
            config = choose(config, trial, Path(config.out_dir))
        config, data, start, model = with_numbers(config, data, trunk_weights)
        introduce(config, model, data)
        loop.run_seeds(config, partial(train, data=data, meta=meta, start=start))


def introduce(config, model, data):
    """Print the model, the automatic settings and the data."""
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f'{config.trunk} trunk, {config.head} head, {n_parameters:,} parameters, '
          f'{config.device}, {config.dtype}, {config.threads} threads')
    print(f'batch_size {config.batch_size}, epochs {config.epochs}, ngrams {config.ngrams}, '
          f'min_count {config.min_count}')
    sizes = ', '.join(f'{len(data[name].labels):,} {name}' for name in SPLITS)
    cut = (data['train'].lengths() > config.block_size).mean()
    print(f'{config.dataset}: {sizes}; block_size {config.block_size} (truncate={config.truncate}) '
          f'cuts {cut:.1%} of the training texts')


if __name__ == '__main__':
    loop.stop_at_signals()
    config_files = []
    config = configure(globals(), more=model_settings, config_files=config_files)
    main(loop.with_out_dir(config, config_files, 'out'))
