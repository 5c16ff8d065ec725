# A language model of IMDB with cross-entropy: 14 million of the 27 million tokens of IMDB's train
# and unlabelled reviews, in 15 minutes (with AMX) to 40 on 2 CPU cores. The other files here start
# from the same defaults.
head = 'ce'
