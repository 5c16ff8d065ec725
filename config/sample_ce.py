# The small sample set with cross-entropy: a run takes seconds on a CPU.
from config.paper import *

out_dir = 'out/sample/ce'
dataset = 'sample'
head = 'ce'
n_embd = 64
epochs = 6
batch_size = 64
learning_rate = 1e-3
token_dropout = 0.2
