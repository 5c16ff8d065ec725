# Square loss with the label's error weighted by 100, as for data of many classes.
head = 'square'
k = 100.0
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
