"""Context managers for checks of strategies: contract errors become failures, and the model must stay unchanged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.errors import ContractError


@contextlib.contextmanager
def contract_kept() -> Iterator[None]:
    """Convert a ContractError to an AssertionError."""
    try:
        yield
    except ContractError as error:
        raise AssertionError(str(error)) from error


@contextlib.contextmanager
def untouched(model: nn.Module, who: str) -> Iterator[None]:
    """Raise an AssertionError if the model's state differs after the context."""
    before = state_of(model)
    yield
    for name, value in state_of(model).items():
        assert value == before[name], f"The {who} changed the model's {name}; it must leave the model unchanged."


def state_of(model: nn.Module) -> dict[str, Any]:
    """The weights, flags, modes and hooks of a model, comparable by ==."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "weights": {name: _bytes(tensor) for name, tensor in tensors},
        "requires_grad": {name: tensor.requires_grad for name, tensor in tensors},
        "gradients": {name: tensor.grad is None for name, tensor in tensors if tensor.is_leaf},
        "training modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: _hooks(module) for name, module in model.named_modules()},
        "forward methods": {name for name, module in model.named_modules() if "forward" in vars(module)},
    }


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _hooks(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for kind in kinds)
