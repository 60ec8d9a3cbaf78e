"""Checkpoints: a pruned model as a directory of weights, config, tokenizer and manifest, and back."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import secrets
import shutil
from collections.abc import Mapping, Set
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from fastprune.architecture import Architecture, Block, Part, Producer, Stack, UnitBias
from fastprune.errors import CheckpointError, ModelError
from fastprune.groups import Groups, consumer_of
from fastprune.masks import Mask
from fastprune.materialize import add_bias, materialize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MANIFEST = "fastprune.json"
FORMAT_VERSION = 1


def check_output(path: str | Path) -> Path:
    """Refuse a place that a new directory cannot take, before any work is done.

    Raises:
        CheckpointError: It is a file, a directory with something in it, or below something that is no directory.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise CheckpointError(f"The output directory {path} exists and is not empty; name another, or empty it.")
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"The output {path} is a file; name a directory.")
    parent = next(place for place in path.absolute().parents if place.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise CheckpointError(
            f"The output directory {path} cannot be made: {parent} is not a directory one can write to."
        )
    return path


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
    groups = Groups.resolve(architecture, model)
    manifest = {
        "format_version": FORMAT_VERSION,
        "versions": {name: version(name) for name in ("fastprune", "torch", "transformers")}
        | {"python": platform.python_version()},
        "model_class": type(model).__name__,
        "architecture": dataclasses.asdict(architecture),
        "widths": {group.name: group.units for group in groups},
        "biased": [group.name for group in groups if consumer_of(model, group).bias is not None],
        **details,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f".{path.name}-{secrets.token_hex(4)}"
    scratch.mkdir()
    try:
        model.save_pretrained(scratch)
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)
        for name, content in (companions or {}).items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).write_bytes(content)
        (scratch / MANIFEST).write_text(
            json.dumps(_finite(manifest), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
        for file in scratch.rglob("*"):  # what libraries write for the owner alone is for whoever may read the rest
            file.chmod(scratch.stat().st_mode if file.is_dir() else (scratch / MANIFEST).stat().st_mode)
        if path.is_dir():
            path.rmdir()
        scratch.replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path


def load(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    model_class: type[PreTrainedModel] | None = None,
) -> PreTrainedModel:
    """Open a directory that ``PruningResult.save`` wrote: outputs are bit-equal to those of the model that was saved.

    Args:
        path: The directory.
        dtype: Of the weights; auto: as they were saved.
        device: Where to put the model.
        model_class: For classes that transformers does not have; None: by the name in the manifest.

    Raises:
        CheckpointError: The directory holds no pruned model, or a broken one, or one of a newer format.
    """
    manifest = read_manifest(path)
    try:
        model_class = model_class or getattr(transformers, manifest["model_class"])
        architecture = _architecture(manifest["architecture"])
        widths = {str(name): int(units) for name, units in manifest["widths"].items()}
        biased = {str(name) for name in manifest["biased"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"The manifest of {path} lacks what loading needs: {type(error).__name__}: {error}."
        ) from error
    try:
        model: Any
        info: Any
        narrowed: Any = _narrowed(model_class, architecture, widths, biased)
        model, info = narrowed.from_pretrained(
            path, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"The pruned model in {path} cannot be loaded: {error}") from error
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if wrong:
        raise CheckpointError(f"The weights in {path} do not match its manifest: {wrong}.")
    model.__class__ = model_class
    return model.to(device).eval()  # type: ignore[no-any-return]


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a pruned model's directory.

    Raises:
        CheckpointError: There is none, it is no JSON, or of a newer format.
    """
    file = Path(path) / MANIFEST
    if not file.is_file():
        raise CheckpointError(f"{path} holds no pruned model: there is no {MANIFEST} in it.")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        found = int(manifest["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"The manifest {file} is broken: {type(error).__name__}: {error}.") from error
    if found > FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format {found}; this fastprune reads up to {FORMAT_VERSION}. Upgrade fastprune."
        )
    return dict(manifest)


def _narrowed(
    model_class: type[PreTrainedModel], architecture: Architecture, widths: Mapping[str, int], biased: Set[str]
) -> type[PreTrainedModel]:
    """The model class, built narrower: so that ``from_pretrained`` finds layers of the sizes that were saved."""

    class Narrowed(model_class):  # type: ignore[misc,valid-type]
        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            groups = Groups.resolve(architecture, self)
            materialize(self, groups, Mask.first(groups, widths), inplace=True)
            for group in groups:
                if group.name in biased:  # a tuner may have given one to a consumer that had none
                    add_bias(consumer_of(self, group))

    Narrowed.__name__, Narrowed.__module__ = (
        model_class.__name__,
        model_class.__module__,
    )  # renamings of weights go by them
    return Narrowed


def _finite(value: Any) -> Any:
    """The value with None for numbers that JSON has not, such as the correlation of constant predictions."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _architecture(data: Mapping[str, Any]) -> Architecture:
    """An Architecture from its plain form in a manifest."""
    stacks = tuple(
        Stack(**{**stack, "blocks": tuple(_block(block) for block in stack["blocks"])}) for stack in data["stacks"]
    )
    return Architecture(name=data["name"], model_types=tuple(data["model_types"]), stacks=stacks)


def _block(data: Mapping[str, Any]) -> Block:
    values = {name: _tuples(value) for name, value in data.items()}
    values["producers"] = tuple(_producer(producer) for producer in data["producers"])
    bias = data["bias"]
    values["bias"] = UnitBias(**bias) if bias else None
    return Block(**values)


def _producer(data: str | Mapping[str, Any]) -> str | Producer:
    if isinstance(data, str):
        return data
    parts = tuple(Part(rows=tuple(part["rows"]), shared=part["shared"]) for part in data["parts"])
    return Producer(linear=data["linear"], parts=parts, optional=data["optional"])


def _tuples(value: Any) -> Any:
    """Lists to tuples, all the way down."""
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
