"""data + model -> out/<name>/seed<k>/: train an encoder with a swappable head, evaluate it on val and test.

    python train.py config/bce.py                        one run, on CUDA, MPS or the CPU
    python train.py config/bce.py --n_runs=5             five seeds, one after the other
    python train.py config/bce.py --learning_rate=1e-3 --out_dir=out/fast
    torchrun --standalone --nproc_per_node=2 train.py config/bce.py     one run, each batch shared by 2 processes

Notable:
- The same command again skips finished runs and continues an unfinished one, from a state that is saved every minute.
  Every random number is drawn from the seed and the step or epoch, so it ends as if it had never been interrupted.
- A batch is made of reviews of about one size, as bags (model.py): little padding, each distinct token once. It is
  computed in parts that fit the caches, and only the embeddings of its own tokens are touched.
- Mixed precision: bfloat16 where the chip has it, on CPUs too, else float16 with a GradScaler, else float32.
"""
import gc
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from config import alone, claim, configure, fail, replace, replace_json
from model import (DeferredAdamW, bfloat16_is_fast, head_settings, is_right, load, make_encoder, pad, parts, shorten,
                   temperature, to_bags)

# -----------------------------------------------------------------------------
# a run
out_dir = 'out/bce'  # gets one folder a run, seed0, seed1, ...
dataset = 'imdb'  # made by prepare.py
data_dir = 'data'  # the folder of data sets
seed = 0  # of the first run
n_runs = 1  # so many seeds, one after the other
keep_frac = 1.0  # share of the last class's training reviews that is kept, to make it rare
oversample = False  # every class is drawn equally often, the reviews of a rare one several times an epoch
init_from = ''  # a run's folder, or a file of weights: start with its trunk, under a fresh head
overwrite = False  # throw away what is in a run's folder
eval_interval = 0  # steps between evaluations on val; 0: after every epoch only
ckpt_secs = 60.0  # seconds after which the state is saved again; an interrupted run goes on from there
# model
head = 'bce'  # output layer and loss: a name in model.py's HEADS
n_layer = 2
n_head = 2  # of 64 dimensions each, as in GPT-2
n_embd = 128
block_size = 512  # so many tokens of a review are used
truncate = 'head'  # which: its first (head), its last (tail), or half of each (both)
pos = 'none'  # position encoding: none (as in the paper) or learned
bag = True  # compute each distinct token of a review once (pos = 'none' only): same function, less work
bias = True  # in linear layers and norms
dropout = 0.0
token_dropout = 0.8  # share of a training review's tokens that is left out, anew each epoch; also a speed-up
# optimizer
epochs = 10
batch_size = 256  # reviews a step
pool = 50  # batches made together, of reviews of one size each: the larger, the less padding and randomness
learning_rate = 4e-4  # the highest
min_lr = 0.0  # the last
warmup_iters = 50  # steps from 0 to the highest rate
decay_lr = True  # from there to min_lr by a cosine
weight_decay = 0.1  # of all matrices
beta1 = 0.9
beta2 = 0.99
grad_clip = 1.0  # largest global norm of a gradient; 0: no clipping
deferred = True  # embeddings of tokens that a batch lacks make their steps later: the same AdamW (CPU only)
# system
device = 'auto'  # cuda, mps or cpu; auto takes the first there is
dtype = 'auto'  # bfloat16, float16, float32 or float64; auto takes the fastest that is safe
max_tokens = 0  # so many of a batch, padding included, are computed at once; 0: 8192 on CPUs, all on GPUs
compile = False  # torch.compile: a minute at first, faster from then on
deterministic = False  # the same numbers from the same seed on CUDA too (on the CPU they always are)
threads = 0  # CPU threads; 0 leaves the choice to PyTorch
# -----------------------------------------------------------------------------
FORMAT_VERSION = 1  # of data/<name>, see prepare.py
WORLD, RANK = int(os.environ.get('WORLD_SIZE', 1)), int(os.environ.get('RANK', 0))  # torchrun sets them
MAY_DIFFER = ('out_dir data_dir n_runs overwrite ckpt_secs compile deterministic device threads processes '
              'hardware torch commit').split()  # between a run's folder and a command that finds it


