"""Weighted sums over tokens, centred on the running mean, which can be added: over batches, parts of the data, and processes."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from fastprune.calibration.bf16 import padded_rows
from fastprune.calibration.distributed import in_rank_order, world_size
from fastprune.calibration.gram import add_second_moment, mirrored
from fastprune.errors import DataError


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64, the precision of all sums; mps does not."""
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


TINY = torch.finfo(torch.float64).tiny


@dataclass
class Sums:
    """Weighted sums over tokens of an input x; ``a + b`` are the sums over the tokens of both.

    Second moments are summed around the running mean, and sums with different means are moved to the common mean by the pairwise
    update of Chan, Golub and LeVeque (1983). Centring only at the end would lose all digits of inputs whose mean is a thousand
    times their deviation. Tensors change only in the methods that add.

    Attributes:
        weight: Sum of the token weights w: [] float64.
        mean: Weighted mean of x: [features] float64, zeros if no token has weight.
        upper: Sum of w (x - mean) (x - mean)', valid on and right of the diagonal only: [features, features]; or its diagonal
            alone: [features]. Products have x's precision, at least float32.
    """

    weight: Tensor
    mean: Tensor
    upper: Tensor

    @property
    def inputs(self) -> Tensor:
        """Sum of w x: [features] float64."""
        return self.weight * self.mean

    @property
    def scatter(self) -> Tensor:
        """Sum of w (x - mean) (x - mean)': [features, features] float64, or only its diagonal [features]."""
        return self.upper.to(torch.float64, copy=True) if self.upper.dim() == 1 else mirrored(self.upper)

    @property
    def gram(self) -> Tensor:
        """Sum of w x x': [features, features] float64, or only its diagonal [features]."""
        scatter, inputs = self.scatter, self.inputs  # scatter is a copy
        return scatter.addcmul_(inputs, self.mean) if scatter.dim() == 1 else scatter.addr_(inputs, self.mean)

    @property
    def covariance(self) -> Tensor:
        """Covariance of x: [features, features] float64, or only the variances [features]."""
        return self.scatter.div_(self.weight.clamp(min=TINY))

    def __add__(self, other: Self) -> Self:
        total = self._copy()
        total._join(other)
        return total

    def reduce(self) -> Self:
        """The sums over the tokens of all processes, added in the order of their ranks, with the same bits on each process.

        Without an initialised ``torch.distributed``, these sums themselves.
        """
        if world_size() == 1:
            return self
        names = self._tensors()
        parts = in_rank_order([getattr(self, name) for name in names])
        total = self._with(dict(zip(names, next(parts), strict=True)))
        for part in parts:
            total._join(self._with(dict(zip(names, part, strict=True))))
        return total

    def check_finite(self, group: str) -> None:
        """Check that all sums are finite.

        Raises:
            DataError: A sum over the tokens of the group is NaN or infinite.
        """
        if not all(bool(getattr(self, name).isfinite().all()) for name in self._tensors()):
            raise DataError(
                f"The activations at '{group}' on the calibration data, or sums of their squares, are not finite: they exceed the "
                "range of the model's dtype, or the weights are broken. Compute in float32 (--dtype float32) or bfloat16."
            )

    def _join(self, other: Self) -> None:
        """Add sums over other tokens, in place."""
        self._merge(other, *self._weigh(other.weight))

    def _merge(self, other: Self, share: Tensor, between: Tensor) -> None:
        """Add everything except the weight; ``share`` and ``between`` are from ``_weigh``."""
        apart = other.mean - self.mean
        self.upper += other.upper
        self._add_products(apart[None], between * apart[None])
        self.mean += share * apart

    def _weigh(self, added: Tensor) -> tuple[Tensor, Tensor]:
        """Add the weight of other tokens; returns their share of the total [] and the squared mean distance's weight []."""
        before = self.weight.clone()
        self.weight += added
        share = added / self.weight.clamp(min=TINY)
        return share, before * share

    def _add_products(self, x: Tensor, weighted: Tensor) -> None:
        """Add w x x' of centred rows: x and w x, [rows, features]."""
        if self.upper.dim() == 1:
            self.upper += (x * weighted).sum(0)
        else:
            add_second_moment(self.upper, x, weighted)

    def _tensors(self) -> list[str]:
        return [field.name for field in fields(self) if isinstance(getattr(self, field.name), Tensor)]

    def _with(self, tensors: dict[str, Tensor]) -> Self:
        other = copy.copy(self)
        for name, tensor in tensors.items():
            setattr(other, name, tensor)
        return other

    def _copy(self) -> Self:
        return self._with({name: getattr(self, name).clone() for name in self._tensors()})


