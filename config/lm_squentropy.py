# A language model with squentropy: cross-entropy plus the mean square of the other tokens' logits.
from config.lm import *

out_dir = 'out/lm/squentropy'
head = 'squentropy'
