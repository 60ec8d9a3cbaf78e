"""Directories of data: saved data sets, tables, images, sounds, and retrieval data in BEIR's layout."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_from_disk

from fastprune.data.media import TABLES, media_of, read_media
from fastprune.data.rows import from_rows, joined
from fastprune.data.tables import READERS, kind_of, read_file, reason
from fastprune.errors import DataError

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in the names of files and directories by the split they stand for, as in ``datasets``."""
NOTES = re.compile(r"(readme|licen[cs]e|dataset_infos?|requirements)\b.*", re.I)
"""Names of files that have no data."""
LOOSE = (".txt",)
"""Endings that are data only where no other table is."""

log = logging.getLogger("fastprune.data")


def read_folder(path: Path, *, verbatim: bool = False) -> Dataset | DatasetDict:
    """Read a directory.

    Args:
        path: The directory.
        verbatim: Keep the lines of text files as they are, each with its line break.

    Returns:
        A data set, or several by split if names of files or subdirectories say so.

    Raises:
        DataError: The directory has no data, files of one split have different columns, or a file cannot be read.
    """
    if any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        try:
            return load_from_disk(str(path))
        except Exception as error:  # pyarrow and datasets raise errors of many types
            raise DataError(f"{path} cannot be read as a saved data set: {reason(error)}") from error
    if (path / "qrels").is_dir():
        return _read_beir(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not _hidden(file.relative_to(path))]
    kind = media_of(files)
    tables = [] if kind else _tables(path, files)
    if not kind and not tables:
        raise DataError(f"{path} has no data files; supported are {', '.join(READERS)}, images and sounds.")
    read = {}
    for split, members in _by_split(path, files if kind else tables).items():
        if kind:
            read[split] = read_media(_top(path, members), members, kind, read_file)
        else:
            read[split] = joined(_files(path, members, verbatim))
    return DatasetDict(read)


def _files(path: Path, members: Sequence[Path], verbatim: bool) -> dict[str, Dataset]:
    """The contents of files by their names in the directory."""
    return {str(file.relative_to(path)): read_file(file, verbatim=verbatim) for file in members}


def _hidden(file: Path) -> bool:
    return any(part.startswith((".", "_")) for part in file.parts)


def _tables(path: Path, files: Sequence[Path]) -> list[Path]:
    """The tables among the files of a directory; texts only if there is nothing else."""
    tables = [file for file in files if kind_of(file) in READERS and not NOTES.fullmatch(file.name)]
    strict = [file for file in tables if kind_of(file) not in LOOSE]
    left_out = [file.name for file in tables if file not in strict]
    if strict and left_out:
        log.warning("Left out of %s, as texts beside tables: %s.", path, ", ".join(left_out))
    return strict or tables


def _by_split(path: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of each split; all are ``train`` if no name says a split."""
    found: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        found[_split_of(file.relative_to(path))].append(file)
    nameless = found.pop("", [])
    if not found:
        return {"train": nameless}
    if any(file.name not in TABLES for file in nameless):
        log.warning(
            "Left out of %s, as no split is in their names: %s.", path, ", ".join(file.name for file in nameless)
        )
    return dict(found)


def _split_of(file: Path) -> str:
    """The split that the name of a file, or else of its directory, stands for; empty: none."""
    for part in (file.stem, *reversed(file.parent.parts)):
        for split, words in SPLITS.items():
            if re.search(rf"(?:^|[-._ 0-9])(?:{'|'.join(words)})(?:[-._ 0-9]|$)", part.lower()):
                return split
    return ""


def _top(path: Path, files: Sequence[Path]) -> Path:
    """The directory of a split: the subdirectory that holds all its files and is named after it, else ``path``."""
    parts = {file.relative_to(path).parts[0] for file in files}
    first = parts.pop()
    return path / first if not parts and (path / first).is_dir() and _split_of(Path(first)) else path


def _read_beir(path: Path) -> DatasetDict:
    """Queries and documents, one row per judgement; documents without a judgement have a row without a query."""
    corpus, queries = (_by_id(path, name) for name in ("corpus", "queries"))
    judgements = sorted(file for file in (path / "qrels").iterdir() if kind_of(file) in READERS)
    if not judgements:
        raise DataError(f"{path / 'qrels'} has no judgements; BEIR has them in files such as test.tsv.")
    return DatasetDict({_split_of(Path(file.name)) or file.stem: _judged(file, queries, corpus) for file in judgements})


def _by_id(path: Path, name: str) -> dict[str, str]:
    """Texts by their ``_id``: title and text."""
    file = next((file for file in sorted(path.iterdir()) if file.name.partition(".")[0] == name), None)
    if file is None:
        raise DataError(f"{path} has judgements (qrels) and no {name}.jsonl.")
    data = read_file(file)
    if not {"_id", "text"} <= set(data.column_names):
        raise DataError(f"{file} needs the columns _id and text; it has {', '.join(data.column_names)}.")
    return {str(row["_id"]): f"{row.get('title') or ''} {row['text']}".strip() for row in data}


def _judged(file: Path, queries: dict[str, str], corpus: dict[str, str]) -> Dataset:
    data = read_file(file)
    if len(data.column_names) != 3:
        raise DataError(
            f"{file} needs the columns query-id, corpus-id and score; it has {', '.join(data.column_names)}."
        )
    rows: list[dict[str, Any]] = []
    for query, document, score in zip(*(data[name] for name in data.column_names), strict=True):
        for known, key, where in ((queries, query, "queries"), (corpus, document, "corpus")):
            if str(key) not in known:
                raise DataError(f"{file} judges '{key}', which is not in {where}.jsonl.")
        rows.append(
            {"query_id": str(query), "query": queries[str(query)], "document_id": str(document), "score": score}
        )
    judged = {row["document_id"] for row in rows}
    rows += [{"document_id": key, "score": 0} for key in corpus if key not in judged]
    return from_rows([row | {"document": corpus[row["document_id"]]} for row in rows])
