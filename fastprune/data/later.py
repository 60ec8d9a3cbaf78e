"""Inputs that are computed when they are read: pictures and spectrograms of a large data set would not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Later:
    """An input of one sample that is computed anew at each reading.

    Attributes:
        compute: Computes it; all samples have the same shape.
    """

    compute: Callable[[], Tensor]


class LaterBatch(Mapping[str, Tensor]):
    """A batch of which some tensors are computed anew at each reading and not kept."""

    def __init__(self, tensors: Mapping[str, Tensor], later: Mapping[str, Sequence[Later]]) -> None:
        """Join the tensors that are kept and the inputs, one per sample, that are not."""
        self._tensors, self._later = dict(tensors), dict(later)

    def __getitem__(self, name: str) -> Tensor:
        if name in self._later:
            return torch.stack([each.compute() for each in self._later[name]])  # [samples, ...]
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        """The names, those of the kept tensors first: sizes are read off these."""
        return iter((*self._tensors, *self._later))

    def __len__(self) -> int:
        return len(self._tensors) + len(self._later)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors or name in self._later
