# A language model with cross-entropy.
from config.lm import *

out_dir = 'out/lm/ce'
head = 'ce'
