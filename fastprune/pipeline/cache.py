"""Reuse: what several prunings of one model share, measured once and kept, so that it survives an interruption."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastprune.calibration.dense_states import DenseStates
from fastprune.data.batches import Batches
from fastprune.strategies.contracts import CostModel, Scorer
from fastprune.strategies.costs import CostTable
from fastprune.strategies.scores import Scores

log = logging.getLogger(__name__)


@dataclass
class PruningCache:
    """Cost tables and first scores of one dense model on one calibration set, by the strategy that made them, and what
    tuners see of it.

    Give the same instance to several calls of ``prune`` with the same model, data and seed: each cost model measures and
    each scorer scores once, and the dense model's layers run once for all tuners, as far as there is memory. A pruning gives
    the same result with it as without it, random draws included.

    Attributes:
        folder: Where tables and scores are kept for another process; None: in memory alone.
        memory: Bytes that what the dense model's layers give may take; None: a quarter of what is free when it is first kept.
        states: What they give.
    """

    folder: Path | None = None
    memory: int | None = None
    states: DenseStates | None = field(default=None, init=False, repr=False)
    _costs: dict[str, CostTable] = field(default_factory=dict)
    _scores: dict[str, tuple[Scores, torch.Tensor]] = field(default_factory=dict)

    def dense_states(self, teacher: nn.Module, batches: Batches) -> DenseStates:
        """The cached states of this model on these batches; those of another model or calibration set are dropped."""
        if self.states is None or not self.states.belong_to(teacher, batches):
            self.states = DenseStates(teacher, batches, self.memory)
        return self.states

    def costs(self, cost: CostModel, measure: Callable[[], CostTable]) -> CostTable:
        """The table of a cost model, measured at the first call."""
        key = repr(cost)
        if key not in self._costs:
            read = self._read("costs", cost)
            self._costs[key] = CostTable(**read) if read else measure()
            if not read:
                self._write("costs", cost, self._costs[key])
        return self._costs[key]

    def scores(self, scorer: Scorer, generator: torch.Generator, score: Callable[[], Scores]) -> Scores:
        """The scores of a scorer, computed at the first call; the generator is left as scoring leaves it."""
        key = repr(scorer)
        if key not in self._scores:
            read = self._read("scores", scorer)
            if read:
                state = read.pop("generator")
                self._scores[key] = Scores(**read), state
            else:
                self._scores[key] = score(), generator.get_state()
                self._write("scores", scorer, self._scores[key][0], generator=generator.get_state())
        scores, state = self._scores[key]
        generator.set_state(state)
        return scores

    def _path(self, kind: str, strategy: Any) -> Path | None:
        digest = hashlib.sha256(repr(strategy).encode()).hexdigest()[:12]
        return self.folder / f"{kind}-{strategy.name}-{digest}.pt" if self.folder else None

    def _read(self, kind: str, strategy: Any) -> dict[str, Any]:
        """What another process kept; nothing where there is none, or it cannot be read: it is computed again then."""
        path = self._path(kind, strategy)
        try:
            return dict(torch.load(path, weights_only=True)) if path and path.is_file() else {}
        except Exception as error:  # a torn file makes the unpickler raise whatever it stumbles over
            log.warning("%s cannot be read (%s) and is computed again", path, type(error).__name__)
            return {}

    def _write(self, kind: str, strategy: Any, value: Any, **more: Any) -> None:
        path = self._path(kind, strategy)
        if path is None:
            return
        content = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)} | more
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            torch.save(content, scratch)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
