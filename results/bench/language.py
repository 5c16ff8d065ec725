"""Measure our language model beside nanoGPT's -> table.md and every measurement.

    python -m results.bench.language --nanogpt=PATH/nanoGPT      10 minutes on 2 cores

Both have the shape, batch, vocabulary and precision of lm/config/ce.py. Ours is trained by
lm/pretrain.py; nanoGPT's model.py (commit 3adf61e) takes nanoGPT's own training step.
"""
import contextlib
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np
import torch

from nanoloss.data import load_data, save_data, spans_of
from nanoloss.devices import choose_device, hardware_name, peak_memory_mb, synchronize
from nanoloss.files import write_file
from nanoloss.settings import check_bounds, configure, fail, updated
from nanoloss.speed import (
    HUGE_PAGES, Log, column, in_new_process, introduction, last_row, measure_peak, summary)
from nanoloss.tokenizer import tokenizer
from nanoloss.vocabulary import learn_vocabulary

# -----------------------------------------------------------------------------
nanogpt = '../shared/peers/nanoGPT'  # the folder of nanoGPT's model.py
dataset = 'imdb'  # a data set made by prepare.py
data_dir = 'data'  # the folder of data sets
out_dir = 'out/bench/language'  # the table and the measurements go here
repeats = 2  # measurements per row
n_train = 5120  # training texts to measure on
n_val = 1000  # val texts of ours
device = 'cpu'  # cpu or cuda
threads = 0  # CPU threads per row (0: one per core)
# -----------------------------------------------------------------------------
ROOT = Path(__file__).parents[2]
OURS = 'language model, ours: lm/config/ce.py'
PEERS = {  # name: whether it is compiled
    'language model, nanoGPT': False,
    'language model, nanoGPT with torch.compile': True,
}
# of lm/config/ce.py, but for the count: it gives 13,000 tokens on 5,120 reviews, as on all of IMDB
MIN_COUNT = 8
N_LAYER = 4
N_EMBD = 256
N_BLOCKS = 16  # per batch
BLOCK_SIZE = 256


def measure_ours(config, folder):
    """Train on folder/data -> the speed and the peak memory."""
    out = tempfile.mkdtemp(dir=folder)
    interval = 15 if config.device == 'cpu' else 150
    command = [sys.executable, '-m', 'lm.pretrain', 'lm/config/ce.py',
               f'--device={config.device}', '--dataset=data', f'--data_dir={folder}',
               f'--out_dir={out}', f'--threads={config.threads}', f'--min_count={MIN_COUNT}',
               f'--max_iters={2 * interval}', f'--eval_interval={interval}', '--eval_texts=1',
               '--final_texts=10']
    if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
        fail('lm/pretrain.py failed')
    row = last_row(Path(out) / 'seed0/log.jsonl')  # of the second half
    run_config = json.loads((Path(out) / 'seed0/config.json').read_text())
    return {'train': row['tokens_per_second'], 'memory': row['peak_memory_mb'],
            'vocabulary': run_config['known_tokens'] + 1}


def token_stream(config):
    """The training texts one after another, int64 [tokens], in the vocabulary that lm/pretrain.py
    learns, and the size of this vocabulary."""
    data, meta = load_data(Path(config.data_dir) / config.dataset)
    split = data['train'].take(slice(config.n_train))
    pieces = [split.tokens[begin:end] for begin, end in split.spans]
    split = split._replace(tokens=np.concatenate(pieces),
                           spans=spans_of(np.cumsum([0, *split.lengths()])))
    encoding = tokenizer(meta['tokenizer']['name'])
    vocabulary = learn_vocabulary(split, encoding, True, 'none', MIN_COUNT,
                                  int(split.lengths().max()), 'head', spell=True)
    stream = vocabulary.encode(split, encoding).tokens.astype(np.int64)
    return stream, len(vocabulary.tokens) + 1


