"""HTML reports about one or several prunings, built from manifests alone; a page loads nothing from the network."""

from __future__ import annotations

import html
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastprune.errors import CheckpointError
from fastprune.reports import figures
from fastprune.reports.pictures import plain, subplots

if TYPE_CHECKING:
    from torch import Tensor

NAME = "report.html"
MARK = b'<meta name="generator" content="fastprune">'
CELLS = 128  # attention groups with more units than this are drawn as a bar instead of cells
VALUES = 128  # maximum number of importance values per group in a manifest
BLUE, GREY = "#2563eb", "#8a93a5"  # the page's style sheet replaces BLUE by its own blue, for light or dark mode


def summarised(importance: Mapping[str, Tensor], *, every: Mapping[str, bool]) -> dict[str, list[float]]:
    """Reduce importance for a manifest: the values of all units, or at most ``VALUES`` quantiles in falling order.

    Args:
        importance: Importance by group name, each [units].
        every: By group name, whether to keep the value of every unit, if there are at most ``CELLS``.
    """
    summary = {}
    for name, values in importance.items():
        values = values.double()
        if not (every[name] and values.numel() <= CELLS):
            values = values.sort(descending=True).values
            if values.numel() > VALUES:
                last = values.numel() - 1
                values = values[[round(at * last / (VALUES - 1)) for at in range(VALUES)]]
        summary[name] = [float(f"{value:.4g}") for value in values.tolist()]
    return summary


def render(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Render the page as HTML.

    Args:
        runs: Manifests, or results of ``PruningResult.details``, by display name.

    Raises:
        CheckpointError: A manifest is incomplete, or an entry has another type.
    """
    from jinja2 import Environment

    template = files("fastprune.reports").joinpath("report.html.j2").read_text(encoding="utf-8")
    rows = []
    for name, details in runs.items():
        try:
            rows.append(page_data(name, details))
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"The manifest of {name} is incomplete or invalid: {reason}.") from error
    columns = list(dict.fromkeys(column for run in rows for column in run["cells"]))
    title = f"{len(rows)} prunings" if len(rows) > 1 else f"{rows[0]['name']}, pruned"
    return Environment(autoescape=True).from_string(template).render(title=title, runs=rows, columns=columns)


def verdict(details: Mapping[str, Any]) -> str:
    """Summary in one sentence: the shares left, the speedup, and the change of the first metric."""
    costs = [(figures.share_of(cost), cost) for cost in details.get("costs") or [details["cost"]]]
    shares = {name: figures.ratio(cost["before"], cost["after"]) for name, cost in costs}
    shares["parameters"] = figures.ratio(details["parameters"]["before"], details["parameters"]["after"])
    *first, last = [f"{share} of the {name}" for name, share in shares.items() if share]
    sentence = f"{', '.join(first)}{' and ' if first else ''}{last} are left"
    if details.get("latency"):
        faster = figures.speedup(details["latency"]["dense"], details["latency"]["pruned"])
        sentence += f"; a forward pass is {faster:.1f} times as fast"
    dense, pruned = details["metrics"].get("dense"), details["metrics"].get("pruned")
    if dense and pruned:
        name, conditions = next(iter(dense)), figures.conditions_told(details["metrics"])
        before, after = f"{dense[name]:.4g}", f"{pruned[name]:.4g}"
        sentence += f"; {name} stays at {after}" if before == after else f"; {name} goes from {before} to {after}"
        sentence += f" ({conditions})" if conditions else ""
    return f"{sentence}."


def _conditions(latency: Mapping[str, Any]) -> str:
    """The measurement conditions of the latency in one sentence."""
    if not latency:
        return ""
    device = f"on {latency['device']}"
    if latency.get("threads") and latency["device"] == "cpu":
        device += f" with {latency['threads']} thread{'s' if latency['threads'] > 1 else ''}"
    dtype = f" in {latency['dtype']}" if latency.get("dtype") else ""
    return f"Latency: the median of forward passes {device}{dtype}; the two models took turns."


def page_data(name: str, details: Mapping[str, Any]) -> dict[str, Any]:
    """The template's data for one run: verdict, figures, groups, spectrum, timings, calibration, command, recipe."""
    calibration, timings = details["calibration"], details["timings"]
    common = _common([group["name"].split(".") for group in details["groups"]])
    return {
        "name": name,
        "verdict": verdict(details),
        "figures": figures.rows(details),
        "cells": {name: (pruned, comparison) for name, _, pruned, comparison in figures.rows(details)},
        "groups": [_group(group, details, common) for group in details["groups"]],
        "conditions": _conditions(details.get("latency") or {}),
        "spectrum": _spectrum(details),
        "timings": {figures.DURATIONS.get(stage, stage): f"{seconds:.1f}" for stage, seconds in timings.items()}
        | {"total": f"{sum(timings.values()):.1f}"},
        "calibration": f"Calibrated on {figures.extent(calibration)} of "
        f"{calibration['source'] or 'batches in memory'}, seed {calibration['seed']}."
        + (f" {calibration['left_out']}." if calibration.get("left_out") else ""),
        "versions": ", ".join(f"{name} {number}" for name, number in details.get("versions", {}).items()),
        "command": f"fastprune prune MODEL --data DATA --recipe recipe.toml --budget {details['budget']:g} --output DIR",
        "recipe": details["recipe"],
    }


def _common(names: Sequence[Sequence[str]]) -> str:
    """The longest common prefix of dotted names, with a final dot."""
    prefix = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*(name[:-1] for name in names), strict=False))
    return "".join(f"{parts[0]}." for parts in prefix)


