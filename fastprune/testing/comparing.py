"""Comparison of models and tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastprune.calibration.tokens import real_rows
from fastprune.data.batches import Batches, model_inputs, outputs_of
from fastprune.units.groups import Groups


def all_outputs(model: nn.Module, batches: Batches) -> list[Tensor]:
    """Every tensor that the model returns, over all batches."""
    outputs = []
    for batch in batches:
        output = outputs_of(model, batch, batches.task)
        outputs += [value for value in output.values() if isinstance(value, Tensor)]
    return outputs


def largest_difference(ones: list[Tensor], others: list[Tensor]) -> float:
    """The largest absolute difference of two lists of tensors, relative to a tensor's largest value if that exceeds 1."""
    pairs = list(zip(ones, others, strict=True))
    return max(float((one - other).abs().max()) / max(1.0, float(one.abs().max())) for one, other in pairs)


def relative_difference(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference, relative to the largest absolute value of ``one``."""
    if one.numel() == 0:
        return 0.0
    return float((one - other).abs().max()) / max(float(one.abs().max()), 1e-12)


def same_tensors(ones: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Whether two mappings have the same names and equal tensors."""
    return ones.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in ones.items())


@torch.no_grad()
def hidden_error(teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches) -> float:
    """Mean squared error of the last hidden states, over the tokens without padding."""
    total, count = 0.0, 0
    for batch in batches:
        inputs = model_inputs(batch, batches.task)
        outputs = [getattr(model, "base_model", model)(**inputs)[0] for model in (teacher, student)]
        states = [real_rows(output, groups.items[-1], batch) for output in outputs]  # [tokens, hidden]
        total += float((states[0] - states[1]).double().square().sum())
        count += states[0].numel()
    return total / count
