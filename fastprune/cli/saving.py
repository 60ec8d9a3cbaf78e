"""Saving what a command has computed, also where its evaluation, its report or its output fails."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fastprune.errors import UnfinishedError, UsageError
from fastprune.files import check_space

if TYPE_CHECKING:
    from torch import nn

    from fastprune.data.batches import Batches
    from fastprune.pipeline.result import PruningResult


def check_room(model: nn.Module, output: str | Path) -> None:
    """Raise ``CheckpointError`` if the disk of the output has no space for a model of this size."""
    from fastprune.measuring.memory import weight_bytes

    check_space(output, weight_bytes(model))


def save_evaluated(
    result: PruningResult,
    output: str | Path,
    dense: nn.Module,
    tests: Batches | None,
    known: dict[str, float] | None = None,
) -> None:
    """Compare the pruned model with the dense one, and save it, even if the comparison fails.

    Args:
        result: The pruned model.
        output: The directory.
        dense: The dense model.
        tests: The evaluation data; None: the models are not compared.
        known: The dense model's metrics, if they are known.

    Raises:
        UnfinishedError: The comparison or the report failed, and the model is saved; or it is saved in a temporary directory.
        CheckpointError: The model cannot be saved.
    """
    from fastprune.measuring.evaluation import compare_models

    failure: BaseException | None = None
    try:
        result.metrics.update(compare_models(dense, result.model, tests, known) if tests is not None else {})
    except BaseException as error:  # the user's Ctrl-C included: the pruned model is worth hours
        failure = error
    save_somewhere(result.save, output)
    if isinstance(failure, Exception):
        reason = str(failure).strip().partition("\n")[0] or type(failure).__name__
        raise UnfinishedError(
            f"The pruned model is saved in {output}, but its evaluation failed: {reason} Measure it with: "
            f"fastprune evaluate {output} --data DATA."
        ) from failure
    if failure is not None:
        raise failure
    if result.failures:
        raise UnfinishedError(f"{'; '.join(result.failures)}. The pruned model is complete and saved in {output}.")


def save_somewhere(save: Callable[[Path], object], output: str | Path) -> None:
    """Save to the output, or to a temporary directory if that fails, for instance because the disk is full.

    Args:
        save: Called with the path.
        output: The path.

    Raises:
        UnfinishedError: It is saved in a temporary directory; the message has the path.
        UsageError: It cannot be saved in either place.
    """
    try:
        save(Path(output))
    except UsageError as error:
        instead = Path(tempfile.mkdtemp(prefix="fastprune-")) / Path(output).name
        try:
            save(instead)
        except UsageError:
            raise error from None
        raise UnfinishedError(f"{error} It was saved in {instead} instead.") from error
