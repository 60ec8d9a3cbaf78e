"""Rearrangement: swap kept and pruned units within a group to lower their joint Fisher loss."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fastprune import option, track
from fastprune.strategies import Context, Rearranger, Scores
from fastprune.units import Mask


@dataclass(frozen=True, kw_only=True)
class FisherRearranger(Rearranger):
    """Swap kept and pruned units of each group to minimise (1 - m)' I_g (1 - m).

    I_g is the group's block of the mask's Fisher information. Starts from the searched mask and stops at a local optimum, where
    no single swap lowers the objective (Kwon et al., NeurIPS 2022, section 4.2; docs/method.md, section 6).
    """

    name: ClassVar[str] = "fisher"
    formula: ClassVar[str] = "minimise (1 - m)^T I_g (1 - m) over swaps, with I_g = 1/n G_g^T G_g"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, https://arxiv.org/abs/2204.09656"
    shrinkage: float = option(
        0.0, at_least=0, at_most=1, help="Shrinkage of I_g toward its diagonal; 1 ignores interactions of units."
    )

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"grads"})

    def rearrange(self, mask: Mask, scores: Scores, context: Context) -> Mask:
        assert scores.grads is not None
        values = {}
        for name in track(list(mask), "rearranging"):
            kept = mask[name]
            if not kept.any() or kept.all():
                values[name] = kept
                continue
            gram = (scores.grads[name].T @ scores.grads[name]).double()  # [units, units]
            diagonal = gram.diagonal().clone()
            gram.mul_(1 - self.shrinkage).diagonal().copy_(diagonal)  # in place: gigabytes for wide groups
            values[name] = torch.from_numpy(swap(gram.numpy(), kept.numpy()))
        return Mask(values)


def swap(gram: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Minimise 1_P' K 1_P over sets P of pruned units of a fixed size, by single swaps down to a local optimum.

    Args:
        gram: K, [units, units], symmetric and positive semi-definite.
        kept: Initial mask, [units].

    Returns:
        Mask with as many kept units, [units]; its objective is at most that of ``kept``.
    """
    pruned = ~kept
    diagonal = gram.diagonal()
    joint = gram @ pruned  # [units], K 1_P
    tolerance = 1e-12 * max(float(diagonal.max()), 0.0)
    changed = True
    while changed:
        changed = False
        for unit in np.flatnonzero(pruned):
            without = joint - gram[unit]  # K 1_P once the unit is put back; rows lie together in memory, columns do not
            cost = np.where(pruned, np.inf, 2 * without + diagonal)  # of pruning another unit instead, [units]
            other = int(cost.argmin())
            if cost[other] < 2 * without[unit] + diagonal[unit] - tolerance:
                joint = without + gram[other]
                pruned[unit], pruned[other] = False, True
                changed = True
    return ~pruned
