"""Scores: what a scorer says about every unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How much the loss suffers when a unit goes (METHOD 1). By the name of the group, on the CPU.

    Attributes:
        importance: [units], finite and not negative.
        grads: [samples, units], the gradient of each sample's loss by the mask; None where the criterion has none.
        token_weights: One [samples, tokens] for each batch, the squared norm of the loss gradient at the consumer's
            output: how much each token counts (METHOD 4). None where the criterion has none.
    """

    importance: Mapping[str, Tensor]
    grads: Mapping[str, Tensor] | None = None
    token_weights: Mapping[str, tuple[Tensor, ...]] | None = None
