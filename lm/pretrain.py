"""text without labels -> a language model: data/<name> -> out/lm/<name>/seed<k>/.

    python -m lm.pretrain lm/config/ce.py                on IMDB's train and unlabelled reviews
    python -m lm.pretrain lm/config/sample.py            a minute on the sample set
    python -m lm.pretrain lm/config/ce.py --head=squentropy --out_dir=out/lm/other
    torchrun --standalone --nproc_per_node=2 -m lm.pretrain lm/config/ce.py
    python -m lm.sample out/lm/ce/seed0 --prompt="This film"           text from it
    python train.py config/finetune.py --init_from=out/lm/ce/seed0     a classifier on its trunk

Notable:
- It trains on the texts of train and the unlabelled texts, never on those of val or test.
- Texts are concatenated, each after an end-of-text token, and cut into blocks. In a block, tokens
  attend only to their own text (lm/model.py).
- Rare tokens are spelled byte by byte. So the output layer has a tenth of the tokenizer's tokens,
  and no token is unknown. Bits per byte can be compared across vocabularies.
- With --masked=0.4, the model masks and predicts 40 % of the tokens instead of the next token. Its
  attention is then bidirectional; without positions, a text is a bag.
- The code that saves, resumes and stops runs is that of train.py (nanoloss/loop.py).
"""
import math
import sys
import time
from functools import partial

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np
import torch

from lm.data import (
    cut_into_pieces, load_texts, number_texts, steps_per_epoch, training_batches)
from lm.model import make_language_model
from model import HEADS, find_class, keywords
from nanoloss import loop, parallel
from nanoloss.data import batches, describe_data
from nanoloss.devices import autocast, peak_memory_mb, reset_peak_memory, synchronize, to_device
from nanoloss.files import write_file, write_json
from nanoloss.graphs import StepGraphs
from nanoloss.loop import Meter, Progress
from nanoloss.optim import (
    AdamW, begin_step, clip_grad_norm, parameter_groups, put_rates_on, scheduled_rate)
from nanoloss.settings import check_bounds, configure, fail, updated

# -----------------------------------------------------------------------------
# run
out_dir = ''  # one folder per run goes here: seed0, seed1, ...; '': out/lm/NAME of the config file
dataset = 'imdb'  # a data set made by prepare.py
data_dir = 'data'  # the folder of data sets
seed = 0  # of the first run
n_runs = 1  # seeds to train, one after the other
overwrite = False  # delete the previous contents of a run's folder
eval_interval = 250  # steps between evaluations on val
eval_texts = 100  # texts of val in such an evaluation
final_texts = 1000  # texts of val and of test in the final evaluation
ckpt_secs = 60.0  # seconds between checkpoints
tensorboard = False  # also write log.jsonl as curves to the run's folder tensorboard/
# model; the keywords of the head (model.py) are settings too
head = 'ce'  # output layer and loss: a name in HEADS, or FILE.py:CLASS
lower = False  # lower-case the texts
min_count = 0  # rarer tokens are spelled (0: a 200,000th of all tokens, at least 2)
n_layer = 4
n_head = 4
n_embd = 256
block_size = 256  # tokens of a block, the longest context
pos = 'none'  # position encoding: none (a causal model needs none) or learned
masked = 0.0  # share of the tokens to mask and predict (0: predict the next token)
dropout = 0.0  # of the embedding and of each branch
tied = False  # one matrix for the token embedding and the output layer
# optimizer
max_iters = 3500  # steps
batch_size = 16  # blocks per step
learning_rate = 2e-3  # the highest; it decays to 0 by a cosine
warmup_iters = 100  # steps of linear warm-up
weight_decay = 0.1  # of all matrices
beta2 = 0.99  # of AdamW
grad_clip = 1.0  # largest global norm of the gradient (0: no clipping)
# system
device = 'auto'  # cuda, mps or cpu; auto: the first of these that is available
dtype = 'auto'  # bfloat16, float16, float32 or float64; auto: the fastest that is safe
max_tokens = 0  # tokens per micro-batch (0: 8192 on CPUs, the whole batch on GPUs)
graphs = True  # on CUDA, use CUDA graphs
deterministic = False  # the same numbers from the same seed on CUDA too (CPUs always do so)
threads = 0  # CPU threads (0: PyTorch's choice)
# -----------------------------------------------------------------------------
BOUNDS = [  # settings, the lowest value, and what they must be below
    (['n_runs', 'batch_size', 'block_size', 'max_iters', 'eval_interval', 'eval_texts'], 1,
     math.inf),
    (['final_texts'], 10, math.inf),
    (['beta2', 'masked'], 0, 1),
    (['seed'], 0, 2 ** 63),
    (['max_tokens', 'warmup_iters', 'learning_rate', 'min_count', 'weight_decay', 'grad_clip',
      'threads', 'ckpt_secs'], 0, math.inf),
]
BETA1 = 0.9  # of AdamW: the library's default
# of AdamW. The square loss is a mean over the classes: with 13,000 classes, its gradients are no
# larger than the library's default, 1e-8.
EPS = 1e-12
FIT_TOKENS = 10_000  # tokens of val on which the temperature is fitted
EVAL_ROWS = 256  # logits of this many tokens are computed at once in an evaluation


