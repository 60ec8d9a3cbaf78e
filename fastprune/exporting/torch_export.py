"""The format torch-export: programs of torch.export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from fastprune.errors import ModelError
from fastprune.exporting.graph import refuses_all_but_one_text, traced_program
from fastprune.models.pretrained import Pretrained
from fastprune.strategies.export_formats import ExportFormat

FILE = "model.pt2"


class ProgramModel:
    """A program that ``torch.export.save`` wrote, on the device where it was traced.

    Args:
        file: Path of the program, with named inputs and a dictionary as output.

    Raises:
        ModelError: The file is broken.
    """

    def __init__(self, file: str | Path) -> None:
        try:
            program = torch.export.load(file)
        except Exception as error:  # archives and serialised graphs raise unrelated types of errors
            reason = str(error).strip().partition("\n")[0]
            raise ModelError(f"{file} cannot be opened: {reason}") from error
        self.inputs: tuple[str, ...] = tuple(program.graph_signature.user_inputs)
        self.outputs: tuple[str, ...] = tuple(program.call_spec.out_spec.context)
        self._device = next((value.device for value in program.state_dict.values()), torch.device("cpu"))
        self._module = program.module()

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the model, as described for ``ExportedModel``."""
        with torch.inference_mode():
            found = self._module(**{name: inputs[name].to(self._device) for name in self.inputs})
        return {name: value.cpu() for name, value in found.items()}


@dataclass(frozen=True, kw_only=True)
class TorchExportFormat(ExportFormat):
    """A program for ``torch.export.load``, with any number of samples and tokens.

    The program takes its inputs by name, returns a dictionary, and runs on the device where the model was.
    """

    name: ClassVar[str] = "torch-export"
    paper: ClassVar[str] = "PyTorch's documentation: https://docs.pytorch.org/docs/stable/export.html"
    files: ClassVar[tuple[str, ...]] = (FILE,)

    def refuses(self, opened: Pretrained) -> str:
        return refuses_all_but_one_text(opened)

    def write(self, opened: Pretrained, directory: Path) -> None:
        torch.export.save(traced_program(opened), directory / FILE)
        opened.save_companions(directory)

    def open(self, directory: Path, *, threads: int | None = None) -> ProgramModel:
        return ProgramModel(directory / FILE)
