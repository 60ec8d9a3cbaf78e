"""Cost by multiply-accumulates (MACs) of one sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fastprune import materialize, option
from fastprune.calibration import frozen
from fastprune.data import Workload, check_length, inputs_for
from fastprune.strategies import CostModel, CostTable
from fastprune.units import Group, Groups, Mask, dense_routing, sharing_copy


@dataclass(frozen=True, kw_only=True)
class MacsCost(CostModel):
    """Multiply-accumulates of a forward pass over one sample, including attention's term in seq_len^2.

    The cost of a unit does not depend on the other units, so a group's costs are proportional to its units. The cost of one
    unit is the difference between torch's count for the dense model and its count with one unit less in each group. Layers
    that run several times, cross-attention and windowed attention are counted as they run; experts as if the tokens were
    routed evenly. MACs that belong to no unit (projections of embeddings, pooler, head, keys and values shared by all heads)
    are the fixed cost (docs/method.md, section 2).
    """

    name: ClassVar[str] = "macs"
    counted: ClassVar[bool] = True
    unit: ClassVar[str] = "MACs"
    formula: ClassVar[str] = "MACs = fixed + sum_g k_g c_g, c_g of one unit counted over a sample of seq_len tokens"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, https://arxiv.org/abs/2204.09656"
    seq_len: int | None = option(
        None, at_least=1, at_most=10_000_000, help="Tokens per sample [none: the mean length in the calibration set]."
    )
    scope: Literal["model", "layers"] = option("model", help="Count the whole model, or only the prunable units.")

    def measure(self, model: nn.Module, groups: Groups, workload: Workload) -> CostTable:
        seq_len = self.seq_len or workload.seq_len
        check_length(model, seq_len)
        inputs = workload.inputs(seq_len=seq_len)
        total, by_unit = count_macs(model, groups, inputs)
        costs = {g.name: torch.arange(g.units + 1, dtype=torch.float64) * by_unit[g.name] for g in groups}
        spent = sum(float(cost[-1]) for cost in costs.values())
        return CostTable(measure=self.unit, groups=costs, fixed=total - spent if self.scope == "model" else 0.0)


def count_macs(model: nn.Module, groups: Groups, inputs: dict[str, Tensor]) -> tuple[float, dict[str, float]]:
    """Count the MACs of a forward pass and of a single unit of each group.

    Args:
        model: The model.
        groups: Its groups.
        inputs: Keyword arguments of ``model``, usually one sample.

    Returns:
        MACs of the whole model, and MACs per unit by group name: the difference to a model with one unit less in each group. A
        unit without a consumer, such as a word of the vocabulary, gets its share of the modules with its parameters, because a
        model without it may not take the inputs.
    """
    smaller, sublayers = sharing_copy(model), groups.with_consumer
    materialize(
        smaller, sublayers, Mask.first(sublayers, {g.name: max(g.units - 1, 0) for g in sublayers}), inplace=True
    )
    inputs = inputs_for(model, inputs)
    dense_macs, smaller_macs = (module_macs(one, inputs) for one in (model, smaller))
    by_unit = {group.name: _share(model, group, dense_macs) for group in groups if not group.consumer}
    for group in sublayers:
        inside = group.consumer.startswith(f"{group.module}.")
        paths = [group.module] if inside else [group.module, group.consumer]
        by_unit[group.name] = sum(dense_macs.get(path, 0.0) - smaller_macs.get(path, 0.0) for path in paths)
    return dense_macs[""], by_unit


def _share(model: nn.Module, group: Group, counted: Mapping[str, float]) -> float:
    """What one unit adds to the MACs counted for the modules whose weights the group cuts."""
    weights = [cut for cut in group.cuts if cut.name == "weight"]
    return sum(
        counted.get(cut.module, 0.0) * cut.positions.per_unit / cut.tensor(model).shape[cut.dimension]
        for cut in weights
    )


def module_macs(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Count the MACs of each module in one forward pass with torch's FLOP counter: MACs by module path, "" for the model."""
    counter = FlopCounterMode(display=False)
    # torch's counter has no formula for the fused attention kernels of some devices, so use the plain kernel
    with frozen(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), dense_routing(model) as shares, counter:
        model(**inputs)
    macs: dict[str, float] = {"": counter.get_total_flops() / 2}
    for name, counts in counter.get_flop_counts().items():
        _, dot, path = name.partition(".")  # class of the model, path of the module
        if dot:
            macs[path] = sum(counts.values()) / 2
    return _expected(macs, shares)


def _expected(counted: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """Expected MACs with routed experts, from counts in which every expert saw all tokens.

    Args:
        counted: MACs by module path, with dense routing.
        shares: Share of the tokens routed to one expert, by path of the experts' module.
    """
    expected = dict(counted)
    for experts, share in shares.items():
        saved = (1 - share) * counted.get(experts, 0.0)
        for path in counted:
            if path == experts or path.startswith(f"{experts}."):
                expected[path] *= share
            elif not path or experts.startswith(f"{path}."):
                expected[path] -= saved
    return expected
