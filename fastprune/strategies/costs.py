"""Costs: a table of what keeping 0..units of each group costs, and the workload that it was measured for."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fastprune.errors import BudgetError

Conditions = Mapping[str, str | int | bool | None]
"""What a cost holds for: device, dtype, batch size and so on, by name."""


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """Cost of a model by group and number of units kept (docs/method.md, section 2).

    Attributes:
        measure: Unit of the costs, such as ``MACs``.
        groups: Cost of keeping 0, 1, ... units by group name, each [units + 1] float64.
        fixed: Cost that cannot be pruned.
        conditions: Measurement conditions of a measured cost.
    """

    measure: str
    groups: Mapping[str, Tensor]
    fixed: float
    conditions: Conditions = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The cost of the model as it is."""
        return self.of({name: costs.numel() - 1 for name, costs in self.groups.items()})

    @property
    def floor(self) -> float:
        """The cost with every group at its cheapest."""
        return self.fixed + sum(float(costs.min()) for costs in self.groups.values())

    def of(self, counts: Mapping[str, int]) -> float:
        """The cost of keeping so many units of each group."""
        return self.fixed + sum(float(self.groups[name][count]) for name, count in counts.items())

    def within(self, counts: Mapping[str, int]) -> CostTable:
        """The table of a model that has only so many units of each group left."""
        groups = {name: costs[: counts[name] + 1] for name, costs in self.groups.items()}
        return CostTable(measure=self.measure, groups=groups, fixed=self.fixed, conditions=self.conditions)

    def fixing(self, names: Collection[str]) -> CostTable:
        """The table without some groups, whose full cost becomes part of the fixed cost."""
        groups = {name: costs for name, costs in self.groups.items() if name not in names}
        fixed = self.fixed + sum(float(self.groups[name][-1]) for name in names)
        return dataclasses.replace(self, groups=groups, fixed=fixed)

    def check(self, budget: float) -> None:
        """Refuse a budget that nothing can meet.

        Raises:
            BudgetError: ``budget``, in the table's measure, is below the floor.
        """
        if budget < self.floor:
            raise BudgetError(
                f"The budget of {budget / self.total:.3g} of the {self.measure} ({budget:.4g}) cannot be met: with every unit "
                f"pruned {self.floor / self.total:.3g} ({self.floor:.4g}) is left. Ask for more than that."
            )
