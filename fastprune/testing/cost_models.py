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
    """Its contract holds; the model is exactly as it was; more units never cost less; the total is what the model
    costs, and every entry what the model of that size costs when it is built and measured itself.

    Args:
        cost: With the options to check it with.
        model: A tiny model; None: a BERT.
        batches: What the workload is made from; None: random.
        tolerance: How far a prediction may lie from the measurement, relative to the full model's cost.
        architecture: Where the model's units are; None: by its ``config.model_type``.
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
    assert table.measure, f"The {who} does not say what it counts: CostTable.measure is empty."
    assert table.total > 0, f"The {who} says that the whole model costs {table.total}."
    for name, costs in table.groups.items():
        assert costs.dtype == torch.float64, f"The {who} gives '{name}' costs of {costs.dtype}; they must be float64."
        assert bool((costs.diff() >= 0).all()), (
            f"The {who} says that more units of '{name}' cost less: {costs.tolist()}."
        )
        assert float(costs[-1]) > float(costs[0]), f"The {who} says that pruning '{name}' saves nothing."
    names = [group.name for group in groups]
    masks = [Mask.full(groups), some_mask(groups), some_mask(groups, empty=names[0], single=names[-1])]
    masks += [some_mask(groups, empty=names[-1]), Mask.first(groups, dict.fromkeys(names, 0))]
    for mask in masks:
        smaller = materialize(model, groups, mask)
        measured = cost.measure(smaller, resolve_groups(architecture, smaller), workload).total
        said = table.of(mask.counts())
        assert abs(measured - said) <= tolerance * table.total, (
            f"The {who} says that {mask.counts()} cost {said:.6g} {table.measure}; built and measured it is {measured:.6g}."
        )
