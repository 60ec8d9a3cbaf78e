"""Reading data sets: files, directories, Hub names and rows in memory become one ``datasets.Dataset``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets.config
from datasets import Dataset, DatasetDict, load_dataset

from fastprune.data.folders import read_folder
from fastprune.data.rows import Rows, as_dataset, is_dataset
from fastprune.data.tables import read_file, reason
from fastprune.errors import DataError
from fastprune.files import check_data, user_path


def read_dataset(source: Rows, *, split: str | tuple[str, ...] | None = None, verbatim: bool = False) -> Dataset:
    """Read a data set from a file, a directory, the Hub, or memory.

    Args:
        source: A file (docs/data.md lists the types); a directory saved by ``datasets``, of data files, of images or sound files,
            or in BEIR's layout; a Hub name with or without a configuration (``squad``, ``glue/mrpc``, ``owner/name/config``); a
            data set of ``datasets`` or a dict of them by split; a data frame; a list of texts or dicts; or a dict of lists.
        split: Split to read; only for sources with splits. Several: in order of preference, of which a source with a single split
            needs none [train].
        verbatim: Keep the lines of text files as they are, each with its line break, for tasks that read running text
            (``Task.running_text``).

    Returns:
        The data set, with at least one row. Streamed data sets are returned as they are.

    Raises:
        DataError: The source does not exist, cannot be read, has no such split, or is empty.
    """
    told, opened = _open(source, verbatim)
    if not isinstance(opened, Mapping):
        if isinstance(split, str):
            kind = "file" if isinstance(source, (str, Path)) and user_path(source).is_file() else "data set"
            raise DataError(
                f"{told} is a single {kind} and has no split '{split}'; omit the split or name another file."
            )
        data = opened
    else:
        data = _choose_split(opened, told, split)
    if not is_dataset(data, streamed=True) and len(data) == 0:
        raise DataError(f"{told} has no rows.")
    return data


def source_name(source: Any) -> str:
    """A name of the source for messages and reports; empty for data without one."""
    return str(source) if isinstance(source, (str, Path)) else ""


def _open(source: Any, verbatim: bool) -> tuple[str, Any]:
    """The source's name for messages, and its data set or data sets by split."""
    if not isinstance(source, (str, Path)):
        if is_dataset(source) or (isinstance(source, Mapping) and source and all(map(is_dataset, source.values()))):
            return "The data", source
        return "The data", as_dataset(source)
    path = check_data(source)
    if path is None:
        return str(source), _read_hub(str(source))
    read = read_file if path.is_file() else read_folder
    return str(source), read(path, verbatim=verbatim)


def _read_hub(name: str) -> DatasetDict:
    """Load a data set from the Hub; ``a/b`` may be an owner and a name, or a name and a configuration."""
    parts = name.split("/")
    readings = [(name,), (parts[0], parts[1])] if len(parts) == 2 else [("/".join(parts[:2]), *parts[2:])]
    errors: list[Exception] = []
    for reading in readings:
        try:
            return _load(*reading)
        except Exception as error:  # a missing network, name or configuration raises unrelated types of errors
            errors.append(error)
    reasons = "; ".join(reason(error) for error in errors)
    raise DataError(
        f"'{name}' is not a local file or directory and cannot be loaded from the Hub: {reasons}"
    ) from errors[0]


def _load(*reading: str) -> DatasetDict:
    """``load_dataset``, in memory where the cache directory cannot be written."""
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    nearest = next(place for place in (cache, *cache.parents) if place.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK):
        return load_dataset(*reading)
    with tempfile.TemporaryDirectory() as folder:
        return load_dataset(*reading, cache_dir=folder, keep_in_memory=True)


def _choose_split(opened: Mapping[str, Dataset], told: str, split: str | tuple[str, ...] | None) -> Dataset:
    splits = ", ".join(opened)
    preferred = (split,) if isinstance(split, str) else split or ("train",)
    if isinstance(split, str) and split not in opened:
        raise DataError(f"{told} has no split '{split}'; it has {splits}.")
    chosen = next((name for name in preferred if name in opened), None)
    if chosen is None and len(opened) == 1:
        chosen = next(iter(opened))
    if chosen is None:
        raise DataError(f"{told} has the splits {splits} and none of {', '.join(preferred)}; name the split.")
    return opened[chosen]
