"""Groups: an architecture resolved on one model, with every path checked and every size read off."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.errors import ModelError
from fastprune.modeling import BiasOnly, there
from fastprune.units.architecture import Architecture, Block, Conditions, Part, Producer, Stack
from fastprune.units.experts import is_fused
from fastprune.units.linears import as_linear, in_order, linear_at


@dataclass(frozen=True, kw_only=True)
class Run:
    """Consecutive rows of a producer.

    Attributes:
        rows: Of each unit; of all of them where they are shared.
        shared: They serve all units alike, and stay.
        repeats: How many times the units come round, each with an equal part of its rows.
    """

    rows: int
    shared: bool = False
    repeats: int = 1

    def length(self, units: int) -> int:
        """Rows in all."""
        return self.rows if self.shared else units * self.rows


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which output rows of one producer belong to the units.

    Attributes:
        path: The producer's, absolute in the model.
        parts: One behind the other.
    """

    path: str
    parts: tuple[Run, ...]

    @property
    def per_unit(self) -> int:
        """Rows that go with a unit."""
        return sum(part.rows for part in self.parts if not part.shared)

    @property
    def shared(self) -> int:
        """Rows that always stay."""
        return sum(part.rows for part in self.parts if part.shared)

    @property
    def fused(self) -> bool:
        """Whether there is more to it than that the units' rows lie side by side."""
        return len(self.parts) > 1 or any(part.shared or part.repeats > 1 for part in self.parts)

    def own(self, unit: int, units: int) -> Tensor:
        """The rows of one unit alone: [rows]."""
        return self._places(torch.tensor([unit]), units, shared=False)

    def of(self, kept: Tensor, units: int) -> Tensor:
        """The rows to keep of a linear of ``units``, when those of the indices ``kept`` stay: [rows]."""
        return self._places(kept, units, shared=True)

    def _places(self, kept: Tensor, units: int, *, shared: bool) -> Tensor:
        found, start = [kept.new_empty(0)], 0
        for part in self.parts:
            if not part.shared:
                found.append(start + places(kept, units, part.rows, part.repeats))
            elif shared:
                found.append(start + torch.arange(part.rows, device=kept.device))
            start += part.length(units)
        return torch.cat(found)


