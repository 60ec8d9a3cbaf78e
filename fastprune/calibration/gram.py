"""Sums of outer products that compute little more than the upper triangle, in strips of rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

STRIPS = 6  # more strips save little, and small products are slow


def add_second_moment(upper: Tensor, x: Tensor, weighted: Tensor) -> None:
    """Add the symmetric sum of w x x' to ``upper``, in place, in the blocks on the diagonal and right of it only.

    Args:
        upper: The sum, [features, features]; a float64 sum adds float32 products.
        x: The inputs, [tokens, features].
        weighted: The inputs times their token weights w, [tokens, features].
    """
    for rows, _ in _strips(len(upper)):
        block, left, right = upper[rows, rows.start :], x[:, rows].T, weighted[:, rows.start :]
        if upper.dtype == x.dtype:
            block.addmm_(left, right)
        else:
            block += left @ right


def mirrored(upper: Tensor) -> Tensor:
    """The full symmetric matrix of a sum by ``add_second_moment``: [features, features] float64, a copy."""
    whole = upper.to(torch.float64, copy=True)
    for rows, right in _strips(len(whole)):
        whole[right, rows] = whole[rows, right].T
    return whole


def _strips(features: int) -> Iterator[tuple[slice, slice]]:
    """Strips of rows, each with the columns right of its block on the diagonal."""
    width = max(64, -(-features // STRIPS))
    for start in range(0, features, width):
        yield slice(start, start + width), slice(start + width, None)
