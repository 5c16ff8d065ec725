# A classifier of IMDB from its labels alone: the default model, one epoch longer.
dataset = 'imdb'
epochs = 5
