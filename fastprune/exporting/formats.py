"""Registration of the built-in export formats, in the same way as plugins."""

from collections.abc import Callable

from fastprune.exporting.ctranslate2 import Ctranslate2Format
from fastprune.exporting.genai import GenaiFormat
from fastprune.exporting.gguf import GgufFormat
from fastprune.exporting.onnx import OnnxFormat
from fastprune.exporting.openvino import OpenvinoFormat
from fastprune.exporting.sentence_formats import SentenceTransformersFormat, TeiFormat
from fastprune.exporting.torch_export import TorchExportFormat
from fastprune.exporting.vllm import VllmFormat
from fastprune.registry.hookspecs import hookimpl
from fastprune.strategies.export_formats import ExportFormat


@hookimpl
def register_export_formats(register: Callable[[type[ExportFormat]], None]) -> None:
    """Register ``onnx`` and the formats around it, ``torch-export``, ``gguf``, ``openvino``, ``ctranslate2`` and ``vllm``."""
    register(OnnxFormat)
    register(SentenceTransformersFormat)
    register(TeiFormat)
    register(GenaiFormat)
    register(TorchExportFormat)
    register(GgufFormat)
    register(OpenvinoFormat)
    register(Ctranslate2Format)
    register(VllmFormat)
