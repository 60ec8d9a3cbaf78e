"""Tuners by least squares: one scale a unit, the whole consumer, whole layers, or the bias alone."""

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.strategies import Tuner
from fastprune_lstsq.bias import BiasTuner
from fastprune_lstsq.descent import DescentTuner
from fastprune_lstsq.mask import MaskTuner
from fastprune_lstsq.weights import WeightsTuner


@hookimpl
def register_tuners(register: Callable[[type[Tuner]], None]) -> None:
    for tuner in (MaskTuner, WeightsTuner, DescentTuner, BiasTuner):
        register(tuner)
