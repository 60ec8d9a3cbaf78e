"""Search by a global threshold on the scores."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastprune import option
from fastprune.strategies import Context, CostTable, Scores, Searcher
from fastprune.units import Mask


@dataclass(frozen=True, kw_only=True)
class ThresholdSearcher(Searcher):
    """Keep the units with the highest scores over all groups and kinds until the budget is spent.

    Used by FLAP (An et al., AAAI 2024) and K-prune (Park et al., ICLR 2024). Without ``per_cost`` a unit's cost affects only
    where the list ends, not the ranking.
    """

    name: ClassVar[str] = "threshold"
    formula: ClassVar[str] = "m_u = 1 where score_u >= t (or score_u / cost_u), the lowest t that the budget allows"
    paper: ClassVar[str] = (
        "An et al. (FLAP), AAAI 2024, https://arxiv.org/abs/2312.11983; "
        "Park et al. (K-prune), ICLR 2024, https://arxiv.org/abs/2308.03449"
    )
    per_cost: bool = option(False, help="Rank by score divided by the unit's cost (K-prune) instead of by score.")

    def search(self, scores: Scores, costs: CostTable, budget: float, context: Context) -> Mask:
        names = list(scores.importance)
        importance = torch.cat([self._rank(scores.importance[name], costs.groups[name]) for name in names])
        owners = [name for name in names for _ in range(scores.importance[name].numel())]
        counts = dict.fromkeys(names, 0)
        spent = costs.of(counts)
        for unit in importance.argsort(descending=True, stable=True).tolist():
            name = owners[unit]
            table, count = costs.groups[name], counts[name]
            extra = float(table[count + 1] - table[count])
            if spent + extra > budget * (1 + 1e-12):
                break
            spent += extra
            counts[name] = count + 1
        return Mask.top(scores.importance, counts)

    def _rank(self, importance: Tensor, table: Tensor) -> Tensor:
        """The values that the units of one group are ranked by: [units]."""
        if not self.per_cost or not importance.numel():
            return importance
        unit = float(table[-1] - table[0]) / importance.numel()
        return importance.double() / max(unit, 1e-300)
