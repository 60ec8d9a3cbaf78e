"""Random importance, the baseline of every comparison."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fastprune import Batches
from fastprune.strategies import Context, Scorer, Scores
from fastprune.units import Groups


@dataclass(frozen=True, kw_only=True)
class RandomScorer(Scorer):
    """A uniform random number per unit times its number of weights, so that heads and filters are pruned at the same rate."""

    name: ClassVar[str] = "random"
    layerwise: ClassVar[bool] = True
    formula: ClassVar[str] = "u times the unit's number of weights, with u uniform in [0, 1)"
    paper: ClassVar[str] = "Mittal et al., 2018, https://arxiv.org/abs/1801.10447"

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        sizes = {group.name: group.width * (len(group.producers) + 1) * group.hidden for group in groups}
        draws = {group.name: torch.rand(group.units, generator=context.generator) for group in groups}
        return Scores(importance={name: draw * sizes[name] for name, draw in draws.items()})
