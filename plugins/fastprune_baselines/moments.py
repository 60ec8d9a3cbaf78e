"""First and second moments of the consumers' inputs over the calibration tokens."""

import torch
from torch import Tensor, nn

from fastprune import Batches, Groups, consumer_inputs, outputs_of, real_rows, to_device, track


def feature_moments(model: nn.Module, groups: Groups, batches: Batches) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and mean square of each consumer's input features over the calibration tokens without padding.

    Returns:
        By group name, the mean and the mean square, each [features] float64; zeros if no token reached the group.
    """
    device = next(model.parameters()).device
    sums = {g.name: torch.zeros(2, g.features, dtype=torch.float64, device=device) for g in groups.with_consumer}
    tokens = dict.fromkeys(sums, 0)
    for batch in track(batches.batches, "scoring"):
        batch = to_device(batch, device)

        def add(group, features, batch=batch):  # type: ignore[no-untyped-def]
            values = real_rows(features, group, batch).double()  # [tokens, features]
            tokens[group.name] += len(values)
            sums[group.name] += torch.stack([values.sum(0), values.square().sum(0)])

        with consumer_inputs(model, groups, add):
            outputs_of(model, batch, batches.task)
    return {name: (total[0] / max(tokens[name], 1), total[1] / max(tokens[name], 1)) for name, total in sums.items()}
