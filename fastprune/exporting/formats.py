"""The built-in export formats, registered as a plugin's are."""

from collections.abc import Callable

from fastprune.exporting.onnx import OnnxFormat
from fastprune.exporting.torch_export import TorchExportFormat
from fastprune.registry.hookspecs import hookimpl
from fastprune.strategies.export_formats import ExportFormat


@hookimpl
def register_export_formats(register: Callable[[type[ExportFormat]], None]) -> None:
    """Add ``onnx`` and ``torch-export``."""
    register(OnnxFormat)
    register(TorchExportFormat)
