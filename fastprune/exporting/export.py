"""Exporting: a model, pruned or not, as a graph that runs without its Python code, checked against the model itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastprune.calibration.hooks import frozen
from fastprune.errors import ExportError, UsageError
from fastprune.exporting.graph import TensorGraph, example_inputs, input_names, without_cache
from fastprune.exporting.onnx import write_onnx
from fastprune.exporting.onnx_models import ONNX_FILE, OnnxModel
from fastprune.exporting.torch_export import PROGRAM_FILE, traced_program
from fastprune.files import check_output, written_whole
from fastprune.models.checkpoint import plain_config, write_companions
from fastprune.models.pretrained import Pretrained
from fastprune.progress import step

FORMATS = ("onnx", "torch-export")
TOLERANCE = 1e-4
SHAPES = ((1, 5), (2, 16), (3, 9))  # samples, tokens; the first is not what the graph is made from


@dataclass(frozen=True, kw_only=True)
class Export:
    """What ``export`` wrote.

    Attributes:
        file: The graph.
        inputs: Names, in order.
        outputs: Names, in order.
        difference: The largest |exported - model| / max(1, |model|) over all checked shapes and outputs.
    """

    file: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float


def export(opened: Pretrained, output: str | Path, *, format: str = "onnx", opset: int | None = None) -> Export:
    """Write a text model as a graph with any number of samples and tokens, and check it against the model.

    The directory also holds the configuration, the tokenizer and what else belongs to the model, as optimum's
    ``ORTModelFor...`` classes expect it. A graph says nothing of a decoder's cache: it gives all tokens' logits.

    Args:
        opened: What ``open_pretrained`` returned, on the CPU.
        output: A directory that does not exist, or is empty.
        format: ``onnx``, run by onnxruntime and others; ``torch-export``, opened by ``torch.export.load``.
        opset: Of ONNX; None: the exporter's.

    Raises:
        UsageError: An unknown format, an opset without ONNX, or packages of the extra ``onnx`` are missing.
        CheckpointError: The output is in the way.
        ModelError: The model takes something else than text.
        ExportError: The model cannot be made a graph, or the graph computes something else.
    """
    check_output(output)
    _require_format(format, opset)
    model: Any = opened.model
    names = input_names(opened)
    graph = TensorGraph(model, names)
    inputs = {shape: example_inputs(model, names, *shape) for shape in SHAPES}
    graph.learn_outputs(inputs[SHAPES[1]])
    with frozen(model), without_cache(model), written_whole(output) as scratch, step("exporting"):
        if format == "onnx":
            write_onnx(graph, inputs[SHAPES[1]], scratch / ONNX_FILE, opset)
        else:
            torch.export.save(traced_program(graph, inputs[SHAPES[1]]), scratch / PROGRAM_FILE)
        file = scratch / (ONNX_FILE if format == "onnx" else PROGRAM_FILE)
        difference = max(_difference(file, graph, each) for each in inputs.values())
        if not difference <= TOLERANCE:
            raise ExportError(
                f"The exported {type(model).__name__} computes something else: it is off by {difference:.2g}, more than "
                f"{TOLERANCE:g}. Nothing was written; try another --format or --opset."
            )
        plain_config(model).save_pretrained(scratch)
        write_companions(scratch, opened.tokenizer, opened.companions)
    return Export(file=Path(output) / file.name, inputs=names, outputs=graph.outputs, difference=difference)


def _require_format(format: str, opset: int | None) -> None:
    if format not in FORMATS:
        raise UsageError(f"There is no export format '{format}'; use {' or '.join(FORMATS)}.")
    if format != "onnx" and opset is not None:
        raise UsageError(f"An opset is ONNX's; the format {format} has none.")
    if format == "onnx":
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise UsageError(f'ONNX needs {", ".join(missing)}: pip install "fastprune[onnx]".')


def _difference(file: Path, graph: TensorGraph, inputs: Mapping[str, Tensor]) -> float:
    """The largest |exported - model| / max(1, |model|) over all outputs; what padding gives does not count."""
    with torch.inference_mode():
        expected = graph(*inputs.values())
    if file.name == ONNX_FILE:
        found = tuple(OnnxModel(file.parent)(**inputs).values())
    else:
        with torch.inference_mode():
            found = torch.export.load(file).module()(*inputs.values())
    real = inputs["attention_mask"].bool() if "attention_mask" in inputs else None
    worst = 0.0
    for ours, theirs in zip(expected, found, strict=True):
        off = (ours - theirs).abs() / ours.abs().clamp(min=1)
        per_token = real is not None and off.shape[:2] == real.shape
        worst = max(worst, float((off[real] if per_token else off).max()))
    return worst
