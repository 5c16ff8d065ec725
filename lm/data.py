"""Texts without labels -> blocks of tokens for a language model."""
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nanoloss.data import Split, load_data, load_unlabelled
from nanoloss.devices import to_device
from nanoloss.settings import fail
from nanoloss.tokenizer import decode, tokenizer
from nanoloss.vocabulary import learn_vocabulary, lower_case

# Texts

def load_texts(config):
    """The texts of train (the unlabelled ones too), val and test, by split, and meta.json."""
    folder = Path(config.data_dir) / config.dataset
    data, meta = load_data(folder, labelled=False)
    meta['class_share'] = None  # labels are not used
    texts = {name: split._replace(labels=None) for name, split in data.items()}
    if 'unlabelled' in meta:
        texts['train'] = texts['train'].join(load_unlabelled(folder, meta))
    if len(texts['val'].spans) < 2:
        fail(f'{config.dataset} has only one text in val; two are needed, one for the temperature '
             'and one for the figures')
    for name in ('val', 'test'):
        texts[name] = texts[name].take(slice(config.final_texts))
    if config.lower:
        encoding = tokenizer(meta['tokenizer']['name'])
        texts = {name: lower_case(split, encoding) for name, split in texts.items()}
    return texts, meta


def number_texts(config, texts, meta):
    """Number the tokens -> the texts, the `Vocabulary` of train, and the bytes of each text of val
    and test, {split: int64 [texts]}."""
    encoding = tokenizer(meta['tokenizer']['name'])
    n_bytes = {name: bytes_of_texts(texts[name], encoding) for name in ('val', 'test')}
    longest = int(texts['train'].lengths().max())  # do not truncate texts
    vocabulary = learn_vocabulary(texts['train'], encoding, True, 'none', config.min_count, longest,
                                  'head', spell=True)
    texts = {name: vocabulary.encode(split, encoding) for name, split in texts.items()}
    return texts, vocabulary, n_bytes


def bytes_of_texts(split, encoding):
    """The length of each text in bytes, int64 [texts]."""
    texts = [decode(split.tokens[begin:end], encoding) for begin, end in split.spans]
    return np.array([len(text.encode()) for text in texts])


# Batches

class Blocks(NamedTuple):
    """A batch: blocks of consecutive tokens, and the token after each of them."""
    rows: np.ndarray  # int64 [B]: which blocks of the batch
    tokens: torch.Tensor  # int64 [B, block_size]
    next_tokens: torch.Tensor  # int64 [B, block_size]
    masked_columns: torch.Tensor = None  # int64 [B, n]: tokens to predict; None: the next tokens

    def take(self, rows):
        """The batch with these blocks only."""
        columns = None if self.masked_columns is None else self.masked_columns[rows]
        return Blocks(self.rows[rows], self.tokens[rows], self.next_tokens[rows], columns)

    def masked(self):
        """Which tokens are masked: bool [B, block_size], or None."""
        if self.masked_columns is None:
            return None
        none = torch.zeros_like(self.tokens, dtype=torch.bool)
        return none.scatter(1, self.masked_columns, True)

    def predictions(self, hidden):
        """Hidden states [B, block_size, n_embd] -> those that predict a token, [n, n_embd], and
        these tokens, int64 [n]."""
        if self.masked_columns is None:
            return hidden.flatten(0, 1), self.next_tokens.flatten()
        index = self.masked_columns[..., None].expand(-1, -1, hidden.shape[-1])
        targets = self.tokens.gather(1, self.masked_columns)
        return hidden.gather(1, index).flatten(0, 1), targets.flatten()

    def micro_batches(self, max_tokens):
        """Yield consecutive micro-batches of at most max_tokens tokens, but at least one block."""
        n_blocks = max(1, max_tokens // self.tokens.shape[1])
        for begin in range(0, len(self.rows), n_blocks):
            yield self.take(slice(begin, begin + n_blocks))


def text_stream(split, order):
    """Concatenate the texts of these rows, each after a 0, with a final 0, [N]."""
    zero = np.zeros(1, split.tokens.dtype)
    pieces = []
    for begin, end in split.spans[order]:
        # an empty text is a single end of text, token 0
        tokens = split.tokens[begin:end]
        pieces += [zero, tokens[tokens > 0]]
    return np.concatenate([*pieces, zero])


def steps_per_epoch(config, split):
    """Whole batches in the training texts. Fails if there is none."""
    n_tokens = int((split.tokens > 0).sum()) + len(split.spans)
    steps = n_tokens // (config.batch_size * config.block_size)
    if steps == 0:
        fail(f'{config.dataset} has {n_tokens:,} training tokens, fewer than a batch of '
             f'{config.batch_size} blocks of {config.block_size}; try a lower --block_size or '
             '--batch_size')
    return steps


def training_batches(config, split, first_step, steps):
    """Yield batches without end, those after first_step; steps: per epoch. The order of the texts
    is drawn from the seed and the epoch."""
    size = config.batch_size * config.block_size
    first_epoch = first_step // steps + 1
    for epoch in count(first_epoch):
        rng = np.random.default_rng([config.seed, epoch])
        stream = text_stream(split, rng.permutation(len(split.spans)))
        steps_done = first_step % steps if epoch == first_epoch else 0
        for step in range(steps_done, steps):
            window = stream[step * size:(step + 1) * size + 1].astype(np.int64)
            tokens = window[:-1].reshape(config.batch_size, config.block_size)
            next_tokens = window[1:].reshape(config.batch_size, config.block_size)
            columns = None
            if config.masked:
                rng_of_step = np.random.default_rng([config.seed, epoch, step])
                columns = draw_masked_columns(tokens, config.masked, rng_of_step)
                columns = to_device(columns, config.device)
            yield Blocks(np.arange(config.batch_size), to_device(tokens, config.device),
                         to_device(next_tokens, config.device), columns)


def draw_masked_columns(tokens, share, rng):
    """Draw the columns of blocks [B, T] to mask, int64 [B, n].

    Every block has the same number of masked columns, so that the weight of a micro-batch is its
    share of the blocks. The 0 that begins a text is masked only if nothing else is left.
    """
    order = np.where(tokens == 0, 1, rng.random(tokens.shape)).argsort(1)
    n = max(1, round(share * tokens.shape[1]))
    return np.sort(order[:, :n], 1)


def cut_into_pieces(config, split):
    """Cut a split's texts into pieces of at most block_size tokens and the token after them -> a
    Split of pieces, and the text of each, int64 [pieces]."""
    stream = text_stream(split, np.arange(len(split.spans)))
    # text i is stream[edges[i]:edges[i + 1]], including its first 0; the next text's 0 ends it
    edges = np.append(np.flatnonzero(stream[:-1] == 0), len(stream) - 1)
    spans = []
    text = []
    for i in range(len(split.spans)):
        for begin in range(edges[i], edges[i + 1], config.block_size):
            spans.append((begin, min(begin + config.block_size, edges[i + 1]) + 1))
            text.append(i)
    return Split(stream, np.array(spans), labels=None), torch.tensor(text)
