# A language model with the square loss on raw logits.
from config.lm import *

out_dir = 'out/lm/square'
head = 'square'
