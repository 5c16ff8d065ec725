# The most accurate classifier of IMDB that its labels train here: the usual trunk, an epoch longer.
dataset = 'imdb'
epochs = 5
