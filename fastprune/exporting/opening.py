"""Exported models, opened in the runtime of their format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from fastprune.errors import ModelError, UsageError
from fastprune.files import user_path
from fastprune.models.pretrained import Pretrained, open_around
from fastprune.registry import loading
from fastprune.strategies.export_formats import ExportedModel, ExportFormat


class ExportedModule(nn.Module):
    """An exported model as a module on the CPU, called by ``evaluate`` and ``fidelity`` as the PyTorch model is.

    Args:
        exported: The model in its runtime.
        config: The model's configuration.
    """

    def __init__(self, exported: ExportedModel, config: Any) -> None:
        super().__init__()
        self.exported = exported
        self.config = config
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # a model's device is that of a parameter

    def forward(self, **inputs: Tensor) -> ModelOutput:
        """The outputs by name, for the inputs by name: [samples, ...] each."""
        return ModelOutput(self.exported(**inputs))


def format_of(directory: str | Path) -> ExportFormat | None:
    """The registered format that a directory is written in; of several the one that needs the most files. None: none."""
    registry = loading.installed().format
    fitting = [registry[name] for name in registry if registry[name].found_in(user_path(directory))]
    return max(fitting, key=lambda each: len(each.files))() if fitting else None


def run_exported(directory: str | Path, *, threads: int | None = None) -> ExportedModel:
    """The exported model of a directory, in the runtime of its format.

    Args:
        directory: What ``export`` wrote.
        threads: That one operation may use; None: the runtime's choice.

    Raises:
        ModelError: The directory holds no exported model, or a broken one.
        UsageError: Nothing in Python runs the format, or its runtime is not installed.
    """
    chosen = format_of(directory)
    if chosen is None:
        registry = loading.installed().format
        raise ModelError(f"{directory} holds no exported model; known formats: {', '.join(registry)}.")
    exported = chosen.open(user_path(directory), threads=threads)
    if exported is None:
        raise UsageError(f"{directory} is written in '{chosen.name}', which nothing in Python runs.")
    return exported


def open_exported(directory: str | Path, *, threads: int | None = None) -> Pretrained:
    """Open what ``export`` wrote, with its tokenizer and task, to evaluate it.

    Args:
        directory: With the model's configuration in it.
        threads: That one operation may use; None: the runtime's choice.

    Returns:
        As ``open_pretrained``; the model takes and gives what the PyTorch model does, and has no weights to prune.

    Raises:
        ModelError: The directory holds no exported model, a broken one, or no configuration.
        UsageError: Nothing in Python runs the format, or its runtime is not installed.
    """
    exported = run_exported(directory, threads=threads)
    return open_around(directory, lambda config: ExportedModule(exported, config))
