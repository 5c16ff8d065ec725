# The model of the study of squentropy on short stories, for a GPU: nanoGPT's 124M shape with 16
# layers, and the study's rate and dropout. data/stories is made from a file of texts:
#   python prepare.py --source=stories.parquet --label= --name=stories
dataset = 'stories'
head = 'squentropy'
min_count = 1
n_layer = 16
n_head = 12
n_embd = 768
block_size = 1024
pos = 'learned'
dropout = 0.1
tied = True
max_iters = 20000
batch_size = 480
max_tokens = 12288
learning_rate = 6e-5
warmup_iters = 2000
beta2 = 0.95
eval_interval = 1000
