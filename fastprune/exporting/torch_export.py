"""torch.export programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastprune.exporting.graph import TensorGraph, export_failed, quiet_export

PROGRAM_FILE = "model.pt2"


def _dynamic(inputs: Mapping[str, Tensor]) -> tuple[tuple[dict[int, Any], ...]]:
    free = torch.export.Dim.DYNAMIC
    return (tuple({0: free, 1: free} for _ in inputs),)


def traced_program(graph: TensorGraph, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    """Trace the graph by torch.export, with any number of samples and tokens."""
    try:
        with quiet_export(), torch.no_grad():
            return torch.export.export(graph, tuple(inputs.values()), dynamic_shapes=_dynamic(inputs), strict=False)
    except Exception as error:  # whatever tracing somebody's model may raise
        raise export_failed(graph, error) from error
