"""Opening models: a directory or Hub name becomes a model with its tokenizer and task."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from fastprune.data.processors import read_processor
from fastprune.errors import ModelError
from fastprune.models import portable
from fastprune.models.checkpoint import is_pruned, load, plain_config, save, write_companions
from fastprune.models.manifests import MANIFEST, read_manifest
from fastprune.models.sentence_transformers import SentenceTransformer, read_sentence_transformer
from fastprune.progress import step
from fastprune.registry.serving import architecture_for, task_for
from fastprune.reports import cards
from fastprune.sources import check_model
from fastprune.units.experts import unfuse_experts
from fastprune.units.groups import Groups
from fastprune.units.resolve import resolve_groups
from fastprune.units.toml import architecture_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from fastprune.data.tasks import Task

log = logging.getLogger(__name__)

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
HALF = (torch.float16, torch.bfloat16)
DTYPES: Mapping[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")
}
TOLD = ("budget", "cost", "costs", "parameters", "groups", "recipe", "kept_units", "calibration", "metrics")
"""What a manifest keeps of earlier prunings."""
SHORT = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """An opened model and what belongs to it.

    Attributes:
        model: In evaluation mode, on its device.
        tokenizer: What encodes its inputs: of a model of pictures or recordings, its image processor, feature extractor
            or processor. None where the source has none.
        task: What the model is for.
        source: What was opened, as given.
        companions: Contents of the files to carry along when the model is saved, by relative name: the modules of a
            SentenceTransformer.
        manifest: What fastprune wrote about it; empty for a model that it did not save.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    task: Task
    source: str
    companions: Mapping[str, bytes] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hub_name(self) -> str:
        """The name on the Hub that it was opened by; that of the dense model, where it was pruned; else empty."""
        named = "" if Path(self.source).expanduser().is_dir() else self.source
        return str(self.manifest.get("base_model", "")) or named

    @property
    def history(self) -> list[dict[str, Any]]:
        """What the manifest says of each pruning so far, the first first."""
        told = {name: self.manifest[name] for name in TOLD if name in self.manifest}
        return [*self.manifest.get("history", []), *([told] if told else [])]

    def groups(self) -> Groups | None:
        """Its layers and their widths, by the architecture that it was pruned with or else by its ``config.model_type``.

        Returns:
            Fused experts are groups of their own. None where no architecture serves the model.

        Raises:
            ModelError: The architecture does not fit the model.
        """
        try:
            if self.manifest:
                architecture = architecture_of(self.manifest["architecture"], f"the manifest of {self.source}")
            else:
                architecture = architecture_for(self.model)
        except ModelError:
            return None
        return resolve_groups(architecture, unfuse_experts(self.model))

    def save_companions(self, directory: str | Path) -> None:
        """Write what belongs to the model beside its weights: the configuration, without what was pruned, the tokenizer and
        the companions."""
        plain_config(self.model).save_pretrained(directory)  # type: ignore[arg-type]
        write_companions(Path(directory), self.tokenizer, self.companions)

    def save(self, path: str | Path) -> Path:
        """Write a pruned model that was changed since, such as trained on, with all that came with it but the metrics.

        Args:
            path: A directory that does not exist, or is empty.

        Raises:
            ModelError: It was opened from something else than a directory that fastprune wrote.
            CheckpointError: The directory is not empty, or cannot be written.
        """
        if not self.manifest:
            raise ModelError(f"{self.source} is not a model that fastprune saved; use model.save_pretrained.")
        own = {"format_version", "versions", "model_class", "architecture", "widths"}  # what save says itself
        details = {name: value for name, value in self.manifest.items() if name not in own} | {"metrics": {}}
        pages = {}
        if set(TOLD) <= set(details):
            auto_class = portable.auto_class(self.model) if isinstance(self.model, PreTrainedModel) else ""
            pages = cards.pages(Path(path).name, details, auto_class=auto_class, companions=self.companions)
        return save(
            self.model,
            path,
            architecture=architecture_of(self.manifest["architecture"], f"the manifest of {self.source}"),
            details=details,
            tokenizer=self.tokenizer,
            companions={**self.companions, **pages},
        )


def open_pretrained(
    source: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
) -> Pretrained:
    """Open a model that transformers, SentenceTransformers or fastprune saved.

    Args:
        source: A directory, or a name on the Hub.
        dtype: ``auto`` is the checkpoint's own, but float32 for a half-precision checkpoint on a CPU.
        device: ``auto`` is the first there is of cuda, mps and cpu.

    Raises:
        ModelError: There is no such model, something of it is missing, or it cannot be read.
        CheckpointError: It is a pruned model, and a broken one.
    """
    with step("opening"):
        opened = _open(source, dtype, device)
    log.info("opened %s: %s, for %s", source, type(opened.model).__name__, opened.task.name)
    return opened


def open_around(directory: str | Path, build: Callable[[PretrainedConfig], nn.Module]) -> Pretrained:
    """As ``open_pretrained`` for a directory whose weights something else opens.

    Args:
        directory: With the model's configuration.
        build: Gives the model for the configuration.

    Raises:
        ModelError: There is no configuration, or transformers does not have the model's class.
    """
    sentence, encoder = _encoder(Path(directory))
    config = _config(encoder)
    model_class = _model_class(config, encoder, sentence)
    return Pretrained(
        model=build(config),
        tokenizer=_tokenizer(encoder, model_class, sentence),
        task=_task(config, model_class, sentence, encoder),
        source=str(directory),
        companions=sentence.companions if sentence else {},
    )


