"""Export: write a model, pruned or not, in a format for another runtime, and compare it with the PyTorch model."""

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
from fastprune.exporting.quantize import Quantize
from fastprune.files import check_output, written_directory
from fastprune.models.forms import AnyModel, pretrained_of
from fastprune.models.pretrained import Pretrained
from fastprune.progress import Progress, listening, step
from fastprune.registry import loading
from fastprune.registry.recipe import strategy
from fastprune.strategies.export_formats import ExportedModel, ExportFormat, Quantisation, Quantised

log = logging.getLogger(__name__)

SHAPES = ((1, 5), (2, 16), (3, 9))
"""Samples and tokens of the inputs for the comparison of an exported model."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """The result of ``export``.

    Attributes:
        directory: Directory of the exported model.
        format: Name of the format.
        files: Files that identify the format, the main one first.
        inputs: Names of the exported model's inputs, in order; empty if no Python runtime supports the format.
        outputs: Names of the exported model's outputs, in order; empty if no Python runtime supports the format.
        difference: The largest |exported - model| / max(1, |model|) over all compared shapes and outputs, before weights were
            quantised; None if not compared, because no Python runtime supports the format.
        remark: What the format says about the written files, as a sentence; empty if nothing.
        quantised: What was quantised; None: nothing.
    """

    directory: Path
    format: ExportFormat
    files: tuple[Path, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float | None
    remark: str = ""
    quantised: Quantised | None = None


def export(
    model: AnyModel,
    output: str | Path,
    *,
    format: str | ExportFormat = "onnx",
    quantize: Quantize | str | None = None,
    progress: Progress | bool = True,
) -> Export:
    """Write a model in a format for another runtime, and compare it with the model.

    Args:
        model: A model in any form that ``prune`` takes, or its result. In half precision the comparison may fail; open with
            ``dtype="float32"``.
        output: Directory; new or empty.
        format: A name of ``fastprune strategies format``, with its default options, or an instance.
        quantize: Type of quantised weights, int8 or int4, or ``Quantize`` with calibration data and a limit of the loss; None:
            weights stay in float32.
        progress: Whether to show progress on standard error, or a function, as for ``prune``.

    Raises:
        UnknownNameError: No format is registered under the name.
        UsageError: The format's packages are missing, or it cannot quantise as asked.
        CheckpointError: The output directory is not empty, or cannot be created.
        ModelError: The format does not support the model.
        ExportError: Writing failed, or the exported model's outputs differ from the model's.
    """
    output = check_output(output)
    chosen: ExportFormat = format if isinstance(format, ExportFormat) else strategy("format", format)
    chosen.require_packages()
    opened = pretrained_of(model)
    if reason := chosen.refuses(opened):
        raise ModelError(f"{reason} {_holding(opened)}")
    wanted = Quantize(weights=quantize) if isinstance(quantize, str) else quantize
    if wanted:
        wanted.check(chosen, opened)
    with listening(progress), frozen(opened.model), written_directory(output) as scratch, step("exporting"):
        remark = _write(chosen, opened, scratch)
        files = tuple(output / file.relative_to(scratch) for file in chosen.found_in(scratch))
        if chosen.files and not files:
            raise ContractError(
                f"The export format '{chosen.name}' did not write its files, {', '.join(chosen.files)}."
            )
        exported = chosen.open(scratch)
        found = None if exported is None else _compared(chosen, exported, opened)
        done = None
        if wanted:
            done = _quantised(chosen, scratch, wanted.asked(opened, exported))
            files = tuple(output / file.relative_to(scratch) for file in chosen.found_in(scratch))
    return Export(
        directory=output,
        format=chosen,
        files=files,
        inputs=() if exported is None else exported.inputs,
        outputs=() if exported is None else exported.outputs,
        difference=found,
        remark=remark or "",
        quantised=done,
    )


def _holding(opened: Pretrained) -> str:
    """Which formats hold a model, as a sentence."""
    registry = loading.installed().format
    names = [name for name in registry if not registry[name]().refuses(opened)]
    return f"Formats that hold it: {', '.join(names)}." if names else "No format holds it."


def _write(chosen: ExportFormat, opened: Pretrained, directory: Path) -> str | None:
    """Write the model; any exception of a third-party exporter becomes an ``ExportError`` of one sentence.

    Returns:
        The format's remark, or None.
    """
    said = io.StringIO()
    try:
        with _captured(said):
            return chosen.write(opened, directory)
    except FastpruneError:
        raise
    except Exception as error:
        log.debug("the exporter of %s said:\n%s", chosen.name, said.getvalue(), exc_info=error)
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"The {type(opened.model).__name__} cannot be written as {chosen.name}: {type(error).__name__}: {reason}. "
            "Nothing was written."
        ) from None  # the message of the cause may be a whole graph


def _quantised(chosen: ExportFormat, directory: Path, asked: Quantisation) -> Quantised:
    """Quantise the written model; any exception of a third-party quantiser becomes an ``ExportError`` of one sentence."""
    try:
        return chosen.quantise(directory, asked)
    except FastpruneError:
        raise
    except Exception as error:
        log.debug("quantising for %s failed", chosen.name, exc_info=error)
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"The model cannot be quantised as {chosen.name}: {type(error).__name__}: {reason}. Nothing was written."
        ) from error


@contextlib.contextmanager
def _captured(said: io.StringIO) -> Iterator[None]:
    """Within the context, output and warnings of exporters are hidden: advice for model authors, and whole graphs."""
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
        ExportError: The difference exceeds the format's tolerance.
    """
    off = [difference(exported, opened.model, example_inputs(opened, *shape)) for shape in SHAPES]
    wrong = [each for each in off if not each <= chosen.tolerance]  # also NaN
    if wrong:
        raise ExportError(
            f"The exported {type(opened.model).__name__} computes something else: it is off by {wrong[0]:.2g}, more than "
            f"{chosen.tolerance:g}. Nothing was written; try other options of '{chosen.name}', or another format."
        )
    return max(off)
