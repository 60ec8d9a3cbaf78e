"""The ONNX format, and its models in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fastprune.errors import ModelError, UsageError
from fastprune.exporting import decoder_graph, graph_passes
from fastprune.exporting.agreement import distance_option
from fastprune.exporting.attention import OPERATOR, attention_as_one_operator, refuses_one_operator
from fastprune.exporting.graph import refuses_all_but_one_text, traced_program
from fastprune.models.pretrained import Pretrained
from fastprune.strategies.export_formats import ExportFormat, Quantisation, Quantised
from fastprune.strategies.options import option

if TYPE_CHECKING:
    import onnxruntime

GraphKind = Literal["fused", "exporter"]
FILE = "onnx/model.onnx"
"""Place of the float32 graph, where transformers.js, optimum, sentence-transformers and text-embeddings-inference look for it."""
QUANTISED = {"int8": "onnx/model_quantized.onnx", "int4": "onnx/model_q4.onnx"}
"""Places of quantised graphs by the type of their products, as transformers.js names them (q8 and q4)."""


class OnnxModel:
    """An ONNX model in onnxruntime, on the CPU.

    Args:
        file: Path of the graph.
        threads: Maximum number of threads per operator; None: onnxruntime's choice.

    Raises:
        UsageError: onnxruntime is not installed.
        ModelError: The file is broken.
    """

    def __init__(self, file: str | Path, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UsageError('ONNX models need onnxruntime: pip install "fastprune[onnx]".') from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            self._session: onnxruntime.InferenceSession = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has its own types of errors
            reason = str(error).strip().partition("\n")[0]
            raise ModelError(f"{file} cannot be opened: {reason}") from error
        shapes = {each.name: each.shape for each in self._session.get_inputs()}
        self._names = tuple(shapes)
        self._past = {name: shape for name, shape in shapes.items() if name.startswith(decoder_graph.PAST)}
        made = {*self._past, decoder_graph.POSITIONS} if self._past else set()
        self.inputs: tuple[str, ...] = tuple(name for name in shapes if name not in made)
        named = (each.name for each in self._session.get_outputs())
        self.outputs: tuple[str, ...] = tuple(name for name in named if not name.startswith(decoder_graph.PRESENT))

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the model, as described for ``ExportedModel``; a decoder with an empty KV cache."""
        found = self._session.run(list(self.outputs), self.fed(inputs))
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, found, strict=True)}

    def fed(self, inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """All inputs of the graph by name; a decoder's KV cache is empty.

        Args:
            inputs: At least ``inputs`` by name, on the CPU.
        """
        given: dict[str, np.ndarray] = {name: inputs[name].numpy() for name in self.inputs}
        if not self._past:
            return given
        samples, tokens = inputs["input_ids"].shape
        for name, (_, heads, _, width) in self._past.items():
            given[name] = np.zeros((samples, heads, 0, width), dtype=np.float32)
        return given | decoder_graph.positions(self._names, (samples, tokens))


@dataclass(frozen=True, kw_only=True)
class GraphFormat(ExportFormat):
    """What formats around an ONNX graph of one text have in common."""

    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    install: ClassVar[str] = "fastprune[onnx]"
    files: ClassVar[tuple[str, ...]] = (FILE,)

    opset: int | None = option(None, at_least=17, at_most=25, help="Version of the operators; none: the exporter's.")

    def refuses(self, opened: Pretrained) -> str:
        return refuses_all_but_one_text(opened)

    def open(self, directory: Path, *, threads: int | None = None) -> OnnxModel:
        return OnnxModel(self.found_in(directory)[0], threads=threads)


@dataclass(frozen=True, kw_only=True)
class OnnxFormat(GraphFormat):
    """A graph for onnxruntime and others, with any number of samples and tokens.

    The directory also has the files that optimum's ``ORTModelFor...`` classes and sentence-transformers need. The graph of a
    decoder has a KV cache, each layer with its own heads: inputs ``past_key_values.N.key`` and ``.value``, outputs
    ``present.N.key`` and ``.value``. Layers whose attention was emptied have none.
    """

    name: ClassVar[str] = "onnx"
    paper: ClassVar[str] = "The specification: https://github.com/onnx/onnx/blob/main/docs/IR.md"
    servers: ClassVar[tuple[str, ...]] = ("onnxruntime", "transformers.js", "optimum-onnx")
    files: ClassVar[tuple[str, ...]] = ("onnx/model*.onnx",)
    quantised: ClassVar[tuple[str, ...]] = tuple(QUANTISED)

    graph: GraphKind = option(
        "fused",
        help="fused: one attention operator per layer, for onnxruntime only; exporter: standard operators. Decoders have these.",
    )
    tables: Literal["auto", "int8", "int4"] = option(
        "auto", help="Type of the embedding tables of a quantised graph; auto: that of the products."
    )
    distance: float = distance_option()

    def write(self, opened: Pretrained, directory: Path) -> str | None:
        remark = write_graph(opened, directory / FILE, graph=self.graph, opset=self.opset)
        opened.save_companions(directory)
        return remark

    def refuses_quantised(self, opened: Pretrained, weights: str, data: bool) -> str:
        return (
            "int4 needs calibration data, with or without labels: give --data."
            if weights == "int4" and not data
            else ""
        )

    def quantise(self, directory: Path, asked: Quantisation) -> Quantised:
        from fastprune.exporting.quantising.onnx import Settings, quantise_graph  # onnx_ir is no hard dependency

        tables = asked.weights if self.tables == "auto" else self.tables
        settings = Settings(tables=tables, distance=self.distance)
        done = quantise_graph(directory / FILE, directory / QUANTISED[asked.weights], asked, settings, OnnxModel)
        (directory / FILE).unlink()
        return done


def write_graph(opened: Pretrained, file: Path, *, graph: GraphKind = "fused", opset: int | None = None) -> str | None:
    """Write the graph of a model of one text; that of a decoder has a KV cache.

    Args:
        opened: The model, and the tokenizer, which determines the inputs.
        file: The file; its directory is made.
        graph: ``fused``: one attention operator of onnxruntime per layer, q, k and v as one product, the last layer on the first
            token only if the head reads no other; for models whose attention goes through transformers' attention interface.
            ``exporter``: standard operators only, for other runtimes than onnxruntime.
        opset: Version of the operators; None: the exporter's.

    Returns:
        The reason why a fused graph was not possible and the exporter's was written, as a sentence; None if it is as asked.
    """
    caches = decoder_graph.layer_caches(opened.model)
    made, reason = None, ""
    if any(caches):
        cached = decoder_graph.cached_program(opened.model, caches)
        made = _exported(cached.program, cached.inputs, cached.outputs, opset)
    elif graph == "fused":
        made, reason = _fused(opened, opset)
    if made is None:
        made = _exported_text(opened, opset)
    file.parent.mkdir(parents=True, exist_ok=True)
    made.save(file, external_data=False)
    return f"The graph has standard operators only. {reason}" if reason else None


def _fused(opened: Pretrained, opset: int | None) -> tuple[torch.onnx.ONNXProgram | None, str]:
    """The fused graph, or None and the reason why there is none."""
    model: Any = opened.model
    if reason := refuses_one_operator(model):
        return None, reason
    with attention_as_one_operator(model):
        made = _exported_text(opened, opset)
    if not any(node.op_type == OPERATOR for node in made.model.graph):
        return None, f"No attention of the {type(model).__name__} goes through transformers' attention interface."
    graph_passes.simplify(made.model)
    return made, ""


def _exported_text(opened: Pretrained, opset: int | None) -> torch.onnx.ONNXProgram:
    program = traced_program(opened)
    outputs = tuple(program.call_spec.out_spec.context)
    return _exported(program, tuple(program.graph_signature.user_inputs), outputs, opset)


def _exported(
    program: torch.export.ExportedProgram, inputs: tuple[str, ...], outputs: tuple[str, ...], opset: int | None
) -> torch.onnx.ONNXProgram:
    """The exporter's graph of a traced program."""
    made = torch.onnx.export(
        program,
        input_names=list(inputs),
        output_names=list(outputs),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert made is not None
    _name_dimensions(made.model.graph)
    return made


def _name_dimensions(graph: Any) -> None:
    """Rename the free dimensions of the inputs, wherever the graph mentions them.

    Inputs are [batch, sequence]; with a KV cache keys and values are [batch, heads, past_sequence, width], and the attention
    mask is [batch, total_sequence].

    Args:
        graph: An ``onnx_ir.Graph``, changed in place.
    """
    cached = any(len(each.shape) == 4 for each in graph.inputs)
    names: dict[str, str] = {}
    for each in graph.inputs:
        length = "total_sequence" if cached and each.name == "attention_mask" else "sequence"
        named = {0: "batch", 2: "past_sequence"} if len(each.shape) == 4 else {0: "batch", 1: length}
        names |= {str(each.shape[place]): name for place, name in named.items()}
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        for place, size in enumerate(value.shape or ()):
            if str(size) in names:
                value.shape[place] = names[str(size)]
