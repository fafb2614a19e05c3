"""Processes under `torch.distributed`: each draws replicas of its own, means are those of all."""

from __future__ import annotations

import torch
from torch import Tensor

from qsample.sampling.random import draw_seed, mix


def world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) where no process group was made."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def own_generator(generator: torch.Generator | None) -> torch.Generator | None:
    """The generator of this rank's draws in one call: its own stream, from one seed on all ranks.

    With `num` replicas on each rank, replica r of rank k is number k num + r of all; its stream is
    a function of the seed and of (k, r), so one seed on all ranks makes no copies, and two runs on
    as many ranks are equal. A single process draws from `generator` itself.
    """
    rank, size = world()
    if size == 1:
        return generator
    return torch.Generator().manual_seed(mix(draw_seed(generator), rank))


def mean_of_ranks(t: Tensor) -> Tensor:
    """The mean of a tensor over ranks, each with the same share.

    DistributedDataParallel takes that of gradients in the same way.
    """
    _, size = world()
    if size == 1:
        return t
    total = t.clone()
    torch.distributed.all_reduce(total)
    return total / size
