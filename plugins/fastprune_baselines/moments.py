"""First and second moments of the consumers' inputs over the calibration tokens."""

import torch
from torch import Tensor, nn

from fastprune import Batches, track
from fastprune.calibration import Moments, consumer_inputs, real_rows
from fastprune.data import outputs_of, to_device
from fastprune.units import Group, Groups


def feature_moments(model: nn.Module, groups: Groups, batches: Batches) -> dict[str, Moments]:
    """Mean and variance of each consumer's input features over the calibration tokens without padding, by group name."""
    device = next(model.parameters()).device
    sublayers = groups.with_consumer
    moments = {g.name: Moments.zeros(g.features, device, diagonal=True, dtype=torch.float64) for g in sublayers}
    for batch in track(batches.batches, "scoring"):
        batch = to_device(batch, device)

        def add(group: Group, features: Tensor, batch: dict[str, Tensor] = batch) -> None:
            moments[group.name].add(real_rows(features, group, batch).double())  # [tokens, features]

        with consumer_inputs(model, groups, add):
            outputs_of(model, batch, batches.task)
    for name, sums in moments.items():
        sums.check_finite(name)
    return moments
