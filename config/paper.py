# The paper's encoder and how it is trained. The other files here start from it and change what they
# name.
trunk = 'transformer'
lower = False
full_vocab = True
ngrams = 'none'
block_size = 512
token_dropout = 0.8
epochs = 10
batch_size = 256
learning_rate = 4e-4
embedding_rate = 0.0
weight_decay = 0.1
