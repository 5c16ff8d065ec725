# A small language model of the sample set: a minute on a CPU.
dataset = 'sample'
n_layer = 2
n_head = 2
n_embd = 128
block_size = 128
max_iters = 400
batch_size = 8
eval_interval = 100
