"""Inspection: the prunable units of a model and their costs."""

from __future__ import annotations

from typing import Any

from fastprune.data.workload import Workload
from fastprune.models.pretrained import Pretrained
from fastprune.registry import loading, serving
from fastprune.units.architecture import Architecture
from fastprune.units.experts import unfuse_experts
from fastprune.units.resolve import resolve_groups


def inspect(
    opened: Pretrained, *, seq_len: int | None = None, architecture: Architecture | None = None
) -> dict[str, Any]:
    """Units and costs of a model, such as MACs and parameters, group by group.

    Args:
        opened: What ``open_pretrained`` returned.
        seq_len: Tokens a sample, for the costs; None: as ``Workload.dummy`` has it.
        architecture: Where its units are; None: as it was pruned with, or by its ``config.model_type``.

    Returns:
        ``groups``: name, kind, units before any pruning, units kept, and every cost that is counted (``CostModel.counted``),
        by name; the costs of the whole model, by name; what of them is ``fixed``; ``measures``, what each counts; ``seq_len``,
        the tokens that they are counted for.

    Raises:
        ModelError: There is no architecture for the model, or the length exceeds its limit.
    """
    model = unfuse_experts(opened.model)
    groups = resolve_groups(architecture or serving.architecture_for(model), model)
    workload = Workload.dummy(model, seq_len)
    costs = loading.installed().counted_costs()
    tables = {name: cost.measure(model, groups, workload) for name, cost in costs.items()}
    before = {group["name"]: int(group["units"]) for group in opened.manifest.get("groups", [])}
    rows = []
    for group in groups:
        row: dict[str, Any] = {"name": group.name, "kind": group.kind}
        row |= {"units": before.get(group.name, group.units), "kept": group.units}
        rows.append(row | {name: float(table.groups[group.name][-1]) for name, table in tables.items()})
    totals = {name: table.total for name, table in tables.items()}
    fixed = {name: table.fixed for name, table in tables.items()}
    measures = {name: table.measure for name, table in tables.items()}
    return {"groups": rows, **totals, "fixed": fixed, "measures": measures, "seq_len": workload.seq_len}
