"""The exact search where a unit costs the same whichever others are kept."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastprune import Context, CostTable, Mask, Scores, Searcher, UsageError


@dataclass(frozen=True, kw_only=True)
class ExactSearcher(Searcher):
    """The most importance within the budget, exactly, for at most two different unit costs (heads and filters).

    Units of one cost are sorted together over the whole model. For every number of units of the dearer kind, from
    none, the rest of the budget is filled with the others; the best total wins (Kwon et al. 2022, algorithm 1;
    METHOD 2).
    """

    name: ClassVar[str] = "exact"
    formula: ClassVar[str] = "maximise sum_u m_u importance_u with sum_u m_u cost_u <= budget, for two unit costs"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, algorithm 1: https://arxiv.org/abs/2204.09656"

    def search(self, scores: Scores, costs: CostTable, budget: float, context: Context) -> Mask:
        dear, cheap, *_ = [*units_by_cost(scores, costs), UnitKind.none(), UnitKind.none()]
        dear_counts = torch.arange(len(dear.names) + 1)
        # the slack is for sums of costs that are no whole numbers: a budget of the total pays for everything
        left = budget * (1 + 1e-12) - costs.fixed - dear.cost * dear_counts.double()  # [dear + 1]
        cheap_counts = (left.clamp(min=0) / cheap.cost).floor().long().clamp(max=len(cheap.names))
        value = torch.where(left >= 0, dear.gained[dear_counts] + cheap.gained[cheap_counts], -torch.inf)
        best = int(value.argmax())
        chosen = [*dear.names[:best], *cheap.names[: int(cheap_counts[best])]]
        counts = dict.fromkeys(scores.importance, 0)
        for name in chosen:
            counts[name] += 1
        return Mask.top(scores.importance, counts)


@dataclass(frozen=True)
class UnitKind:
    """All units of one cost, the most important first: the group of each, and what the first k are worth together."""

    cost: float
    names: list[str]
    gained: Tensor  # [units + 1] float64

    @staticmethod
    def none() -> "UnitKind":
        return UnitKind(1.0, [], torch.zeros(1, dtype=torch.float64))


def units_by_cost(scores: Scores, costs: CostTable) -> list[UnitKind]:
    """The kinds of units, the dearest first.

    Raises:
        UsageError: A group's cost is no straight line through zero, or there are more than two kinds.
    """
    kinds: dict[float, list[str]] = {}
    for name, table in costs.groups.items():
        unit = float(table[-1]) / max(table.numel() - 1, 1)
        if not torch.allclose(table, unit * torch.arange(table.numel(), dtype=torch.float64), rtol=1e-9):
            raise UsageError(
                f"The searcher 'exact' needs a constant cost a unit, but the {costs.measure} of '{name}' are not; "
                "use a searcher for any table."
            )
        if table.numel() > 1:
            kinds.setdefault(unit, []).append(name)
    if len(kinds) > 2:
        raise UsageError(
            f"The searcher 'exact' handles at most two different unit costs, but there are {len(kinds)} in the "
            f"{costs.measure} of this model; use a searcher for any table."
        )
    return [_sorted_kind(cost, names, scores) for cost, names in sorted(kinds.items(), reverse=True)]


def _sorted_kind(cost: float, names: list[str], scores: Scores) -> UnitKind:
    importance = torch.cat([scores.importance[name].double() for name in names])
    owners = [name for name in names for _ in range(scores.importance[name].numel())]
    order = importance.argsort(descending=True, stable=True)
    gained = torch.cat([torch.zeros(1, dtype=torch.float64), importance[order].cumsum(0)])
    return UnitKind(cost, [owners[index] for index in order.tolist()], gained)
