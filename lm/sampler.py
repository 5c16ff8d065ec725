"""A finished run of lm/pretrain.py as a source of text."""
import json
from pathlib import Path

import numpy as np
import torch

from lm.model import KeyValueCache, make_language_model
from model import HEADS
from nanoloss.data import Split
from nanoloss.files import load_checked
from nanoloss.tokenizer import tokenizer
from nanoloss.vocabulary import Vocabulary


class Sampler:
    """A finished run of lm/pretrain.py as a source of text.

    head: FILE.py:CLASS of the run's head, if it is not in model.py. This file is executed, so the
    path in the run's config.json is not trusted.
    Attributes: config, the run's config, a dict; model, a LanguageModel; fitted, the temperature
    fitted on val. Raises ValueError if the folder has no such run, or a damaged one.
    """

    def __init__(self, folder, device='cpu', head=''):
        folder = Path(folder)
        try:
            self.config = json.loads((folder / 'config.json').read_text())
            if 'tied' not in self.config:
                raise ValueError('it is not a language model; lm.pretrain makes them')
            if self.config.get('masked'):  # older runs lack it
                raise ValueError('a masked language model predicts masked tokens, not the next one')
            if self.config['head'] not in HEADS:
                if not head:
                    raise ValueError(f'its head {self.config["head"]} is a program; if you trust '
                                     'it, name it again with --head=FILE.py:CLASS')
                self.config['head'] = head
            result = json.loads((folder / 'result.json').read_text())
            weights = load_checked(folder / 'model.pt')
            # config.json may be damaged: compare before allocating the model that it describes
            with torch.device('meta'):
                described = make_language_model(self.config).state_dict()
            shapes = {name: tensor.shape for name, tensor in weights.items()}
            if shapes != {name: tensor.shape for name, tensor in described.items()}:
                raise ValueError('config.json does not fit the weights')
            self.model = make_language_model(self.config).to(device)
            self.model.load_state_dict(weights)
            self.fitted = float(result['last']['temperature'])
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise ValueError(f'{folder} is no finished run of lm.pretrain: {missing} is missing'
                             ) from None
        except Exception as error:  # a damaged file can raise anything
            why = f'{type(error).__name__}: {" ".join(str(error).split())}'
            raise ValueError(f'{folder} cannot be used ({why})') from None
        self.model.eval()
        self.device = device
        self.encoding = tokenizer(self.config['tokenizer']['name'])
        self.tokens = weights['tokens'].numpy()
        self.vocabulary = Vocabulary(self.tokens, np.zeros(0, np.uint64), 'none',
                                     self.config['block_size'], 'head', spell=True)

    def encode(self, text):
        """A text -> the model's ids of its tokens, int64 [n]."""
        if self.config['lower']:
            text = text.lower()
        tokens = np.array(self.encoding.encode_ordinary(text), np.uint32)
        if not len(tokens):
            return np.zeros(0, np.int64)
        split = Split(tokens, np.array([[0, len(tokens)]]), labels=None)
        return self.vocabulary.encode(split, self.encoding).tokens.astype(np.int64)

    def bytes_of(self, number):
        """The bytes of a token, given its id in the model."""
        return self.encoding.decode_single_token_bytes(int(self.tokens[number - 1]))

    @torch.inference_mode()
    def sample(self, prompt, seed, temperature=1.0, top_k=0):
        """Yield the tokens after the prompt, until the text ends or is as long as a block.

        prompt: int64 [n], of `encode`. The logits are divided by the temperature (0: take the
        likeliest token); top_k: sample from that many likeliest tokens only (0: from all).
        """
        block_size = self.config['block_size']
        generator = torch.Generator().manual_seed(seed)
        cache = KeyValueCache(block_size)
        new = torch.tensor([[0, *prompt]], device=self.device)
        for _ in range(block_size - len(prompt)):
            hidden = self.model(new, cache=cache)[:, -1]
            logits = self.model.head(hidden).float().cpu()
            if temperature == 0:
                token = int(logits.argmax())
            else:
                p = self.model.head.probs(logits / temperature)[0]
                if top_k:
                    p[p < p.topk(min(top_k, len(p))).values[-1]] = 0
                token = int(torch.multinomial(p, 1, generator=generator))
            if token == 0:
                return
            yield token
            new = torch.tensor([[token]], device=self.device)
