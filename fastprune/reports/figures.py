"""Figures of a pruning before and after, as rows of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = tuple[str, str, str, str]
"""Name, value of the dense model, value of the pruned model, and their comparison."""


DURATIONS = {
    "measure": "measuring costs",
    "score": "scoring heads and filters",
    "search": "searching what to keep",
    "rearrange": "rearranging what to keep",
    "tune": "tuning the weights",
    "choose": "choosing among candidates",
    "bench": "timing both models",
    "trim": "reducing the vocabulary",
}
"""The stages of ``PruningResult.timings``, in words."""


def counted(kind: str) -> str:
    """What the units of a kind of sublayer are: heads of an attention, filters of any other."""
    return "heads" if kind == "attention" else "filters"


def rows(details: Mapping[str, Any]) -> list[Row]:
    """Rows for costs, parameters, size, measured latency and metrics; unknown ones are left out.

    Args:
        details: The result of ``PruningResult.summary``, or a manifest.
    """
    result = []
    for cost in details.get("costs") or [details["cost"]]:
        if cost["measure"] == "bytes":
            result.append(_amounts("whole directory, at most", cost["before"], cost["after"], unit="B"))
        elif cost["measure"] != "parameters":
            measured, unit = bool(cost.get("conditions")), f" {cost['measure']}"
            name = f"predicted {share_of(cost)}" if measured else cost["measure"]
            result.append(_amounts(name, cost["before"], cost["after"], unit=unit if measured else ""))
            if measured and "budget" in cost:
                result.append((f"requested {share_of(cost)}", "", "", f"{1 / cost['budget']:.2f}x as fast"))
    result.append(_amounts("parameters", details["parameters"]["before"], details["parameters"]["after"]))
    if details.get("size"):
        result.append(_amounts("size", details["size"]["before"], details["size"]["after"], unit="B"))
    result += _vocabulary(details.get("vocabulary") or {})
    if details.get("latency"):
        result.append(_latency(details["latency"]))
    return result + _metrics(details["metrics"])


def plain_rows(details: Mapping[str, Any]) -> list[Row]:
    """Rows for parameters and metrics alone, of a change that is no pruning to a budget.

    Args:
        details: ``parameters`` with ``before`` and ``after``, and ``metrics``.
    """
    return [
        _amounts("parameters", details["parameters"]["before"], details["parameters"]["after"]),
        *_metrics(details["metrics"]),
    ]


def share_of(cost: Mapping[str, Any]) -> str:
    """Name of a cost in "a share of the ...": the name of a measured cost ("latency", not "ms"), else its measure ("MACs")."""
    return str(cost["name"] if cost.get("conditions") else cost["measure"])


def target(cost: Mapping[str, Any]) -> str:
    """A measured budget in one sentence: requested, and measured on both models or only predicted."""
    name, requested = cost["name"], f"requested {1 / cost['budget']:.2f} times as fast"
    measured = cost.get("measured")
    if not measured:
        predicted = speedup(cost["before"], cost["after"])
        return f"{name}: {requested}, predicted {predicted:.2f} times; not verified (--no-bench, or a table of another machine)."
    before, after = measured["before"], measured["after"]
    figures = f"{milliseconds(before)} to {milliseconds(after)} {cost['measure']}"
    return f"{name}: {requested}, measured {speedup(before, after):.2f} times ({figures})."


def count(value: float) -> str:
    """A large number with an SI prefix: 1.5 G, 22.7 M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.4g}"


def ratio(before: float, after: float) -> str:
    """``after`` in percent of ``before``, both as ``count`` prints them; empty if ``before`` is 0."""
    return f"{_rounded(after, 3) / _rounded(before, 3):.0%}" if before else ""


def milliseconds(value: float) -> str:
    """A time with four significant digits."""
    return f"{value:.0f}" if value >= 1e4 else f"{value:.4g}"


def speedup(before: float, after: float) -> float:
    """The quotient of two times as ``milliseconds`` prints them."""
    return _rounded(before, 4) / _rounded(after, 4)


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def shape(samples: int, size: int, unit: str) -> str:
    """The shape of a batch in words, such as ``32 x 128 tokens`` or ``32 pictures``."""
    return f"{samples} {unit}" if unit == "pictures" else f"{samples} x {size:,} {unit}"


def extent(data: Mapping[str, Any]) -> str:
    """The samples and tokens of a data set in words, from its summary."""
    unit = data.get("unit", "tokens")
    return (
        f"{data['samples']:,} {unit}"
        if unit == "pictures"
        else f"{data['samples']:,} samples ({data['tokens']:,} {unit})"
    )


def plainness(predicted: Mapping[str, float]) -> str:
    """What the plain form costs, in words, from the predicted damage of both forms."""
    plain, free = predicted["plain"], predicted["free"]
    return (
        f"Predicted damage before tuning: {plain:.3g} in the plain form, {free:.3g} in the free form at the same budget. To see "
        "what that costs in accuracy, prune without --servable as well and compare the evaluations."
    )


def _amounts(name: str, before: float, after: float, unit: str = "") -> Row:
    return name, f"{count(before)}{unit}", f"{count(after)}{unit}", ratio(before, after)


def _vocabulary(vocabulary: Mapping[str, Any]) -> list[Row]:
    """Rows for a smaller vocabulary, by texts that were held out from counting."""
    if not vocabulary:
        return []
    before, after = (vocabulary["rows"][name] for name in ("before", "after"))
    held = vocabulary["held_out"]
    length, unknown = held["length"], held["unknown"]
    result = [
        ("vocabulary", f"{before:,}", f"{after:,}", ratio(before, after)),
        ("share of tokens kept", "", f"{held['coverage']:.2%}", f"{held['texts']:,} other texts"),
        ("tokens of a text", f"{length['before']:.1f}", f"{length['after']:.1f}", f"{length['ratio']:.3f}x as long"),
    ]
    if any(unknown.values()):
        result.append(("unknown tokens", f"{unknown['before']:,}", f"{unknown['after']:,}", ""))
    return result


def _latency(latency: Mapping[str, Any]) -> Row:
    name = f"latency, {shape(latency['batch_size'], latency['seq_len'], latency.get('unit', 'tokens'))}"
    dense, pruned = latency["dense"], latency["pruned"]
    return name, f"{milliseconds(dense)} ms", f"{milliseconds(pruned)} ms", f"{speedup(dense, pruned):.2f}x as fast"


def _metrics(metrics: Mapping[str, Any]) -> list[Row]:
    dense, pruned = metrics.get("dense") or {}, metrics.get("pruned") or {}
    conditions = conditions_told(metrics)
    result = [
        (
            f"{name} ({conditions})" if conditions else name,
            _number(value),
            _number(pruned[name]),
            _change(value, pruned[name]),
        )
        for name, value in dense.items()
        if name in pruned
    ]
    result += [
        (f"agreement ({name})", "", _number(value), "") for name, value in (metrics.get("fidelity") or {}).items()
    ]
    return result + [(name, "", _number(value), "") for name, value in metrics.items() if isinstance(value, float)]


def conditions_told(metrics: Mapping[str, Any]) -> str:
    """What metrics depend on besides model and data, in words, such as ``context 512, stride 256``."""
    return ", ".join(f"{name} {value:,}" for name, value in (metrics.get("conditions") or {}).items())


def _number(value: float | None) -> str:
    """Four decimals; empty for None, which stands for NaN in a manifest."""
    return "" if value is None else f"{value:.4f}"


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{round(after, 4) - round(before, 4):+.4f}"
