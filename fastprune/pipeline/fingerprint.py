"""Fingerprints: what scores and tables were computed on, so that none is reused for another model, data or setting."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.batches import Batches
from fastprune.data.tasks import Task
from fastprune.files import library_versions

DIGITS = 16  # hexadecimal digits of a digest


def fingerprint(model: nn.Module, batches: Batches, seed: int) -> str:
    """Digest of everything that scores and cost tables depend on, besides the strategy.

    These are the model's weights, dtype, configuration and device type, the calibration set as it is batched, the task, the seed,
    and the versions of the libraries.
    """
    config: Any = getattr(model, "config", None)
    settings = config.to_json_string() if hasattr(config, "to_json_string") else ""
    parts = [
        *(type(model).__qualname__, settings, getattr(config, "_attn_implementation", None)),
        *(weights_digest(model), next(model.parameters()).device.type),
        *(data_digest(batches), task_text(batches.task), seed, library_versions()),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGITS]


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


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        if tensor.device.type != "meta":
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(values.numpy().data)
    return digest.hexdigest()[:DIGITS]
