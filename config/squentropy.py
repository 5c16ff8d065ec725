# Cross-entropy plus the squares of the wrong logits (Hui, Belkin and Wright 2023).
from config.paper import *

head = 'squentropy'
