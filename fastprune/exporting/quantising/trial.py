"""Trials: a quantised graph in onnxruntime on calibration rows, and its distance from the graph in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

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

    def outputs(self, model: ir.Model) -> tuple[Tensor, ...]:
        """All outputs of a graph, one after the other: each [values, features], without padding."""
        opened = self.opened(model)
        found: dict[str, list[Tensor]] = {name: [] for name in opened.outputs}
        for batch in self.rows:
            for name, value in opened(**batch).items():
                found[name].append(_unpadded(value.float(), batch))
        return tuple(torch.cat(each) for each in found.values())

    def opened(self, model: ir.Model) -> Graph:
        """A graph in onnxruntime."""
        write_graph(model.clone(), self.scratch)
        return self.open(self.scratch)

    def distance(self, model: ir.Model) -> float:
        """The root mean square difference of the outputs from those in float32, as a share of their spread."""
        return distance(self.outputs(model), self.expected)


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The root mean square difference of outputs, as a share of the spread of the expected ones; the largest of all outputs.

    Args:
        found: Each output [values, features].
        expected: The same.
    """
    shares = []
    for ours, theirs in zip(found, expected, strict=True):
        spread = (theirs - theirs.mean(0)).square().mean().sqrt()
        off = (ours - theirs).square().mean().sqrt()
        shares.append(off / (spread if spread > 0 else theirs.square().mean().sqrt().clamp(min=1e-12)))
    return float(torch.stack(shares).max())


def _unpadded(value: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """An output [samples, ...] as [values, features], without the values of padding."""
    mask = batch.get("attention_mask")
    if mask is not None and value.ndim > 2 and value.shape[:2] == mask.shape:
        return value[mask.bool()].flatten(1)
    return value.flatten(0, -2) if value.ndim > 1 else value[:, None]
