"""Mixes: several sources of rows, each with its share of the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastprune.data.rows import Rows, is_rows
from fastprune.errors import DataError, OptionError
from fastprune.files import user_path
from fastprune.ranges import is_number


@dataclass(frozen=True)
class DataMix:
    """Several sources of calibration data, for ``prune`` and ``make_batches``.

    ``DataMix([("wiki.txt", 0.7), ("chat.jsonl", 0.3)])`` draws 70 % of the samples from the first source.

    Attributes:
        parts: Pairs of a source (``read_dataset``) and its share, above 0. Shares are divided by their sum.

    Raises:
        DataError: There is no source, or one twice.
        OptionError: A share is not above 0.
    """

    parts: Sequence[tuple[Rows, float]]

    def __post_init__(self) -> None:
        if not self.parts:
            raise DataError("There are no sources of data; name one.")
        names = [source for source, _ in self.parts if isinstance(source, (str, Path))]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"The source {twice} is given twice; give it once, with the sum of its shares.")
        for source, share in self.parts:
            if not (is_number(share) and math.isfinite(share) and share > 0):
                raise OptionError(f"The share of a source must be a number above 0; got {share!r} for {_name(source)}.")

    @classmethod
    def read(cls, texts: Sequence[str]) -> DataMix:
        """Read sources as the command line takes them: ``wiki.txt``, or with a share, ``wiki.txt:0.5``.

        A text that is the name of an existing file is that file, whatever it ends in. Without shares all sources give alike.

        Raises:
            DataError: Some sources have a share and others have none.
            OptionError: A share is no number above 0.
        """
        read = [_read(text) for text in texts]
        if len({share is None for _, share in read}) > 1:
            without = next(source for source, share in read if share is None)
            raise DataError(f"The source {without} has no share, and others have one; give all a share, or none.")
        return cls(tuple((source, 1.0 if share is None else share) for source, share in read))

    def __str__(self) -> str:
        """Sources and shares, such as ``wiki.txt (0.7), chat.jsonl (0.3)``; one source alone without its share."""
        if len(self.parts) == 1:
            return _name(self.parts[0][0])
        return ", ".join(
            f"{_name(source)} ({share:.3g})" for (source, _), share in zip(self.parts, self.shares, strict=True)
        )

    @property
    def shares(self) -> list[float]:
        """The share of each source; their sum is 1."""
        total = sum(share for _, share in self.parts)
        return [share / total for _, share in self.parts]

    def divided(self, samples: int | None) -> list[int | None]:
        """The number of samples of each source: whole numbers with the sum ``samples``; None: all samples of all sources.

        Raises:
            OptionError: There are fewer samples than sources.
        """
        if samples is None:
            return [None] * len(self.parts)
        if samples < len(self.parts):
            raise OptionError(
                f"samples must be at least {len(self.parts)}, one for each source of data; got {samples}."
            )
        exact = [share * samples for share in self.shares]
        counts = [max(1, int(each)) for each in exact]  # each source gives at least one
        while sum(counts) != samples:
            step = 1 if sum(counts) < samples else -1
            places = [place for place, count in enumerate(counts) if count + step > 0]
            counts[max(places, key=lambda place: step * (exact[place] - counts[place]))] += step
        return list(counts)


def is_source(data: object) -> bool:
    """Whether ``data`` are rows, a source of rows, or several of these, and not encoded batches."""
    return isinstance(data, DataMix) or is_rows(data)


def _read(text: str) -> tuple[str, float | None]:
    """The source and its share; None if there is none. ``C:\\data.txt`` has none."""
    place, colon, number = text.rpartition(":")
    if not colon or not place or user_path(text).exists():
        return text, None
    try:
        return place, float(number)
    except ValueError as error:
        if user_path(place).exists():
            raise OptionError(
                f"The share of a source must be a number above 0, as in {place}:0.5; got '{number}'."
            ) from error
        return text, None


def _name(source: Any) -> str:
    return str(source) if isinstance(source, (str, Path)) else "data in memory"
