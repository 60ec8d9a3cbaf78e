"""Timing: compared calls take turns, so that changes of the machine's speed affect all of them."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastprune.calibration.hooks import frozen
from fastprune.errors import ModelError
from fastprune.progress import track

K = TypeVar("K")

Call = Callable[[], Any]
Clock = Callable[[], float]
"""Returns the time in seconds, after the device has finished its work."""

TURN = 0.02  # minimum duration of a turn in seconds; shorter calls are repeated
WARM = 0.25  # duration of a call in seconds from which it needs no warm-up in each turn


def device_clock(device: torch.device | None = None) -> float:
    """Wall time in seconds, after the device has finished its work [None: the current accelerator, if there is one].

    Raises:
        ModelError: The device cannot be waited for.
    """
    if device.type != "cpu" if device else torch.accelerator.is_available():
        try:
            torch.accelerator.synchronize(device)
        except (RuntimeError, ValueError, AttributeError) as error:  # NotImplementedError is a RuntimeError
            raise ModelError(
                f"Nothing can be timed on {device or 'the accelerator'}, which cannot be waited for "
                f"(torch.accelerator.synchronize): {error}. Use a counted cost such as macs, without timing (--no-bench, or "
                "bench=False)."
            ) from error
    return timeit.default_timer()


def take_turns(
    makers: Mapping[K, Callable[[], Call]],
    *,
    rounds: int,
    clock: Clock | None = None,
    device: torch.device | None = None,
    description: str = "timing",
) -> dict[K, list[float]]:
    """Time several calls in turns, alternating the order from round to round.

    A short call is repeated within its turn, after a first one that warms up the caches.

    Args:
        makers: Functions that build each call, by key. They run again in each turn, so that the memory of a call is used only
            while it is timed.
        rounds: Number of turns of each call.
        clock: Returns the time in seconds [None: the machine's clock, after the device has finished its work].
        device: The device of the calls [None: the current accelerator, if there is one, else the CPU].
        description: Description for progress reports.

    Returns:
        Milliseconds by key, each [rounds].
    """
    clock = clock or partial(device_clock, device)
    times: dict[K, list[float]] = {key: [] for key in makers}
    keys = list(makers)
    turns = [key for turn in range(rounds) for key in (keys if turn % 2 == 0 else reversed(keys))]
    for key in track(turns, description):
        timer = timeit.Timer(makers[key](), timer=clock)
        if not times[key]:
            timer.timeit(1)  # one-time initialisation
        seconds = timer.timeit(1)
        if seconds < WARM:
            repeats = max(1, min(50, round(TURN / max(seconds, 1e-6))))
            seconds = timer.timeit(repeats) / repeats
        times[key].append(1e3 * seconds)
    return times


def interleaved(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor] | Mapping[str, Mapping[str, Tensor]],
    *,
    rounds: int = 15,
) -> dict[str, list[float]]:
    """Time forward passes of several models in turns, after a warm-up.

    Args:
        models: The models by name, on the device of the inputs.
        inputs: Keyword arguments of the models, the same for all or those of each by its name.
        rounds: Number of turns of each model.

    Returns:
        Milliseconds by name, each [rounds].
    """
    with torch.inference_mode(), ExitStack() as contexts:
        for model in models.values():
            contexts.enter_context(frozen(model))
        own: Any = inputs if inputs.keys() == models.keys() else dict.fromkeys(models, inputs)
        makers = {name: lambda model=model, given=own[name]: lambda: model(**given) for name, model in models.items()}
        tensors = next(iter(own.values())).values()
        return take_turns(makers, rounds=rounds, device=next(iter(tensors)).device)


def median(times: Sequence[float]) -> float:
    """The median to four significant digits, as it is printed."""
    return float(f"{statistics.median(times):.4g}")


def speedup(dense: Sequence[float], pruned: Sequence[float]) -> float:
    """Median dense time / median pruned time: the quotient of the times that are printed."""
    return median(dense) / median(pruned)


def spread(times: Sequence[float]) -> float:
    """Interquartile range of the times, relative to their median; 0 for a single time."""
    if len(times) < 2:
        return 0.0
    low, _, high = statistics.quantiles(times, n=4)
    return (high - low) / statistics.median(times)
