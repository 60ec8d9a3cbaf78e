"""Similarities of vectors, by the names of sentence-transformers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