def load_data(folder):
    """data/<name> -> ({split: (tokens, spans, labels)}, its meta.json and the share of each class in training).

    tokens [N] is memory-mapped; spans, int64 [reviews, 2], say where a review begins and ends in it; labels are
    [reviews] or, of several a review, [reviews, classes]."""
    again, data = 'make it with: python prepare.py --source=... --name=' + dataset, {}
    try:
        meta = json.loads((folder / 'meta.json').read_text())
        if meta['version'] != FORMAT_VERSION:
            fail(f'{folder} is of format {meta["version"]}, this train.py reads {FORMAT_VERSION}; {again}')
        n_class, vocab_size = len(meta['classes']), meta['vocab_size']
        for split in ('train', 'val', 'test'):
            arrays = []
            for file in (f'{split}_{name}.npy' for name in ('tokens', 'offsets', 'labels')):
                arrays.append(np.load(folder / file, mmap_mode='r'))
                if hashlib.sha256(arrays[-1]).hexdigest() != meta['sha256'][file]:
                    fail(f'{folder}/{file} is damaged; {again}')
            tokens, offsets, labels = arrays
            if ([x.dtype for x in arrays] != [np.uint32, np.uint64, np.uint8] or tokens.max() not in range(vocab_size)
                    or (labels.max() >= n_class if labels.ndim == 1 else labels.shape[1] != n_class)):
                raise ValueError('meta.json is of other arrays')
            data[split] = tokens, np.stack([offsets[:-1], offsets[1:]], 1).astype(np.int64), labels
    except FileNotFoundError as error:
        fail(f'no data in {folder} ({error.filename} is missing); {again}')
    except Exception as error:  # a damaged file can raise anything
        fail(f'{folder} is damaged ({type(error).__name__}: {error}); {again}')

    tokens, spans, labels = data['train']
    meta['multi_label'] = labels.ndim == 2
    if meta['multi_label'] and (keep_frac < 1 or oversample):
        fail('keep_frac and oversample are for data with one label a review')
    if keep_frac < 1:  # prepare.py's order is by hash, so the first ones are as good as drawn
        last = np.flatnonzero(labels == n_class - 1)
        rows = np.delete(np.arange(len(labels)), last[math.ceil(keep_frac * len(last)):])
        data['train'] = tokens, spans[rows], labels[rows]
    share = (labels if labels.ndim == 2 else np.eye(n_class)[data['train'][2]]).mean(0)
    return data, meta | {'class_share': [1 / n_class] * n_class if oversample else share.tolist()}


def epoch_order(labels, rng):
    """The training reviews of an epoch, shuffled: each once or, with oversample, equally many of every class."""
    if not oversample:
        return rng.permutation(len(labels))
    piles = [np.flatnonzero(labels == y) for y in np.unique(labels)]
    n = math.ceil(len(labels) / len(piles))
    drawn = [np.concatenate([rng.permutation(pile) for _ in range(math.ceil(n / len(pile)))])[:n] for pile in piles]
    return rng.permutation(np.concatenate(drawn))[:len(labels)]


