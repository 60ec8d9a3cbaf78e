"""Export: a model, pruned or not, in a format for another runtime, compared with the model itself."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastprune.calibration.hooks import frozen
from fastprune.errors import ContractError, ExportError, FastpruneError, ModelError
from fastprune.exporting.agreement import difference, example_inputs
from fastprune.files import check_output, written_directory
from fastprune.models.pretrained import Pretrained
from fastprune.progress import step
from fastprune.registry.recipe import strategy
from fastprune.strategies.export_formats import ExportedModel, ExportFormat

log = logging.getLogger(__name__)

SHAPES = ((1, 5), (2, 16), (3, 9))
"""Samples and tokens of the inputs that an exported model is compared on."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """What ``export`` wrote.

    Attributes:
        directory: Where it is.
        format: What it was written in.
        files: Those that the format is recognised by, the main one first.
        inputs: Names of what the exported model takes, in order; empty where nothing in Python runs it.
        outputs: Names of what it gives, likewise.
        difference: The largest |exported - model| / max(1, |model|) over all compared shapes and outputs; None where it was
            not compared, because nothing in Python runs it.
    """

    directory: Path
    format: ExportFormat
    files: tuple[Path, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float | None


def export(opened: Pretrained, output: str | Path, *, format: str | ExportFormat = "onnx") -> Export:
    """Write a model in a format for another runtime, and compare it with the model.

    Args:
        opened: What ``open_pretrained`` returned. In half precision the comparison may fail; open with
            ``dtype="float32"``.
        output: A directory that does not exist, or is empty.
        format: A name of ``fastprune strategies format``, with its default options, or an instance.

    Raises:
        UnknownNameError: No format is registered under the name.
        UsageError: The format's packages are missing.
        CheckpointError: The output is in the way.
        ModelError: The format cannot hold the model.
        ExportError: Writing failed, or what was written computes something else.
    """
    output = check_output(output)
    chosen: ExportFormat = format if isinstance(format, ExportFormat) else strategy("format", format)
    chosen.require_packages()
    if reason := chosen.refuses(opened):
        raise ModelError(reason)
    with frozen(opened.model), written_directory(output) as scratch, step("exporting"):
        _write(chosen, opened, scratch)
        files = tuple(output / file.relative_to(scratch) for file in chosen.found_in(scratch))
        if chosen.files and not files:
            raise ContractError(
                f"The export format '{chosen.name}' did not write its files, {', '.join(chosen.files)}."
            )
        exported = chosen.open(scratch)
        found = None if exported is None else _compared(chosen, exported, opened)
    return Export(
        directory=output,
        format=chosen,
        files=files,
        inputs=() if exported is None else exported.inputs,
        outputs=() if exported is None else exported.outputs,
        difference=found,
    )


def _write(chosen: ExportFormat, opened: Pretrained, directory: Path) -> None:
    """Have the format write; whatever goes wrong in somebody else's exporter is one sentence."""
    said = io.StringIO()
    try:
        with _captured(said):
            chosen.write(opened, directory)
    except FastpruneError:
        raise
    except Exception as error:
        log.debug("the exporter of %s said:\n%s", chosen.name, said.getvalue())
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"The {type(opened.model).__name__} cannot be written as {chosen.name}: {type(error).__name__}: {reason}. "
            "Nothing was written."
        ) from error


@contextlib.contextmanager
def _captured(said: io.StringIO) -> Iterator[None]:
    """While open, what exporters print and warn of is kept from the user: advice for who writes models, whole graphs."""
    before = logging.root.manager.disable
    try:
        logging.disable(logging.ERROR)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _compared(chosen: ExportFormat, exported: ExportedModel, opened: Pretrained) -> float:
    """The largest difference from the model.

    Raises:
        ExportError: It is more than the format's tolerance.
    """
    off = [difference(exported, opened.model, example_inputs(opened, *shape)) for shape in SHAPES]
    wrong = [each for each in off if not each <= chosen.tolerance]  # NaN is none
    if wrong:
        raise ExportError(
            f"The exported {type(opened.model).__name__} computes something else: it is off by {wrong[0]:.2g}, more than "
            f"{chosen.tolerance:g}. Nothing was written; try other options of '{chosen.name}', or another format."
        )
    return max(off)
