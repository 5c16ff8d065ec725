"""A trained run -> a folder that answers without PyTorch: pip install -r requirements-extra.txt

    python export.py out/my/seed0 --to=model     or out/my, the mean of its seeds
    python model/reader.py "a text"              needs numpy, tiktoken and onnxruntime
    python serve.py model                        the same over HTTP

The folder has the model from tokens to probabilities (model.onnx), the tokenizer's table, the
vocabulary, a description of the rest (model.json), a reader of them (reader.py, labels.py), the
checksums of all of these, and a model card, README.md, in which the licence of the data is yours to
fill in.

Notable:
- Before it gets its name, the folder is held against predict.py on all of val: the same labels, and
  probabilities within 0.002. What was found stands in the card.
- Of several runs model.onnx holds all, and answers with the mean of their probabilities. One model
  that is as good costs less: train.py --teacher, on texts without a label.
"""
import copy
import hashlib
import json
import logging
import os
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

import nanoloss  # noqa: F401 (before torch, whose threads it tells how to wait)
import numpy as np
import torch
from scipy.stats import binomtest
from torch import nn

from model import NgramWeights
from nanoloss import labels, reader
from nanoloss.settings import configure, fail
from nanoloss.data import fingerprint, load_data
from nanoloss.escape import markdown, markdown_name
from nanoloss.files import mend_folder, replacing_folder
from nanoloss.tokenizer import decode, table_file
from predict import WEIGHTS, Classifier

# -----------------------------------------------------------------------------
to = 'model'  # the folder that is made
which = 'last'  # the weights of the last epoch, or of the best on val (best)
thresholds = True  # take along those that evaluate.py has chosen, if any
data_dir = 'data'  # the folder of data sets: the run's own is needed for the check on val
overwrite = False  # replace a folder that is there
# -----------------------------------------------------------------------------
TOLERANCE = 0.002  # of a probability


# From runs to files

class SumOfNgrams(nn.Module):
    """`NgramWeights` as one product: ONNX would unroll its EmbeddingBag into a loop over texts."""

    def __init__(self, ngrams):
        super().__init__()
        self.weight = nn.Parameter(ngrams.sums.weight.detach())
        self.strength = nn.Parameter(ngrams.strength.detach())

    def forward(self, ngrams):
        strength = self.strength[ngrams]
        length = strength.norm(dim=1, keepdim=True)
        strength = strength / length.clamp(min=torch.finfo(length.dtype).tiny)
        return (strength[:, None] @ self.weight[ngrams])[:, 0]


class MeanProbs(nn.Module):
    """The runs of a `predict.Classifier` as one function from tokens to probabilities."""

    def __init__(self, runs):
        super().__init__()
        self.models = nn.ModuleList(copy.deepcopy(run.model) for run in runs)
        self.temperatures = [run.temperature for run in runs]
        for model in self.models:
            if isinstance(getattr(model, 'ngrams', None), NgramWeights):
                model.ngrams = SumOfNgrams(model.ngrams)

    def forward(self, tokens, counts, ngrams=None):
        """tokens, counts int64 [B, T] and n-grams int64 [B, M], as `Encoder` has them -> [B,
        classes]."""
        probs = []
        for model, temperature in zip(self.models, self.temperatures):
            logits = model(tokens, counts, ngrams)[-1]
            probs.append(model.head.probs(logits / temperature))
        return torch.stack(probs).mean(0)


def write_model(classifier, path):
    """The classifier's runs -> model.onnx, whose texts may be of any number and length."""
    batch = next(classifier.make_batches(classifier.tokens(['a text', 'another, longer text'])))
    inputs = [batch.tokens, batch.counts]
    if batch.ngrams is not None:
        inputs.append(batch.ngrams)
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)  # it misses torchvision
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        program = torch.onnx.export(
            MeanProbs(classifier.runs).eval(), tuple(inputs), dynamo=True, verbose=False,
            dynamic_shapes=tuple([any_size] * len(inputs)),
            input_names=reader.INPUTS[:len(inputs)], output_names=['probs'])
        program.save(path)


