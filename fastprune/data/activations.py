"""Activation functions by the names that model configurations give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules import activation

from fastprune.errors import ModelError

PLACES = ("torch.nn", "torch.nn.modules.activation", "torch.nn.modules.linear")


def activation_named(path: str) -> nn.Module:
    """The activation function of a name such as ``torch.nn.modules.activation.Sigmoid``.

    Only functions of torch without options are accepted, so that a configuration from elsewhere runs no other code.

    Raises:
        ModelError: It is no such function.
    """
    place, _, name = path.rpartition(".")
    kind: Any = getattr(activation, name, nn.Identity if name == "Identity" else None)
    if place not in PLACES or not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ModelError(f"The activation function '{path}' is none of torch.nn's, such as torch.nn.Sigmoid.")
    try:
        module: nn.Module = kind(dim=-1) if name in ("Softmax", "LogSoftmax", "Softmin") else kind()
    except TypeError as error:  # it has options that nothing tells
        raise ModelError(f"The activation function '{path}' cannot be used without options: {error}.") from error
    return module


def stored_activation(config: Mapping[str, Any]) -> str | None:
    """The name of the activation that a CrossEncoder left in its model's configuration; None if there is none."""
    stored = (config.get("sentence_transformers") or {}).get("activation_fn")
    name = stored or config.get("sbert_ce_default_activation_function")
    return None if name is None else str(name)
