"""Rows and columns of pruned units taken out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastprune.modeling import KeptBias, OwnConfig
from fastprune.units.architecture import UnitBias
from fastprune.units.groups import Group
from fastprune.units.linears import keep_columns, keep_rows, keep_table, linear_at


@torch.no_grad()
def slice_group(model: nn.Module, group: Group, kept: Tensor) -> None:
    """Keep the rows, columns and table entries of the units ``kept`` [kept], in place."""
    for rows in group.rows:
        keep_rows(linear_at(model, rows.path), rows.of(kept, group.units))
    keep_columns(linear_at(model, group.consumer), group.columns(kept))
    for table in group.tables:
        keep_table(model, table, kept)
    module = model.get_submodule(group.module)
    for attribute in group.block.counts:
        _scale(module, attribute, len(kept), group.units)
    if group.block.bias is not None:
        _select_bias(module, group.block.bias, kept)


def _scale(module: nn.Module, attribute: str, kept: int, units: int) -> None:
    """Set an attribute that is proportional to the units, of the module or of its configuration."""
    owner, _, name = attribute.rpartition(".")
    if not owner:
        setattr(module, name, getattr(module, name) * kept // units)
        return
    config = getattr(module, owner)
    value = getattr(config, name) * kept // units
    shared, values = (config.shared, config.values) if isinstance(config, OwnConfig) else (config, {})
    setattr(module, owner, OwnConfig(shared, {**values, name: value}))


def _select_bias(module: nn.Module, bias: UnitBias, kept: Tensor) -> None:
    """Have the module choose its slices; one that has been pruned before chooses among those it already chose."""
    device = next(module.parameters()).device
    before = getattr(module, "kept_units", None)
    if before is not None:
        module.kept_units = before[kept.to(device)]
        return
    module.register_buffer("kept_units", kept.to(device))
    KeptBias(module, argument=bias.argument, method=bias.method, output=bias.output)
