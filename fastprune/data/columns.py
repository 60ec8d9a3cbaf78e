"""Columns: which of a data set's hold the text and the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastprune.data.tasks import Columns
from fastprune.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def text_columns(data: Dataset, columns: Columns, usual: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The columns of text: those that were asked for, or else the first of the usual ones that are all there.

    Args:
        data: The data set.
        columns: What was asked for.
        usual: Usual names, one tuple for each set of columns that belong together; the first that fits is taken.

    Raises:
        DataError: A column that was asked for is missing, or none of the usual ones is there.
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
    """The column of labels: the one that was asked for, or else the first usual one; None where there is none.

    Raises:
        DataError: The column that was asked for is missing.
    """
    if columns.label is not None:
        _require_column(data, columns.label, "label")
        return columns.label
    return next((name for name in usual if name in data.column_names), None)


def _require_column(data: Dataset, name: str, role: str) -> None:
    if name not in data.column_names:
        raise DataError(f"The data has no {role} column '{name}'; its columns are {', '.join(data.column_names)}.")
