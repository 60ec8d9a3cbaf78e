"""Exchange of tensors between processes in the order of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of processes; 1 if ``torch.distributed`` is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def in_rank_order(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield copies of the tensors of each rank, in the same order on every rank.

    Adding the yielded tensors gives bit-equal sums on all ranks and in all runs; an ``all_reduce`` adds floats in an order that
    depends on how it splits a tensor. Only one rank's tensors are in memory at a time.

    Args:
        tensors: This rank's tensors. All ranks must pass the same number, shapes and dtypes, on a device that the backend supports
            (NCCL: GPU).
    """
    this_rank = dist.get_rank() if world_size() > 1 else 0
    for rank in range(world_size()):
        received = [tensor.clone() if rank == this_rank else tensor.new_empty(tensor.shape) for tensor in tensors]
        if world_size() > 1:
            for tensor in received:
                dist.broadcast(tensor, rank)
        yield received
