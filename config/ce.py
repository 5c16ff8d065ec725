# Cross-entropy on IMDB: two logits and a softmax. With bce.py, one half of the paper's Table 1.
from config.paper import *

out_dir = 'out/ce'
head = 'ce'
