"""Limits: budgets on the cost tables of a model, and a search under several budgets at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastprune.errors import UnreachableError
from fastprune.strategies.budgets import amount
from fastprune.strategies.context import Context
from fastprune.strategies.contracts import Searcher
from fastprune.strategies.costs import CostTable
from fastprune.strategies.scores import Scores
from fastprune.units.masks import Mask

ROUNDS = 12  # number of updates of the prices for several budgets
STEP = 3.0  # initial step size of the price updates
SLACK = 0.05  # a measured cost meets a budget up to this fraction of it: repeated measurements differ by about as much


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One cost and its budget.

    Attributes:
        name: Name of the cost model.
        table: The cost of each number of units.
        share: The budget as a fraction of the dense model's cost.
        dense: The dense model's cost.
    """

    name: str
    table: CostTable
    share: float
    dense: float

    @property
    def budget(self) -> float:
        """The budget in the table's measure."""
        return self.share * self.dense

    @property
    def allowed(self) -> float:
        """The budget plus a tolerance for rounding in sums of non-integer costs."""
        return self.budget * (1 + 1e-12)

    def check(self) -> None:
        """Check that the budget can be met.

        Raises:
            UnreachableError: The budget is below the table's floor.
        """
        floor, measure = self.table.floor, self.table.measure
        if self.budget < floor:
            raise UnreachableError(
                f"The budget of {self.share:.3g} of the {measure} ({amount(self.budget, measure)}) cannot be met: with every unit "
                f"pruned {floor / self.dense:.3g} ({amount(floor, measure)}) is left. Ask for more than that."
            )


def _saved(limit: Limit, name: str, now: int) -> Tensor:
    """Saving of each smaller number of units than ``now``, as a share of the budget: [now]."""
    costs = limit.table.groups[name]
    return (costs[now] - costs[:now]).clamp(min=0) / limit.budget


