# The small sample set with cross-entropy: a run takes seconds on a CPU.
out_dir = 'out/sample/ce'
dataset = 'sample'
head = 'ce'
n_embd = 64
epochs = 6
batch_size = 64
learning_rate = 1e-3
token_dropout = 0.2
# the paper's encoder and how it is trained
lower = False
window = 0
ngrams = 'none'
n_layer = 2
pooling = 'mean'
block_size = 512
dropout = 0.0
