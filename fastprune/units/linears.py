"""Linears: what can be sliced, read alike whichever way round its weight lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from fastprune.errors import ModelError

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


def in_order(linear: nn.Linear, repeats: int, units: int) -> nn.Linear:
    """A consumer whose units come round so many times, seen with each unit's columns side by side."""
    columns = torch.arange(linear.in_features, device=linear.weight.device)
    order = columns.unflatten(0, (repeats, units, -1)).transpose(0, 1).flatten()  # [units * repeats * run]
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


@torch.no_grad()
def keep_rows(linear: nn.Linear, rows: Tensor) -> None:
    """Leave only some outputs of a linear, in place."""
    module, dimension = _owner(linear, 0)
    module.weight = _chosen(module.weight, dimension, rows)
    if module.bias is not None:
        module.bias = _chosen(module.bias, 0, rows)
    _set_sizes(module)


@torch.no_grad()
def keep_columns(linear: nn.Linear, columns: Tensor) -> None:
    """Leave only some inputs of a linear, in place."""
    module, dimension = _owner(linear, 1)
    module.weight = _chosen(module.weight, dimension, columns)
    _set_sizes(module)


@torch.no_grad()
def keep_table(model: nn.Module, path: str, units: Tensor) -> None:
    """Leave only some columns of a parameter [..., units], in place."""
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, _chosen(model.get_parameter(path), -1, units))


def _owner(linear: nn.Linear, dimension: int) -> tuple[Any, int]:
    """The module that holds the weight, and which of its dimensions is meant by one of [out, in]."""
    return (linear.module, 1 - dimension) if isinstance(linear, TransposedLinear) else (linear, dimension)


def _chosen(tensor: Tensor, dimension: int, indices: Tensor) -> nn.Parameter:
    chosen = tensor.index_select(dimension, indices.to(tensor.device)).contiguous()
    return nn.Parameter(chosen, requires_grad=tensor.requires_grad)


def _set_sizes(module: Any) -> None:
    if isinstance(module, Conv1D):
        module.nx, module.nf = module.weight.shape
    else:
        module.out_features, module.in_features = module.weight.shape
