"""Checks of cost models."""

from __future__ import annotations

import torch
from torch import nn

from fastprune.data.batches import Batches
from fastprune.data.workload import Workload
from fastprune.registry import serving
from fastprune.strategies import checks
from fastprune.strategies.contracts import CostModel
from fastprune.surgery.materialize import materialize
from fastprune.testing.guards import contract_kept, untouched
from fastprune.testing.options import check_options
from fastprune.testing.problems import some_mask
from fastprune.testing.tiny import model_and_batches
from fastprune.units.architecture import Architecture
from fastprune.units.masks import Mask
from fastprune.units.resolve import resolve_groups


def check_cost_model(
    cost: CostModel,
    *,
    model: nn.Module | None = None,
    batches: Batches | None = None,
    tolerance: float = 1e-9,
    architecture: Architecture | None = None,
) -> None:
    """Check a cost model: its tables are valid, non-decreasing, and predict the cost of pruned models; the model is unchanged.

    Predictions are compared with tables measured on materialised pruned models.

    Args:
        cost: The cost model, with the options to check.
        model: A tiny model; None: a BERT.
        batches: Data for the workload; None: random.
        tolerance: Largest error of a prediction, relative to the dense model's cost.
        architecture: The model's architecture [None: the registered one for ``config.model_type``].

    Raises:
        AssertionError: A check fails.
    """
    check_options(cost)
    model, batches = model_and_batches(model, batches)
    who = f"cost model '{cost.name}'"
    architecture = architecture or serving.architecture_for(model)
    groups = resolve_groups(architecture, model)
    workload = Workload.of(batches)
    with untouched(model, who), contract_kept():
        table = cost.measure(model, groups, workload)
        checks.check_costs(table, groups, cost)
    assert table.measure, f"The {who} has an empty CostTable.measure; set the unit of its costs."
    assert cost.unit in ("", table.measure), (
        f"The {who} says that its unit is {cost.unit}; its table is in {table.measure}."
    )
    assert table.total > 0, f"The {who} gives the whole model a cost of {table.total}; it must be above 0."
    for name, costs in table.groups.items():
        assert costs.dtype == torch.float64, f"The {who} gives '{name}' costs of {costs.dtype}; they must be float64."
        assert bool((costs.diff() >= 0).all()), (
            f"The {who} gives '{name}' costs that fall with more units: {costs.tolist()}."
        )
        assert float(costs[-1]) > float(costs[0]), (
            f"The {who} gives '{name}' the same cost with all units and with none."
        )
    names = [group.name for group in groups]
    masks = [Mask.full(groups), some_mask(groups), some_mask(groups, empty=names[0], single=names[-1])]
    masks += [some_mask(groups, empty=names[-1]), Mask.first(groups, dict.fromkeys(names, 0))]
    for mask in masks:
        smaller = materialize(model, groups, mask)
        measured = cost.measure(smaller, resolve_groups(architecture, smaller), workload).total
        predicted = table.of(mask.counts())
        assert abs(measured - predicted) <= tolerance * table.total, (
            f"The {who} predicts {predicted:.6g} {table.measure} for {mask.counts()}; the pruned model has {measured:.6g}."
        )
