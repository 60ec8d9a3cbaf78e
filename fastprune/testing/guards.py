"""Context managers around a strategy: its contract is kept, and the model comes out as it went in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.errors import ContractError


@contextlib.contextmanager
def contract_kept() -> Iterator[None]:
    """A broken contract is a failed check."""
    try:
        yield
    except ContractError as error:
        raise AssertionError(str(error)) from error


@contextlib.contextmanager
def untouched(model: nn.Module, who: str) -> Iterator[None]:
    """The model comes out exactly as it went in."""
    before = state_of(model)
    yield
    for what, value in state_of(model).items():
        assert value == before[what], f"The {who} changed the model's {what}; it must leave the model as it was."


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything that a careless strategy may leave changed, comparable by ==."""
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
