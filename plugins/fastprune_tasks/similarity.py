"""Similarities of vectors, by the names of sentence-transformers, and nearest neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 1024
"""Rows of a table of similarities that are in memory at once."""


def similarities(left: Tensor, right: Tensor, kind: str) -> Tensor:
    """The similarity of each vector on the left with each on the right: [left, hidden], [right, hidden] -> [left, right].

    Args:
        left: Vectors.
        right: Vectors of the same length.
        kind: ``cosine``, ``dot``, or ``euclidean`` or ``manhattan``: the negative distance.
    """
    if kind == "cosine":
        left, right = F.normalize(left, dim=1), F.normalize(right, dim=1)
    if kind in ("cosine", "dot"):
        return left @ right.T
    return -torch.cdist(left, right, p=1.0 if kind == "manhattan" else 2.0)


def pair_similarities(left: Tensor, right: Tensor, kind: str) -> Tensor:
    """The similarity of each vector on the left with the one in the same place on the right: [pairs, hidden] twice -> [pairs]."""
    if kind == "cosine":
        return F.cosine_similarity(left, right)
    if kind == "dot":
        return (left * right).sum(1)
    distances: Tensor = torch.linalg.vector_norm(left - right, ord=1 if kind == "manhattan" else 2, dim=1)
    return -distances


def nearest(left: Tensor, right: Tensor, count: int, *, itself: bool = True) -> Tensor:
    """The vectors on the right with the highest cosine similarity to each on the left, in blocks of rows.

    Args:
        left: Vectors, [left, hidden].
        right: Vectors, [right, hidden].
        count: Number of neighbours; fewer if there are fewer vectors.
        itself: Whether a vector can be its own neighbour; False only if both sides are the same.

    Returns:
        Indices of the vectors on the right, nearest first, [left, count].
    """
    right, found = F.normalize(right, dim=1), []
    for start in range(0, len(left), ROWS):
        table = similarities(left[start : start + ROWS], right, "cosine")  # [rows, right]
        if not itself:
            table.diagonal(start).fill_(-torch.inf)
        found.append(table.topk(min(count, len(right) - (not itself)), dim=1).indices)
    return torch.cat(found)
