"""Lists of units in generation settings, such as Whisper's alignment heads, which follow the units that are kept."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastprune.units.groups import Groups
from fastprune.units.masks import Mask


def follow_units(model: nn.Module, groups: Groups, mask: Mask) -> None:
    """Renumber the units that a model's generation settings list by layer and unit, and drop the pruned ones, in place.

    A setting without a unit left is deleted, so that transformers refuses what needs it.

    Args:
        model: The pruned model.
        groups: The groups before pruning; ``Block.listed`` names the setting.
        mask: The units that were kept.
    """
    settings: Any = getattr(model, "generation_config", None)
    places: dict[str, dict[tuple[int, int], list[int]]] = {}
    for group in groups:
        if group.block.listed:
            layer = int(group.layer.rpartition(".")[2])
            new = {(layer, unit): [layer, place] for place, unit in enumerate(mask.kept(group.name).tolist())}
            places.setdefault(group.block.listed, {}).update(new)
    for name, of_unit in places.items():
        pairs = getattr(settings, name, None)
        if pairs:
            left = [of_unit[layer, unit] for layer, unit in pairs if (layer, unit) in of_unit]
            setattr(settings, name, left)
            if not left:
                delattr(settings, name)
