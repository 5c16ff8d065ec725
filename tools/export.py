"""A trained run -> a folder that classifies without PyTorch.

    python -m tools.export out/my/seed0 --to=model    or out/my, the mean of its seeds
    python model/reader.py "a text"                   needs numpy, tiktoken and onnxruntime
    python -m tools.serve model                       the same over HTTP

It needs requirements-extra.txt. The folder has the model from tokens to probabilities (model.onnx),
the tokenizer's table, the vocabulary, a description of the model (model.json), the code that reads
them (reader.py with text.py and labels.py), the checksums of all these files, and a model card,
README.md; fill in the licence of the data there.

Notable:
- The folder appears only after a check against the run in PyTorch on the whole validation set: the
  probabilities must agree within 0.002. The card reports the result.
- For several runs, model.onnx contains all of them and returns the mean of their probabilities. To
  get one model of similar accuracy, use train.py --teacher with unlabelled texts.
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

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)
import numpy as np
import torch
from scipy.stats import binomtest
from torch import nn

from model import NgramWeights
from nanoloss import labels, reader, text
from nanoloss.classifier import TextClassifier
from nanoloss.data import fingerprint, load_data
from nanoloss.escape import markdown, markdown_name
from nanoloss.files import mend_folder, replacing_folder
from nanoloss.settings import configure, fail
from nanoloss.tokenizer import decode, table_file

# -----------------------------------------------------------------------------
to = 'model'  # the folder to make
which = 'last'  # weights of a run: of the last epoch, or of the epoch that is best on val (best)
code = ''  # file of the run's head or trunk, if it is not in model.py; it is executed
thresholds = True  # keep the thresholds chosen on val, if any (for the last weights)
data_dir = 'data'  # the folder of data sets, for the check on val
overwrite = False  # replace an exported folder
# -----------------------------------------------------------------------------
TOLERANCE = 0.002  # of a probability
READER = reader, text, labels  # the modules to copy into an exported folder


# From runs to files

class SumOfNgrams(nn.Module):
    """`NgramWeights` as one product, because ONNX would unroll its EmbeddingBag into a loop over
    texts."""

    def __init__(self, ngrams):
        super().__init__()
        self.weight = nn.Parameter(ngrams.sums.weight.detach())
        self.strength = nn.Parameter(ngrams.strength.detach())
        self.bias = nn.Parameter(ngrams.bias.detach())

    def forward(self, ngrams):
        strength = self.strength[ngrams]
        length = strength.norm(dim=1, keepdim=True)
        strength = strength / length.clamp(min=torch.finfo(length.dtype).tiny)
        return (strength[:, None] @ self.weight[ngrams])[:, 0] + self.bias


class MeanProbs(nn.Module):
    """The runs of an `Ensemble` as one function from tokens to probabilities."""

    def __init__(self, runs):
        super().__init__()
        self.models = nn.ModuleList(copy.deepcopy(run.model) for run in runs)
        self.temperatures = [run.temperature for run in runs]
        for model in self.models:
            if isinstance(model.ngrams, NgramWeights):
                model.ngrams = SumOfNgrams(model.ngrams)

    def forward(self, tokens, counts, ngrams=None):
        """tokens, counts int64 [B, T] and n-grams int64 [B, M], see `Classifier` in model.py ->
        [B, classes]."""
        probs = []
        for model, temperature in zip(self.models, self.temperatures):
            logits = model(tokens, counts, ngrams)
            probs.append(model.head.probs(logits / temperature))
        return torch.stack(probs).mean(0)


def write_model(ensemble, path):
    """Write model.onnx, for any number of texts of any length."""
    batch = next(ensemble.make_batches(ensemble.tokens(['a text', 'another, longer text'])))
    inputs = [batch.tokens, batch.counts]
    if batch.ngrams is not None:
        inputs.append(batch.ngrams)
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)  # it warns that torchvision is missing
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            program = torch.onnx.export(
                MeanProbs(ensemble.runs).eval(), tuple(inputs), dynamo=True, verbose=False,
                dynamic_shapes=tuple([any_size] * len(inputs)),
                input_names=reader.INPUTS[:len(inputs)], output_names=['probs'])
        except torch.onnx.errors.OnnxExporterError as error:
            cause = str(error.__cause__ or error).strip().splitlines()[0]
            fail(f'torch.onnx cannot export this head or trunk: {cause}')
        program.save(path)


def describe(ensemble):
    """The content of model.json: all that the reader needs besides the arrays."""
    config = ensemble.config
    encoding = ensemble.encoding
    description = {
        'version': reader.FORMAT_VERSION,
        'id': ensemble.id,
        'classes': ensemble.classes,
        'multi_label': ensemble.multi_label,
        'always_labelled': ensemble.always_labelled,
        'texts': {
            'lower': config['lower'],
            'block_size': config['block_size'],
            'truncate': config['truncate'],
            'bag': ensemble.bag,
            'spell': ensemble.vocabulary.spell,
            'ngrams': ensemble.vocabulary.ngram_kind,
        },
        'tokenizer': {
            'name': encoding.name,
            'pattern': encoding._pat_str,
            'special_tokens': encoding._special_tokens,
        },
    }
    if ensemble.thresholds is not None:
        description['thresholds'] = labels.as_json(ensemble.thresholds)
    return description


def write_files(ensemble, folder):
    """Write all files of an exported folder but the card."""
    write_model(ensemble, folder / 'model.onnx')
    table = table_file(ensemble.encoding._mergeable_ranks)
    (folder / 'tokenizer.tiktoken').write_bytes(table)
    vocabulary = ensemble.vocabulary
    np.savez(folder / 'vocabulary.npz', tokens=vocabulary.tokens, ngrams=vocabulary.ngrams)
    description = json.dumps(describe(ensemble), indent=1)
    (folder / 'model.json').write_text(description + '\n', 'utf-8')
    for module in READER:
        shutil.copy(module.__file__, folder)
    sums = []
    for path in sorted(folder.iterdir()):
        sums.append(f'{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n')
    (folder / 'SHA256SUMS').write_text(''.join(sums))


# The model card

CARD = '''# {id}

A classifier of texts into {classes}. Made by nanoloss from {runs}, code {commit}; {size:.0f} MB.

```sh
python reader.py "a text"     # in this folder; needs numpy, tiktoken and onnxruntime
sha256sum -c SHA256SUMS       # check that no file has changed
```

## Training data

| | |
| --- | --- |
| data | {dataset}, from {source}, fingerprint {data} |
| texts | {texts} |
| licence of the data | to be filled in |

## Accuracy

On texts that it was not trained on. The interval is for other texts of the same kind, not for other
seeds.

| | texts | accuracy, % | 95 % interval |
| --- | --- | --- | --- |
{figures}

{how}

Compared with the run in PyTorch on the {n_checked:,} texts of val: {n_other} different labels,
probabilities at most {distance:.6f} apart.

## Limits

- It knows these classes only, and answers {says},
  also if the text is in another language or on another subject.
- It reads {length} of a text.
- It repeats the errors and prejudices of its training texts.
- Its probabilities are calibrated on val, and may be far off for texts of another kind.
'''


def read_data(folder, data_id):
    """The splits val and test of the run's data set, and its meta.json. Fails if the fingerprint of
    the data is not data_id."""
    data, meta = load_data(folder)
    if fingerprint(meta) != data_id:
        fail(f'{folder} is not the data that the run was trained on, which the check on val needs; '
             'give its folder with --data_dir')
    return {name: data[name] for name in ('val', 'test')}, meta


def texts_of(split, encoding):
    return [decode(split.tokens[begin:end], encoding) for begin, end in split.spans]


def compare(classifier, exported, texts):
    """Compare two classifiers on the same texts -> the number of different labels, and the largest
    difference of two probabilities. Fails if that is more than TOLERANCE."""
    classifier.model.dtype = 'float32'  # in bfloat16, rounding depends on the batch
    expected = classifier.probs(texts)
    found = exported.probs(texts)
    distance = abs(expected - found).max()
    if not distance <= TOLERANCE:  # False for nan
        fail(f'a probability of the exported model differs by {distance:.4f} from that of the run '
             'on a text of val; nothing was written')
    n_other = 0
    for p, q in zip(expected, found):
        n_other += classifier.label(p) != exported.label(q)
    return n_other, distance


def figure_row(name, split, decisions):
    """A row of the card's table: accuracy on a split, with Wilson's interval. With several labels a
    text, all of them must be right. decisions: as `decide` returns them."""
    n_texts = len(split.labels)
    wrong = (decisions != split.labels).reshape(n_texts, -1).any(1)
    n_correct = int((~wrong).sum())
    low, high = binomtest(n_correct, n_texts).proportion_ci(method='wilson')
    return (f'| {name} | {n_texts:,} | {100 * n_correct / n_texts:.2f} '
            f'| {100 * low:.2f} to {100 * high:.2f} |')


def describe_decisions(exported, decisions):
    """Two texts for the card: how probabilities become labels, and the possible answers.

    exported: the classifier. decisions: what `decide` returns, for val and for test."""
    thresholds = exported.labels.thresholds
    how = 'The answer is the likeliest class.'
    says = 'with one of them'
    if exported.multi_label:
        how = 'The labels are the classes with a probability above 0.5.'
        says = 'with those of them that it finds likely'
    if exported.labels.always_labelled:
        how = ('The labels are the classes with a probability above 0.5 or, if there is none, the '
               'likeliest class.')
    if thresholds is not None:
        goal = 'the best F1'
        if thresholds.goal is not None:
            goal = f'a {thresholds.rule} of {100 * thresholds.goal:g} %'
        how = f'Thresholds chosen on val for {goal} decide, as labels.py explains.'
    if labels.can_be_unsure(thresholds, exported.multi_label):
        shares = [f'{(of_split == labels.NO_ANSWER).mean():.1%}' for of_split in decisions]
        how += (f' If no threshold is reached, the answer is "{labels.UNSURE}", which counts as '
                f'wrong: {shares[0]} of val, {shares[1]} of test.')
        says = f'with one of them or with "{labels.UNSURE}"'
    return how, says


def make_card(classifier, exported, folder, data, meta):
    """The model card, with the accuracy of the exported folder itself on val and test.

    classifier: of the runs; exported: of the folder; data, meta: as `read_data` returns them."""
    config = classifier.model.config
    texts = {name: texts_of(split, classifier.encoding) for name, split in data.items()}
    n_other, distance = compare(classifier, exported, texts['val'])
    figures = []
    decisions = []
    for name, split in data.items():
        decisions.append(exported.labels.decide(exported.probs(texts[name])))
        figures.append(figure_row(name, split, decisions[-1]))
    how, says = describe_decisions(exported, decisions)
    sizes = [f'{size["rows"]:,} {name}' for name, size in meta['splits'].items()]
    kept = {'head': 'the first', 'tail': 'the last', 'both': 'the first and the last'}
    n_runs = len(classifier.model.runs)
    return CARD.format(
        id=markdown_name(classifier.id),
        classes=', '.join(map(markdown_name, classifier.classes)),
        runs='one run' if n_runs == 1 else f'the mean of {n_runs} runs',
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
        length=f'{kept[config["truncate"]]} {config["block_size"]:,} tokens',
    )


# Command

def check_target(target, overwrite):
    """Fail if the target must not be replaced."""
    mend_folder(target)  # an earlier command may have been killed while it replaced the folder
    if not target.exists():
        return
    if not (target / 'SHA256SUMS').exists():
        fail(f'{target} exists and is not an exported model; give another --to')
    if not overwrite:
        fail(f'{target} exists; give another --to, or --overwrite to replace it')


def main(folders, config):
    if len(folders) != 1:
        fail('name one run or one group of runs: python -m tools.export out/bce/seed0 --to=model')
    for name in ('onnxruntime', 'onnxscript'):  # torch.onnx needs onnxscript
        if find_spec(name) is None:
            fail(f'{name} is missing; pip install -r requirements-extra.txt')
    target = Path(os.path.abspath(config.to))
    check_target(target, config.overwrite)
    if (Path(folders[0]) / 'model.onnx').exists():
        fail(f'{folders[0]} is an exported model already')
    try:
        classifier = TextClassifier(folders[0], config.which, thresholds=config.thresholds,
                                    code=config.code)
    except ValueError as error:
        fail(error)
    run_config = classifier.model.config
    data, meta = read_data(Path(config.data_dir) / run_config['dataset'], run_config['data'])

    with replacing_folder(target) as folder:
        write_files(classifier.model, folder)
        card = make_card(classifier, reader.Classifier(folder), folder, data, meta)
        (folder / 'README.md').write_text(card, 'utf-8')
    print(card[card.index('| | texts'):card.index('## Limits')].rstrip())
    print(f'{config.to} holds the model and its card, README.md; fill in the licence of the data')


if __name__ == '__main__':
    folders = []
    config = configure(globals(), positional=folders)
    main(folders, config)
