"""Directories of sound files: one row per file, with the path of the recording and its class or the columns of a table.

``datasets`` can read such a directory (``audiofolder``), but only with torchcodec and ffmpeg, even without decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datasets import ClassLabel, Dataset

from fastprune.errors import DataError

SOUNDS = (".aiff", ".flac", ".mp3", ".ogg", ".opus", ".wav")
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""File names of a table with more columns for the sound files in its column ``file_name``, as in ``datasets``."""


def sound_files(directory: Path) -> list[Path]:
    """The sound files in a directory and its subdirectories, sorted by path."""
    return sorted(file for file in directory.rglob("*") if file.suffix.lower() in SOUNDS)


def read_sounds(directory: Path, files: list[Path], read_table: Callable[[Path], Dataset]) -> Dataset:
    """Build a data set with one row per sound file.

    Args:
        directory: The directory.
        files: The sound files in it.
        read_table: Reads a table file as a data set.

    Returns:
        A data set with the column ``audio`` (path of the file) and the columns of the directory's table. Without a table, the
        column ``label`` is the name of the file's subdirectory, if all files are in subdirectories.

    Raises:
        DataError: The table has no column ``file_name``, or names a missing file.
    """
    table = next((directory / name for name in TABLES if (directory / name).is_file()), None)
    if table is None:
        return _labelled(directory, files)
    rows = read_table(table)
    if "file_name" not in rows.column_names:
        raise DataError(
            f"{table} needs a column 'file_name' with the file of each row; its columns are {rows.column_names}."
        )
    paths = [directory / str(name) for name in rows["file_name"]]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{table} names {len(missing)} missing files, such as {missing[0]}.")
    return rows.remove_columns("file_name").add_column("audio", [str(path) for path in paths])


def _labelled(directory: Path, files: list[Path]) -> Dataset:
    """Rows labelled with the names of their subdirectories, if all files are in one."""
    data = Dataset.from_dict({"audio": [str(file) for file in files]})
    if any(file.parent == directory for file in files):
        return data
    folders = [file.parent.name for file in files]
    names = sorted(set(folders))
    return data.add_column("label", [names.index(folder) for folder in folders]).cast_column(
        "label", ClassLabel(names=names)
    )
