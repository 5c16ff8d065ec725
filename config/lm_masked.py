# A masked language model with cross-entropy: 40 % of the tokens are left out and predicted (Wettig
# and others 2023, arXiv 2202.08005). Without positions the rest is a bag, as it is in train.py.
from config.lm import *

out_dir = 'out/lm/masked'
head = 'ce'
masked = 0.4
