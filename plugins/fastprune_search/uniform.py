"""Uniform search: the same share of units in every group."""

from dataclasses import dataclass
from typing import ClassVar

from fastprune.strategies import Context, CostTable, Scores, Searcher
from fastprune.units import Mask


@dataclass(frozen=True, kw_only=True)
class UniformSearcher(Searcher):
    """Keep the same share of units in every group, those with the highest scores; the largest share within the budget.

    Used by methods that do not compare sublayers, such as Wanda-sp. Counts are rounded to the nearest unit, so a group of few
    units keeps all of them until the share falls half a unit short.
    """

    name: ClassVar[str] = "uniform"
    formula: ClassVar[str] = "k_g = round(s units_g), s the largest with sum_g cost_g(k_g) <= budget"
    paper: ClassVar[str] = "An et al. (FLAP, its Wanda-sp), AAAI 2024, https://arxiv.org/abs/2312.11983"

    def search(self, scores: Scores, costs: CostTable, budget: float, context: Context) -> Mask:
        units = {name: table.numel() - 1 for name, table in costs.groups.items()}
        steps = {(kept - 0.5) / count for count in set(units.values()) for kept in range(1, count + 1)}
        counts = units
        for share in sorted(steps, reverse=True):
            if costs.of(counts) <= budget * (1 + 1e-12):
                break
            # the share just below this step, at which at least one group rounds to a unit less
            counts = {name: -int(-(share * count + 0.5 - 1e-9) // 1) - 1 for name, count in units.items()}
        return Mask.top(scores.importance, counts)
