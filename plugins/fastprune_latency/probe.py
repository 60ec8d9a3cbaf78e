"""The time of a model's own layers, with units taken out of them for real."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastprune import Batches, Group, Groups, LayerCall, Mask, layer_calls, materialize, sharing_copy, take_turns

K = TypeVar("K")

Maker = Callable[[], Callable[[], Any]]
"""Makes a call that is to be timed."""

CHAIN_MS = 250.0  # milliseconds that one call should take: as many layers run in a row as fit, or one
SLOW_MS = 45_000.0  # where a round over all calls takes longer, there are fewer rounds
SLOW_ROUNDS = 3
RESTLESS_TIMES = 3
STEADY = 0.02  # of a time: how sure its median should be, the spread divided by the root of the number of turns
COMPILED_LAYERS = 2  # as many layers at most run in a row where each width is compiled


@dataclass(frozen=True)
class Timing:
    """The median of several times in milliseconds, their interquartile range relative to it, and how many there were."""

    median: float
    spread: float
    turns: int

    @property
    def error(self) -> float:
        """How far the median may be off, in milliseconds."""
        return self.median * self.spread / math.sqrt(self.turns)

    @staticmethod
    def of(times: Sequence[float]) -> "Timing":
        median = statistics.median(times)
        quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [median, median, median]
        return Timing(median, (quartiles[2] - quartiles[0]) / median if median else 0.0, len(times))


def without_drift(times: Mapping[K, Sequence[float]]) -> dict[K, list[float]]:
    """The times of each call, [rounds], without what a whole round was slower or faster than the others."""
    medians = {key: statistics.median(found) for key, found in times.items()}
    counted = [key for key, median in medians.items() if median > 0]
    rounds = len(next(iter(times.values())))
    paces = [statistics.median([times[key][r] / medians[key] for key in counted] or [1.0]) for r in range(rounds)]
    return {key: [time / pace for time, pace in zip(found, paces, strict=True)] for key, found in times.items()}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Times layers and whole models of chosen widths, the calls taking turns.

    Attributes:
        model: On its device, frozen.
        groups: The model's groups.
        inputs: What ``model(**inputs)`` takes, on its device.
        calls: How the model calls each of its layers with these inputs, by the layer's path.
        compiled: Whether everything goes through torch.compile first.
        rounds: Turns each.
    """

    model: nn.Module
    groups: Groups
    inputs: Mapping[str, Tensor]
    calls: Mapping[str, LayerCall]
    compiled: bool
    rounds: int

    @staticmethod
    def of(model: nn.Module, groups: Groups, inputs: Mapping[str, Tensor], *, compiled: bool, rounds: int) -> "Probe":
        paths = [path for path, _ in groups.layers()]
        recorded = layer_calls(model, paths, Batches.wrap([inputs], None))[0]
        calls = dict(zip(paths, recorded, strict=True))
        return Probe(model=model, groups=groups, inputs=inputs, calls=calls, compiled=compiled, rounds=rounds)

    def chain(self, members: Sequence[Group]) -> list[Group]:
        """The groups, all of one shape, whose layers run in a row: as many as take a moment, so that they push each
        other out of the caches as they do in the model."""
        dense = self._keeping(partial(self._layers, [members[0].layer], {}))
        milliseconds = min(take_turns({0: dense}, rounds=2, description="measuring")[0])
        several = max(1, min(len(members), int(CHAIN_MS / max(milliseconds, 1e-3))))
        return list(members[: min(several, COMPILED_LAYERS) if self.compiled else several])

    def whole(self, counts: Mapping[str, int]) -> Maker:
        """The whole model with so many units in the groups that are named."""
        return self._keeping(partial(self._model, counts))

    def sublayers(self, chain: Sequence[Group], kept: int) -> Maker:
        """The layers of the chain, with so many units in the chain's groups, and half of them in the others."""
        paths = list(dict.fromkeys(group.layer for group in chain))
        names = {group.name for group in chain}
        others = {g.name: (g.units + 1) // 2 for g in self.groups if g.layer in paths and g.name not in names}
        return self._keeping(partial(self._layers, paths, others | dict.fromkeys(names, kept)))

    def time(self, makers: Mapping[K, Maker]) -> dict[K, Timing]:
        """The time of each call: as many turns as asked for, and as many again, twice at most, on a restless machine."""
        times = take_turns(makers, rounds=1, description="measuring")
        slow = sum(found[0] for found in times.values()) > SLOW_MS
        left = (min(SLOW_ROUNDS, self.rounds) if slow else self.rounds) - 1
        for _ in range(1 if slow else RESTLESS_TIMES):
            more = take_turns(makers, rounds=left, description="measuring")
            times = {key: [*found, *more[key]] for key, found in times.items()}
            timings = {key: Timing.of(found) for key, found in without_drift(times).items()}
            rounds = len(next(iter(times.values())))
            if statistics.median(timing.spread for timing in timings.values()) <= STEADY * math.sqrt(rounds):
                break
            left = self.rounds
        return timings

    def _keeping(self, make: Maker) -> Maker:
        """Made anew for each turn, so that only one stands in memory; what takes a compiler is made once."""
        if not self.compiled:
            return make
        made: list[Callable[[], Any]] = []

        def once() -> Callable[[], Any]:
            if not made:
                made.append(torch.compile(make(), dynamic=False))
            return made[0]

        return once

    def _model(self, counts: Mapping[str, int]) -> Callable[[], Any]:
        pruned = self._with(counts)
        return lambda: pruned(**self.inputs)

    def _layers(self, paths: Sequence[str], counts: Mapping[str, int]) -> Callable[[], Any]:
        pruned = self._with(counts)
        run = [(self.calls[path], pruned.get_submodule(path)) for path in paths]
        del pruned

        def call() -> None:
            for how, layer in run:
                how.run(layer, how.hidden)

        return call

    def _with(self, counts: Mapping[str, int]) -> nn.Module:
        """The model with so many units in the groups that are named."""
        whole = {group.name: group.units for group in self.groups}
        mask = Mask.first(self.groups, whole | dict(counts))
        return materialize(sharing_copy(self.model), self.groups, mask, inplace=True)
