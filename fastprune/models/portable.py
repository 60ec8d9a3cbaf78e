"""Portability: the configuration entry and the modelling file with which transformers builds a pruned model without fastprune."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from fastprune import modeling
from fastprune.errors import CheckpointError
from fastprune.modeling import BiasOnly, EmptySublayer, Experts, OwnConfig, put
from fastprune.units.architecture import Architecture
from fastprune.units.groups import Groups
from fastprune.units.paths import base_prefix
from fastprune.units.resolve import resolve_groups

MODULE = "modeling_fastprune"
KEY = "fastprune"
"""Name of the configuration's entry with the changes of pruned modules and the architecture."""
CLASS = '''

class {name}(Narrow, transformers.{name}):
    """transformers' {name} with pruned modules."""

    _auto_class = "{auto}"
'''
"""A class of the modelling file. Older versions of transformers copy the file in ``save_pretrained`` only with ``_auto_class``."""


def describe(model: nn.Module, architecture: Architecture) -> None:
    """Store a pruned model's changes and its architecture in its configuration, in place.

    ``save_pretrained`` then writes them, and ``architecture_for`` finds the architecture again.
    """
    if isinstance(model, PreTrainedModel):
        changes = difference(model, resolve_groups(architecture, model))
        plain = json.loads(json.dumps(dataclasses.asdict(architecture)))  # lists, as after reading
        model.config.fastprune = {"modules": changes, "architecture": plain}


def difference(model: PreTrainedModel, groups: Groups) -> dict[str, dict[str, Any]]:
    """Find the changes of a pruned model relative to the dense one, as the plan for ``modeling.narrow``.

    Args:
        model: A pruned model.
        groups: Its groups; only their layers, and modules that they cut, are compared.

    Returns:
        Changes by module path, relative to the base model; unchanged modules are left out.

    Raises:
        CheckpointError: The dense model cannot be built from the configuration.
    """
    dense = _dense(model).base_model
    base = model.base_model
    prefix = base_prefix(model)
    cut = {cut.module for group in groups for cut in group.cuts}
    touched = cut | {path for group in groups for path in (group.layer, group.module, group.consumer) if path}
    inside = tuple({f"{path.removeprefix(prefix)}." for path in touched})
    plan: dict[str, dict[str, Any]] = {
        path: {"experts": each.choices} for path, each in base.named_modules() if isinstance(each, Experts)
    }
    for path in plan:
        put(dense, path, Experts.of(dense.get_submodule(path)))
    empty: tuple[str, ...] = ()
    for path, module in base.named_modules():
        if not f"{path}.".startswith(inside) or path.startswith(empty):
            continue
        if isinstance(module, EmptySublayer):
            empty = (*empty, f"{path}.")
            consumer = module.facts["consumer"]
            with_bias = bool(consumer) and module.get_submodule(consumer).bias is not None
            plan[path] = {"empty": {**module.facts, "with_bias": with_bias}}
        elif isinstance(module, BiasOnly):
            plan[path] = {"bias_only": module.bias is not None}
        elif changes := _changes(module, dense.get_submodule(path)):
            plan[path] = changes
    return plan


def modelling_file(model: PreTrainedModel) -> str:
    """Source of the modelling file of a saved model: ``fastprune.modeling`` and a subclass per Auto class of the family."""
    source = inspect.getsource(modeling).replace("import torch\n", "import torch\nimport transformers\n", 1)
    classes = {each.__name__: auto for auto, each in reversed(_auto_classes(model).items())}
    return source + "".join(CLASS.format(name=name, auto=auto) for name, auto in sorted(classes.items()))


def auto_map(model: PreTrainedModel) -> dict[str, str]:
    """The entry ``auto_map`` of ``config.json``: class in the modelling file by Auto class; empty outside transformers."""
    return {auto: f"{MODULE}.{each.__name__}" for auto, each in _auto_classes(model).items()}


def auto_class(model: PreTrainedModel) -> str:
    """Name of the Auto class of transformers that opens the model's class; empty if there is none."""
    model_class = transformers_class(model)
    return next((auto for auto, each in _auto_classes(model).items() if each is model_class), "")


def transformers_class(model: PreTrainedModel) -> type[PreTrainedModel] | None:
    """The class of transformers that the model is an instance of; None for a class outside transformers."""
    for each in type(model).__mro__:
        if each.__module__.startswith("transformers.models.") and getattr(transformers, each.__name__, None) is each:
            return each  # type: ignore[no-any-return]
    return None


def _auto_classes(model: PreTrainedModel) -> dict[str, type[PreTrainedModel]]:
    """The class that each Auto class opens for the model's configuration; the model's own class if there are several."""
    model_class = transformers_class(model)
    if model_class is None:
        return {}
    classes: dict[str, type[PreTrainedModel]] = {}
    for auto, mapping in _mappings():
        if type(model.config) not in mapping:
            continue
        mapped = mapping[type(model.config)]
        candidates = mapped if isinstance(mapped, (tuple, list)) else (mapped,)
        classes[auto] = model_class if model_class in candidates else candidates[0]
    return dict(sorted(classes.items()))


def _mappings() -> Iterator[tuple[str, Any]]:
    """Names of transformers' Auto classes, and their mappings from configurations to classes."""
    for name, each in vars(modeling_auto).items():
        mapping = getattr(each, "_model_mapping", None)
        if mapping is not None and not name.startswith("_") and hasattr(transformers, name):
            yield name, mapping


def _dense(model: PreTrainedModel) -> PreTrainedModel:
    """Build the dense model of the same class and configuration, on the meta device.

    Raises:
        CheckpointError: The model cannot be built.
    """
    config = copy.deepcopy(model.config)
    vars(config).pop(KEY, None)
    model_class = transformers_class(model) or type(model)
    try:
        with torch.device("meta"):
            return model_class(config)
    except Exception as error:  # constructors of models raise any type of error
        raise CheckpointError(
            f"The dense {model_class.__name__} cannot be built from the model's configuration, so the pruned modules cannot be "
            f"determined: {type(error).__name__}: {error}"
        ) from error


def _changes(module: nn.Module, original: nn.Module) -> dict[str, Any]:
    """Changes of one module relative to the dense one: parameter shapes, integer attributes, configurations, shared bias."""
    pruned, dense = vars(module), vars(original)
    changes = {
        "parameters": dict(_shapes(module, original)),
        "attributes": {
            name: value
            for name, value in pruned.items()
            if type(value) is int and type(dense.get(name)) is int and value != dense[name]
        },
        "configs": {name: value.values for name, value in pruned.items() if isinstance(value, OwnConfig)},
    }
    if "kept_bias" in pruned:
        changes["shared_bias"] = {**pruned["kept_bias"], "kept": len(module.get_buffer("kept_units"))}
    return {name: values for name, values in changes.items() if values}


def _shapes(module: nn.Module, original: nn.Module) -> Iterator[tuple[str, str | None]]:
    """Parameters and buffers with changed shapes, such as 96x384; None for removed ones."""
    for name in dict.fromkeys([*original._parameters, *original._buffers, *module._parameters]):
        new, old = getattr(module, name, None), getattr(original, name, None)
        if new is None and old is not None:
            yield name, None
        elif new is not None and (old is None or new.shape != old.shape):
            yield name, "x".join(map(str, new.shape))
