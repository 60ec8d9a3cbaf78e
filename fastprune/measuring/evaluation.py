"""Evaluation: a model's own metrics, and how far two models agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch
from torch import nn

from fastprune.calibration.dense_states import DenseStates
from fastprune.data.batches import Batches, outputs_of, to_device, token_limit
from fastprune.data.encoding import make_batches
from fastprune.data.tasks import Batch, Columns, Task
from fastprune.errors import DataError, ModelError
from fastprune.progress import track

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

EVALUATION_SPLITS = ("validation", "validation_matched", "test")
"""Where labelled rows are that nothing was trained on, the first choice first."""


class Reading(TypedDict, total=False):
    """How data are read that are no Batches yet: what ``make_batches`` takes, all of it optional.

    Attributes:
        batch_size: Samples a batch.
        max_length: Tokens a sample, at most.
        columns: Which columns hold what.
        split: For sources with splits.
    """

    batch_size: int
    max_length: int | None
    columns: Columns | None
    split: str | None


def evaluate(
    model: nn.Module | str | Path,
    data: Batches | Dataset | str | Path,
    *,
    task: Task | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **reading: Unpack[Reading],
) -> dict[str, float]:
    """The task's metrics of a model over a whole data set.

    Args:
        model: A model, or a directory or Hub name to open.
        data: Batches, or a data set or source with labels; of a source with splits, validation and then test.
        task: What the model is for; None: the task of the batches, or else the one that serves the model.
        tokenizer: The model's, for data that is not encoded yet; None: the one that was opened with the model.
        reading: For data that is not encoded yet: ``batch_size``, ``max_length``, ``columns`` and ``split``, as for
            ``make_batches``.

    Returns:
        The metrics by name.

    Raises:
        DataError: The data cannot be read, has no labels, or does not fit the task.
        ModelError: The model cannot be opened, or no task serves it.
    """
    model, task, tokenizer = _opened(model, data, task, tokenizer)
    batches = _encoded(data, model, task, tokenizer, reading)
    with torch.inference_mode(), _evaluating(model):
        return task.metrics(_results(model, task, batches), batches.samples)


def fidelity(
    teacher: nn.Module | str | Path,
    student: nn.Module | str | Path,
    data: Batches | Dataset | str | Path,
    *,
    task: Task | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **reading: Unpack[Reading],
) -> dict[str, float]:
    """How far two models agree on the same data, which needs no labels.

    Args:
        teacher: The model to agree with; it settles task and tokenizer, where they are not given.
        student: The other model.
        data: As for ``evaluate``; so are the rest.
        task: What the models are for.
        tokenizer: For data that is not encoded yet.
        reading: Likewise.

    Returns:
        Figures by name; 1.0 is the same.

    Raises:
        DataError: The data cannot be read or does not fit the task.
        ModelError: A model cannot be opened, no task serves it, or the two are on different devices.
    """
    teacher, task, tokenizer = _opened(teacher, data, task, tokenizer)
    student, _, _ = _opened(student, data, task, tokenizer)
    if _device(teacher) != _device(student):
        raise ModelError(f"The two models are on {_device(teacher)} and {_device(student)}; move one of them.")
    batches = _encoded(data, teacher, task, tokenizer, reading)
    return agreement(teacher, student, batches, task)


def agreement(
    teacher: nn.Module, student: nn.Module, batches: Batches, task: Task, states: DenseStates | None = None
) -> dict[str, float]:
    """The agreement of two models on the same device: figures by name, 1.0 for equal outputs.

    Args:
        teacher: The model to agree with.
        student: The other model.
        batches: The data; labels are not needed.
        task: What the models are for.
        states: Cached outputs of the teacher.
    """

    def dense(batch: Batch) -> Any:
        return states.output(batch, task) if states else outputs_of(teacher, batch, task)

    with torch.inference_mode(), _evaluating(teacher), _evaluating(student):
        return task.compare(
            (dense(batch) for batch in batches),
            (outputs for outputs, _ in _results(student, task, batches)),
            (to_device(batch, _device(teacher)) for batch in batches),
        )


def _opened(
    model: nn.Module | str | Path,
    data: Batches | Dataset | str | Path,
    task: Task | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> tuple[nn.Module, Task, PreTrainedTokenizerBase | None]:
    """The model itself, and what was not given: the data's task or else the model's, and the model's tokenizer."""
    # Here, because plugins import this package while they load.
    from fastprune.models.pretrained import open_pretrained
    from fastprune.registry.serving import task_for

    task = task or (data.task if isinstance(data, Batches) else None)
    if not isinstance(model, nn.Module):
        opened = open_pretrained(model)
        return opened.model, task or opened.task, tokenizer or opened.tokenizer
    if task is None:
        config: Any = getattr(model, "config", None)
        if config is None:
            raise ModelError(f"{type(model).__name__} has no config to tell its task from; give the task.")
        task = task_for(config, type(model))
    return model, task, tokenizer


def _encoded(
    data: Batches | Dataset | str | Path,
    model: nn.Module,
    task: Task,
    tokenizer: PreTrainedTokenizerBase | None,
    reading: Reading,
) -> Batches:
    unknown = sorted(set(reading) - set(Reading.__annotations__))
    if unknown:
        raise TypeError(f"There is no argument {unknown[0]!r}; data are read by {', '.join(Reading.__annotations__)}.")
    if isinstance(data, Batches):
        if reading:
            raise DataError(f"{', '.join(reading)} cannot be set: the data are Batches, which are encoded already.")
        return data
    if tokenizer is None:
        raise DataError(
            "The data is not encoded yet, and there is no tokenizer to do it; give the tokenizer, or Batches."
        )
    limit = token_limit(model)
    return make_batches(data, task, tokenizer, samples=None, limit=limit, default_split=EVALUATION_SPLITS, **reading)


def _results(model: nn.Module, task: Task, batches: Batches) -> Iterator[tuple[Any, Batch]]:
    """Pairs of outputs and batch, both on the model's device, one at a time: outputs can be large."""
    for batch in track(batches.batches, "evaluating"):
        there = to_device(batch, _device(model))
        yield outputs_of(model, there, task), there


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and back in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def compare_models(dense: nn.Module, pruned: nn.Module, batches: Batches) -> dict[str, Any]:
    """Both models' metrics, by ``dense`` and ``pruned``; without labels their agreement, by ``fidelity``."""
    if not batches.has_labels and batches.task is not None and not batches.task.metrics_of_samples:
        return {"fidelity": fidelity(dense, pruned, batches)}
    return {"dense": evaluate(dense, batches), "pruned": evaluate(pruned, batches)}
