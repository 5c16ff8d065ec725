# Binary cross-entropy on IMDB: one logit and a sigmoid. With ce.py, one half of the paper's Table 1
from config.paper import *

out_dir = 'out/bce'
head = 'bce'
