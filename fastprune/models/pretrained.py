"""Opening models: load a model with its tokenizer and task from a directory or the Hub."""

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

from fastprune.data.processors import fit_to_model, lower_case, maximum_length, read_processor, tokenizer_of
from fastprune.errors import ModelError
from fastprune.files import check_model, check_no_adapter, similar, user_path
from fastprune.models.checkpoint import is_pruned, load, pages, save, write_companions, write_config
from fastprune.models.foreign import code_of, foreign_class, untrusted_code
from fastprune.models.manifests import MANIFEST, read_manifest
from fastprune.models.sentence_form import activation_entries, older_form
from fastprune.models.sentence_transformers import SentenceTransformer, read_sentence_transformer
from fastprune.models.trimming import Trimming
from fastprune.models.weights import check_finite, first_lines, load_dense, read_dtype, stored_dtype, stored_tensors
from fastprune.progress import step
from fastprune.registry.serving import architecture_for, task_for
from fastprune.reports.card_metadata import CARD, read_card
from fastprune.units.experts import unfuse_experts
from fastprune.units.groups import Groups
from fastprune.units.resolve import resolve_groups
from fastprune.untrusted import read_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from fastprune.data.tasks import Task

log = logging.getLogger(__name__)

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
HALF = (torch.float16, torch.bfloat16)
FIGURES = ("budget", "cost", "costs", "parameters", "groups", "vocabulary", "metrics")
HISTORY = (*FIGURES, "recipe", "kept_units", "calibration")
"""Entries of the manifest that are kept for earlier prunings."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """An opened model with its tokenizer and task.

    Attributes:
        model: The model, in evaluation mode, on its device.
        tokenizer: The tokenizer, image processor, feature extractor or combined processor; None if the source has none.
        task: The model's task.
        source: The directory or Hub name it was opened from.
        companions: Contents of other files to save with the model, by relative path: the modules of a SentenceTransformer.
        manifest: The manifest of a model saved by fastprune; empty for other models.
        card: What the model's card says that is also true of a pruned model: licence, language, data sets, tags.
        dtype: Data type of the weights in the source, which a pruned model is saved in; None: unknown.
        trimming: What the model was before its vocabulary was reduced; None: the vocabulary is whole.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    task: Task
    source: str
    companions: Mapping[str, bytes] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    trimming: Trimming | None = None

    @property
    def hub_name(self) -> str:
        """The Hub name of the source; for a pruned model, that of the dense model; else empty."""
        named = "" if user_path(self.source).is_dir() else self.source
        return str(self.manifest.get("base_model", "")) or named

    @property
    def history(self) -> list[dict[str, Any]]:
        """The manifest's records of all prunings so far, oldest first."""
        latest = {name: self.manifest[name] for name in HISTORY if name in self.manifest}
        return [*self.manifest.get("history", []), *([latest] if latest else [])]

    def groups(self) -> Groups | None:
        """The model's groups, by the architecture used for its pruning, else by ``config.model_type``.

        Returns:
            The groups; fused experts are unfused into groups of their own. None if no architecture supports the model.

        Raises:
            ModelError: The architecture does not fit the model.
        """
        try:
            architecture = architecture_for(self.model)
        except ModelError:
            return None
        return resolve_groups(architecture, unfuse_experts(self.model))

    def save_companions(self, directory: str | Path) -> None:
        """Write the files that belong to the model besides its weights: the configuration, without the entries for pruned modules,
        the tokenizer and the companions."""
        write_config(self.model, user_path(directory))  # type: ignore[arg-type]
        write_companions(user_path(directory), self.tokenizer, self.companions)

    def save(self, path: str | Path) -> Path:
        """Save a pruned model whose weights were changed, for instance by training, with its manifest except the metrics.

        Args:
            path: Directory; new or empty.

        Returns:
            The directory.

        Raises:
            ModelError: The model was not opened from a directory written by fastprune.
            CheckpointError: The directory is not empty or cannot be written.
        """
        if not self.manifest:
            raise ModelError(f"{self.source} was not saved by fastprune; use model.save_pretrained.")
        own = {"format_version", "versions", "model_class", "widths"}  # written by save itself
        details = {name: value for name, value in self.manifest.items() if name not in own} | {"metrics": {}}
        told = set(HISTORY) - {"vocabulary"} <= set(details)  # only a model with fewer tokens has that entry
        written = pages(self.model, path, details, self.companions) if told else {}
        return save(
            self.model,
            path,
            architecture=architecture_for(self.model),
            details=details,
            tokenizer=self.tokenizer,
            companions={**self.companions, **written},
            dtype=self.dtype,
        )


