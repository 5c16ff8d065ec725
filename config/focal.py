# Focal loss: reviews that are easy already weigh little (Lin 2017).
head = 'focal'
gamma = 2.0
