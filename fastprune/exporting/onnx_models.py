"""Exported models in onnxruntime, called as the PyTorch model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastprune.errors import ModelError, UsageError

if TYPE_CHECKING:
    import onnxruntime

ONNX_FILE = "model.onnx"


class OnnxModel:
    """A directory that ``export`` wrote as ONNX, on the CPU.

    Args:
        directory: With a ``model.onnx`` in it.
        threads: That one operator may use; None: onnxruntime's choice.

    Raises:
        UsageError: onnxruntime is not installed.
        ModelError: The file is broken.
    """

    def __init__(self, directory: str | Path, *, threads: int | None = None) -> None:
        self.file = Path(directory) / ONNX_FILE
        try:
            import onnxruntime
        except ImportError as error:
            raise UsageError('ONNX models need onnxruntime: pip install "fastprune[onnx]".') from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            self.session: onnxruntime.InferenceSession = onnxruntime.InferenceSession(
                str(self.file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own families
            reason = str(error).strip().partition("\n")[0]
            raise ModelError(f"{self.file} cannot be opened: {reason}") from error
        self.input_names = tuple(each.name for each in self.session.get_inputs())
        self.output_names = tuple(each.name for each in self.session.get_outputs())

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name, for the inputs by name: [samples, tokens] each; others than the graph's are left out."""
        given: dict[str, np.ndarray] = {name: inputs[name].numpy() for name in self.input_names}
        found = self.session.run(None, given)
        return {name: torch.from_numpy(value) for name, value in zip(self.output_names, found, strict=True)}
