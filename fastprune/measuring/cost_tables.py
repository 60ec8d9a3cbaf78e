"""Measuring: the cost table of an opened model, and pictures of tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastprune.data.workload import Workload
from fastprune.errors import UsageError
from fastprune.models.pretrained import Pretrained
from fastprune.progress import Progress, listening
from fastprune.registry import serving
from fastprune.registry.recipe import strategy
from fastprune.reports.pictures import save_figure, subplots
from fastprune.strategies.contracts import MeasuredCost
from fastprune.strategies.costs import Conditions
from fastprune.strategies.tables import Curve, MeasuredTable
from fastprune.units.experts import unfuse_experts
from fastprune.units.resolve import resolve_groups


def measure(
    opened: Pretrained,
    *,
    cost: str = "latency",
    seq_len: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> MeasuredTable:
    """The cost table of a model for a workload, from measurements on this machine.

    Args:
        opened: What ``open_pretrained`` returned.
        cost: A cost model that measures, by name.
        seq_len: Tokens a sample; None: as ``Workload.made_up`` has it.
        progress: Called as (description, steps done, steps in all).
        options: The cost model's own, such as ``batch_size=1``.

    Raises:
        UsageError: The cost model does not measure, or cannot do so for this model.
    """
    workload = Workload.made_up(opened.model, seq_len)
    chosen = strategy("cost", cost, seq_len=workload.seq_len, **options)
    if not isinstance(chosen, MeasuredCost):
        raise UsageError(f"The cost model '{cost}' counts and has nothing to measure; its tables need no file.")
    model = unfuse_experts(opened.model)
    groups = resolve_groups(serving.architecture_for(model), model)
    with torch.inference_mode(False), listening(progress):
        return chosen.table(model, groups, workload)


def conditions_text(conditions: Conditions) -> str:
    """What was measured for, in one line."""
    threads = f", {conditions['threads']} threads" if conditions.get("threads") else ""
    compiled = ", compiled" if conditions.get("compiled") else ""
    return (
        f"{conditions.get('batch_size')} x {conditions.get('seq_len')} tokens, {conditions.get('dtype')}, "
        f"{conditions.get('attention')} attention{compiled}, on {conditions.get('device_name')}{threads}"
    )


def title(curve: Curve) -> str:
    """Which sublayers a curve is of."""
    first, *others = curve.groups
    return first + (f" and {len(others)} more" if others else "")


def draw(table: MeasuredTable, path: str | Path) -> Path:
    """Draw the curves into a picture: PNG, SVG or PDF, by the file's ending.

    Raises:
        UsageError: The picture cannot be written.
    """
    figure, axes = subplots(5 * len(table.curves), 3.5, count=len(table.curves))
    for place, curve in zip(axes if len(table.curves) > 1 else [axes], table.curves, strict=True):
        filled = curve.costs().tolist()
        place.step(range(len(filled)), filled, where="mid", linewidth=1)
        place.plot(curve.kept, curve.cost, "o", markersize=3)
        place.set(title=title(curve), xlabel="units kept", ylabel=table.measure, xlim=(0, None), ylim=(0, None))
    figure.suptitle(conditions_text(table.conditions))
    return save_figure(figure, path)
