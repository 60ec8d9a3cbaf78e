"""Second moments summed in strips of rows, which skips almost half of the symmetric matrix."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

STRIPS = 6  # more strips save little, and small products are slow


def add_second_moment(upper: Tensor, x: Tensor, weighted: Tensor) -> None:
    """Add the sum of w x x', a symmetric matrix, to the blocks on and right of the diagonal: little more than half of it.

    Args:
        upper: The sum, changed in place: [features, features]. Also in float64 sums, the products are computed in float32.
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
    """The full symmetric matrix of a sum of ``add_second_moment``: [features, features] float64, a copy."""
    whole = upper.to(torch.float64, copy=True)
    for rows, right in _strips(len(whole)):
        whole[right, rows] = whole[rows, right].T
    return whole


def _strips(features: int) -> Iterator[tuple[slice, slice]]:
    """Strips of rows, each with the columns right of its block on the diagonal."""
    width = max(64, -(-features // STRIPS))
    for start in range(0, features, width):
        yield slice(start, start + width), slice(start + width, None)
