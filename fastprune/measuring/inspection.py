"""Inspection: the prunable units of a model and their costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastprune.data.workload import Workload
from fastprune.models.forms import AnyModel, open_any
from fastprune.registry import loading, serving
from fastprune.units.architecture import Architecture
from fastprune.units.experts import unfuse_experts
from fastprune.units.resolve import resolve_groups


def inspect(
    model: AnyModel, *, seq_len: int | None = None, architecture: Architecture | str | Path | None = None
) -> dict[str, Any]:
    """Units and costs of a model, such as MACs and parameters, group by group.

    Args:
        model: A model in any form that ``prune`` takes, or its result.
        seq_len: Tokens a sample, for the costs; None: as ``Workload.dummy`` has it.
        architecture: Where its units are, as for ``prune``; None: as it was pruned with, or by its ``config.model_type``.

    Returns:
        ``groups``: name, kind, units before any pruning, units kept, and every cost that is counted (``CostModel.counted``),
        by name; the costs of the whole model, by name; what of them is ``fixed``; ``measures``, what each counts; ``seq_len``,
        the tokens that they are counted for.

    Raises:
        ModelError: There is no architecture for the model, or the length exceeds its limit.
    """
    chosen = serving.named_architecture(architecture) if architecture else None
    module, opened = open_any(model)
    module = unfuse_experts(module)
    groups = resolve_groups(chosen or serving.architecture_for(module), module)
    workload = Workload.dummy(module, seq_len)
    costs = loading.installed().counted_costs()
    tables = {name: cost.measure(module, groups, workload) for name, cost in costs.items()}
    before = {group["name"]: int(group["units"]) for group in (opened.manifest if opened else {}).get("groups", [])}
    rows = []
    for group in groups:
        row: dict[str, Any] = {"name": group.name, "kind": group.kind}
        row |= {"units": before.get(group.name, group.units), "kept": group.units}
        rows.append(row | {name: float(table.groups[group.name][-1]) for name, table in tables.items()})
    totals = {name: table.total for name, table in tables.items()}
    fixed = {name: table.fixed for name, table in tables.items()}
    measures = {name: table.measure for name, table in tables.items()}
    return {"groups": rows, **totals, "fixed": fixed, "measures": measures, "seq_len": workload.seq_len}
