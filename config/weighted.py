# Cross-entropy in which every class has the same weight in all, however rare.
out_dir = 'out/weighted'
head = 'ce'
class_weight = 'balanced'
