"""A step of training as one launch: CUDA graphs, one for each shape of a batch.

A small model's step is a few hundred kernels, which a GPU computes in less time than Python needs
to ask for them. A graph asks for all of them at once, with the numbers in the same places.
"""
from collections import Counter

import torch

TIMES_BEFORE = 2  # the first time loads kernels; and to record a rare shape, 10 ms, is not worth it


class StepGraphs:
    """step(batch), recorded when a shape comes for the third time and replayed from then on.

    batch: a NamedTuple; its tensors are copied into the places of those that were recorded.
    step: what it does on the GPU may not depend on anything but these tensors and others that stay
    where they are, such as weights, and may not make the CPU wait. It returns tensors, which hold
    until the next call. It draws the same random numbers as it would without a graph, as
    torch.manual_seed before the call sets what they are drawn from.
    """

    def __init__(self, step):
        self.step = step
        self.times = Counter()  # shapes -> how often they have come
        self.recorded = {}  # shapes -> graph, the places of the batch's tensors, what step returned
        self.pool = torch.cuda.graph_pool_handle()  # of memory, that all graphs share

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
