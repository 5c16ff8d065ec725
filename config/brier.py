# Squared error of the softmax probabilities, the MSE of textbooks.
out_dir = 'out/brier'
head = 'brier'
