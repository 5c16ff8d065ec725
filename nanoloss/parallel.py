"""Data parallel training: several processes, started by torchrun, share one run.

All of them make the same batches, each computes its share of the texts, and the gradients are
averaged. Without torchrun, there is one process.
"""
import gc
import os
import sys
from contextlib import nullcontext

import torch
import torch.distributed as dist

WORLD = int(os.environ.get('WORLD_SIZE', 1))  # processes that share a run
RANK = int(os.environ.get('RANK', 0))  # the number of this process; process 0 writes and prints


def start(device):
    """Join the other processes, if there are any. Raises ValueError if a GPU is missing."""
    if WORLD == 1:
        return
    if device == 'cuda':
        gpu = int(os.environ['LOCAL_RANK'])
        if gpu >= torch.cuda.device_count():
            raise ValueError(f'this machine has {torch.cuda.device_count()} GPUs, '
                             'too few for --nproc_per_node')
        torch.cuda.set_device(gpu)
    # gradients are averaged on the GPUs, logits of an evaluation are summed on the CPU
    dist.init_process_group('cpu:gloo,cuda:nccl' if device == 'cuda' else 'gloo')
    if RANK:
        sys.stdout = open(os.devnull, 'w')  # noqa: SIM115 (open to the end)


def finish():
    """Leave the other processes."""
    if WORLD > 1:
        gc.collect()  # whatever still holds the group's threads would abort at exit
        dist.destroy_process_group()


def wait():
    """Wait until all processes have come here."""
    if WORLD > 1:
        dist.barrier()


def data_parallel(model):
    """The model, or a wrapper that averages its gradients over the processes in backward."""
    if WORLD == 1:
        return model
    # the buffers are vocabularies, the same in all processes
    return torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)


def share_of(batch):
    """The texts of a batch that this process computes. There may be none."""
    return batch.take(slice(RANK, None, WORLD))


def micro_batches(batch, max_tokens):
    """Yield this process's share of a batch in micro-batches of about max_tokens tokens.

    With each comes its weight: the factor on its mean loss that makes the gradients, summed over
    micro-batches and averaged over processes, those of the batch's mean loss; and whether it is the
    last one. A process without a text computes one with weight 0, because the others wait for its
    gradients.
    """
    share = share_of(batch)
    empty = len(share.rows) == 0
    if empty:
        share = batch.take(slice(1))

    micros = list(share.micro_batches(max_tokens))
    for i, micro in enumerate(micros):
        # DistributedDataParallel divides by WORLD, the batch's mean by its texts
        weight = WORLD * len(micro.rows) / len(batch.rows)
        yield micro, 0 if empty else weight, i == len(micros) - 1


def averaging(forward, last):
    """A context for forward: only with the last micro-batch, average gradients over processes."""
    if WORLD == 1 or last:
        return nullcontext()
    return forward.no_sync()


def sum_over_processes(tensor):
    """The sum of all processes' tensors, in place."""
    if WORLD > 1:
        dist.all_reduce(tensor)
    return tensor
