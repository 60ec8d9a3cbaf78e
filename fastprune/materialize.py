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

from fastprune.errors import ModelError
from fastprune.groups import Group, Groups, consumer_of
from fastprune.masks import Mask
from fastprune.strategies import Reconstruction

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


def reconstruct_consumers(model: nn.Module, groups: Groups, reconstruction: Reconstruction) -> None:
    """Set the weight and the bias of each reconstructed group's consumer, in place."""
    for group in groups:
        if group.name in reconstruction:
            set_consumer(consumer_of(model, group), *reconstruction[group.name])


def adopt(model: M, groups: Groups, mask: Mask, pruned: nn.Module) -> M:
    """Make ``model`` itself into what was pruned from it, in place, and return it."""
    materialize(model, groups, mask, inplace=True)
    for group in groups:
        consumer = consumer_of(pruned, group)
        set_consumer(consumer_of(model, group), consumer.weight.detach(), consumer.bias)
    return model


@torch.no_grad()
def set_consumer(consumer: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Give a consumer its new weight [hidden, features] and bias [hidden], in place; a bias is added where none was."""
    consumer.weight.copy_(weight)
    if bias is not None:
        add_bias(consumer)
        consumer.bias.copy_(bias)


def add_bias(consumer: nn.Linear) -> None:
    """Give a consumer that has no bias one of zeros, in place."""
    if consumer.bias is None:
        consumer.bias = nn.Parameter(consumer.weight.detach().new_zeros(consumer.out_features))


@contextlib.contextmanager
def masked(model: nn.Module, groups: Groups, mask: Mask) -> Iterator[None]:
    """While open, the features of pruned units are multiplied by zero where they enter their consumers."""
    handles = []
    for group in groups:
        features = mask[group.name].repeat_interleave(group.width)
        consumer = consumer_of(model, group)

        def multiply(_: nn.Module, arguments: tuple[Tensor], features: Tensor = features) -> tuple[Tensor]:
            return (arguments[0] * features.to(arguments[0]),)

        handles.append(consumer.register_forward_pre_hook(multiply))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class BiasOnly(nn.Module):
    """What is left of a consumer whose group has no unit: its bias, whatever comes in."""

    weight: Tensor
    bias: nn.Parameter | None

    def __init__(self, consumer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = 0, consumer.out_features
        self.register_buffer("weight", consumer.weight.detach()[:, :0].clone(), persistent=False)
        self.bias = None
        if consumer.bias is not None:
            self.bias = nn.Parameter(consumer.bias.detach().clone(), requires_grad=consumer.bias.requires_grad)

    def forward(self, features: Tensor) -> Tensor:
        if self.bias is None:
            return features.new_zeros(*features.shape[:-1], self.out_features)  # [..., hidden]
        return self.bias.expand(*features.shape[:-1], -1)  # [..., hidden]

    def extra_repr(self) -> str:
        return f"out_features={self.out_features}"


class EmptySublayer(nn.Module):
    """Stands where a sublayer without units was: it computes nothing, and says so to the modules around it.

    Where the sublayer held its consumer, the consumer's bias is its output; where the consumer comes after it,
    a tensor of no features is.
    """

    def __init__(self, block_module: nn.Module, attributes: dict[str, Any], consumer: str, outputs: int) -> None:
        super().__init__()
        self.consumer_path, self.outputs = consumer, outputs
        for name, value in attributes.items():
            setattr(self, name, value)
        if consumer:
            parent: nn.Module = self
            *containers, name = consumer.split(".")
            for container in containers:
                parent.add_module(container, nn.Module())
                parent = parent.get_submodule(container)
            original = block_module.get_submodule(consumer)
            assert isinstance(original, nn.Linear)
            parent.add_module(name, BiasOnly(original))

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Any:
        output = hidden.new_empty(*hidden.shape[:-1], 0)  # [..., no features]
        if self.consumer_path:
            output = self.get_submodule(self.consumer_path)(output)  # [..., hidden]
        return output if self.outputs == 1 else (output, *[None] * (self.outputs - 1))


class SelectUnits:
    """A forward pre-hook: arguments that hold one slice a unit in dimension 1 lose those of the pruned units.

    It stays on the module, as part of it, and reads the module's buffer ``kept_units`` [kept].
    """

    def __init__(self, module: nn.Module, arguments: tuple[str, ...]) -> None:
        parameters = list(inspect.signature(module.forward).parameters)
        self.positions = {name: parameters.index(name) for name in arguments}

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        positional, named = list(args), dict(kwargs)
        for name, position in self.positions.items():
            if named.get(name) is not None:
                named[name] = named[name].index_select(1, module.kept_units)
            elif position < len(positional) and positional[position] is not None:
                positional[position] = positional[position].index_select(1, module.kept_units)
        return tuple(positional), named


@torch.no_grad()
def _slice(model: nn.Module, group: Group, kept: Tensor) -> None:
    for path in group.producers:
        _keep_rows(_linear(model, path), _expand(kept, _linear(model, path).out_features // group.units))
    _keep_columns(_linear(model, group.consumer), _expand(kept, group.width))
    module = model.get_submodule(group.module)
    for attribute in group.block.unit_counts:
        setattr(module, attribute, len(kept))
    for attribute in group.block.feature_counts:
        setattr(module, attribute, len(kept) * group.width)
    if group.block.per_unit_inputs:
        _select_inputs(module, group, kept)


def _select_inputs(module: nn.Module, group: Group, kept: Tensor) -> None:
    """Have the module choose its slices; one that has been pruned before chooses among those it already chose."""
    device = next(module.parameters()).device
    before = getattr(module, "kept_units", None)
    if before is not None:
        module.kept_units = before[kept.to(device)]
        return
    module.register_buffer("kept_units", kept.to(device))
    module.register_forward_pre_hook(SelectUnits(module, group.block.per_unit_inputs), with_kwargs=True)


def _empty(model: nn.Module, group: Group) -> None:
    block, module = group.block, model.get_submodule(group.module)
    inside = block.consumer.startswith(f"{block.module}.")
    attributes = {name: getattr(module, name) for name in block.unit_width}
    attributes |= dict.fromkeys((*block.unit_counts, *block.feature_counts), 0)
    consumer = block.consumer.removeprefix(f"{block.module}.") if inside else ""
    stub = EmptySublayer(module, attributes, consumer, block.outputs)
    if not inside:
        _replace(model, group.consumer, BiasOnly(_linear(model, group.consumer)))
    _replace(model, group.module, stub.train(module.training))


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _linear(model: nn.Module, path: str) -> nn.Linear:
    linear = model.get_submodule(path)
    if not isinstance(linear, nn.Linear):
        raise ModelError(f"'{path}' is a {type(linear).__name__}; fastprune slices torch.nn.Linear modules.")
    return linear


def _expand(units: Tensor, width: int) -> Tensor:
    """The features of units of ``width`` features each: [units] -> [units * width]."""
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()


def _keep_rows(linear: nn.Linear, rows: Tensor) -> None:
    rows = rows.to(linear.weight.device)
    linear.weight = nn.Parameter(linear.weight[rows].contiguous(), requires_grad=linear.weight.requires_grad)
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias[rows].contiguous(), requires_grad=linear.bias.requires_grad)
    linear.out_features = len(rows)


def _keep_columns(linear: nn.Linear, columns: Tensor) -> None:
    columns = columns.to(linear.weight.device)
    linear.weight = nn.Parameter(linear.weight[:, columns].contiguous(), requires_grad=linear.weight.requires_grad)
    linear.in_features = len(columns)
