"""Transcripts: reading the texts of recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastprune import Columns
from fastprune.data import label_column
from fastprune_tasks.labels import read_labels

if TYPE_CHECKING:
    from datasets import Dataset

TRANSCRIPTS = ("text", "transcription", "transcript", "sentence", "normalized_text", "label")


def transcripts(data: Dataset, columns: Columns) -> list[str] | None:
    """Read the transcript of each row from the second text column, else from the label column.

    Returns:
        One text per row; None if the data has no transcripts.

    Raises:
        DataError: A named column is missing, or some rows have no text.
    """
    label = columns.text[1] if len(columns.text) == 2 else columns.label
    column = label_column(data, Columns(label=label), TRANSCRIPTS)
    values = read_labels(data, column)
    return None if values is None else [str(text) for text in values]
