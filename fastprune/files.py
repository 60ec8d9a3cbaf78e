"""Files: output paths are checked before any work starts, and outputs are written completely or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from fastprune.errors import CheckpointError, UsageError


def check_output(path: str | Path) -> Path:
    """Check that a new directory can be created at ``path``.

    Raises:
        CheckpointError: The path is a file or a non-empty directory, or its parent is not a writable directory.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise CheckpointError(
            f"The output directory {path} exists and is not empty; name another directory or empty it."
        )
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"The output {path} is a file; name a directory.")
    parent = next(place for place in path.absolute().parents if place.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise CheckpointError(f"The output directory {path} cannot be created: {parent} is not a writable directory.")
    return path


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary directory next to ``path`` that replaces it on success and is removed after an error.

    Args:
        path: A directory that does not exist or is empty.
    """
    path = check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f".{path.name}-{secrets.token_hex(4)}"
    scratch.mkdir()
    try:
        yield scratch
        readable = scratch.stat().st_mode
        for file in scratch.rglob("*"):  # some libraries write files that only the owner can read
            file.chmod(readable if file.is_dir() else readable & ~0o111)
        if path.is_dir():
            path.rmdir()
        scratch.replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_file(path: str | Path) -> Path:
    """Check that a file can be written at ``path``.

    Raises:
        UsageError: The path is a directory, or its parent is not a writable directory.
    """
    place = Path(path).absolute()
    parent = next((each for each in place.parents if each.exists()), place)
    if place.is_dir() or not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise UsageError(f"The file {path} cannot be written; name another path.")
    return Path(path)


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all; create its directory if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
