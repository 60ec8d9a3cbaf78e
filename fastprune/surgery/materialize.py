"""Surgery: take the pruned units' rows and columns out, put nothing in the place of empty sublayers, set new consumers.

The four-feature example: a group of two heads of two features, of which the second goes. Its producers (query, key,
value) lose their rows 2 and 3, its consumer (the output projection) its columns 2 and 3. What is left computes what the
dense sublayer computes with the consumer's input multiplied by the mask (1, 1, 0, 0).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastprune.modeling import BiasOnly, EmptySublayer, KeptBias, OwnConfig, put
from fastprune.strategies.contracts import Reconstruction
from fastprune.units.architecture import UnitBias
from fastprune.units.groups import Group, Groups, consumer_of, number_of
from fastprune.units.linears import as_linear, keep_columns, keep_rows, keep_table, linear_at
from fastprune.units.masks import Mask

M = TypeVar("M", bound=nn.Module)


def materialize(model: M, groups: Groups, mask: Mask, *, inplace: bool = False) -> M:
    """The model without the pruned units: plain modules, only smaller.

    Args:
        model: With the groups' full widths.
        groups: The model's groups.
        mask: What to keep.
        inplace: Change this very model instead of a copy.

    Returns:
        The smaller model. It agrees to rounding with the model under ``masked`` (METHOD 0).
    """
    pruned = model if inplace else copy.deepcopy(model)
    for group in groups:
        kept = mask.kept(group.name)
        if len(kept) == 0 and group.units > 0:
            _empty(pruned, group)
        elif len(kept) < group.units:
            _slice(pruned, group, kept)
    return pruned


def apply_reconstruction(model: nn.Module, reconstruction: Reconstruction) -> None:
    """Set the weight and the bias of each reconstructed linear, in place."""
    for path, solved in reconstruction.items():
        set_linear(as_linear(model.get_submodule(path)), *solved)


def adopt(model: M, groups: Groups, mask: Mask, pruned: nn.Module) -> M:
    """Make ``model`` itself into what was pruned from it, in place, and return it."""
    materialize(model, groups, mask, inplace=True)
    for group in groups:
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


@contextlib.contextmanager
def masked(model: nn.Module, groups: Groups, mask: Mask) -> Iterator[None]:
    """While open, the features of pruned units are multiplied by zero where they enter their consumers."""
    handles = []
    for group in (group for group in groups if group.units):
        features = mask[group.name].repeat_interleave(group.width)
        consumer = consumer_of(model, group)

        def multiply(_: nn.Module, arguments: tuple[Tensor, ...], features: Tensor = features) -> tuple[Tensor, ...]:
            return (arguments[0] * features.to(arguments[0]), *arguments[1:])

        handles.append(consumer.register_forward_pre_hook(multiply))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _slice(model: nn.Module, group: Group, kept: Tensor) -> None:
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


def owns_bias(model: nn.Module, group: Group) -> bool:
    """Whether the group's module computes a bias for other layers, so that it must run whatever becomes of its units."""
    bias = group.block.bias
    return bias is not None and bool(bias.owner) and bool(getattr(model.get_submodule(group.module), bias.owner))


def _empty(model: nn.Module, group: Group) -> None:
    if owns_bias(model, group):
        # the other layers need the bias that this module computes: one unit stays to run it, and is not listened to
        _slice(model, group, torch.zeros(1, dtype=torch.long))
        put(model, group.consumer, _bias_only(model, group))
        return
    stand_in(model, group, _bias_only(model, group))


def stand_in(model: nn.Module, group: Group, consumer: nn.Module) -> None:
    """Put in the place of a group's sublayer what computes nothing: it gives what ``consumer`` gives, whatever comes in."""
    block, module = group.block, model.get_submodule(group.module)
    facts, inside = _facts(module, group), block.consumer.startswith(f"{block.module}.")
    if not inside:
        put(model, group.consumer, consumer)
    norm = module.get_submodule(facts["norm"]) if facts["norm"] else None
    sublayer = EmptySublayer(facts, consumer if inside else None, norm)
    put(model, group.module, sublayer.train(module.training))


def _bias_only(model: nn.Module, group: Group) -> BiasOnly:
    consumer = linear_at(model, group.consumer)
    return BiasOnly.of(model.get_submodule(group.consumer), with_bias=consumer.bias is not None)


def _facts(module: nn.Module, group: Group) -> dict[str, Any]:
    """What an empty sublayer must know of the module that it replaces."""
    block = group.block
    inside, holds_norm = (path.startswith(f"{block.module}.") for path in (block.consumer, block.residual))
    counts = [name for name in (*block.counts, block.units) if name and "." not in name]
    return {
        "arguments": list(inspect.signature(module.forward).parameters),
        "outputs": block.outputs,
        "cache": block.cache,
        "seen": block.seen,
        "bias_argument": block.bias.argument if block.bias else "",
        "bias_output": block.bias.output if block.bias else 0,
        "consumer": block.consumer.removeprefix(f"{block.module}.") if inside else "",
        "norm": block.residual.removeprefix(f"{block.module}.")
        if holds_norm and block.residual != block.consumer
        else "",
        "attributes": {name: number_of(module, name) for name in (*block.unit_width, block.repeats) if name}
        | dict.fromkeys(counts, 0)
        | ({"layer_idx": layer_number(module)} if block.cache else {}),
    }


NUMBERS = ("layer_idx", "layer_id")
"""What modules call the place of their layer, by which a cache keeps keys and values."""


def layer_number(module: Any) -> int | None:
    """The place of the layer, as the module tells it to the cache; None where there is none, as in an encoder."""
    number: int | None = next(getattr(module, name) for name in NUMBERS if hasattr(module, name))
    return number