def describe(classifier):
    """What the reader has to know beside the arrays: model.json."""
    config = classifier.config
    encoding = classifier.encoding
    description = {
        'version': reader.FORMAT_VERSION,
        'id': classifier.id,
        'classes': classifier.classes,
        'multi_label': classifier.multi_label,
        'texts': {
            'lower': classifier.lower,
            'block_size': config['block_size'],
            'truncate': config['truncate'],
            'bag': classifier.bag,
            'spell': classifier.vocabulary.spell,
            'ngrams': classifier.vocabulary.ngram_kind,
        },
        'tokenizer': {
            'name': encoding.name,
            'pattern': encoding._pat_str,
            'special_tokens': encoding._special_tokens,
        },
    }
    if classifier.labels.thresholds is not None:
        description['thresholds'] = labels.as_json(classifier.labels.thresholds)
    return description


def write_reader(folder):
    """reader.py and labels.py, which it imports, so that they work outside of this repository."""
    shutil.copy(labels.__file__, folder / 'labels.py')
    source = Path(reader.__file__).read_text('utf-8')
    (folder / 'reader.py').write_text(
        source.replace('from nanoloss.labels import', 'from labels import'), 'utf-8')


# The model card

CARD = '''# {id}

A classifier of texts into {classes}. Made by nanoloss from {runs}, code {commit}; {size:.0f} MB.

```sh
python reader.py "a text"     # in this folder; needs numpy, tiktoken and onnxruntime
sha256sum -c SHA256SUMS       # whether all is as it was written
```

## What it was trained on

| | |
| --- | --- |
| data | {dataset}, from {source}, fingerprint {data} |
| texts | {texts} |
| licence of the data | to be filled in |

## How good it is

On texts that it was not trained on, after temperature scaling; the interval is for other texts of
the same kind, not for other seeds.

| | texts | accuracy, % | 95 % interval |
| --- | --- | --- | --- |
{figures}

{how}

Held against the run in PyTorch on the {n_checked:,} texts of val: {n_other} other labels,
probabilities at most {distance:.6f} apart.

## Limits

- It knows these classes only, and says {says} of any text: of another language, of another
  subject, of none.
- Of a text it reads {length}.
- It repeats what its training texts have, their errors and their prejudices among it.
- Its probabilities are scaled on val; of texts of another kind, they may be far off.
'''


def read_data(config):
    """The val and test of the run's data set, and its meta.json."""
    folder = Path(data_dir) / config['dataset']
    data, meta = load_data(folder)
    if fingerprint(meta) != config['data']:
        fail(f'{folder} is not the data that the run was trained on; '
             'the check on val needs that (--data_dir)')
    return {name: data[name] for name in ('val', 'test')}, meta


def texts_of(split, encoding):
    return [decode(split.tokens[begin:end], encoding) for begin, end in split.spans]


def compare(classifier, exported, texts):
    """Both on the same texts -> how many labels are others, and the largest distance of two
    probabilities. Fails where that is more than TOLERANCE."""
    # bfloat16 would round a text differently in another batch
    classifier.dtype = 'float32'
    expected = classifier.probs(texts)
    found = exported.probs(texts)
    distance = abs(expected - found).max()
    if not distance <= TOLERANCE:  # nan is not, either
        fail(f'the exported model is {distance:.4f} away from predict.py on a text of val; '
             'nothing was written')
    n_other = 0
    for p, q in zip(expected, found):
        n_other += classifier.label(p) != exported.label(q)
    return n_other, distance


def figure_row(name, split, decisions):
    """A row of the card's table: accuracy on a split, with Wilson's interval.

    decisions: of `decide`; all labels of a text have to be right."""
    n_texts = len(split.labels)
    wrong = (decisions != split.labels).reshape(n_texts, -1).any(1)
    n_correct = int((~wrong).sum())
    low, high = binomtest(n_correct, n_texts).proportion_ci(method='wilson')
    return (f'| {name} | {n_texts:,} | {100 * n_correct / n_texts:.2f} '
            f'| {100 * low:.2f} to {100 * high:.2f} |')


