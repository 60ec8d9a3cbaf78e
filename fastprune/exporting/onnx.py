"""The ONNX format, and its models in onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fastprune.errors import ModelError, UsageError
from fastprune.exporting import decoder_graph
from fastprune.exporting.graph import refuses_all_but_one_text, traced_program
from fastprune.models.pretrained import Pretrained
from fastprune.strategies.export_formats import ExportFormat
from fastprune.strategies.options import option

if TYPE_CHECKING:
    import onnxruntime

TEI, SENTENCES = "text-embeddings-inference, CPU image", 'sentence-transformers, backend="onnx"'
FILE = "onnx/model.onnx"
"""Place of the graph, where transformers.js, optimum, sentence-transformers and text-embeddings-inference look for it."""


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
        self._past = {name: shape for name, shape in shapes.items() if name.startswith(decoder_graph.PAST)}
        self._placed = bool(self._past) and "position_ids" in shapes
        left_out = {*self._past, *(["position_ids"] if self._placed else [])}
        self.inputs: tuple[str, ...] = tuple(name for name in shapes if name not in left_out)
        named = (each.name for each in self._session.get_outputs())
        self.outputs: tuple[str, ...] = tuple(name for name in named if not name.startswith(decoder_graph.PRESENT))

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the model, as described for ``ExportedModel``; a decoder with an empty KV cache."""
        given: dict[str, np.ndarray] = {name: inputs[name].numpy() for name in self.inputs}
        samples, tokens = inputs["input_ids"].shape if self._past else (0, 0)
        for name, (_, heads, _, width) in self._past.items():
            given[name] = np.zeros((samples, heads, 0, width), dtype=np.float32)
        if self._placed:
            given["position_ids"] = np.tile(np.arange(tokens), (samples, 1))
        found = self._session.run(list(self.outputs), given)
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, found, strict=True)}


@dataclass(frozen=True, kw_only=True)
class OnnxFormat(ExportFormat):
    """A graph for onnxruntime and others, with any number of samples and tokens.

    The directory also has the files that optimum's ``ORTModelFor...`` classes and sentence-transformers need. The graph of a
    decoder has a KV cache, each layer with its own heads: inputs ``past_key_values.N.key`` and ``.value``, outputs
    ``present.N.key`` and ``.value``. Layers whose attention was emptied have none.
    """

    name: ClassVar[str] = "onnx"
    paper: ClassVar[str] = "The specification: https://github.com/onnx/onnx/blob/main/docs/IR.md"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    install: ClassVar[str] = "fastprune[onnx]"
    files: ClassVar[tuple[str, ...]] = (FILE,)
    servers: ClassVar[tuple[str, ...]] = ("onnxruntime", "transformers.js", "optimum-onnx", SENTENCES, TEI)

    opset: int | None = option(None, at_least=17, at_most=25, help="Version of the operators; none: the exporter's.")

    def refuses(self, opened: Pretrained) -> str:
        return refuses_all_but_one_text(opened)

    def declines(self, server: str, opened: Pretrained) -> str:
        config: Any = opened.model.config
        if server in (TEI, SENTENCES) and any(decoder_graph.layer_caches(opened.model)):
            return "It takes graphs of encoders only."
        if server == TEI and not ("hidden_size" in config.to_dict() and "num_hidden_layers" in config.to_dict()):
            return f"It reads hidden_size and num_hidden_layers, which the configuration of a {config.model_type} does not have."
        return ""

    def write(self, opened: Pretrained, directory: Path) -> None:
        (directory / FILE).parent.mkdir()
        save_exporter_graph(opened, directory / FILE, opset=self.opset)
        opened.save_companions(directory)

    def open(self, directory: Path, *, threads: int | None = None) -> OnnxModel:
        return OnnxModel(directory / FILE, threads=threads)


def save_exporter_graph(opened: Pretrained, file: Path, *, opset: int | None = None) -> None:
    """Write the graph that torch's exporter makes: of operators that every runtime has, a decoder's with its KV cache.

    Args:
        opened: The model, which ``refuses_all_but_one_text`` does not refuse.
        file: Path of the graph.
        opset: Version of the operators; None: the exporter's.
    """
    caches = decoder_graph.layer_caches(opened.model)
    if any(caches):
        cached = decoder_graph.cached_program(opened.model, caches)
        program, inputs, outputs = cached.program, cached.inputs, cached.outputs
    else:
        program = traced_program(opened)
        inputs, outputs = tuple(program.graph_signature.user_inputs), tuple(program.call_spec.out_spec.context)
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
    made.save(file, external_data=False)


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
