"""Quantising of ONNX graphs: products and tables in 8 or 4 bits, as many as leave the outputs near those in float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from fastprune.exporting.quantising.choosing import Forms, best_apart, by_distance, first_fitting
from fastprune.exporting.quantising.forms import Dynamic, Form, Rows, RowsInBlocks, quantised
from fastprune.exporting.quantising.operators import in_float, operators, read_graph, write_graph
from fastprune.exporting.quantising.trial import Trial
from fastprune.strategies.export_formats import ExportedModel, Quantisation, Quantised


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the quantised graph.

    Attributes:
        tables: Type of the tables: int8 or int4.
        distance: The largest accepted distance of the outputs from those in float32, as a share of their spread.
    """

    tables: str
    distance: float


def quantise_graph(
    source: Path, target: Path, asked: Quantisation, settings: Settings, open: Callable[[Path], ExportedModel]
) -> Quantised:
    """Write a quantised copy of a graph.

    Args:
        source: The graph in float32.
        target: Path of the copy.
        asked: Calibration rows, and what the copy must keep.
        settings: Options.
        open: Opens a graph's file in onnxruntime.
    """
    model, count, forms, trial = read_graph(source), 0, None, None
    if asked.rows:
        trial = Trial(model, asked.rows, target, open)
        model, count = best_apart(model, trial, lambda graph: _forms(graph, settings))
        few = Trial(model, asked.rows[:1], target, open)
        forms = _fitting(model, trial, few, asked, settings)
    forms = _forms(model, settings) if forms is None else forms
    made = quantised(model, forms)
    distance = trial.distance(made) if trial else None
    write_graph(made, target)
    counts = Counter(each.told for each in forms.values())
    if count:
        counts["filters apart in each FFN"] = count
    rounded = {each.node for each in operators(model) if each.number in forms}
    left = [each for each in in_float(model) if each.node not in rounded]
    counts["operators in float32"] = len(left)
    return Quantised(counts=dict(counts), float_bytes=sum(each.weights.nbytes for each in left), distance=distance)


def _forms(model: ir.Model, settings: Settings) -> dict[int, Form]:
    """The form of every operator."""
    table: Form = Rows() if settings.tables == "int8" else RowsInBlocks()
    return {each.number: Dynamic() if each.kind == "product" else table for each in operators(model)}


def _fitting(model: ir.Model, trial: Trial, few: Trial, asked: Quantisation, settings: Settings) -> Forms:
    """All forms if the outputs stay near enough, else as many as keep them near."""
    accepts, forms = asked.accepts, _forms(model, settings)

    def fits(graph: ir.Model) -> bool:
        return accepts(trial.opened(graph)) if accepts else trial.distance(graph) <= settings.distance

    if fits(quantised(model, forms)):
        return forms
    return first_fitting(model, by_distance(model, few, forms), forms, fits)
