"""Materialisation: remove the pruned units from a model's parameters, and replace empty sublayers by placeholders.

An example with four features: a group of two heads of two features, the second head is pruned. Its producers (query, key,
value) lose their rows 2 and 3, its consumer (the output projection) loses its columns 2 and 3: each is a ``Cut``. The result
computes the same as the dense sublayer with the consumer's input multiplied by the mask (1, 1, 0, 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from fastprune.modeling import has_module, put, size_caches_by_use
from fastprune.surgery.empty import empty_group
from fastprune.surgery.listed import follow_units
from fastprune.surgery.slicing import slice_group, tied_parameters
from fastprune.units.groups import Group, Groups
from fastprune.units.masks import Mask
from fastprune.units.sharing import sharing_copy
from fastprune.units.skipped import SkippedLayer, same_list

M = TypeVar("M", bound=nn.Module)


def materialize(
    model: M,
    groups: Groups,
    mask: Mask,
    *,
    inplace: bool = False,
    share: bool = False,
    removable: Mapping[str, int] | None = None,
) -> M:
    """Build the model without the pruned units, from ordinary modules of smaller sizes.

    Args:
        model: The model, with the groups' full widths.
        groups: The model's groups.
        mask: The units to keep.
        inplace: Change the given model itself.
        share: Share all parameters with ``model`` except those of producers and consumers, which a tuner may change.
        removable: Paths of layers that are removed as a whole, with their norms, if no unit of them is kept, and the number of
            values that each returns in a tuple (0: a tensor). None: such a layer keeps its norms and biases.

    Returns:
        The smaller model. Its outputs equal those of the model under ``masked`` up to rounding (docs/method.md, section 0).
    """
    pruned = model if inplace else sharing_copy(model)
    size_caches_by_use(pruned)
    ties = tied_parameters(pruned)
    removed = removed_layers(groups, mask, removable or {})
    _skip(pruned, groups, {path: (removable or {})[path] for path in removed})
    for group in (group for group in groups if group.layer not in removed):
        kept = mask.kept(group.name)
        if len(kept) == 0 and group.units > 0 and group.consumer:
            empty_group(pruned, group)
        elif len(kept) < group.units:
            slice_group(pruned, group, kept, ties)
    follow_units(pruned, groups, mask)
    if not inplace:
        linears = {path for group in groups for path in (*group.producers, group.consumer)}
        paths = sorted(path for path in linears if path and has_module(pruned, path))
        own_parameters([pruned.get_submodule(path) for path in paths] if share else [pruned], model)
    return pruned


def removed_layers(groups: Groups, mask: Mask, removable: Iterable[str]) -> list[str]:
    """Paths of the layers that may be removed and of which the mask keeps no unit."""
    allowed = set(removable)
    return [
        path
        for path, members in groups.layers()
        if path in allowed and not any(bool(mask[group.name].any()) for group in members)
    ]


def _skip(model: nn.Module, groups: Groups, removed: Mapping[str, int]) -> None:
    """Replace layers by placeholders, in place. The norm at the end of a post-norm layer goes to the layer before it, whose output
    takes the place of its own."""
    before: Group | None = None
    for path, members in groups.layers():
        last = members[-1]
        if path not in removed:
            before = last
            continue
        if before is not None and same_list(before.layer, path) and last.ends_with_norm:
            put(model, before.residual, model.get_submodule(last.residual))
        put(model, path, SkippedLayer(model.get_submodule(path), values=removed[path]))


@torch.no_grad()
def own_parameters(modules: Iterable[nn.Module], model: nn.Module) -> None:
    """Replace, in place, all parameters and buffers that modules share with a model by copies; tied ones stay tied."""
    shared = {*model.parameters(), *model.buffers()}
    copies: dict[Tensor, Tensor] = {}
    for part in (part for module in modules for part in module.modules()):
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor in shared:
                    if tensor not in copies:
                        copy = tensor.detach().clone()
                        is_parameter = isinstance(tensor, nn.Parameter)
                        copies[tensor] = nn.Parameter(copy, tensor.requires_grad) if is_parameter else copy
                    tensors[name] = copies[tensor]  # type: ignore[assignment]
