"""transformers' BERT, trained from scratch, for results/bench/choices.py: val chooses its rate.

    python -m results.bench.bert --dataset=sst2 --out_dir=out/bert

A small BERT (2 layers, 128 features, 2 heads) on our lower-cased tokens, trained with AdamW for 10
epochs at each of three rates. The epoch and the rate with the best accuracy on val are kept.
"""
import math
from pathlib import Path
from types import SimpleNamespace

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

from nanoloss.data import batches, load_data
from nanoloss.devices import autocast
from nanoloss.files import write_json
from nanoloss.settings import configure
from nanoloss.tokenizer import tokenizer
from nanoloss.vocabulary import lower_case

# -----------------------------------------------------------------------------
dataset = 'sst2'  # a data set made by prepare.py, with one label per text
data_dir = 'data'  # the folder of data sets
out_dir = 'out/bert'  # result.json goes here
# -----------------------------------------------------------------------------
RATES = 3e-4, 1e-3, 3e-3
EPOCHS = 10
UNKNOWN, CLS = 1, 2  # tokens; 0 is padding, and those of train come after these
BATCH_SIZE = 32
BLOCK_SIZE = 512


def number(data):
    """Number the tokens of train -> the data, and how many numbers there are."""
    known = np.unique(data['train'].tokens)
    numbered = {}
    for name, split in data.items():
        places = np.searchsorted(known, split.tokens).clip(max=len(known) - 1)
        numbered[name] = split._replace(
            tokens=np.where(known[places] == split.tokens, places + CLS + 1, UNKNOWN))
    return numbered, len(known) + CLS + 1


def logits_of(model, batch):
    """The logits of a Batch, whose texts begin with CLS."""
    tokens = F.pad(batch.tokens, (1, 0), value=CLS)
    mask = F.pad(batch.counts, (1, 0), value=1)
    with autocast('cpu', 'bfloat16'):
        return model(tokens, attention_mask=mask).logits.float()


@torch.no_grad()
def accuracy(model, split, options):
    """The share of the texts of a split that are classified correctly."""
    model.eval()
    n_correct = 0
    for batch in batches(split, options, BATCH_SIZE):
        n_correct += int((logits_of(model, batch).argmax(1) == batch.labels).sum())
    model.train()
    return n_correct / len(split.labels)


def fit(rate, data, n_tokens, n_class, options):
    """Train at a rate -> the accuracies on val and test of the epoch that is best on val."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(
        vocab_size=n_tokens, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=512, max_position_embeddings=BLOCK_SIZE + 1, num_labels=n_class))
    optimizer = torch.optim.AdamW(model.parameters(), rate, fused=True)
    steps = EPOCHS * math.ceil(len(data['train'].labels) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1,
                                                   cycle_momentum=False)
    best = {'val': 0.0, 'test': 0.0}
    for epoch in range(EPOCHS):
        rng = np.random.default_rng(epoch)
        order = rng.permutation(len(data['train'].labels))
        for batch in batches(data['train'], options, BATCH_SIZE, order, rng):
            F.cross_entropy(logits_of(model, batch), batch.labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        on_val = accuracy(model, data['val'], options)
        if on_val > best['val']:
            best = {'val': on_val, 'test': accuracy(model, data['test'], options)}
    return best


def main(config):
    data, meta = load_data(Path(config.data_dir) / config.dataset)
    encoding = tokenizer(meta['tokenizer']['name'])
    data, n_tokens = number({name: lower_case(split, encoding) for name, split in data.items()})
    options = SimpleNamespace(block_size=BLOCK_SIZE, truncate='head', bag=False, token_dropout=0.0)
    found = [fit(rate, data, n_tokens, len(meta['classes']), options) for rate in RATES]
    best = max(found, key=lambda one: one['val'])
    last = {name: {'accuracy': value} for name, value in best.items()}
    Path(config.out_dir).mkdir(parents=True, exist_ok=True)
    write_json(Path(config.out_dir) / 'result.json', {'last': last})


if __name__ == '__main__':
    main(configure(globals()))
