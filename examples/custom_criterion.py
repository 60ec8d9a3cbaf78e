"""A criterion of one's own, used without installing anything.

python examples/custom_criterion.py MODEL DATA
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

import fastprune


@dataclass(frozen=True, kw_only=True)
class ConsumerNorm(fastprune.Scorer):
    """The norm of the columns that carry a unit's features into the residual stream."""

    name: ClassVar[str] = "consumer-norm"
    order: float = fastprune.option(2.0, help="Of the norm.")

    def score(
        self, model: nn.Module, groups: fastprune.Groups, batches: fastprune.Batches, generator: torch.Generator
    ) -> fastprune.Scores:
        importance = {}
        for group in groups:
            weight = fastprune.consumer_of(model, group).weight.detach()  # [hidden, features]
            columns = weight.unflatten(1, (group.units, group.width))  # [hidden, units, width]
            importance[group.name] = columns.norm(p=self.order, dim=(0, 2)).cpu()  # [units]
        return fastprune.Scores(importance=importance)


def main(model: str, data: str) -> None:
    """Prune half of the MACs by the new criterion; rearrangement needs gradients, which it does not give."""
    opened = fastprune.open_pretrained(model)
    batches = fastprune.make_batches(data, opened.task, opened.tokenizer, samples=256)
    result = fastprune.prune(opened, batches, budget=0.5, scorer=ConsumerNorm(order=1.0), rearranger="none")
    for group in result.kept():
        print(f"{group['name']:<28} {group['kept']:>5} of {group['units']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
