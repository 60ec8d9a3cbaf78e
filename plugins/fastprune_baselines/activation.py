"""Importance by output energy: mean squared activation times squared weight norm."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastprune import Batches
from fastprune.strategies import Context, Scorer, Scores
from fastprune.units import Groups, consumer_of
from fastprune_baselines.moments import feature_moments


@dataclass(frozen=True, kw_only=True)
class ActivationScorer(Scorer):
    """Mean square of each feature times the squared norm of its consumer column, summed over the unit's features.

    The criterion of Wanda-sp and the representational part of K-prune's knowledge (Park et al., ICLR 2024; docs/method.md,
    section 4.2).
    """

    name: ClassVar[str] = "activation"
    formula: ClassVar[str] = "sum over the unit of mean(x_f^2) ||W_f||^2"
    paper: ClassVar[str] = "Park et al. (K-prune), ICLR 2024, https://arxiv.org/abs/2308.03449"

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        moments = feature_moments(model, groups, batches)
        importance = {}
        for group in groups.with_consumer:
            columns = consumer_of(model, group).weight.detach().double().square().sum(0)  # [features]
            squares = moments[group.name].gram / moments[group.name].weight.clamp(min=1)  # [features]
            energy = (squares * columns).unflatten(0, (group.units, group.width)).sum(1)
            importance[group.name] = energy.float().cpu()
        return Scores(importance=importance)
