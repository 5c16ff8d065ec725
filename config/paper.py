# The paper's encoder and how it is trained. The other files here start from it and change what they
# name.
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
weight_decay = 0.1
