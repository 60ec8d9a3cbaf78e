"""Resolution of an architecture on a model: paths checked, sizes read, cuts built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from fastprune.errors import ModelError
from fastprune.modeling import BiasOnly, has_module
from fastprune.units.architecture import Architecture, Block, Part, Producer, Stack
from fastprune.units.cuts import Cut, Positions, Section
from fastprune.units.experts import is_fused
from fastprune.units.groups import Group, Groups
from fastprune.units.linears import linear_at, stored_dimension
from fastprune.units.paths import absolute, base_prefix, conditions_hold, config_value, product_of, submodule
from fastprune.units.skipped import SkippedLayer


def resolve_groups(architecture: Architecture, model: nn.Module) -> Groups:
    """Find an architecture's groups in a model.

    Raises:
        ModelError: A path does not exist, or a width is not a multiple of the number of units.
    """
    prefix = base_prefix(model)
    groups = [group for stack in architecture.stacks for group in _resolve_stack(architecture, stack, model, prefix)]
    if not groups:
        raise ModelError(
            f"The architecture '{architecture.name}' found no layer in this {type(model).__name__}: there is nothing at "
            f"{', '.join(repr(prefix + stack.layers) for stack in architecture.stacks)}. Does the class hide its layers?"
        )
    _check_apart(groups, model)
    return Groups(tuple(groups))


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A layer of a model, to resolve an architecture's blocks on.

    Attributes:
        architecture: The architecture.
        stack: The layer's stack.
        model: The model.
        prefix: Path of the base model, with a trailing dot.
        path: The layer's path, relative to the base model.
    """

    architecture: Architecture
    stack: Stack
    model: nn.Module
    prefix: str
    path: str

    @property
    def absolute(self) -> str:
        return self.prefix + self.path

    def at(self, path: str) -> str:
        """Absolute form of a block's path; an empty path is the layer itself."""
        return absolute(self.absolute, path)

    def module(self, path: str) -> nn.Module:
        """The module at a block's path; raises ModelError if there is none."""
        return submodule(self.architecture, self.model, self.at(path))


def layer_lists(model: nn.Module, stack: Stack) -> list[str]:
    """Absolute paths of a stack's lists of layers; empty if the model has none."""
    prefix = base_prefix(model)
    return [prefix + path for path in _lists(model, prefix, stack.layers)]


def _resolve_stack(architecture: Architecture, stack: Stack, model: nn.Module, prefix: str) -> Iterator[Group]:
    lists = _lists(model, prefix, stack.layers)
    if not lists and not stack.optional:
        submodule(architecture, model, prefix + stack.layers.partition(".*")[0])
    for path in lists:
        layers = model.get_submodule(prefix + path)
        if not isinstance(layers, nn.ModuleList):
            raise ModelError(
                f"The architecture '{architecture.name}' expects a list of layers at '{prefix}{path}', "
                f"but this {type(model).__name__} has a {type(layers).__name__} there."
            )
        blocks = [block for block in stack.blocks if conditions_hold(block.when, getattr(model, "config", None))]
        for index in range(len(layers)):
            if isinstance(layers[index], SkippedLayer):
                continue
            layer = _Layer(architecture=architecture, stack=stack, model=model, prefix=prefix, path=f"{path}.{index}")
            for block in blocks:
                for name, each in _each(layer, _placed(block, prefix, index)):
                    yield _resolve_block(layer, each, name)


def _each(layer: _Layer, block: Block) -> Iterator[tuple[str, Block]]:
    """The block's group names in this layer with their blocks: one, or one per index for paths with ``*``; nothing for a missing
    optional block."""
    name = block.name or block.kind
    before, star, _ = block.module.partition(".*")
    if block.optional and not has_module(layer.model, layer.at(before if star else block.consumer)):
        return
    if not star:
        yield name, block
        return
    several = layer.module(before)
    if is_fused(several):
        raise ModelError(
            f"The architecture '{layer.architecture.name}' expects a module for each expert in '{layer.at(before)}', but this "
            f"{type(layer.model).__name__} has one {type(several).__name__} for all of them. Use what "
            "fastprune.unfuse_experts(model) returns."
        )
    for index, _ in several.named_children():
        yield f"{name}.{index}", at_index(block, index)


def at_index(block: Block, index: str) -> Block:
    """The block with ``*`` replaced by an index."""
    return _with_paths(block, lambda path: path.replace("*", index))


def _placed(block: Block, prefix: str, index: int) -> Block:
    """The block for one layer, with paths relative to the base model made absolute."""
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


def _lists(model: nn.Module, prefix: str, pattern: str) -> list[str]:
    """Paths of the lists of layers that match a pattern, where ``*`` is any index, in order; empty if there are none."""
    start, star, rest = pattern.partition(".*.")
    if not star:
        return [pattern] if has_module(model, prefix + pattern) else []
    if not has_module(model, prefix + start):
        return []
    indices = [name for name, _ in model.get_submodule(prefix + start).named_children()]
    return [path for index in indices for path in _lists(model, prefix, f"{start}.{index}.{rest}")]