def open_pretrained(
    source: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    trust_remote_code: bool = False,
) -> Pretrained:
    """Open a model saved by transformers, sentence-transformers or fastprune.

    Args:
        source: A directory, or a name on the Hub.
        dtype: Data type of the weights; "auto": the checkpoint's, but float32 instead of half precision on a CPU.
        device: Device of the model; "auto": cuda if available, else cpu.
        trust_remote_code: Run Python files of the source, for classes that transformers does not have. Read them first.

    Raises:
        ModelError: The model does not exist, is incomplete, cannot be read, or needs code of its own that is not trusted.
        CheckpointError: The source is a broken pruned model.
    """
    with step("opening"):
        opened = _open(source, dtype, device, trust_remote_code)
    log.info("opened %s: %s, for %s", source, type(opened.model).__name__, opened.task.name)
    return opened


def open_around(
    directory: str | Path, build: Callable[[PretrainedConfig], nn.Module], *, trust_remote_code: bool = False
) -> Pretrained:
    """Like ``open_pretrained``, for a directory whose model another function builds.

    Args:
        directory: The directory, with the model's configuration.
        build: Function from the configuration to the model.
        trust_remote_code: As for ``open_pretrained``.

    Raises:
        ModelError: There is no configuration, or transformers does not have the model's class.
    """
    sentence, encoder = _encoder(Path(directory))
    config = _config(encoder, trust_remote_code)
    model_class = _model_class(config, encoder, sentence, trust_remote_code)
    tokenizer = _tokenizer(encoder, model_class, sentence, trust_remote_code)
    return Pretrained(
        model=build(config),
        tokenizer=tokenizer,
        task=_task(config, model_class, sentence, encoder),
        source=str(directory),
        companions=_companions(sentence, tokenizer),
    )


def read_class(
    source: str | Path, *, trust_remote_code: bool = False
) -> tuple[PretrainedConfig, type[PreTrainedModel]]:
    """The configuration and the class of a model, without reading or downloading its weights.

    Args:
        source: A directory, or a name on the Hub.
        trust_remote_code: As for ``open_pretrained``.

    Raises:
        ModelError: The model does not exist, or transformers does not have its class.
    """
    sentence, encoder = _encoder(_directory(source, weights=False, code=trust_remote_code))
    config = _config(encoder, trust_remote_code)
    return config, _model_class(config, encoder, sentence, trust_remote_code)


def _open(source: str | Path, dtype: str | torch.dtype, device: str | torch.device, trusted: bool) -> Pretrained:
    target_device, target_dtype = _device(device), read_dtype(dtype)
    directory = _directory(source, code=trusted)
    sentence, encoder = _encoder(directory)
    config = _config(encoder, trusted)
    _require_weights(encoder)
    model_class = _model_class(config, encoder, sentence, trusted)
    task = _task(config, model_class, sentence, encoder)
    model = _load(model_class, encoder, target_dtype, task)
    if target_dtype is None and target_device.type == "cpu" and next(model.parameters()).dtype in HALF:
        model = model.float()
    tokenizer = fit_to_model(_tokenizer(encoder, model_class, sentence, trusted), model)
    companions = _companions(sentence, tokenizer)
    for name, value in activation_entries(companions).items():
        setattr(model.config, name, value)
    return Pretrained(
        model=model.to(target_device).eval(),
        tokenizer=tokenizer,
        task=task,
        source=str(source),
        companions=companions,
        manifest=read_manifest(encoder) if (encoder / MANIFEST).exists() else {},
        card=read_card(directory),
        dtype=stored_dtype(stored_tensors(encoder)),
    )


def _directory(source: str | Path, *, weights: bool = True, code: bool = False) -> Path:
    """The local directory, or the directory of the files downloaded from the Hub, with its Python files if asked.

    Raises:
        ModelError: The source does not exist.
    """
    path = check_model(source)
    if path is not None:
        return path
    try:
        names = ["*.json", "*.txt", "*.model", "[0-9]_*/*", CARD, *(["*.py"] if code else [])]
        ignored = ["onnx/*", "openvino/*"]
        patterns = [*names, WEIGHTS[0]] if weights else names
        snapshot = Path(snapshot_download(str(source), allow_patterns=patterns, ignore_patterns=ignored))
        if weights and not list(snapshot.rglob(WEIGHTS[0])):
            patterns = [*names, WEIGHTS[1]]
            snapshot = Path(snapshot_download(str(source), allow_patterns=patterns, ignore_patterns=ignored))
    except (OSError, ValueError) as error:  # no network, unknown or invalid name, no access
        reason = str(error).strip().partition("\n")[0].removeprefix("Got: ").rstrip(".")
        raise ModelError(
            f"'{source}' is not a local directory and cannot be loaded from the Hub: {reason}.{similar(source)}"
        ) from error
    return snapshot


def _encoder(directory: Path) -> tuple[SentenceTransformer | None, Path]:
    """The settings of a SentenceTransformer (None for other models), and the directory of the model itself."""
    sentence = read_sentence_transformer(directory)
    return sentence, directory / sentence.folder if sentence else directory


