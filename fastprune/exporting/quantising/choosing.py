"""Choosing the forms of operators by what they change in the outputs on calibration rows; labels are not needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
import torch
from onnx_ir import tape
from torch import Tensor

from fastprune.exporting.quantising.filters import apart, filters_of
from fastprune.exporting.quantising.forms import Form, InBlocks, quantised
from fastprune.exporting.quantising.operators import Operator, operators
from fastprune.exporting.quantising.trial import Trial
from fastprune.progress import track

log = logging.getLogger(__name__)

COUNTS = (2, 8)
"""Numbers of filters apart that are compared with none."""
GAIN = 0.95
"""More filters apart must bring the distance to this share of the best so far."""
RANGE = "range of "

Forms = Mapping[int, Form]


def best_apart(model: ir.Model, trial: Trial, forms: Callable[[ir.Model], Forms]) -> tuple[ir.Model, int]:
    """The graph with the filters of each FFN apart that have the largest states, as many as bring the outputs nearest to float32.

    Args:
        model: The graph in float32; it is not changed.
        trial: Calibration rows.
        forms: The quantised operators of a graph.

    Returns:
        The graph, in float32, and the number of filters apart in each FFN.
    """
    found = filters_of(model)
    if not found:
        return model, 0
    ranges = _ranges(model, [each.after for each in found], trial)
    best, least, taken = model, trial.distance(quantised(model, forms(model))), 0
    for count in COUNTS:
        split = apart(
            model, {number: most.topk(min(count, len(most))).indices.tolist() for number, most in ranges.items()}
        )
        off = trial.distance(quantised(split, forms(split)))
        log.info("%d filters apart: distance %.3g, %.3g before", count, off, least)
        if off < GAIN * least:
            best, least, taken = split, off, count
    return best, taken


def by_distance(model: ir.Model, trial: Trial, forms: Forms) -> list[int]:
    """The numbers of a graph's operators in the order of the distance that each alone causes, the smallest first."""
    off = {
        number: trial.distance(quantised(model, {number: forms[number]}))
        for number in track(sorted(forms), "comparing operators")
    }
    return sorted(off, key=lambda number: (off[number], number))


def first_fitting(
    model: ir.Model,
    order: Sequence[int],
    found: Mapping[int, Operator],
    forms: Forms,
    fits: Callable[[ir.Model], bool],
) -> tuple[Forms, ir.Model]:
    """As many operators as fit, taken in order. The others have weights in 8 bits, each product's in blocks, if that fits.

    Args:
        model: The graph in float32.
        order: The operators' numbers.
        found: The operators by their numbers.
        forms: Their forms.
        fits: Whether a quantised graph is near enough to the graph in float32.

    Returns:
        The forms of the operators that are taken, and the graph with them.
    """
    for fallback in (True, False):
        rest = [number for number in order if fallback and found[number].kind == "product"]
        best: tuple[Forms, ir.Model] = {}, model

        def tried(count: int, rest: Sequence[int] = rest) -> bool:
            nonlocal best
            first = order[:count]
            taken = {number: forms[number] for number in first}
            taken |= {number: InBlocks() for number in rest if number not in first}
            graph = quantised(model, taken)
            good = fits(graph)
            best = (taken, graph) if good else best
            return good

        if (
            _most(len(order), tried) is not None
        ):  # what fits is tried in rising order, so the last that did has the most
            return best
    return {}, quantised(model, {})


def _most(largest: int, fits: Callable[[int], bool]) -> int | None:
    """The largest count that fits, by bisection; None if not even 0 fits."""
    if fits(largest):
        return largest
    if not fits(0):
        return None
    low, high = 0, largest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _ranges(model: ir.Model, products: Sequence[Operator], trial: Trial) -> dict[int, Tensor]:
    """The largest absolute state of each filter on the calibration rows, [filters], by the number of the product that reads it."""
    copy = model.clone()
    wanted, made, names = {each.number for each in products}, tape.Tape(), {}
    first = made.initializer(ir.tensor([0], dtype=ir.DataType.INT64), "first axis")
    reduced = ([first], {}) if copy.graph.opset_imports[""] >= 18 else ([], {"axes": [0]})
    for each in operators(copy):
        if each.number in wanted:
            states = made.op("Flatten", [made.op("Abs", [each.input])], {"axis": -1})  # [tokens, filters]
            largest = made.op("ReduceMax", [states, *reduced[0]], {"keepdims": 0, **reduced[1]})
            largest.name, largest.type, largest.shape = f"{RANGE}{each.number}", each.node.outputs[0].type, None
            names[each.number] = largest.name
            copy.graph.outputs.append(largest)
    copy.graph.register_initializer(first)
    copy.graph.extend(made.nodes)
    opened = trial.opened(copy)
    found = [opened(**batch) for batch in trial.rows]
    return {number: torch.stack([each[name] for each in found]).amax(0) for number, name in names.items()}
