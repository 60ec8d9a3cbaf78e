"""The cache of several prunings of one model: what is measured once for all of them."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from fastprune.calibration.dense_states import DenseStates
from fastprune.data.batches import Batches
from fastprune.files import user_path, written_file
from fastprune.strategies.contracts import CostModel, Scorer
from fastprune.strategies.costs import CostTable
from fastprune.strategies.scores import Scores

T = TypeVar("T", CostTable, Scores)

log = logging.getLogger(__name__)


@dataclass
class PruningCache:
    """Cost tables, scores and dense states of one model on one calibration set.

    Give the same instance to several calls of ``prune`` with the same model, data and seed: each cost model measures once,
    each scorer scores the dense model once, and the dense model's layers run once, within the memory limit. A pruning has the
    same result with it as without it: for another model, calibration set or seed everything is computed anew.

    Attributes:
        folder: A directory for tables and scores, so that another process can use them [memory only].
        memory: The limit of the dense states in bytes [256 MiB, or a quarter of the memory that is free at the first
            entry, if that is less].
        states: The dense states of the last model and calibration set; None before the first.
    """

    folder: Path | None = None
    memory: int | None = None
    states: DenseStates | None = field(default=None, init=False, repr=False)
    _results: dict[tuple[str, str, str], Any] = field(default_factory=dict)

    def dense_states(self, teacher: nn.Module, batches: Batches) -> DenseStates:
        """The cached states of this model on these batches; those of another model or calibration set are dropped."""
        if self.states is None or not self.states.belong_to(teacher, batches):
            self.states = DenseStates(teacher, batches, self.memory)
        return self.states

    def costs(self, cost: CostModel, of: str, measure: Callable[[], CostTable]) -> CostTable:
        """The table of a cost model for the subject with the fingerprint ``of``, measured at the first call."""
        return self._once("costs", cost, of, CostTable, measure)

    def scores(self, scorer: Scorer, of: str, score: Callable[[], Scores]) -> Scores:
        """The scores of a scorer for the subject with the fingerprint ``of``, computed at the first call."""
        return self._once("scores", scorer, of, Scores, score)

    def _once(self, kind: str, strategy: Any, of: str, result: type[T], compute: Callable[[], T]) -> T:
        """The result of a strategy: from memory, from the folder, or computed and kept in both."""
        key = (kind, repr(strategy), of)
        if key not in self._results:
            path = self._path(kind, strategy, of)
            read = self._read(path)
            self._results[key] = result(**read) if read else compute()
            if not read:
                self._write(path, self._results[key])
        value: T = self._results[key]
        return value

    def _path(self, kind: str, strategy: Any, of: str) -> Path | None:
        digest = hashlib.sha256(f"{strategy!r} {of}".encode()).hexdigest()[:12]
        return user_path(self.folder) / f"{kind}-{strategy.name}-{digest}.pt" if self.folder else None

    def _read(self, path: Path | None) -> dict[str, Any]:
        """What another process kept; nothing where there is none, or it cannot be read: it is computed again then."""
        try:
            return dict(torch.load(path, weights_only=True)) if path and path.is_file() else {}
        except Exception as error:  # a torn file makes the unpickler raise whatever it stumbles over
            log.warning("%s cannot be read (%s) and is computed again", path, type(error).__name__)
            return {}

    def _write(self, path: Path | None, value: Any) -> None:
        if path is None:
            return
        content = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        with written_file(path) as scratch:
            torch.save(content, scratch)
