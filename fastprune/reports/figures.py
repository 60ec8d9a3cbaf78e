"""Figures: what a pruning changed, before and after, as rows for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = tuple[str, str, str, str]
"""What it is, of the dense model, of the pruned one, and what that means."""


def rows(details: Mapping[str, Any]) -> list[Row]:
    """Costs, parameters, size, measured latency and metrics, as far as they are known.

    Args:
        details: What ``PruningResult.summary`` returns, or a manifest.
    """
    found = []
    for cost in details.get("costs") or [details["cost"]]:
        if cost["measure"] != "parameters":
            predicted = "predicted " if cost.get("conditions") else ""
            found.append(_amounts(f"{predicted}{cost['measure']}", cost["before"], cost["after"]))
    found.append(_amounts("parameters", details["parameters"]["before"], details["parameters"]["after"]))
    if details.get("size"):
        found.append(_amounts("size", details["size"]["before"], details["size"]["after"], unit="B"))
    if details.get("latency"):
        found.append(_latency(details["latency"]))
    return found + _metrics(details["metrics"])


def share_of(cost: Mapping[str, Any]) -> str:
    """What a cost is called where a share of it is told: a share of the MACs, but of the latency, not of the ms."""
    return str(cost["name"] if cost.get("conditions") else cost["measure"])


def count(value: float) -> str:
    """A large number as people say it: 1.5 G, 22.7 M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.4g}"


def ratio(before: float, after: float) -> str:
    """What is left, in percent."""
    return f"{after / before:.0%}" if before else ""


def milliseconds(value: float) -> str:
    """A time with as many digits as are worth reading."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _amounts(name: str, before: float, after: float, unit: str = "") -> Row:
    return name, f"{count(before)}{unit}", f"{count(after)}{unit}", ratio(before, after)


def _latency(latency: Mapping[str, Any]) -> Row:
    name = f"latency, {latency['batch_size']} x {latency['seq_len']} tokens"
    said = f"{latency['speedup']:.2f}x as fast"
    return name, milliseconds(latency["dense"]), milliseconds(latency["pruned"]), said


def _metrics(metrics: Mapping[str, Any]) -> list[Row]:
    dense, pruned = metrics.get("dense") or {}, metrics.get("pruned") or {}
    found = [
        (name, _number(value), _number(pruned[name]), _change(value, pruned[name]))
        for name, value in dense.items()
        if name in pruned
    ]
    found += [(name, "1", _number(value), "agreement") for name, value in (metrics.get("fidelity") or {}).items()]
    return found + [(name, "", _number(value), "") for name, value in metrics.items() if isinstance(value, float)]


def _number(value: float | None) -> str:
    """None stands for what JSON has no number for, such as the correlation of constant predictions."""
    return "" if value is None else f"{value:.4f}"


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{after - before:+.4f}"