@dataclass
class Moments(Sums):
    """Weight, mean and second moments of activations or gradients at one place, such as a consumer's input."""

    @staticmethod
    def zeros(
        features: int, device: torch.device, *, diagonal: bool = False, dtype: torch.dtype = torch.float32
    ) -> Moments:
        """Sums over zero tokens.

        Args:
            features: Number of features of x.
            device: Device of the sums.
            diagonal: Sum only the variances.
            dtype: Dtype of the second moments; weight and mean are float64.
        """
        return Moments(
            weight=torch.zeros((), dtype=torch.float64, device=device),
            mean=torch.zeros(features, dtype=torch.float64, device=device),
            upper=torch.zeros((features,) if diagonal else (features, features), dtype=dtype, device=device),
        )

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Add tokens: x [tokens, features], and their weights [tokens] (None: equal weights)."""
        if len(x):
            rows = Rows.of(self, x, weights)
            x = rows.around(x, self.mean)
            self._add_products(x, rows.weighted(x))


@dataclass(frozen=True)
class Rows:
    """The weights of a batch's tokens relative to existing sums.

    Attributes:
        weights: [tokens, 1] in the batch's precision; None: equal weights.
        total: Sum of the weights: [] float64.
        share: Share of the batch in the new total weight of the sums: [] float64.
        between: Weight of the squared distance between the sums' mean and the batch's mean: [] float64.
    """

    weights: Tensor | None
    total: Tensor
    share: Tensor
    between: Tensor

    @staticmethod
    def of(sums: Sums, x: Tensor, weights: Tensor | None) -> Rows:
        """Add the batch's weight to the sums: x [tokens, features], weights [tokens] (None: equal weights)."""
        total = sums.weight.new_tensor(len(x)) if weights is None else weights.double().sum()
        counted = None if weights is None else weights.to(_precise(x))[:, None]
        return Rows(counted, total, *sums._weigh(total))

    def around(self, x: Tensor, mean: Tensor) -> Tensor:
        """Centre x on its own mean, and append a row with its mean's scaled distance to the mean of the sums, and rows of zeros.

        The second moment of all rows, where the appended rows have weight 1, is the increment of the sums.

        Args:
            x: [tokens, features].
            mean: Mean of the sums, [features] float64; changed in place to the mean of all tokens.

        Returns:
            [tokens + 1 or more, features], float32 or wider.
        """
        x = x.to(_precise(x))
        first = self._mean(x)  # a first guess, with x's rounding errors
        rows = x.new_empty(padded_rows(len(x) + 1, x.device), x.shape[1])
        centred = torch.sub(x, first.to(x), out=rows[: len(x)])
        rest = self._mean(centred)
        if self.weights is not None:  # sums of products are less exact than sums
            centred -= rest.to(x)
        apart = first.to(x).double() + rest - mean
        rows[len(x)] = self.between.sqrt() * apart
        rows[len(x) + 1 :] = 0.0
        mean += self.share * apart
        return rows

    def weighted(self, rows: Tensor) -> Tensor:
        """Each row of ``around`` times its weight."""
        if self.weights is None:
            return rows
        return rows * torch.cat([self.weights, self.weights.new_ones(len(rows) - len(self.weights), 1)])

    def _mean(self, x: Tensor) -> Tensor:
        """The weighted mean of x [tokens, features]: [features] float64."""
        summed = x.sum(0) if self.weights is None else self.weights[:, 0] @ x
        return summed.double() / self.total.clamp(min=TINY)


def _precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
