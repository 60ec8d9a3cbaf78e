"""The loss of a mask: the disagreement of the masked model with the dense model, for searchers that require it."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import nn

from fastprune.calibration.hooks import frozen
from fastprune.data.batches import outputs_of, to_device
from fastprune.pipeline.state import State
from fastprune.surgery.masking import masked
from fastprune.surgery.materialize import removed_layers
from fastprune.units.masks import Mask

FEWEST, MOST = 64, 256  # samples, about, that a mask is evaluated on


class MaskLoss:
    """Evaluates masks on a part of the calibration set; each call costs a forward pass of the student over that part.

    Args:
        state: The student, masked but not tuned, is compared with the dense model.
    """

    def __init__(self, state: State) -> None:
        calibration = state.subject.calibration
        assert calibration.task is not None
        self._state, self._task = state, calibration.task
        self._part = calibration.only(range(0, len(calibration), calibration.step(0.25, FEWEST, MOST)))
        with (
            torch.inference_mode(),
            frozen(state.subject.teacher),
        ):  # before any mask: the student may be the dense model itself
            self._dense = [state.subject.states.output(batch, self._task) for batch in self._part]

    def __call__(self, mask: Mask) -> float:
        """1 - the mean agreement: 0 for equal outputs. Groups that the mask leaves out keep all units."""
        state = self._state
        whole = Mask({**Mask.full(state.groups).values, **mask.values})
        if removed_layers(state.groups, whole, state.form.removable):
            return self._loss(state.small(whole).eval())
        with masked(state.student, state.groups, whole):
            return self._loss(state.student)

    def _loss(self, student: nn.Module) -> float:
        device = next(student.parameters()).device
        with self._state.subject.states.precision(), torch.inference_mode(), frozen(student):
            outputs: list[Any] = [outputs_of(student, batch, self._task) for batch in self._part]
        batches = [to_device(batch, device) for batch in self._part]
        return 1 - statistics.fmean(self._task.compare(self._dense, outputs, batches).values())
