"""Empty sublayers: placeholders for sublayers without units."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from fastprune.modeling import BiasOnly, EmptySublayer, put
from fastprune.surgery.slicing import slice_group
from fastprune.units.groups import Group
from fastprune.units.linears import linear_at
from fastprune.units.paths import number_of


def owns_bias(model: nn.Module, group: Group) -> bool:
    """Whether the group's module computes a bias for other layers, so that it must run even without units."""
    bias = group.block.bias
    return bias is not None and bool(bias.owner) and bool(getattr(model.get_submodule(group.module), bias.owner))


def empty_group(model: nn.Module, group: Group) -> None:
    """Replace a sublayer without remaining units by a placeholder, in place."""
    if owns_bias(model, group):
        # the other layers need the bias that this module computes: one unit is kept so that it runs, and its output is ignored
        slice_group(model, group, torch.zeros(1, dtype=torch.long))
        put(model, group.consumer, _bias_only(model, group))
        return
    stand_in(model, group, _bias_only(model, group))


def stand_in(model: nn.Module, group: Group, consumer: nn.Module) -> None:
    """Replace a group's sublayer by a placeholder that returns the output of ``consumer``, independent of its inputs."""
    block, module = group.block, model.get_submodule(group.module)
    facts, inside = _facts(module, group), block.consumer.startswith(f"{block.module}.")
    if not inside:
        put(model, group.consumer, consumer)
    put(model, group.module, EmptySublayer.of(module, facts, consumer if inside else None))


def _bias_only(model: nn.Module, group: Group) -> BiasOnly:
    consumer = linear_at(model, group.consumer)
    return BiasOnly.of(model.get_submodule(group.consumer), with_bias=consumer.bias is not None)


def _facts(module: nn.Module, group: Group) -> dict[str, Any]:
    """The attributes of the replaced module for its placeholder, ``EmptySublayer``."""
    block = group.block
    inside, holds_norm = (path.startswith(f"{block.module}.") for path in (block.consumer, block.residual))
    counts = [name for name in (*block.counts, block.units) if name and "." not in name]
    return {
        "arguments": list(inspect.signature(module.forward).parameters),
        "outputs": block.outputs,
        "cache": block.cache if layer_number(module) is not None else "",
        "routed": block.routed,
        "bias_argument": block.bias.argument if block.bias else "",
        "bias_output": block.bias.output if block.bias else 0,
        "consumer": block.consumer.removeprefix(f"{block.module}.") if inside else "",
        "norm": block.residual.removeprefix(f"{block.module}.")
        if holds_norm and block.residual != block.consumer
        else "",
        # transformers' name for the eager variant of an attention that the configuration chooses
        "interface": hasattr(inspect.getmodule(type(module)), "eager_attention_forward"),
        "attributes": {name: number_of(module, name) for name in (*block.unit_width, block.repeats) if name}
        | dict.fromkeys(counts, 0)
        | ({} if layer_number(module) is None else {"layer_idx": layer_number(module)}),
    }


NUMBERS = ("layer_idx", "layer_id")
"""Names of the attribute with the layer's index in the KV cache."""


def layer_number(module: Any) -> int | None:
    """The layer's index in the KV cache; None for modules without one, as in an encoder."""
    number: int | None = next((getattr(module, name) for name in NUMBERS if hasattr(module, name)), None)
    return number
