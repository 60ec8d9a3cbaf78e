"""Trials: a quantised graph in onnxruntime on calibration rows, and its distance from the graph in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir
from torch import Tensor

from fastprune.exporting.agreement import distance, outputs_on
from fastprune.exporting.quantising.operators import write_graph
from fastprune.strategies.export_formats import ExportedModel


class Graph(ExportedModel, Protocol):
    """A graph in onnxruntime."""

    def fed(self, inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """All inputs of the graph by name, those that ``__call__`` adds included."""


class Trial:
    """A graph in float32 and rows to run it and its quantised copies on.

    Args:
        model: The graph.
        rows: Inputs by name, on the CPU, batch by batch.
        scratch: Path of the file of one graph after the other.
        open: Opens a graph's file in onnxruntime.
    """

    def __init__(
        self,
        model: ir.Model,
        rows: Sequence[Mapping[str, Tensor]],
        scratch: Path,
        open: Callable[[Path], Graph],
    ) -> None:
        self.rows, self.scratch, self.open = tuple(rows), scratch, open
        self.expected = self.outputs(model)
        self._distances: WeakKeyDictionary[ir.Model, float] = WeakKeyDictionary()

    def outputs(self, model: ir.Model) -> tuple[Tensor, ...]:
        """All outputs of a graph, one after the other: each [values, features], without padding."""
        return outputs_on(self.opened(model), self.rows)

    def opened(self, model: ir.Model) -> Graph:
        """A graph in onnxruntime."""
        write_graph(model.clone(), self.scratch)
        return self.open(self.scratch)

    def distance(self, model: ir.Model) -> float:
        """The root mean square difference of the outputs from those in float32, as a share of their spread; measured once."""
        if model not in self._distances:
            self._distances[model] = distance(self.outputs(model), self.expected)
        return self._distances[model]
