"""The intermediate representation of OpenVINO, and its models in OpenVINO's runtime."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fastprune.errors import ModelError, UsageError
from fastprune.exporting import decoder_graph
from fastprune.exporting.graph import refuses_all_but_one_text
from fastprune.exporting.onnx import write_graph
from fastprune.models.pretrained import Pretrained
from fastprune.strategies.export_formats import ExportFormat
from fastprune.strategies.options import option

if TYPE_CHECKING:
    import openvino

FILE = "openvino/openvino_model.xml"
"""Place of the graph, where optimum-intel and sentence-transformers look for it; its weights are in a file ``.bin`` beside it."""
BEAMS = "beam_idx"
"""Input of a decoder: the sample whose cache each sample continues, as beam search needs."""


class OpenvinoModel:
    """An OpenVINO model on the CPU, computing in float32.

    Args:
        file: Path of the graph.
        threads: Maximum number of threads; None: OpenVINO's choice.

    Raises:
        UsageError: openvino is not installed.
        ModelError: The file is broken.
    """

    def __init__(self, file: str | Path, *, threads: int | None = None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise UsageError('OpenVINO models need openvino: pip install "fastprune[openvino]".') from error
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}  # by default bfloat16 on CPUs that have it
        settings |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
        try:
            made = openvino.Core().compile_model(str(file), "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise ModelError(f"{file} cannot be opened: {reason}") from error
        self._request: openvino.InferRequest = made.create_infer_request()
        names = [each.any_name for each in made.inputs]
        self._decodes = BEAMS in names
        self._placed = self._decodes and "position_ids" in names
        self.inputs: tuple[str, ...] = tuple(
            name for name in names if not (self._decodes and name in (BEAMS, "position_ids"))
        )
        self.outputs: tuple[str, ...] = tuple(each.any_name for each in made.outputs)

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the model, as described for ``ExportedModel``; a decoder with an empty KV cache."""
        given: dict[str, np.ndarray] = {name: inputs[name].numpy() for name in self.inputs}
        if self._decodes:
            samples, tokens = inputs["input_ids"].shape
            given[BEAMS] = np.arange(samples, dtype=np.int32)
            if self._placed:
                given["position_ids"] = np.tile(np.arange(tokens), (samples, 1))
            self._request.reset_state()
        found = self._request.infer(given)
        return {name: torch.from_numpy(found[name].copy()) for name in self.outputs}


@dataclass(frozen=True, kw_only=True)
class OpenvinoFormat(ExportFormat):
    """A graph for OpenVINO, optimum-intel and sentence-transformers, with any number of samples and tokens.

    A decoder keeps its KV cache in the runtime, each layer with its own heads; layers whose attention was emptied have none.
    """

    name: ClassVar[str] = "openvino"
    paper: ClassVar[str] = "The format: https://docs.openvino.ai/2025/documentation/openvino-ir-format.html"
    packages: ClassVar[tuple[str, ...]] = ("openvino", "onnx", "onnxscript")
    install: ClassVar[str] = "fastprune[openvino]"
    files: ClassVar[tuple[str, ...]] = (FILE, "openvino/openvino_model.bin")
    servers: ClassVar[tuple[str, ...]] = ("OpenVINO", "optimum-intel", 'sentence-transformers, backend="openvino"')

    type: Literal["f32", "f16"] = option("f32", help="Type of the weights in the file.")

    @property
    def tolerance(self) -> float:
        return 1e-4 if self.type == "f32" else 0.05

    def refuses(self, opened: Pretrained) -> str:
        return refuses_all_but_one_text(opened)

    def write(self, opened: Pretrained, directory: Path) -> None:
        import openvino

        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "model.onnx"
            write_graph(opened, graph, graph="exporter")
            model = openvino.convert_model(graph)
        if any(decoder_graph.layer_caches(opened.model)):
            _keep_cache(model)
        openvino.save_model(model, directory / FILE, compress_to_fp16=self.type == "f16")
        opened.save_companions(directory)

    def open(self, directory: Path, *, threads: int | None = None) -> OpenvinoModel:
        return OpenvinoModel(directory / FILE, threads=threads)


def _keep_cache(model: openvino.Model) -> None:
    """Turn the keys and values among inputs and outputs into states of the runtime, in place, with the input ``beam_idx``.

    This is what optimum-intel and OpenVINO GenAI expect of a decoder.
    """
    import openvino
    from openvino import opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    beams = opset13.parameter(openvino.PartialShape([-1]), np.int32, name=BEAMS)
    beams.output(0).get_tensor().add_names({BEAMS})
    axis = opset13.constant(0, np.int32)
    names = {}
    for each in [each for each in model.inputs if each.any_name.startswith(decoder_graph.PAST)]:
        names[each.any_name] = each.any_name.replace(decoder_graph.PAST, decoder_graph.PRESENT, 1)
        readers = each.get_target_inputs()
        gathered = opset13.gather(each, beams, axis)
        for reader in readers:
            reader.replace_source_output(gathered.output(0))
    model.add_parameters([beams])
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, names)
