"""What a user asks of a quantised export: the type of the weights, calibration data, and how much a metric may lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastprune.data.batches import Batches, model_inputs
from fastprune.data.rows import Rows
from fastprune.data.tasks import Batch, Task
from fastprune.errors import OptionError, UsageError
from fastprune.exporting.opening import ExportedModule
from fastprune.measuring.evaluation import evaluate, evaluation_set, fidelity
from fastprune.models.calibration_data import calibration_set
from fastprune.models.pretrained import Pretrained
from fastprune.ranges import COUNT, SEED, check_integer
from fastprune.strategies.export_formats import ExportedModel, ExportFormat, Quantisation

ROWS = {"int8": 128, "int4": 512}
"""Usual numbers of calibration rows by the type of the weights."""

Data: TypeAlias = "Batches | Iterable[Batch] | Rows"


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """A quantised export.

    Attributes:
        weights: Type of the weights: int8 or int4.
        data: Calibration data, without labels, as for ``prune``; None: none.
        samples: Number of calibration rows, at most; None: 128, and 512 for int4, which rounds for them.
        seed: Seed of their draw.
        max_drop: Points that the task's first metric may lose against float32 (percent, if lower is better); without labels,
            points of agreement with the model in float32. None: the format's own limit, which needs no labels.
        eval_data: Data for ``max_drop``, as for ``evaluate``.

    Raises:
        OptionError: A number is out of range, or data for it are missing.
    """

    weights: str = "int8"
    data: Data | None = None
    samples: int | None = None
    seed: int = 0
    max_drop: float | None = None
    eval_data: Data | None = None

    def __post_init__(self) -> None:
        check_integer("samples", self.samples, COUNT)
        check_integer("seed", self.seed, SEED)
        if (self.max_drop is None) != (self.eval_data is None):
            raise OptionError("--max-drop and --eval-data belong together; give both, or none of them.")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise OptionError(f"--max-drop takes points, 0 or more; got {self.max_drop:g}.")
        if self.max_drop is not None and self.data is None:
            raise OptionError("--max-drop needs calibration data, which operators are ordered by: give --data.")

    def check(self, format: ExportFormat, opened: Pretrained) -> None:
        """Check before any work that a format can do it.

        Raises:
            UsageError: The format cannot quantise this model so.
            OptionError: The format has no weights of this type.
        """
        if not format.quantised:
            raise UsageError(f"The format '{format.name}' has no quantised weights; leave out --quantize.")
        if self.weights not in format.quantised:
            known = ", ".join(format.quantised)
            raise OptionError(f"'{format.name}' quantises weights to {known}; got '{self.weights}'.")
        if reason := format.refuses_quantised(opened, self.weights, self.data is not None):
            raise UsageError(reason)

    @property
    def rows(self) -> int:
        """The number of calibration rows, at most."""
        return self.samples or ROWS.get(self.weights, ROWS["int8"])

    def asked(self, opened: Pretrained, exported: ExportedModel | None) -> Quantisation:
        """What the format is asked for.

        Args:
            opened: The model.
            exported: The exported model in float32; None if nothing in Python runs it.

        Raises:
            DataError: The data cannot be read or do not fit the model.
        """
        rows = () if self.data is None else self._calibration(opened, self.data)
        accepts = self._accepts(opened, exported) if exported is not None and self.eval_data is not None else None
        return Quantisation(weights=self.weights, rows=rows, accepts=accepts)

    def _calibration(self, opened: Pretrained, data: Data) -> tuple[dict[str, Any], ...]:
        """The inputs of the calibration rows, in batches."""
        batches = calibration_set(data, opened.model, opened, opened.task, self.seed, samples=self.rows)
        every = max(1, batches.n_samples // self.rows)  # spread over all, which may be in the order of their lengths
        return tuple(dict(model_inputs(batch, opened.task)) for batch in batches.batches[::every])

    def _accepts(self, opened: Pretrained, exported: ExportedModel) -> Callable[[ExportedModel], bool]:
        """Whether a quantised model loses at most ``max_drop``, by the metric of the exported model in float32."""
        assert self.eval_data is not None
        assert self.max_drop is not None
        task, config, most = opened.task, opened.model.config, self.max_drop
        tests = evaluation_set(self.eval_data, opened.model, task, opened.tokenizer, {})
        dense = ExportedModule(exported, config)
        known = {} if tests.missing else evaluate(dense, tests, task=task)

        def accepts(model: ExportedModel) -> bool:
            module = ExportedModule(model, config)
            if tests.missing:
                agreed = next(iter(fidelity(dense, module, tests, task=task).values()))
                return 100 * (1 - agreed) <= most
            return drop(task, known, evaluate(module, tests, task=task)) <= most

        return accepts


def drop(task: Task, before: dict[str, float], after: dict[str, float]) -> float:
    """The loss of the task's first metric, as printed with four decimals, in points; in percent, if lower is better."""
    name = next(iter(before))
    old, new = round(before[name], 4), round(after[name], 4)
    if name in task.lower_is_better:
        return 100 * (new / old - 1) if old else 100 * new
    return 100 * (old - new)
