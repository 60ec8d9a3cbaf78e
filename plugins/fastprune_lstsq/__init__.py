"""Tuners by least squares: one scale a unit, the whole consumer, or its bias alone."""

from collections.abc import Callable

from fastprune import Tuner, hookimpl
from fastprune_lstsq.bias import BiasTuner
from fastprune_lstsq.mask import MaskTuner
from fastprune_lstsq.weights import WeightsTuner


@hookimpl
def register_tuners(register: Callable[[type[Tuner]], None]) -> None:
    for tuner in (MaskTuner, WeightsTuner, BiasTuner):
        register(tuner)
