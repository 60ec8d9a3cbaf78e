"""Which rows of a producer belong to which unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Run:
    """Consecutive rows of a producer.

    Attributes:
        rows: Of each unit; of all of them where they are shared.
        shared: They serve all units alike, and stay.
        repeats: How many times the units come round, each with an equal part of its rows.
    """

    rows: int
    shared: bool = False
    repeats: int = 1

    def length(self, units: int) -> int:
        """Rows in all."""
        return self.rows if self.shared else units * self.rows


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which output rows of one producer belong to the units.

    Attributes:
        path: The producer's, absolute in the model.
        parts: One behind the other.
    """

    path: str
    parts: tuple[Run, ...]

    @property
    def per_unit(self) -> int:
        """Rows that go with a unit."""
        return sum(part.rows for part in self.parts if not part.shared)

    @property
    def shared(self) -> int:
        """Rows that always stay."""
        return sum(part.rows for part in self.parts if part.shared)

    @property
    def fused(self) -> bool:
        """Whether there is more to it than that the units' rows lie side by side."""
        return len(self.parts) > 1 or any(part.shared or part.repeats > 1 for part in self.parts)

    def own(self, unit: int, units: int) -> Tensor:
        """The rows of one unit alone: [rows]."""
        return self._places(torch.tensor([unit]), units, shared=False)

    def of(self, kept: Tensor, units: int) -> Tensor:
        """The rows to keep of a linear of ``units``, when those of the indices ``kept`` stay: [rows]."""
        return self._places(kept, units, shared=True)

    def _places(self, kept: Tensor, units: int, *, shared: bool) -> Tensor:
        found, start = [kept.new_empty(0)], 0
        for part in self.parts:
            if not part.shared:
                found.append(start + places(kept, units, part.rows, part.repeats))
            elif shared:
                found.append(start + torch.arange(part.rows, device=kept.device))
            start += part.length(units)
        return torch.cat(found)


def places(kept: Tensor, units: int, width: int, repeats: int = 1) -> Tensor:
    """Where the features of some units lie: [kept] -> [kept * width], in the order in which they lie.

    Args:
        kept: The units' indices.
        units: How many there are in all.
        width: Features of each.
        repeats: How many times the units come round, each with an equal part of its features.
    """
    run = width // repeats
    rounds = torch.arange(repeats, device=kept.device)[:, None, None] * units * run  # [repeats, 1, 1]
    return (rounds + kept[:, None] * run + torch.arange(run, device=kept.device)).flatten()  # [repeats, kept, run]
