# Squared error of the softmax probabilities, the MSE of textbooks.
head = 'brier'
