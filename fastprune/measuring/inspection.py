"""Inspection: the prunable units of a model and their costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastprune.data.workload import Workload
from fastprune.models.manifests import MANIFEST, read_manifest
from fastprune.models.pretrained import Pretrained
from fastprune.registry import loading, serving
from fastprune.units.architecture import Architecture
from fastprune.units.experts import unfuse_experts
from fastprune.units.resolve import resolve_groups
from fastprune.units.toml import architecture_of


def inspect(
    opened: Pretrained, *, seq_len: int | None = None, architecture: Architecture | None = None
) -> dict[str, Any]:
    """List units, MACs and parameters of a model by group.

    Args:
        opened: The result of ``open_pretrained``.
        seq_len: Tokens per sample for the MACs [None: 128 or the model's limit, or 16,000 readings of a recording].
        architecture: The model's architecture [None: the one it was pruned with, else the registered one for its
            ``config.model_type``].

    Returns:
        ``groups``: name, kind, units of the dense model, units kept, MACs and parameters of each group; ``macs`` and
        ``parameters``: totals; ``fixed``: the costs that cannot be pruned; ``measures``: display names of the costs; ``seq_len``:
        the length that MACs are counted for.

    Raises:
        ModelError: There is no architecture for the model, or the length exceeds its limit.
    """
    model = unfuse_experts(opened.model)
    groups = resolve_groups(architecture or _pruned_with(opened.source) or serving.architecture_for(model), model)
    workload = Workload.dummy(model, seq_len)
    registry = loading.installed().cost
    tables = {name: registry[cost]().measure(model, groups, workload) for name, cost in _COSTS.items()}
    before = _units_before(opened.source)
    rows = []
    for group in groups:
        row: dict[str, Any] = {"name": group.name, "kind": group.kind}
        row |= {"units": before.get(group.name, group.units), "kept": group.units}
        rows.append(row | {name: float(table.groups[group.name][-1]) for name, table in tables.items()})
    totals = {name: table.total for name, table in tables.items()}
    fixed = {name: table.fixed for name, table in tables.items()}
    measures = {name: table.measure for name, table in tables.items()}
    return {"groups": rows, **totals, "fixed": fixed, "measures": measures, "seq_len": workload.seq_len}


_COSTS = {"macs": "macs", "parameters": "params"}


def _pruned_with(source: str) -> Architecture | None:
    """The architecture in the manifest of a pruned model's directory; None for other sources."""
    if not (Path(source) / MANIFEST).is_file():
        return None
    return architecture_of(read_manifest(source)["architecture"], f"the manifest of {source}")


def _units_before(source: str) -> dict[str, int]:
    """Units of the dense model by group, from the manifest of a pruned model's directory; empty for other sources."""
    if not (Path(source) / MANIFEST).is_file():
        return {}
    return {group["name"]: int(group["units"]) for group in read_manifest(source)["groups"]}
