"""Sums over tokens for the least squares of a sublayer: of its consumer's input, and of the residual stream's error after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from fastprune.calibration.bf16 import bf16_inputs
from fastprune.calibration.distributed import in_rank_order, world_size
from fastprune.calibration.sums import Rows, Sums


@dataclass
class Statistics(Sums):
    """Weighted sums over the calibration tokens, of one consumer's input x and of the error e that the consumer should correct.

    e = teacher's residual stream after the sublayer - student's: the change of the consumer's output after which the stream equals
    the dense model's, including errors made by earlier layers (docs/method.md, section 8: D - Y_student). All float64.

    Attributes:
        mean_error: Weighted mean of e: [hidden].
        scatter_cross: Sum of w (x - mean) (e - mean_error)': [features, hidden].
        energy: Sum of w e'e: [].
        held: Sums of the held-out tokens, which the sums above exclude; None: no token is held out.
    """

    mean_error: Tensor
    scatter_cross: Tensor
    energy: Tensor
    held: Statistics | None = None

    @property
    def errors(self) -> Tensor:
        """Sum of w e: [hidden]."""
        return self.weight * self.mean_error

    @property
    def cross(self) -> Tensor:
        """Sum of w x e': [features, hidden]."""
        return self.scatter_cross + torch.outer(self.inputs, self.mean_error)

    @staticmethod
    def zeros(features: int, hidden: int, device: torch.device) -> Statistics:
        """Sums over zero tokens."""

        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float64, device=device)

        return Statistics(
            weight=zeros(),
            mean=zeros(features),
            upper=zeros(features, features),
            mean_error=zeros(hidden),
            scatter_cross=zeros(features, hidden),
            energy=zeros(),
        )

    @property
    def whole(self) -> Statistics:
        """The sums over all tokens, with the held-out ones merged in."""
        return self if self.held is None else replace(self, held=None) + self.held

    def add(self, x: Tensor, e: Tensor, weights: Tensor | None, held: Tensor | None = None) -> None:
        """Add tokens: x [tokens, features], e [tokens, hidden], weights [tokens] (None: equal), held-out mask [tokens] bool; on
        the CPU it does not wait for the device."""
        if held is not None and bool(held.any()):
            self.held = self.held or self._zeros()
            for part, mask in ((self.held, held), (self, ~held)):
                places = mask.nonzero()[:, 0].to(x.device)
                part.add(x[places], e[places], None if weights is None else weights[places])
            return
        if not len(x):
            return
        rows = Rows.of(self, x, weights)
        squares = e.float().square().sum(1)  # [tokens]
        self.energy += (squares if weights is None else squares * weights).sum()
        x, e = rows.around(x, self.mean), rows.around(e, self.mean_error)  # [tokens + 1 or more, ...]
        self._add_products(x, rows.weighted(x))
        with bf16_inputs(x.device):
            self.scatter_cross += x.T @ rows.weighted(e)

    def reduce(self) -> Self:
        """The sums over the tokens of all processes, held out or not, added in the order of their ranks."""
        if world_size() == 1:
            return self
        total = Sums.reduce(replace(self, held=None))
        has_held = self.weight.new_tensor(self.held is not None)
        if any(bool(flag) for (flag,) in in_rank_order([has_held])):
            total.held = (self.held or self._zeros()).reduce()
        return total

    def _merge(self, other: Self, share: Tensor, between: Tensor) -> None:
        apart, missing = other.mean - self.mean, other.mean_error - self.mean_error
        self.scatter_cross += other.scatter_cross
        self.scatter_cross.addr_(between * apart, missing)
        self.mean_error += share * missing
        self.energy += other.energy
        super()._merge(other, share, between)
        if other.held is not None:
            self.held = other.held._copy() if self.held is None else self.held + other.held

    def _copy(self) -> Self:
        copied = super()._copy()
        copied.held = None if self.held is None else self.held._copy()
        return copied

    def _zeros(self) -> Statistics:
        return Statistics.zeros(len(self.mean), len(self.mean_error), self.mean.device)
