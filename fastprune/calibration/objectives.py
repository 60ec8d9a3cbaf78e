"""Objectives: the loss of each calibration sample, with its own label or one drawn from the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fastprune.data.batches import Batches, outputs_of
from fastprune.data.tasks import Batch, Task
from fastprune.errors import DataError

Labels = Literal["auto", "dataset", "model"]


FLOAT16_SCALE = 2.0**10


def loss_scale(model: nn.Module) -> float:
    """Factor of the losses in the backward pass: a power of 2 for models that compute in float16, else 1.

    Without it, gradients of confident models lie below float16's smallest number and are rounded to zero.
    """
    return FLOAT16_SCALE if any(each.dtype == torch.float16 for each in model.parameters()) else 1.0


def choose_labels(batches: Batches, labels: Labels) -> Literal["dataset", "model"]:
    """Resolve ``auto`` for this calibration set: the data's own labels if it has them, else the model's.

    Raises:
        DataError: ``dataset`` is requested, and there are no labels.
    """
    if labels == "dataset" and not batches.has_labels:
        raise DataError(
            f"Scoring with labels=dataset needs labels, but the calibration data {batches.source} has none for the task "
            f"'{_task(batches).name}'. Name the label column (--label-column), or use labels=model, which needs no labels."
        )
    if labels == "auto":
        return "dataset" if batches.has_labels else "model"
    return labels


def sample_losses(
    model: nn.Module, batches: Batches, batch: Batch, labels: Literal["dataset", "model"], generator: torch.Generator
) -> Tensor:
    """Negative log-likelihood of each sample's label: [samples] (docs/method.md, section 3).

    Args:
        model: The model.
        batches: The calibration set, with the task.
        batch: One of ``batches``, on the model's device.
        labels: ``dataset``: the data's labels; ``model``: labels drawn from the model's own predictive distribution, so that the
            gradients give the true Fisher information.
        generator: Random generator for drawn labels, on the CPU.
    """
    task = _task(batches)
    outputs = outputs_of(model, batch, task)
    if labels == "model":
        batch = {**batch, **task.draw_labels(outputs, batch, generator)}
    return task.loss(outputs, batch)


def check_losses(wrong: Sequence[Tensor], samples: int) -> None:
    """Check that all losses were finite.

    Args:
        wrong: Numbers of losses that were not, by batch, each [].
        samples: Number of samples of these batches.

    Raises:
        DataError: A loss was not finite.
    """
    if wrong and (count := int(torch.stack(list(wrong)).sum())):
        raise DataError(
            f"The loss is not finite for {count} of {samples} samples of the calibration set. Check the labels and the "
            "checkpoint's weights, or compute in float32 (--dtype float32)."
        )


def _task(batches: Batches) -> Task:
    if batches.task is None:
        raise DataError("The calibration data has no task; pass the model's task to Batches.wrap.")
    return batches.task
