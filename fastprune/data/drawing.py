"""Drawing: which rows are encoded, and which samples of them are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from fastprune.data.batches import COUNTED
from fastprune.data.tasks import Sample
from fastprune.errors import DataError, RowError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

Encode = Callable[["Dataset"], list[Sample]]

STREAMED = 10
"""Rows read from a stream per requested sample; the samples are drawn from these."""
STRETCH = 16
"""Fewest consecutive rows that are drawn together from a running text."""
SHARED = 4
"""Approximate number of blocks that a stretch of a running text gives."""


def drawn(count: int, number: int | None, seed: int) -> Sequence[int]:
    """Some of ``count`` indices, in order; None, or more than there are: all."""
    if number is None or number >= count:
        return range(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:number].tolist())


def samples_of(data: Dataset, encode: Encode, number: int | None, seed: int) -> tuple[list[Sample], int]:
    """The samples of drawn rows, and the number of these rows.

    Raises:
        RowError: A row does not fit; it is counted in ``data``.
    """
    rows = drawn(len(data), number, seed)
    return _encoded(data, rows, encode), len(rows)


def blocks_of(data: Dataset, encode: Encode, number: int | None, seed: int) -> tuple[list[Sample], int]:
    """Drawn blocks of a running text, and the number of rows that were encoded.

    Only stretches of consecutive rows are encoded, twice as long until they give enough blocks, so that a large corpus is never
    encoded as a whole for a few blocks, and few blocks cross from a stretch to another one. A shorter block at the end is only
    drawn if there are no others, so that none is padded.
    """
    if number is None:
        return encode(data), len(data)
    take, length = -(-number // SHARED), STRETCH
    while True:
        stretches = -(-len(data) // length)
        chosen = drawn(stretches, take, seed)
        rows = [row for at in chosen for row in range(at * length, min((at + 1) * length, len(data)))]
        blocks = _encoded(data, rows, encode)
        longest = max(map(length_of, blocks), default=0)
        whole = [block for block in blocks if length_of(block) == longest]
        if len(chosen) == stretches or len(blocks) > number:  # the last one may be shorter
            return [whole[index] for index in drawn(len(whole), number, seed)], len(rows)
        length *= 2


def length_of(sample: Sample) -> int:
    """Number of tokens of a text or readings of a recording; 0 for other samples."""
    return next((len(sample[name]) for _, values in COUNTED for name in values if name in sample), 0)


def drawn_from_stream(stream: IterableDataset, number: int | None, seed: int) -> tuple[int, Dataset]:
    """Draw rows from the first 10 x ``number`` rows of a stream, by reservoir sampling (Vitter, 1985, algorithm R).

    Only ``number`` rows are held at a time, and images and recordings among them as files, not decoded.

    Returns:
        The number of rows read, and the drawn rows.

    Raises:
        DataError: The stream is empty, or ``number`` is None.
    """
    from datasets import Dataset  # already imported, because the stream is of this library

    if number is None:
        raise DataError("A streamed data set has an unknown length; give the number of samples to read.")
    generator = torch.Generator().manual_seed(seed)
    kept: list[tuple[int, Any]] = []
    seen = 0
    files = stream.decode(False) if stream.features else stream  # without known types nothing is decoded
    for row in files.take(STREAMED * number):
        place = seen if seen < number else int(torch.randint(seen + 1, (), generator=generator))
        if place < number:
            kept[place : place + 1] = [(seen, row)]
        seen += 1
    if not kept:
        raise DataError("The streamed data set has no rows.")
    rows = [row for _, row in sorted(kept, key=lambda each: each[0])]
    return seen, Dataset.from_list(rows, features=stream.features)


def _encoded(data: Dataset, rows: Sequence[int], encode: Encode) -> list[Sample]:
    try:
        return encode(data if len(rows) == len(data) else data.select(rows))
    except RowError as error:
        raise RowError(rows[error.row], error.reason) from error
