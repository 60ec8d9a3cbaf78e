"""Intake: the rows of a source that were encoded, and what was left out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastprune.data.tasks import CUT, Sample


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Counts of what was read and what was left out.

    Attributes:
        rows: Rows of the source; of a stream those that were read.
        read: Rows that were encoded.
        empty: Encoded rows that gave no sample, such as empty texts.
        truncated: Samples that were truncated.
        cut: What was cut off, by its unit (tokens, words, seconds).
    """

    rows: int
    read: int
    empty: int = 0
    truncated: int = 0
    cut: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: int, read: int, samples: Sequence[Sample], *, by_row: bool) -> Intake:
        """Count what was left out.

        Args:
            rows: Rows of the source.
            read: Rows that were encoded.
            samples: The samples of these rows.
            by_row: Each row gives at least one sample, unless it is empty.
        """
        cut: Counter[str] = Counter()
        for sample in samples:
            cut.update(sample.get(CUT, {}))
        return cls(
            rows=rows,
            read=read,
            empty=max(0, read - len(samples)) if by_row else 0,
            truncated=sum(CUT in sample for sample in samples),
            cut={unit: round(amount, 1) for unit, amount in cut.items()},
        )

    def summary(self) -> dict[str, Any]:
        """The counts, ready for JSON."""
        return {
            "rows": self.rows,
            "rows_read": self.read,
            "rows_empty": self.empty,
            "samples_truncated": self.truncated,
            "cut_off": dict(self.cut),
            "left_out": self.told,
        }

    @property
    def told(self) -> str:
        """What was left out, in words; empty if nothing was."""
        parts = [f"Rows read: {self.read:,} of {self.rows:,}"] if self.read < self.rows else []
        if self.empty:
            parts.append(f"empty rows: {self.empty:,}")
        if self.truncated:
            amounts = " and ".join(f"{amount:,} {unit}" for unit, amount in self.cut.items())
            parts.append(f"samples truncated: {self.truncated:,} ({amounts} cut off)")
        told = "; ".join(parts)
        return told[:1].upper() + told[1:]
