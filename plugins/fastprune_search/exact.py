"""Exact search for a constant cost per unit."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastprune import UsageError
from fastprune.strategies import Context, CostTable, Scores, SizedSearcher
from fastprune.units import Mask


@dataclass(frozen=True, kw_only=True)
class ExactSearcher(SizedSearcher):
    """Find the mask with the highest total importance within the budget, for at most two unit costs (heads and filters).

    Units of the same cost are sorted over the whole model. For every number of units of the more expensive kind, starting at
    0, the rest of the budget is filled with units of the other kind; the best total wins. The result is exact (Kwon et al.,
    NeurIPS 2022, algorithm 1; docs/method.md, section 5.1).
    """

    name: ClassVar[str] = "exact"
    formula: ClassVar[str] = "maximise sum_u m_u importance_u with sum_u m_u cost_u <= budget, for two unit costs"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, algorithm 1: https://arxiv.org/abs/2204.09656"

    def search(self, scores: Scores, costs: CostTable, budget: float, context: Context) -> Mask:
        dear, cheap, *_ = [*units_by_cost(scores, costs), UnitKind.none(), UnitKind.none()]
        dear_counts = torch.arange(len(dear.names) + 1)
        # slack for rounding: a budget equal to the total cost keeps every unit
        remaining = budget * (1 + 1e-12) - costs.fixed - dear.cost * dear_counts.double()  # [dear units + 1]
        cheap_counts = (remaining.clamp(min=0) / cheap.cost).floor().long().clamp(max=len(cheap.names))
        value = torch.where(remaining >= 0, dear.gained[dear_counts] + cheap.gained[cheap_counts], -torch.inf)
        best = int(value.argmax())
        chosen = [*dear.names[:best], *cheap.names[: int(cheap_counts[best])]]
        counts = dict.fromkeys(scores.importance, 0)
        for name in chosen:
            counts[name] += 1
        return Mask.top(scores.importance, counts)


@dataclass(frozen=True)
class UnitKind:
    """All units of one cost, by falling importance.

    Attributes:
        cost: Cost of one unit.
        names: Name of each unit's group.
        gained: Total importance of the first 0, 1, ... units, [units + 1] float64.
    """

    cost: float
    names: list[str]
    gained: Tensor

    @staticmethod
    def none() -> "UnitKind":
        return UnitKind(1.0, [], torch.zeros(1, dtype=torch.float64))


def units_by_cost(scores: Scores, costs: CostTable) -> list[UnitKind]:
    """Group the units by cost, the most expensive kind first.

    Raises:
        UsageError: A group's cost is not proportional to its units, or there are more than two different unit costs.
    """
    kinds: dict[float, list[str]] = {}
    for name, table in costs.groups.items():
        unit = float(table[-1]) / max(table.numel() - 1, 1)
        if not torch.allclose(table, unit * torch.arange(table.numel(), dtype=torch.float64), rtol=1e-9):
            raise UsageError(
                f"The searcher 'exact' needs a constant cost per unit, but the {costs.measure} of '{name}' are not "
                "proportional to its units; use the searcher 'knapsack'."
            )
        if table.numel() > 1:
            kinds.setdefault(unit, []).append(name)
    if len(kinds) > 2:
        raise UsageError(
            f"The searcher 'exact' handles at most two different unit costs, but there are {len(kinds)} in the "
            f"{costs.measure} of this model; use the searcher 'knapsack'."
        )
    return [_sorted_kind(cost, names, scores) for cost, names in sorted(kinds.items(), reverse=True)]


def _sorted_kind(cost: float, names: list[str], scores: Scores) -> UnitKind:
    importance = torch.cat([scores.importance[name].double() for name in names])
    owners = [name for name in names for _ in range(scores.importance[name].numel())]
    order = importance.argsort(descending=True, stable=True)
    gained = torch.cat([torch.zeros(1, dtype=torch.float64), importance[order].cumsum(0)])
    return UnitKind(cost, [owners[index] for index in order.tolist()], gained)
