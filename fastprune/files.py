"""Writing: places are checked before any work is done, and what is written is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from fastprune.errors import CheckpointError, UsageError


def check_output(path: str | Path) -> Path:
    """Refuse a place that a new directory cannot take, before any work is done.

    Raises:
        CheckpointError: It is a file, a directory with something in it, or below something that is no directory.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise CheckpointError(f"The output directory {path} exists and is not empty; name another, or empty it.")
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"The output {path} is a file; name a directory.")
    parent = next(place for place in path.absolute().parents if place.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise CheckpointError(
            f"The output directory {path} cannot be made: {parent} is not a directory one can write to."
        )
    return path


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A directory to write to, beside the target; at the end it becomes the target, after an error nothing is left.

    Args:
        path: A directory that does not exist, or is empty.
    """
    path = check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f".{path.name}-{secrets.token_hex(4)}"
    scratch.mkdir()
    try:
        yield scratch
        readable = scratch.stat().st_mode
        for file in scratch.rglob("*"):  # what libraries write for the owner alone is for whoever may read the rest
            file.chmod(readable if file.is_dir() else readable & ~0o111)
        if path.is_dir():
            path.rmdir()
        scratch.replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_file(path: str | Path) -> Path:
    """Refuse a place where no file can be written, before any work is done.

    Raises:
        UsageError: It is a directory, or below something that is none or cannot be written to.
    """
    place = Path(path).absolute()
    parent = next((each for each in place.parents if each.exists()), place)
    if place.is_dir() or not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise UsageError(f"The file {path} cannot be written; name another place.")
    return Path(path)


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all; its directory is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
