"""An architecture resolved on a model: every path checked, every size read off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from fastprune.errors import ModelError
from fastprune.modeling import BiasOnly, has_module
from fastprune.units.architecture import Architecture, Block, Part, Producer, Stack
from fastprune.units.experts import is_fused
from fastprune.units.groups import Group, Groups
from fastprune.units.linears import linear_at
from fastprune.units.paths import absolute, base_prefix, conditions_hold, config_value, product_of, submodule
from fastprune.units.rows import Rows, Run


def resolve_groups(architecture: Architecture, model: nn.Module) -> Groups:
    """Find an architecture's groups in a model.

    Raises:
        ModelError: A path leads nowhere, or a width is not divided by the units.
    """
    prefix = base_prefix(model)
    groups = [group for stack in architecture.stacks for group in _resolve_stack(architecture, stack, model, prefix)]
    if not groups:
        raise ModelError(
            f"The architecture '{architecture.name}' found no layer in this {type(model).__name__}: there is nothing at "
            f"{', '.join(repr(prefix + stack.layers) for stack in architecture.stacks)}. Does the class hide its layers?"
        )
    return Groups(tuple(groups))


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
            for block in blocks:
                placed = _placed(block, prefix, index)
                for name, each in _each(architecture, placed, model, f"{prefix}{path}.{index}"):
                    yield _resolve_block(architecture, stack, each, model, prefix, f"{path}.{index}", name)


def _each(architecture: Architecture, block: Block, model: nn.Module, layer: str) -> Iterator[tuple[str, Block]]:
    """A block by the name of its group in this layer: itself, or one for each index that ``*`` stands for; none where it is
    optional and not there."""
    name = block.name or block.kind
    before, star, _ = block.module.partition(".*")
    if block.optional and not has_module(model, absolute(layer, before if star else block.consumer)):
        return
    if not star:
        yield name, block
        return
    several = submodule(architecture, model, absolute(layer, before))
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


def _lists(model: nn.Module, prefix: str, pattern: str) -> list[str]:
    """The paths of lists of layers that fit a pattern with ``*`` for any index, in order; none where there are none."""
    start, star, rest = pattern.partition(".*.")
    if not star:
        return [pattern] if has_module(model, prefix + pattern) else []
    if not has_module(model, prefix + start):
        return []
    indices = [name for name, _ in model.get_submodule(prefix + start).named_children()]
    return [path for index in indices for path in _lists(model, prefix, f"{start}.{index}.{rest}")]


def _resolve_block(
    architecture: Architecture, stack: Stack, block: Block, model: nn.Module, prefix: str, layer: str, name: str
) -> Group:
    where = f"'{prefix}{layer}' of this {type(model).__name__}"
    path = absolute(prefix + layer, block.module)
    module = submodule(architecture, model, path)
    consumer: Any = submodule(architecture, model, absolute(prefix + layer, block.consumer))
    if not isinstance(consumer, BiasOnly):
        consumer = linear_at(model, absolute(prefix + layer, block.consumer))
    submodule(architecture, model, absolute(prefix + layer, block.residual) if block.residual else prefix + layer)
    try:
        features, hidden = int(consumer.in_features), int(consumer.out_features)
        if block.units:
            units = int(getattr(module, block.units))
            width = features // units if units else 0
        else:
            width = product_of(module, block.unit_width)
            units = features // width if width > 0 else 0
        repeats = product_of(module, (block.repeats,)) if block.repeats else 1
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
    kernels, strides = (config_value(config, name) or () for name in stack.convolutions)
    return tuple((int(kernel), int(stride)) for kernel, stride in zip(kernels, strides, strict=True))


def _rows(
    architecture: Architecture, block: Block, model: nn.Module, module: nn.Module, layer: str, units: int
) -> Iterator[Rows]:
    """What each producer's rows are."""
    for producer in block.producers:
        fused = Producer(linear=producer) if isinstance(producer, str) else producer
        path = absolute(layer, fused.linear)
        if fused.optional and not has_module(model, path):
            continue
        submodule(architecture, model, path)
        parts = tuple(_run(module, part) for part in fused.parts)
        yield Rows(path=path, parts=parts or (Run(rows=linear_at(model, path).out_features // units),))


def _run(module: nn.Module, part: Part) -> Run:
    repeats = product_of(module, (part.repeats,)) if part.repeats else 1
    return Run(rows=repeats * product_of(module, part.rows), shared=part.shared, repeats=repeats)
