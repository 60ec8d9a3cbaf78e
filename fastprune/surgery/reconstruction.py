"""Reconstructed weights: set new weights and biases of linears."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastprune.surgery.materialize import M, materialize
from fastprune.units.groups import Groups
from fastprune.units.linears import as_linear
from fastprune.units.masks import Mask

Reconstruction = dict[str, tuple[Tensor, Tensor | None]]
"""New weight [out, in] and bias [out] (None: unchanged) of the student's linears, by path; each linear is a group's consumer or
one of its producers."""


def apply_reconstruction(model: nn.Module, reconstruction: Reconstruction) -> None:
    """Set the weight and the bias of each reconstructed linear, in place."""
    for path, solved in reconstruction.items():
        set_linear(as_linear(model.get_submodule(path)), *solved)


def adopt(model: M, groups: Groups, mask: Mask, pruned: nn.Module) -> M:
    """Turn ``model`` into the pruned model ``pruned``, in place, and return it."""
    materialize(model, groups, mask, inplace=True)
    for group in groups.with_consumer:
        producers = group.producers if len(mask.kept(group.name)) else ()
        for path in (*producers, group.consumer):
            linear = as_linear(pruned.get_submodule(path))
            set_linear(as_linear(model.get_submodule(path)), linear.weight.detach(), linear.bias)
    return model


@torch.no_grad()
def set_linear(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Set the weight [out, in] and bias [out] of a linear, in place; a missing bias is added."""
    linear.weight.copy_(weight)
    if bias is not None:
        add_bias(linear)
        linear.bias.copy_(bias)


def add_bias(consumer: nn.Linear) -> None:
    """Add a bias of zeros to a consumer without bias, in place."""
    if consumer.bias is None:
        consumer.bias = nn.Parameter(consumer.weight.detach().new_zeros(consumer.out_features))
