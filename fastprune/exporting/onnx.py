"""ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastprune.exporting.graph import TensorGraph, export_failed, quiet_export
from fastprune.exporting.torch_export import traced_program


def write_onnx(graph: TensorGraph, inputs: Mapping[str, Tensor], file: Path, opset: int | None) -> None:
    """Write the graph as ONNX, with any number of samples and tokens."""
    program = traced_program(graph, inputs)
    try:
        with quiet_export():
            made = torch.onnx.export(
                program,
                input_names=list(graph.names),
                output_names=list(graph.outputs),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
            assert made is not None
            made.save(file, external_data=False)
    except Exception as error:  # as above
        raise export_failed(graph, error) from error
