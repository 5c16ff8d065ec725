# The small sample set with cross-entropy: a run takes seconds on a CPU.
out_dir = 'out/sample/ce'
dataset = 'sample'
head = 'ce'
