"""Mask tuning: one scale for each kept unit."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastprune import (
    Batches,
    Context,
    Group,
    Groups,
    Reconstruction,
    Samples,
    Scores,
    Solver,
    Statistics,
    Tuner,
    option,
    reconstruct,
)


@dataclass(frozen=True, kw_only=True)
class MaskTuner(Tuner):
    """min over s of || sum_u s_u X_u W_u' + b - D ||^2, damped around s = 1, layer by layer toward the dense model.

    Kwon et al. 2022, section 4.3 and eq. 14: the normal equations by LSMR with damping; a layer whose solution holds
    a scale beyond ``limit`` keeps its mask (METHOD 4). The scales are folded into the consumer's weight.
    """

    name: ClassVar[str] = "mask"
    formula: ClassVar[str] = "min over s of ||sum_u s_u X_u W_u^T + b - D||^2, damped around s = 1"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, section 4.3: https://arxiv.org/abs/2204.09656"
    damp: float = option(1.0, help="LSMR's damping of s - 1, on the normal equations summed over the tokens.")
    limit: float = option(10.0, help="A layer with any |s| above this keeps its untuned mask.")

    def tune(
        self, teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches, scores: Scores, context: Context
    ) -> Reconstruction:
        return reconstruct(teacher, student, groups, Samples(batches), Solver(solve=self._solve), context.states)

    def _solve(
        self, group: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        from scipy.sparse.linalg import lsmr  # takes seconds

        if group.units == 0:
            return weight, bias
        normal, missing = normal_equations(statistics, weight, group.width)
        delta = torch.from_numpy(lsmr(normal.cpu().numpy(), missing.cpu().numpy(), damp=self.damp)[0])  # [units], s - 1
        scales = 1 + delta
        if not bool(torch.isfinite(scales).all()) or float(scales.abs().max()) > self.limit:
            return weight, bias
        return weight * scales.repeat_interleave(group.width).to(weight), bias


def normal_equations(statistics: Statistics, weight: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """A and r of A (s - 1) = r, for the scales of units of ``width`` features each.

    A_uv sums (X_u W_u') . (X_v W_v') over the tokens: the Hadamard product of X'X and W'W, summed over each unit's
    block of features. r_u sums (X_u W_u') . e.

    Args:
        weight: [hidden, features].

    Returns:
        [units, units] and [units], float64.
    """
    weight = weight.double()
    products = statistics.gram * (weight.T @ weight)  # [features, features]
    blocks = products.unflatten(0, (-1, width)).unflatten(2, (-1, width))  # [units, width, units, width]
    missing = (statistics.cross * weight.T).sum(1)  # [features]
    return blocks.sum((1, 3)), missing.unflatten(0, (-1, width)).sum(1)
