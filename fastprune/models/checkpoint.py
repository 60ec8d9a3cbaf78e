"""Checkpoints: a pruned model as a directory of weights, config, modelling file, tokenizer and manifest, and back."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from fastprune.errors import CheckpointError, ModelError, UsageError
from fastprune.files import check_output, written_whole
from fastprune.modeling import Narrow
from fastprune.models import portable
from fastprune.models.manifests import FORMAT_VERSION, MANIFEST, read_manifest
from fastprune.units.architecture import Architecture
from fastprune.units.resolve import resolve_groups
from fastprune.units.toml import architecture_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def write_companions(
    directory: Path, tokenizer: PreTrainedTokenizerBase | None, companions: Mapping[str, bytes]
) -> None:
    """Write what belongs to a model beside its weights: the tokenizer, and files by their relative path."""
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    for name, content in companions.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def plain_config(model: PreTrainedModel) -> PreTrainedConfig:
    """A copy of the model's configuration without what only Python code reads: what was pruned, the modelling file."""
    config = copy.deepcopy(model.config)
    for name in (portable.KEY, "auto_map"):
        vars(config).pop(name, None)
    return config


def save(
    model: nn.Module,
    path: str | Path,
    *,
    architecture: Architecture,
    details: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    companions: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a pruned model. Everything is written beside the target and then moved there: all of it or nothing.

    Args:
        model: A pruned transformers model.
        path: A directory that does not exist, or is empty.
        architecture: Where its units are; it goes into the manifest, so that loading needs no plugin.
        details: What else the manifest says: recipe, costs, metrics.
        tokenizer: Saved along.
        companions: Files to write along, by their relative path in the directory.

    Raises:
        CheckpointError: The target is in the way.
        ModelError: The model is no transformers model.
    """
    path = check_output(path)
    if not isinstance(model, transformers.PreTrainedModel):
        raise ModelError(f"Only transformers models can be saved; this is a {type(model).__name__}. Use torch.save.")
    groups = resolve_groups(architecture, model)
    portable.describe(model, groups)
    manifest = {
        "format_version": FORMAT_VERSION,
        "versions": {name: version(name) for name in ("fastprune", "torch", "transformers")}
        | {"python": platform.python_version()},
        "model_class": type(model).__name__,
        "architecture": dataclasses.asdict(architecture),
        "widths": {group.name: group.units for group in groups},
        **details,
    }
    with written_whole(path) as scratch:
        model.save_pretrained(scratch)
        _write_modelling_file(model, scratch)
        write_companions(scratch, tokenizer, companions or {})
        (scratch / MANIFEST).write_text(
            json.dumps(_finite(manifest), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
    return path


def load(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    model_class: type[PreTrainedModel] | None = None,
) -> PreTrainedModel:
    """Open a pruned model: outputs are bit-equal to those of the model that was saved.

    Args:
        path: A directory that ``PruningResult.save`` wrote, or transformers' ``save_pretrained`` later on.
        dtype: Of the weights; auto: as they were saved.
        device: Where to put the model.
        model_class: For classes that transformers does not have; None: by the name in the manifest.

    Raises:
        CheckpointError: The directory holds no pruned model, or a broken one, or one of a newer format.
    """
    if not (Path(path) / MANIFEST).exists() and is_pruned(path):
        return _load(path, model_class or _class_in_config(path), dtype).to(device).eval()  # type: ignore[no-any-return]
    manifest = read_manifest(path)
    try:
        model_class = model_class or getattr(transformers, manifest["model_class"])
        architecture = architecture_of(manifest["architecture"], f"the manifest of {path}")
        widths = {str(name): int(units) for name, units in manifest["widths"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise CheckpointError(
            f"The manifest of {path} lacks what loading needs: {type(error).__name__}: {error}."
        ) from error
    model = _load(path, model_class, dtype)
    found = {group.name: group.units for group in resolve_groups(architecture, model)}
    if found != widths:
        wrong = sorted(name for name in found.keys() | widths.keys() if found.get(name) != widths.get(name))
        raise CheckpointError(
            f"The manifest of {path} disagrees with its weights on {', '.join(wrong)}: "
            f"{widths.get(wrong[0], 'no')} units of the first against {found.get(wrong[0], 'none')}. "
            "Restore the directory as it was saved."
        )
    return model.to(device).eval()  # type: ignore[no-any-return]


def _load(path: str | Path, model_class: type[PreTrainedModel], dtype: str | torch.dtype) -> Any:
    """The model of a directory whose configuration says what is narrower."""
    _require_safetensors(Path(path))
    model: Any
    info: Any
    narrowed: Any = _narrowed(model_class)
    try:
        model, info = narrowed.from_pretrained(
            path, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # files, shapes and constructors raise different families
        raise CheckpointError(f"The pruned model in {path} cannot be loaded: {error}") from error
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if wrong:
        raise CheckpointError(f"The weights in {path} do not match its manifest: {wrong}.")
    model.__class__ = model_class
    vars(model.config).pop("auto_map", None)  # what save_pretrained writes has no modelling file beside it
    return model


def is_pruned(path: str | Path) -> bool:
    """Whether a directory holds a pruned model: with a manifest, or saved since by transformers alone."""
    return (Path(path) / MANIFEST).exists() or portable.KEY in _config_of(path)


def _config_of(path: str | Path) -> dict[str, Any]:
    """What ``config.json`` says; nothing where it cannot be read."""
    try:
        return dict(json.loads((Path(path) / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _class_in_config(path: str | Path) -> type[PreTrainedModel]:
    name = next(iter(_config_of(path).get("architectures") or []), "")
    model_class = getattr(transformers, name, None)
    if model_class is None:
        raise CheckpointError(
            f"{path} holds a pruned '{name}', which transformers {transformers.__version__} does not have; "
            "give its class as model_class."
        )
    return model_class  # type: ignore[no-any-return]


def _require_safetensors(path: Path) -> None:
    """Refuse pickled weights, which can run any code, and a directory without weights."""
    if any(path.glob("*.safetensors")):
        return
    pickles = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth", "*.pkl") for file in path.glob(kind))
    if pickles:
        raise CheckpointError(
            f"The pruned model in {path} cannot be loaded: its weights are pickled ({', '.join(pickles)}), and opening a "
            "pickle can run any code. fastprune reads and writes safetensors only."
        )
    raise CheckpointError(f"The pruned model in {path} cannot be loaded: there are no weights (*.safetensors) in it.")


def _narrowed(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The model class, built narrower: so that ``from_pretrained`` finds layers of the sizes that were saved."""
    # renamings of weights go by the class's name and module
    names = {"__module__": model_class.__module__, "__doc__": model_class.__doc__}
    return type(model_class.__name__, (Narrow, model_class), names)


def _write_modelling_file(model: PreTrainedModel, directory: Path) -> None:
    """Have transformers alone open the directory; a class that transformers does not have needs its own code anyway."""
    classes = portable.auto_map(model)
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config.pop("auto_map", None)
    if classes:
        config["auto_map"] = classes
        (directory / f"{portable.MODULE}.py").write_text(portable.modelling_file(model), encoding="utf-8")
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    """The value with None for numbers that JSON has not, such as the correlation of constant predictions."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
