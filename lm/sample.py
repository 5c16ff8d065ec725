"""Text from a language model of lm/pretrain.py, printed token by token.

    python -m lm.sample out/lm/ce/seed0 --prompt="This film" --n=3
    python -m lm.sample out/lm/ce/seed0 --temperature=0.7 --top_k=50 --seed=1

Notable:
- The same seed gives the same text, on the same machine.
- The keys and values of earlier tokens are kept (lm/model.py), so a token late in the text takes
  about as long as an early one.
- A text ends at an end-of-text token, or when it has the length of a training block.
"""
import codecs
import math
import os
import sys

import nanoloss  # noqa: F401 (before torch: it sets how OpenMP threads wait)

from lm.sampler import Sampler
from nanoloss.devices import choose_device
from nanoloss.settings import check_bounds, configure, fail

# -----------------------------------------------------------------------------
prompt = ''  # the beginning of the text
n = 1  # texts
seed = 0  # of the first text; the others have the next ones
temperature = 1.0  # divides the logits: below 1 favours likely tokens, 0 always takes the likeliest
scaled = True  # first divide the logits by the temperature that was fitted on val
top_k = 0  # sample from this many likeliest tokens only (0: from all)
head = ''  # FILE.py:CLASS of the run's head, if it is not in model.py
device = 'auto'  # cuda, mps or cpu; auto: the first of these that is available
# -----------------------------------------------------------------------------
BOUNDS = [  # settings, the lowest value, and what they must be below
    (['n'], 1, math.inf),
    (['seed'], 0, 2 ** 63),
    (['temperature', 'top_k'], 0, math.inf),
]


def main(config, folders):
    if len(folders) != 1:
        fail('give the folder of one run of lm.pretrain, such as out/lm/ce/seed0')
    check_bounds(config, BOUNDS)
    try:
        sampler = Sampler(folders[0], choose_device(config.device), config.head)
        prompt = sampler.encode(config.prompt)
        room = sampler.config['block_size'] - 1
        if len(prompt) > room:
            raise ValueError(f'the prompt has {len(prompt):,} tokens, but this model takes at most '
                             f'{room:,}')
        temperature = config.temperature * (sampler.fitted if config.scaled else 1.0)
        for i in range(config.n):
            if i:
                print('\n---')
            print(config.prompt, end='', flush=True)
            # a character may consist of several tokens
            decoder = codecs.getincrementaldecoder('utf-8')('replace')
            for token in sampler.sample(prompt, config.seed + i, temperature, config.top_k):
                print(decoder.decode(sampler.bytes_of(token)), end='', flush=True)
        print(decoder.decode(b'', final=True))
    except ValueError as error:
        fail(error)
    except KeyboardInterrupt:
        print()


if __name__ == '__main__':
    folders = []
    config = configure(globals(), positional=folders)
    try:
        main(config, folders)
    except BrokenPipeError:  # the reader has closed the pipe, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
