"""Timing: what is compared runs in turn, so that a machine that speeds up or slows down does so for all of it."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import benchmark

from fastprune.calibration.hooks import frozen
from fastprune.progress import track

K = TypeVar("K")

Call = Callable[[], Any]
Clock = Callable[[], float]
"""Seconds, read once the device has done what it was given."""

TURN = 0.02  # seconds that a turn lasts at least: short calls are repeated
WARM = 0.25  # seconds from which on a call needs no warm-up in each turn: its own first moments do not show


def device_clock() -> float:
    """Wall time in seconds, read when the accelerator, if there is one, has finished."""
    return float(benchmark.timer())


def take_turns(
    makers: Mapping[K, Callable[[], Call]],
    *,
    rounds: int,
    clock: Clock | None = None,
    description: str = "timing",
) -> dict[K, list[float]]:
    """Milliseconds of each call, by its key: [rounds], the calls taking turns, to and fro.

    A short call is repeated within its turn, after one that warms the caches up again.

    Args:
        makers: What makes each call, anew for each turn: what a call needs is only there while it is timed.
        rounds: How many turns each takes.
        clock: Told to read the time before and after; None: ``device_clock``.
        description: What progress reports say.
    """
    clock = clock or device_clock
    times: dict[K, list[float]] = {key: [] for key in makers}
    keys = list(makers)
    turns = [key for turn in range(rounds) for key in (keys if turn % 2 == 0 else reversed(keys))]
    for key in track(turns, description):
        timer = timeit.Timer(makers[key](), timer=clock)
        if not times[key]:
            timer.timeit(1)  # whatever is set up once
        seconds = timer.timeit(1)
        if seconds < WARM:
            repeats = max(1, min(50, round(TURN / max(seconds, 1e-6))))
            seconds = timer.timeit(repeats) / repeats
        times[key].append(1e3 * seconds)
    return times


def interleaved(
    models: Mapping[str, nn.Module], inputs: Mapping[str, Tensor], *, rounds: int = 15
) -> dict[str, list[float]]:
    """Milliseconds of each forward pass, by the model's name: [rounds], the models taking turns, after a warm-up.

    Args:
        models: All on the device of the inputs.
        inputs: What ``model(**inputs)`` takes.
        rounds: How many turns each model takes.
    """
    with torch.inference_mode(), ExitStack() as still:
        for model in models.values():
            still.enter_context(frozen(model))
        makers = {name: lambda model=model: lambda: model(**inputs) for name, model in models.items()}
        return take_turns(makers, rounds=rounds)


def speedup(dense: list[float], pruned: list[float]) -> float:
    """The median over the rounds of dense time / pruned time."""
    return statistics.median(before / after for before, after in zip(dense, pruned, strict=True))
