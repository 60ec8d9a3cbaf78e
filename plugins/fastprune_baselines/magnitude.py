"""Importance by weight magnitude."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastprune import Batches, Context, Group, Groups, Scorer, Scores, consumer_of, producers_of


@dataclass(frozen=True, kw_only=True)
class MagnitudeScorer(Scorer):
    """Squared l2 norm of a unit's weights: its rows of the producers and its columns of the consumer."""

    name: ClassVar[str] = "magnitude"
    layerwise: ClassVar[bool] = True
    formula: ClassVar[str] = "sum of w^2 over the unit's rows of the producers and columns of the consumer"
    paper: ClassVar[str] = "Li et al. (there the l1 norm), ICLR 2017, https://arxiv.org/abs/1608.08710"

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        return Scores(importance={group.name: squared_norms(model, group) for group in groups})


@torch.no_grad()
def squared_norms(model: nn.Module, group: Group) -> Tensor:
    """Squared l2 norm of each unit's weights in the producers and the consumer: [units] float32, on the CPU."""
    columns: Tensor = consumer_of(model, group).weight.float().square().sum(0)  # [features]
    norms: Tensor = columns.unflatten(0, (group.units, group.width)).sum(1)
    for linear, rows in zip(producers_of(model, group), group.rows, strict=True):
        squares = linear.weight.float().square().sum(1)  # [rows]
        for unit in range(group.units) if rows.fused else ():
            norms[unit] += squares[rows.own(unit, group.units)].sum()
        if not rows.fused:
            norms += squares.unflatten(0, (group.units, -1)).sum(1)
    return norms.cpu()
