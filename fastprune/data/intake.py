"""Intake: the rows of a source that were encoded, and what was left out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fastprune.data.tasks import CUT, Sample


@dataclass(frozen=True, kw_only=True)
class Source:
    """What one of several sources gave.

    Attributes:
        name: Its name.
        share: The share of the samples that it was to give, above 0, at most 1.
        samples: The samples that it gave.
        tokens: The tokens of these.
    """

    name: str
    share: float
    samples: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Counts of what was read and what was left out.

    Attributes:
        rows: Rows of the source; of a stream those that were read.
        read: Rows that were encoded.
        empty: Encoded rows that gave no sample, such as empty texts.
        truncated: Samples that were truncated.
        cut: What was cut off, by its unit (tokens, words, seconds).
        sources: What each of several sources gave; empty for one source.
    """

    rows: int
    read: int
    empty: int = 0
    truncated: int = 0
    cut: Mapping[str, float] = field(default_factory=dict)
    sources: Sequence[Source] = ()

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

    @classmethod
    def joined(cls, parts: Sequence[Intake], sources: Sequence[Source]) -> Intake:
        """The counts of several sources together; of one source its own."""
        if len(parts) == 1:
            return parts[0]
        cut: Counter[str] = Counter()
        for part in parts:
            cut.update(part.cut)
        return cls(
            rows=sum(part.rows for part in parts),
            read=sum(part.read for part in parts),
            empty=sum(part.empty for part in parts),
            truncated=sum(part.truncated for part in parts),
            cut=dict(cut),
            sources=tuple(sources),
        )

    def summary(self) -> dict[str, Any]:
        """The counts, ready for JSON."""
        sources = [asdict(source) for source in self.sources]
        return ({"sources": sources} if sources else {}) | {
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
        parts = [f"{source.name}: {source.samples:,} samples, {source.tokens:,} tokens" for source in self.sources]
        if self.read < self.rows:
            parts.append(f"rows read: {self.read:,} of {self.rows:,}")
        if self.empty:
            parts.append(f"empty rows: {self.empty:,}")
        if self.truncated:
            amounts = " and ".join(f"{amount:,} {unit}" for unit, amount in self.cut.items())
            parts.append(f"samples truncated: {self.truncated:,} ({amounts} cut off)")
        told = "; ".join(parts)
        return told if self.sources else told[:1].upper() + told[1:]  # names keep their spelling
