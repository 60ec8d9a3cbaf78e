"""Weights: what a checkpoint's files hold, and whether all of it, and nothing else, is in the opened model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import nn

from fastprune.data.batches import inputs_for
from fastprune.data.workload import dummy_inputs, readings_for
from fastprune.errors import FastpruneError, ModelError
from fastprune.progress.quiet import quiet_libraries
from fastprune.untrusted import read_weight_index

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fastprune.data.tasks import Task

log = logging.getLogger(__name__)

FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights in one file; those of several files have an index with these names and the ending .index.json."""
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names under which torch.compile, DataParallel, FSDP and activation checkpointing hold the wrapped module."""
FLOATS: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Floating-point types by their names in safetensors."""
DTYPES: Mapping[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")
}
SHORT = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
ADVICE = (
    "What is missing would be random, such as a head that was never trained. Correct the architectures and sizes in config.json, "
    "or train and save the model first."
)
SHOWN = 4
"""Number of names in a message."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file: its shape, and its dtype if it is a floating-point one, else None."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None

    @property
    def is_weight(self) -> bool:
        """Whether it can be a weight: old checkpoints also hold masks, position numbers and single numbers."""
        return bool(self.shape) and self.dtype is not None


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """The tensors in the weight files of a directory, by name, without reading their values; empty if the files are unknown.

    Raises:
        OSError, ValueError, RuntimeError, SafetensorError: A file is missing or broken.
    """
    found: dict[str, StoredTensor] = {}
    for file in _files(directory):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118, it is no mapping
                    part = tensors.get_slice(name)
                    found[name] = StoredTensor(shape=tuple(part.get_shape()), dtype=FLOATS.get(part.get_dtype()))
        else:
            tensors = torch.load(file, map_location="meta", weights_only=True)
            found |= {
                name: StoredTensor(shape=tuple(each.shape), dtype=each.dtype if each.is_floating_point() else None)
                for name, each in tensors.items()
                if isinstance(each, torch.Tensor)
            }
    return found


def stored_dtype(stored: Mapping[str, StoredTensor]) -> torch.dtype | None:
    """The dtype of most floating-point numbers of a checkpoint; None without any."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in stored.values():
        if tensor.dtype is not None:
            counts[tensor.dtype] += torch.Size(tensor.shape).numel()
    return counts.most_common(1)[0][0] if counts else None


