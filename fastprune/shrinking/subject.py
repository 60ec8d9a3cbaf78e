"""What a search works on and what it gives: a model, its data in halves, steps, and the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fastprune.data.batches import Batches
from fastprune.data.mixes import DataMix
from fastprune.data.rows import Rows
from fastprune.errors import DataError
from fastprune.models.pretrained import Pretrained
from fastprune.pipeline.result import PruningResult

Goal = Literal["size", "latency"]


@dataclass(frozen=True)
class Halves:
    """The rows that choose, and those that the final figures come from."""

    choosing: range
    final: range

    @staticmethod
    def of(rows: int, *, running: bool) -> Halves:
        """Every other row; of running text the first and the second half.

        Raises:
            DataError: There are fewer than two rows.
        """
        if rows < 2:
            raise DataError(f"The evaluation data have {rows} rows; shrink divides them in two halves, so give more.")
        if running:
            return Halves(range(rows // 2), range(rows // 2, rows))
        return Halves(range(0, rows, 2), range(1, rows, 2))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with its data.

    Attributes:
        opened: The dense model.
        read: Reads so many calibration rows in the tokens of a model.
        tests: Reads some rows of the evaluation data in the tokens of a model.
        halves: The rows that choose, and the others.
        texts: Texts to count tokens in.
        samples: Number of calibration rows.
        seed: Seed of everything random.
        counting: ``columns`` and ``split`` of ``count_tokens``.
    """

    opened: Pretrained
    read: Callable[[Pretrained, Any], Batches]
    tests: Callable[[Pretrained, range], Batches]
    halves: Halves
    texts: Rows | DataMix
    samples: int | Literal["auto"] = "auto"
    seed: int = 0
    counting: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A budget that was tried.

    Attributes:
        share: The budget, as a share of the dense model's size or latency.
        drop: Points lost on the half that chooses; infinite if the budget cannot be reached.
        fits: Whether little enough is lost.
        told: What came out, in a sentence.
        size: Bytes of the directory, or of the export.
        model: The pruned model; None: the budget cannot be reached.
        exported: Directory of the export, or None.
    """

    share: float
    drop: float
    fits: bool
    told: str
    size: int = 0
    model: PruningResult | None = field(default=None, repr=False)
    exported: Path | None = None

    @property
    def result(self) -> PruningResult:
        """The pruned model of a budget that was reached."""
        assert self.model is not None
        return self.model

    def noted(self, *, drop: float, fits: bool, told: str, size: int) -> Step:
        """The step with its figures."""
        return replace(self, drop=drop, fits=fits, told=told, size=size)


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """What ``shrink`` found.

    Attributes:
        result: The pruned model.
        directory: Its directory.
        export: Directory of the export with quantised weights; None: none was asked for.
        steps: The budgets that were tried, in order.
        dense: Metrics of the dense model on the half of the evaluation data that chose nothing.
        metrics: Those of the saved model, or of the export, on the same rows.
        drop: Points lost there.
        size: Bytes of the directory, or of the export.
        size_before: Bytes of the dense model's directory.
        told: The final figures in a sentence.
    """

    result: PruningResult = field(repr=False)
    directory: Path
    export: Path | None
    steps: tuple[Step, ...]
    dense: Mapping[str, float]
    metrics: Mapping[str, float]
    drop: float
    size: int
    size_before: float
    told: str
