# Cross-entropy with a tenth of the label spread over the classes (Szegedy 2016).
from config.paper import *

head = 'ce'
label_smoothing = 0.1
