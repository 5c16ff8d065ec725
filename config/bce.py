# Binary cross-entropy on IMDB: one logit and a sigmoid. With ce.py, one half of the paper's Table 1
out_dir = 'out/bce'
head = 'bce'