def stored_state(model: PreTrainedModel, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """The model's tensors as they are saved: those of its own dtype in ``dtype`` [None: unchanged]; tied ones stay tied."""
    state: dict[str, torch.Tensor] = model.state_dict()
    if dtype is None or dtype == model.dtype:
        return state
    made: dict[Any, torch.Tensor] = {}
    for name, tensor in state.items():
        if tensor.dtype == model.dtype:
            key = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
            made.setdefault(key, tensor.to(dtype))
            state[name] = made[key]
    return state


def wrong_keys(model: nn.Module, info: Mapping[str, Any], stored: Mapping[str, StoredTensor], advice: str = "") -> str:
    """The difference between a checkpoint and the model opened from it, as text for an error; empty if there is none.

    Weights outside of the model's lists of layers that the model's class does not have, such as another head, may be left out;
    a warning names them. Inside of a layer they would change what the layer computes.

    Args:
        model: The opened model.
        info: transformers' loading info: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``, without exceptions of the
            model's class such as tied weights.
        stored: The checkpoint's tensors.
        advice: What to do, unless the names of a wrapper are in the file's keys.
    """
    missing = sorted(info["missing_keys"])
    shapes = [f"{name} ({_size(got)}, not {_size(asked)})" for name, got, asked in sorted(info["mismatched_keys"])]
    inside = [name for name in sorted(info["unexpected_keys"]) if _is_wrong(model, name, stored)]
    kinds = {"missing in the file": missing, "unknown to the model": inside, "of another shape": shapes}
    wrong = "; ".join(f"{kind}: {shown(names)}" for kind, names in kinds.items() if names)
    if wrong:
        hint = _wrapper_hint(model, info["unexpected_keys"], stored)
        return f"{wrong}. {hint or advice}".strip()
    if left_out := sorted(info["unexpected_keys"]):
        log.warning("Weights that a %s does not have are left out: %s", type(model).__name__, shown(left_out))
    return ""


def read_dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    """The dtype by its name; None for "auto".

    Raises:
        ModelError: There is no such dtype.
    """
    if dtype == "auto":
        return None
    if isinstance(dtype, torch.dtype):
        return dtype
    dtype = SHORT.get(dtype, dtype)
    if dtype not in DTYPES:
        raise ModelError(f"There is no dtype '{dtype}'; use auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def load_dense(
    model_class: type[PreTrainedModel], directory: Path, dtype: torch.dtype | None, task: Task
) -> PreTrainedModel:
    """Load a model that is not pruned on the CPU [dtype None: as saved]. Weights that the task does not use may be missing.

    Raises:
        ModelError: The files are broken, or hold other weights than the model has.
    """
    try:
        stored = stored_tensors(directory)
        model, info = load_with_info(model_class, directory, dtype or "auto")
    except Exception as error:  # broken files, wrong shapes and bad pickles raise unrelated types of errors
        reason = first_lines(error)
        raise ModelError(f"{directory} cannot be loaded as {model_class.__name__}: {reason}") from error
    unused = unread(model, info["missing_keys"], task) if info["missing_keys"] else []
    if wrong := wrong_keys(model, info | {"missing_keys": info["missing_keys"] - set(unused)}, stored, ADVICE):
        raise ModelError(f"The weights in {directory} are not those of a {model_class.__name__}: {wrong}")
    if unused:
        log.warning("The checkpoint has no %s, which the task does not use; they are zero.", shown(unused))
    with torch.no_grad():
        for name in unused:
            model.get_parameter(name).zero_()
    return model


def load_with_info(
    model_class: type[PreTrainedModel], directory: Path, dtype: torch.dtype | str
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a model from its directory with transformers' loading info, which also names the tensors of another shape.

    Any error of transformers is raised as it is.
    """
    loader: Any = model_class
    with quiet_libraries():
        model, info = loader.from_pretrained(
            str(directory),
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
    return model, info


def unread(model: nn.Module, names: Iterable[str], task: Task) -> list[str]:
    """Which of these parameters the task's loss does not depend on, such as those of a pooler where tokens are pooled.

    Args:
        model: A transformers model on the CPU.
        names: Names of parameters and buffers.
        task: The model's task.
    """
    parameters = dict(model.named_parameters())
    asked = {name: parameters[name] for name in names if name in parameters}
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.enable_grad():
            batch: Any = inputs_for(model, dummy_inputs(model, [readings_for(model, 4)] * 2, generator))
            outputs = model(**batch)
            labels = task.draw_labels(outputs, batch, generator)
            loss = task.loss(outputs, {**batch, **labels}).sum()
            gradients = torch.autograd.grad(loss, list(asked.values()), allow_unused=True)
    except (FastpruneError, RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        log.debug("the %s cannot be run on made-up inputs: %s", type(model).__name__, error)
        return []
    return [name for name, gradient in zip(asked, gradients, strict=True) if gradient is None]


def check_finite(model: nn.Module, source: str | Path) -> None:
    """Raise ``ModelError`` if a parameter has NaN or infinite values, or a buffer NaN."""
    parameters = [(name, each.detach()) for name, each in model.named_parameters() if not each.is_meta]  # not offloaded
    wrong = [name for name, each in parameters if not bool(each.isfinite().all())]
    wrong += [name for name, each in model.named_buffers() if not each.is_meta and bool(each.isnan().any())]
    if wrong:
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        raise ModelError(
            f"The weights in {source} have NaN or infinite values, read as {dtype}: {shown(wrong)}. Train or save the model "
            "again, or open it in a dtype of a larger range."
        )


def first_lines(error: Exception) -> str:
    """The first line of an error, with the next if it announces it, and the name of errors that are only a key."""
    first, _, rest = str(error).strip().partition("\n")
    if isinstance(error, KeyError):
        return f"there is no {first}"
    return f"{first} {rest.strip().partition(chr(10))[0]}" if first.endswith(":") else first


def shown(names: Iterable[str]) -> str:
    """The first names and the number of the others, for messages."""
    every = list(names)
    more = len(every) - SHOWN
    return ", ".join(every[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _files(directory: Path) -> list[Path]:
    """The files that transformers reads the weights of a directory from."""
    for name in FILES:
        if (directory / name).is_file():
            return [directory / name]
        index = directory / f"{name}.index.json"
        if index.is_file():
            return read_weight_index(directory, index)
    return []


def _is_wrong(model: nn.Module, name: str, stored: Mapping[str, StoredTensor]) -> bool:
    """Whether a tensor that the model does not have is a weight inside of a list of layers, with or without the base's prefix."""
    tensor = stored.get(name)
    if tensor is not None and not tensor.is_weight:
        return False
    base = f"{getattr(model, 'base_model_prefix', '')}."
    return any(_in_layers(model, each) for each in (name, name.removeprefix(base), f"{base}{name}"))


def _in_layers(model: nn.Module, name: str) -> bool:
    module: nn.Module | None = model
    for part in name.split("."):
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            return True
        module = getattr(module, part, None)
        if not isinstance(module, nn.Module):
            return False
    return False


def _wrapper_hint(model: nn.Module, unexpected: set[str], stored: Mapping[str, StoredTensor]) -> str:
    """A sentence about the wrapper whose names are in the file's keys; empty if there are none.

    It is a known wrapper, or the first name of all tensors in the file, where the model has no module of that name.
    """
    parts = {part for name in unexpected for part in name.split(".")}
    firsts = {name.partition(".")[0] for name in stored}
    known = next((wrapper for wrapper in WRAPPERS if wrapper in parts), "")
    strange = next(iter(firsts), "") if len(firsts) == 1 and firsts <= parts else ""
    wrapper = known or ("" if isinstance(getattr(model, strange, None), nn.Module) else strange)
    if not wrapper:
        return ""
    return (
        f"The names of the file's tensors contain '{wrapper}.', as those of a wrapped model do. Save the model inside of the "
        f"wrapper (model.{wrapper}.save_pretrained), or remove '{wrapper}.' from the names."
    )


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "one number"
