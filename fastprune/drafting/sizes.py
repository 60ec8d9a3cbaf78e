"""Sizes: which attributes of a module say how wide its units are and how many."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

from torch import nn

from fastprune.units.architecture import Block, Part, Producer


def with_sizes(
    model: nn.Module, layers: list[str], block: Block, units: int, width: int, runs: Mapping[str, list[int] | None]
) -> Iterator[Block]:
    """The block with every choice of attributes that fits the numbers, the most telling names first."""
    modules = [model.get_submodule(f"{layer}.{block.module}") for layer in layers]
    sizes = {
        name: value
        for name, value in vars(modules[0]).items()
        if type(value) is int and value > 0 and all(vars(other).get(name) == value for other in modules)
    }
    for names in _products(sizes, width):
        named = {name: sizes[name] for name in names} | sizes
        producers = [_producer(path, parts or [], named) for path, parts in runs.items()]
        if None not in producers:
            for counts in _counts(model, modules[0], sizes, names, units):
                said = tuple(each for each in producers if each is not None)
                yield dataclasses.replace(block, producers=said, unit_width=names, counts=counts)


def _producer(path: str, parts: list[int], sizes: Mapping[str, int]) -> str | Producer | None:
    """A producer with so many rows a unit in each part; None where no attributes say how many."""
    if len(parts) == 1:
        return path
    rows = [next(_products(sizes, run), None) for run in parts]
    return None if None in rows else Producer(linear=path, parts=tuple(Part(rows=each or ()) for each in rows))


def _products(sizes: Mapping[str, int], number: int) -> Iterator[tuple[str, ...]]:
    """The attributes, one or two, whose product is a number; those named for the size of a head first."""
    if number == 1:
        yield ()
        return
    ones = [(name,) for name, value in sizes.items() if value == number]
    twos = [
        (one, other)
        for one, other in itertools.combinations(sizes, 2)
        if sizes[one] * sizes[other] == number and 1 not in (sizes[one], sizes[other])
    ]
    yield from sorted(ones, key=_untelling)
    yield from sorted(twos, key=_untelling)


def _untelling(names: tuple[str, ...]) -> int:
    """How little the names say that they are the size of a head."""
    size = any(word in name for name in names for word in ("size", "dim", "width"))
    head = any(word in name for name in names for word in ("head", "group"))
    whole = any(word in name for name in names for word in ("num", "hidden", "embed", "all", "count"))
    return -2 * size * head - head + whole


def _counts(
    model: nn.Module, module: nn.Module, sizes: Mapping[str, int], widths: tuple[str, ...], units: int
) -> Iterator[tuple[str, ...]]:
    """Choices of the attributes that shrink with the units: those that most likely do, then others of fitting numbers."""
    fit = [name for name, value in sizes.items() if value % units == 0 and name not in widths]
    likely = [name for name in fit if sizes[name] == units or "head" in name]
    own = getattr(module, "config", None)
    of_config = (
        [
            f"config.{name}"
            for name, value in vars(own).items()
            if type(value) is int and value > 0 and value % units == 0 and "head" in name
        ]
        if own is not None
        else []
    )
    given = set[tuple[str, ...]]()
    others = [name for name in fit if name not in likely][:4]
    for extra in ([], of_config[:2]):
        pool = [*others, *extra]
        for many in range(len(pool) + 1):
            for more in itertools.combinations(pool, many):
                for base in (likely, []):
                    choice = tuple(name for name in (*fit, *extra) if name in base or name in more)
                    if choice not in given:
                        given.add(choice)
                        yield choice
