"""Removed layers: placeholders that keep the other layers' places while a model is pruned."""

from __future__ import annotations

from typing import Any

from torch import nn


class SkippedLayer(nn.Module):
    """Placeholder for a removed layer: it returns its input.

    Layers behind it keep their paths, which are those of the dense model, until the finished model loses it. It returns what the
    layer returned: hidden states, or a tuple with them.
    """

    def __init__(self, layer: nn.Module, *, values: int) -> None:
        """Set the layer, whose attributes the model may read, and the number of values of its tuple (0: it returns a tensor)."""
        super().__init__()
        self.values = values
        for name, value in vars(layer).items():
            if not name.startswith("_") and isinstance(value, (int, float, str, type(None))):
                setattr(self, name, value)
        self.train(layer.training)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        hidden = arguments[0] if arguments else next(iter(keywords.values()))
        return (hidden, *[None] * (self.values - 1)) if self.values else hidden


def same_list(one: str, other: str) -> bool:
    """Whether two paths are those of layers of one list."""
    return one.rpartition(".")[0] == other.rpartition(".")[0]


def skipped_after(model: nn.Module, path: str) -> list[str]:
    """Paths of the removed layers directly behind a layer, in its list."""
    parent, _, index = path.rpartition(".")
    found: list[str] = []
    layers = model.get_submodule(parent) if parent and index.isdecimal() else None
    if isinstance(layers, nn.ModuleList):
        for place in range(int(index) + 1, len(layers)):
            if not isinstance(layers[place], SkippedLayer):
                break
            found.append(f"{parent}.{place}")
    return found