def places(kept: Tensor, units: int, width: int, repeats: int = 1) -> Tensor:
    """Where the features of some units lie: [kept] -> [kept * width], in the order in which they lie.

    Args:
        kept: The units' indices.
        units: How many there are in all.
        width: Features of each.
        repeats: How many times the units come round, each with an equal part of its features.
    """
    run = width // repeats
    rounds = torch.arange(repeats, device=kept.device)[:, None, None] * units * run  # [repeats, 1, 1]
    return (rounds + kept[:, None] * run + torch.arange(run, device=kept.device)).flatten()  # [repeats, kept, run]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The units that sit side by side in one sublayer: the heads of an attention, the filters of an FFN.

    Paths are absolute in the model. Feature ``f`` of the consumer's input belongs to unit ``f // width``, in what
    ``consumer_of`` shows.

    Attributes:
        name: Unique in the model, and the same whatever head the model carries: ``encoder.layer.0.attention``.
        layer: The path of the layer.
        units: How many there are.
        width: Features a unit owns.
        hidden: Features of the consumer's output.
        repeats: How many times the units come round in the module's own consumer, each with an equal part of its features.
        block: The data that this was resolved from.
        rows: The rows of its producers; none where no unit is left.
        stack: The data of the stack that it belongs to.
        convolutions: Kernel and stride of each convolution between the input whose tokens are marked and the layer's.
    """

    name: str
    layer: str
    units: int
    width: int
    hidden: int
    block: Block
    rows: tuple[Rows, ...] = ()
    repeats: int = 1
    stack: Stack = Stack(layers="", blocks=())
    convolutions: tuple[tuple[int, int], ...] = ()

    @property
    def kind(self) -> str:
        return self.block.kind

    @property
    def features(self) -> int:
        return self.units * self.width

    def columns(self, kept: Tensor) -> Tensor:
        """Where the module's own consumer has the features of the units of these indices, in the order in which they lie."""
        return places(kept, self.units, self.width, self.repeats)

    @property
    def module(self) -> str:
        return absolute(self.layer, self.block.module)

    @property
    def consumer(self) -> str:
        return absolute(self.layer, self.block.consumer)

    @property
    def router(self) -> str:
        return absolute(self.layer, self.block.router) if self.block.router else ""

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(absolute(self.layer, table) for table in self.block.tables)

    @property
    def producers(self) -> tuple[str, ...]:
        return tuple(rows.path for rows in self.rows)

    @property
    def residual(self) -> str:
        """The module whose input is the consumer's output plus the residual stream; the layer where it is its output;
        the consumer where that is compared."""
        return absolute(self.layer, self.block.residual) if self.block.residual else self.layer


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

    def only(self, names: Collection[str]) -> Groups:
        """Some of the groups."""
        return Groups(tuple(group for group in self.items if group.name in names))

    def layers(self) -> list[tuple[str, tuple[Group, ...]]]:
        """The path of each layer with its groups, in the order in which they run."""
        return [(layer, tuple(groups)) for layer, groups in groupby(self.items, key=lambda group: group.layer)]

    def stacks(self) -> list[Groups]:
        """The groups of each list of layers, in the order in which they run."""
        lists = groupby(self.items, key=lambda group: group.layer.rpartition(".")[0])
        return [Groups(tuple(groups)) for _, groups in lists]

    @staticmethod
    def resolve(architecture: Architecture, model: nn.Module) -> Groups:
        """Find an architecture's groups in a model.

        Raises:
            ModelError: A path leads nowhere, or a width is not divided by the units.
        """
        prefix = base_prefix(model)
        groups = [
            group for stack in architecture.stacks for group in _resolve_stack(architecture, stack, model, prefix)
        ]
        if not groups:
            raise ModelError(
                f"The architecture '{architecture.name}' found no layer in this {type(model).__name__}: there is nothing at "
                f"{', '.join(repr(prefix + stack.layers) for stack in architecture.stacks)}. Does the class hide its layers?"
            )
        return Groups(tuple(groups))


def consumer_of(model: nn.Module, group: Group) -> nn.Linear:
    """The group's consumer in this model: an ``nn.Linear``, or what stands for one, where its weight is transposed, no
    unit is left, or a unit's columns do not lie side by side: then it shows them in the order of the units."""
    linear = as_linear(model.get_submodule(group.consumer))
    return in_order(linear, group.repeats, group.units) if group.units and group.repeats > 1 else linear


def producers_of(model: nn.Module, group: Group) -> list[nn.Linear]:
    """The group's producers in this model, in the order of ``group.rows``; none where no unit is left."""
    return [linear_at(model, rows.path) for rows in group.rows]


def base_prefix(model: nn.Module) -> str:
    """The path of the base model inside the model, with a dot behind it; empty where they are the same."""
    base = getattr(model, "base_model", model)
    path = next((name for name, module in model.named_modules() if module is base), "")
    return f"{path}." if path else ""


def _resolve_stack(architecture: Architecture, stack: Stack, model: nn.Module, prefix: str) -> Iterator[Group]:
    lists = _lists(model, prefix, stack.layers)
    if not lists and not stack.optional:
        _submodule(architecture, model, prefix + stack.layers.partition(".*")[0])
    for path in lists:
        layers = model.get_submodule(prefix + path)
        if not isinstance(layers, nn.ModuleList):
            raise ModelError(
                f"The architecture '{architecture.name}' expects a list of layers at '{prefix}{path}', "
                f"but this {type(model).__name__} has a {type(layers).__name__} there."
            )
        blocks = [block for block in stack.blocks if _holds(block.when, getattr(model, "config", None))]
        for index in range(len(layers)):
            for block in blocks:
                placed = _placed(block, prefix, index)
                for name, each in _each(architecture, placed, model, f"{prefix}{path}.{index}"):
                    yield _resolve_block(architecture, stack, each, model, prefix, f"{path}.{index}", name)


