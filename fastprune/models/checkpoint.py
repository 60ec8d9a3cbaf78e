"""Checkpoints: save and load pruned models (weights, config, modelling file, tokenizer and manifest in a directory)."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers.dynamic_module_utils import custom_object_save

from fastprune.errors import CheckpointError, ModelError, UsageError
from fastprune.files import check_output, json_text, library_versions, user_path, written_directory
from fastprune.modeling import Narrow
from fastprune.models import portable
from fastprune.models.foreign import MODULE, code_of, foreign_class, untrusted_code
from fastprune.models.manifests import FORMAT_VERSION, MANIFEST, read_manifest
from fastprune.models.plain import PLAIN
from fastprune.models.sentence_transformers import opening_class
from fastprune.models.weights import load_with_info, stored_state, stored_tensors, wrong_keys
from fastprune.progress.quiet import quiet_libraries
from fastprune.reports import cards
from fastprune.units.architecture import Architecture
from fastprune.units.resolve import resolve_groups
from fastprune.units.toml import architecture_of
from fastprune.untrusted import read_json, read_weight_index

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


SIZES = ("hidden_size", "num_hidden_layers")
"""Entries of ``config.json`` without which text-embeddings-inference does not read it."""


def write_companions(
    directory: Path, tokenizer: PreTrainedTokenizerBase | None, companions: Mapping[str, bytes]
) -> None:
    """Write the tokenizer and other files, by relative path, into a model's directory."""
    if tokenizer is not None:
        _save_tokenizer(tokenizer, directory)
    for name, content in companions.items():
        if not (directory / name).resolve().is_relative_to(directory.resolve()):
            raise CheckpointError(
                f"The file '{name}' lies outside of the directory {directory}; nothing is written there."
            )
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def files_of(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, bytes]:
    """The files that a tokenizer or another processor saves, by relative path; none without one."""
    if tokenizer is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        _save_tokenizer(tokenizer, Path(folder))
        files = (file for file in sorted(Path(folder).rglob("*")) if file.is_file())
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Save a tokenizer or another processor. One without a class of its own gets the name that transformers 4 knows, too."""
    tokenizer.save_pretrained(directory)
    file = directory / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def pages(
    model: nn.Module, path: str | Path, details: Mapping[str, Any], companions: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The report, the model card and its picture of a pruned model, by file name.

    Args:
        model: The pruned model.
        path: The directory that the model will be saved to.
        details: The manifest's content.
        companions: Other files of the model, by relative path.
    """
    opener, library, loading = opening_class(companions), "sentence-transformers", ""
    if not opener:
        opener, library = "", "transformers"
        if isinstance(model, transformers.PreTrainedModel):
            opener, loading = portable.auto_class(model), portable.loading_arguments(model)
    written = {**details, "versions": library_versions()}
    return cards.pages(Path(path).name, written, library=library, opener=opener, loading=loading)


def plain_config(model: PreTrainedModel) -> PreTrainedConfig:
    """A copy of the model's configuration without the entries for pruned modules and the modelling file."""
    config = copy.deepcopy(model.config)
    for name in (portable.KEY, "auto_map"):
        vars(config).pop(name, None)
    return config


def write_config(model: PreTrainedModel, directory: Path) -> None:
    """Write the ``config.json`` of an exported model: ``plain_config``, with the names of its class and of a
    classifier's classes, and sizes by the names that servers read, which some families do not have.

    Code that came with the model is copied: its classes tell what the model is for.
    """
    plain_config(model).save_pretrained(directory)
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | label_names(model.config, type(model))
    config["architectures"] = [portable.dense_class(model).__name__]
    config |= {name: value for name in SIZES if (value := getattr(model.config, name, None)) is not None}
    if code := _own_code(model, model.config.to_dict()):
        custom_object_save(model, directory)
        config["auto_map"] = code
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def label_names(config: PreTrainedConfig, model_class: type[nn.Module]) -> dict[str, Any]:
    """The class names of a classifier as entries of ``config.json``; empty for other models.

    transformers leaves out the names of two classes without names of their own. Servers then take the model for a reranker.
    """
    if not model_class.__name__.endswith("Classification"):
        return {}
    names = {int(place): str(name) for place, name in (config.id2label or {}).items()}
    return {"id2label": names, "label2id": {name: place for place, name in names.items()}}


