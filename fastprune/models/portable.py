"""What goes along with a pruned model so that transformers alone can build it: the differences and the modelling file."""

from __future__ import annotations

import copy
import inspect
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
from fastprune.units.groups import Groups

MODULE = "modeling_fastprune"
KEY = "fastprune"
"""Of the configuration's entry that says which modules differ."""
CLASS = '''

class {name}(Narrow, transformers.{name}):
    """transformers' {name}, narrower."""
'''


def describe(model: nn.Module, groups: Groups) -> None:
    """Write into a pruned model's configuration, in place, what is other than in the dense model, so that whatever saves
    the model saves that as well."""
    if isinstance(model, PreTrainedModel):
        model.config.fastprune = {"modules": difference(model, groups)}


def difference(model: PreTrainedModel, groups: Groups) -> dict[str, dict[str, Any]]:
    """What ``modeling.narrow`` must change in a dense model so that this model's weights fit.

    Args:
        model: A pruned model.
        groups: Its groups; only their layers are compared.

    Returns:
        The changes by the path of the module relative to the base model; modules that are alike have none.

    Raises:
        CheckpointError: The dense model cannot be built from the configuration.
    """
    dense = _dense(model).base_model
    base = model.base_model
    prefix = next((f"{name}." for name, module in model.named_modules() if module is base and name), "")
    touched = {path for group in groups for path in (group.layer, group.module, group.consumer, *group.producers)}
    layers = tuple({f"{path.removeprefix(prefix)}." for path in touched})
    plan: dict[str, dict[str, Any]] = {
        path: {"experts": each.choices} for path, each in base.named_modules() if isinstance(each, Experts)
    }
    for path in plan:
        put(dense, path, Experts.of(dense.get_submodule(path)))
    empty: tuple[str, ...] = ()
    for path, module in base.named_modules():
        if not f"{path}.".startswith(layers) or path.startswith(empty):
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
    """The Python file that a saved model carries: this package's narrower layers, and a class for each that the family has."""
    source = inspect.getsource(modeling).replace("import torch\n", "import torch\nimport transformers\n", 1)
    names = dict.fromkeys(each.__name__ for each in _auto_classes(model).values())
    return source + "".join(CLASS.format(name=name) for name in names)


def auto_map(model: PreTrainedModel) -> dict[str, str]:
    """For ``config.json``: the class that each Auto class of transformers is to open; empty for a class of somebody else's."""
    return {auto: f"{MODULE}.{each.__name__}" for auto, each in _auto_classes(model).items()}


def auto_class(model: PreTrainedModel) -> str:
    """The Auto class of transformers that opens this very class; empty where there is none."""
    own = transformers_class(model)
    return next((auto for auto, each in _auto_classes(model).items() if each is own), "")


def transformers_class(model: PreTrainedModel) -> type[PreTrainedModel] | None:
    """The class of transformers that this model is an instance of; None where it is somebody else's."""
    for each in type(model).__mro__:
        if each.__module__.startswith("transformers.models.") and getattr(transformers, each.__name__, None) is each:
            return each  # type: ignore[no-any-return]
    return None


def _auto_classes(model: PreTrainedModel) -> dict[str, type[PreTrainedModel]]:
    """By the name of the Auto class: what it opens for this configuration, the model's own class where it is one of them."""
    own = transformers_class(model)
    if own is None:
        return {}
    found: dict[str, type[PreTrainedModel]] = {}
    for auto, mapping in _mappings():
        if type(model.config) not in mapping:
            continue
        listed = mapping[type(model.config)]
        candidates = listed if isinstance(listed, (tuple, list)) else (listed,)
        found[auto] = own if own in candidates else candidates[0]
    return dict(sorted(found.items()))


def _mappings() -> Iterator[tuple[str, Any]]:
    for name, each in vars(modeling_auto).items():
        mapping = getattr(each, "_model_mapping", None)
        if mapping is not None and not name.startswith("_") and hasattr(transformers, name):
            yield name, mapping


def _dense(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same class and configuration that nothing is pruned of, without weights."""
    config = copy.deepcopy(model.config)
    vars(config).pop(KEY, None)
    model_class = transformers_class(model) or type(model)
    try:
        with torch.device("meta"):
            return model_class(config)
    except Exception as error:  # whatever a model's constructor may raise
        raise CheckpointError(
            f"The dense {model_class.__name__} cannot be built from the model's configuration, so it cannot be said what was "
            f"pruned: {type(error).__name__}: {error}"
        ) from error


def _changes(module: nn.Module, original: nn.Module) -> dict[str, Any]:
    """What is other in one module, of what surgery changes."""
    own, dense = vars(module), vars(original)
    changes = {
        "parameters": dict(_shapes(module, original)),
        "attributes": {
            name: value
            for name, value in own.items()
            if type(value) is int and type(dense.get(name)) is int and value != dense[name]
        },
        "configs": {name: value.values for name, value in own.items() if isinstance(value, OwnConfig)},
    }
    if "kept_bias" in own:
        changes["shared_bias"] = {**own["kept_bias"], "kept": len(module.get_buffer("kept_units"))}
    return {name: values for name, values in changes.items() if values}


def _shapes(module: nn.Module, original: nn.Module) -> Iterator[tuple[str, str | None]]:
    """The parameters and buffers of other shapes: 96x384; None for one that is gone."""
    for name in dict.fromkeys([*original._parameters, *original._buffers, *module._parameters]):
        new, old = getattr(module, name, None), getattr(original, name, None)
        if new is None and old is not None:
            yield name, None
        elif new is not None and (old is None or new.shape != old.shape):
            yield name, "x".join(map(str, new.shape))
