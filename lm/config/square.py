# A language model with the square loss on raw logits.
head = 'square'
