"""Sources: early checks of the names of models and data, before anything is opened."""

from __future__ import annotations

import re
from pathlib import Path

from fastprune.errors import DataError, ModelError, UsageError

FILES = (".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt")
"""Suffixes of supported data files."""


def check_model(source: str | Path) -> Path | None:
    """The directory of a model; None if the name can only be a Hub name.

    Raises:
        ModelError: The directory does not exist and is not a valid Hub name, or it has no model.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not any((path / name).is_file() for name in ("config.json", "modules.json")):
            raise ModelError(f"{source} is not a model directory: it has no config.json.")
        return path
    if path.exists():
        raise ModelError(f"{source} is a file, not a model directory.")
    if _is_path(source):
        raise ModelError(f"There is no model directory {source}.{_where(path)}")
    return None


def check_data(source: str | Path) -> Path | None:
    """The file or directory of data; None if the name can only be a Hub name.

    Raises:
        DataError: The file or directory does not exist and is not a valid Hub name, or the file's type is unsupported.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() not in FILES:
        raise DataError(f"The type of the file {path} is not supported; supported are {', '.join(FILES)}.")
    if path.exists():
        return path
    if _is_path(source, more=2) or re.fullmatch(r"\.[A-Za-z]\w*", path.suffix):
        raise DataError(f"There is no such file or directory: {source}.{_where(path)}")
    return None


def check_read(file: str | Path | None) -> None:
    """Check that a file exists; None is accepted.

    Raises:
        UsageError: The file does not exist.
    """
    if file is not None and not Path(file).expanduser().is_file():
        raise UsageError(f"There is no such file: {file}.{_where(Path(file).expanduser())}")


def _is_path(source: str | Path, more: int = 1) -> bool:
    """Whether a name can only be a local path: Hub names have at most ``more`` slashes and no leading dot, slash or tilde."""
    text = str(source)
    return text.startswith((".", "/", "~")) or text.count("/") > more or text.endswith("/")


def _where(path: Path) -> str:
    """A sentence with the longest existing parent of a missing path; empty for the current directory or the root."""
    parent = next(each for each in path.absolute().parents if each.exists())
    return f" Its parent {parent} exists." if parent.name and parent != Path.cwd() else ""
