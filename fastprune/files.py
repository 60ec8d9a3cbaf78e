"""Files: checks of paths and sources before any work, and writing without partial files."""

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
except ImportError:  # Windows: temporary files of killed processes are not deleted
    fcntl = None  # type: ignore[assignment]

DATA_FILES = (".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt")
"""Endings of supported data files."""
ADAPTER = "adapter_config.json"
PARTIAL = ".partial-"
"""Prefix of the names of files and directories that are still being written."""


def user_path(path: str | Path) -> Path:
    """The path with ``~`` replaced by the user's home directory."""
    return Path(os.path.expanduser(path))  # Path.expanduser fails for unknown users


def check_output(path: str | Path) -> Path:
    """Check that a new directory can be created at ``path``.

    Returns:
        The path, without ``~``.

    Raises:
        CheckpointError: The path is a file or a non-empty directory, or its parent is not a writable directory.
    """
    path = user_path(path)
    if path.is_dir() and any(not each.name.startswith(PARTIAL) for each in path.iterdir()):
        raise CheckpointError(
            f"The output directory {path} exists and is not empty; name another directory or empty it."
        )
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"The output {path} is a file; name a directory.")
    nearest = next(place for place in (path.resolve(), *path.resolve().parents) if place.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise CheckpointError(f"The output directory {path} cannot be created: {nearest} is not a writable directory.")
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
        raise UsageError(f"The file {path} cannot be written; name another path.")
    return user_path(path)


def check_model(source: str | Path) -> Path | None:
    """The local directory of a model; None if the name can only be a name on the Hub.

    Raises:
        ModelError: The directory does not exist and the name is no valid Hub name, or the directory has no model.
    """
    path = user_path(source)
    if path.is_dir():
        check_no_adapter(path)
        if not any((path / name).is_file() for name in ("config.json", "modules.json")):
            raise ModelError(f"{source} is not a model directory: it has no config.json.")
        return path
    if path.exists():
        raise ModelError(f"{source} is a file, not a model directory.")
    if _is_path(source):
        raise ModelError(f"There is no model directory {source}.{_where(path)}")
    return None


def check_no_adapter(directory: Path) -> None:
    """Raise ``ModelError`` for the directory of an adapter: its model is elsewhere, or was not merged with it."""
    if (directory / ADAPTER).is_file():
        raise ModelError(
            f"{directory} holds an adapter ({ADAPTER}). Merge it into its model (peft's merge_and_unload), save the merged "
            "model, and name its directory."
        )


def check_data(source: str | Path) -> Path | None:
    """The local file or directory of data; None if the name can only be a name on the Hub.

    Raises:
        DataError: The path does not exist and the name is no valid Hub name, or the file's ending is not supported.
    """
    path = user_path(source)
    if path.is_file() and path.suffix.lower() not in DATA_FILES:
        raise DataError(f"The type of the file {path} is not supported; supported are {', '.join(DATA_FILES)}.")
    if path.exists():
        return path
    if _is_path(source, more=2) or re.fullmatch(r"\.[A-Za-z]\w*", path.suffix):
        raise DataError(f"There is no such file or directory: {source}.{_where(path)}")
    return None


def check_read(file: str | Path | None) -> None:
    """Check that an input file exists; None means no file.

    Raises:
        UsageError: The file does not exist.
    """
    if file is not None and not user_path(file).is_file():
        raise UsageError(f"There is no such file: {file}.{_where(user_path(file))}")


@contextlib.contextmanager
def written_directory(path: str | Path) -> Iterator[Path]:
    """Within the context, a temporary directory to write to; at the end its contents become the target. After an error nothing
    is left.

    A target that does not exist is created by a rename, in one step. An existing target stays the same directory, because it may be
    the current directory, a link, or a mount: the contents are moved into it.

    Args:
        path: Directory; new or empty.

    Raises:
        CheckpointError: The target is not empty, or cannot be created.
    """
    target = check_output(path).resolve()
    exists = target.is_dir()
    with _partial(target if exists else target.parent, target.name) as scratch:
        scratch.mkdir()
        yield scratch
        readable = scratch.stat().st_mode
        for file in scratch.rglob("*"):  # libraries create some files for the owner alone: grant the usual permissions
            file.chmod(readable if file.is_dir() else readable & ~0o111)
        check_output(target)
        if exists:
            for file in list(scratch.iterdir()):
                file.replace(target / file.name)
        else:
            scratch.replace(target)


@contextlib.contextmanager
def written_file(path: str | Path) -> Iterator[Path]:
    """Within the context, a temporary file to write, with the target's ending; at the end it becomes the target. After an error
    nothing is left. Missing parent directories are created."""
    target = user_path(path)
    with _partial(target.parent, target.name) as scratch:
        yield scratch
        scratch.replace(target)


def write_text(path: str | Path, text: str) -> Path:
    """Write a file without leaving a partial one after an error; returns the path, without ``~``."""
    with written_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return user_path(path)


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON. NaN and infinity, which JSON does not have, become null, such as the correlation of constant
    predictions."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _partial(folder: Path, name: str) -> Iterator[Path]:
    """Within the context, an unused path in a folder, which is created if missing. At the end the path is deleted; at the
    beginning, leftovers of killed processes are deleted.

    A process protects its path by a lock on a file next to it; the operating system releases the lock when the process ends.
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
    """Delete a partial file or directory and its lock, unless a process holds the lock or locks are not supported."""
    with contextlib.suppress(OSError), lock.open("r+") as held:
        if _lock(held.fileno(), wait=False):
            _delete(lock.with_suffix(""))
            lock.unlink(missing_ok=True)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed; False if the file system has no locks, or if another process holds the lock and
    ``wait`` is False."""
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
    """Whether a source is a local path: names on the Hub have an owner, a name, and at most ``more`` slashes."""
    text = str(source)
    return text.startswith((".", "/", "~")) or text.count("/") > more or text.endswith("/")


def _where(path: Path) -> str:
    """Sentence for messages about a missing path: the nearest existing parent directory."""
    place = next(each for each in path.absolute().parents if each.exists())
    return f" Its parent {place} exists." if place.name and place != Path.cwd() else ""
