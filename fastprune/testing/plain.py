"""Check of the plain form: what the architecture says of the configuration is what the stock class builds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from fastprune.calibration.hooks import frozen
from fastprune.calibration.layer_calls import in_turn, layer_outputs
from fastprune.data.batches import Batches
from fastprune.models import checkpoint, portable
from fastprune.models.plain import PLAIN, accepts, make_plain, settings_for, sized
from fastprune.surgery.materialize import materialize
from fastprune.testing.comparing import all_outputs, largest_difference
from fastprune.units.architecture import Architecture
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask
from fastprune.units.resolve import layer_lists, resolve_groups


def check_plain_form(who: str, architecture: Architecture, model: Any, batches: Batches) -> None:
    """Half of the units of each sized group go, and the first layer of each list that can lose it; the stock class opens what is
    saved, without fastprune's code, and computes the same."""
    groups = resolve_groups(architecture, model)
    removable = removable_layers(model, architecture, batches)
    masks = {"fewer units": _mask(model, groups, ())}
    if removable:
        masks["fewer units and layers"] = _mask(model, groups, list(removable))
    for left, mask in masks.items():
        pruned = materialize(model, groups, mask, removable=removable).eval()
        with frozen(pruned), torch.no_grad():
            expected = all_outputs(pruned, batches)
        make_plain(pruned, architecture, groups)
        with tempfile.TemporaryDirectory() as folder, frozen(pruned), torch.no_grad():
            path = Path(folder) / "model"
            outputs = all_outputs(pruned, batches)
            difference = largest_difference(expected, outputs)
            assert difference < 1e-5, (
                f"The {who}: in the plain form with {left}, the outputs change by {difference:.3g}."
            )
            checkpoint.save(pruned, path, architecture=architecture, details={"form": PLAIN})
            loaded = portable.dense_class(pruned).from_pretrained(path).eval()
            pairs = zip(outputs, all_outputs(loaded, batches), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs), (
                f"The {who}: in the plain form with {left}, the stock {type(loaded).__name__} computes something else."
            )
            assert not list(path.glob("*.py")), f"The {who}: the plain form was saved with code."


def has_plain_form(architecture: Architecture, model: Any, groups: Groups) -> bool:
    """Whether the architecture says that the model's configuration has settings of its sizes."""
    return isinstance(model, PreTrainedModel) and (
        bool(sized(groups)) or any(stack.depth for stack in architecture.stacks)
    )


def removable_layers(model: Any, architecture: Architecture, batches: Batches) -> dict[str, int]:
    """The first layer of each list that can lose layers, the last where the first must stay, with the number of values that it
    returns."""
    found = {}
    for stack in (each for each in architecture.stacks if each.depth):
        for path in layer_lists(model, stack):
            layers = [f"{path}.{place}" for place in range(len(model.get_submodule(path)))]
            with frozen(model):
                returned = layer_outputs(model, layers, batches)
            if len(layers) > 1 and in_turn(returned, layers) and not any(output.carries for _, output in returned):
                place = -1 if stack.keeps_first else 0
                found[layers[place]] = returned[place][1].values
    return found


def _mask(model: Any, groups: Groups, removed: list[str] | tuple[()]) -> Mask:
    counts = {group.name: group.units for group in groups}
    for alike in sized(groups).values():
        units = range(max(1, alike[0].units // 2), alike[0].units + 1)
        fits = [count for count in units if accepts(model, settings_for(model, alike[0], count))]
        counts |= {group.name: fits[0] if fits else group.units for group in alike}
    return Mask.first(groups, counts | {group.name: 0 for group in groups if group.layer in removed})
