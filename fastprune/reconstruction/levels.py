"""Levels: a consumer's solved weights for several numbers of units of its group, in memory or on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fastprune.calibration.dense_states import DenseStates
from fastprune.reconstruction.layerwise import Solver, reconstruct
from fastprune.reconstruction.ridge import ridge
from fastprune.reconstruction.samples import Samples
from fastprune.reconstruction.sums import Statistics
from fastprune.units.groups import Group, Groups


@dataclass(frozen=True)
class Level:
    """A consumer of which only some units are left.

    Attributes:
        features: Indices of the units' features, in the order of the units, rising: [kept].
        weight: Solved weight of these features: [hidden, kept].
        bias: Solved bias, [hidden]; None: the consumer has none.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor | None

    @property
    def size(self) -> int:
        """Bytes of the weight."""
        return self.weight.nbytes


@dataclass
class LevelStore:
    """Levels by group and number of units; those beyond a limit of memory lie in files, which go with the store.

    Attributes:
        limit: Bytes of memory.
    """

    limit: int
    _levels: dict[tuple[str, int], Level | Path] = field(default_factory=dict, repr=False)
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._levels

    def __getitem__(self, key: tuple[str, int]) -> Level:
        level = self._levels[key]
        return level if isinstance(level, Level) else Level(*torch.load(level, weights_only=True))

    def __setitem__(self, key: tuple[str, int], level: Level) -> None:
        self._levels.pop(key, None)
        held = sum(each.size for each in self._levels.values() if isinstance(each, Level))
        if held + level.size <= self.limit:
            self._levels[key] = level
            return
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="fastprune-levels-")
        path = Path(self._folder.name) / f"{len(self._levels)}-{key[1]}.pt"
        torch.save((level.features, level.weight, level.bias), path)
        self._levels[key] = path

    def clear(self) -> None:
        """Forget all levels, and delete their files."""
        self._levels.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


@dataclass(frozen=True, kw_only=True)
class LevelSolver:
    """The least squares of all levels of a group, as the ``solve`` of a ``Solver``.

    Attributes:
        importance: Of each unit, by group: [units]. A level keeps the most important ones.
        around: The number of units by group that the layers behind a group see the outputs of.
        wanted: Further numbers of units by group.
        store: Receives the levels.
        damping: Smallest ridge strength, as for ``ridge``.
        shifts: Give a bias to a consumer without one.
        generator: As for ``ridge``.
    """

    importance: Mapping[str, Tensor]
    around: Mapping[str, int]
    wanted: Mapping[str, Sequence[int]]
    store: LevelStore
    damping: float
    shifts: bool
    generator: torch.Generator

    def __call__(
        self, group: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Solve and store the levels; returns the weight [hidden, features] of the level in ``around``, zero at pruned features."""
        now = self.around[group.name]
        for count in sorted({now, *self.wanted.get(group.name, ())}):
            features = features_of(group, self.importance[group.name], count).to(weight.device)
            solved = ridge(
                keeping(statistics, features, weight),
                weight[:, features],
                bias,
                self.damping,
                self.generator,
                shifts=self.shifts,
            )
            self.store[group.name, count] = Level(features, *solved)
        return widened(self.store[group.name, now], weight)


def solve_levels(
    teacher: nn.Module, student: nn.Module, groups: Groups, samples: Samples, solver: LevelSolver, states: DenseStates
) -> None:
    """Solve the levels of all groups, layer after layer: each on the inputs that the layers below it give with ``around`` units.

    Args:
        teacher: The dense model.
        student: The model with all units of the groups; its consumers are set to the levels of ``around``.
        groups: The student's groups.
        samples: The calibration set.
        solver: The levels, and where they go.
        states: Cached states of the dense model.
    """
    reconstruct(teacher, student, groups, samples, Solver(solve=solver, unpruned=True), states)


def features_of(group: Group, importance: Tensor, count: int) -> Tensor:
    """Indices of the features of a group's ``count`` most important units, rising: [count * width]."""
    units = importance.argsort(descending=True, stable=True)[:count].sort().values
    return (units[:, None] * group.width + torch.arange(group.width)).flatten()


def widened(level: Level, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """A level's weight among zeros at pruned features, as wide as ``weight`` [hidden, features], and its bias [hidden]."""
    wide = torch.zeros_like(weight)
    wide[:, level.features] = level.weight
    return wide, level.bias


def keeping(statistics: Statistics, features: Tensor, weight: Tensor) -> Statistics:
    """The sums for a consumer that keeps only some features.

    The error is what its output lacks with their part of the weight: it includes what the other features gave.

    Args:
        statistics: Sums over the tokens of all features and of the error left with all of them.
        features: Indices of the kept features, rising: [kept].
        weight: The consumer's weight, [hidden, features].
    """
    gone = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    gone[features] = False
    lost = weight[:, gone].double().T  # [gone, hidden]
    scatter, mean = statistics.scatter, statistics.mean[gone]
    together = scatter[:, gone] @ lost  # [features, hidden], sums of x (lost output)'
    cross, apart = statistics.scatter_cross[gone], mean @ lost
    spread = 2 * (cross * lost).sum() + (together[gone] * lost).sum()
    shifted = (statistics.mean_error + apart).square().sum() - statistics.mean_error.square().sum()
    return replace(
        statistics,
        mean=statistics.mean[features],
        upper=statistics.upper[features][:, features],
        mean_error=statistics.mean_error + apart,
        scatter_cross=statistics.scatter_cross[features] + together[features],
        energy=statistics.energy + spread + statistics.weight * shifted,
        held=statistics.held and keeping(statistics.held, features, weight),
    )
