"""Counting tokens in texts, which are read once and not kept."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from fastprune.data.mixes import DataMix
from fastprune.data.reading import read_dataset, source_name
from fastprune.data.rows import Rows
from fastprune.errors import DataError
from fastprune.files import check_data
from fastprune.progress import step
from fastprune.vocabulary.document import Document

AT_ONCE = 1000
"""Texts that are split at once."""
HELD_OUT, EVERY = 2000, 10
"""Texts that are measured and not counted: every tenth, at most so many."""
PLAIN = (".txt",)
"""Files that are read line by line."""


@dataclass(frozen=True)
class Counts:
    """The tokens of texts.

    Attributes:
        tokens: How often each token occurs in the texts: [ids].
        texts: Number of texts.
        held_out: Further texts that were not counted, to measure on; the first texts if there are fewer than ten.
        source: Name of the source; empty for data in memory.
    """

    tokens: NDArray[Any]
    texts: int
    held_out: tuple[str, ...]
    source: str = ""


def count_tokens(
    document: Document, data: Rows | DataMix, *, columns: Sequence[str] = (), split: str | None = None
) -> Counts:
    """Count the tokens of all texts of a source, or of several sources with their shares.

    Args:
        document: The tokenizer.
        data: What ``read_dataset`` reads, or several. A text file is read line by line, anything else as it comes, so it may be
            large. Each source has its share of the counts, however long it is.
        columns: Columns with texts [all columns with texts, and what is in lists and messages].
        split: Split to read, as for ``read_dataset``.

    Raises:
        DataError: A source cannot be read, or has no text.
    """
    mix = data if isinstance(data, DataMix) else DataMix(((data, 1.0),))
    with step("counting tokens"):
        parts = [_counted(document, source, columns, split, HELD_OUT // len(mix.parts)) for source, _ in mix.parts]
    if len(parts) == 1:
        return parts[0]
    total = sum(float(part.tokens.sum()) for part in parts)
    weighted = [share * total / part.tokens.sum() * part.tokens for share, part in zip(mix.shares, parts, strict=True)]
    held_out = tuple(text for part in parts for text in part.held_out)
    return Counts(np.sum(weighted, axis=0), sum(part.texts for part in parts), held_out, str(mix))


def _counted(document: Document, data: Rows, columns: Sequence[str], split: str | None, most: int) -> Counts:
    """The tokens of one source, of which at most so many texts are held out."""
    tokenizer = plain(document)
    tokens = np.zeros(max(document.every.values()) + 1, dtype=np.int64)
    held_out: list[str] = []
    first: list[str] = []
    counted = number = 0
    for chunk in _chunks(text for text in texts_of(data, columns, split) if text.strip()):
        kept: list[str] = []
        for text in chunk:
            number += 1
            held = number % EVERY == 0 and len(held_out) < most
            (held_out if held else kept).append(text)
        first = first or kept[:most]
        for encoding in tokenizer.encode_batch(kept, add_special_tokens=False):
            tokens += np.bincount(encoding.ids, minlength=len(tokens))
        counted += len(kept)
    if not tokens.any():
        raise DataError(f"{source_name(data) or 'The data'} has no text to count tokens in; name the text columns.")
    return Counts(tokens, counted, tuple(held_out or first), source_name(data))


def plain(document: Document) -> Tokenizer:
    """The tokenizer of the library ``tokenizers`` alone, which neither truncates nor pads."""
    made = Tokenizer.from_str(json.dumps(document.content, ensure_ascii=False))
    made.no_truncation()
    made.no_padding()
    return made


def texts_of(data: Rows, columns: Sequence[str] = (), split: str | None = None) -> Iterator[str]:
    """The texts of a source, one after another.

    Raises:
        DataError: The source cannot be read, or has not these columns.
    """
    if isinstance(data, (str, Path)):
        path = check_data(data)
        if path is not None and path.is_file() and path.suffix.lower() in PLAIN:
            with path.open(encoding="utf-8", errors="replace") as lines:
                yield from (line.strip() for line in lines)
            return
    rows: Any = read_dataset(data, split=split or ("train", "validation", "test"))
    missing = [name for name in columns if name not in (getattr(rows, "column_names", None) or columns)]
    if missing:
        raise DataError(
            f"{source_name(data) or 'The data'} has no column '{missing[0]}'; it has {', '.join(rows.column_names)}."
        )
    for row in rows:
        for name in columns or row:
            yield from _strings(row[name])


def _strings(value: Any) -> Iterator[str]:
    """The texts in a value: words in a list are one text, messages several."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, (list, tuple)):
        if value and all(isinstance(each, str) for each in value):
            yield " ".join(value)
        else:
            for each in value:
                yield from _strings(each)


def _chunks(texts: Iterable[str]) -> Iterator[tuple[str, ...]]:
    iterator = iter(texts)
    while chunk := tuple(itertools.islice(iterator, AT_ONCE)):
        yield chunk
