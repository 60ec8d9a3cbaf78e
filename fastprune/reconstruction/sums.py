"""What least squares need of a sublayer: sums over tokens of what enters its consumer, and of what the stream lacks after it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fastprune.calibration.gram import add_second_moment, mirrored


@dataclass
class Statistics:
    """Weighted sums over the calibration tokens, of one consumer's input x and of the error e that it is to repair.

    e = teacher's residual stream after the sublayer - student's: what must be added to the consumer's output so that
    the stream is the dense model's again, errors made below included (METHOD 4: D - Y_student). All float64.

    Attributes:
        weight: Sum of the token weights.
        inputs: Sum of x: [features].
        errors: Sum of e: [hidden].
        upper: Sum of x x', of which nothing left of the diagonal counts: [features, features].
        cross: Sum of x e': [features, hidden].
        energy: Sum of e'e.
        held: The same of the tokens held back, which the sums above leave out; None: none are.
    """

    weight: Tensor
    inputs: Tensor
    errors: Tensor
    upper: Tensor
    cross: Tensor
    energy: Tensor
    held: Statistics | None = None

    @property
    def gram(self) -> Tensor:
        """Sum of x x': [features, features]."""
        return mirrored(self.upper)

    @staticmethod
    def zeros(features: int, hidden: int, device: torch.device) -> Statistics:
        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float64, device=device)

        return Statistics(
            weight=zeros(),
            inputs=zeros(features),
            errors=zeros(hidden),
            upper=zeros(features, features),
            cross=zeros(features, hidden),
            energy=zeros(),
        )

    @property
    def whole(self) -> Statistics:
        """The sums of all tokens, of which none are held back."""
        if self.held is None:
            return self
        names = [field.name for field in fields(self) if field.name != "held"]
        return Statistics(**{name: getattr(self, name) + getattr(self.held, name) for name in names})

    def add(self, x: Tensor, e: Tensor, weights: Tensor | None, held: Tensor | None = None) -> None:
        """Add tokens: x [tokens, features], e [tokens, hidden], weights [tokens], and which are held back [tokens]."""
        if held is not None and bool(held.any()):
            self.held = self.held or Statistics.zeros(len(self.inputs), len(self.errors), self.inputs.device)
            for part, rows in ((self.held, held), (self, ~held)):
                if bool(rows.any()):
                    part.add(x[rows], e[rows], None if weights is None else weights[rows])
            return
        x, e = x.float(), e.float()
        weighted_x, weighted_e = (x, e) if weights is None else (x * weights[:, None], e * weights[:, None])
        self.weight += len(x) if weights is None else weights.double().sum()
        self.inputs += weighted_x.sum(0)
        self.errors += weighted_e.sum(0)
        add_second_moment(self.upper, x, weighted_x)
        self.cross += x.T @ weighted_e
        self.energy += (e * weighted_e).sum()
