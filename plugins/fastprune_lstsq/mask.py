"""Mask tuning: one scale for each kept unit."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastprune import Batches, option
from fastprune.reconstruction import Samples, Solver, Statistics, reconstruct
from fastprune.strategies import Context, Reconstruction, Scores, Tuner
from fastprune.units import Group, Groups


@dataclass(frozen=True, kw_only=True)
class MaskTuner(Tuner):
    """Mask tuning: scale each kept unit to minimise || sum_u s_u X_u W_u' + b - D ||^2, layer by layer.

    D is the dense model's residual stream after the sublayer. LSMR solves the normal equations with damping around s = 1; a
    layer with any |s| above ``limit`` keeps its mask unscaled. The scales are folded into the consumer's weight (Kwon et al.,
    NeurIPS 2022, section 4.3 and eq. 14; docs/method.md, section 8.2).
    """

    name: ClassVar[str] = "mask"
    adds_biases: ClassVar[bool] = False
    formula: ClassVar[str] = "min over s of ||sum_u s_u X_u W_u^T + b - D||^2, damped around s = 1"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, section 4.3: https://arxiv.org/abs/2204.09656"
    damp: float = option(
        1.0, at_least=0, at_most=1e6, help="LSMR damping of s - 1; the normal equations are sums over the tokens."
    )
    limit: float = option(
        10.0,
        at_least=1,
        at_most=1e6,
        help="Largest |s| accepted; a layer with a larger scale keeps its untuned mask.",
    )

    def tune(
        self, teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches, scores: Scores, context: Context
    ) -> Reconstruction:
        return reconstruct(
            teacher, student, groups, Samples(batches), Solver(solve=self._solve), context.states, context.journal
        )

    def _solve(
        self, group: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        from scipy.sparse.linalg import lsmr  # imported here because it takes seconds

        if group.units == 0:
            return weight, bias
        normal, right = normal_equations(statistics, weight, group.width)
        delta = torch.from_numpy(lsmr(normal.cpu().numpy(), right.cpu().numpy(), damp=self.damp)[0])  # [units], s - 1
        scales = 1 + delta
        if not bool(torch.isfinite(scales).all()) or float(scales.abs().max()) > self.limit:
            return weight, bias
        return weight * scales.repeat_interleave(group.width).to(weight), bias


def normal_equations(statistics: Statistics, weight: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Build the normal equations A (s - 1) = r for the scales of a group's units.

    A_uv is the sum of (X_u W_u') . (X_v W_v') over the tokens: the Hadamard product of X'X and W'W, summed over each unit's
    block of features. r_u is the sum of (X_u W_u') . e.

    Args:
        statistics: Sums over the tokens of X'X [features, features] and X'e [features, hidden].
        weight: The consumer's weight W, [hidden, features].
        width: Features per unit.

    Returns:
        A [units, units] and r [units], float64.
    """
    weight = weight.double()
    products = statistics.gram * (weight.T @ weight)  # [features, features]
    blocks = products.unflatten(0, (-1, width)).unflatten(2, (-1, width))  # [units, width, units, width]
    right = (statistics.cross * weight.T).sum(1)  # [features]
    return blocks.sum((1, 3)), right.unflatten(0, (-1, width)).sum(1)
