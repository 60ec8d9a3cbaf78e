"""Error feedback: each input's rounding error is made up for by the inputs that are rounded after it (GPTQ, arXiv:2210.17323)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastprune.exporting.quantising.rounding import BLOCK, Blocks, block_scales, zero

DAMPING = 0.01
"""Added to the moments' diagonal, as a share of its mean."""
AT_ONCE = 128
"""Number of inputs whose errors are passed on together."""


def fed_back(weights: np.ndarray, moments: Tensor, cross: Tensor, tokens: int, bits: Literal[4, 8]) -> Blocks:
    """Round weights so that the product of the inputs seen after rounding comes near that of the dense inputs.

    The weights first become V with the least |X' V - X W|^2, for inputs X of the dense graph and X' of the graph so far rounded.
    Inputs are then rounded one by one, those with the largest moments first.

    Args:
        weights: W, [inputs, outputs].
        moments: X'^T X', [inputs, inputs], float64.
        cross: X'^T X, [inputs, inputs], float64.
        tokens: Number of tokens in both. Of fewer tokens than inputs, moments beside the diagonal count little: they are chance.
        bits: Bits of an integer.
    """
    certain = tokens / (tokens + len(moments))
    shift, own = certain * (cross - moments), moments.diagonal().diag()
    moments = own + certain * (moments - own)
    size = moments.diagonal().mean().clamp(min=1e-12)
    damped = moments + DAMPING * size * torch.eye(len(moments), dtype=moments.dtype)
    start = torch.from_numpy(weights.astype(np.float64))
    target = (start + torch.linalg.solve(damped, shift @ start)).float()
    scales = block_scales(target.numpy(), bits, moments.diagonal().float().numpy())  # [outputs, blocks]
    order = moments.diagonal().argsort(descending=True, stable=True)
    each = torch.from_numpy(np.repeat(scales, BLOCK, axis=1)[:, : len(target)].T)[order]  # [inputs, outputs]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped[order][:, order]))
    numbers = torch.empty_like(target)
    numbers[order] = _rounded(target[order], each, torch.linalg.cholesky(inverse, upper=True).float(), zero(bits))
    return Blocks((numbers.T + zero(bits)).to(torch.uint8).numpy(), scales, bits)


def _rounded(left: Tensor, scales: Tensor, upper: Tensor, middle: int) -> Tensor:
    """Integers [inputs, outputs] of weights that are rounded in their order.

    Args:
        left: Weights, [inputs, outputs]; they are overwritten.
        scales: Their scales, [inputs, outputs].
        upper: Upper Cholesky factor of the inverse moments, [inputs, inputs].
        middle: The range is -middle to middle - 1.
    """
    numbers = torch.empty_like(left)
    for start in range(0, len(left), AT_ONCE):
        stop = min(start + AT_ONCE, len(left))
        errors = torch.empty_like(left[start:stop])
        for place in range(start, stop):
            numbers[place] = (left[place] / scales[place]).round().clamp(-middle, middle - 1)
            errors[place - start] = (left[place] - numbers[place] * scales[place]) / upper[place, place]
            left[place + 1 : stop] -= torch.outer(upper[place, place + 1 : stop], errors[place - start])
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return numbers
