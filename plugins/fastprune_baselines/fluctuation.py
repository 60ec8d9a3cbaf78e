"""Importance by the variance of a unit's contribution; its mean can be replaced by a bias."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastprune import Batches
from fastprune.strategies import Context, Scorer, Scores
from fastprune.units import Groups, consumer_of
from fastprune_baselines.moments import feature_moments


@dataclass(frozen=True, kw_only=True)
class FluctuationScorer(Scorer):
    """Variance of each feature times the squared norm of its consumer column, standardised in each group.

    Source: FLAP (An et al., AAAI 2024, eq. 5 and 6; docs/method.md, section 4.2). Features are standardised before they are
    averaged over a unit: standardising three heads against each other would always mark one of them as bad. The scores are
    shifted to start at 0, which changes no ranking. To reproduce FLAP, combine with the searcher ``threshold`` and the tuner
    ``bias``.
    """

    name: ClassVar[str] = "fluctuation"
    formula: ClassVar[str] = "mean over the unit of var(x_f) ||W_f||^2, standardised over the features of each group"
    paper: ClassVar[str] = "An et al. (FLAP), AAAI 2024, https://arxiv.org/abs/2312.11983"

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        moments = feature_moments(model, groups, batches)
        standardised = {}
        for group in groups.with_consumer:
            columns = consumer_of(model, group).weight.detach().double().square().sum(0)  # [features]
            raw = moments[group.name].covariance * columns
            deviation = raw.std() if group.features > 1 else raw.new_ones(())
            scores = (raw - raw.mean()) / deviation.clamp(min=1e-30)  # [features]
            standardised[group.name] = scores.unflatten(0, (group.units, group.width)).mean(1).cpu()  # [units]
        lowest = min((float(values.min()) for values in standardised.values() if values.numel()), default=0.0)
        return Scores(importance={name: (values - lowest).float() for name, values in standardised.items()})
