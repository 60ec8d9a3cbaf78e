"""Architectures as plain data: read from TOML and manifests, written as TOML."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from fastprune.errors import UsageError
from fastprune.units.architecture import Architecture


def read_architecture(path: str | Path) -> Architecture:
    """Read an architecture from a TOML file with the fields of the dataclasses in ``fastprune.architecture``.

    Raises:
        UsageError: The file cannot be read, is not TOML, or a field is unknown, missing or of the wrong type.
    """
    try:
        data = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The architecture {path} cannot be read: {error}.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"The architecture {path} is not TOML: {error}.") from error
    return architecture_of(data, str(path))


def architecture_of(data: Mapping[str, Any], source: str) -> Architecture:
    """Build an architecture from plain data: mappings, lists, strings and numbers.

    Args:
        data: The fields; fields with defaults may be missing.
        source: Origin of the data, for messages.

    Raises:
        UsageError: A field is unknown, missing or of the wrong type.
    """
    found: Architecture = _build(Architecture, data, source)
    return found


def to_toml(architecture: Architecture) -> str:
    """The architecture as TOML for ``read_architecture``, without fields that have their default value."""
    lines = [f"{name} = {_inline(value)}" for name, value in _said(architecture) if name != "stacks"]
    for stack in architecture.stacks:
        lines += ["", "[[stacks]]"]
        lines += [f"{name} = {_inline(value)}" for name, value in _said(stack) if name != "blocks"]
        for block in stack.blocks:
            lines += ["", "[[stacks.blocks]]"]
            lines += [f"{name} = {_inline(value)}" for name, value in _said(block)]
    return "\n".join(lines) + "\n"


def _said(instance: Any) -> list[tuple[str, Any]]:
    """The fields whose values differ from their defaults."""
    fields = [(field, getattr(instance, field.name)) for field in dataclasses.fields(instance)]
    return [(field.name, value) for field, value in fields if value != field.default]


def _inline(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return "{ " + ", ".join(f"{name} = {_inline(each)}" for name, each in _said(value)) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(_inline(each) for each in value) + "]"
    return json.dumps(value)  # JSON's strings, numbers and booleans are TOML's


def _build(kind: type[Any], data: Any, where: str) -> Any:
    """Build a dataclass from a mapping of its fields."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{where} must be a table with the fields of {kind.__name__}; got {data!r}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in data:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(fields)}."
            raise UsageError(f"{where} has a field '{name}', which {kind.__name__} has not; {hint}")
    missing = [name for name, field in fields.items() if name not in data and field.default is dataclasses.MISSING]
    if missing:
        raise UsageError(f"{where} lacks {', '.join(missing)}, which {kind.__name__} needs.")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{name} in {where}") for name, value in data.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    """Convert plain data to a value of an annotated type."""
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where)  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        return _sequence(get_args(kind), value, where)
    if get_origin(kind) in (Union, types.UnionType):
        for each in get_args(kind):
            if isinstance(each, type) and not dataclasses.is_dataclass(each) and isinstance(value, each):
                return value
        return _value(next(each for each in get_args(kind) if dataclasses.is_dataclass(each)), value, where)
    if kind is object or type(value) is kind:
        return value
    raise UsageError(f"{where} must be of the type {kind.__name__}; got {value!r}.")


def _sequence(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"{where} must be a list; got {value!r}.")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise UsageError(f"{where} must be a list of {len(kinds)}; got {value!r}.")
    return tuple(_value(kind, each, where) for kind, each in zip(kinds, value, strict=True))
