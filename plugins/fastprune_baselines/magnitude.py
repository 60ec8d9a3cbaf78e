"""Importance by weight magnitude."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastprune import Batches
from fastprune.strategies import Context, Scorer, Scores
from fastprune.units import Group, Groups


@dataclass(frozen=True, kw_only=True)
class MagnitudeScorer(Scorer):
    """Squared l2 norm of a unit's weights: rows of producers and columns of a consumer, rows of an embedding."""

    name: ClassVar[str] = "magnitude"
    layerwise: ClassVar[bool] = True
    formula: ClassVar[str] = "sum of w^2 over the unit's rows of the producers and columns of the consumer"
    paper: ClassVar[str] = "Li et al. (there the l1 norm), ICLR 2017, https://arxiv.org/abs/1608.08710"

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        return Scores(importance={group.name: squared_norms(model, group) for group in groups})


@torch.no_grad()
def squared_norms(model: nn.Module, group: Group) -> Tensor:
    """Squared l2 norm of the weights that each unit owns, tied ones counted once, without biases and tables: [units]."""
    norms, units, seen = torch.zeros(group.units), torch.arange(group.units), set[int]()
    for cut in group.cuts:
        tensor = cut.tensor(model)
        if cut.name != "weight" or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        others = [dimension for dimension in range(tensor.dim()) if dimension != cut.dimension]
        squares = tensor.float().square().sum(others)  # [positions]
        norms += squares[cut.positions.of(units.to(squares.device))].sum(1).cpu()  # [units, positions of each] before
    return norms
