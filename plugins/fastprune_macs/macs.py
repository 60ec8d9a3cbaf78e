"""Multiply-accumulates of one sample."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fastprune import CostModel, CostTable, Group, Groups, Workload, frozen, option, producers_of


@dataclass(frozen=True, kw_only=True)
class MacsCost(CostModel):
    """Multiply-accumulates of one sample, attention's term in seq_len^2 included (METHOD 2).

    A unit costs the same whichever others are kept, so the table is a straight line. What the units do not account
    for (embeddings' projections, pooler, head, keys and values that all heads share) is counted by running the model once.
    """

    name: ClassVar[str] = "macs"
    seq_len: int | None = option(None, help="Tokens a sample; none: the mean of the calibration set.")
    scope: Literal["model", "layers"] = option("model", help="Count the whole model, or only what can be pruned.")

    def measure(self, model: nn.Module, groups: Groups, workload: Workload) -> CostTable:
        seq_len = self.seq_len or workload.seq_len
        costs = {g.name: torch.arange(g.units + 1, dtype=torch.float64) * unit_macs(model, g, seq_len) for g in groups}
        fixed = 0.0
        if self.scope == "model":
            fixed = model_macs(model, workload.inputs(seq_len=seq_len)) - sum(
                float(cost[-1]) for cost in costs.values()
            )
        return CostTable(measure="MACs", groups=costs, fixed=fixed)


def unit_macs(model: nn.Module, group: Group, seq_len: int) -> float:
    """What one unit of a group adds: its rows, its columns and, for a head, scores and weighted sum."""
    if group.units == 0:
        return 0.0
    producers = zip(producers_of(model, group), group.rows, strict=True)
    weights = sum(rows.per_unit * linear.in_features for linear, rows in producers)
    weights += group.width * group.hidden
    between_tokens = 2 * seq_len * group.width if group.kind == "attention" else 0
    return float(seq_len * (weights + between_tokens))


def model_macs(model: nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    """What torch counts for one forward pass."""
    device = next(model.parameters()).device
    counter = FlopCounterMode(display=False)
    # the fused kernels of some devices have no formula in torch's counter; the plain one has
    with frozen(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(**{name: value.to(device) for name, value in inputs.items()})
    return counter.get_total_flops() / 2
