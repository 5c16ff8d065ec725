# A language model with squentropy: cross-entropy plus the mean square of the other tokens' logits.
head = 'squentropy'
