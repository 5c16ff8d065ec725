# One logit that learns exactly as the difference of ce.py's two logits does (with --grad_clip=0
# there, too): the head has the same start, twice the rate and half the decay a step of that rate,
# and there is no clipping by a norm that counts it once.
from config.paper import *

head = 'bce_matched'
grad_clip = 0.0
