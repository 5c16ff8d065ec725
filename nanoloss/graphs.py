"""A training step as one launch: CUDA graphs, one for each shape of a batch.

A step of a small model has a few hundred kernels, which a GPU computes faster than Python can
launch them. A graph launches all of them at once, on the same tensors.
"""
from collections import Counter

import torch

TIMES_BEFORE = 2  # the first time loads kernels, and recording (10 ms) a rare shape does not pay


class StepGraphs:
    """step(batch), recorded when a shape comes for the third time and replayed from then on.

    batch: a NamedTuple. Its tensors are copied into the recorded ones.
    step: a function that returns tensors, which are valid until the next call. Its work on the GPU
    may depend only on the batch's tensors and on tensors that stay in place, such as weights, and
    may not make the CPU wait. If torch.manual_seed is called before, it draws the same random
    numbers as without a graph.
    """

    def __init__(self, step):
        self.step = step
        self.times = Counter()  # how often each shape has come
        self.recorded = {}  # shapes -> graph, the batch's tensors in it, what step returned
        self.pool = torch.cuda.graph_pool_handle()  # memory that all graphs share

    def __call__(self, batch):
        tensors = {name: field for name, field in batch._asdict().items()
                   if isinstance(field, torch.Tensor)}
        shapes = tuple((name, *tensor.shape) for name, tensor in tensors.items())
        self.times[shapes] += 1
        if self.times[shapes] <= TIMES_BEFORE:
            return self.step(batch)

        if shapes not in self.recorded:
            places = {name: tensor.clone() for name, tensor in tensors.items()}
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, self.pool):
                    returned = self.step(batch._replace(**places))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise RuntimeError('this step cannot be a CUDA graph: something in it, such as a '
                                   'loss, makes the CPU wait; try --graphs=False') from error
            self.recorded[shapes] = graph, places, returned
        graph, places, returned = self.recorded[shapes]
        for name, tensor in tensors.items():
            places[name].copy_(tensor)
        graph.replay()
        return returned
