"""Files that others may have made: JSON within limits, and no path that leads out of a model's directory."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from fastprune.errors import ModelError
from fastprune.files import user_path

LARGEST = 256 << 20
"""Maximum number of bytes of a JSON file."""


def check_inside(directory: Path, file: Path) -> Path:
    """Check that a file of a model's directory is no link out of it; links into the Hub's cache of the same model are right.

    Raises:
        ModelError: The file lies elsewhere.
    """
    real = file.resolve()
    places = [directory.resolve()]
    places += [parent.parent / "blobs" for parent in places[0].parents if parent.name == "snapshots"]
    if not any(real.is_relative_to(place) for place in places):
        raise ModelError(f"{file} is a link out of {directory}, to {real}; copy the file there.")
    return file


def read_weight_index(directory: Path, index: Path) -> list[Path]:
    """The weight files that an index names.

    Raises:
        ModelError: The index is broken, or names a file outside of the directory.
    """
    try:
        names = sorted(set(map(str, read_json(index)["weight_map"].values())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read: {type(error).__name__}: {error}") from error
    for name in names:
        if PurePath(name).is_absolute() or PureWindowsPath(name).drive or ".." in re.split(r"[\\/]", name):
            raise ModelError(f"{index} names the file '{name}', which is outside of {directory}.")
    return [directory / name for name in names]


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: It is not JSON, nested too deeply, or larger than ``LARGEST``.
        OSError: The file cannot be read.
    """
    path = user_path(path)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 20} MB")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
