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
        usual: Usual names, one tuple per set of columns that belong together, in order of preference.

    Raises:
        DataError: A named column is missing, or the data has none of the usual sets.
    """
    for name in columns.text:
        _require_column(data, name, "text")
    if columns.text:
        return columns.text
    for names in usual:
        if set(names) <= set(data.column_names):
            return names
    raise DataError(
        f"None of the usual text columns ({'; '.join(', '.join(names) for names in usual)}) is in the data, "
        f"which has {', '.join(data.column_names)}; name the text columns."
    )


def label_column(data: Dataset, columns: Columns, usual: Sequence[str]) -> str | None:
    """Choose the label column: the named one, else the first usual name that the data has, else None.

    Raises:
        DataError: The named column is missing.
    """
    if columns.label is not None:
        _require_column(data, columns.label, "label")
        return columns.label
    return next((name for name in usual if name in data.column_names), None)


def _require_column(data: Dataset, name: str, role: str) -> None:
    if name not in data.column_names:
        raise DataError(f"The data has no {role} column '{name}'; its columns are {', '.join(data.column_names)}.")
