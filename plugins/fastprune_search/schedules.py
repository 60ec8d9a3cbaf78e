"""Schedules: how many passes, and the budget of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fastprune import Schedule


@dataclass(frozen=True, kw_only=True)
class Once(Schedule):
    """One pass: score, search, rearrange, tune (the paper)."""

    name: ClassVar[str] = "once"

    def budgets(self, budget: float) -> Sequence[float]:
        return [budget]
