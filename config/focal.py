# Focal loss: reviews that are easy already weigh little (Lin 2017).
from config.paper import *

head = 'focal'
gamma = 2.0
