"""The plain form: a pruned model that a stock class builds from the settings of its configuration alone.

Nothing of fastprune is needed to open it: the settings give one number of units for all layers, and the number of layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from fastprune.errors import ModelError
from fastprune.modeling import OwnConfig
from fastprune.models import portable
from fastprune.models.weights import shown
from fastprune.units.architecture import Architecture, Stack
from fastprune.units.groups import Group, Groups
from fastprune.units.paths import config_value
from fastprune.units.resolve import layer_lists, resolve_groups
from fastprune.units.skipped import SkippedLayer

FREE, PLAIN = "free", "plain"
"""Values of the option ``form`` and of the manifest's entry: any number of units in each sublayer, or what a stock class builds."""
LATE = "_get_static_cache_init_shape"
"""Attribute that ``modeling.size_caches_by_use`` sets; a plain model's caches are sized by its configuration."""


def sized(groups: Iterable[Group]) -> dict[tuple[str, ...], list[Group]]:
    """The groups that settings of the configuration size, by these settings: each list gets one number of units."""
    found: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        if group.block.sizes:
            found.setdefault(group.block.sizes, []).append(group)
    return found


def check_plain(model: nn.Module, groups: Groups, architecture: Architecture) -> None:
    """Check that the plain form of a model can be pruned: its settings size some units, or it can lose layers.

    Raises:
        ModelError: They do not, the model's layers differ, or its class is not what builds it.
    """
    advice = (
        "Prune it in the free form (without --servable), which opens with trust_remote_code and exports to ONNX, or see "
        "docs/serving.md."
    )
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"The plain form is for transformers models; this is a {type(model).__name__}. {advice}")
    if not sized(groups) and not any(stack.depth for stack in architecture.stacks):
        raise ModelError(
            f"The configuration of a {type(model).__name__} cannot say smaller sublayers or fewer layers, by the architecture "
            f"'{architecture.name}' (sizes, depth), so it has no plain form. {advice}"
        )
    for names, alike in sized(groups).items():
        units = {group.units for group in alike}
        if len(units) > 1:
            raise ModelError(
                f"The plain form takes one {names[-1]} for all layers, but '{alike[0].name}' and others have {_said(units)} "
                "units. Give the dense model, not one that was pruned in the free form."
            )
    changed = getattr(model.config, portable.KEY, None) or {}
    if changed.get("modules"):
        raise ModelError(
            "This model was pruned in the free form, which no stock class builds. Prune the dense model, or leave out --servable."
        )


def settings_for(model: Any, group: Group, units: int) -> dict[str, int]:
    """The settings that give a group's layers another number of units.

    Args:
        model: The model with all of the group's units; its configuration says their number.
        group: A group with ``Block.sizes``.
        units: The new number of units.
    """
    found = {
        name: int(config_value(model.config, name) or group.units) // group.units * units for name in group.block.sizes
    }
    if group.block.width_setting and units != group.units:
        found[group.block.width_setting] = group.width * units // found[group.block.sizes[0]]
    return found


def accepts(model: Any, settings: dict[str, int]) -> bool:
    """Whether the class of the model's configuration takes these settings; some classes demand that sizes divide each other."""
    try:
        type(model.config).from_dict(model.config.to_dict() | settings)
    except Exception:  # whatever a configuration's own check raises
        return False
    return True


def make_plain(model: PreTrainedModel, architecture: Architecture, dense: Groups) -> None:
    """Turn a pruned model into its plain form, in place: removed layers leave their lists, and the configuration says all sizes.

    Args:
        model: A pruned model with the same number of units in the groups of a setting; removed layers are skipped.
        architecture: Its architecture.
        dense: The groups before pruning, in a model with the configuration that the pruned model still has.

    Raises:
        ModelError: The model's class does not build the same tensors from the configuration.
    """
    settings: dict[str, Any] = {}
    left = {group.name: group for group in resolve_groups(architecture, model)}
    for group in (group for group in dense if group.name in left and group.block.sizes):
        settings |= settings_for(model, group, left[group.name].units)
    for stack in architecture.stacks:
        for path in layer_lists(model, stack) if stack.depth else ():
            settings |= _without_skipped(model, path, stack)
    for name, value in settings.items():
        owner, _, last = name.rpartition(".")
        setattr(config_value(model.config, owner) if owner else model.config, last, value)
    vars(model).pop(LATE, None)
    vars(model.config).pop(portable.KEY, None)
    for module in model.modules():
        if isinstance(shared := vars(module).get("config"), OwnConfig):
            module.config = shared.shared
    _as_built(model)


def _without_skipped(model: Any, path: str, stack: Stack) -> dict[str, Any]:
    """Take removed layers out of a list, also out of settings of generation that list their units; the settings that change."""
    layers: Any = model.get_submodule(path)
    kept = [place for place, layer in enumerate(layers) if not isinstance(layer, SkippedLayer)]
    if len(kept) == len(layers):
        return {}
    lists = {name: config_value(model.config, name) for name in stack.by_layer}
    settings = {name: [values[place] for place in kept] for name, values in lists.items() if values}
    for place in sorted(set(range(len(layers))) - set(kept), reverse=True):
        del layers[place]
    generation: Any = getattr(model, "generation_config", None)
    for listed in {block.listed for block in stack.blocks if block.listed}:
        pairs = getattr(generation, listed, None) or []
        setattr(generation, listed, [[kept.index(layer), unit] for layer, unit in pairs if layer in kept] or None)
    return {stack.depth: len(kept), **settings}


def _as_built(model: PreTrainedModel) -> None:
    """Set the numbers that the model's class derives from the configuration, such as the number of a layer, in place.

    Raises:
        ModelError: The class builds other modules or tensors than the model has.
    """
    built = portable.built(model)
    ours, theirs = ({name: tuple(each.shape) for name, each in one.state_dict().items()} for one in (model, built))
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if wrong:
        raise ModelError(
            f"A {portable.dense_class(model).__name__} does not build the plain model from its configuration: "
            f"{shown(f'{name} is {_size(ours.get(name))}, not {_size(theirs.get(name))}' for name in wrong)}. Correct 'sizes', "
            "'width_setting', 'depth' or 'by_layer' of the architecture, or prune in the free form."
        )
    modules = dict(model.named_modules())
    for path, other in built.named_modules():
        for name, value in _numbers(other):
            if type(vars(modules[path]).get(name)) is int:
                setattr(modules[path], name, value)


def _numbers(module: nn.Module) -> Iterator[tuple[str, int]]:
    yield from ((name, value) for name, value in vars(module).items() if type(value) is int)


def _size(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "one number"


def _said(numbers: Iterable[int]) -> str:
    return " and ".join(map(str, sorted(numbers)))
