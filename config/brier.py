# Squared error of the softmax probabilities, the MSE of textbooks.
from config.paper import *

head = 'brier'
