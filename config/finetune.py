# A classifier on the trunk of a language model of lm/config/ce.py:
#   python train.py config/finetune.py --init_from=out/lm/ce/seed0
# Without init_from, it starts from random weights. With --causal=False, it takes the trunk of a
# masked language model.
trunk = 'transformer'
n_layer = 4
n_head = 4
n_embd = 256
block_size = 256
causal = True
lower = False
spell = True
ngrams = 'none'
head = 'bce'
epochs = 3
batch_size = 32
learning_rate = 3e-4
embedding_rate = 0.0
weight_decay = 0.1
