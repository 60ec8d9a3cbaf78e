"""Slicing: remove the cuts of pruned units from a model's parameters, in place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastprune.errors import ModelError
from fastprune.modeling import KeptBias, OwnConfig
from fastprune.units.architecture import UnitBias
from fastprune.units.cuts import Cut
from fastprune.units.groups import Group

Ties = Mapping[str, tuple[str, ...]]
"""All paths of each parameter that several modules hold, by each of its paths."""

SIZES: dict[type[nn.Module], tuple[str, str]] = {
    nn.Linear: ("out_features", "in_features"),
    Conv1D: ("nx", "nf"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
}
"""Attributes with the sizes of the weight's two dimensions, by type of module."""


def tied_parameters(model: nn.Module) -> Ties:
    """Find parameters that several modules hold, such as the shared weight of an embedding and the head."""
    paths: dict[int, list[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        paths.setdefault(id(parameter), []).append(path)
    return {path: tuple(all_of_it) for all_of_it in paths.values() if len(all_of_it) > 1 for path in all_of_it}


@torch.no_grad()
def slice_group(model: nn.Module, group: Group, kept: Tensor, ties: Ties | None = None) -> None:
    """Keep only some units of a group, in place.

    Args:
        model: The model, with the group's full width.
        group: The group; only its cuts are sliced.
        kept: Indices of the units to keep, rising: [kept].
        ties: The model's tied parameters: each is cut once and stays tied, whichever of its paths the cuts name (computed).

    Raises:
        ModelError: A tensor has another size than when the group was resolved.
    """
    ties = tied_parameters(model) if ties is None else ties
    done: set[tuple[str, int]] = set()
    for cut in group.cuts:
        if (cut.parameter, cut.dimension) not in done:
            paths = ties.get(cut.parameter, (cut.parameter,))
            left = _left(model, cut, kept)
            for path in paths:
                _put(model, path, left)
            done |= {(path, cut.dimension) for path in paths}
    for attribute in group.block.counts:
        _scale(model.get_submodule(group.module), attribute, len(kept), group.units)
    if group.block.bias is not None:
        _select_bias(model.get_submodule(group.module), group.block.bias, kept)


def _left(model: nn.Module, cut: Cut, kept: Tensor) -> Tensor:
    """The cut's parameter or buffer with only the positions of the kept units [kept] and the shared positions."""
    tensor = cut.tensor(model)
    if tensor.dim() <= cut.dimension or tensor.shape[cut.dimension] != cut.positions.length:
        raise ModelError(
            f"'{cut.parameter}' is to be cut along dimension {cut.dimension}, of size {cut.positions.length}, but has the shape "
            f"{tuple(tensor.shape)} in this {type(model).__name__}. Resolve the groups on the model that is to be sliced."
        )
    left = tensor.index_select(cut.dimension, cut.positions.kept(kept).to(tensor.device)).contiguous()
    return nn.Parameter(left, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else left


def _put(model: nn.Module, path: str, tensor: Tensor) -> None:
    """Replace a tensor, and update its module's size attributes."""
    owner, _, name = path.rpartition(".")
    module = model.get_submodule(owner)
    setattr(module, name, tensor)
    for kind, sizes in SIZES.items():
        if name == "weight" and isinstance(module, kind):
            for size, attribute in zip(tensor.shape, sizes, strict=True):
                setattr(module, attribute, size)


def _scale(module: nn.Module, attribute: str, kept: int, units: int) -> None:
    """Scale an attribute of the module or of its configuration in proportion to the number of units."""
    owner, _, name = attribute.rpartition(".")
    if not owner:
        setattr(module, name, getattr(module, name) * kept // units)
        return
    config = getattr(module, owner)
    value = getattr(config, name) * kept // units
    shared, values = (config.shared, config.values) if isinstance(config, OwnConfig) else (config, {})
    setattr(module, owner, OwnConfig(shared, {**values, name: value}))


def _select_bias(module: nn.Module, bias: UnitBias, kept: Tensor) -> None:
    """Make the module select its units' slices of a shared bias; a module that already selects has its selection among the cuts."""
    if getattr(module, "kept_units", None) is None:
        module.register_buffer("kept_units", kept.to(next(module.parameters()).device))
        KeptBias(module, argument=bias.argument, method=bias.method, output=bias.output)
