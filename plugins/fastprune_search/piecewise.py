"""The paper's latency search: one piecewise linear cost function for all sublayers of a kind."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastprune import UsageError
from fastprune.strategies import Context, CostTable, Scores, Searcher
from fastprune.units import Groups, Mask


@dataclass(frozen=True, kw_only=True)
class PiecewiseSearcher(Searcher):
    """Maximise the importance within a latency budget under the paper's piecewise linear model of latency.

    All sublayers of a kind share one function of the number of units kept: 0 for none, a constant up to a threshold, then a
    straight line, fitted to the table by least squares. For every number of attention and FFN sublayers dropped (the least
    important first), each remaining sublayer costs its constant and keeps its best units up to the threshold for free; the
    units beyond the threshold compete for the rest of the budget. The best total wins. If the cost by the table, not by the
    fit, exceeds the budget, the search is repeated with a smaller one (Kwon et al., NeurIPS 2022, section 4.1;
    docs/method.md, section 5.3).
    """

    name: ClassVar[str] = "piecewise"
    formula: ClassVar[str] = "LAT(k) = 0 if k = 0, c if 0 < k <= T, c + a (k - T) if k > T"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, section 4.1 and appendix: https://arxiv.org/abs/2204.09656"

    def search(self, scores: Scores, costs: CostTable, budget: float, context: Context) -> Mask:
        kinds = kinds_of(scores, costs, context.groups)
        limit = budget * (1 + 1e-12)  # slack for rounding: a budget equal to the total cost keeps every unit
        full = {name: table.numel() - 1 for name, table in costs.groups.items()}
        if costs.of(full) <= limit:
            return Mask.top(scores.importance, full)
        goal = limit
        while True:
            counts = most_important(kinds, goal - costs.fixed)
            over = costs.of(counts) - limit
            if over <= 0 or not any(counts.values()):
                return Mask.top(scores.importance, counts)
            goal -= max(over, 1e-6 * limit)


@dataclass(frozen=True)
class Fit:
    """Cost of a sublayer: ``constant`` for up to ``threshold`` units, then ``slope`` for each further one."""

    threshold: int
    constant: float
    slope: float

    @staticmethod
    def of(costs: Tensor) -> "Fit":
        """Least-squares fit to the costs of 0, 1, ... units [units + 1], relative to the cost of 0 units."""
        kept = torch.arange(1, costs.numel(), dtype=torch.float64)  # [units]
        above = costs[1:].double() - costs[0]
        best, least = Fit(max(1, len(above)), float(above.mean()) if len(above) else 0.0, 0.0), torch.inf
        for threshold in range(1, len(above) + 1):
            constant = float(above[:threshold].mean())
            beyond, rise = kept[threshold:] - threshold, above[threshold:] - constant
            slope = max(0.0, float((beyond @ rise) / (beyond @ beyond))) if len(beyond) else 0.0
            error = float((above[:threshold] - constant).square().sum() + (rise - slope * beyond).square().sum())
            if error < least:
                best, least = Fit(threshold, constant, slope), error
        return best


@dataclass(frozen=True)
class Kind:
    """All sublayers of a kind: their cost function and, by group name, the importance of their units in falling order."""

    fit: Fit
    sorted: dict[str, Tensor]  # each [units] float64

    def after(self, dropped: int) -> "Choices":
        """The choices left after dropping the ``dropped`` sublayers whose free units are least important."""
        free = {name: float(values[: self.fit.threshold].sum()) for name, values in self.sorted.items()}
        names = sorted(free, key=lambda name: free[name])[dropped:]
        beyond = [self.sorted[name][self.fit.threshold :] for name in names]
        units = torch.cat([torch.zeros(0, dtype=torch.float64), *beyond])
        owners = [name for name, values in zip(names, beyond, strict=True) for _ in values]
        order = units.argsort(descending=True, stable=True)
        gained = torch.cat([torch.zeros(1, dtype=torch.float64), units[order].cumsum(0)])
        return Choices(
            cost=self.fit.constant * len(names),
            gained=gained + sum(free[name] for name in names),
            owners=[owners[index] for index in order.tolist()],
            free={name: min(self.fit.threshold, len(self.sorted[name])) for name in names},
        )


@dataclass(frozen=True)
class Choices:
    """The remaining sublayers of a kind and their units, with a given number of sublayers dropped.

    Attributes:
        cost: Sum of the constants of the remaining sublayers.
        gained: Importance of the free units plus the first 0, 1, ... further units, [further units + 1].
        owners: Group name of each further unit, by falling importance.
        free: Number of free units (up to the threshold) by group name.
    """

    cost: float
    gained: Tensor
    owners: list[str]
    free: dict[str, int]

    def counts(self, further: int) -> dict[str, int]:
        """Units kept by group, with the ``further`` most important units beyond the free ones."""
        counts = dict(self.free)
        for name in self.owners[:further]:
            counts[name] += 1
        return counts


def kinds_of(scores: Scores, costs: CostTable, groups: Groups) -> list[Kind]:
    """Collect the groups by kind and fit each kind to its longest table.

    Raises:
        UsageError: There are more than two kinds.
    """
    members: dict[str, list[str]] = {}
    for name in costs.groups:
        members.setdefault(groups[name].kind, []).append(name)
    if len(members) > 2:
        raise UsageError(
            f"The searcher 'piecewise' handles two kinds of sublayers, but this model has {len(members)} "
            f"({', '.join(members)}); use --searcher knapsack."
        )
    kinds = []
    for names in members.values():
        longest = max((costs.groups[name] for name in names), key=len)
        values = {name: scores.importance[name].double().sort(descending=True).values for name in names}
        kinds.append(Kind(Fit.of(longest), values))
    return kinds


def most_important(kinds: list[Kind], budget: float) -> dict[str, int]:
    """Find the counts of the highest total importance whose fitted cost is within the budget.

    Args:
        kinds: One or two kinds of sublayers.
        budget: Budget of the prunable part; below 0 no unit is kept.

    Returns:
        Units kept by group name.
    """
    first, second = [*kinds, Kind(Fit(1, 0.0, 0.0), {})][:2]
    some, others = ([kind.after(dropped) for dropped in range(len(kind.sorted) + 1)] for kind in (first, second))
    best: tuple[float, Choices, int, Choices, int] | None = None
    for one in some:
        for other in others:
            rest = budget - one.cost - other.cost - first.fit.slope * torch.arange(len(one.gained)).double()
            if float(rest[0]) < 0:
                continue
            most = len(other.gained) - 1
            affordable = (rest.clamp(min=0) / second.fit.slope).floor() if second.fit.slope > 0 else rest * 0 + most
            further = affordable.clamp(max=most).long()  # [further units of the first kind + 1]
            value = torch.where(rest >= 0, one.gained + other.gained[further], -torch.inf)
            top = int(value.argmax())
            if best is None or float(value[top]) > best[0]:
                best = float(value[top]), one, top, other, int(further[top])
    counts = {name: 0 for kind in kinds for name in kind.sorted}
    if best is not None:
        _, one, top, other, further_units = best
        counts |= one.counts(top) | other.counts(further_units)
    return counts