def _each(architecture: Architecture, block: Block, model: nn.Module, layer: str) -> Iterator[tuple[str, Block]]:
    """A block by the name of its group in this layer: itself, or one for each index that ``*`` stands for; none where it is
    optional and not there."""
    name = block.name or block.kind
    before, star, _ = block.module.partition(".*")
    if block.optional and not there(model, absolute(layer, before if star else block.consumer)):
        return
    if not star:
        yield name, block
        return
    several = _submodule(architecture, model, absolute(layer, before))
    if is_fused(several):
        raise ModelError(
            f"The architecture '{architecture.name}' expects a module for each expert in '{layer}.{before}', but this "
            f"{type(model).__name__} has one {type(several).__name__} for all of them. Use what fastprune.open_experts(model) "
            "returns."
        )
    for index, _ in several.named_children():
        yield f"{name}.{index}", at_index(block, index)


def at_index(block: Block, index: str) -> Block:
    """The block with an index in the place of ``*``."""
    return _with_paths(block, lambda path: path.replace("*", index))


def _placed(block: Block, prefix: str, index: int) -> Block:
    """The block with its paths that are relative to the base model made absolute, for one layer."""
    return _with_paths(block, lambda path: f"/{prefix}{path[1:].replace('#', str(index))}" if path[:1] == "/" else path)


def _with_paths(block: Block, change: Callable[[str], str]) -> Block:
    producers = tuple(
        change(one) if isinstance(one, str) else replace(one, linear=change(one.linear)) for one in block.producers
    )
    return replace(
        block,
        producers=producers,
        module=change(block.module),
        consumer=change(block.consumer),
        residual=change(block.residual),
        router=change(block.router),
        tables=tuple(change(table) for table in block.tables),
    )


def absolute(layer: str, path: str) -> str:
    """Where a path of a block leads from a layer; one with a slash in front is absolute."""
    return path[1:] if path.startswith("/") else f"{layer}.{path}"


def _lists(model: nn.Module, prefix: str, pattern: str) -> list[str]:
    """The paths of lists of layers that fit a pattern with ``*`` for any index, in order; none where there are none."""
    start, star, rest = pattern.partition(".*.")
    if not star:
        return [pattern] if there(model, prefix + pattern) else []
    if not there(model, prefix + start):
        return []
    indices = [name for name, _ in model.get_submodule(prefix + start).named_children()]
    return [path for index in indices for path in _lists(model, prefix, f"{start}.{index}.{rest}")]


def _holds(conditions: Conditions, config: Any) -> bool:
    return all((_value(config, name) or False) == value for name, value in conditions)


def _value(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name, None)
    return config


