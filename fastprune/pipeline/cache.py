"""The cache of several prunings of one model: what does not depend on the budget is computed once for all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from platformdirs import user_cache_path
from torch import nn

from fastprune.calibration.dense_states import DenseStates
from fastprune.data.batches import Batches
from fastprune.files import user_path
from fastprune.journal.entries import ENTRY, read_entry, write_entry
from fastprune.pipeline.fingerprint import code_digest
from fastprune.strategies.contracts import CostModel, Scorer
from fastprune.strategies.costs import CostTable
from fastprune.strategies.scores import Scores

T = TypeVar("T", CostTable, Scores)

LIMIT = 4_000_000_000  # bytes


@dataclass
class PruningCache:
    """Cost tables, scores and dense states of one model on one calibration set.

    Give the same instance to several calls of ``prune`` with the same model, data and seed: each cost model measures once,
    each scorer scores the dense model once, and the dense model's layers run once, within the memory limit. A pruning has the
    same result with it as without it: for another model, calibration set or seed everything is computed anew.

    Attributes:
        folder: A directory for scores, so that later processes need not compute them again [memory only].
        memory: The limit of the dense states in bytes [256 MiB, or a quarter of the memory that is free at the first
            entry, if that is less].
        limit: The limit of the directory in bytes; beyond it, the scores that were not used for longest are deleted.
        states: The dense states of the last model and calibration set; None before the first.
    """

    folder: Path | None = None
    memory: int | None = None
    limit: int = LIMIT
    states: DenseStates | None = field(default=None, init=False, repr=False)
    _results: dict[tuple[str, str, str], Any] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def on_disk() -> PruningCache:
        """A cache whose scores are in the user's cache directory, as those of the command line."""
        return PruningCache(user_cache_path("fastprune") / "scores")

    def dense_states(self, teacher: nn.Module, batches: Batches) -> DenseStates:
        """The cached states of this model on these batches; those of another model or calibration set are dropped."""
        if self.states is None or not self.states.belong_to(teacher, batches):
            self.states = DenseStates(teacher, batches, self.memory)
        return self.states

    def costs(self, cost: CostModel, of: str, measure: Callable[[], CostTable]) -> CostTable:
        """The table of a cost model for the subject with the fingerprint ``of``, measured at the first call."""
        return self._once("costs", cost, of, measure)

    def scores(self, scorer: Scorer, of: str, score: Callable[[], Scores]) -> Scores:
        """The scores of a scorer for the subject with the fingerprint ``of``, computed at the first call."""

        def kept() -> Scores:
            if self.folder is None:
                return score()
            path = self._path(self.folder, scorer, of)
            content = read_entry(path) or write_entry(path, fields_of(score()))
            self._note_use(path)
            return Scores(**content)

        return self._once("scores", scorer, of, kept)

    def has_scores(self, scorer: Scorer, of: str) -> bool:
        """Whether the scores of a scorer for the subject with the fingerprint ``of`` are known."""
        known = ("scores", repr(scorer), of) in self._results
        return known or (self.folder is not None and self._path(self.folder, scorer, of).is_file())

    def _path(self, folder: Path, scorer: Scorer, of: str) -> Path:
        digest = hashlib.sha256(f"{scorer!r} {of} {code_digest(scorer)}".encode()).hexdigest()[:12]
        return user_path(folder) / f"scores-{scorer.name}-{digest}{ENTRY}"

    def _once(self, kind: str, strategy: Any, of: str, compute: Callable[[], T]) -> T:
        """The result of a strategy, computed at the first call."""
        key = (kind, repr(strategy), of)
        if key not in self._results:
            self._results[key] = compute()
        value: T = self._results[key]
        return value

    def _note_use(self, path: Path) -> None:
        """Make a file the last used one, and delete those that were not used for longest, beyond the limit."""
        with contextlib.suppress(OSError):  # another process deletes, too
            path.touch()
            left = self.limit
            for each in sorted(path.parent.glob(f"*{ENTRY}"), key=lambda file: file.stat().st_mtime, reverse=True):
                left -= each.stat().st_size
                if left < 0 and each != path:
                    each.unlink(missing_ok=True)


def fields_of(value: CostTable | Scores) -> dict[str, Any]:
    """The attributes of a table or of scores by name."""
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
