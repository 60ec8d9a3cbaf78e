"""Multiply-accumulates of one sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fastprune import (
    CostModel,
    CostTable,
    Groups,
    Mask,
    Workload,
    dense_routing,
    frozen,
    materialize,
    option,
    sharing_copy,
)


@dataclass(frozen=True, kw_only=True)
class MacsCost(CostModel):
    """Multiply-accumulates of one sample, attention's term in seq_len^2 included (METHOD 2).

    A unit costs the same whichever others are kept, so the table is a straight line: what torch counts for a forward pass,
    less what it counts for one with a unit fewer in each group. Layers that run several times, keys of another sequence
    and windows are counted as they run; experts as if each saw an even share of the tokens. What the units do not
    account for (embeddings' projections, pooler, head, keys
    and values that all heads share) is fixed.
    """

    name: ClassVar[str] = "macs"
    formula: ClassVar[str] = "MACs = fixed + sum_g k_g c_g, c_g of one unit counted over a sample of seq_len tokens"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, https://arxiv.org/abs/2204.09656"
    seq_len: int | None = option(None, help="Tokens a sample; none: the mean of the calibration set.")
    scope: Literal["model", "layers"] = option("model", help="Count the whole model, or only what can be pruned.")

    def measure(self, model: nn.Module, groups: Groups, workload: Workload) -> CostTable:
        inputs = workload.inputs(seq_len=self.seq_len or workload.seq_len)
        total, by_unit = count_macs(model, groups, inputs)
        costs = {g.name: torch.arange(g.units + 1, dtype=torch.float64) * by_unit[g.name] for g in groups}
        spent = sum(float(cost[-1]) for cost in costs.values())
        return CostTable(measure="MACs", groups=costs, fixed=total - spent if self.scope == "model" else 0.0)


def count_macs(model: nn.Module, groups: Groups, inputs: dict[str, Tensor]) -> tuple[float, dict[str, float]]:
    """MACs of one forward pass, and what a unit of each group adds to them, from one pass with a unit fewer in each."""
    device = next(model.parameters()).device
    fewer = sharing_copy(model)
    materialize(fewer, groups, Mask.first(groups, {g.name: max(g.units - 1, 0) for g in groups}), inplace=True)
    whole, less = (
        module_macs(one, {name: value.to(device) for name, value in inputs.items()}) for one in (model, fewer)
    )
    by_unit = {}
    for group in groups:
        inside = group.consumer.startswith(f"{group.module}.")
        paths = [group.module] if inside else [group.module, group.consumer]
        by_unit[group.name] = sum(whole.get(path, 0.0) - less.get(path, 0.0) for path in paths)
    return whole[""], by_unit


def module_macs(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, float]:
    """What torch counts for each module in one forward pass, by path; the model's own is the empty one."""
    counter = FlopCounterMode(display=False)
    # the fused kernels of some devices have no formula in torch's counter; the plain one has
    with frozen(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), dense_routing(model) as shares, counter:
        model(**inputs)
    found: dict[str, float] = {"": counter.get_total_flops() / 2}
    for name, counts in counter.get_flop_counts().items():
        _, dot, path = name.partition(".")  # the class of the model, and the path in it
        if dot:
            found[path] = sum(counts.values()) / 2
    return _expected(found, shares)


def _expected(counted: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """What is spent on average where an expert sees only a share of the tokens, from what was counted with all tokens."""
    found = dict(counted)
    for experts, share in shares.items():
        spared = (1 - share) * counted.get(experts, 0.0)
        for path in counted:
            if path == experts or path.startswith(f"{experts}."):
                found[path] *= share
            elif not path or experts.startswith(f"{path}."):
                found[path] -= spared
    return found
