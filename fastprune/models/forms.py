"""The forms in which public functions take a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from fastprune.errors import ModelError
from fastprune.models.precision import check_runs
from fastprune.models.pretrained import Pretrained, open_pretrained
from fastprune.registry.serving import task_for


@runtime_checkable
class HasPretrained(Protocol):
    """Something with an opened model in it, such as a ``PruningResult``."""

    def pretrained(self) -> Pretrained:
        """The model as ``open_pretrained`` returns it."""


AnyModel = nn.Module | Pretrained | HasPretrained | str | Path
"""A transformers model, the result of ``open_pretrained`` or ``prune``, a directory, or a Hub name."""


def open_any(model: AnyModel) -> tuple[nn.Module, Pretrained | None]:
    """The module of a model in any form, and what was opened with it; None for a module alone.

    Raises:
        ModelError: The model cannot be opened, is of another type, or does not run with the several types of its weights.
    """
    if isinstance(model, nn.Module):
        check_runs(model)
        return model, None
    opened: Any = open_pretrained(model) if isinstance(model, (str, Path)) else model
    if not isinstance(opened, Pretrained) and isinstance(opened, HasPretrained):
        opened = opened.pretrained()
    if not isinstance(opened, Pretrained):
        raise ModelError(
            f"A model is a transformers model, the result of open_pretrained or prune, a directory or a Hub name; got "
            f"{type(model).__name__}."
        )
    check_runs(opened.model)
    return opened.model, opened


def module_of(model: AnyModel) -> nn.Module:
    """The module of a model in any form."""
    return open_any(model)[0]


def pretrained_of(model: AnyModel) -> Pretrained:
    """A model in any form with its task; a module alone has no tokenizer.

    Raises:
        ModelError: The model cannot be opened, or there is no task for its class.
    """
    module, opened = open_any(model)
    if opened is not None:
        return opened
    config: Any = getattr(module, "config", None)
    if config is None:
        raise ModelError(f"A {type(module).__name__} has no config, so its task is unknown.")
    source = str(getattr(config, "_name_or_path", "") or type(module).__name__)
    return Pretrained(model=module, tokenizer=None, task=task_for(config, type(module)), source=source)
