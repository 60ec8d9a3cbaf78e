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
    """How much the loss suffers when a unit goes (METHOD 1). By the name of the group, on the CPU.

    Attributes:
        importance: [units], finite and not negative.
        grads: [samples, units], the gradient of each sample's loss by the mask; None where the criterion has none.
        token_weights: One [samples, tokens] for each batch, the squared norm of the loss gradient at the consumer's
            output: how much each token counts (METHOD 4). None where the criterion has none.
        damage: [units + 1] float64, what is lost with only the k most important units of the group kept, for every k
            from none to all: never rising, and 0 for all (METHOD 2). None where the criterion has no more to say than
            the importance.
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
