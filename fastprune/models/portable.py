"""Portability: the configuration entry and the modelling file with which transformers builds a pruned model without fastprune."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from fastprune import modeling
from fastprune.errors import CheckpointError, ModelError
from fastprune.modeling import BiasOnly, EmptySublayer, Experts, OwnConfig, put
from fastprune.models.foreign import MODULE, code_of
from fastprune.models.weights import shown
from fastprune.units.architecture import Architecture
from fastprune.units.groups import Groups
from fastprune.units.paths import base_prefix
from fastprune.units.resolve import resolve_groups

KEY = "fastprune"
"""Name of the configuration's entry with the changes of pruned modules and the architecture."""
CLASS = '''

class {name}(Narrow, transformers.{name}):
    """transformers' {name} with pruned modules."""

    _auto_class = "{auto}"
'''
"""A class of the modelling file. Older versions of transformers copy the file in ``save_pretrained`` only with ``_auto_class``."""
FOREIGN_CLASS = '''

from .{file} import {name} as Dense{name}


class {name}(Narrow, Dense{name}):
    """{name} of {file}.py with pruned modules."""
'''


def describe(model: nn.Module, architecture: Architecture) -> None:
    """Store a pruned model's changes and its architecture in its configuration, in place.

    ``save_pretrained`` then writes them, and ``architecture_for`` finds the architecture again.
    """
    if isinstance(model, PreTrainedModel):
        changes = difference(model, resolve_groups(architecture, model))
        code = code_of({KEY: getattr(model.config, KEY, None)})  # of a model that was pruned before
        model.config.fastprune = {
            "modules": changes,
            "architecture": as_data(architecture),
            **({"auto_map": code} if code else {}),
        }


def as_data(architecture: Architecture) -> dict[str, Any]:
    """The architecture as plain data, with lists as after reading."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(architecture)))
    return plain


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
    dense = built(model).base_model
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


def check_rebuilt(model: nn.Module, groups: Groups) -> None:
    """Check that a model's class builds the same tensors from its configuration, as opening the pruned model again will.

    Tensors of layers with units are not compared: earlier prunings changed them.

    Raises:
        ModelError: It builds others, such as a head that was replaced in memory.
        CheckpointError: It cannot be built from the configuration alone.
    """
    if not isinstance(model, PreTrainedModel):
        return
    fresh = {name: tuple(each.shape) for name, each in built(model).state_dict().items()}
    inside = tuple({f"{path}." for group in groups for path in (group.layer, group.module) if path})
    cut = {cut.parameter for group in groups for cut in group.cuts}
    held = {name: tuple(each.shape) for name, each in model.state_dict().items()}
    wrong = [
        name
        for name in sorted(held.keys() | fresh.keys())
        if held.get(name) != fresh.get(name) and name not in cut and not name.startswith(inside)
    ]
    if wrong:
        raise ModelError(
            f"The {dense_class(model).__name__} is not what its class builds from its configuration, so the pruned model could "
            f"not be opened again: {shown(wrong)}. Build them in the class, by settings of the configuration such as num_labels; "
            "remove masks and parametrizations; merge adapters."
        )


def modelling_file(model: PreTrainedModel, code: Mapping[str, str]) -> str:
    """Source of the modelling file of a saved model: ``fastprune.modeling`` and a subclass per Auto class of the family.

    Args:
        model: The pruned model.
        code: Classes in files beside the modelling file, by Auto class, such as ``modeling_own.OwnModel``.
    """
    source = inspect.getsource(modeling).replace("import torch\n", "import torch\nimport transformers\n", 1)
    if code:
        own = dict.fromkeys(each for auto, each in code.items() if auto.startswith("AutoModel"))
        return source + "".join(
            FOREIGN_CLASS.format(file=each.rpartition(".")[0], name=each.rpartition(".")[2]) for each in own
        )
    classes = {each.__name__: auto for auto, each in reversed(_auto_classes(model).items())}
    return source + "".join(CLASS.format(name=name, auto=auto) for name, auto in sorted(classes.items()))


def auto_map(model: PreTrainedModel, code: Mapping[str, str]) -> dict[str, str]:
    """The entry ``auto_map`` of ``config.json``: class in the modelling file by Auto class; empty for a class that is neither
    transformers' nor in ``code``, the classes in files beside the modelling file."""
    if code:
        models = {
            auto: f"{MODULE}.{each.rpartition('.')[2]}" for auto, each in code.items() if auto.startswith("AutoModel")
        }
        return {**code, **models}
    return {auto: f"{MODULE}.{each.__name__}" for auto, each in _auto_classes(model).items()}


def auto_class(model: PreTrainedModel) -> str:
    """Name of the Auto class of transformers that opens the model's class; empty if there is none."""
    model_class = transformers_class(model)
    if model_class is None:
        return str(model._auto_class or "")
    return next((auto for auto, each in _auto_classes(model).items() if each is model_class), "")


def loading_arguments(model: PreTrainedModel) -> str:
    """What ``fastprune.load`` takes besides the directory for a class outside transformers; empty for others."""
    if transformers_class(model) is not None:
        return ""
    return "trust_remote_code=True" if model.is_remote_code() else f"model_class={dense_class(model).__name__}"


def dense_class(model: nn.Module) -> Any:
    """The model's class without the narrower modules of a modelling file and without wrappers of torch."""
    kind: Any = type(model)
    while kind.__bases__[0].__name__ == "Narrow" or kind.__bases__[0].__module__.startswith("torch.distributed."):
        kind = kind.__bases__[1]
    return kind


def transformers_class(model: PreTrainedModel) -> type[PreTrainedModel] | None:
    """The class of transformers that the model has; None for another class, such as a subclass with a head of its own."""
    kind: type[PreTrainedModel] = dense_class(model)
    own = kind.__module__.startswith("transformers.models.") and getattr(transformers, kind.__name__, None) is kind
    return kind if own else None


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


def built(model: PreTrainedModel) -> PreTrainedModel:
    """Build the model of the same class and configuration without pruned modules, on the meta device.

    Raises:
        CheckpointError: The model cannot be built.
    """
    config = copy.deepcopy(model.config)
    vars(config).pop(KEY, None)
    model_class: type[PreTrainedModel] = dense_class(model)
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
