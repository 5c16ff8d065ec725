# A language model with cross-entropy and label smoothing: a tenth of each label is spread evenly
# over all tokens.
label_smoothing = 0.1
