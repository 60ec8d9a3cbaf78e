"""Exporting: a model, pruned or not, as a graph that runs without its Python code, checked against the model itself."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.hooks import frozen
from fastprune.data.batches import token_limit
from fastprune.errors import ExportError, ModelError, UsageError
from fastprune.exporting.onnx_models import ONNX_FILE, OnnxModel
from fastprune.files import check_output, written_whole
from fastprune.models.checkpoint import plain_config, write_companions
from fastprune.models.pretrained import Pretrained
from fastprune.progress import step
from fastprune.strategies.costs import Workload

FORMATS = ("onnx", "torch-export")
PROGRAM_FILE = "model.pt2"
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
    names = _input_names(opened)
    graph = _Graph(model, names)
    inputs = {shape: _inputs(model, names, *shape) for shape in SHAPES}
    graph.learn_outputs(inputs[SHAPES[1]])
    with frozen(model), _without_cache(model), written_whole(output) as scratch, step("exporting"):
        if format == "onnx":
            _write_onnx(graph, inputs[SHAPES[1]], scratch / ONNX_FILE, opset)
        else:
            torch.export.save(_program(graph, inputs[SHAPES[1]]), scratch / PROGRAM_FILE)
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


class _Graph(nn.Module):
    """The model with tensors in and tensors out: positional inputs by name, no cache, no loss, no pooled extras."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.outputs: tuple[str, ...] = ()

    def learn_outputs(self, inputs: Mapping[str, Tensor]) -> None:
        """Which outputs there are: all tensors of the model's, or its hidden states where it has no head."""
        with torch.inference_mode():
            found = self.model(**inputs)
        tensors = tuple(name for name, value in found.items() if isinstance(value, Tensor))
        self.outputs = ("last_hidden_state",) if "last_hidden_state" in tensors else tensors

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        found = self.model(**dict(zip(self.names, values, strict=True)))
        return tuple(found[name] for name in self.outputs)


def _require_format(format: str, opset: int | None) -> None:
    if format not in FORMATS:
        raise UsageError(f"There is no export format '{format}'; use {' or '.join(FORMATS)}.")
    if format != "onnx" and opset is not None:
        raise UsageError(f"An opset is ONNX's; the format {format} has none.")
    if format == "onnx":
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise UsageError(f'ONNX needs {", ".join(missing)}: pip install "fastprune[onnx]".')


def _input_names(opened: Pretrained) -> tuple[str, ...]:
    """What the tokenizer gives and the model takes, in the order in which the model takes it."""
    model: Any = opened.model
    if getattr(model, "main_input_name", "input_ids") != "input_ids" or getattr(
        model.config, "is_encoder_decoder", False
    ):
        raise ModelError(f"Only models of one text are exported; a {type(model).__name__} takes something else.")
    given = opened.tokenizer.model_input_names if opened.tokenizer is not None else ("input_ids", "attention_mask")
    return tuple(name for name in inspect.signature(model.forward).parameters if name in given)


def _inputs(model: nn.Module, names: tuple[str, ...], samples: int, tokens: int) -> dict[str, Tensor]:
    """Random tokens; the last sample of several is padded."""
    config: Any = model.config
    generator = torch.Generator().manual_seed(0)
    limit = token_limit(model)
    tokens = tokens if limit is None else min(tokens, limit)
    shape = Workload.made_up(model, tokens).inputs(batch_size=samples)["input_ids"].shape
    mask = torch.ones(shape, dtype=torch.long)
    if samples > 1:
        mask[-1, -2:] = 0
    padding = getattr(config, "pad_token_id", None)
    ids = torch.randint(2, config.get_text_config().vocab_size, shape, generator=generator)
    ids = torch.where(mask.bool(), ids, 0 if padding is None else padding)
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {name: known[name] for name in names}


@contextlib.contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    """While open, the model gives no keys and values along."""
    config: Any = model.config
    before = getattr(config, "use_cache", None)
    try:
        if before is not None:
            config.use_cache = False
        yield
    finally:
        if before is not None:
            config.use_cache = before


def _dynamic(inputs: Mapping[str, Tensor]) -> tuple[tuple[dict[int, Any], ...]]:
    free = torch.export.Dim.DYNAMIC
    return (tuple({0: free, 1: free} for _ in inputs),)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's advice is for who writes models, not for who exports one."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._dynamo")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _program(graph: _Graph, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(graph, tuple(inputs.values()), dynamic_shapes=_dynamic(inputs), strict=False)
    except Exception as error:  # whatever tracing somebody's model may raise
        raise _failed(graph, error) from error


def _write_onnx(graph: _Graph, inputs: Mapping[str, Tensor], file: Path, opset: int | None) -> None:
    program = _program(graph, inputs)
    try:
        with _quiet():
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
        raise _failed(graph, error) from error


def _failed(graph: _Graph, error: Exception) -> ExportError:
    reason = str(error).strip().partition("\n")[0]
    return ExportError(
        f"The {type(graph.model).__name__} cannot be made a graph: {type(error).__name__}: {reason}. Nothing was written."
    )


def _difference(file: Path, graph: _Graph, inputs: Mapping[str, Tensor]) -> float:
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