def describe_decisions(answers, decisions):
    """How the model comes from probabilities to labels, in sentences; what it says of any text.

    answers: its `Labels`; decisions: of `decide`, on val and on test."""
    chosen = answers.thresholds
    how = 'The likeliest class is the answer.'
    says = 'one of them'
    if answers.multi_label:
        how = 'The labels are those above 0.5.'
        says = 'those of them that it finds likely'
    if chosen is not None:
        goal = 'the best F1'
        if chosen.goal is not None:
            goal = f'a {chosen.rule} of {100 * chosen.goal:g} %'
        how = f'Thresholds decide, which were chosen on val for {goal}: labels.py says how.'
    if labels.can_be_unsure(chosen, answers.multi_label):
        shares = [f'{(of_split == labels.NO_ANSWER).mean():.1%}' for of_split in decisions]
        how += (f' Where none is reached, the answer is "{labels.UNSURE}", which counts as a wrong '
                f'one: {shares[0]} of val, {shares[1]} of test.')
        says = f'one of them, or "{labels.UNSURE}",'
    return how, says


def make_card(classifier, exported, folder, data, meta):
    """The model card, with what the exported folder itself answers on val and test.

    data, meta: of `read_data`."""
    config = classifier.config
    texts = {name: texts_of(split, classifier.encoding) for name, split in data.items()}
    n_other, distance = compare(classifier, exported, texts['val'])
    answers = exported.labels
    figures = []
    decisions = []
    for name, split in data.items():
        probs = exported.probs(texts[name])
        decisions.append(labels.decide(probs, answers.multi_label, answers.thresholds))
        figures.append(figure_row(name, split, decisions[-1]))
    how, says = describe_decisions(answers, decisions)
    sizes = []
    for name, size in meta['splits'].items():
        sizes.append(f'{size["rows"]:,} {name}')
    which_part = {'head': 'the first', 'tail': 'the last', 'both': 'the first and the last'}
    n_runs = len(classifier.runs)
    return CARD.format(
        id=markdown_name(classifier.id),
        classes=', '.join(map(markdown_name, classifier.classes)),
        runs='one run' if n_runs == 1 else f'{n_runs} runs, whose probabilities it averages',
        commit=markdown(config.get('commit') or 'unknown'),
        size=sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
        dataset=markdown(config['dataset']),
        source=markdown(meta.get('source', 'unknown')),
        data=config['data'][:16],
        texts=', '.join(sizes),
        figures='\n'.join(figures),
        how=how,
        says=says,
        n_checked=len(texts['val']),
        n_other=n_other,
        distance=distance,
        length=f'{which_part[config["truncate"]]} {config["block_size"]:,} tokens',
    )


# The command

def check_target(target):
    """Fail if the target must not be written over."""
    mend_folder(target)  # an earlier command may have been killed while it replaced the folder
    if not target.exists():
        return
    if not (target / 'SHA256SUMS').exists():
        fail(f'{target} is there, and is no exported model; give another --to')
    if not overwrite:
        fail(f'{target} is there; give another --to, or --overwrite to replace it')


def main(folders):
    if len(folders) != 1:
        fail('name one run, or one group of runs: python export.py out/bce/seed0 --to=model')
    for name in ('onnxruntime', 'onnxscript'):  # torch.onnx writes with the latter
        if find_spec(name) is None:
            fail(f'{name} is missing; pip install -r requirements-extra.txt')
    target = Path(os.path.abspath(to))
    check_target(target)
    if which not in WEIGHTS:
        fail(f"which is 'last' or 'best', not {which!r}")
    try:
        classifier = Classifier(folders[0], which, thresholds=thresholds)
    except ValueError as error:
        fail(error)
    data, meta = read_data(classifier.config)

    with replacing_folder(target) as folder:
        write_model(classifier, folder / 'model.onnx')
        table = table_file(classifier.encoding._mergeable_ranks)
        (folder / 'tokenizer.tiktoken').write_bytes(table)
        vocabulary = classifier.vocabulary
        np.savez(folder / 'vocabulary.npz', tokens=vocabulary.tokens, ngrams=vocabulary.ngrams)
        description = json.dumps(describe(classifier), indent=1)
        (folder / 'model.json').write_text(description + '\n', 'utf-8')
        write_reader(folder)
        sums = []
        for path in sorted(folder.iterdir()):
            sums.append(f'{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n')
        (folder / 'SHA256SUMS').write_text(''.join(sums))
        card = make_card(classifier, reader.Classifier(folder), folder, data, meta)
        (folder / 'README.md').write_text(card, 'utf-8')
    print(card[card.index('| | texts'):card.index('## Limits')].rstrip())
    print(f'{to}: the model, and its card, README.md, in which the licence of the data is to be '
          'filled in')


if __name__ == '__main__':
    folders = []
    configure(globals(), positional=folders)
    main(folders)