def _resolve_block(layer: _Layer, block: Block, name: str) -> Group:
    layer.module(block.module)
    consumer: Any = layer.module(block.consumer)
    if not isinstance(consumer, BiasOnly):
        consumer = linear_at(layer.model, layer.at(block.consumer))
    layer.module(block.residual)
    try:
        columns = _columns(layer, block, int(consumer.in_features))
        rows = dict(_rows(layer, block, columns.units)) if columns.units else {}
        cuts = tuple(_cuts(layer, block, columns, rows)) if columns.units else ()
    except AttributeError as error:
        raise ModelError(
            f"The architecture '{layer.architecture.name}' does not fit '{layer.absolute}' of this "
            f"{type(layer.model).__name__}: {error}."
        ) from error
    return Group(
        name=f"{layer.path}.{name}",
        units=columns.units,
        block=block,
        cuts=cuts,
        layer=layer.absolute,
        width=columns.per_unit,
        hidden=int(consumer.out_features),
        producers=tuple(rows),
        stack=layer.stack,
        convolutions=_convolutions(layer.stack, getattr(layer.model, "config", None)),
    )


def _columns(layer: _Layer, block: Block, features: int) -> Positions:
    """The units' positions among the consumer's input features."""
    module = layer.module(block.module)
    if block.units:
        units = int(getattr(module, block.units))
        width = features // units if units else 0
    else:
        width = product_of(module, block.unit_width)
        units = features // width if width > 0 else 0
    repeats = product_of(module, (block.repeats,)) if block.repeats else 1
    if features and (width <= 0 or units * width != features or width % repeats):
        raise ModelError(
            f"The units of '{layer.at(block.module)}' do not divide its width: {features} consumer features, {width} a "
            f"unit{f', {repeats} times round' if repeats > 1 else ''}. Check 'unit_width' of the architecture "
            f"'{layer.architecture.name}'."
        )
    return Positions(units=units, sections=(Section(positions=width, repeats=repeats),))


def _rows(layer: _Layer, block: Block, units: int) -> Iterator[tuple[str, Positions]]:
    """The path of each existing producer, and the units' positions among its rows."""
    module = layer.module(block.module)
    for producer in block.producers:
        fused = Producer(linear=producer) if isinstance(producer, str) else producer
        path = layer.at(fused.linear)
        if fused.optional and not has_module(layer.model, path):
            continue
        layer.module(fused.linear)
        even = Section(positions=linear_at(layer.model, path).out_features // units)
        yield path, Positions(units=units, sections=tuple(_section(module, part) for part in fused.parts) or (even,))


def _section(module: nn.Module, part: Part) -> Section:
    repeats = product_of(module, (part.repeats,)) if part.repeats else 1
    return Section(positions=repeats * product_of(module, part.rows), repeats=repeats, shared=part.shared)


def _cuts(layer: _Layer, block: Block, columns: Positions, rows: Mapping[str, Positions]) -> Iterator[Cut]:
    """The units' parameters: columns of the consumer, rows of the producers, columns of tables, slices of a bias."""
    yield _weight_cut(layer, layer.at(block.consumer), 1, columns)
    for path, positions in rows.items():
        _check_rows(layer, block, columns, path, positions)
        if positions.per_unit:
            yield _weight_cut(layer, path, 0, positions)
            if linear_at(layer.model, path).bias is not None:
                yield Cut(parameter=f"{path}.bias", dimension=0, positions=positions)
    units = Positions(units=columns.units)
    for table in block.tables:
        shape = layer.model.get_parameter(layer.at(table)).shape
        if shape[-1] != columns.units:
            raise ModelError(
                f"The table '{layer.at(table)}' has {shape[-1]} columns for {columns.units} units of '{block.module}'. Check "
                f"'tables' of the architecture '{layer.architecture.name}'."
            )
        yield Cut(parameter=layer.at(table), dimension=len(shape) - 1, positions=units)
    if block.bias is not None and hasattr(layer.module(block.module), "kept_units"):  # units were removed before
        yield Cut(parameter=f"{layer.at(block.module)}.kept_units", dimension=0, positions=units)


def _weight_cut(layer: _Layer, path: str, dimension: int, positions: Positions) -> Cut:
    """Cut of the outputs (dimension 0) or inputs (1) of a linear."""
    stored = stored_dimension(layer.model.get_submodule(path), dimension)
    return Cut(parameter=f"{path}.weight", dimension=stored, positions=positions)


def _check_rows(layer: _Layer, block: Block, columns: Positions, path: str, rows: Positions) -> None:
    """Check that the units' rows and the shared rows add up to all rows of a producer."""
    found = linear_at(layer.model, path).out_features
    if rows.length != found:
        raise ModelError(
            f"The units of '{layer.at(block.module)}' do not divide its rows: {columns.length} consumer features, "
            f"{columns.per_unit} a unit, {found} rows in '{path}', of which {rows.units} units would own {rows.per_unit} each "
            f"and share {len(rows.shared)}. Check 'unit_width' and 'parts' of the architecture '{layer.architecture.name}'."
        )


def _convolutions(stack: Stack, config: Any) -> tuple[tuple[int, int], ...]:
    """Kernel and stride of each convolution, from the configuration."""
    if not stack.convolutions:
        return ()
    kernels, strides = (config_value(config, name) or () for name in stack.convolutions)
    return tuple((int(kernel), int(stride)) for kernel, stride in zip(kernels, strides, strict=True))


def _check_apart(groups: list[Group], model: nn.Module) -> None:
    """Raise ``ModelError`` if a parameter has two owners: groups, or modules of one."""
    owners: dict[int, tuple[Group, Cut]] = {}
    for group in groups:
        for cut in group.cuts:
            other, theirs = owners.setdefault(id(cut.tensor(model)), (group, cut))
            if other is not group or theirs.parameter != cut.parameter:
                raise ModelError(
                    f"'{theirs.parameter}' of the group '{other.name}' and '{cut.parameter}' of '{group.name}' are one parameter. "
                    "Units cannot be removed from one alone; give each module a parameter of its own."
                )
