# Cross-entropy in which every class has the same weight in all, however rare.
from config.paper import *

head = 'ce'
class_weight = 'balanced'
