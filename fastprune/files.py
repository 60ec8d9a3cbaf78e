"""Files: checks of paths and sources before any work, and writing without partial files."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from fastprune.errors import CheckpointError, DataError, ModelError, UsageError

try:
    import fcntl
except ImportError:  # Windows: temporary files of killed processes are not deleted
    fcntl = None  # type: ignore[assignment]

DATA_FILES = (".bio", ".conll", ".csv", ".iob", ".json", ".jsonl", ".parquet", ".tsv", ".txt", ".xlsx")
"""Endings of supported data files; all but Excel's and Parquet's may be compressed (``.csv.gz``)."""
ADAPTER = "adapter_config.json"
PARTIAL = ".partial-"
"""Prefix of the names of files and directories that are still being written."""
MODEL_FILES = ("config.json", "modules.json")
"""Files of which a model directory has at least one."""


def user_path(path: str | Path) -> Path:
    """The path with ``~`` replaced by the user's home directory."""
    return Path(os.path.expanduser(path))  # Path.expanduser fails for unknown users


def check_output(path: str | Path) -> Path:
    """Check that a new directory can be created at ``path``.

    Returns:
        The path, without ``~``.

    Raises:
        CheckpointError: The path is empty, invalid, a file or a non-empty directory, or its parent is not a writable directory.
    """
    with _valid(path, CheckpointError):
        place = user_path(path)
        if place.is_dir() and any(not each.name.startswith(PARTIAL) for each in place.iterdir()):
            raise CheckpointError(
                f"The output directory {path} exists and is not empty; name another directory or empty it."
            )
        if place.exists() and not place.is_dir():
            raise CheckpointError(f"The output {path} is a file; name a directory.")
        nearest = _nearest(place)
        if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            raise CheckpointError(
                f"The output directory {path} cannot be created: {nearest} is not a writable directory."
            )
        return place


def check_file(path: str | Path, *, mark: bytes = b"") -> Path:
    """Check that a file can be written at ``path``.

    Args:
        path: The file.
        mark: An existing file is replaced only if it contains these bytes: fastprune wrote it.

    Returns:
        The path, without ``~``.

    Raises:
        UsageError: The path is empty, invalid, a directory or another existing file, or its parent is not a writable directory.
    """
    with _valid(path, UsageError):
        place = user_path(path)
        parent = _nearest(place.absolute().parent)
        if place.is_dir() or not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise UsageError(f"The file {path} cannot be written; name another path.")
        if place.exists() and not (place.is_file() and mark in place.read_bytes()):
            raise UsageError(f"The file {path} exists and is not an earlier output; name another path or delete it.")
        return place


def check_space(path: str | Path, needed: int) -> None:
    """Raise ``CheckpointError`` if the disk of an output has fewer than ``needed`` bytes free."""
    place = _nearest(user_path(path))
    free = shutil.disk_usage(place).free
    if free < needed:
        raise CheckpointError(
            f"The output {path} needs up to {needed / 1e6:,.0f} MB, and its disk has {free / 1e6:,.0f} MB free; "
            "name another directory or delete files."
        )


@contextlib.contextmanager
def claimed(path: str | Path) -> Iterator[None]:
    """Within the context, another process that claims the same output is refused. The claim of a dead process does not count.

    Args:
        path: A directory or file to write; it does not have to exist.

    Raises:
        UsageError: Another process has claimed the path, or nothing can be written there.
    """
    target = user_path(path).resolve()
    place = target if target.is_dir() else _nearest(target.parent)
    lock = place / f"{PARTIAL}{hashlib.sha256(os.fsencode(target)).hexdigest()[:8]}-claim.lock"
    try:
        held = _claim(lock, path)
    except OSError as error:
        raise UsageError(f"The output {path} cannot be written: {_said(error)}.") from error
    with held:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _claim(lock: Path, path: str | Path) -> IO[str]:
    """Create and lock the file of a claim; the file stays locked until it is closed."""
    while True:
        held = lock.open("a+")
        if _lock(held.fileno(), wait=False) is False:
            held.seek(0)
            owner = held.read()
            held.close()
            raise UsageError(f"Another process ({owner}) is writing to {path}; name another output, or wait for it.")
        if lock.exists() and os.path.samestat(lock.stat(), os.fstat(held.fileno())):
            held.truncate(0)
            held.write(str(os.getpid()))
            held.flush()
            return held
        held.close()  # the owner deleted the file before we locked it


