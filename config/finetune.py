# A classifier on the trunk of a language model:
#   python train.py config/finetune.py --init_from=out/lm/ce/seed0
# Without init_from the same from random weights; with --causal=False from a masked language model.
from config.lm import *

out_dir = 'out/finetune'
lower = False
window = 0
ngrams = 'none'
causal = True
spell = True
pooling = 'mean'
dropout = 0.0
token_dropout = 0.2
epochs = 3
batch_size = 32
learning_rate = 3e-4
weight_decay = 0.1
