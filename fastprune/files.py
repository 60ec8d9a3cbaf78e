"""Files: places and sources are checked before any work; what is written is there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastprune.errors import CheckpointError, DataError, ModelError, UsageError

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves behind stays there
    fcntl = None  # type: ignore[assignment]

DATA_FILES = (".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt")
"""The kinds of files that data are read from."""
PARTIAL = ".partial-"
"""What the name of a file or directory begins with that is not whole yet."""


def user_path(path: str | Path) -> Path:
    """The path with the user's home in the place of ``~``."""
    return Path(os.path.expanduser(path))  # Path.expanduser fails where there is no such user


def check_output(path: str | Path) -> Path:
    """Check that a new directory can be created at ``path``.

    Returns:
        The path, without ``~``.

    Raises:
        CheckpointError: The path is a file or a non-empty directory, or its parent is not a writable directory.
    """
    path = user_path(path)
    if path.is_dir() and any(not each.name.startswith(PARTIAL) for each in path.iterdir()):
        raise CheckpointError(f"The output directory {path} exists and is not empty; name another, or empty it.")
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"The output {path} is a file; name a directory.")
    nearest = next(place for place in (path.resolve(), *path.resolve().parents) if place.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise CheckpointError(
            f"The output directory {path} cannot be made: {nearest} is not a directory one can write to."
        )
    return path


def check_file(path: str | Path) -> Path:
    """Check that a file can be written at ``path``.

    Returns:
        The path, without ``~``.

    Raises:
        UsageError: The path is a directory, or its parent is not a writable directory.
    """
    place = user_path(path).absolute()
    parent = next((each for each in place.parents if each.exists()), place)
    if place.is_dir() or not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise UsageError(f"The file {path} cannot be written; name another place.")
    return user_path(path)


def check_model(source: str | Path) -> Path | None:
    """The directory of a model; None where the name can only be the Hub's.

    Raises:
        ModelError: There is no such directory and the Hub has no such names, or it holds no model.
    """
    path = user_path(source)
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
    path = user_path(source)
    if path.is_file() and path.suffix.lower() not in DATA_FILES:
        raise DataError(f"{path} is of an unknown kind; known are {', '.join(DATA_FILES)}.")
    if path.exists():
        return path
    if _is_path(source, more=2) or re.fullmatch(r"\.[A-Za-z]\w*", path.suffix):
        raise DataError(f"There is no such file or directory: {source}.{_where(path)}")
    return None


def check_read(file: str | Path | None) -> None:
    """Refuse a file that is to be read and does not exist; None is no file.

    Raises:
        UsageError: It is none.
    """
    if file is not None and not user_path(file).is_file():
        raise UsageError(f"There is no such file: {file}.{_where(user_path(file))}")


@contextlib.contextmanager
def written_directory(path: str | Path) -> Iterator[Path]:
    """A directory to write to, of which the target gets everything at the end; after an error nothing is left.

    A target that does not exist comes about in one step. One that exists stays the same directory, which may be the current
    one, a link, or mounted: what was written is moved into it.

    Args:
        path: A directory that does not exist, or is empty.

    Raises:
        CheckpointError: The target is in the way.
    """
    target = check_output(path).resolve()
    exists = target.is_dir()
    with _partial(target if exists else target.parent, target.name) as scratch:
        scratch.mkdir()
        yield scratch
        readable = scratch.stat().st_mode
        for file in scratch.rglob("*"):  # what libraries write for the owner alone is for whoever may read the rest
            file.chmod(readable if file.is_dir() else readable & ~0o111)
        check_output(target)
        if exists:
            for file in list(scratch.iterdir()):
                file.replace(target / file.name)
        else:
            scratch.replace(target)


@contextlib.contextmanager
def written_file(path: str | Path) -> Iterator[Path]:
    """A file to write, with the ending of the target, which it becomes at the end; after an error nothing is left. The
    target's directory is made where there is none."""
    target = user_path(path)
    with _partial(target.parent, target.name) as scratch:
        yield scratch
        scratch.replace(target)


def write_text(path: str | Path, text: str) -> Path:
    """Write a file, whole or not at all; returns the path, without ``~``."""
    with written_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return user_path(path)


def json_text(value: Any, indent: int | None = None) -> str:
    """The text of a value in JSON, which has no NaN and no infinity: null stands for both, such as for the correlation of
    constant predictions."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _partial(folder: Path, name: str) -> Iterator[Path]:
    """A free name in a folder, which is made where there is none. At the end what has the name is deleted; so is, at the
    beginning, what a killed process left.

    A process marks what it writes by a lock on a file beside it, which the operating system opens when the process ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{PARTIAL}*.lock"):
        if left.name.endswith(f"-{name}.lock"):
            _delete_abandoned(left)
    scratch = folder / f"{PARTIAL}{secrets.token_hex(4)}-{name}"
    lock = scratch.with_name(f"{scratch.name}.lock")
    try:
        with lock.open("x") as held:
            _lock(held.fileno(), wait=True)
            try:
                yield scratch
            finally:
                _delete(scratch)
    finally:
        lock.unlink(missing_ok=True)


def _delete_abandoned(lock: Path) -> None:
    """Delete what was being written under a lock, and the lock, unless a process holds it or that cannot be told."""
    with contextlib.suppress(OSError), lock.open("r+") as held:
        if _lock(held.fileno(), wait=False):
            _delete(lock.with_suffix(""))
            lock.unlink(missing_ok=True)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed; False where the file system has no locks, or another process holds it and one does
    not wait."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_path(source: str | Path, more: int = 1) -> bool:
    """Whether it is a place on this machine: the Hub's names have an owner, a name, and ``more`` slashes at most."""
    text = str(source)
    return text.startswith((".", "/", "~")) or text.count("/") > more or text.endswith("/")


def _where(path: Path) -> str:
    """How far the path does lead, for one that leads nowhere."""
    place = next(each for each in path.absolute().parents if each.exists())
    return f" The path leads as far as {place}." if place.name and place != Path.cwd() else ""
