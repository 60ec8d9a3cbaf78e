"""Transcripts: the texts that go with recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastprune import Columns, label_column
from fastprune_tasks.labels import read_labels

if TYPE_CHECKING:
    from datasets import Dataset

TRANSCRIPTS = ("text", "transcription", "transcript", "sentence", "normalized_text", "label")


def transcripts(data: Dataset, columns: Columns) -> list[str] | None:
    """The text of each row: of the second text column, or else the label's; None where there is none.

    Raises:
        DataError: The column that was asked for is missing, or some rows have no text.
    """
    asked = columns.text[1] if len(columns.text) == 2 else columns.label
    found = label_column(data, Columns(label=asked), TRANSCRIPTS)
    values = read_labels(data, found)
    return None if values is None else [str(text) for text in values]
