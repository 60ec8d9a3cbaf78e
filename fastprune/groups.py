"""Groups: an architecture resolved on one model, with every path checked and every size read off."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor, nn

from fastprune.architecture import Architecture, Block, Stack
from fastprune.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Group:
    """The units that sit side by side in one sublayer: the heads of an attention, the filters of an FFN.

    Paths are absolute in the model. Feature ``f`` of the consumer's input belongs to unit ``f // width``.

    Attributes:
        name: Unique in the model, and the same whatever head the model carries: ``encoder.layer.0.attention``.
        layer: The path of the layer.
        units: How many there are.
        width: Features a unit owns.
        hidden: Features of the consumer's output.
        block: The data that this was resolved from.
    """

    name: str
    layer: str
    units: int
    width: int
    hidden: int
    block: Block

    @property
    def kind(self) -> str:
        return self.block.kind

    @property
    def features(self) -> int:
        return self.units * self.width

    @property
    def module(self) -> str:
        return f"{self.layer}.{self.block.module}"

    @property
    def consumer(self) -> str:
        return f"{self.layer}.{self.block.consumer}"

    @property
    def producers(self) -> tuple[str, ...]:
        return tuple(f"{self.layer}.{producer}" for producer in self.block.producers)

    @property
    def residual(self) -> str:
        """The module whose input is the consumer's output plus the residual stream; the layer where it is its output."""
        return f"{self.layer}.{self.block.residual}" if self.block.residual else self.layer


@dataclass(frozen=True)
class Groups:
    """All groups of a model, in the order in which they run."""

    items: tuple[Group, ...]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, name: str) -> Group:
        return next(group for group in self.items if group.name == name)

    def layers(self) -> list[tuple[str, tuple[Group, ...]]]:
        """The path of each layer with its groups, in the order in which they run."""
        return [(layer, tuple(groups)) for layer, groups in groupby(self.items, key=lambda group: group.layer)]

    @staticmethod
    def resolve(architecture: Architecture, model: nn.Module) -> Groups:
        """Find an architecture's groups in a model.

        Raises:
            ModelError: A path leads nowhere, or a width is not divided by the units.
        """
        prefix = _base_prefix(model)
        groups = [
            group for stack in architecture.stacks for group in _resolve_stack(architecture, stack, model, prefix)
        ]
        if not groups:
            raise ModelError(f"The architecture '{architecture.name}' found no layer in this {type(model).__name__}.")
        return Groups(tuple(groups))


def consumer_of(model: nn.Module, group: Group) -> nn.Linear:
    """The group's consumer in this model: an ``nn.Linear``, or what stands for one where no unit is left."""
    consumer = model.get_submodule(group.consumer)
    assert isinstance(consumer.weight, Tensor)
    return consumer  # type: ignore[return-value]


def producers_of(model: nn.Module, group: Group) -> list[nn.Linear]:
    """The group's producers in this model; none where no unit is left."""
    paths = group.producers if group.units else ()
    return [module for module in map(model.get_submodule, paths) if isinstance(module, nn.Linear)]


def _base_prefix(model: nn.Module) -> str:
    """The path of the base model inside the model, with a dot behind it; empty where they are the same."""
    base = getattr(model, "base_model", model)
    path = next((name for name, module in model.named_modules() if module is base), "")
    return f"{path}." if path else ""


def _resolve_stack(architecture: Architecture, stack: Stack, model: nn.Module, prefix: str) -> Iterator[Group]:
    layers = _submodule(architecture, model, prefix + stack.layers)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(
            f"The architecture '{architecture.name}' expects a list of layers at '{prefix}{stack.layers}', "
            f"but this {type(model).__name__} has a {type(layers).__name__} there."
        )
    for index in range(len(layers)):
        for block in stack.blocks:
            yield _resolve_block(architecture, block, model, prefix, f"{stack.layers}.{index}")


def _resolve_block(architecture: Architecture, block: Block, model: nn.Module, prefix: str, layer: str) -> Group:
    module = _submodule(architecture, model, f"{prefix}{layer}.{block.module}")
    consumer = _submodule(architecture, model, f"{prefix}{layer}.{block.consumer}")
    _submodule(architecture, model, f"{prefix}{layer}.{block.residual}" if block.residual else prefix + layer)
    try:
        features, hidden = int(consumer.in_features), int(consumer.out_features)  # type: ignore[arg-type]
        width = math.prod(int(getattr(module, attribute)) for attribute in block.unit_width)
    except AttributeError as error:
        raise ModelError(
            f"The architecture '{architecture.name}' does not fit '{prefix}{layer}' of this {type(model).__name__}: {error}."
        ) from error
    units = features // width
    producers = [] if units == 0 else [f"{prefix}{layer}.{producer}" for producer in block.producers]
    for path, rows in [(path, _submodule(architecture, model, path).out_features) for path in producers]:
        if units * width != features or int(rows) % units:  # type: ignore[arg-type]
            raise ModelError(
                f"The units of '{prefix}{layer}.{block.module}' do not divide its width: {features} consumer features, "
                f"{width} a unit, {rows} rows in '{path}'. Check 'unit_width' of the architecture '{architecture.name}'."
            )
    name = f"{layer}.{block.name or block.kind}"
    return Group(name=name, layer=prefix + layer, units=units, width=width, hidden=hidden, block=block)


def _submodule(architecture: Architecture, model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        parent = path
        found: list[str] = []
        while parent and not found:
            parent = parent.rpartition(".")[0]
            try:
                found = [name for name, _ in model.get_submodule(parent).named_children()]
            except AttributeError:
                continue
        raise ModelError(
            f"The architecture '{architecture.name}' expects a module at '{path}', but this {type(model).__name__} has "
            f"none; '{parent or 'the model'}' holds {', '.join(found) or 'nothing'}."
        ) from error
