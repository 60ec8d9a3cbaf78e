"""Inputs that are computed when they are read: pictures and spectrograms of a large data set would not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Later:
    """An input of one sample that is computed anew at each reading.

    Attributes:
        compute: Computes it.
        length: Its first dimension, where samples differ in it.
    """

    compute: Callable[[], Tensor]
    length: int = 0

    def __len__(self) -> int:
        return self.length


class LaterBatch(Mapping[str, Tensor]):
    """A batch of which some tensors are computed anew at each reading and not kept."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        later: Mapping[str, Sequence[Later]],
        pad: Callable[[Sequence[Tensor]], Tensor],
    ) -> None:
        """Join the tensors that are kept and the inputs, one per sample, that are not; ``pad`` stacks these to [samples, ...]."""
        self._tensors, self._later, self._pad = dict(tensors), dict(later), pad

    def __getitem__(self, name: str) -> Tensor:
        if name in self._later:
            return self._pad([each.compute() for each in self._later[name]])
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        """The names, those of the kept tensors first: sizes are read off these."""
        return iter((*self._tensors, *self._later))

    def __len__(self) -> int:
        return len(self._tensors) + len(self._later)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors or name in self._later
