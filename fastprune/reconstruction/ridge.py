"""Ridge regression from sums over tokens, with the ridge strength chosen on held-out samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastprune.calibration.gram import damped_cholesky
from fastprune.reconstruction.sums import Statistics

STEPS = (1, 10, 100, 1000)  # ridge strengths tried, as multiples of the damping
DIRECTIONS = 32  # random directions of the hidden states along which ridge strengths are compared


def ridge(
    statistics: Statistics,
    weight: Tensor,
    bias: Tensor | None,
    damping: float,
    generator: torch.Generator | None = None,
    *,
    shifts: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Solve for the consumer's weight and bias by ridge regression toward the original weight.

    The change of the weight is V - W0' = (Xc'Xc + lambda I)^-1 Xc'Ec, with E the error that is left with W0.

    Args:
        statistics: Sums over the tokens of the consumer's inputs X and of the error E.
        weight: The original weight W0, [hidden, features].
        bias: The original bias, [hidden]; None: there is none.
        damping: lambda, relative to the mean diagonal of Xc'Xc; the smallest tried if there are held-out samples.
        generator: As for ``regression``.
        shifts: Return a bias for a consumer without one.

    Returns:
        The new weight [hidden, features] and bias [hidden], in the dtypes of the originals.
    """
    shifts = shifts or bias is not None
    change, shift = regression(statistics, damping, centred=shifts, generator=generator)
    tuned = (weight.double() + change.T).to(weight)
    if not shifts:
        return tuned, None
    return tuned, shift.to(weight) if bias is None else (bias.double() + shift).to(bias)


def regression(
    statistics: Statistics, damping: float, *, centred: bool = True, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Regress the error on the input with ridge damping: e = x change + shift.

    With held-out tokens, the damping is raised (1x, 10x, 100x, 1000x) as long as the held-out error of the regression on the
    other tokens falls; the final solve uses all tokens.

    Args:
        statistics: Sums over the tokens of x [features] and e [hidden].
        damping: lambda relative to the Gram matrix's mean diagonal; the smallest tried if there are held-out tokens.
        centred: Fit a shift; False: the shift is 0.
        generator: Draws the directions in which held-out errors are compared, on the CPU [seed 0].

    Returns:
        The change [features, hidden] and the shift [hidden]; zeros if the weights of the tokens sum to 0.
    """
    whole = statistics.whole
    if float(whole.weight) <= 0.0:  # no token, so no error
        return torch.zeros_like(whole.cross), torch.zeros_like(whole.errors)
    if statistics.held is not None:
        damping = _best_damping(statistics, statistics.held, damping, centred, generator)
    return _Normal.of(whole, centred).solved(damping)


@dataclass(frozen=True)
class _Normal:
    """Normal equations: the centred Gram matrix, the centred right-hand side, and the means."""

    gram: Tensor
    cross: Tensor
    mean_input: Tensor
    mean_error: Tensor

    @staticmethod
    def of(statistics: Statistics, centred: bool) -> _Normal:
        if centred:
            return _Normal(statistics.scatter, statistics.scatter_cross, statistics.mean, statistics.mean_error)
        zeros = torch.zeros_like(statistics.mean), torch.zeros_like(statistics.mean_error)
        return _Normal(statistics.gram, statistics.cross, *zeros)

    def solved(self, damping: float) -> tuple[Tensor, Tensor]:
        """The change [features, hidden] and the shift [hidden]."""
        change = solve_damped(self.gram, self.cross, damping)
        return change, self.mean_error - self.mean_input @ change


def _best_damping(
    statistics: Statistics, held: Statistics, damping: float, centred: bool, generator: torch.Generator | None
) -> float:
    """Raise the damping as long as the held-out error falls.

    The errors are compared along at most 32 random directions of the hidden states, the same for every damping: the full
    hidden size costs more and rarely changes the choice.
    """
    hidden = len(held.errors)
    generator = generator or torch.Generator().manual_seed(0)
    drawn = torch.randn(hidden, min(DIRECTIONS, hidden), generator=generator, dtype=torch.float64)
    directions = torch.linalg.qr(drawn).Q  # orthonormal; with a hidden size of 32 or less, a full basis
    training, held = (_along(each, directions.to(held.errors.device)) for each in (statistics, held))
    normal, best, least = _Normal.of(training, centred), damping, math.inf
    for step in STEPS:
        error = squared_error(held, *normal.solved(step * damping))
        if not error < least:  # a larger damping only raises it further
            break
        best, least = step * damping, error
    return best


def _along(statistics: Statistics, directions: Tensor) -> Statistics:
    """The statistics with the errors projected onto ``directions`` [hidden, directions]."""
    return replace(
        statistics,
        mean_error=statistics.mean_error @ directions,
        scatter_cross=statistics.scatter_cross @ directions,
    )


def squared_error(statistics: Statistics, change: Tensor, shift: Tensor) -> float:
    """Sum of |e - x change - shift|^2 - |e|^2 over the tokens; the constant |e|^2 does not matter to a comparison.

    Args:
        statistics: Sums over the tokens of x [features] and e [hidden].
        change: [features, hidden].
        shift: [hidden].
    """
    spread = (change * (statistics.scatter @ change - 2 * statistics.scatter_cross)).sum()
    left = statistics.mean_error - statistics.mean @ change - shift  # [hidden]
    return float(spread + statistics.weight * (left.square().sum() - statistics.mean_error.square().sum()))


def solve_damped(gram: Tensor, cross: Tensor, damping: float) -> Tensor:
    """Solve (gram + lambda I) x = cross by Cholesky.

    Args:
        gram: [features, features], symmetric.
        cross: [features, hidden].
        damping: lambda relative to gram's mean diagonal.

    Returns:
        x, [features, hidden]; zeros if all inputs are constant.
    """
    scale = float(gram.diagonal().mean()) if len(gram) else 0.0
    if scale <= 0.0:  # no damping would help
        return torch.zeros_like(cross)
    return torch.cholesky_solve(cross, damped_cholesky(gram, max(damping, 1e-12)))