def _config(directory: Path, trusted: bool) -> PretrainedConfig:
    check_no_adapter(directory)
    if not (directory / "config.json").exists():
        raise ModelError(f"{directory} is not a model directory: it has no config.json.")
    written = _written(directory)
    if (
        not trusted
        and "AutoConfig" in code_of(written)
        and written.get("model_type") not in transformers.CONFIG_MAPPING
    ):
        raise untrusted_code(directory, written)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(str(directory), trust_remote_code=trusted)
    except Exception as error:  # any error of the directory's own code, if that is trusted
        reason = first_lines(error)
        raise ModelError(f"{directory / 'config.json'} cannot be read: {reason}") from error
    if quantised := written.get("quantization_config"):
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, Mapping) else quantised
        raise ModelError(
            f"The weights in {directory} are quantised ({method}). fastprune reads floating-point weights: open the model that "
            "was quantised, prune it, and quantise the result."
        )
    return config


def _written(directory: Path) -> dict[str, Any]:
    """The contents of ``config.json``.

    Raises:
        ModelError: It cannot be read, or is nested too deeply.
    """
    try:
        return dict(read_json(directory / "config.json"))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{directory / 'config.json'} cannot be read: {error}") from error


def _require_weights(directory: Path) -> None:
    if not any(next(directory.glob(pattern), None) for pattern in WEIGHTS):
        raise ModelError(f"{directory} has a config.json but no weights ({' or '.join(WEIGHTS)}).")


def _model_class(
    config: PretrainedConfig, directory: Path, sentence: SentenceTransformer | None, trusted: bool
) -> type[PreTrainedModel]:
    """The class that the checkpoint was saved from, or the family's class without a head if the configuration names none.

    Encoders with pooling are opened without a head, as in sentence-transformers. Trusted code goes before transformers' classes.
    """
    written = _written(directory)
    plain = getattr(transformers.MODEL_MAPPING.get(type(config), None), "__name__", "")
    name = config.architectures[0] if config.architectures else plain or f"{config.model_type} encoder"
    if sentence and sentence.pools and plain and not name.endswith("EncoderModel"):
        name = plain
    if trusted and (found := foreign_class(directory, written, name, pools=bool(sentence and sentence.pools))):
        return found  # type: ignore[no-any-return]
    model_class = getattr(transformers, name, None)
    if isinstance(model_class, type) and issubclass(model_class, PreTrainedModel):
        return model_class
    if code_of(written) and not trusted:
        raise untrusted_code(directory, written)
    raise ModelError(
        f"{directory} has a {name}, a class that transformers {transformers.__version__} does not have. Load it in Python with "
        "its own class and give the model to prune(), or save its code with it (register_for_auto_class)."
    )


def _load(model_class: type[PreTrainedModel], directory: Path, dtype: torch.dtype | None, task: Task) -> nn.Module:
    """Load the model on the CPU [dtype None: as saved].

    Raises:
        ModelError: The files are broken, hold other weights than the model has, or weights that are not finite.
        CheckpointError: The files of a pruned model are broken, or hold other weights.
    """
    if is_pruned(directory):
        model = load(directory, dtype=dtype or "auto", model_class=model_class)
    else:
        model = load_dense(model_class, directory, dtype, task)
    check_finite(model, directory)
    return model


def _tokenizer(
    directory: Path, model_class: type[PreTrainedModel], sentence: SentenceTransformer | None, trusted: bool
) -> PreTrainedTokenizerBase | None:
    """The model's processor, if it has one, with the settings of a SentenceTransformer."""
    processor: PreTrainedTokenizerBase | None = read_processor(directory, model_class, trust_remote_code=trusted)
    text = tokenizer_of(processor)
    if text is not None and sentence is not None:
        for name, value in sentence.tokenizer.items():
            setattr(text, name, value)
        if sentence.lowercase:
            lower_case(text)
    return processor


def _companions(sentence: SentenceTransformer | None, processor: Any) -> Mapping[str, bytes]:
    """The files beside a SentenceTransformer's encoder, in the form that all versions open."""
    return older_form(sentence.companions, maximum_length(processor)) if sentence else {}


def _task(
    config: PretrainedConfig, model_class: type[PreTrainedModel], sentence: SentenceTransformer | None, directory: Path
) -> Task:
    task = task_for(config, model_class)
    return _with_options(task, sentence.options, directory) if sentence else task


def _with_options(task: Task, options: Mapping[str, Any], directory: Path) -> Task:
    """The task with the settings of a SentenceTransformer or a CrossEncoder.

    Raises:
        ModelError: The task has no option for one of them.
    """
    missing = [name for name in options if name not in {option.name for option in dataclasses.fields(task)}]
    if missing:
        raise ModelError(
            f"{directory} is a model of sentence-transformers with {missing[0]} {options[missing[0]]!r}, but the task "
            f"{task.name} has no such option."
        )
    return dataclasses.replace(task, **options)


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":  # mps has no float64, which pruning needs
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if str(device).partition(":")[0] == "meta":
        raise ModelError("The device 'meta' holds no weights; use auto, cpu, cuda or mps.")
    try:
        torch.empty(0, device=device)  # fails before the model is read
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        raise ModelError(f"There is no device '{device}' here: {str(error).partition(chr(10))[0]}") from error
