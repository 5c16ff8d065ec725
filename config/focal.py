# Focal loss: reviews that are easy already weigh little (Lin 2017).
out_dir = 'out/focal'
head = 'focal'
gamma = 2.0
