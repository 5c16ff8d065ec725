# Cross-entropy plus the squares of the wrong logits (Hui, Belkin and Wright 2023).
out_dir = 'out/squentropy'
head = 'squentropy'
