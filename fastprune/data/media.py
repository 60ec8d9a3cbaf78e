"""Directories of images or sound files: one row per file, with its class or the columns of a table.

``datasets`` reads such directories by patterns, which fail for names with brackets, and sound files only with torchcodec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasets import ClassLabel, Dataset, Image

from fastprune.errors import DataError

MEDIA: Mapping[str, tuple[str, ...]] = {
    "audio": (".aiff", ".flac", ".mp3", ".ogg", ".opus", ".wav"),
    "image": (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
}
"""Endings of files by the column that has them."""
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""File names of a table with more columns for the files in its column ``file_name``, as in ``datasets``."""


def media_of(files: Sequence[Path]) -> str:
    """The kind of the files among these that are images or sounds: ``audio``, ``image``, or empty."""
    return next((kind for kind, endings in MEDIA.items() if any(file.suffix.lower() in endings for file in files)), "")


def read_media(directory: Path, files: Sequence[Path], kind: str, read_table: Callable[[Path], Dataset]) -> Dataset:
    """Build a data set with one row per file.

    Args:
        directory: The directory with the table, if there is one; subdirectories have the names of classes.
        files: The files in it; others than images or sounds are skipped.
        kind: ``audio`` or ``image``, the name of the column of files.
        read_table: Reads a table file as a data set.

    Returns:
        A data set with the column ``kind`` and the columns of the directory's table. Without a table, the column ``label`` is the
        name of the file's subdirectory, if all files are in subdirectories.

    Raises:
        DataError: The table has no column ``file_name``, or names a missing file.
    """
    media = sorted(file for file in files if file.suffix.lower() in MEDIA[kind])
    tables = [file for file in files if file.name in TABLES]
    if not tables:
        data = _labelled(directory, media, kind)
    else:
        rows = read_table(tables[0])
        if "file_name" not in rows.column_names:
            raise DataError(
                f"{tables[0]} needs a column 'file_name' with the file of each row; its columns are {rows.column_names}."
            )
        paths = [tables[0].parent / str(name) for name in rows["file_name"]]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise DataError(f"{tables[0]} names {len(missing)} missing files, such as {missing[0]}.")
        data = rows.remove_columns("file_name").add_column(kind, [str(path) for path in paths])
    return data.cast_column("image", Image()) if kind == "image" else data


def _labelled(directory: Path, files: Sequence[Path], kind: str) -> Dataset:
    """Rows labelled with the names of their subdirectories, if all files are in one."""
    data = Dataset.from_dict({kind: [str(file) for file in files]})
    if any(file.parent == directory for file in files):
        return data
    folders = [file.parent.name for file in files]
    names = sorted(set(folders))
    return data.add_column("label", [names.index(folder) for folder in folders]).cast_column(
        "label", ClassLabel(names=names)
    )
