"""Fingerprints: what scores and tables were computed on, so that none is reused for another model, data or setting."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.batches import Batches
from fastprune.data.tasks import Task
from fastprune.files import library_versions
from fastprune.journal.places import DIGEST

DIGITS = 16  # hexadecimal digits of a digest


def fingerprint(model: nn.Module, batches: Batches, seed: int) -> str:
    """Digest of everything that scores and cost tables depend on, besides the strategy.

    These are the model's weights, dtype, configuration and device type, the calibration set as it is batched, the task, the seed,
    and the versions of the libraries.
    """
    return digest_of(setting(model, batches, seed))


def setting(model: nn.Module, batches: Batches, seed: int) -> dict[str, str]:
    """The parts of ``fingerprint``, by name."""
    config: Any = getattr(model, "config", None)
    settings = config.to_json_string() if hasattr(config, "to_json_string") else ""
    attention, device = getattr(config, "_attn_implementation", None), next(model.parameters()).device.type
    return {
        "class": type(model).__qualname__,
        "model": DIGEST + weights_digest(model),
        "configuration": DIGEST + digest_of({"settings": settings, "attention": str(attention)}),
        "dtype": dtype_text(model),
        "device": device,
        "samples": str(batches.n_samples),
        "data": DIGEST + data_digest(batches),
        "task": task_text(batches.task),
        "seed": str(seed),
    } | {f"version of {name}": each for name, each in library_versions().items()}


def code_digest(*strategies: object) -> str:
    """Digest of the source of fastprune and of the packages of these strategies: versions stay the same while one is developed."""
    tops = sorted({type(each).__module__.partition(".")[0] for each in strategies} | {"fastprune"})
    digest = hashlib.sha256()
    for module in (sys.modules[top] for top in tops):
        places = [Path(place) for place in getattr(module, "__path__", ())] or [Path(module.__file__ or "")]
        for file in (file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:DIGITS]


def weights_digest(model: nn.Module) -> str:
    """Digest of the names, shapes, dtypes and values of all parameters and buffers."""
    return _digest([*model.named_parameters(), *model.named_buffers()])


def data_digest(batches: Batches) -> str:
    """Digest of the tensors of all batches: contents, truncation, padding and batch size."""
    return _digest((f"{place} {name}", batch[name]) for place, batch in enumerate(batches) for name in sorted(batch))


def dtype_text(model: nn.Module) -> str:
    """The dtypes of the parameters, such as ``float32``."""
    return ", ".join(sorted({str(each.dtype).removeprefix("torch.") for each in model.parameters()}))


def task_text(task: Task | None) -> str:
    """The task with its settings, such as the pooling; for a task that is no dataclass, its class."""
    return repr(task) if dataclasses.is_dataclass(task) else type(task).__qualname__


def digest_of(parts: Mapping[str, str]) -> str:
    """Digest of texts by name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGITS]


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        if tensor.device.type != "meta":
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(values.numpy().data)
    return digest.hexdigest()[:DIGITS]