@dataclass(frozen=True)
class Limits:
    """Budgets on several costs. A schedule's pass budgets refer to the first cost."""

    items: tuple[Limit, ...]

    @property
    def first(self) -> Limit:
        return self.items[0]

    def check(self) -> None:
        """Check that every budget can be met.

        Raises:
            BudgetError: A budget is below its table's floor.
        """
        for limit in self.items:
            limit.check()

    def remaining(self, mask: Mask, fixed: Collection[str] = ()) -> Limits:
        """The limits of a model with only the mask's units; the groups in ``fixed`` become part of the fixed cost."""
        counts = mask.counts()
        tables = [limit.table.within(counts) for limit in self.items]
        if fixed:
            tables = [table.fixing(fixed) for table in tables]
        return Limits(tuple(replace(limit, table=table) for limit, table in zip(self.items, tables, strict=True)))

    def at(self, share: float) -> Limits:
        """The limits of a pass with this share of the first cost; the other budgets move in proportion toward their targets."""
        first = self.first.share
        if share == first:
            return self
        way = (1 - share) / (1 - first) if first < 1 else 1.0
        return Limits(tuple(replace(limit, share=1 - way * (1 - limit.share)) for limit in self.items))

    @property
    def possible(self) -> bool:
        """Whether every budget can be met."""
        return all(limit.table.floor <= limit.budget for limit in self.items)

    def lowered(self, amounts: Sequence[float]) -> Limits:
        """The limits with each budget lower by an amount in its table's measure; amounts below 0 leave it as it is."""
        shares = [each.share - max(amount, 0.0) / each.dense for each, amount in zip(self.items, amounts, strict=True)]
        return Limits(tuple(replace(each, share=share) for each, share in zip(self.items, shares, strict=True)))

    def missed(self, measured: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """The measured cost as a fraction of the dense model's, by name, where it exceeds its budget by more than ``SLACK``.

        Args:
            measured: By cost, the cost measured on the dense model (``before``) and on the pruned one (``after``).
        """
        shares = {name: each["after"] / each["before"] for name, each in measured.items()}
        return {
            limit.name: shares[limit.name]
            for limit in self.items
            if limit.name in shares and shares[limit.name] > limit.share * (1 + SLACK)
        }

    def corrected(self, missed: Mapping[str, float], mask: Mask) -> Limits:
        """The limits with tables that agree with what was measured on the pruned model: units cost more, by one factor.

        Args:
            missed: The result of ``missed``.
            mask: The pruned model's units.
        """
        items = []
        for limit in self.items:
            if limit.name in missed:
                removable = limit.table.of(mask.counts()) - limit.table.fixed
                factor = (missed[limit.name] * limit.dense - limit.table.fixed) / removable if removable > 0 else 1.0
                limit = replace(limit, table=limit.table.scaled(max(factor, 1.0)))
            items.append(limit)
        return Limits(tuple(items))

    def spent(self, mask: Mask) -> list[dict[str, Any]]:
        """By cost: name, measure, conditions, the budget's share, and the cost before and after."""
        return [
            {
                "name": limit.name,
                "measure": limit.table.measure,
                "budget": limit.share,
                "before": limit.dense,
                "after": limit.table.of(mask.counts()),
                "conditions": dict(limit.table.conditions),
            }
            for limit in self.items
        ]

    def search(self, searcher: Searcher, scores: Scores, context: Context) -> Mask:
        """The best mask that the searcher finds within all budgets.

        A single budget is passed to the searcher. With several budgets, each is first searched alone; a mask that meets the
        other budgets as well is returned. Otherwise the costs are added up, each relative to its budget and times a price, and
        the prices of exceeded budgets rise (surrogate relaxation). Returns the mask with the least damage within all budgets.

        A searcher that is slow (``Searcher.quick``) searches once, at the prices of that mask.
        """
        if len(self.items) == 1:
            return searcher.search(scores, self.first.table, self.first.budget, context)
        damage = {name: scores.damage_of(name) for name in scores.importance}
        quick = searcher.quick()
        for limit in self.items:
            mask = quick.search(scores, limit.table, limit.budget, context)
            if max(self._used(mask)) <= 1:
                if quick is not searcher:
                    mask = searcher.search(scores, limit.table, limit.budget, context)
                return self._fitting(mask, scores, damage)
        best, least = self._cheapest(), float("inf")
        prices = [1.0] * len(self.items)
        found = prices
        for turn in range(ROUNDS):
            mask = quick.search(scores, self._priced(prices), 1.0, context)
            used = self._used(mask)
            counts = self._filled(self._repaired(mask.counts(), damage), damage)
            lost = sum(float(damage[name][count]) for name, count in counts.items())
            if lost < least:
                best, least, found = counts, lost, prices
            step = STEP / (1 + turn / 3)
            prices = [price * math.exp(step * (share - 1)) for price, share in zip(prices, used, strict=True)]
        if quick is not searcher:
            return self._fitting(searcher.search(scores, self._priced(found), 1.0, context), scores, damage)
        return Mask.top(scores.importance, best)

    def _fitting(self, mask: Mask, scores: Scores, damage: Mapping[str, Tensor]) -> Mask:
        """The mask itself if it is within all budgets; else pruned further until it is, and filled up."""
        if max(self._used(mask)) <= 1:
            return mask
        return Mask.top(scores.importance, self._filled(self._repaired(mask.counts(), damage), damage))

    def _repaired(self, counts: Mapping[str, int], damage: Mapping[str, Tensor]) -> dict[str, int]:
        """Counts within all budgets: repeatedly prune the group with the least damage per saving."""
        counts = dict(counts)
        while True:
            broken = [limit for limit in self.items if limit.table.of(counts) > limit.allowed]
            if not broken:
                return counts
            best, rate = ("", 0), float("inf")
            for name, now in counts.items():
                relief = sum((_saved(limit, name, now) for limit in broken), torch.zeros(now, dtype=torch.float64))
                harm = (damage[name][:now] - damage[name][now]).clamp(min=0)  # [fewer units]
                rates = torch.where(relief > 0, (harm + 1e-300) / relief, torch.inf)
                if now and float(rates.min()) < rate:
                    best, rate = (name, int(rates.argmin())), float(rates.min())
            if not best[0]:  # costs can rise as units go: only removing all is certain
                return self._cheapest()
            counts[best[0]] = best[1]

    def _filled(self, counts: dict[str, int], damage: Mapping[str, Tensor]) -> dict[str, int]:
        """Use up the remaining budgets: repeatedly keep more units in the group where that reduces the damage most."""
        while True:
            rests = [limit.allowed - limit.table.of(counts) for limit in self.items]
            best, gain = ("", 0), 0.0
            for name, now in counts.items():
                gains = damage[name][now] - damage[name]  # [units + 1]
                for limit, rest in zip(self.items, rests, strict=True):
                    costs = limit.table.groups[name]
                    gains = torch.where(costs - costs[now] <= rest, gains, -torch.inf)
                if float(gains.max()) > gain:
                    best, gain = (name, int(gains.argmax())), float(gains.max())
            if not best[0]:
                return counts
            counts[best[0]] = best[1]

    def _used(self, mask: Mask) -> list[float]:
        """The share of each budget that a mask uses."""
        counts = mask.counts()
        return [limit.table.of(counts) / limit.allowed for limit in self.items]

    def _cheapest(self) -> dict[str, int]:
        """Counts of zero in every group: the floor of every table whose costs never fall with more units."""
        return dict.fromkeys(self.first.table.groups, 0)

    def _priced(self, prices: Sequence[float]) -> CostTable:
        """All costs in one table, in budgets: at most 1 for masks within every budget."""
        rates = [price / sum(prices) / limit.budget for price, limit in zip(prices, self.items, strict=True)]
        rated = list(zip(rates, (limit.table for limit in self.items), strict=True))
        groups = {
            name: sum((rate * table.groups[name] for rate, table in rated[1:]), rated[0][0] * rated[0][1].groups[name])
            for name in self.first.table.groups
        }
        return CostTable(measure="budgets", groups=groups, fixed=sum(rate * table.fixed for rate, table in rated))
