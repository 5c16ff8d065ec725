# What the language models share; lm_ce.py and its like start from it. On 2 CPU cores a run takes 15
# minutes (with AMX) to 40: 14 million of the 27 million tokens that IMDB's train and unlabelled
# reviews have.
dataset = 'imdb'
n_layer = 4
n_head = 4
n_embd = 256
block_size = 256
