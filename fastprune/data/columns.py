"""Columns: the text and label columns of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastprune.data.tasks import Columns
from fastprune.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def text_columns(data: Dataset, columns: Columns, usual: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Choose the text columns: the named ones, else the first usual set of names that the data has.

    Args:
        data: The data set.
        columns: The named columns; empty: use the usual names.
        usual: Usual names, one tuple per set of columns that belong together, in order of preference. Upper and lower case are
            alike.

    Raises:
        DataError: A named column is missing, there are too many, or the data has none of the usual sets.
    """
    most = max(len(names) for names in usual)
    if len(columns.text) > most:
        raise DataError(
            f"The task reads {most} text column{'s' if most > 1 else ''} at most; got {', '.join(columns.text)}. "
            "Other columns of inputs or labels are found by their names."
        )
    for name in columns.text:
        _require_column(data, name, "text")
    if columns.text:
        return columns.text
    for names in usual:
        found = [_named(data, name) for name in names]
        if all(found):
            return tuple(name for name in found if name)
    raise DataError(
        f"None of the usual text columns ({'; '.join(', '.join(names) for names in usual)}) is in the data, "
        f"which has {', '.join(data.column_names)}; name the text columns."
    )


def label_column(data: Dataset, columns: Columns, usual: Sequence[str]) -> str | None:
    """Choose the label column: the named one, else the first usual name that the data has, in upper or lower case, else None.

    Raises:
        DataError: The named column is missing.
    """
    if columns.label is not None:
        _require_column(data, columns.label, "label")
        return columns.label
    return next((found for name in usual if (found := _named(data, name))), None)


def _named(data: Dataset, name: str) -> str | None:
    """The column of this name; without one, the column whose name differs only in upper and lower case."""
    alike = [column for column in data.column_names if column.casefold() == name.casefold()]
    return name if name in alike else (alike or [None])[0]


def _require_column(data: Dataset, name: str, role: str) -> None:
    if name not in data.column_names:
        raise DataError(f"The data has no {role} column '{name}'; its columns are {', '.join(data.column_names)}.")
