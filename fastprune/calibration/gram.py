"""Second moments summed in strips: sums of outer products without the full matrix at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

STRIPS = 6  # more save little, and small products are slow


def add_second_moment(upper: Tensor, x: Tensor, weighted: Tensor) -> None:
    """Add the sum of w x x', which is symmetric, to the blocks on the diagonal and right of it: little more than half of it.

    Args:
        upper: Added to, [features, features]; float64 sums are of float32 products.
        x: [tokens, features].
        weighted: Each token times its weight w: [tokens, features].
    """
    for rows, _ in _strips(len(upper)):
        block, left, right = upper[rows, rows.start :], x[:, rows].T, weighted[:, rows.start :]
        if upper.dtype == x.dtype:
            block.addmm_(left, right)
        else:
            block += left @ right


def mirrored(upper: Tensor) -> Tensor:
    """The whole symmetric matrix of what ``add_second_moment`` summed: [features, features] float64, a copy."""
    whole = upper.to(torch.float64, copy=True)
    for rows, right in _strips(len(whole)):
        whole[right, rows] = whole[rows, right].T
    return whole


def _strips(features: int) -> Iterator[tuple[slice, slice]]:
    """Strips of rows, and the columns right of where they cross the diagonal."""
    width = max(64, -(-features // STRIPS))
    for start in range(0, features, width):
        yield slice(start, start + width), slice(start + width, None)
