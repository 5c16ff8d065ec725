# A classifier on the trunk of a language model:
#   python train.py config/finetune.py --init_from=out/lm/ce/seed0
# Without init_from the same from random weights.
from config.lm import *

out_dir = 'out/finetune'
lower = False
window = 0
ngrams = 'none'
causal = True
spell = True
pooling = 'mean'
dropout = 0.1
token_dropout = 0.0
epochs = 3
batch_size = 32
learning_rate = 5e-4
weight_decay = 0.1
