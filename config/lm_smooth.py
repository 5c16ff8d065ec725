# A language model with cross-entropy, a tenth of each label spread over all tokens.
from config.lm import *

out_dir = 'out/lm/smooth'
head = 'ce'
label_smoothing = 0.1
