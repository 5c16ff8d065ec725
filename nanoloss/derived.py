"""What a run derives from its data before it trains: token ids and the linear model of n-grams.

That takes time, so it is cached beside the data set.
"""
import hashlib
import inspect
import json
from pathlib import Path

import numpy as np
import torch

from nanoloss import linear, text, vocabulary
from nanoloss.data import spans_of
from nanoloss.files import write_file
from nanoloss.linear import LinearPart, fit_linear, linear_logits
from nanoloss.tokenizer import tokenizer
from nanoloss.vocabulary import Vocabulary, learn_vocabulary, lower_case

# the result depends on the head, on these settings and facts, and on the code of these modules
INPUTS = 'data', 'lower', 'block_size', 'truncate', 'full_vocab', 'spell', 'ngrams', 'min_count'
MODULES = linear, text, vocabulary
KEPT = 4  # files per data set; the oldest are deleted


def number_data(config, data, head, trunk_weights):
    """Number the tokens of the texts and fit the linear model to the head's loss -> the data, the
    `Vocabulary` of the training texts and the `LinearPart` (None without n-grams).

    data: the splits of `load_data`, and seen: the first texts of train, to be evaluated.
    """
    # the key of the cache covers no teacher, no trained trunk, no head of a user's file and no
    # sample of train; without anything to derive, no cache is needed
    from_elsewhere = config.teacher or trunk_weights is not None or ':' in config.head
    derives = config.lower or config.spell or not config.full_vocab or config.ngrams != 'none'
    if from_elsewhere or config.n_train or not derives:
        arrays = derive(config, data, head, trunk_weights)
    else:
        folder = Path(config.data_dir) / config.dataset
        arrays = cached(folder, hash_of(config, head),
                        lambda: derive(config, data, head, trunk_weights))

    known = Vocabulary(arrays['tokens'], arrays['ngrams'], config.ngrams, config.block_size,
                       config.truncate, config.spell)
    numbered = {}
    for name, split in data.items():
        logits = arrays.get(f'{name}_logits')
        numbered[name] = split._replace(
            tokens=arrays[f'{name}_tokens'], spans=spans_of(arrays[f'{name}_offsets']),
            linear=None if logits is None else torch.from_numpy(logits))
    fitted = None
    if len(known.ngrams):
        fitted = LinearPart(*(arrays[name] for name in LinearPart._fields))
    return numbered, known, fitted


def derive(config, data, head, trunk_weights):
    """The arrays of `number_data`, {name: array}: the tokens and n-grams of the vocabulary, the
    fields of the `LinearPart`, and of each split the tokens, their offsets and, if it is evaluated,
    the logits of the linear model."""
    encoding = tokenizer(config.tokenizer['name'])
    if config.lower:
        data = {name: lower_case(split, encoding) for name, split in data.items()}
    with_tokens = config.spell or not config.full_vocab
    known = learn_vocabulary(data['train'], encoding, with_tokens, config.ngrams,
                             config.min_count, config.block_size, config.truncate, config.spell)
    if config.spell and trunk_weights is not None:  # the trunk knows these tokens only
        known = known._replace(tokens=trunk_weights['tokens'].numpy())
    arrays = {'tokens': known.tokens, 'ngrams': known.ngrams}
    if len(known.ngrams):
        fitted = fit_linear(head, data['train'], config.n_class, known, encoding)
        arrays |= fitted._asdict()
        for name in data.keys() - {'train'}:
            arrays[f'{name}_logits'] = linear_logits(fitted, data[name], known, encoding)
    for name, split in data.items():
        split = known.number(split, encoding)
        arrays[f'{name}_tokens'] = split.tokens
        arrays[f'{name}_offsets'] = np.append(0, split.spans[:, 1])
    return arrays


# The cache

def hash_of(config, head):
    """A hash of all that `derive` depends on. Code may be edited, so it is a part of that."""
    facts = [torch.__version__, np.__version__, [getattr(config, key) for key in INPUTS]]
    for module in head.modules():  # with their settings
        numbers = {key: value for key, value in vars(module).items()
                   if isinstance(value, bool | int | float | str)}
        facts.append([type(module).__name__, numbers])
    facts.append([buffer.tolist() for buffer in head.buffers()])
    digest = hashlib.sha256(json.dumps(facts).encode())
    for source in __file__, *(inspect.getsourcefile(code) for code in (*MODULES, type(head))):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:16]


def cached(folder, key, compute):
    """The arrays that compute() returns, {name: array}, from folder/cache/<key>.npz if that exists.

    A damaged file is computed again. If the folder cannot be written to, nothing is cached.
    """
    path = folder / 'cache' / f'{key}.npz'
    try:
        with np.load(path) as file:  # it has a checksum of each array
            return dict(file)
    except Exception:  # missing, or damaged, which can raise anything
        arrays = compute()
    try:
        path.parent.mkdir(exist_ok=True)
        write_file(path, lambda file: np.savez(file, **arrays))
        by_age = sorted(path.parent.glob('*.npz'), key=lambda file: file.stat().st_mtime)
        for old in by_age[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        pass
    return arrays
