"""Schedules: how many passes there are, and the groups that each prunes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from fastprune.strategies.contracts import Strategy


@dataclass(frozen=True)
class Pass:
    """One pass of a schedule: score, search, rearrange, tune.

    Attributes:
        budget: What may be left once all is done as this pass sees it, as a fraction of the dense model's cost.
        fixes: The groups that lose units in this pass, and in no later one; the search sees those not settled yet.
            None: every group loses units, and may again.
    """

    budget: float
    fixes: frozenset[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Schedule(Strategy, ABC):
    """How many passes there are, and what each settles (METHOD 5)."""

    @abstractmethod
    def passes(self, budget: float, groups: Sequence[str]) -> Sequence[Pass]:
        """The passes, in order; the last has ``budget`` itself, and no group is left out of all.

        Args:
            budget: A fraction of the dense model's cost.
            groups: The names of the model's groups, in the order in which they run.
        """
