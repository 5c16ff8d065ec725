# Square loss with the label's error weighted by 100, as for data of many classes.
head = 'square'
k = 100.0
