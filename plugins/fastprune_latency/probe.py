"""Timing of a model's own layers with units removed from their weights."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastprune import Batches, materialize, take_turns
from fastprune.calibration import LayerCall, layer_calls
from fastprune.units import Group, Groups, Mask, sharing_copy

K = TypeVar("K")

Maker = Callable[[], Callable[[], Any]]
"""Builds the call to be timed."""

CHAIN_MS = (
    250.0  # target duration of a call in milliseconds: as many layers as fit are run one after another, at least one
)
SLOW_MS = 45_000.0  # if a round over all calls takes longer, only SLOW_ROUNDS rounds are measured
SLOW_ROUNDS = 3
REPEATS = 3  # sets of rounds at most, for noisy measurements
STEADY = (
    0.02  # target standard error of a median, relative to it: the spread divided by the root of the number of rounds
)
COMPILED_LAYERS = 2  # layers run one after another at most if each width is compiled


@dataclass(frozen=True)
class Timing:
    """Summary of repeated time measurements.

    Attributes:
        median: Median in milliseconds.
        spread: Interquartile range relative to the median.
        turns: Number of measurements.
    """

    median: float
    spread: float
    turns: int

    @property
    def error(self) -> float:
        """Estimated error of the median in milliseconds: the interquartile range divided by the root of ``turns``."""
        return self.median * self.spread / math.sqrt(self.turns)

    @staticmethod
    def of(times: Sequence[float]) -> "Timing":
        median = statistics.median(times)
        quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [median, median, median]
        return Timing(median, (quartiles[2] - quartiles[0]) / median if median else 0.0, len(times))


def without_drift(times: Mapping[K, Sequence[float]]) -> dict[K, list[float]]:
    """Divide the times of each round by the round's pace: the median ratio of its times to the medians of all rounds.

    Args:
        times: Milliseconds by call, each [rounds].
    """
    medians = {key: statistics.median(measured) for key, measured in times.items()}
    positive = [key for key, median in medians.items() if median > 0]
    rounds = len(next(iter(times.values())))
    paces = [statistics.median([times[key][r] / medians[key] for key in positive] or [1.0]) for r in range(rounds)]
    return {key: [time / pace for time, pace in zip(measured, paces, strict=True)] for key, measured in times.items()}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Time layers and whole models with chosen numbers of units; all calls take turns.

    Attributes:
        model: The dense model, on its device, frozen.
        groups: The model's groups.
        inputs: Keyword arguments of ``model``, on its device.
        calls: Recorded call of each layer with these inputs, by the layer's path.
        hidden: The hidden states that enter the first layer.
        compiled: Compile every call with torch.compile.
        rounds: Measurements of each call.
    """

    model: nn.Module
    groups: Groups
    inputs: Mapping[str, Tensor]
    calls: Mapping[str, LayerCall]
    hidden: Tensor
    compiled: bool
    rounds: int

    @staticmethod
    def of(model: nn.Module, groups: Groups, inputs: Mapping[str, Tensor], *, compiled: bool, rounds: int) -> "Probe":
        paths = [path for path, _ in groups.layers()]
        recorded = layer_calls(model, paths, Batches.wrap([inputs], None))[0]
        calls = dict(zip(paths, recorded.layers, strict=True))
        return Probe(
            model=model,
            groups=groups,
            inputs=inputs,
            calls=calls,
            hidden=recorded.hidden,
            compiled=compiled,
            rounds=rounds,
        )

    def chain(self, members: Sequence[Group]) -> list[Group]:
        """Choose groups of one shape whose layers are run one after another, about ``CHAIN_MS`` long.

        Several layers evict each other's weights from the processor's caches, as in the whole model.
        """
        dense = self._keeping(partial(self._layers, [members[0].layer], {}))
        milliseconds = min(self._turns({0: dense}, 2)[0])
        several = max(1, min(len(members), int(CHAIN_MS / max(milliseconds, 1e-3))))
        return list(members[: min(several, COMPILED_LAYERS) if self.compiled else several])

    def whole(self, counts: Mapping[str, int]) -> Maker:
        """A forward pass of the whole model with ``counts`` units kept by group name; groups not named keep all."""
        return self._keeping(partial(self._model, counts))

    def sublayers(self, chain: Sequence[Group], kept: int) -> Maker:
        """A run of the chain's layers with ``kept`` units in the chain's groups and half of the units in other groups."""
        paths = list(dict.fromkeys(group.layer for group in chain))
        names = {group.name for group in chain}
        others = {g.name: (g.units + 1) // 2 for g in self.groups if g.layer in paths and g.name not in names}
        return self._keeping(partial(self._layers, paths, others | dict.fromkeys(names, kept)))

    def time(self, makers: Mapping[K, Maker]) -> dict[K, Timing]:
        """Time each call in ``rounds`` rounds; noisy measurements are repeated, at most twice."""
        times = self._turns(makers, 1)
        slow = sum(measured[0] for measured in times.values()) > SLOW_MS
        rounds = (min(SLOW_ROUNDS, self.rounds) if slow else self.rounds) - 1
        for _ in range(1 if slow else REPEATS):
            more = self._turns(makers, rounds)
            times = {key: [*measured, *more[key]] for key, measured in times.items()}
            timings = {key: Timing.of(measured) for key, measured in without_drift(times).items()}
            done = len(next(iter(times.values())))
            if statistics.median(timing.spread for timing in timings.values()) <= STEADY * math.sqrt(done):
                break
            rounds = self.rounds
        return timings

    def _turns(self, makers: Mapping[K, Maker], rounds: int) -> dict[K, list[float]]:
        device = next(self.model.parameters()).device
        return take_turns(makers, rounds=rounds, device=device, description="measuring")

    def _keeping(self, make: Maker) -> Maker:
        """With torch.compile, build and compile the call once; otherwise build it for each turn, so only one is in memory."""
        if not self.compiled:
            return make
        compiled: list[Callable[[], Any]] = []

        def once() -> Callable[[], Any]:
            if not compiled:
                compiled.append(torch.compile(make(), dynamic=False))
            return compiled[0]

        return once

    def _model(self, counts: Mapping[str, int]) -> Callable[[], Any]:
        pruned = self._with(counts)
        return lambda: pruned(**self.inputs)

    def _layers(self, paths: Sequence[str], counts: Mapping[str, int]) -> Callable[[], Any]:
        pruned = self._with(counts)
        layers = [(self.calls[path], pruned.get_submodule(path)) for path in paths]
        del pruned

        def call() -> None:
            for recorded, layer in layers:
                recorded.run(layer, self.hidden)

        return call

    def _with(self, counts: Mapping[str, int]) -> nn.Module:
        """A copy of the model with ``counts`` units kept by group name; groups not named keep all."""
        whole = {group.name: group.units for group in self.groups}
        mask = Mask.first(self.groups, whole | dict(counts))
        return materialize(sharing_copy(self.model), self.groups, mask, inplace=True)
