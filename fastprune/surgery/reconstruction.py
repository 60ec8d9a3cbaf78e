"""Reconstructed weights: set new weights and biases of linears."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastprune.surgery.materialize import M, materialize
from fastprune.units.groups import Groups
from fastprune.units.linears import as_linear
from fastprune.units.masks import Mask

Reconstruction = dict[str, tuple[Tensor, Tensor | None]]
"""By the path of a linear of the student, a group's consumer or one of its producers: its weight [out, in] and its bias
[out] (None: as it is)."""


def apply_reconstruction(model: nn.Module, reconstruction: Reconstruction) -> None:
    """Set the weight and the bias of each reconstructed linear, in place."""
    for path, solved in reconstruction.items():
        set_linear(as_linear(model.get_submodule(path)), *solved)


def adopt(model: M, groups: Groups, mask: Mask, pruned: nn.Module) -> M:
    """Make ``model`` itself into what was pruned from it, in place, and return it."""
    materialize(model, groups, mask, inplace=True)
    for group in groups.with_consumer:
        producers = group.producers if len(mask.kept(group.name)) else ()
        for path in (*producers, group.consumer):
            linear = as_linear(pruned.get_submodule(path))
            set_linear(as_linear(model.get_submodule(path)), linear.weight.detach(), linear.bias)
    return model


@torch.no_grad()
def set_linear(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Give a linear its new weight [out, in] and bias [out], in place; a bias is added where none was."""
    linear.weight.copy_(weight)
    if bias is not None:
        add_bias(linear)
        linear.bias.copy_(bias)


def add_bias(consumer: nn.Linear) -> None:
    """Give a consumer that has no bias one of zeros, in place."""
    if consumer.bias is None:
        consumer.bias = nn.Parameter(consumer.weight.detach().new_zeros(consumer.out_features))
