# A masked language model: it predicts 40 % of the tokens (Wettig and others 2023, arXiv
# 2202.08005). Without positions, it sees the other tokens as a bag, as the transformer of train.py
# does.
masked = 0.4
