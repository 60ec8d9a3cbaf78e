"""Measured cost tables of opened models, and plots of tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastprune.data.workload import Workload
from fastprune.errors import UsageError
from fastprune.models.forms import AnyModel, module_of
from fastprune.progress import Progress, listening
from fastprune.registry import serving
from fastprune.registry.recipe import strategy
from fastprune.reports.figures import counted
from fastprune.reports.pictures import plain, save_figure, subplots
from fastprune.strategies.contracts import MeasuredCost
from fastprune.strategies.costs import Conditions
from fastprune.strategies.tables import Curve, MeasuredTable
from fastprune.units.architecture import Architecture
from fastprune.units.experts import unfuse_experts
from fastprune.units.resolve import resolve_groups


def measure(
    model: AnyModel,
    *,
    cost: str = "latency",
    seq_len: int | None = None,
    architecture: Architecture | str | Path | None = None,
    progress: Progress | bool = True,
    **options: Any,
) -> MeasuredTable:
    """Measure the cost table of a model for a workload on this machine.

    Args:
        model: A model in any form that ``prune`` takes, or its result.
        cost: Name of a measured cost model.
        seq_len: Tokens per sample [None: 128 or the model's limit, or 16,000 readings of a recording].
        architecture: The paths of the model's units, as for ``prune``.
        progress: Whether to show progress on standard error, or a function, as for ``prune``.
        options: Options of the cost model, such as ``batch_size=1``.

    Raises:
        UsageError: The cost is counted instead of measured, or cannot be measured for this model.
    """
    module = module_of(model)
    workload = Workload.dummy(module, seq_len)
    chosen = strategy("cost", cost, seq_len=workload.seq_len, **options)
    if not isinstance(chosen, MeasuredCost):
        raise UsageError(f"The cost model '{cost}' is counted, not measured; it needs no table.")
    unfused = unfuse_experts(module)
    located = serving.named_architecture(architecture) if architecture else serving.architecture_for(unfused)
    groups = resolve_groups(located, unfused)
    with torch.inference_mode(False), listening(progress):
        return chosen.table(unfused, groups, workload)


def conditions_text(conditions: Conditions) -> str:
    """The measurement conditions in one line."""
    count = conditions.get("threads")
    threads = f", {count} thread{'' if count == 1 else 's'}" if count else ""
    compiled = ", compiled" if conditions.get("compiled") else ""
    mode = "" if conditions.get("mode", "pass") == "pass" else f"{conditions['mode']}, "
    return (
        f"{mode}{conditions.get('batch_size')} x {conditions.get('seq_len')} tokens, {conditions.get('dtype')}, "
        f"{conditions.get('attention')} attention{compiled}, on {conditions.get('device_name')}{threads}"
    )


def title(curve: Curve) -> str:
    """Title of a curve: its first sublayer, and how many others of the same shape it is for."""
    first, *others = curve.groups
    return first + (f" and {len(others)} of the same shape" if others else "")


def draw(table: MeasuredTable, path: str | Path) -> Path:
    """Plot the curves of a table: PNG, SVG or PDF, by the file's suffix.

    Raises:
        UsageError: The file cannot be written.
    """
    figure, axes = subplots(5 * len(table.curves), 3.5, count=len(table.curves))
    for place, curve in zip(axes if len(table.curves) > 1 else [axes], table.curves, strict=True):
        filled = curve.costs().tolist()
        place.step(range(len(filled)), filled, where="mid", linewidth=1)
        place.plot(curve.kept, curve.cost, "o", markersize=3)
        place.set(
            title=plain(title(curve)),
            xlabel=f"{counted(curve.kind)} kept",
            ylabel=plain(table.measure),
            xlim=(0, None),
            ylim=(0, None),
        )
    figure.suptitle(plain(conditions_text(table.conditions)))
    return save_figure(figure, path)