def _group(group: Mapping[str, Any], details: Mapping[str, Any], common: str) -> dict[str, Any]:
    """A group's row: cells for attention units, a bar for other units; the label omits the prefix ``common``."""
    name, units = group["name"], group["units"]
    row = {"name": name, "label": name.removeprefix(common), "units": units, "kept": group["kept"], "cells": []}
    row["share"] = f"{100 * group['kept'] / units:.1f}" if units else "0"
    if group["kind"] == "attention" and 0 < units <= CELLS:
        kept = set(details["kept_units"][name])
        values = (details.get("importance") or {}).get(name) or [1.0] * units
        most = max(values) or 1.0
        row["cells"] = [
            {
                "kept": unit in kept,
                "opacity": f"{0.45 + 0.55 * (values[unit] / most) ** 0.5:.2f}",
                "title": f"head {unit}: importance {values[unit]:.3g}, {'kept' if unit in kept else 'pruned'}",
            }
            for unit in range(units)
        ]
    return row


def _spectrum(details: Mapping[str, Any]) -> list[str]:
    """Inline SVGs, one per kind, of the sorted importance of every group; empty without importance."""
    importance = {name: sorted(values, reverse=True) for name, values in (details.get("importance") or {}).items()}
    if not any(max(values, default=0) > 0 for values in importance.values()):
        return []
    kinds: dict[str, list[str]] = {}
    for group in details["groups"]:
        if group["name"] in importance:
            kinds.setdefault(group["kind"], []).append(group["name"])
    floor = 1e-9 * max(value for values in importance.values() for value in values)
    return [_curves(kind, [importance[name] for name in names], floor) for kind, names in kinds.items()]


def _curves(kind: str, groups: Sequence[Sequence[float]], floor: float) -> str:
    """Plot one line per group as SVG; values below ``floor`` are drawn at ``floor``."""
    figure, axes = subplots(4.5, 3.2)
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for place, values in enumerate(groups):
        share = [100 * at / max(len(values) - 1, 1) for at in range(len(values))]
        opacity = 0.4 + 0.6 * place / max(len(groups) - 1, 1)
        axes.plot(share, [max(value, floor) for value in values], color=BLUE, alpha=opacity, linewidth=1.2)
    counted = figures.counted(kind)
    axes.set(
        yscale="log", title=plain(f"{kind}: importance of each layer's {counted}"), xlabel=f"% of the layer's {counted}"
    )
    for spine in axes.spines.values():
        spine.set_color(GREY)
    axes.tick_params(colors=GREY, which="both")
    for text in (axes.title, axes.xaxis.label):
        text.set_color(GREY)
        text.set_fontsize(10)
    svg = io.StringIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", "", svg.getvalue(), flags=re.S)
    return text.strip().replace(
        "<svg ", f'<svg role="img" aria-label="importance of {html.escape(kind)} units by group" ', 1
    )
