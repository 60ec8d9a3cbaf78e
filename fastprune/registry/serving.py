"""Lookup of the registered task and architecture of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from torch import nn

from fastprune.data.tasks import Task
from fastprune.errors import ModelError
from fastprune.files import check_read, user_path
from fastprune.registry.loading import installed
from fastprune.registry.names import Registry
from fastprune.units.architecture import Architecture
from fastprune.units.mixtures import Mixture
from fastprune.units.toml import architecture_of, read_architecture

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def task_for(config: PretrainedConfig, model_class: type[nn.Module]) -> Task:
    """The registered task for a model with this configuration and class.

    Raises:
        ModelError: There is no task for the class.
    """
    registry = installed().task
    # a class with code of its own also serves under the name of its Auto class, such as AutoModelForTokenClassification
    for name in (model_class.__name__, getattr(model_class, "_auto_class", None) or ""):
        for task in (registry[each] for each in registry):
            if name and task.serves(config, name):
                return task.for_config(config)
    raise ModelError(
        f"There is no task for the model class {model_class.__name__}; known tasks: {', '.join(registry)}. "
        "Open the model with another head, or register a task in a plugin."
    )


def named_architecture(source: Architecture | str | Path) -> Architecture:
    """An architecture as it is, from a TOML file, or of a family by its name.

    Raises:
        UnknownNameError: No family has the name.
        UsageError: The file does not exist, or is no architecture.
    """
    if isinstance(source, Architecture):
        return source
    if user_path(source).suffix or user_path(source).is_file():
        check_read(source)
        return read_architecture(source)
    return installed().architecture[str(source)]


def architecture_for(model: nn.Module) -> Architecture:
    """The architecture of a model: what it was pruned with, or by ``config.model_type``.

    Raises:
        ModelError: There is none.
    """
    config: Any = getattr(model, "config", None)
    pruned: Any = getattr(config, "fastprune", None)
    if pruned and "architecture" in pruned:
        return architecture_of(pruned["architecture"], f"the configuration of the {type(model).__name__}")
    model_type = getattr(config, "model_type", None)
    known = _by_model_type(installed().architecture)
    if model_type in known:
        return known[model_type]
    raise ModelError(
        f"No architecture is known for the model type '{model_type}' ({type(model).__name__}). Known: {', '.join(sorted(known))}. "
        "Give one: --architecture, or architecture= in Python, with a TOML file (fastprune inspect --draft prints one) or a "
        "family by name; or register it in a plugin (docs/plugins.md)."
    )


def mixture_for(model: nn.Module) -> Mixture:
    """The family of a mixture of experts, by the ``model_type`` of its (text) configuration.

    Raises:
        ModelError: There is none.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    model_type = getattr(text, "model_type", None)
    known = _by_model_type(installed().mixture)
    if model_type in known:
        return known[model_type]
    raise ModelError(
        f"No mixture of experts is known for the model type '{model_type}' ({type(model).__name__}), so it has no experts to "
        f"remove. Known: {', '.join(sorted(known))}."
    )


class _OfModelTypes(Protocol):
    @property
    def model_types(self) -> tuple[str, ...]: ...


F = TypeVar("F", bound=_OfModelTypes)


def _by_model_type(registry: Registry[F]) -> dict[str, F]:
    """The registered families by ``model_type``; of several the one that was registered first."""
    found: dict[str, F] = {}
    for family in (registry[name] for name in registry):
        for model_type in family.model_types:
            found.setdefault(model_type, family)
    return found
