"""Boxes: the place of each word on a page, for models that read the layout of documents (LayoutLM)."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastprune import Columns
from fastprune.data import label_column
from fastprune.errors import RowError
from fastprune_tasks.labels import as_list

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

BOXES = ("bbox", "bboxes", "boxes")
"""Usual names of the column of boxes: for each word ``[left, top, right, bottom]``, from 0 to 1000."""
LARGEST = 1000
FIRST, LAST = [0] * 4, [LARGEST] * 4
"""Boxes of the special tokens: of the first, and of the others."""

log = logging.getLogger("fastprune.tasks")


def reads_boxes(config: PretrainedConfig) -> bool:
    """Whether a model has embeddings of two-dimensional positions."""
    return hasattr(config, "max_2d_position_embeddings")


def word_boxes(data: Dataset, sentences: Sequence[Sequence[str]]) -> list[list[list[int]]] | None:
    """The box of each word: [rows][words][4]; None, and a warning, if the data has none.

    Raises:
        RowError: A row has another number of boxes than words, or a box outside 0 to 1000.
    """
    column = label_column(data, Columns(), BOXES)
    if column is None:
        tell_no_boxes()
        return None
    return [_checked(row, as_list(value), len(sentences[row]), column) for row, value in enumerate(data[column])]


def tell_no_boxes() -> None:
    """Warn that the data has no boxes of words."""
    log.warning(
        "The model reads boxes, and the data has no lists of words beside one of the columns %s: all boxes are 0.",
        ", ".join(BOXES),
    )


def has_words(data: Dataset, columns: Columns, usual: Sequence[tuple[str, ...]]) -> bool:
    """Whether the (last) text column, the one named or a usual one, holds lists of words."""
    names = [columns.text[-1:]] if columns.text else usual
    return any(
        name in data.column_names and isinstance(as_list(data[0][name]), list) for each in names for name in each
    )


def span_boxes(
    boxes: Sequence[list[int]],
    starts: Sequence[int],
    spans: Sequence[tuple[int, int] | None],
    texts: Sequence[int | None],
) -> list[list[int]]:
    """The box of each token of a question and a context of words: [tokens][4]. Tokens of the question have none, which is 0.

    Args:
        boxes: The box of each word.
        starts: The place of each word in the context, in characters.
        spans: The characters of each token in the context; None for other tokens.
        texts: 0 for tokens of the question, 1 for those of the context, None for special tokens.
    """
    found = []
    for at, (span, text) in enumerate(zip(spans, texts, strict=True)):
        outside = LAST if at and text is None else FIRST
        found.append(outside if span is None else boxes[bisect_right(starts, span[0]) - 1])
    return found


def token_boxes(boxes: Sequence[list[int]], places: Sequence[int | None]) -> list[list[int]]:
    """The box of each token: [words][4] -> [tokens][4].

    Args:
        boxes: The box of each word.
        places: The word of each token; None for special tokens.
    """
    return [(LAST if at else FIRST) if word is None else boxes[word] for at, word in enumerate(places)]


def _checked(row: int, boxes: Any, words: int, column: str) -> list[list[int]]:
    if not isinstance(boxes, list) or len(boxes) != words:
        raise RowError(row, f"it has {words} words; '{column}' must have a box for each.")
    whole = [[int(edge) for edge in box] for box in boxes]
    for box in whole:
        ordered = len(box) == 4 and box[0] <= box[2] and box[1] <= box[3]
        if not ordered or min(box) < 0 or max(box) > LARGEST:
            raise RowError(row, f"'{column}' must have boxes [left, top, right, bottom] from 0 to 1000; got {box}.")
    return whole
