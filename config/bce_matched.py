# One logit that learns exactly as the difference of ce.py's two logits does (with --grad_clip=0
# there, too): the head has the same start, twice the rate and half the decay a step of that rate,
# and there is no clipping by a norm that counts it once.
head = 'bce_matched'
grad_clip = 0.0
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
