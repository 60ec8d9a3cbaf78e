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

from fastprune.capture import frozen

K = TypeVar("K")

Clock = Callable[[], float]
"""Seconds, read once the device has done what it was given."""

TURN = 0.02  # seconds that a turn lasts at least: short calls are repeated
WARM = 0.25  # seconds from which on a call needs no warm-up in each turn: its own first moments do not show


def device_clock() -> float:
    """Wall time in seconds, read when the accelerator, if there is one, has finished."""
    return float(benchmark.timer())  # type: ignore[operator]


def take_turns(calls: Mapping[K, Callable[[], Any]], *, rounds: int, clock: Clock = device_clock) -> dict[K, list[float]]:
    """Milliseconds of each call, by its key: [rounds], the calls taking turns, after a warm-up.

    A short call is repeated within its turn, after one more run that warms the caches up again.

    Args:
        calls: What to time.
        rounds: How many turns each takes.
        clock: Told to read the time before and after.
    """
    timers = {key: timeit.Timer(call, timer=clock) for key, call in calls.items()}
    repeats: dict[K, int] = {}
    for key, timer in timers.items():
        timer.timeit(1)
        repeats[key] = max(1, min(50, round(TURN / max(timer.timeit(1), 1e-6))))
    times: dict[K, list[float]] = {key: [] for key in calls}
    warm = dict.fromkeys(calls, True)
    for _ in range(rounds):
        for key, timer in timers.items():
            if warm[key]:
                timer.timeit(1)
            seconds = timer.timeit(repeats[key]) / repeats[key]
            warm[key] = seconds < WARM
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
        calls = {name: lambda model=model: model(**inputs) for name, model in models.items()}
        return take_turns(calls, rounds=rounds)


def speedup(dense: list[float], pruned: list[float]) -> float:
    """The median over the rounds of dense time / pruned time."""
    return statistics.median(before / after for before, after in zip(dense, pruned, strict=True))