def _resolve_block(
    architecture: Architecture, stack: Stack, block: Block, model: nn.Module, prefix: str, layer: str, name: str
) -> Group:
    where = f"'{prefix}{layer}' of this {type(model).__name__}"
    path = absolute(prefix + layer, block.module)
    module = _submodule(architecture, model, path)
    consumer: Any = _submodule(architecture, model, absolute(prefix + layer, block.consumer))
    if not isinstance(consumer, BiasOnly):
        consumer = linear_at(model, absolute(prefix + layer, block.consumer))
    _submodule(architecture, model, absolute(prefix + layer, block.residual) if block.residual else prefix + layer)
    try:
        features, hidden = int(consumer.in_features), int(consumer.out_features)
        if block.units:
            units = int(getattr(module, block.units))
            width = features // units if units else 0
        else:
            width = _product(module, block.unit_width)
            units = features // width if width > 0 else 0
        repeats = _product(module, (block.repeats,)) if block.repeats else 1
        if features and (width <= 0 or units * width != features or width % repeats):
            raise ModelError(
                f"The units of '{path}' do not divide its width: {features} consumer features, {width} a "
                f"unit{f', {repeats} times round' if repeats > 1 else ''}. Check 'unit_width' of the architecture "
                f"'{architecture.name}'."
            )
        rows = [] if units == 0 else list(_rows(architecture, block, model, module, f"{prefix}{layer}", units))
        columns = {} if units == 0 else {path: _columns(model, absolute(prefix + layer, path)) for path in block.tables}
    except AttributeError as error:
        raise ModelError(f"The architecture '{architecture.name}' does not fit {where}: {error}.") from error
    for each in rows:
        expected = units * each.per_unit + each.shared
        found = linear_at(model, each.path).out_features
        if expected != found:
            raise ModelError(
                f"The units of '{path}' do not divide its rows: {features} consumer features, "
                f"{width} a unit, {found} rows in '{each.path}', of which {units} units would own {each.per_unit} each and "
                f"share {each.shared}. Check 'unit_width' and 'parts' of the architecture '{architecture.name}'."
            )
    for path, found in columns.items():
        if found != units:
            raise ModelError(
                f"The table '{prefix}{layer}.{path}' has {found} columns for {units} units of '{block.module}'. Check 'tables' of "
                f"the architecture '{architecture.name}'."
            )
    return Group(
        name=f"{layer}.{name}",
        layer=prefix + layer,
        units=units,
        width=width,
        hidden=hidden,
        block=block,
        rows=tuple(rows),
        repeats=repeats,
        stack=stack,
        convolutions=_convolutions(stack, getattr(model, "config", None)),
    )


def _columns(model: nn.Module, path: str) -> int:
    return model.get_parameter(path).shape[-1]


def _convolutions(stack: Stack, config: Any) -> tuple[tuple[int, int], ...]:
    """Kernel and stride of each convolution, as the configuration says."""
    if not stack.convolutions:
        return ()
    kernels, strides = (_value(config, name) or () for name in stack.convolutions)
    return tuple((int(kernel), int(stride)) for kernel, stride in zip(kernels, strides, strict=True))


def _rows(
    architecture: Architecture, block: Block, model: nn.Module, module: nn.Module, layer: str, units: int
) -> Iterator[Rows]:
    """What each producer's rows are."""
    for producer in block.producers:
        fused = Producer(linear=producer) if isinstance(producer, str) else producer
        path = absolute(layer, fused.linear)
        if fused.optional and not there(model, path):
            continue
        _submodule(architecture, model, path)
        parts = tuple(_run(module, part) for part in fused.parts)
        yield Rows(path=path, parts=parts or (Run(rows=linear_at(model, path).out_features // units),))


def _run(module: nn.Module, part: Part) -> Run:
    repeats = _product(module, (part.repeats,)) if part.repeats else 1
    return Run(rows=repeats * _product(module, part.rows), shared=part.shared, repeats=repeats)


def _product(module: nn.Module, attributes: tuple[str, ...]) -> int:
    return math.prod(int(number_of(module, attribute)) for attribute in attributes)


def number_of(module: Any, attribute: str) -> Any:
    """What an attribute of a module is, or of its configuration: ``config.num_key_value_heads``."""
    if hasattr(module, attribute):  # an empty sublayer has them under the whole of their names
        return getattr(module, attribute)
    return functools.reduce(getattr, attribute.split("."), module)


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
            f"none; '{parent or 'the model'}' holds {', '.join(found) or 'nothing'}.{_hidden(model, path)}"
        ) from error


def _hidden(model: nn.Module, path: str) -> str:
    """What to say where there is something at a path that torch knows nothing of."""
    try:
        value = functools.reduce(getattr, path.split("."), model)
    except AttributeError:
        return ""
    return (
        f" There is a {type(value).__name__} of that name, which torch does not look into; it has to be a ModuleList."
    )
