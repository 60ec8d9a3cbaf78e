"""The intermediate representation of OpenVINO, and its models in OpenVINO's runtime."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fastprune.errors import ExportError, ModelError, UsageError
from fastprune.exporting import decoder_graph
from fastprune.exporting.agreement import distance, distance_option, outputs_on
from fastprune.exporting.graph import refuses_all_but_one_text
from fastprune.exporting.onnx import write_graph
from fastprune.models.pretrained import Pretrained
from fastprune.progress import step
from fastprune.strategies.export_formats import ExportFormat, Quantisation, Quantised
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
            model = openvino.Core().compile_model(str(file), "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise ModelError(f"{file} cannot be opened: {reason}") from error
        self._request: openvino.InferRequest = model.create_infer_request()
        names = [each.any_name for each in model.inputs]
        self.decodes = BEAMS in names
        self._names = tuple(names)
        made = (BEAMS, decoder_graph.POSITIONS) if self.decodes else ()
        self.inputs: tuple[str, ...] = tuple(name for name in names if name not in made)
        self.outputs: tuple[str, ...] = tuple(each.any_name for each in model.outputs)

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the model, as described for ``ExportedModel``; a decoder with an empty KV cache."""
        if self.decodes:
            self._request.reset_state()
        found = self._request.infer(self.fed(inputs))
        return {name: torch.from_numpy(found[name].copy()) for name in self.outputs}

    def fed(self, inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """All inputs of the graph by name.

        Args:
            inputs: At least ``inputs`` by name, on the CPU.
        """
        given: dict[str, np.ndarray] = {name: inputs[name].numpy() for name in self.inputs}
        if self.decodes:
            samples, tokens = inputs["input_ids"].shape
            given[BEAMS] = np.arange(samples, dtype=np.int32)
            given |= decoder_graph.positions(self._names, (samples, tokens))
        return given


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
    quantised: ClassVar[tuple[str, ...]] = ("int8", "int4")

    type: Literal["f32", "f16"] = option("f32", help="Type of the weights in the file.")
    distance: float = distance_option()

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

    def refuses_quantised(self, opened: Pretrained, weights: str, data: bool) -> str:
        if importlib.util.find_spec("nncf") is None:
            return 'Quantised weights for OpenVINO need nncf: pip install "fastprune[nncf]".'
        return "" if self.type == "f32" else "Quantised weights are written from float32: leave out --set type=f16."

    def quantise(self, directory: Path, asked: Quantisation) -> Quantised:
        import openvino

        from fastprune.exporting.quantising import by_nncf

        dense = self.open(directory)
        expected = outputs_on(dense, asked.rows) if asked.rows else ()
        decodes = dense.decodes
        feeds = [] if decodes else [dense.fed(text) for text in by_nncf.texts(asked.rows)]
        place = directory / "quantised"
        for way in by_nncf.ways(asked.weights, feeds):
            with step(way.told), by_nncf.silent():
                made = way.apply(openvino.Core().read_model(directory / FILE))
            openvino.save_model(made, place / FILE, compress_to_fp16=False)
            found = self.open(place)
            off = distance(outputs_on(found, asked.rows), expected) if asked.rows else None
            if asked.accepts(found) if asked.accepts else off is None or off <= self.distance:
                break
        else:
            raise ExportError(f"Even {way.told} alone lose more than is allowed; write float32 without --quantize.")
        del dense, found  # they may hold the files
        for file in (place / FILE).parent.iterdir():
            file.replace(directory / "openvino" / file.name)
        shutil.rmtree(place)
        counts, size = by_nncf.counts(openvino.Core().read_model(directory / FILE))
        return Quantised(way=way.told, counts=counts, float_bytes=size, distance=off)

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
