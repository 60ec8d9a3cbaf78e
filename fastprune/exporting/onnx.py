"""The ONNX format, and its models in onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fastprune.errors import ModelError, UsageError
from fastprune.exporting.graph import refuses_all_but_one_text, traced_program
from fastprune.models.pretrained import Pretrained
from fastprune.strategies.export_formats import ExportFormat
from fastprune.strategies.options import option

if TYPE_CHECKING:
    import onnxruntime

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
        self.inputs: tuple[str, ...] = tuple(each.name for each in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(each.name for each in self._session.get_outputs())

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the model, as described for ``ExportedModel``."""
        given: dict[str, np.ndarray] = {name: inputs[name].numpy() for name in self.inputs}
        found = self._session.run(None, given)
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, found, strict=True)}


@dataclass(frozen=True, kw_only=True)
class OnnxFormat(ExportFormat):
    """A graph for onnxruntime and others, with any number of samples and tokens.

    The directory also has the files that optimum's ``ORTModelFor...`` classes and sentence-transformers need. A decoder's graph has
    no KV cache: it returns the logits of all tokens.
    """

    name: ClassVar[str] = "onnx"
    paper: ClassVar[str] = "The specification: https://github.com/onnx/onnx/blob/main/docs/IR.md"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    install: ClassVar[str] = "fastprune[onnx]"
    files: ClassVar[tuple[str, ...]] = (FILE,)

    opset: int | None = option(None, at_least=17, at_most=25, help="Version of the operators; none: the exporter's.")

    def refuses(self, opened: Pretrained) -> str:
        return refuses_all_but_one_text(opened)

    def write(self, opened: Pretrained, directory: Path) -> None:
        program = traced_program(opened)
        made = torch.onnx.export(
            program,
            input_names=list(program.graph_signature.user_inputs),
            output_names=list(program.call_spec.out_spec.context),
            opset_version=self.opset,
            dynamo=True,
            verbose=False,
        )
        assert made is not None
        _name_dimensions(made.model.graph)
        (directory / FILE).parent.mkdir()
        made.save(directory / FILE, external_data=False)
        opened.save_companions(directory)

    def open(self, directory: Path, *, threads: int | None = None) -> OnnxModel:
        return OnnxModel(directory / FILE, threads=threads)


def _name_dimensions(graph: Any) -> None:
    """Rename the first two dimensions of every input to ``batch`` and ``sequence``, wherever the graph mentions them.

    Args:
        graph: An ``onnx_ir.Graph``, changed in place. Its inputs are [samples, tokens].
    """
    names = {
        str(size): name for each in graph.inputs for size, name in zip(each.shape, ("batch", "sequence"), strict=True)
    }
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    for value in values:
        for place, size in enumerate(value.shape or ()):
            if str(size) in names:
                value.shape[place] = names[str(size)]
