"""Read runs: their configs and their weights, whatever version of the code has written them."""
import json
from pathlib import Path

from nanoloss.files import load_checked
from nanoloss.settings import fail

WEIGHTS = {'last': 'model.pt', 'best': 'best.pt'}  # a run's files of weights

# settings that a trunk had before trunks were classes, with their first defaults
OLD_TRANSFORMER = {'n_layer': 2, 'n_head': 4, 'n_embd': 128, 'pos': 'none', 'causal': False,
                   'dropout': 0.0}
OLD_WINDOWS = {'window': 3, 'n_embd': 256, 'dropout': 0.5}
# settings that were removed, with the values that are constants now
REMOVED = {'keep_frac': 1.0, 'oversample': False, 'bias': True, 'pool': 50, 'beta1': 0.9,
           'beta2': 0.99, 'min_lr': 0.0, 'decay_lr': True}


def upgrade_config(config):
    """A classifier's config.json of any version -> with today's names. Others stay as they are.

    A removed setting stays if it had another value than today's constant.
    """
    if 'trunk' in config or is_baseline(config) or 'tied' in config:
        return config
    trunk = 'windows' if config.get('window') else 'transformer'
    settings = OLD_WINDOWS if trunk == 'windows' else OLD_TRANSFORMER
    gone = ('window', 'pooling', 'compile', 'at_once', 'code', *OLD_TRANSFORMER)
    kept = {}
    for key, value in config.items():
        if key not in gone and not (key in REMOVED and value == REMOVED[key]):
            kept[key] = value
    kept |= {key: config.get(key, default) for key, default in settings.items()}

    # the weights of these models might fit a trunk of today: name one that does not exist
    pooling = config.get('pooling', 'mean')
    if trunk == 'windows' and config.get('n_layer'):
        trunk = 'windows with layers'
    elif pooling != ('max' if trunk == 'windows' else 'mean'):
        trunk = f'{trunk} with {pooling} pooling'
    known = {'known_tokens': 0, 'known_ngrams': 0, 'ngrams': 'none', 'lower': False, 'spell': False}
    kept = {**known, **kept, 'trunk': trunk}
    kept['full_vocab'] = not kept['known_tokens']
    return kept


def name_code(config, code):
    """Let a run's head and trunk come from the file `code` if model.py does not have them -> a copy
    of its config.

    config: of `upgrade_config`. code: a Python file, or several as a.py,b.py, which will be
    executed; '': none. Raises ValueError if the run needs a file that is not named there, since a
    folder must not decide which programs are executed.
    """
    files = {Path(path).name: path for path in code.split(',')}
    named = dict(config)
    for kind in ('trunk', 'head'):
        path, colon, class_name = config[kind].rpartition(':')
        if not colon:  # a class of model.py
            continue
        file = Path(path).name
        if file not in files:
            raise ValueError(f'its {kind} is {class_name} of {path}; if you trust that file, name '
                             f'it, since it will be executed: --code={path}')
        named[kind] = f'{files[file]}:{class_name}'
    return named


def upgrade_weights(weights):
    """A state_dict of any version, of a classifier or a language model -> that of a Classifier."""
    if any(name.startswith('trunk.') for name in weights):
        return weights
    upgraded = {}
    for name, weight in weights.items():
        if not name.startswith(('head.', 'ngrams.')) and name != 'tokens':
            name = name.replace('embed.weight', 'token_embedding.weight')
            name = 'trunk.' + name.removeprefix('windows.')
        upgraded[name] = weight
    return upgraded


def is_baseline(config):
    """Whether a run's config.json is of tools/baseline.py, which trains no network."""
    return 'sklearn' in config


def load_weights(path, device='cpu'):
    """A Classifier's state_dict from model.pt or best.pt. Raises as `load_checked` does."""
    weights = load_checked(path, device)
    if not isinstance(weights, dict):
        raise ValueError(f'{path} holds no weights')
    return upgrade_weights(weights)


def load_trunk(config, meta):
    """The weights that config.init_from names, or None. Fails if there are none, or if they are of
    another tokenizer than the data (meta) or of other settings."""
    if not config.init_from:
        return None
    path = Path(config.init_from)
    if path.is_dir():
        path = path / 'model.pt'
    described = path.with_name('config.json')
    try:
        weights = load_weights(path)
    except (ValueError, OSError) as error:
        fail(error)
    other = {}
    if described.is_file():
        try:
            other = upgrade_config(json.loads(described.read_text()))
        except (ValueError, TypeError, AttributeError, OSError) as error:
            fail(f'{described} is damaged ({error})')
    for name in ('n_head', 'lower', 'causal', 'spell'):  # which the weights do not show
        own = getattr(config, name, None)  # windows have no n_head, nor weights that would fit
        if own is not None and name in other and other[name] != own:
            fail(f'{path} does not fit: its {name} is {other[name]}, here it is {own}; a language '
                 'model needs config/finetune.py')
    if other.get('tokenizer', meta['tokenizer']) != meta['tokenizer']:
        fail(f'{path} does not fit: it is of another tokenizer')
    if config.spell and 'tokens' not in weights:
        fail(f'{path} does not fit: it has no tokens to spell others with')
    return weights


def copy_trunk(model, weights):
    """Copy the trunk's weights from another Classifier's state_dict. Raises ValueError if they do
    not fit."""
    tokens = model.state_dict().get('tokens')
    if tokens is not None and not ('tokens' in weights and tokens.equal(weights['tokens'])):
        raise ValueError('it knows other tokens')
    trunk = {}
    for name, weight in model.trunk.state_dict().items():
        found = weights.get(f'trunk.{name}')
        if found is None:
            raise ValueError(f'it has no {name}')
        if found.shape != weight.shape:
            raise ValueError(f'its {name} is {tuple(found.shape)}, '
                             f'but this model has {tuple(weight.shape)}')
        trunk[name] = found
    model.trunk.load_state_dict(trunk)
