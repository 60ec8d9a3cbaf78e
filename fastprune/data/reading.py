"""Reading data sets: files, directories and Hub names become one ``datasets.Dataset``."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from fastprune.data.sounds import read_sounds, sound_files
from fastprune.errors import DataError
from fastprune.files import check_data

LOADERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".csv": ("csv", {"keep_default_na": False}),
    # tab-separated corpora such as MRPC have unbalanced quotes, which would merge lines if quotes were parsed
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t", "quoting": csv.QUOTE_NONE}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}
"""Loader of ``datasets`` and its options by file suffix. Words such as NA and None are not read as missing values."""


def read_dataset(
    source: str | Path, *, split: str | None = None, default_split: str | tuple[str, ...] = "train"
) -> Dataset:
    """Read a data set from a file, a directory or the Hub.

    Args:
        source: A file (csv, tsv, json, jsonl, parquet; txt with one sample per line; SQuAD's json); a directory saved by
            ``datasets``, of data files, of images or of sound files (``fastprune.data.sounds``); or a Hub name with or without
            a configuration (``squad``, ``glue/mrpc``, ``owner/name/config``).
        split: Split to read; only for sources with splits.
        default_split: Splits to try without ``split``, in order of preference; a single split is always accepted.

    Returns:
        The data set, with at least one row.

    Raises:
        DataError: The source does not exist, cannot be read, has no such split, or is empty.
    """
    path = check_data(source)
    if path is not None and path.is_file():
        if split is not None:
            raise DataError(
                f"{source} is a single file and has no split '{split}'; omit the split or name another file."
            )
        data = _read_file(path)
    else:
        opened = _read_directory(path) if path is not None else _read_hub(str(source))
        preferred = (default_split,) if isinstance(default_split, str) else default_split
        data = _choose_split(opened, str(source), split, preferred)
    if len(data) == 0:
        raise DataError(f"{source} has no rows.")
    return data


def _read_file(path: Path) -> Dataset:
    suffix = path.suffix.lower()
    try:
        if suffix == ".txt":
            return _read_lines(path)
        if suffix == ".json" and (articles := _squad_articles(path)) is not None:
            return Dataset.from_list(list(_squad_rows(articles)))
        loader, options = LOADERS[suffix]
        return load_dataset(loader, data_files=str(path), split="train", **options)
    except Exception as error:  # the loaders raise errors of pandas, pyarrow, json and datasets
        raise DataError(f"{path} cannot be read as {suffix[1:]}: {_reason(error)}") from error


def _read_lines(path: Path) -> Dataset:
    with path.open(encoding="utf-8") as lines:
        return Dataset.from_dict({"text": [line.strip() for line in lines if line.strip()]})


def _squad_articles(path: Path) -> list[dict[str, Any]] | None:
    """The articles of a file in SQuAD's format; None for any other JSON, including one object per line."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None
    articles = content.get("data") if isinstance(content, dict) else None
    is_squad = isinstance(articles, list) and all(isinstance(a, dict) and "paragraphs" in a for a in articles)
    return articles if is_squad else None


def _squad_rows(articles: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = [] if question.get("is_impossible") else question.get("answers", [])
                yield {
                    "id": str(question["id"]),
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {
                        "text": [answer["text"] for answer in answers],
                        "answer_start": [answer["answer_start"] for answer in answers],
                    },
                }


def _read_directory(path: Path) -> Dataset | DatasetDict:
    saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
    sounds = [] if saved else sound_files(path)
    if sounds:
        return read_sounds(path, sounds, _read_file)
    try:
        return load_from_disk(str(path)) if saved else load_dataset(str(path), **_reading_of(path))
    except Exception as error:  # as above
        raise DataError(f"{path} cannot be read as a directory of data: {_reason(error)}") from error


def _reading_of(path: Path) -> dict[str, Any]:
    """Loader options for a directory: those of its files if all have the same suffix, else none."""
    tables = [file for file in path.rglob("*") if file.stem != "metadata"]  # metadata describes images
    kinds = {file.suffix.lower() for file in tables} & set(LOADERS)
    options = LOADERS[kinds.pop()][1] if len(kinds) == 1 else {}
    return {name: value for name, value in options.items() if name != "sep"}  # datasets derives it from the suffix


def _read_hub(name: str) -> DatasetDict:
    """Load a data set from the Hub; ``a/b`` may be an owner and a name, or a name and a configuration."""
    parts = name.split("/")
    readings = [(name,), (parts[0], parts[1])] if len(parts) == 2 else [("/".join(parts[:2]), *parts[2:])]
    errors: list[Exception] = []
    for reading in readings:
        try:
            return load_dataset(*reading)
        except Exception as error:  # a missing network, name or configuration raises unrelated types of errors
            errors.append(error)
    reasons = "; ".join(_reason(error) for error in errors)
    raise DataError(
        f"'{name}' is not a local file or directory and cannot be loaded from the Hub: {reasons}"
    ) from errors[0]


def _choose_split(opened: Dataset | DatasetDict, source: str, split: str | None, preferred: tuple[str, ...]) -> Dataset:
    if isinstance(opened, Dataset):
        if split is not None:
            raise DataError(f"{source} is a single saved data set and has no split '{split}'; omit the split.")
        return opened
    splits = ", ".join(opened)
    if split is not None and split not in opened:
        raise DataError(f"{source} has no split '{split}'; it has {splits}.")
    candidates = (split,) if split is not None else preferred
    chosen = next((name for name in candidates if name in opened), None)
    if chosen is None and len(opened) == 1:
        chosen = next(iter(opened))
    if chosen is None:
        raise DataError(f"{source} has the splits {splits} and none of {', '.join(preferred)}; name the split.")
    return opened[chosen]


def _reason(error: BaseException) -> str:
    """First line of the root cause; ``datasets`` wraps the parser's error in a generic one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__