# Settings and model

def head_settings(settings):
    """The keywords of the chosen head, with their defaults: settings too."""
    return keywords(find_class(settings['head'], HEADS))


def auto_settings(config, train_split):
    """Choose min_count from the number of training tokens if it is 0 -> a new config."""
    if config.min_count:
        return config
    return updated(config, min_count=max(2, round(len(train_split.tokens) / 200_000)))


def make_model(config, vocabulary):
    """A LanguageModel on the device, with new weights."""
    try:
        model = make_language_model(vars(config))
    except ValueError as error:
        fail(error)
    model.tokens.copy_(torch.from_numpy(vocabulary.tokens))
    return model.to(config.device, torch.float64 if config.dtype == 'float64' else None)


# Evaluation

@torch.no_grad()
def hidden_states(config, model, split, share_of=parallel.share_of):
    """Yield, batch by batch, the hidden states that predict a token of a split's texts [n, n_embd],
    these tokens int64 [n], and the text of each, int64 [n].

    A text longer than block_size is cut into pieces, which do not see each other. The same tokens
    are masked each time. share_of: a batch -> the part that this process computes.
    """
    pieces, text = cut_into_pieces(config, split)
    masked = None
    if config.masked:
        masked = np.random.default_rng(0).random(len(pieces.tokens)) < config.masked
        masked &= pieces.tokens > 0
        if not masked.any():
            fail(f'masked={config.masked} masks no token of {len(split.spans)} texts; '
                 'try a higher one')

    model.eval()
    # a piece has one more token than a block: the last one is only predicted
    of_pieces = updated(config, block_size=config.block_size + 1, truncate='head', bag=False)
    for batch in batches(pieces, of_pieces, config.batch_size, device=config.device):
        share = share_of(batch)
        if not len(share.rows):
            continue
        tokens = share.tokens[:, :-1]
        if masked is None:
            masked_here = None
            predicted = share.counts[:, 1:] > 0
            targets = share.tokens[:, 1:]
        else:
            columns = pieces.spans[share.rows, :1] + np.arange(tokens.shape[1])
            # columns after the end of a piece belong to other texts
            masked_here = to_device(masked[columns.clip(max=len(masked) - 1)], config.device)
            masked_here &= share.counts[:, 1:] > 0
            predicted = masked_here
            targets = tokens
            if not predicted.any():
                continue
        with autocast(config.device, config.dtype):
            hidden = model(tokens, masked_here)
        texts = text[share.rows][:, None].expand(predicted.shape).to(config.device)
        yield hidden[predicted], targets[predicted], texts[predicted]
    model.train()


