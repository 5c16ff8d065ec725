# The small sample set with binary cross-entropy: a run takes seconds on a CPU.
out_dir = 'out/sample/bce'
dataset = 'sample'
head = 'bce'
