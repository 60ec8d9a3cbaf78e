"""Opening data: files, directories and Hub names become one ``datasets.Dataset``."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from fastprune.data.sounds import read_sounds, sound_files
from fastprune.errors import DataError
from fastprune.sources import check_data

LOADERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".csv": ("csv", {"keep_default_na": False}),
    # Tab-separated corpora such as MRPC hold stray quotes: a quote that opened a field would swallow lines.
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t", "quoting": csv.QUOTE_NONE}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}
"""File suffixes, and the loader of ``datasets`` with its options. Words such as NA and None stay words."""


def read_dataset(
    source: str | Path, *, split: str | None = None, default_split: str | tuple[str, ...] = "train"
) -> Dataset:
    """Open a data source.

    Args:
        source: A file (csv, tsv, json, jsonl, parquet; txt, one sample a line; SQuAD's json), a directory that
            ``datasets`` saved, of data files, of pictures or of sound files (``fastprune.sounds``), or a Hub name with or
            without a configuration (``squad``, ``glue/mrpc``, ``owner/name/config``).
        split: The split to take; only for sources that have splits.
        default_split: The split taken without ``split``: the first of these that exists, or else the only one.

    Returns:
        The rows; there is at least one.

    Raises:
        DataError: There is no such source, it cannot be read, it lacks the split, or it is empty.
    """
    path = check_data(source)
    if path is not None and path.is_file():
        if split is not None:
            raise DataError(
                f"{source} is one file and has no split '{split}'; leave out the split or name another file."
            )
        data = _read_file(path)
    else:
        opened = _read_directory(path) if path is not None else _read_hub(str(source))
        preferred = (default_split,) if isinstance(default_split, str) else default_split
        data = _choose_split(opened, str(source), split, preferred)
    if len(data) == 0:
        raise DataError(f"{source} holds no rows.")
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
    except Exception as error:  # the loaders raise whatever their parsers do: pandas, pyarrow, json, datasets
        raise DataError(f"{path} cannot be read as {suffix[1:]}: {_reason(error)}") from error


def _read_lines(path: Path) -> Dataset:
    with path.open(encoding="utf-8") as lines:
        return Dataset.from_dict({"text": [line.strip() for line in lines if line.strip()]})


def _squad_articles(path: Path) -> list[dict[str, Any]] | None:
    """The articles of a file in SQuAD's format; None for any other JSON, also for one object a line."""
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
    """How the files of a directory are read: as one of them would be, where all are of one kind."""
    tables = [file for file in path.rglob("*") if file.stem != "metadata"]  # which speaks of pictures
    kinds = {file.suffix.lower() for file in tables} & set(LOADERS)
    options = LOADERS[kinds.pop()][1] if len(kinds) == 1 else {}
    return {name: value for name, value in options.items() if name != "sep"}  # datasets knows it by the file


def _read_hub(name: str) -> DatasetDict:
    """A data set of the Hub; ``a/b`` may be an owner and a name, or a name and a configuration."""
    parts = name.split("/")
    ways = [(name,), (parts[0], parts[1])] if len(parts) == 2 else [("/".join(parts[:2]), *parts[2:])]
    failures: list[Exception] = []
    for way in ways:
        try:
            return load_dataset(*way)
        except Exception as error:  # no network, no such name and no such configuration raise different families
            failures.append(error)
    reasons = "; ".join(_reason(failure) for failure in failures)
    raise DataError(f"'{name}' is no file or directory here, and cannot be had from the Hub: {reasons}") from failures[
        0
    ]


def _choose_split(opened: Dataset | DatasetDict, source: str, split: str | None, preferred: tuple[str, ...]) -> Dataset:
    if isinstance(opened, Dataset):
        if split is not None:
            raise DataError(f"{source} is one saved data set and has no split '{split}'; leave out the split.")
        return opened
    known = ", ".join(opened)
    if split is not None and split not in opened:
        raise DataError(f"{source} has no split '{split}'; it has {known}.")
    wanted = (split,) if split is not None else preferred
    chosen = next((name for name in wanted if name in opened), None)
    if chosen is None and len(opened) == 1:
        chosen = next(iter(opened))
    if chosen is None:
        raise DataError(f"{source} has the splits {known} and none of {', '.join(preferred)}; name the split.")
    return opened[chosen]


def _reason(error: BaseException) -> str:
    """The first line of what started it: ``datasets`` wraps the parser's error in one that says little."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__