def save(
    model: nn.Module,
    path: str | Path,
    *,
    architecture: Architecture,
    details: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    companions: Mapping[str, bytes] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Save a pruned model. Files are written to a temporary directory first, so the target is complete or absent.

    Args:
        model: A pruned transformers model.
        path: Directory; new or empty.
        architecture: The model's architecture; it is written into the configuration, so that loading needs no plugin.
        details: Further content of the manifest: recipe, costs, metrics.
        tokenizer: The tokenizer to save with the model; None: none is saved.
        companions: Other files to write, by relative path in the directory.
        dtype: Data type of the saved weights; None: the model's.

    Raises:
        CheckpointError: The target is not empty or cannot be written.
        ModelError: The model is not a transformers model.
    """
    path = check_output(path)
    if not isinstance(model, transformers.PreTrainedModel):
        raise ModelError(f"Only transformers models can be saved; this is a {type(model).__name__}. Use torch.save.")
    groups = resolve_groups(architecture, model)
    plain = details.get("form") == PLAIN
    if not plain:
        portable.describe(model, architecture)
    manifest = {
        "format_version": FORMAT_VERSION,
        "versions": library_versions(),
        "model_class": type(model).__name__,
        "widths": {group.name: group.units for group in groups},
        **({"architecture": portable.as_data(architecture)} if plain else {}),
        **details,
    }
    with written_directory(path) as scratch:
        with quiet_libraries():
            model.save_pretrained(scratch, save_original_format=False, state_dict=stored_state(model, dtype))
        if plain:
            complete_config(model, scratch, dtype or model.dtype)
        else:
            _write_modelling_file(model, scratch, dtype or model.dtype)
        write_companions(scratch, tokenizer, companions or {})
        (scratch / MANIFEST).write_text(json_text(manifest, indent=2) + "\n", encoding="utf-8")
    return path


def load(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    model_class: type[PreTrainedModel] | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a pruned model. Its outputs are bit-equal to those of the saved model.

    Args:
        path: A directory written by ``PruningResult.save``, or by transformers' ``save_pretrained`` of a pruned model.
        dtype: Data type of the weights; "auto": as saved.
        device: Device of the model.
        model_class: The model's class, for classes that transformers does not have [None: by the name in the manifest].
        trust_remote_code: Run Python files of the directory that came with the dense model. Read them first.

    Raises:
        CheckpointError: The directory has no pruned model, a broken one, or one of a newer format.
    """
    path = user_path(path)
    if not (path / MANIFEST).exists() and is_pruned(path):
        return _load(path, model_class or _class_in_config(path, trust_remote_code), dtype).to(device).eval()  # type: ignore[no-any-return]
    manifest = read_manifest(path)
    model_class = model_class or _class_named(str(manifest.get("model_class")), path, trust_remote_code)
    plain = manifest.get("form") == PLAIN
    try:
        described = manifest if plain else _config_of(path)[portable.KEY]
        architecture = architecture_of(
            described["architecture"], f"{'the manifest' if plain else 'the configuration'} of {path}"
        )
        widths = {str(name): int(units) for name, units in manifest["widths"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise CheckpointError(
            f"The manifest or the configuration of {path} is incomplete or invalid: {type(error).__name__}: {error}."
        ) from error
    model = _load(path, model_class, dtype, plain=plain)
    loaded = {group.name: group.units for group in resolve_groups(architecture, model)}
    if loaded != widths:
        wrong = sorted(name for name in loaded.keys() | widths.keys() if loaded.get(name) != widths.get(name))
        raise CheckpointError(
            f"The manifest of {path} disagrees with its weights on {', '.join(wrong)}: '{wrong[0]}' has "
            f"{widths.get(wrong[0], 'no')} units in the manifest and {loaded.get(wrong[0], 'none')} in the weights. "
            "Restore the saved directory."
        )
    return model.to(device).eval()  # type: ignore[no-any-return]


def _load(
    path: str | Path, model_class: type[PreTrainedModel], dtype: str | torch.dtype, *, plain: bool = False
) -> Any:
    """Load a model whose configuration lists its pruned modules, or one in the plain form.

    Raises:
        CheckpointError: The weights are missing, pickled, broken, or do not match the configuration.
    """
    _require_safetensors(Path(path))
    model: Any
    try:
        stored = stored_tensors(Path(path))
        model, info = load_with_info(model_class if plain else _narrowed(model_class), Path(path), dtype)
    except Exception as error:  # files, shapes and constructors raise unrelated types of errors
        raise CheckpointError(f"The pruned model in {path} cannot be loaded: {error}") from error
    held = model.state_dict()  # older versions did not save tensors without elements
    missing = {name for name in info["missing_keys"] if name not in held or held[name].numel()}
    if wrong := wrong_keys(model, info | {"missing_keys": missing}, stored):
        raise CheckpointError(f"The weights in {path} are not those of the pruned {model_class.__name__}: {wrong}")
    model.__class__ = model_class
    vars(model.config).pop("auto_map", None)  # save_pretrained does not copy the modelling file
    if code := code_of(_config_of(path)):
        model.config.auto_map = code
    return model


def is_pruned(path: str | Path) -> bool:
    """Whether a directory has a pruned model, with a manifest or saved again by transformers without one."""
    return (Path(path) / MANIFEST).exists() or portable.KEY in _config_of(path)


def _config_of(path: str | Path) -> dict[str, Any]:
    """The contents of ``config.json``; empty if it cannot be read."""
    try:
        return dict(read_json(Path(path) / "config.json"))
    except (OSError, ValueError, TypeError):
        return {}


def _class_in_config(path: str | Path, trusted: bool) -> type[PreTrainedModel]:
    return _class_named(next(iter(_config_of(path).get("architectures") or []), ""), Path(path), trusted)


def _class_named(name: str, path: Path, trusted: bool) -> type[PreTrainedModel]:
    """The class of a pruned model: of the code that came with the dense model, else of transformers, which other attributes of
    transformers are not.

    Raises:
        ModelError: The code is not trusted.
        CheckpointError: There is no such class.
    """
    config = _config_of(path)
    if code_of(config):
        if not trusted:
            raise untrusted_code(path, config)
        if found := foreign_class(path, config, name):
            return found  # type: ignore[no-any-return]
    model_class = getattr(transformers, name, None)
    if not (isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel)):
        raise CheckpointError(
            f"{path} has a pruned '{name}', a class that transformers {transformers.__version__} does not have; "
            "pass the class as model_class."
        )
    return model_class


def _require_safetensors(path: Path) -> None:
    """Raise CheckpointError for pickled weights, which can run any code, and for missing weights."""
    if any(path.glob("*.safetensors")):
        for index in path.glob("*.index.json"):
            read_weight_index(path, index)
        return
    pickles = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth", "*.pkl") for file in path.glob(kind))
    if pickles:
        raise CheckpointError(
            f"The pruned model in {path} cannot be loaded: its weights are pickled ({', '.join(pickles)}), and opening a "
            "pickle can run any code. fastprune reads and writes safetensors only."
        )
    raise CheckpointError(f"The pruned model in {path} cannot be loaded: it has no weights (*.safetensors).")


def _narrowed(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A subclass that builds pruned modules, so that ``from_pretrained`` finds layers with the saved sizes."""
    # transformers looks up renamings of weights by the class's name and module
    names = {"__module__": model_class.__module__, "__doc__": model_class.__doc__}
    return type(model_class.__name__, (Narrow, model_class), names)


def _own_code(model: PreTrainedModel, config: Mapping[str, Any]) -> dict[str, str]:
    """The classes by Auto class in the files that ``save_pretrained`` copies: those of the model, not of other repositories."""
    if not model.is_remote_code():
        return {}
    named = code_of({"auto_map": config.get("auto_map")}) or code_of(config)
    return {auto: each for auto, each in named.items() if "--" not in each}


def complete_config(model: PreTrainedModel, directory: Path, dtype: torch.dtype) -> None:
    """Add the class names of a classifier and the dtype of the saved weights to the configuration of a stock class."""
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | label_names(model.config, type(model))
    config["dtype"] = str(dtype).removeprefix("torch.")
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_modelling_file(model: PreTrainedModel, directory: Path, dtype: torch.dtype) -> None:
    """Add the modelling file, ``auto_map`` and the dtype, so that transformers can load the directory without fastprune.

    Classes outside transformers get neither, unless their code came with the model: ``save_pretrained`` has copied it.
    """
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    code = _own_code(model, config)
    config.pop("auto_map", None)
    classes = portable.auto_map(model, code)
    config |= label_names(model.config, type(model))
    config["dtype"] = str(dtype).removeprefix("torch.")
    if classes:
        config["auto_map"] = classes
        (directory / f"{MODULE}.py").write_text(portable.modelling_file(model, code), encoding="utf-8")
    if code:
        config[portable.KEY]["auto_map"] = code
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
