# Square loss on raw logits (Hui and Belkin 2021); with many classes, rescale by --k and --M.
from config.paper import *

head = 'square'
