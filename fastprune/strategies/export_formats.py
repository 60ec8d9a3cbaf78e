"""The contract of export formats: what writes a model for another runtime, and how that runtime is called."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor

from fastprune.errors import UsageError
from fastprune.strategies.contracts import Strategy

if TYPE_CHECKING:
    from fastprune.models.pretrained import Pretrained


class ExportedModel(Protocol):
    """An exported model in its runtime, called as the PyTorch model is."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it takes."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors that it gives: at least one, and only such that the PyTorch model gives."""

    def __call__(self, **inputs: Tensor) -> Mapping[str, Tensor]:
        """Run it.

        Args:
            inputs: By name, on the CPU; those that it does not take are ignored.

        Returns:
            The outputs by name, on the CPU, in the shapes of the PyTorch model's.
        """


@dataclass(frozen=True, kw_only=True)
class ExportFormat(Strategy, ABC):
    """A format that models are written in for another runtime. It is no stage of a recipe."""

    packages: ClassVar[tuple[str, ...]] = ()
    """Modules, by their top-level names, that must be installed to write and check a model."""
    install: ClassVar[str] = ""
    """What pip installs to have them, such as ``fastprune[onnx]``; empty: ``packages`` themselves."""
    files: ClassVar[tuple[str, ...]] = ()
    """Patterns, such as ``*.gguf``, of the files that every directory of this format has, the main one first: a directory is
    recognised by them. Empty where the directory is a plain model directory, which ``open_pretrained`` opens."""

    @property
    def tolerance(self) -> float:
        """The largest |exported - model| / max(1, |model|) of an output that counts as the same; more where it rounds."""
        return 1e-4

    def refuses(self, opened: Pretrained) -> str:
        """Why the model cannot be written, told before any work: a sentence; empty where it can.

        Args:
            opened: The model, its configuration, tokenizer (or None), task, and, by ``groups()``, the widths of its layers.
        """
        return ""

    @abstractmethod
    def write(self, opened: Pretrained, directory: Path) -> None:
        """Write the model. What it raises becomes an ``ExportError``; what it prints is not shown.

        Args:
            opened: As for ``refuses``; the model is in eval mode and left as it was. ``opened.save_companions(directory)``
                writes configuration and tokenizer, for runtimes that read them there and for ``open_exported``.
            directory: Empty; it is moved to its place only after the check.
        """

    def open(self, directory: Path, *, threads: int | None = None) -> ExportedModel | None:
        """The model of a directory of this format, to check, time and evaluate it.

        Args:
            directory: With ``files`` in it.
            threads: That one operation may use; None: the runtime's choice.

        Returns:
            None where nothing in Python runs the format: it is then written unchecked.

        Raises:
            UsageError: The runtime is not installed.
            ModelError: The files are broken.
        """
        return None

    def require_packages(self) -> None:
        """Raise ``UsageError`` where a package is missing, with what to install."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            wanted = f'"{self.install}"' if self.install else " ".join(missing)
            raise UsageError(f"The export format '{self.name}' needs {', '.join(missing)}: pip install {wanted}.")

    @classmethod
    def found_in(cls, directory: str | Path) -> tuple[Path, ...]:
        """The files of this format in a directory, the main one first; empty where one of them is missing."""
        matches = [sorted(Path(directory).glob(pattern)) for pattern in cls.files]
        return tuple(file for each in matches for file in each) if all(matches) else ()
