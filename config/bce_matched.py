# One logit that learns exactly as the difference of ce.py's two logits does (with --grad_clip=0 there, too):
# the same start, twice the rate, half the decay a step of that rate, and no clipping by a norm that counts it once.
out_dir = 'out/bce_matched'
head = 'bce'
from_ce = True
lr_mult = 2.0
wd_mult = 0.5
grad_clip = 0.0
