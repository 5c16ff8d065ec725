# A language model with the square loss, in which the term of the correct token counts 100 times.
head = 'square'
k = 100.0
