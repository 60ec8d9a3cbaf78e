"""Entries: nested values with tensors, each in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastprune.files import written_file

log = logging.getLogger(__name__)

ENTRY = ".safetensors"
PLAIN = (str, int, float, bool, type(None))


def write_entry(path: Path, value: Any) -> Any:
    """Write nested dicts, lists and tuples of tensors, numbers, texts and None as one safetensors file, whole or not at all.

    Returns:
        The value as ``read_entry`` reads it.

    Raises:
        UsageError: The file cannot be written, for instance because the disk is full.
    """
    tensors: list[Tensor] = []
    shape = _taken_apart(value, tensors)
    with written_file(path) as scratch:
        try:
            named = {str(place): tensor.cpu() for place, tensor in enumerate(tensors)}
            save_file(_apart(named), scratch, {"shape": json.dumps(shape)})
            with scratch.open("rb") as written:
                os.fsync(written.fileno())
        except SafetensorError as error:  # its errors of input and output are no OSError
            raise OSError(str(error)) from error
        scratch.chmod(path.parent.stat().st_mode & 0o666)  # save_file makes files for the owner alone
    return _put_together(shape, tensors)


def read_entry(path: Path) -> Any:
    """What ``write_entry`` wrote; None where there is no file, or none that can be read."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            shape = json.loads(file.metadata()["shape"])
            tensors = [file.get_tensor(str(place)).clone() for place in range(len(file.keys()))]
        return _put_together(shape, tensors)
    except Exception as error:  # a torn file: whatever it stumbles over
        log.warning("%s cannot be read (%s) and is computed again", path, type(error).__name__)
        return None


def _taken_apart(value: Any, tensors: list[Tensor]) -> Any:
    """The shape of a value for JSON; its tensors are appended to a list, contiguous."""
    if isinstance(value, Tensor):
        tensors.append(value.detach().contiguous())
        return {"tensor": len(tensors) - 1, "device": str(value.device)}
    if isinstance(value, Mapping):
        return {"dict": {name: _taken_apart(each, tensors) for name, each in value.items()}}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_taken_apart(each, tensors) for each in value]}
    if isinstance(value, PLAIN):
        return value
    raise TypeError(f"an entry takes tensors, numbers and texts, not {type(value).__name__}")


def _put_together(shape: Any, tensors: list[Tensor]) -> Any:
    """The value of which ``_taken_apart`` returned the shape."""
    if not isinstance(shape, dict):
        return shape
    if "tensor" in shape:
        return tensors[shape["tensor"]].to(shape["device"])
    ((kind, parts),) = shape.items()
    if kind == "dict":
        return {name: _put_together(each, tensors) for name, each in parts.items()}
    every = [_put_together(each, tensors) for each in parts]
    return tuple(every) if kind == "tuple" else every


def _apart(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which none shares memory with another, which safetensors refuses."""
    seen: set[int] = set()
    found = {}
    for name, tensor in named.items():
        address = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return found