def read_class(source: str | Path) -> tuple[PretrainedConfig, type[PreTrainedModel]]:
    """The configuration and the class of a model, of which no weights are read or fetched.

    Raises:
        ModelError: There is no such model, or transformers does not have its class.
    """
    sentence, encoder = _encoder(_directory(source, weights=False))
    config = _config(encoder)
    return config, _model_class(config, encoder, sentence)


def _open(source: str | Path, dtype: str | torch.dtype, device: str | torch.device) -> Pretrained:
    target_device, target_dtype = _device(device), _dtype(dtype)
    sentence, encoder = _encoder(_directory(source))
    config = _config(encoder)
    _require_weights(encoder)
    model_class = _model_class(config, encoder, sentence)
    task = _task(config, model_class, sentence, encoder)
    model = _load(model_class, encoder, target_dtype)
    if target_dtype is None and target_device.type == "cpu" and next(model.parameters()).dtype in HALF:
        model = model.float()
    return Pretrained(
        model=model.to(target_device).eval(),
        tokenizer=_tokenizer(encoder, model_class, sentence),
        task=task,
        source=str(source),
        companions=sentence.companions if sentence else {},
        manifest=read_manifest(encoder) if (encoder / MANIFEST).exists() else {},
    )


def _directory(source: str | Path, *, weights: bool = True) -> Path:
    """The directory itself, or where the Hub's files were put.

    Raises:
        ModelError: There is none.
    """
    path = check_model(source)
    if path is not None:
        return path
    try:
        names = ["*.json", "*.txt", "*.model", "[0-9]_*/*"]
        ignored = ["onnx/*", "openvino/*"]
        wanted = [*names, WEIGHTS[0]] if weights else names
        found = Path(snapshot_download(str(source), allow_patterns=wanted, ignore_patterns=ignored))
        if weights and not list(found.rglob(WEIGHTS[0])):
            found = Path(snapshot_download(str(source), allow_patterns=[*names, WEIGHTS[1]], ignore_patterns=ignored))
    except (OSError, ValueError) as error:  # no network, no such name, no access, no valid name
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"'{source}' is no directory here, and cannot be had from the Hub: {reason}") from error
    return found


def _encoder(directory: Path) -> tuple[SentenceTransformer | None, Path]:
    """What the files say of a SentenceTransformer, if it is one, and where the model itself lies."""
    sentence = read_sentence_transformer(directory)
    return sentence, directory / sentence.folder if sentence else directory


def _config(directory: Path) -> PretrainedConfig:
    if not (directory / "config.json").exists():
        raise ModelError(f"{directory} is no model directory: it has no config.json.")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(str(directory))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{directory / 'config.json'} cannot be read: {error}") from error
    return config


def _require_weights(directory: Path) -> None:
    if not any(next(directory.glob(pattern), None) for pattern in WEIGHTS):
        raise ModelError(f"{directory} has a config.json but no weights ({' or '.join(WEIGHTS)}).")


def _model_class(
    config: PretrainedConfig, directory: Path, sentence: SentenceTransformer | None
) -> type[PreTrainedModel]:
    """The class that the checkpoint was saved from; the plain encoder where it does not say.

    Pooled encoders are opened without the head that they may have been trained with, as sentence-transformers does.
    """
    plain = getattr(transformers.MODEL_MAPPING.get(type(config), None), "__name__", "")
    name = config.architectures[0] if config.architectures else plain or f"{config.model_type} encoder"
    if sentence and sentence.pooling and plain and not name.endswith("EncoderModel"):
        name = plain
    model_class = getattr(transformers, name, None)
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        raise ModelError(f"{directory} holds a {name}, which transformers {transformers.__version__} does not have.")
    return model_class


def _load(model_class: type[PreTrainedModel], directory: Path, dtype: torch.dtype | None) -> nn.Module:
    """The model on the CPU, in its own dtype where there is no other."""
    if is_pruned(directory):
        return load(directory, dtype=dtype or "auto")
    try:
        model: nn.Module = model_class.from_pretrained(str(directory), dtype=dtype or "auto")
    except Exception as error:  # a broken file, a wrong shape and a bad pickle raise different families
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"{directory} cannot be loaded as {model_class.__name__}: {reason}") from error
    return model


def _tokenizer(
    directory: Path, model_class: type[PreTrainedModel], sentence: SentenceTransformer | None
) -> PreTrainedTokenizerBase | None:
    """What encodes for the model, if there is anything; a SentenceTransformer's tokenizer may be told to stop earlier."""
    tokenizer: PreTrainedTokenizerBase | None = read_processor(directory, model_class)
    if tokenizer is not None and sentence is not None and sentence.max_length is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, sentence.max_length)
    return tokenizer


def _task(
    config: PretrainedConfig, model_class: type[PreTrainedModel], sentence: SentenceTransformer | None, directory: Path
) -> Task:
    task = task_for(config, model_class)
    return _with_pooling(task, sentence, directory) if sentence and sentence.pooling else task


def _with_pooling(task: Task, sentence: SentenceTransformer, directory: Path) -> Task:
    """The task with the pooling that the files tell, whatever the embedding task is that a plugin registered."""
    options: dict[str, Any] = {"pooling": sentence.pooling, "normalize": sentence.normalize}
    if not set(options) <= {option.name for option in dataclasses.fields(task)}:
        raise ModelError(f"{directory} is a SentenceTransformer, but the task {task.name} does not pool.")
    return dataclasses.replace(task, **options)


def _dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    """None for ``auto``."""
    if dtype == "auto":
        return None
    if isinstance(dtype, torch.dtype):
        return dtype
    dtype = SHORT.get(dtype, dtype)
    if dtype not in DTYPES:
        raise ModelError(f"There is no dtype '{dtype}'; use auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(0, device=device)  # fails here, and not after the model was read
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        raise ModelError(f"There is no device '{device}' here: {str(error).partition(chr(10))[0]}") from error
