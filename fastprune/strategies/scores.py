"""Scores: what a scorer says about every unit."""

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
    """Importance of units, and optional scores of some criteria, by group name, on the CPU (docs/method.md, section 4).

    Attributes:
        importance: Importance of each unit, [units]; finite and not negative.
        grads: Gradient of each sample's loss with respect to the mask, [samples, units]; None: the criterion computes none.
        token_weights: Squared norm of the loss gradient at the consumer's output, the weight of each token in reconstruction: one
            [samples, tokens] per batch. None: the criterion computes none.
        damage: Damage curve: the loss increase with only the k most important units kept, for k from 0 to all, [units + 1]
            float64; never rising, and 0 for all units. None: the criterion gives only importance.
    """

    importance: Mapping[str, Tensor]
    grads: Mapping[str, Tensor] | None = _optional("per-sample gradients")
    token_weights: Mapping[str, tuple[Tensor, ...]] | None = _optional("token weights")
    damage: Mapping[str, Tensor] | None = _optional("damage curves")

    @classmethod
    def optional(cls) -> dict[str, str]:
        """The fields that not every scorer fills, and what messages call them."""
        return {each.name: each.metadata["called"] for each in dataclasses.fields(cls) if "called" in each.metadata}

    def only(self, names: Collection[str]) -> Scores:
        """The scores of some groups alone."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        some: dict[str, Any] = {
            name: values and {group: values[group] for group in values if group in names}
            for name, values in fields.items()
        }
        return Scores(**some)

    def of_batches(self, chosen: slice, sizes: Sequence[int]) -> Scores:
        """The scores with what they say of samples for some of the batches alone.

        Args:
            chosen: Which of the batches.
            sizes: The samples of each batch.
        """
        kept = torch.tensor([size in range(*chosen.indices(len(sizes))) for size in range(len(sizes))])
        rows = kept.repeat_interleave(torch.tensor(sizes))  # [samples]
        grads = self.grads and {name: values[rows] for name, values in self.grads.items()}
        weights = self.token_weights and {name: values[chosen] for name, values in self.token_weights.items()}
        return dataclasses.replace(self, grads=grads, token_weights=weights)

    def damage_of(self, name: str) -> Tensor:
        """What is lost with only the k most important units of a group kept, k = 0..units: [units + 1] float64.

        The criterion's own curve, or else the importance of the units that go.
        """
        if self.damage is not None:
            return self.damage[name].double()
        importance = self.importance[name].double().sort().values  # [units], the least first
        return torch.cat([importance.new_zeros(1), importance.cumsum(0)]).flip(0)
