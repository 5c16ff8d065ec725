# One logit that trains exactly as the difference of the two logits of config/ce.py with
# --grad_clip=0: the head has the same start, twice the learning rate and, per step at that rate,
# half the weight decay. There is no clipping, because the norm would count this logit once.
from config.paper import *  # noqa: F403

head = 'results/losses/matched/heads.py:MatchedBCEHead'
grad_clip = 0.0
