"""Sources: what is wrong with the name of a model or of data, as far as that can be told before anything is opened."""

from __future__ import annotations

import re
from pathlib import Path

from fastprune.errors import DataError, ModelError, UsageError

FILES = (".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt")
"""The kinds of files that data are read from."""


def check_model(source: str | Path) -> Path | None:
    """The directory of a model; None where the name can only be the Hub's.

    Raises:
        ModelError: There is no such directory and the Hub has no such names, or it holds no model.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not any((path / name).is_file() for name in ("config.json", "modules.json")):
            raise ModelError(f"{source} is no model directory: it has no config.json.")
        return path
    if path.exists():
        raise ModelError(f"There is no model directory {source}, but a file.")
    if _is_path(source):
        raise ModelError(f"There is no model directory {source}.{_where(path)}")
    return None


def check_data(source: str | Path) -> Path | None:
    """The file or directory of data; None where the name can only be the Hub's.

    Raises:
        DataError: There is no such file or directory and the Hub has no such names, or it is a file of an unknown kind.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() not in FILES:
        raise DataError(f"{path} is of an unknown kind; known are {', '.join(FILES)}.")
    if path.exists():
        return path
    if _is_path(source, more=2) or re.fullmatch(r"\.[A-Za-z]\w*", path.suffix):
        raise DataError(f"There is no such file or directory: {source}.{_where(path)}")
    return None


def check_read(file: str | Path | None) -> None:
    """Refuse a file that is to be read and does not exist.

    Raises:
        UsageError: It is none.
    """
    if file is not None and not Path(file).expanduser().is_file():
        raise UsageError(f"There is no such file: {file}.{_where(Path(file).expanduser())}")


def _is_path(source: str | Path, more: int = 1) -> bool:
    """Whether it is a place on this machine: the Hub's names have an owner, a name, and ``more`` slashes at most."""
    text = str(source)
    return text.startswith((".", "/", "~")) or text.count("/") > more or text.endswith("/")


def _where(path: Path) -> str:
    """How far the path does lead, for one that leads nowhere."""
    place = next(each for each in path.absolute().parents if each.exists())
    return f" The path leads as far as {place}." if place.name and place != Path.cwd() else ""