@torch.no_grad()
def score_tokens(config, head, hidden, targets, temperature=1.0):
    """Score predictions: hidden states [n, n_embd], targets int64 [n] -> the negative
    log-likelihood of each target in nats, with logits divided by the temperature, float64 [n];
    whether the target has the highest logit, bool [n]; and the head's mean loss."""
    nll = []
    correct = []
    total = 0.0
    for h, y in zip(hidden.split(EVAL_ROWS), targets.split(EVAL_ROWS)):
        with autocast(config.device, config.dtype):
            logits = head(h)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total += float(head.loss(logits, y)) * len(y)
        p = head.probs(logits / temperature).gather(1, y[:, None])[:, 0]
        nll.append(-p.clamp(min=torch.finfo(p.dtype).tiny).log().double())
        correct.append(logits.argmax(1) == y)
    return torch.cat(nll), torch.cat(correct), total / len(targets)


def fit_temperature(config, model, split):
    """The temperature that minimizes the negative log-likelihood of FIT_TOKENS tokens."""
    from nanoloss.stats import best_temperature  # importing scipy takes a second
    found = list(hidden_states(config, model, split, share_of=lambda batch: batch))
    hidden = torch.cat([hidden for hidden, _, _ in found])
    targets = torch.cat([targets for _, targets, _ in found])
    # sampled, because the shortest pieces come first
    rows = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))[:FIT_TOKENS]
    hidden = hidden[rows]
    targets = targets[rows]

    def mean_nll(temperature):
        return float(score_tokens(config, model.head, hidden, targets, temperature)[0].mean())
    # the logits of a square loss are as small as the probabilities of the tokens
    return best_temperature(mean_nll, widest=14)


def score(config, model, split, n_bytes, temperatures=(1.0,)):
    """Figures of a split's texts, a dict; the predicted tokens of each text, float64 [texts]; and
    its negative log-likelihood in nats, float64 [temperatures, texts]."""
    n_texts = len(split.spans)
    tokens = torch.zeros(n_texts, dtype=torch.float64)
    nll = torch.zeros(len(temperatures), n_texts, dtype=torch.float64)
    sums = torch.zeros(2, dtype=torch.float64)  # of losses and of correct predictions
    for hidden, targets, texts in hidden_states(config, model, split):
        texts = texts.cpu()
        tokens.index_add_(0, texts, torch.ones(len(texts), dtype=torch.float64))
        for i, temperature in enumerate(temperatures):
            found, correct, loss = score_tokens(config, model.head, hidden, targets, temperature)
            nll[i].index_add_(0, texts, found.cpu())
        sums += torch.tensor([loss * len(targets), float(correct.sum())], dtype=torch.float64)
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
    # unscaled, and with the fitted temperature
    for suffix, row in zip(('', '_scaled'), nll.sum(1).tolist()):
        figures[f'nll{suffix}'] = row / n_tokens
        figures[f'perplexity{suffix}'] = math.exp(row / n_tokens)
        if not config.masked:  # otherwise the bytes are not those of the predicted tokens
            figures[f'bits_per_byte{suffix}'] = row / math.log(2) / figures['n_bytes']
    return figures, tokens.numpy(), nll.numpy()


def describe(figures, suffix=''):
    """Perplexity and, if known, bits per byte, in words."""
    text = f'perplexity {figures[f"perplexity{suffix}"]:.1f}'
    if f'bits_per_byte{suffix}' in figures:
        text += f', {figures[f"bits_per_byte{suffix}"]:.3f} bits/byte'
    return text


# Training

def train_step(config, model, forward, optimizer, scaler, meter, batch):
    """One step: forward and backward over the micro-batches, clip, update -> the mean loss."""
    # the gradients of the micro-batches add up to that of the batch
    loss_of_batch = 0
    for micro, weight, last in parallel.micro_batches(batch, config.max_tokens):
        with autocast(config.device, config.dtype), parallel.averaging(forward, last):
            hidden = forward(micro.tokens, micro.masked())
            loss = model.loss(*micro.predictions(hidden))
        scaler.scale(loss * weight).backward()
        loss = loss.detach()
        loss_of_batch += loss * weight
        if weight:
            meter.add_micro_batch(loss, torch.zeros_like(loss), micro.tokens.numel())

    # clip the norm of all gradients, update the weights, clear the gradients
    scaler.unscale_(optimizer)
    meter.add_norm(clip_grad_norm([optimizer], config.grad_clip))
    scaler.step(optimizer)
    optimizer.zero_grad()
    scaler.update()
    return loss_of_batch


