"""Timing: models run in turn, so that a machine that speeds up or slows down does so for all of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from fastprune.capture import frozen


def interleaved(
    models: Mapping[str, nn.Module], inputs: Mapping[str, Tensor], *, rounds: int = 15
) -> dict[str, list[float]]:
    """Milliseconds of each forward pass, by the model's name: [rounds], the models taking turns, after a warm-up.

    Args:
        models: All on the device of the inputs.
        inputs: What ``model(**inputs)`` takes.
        rounds: How often each model runs.
    """
    timers = {}
    for name, model in models.items():
        timers[name] = Timer(
            "model(**inputs)", globals={"model": model, "inputs": inputs}, num_threads=torch.get_num_threads()
        )
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for timer in timers.values():
            timer.timeit(2)
        for _ in range(rounds):
            for name, model in models.items():
                with frozen(model):
                    times[name].append(timers[name].timeit(1).median * 1e3)
    return times


def speedup(dense: list[float], pruned: list[float]) -> float:
    """The median over the rounds of dense time / pruned time."""
    return statistics.median(before / after for before, after in zip(dense, pruned, strict=True))
