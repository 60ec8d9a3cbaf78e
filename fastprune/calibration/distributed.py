"""Sums over several processes: what every rank has, in the order of the ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of processes; 1 where ``torch.distributed`` is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def in_rank_order(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors of one rank after another, as copies: the same ones, in the same order, on every rank.

    An ``all_reduce`` of floats adds in an order that depends on how it cuts a tensor; who adds up what this yields has the same
    bits on all ranks and in all runs. Only one rank's tensors are received at a time.

    Args:
        tensors: This rank's; all ranks give as many, of the same shapes and dtypes, where the backend can send them (NCCL: GPU).
    """
    own = dist.get_rank() if world_size() > 1 else 0
    for rank in range(world_size()):
        received = [tensor.clone() if rank == own else tensor.new_empty(tensor.shape) for tensor in tensors]
        if world_size() > 1:
            for tensor in received:
                dist.broadcast(tensor, rank)
        yield received
