"""Ridge regression from sums, with as much ridge as what is held back asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastprune import Statistics

STEPS = (1, 10, 100, 1000)  # of the ridge, as multiples of the damping
DIRECTIONS = 32  # of the hidden states, along which ridges are compared


def ridge(
    statistics: Statistics,
    weight: Tensor,
    bias: Tensor | None,
    damping: float,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The weight [hidden, features] and bias [hidden] that repair the error best.

    Written in the change of the weight: V - W0' = (Xc'Xc + lambda I)^-1 Xc'Ec, E being what is missing with W0.
    """
    change, shift = regression(statistics, damping, generator=generator)
    tuned = (weight.double() + change.T).to(weight)
    return tuned, shift.to(weight) if bias is None else (bias.double() + shift).to(bias)


def regression(
    statistics: Statistics, damping: float, *, centred: bool = True, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """The damped regression of the error on the input: e is about x change + shift.

    Where tokens are held back, the damping is raised step by step as long as the regression on the others misses less of them;
    what is returned is of all tokens.

    Args:
        statistics: Of x [features] and e [hidden].
        damping: lambda relative to the Gram matrix's mean diagonal; the least, where tokens are held back.
        centred: Whether there is a shift; else it is 0.
        generator: Draws the directions in which held-out errors are compared, on the CPU [seed 0].

    Returns:
        The change [features, hidden] and the shift [hidden]; zeros where no token counts.
    """
    whole = statistics.whole
    if float(whole.weight) <= 0.0:  # so nothing is to be repaired
        return torch.zeros_like(whole.cross), torch.zeros_like(whole.errors)
    if statistics.held is not None:
        damping = _chosen(statistics, statistics.held, damping, centred, generator)
    return _Normal.of(whole, centred).solved(damping)


@dataclass(frozen=True)
class _Normal:
    """Normal equations: the Gram matrix, its right side, and the means that they are centred around."""

    gram: Tensor
    cross: Tensor
    mean_input: Tensor
    mean_error: Tensor

    @staticmethod
    def of(statistics: Statistics, centred: bool) -> _Normal:
        weight = (float(statistics.weight) or math.inf) if centred else math.inf  # sums of no token are zeros
        mean_input, mean_error = statistics.inputs / weight, statistics.errors / weight
        gram = statistics.gram - torch.outer(mean_input, statistics.inputs)  # Xc'Xc
        cross = statistics.cross - torch.outer(mean_input, statistics.errors)  # Xc'Ec
        return _Normal(gram, cross, mean_input, mean_error)

    def solved(self, damping: float) -> tuple[Tensor, Tensor]:
        """The change [features, hidden] and the shift [hidden]."""
        change = solve_damped(self.gram, self.cross, damping)
        return change, self.mean_error - self.mean_input @ change


def _chosen(
    statistics: Statistics, held: Statistics, damping: float, centred: bool, generator: torch.Generator | None
) -> float:
    """The damping, raised as long as what is held back is the better for it.

    The errors are compared in random directions of the hidden states, the same ones for all: all of them say little more.
    """
    hidden = len(held.errors)
    generator = generator or torch.Generator().manual_seed(0)
    drawn = torch.randn(hidden, min(DIRECTIONS, hidden), generator=generator, dtype=torch.float64)
    directions = torch.linalg.qr(drawn).Q  # at right angles: of few hidden states they are all that there is
    shown, held = (_along(each, directions.to(held.errors.device)) for each in (statistics, held))
    normal, best, least = _Normal.of(shown, centred), damping, math.inf
    for step in STEPS:
        now = missed(held, *normal.solved(step * damping))
        if not now < least:  # it only gets worse from here
            break
        best, least = step * damping, now
    return best


def _along(statistics: Statistics, directions: Tensor) -> Statistics:
    """With errors along some directions [hidden, directions] alone."""
    return replace(statistics, errors=statistics.errors @ directions, cross=statistics.cross @ directions)


def missed(statistics: Statistics, change: Tensor, shift: Tensor) -> float:
    """The sum of |e - x change - shift|^2 over the tokens, but for that of e^2, which is the same for all."""
    explained = 2 * (change * statistics.cross).sum() + 2 * shift @ statistics.errors
    own = (change * (statistics.gram @ change)).sum() + 2 * shift @ (statistics.inputs @ change)
    return float(own - explained + statistics.weight * (shift @ shift))


def solve_damped(gram: Tensor, cross: Tensor, damping: float) -> Tensor:
    """(gram + lambda I)^-1 cross, by Cholesky with as much more damping as it takes.

    Args:
        gram: [features, features], symmetric.
        cross: [features, hidden].
        damping: lambda relative to gram's mean diagonal.

    Returns:
        [features, hidden]; zeros where the inputs do not vary at all.
    """
    scale = float(gram.diagonal().mean()) if len(gram) else 0.0
    if not 0.0 < scale < float("inf"):  # not a number, either: no jitter would ever be enough
        return torch.zeros_like(cross)
    jitter = max(damping, 1e-12)
    while True:
        damped = gram.clone()
        damped.diagonal().add_(jitter * scale)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            return torch.cholesky_solve(cross, factor)
        jitter *= 10