def train(config, folder, texts, n_bytes, vocabulary):
    """Train the run of one seed in its folder, or resume it from its checkpoint."""
    # the state that a checkpoint holds
    torch.manual_seed(config.seed)
    reset_peak_memory(config.device)
    model = make_model(config, vocabulary)
    groups = parameter_groups(model, config.weight_decay)
    optimizer = AdamW(groups, betas=(BETA1, config.beta2), eps=EPS, fused=True)
    scaler = torch.amp.GradScaler(config.device, enabled=config.dtype == 'float16')
    meter = Meter(config.device)
    progress = Progress()
    state = {'model': model, 'optimizer': optimizer, 'scaler': scaler, 'meter': meter,
             'progress': progress}
    loop.load_checkpoint(folder, state, config.max_iters, config.device)

    forward = parallel.data_parallel(model)
    step_of = partial(train_step, config, model, forward, optimizer, scaler, meter)
    if config.graphs:
        put_rates_on(config.device, [optimizer])
        step_of = StepGraphs(step_of)
    steps = steps_per_epoch(config, texts['train'])

    progress.start_clock()
    meter.start_clock()
    for batch in training_batches(config, texts['train'], progress.step, steps):
        if progress.step == config.max_iters:
            break
        # one step of the optimizer
        progress.step += 1
        step = progress.step
        lr = scheduled_rate(step, config.max_iters, config.learning_rate, config.warmup_iters)
        begin_step([optimizer], lr, batch.tokens)
        loop.seed_step(config.seed, step, config.device)
        loss = step_of(batch)
        if not loop.is_finite(loss, config.device, step):
            loop.fail_at_loss(loss.item(), folder, step)
        meter.count(batch.tokens.numel(), batch.tokens.numel())
        show_progress(config, folder, step, loss, meter)

        # evaluate, log and save, if it is time
        evaluated = step % config.eval_interval == 0 or step == config.max_iters
        if evaluated:
            evaluate_and_log(config, folder, model, texts['val'], n_bytes['val'], progress, meter,
                             lr)
        if progress.save_is_due(evaluated, config.ckpt_secs):
            loop.save_checkpoint(folder, state)
        if loop.stop_signal:
            raise KeyboardInterrupt
        meter.start_clock()

    finish(config, folder, model, texts, n_bytes, progress)


def show_progress(config, folder, step, loss, meter):
    """Print a line that the next one overwrites."""
    if sys.stdout.isatty() and step % 5 == 0:
        tokens_left = (config.max_iters - step) * config.batch_size * config.block_size
        minutes = tokens_left / meter.tokens_per_second() / 60
        print(f'\r{folder}  step {step}/{config.max_iters}  loss {loss.item():.4f}  '
              f'{meter.tokens_per_second():,.0f} tokens/s  {minutes:.0f} min left\033[K',
              end='', flush=True)


def evaluate_and_log(config, folder, model, val, n_bytes, progress, meter, lr):
    """Evaluate on some texts of val, and append a line to log.jsonl."""
    step = progress.step
    synchronize(config.device)  # pending GPU work counts as training time
    meter.stop_clock()
    seconds = progress.seconds()
    means = meter.means()
    if not math.isfinite(means['train_loss']):  # on a GPU, not every step is checked
        loop.fail_at_loss(means['train_loss'], folder, step)
    started = time.perf_counter()
    some = slice(config.eval_texts)
    figures, tokens, _ = score(config, model, val.take(some), n_bytes[some])
    eval_seconds = time.perf_counter() - started
    row = {
        'step': step,
        'tokens': step * config.batch_size * config.block_size,
        'train_loss': means['train_loss'],
        'val_loss': figures['loss'],
        'val_perplexity': figures['perplexity'],
        'val_bits_per_byte': figures.get('bits_per_byte'),
        'val_acc': figures['accuracy'],
        'lr': lr,
        'grad_norm': means['grad_norm'],
        'seconds': seconds,
        'tokens_per_second': means['tokens_per_second'],
        'peak_memory_mb': peak_memory_mb(config.device),
        'eval_tokens_per_second': float(tokens.sum()) / eval_seconds,
    }
    loop.log_row(folder, progress, row, config.tensorboard)
    start_of_line = '\r' if sys.stdout.isatty() else ''
    print(f'{start_of_line}{folder}  step {step}/{config.max_iters}  '
          f'train loss {means["train_loss"]:.4f}  val loss {figures["loss"]:.4f}  '
          f'{describe(figures)}  {means["tokens_per_second"]:,.0f} tokens/s  {seconds:.0f} s',
          flush=True)
    meter.reset()


