"""The contract of a schedule: the passes of a pruning, and the groups that each pass fixes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from fastprune.strategies.contracts import Strategy


@dataclass(frozen=True)
class Pass:
    """One pass: score, search, rearrange, tune.

    Attributes:
        budget: The share of the dense model's cost that is left after the pass.
        fixes: The groups that this pass prunes for good. Groups of earlier passes are not searched again. None: all groups
            are pruned, and may be pruned again by a later pass.
    """

    budget: float
    fixes: frozenset[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Schedule(Strategy, ABC):
    """The number of passes, and the groups that each fixes (docs/method.md, rounds)."""

    @abstractmethod
    def passes(self, budget: float, groups: Sequence[str]) -> Sequence[Pass]:
        """The passes, in order. The last has ``budget`` itself; every group is pruned by some pass.

        Args:
            budget: A fraction of the dense model's cost.
            groups: The names of the model's groups, in the order in which they run.
        """
