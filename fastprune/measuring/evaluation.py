"""Evaluation: metrics of a model, and agreement of two models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch
from torch import nn

from fastprune.calibration.dense_states import DenseStates
from fastprune.calibration.hooks import evaluating
from fastprune.data.batches import Batches, outputs_of, to_device, token_limit
from fastprune.data.encoding import make_batches
from fastprune.data.mixes import DataMix, is_source
from fastprune.data.rows import Rows
from fastprune.data.tasks import Batch, Columns, Task
from fastprune.errors import DataError, ModelError
from fastprune.models.forms import AnyModel, open_any
from fastprune.progress import Progress, listening, track
from fastprune.registry.serving import task_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EVALUATION_SPLITS = ("validation", "validation_matched", "test")
"""Splits with labelled rows that were not trained on, in order of preference."""


class Reading(TypedDict, total=False):
    """Optional arguments of ``make_batches`` for data that is not encoded yet.

    Attributes:
        batch_size: Samples per batch.
        max_length: Maximum number of tokens per sample.
        columns: Names of the text and label columns.
        split: Split to read, for sources with splits.
        stride: Tokens from one window of a language model's text to the next [None: ``max_length``, the context].
    """

    batch_size: int | None
    max_length: int | None
    columns: Columns | None
    split: str | tuple[str, ...] | None
    stride: int | None


def evaluate(
    model: AnyModel,
    data: Batches | Iterable[Batch] | Rows | DataMix,
    *,
    task: Task | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | bool = True,
    **reading: Unpack[Reading],
) -> dict[str, float]:
    """Compute the task's metrics of a model over a whole data set.

    Args:
        model: A model in any form that ``prune`` takes, or its result.
        data: Batches, also as an iterable of dicts of tensors, or rows or a source of rows with labels (``read_dataset``); of its
            splits validation, else test.
        task: The model's task [None: the task of the batches, else the registered task for the model].
        tokenizer: The model's tokenizer, for data that is not encoded yet [None: the one opened with the model].
        progress: Whether to show progress on standard error, or a function, as for ``prune``.
        reading: For data that is not encoded yet: ``batch_size``, ``max_length``, ``columns`` and ``split`` of ``make_batches``,
            and for language models ``stride``: the perplexity is that of windows of ``max_length`` tokens [512], which start
            ``stride`` tokens apart [as far as they are long], and it depends on both.

    Returns:
        The metrics by name.

    Raises:
        DataError: The data cannot be read, has no labels, or does not fit the task.
        ModelError: The model cannot be opened, or there is no task for it.
    """
    with listening(progress):
        model, task, tokenizer = _opened(model, data, task, tokenizer)
        batches = evaluation_set(data, model, task, tokenizer, reading)
        absent = task.missing(batches.samples or batches.batches)
        if absent:
            raise DataError(absent)
        with torch.inference_mode(), evaluating(model):
            results = (
                (outputs, {**batch, **task.written(model, batch)}) for outputs, batch in _results(model, task, batches)
            )
            return task.metrics(results, batches.samples)


def fidelity(
    teacher: AnyModel,
    student: AnyModel,
    data: Batches | Iterable[Batch] | Rows | DataMix,
    *,
    task: Task | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | bool = True,
    **reading: Unpack[Reading],
) -> dict[str, float]:
    """Measure the agreement of two models on the same data, without labels.

    Args:
        teacher: The reference model, usually the dense one; it determines task and tokenizer if these are None.
        student: The other model, usually the pruned one.
        data: Batches, or rows or their source, as for ``evaluate``.
        task: The models' task, as for ``evaluate``.
        tokenizer: The tokenizer, as for ``evaluate``.
        progress: Whether to show progress, as for ``evaluate``.
        reading: Arguments of ``make_batches``, as for ``evaluate``.

    Returns:
        Fidelity figures by name; 1.0 means identical.

    Raises:
        DataError: The data cannot be read or does not fit the task.
        ModelError: A model cannot be opened, there is no task for it, or the models are on different devices.
    """
    with listening(progress):
        teacher, task, tokenizer = _opened(teacher, data, task, tokenizer)
        student, _, _ = _opened(student, data, task, tokenizer)
        if _device(teacher) != _device(student):
            raise ModelError(f"The two models are on {_device(teacher)} and {_device(student)}; move one of them.")
        batches = evaluation_set(data, teacher, task, tokenizer, reading)
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

    with torch.inference_mode(), evaluating(teacher), evaluating(student):
        return task.compare(
            (dense(batch) for batch in batches),
            (outputs for outputs, _ in _results(student, task, batches)),
            (to_device(batch, _device(teacher)) for batch in batches),
        )


def _opened(
    model: AnyModel,
    data: Batches | Iterable[Batch] | Rows | DataMix,
    task: Task | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> tuple[nn.Module, Task, PreTrainedTokenizerBase | None]:
    """Open the model if needed; a task of None becomes the data's or the model's, a tokenizer of None the opened one."""
    task = task or (data.task if isinstance(data, Batches) else None)
    module, opened = open_any(model)
    if opened is not None:
        return module, task or opened.task, tokenizer or opened.tokenizer
    if task is None:
        config: Any = getattr(module, "config", None)
        if config is None:
            raise ModelError(f"The task of a {type(module).__name__} without a config is unknown; pass the task.")
        task = task_for(config, type(module))
    return module, task, tokenizer


def evaluation_set(
    data: Batches | Iterable[Batch] | Rows | DataMix,
    model: nn.Module,
    task: Task,
    tokenizer: PreTrainedTokenizerBase | None,
    reading: Reading,
) -> Batches:
    """Evaluation data as batches; arguments as for ``evaluate``."""
    unknown = sorted(set(reading) - set(Reading.__annotations__))
    if unknown:
        raise TypeError(f"There is no argument {unknown[0]!r}; use {', '.join(Reading.__annotations__)}.")
    if not is_source(data):
        if reading:
            raise DataError(f"{', '.join(reading)} cannot be set for Batches, which are already encoded.")
        given: Any = data
        return Batches.wrap(given, task)
    if tokenizer is None:
        raise DataError("Encoding the data needs a tokenizer; pass the tokenizer, or Batches.")
    rows: Any = data
    return make_batches(
        rows,
        task.for_evaluation(stride=reading.get("stride")),
        tokenizer,
        samples=None,
        batch_size=reading.get("batch_size"),
        max_length=reading.get("max_length"),
        limit=token_limit(model),
        columns=reading.get("columns"),
        split=reading.get("split") or EVALUATION_SPLITS,
    )


def _results(model: nn.Module, task: Task, batches: Batches) -> Iterator[tuple[Any, Batch]]:
    """Pairs of outputs and batch on the model's device, as a generator because outputs can be large."""
    for batch in track(batches.batches, "evaluating"):
        moved = to_device(batch, _device(model))
        yield outputs_of(model, moved, task), moved


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def compare_models(
    dense: nn.Module, pruned: nn.Module, batches: Batches, known: dict[str, float] | None = None
) -> dict[str, Any]:
    """Metrics of both models under ``dense`` and ``pruned``, and what they depend on under ``conditions``; without labels, the
    models' agreement under ``fidelity``.

    Args:
        dense: The dense model.
        pruned: The pruned model.
        batches: The evaluation data.
        known: The dense model's metrics; None: they are computed.
    """
    if batches.missing:
        return {"fidelity": fidelity(dense, pruned, batches)}
    conditions = {"conditions": batches.conditions} if batches.conditions else {}
    return {"dense": known or evaluate(dense, batches), "pruned": evaluate(pruned, batches), **conditions}


def quality(dense: nn.Module, model: nn.Module, batches: Batches) -> dict[str, float]:
    """The metrics of a model; without labels, its agreement with the dense model."""
    return fidelity(dense, model, batches) if batches.missing else evaluate(model, batches)
