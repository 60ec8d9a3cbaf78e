"""Cost by number of parameters."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from fastprune import option
from fastprune.data import Workload
from fastprune.strategies import CostModel, CostTable
from fastprune.units import Group, Groups


@dataclass(frozen=True, kw_only=True)
class ParamsCost(CostModel):
    """Number of weights and biases.

    With ``scope`` "model", parameters that cannot be pruned, such as embeddings, are the fixed cost; with "layers" they are
    not counted (docs/method.md, section 2).
    """

    name: ClassVar[str] = "params"
    counted: ClassVar[bool] = True
    unit: ClassVar[str] = "parameters"
    formula: ClassVar[str] = "parameters = fixed + sum_g k_g p_g, p_g of one unit: its rows with biases and its columns"
    paper: ClassVar[str] = "Ma et al. (LLM-Pruner), NeurIPS 2023, https://arxiv.org/abs/2305.11627"
    scope: Literal["model", "layers"] = option("model", help="Count the whole model, or only the prunable units.")

    def measure(self, model: nn.Module, groups: Groups, workload: Workload) -> CostTable:
        costs = {g.name: torch.arange(g.units + 1, dtype=torch.float64) * unit_params(model, g) for g in groups}
        total = sum(parameter.numel() for parameter in model.parameters())
        fixed = total - sum(float(cost[-1]) for cost in costs.values()) if self.scope == "model" else 0.0
        return CostTable(measure=self.unit, groups=costs, fixed=fixed)


def unit_params(model: nn.Module, group: Group) -> float:
    """Parameters of one unit: its positions in every parameter that the group cuts, tied ones counted once."""
    owned: dict[int, int] = {}
    for cut in group.cuts:
        tensor = cut.tensor(model)
        if isinstance(tensor, nn.Parameter):
            owned[id(tensor)] = cut.positions.per_unit * tensor.numel() // tensor.shape[cut.dimension]
    return float(sum(owned.values()))
