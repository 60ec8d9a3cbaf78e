"""Costs: a table with the cost of keeping 0..units of each group, and the conditions of its measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

Conditions = Mapping[str, str | int | bool | None]
"""Conditions of a measurement by name: device, dtype, batch size and so on."""


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """The cost of a model, group by group (docs/method.md, section 2).

    Attributes:
        measure: Unit of the cost, such as ``MACs``.
        groups: Cost of keeping 0..units, by group name, each [units + 1] float64.
        fixed: Cost of everything that cannot be pruned.
        conditions: Conditions of the measurement; empty if the cost is not measured.
    """

    measure: str
    groups: Mapping[str, Tensor]
    fixed: float
    conditions: Conditions = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The cost of the unpruned model."""
        return self.of({name: costs.numel() - 1 for name, costs in self.groups.items()})

    @property
    def floor(self) -> float:
        """The minimum cost over all masks: every group at its cheapest."""
        return self.fixed + sum(float(costs.min()) for costs in self.groups.values())

    def of(self, counts: Mapping[str, int]) -> float:
        """The cost of keeping ``counts`` units, by group name."""
        return self.fixed + sum(float(self.groups[name][count]) for name, count in counts.items())

    def within(self, counts: Mapping[str, int]) -> CostTable:
        """The table of a model with only ``counts`` units left, by group name."""
        groups = {name: costs[: counts[name] + 1] for name, costs in self.groups.items()}
        return CostTable(measure=self.measure, groups=groups, fixed=self.fixed, conditions=self.conditions)

    def fixing(self, names: Collection[str]) -> CostTable:
        """The table without the named groups; their full cost becomes part of the fixed cost."""
        groups = {name: costs for name, costs in self.groups.items() if name not in names}
        fixed = self.fixed + sum(float(self.groups[name][-1]) for name in names)
        return dataclasses.replace(self, groups=groups, fixed=fixed)

    def scaled(self, factor: float) -> CostTable:
        """The table with the cost of every unit multiplied; the fixed cost stays."""
        return dataclasses.replace(self, groups={name: factor * costs for name, costs in self.groups.items()})