def batches(tokens, spans, labels, rng=None):
    """Yield all reviews of a split in batches of about one size.

    rng: a numpy Generator, for training: it shuffles reviews and batches and leaves out token_dropout of the tokens.
    Yields rows [B] (which reviews, the shortest first), tokens and counts [B, T] (a count of 0 is padding; T is a
    multiple of 8, because each new shape costs oneDNN time and memory), labels as given, all int64, and the number of
    review tokens, after truncation but before token dropout and bagging."""
    order = np.arange(len(labels)) if rng is None else epoch_order(labels, rng)
    for start in range(0, len(order), pool * batch_size):
        rows = order[start:start + pool * batch_size]
        n_tokens = lengths = np.minimum(np.diff(spans[rows])[:, 0], block_size)
        flat = np.concatenate([x for i, j in spans[rows] for x in shorten(tokens[i:j], block_size, truncate)])
        if rng is not None and token_dropout:
            keep, begin = rng.random(len(flat), dtype=np.float32) >= token_dropout, np.cumsum(lengths) - lengths
            keep[begin] |= ~np.logical_or.reduceat(keep, begin)  # one token stays in any case
            flat, lengths = flat[keep], np.add.reduceat(keep, begin, dtype=np.int64)
        flat, lengths = (torch.from_numpy(x.astype(np.int64)).to(device) for x in (flat, lengths))
        flat, counts, lengths = to_bags(flat, lengths) if bag else (flat, torch.ones_like(flat), lengths)
        # everything that a GPU must be waited for, once a pool
        begin, by_size = lengths.cumsum(0) - lengths, lengths.argsort(stable=True)
        answers, here = torch.from_numpy(labels[rows].astype(np.int64)).to(device), by_size.cpu().numpy()
        slices = [slice(i, min(i + batch_size, len(rows))) for i in range(0, len(rows), batch_size)]
        longest = lengths[by_size[[which.stop - 1 for which in slices]]].tolist()
        widths = [min(-(-n // 8) * 8, block_size) for n in longest]
        for k in range(len(slices)) if rng is None else rng.permutation(len(slices)):
            part = by_size[slices[k]]
            yield (rows[here[slices[k]]], *pad(flat, counts, begin[part], lengths[part], widths[k]), answers[part],
                   int(n_tokens[here[slices[k]]].sum()))


@torch.no_grad()
def predict(model, split, amp):
    """The model's logits for a whole split, float32 (or float64) [reviews, outputs], on the CPU."""
    model.eval()
    rows, z = [], []
    for which, tokens, counts, _, _ in batches(*split):
        rows.append(which[RANK::WORLD])
        with amp():
            z += [model(*part) for part in parts(max_tokens, tokens[RANK::WORLD], counts[RANK::WORLD])]
    z = torch.cat(z).cpu()
    logits = torch.zeros(len(split[2]), z.shape[1], dtype=z.dtype)
    logits[np.concatenate(rows)] = z
    if WORLD > 1:
        dist.all_reduce(logits)
    model.train()
    return logits


def score(head, logits, labels):
    """Figures of a split: right are the logits as preds.npz stores them, logit_grad a review's norm of d loss / d z."""
    labels, z = torch.from_numpy(labels.astype(np.int64)).to(device), logits.to(device).requires_grad_()
    correct, loss = int(is_right(head.probs(z.half().float()), labels).sum()), head.loss(z, labels)
    gradient = torch.autograd.grad(loss, z)[0].norm(dim=1).sum()  # the loss is a mean over the reviews
    return {'n': len(labels), 'correct': correct, 'accuracy': correct / len(labels), 'loss': loss.item(),
            'logit_grad': float(gradient)}


def peak_memory_mb():
    if device == 'cuda' or sys.platform == 'win32':
        return torch.cuda.max_memory_allocated() // 2 ** 20 or None
    import resource  # Unix only
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2 ** 20 if sys.platform == 'darwin' else 2 ** 10)


def describe(meta):
    """What config.json says beside the settings: on what, with which code and which data."""
    here = Path(__file__).parent
    git = ['git', '-C', str(here), 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() if shutil.which('git') else ''
    chip = torch.cuda.get_device_name() if device == 'cuda' else torch.cpu.get_capabilities().get('cpu_name', device)
    return {'device': device, 'dtype': dtype, 'deferred': deferred, 'hardware': chip,
            'threads': torch.get_num_threads(), 'processes': WORLD, 'torch': torch.__version__, 'commit': commit,
            'code': hashlib.sha256(b''.join((here / f).read_bytes() for f in ('train.py', 'model.py'))).hexdigest(),
            'data': hashlib.sha256(json.dumps(meta['sha256'], sort_keys=True).encode()).hexdigest(),
            'n_class': len(meta['classes']),
            **{key: meta.get(key) for key in ('tokenizer', 'vocab_size', 'classes', 'multi_label', 'class_share')}}


def rate(step, last):
    """The learning rate of a step, 1 to last: linear warm-up, then a cosine from learning_rate to min_lr."""
    if step <= warmup_iters:
        return learning_rate * step / warmup_iters
    way = (step - warmup_iters) / (last - warmup_iters) if decay_lr else 0
    return min_lr + (learning_rate - min_lr) * (1 + math.cos(math.pi * way)) / 2


def make_model(config):
    """An Encoder on the device, its weights drawn anew or, but for the head's, those of init_from."""
    try:
        model = make_encoder(config)
        if init_from:
            model.load_trunk(Path(init_from) / 'model.pt' if Path(init_from).is_dir() else Path(init_from))
    except (ValueError, OSError) as error:
        fail(error)
    return model.to(device, torch.float64 if dtype == 'float64' else None)


def run(k, data, meta, config, amp):
    """Train the run of seed k in its folder, from where it was saved last if it was begun before."""
    folder = Path(out_dir) / f'seed{k}'
    claim(folder, {**config, 'seed': k}, MAY_DIFFER, overwrite)
    if WORLD > 1:
        dist.barrier()  # all processes find the folder as the first one has left it
    if (folder / 'result.json').exists():
        return print(f'{folder} is complete already')
    torch.manual_seed(k)
    model = make_model(config)

    embedding = DeferredAdamW(model.embed.weight, (beta1, beta2), weight_decay) if deferred else None
    optimizer = torch.optim.AdamW(model.parameter_groups(weight_decay), betas=(beta1, beta2), fused=True)
    params = [p for group in optimizer.param_groups for p in group['params']]
    forward = torch.nn.parallel.DistributedDataParallel(model) if WORLD > 1 else model
    forward = torch.compile(forward, dynamic=True) if compile else forward
    scaler = torch.amp.GradScaler(device, enabled=dtype == 'float16')  # float16 alone would lose small gradients
    stateful = dict(model=model, optimizer=optimizer, scaler=scaler, **({'embedding': embedding} if deferred else {}))

    steps = math.ceil(len(data['train'][2]) / batch_size)  # an epoch
    step, log, best, seconds, sums = 0, [], {'correct': -1}, 0.0, None
    if (folder / 'ckpt.pt').exists():
        try:
            state = load(folder / 'ckpt.pt', device)
            for name, part in stateful.items():
                part.load_state_dict(state[name])
            step, log, best, seconds, sums = state['progress']
            load(folder / 'best.pt') if log else None  # wanted at the end
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # RuntimeError: of another shape
            fail(f'{folder} cannot go on ({type(error).__name__}: {error}); start this run again with --overwrite')
        print(f'{folder} goes on after step {step} of {epochs * steps}')
    saved, started = time.perf_counter(), time.perf_counter() - seconds

    def save():
        for split, (tokens, _, _) in data.items():  # a run on changed data is worth nothing
            if hashlib.sha256(tokens).hexdigest() != meta['sha256'][f'{split}_tokens.npy']:
                fail(f'{data_dir}/{dataset}/{split}_tokens.npy has changed; the run goes on once the old file is back')
        progress = step, log, best, time.perf_counter() - started, (stats, n_reviews, n_tokens, training)
        replace(folder / 'ckpt.pt', lambda file: torch.save(
            {name: part.state_dict() for name, part in stateful.items()} | {'progress': progress}, file))

    for epoch in range(step // steps + 1, epochs + 1):
        # sums over the epoch: of loss, right answers, gradient norm; of reviews, tokens, seconds
        stats, n_reviews, n_tokens, training = sums if step % steps else (torch.zeros(3, device=device), 0, 0, 0.0)
        now, whole = time.perf_counter() - training, batches(*data['train'], np.random.default_rng([k, epoch]))
        for _, tokens, counts, labels, n in islice(whole, step % steps, None):
            step += 1
            torch.manual_seed((k * WORLD + RANK) * 1_000_003 + step)  # for dropout
            lr = rate(step, epochs * steps)
            for group in optimizer.param_groups:
                group['lr'] = lr * group['lr_mult']
            tokens, leaf = embedding.rows(tokens) if deferred else (tokens, None)
            # this process's share; one that gets none joins in with a review that counts nothing
            share, counted = (slice(RANK, None, WORLD), 1) if RANK < len(labels) else (slice(1), 0)
            todo = list(parts(max_tokens, tokens[share], counts[share], labels[share]))
            for i, (t, c, y) in enumerate(todo):
                with amp(), forward.no_sync() if WORLD > 1 and i + 1 < len(todo) else nullcontext():
                    logits = forward(t, c, leaf)
                loss = model.head.loss(logits, y)
                # asking a GPU for a number makes it wait, so there only every tenth step is looked at
                if (device == 'cpu' or step % 10 == 0) and not math.isfinite(loss.item()):
                    fail(f'{folder}: the loss is {loss.item()} at step {step} (epoch {epoch}); '
                         'try a lower --learning_rate or --dtype=float32')
                scaler.scale(loss * (counted * WORLD * len(y) / len(labels))).backward()
                right = is_right(model.head.probs(logits.detach()), y).sum()
                stats[:2] += torch.stack([loss.detach() * len(y), right]) * counted
            if deferred and WORLD > 1:  # the other gradients are averaged by DistributedDataParallel
                dist.all_reduce(leaf.grad)
                leaf.grad /= WORLD
            scaler.unscale_(optimizer)
            stats[2] += torch.nn.utils.clip_grad_norm_([*params, leaf] if deferred else params, grad_clip or math.inf)
            if deferred:
                embedding.step(lr)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            n_reviews, n_tokens, training = n_reviews + len(labels), n_tokens + n, time.perf_counter() - now
            if sys.stdout.isatty():
                print(f'\r{folder}  epoch {epoch}/{epochs}  step {step - steps * (epoch - 1)}/{steps}  '
                      f'{n_tokens / training:,.0f} tokens/s\033[K', end='', flush=True)

            if step % steps == 0 or eval_interval and step % eval_interval == 0:  # evaluate on the whole of val
                if deferred:
                    embedding.settle()
                pause, total = time.perf_counter(), stats.clone()
                if WORLD > 1:
                    dist.all_reduce(total)
                loss_sum, correct, norm_sum = total.tolist()
                val = score(model.head, predict(model, data['val'], amp), data['val'][2])
                evaluating = time.perf_counter() - pause
                at = step // steps if step % steps == 0 else round(step / steps, 4)
                row = {'epoch': at, 'step': step, 'train_loss': loss_sum / n_reviews, 'train_acc': correct / n_reviews,
                       'val_loss': val['loss'], 'val_acc': val['accuracy'], 'logit_grad': val['logit_grad'], 'lr': lr,
                       'grad_norm': norm_sum / WORLD / (step - steps * (epoch - 1)), 'seconds': pause - started,
                       'tokens_per_second': n_tokens / training, 'peak_memory_mb': peak_memory_mb(),
                       'eval_tokens_per_second': int(np.diff(data['val'][1]).clip(max=block_size).sum()) / evaluating}
                log.append(row)
                if val['correct'] > best['correct']:
                    best = {'epoch': at, 'correct': val['correct']}
                    replace(folder / 'best.pt', lambda file: torch.save(model.state_dict(), file))
                replace_json(folder / 'log.jsonl', *log)
                print(f'{chr(13) * sys.stdout.isatty()}{folder}  epoch {at}/{epochs}  '
                      f'train loss {row["train_loss"]:.4f} acc {100 * row["train_acc"]:.2f}  '
                      f'val loss {row["val_loss"]:.4f} acc {100 * row["val_acc"]:.2f}  '
                      f'{n_tokens / training:,.0f} tokens/s  {pause - started:.0f} s', flush=True)
                now += time.perf_counter() - pause

            # of processes that share a run, each has sums of its own, which only a whole epoch puts together
            if step % steps == 0 or WORLD == 1 and (_stopped or time.perf_counter() - saved > ckpt_secs):
                save()
                saved = time.perf_counter()
            if _stopped:
                raise KeyboardInterrupt

    # the last epoch is the headline, the best on val comes second; of train, as many reviews as val has
    splits = {**data, 'train': [data['train'][0], *(x[:len(data['val'][2])] for x in data['train'][1:])]}
    result, logits = {'head': head, 'seed': k}, {name: predict(model, split, amp) for name, split in splits.items()}
    arrays = {f'{name}_{what}': array for name in ('val', 'test') for what, array in
              (('logits', logits[name].half().numpy()), ('labels', np.array(data[name][2])))}
    replace(folder / 'preds.npz', lambda file: np.savez_compressed(file, **arrays))
    replace(folder / 'model.pt', lambda file: torch.save(model.state_dict(), file))
    for which, at in ('last', epochs), ('best', best['epoch']):
        if at != epochs:
            model.load_state_dict(load(folder / 'best.pt', device))
            logits = {name: predict(model, split, amp) for name, split in splits.items()}
        result[which] = {'epoch': at} | {name: score(model.head, z, splits[name][2]) for name, z in logits.items()} | {
            'temperature': temperature(model.head, logits['val'], torch.from_numpy(data['val'][2].astype(np.int64)))}
    result['seconds'] = time.perf_counter() - started
    replace_json(folder / 'result.json', result, indent=1)
    if RANK == 0:
        (folder / 'ckpt.pt').unlink(missing_ok=True)
    print(f'{folder}  done  val {100 * result["last"]["val"]["accuracy"]:.2f}  '
          f'test {100 * result["last"]["test"]["accuracy"]:.2f}  {result["seconds"]:.0f} s')


def choose_device():
    """Settle what 'auto' and 0 stand for -> a function that makes the autocast context."""
    global device, dtype, bag, deferred, max_tokens
    there = {'cuda': torch.cuda.is_available(), 'mps': torch.backends.mps.is_available(), 'cpu': True}
    if device == 'auto':
        device = next(d for d, is_there in there.items() if is_there)
    if not there.get(device):
        fail(f'device {device!r} is not here; there is {", ".join(d for d in there if there[d])}')
    if dtype == 'auto':
        dtype = {'cuda': 'bfloat16' if there['cuda'] and torch.cuda.is_bf16_supported(False) else 'float16',
                 'cpu': 'bfloat16' if bfloat16_is_fast() else 'float32', 'mps': 'float32'}[device]
    if dtype not in ('bfloat16', 'float16', 'float32', 'float64') or (device, dtype) == ('mps', 'float64'):
        fail(f'dtype is bfloat16, float16, float32 or (not on mps) float64, not {dtype!r}')
    bag = bag and pos == 'none'
    deferred = deferred and device == 'cpu' and dtype != 'float16'  # the scaler knows nothing of it
    max_tokens = max_tokens or (8192 if device == 'cpu' else 2 ** 30)
    if WORLD > 1:
        if device == 'cuda':
            if (gpu := int(os.environ['LOCAL_RANK'])) >= torch.cuda.device_count():
                fail(f'here are {torch.cuda.device_count()} GPUs, too few for --nproc_per_node')
            torch.cuda.set_device(gpu)
        dist.init_process_group()
        sys.stdout = open(os.devnull, 'w') if RANK else sys.stdout
    torch.set_num_threads(threads or torch.get_num_threads())
    if deterministic:
        os.environ['CUBLAS_WORKSPACE_CONFIG'] = ':4096:8'
        torch.use_deterministic_algorithms(True)
    return lambda: torch.autocast(device, getattr(torch, dtype), enabled=dtype in ('bfloat16', 'float16'))


def main(settings):
    for keys, low, below in (('n_runs epochs batch_size pool', 1, math.inf), ('token_dropout beta1 beta2', 0, 1),
                             ('seed max_tokens eval_interval warmup_iters learning_rate min_lr weight_decay grad_clip '
                              'threads ckpt_secs', 0, math.inf)):
        for key in keys.split():
            if not low <= globals()[key] < below:
                fail(f'{key} must be at least {low}{" and below 1" * (below == 1)}, not {globals()[key]}')
    if not 0 < keep_frac <= 1:
        fail(f'keep_frac must be in (0, 1], not {keep_frac}')
    if truncate not in ('head', 'tail', 'both'):
        fail(f"truncate is 'head', 'tail' or 'both', not {truncate!r}")

    data, meta = load_data(Path(data_dir) / dataset)
    amp = choose_device()
    config, cut = {**settings, **describe(meta)}, np.diff(data['train'][1]) > block_size
    try:
        n_params = sum(p.numel() for p in make_model(config).parameters())
        print(f'{head} head, {n_params:,} parameters, {device}, {dtype}, {torch.get_num_threads()} threads')
        print(f'{dataset}: {", ".join(f"{len(d[2]):,} {split}" for split, d in data.items())}; {block_size} tokens of a '
              f'review are used (truncate={truncate}), which cuts {cut.mean():.1%} of the training reviews')
        for k in range(seed, seed + n_runs):
            with alone(Path(out_dir) / f'seed{k}'):
                run(k, data, meta, config, amp)
        if WORLD > 1:
            gc.collect()  # what still holds the group's threads, which would abort at the end of the process
            dist.destroy_process_group()
    except OSError as error:
        fail(f'cannot write to {out_dir}: {error}; what was saved before stays')
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search('out of memory|allocate memory|overflowed', str(error)):
            raise
        fail('out of memory; try a lower --max_tokens, --batch_size, --block_size or --n_embd')
    except KeyboardInterrupt:
        print('\nstopped; the same command goes on from here', file=sys.stderr)
        sys.exit(128 + (_stopped or signal.SIGINT))


def stop(signum, frame):
    """Finish the step, save, leave; at a second signal, leave at once."""
    global _stopped
    _stopped = signum
    signal.signal(signum, signal.SIG_DFL)


_stopped = 0
if __name__ == '__main__':
    for signum in (signal.SIGINT, signal.SIGTERM) if WORLD == 1 else ():  # torchrun stops its processes itself
        signal.signal(signum, stop)
    main(configure(globals(), more=head_settings))
