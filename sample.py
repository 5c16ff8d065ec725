"""Text from a language model of pretrain.py, on the terminal as it comes.

    python sample.py out/lm/ce/seed0 --prompt="This film" --n=3
    python sample.py out/lm/ce/seed0 --temperature=0.7 --top_k=50 --seed=1

Notable:
- The same seed gives the same text, on the same machine.
- The keys and values of the tokens so far are kept (`Past` in model.py), so a token costs the same
  wherever it stands.
- A text ends where the model says so, or after as many tokens as the model has seen in training.
"""
import codecs
import json
import os
import sys
from pathlib import Path

import nanoloss  # noqa: F401 (before torch, whose threads it tells how to wait)
import numpy as np
import torch

from model import Past, make_language_model
from nanoloss.settings import configure, fail
from nanoloss.data import Split
from nanoloss.devices import choose_device
from nanoloss.files import load_weights
from nanoloss.tokenizer import tokenizer
from nanoloss.vocabulary import Vocabulary

# -----------------------------------------------------------------------------
prompt = ''  # how the text begins
n = 1  # texts
seed = 0  # of the first; the others have the next ones
temperature = 1.0  # logits are divided by it: below 1 likelier tokens, 0 always the likeliest
scaled = True  # and, before, by the temperature that pretrain.py has fitted on val
top_k = 0  # only so many tokens, the likeliest, can come next; 0: any
device = 'auto'  # cuda, mps or cpu; auto takes the first there is
# -----------------------------------------------------------------------------


class Sampler:
    """A run of pretrain.py as a source of text.

    Raises ValueError where the folder holds none, or a damaged one.
    """

    def __init__(self, folder, device='cpu'):
        folder = Path(folder)
        try:
            self.config = json.loads((folder / 'config.json').read_text())
            if 'known_tokens' not in self.config or 'tied' not in self.config:
                raise ValueError('it is no language model; pretrain.py makes them')
            if self.config.get('masked'):
                raise ValueError('a masked language model fills gaps, it does not write on')
            result = json.loads((folder / 'result.json').read_text())
            weights = load_weights(folder / 'model.pt')
            # config.json may be damaged: compare before memory is taken for what it describes
            size = self.config['known_tokens'] + 1, self.config['n_embd']
            if size != weights['token_embedding.weight'].shape or 'tokens' not in weights:
                raise ValueError('config.json is of other weights')
            self.model = make_language_model(self.config).to(device)
            self.model.load_state_dict(weights)
            self.fitted = float(result['last']['temperature'])
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise ValueError(f'{folder} is no finished run of pretrain.py: {missing} is missing'
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

    def numbers(self, text):
        """A text -> its tokens in the model's numbers, int64 [n]."""
        if self.config['lower']:
            text = text.lower()
        tokens = np.array(self.encoding.encode_ordinary(text), np.uint32)
        if not len(tokens):
            return np.zeros(0, np.int64)
        split = Split(tokens, np.array([[0, len(tokens)]]), labels=None)
        return self.vocabulary.encode(split, self.encoding).tokens.astype(np.int64)

    def bytes_of(self, number):
        """The bytes of a token."""
        return self.encoding.decode_single_token_bytes(int(self.tokens[number - 1]))

    @torch.inference_mode()
    def sample(self, prompt, seed, temperature=1.0, top_k=0):
        """Yield the numbers of the tokens that come after those of the prompt, int64 [n], until the
        text ends or is as long as a block.

        temperature: what the logits are divided by, the fitted one not included.
        """
        block_size = self.config['block_size']
        generator = torch.Generator().manual_seed(seed)
        past = [Past(block_size) for _ in self.model.blocks]
        given = torch.tensor([[0, *prompt]], device=self.device)
        for _ in range(block_size - len(prompt)):
            hidden = self.model(given, past=past)[:, -1]
            logits = self.model.head(hidden).float().cpu()
            if temperature == 0:
                number = int(logits.argmax())
            else:
                p = self.model.head.probs(logits / temperature)[0]
                if top_k:
                    p[p < p.topk(min(top_k, len(p))).values[-1]] = 0
                number = int(torch.multinomial(p, 1, generator=generator))
            if number == 0:
                return
            yield number
            given = torch.tensor([[number]], device=self.device)


def main(folders):
    if len(folders) != 1:
        fail('give the folder of one run of pretrain.py, such as out/lm/ce/seed0')
    if n < 1 or seed < 0 or top_k < 0 or not 0 <= temperature < float('inf'):
        fail('n is at least 1; seed, top_k and temperature are not negative')
    try:
        sampler = Sampler(folders[0], choose_device(device))
        begin = sampler.numbers(prompt)
        room = sampler.config['block_size'] - 1
        if len(begin) > room:
            raise ValueError(f'the prompt has {len(begin):,} tokens, of the {room:,} that this '
                             'model can take')
        factor = sampler.fitted if scaled else 1.0
        for i in range(n):
            if i:
                print('\n---')
            print(prompt, end='', flush=True)
            # a character may need several tokens
            decoder = codecs.getincrementaldecoder('utf-8')('replace')
            for number in sampler.sample(begin, seed + i, temperature * factor, top_k):
                print(decoder.decode(sampler.bytes_of(number)), end='', flush=True)
        print(decoder.decode(b'', final=True))
    except ValueError as error:
        fail(error)
    except KeyboardInterrupt:
        print()


if __name__ == '__main__':
    folders = []
    configure(globals(), positional=folders)
    try:
        main(folders)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
