"""Linears: what can be sliced, read alike whichever way round its weight lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from fastprune.errors import ModelError
from fastprune.units.cuts import Positions

LINEARS = (nn.Linear, Conv1D)
"""The modules that can be sliced."""


class TransposedLinear:
    """A ``Conv1D`` seen as the ``nn.Linear`` that it is: its weight is a view [out, in] of the module's own [in, out].

    Whatever else is asked of it, such as registering a hook, is asked of the module.
    """

    def __init__(self, module: Conv1D) -> None:
        self.module = module
        self.in_features, self.out_features = module.weight.shape

    @property
    def weight(self) -> Tensor:
        return self.module.weight.T

    @property
    def bias(self) -> nn.Parameter:
        return self.module.bias

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.module.parameters()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


class OrderedLinear:
    """A consumer whose units come round several times, seen with each unit's columns side by side.

    Its weight [out, in] is a copy of the module's own in that order; hooks see, and may change, inputs in that order.
    """

    def __init__(self, linear: nn.Linear, order: Tensor) -> None:
        self.linear, self.order, self.back = linear, order, order.argsort()
        self.in_features, self.out_features = linear.in_features, linear.out_features

    @property
    def weight(self) -> Tensor:
        return self.linear.weight[:, self.order]

    @property
    def bias(self) -> nn.Parameter:
        return self.linear.bias

    def register_forward_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """As a module's own."""

        def ordered(module: nn.Module, arguments: tuple[Any, ...]) -> Any:
            changed = hook(module, self._ordered(arguments))
            return None if changed is None else (changed[0][..., self.back], *changed[1:])

        return self.linear.register_forward_pre_hook(ordered)

    def register_forward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """As a module's own."""
        return self.linear.register_forward_hook(
            lambda module, arguments, output: hook(module, self._ordered(arguments), output)
        )

    def _ordered(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (arguments[0][..., self.order], *arguments[1:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.linear, name)


def in_order(linear: nn.Linear, columns: Positions) -> nn.Linear:
    """A consumer with these columns, seen with each unit's columns side by side."""
    order = columns.of(torch.arange(columns.units, device=linear.weight.device)).flatten()  # [features]
    return OrderedLinear(linear, order)  # type: ignore[return-value]


def as_lying(linear: nn.Linear, features: Tensor) -> Tensor:
    """A consumer's inputs or weight [..., features] in the order of the units, as the module itself has them."""
    return features[..., linear.back] if isinstance(linear, OrderedLinear) else features


def linear_at(model: nn.Module, path: str) -> nn.Linear:
    """The linear at a path.

    Raises:
        ModelError: Something else is there.
    """
    module = model.get_submodule(path)
    if not isinstance(module, LINEARS):
        raise ModelError(
            f"'{path}' is a {type(module).__name__}; fastprune slices torch.nn.Linear and transformers' Conv1D."
        )
    return as_linear(module)


def as_linear(module: nn.Module) -> nn.Linear:
    """The module itself, or a view of it where its weight is transposed."""
    return TransposedLinear(module) if isinstance(module, Conv1D) else module  # type: ignore[return-value]


def stored_dimension(module: nn.Module, dimension: int) -> int:
    """Where a linear's weight has, as it is stored, dimension 0 (outputs) or 1 (inputs) of [out, in]."""
    return 1 - dimension if isinstance(module, Conv1D) else dimension
