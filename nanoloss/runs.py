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


def upgrade_config(config):
    """A classifier's config.json of any version -> with today's names. Others stay as they are."""
    if 'trunk' in config or 'baseline_code' in config or 'tied' in config:
        return config
    trunk = 'windows' if config.get('window') else 'transformer'
    settings = OLD_WINDOWS if trunk == 'windows' else OLD_TRANSFORMER
    gone = ('window', 'pooling', 'bias', 'beta1', 'beta2', 'min_lr', 'decay_lr', 'compile',
            'at_once', 'pool', 'keep_frac', 'oversample', 'code', *OLD_TRANSFORMER)
    kept = {key: value for key, value in config.items() if key not in gone}
    kept |= {key: config.get(key, default) for key, default in settings.items()}
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
        other = json.loads(described.read_text()) if described.is_file() else {}
    except (ValueError, OSError) as error:
        fail(error)
    for name in ('n_head', 'lower', 'causal', 'spell'):  # which the weights do not show
        own = getattr(config, name, None)
        if name in other and other[name] != own:
            fail(f'{path} does not fit: its {name} is {other[name]}, here it is {own}; a language '
                 'model needs config/finetune.py')
    if other.get('tokenizer', meta['tokenizer']) != meta['tokenizer']:
        fail(f'{path} does not fit: it is of another tokenizer')
    if config.spell and 'tokens' not in weights:
        fail(f'{path} does not fit: it has no tokens to spell others with')
    return weights
