"""Cuts: the positions of each unit along one dimension of a tensor.

Slicing, counting, norms and saving use cuts alone, for every kind of unit. An attention of two heads 0 and 1, of two features
each, whose query, key and value are one linear ``qkv``, has three cuts::

    qkv.weight, dimension 0    0 0 1 1 | 0 0 1 1 | 0 0 1 1     queries, keys, values: three sections
    qkv.bias, dimension 0      0 0 1 1 | 0 0 1 1 | 0 0 1 1
    out.weight, dimension 1    0 0 1 1                         the columns of the output projection
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Section:
    """Consecutive positions along a dimension.

    Of three units 0, 1 and 2::

        Section()                             0 1 2
        Section(positions=2)                  0 0 1 1 2 2
        Section(positions=4, repeats=2)       0 0 1 1 2 2 0 0 1 1 2 2
        Section(positions=2, shared=True)     s s                          of no unit: always kept

    Attributes:
        positions: Number of positions of each unit; of all units together if shared.
        repeats: Number of rounds; the section is laid out [repeats, units, positions / repeats].
        shared: The positions serve all units, and are always kept.
    """

    positions: int = 1
    repeats: int = 1
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Positions:
    """The positions along one dimension, by owning unit.

    Three units, two sections::

        Positions(units=3, sections=(Section(positions=2), Section(positions=1, shared=True)))     0 0 1 1 2 2 | s

    Here ``of(tensor([0, 2]))`` is [[0, 1], [4, 5]], ``shared`` is [6], and ``kept(tensor([0, 2]))`` is [0, 1, 4, 5, 6].

    Attributes:
        units: Number of units.
        sections: The sections, in order.
    """

    units: int
    sections: tuple[Section, ...] = (Section(),)

    @property
    def per_unit(self) -> int:
        """Number of positions of one unit."""
        return sum(section.positions for section in self.sections if not section.shared)

    @property
    def length(self) -> int:
        """Total number of positions: the size of the dimension."""
        return self.units * self.per_unit + len(self.shared)

    @property
    def in_order(self) -> bool:
        """Whether the positions are sorted by unit without shared ones, as in 0 0 1 1 2 2."""
        return len(self.sections) == 1 and not self.sections[0].shared and self.sections[0].repeats == 1

    @property
    def shared(self) -> Tensor:
        """The shared positions, which are always kept: [shared]."""
        found = [torch.arange(start, start + s.positions) for start, s in self._starts() if s.shared]
        return torch.cat([torch.empty(0, dtype=torch.long), *found])

    def of(self, units: Tensor) -> Tensor:
        """The positions of the given units, in the given order: [units] -> [units, per_unit]."""
        found = [units.new_empty(len(units), 0)]
        for start, section in self._starts():
            if not section.shared:
                run = section.positions // section.repeats
                rounds = torch.arange(section.repeats, device=units.device)[:, None] * self.units * run  # [repeats, 1]
                places = rounds + torch.arange(run, device=units.device)  # [repeats, run]
                found.append(start + (units[:, None, None] * run + places).flatten(1))  # [units, repeats * run]
        return torch.cat(found, 1)

    def kept(self, units: Tensor) -> Tensor:
        """The positions kept with the given units, including shared ones, rising: [units] -> [kept]."""
        return torch.cat([self.of(units).flatten(), self.shared.to(units.device)]).sort().values

    def _starts(self) -> list[tuple[int, Section]]:
        """Each section with its first position."""
        found, start = [], 0
        for section in self.sections:
            found.append((start, section))
            start += section.positions if section.shared else self.units * section.positions
        return found


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Positions along one dimension of one tensor that are removed with the units of a group.

    Attributes:
        parameter: Path of a parameter or buffer, absolute in the model: ``encoder.layer.0.attention.self.query.weight``.
        dimension: Dimension of the stored tensor: the rows of an ``nn.Linear`` are dimension 0 of its weight, those of a
            ``Conv1D`` dimension 1.
        positions: The positions of each unit along it.
    """

    parameter: str
    dimension: int
    positions: Positions

    @property
    def module(self) -> str:
        """Path of the module that holds the tensor."""
        return self.parameter.rpartition(".")[0]

    @property
    def name(self) -> str:
        """Name of the tensor in its module, such as ``weight``."""
        return self.parameter.rpartition(".")[2]

    def tensor(self, model: nn.Module) -> Tensor:
        """The tensor in this model."""
        found: Tensor = getattr(model.get_submodule(self.module), self.name)
        return found
