"""Opening of exported models in the runtime of their format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from fastprune.errors import ModelError, UsageError
from fastprune.files import user_path
from fastprune.models.pretrained import WEIGHTS, Pretrained, open_around
from fastprune.registry import loading
from fastprune.strategies.export_formats import ExportedModel, ExportFormat


class ExportedModule(nn.Module):
    """An exported model as a module on the CPU, for ``evaluate`` and ``fidelity``, which call it like the PyTorch model.

    Args:
        exported: The model in its runtime.
        config: The model's configuration.
    """

    def __init__(self, exported: ExportedModel, config: Any) -> None:
        super().__init__()
        self.exported = exported
        self.config = config
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # marks the model's device: the CPU

    def forward(self, **inputs: Tensor) -> ModelOutput:
        """The outputs by name for inputs by name, each [samples, ...]; without boxes of words they are 0, as in PyTorch."""
        if "bbox" in self.exported.inputs and "bbox" not in inputs:
            inputs["bbox"] = inputs["input_ids"].new_zeros(*inputs["input_ids"].shape, 4)
        return ModelOutput(self.exported(**inputs))


def format_of(directory: str | Path) -> ExportFormat | None:
    """The registered format of a directory; of several matching formats the one with the most files.

    None if no format matches, and for a directory with the weights of a PyTorch model beside the exported files: it is opened
    as that model.
    """
    registry, place = loading.installed().format, user_path(directory)
    if any(next(place.glob(pattern), None) for pattern in WEIGHTS):
        return None
    fitting = [registry[name] for name in registry if registry[name].found_in(place)]
    return max(fitting, key=lambda each: len(each.files))() if fitting else None


def run_exported(directory: str | Path, *, threads: int | None = None) -> ExportedModel:
    """Open the exported model of a directory in the runtime of its format.

    Args:
        directory: A directory that ``export`` wrote.
        threads: Maximum number of threads per operation; None: the runtime's choice.

    Raises:
        ModelError: The directory has no exported model, or a broken one.
        UsageError: No Python runtime supports the format, or the runtime is not installed.
    """
    chosen = format_of(directory)
    if chosen is None:
        registry = loading.installed().format
        raise ModelError(f"{directory} holds no exported model; known formats: {', '.join(registry)}.")
    exported = chosen.open(user_path(directory), threads=threads)
    if exported is None:
        raise UsageError(f"{directory} is written in '{chosen.name}', which nothing in Python runs.")
    return exported


def open_exported(directory: str | Path, *, threads: int | None = None, trust_remote_code: bool = False) -> Pretrained:
    """Open a directory that ``export`` wrote, with its tokenizer and task, to evaluate the model.

    Args:
        directory: The directory, with the model's configuration.
        threads: Maximum number of threads per operation; None: the runtime's choice.
        trust_remote_code: As for ``open_pretrained``.

    Returns:
        The same as ``open_pretrained``; the model has the PyTorch model's inputs and outputs, but no weights to prune.

    Raises:
        ModelError: The directory has no exported model, a broken one, or no configuration.
        UsageError: No Python runtime supports the format, or the runtime is not installed.
    """
    exported = run_exported(directory, threads=threads)
    return open_around(directory, lambda config: ExportedModule(exported, config), trust_remote_code=trust_remote_code)
