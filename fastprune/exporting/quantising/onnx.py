"""Quantising of ONNX graphs: products and tables in 8 or 4 bits, as many as leave the outputs near those in float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from torch import Tensor

from fastprune.exporting.quantising.choosing import Forms, best_apart, by_distance, first_fitting
from fastprune.exporting.quantising.forms import Dynamic, Form, InBlocks, Rows, RowsInBlocks, quantised
from fastprune.exporting.quantising.operators import Operator, in_float, operators, read_graph, write_graph
from fastprune.exporting.quantising.rounding import rounded_blocks, rounded_rows
from fastprune.exporting.quantising.stages import rounded_in_stages
from fastprune.exporting.quantising.trial import Graph, Trial
from fastprune.strategies.export_formats import ExportedModel, Quantisation, Quantised

HELD_BACK = 4
Batches = tuple[Mapping[str, Tensor], ...]


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
    source: Path, target: Path, asked: Quantisation, settings: Settings, open: Callable[[Path], Graph]
) -> Quantised:
    """Write a quantised copy of a graph.

    Args:
        source: The graph in float32.
        target: Path of the copy.
        asked: Calibration rows, and what the copy must keep.
        settings: Options.
        open: Opens a graph's file in onnxruntime.
    """
    model, count = read_graph(source), 0
    given, tests = (asked.rows, asked.rows) if asked.weights == "int8" else _held_back(asked.rows)
    trial = Trial(model, tests, target, open) if tests else None
    if trial and asked.weights == "int8":
        model, count = best_apart(model, trial, lambda graph: _in_8_bits(operators(graph), settings))
    found = operators(model)
    forms: Forms = (
        _in_4_bits(model, found, trial.opened(model), given, settings)
        if trial and asked.weights == "int4"
        else _in_8_bits(found, settings)
    )
    made = quantised(model, forms)
    if trial and not (fits := _criterion(trial, asked.accepts, settings))(made):
        few = Trial(model, tests[:1], target, open)
        order = by_distance(model, few, forms)
        forms, made = first_fitting(model, order, {each.number: each for each in found}, forms, fits)
    distance = trial.distance(made) if trial else None
    write_graph(made, target)
    counts = Counter(each.told for each in forms.values())
    if count:
        counts["filters apart in each FFN"] = count
    rounded = {each.node for each in found if each.number in forms}
    left = [each for each in in_float(model) if each.node not in rounded]
    counts["operators in float32"] = len(left)
    return Quantised(counts=dict(counts), float_bytes=sum(each.weights.nbytes for each in left), distance=distance)


def _in_8_bits(found: Sequence[Operator], settings: Settings) -> dict[int, Form]:
    """The form of every operator, with products in 8 bits."""
    return _tables(found, settings) | {each.number: Dynamic() for each in found if each.kind == "product"}


def _held_back(rows: Batches) -> tuple[Batches, Batches]:
    """Batches to round for, and every fourth to measure on: on the others the outputs are nearer to float32 than elsewhere."""
    tests = rows[HELD_BACK - 1 :: HELD_BACK] or rows[-1:]
    return tuple(each for each in rows if not any(each is test for test in tests)) or rows, tests


def _in_4_bits(
    model: ir.Model, found: Sequence[Operator], opened: Graph, rows: Batches, settings: Settings
) -> dict[int, Form]:
    """The form of every operator, with products' weights in 4 bits, rounded in stages."""
    feeds = [opened.fed(batch) for batch in rows]
    tables = {each.number: _table(each.weights, settings) for each in found if each.kind == "table"}
    blocks = rounded_in_stages(model, found, tables, feeds)
    return _tables(found, settings) | {number: InBlocks(each) for number, each in blocks.items()}


def _tables(found: Sequence[Operator], settings: Settings) -> dict[int, Form]:
    return {
        each.number: RowsInBlocks() if _in_blocks(each.weights, settings) else Rows()
        for each in found
        if each.kind == "table"
    }


def _in_blocks(rows: np.ndarray, settings: Settings) -> bool:
    """Whether a table has 4 bits; onnxruntime reads two features from a byte, so there must be no half byte."""
    return settings.tables == "int4" and rows.shape[1] % 2 == 0


def _table(rows: np.ndarray, settings: Settings) -> np.ndarray:
    """The rounded rows of a table, [rows, features]."""
    if _in_blocks(rows, settings):
        return rounded_blocks(rows.T, 4).weights.T
    numbers, scales = rounded_rows(rows)
    rounded: np.ndarray = numbers * scales
    return rounded


def _criterion(
    trial: Trial, accepts: Callable[[ExportedModel], bool] | None, settings: Settings
) -> Callable[[ir.Model], bool]:
    """Whether a quantised graph is good enough: for the user's limit, or near enough to float32."""

    def fits(graph: ir.Model) -> bool:
        return accepts(trial.opened(graph)) if accepts else trial.distance(graph) <= settings.distance

    return fits
