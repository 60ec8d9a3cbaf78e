"""Directories of sound files: one row a file, with the path of the recording, and its class or what a table says of it.

``datasets`` opens such a directory (``audiofolder``) only where torchcodec and ffmpeg are there, though it decodes nothing yet.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datasets import ClassLabel, Dataset

from fastprune.errors import DataError

SOUNDS = (".aiff", ".flac", ".mp3", ".ogg", ".opus", ".wav")
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of the table that says more of the files, by its column ``file_name``: those of ``datasets``."""


def sound_files(directory: Path) -> list[Path]:
    """The sound files in a directory and those below it, in order."""
    return sorted(file for file in directory.rglob("*") if file.suffix.lower() in SOUNDS)


def read_sounds(directory: Path, files: list[Path], read_table: Callable[[Path], Dataset]) -> Dataset:
    """One row a file: ``audio``, its path; and the columns of the directory's table, or where there is none and the files lie
    in directories of their own, ``label``, the name of theirs.

    Args:
        directory: That holds them.
        files: The sound files.
        read_table: Reads a file of rows.

    Raises:
        DataError: The table has no column ``file_name``, or names a file that is not there.
    """
    table = next((directory / name for name in TABLES if (directory / name).is_file()), None)
    if table is None:
        return _labelled(directory, files)
    rows = read_table(table)
    if "file_name" not in rows.column_names:
        raise DataError(f"{table} must say in a column 'file_name' which row is whose; it has {rows.column_names}.")
    paths = [directory / str(name) for name in rows["file_name"]]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{table} names {len(missing)} files that are not there, such as {missing[0]}.")
    return rows.remove_columns("file_name").add_column("audio", [str(path) for path in paths])


def _labelled(directory: Path, files: list[Path]) -> Dataset:
    data = Dataset.from_dict({"audio": [str(file) for file in files]})
    if any(file.parent == directory for file in files):
        return data
    folders = [file.parent.name for file in files]
    names = sorted(set(folders))
    return data.add_column("label", [names.index(folder) for folder in folders]).cast_column(
        "label", ClassLabel(names=names)
    )
