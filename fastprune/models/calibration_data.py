"""The calibration set of a model: rows or their source are read and encoded, batches are taken as they are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fastprune.data.batches import Batches, check_tokens, token_limit
from fastprune.data.encoding import make_batches
from fastprune.data.mixes import DataMix, is_source
from fastprune.data.rows import Rows
from fastprune.data.tasks import Batch, Task
from fastprune.errors import DataError
from fastprune.models.pretrained import Pretrained
from fastprune.registry.serving import task_for


def calibration_set(
    data: Batches | Iterable[Batch] | Rows | DataMix,
    teacher: nn.Module,
    opened: Pretrained | None,
    task: Task | None,
    seed: int,
    *,
    samples: int | Literal["auto"] | None = "auto",
) -> Batches:
    """The calibration set with its task: the given one [that of the batches, of the opened model, or of the class].

    Args:
        data: As for ``prune``.
        teacher: The dense model.
        opened: The same with its tokenizer; None if only a module was given.
        task: The task; None: as above.
        seed: Seed of the draw.
        samples: Number of rows to draw, as for ``make_batches``; batches are taken whole.
    """
    given: Any = _read(data, opened, task, seed, samples) if is_source(data) else data
    batches = Batches.wrap(given, task)
    chosen = batches.task or (opened.task if opened else None) or task_for(teacher.config, type(teacher))  # type: ignore[arg-type]
    check_tokens(teacher, batches)
    return Batches.wrap(batches, chosen)


def _read(
    source: Any, opened: Pretrained | None, task: Task | None, seed: int, samples: int | Literal["auto"] | None
) -> Batches:
    if opened is None or opened.tokenizer is None:
        name = source if isinstance(source, (str, Path)) else "rows"
        raise DataError(
            f"Reading {name} takes a tokenizer: give the model as open_pretrained returns it, or by its name."
        )
    limit = token_limit(opened.model)
    return make_batches(source, task or opened.task, opened.tokenizer, samples=samples, limit=limit, seed=seed)