def load_nanogpt(config):
    """nanoGPT's model.py as a module."""
    spec = importlib.util.spec_from_file_location('nanogpt', Path(config.nanogpt) / 'model.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure_nanogpt(config, compiled):
    """Tokens/s of nanoGPT's model in nanoGPT's training step, with bfloat16 autocast."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    module = load_nanogpt(config)
    stream, vocab_size = token_stream(config)
    gpt_config = module.GPTConfig(block_size=BLOCK_SIZE, vocab_size=vocab_size, n_layer=N_LAYER,
                                  n_head=4, n_embd=N_EMBD, dropout=0.0, bias=True)
    with contextlib.redirect_stdout(sys.stderr):
        model = module.GPT(gpt_config)
        model.to(config.device)
        optimizer = model.configure_optimizers(0.1, 2e-3, (0.9, 0.99), config.device)
    if compiled:
        model = torch.compile(model)
    rng = np.random.default_rng(0)
    n_steps = 12 if config.device == 'cpu' else 100
    for step in range(n_steps + 3):
        if step == 3:  # the first ones allocate memory, compile and choose kernels
            synchronize(config.device)
            start = time.perf_counter()
        begins = rng.integers(0, len(stream) - BLOCK_SIZE - 1, N_BLOCKS)
        x = torch.from_numpy(np.stack([stream[i:i + BLOCK_SIZE] for i in begins]))
        y = torch.from_numpy(np.stack([stream[i + 1:i + 1 + BLOCK_SIZE] for i in begins]))
        with torch.autocast(config.device, torch.bfloat16):
            _, loss = model(x.to(config.device), y.to(config.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    synchronize(config.device)
    seconds = time.perf_counter() - start
    return {'train': n_steps * N_BLOCKS * BLOCK_SIZE / seconds,
            'memory': peak_memory_mb(config.device), 'vocabulary': vocab_size}


def language_flops(vocabulary):
    """FLOPs that training needs per token: 3 times the matrix products of a forward pass. A token
    attends to half of its block on average."""
    layer = 24 * N_EMBD ** 2 + 4 * N_EMBD * BLOCK_SIZE / 2
    return 3 * (N_LAYER * layer + 2 * N_EMBD * vocabulary)


def language_table(measured):
    """Lines of Markdown, one per row."""
    peak = statistics.median(column(measured['peak'], 'peak'))
    lines = ['', '| | training, tokens/s | share of the peak | MB |', '| --- | --- | --- | --- |']
    for name in (OURS, *PEERS):
        values = measured[name]
        speed = statistics.median(column(values, 'train'))
        share = speed * language_flops(values[0]['vocabulary']) / peak / 1e12
        lines.append(f'| {name} | {summary(column(values, "train"))} | {share:.0%} '
                     f'| {summary(column(values, "memory"))} |')
    return lines


def main(config):
    check_bounds(config, [(['repeats', 'n_train', 'n_val'], 1, math.inf)])
    try:
        device = choose_device(config.device)
    except ValueError as error:
        fail(error)
    config = updated(config, device=device, threads=config.threads or os.cpu_count() or 1)
    if not (Path(config.nanogpt) / 'model.py').is_file():
        fail(f'there is no model.py in {config.nanogpt}; --nanogpt=PATH/nanoGPT names its folder')
    data, meta = load_data(Path(config.data_dir) / config.dataset)
    out = Path(config.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / 'measurements.jsonl')
    os.environ.update(HUGE_PAGES)  # for all processes that this one starts
    with tempfile.TemporaryDirectory() as folder:
        used = {
            'train': data['train'].take(slice(config.n_train)),
            'val': data['val'].take(slice(config.n_val)),
            'test': data['test'].take(slice(8)),
        }
        save_data(Path(folder) / 'data', used, meta)
        for _ in range(config.repeats):
            log.add('peak', in_new_process(measure_peak, config.device, config.threads))
            log.add(OURS, measure_ours(config, folder))
            for name, compiled in PEERS.items():
                log.add(name, in_new_process(measure_nanogpt, config, compiled))
    measured = log.measured()
    lines = [introduction(hardware_name(config.device), config.threads, measured)]
    text = '\n'.join(lines + language_table(measured)) + '\n'
    print(text, end='')
    write_file(out / 'table.md', lambda file: file.write(text.encode()))


if __name__ == '__main__':
    main(configure(globals()))
