"""Weights of several types in one model: whether it runs with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastprune.data.batches import inputs_for
from fastprune.data.workload import dummy_inputs, readings_for
from fastprune.errors import FastpruneError, ModelError
from fastprune.models.weights import first_lines


def check_runs(model: nn.Module) -> None:
    """Run a model whose parameters have several floating-point types on made-up inputs. Some families have such, others are half
    converted.

    Raises:
        ModelError: A product mixes two types.
    """
    first: dict[torch.dtype, str] = {}
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            first.setdefault(parameter.dtype, name)
    if len(first) < 2:
        return
    training = [module for module in model.modules() if module.training]
    try:
        inputs: Any = inputs_for(model, dummy_inputs(model, [readings_for(model, 4)]))
        with torch.no_grad():
            model.eval()(**inputs)
    except (FastpruneError, ValueError, TypeError, KeyError, IndexError):
        return  # no model that inputs can be made up for
    except RuntimeError as error:
        if "dtype" not in str(error) and "type" not in str(error):
            return
        found = ", ".join(f"{str(dtype).removeprefix('torch.')} ('{name}')" for dtype, name in first.items())
        raise ModelError(
            f"The weights of the {type(model).__name__} have several types, {found}, and it does not run with them: "
            f"{first_lines(error)}. Give all weights one type: model.to({next(iter(first))})."
        ) from error
    finally:
        for module in training:
            module.training = True