def finish(config, folder, model, texts, n_bytes, progress):
    """Write weights and the final figures, unscaled and with a fitted temperature. The temperature
    is fitted on the first tenth of val, which the figures of val leave out. result.json is written
    last: a run that has it is complete."""
    n_fit = max(1, min(config.final_texts, len(texts['val'].spans)) // 10)
    temperature = fit_temperature(config, model, texts['val'].take(slice(n_fit)))
    result = {'head': config.head, 'seed': config.seed}
    result['last'] = {'step': config.max_iters, 'temperature': temperature}
    arrays = {}
    for name, first in (('val', n_fit), ('test', 0)):
        split = texts[name].take(slice(first, None))
        split_bytes = n_bytes[name][first:]
        figures, tokens, nll = score(config, model, split, split_bytes, (1.0, temperature))
        result['last'][name] = figures
        arrays[f'{name}_tokens'] = tokens.astype(np.int32)
        arrays[f'{name}_bytes'] = split_bytes.astype(np.int32)
        arrays[f'{name}_nll'] = nll[0].astype(np.float32)
        arrays[f'{name}_nll_scaled'] = nll[1].astype(np.float32)
    write_file(folder / 'preds.npz', lambda file: np.savez_compressed(file, **arrays))
    write_file(folder / 'model.pt', lambda file: torch.save(model.state_dict(), file))
    result['seconds'] = progress.seconds()
    write_json(folder / 'result.json', result)
    test = result['last']['test']
    print(f'{folder}  done  test {describe(test)}; at temperature {temperature:.2f} '
          f'{describe(test, "_scaled")}  {result["seconds"]:.0f} s')


# Command

def main(config):
    check_bounds(config, BOUNDS)
    if config.tensorboard:
        loop.require_tensorboard()
    texts, meta = load_texts(config)
    config = loop.start_device(config)
    config = auto_settings(config, texts['train'])
    texts, vocabulary, n_bytes = number_texts(config, texts, meta)
    steps = steps_per_epoch(config, texts['train'])
    facts = loop.describe_machine(config.device) | describe_data(meta)
    facts |= {
        'causal': not config.masked,
        'spell': True,
        'known_tokens': len(vocabulary.tokens),
        'unlabelled': meta.get('unlabelled', {}).get('sha256'),
    }
    config = updated(config, **facts)

    with loop.clean_exit(config.out_dir):
        model = make_model(config, vocabulary)
        introduce(config, model, texts, steps)
        del model
        loop.run_seeds(config, partial(train, texts=texts, n_bytes=n_bytes, vocabulary=vocabulary))


def introduce(config, model, texts, steps):
    """Print the model, the data and the number of steps."""
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    kind = 'masked language model' if config.masked else 'language model'
    print(f'{kind}, {config.head} head, {n_parameters:,} parameters, {config.device}, '
          f'{config.dtype}, {torch.get_num_threads()} threads')
    print(f'{config.dataset}: {len(texts["train"].spans):,} texts, '
          f'{len(texts["train"].tokens):,} tokens, {config.known_tokens:,} distinct '
          f'(min_count {config.min_count}: rarer ones are spelled)')
    print(f'{config.max_iters} steps of {config.batch_size} x {config.block_size} tokens, '
          f'{config.max_iters / steps:.2f} epochs')


if __name__ == '__main__':
    loop.stop_at_signals()
    config_files = []
    config = configure(globals(), more=head_settings, config_files=config_files)
    main(loop.with_out_dir(config, config_files, 'out/lm'))
