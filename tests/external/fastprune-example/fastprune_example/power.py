"""Importance by a power mean of the activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastprune import Batches, option
from fastprune.calibration import consumer_inputs
from fastprune.data import outputs_of, to_device, token_mask
from fastprune.strategies import Context, Scorer, Scores
from fastprune.units import Group, Groups, consumer_of


@dataclass(frozen=True, kw_only=True)
class PowerScorer(Scorer):
    """The mean of |x|^power of each consumer input feature, times its column's norm, summed over the unit's features."""

    name: ClassVar[str] = "power"
    power: float = option(
        2.0,
        above=0,
        at_most=10,
        help="The exponent: 1 for the mean size, more to let rare large activations count.",
    )

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        """As ``Scorer.score``."""
        device = next(model.parameters()).device
        sums = {g.name: torch.zeros(g.features, dtype=torch.float64, device=device) for g in groups}
        for batch in batches:
            batch = to_device(batch, device)
            real = token_mask(batch)  # [samples, tokens]

            def see(group: Group, features: Tensor, real: Tensor = real) -> None:
                sums[group.name] += features[real].double().abs().pow(self.power).sum(0)  # [features]

            with consumer_inputs(model, groups, see):
                outputs_of(model, batch, batches.task)
        importance = {}
        for group in groups:
            norms = consumer_of(model, group).weight.detach().double().norm(dim=0)  # [features]
            values = (sums[group.name] / batches.n_tokens * norms).unflatten(0, (group.units, group.width)).sum(1)
            importance[group.name] = values.float().cpu()  # [units]
        return Scores(importance=importance)
