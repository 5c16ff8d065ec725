# Cross-entropy on IMDB: two logits and a softmax. With bce.py, one half of the paper's Table 1.
out_dir = 'out/ce'
head = 'ce'
