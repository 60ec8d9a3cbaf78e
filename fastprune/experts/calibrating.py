"""Routers and experts of the smaller model, calibrated layer by layer toward the dense model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastprune.data.batches import Batches
from fastprune.experts.sparse import Sparse, each_with_rows, inputs_of
from fastprune.progress import track
from fastprune.units.mixtures import Mixture, of_experts

RIDGE = 1e-2
"""Ridge strength of both least squares, relative to the mean diagonal."""


@torch.no_grad()
def calibrate(
    dense: Any,
    small: Any,
    mixture: Mixture,
    kept: dict[str, Tensor],
    entering: dict[str, Tensor],
    batches: Batches,
    tokens: int,
) -> None:
    """Fit each router, then the strength of each expert, in the order of the layers, in place.

    A router's rows are fitted so that its logits on the smaller model's inputs are those of the dense router on the dense inputs.
    An expert's last weights are scaled by one number each, fitted so that the sublayer's output is the dense one: experts that
    are left stand in for those that are not, and weights that are not normalised grow with fewer experts.

    Args:
        dense: The dense model.
        small: The smaller model, which is changed.
        mixture: Their family.
        kept: The kept experts by the path of the sparse sublayer.
        entering: The dense inputs of these sublayers, [tokens, hidden] by path.
        batches: The data that they were taken from.
        tokens: Most tokens, as for ``entering``.
    """
    sizes = mixture.sizes(dense)
    for path in track(list(kept), "calibrating routers"):
        before = entering[path]
        after = inputs_of(small, [path], batches, tokens, description="inputs of the smaller model")[path]
        one = Sparse(dense.get_submodule(path), mixture, sizes.experts)
        other = Sparse(small.get_submodule(path), mixture, len(kept[path]))
        _fit_router(other, before, after)
        _fit_strengths(other, after, one.output(before))


def _fit_router(small: Sparse, before: Tensor, after: Tensor) -> None:
    """Ridge regression of the router's rows toward its own logits on the dense inputs [tokens, hidden]."""
    weight = small.router.weight
    inputs = after.double()
    wanted = (before - after).double() @ weight.double().T  # [tokens, experts]: what the logits lack
    gram = inputs.T @ inputs  # [hidden, hidden]
    change = torch.linalg.solve(_ridged(gram), inputs.T @ wanted)  # [hidden, experts]
    weight.add_(change.T.to(weight))


def _fit_strengths(small: Sparse, after: Tensor, target: Tensor) -> None:
    """Ridge regression of one factor for each expert, toward 1, on the dense sublayer's output [tokens, hidden]."""
    parts = list(each_with_rows(small, after, small.weights(after)))
    missing = (target - small.output(after)).double()  # [tokens, hidden]
    gram, lack = missing.new_zeros(small.experts, small.experts), missing.new_zeros(small.experts)
    for place, (rows, values) in enumerate(parts):
        spread = missing.new_zeros(missing.shape)
        spread[rows] = values.double()
        lack[place] = (spread * missing).sum()
        for other, (others, theirs) in enumerate(parts[: place + 1]):
            gram[place, other] = gram[other, place] = (spread[others] * theirs.double()).sum()
    change = torch.linalg.solve(_ridged(gram), lack)  # [experts]
    for name, tensor in of_experts(small.bank, small.experts).items():
        if name.startswith("down_proj"):
            tensor.mul_((1 + change).to(tensor).view(-1, *[1] * (tensor.dim() - 1)))


def _ridged(gram: Tensor) -> Tensor:
    size = gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    return gram + RIDGE * size * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
