"""The contract of export formats: write a model for another runtime, and call that runtime."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor

from fastprune.errors import UsageError
from fastprune.strategies.contracts import Strategy

if TYPE_CHECKING:
    from fastprune.models.pretrained import Pretrained


class ExportedModel(Protocol):
    """An exported model in its runtime, called like the PyTorch model."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input tensors."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output tensors: at least one, and all of them outputs of the PyTorch model."""

    def __call__(self, **inputs: Tensor) -> Mapping[str, Tensor]:
        """Run the model.

        Args:
            inputs: Input tensors by name, on the CPU; tensors that are not in ``inputs`` of the model are ignored.

        Returns:
            The outputs by name, on the CPU, with the shapes of the PyTorch model's outputs.
        """


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """What ``ExportFormat.quantise`` is asked for.

    Attributes:
        weights: The type of the weights, one of the format's ``quantised``.
        rows: The model's inputs for calibration by name, on the CPU, batch by batch; empty: there are none.
        accepts: Whether a quantised model is good enough for the user's limit; None: there is no limit.
    """

    weights: str
    rows: tuple[Mapping[str, Tensor], ...] = ()
    accepts: Callable[[ExportedModel], bool] | None = None


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What ``ExportFormat.quantise`` did.

    Attributes:
        counts: How many operators have which form, in words: ``{"products in 8 bits": 37, "operators in float32": 1}``.
        way: How, where a format has several ways for a whole model, in words; empty: it has one.
        float_bytes: Size of the weights that stay in float32.
        distance: The root mean square difference of the outputs from those in float32 on the calibration rows, as a share of
            their spread; None: not measured.
    """

    counts: Mapping[str, int]
    way: str = ""
    float_bytes: int = 0
    distance: float | None = None

    @property
    def told(self) -> str:
        """The counts, the size in float32 and the distance, as a phrase."""
        counts = ", ".join(f"{count} {words}" for words, count in self.counts.items())
        left = f" ({self.float_bytes / 1e6:.2g} MB)" if self.float_bytes else ""
        off = "" if self.distance is None else f"; the outputs are {self.distance:.1%} of their spread from float32"
        return f"{self.way}{': ' if self.way else ''}{counts}{left}{off}"


@dataclass(frozen=True, kw_only=True)
class ExportFormat(Strategy, ABC):
    """A file format for another runtime. It is not a stage of a recipe."""

    packages: ClassVar[tuple[str, ...]] = ()
    """Top-level names of the modules that must be installed to write and check a model."""
    install: ClassVar[str] = ""
    """Argument of pip to install them, such as ``fastprune[onnx]``; empty: ``packages`` themselves."""
    servers: ClassVar[tuple[str, ...]] = ()
    """Programs that open a directory of this format, for ``fastprune inspect``."""
    files: ClassVar[tuple[str, ...]] = ()
    """Patterns, such as ``*.gguf``, of the files in every directory of this format, the main one first; they identify the
    format. Empty for plain model directories, which ``open_pretrained`` opens."""

    quantised: ClassVar[tuple[str, ...]] = ()
    """Types that ``quantise`` rounds weights to, such as ``int8``; empty: it cannot."""

    @property
    def tolerance(self) -> float:
        """Maximum accepted |exported - model| / max(1, |model|) of an output; larger for formats that round."""
        return 1e-4

    def refuses(self, opened: Pretrained) -> str:
        """Check before any work whether the model can be written in this format.

        Args:
            opened: The model with its configuration, tokenizer (or None), task, and, by ``groups()``, the widths of its layers.

        Returns:
            The reason why not, as a sentence; empty if it can be written.
        """
        return ""

    def declines(self, server: str, opened: Pretrained) -> str:
        """Check whether one of ``servers`` takes a model that this format can hold.

        Args:
            server: The name of one of ``servers``.
            opened: As for ``refuses``, which does not refuse it.

        Returns:
            The reason why not, as a sentence; empty if it takes it.
        """
        return ""

    @abstractmethod
    def write(self, opened: Pretrained, directory: Path) -> str | None:
        """Write the model. Exceptions are reported as ``ExportError``; printed output is not shown.

        Args:
            opened: As for ``refuses``; the model is in eval mode and must be left unchanged. ``opened.save_companions(directory)``
                writes configuration and tokenizer, for runtimes that read them there and for ``open_exported``.
            directory: An empty directory; it is moved to its place only after the check.

        Returns:
            What the user must know about the written files, as a sentence; None if nothing.
        """

    def refuses_quantised(self, opened: Pretrained, weights: str, data: bool) -> str:
        """Check before any work whether the model can be quantised.

        Args:
            opened: As for ``refuses``.
            weights: One of ``quantised``.
            data: Whether there are calibration rows.

        Returns:
            The reason why not, as a sentence; empty if it can be.
        """
        return ""

    def quantise(self, directory: Path, asked: Quantisation) -> Quantised:
        """Round the weights of the model that ``write`` wrote; ``open`` opens the result.

        Args:
            directory: The directory, with the model in float32, which was compared with the PyTorch model.
            asked: The type of the weights, calibration rows and the user's limit.
        """
        raise NotImplementedError

    def open(self, directory: Path, *, threads: int | None = None) -> ExportedModel | None:
        """Open the model of a directory of this format, to check, time and evaluate it.

        Args:
            directory: A directory with ``files`` in it.
            threads: Maximum number of threads per operation; None: the runtime's choice.

        Returns:
            The model; None if no Python runtime supports the format: it is then written unchecked.

        Raises:
            UsageError: The runtime is not installed.
            ModelError: The files are broken.
        """
        return None

    def require_packages(self) -> None:
        """Raise ``UsageError`` if a package is missing; the message has the command to install it."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            wanted = f'"{self.install}"' if self.install else " ".join(missing)
            raise UsageError(f"The export format '{self.name}' needs {', '.join(missing)}: pip install {wanted}.")

    @classmethod
    def found_in(cls, directory: str | Path) -> tuple[Path, ...]:
        """The files of this format in a directory, the main one first; empty if any is missing."""
        matches = [sorted(Path(directory).glob(pattern)) for pattern in cls.files]
        return tuple(file for each in matches for file in each) if all(matches) else ()
