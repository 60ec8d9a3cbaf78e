"""Scores: the output of a scorer."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def _optional(called: str) -> Any:
    return dataclasses.field(default=None, metadata={"called": called})


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Estimated loss increases of removing units, by group name, on the CPU; see docs/method.md, section 4.

    Attributes:
        importance: Importance of each unit, [units] float32 or float64, finite and non-negative.
        grads: Gradient of each sample's loss by the mask, [samples, units]; None if the scorer computes none.
        token_weights: Weight of each token: the squared norm of the loss gradient at the consumer's output, one
            [samples, tokens] per batch (docs/method.md, section 8). None if the scorer computes none.
        damage: Loss increase with only the k most important units of the group kept, k = 0..units, [units + 1] float64;
            never rising with k, 0 for all units (docs/method.md, section 4.3). None if the importance is all that the scorer
            computes.
    """

    importance: Mapping[str, Tensor]
    grads: Mapping[str, Tensor] | None = _optional("per-sample gradients")
    token_weights: Mapping[str, tuple[Tensor, ...]] | None = _optional("token weights")
    damage: Mapping[str, Tensor] | None = _optional("damage curves")

    @classmethod
    def optional(cls) -> dict[str, str]:
        """The optional fields and their names in messages."""
        return {each.name: each.metadata["called"] for each in dataclasses.fields(cls) if "called" in each.metadata}

    def only(self, names: Collection[str]) -> Scores:
        """The scores of some groups."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        some: dict[str, Any] = {
            name: values and {group: values[group] for group in values if group in names}
            for name, values in fields.items()
        }
        return Scores(**some)

    def of_batches(self, chosen: slice, sizes: Sequence[int]) -> Scores:
        """The scores with the per-sample fields restricted to some batches.

        Args:
            chosen: Slice over the batches.
            sizes: Number of samples in each batch.
        """
        kept = torch.tensor([size in range(*chosen.indices(len(sizes))) for size in range(len(sizes))])
        rows = kept.repeat_interleave(torch.tensor(sizes))  # [samples]
        grads = self.grads and {name: values[rows] for name, values in self.grads.items()}
        weights = self.token_weights and {name: values[chosen] for name, values in self.token_weights.items()}
        return dataclasses.replace(self, grads=grads, token_weights=weights)

    def damage_of(self, name: str) -> Tensor:
        """Loss increase with only the k most important units of a group kept, k = 0..units: [units + 1] float64.

        Without a damage curve of the scorer, the summed importance of the removed units.
        """
        if self.damage is not None:
            return self.damage[name].double()
        importance = self.importance[name].double().sort().values  # [units], rising
        return torch.cat([importance.new_zeros(1), importance.cumsum(0)]).flip(0)
