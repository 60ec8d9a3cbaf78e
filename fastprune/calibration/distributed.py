"""Sums over several processes, added in the order of the ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of processes; 1 if ``torch.distributed`` is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def in_rank_order(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors of one rank after another, as copies, in the same order on every rank.

    An ``all_reduce`` of floats adds in an order that depends on how it splits a tensor. Sums over the yielded copies have the same
    bits on all ranks and in all runs. Only one rank's tensors are received at a time.

    Args:
        tensors: This rank's tensors; their number, shapes and dtypes must be the same on all ranks, and the backend must be able
            to send them (NCCL: on a GPU).
    """
    this_rank = dist.get_rank() if world_size() > 1 else 0
    for rank in range(world_size()):
        received = [tensor.clone() if rank == this_rank else tensor.new_empty(tensor.shape) for tensor in tensors]
        if world_size() > 1:
            for tensor in received:
                dist.broadcast(tensor, rank)
        yield received
