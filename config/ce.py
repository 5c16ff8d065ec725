# Cross-entropy on IMDB: two logits and a softmax. With bce.py, one half of the paper's Table 1.
out_dir = 'out/ce'
head = 'ce'
# the paper's encoder and how it is trained
lower = False
window = 0
ngrams = 'none'
n_layer = 2
n_embd = 128
pooling = 'mean'
block_size = 512
dropout = 0.0
token_dropout = 0.8
epochs = 10
batch_size = 256
learning_rate = 4e-4
