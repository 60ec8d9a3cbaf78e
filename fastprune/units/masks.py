"""Masks: which units of each group are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fastprune.units.groups import Group


@dataclass(frozen=True)
class Mask:
    """The kept units of each group, by group name: True for kept units. Values are never changed in place."""

    values: Mapping[str, Tensor]  # each [units], bool, on the CPU

    @staticmethod
    def full(groups: Iterable[Group]) -> Mask:
        """A mask that keeps all units."""
        return Mask({group.name: torch.ones(group.units, dtype=torch.bool) for group in groups})

    @staticmethod
    def first(groups: Iterable[Group], counts: Mapping[str, int]) -> Mask:
        """A mask that keeps the first ``counts`` units of each group: a mask of given sizes, regardless of importance."""
        # on the CPU even where a model is built under another default device
        places = {group.name: torch.arange(group.units, device="cpu") for group in groups}
        return Mask({name: place < counts[name] for name, place in places.items()})

    @staticmethod
    def top(importance: Mapping[str, Tensor], counts: Mapping[str, int]) -> Mask:
        """A mask that keeps the ``counts`` most important units of each group; ties go to the first."""
        return Mask({name: _top(importance[name], counts[name]) for name in importance})

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def counts(self) -> dict[str, int]:
        """Number of kept units, by group name."""
        return {name: int(values.sum()) for name, values in self.values.items()}

    @property
    def whole(self) -> bool:
        """Whether every unit is kept."""
        return all(bool(values.all()) for values in self.values.values())

    def kept(self, name: str) -> Tensor:
        """Indices of the kept units, rising: [kept]."""
        return self.values[name].nonzero().flatten()

    def equals(self, other: Mask) -> bool:
        """Whether both masks keep the same units of the same groups."""
        ours, theirs = self.values, other.values
        return ours.keys() == theirs.keys() and all(torch.equal(values, theirs[name]) for name, values in ours.items())

    def within(self, outer: Mask) -> Mask:
        """Convert this mask, whose units are those that ``outer`` keeps, to a mask over the units of ``outer``."""
        values = {}
        for name, before in outer.values.items():
            values[name] = torch.zeros_like(before)
            values[name][outer.kept(name)[self.values[name]]] = True
        return Mask(values)


def _top(importance: Tensor, count: int) -> Tensor:
    mask = torch.zeros(importance.numel(), dtype=torch.bool)
    mask[importance.argsort(descending=True, stable=True)[:count]] = True
    return mask
