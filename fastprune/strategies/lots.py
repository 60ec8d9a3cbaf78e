"""Lots: a search in which several groups get the same number of units, or not every number is allowed.

The searcher sees a smaller problem: one group for each lot, whose units are the steps from one allowed number to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastprune.strategies.context import Context
from fastprune.strategies.contracts import Searcher
from fastprune.strategies.costs import CostTable
from fastprune.strategies.limits import Limits
from fastprune.strategies.scores import Scores
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask


@dataclass(frozen=True, kw_only=True)
class Lot:
    """Groups that get the same number of units.

    Attributes:
        groups: Names of the groups.
        counts: The allowed numbers of units, rising.
    """

    groups: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of its first group."""
        return self.groups[0]

    @property
    def open(self) -> bool:
        """Whether there is a choice."""
        return len(self.counts) > 1


@dataclass(frozen=True)
class Lots:
    """The lots of a search; together they hold each group once."""

    items: tuple[Lot, ...]

    def limits(self, limits: Limits) -> Limits:
        """The budgets of the smaller problem."""
        return Limits(tuple(replace(limit, table=self.table(limit.table)) for limit in limits.items))

    def table(self, table: CostTable) -> CostTable:
        """The costs of the smaller problem: those of the least number of units of each lot are part of the fixed cost."""
        costs = {lot: _summed(table.groups, lot) for lot in self.items}
        return replace(
            table,
            groups={lot.name: each - each[0] for lot, each in costs.items() if lot.open},
            fixed=table.fixed + sum(float(each[0]) for each in costs.values()),
        )

    def scores(self, scores: Scores) -> Scores:
        """The importance and damage of each step."""
        importance = {lot.name: _steps(scores.importance, lot) for lot in self.items if lot.open}
        damage = scores.damage and {lot.name: _summed(scores.damage, lot) for lot in self.items if lot.open}
        if damage is not None:
            damage = {name: each - each[-1] for name, each in damage.items()}
        return Scores(importance=importance, damage=damage)

    def search(self, limits: Limits, searcher: Searcher, scores: Scores, context: Context) -> Mask:
        """The best mask of these lots that a searcher finds within all budgets."""
        smaller, steps = self.limits(limits), dict[str, int]()
        if smaller.first.table.groups:
            models = context.models and replace(context.models, counts=self.counts)
            context = replace(context, groups=Groups(()), models=models)
            steps = smaller.search(searcher, self.scores(scores), context).counts()
        return Mask.top(scores.importance, self.counts(steps))

    def counts(self, steps: Mapping[str, int]) -> dict[str, int]:
        """Number of units of each group, from the number of steps of each lot."""
        return {name: lot.counts[steps.get(lot.name, 0)] for lot in self.items for name in lot.groups}


def _summed(values: Mapping[str, Tensor], lot: Lot) -> Tensor:
    """Sum over a lot's groups of a curve over the number of units, at the allowed numbers: [counts] float64."""
    places = torch.tensor(lot.counts)
    return torch.stack([values[name].double()[places] for name in lot.groups]).sum(0)


def _steps(importance: Mapping[str, Tensor], lot: Lot) -> Tensor:
    """The importance of each step, that of the units that it adds: [counts - 1] float64, falling."""
    sums: list[Tensor] = []
    for name in lot.groups:
        falling = importance[name].double().sort(descending=True).values
        sums.append(torch.cat([falling.new_zeros(1), falling.cumsum(0)])[torch.tensor(lot.counts)])
    return torch.stack(sums).sum(0).diff()


def multiples(units: int, width: int, multiple: int) -> tuple[int, ...]:
    """The numbers of units whose features are a multiple of ``multiple``, from 0; all numbers if only 0 is.

    Args:
        units: Number of units of the group.
        width: Features of a unit.
        multiple: The multiple.
    """
    found: Sequence[int] = [count for count in range(units + 1) if count * width % multiple == 0]
    return tuple(found) if len(found) > 1 else tuple(range(units + 1))
