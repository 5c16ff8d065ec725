# A language model with the square loss, the next token's term times 100.
from config.lm_square import *

out_dir = 'out/lm/square_k100'
k = 100.0
