"""Evaluating and saving a pruned model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastprune.errors import EvaluationError

if TYPE_CHECKING:
    from torch import nn

    from fastprune.data.batches import Batches
    from fastprune.pipeline.result import PruningResult


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
        EvaluationError: The comparison failed; the model is saved.
        CheckpointError: The model cannot be saved.
    """
    from fastprune.measuring.evaluation import compare_models

    failure: BaseException | None = None
    try:
        result.metrics.update(compare_models(dense, result.model, tests, known) if tests is not None else {})
    except BaseException as error:  # the user's Ctrl-C included: the pruned model is worth hours
        failure = error
    result.save(output)
    if isinstance(failure, Exception):
        reason = str(failure).strip().partition("\n")[0] or type(failure).__name__
        raise EvaluationError(
            f"The pruned model is saved in {output}, but its evaluation failed: {reason} Measure it with: "
            f"fastprune evaluate {output} --data DATA."
        ) from failure
    if failure is not None:
        raise failure
