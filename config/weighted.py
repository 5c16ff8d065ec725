# Cross-entropy in which every class has the same weight in all, however rare.
head = 'ce'
class_weight = 'balanced'
