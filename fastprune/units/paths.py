"""Paths of modules, and attributes of modules and configurations."""

from __future__ import annotations

import functools
import math
from typing import Any

from torch import nn

from fastprune.errors import ModelError
from fastprune.units.architecture import Architecture, Conditions


def base_prefix(model: nn.Module) -> str:
    """Path of the base model inside the model, with a trailing dot; empty if the model is its own base model."""
    base = getattr(model, "base_model", model)
    path = next((name for name, module in model.named_modules() if module is base), "")
    return f"{path}." if path else ""


def absolute(layer: str, path: str) -> str:
    """Absolute form of a block's path in a layer: a leading slash marks absolute paths, an empty path is the layer itself."""
    if path.startswith("/"):
        return path[1:]
    return f"{layer}.{path}" if layer and path else layer or path


def conditions_hold(conditions: Conditions, config: Any) -> bool:
    """Whether the configuration has these values; missing attributes count as False."""
    return all((config_value(config, name) or False) == value for name, value in conditions)


def config_value(config: Any, path: str) -> Any:
    """Value at a dotted path of a configuration; None if there is none."""
    for name in path.split("."):
        config = getattr(config, name, None)
    return config


def product_of(module: nn.Module, attributes: tuple[str, ...]) -> int:
    """Product of attributes of a module or of its configuration; 1 without attributes."""
    return math.prod(int(number_of(module, attribute)) for attribute in attributes)


def number_of(module: Any, attribute: str) -> Any:
    """Value of an attribute of a module, or of its configuration: ``config.num_key_value_heads``."""
    if hasattr(module, attribute):  # empty sublayers store them under the dotted name
        return getattr(module, attribute)
    return functools.reduce(getattr, attribute.split("."), module)


def submodule(architecture: Architecture, model: nn.Module, path: str) -> nn.Module:
    """The module at a path.

    Raises:
        ModelError: There is no such module; the message lists the modules at the nearest existing path.
    """
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
            f"none; '{parent or 'the model'}' holds {', '.join(found) or 'nothing'}.{hidden_of(model, path)}"
        ) from error


def hidden_of(model: nn.Module, path: str) -> str:
    """Addition to an error message if the path leads to a Python object that is not registered as a module; else empty."""
    try:
        value = functools.reduce(getattr, path.split("."), model)
    except AttributeError:
        return ""
    return (
        f" There is a {type(value).__name__} of that name, which torch does not look into; it has to be a ModuleList."
    )