def check_model(source: str | Path) -> Path | None:
    """The local directory of a model; None if the name can only be a name on the Hub.

    Raises:
        ModelError: The directory does not exist and the name is no valid Hub name, or the directory has no model.
    """
    path = user_path(source)
    if path.is_dir():
        check_no_adapter(path)
        if not any((path / name).is_file() for name in MODEL_FILES):
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
    if path.is_file() and not path.name.lower().removesuffix(".gz").endswith(DATA_FILES):
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
        CheckpointError: The target is not empty, or cannot be written, for instance because the disk is full.
    """
    target = check_output(path).resolve()
    exists = target.is_dir()
    try:
        with _partial(target if exists else target.parent, target.name) as scratch:
            scratch.mkdir()
            yield scratch
            readable = scratch.stat().st_mode
            for file in scratch.rglob(
                "*"
            ):  # libraries create some files for the owner alone: grant the usual permissions
                file.chmod(readable if file.is_dir() else readable & ~0o111)
            check_output(target)
            if exists:
                _move_into(scratch, target)
            else:
                scratch.replace(target)
    except OSError as error:
        raise CheckpointError(
            f"The directory {path} cannot be written: {_said(error)}. Nothing was written."
        ) from error


def _move_into(scratch: Path, target: Path) -> None:
    """Move all files of a directory into an empty one. ``MODEL_FILES`` come last: without them it is no model."""
    with _locked_directory(target):
        check_output(target)
        for file in sorted(scratch.iterdir(), key=lambda file: file.name in MODEL_FILES):
            file.replace(target / file.name)


@contextlib.contextmanager
def _locked_directory(path: Path) -> Iterator[None]:
    """Within the context, other processes that lock the directory wait."""
    descriptor = os.open(path, os.O_RDONLY) if fcntl else None
    try:
        if descriptor is not None:
            _lock(descriptor, wait=True)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def written_file(path: str | Path) -> Iterator[Path]:
    """Within the context, a temporary file to write, with the target's ending; at the end it becomes the target. After an error
    nothing is left. Missing parent directories are created.

    Raises:
        UsageError: The file cannot be written, for instance because the disk is full.
    """
    target = user_path(path)
    try:
        with _partial(target.parent, target.name) as scratch:
            yield scratch
            scratch.replace(target)
    except OSError as error:
        raise UsageError(f"The file {path} cannot be written: {_said(error)}. Nothing was written.") from error


def write_text(path: str | Path, text: str) -> Path:
    """Write a file without leaving a partial one after an error; returns the path, without ``~``."""
    with written_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no Unicode
    return user_path(path)


def library_versions() -> dict[str, str]:
    """Versions of fastprune, torch, transformers and Python, for written files."""
    return {name: version(name) for name in ("fastprune", "torch", "transformers")} | {
        "python": platform.python_version()
    }


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


def delete_abandoned(folder: Path) -> None:
    """Delete what killed processes have left half-written in a directory."""
    for lock in folder.glob(f"{PARTIAL}*.lock"):
        _delete_abandoned(lock)


def _delete_abandoned(lock: Path) -> None:
    """Delete a partial file or directory and its lock, unless a process holds the lock or locks are not supported."""
    with contextlib.suppress(OSError), lock.open("r+") as held:
        if _lock(held.fileno(), wait=False):
            _delete(lock.with_suffix(""))
            lock.unlink(missing_ok=True)


def _lock(descriptor: int, *, wait: bool) -> bool | None:
    """Lock an open file until it is closed; False if another process holds the lock and ``wait`` is False; None if the file
    system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
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
    return similar(path) or (f" Its parent {place} exists." if place.name and place != Path.cwd() else "")


def similar(path: str | Path) -> str:
    """Sentence for messages about a missing path: the most similar name beside it; empty if there is none."""
    place = user_path(path)
    with contextlib.suppress(OSError):
        found = difflib.get_close_matches(place.name, [each.name for each in place.parent.iterdir()], n=1, cutoff=0.75)
        return f" Did you mean {place.parent / found[0]}?" if found else ""
    return ""


def _nearest(path: Path) -> Path:
    """The path itself if it exists, else its nearest existing parent; without links."""
    path = path.resolve()
    return next(place for place in (path, *path.parents) if place.exists())


@contextlib.contextmanager
def _valid(path: str | Path, refusal: type[UsageError]) -> Iterator[None]:
    """Within the context, refuse an output path that is empty or that the operating system does not accept."""
    if not str(path).strip():
        raise refusal("The output is empty; name a path.")
    if str(user_path(path)).startswith("~"):
        raise refusal(f"The output {path} cannot be written: there is no such home directory.")
    try:
        user_path(path).resolve()
        yield
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, a loop of links
        raise refusal(f"The output {str(path)[:200]!r} cannot be written: {_said(error)}.") from error


def _said(error: BaseException) -> str:
    """The reason of an error in one line, without the path that ``OSError`` adds."""
    return str(getattr(error, "strerror", None) or error).strip().partition("\n")[0]
