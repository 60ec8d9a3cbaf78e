"""Materialisation: remove the pruned units from a model's parameters, and replace empty sublayers by placeholders.

An example with four features: a group of two heads of two features, the second head is pruned. Its producers (query, key,
value) lose their rows 2 and 3, its consumer (the output projection) loses its columns 2 and 3: each is a ``Cut``. The result
computes the same as the dense sublayer with the consumer's input multiplied by the mask (1, 1, 0, 0).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from fastprune.modeling import has_module, size_caches_by_use
from fastprune.surgery.empty import empty_group
from fastprune.surgery.listed import follow_units
from fastprune.surgery.slicing import slice_group, tied_parameters
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask
from fastprune.units.sharing import sharing_copy

M = TypeVar("M", bound=nn.Module)


def materialize(model: M, groups: Groups, mask: Mask, *, inplace: bool = False, share: bool = False) -> M:
    """Build the model without the pruned units, from ordinary modules of smaller sizes.

    Args:
        model: The model, with the groups' full widths.
        groups: The model's groups.
        mask: The units to keep.
        inplace: Change the given model itself.
        share: Share all parameters with ``model`` except those of producers and consumers, which a tuner may change.

    Returns:
        The smaller model. Its outputs equal those of the model under ``masked`` up to rounding (docs/method.md, section 0).
    """
    pruned = model if inplace else sharing_copy(model)
    size_caches_by_use(pruned)
    ties = tied_parameters(pruned)
    for group in groups:
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
