"""Second moments: summed in strips of rows, which skips almost half of the symmetric matrix, and factorised."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastprune.calibration.bf16 import bf16_inputs
from fastprune.errors import ModelError

STRIPS = 6  # more strips save little, and small products are slow


def add_second_moment(upper: Tensor, x: Tensor, weighted: Tensor) -> None:
    """Add the sum of w x x', a symmetric matrix, to the blocks on and right of the diagonal: little more than half of it.

    Args:
        upper: The sum, changed in place: [features, features]. Also in float64 sums, the products are computed in float32, on
            some CPUs from x rounded to bfloat16 (``bf16_inputs``).
        x: [tokens, features].
        weighted: Each token times its weight w: [tokens, features].
    """
    with bf16_inputs(x.device):
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


def damped_cholesky(gram: Tensor, damping: float = 0.0) -> Tensor:
    """The Cholesky factor of gram + lambda I; lambda grows tenfold until the factorisation succeeds.

    Args:
        gram: A symmetric matrix, positive semidefinite up to rounding: [features, features].
        damping: The first lambda, relative to the mean absolute diagonal of ``gram``. After a first failure it is at least
            1e-12.

    Returns:
        The lower triangular factor, [features, features].

    Raises:
        ModelError: ``gram`` holds NaN or infinity, or is zero: no damping would help.
    """
    scale = gram.diagonal().abs().mean()
    factor: Tensor
    while True:
        damped = gram.clone()
        damped.diagonal().add_(damping * scale)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            return factor
        if not (scale > 0 and bool(gram.isfinite().all())):
            raise ModelError("A matrix of second moments is zero or holds NaN or infinity; it has no Cholesky factor.")
        damping = max(10 * damping, 1e-12)


def _strips(features: int) -> Iterator[tuple[slice, slice]]:
    """Strips of rows, each with the columns right of its block on the diagonal."""
    width = max(64, -(-features // STRIPS))
    for start in range(0, features, width):
        yield slice(start, start + width), slice(start + width, None)
