"""Texts: usual names of columns of texts and text pairs, and their encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastprune import Columns
from fastprune.data import Sample, text_columns

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("sentence_A", "sentence_B"),
    ("anchor", "positive"),
)
SINGLES = (("text",), ("sentence",), ("content",), ("review",), ("document",))


def encode_texts(
    data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int
) -> list[Sample]:
    """Tokenize each row's text or pair of texts as one sample, without labels."""
    names = text_columns(data, columns, (*PAIRS, *SINGLES))
    encoded = tokenizer(*(list(data[name]) for name in names), truncation=True, max_length=max_length)
    return [{name: values[row] for name, values in encoded.items()} for row in range(len(data))]
