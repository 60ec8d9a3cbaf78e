"""Linears: one interface to all modules that can be sliced, independent of how their weight is stored."""

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
    """A ``Conv1D`` as ``nn.Linear``: its weight is a view [out, in] of the module's own [in, out].

    All other attributes, such as the registration of hooks, are the module's.
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
    """A consumer whose units are laid out in several rounds, viewed with each unit's columns side by side.

    The weight [out, in] is a copy of the module's in that order; hooks receive, and may change, inputs in that order.
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
        """Like a module's method of this name."""

        def ordered(module: nn.Module, arguments: tuple[Any, ...]) -> Any:
            changed = hook(module, self._ordered(arguments))
            return None if changed is None else (changed[0][..., self.back], *changed[1:])

        return self.linear.register_forward_pre_hook(ordered)

    def register_forward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Like a module's method of this name."""
        return self.linear.register_forward_hook(
            lambda module, arguments, output: hook(module, self._ordered(arguments), output)
        )

    def _ordered(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (arguments[0][..., self.order], *arguments[1:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.linear, name)


def in_order(linear: nn.Linear, columns: Positions) -> nn.Linear:
    """View of a consumer with these columns in which each unit's columns are side by side."""
    order = columns.of(torch.arange(columns.units, device=linear.weight.device)).flatten()  # [features]
    return OrderedLinear(linear, order)  # type: ignore[return-value]


def as_lying(linear: nn.Linear, features: Tensor) -> Tensor:
    """Convert a consumer's inputs or weight [..., features] from the order of the units to the module's own order."""
    return features[..., linear.back] if isinstance(linear, OrderedLinear) else features


def linear_at(model: nn.Module, path: str) -> nn.Linear:
    """The linear at a path.

    Raises:
        ModelError: The module at the path is not a linear, or its weight is not one plain floating-point parameter.
    """
    module = model.get_submodule(path)
    if not isinstance(module, LINEARS):
        raise ModelError(
            f"'{path}' is a {type(module).__name__}; fastprune slices torch.nn.Linear and transformers' Conv1D."
        )
    check_plain(module, path)
    return as_linear(module)


def check_plain(module: nn.Module, path: str) -> None:
    """Raise ``ModelError`` for a linear whose weight is computed from other tensors, is packed or quantised, or is not alone."""
    found = "" if isinstance(module, Conv1D) else _oddity(module)
    if found:
        raise ModelError(f"The linear '{path}' cannot be sliced: {found}.")


def _oddity(linear: Any) -> str:
    """What is special about the weight of an ``nn.Linear``, with what to do; empty for a plain one."""
    others = sorted(set(linear._parameters) - {"weight", "bias"})
    if hasattr(linear, "parametrizations"):
        return "its weight is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first"
    if any(name.endswith("_mask") for name in linear._buffers):
        return "its weight is masked by torch.nn.utils.prune; call torch.nn.utils.prune.remove first"
    weight = linear.weight
    kind, shape = type(weight.data), (linear.out_features, linear.in_features)
    plain = kind in (Tensor, nn.Parameter) or kind.__module__.startswith("torch.distributed.")
    if not weight.is_floating_point() or weight.element_size() < 2 or tuple(weight.shape) != shape or not plain:
        return (
            f"its weight is packed or quantised ({kind.__name__} of {str(weight.dtype).removeprefix('torch.')}, "
            f"{list(weight.shape)} for {list(shape)}); prune the model in float16, bfloat16 or float32, and quantise the result"
        )
    if others:
        return f"a {type(linear).__name__} also has {', '.join(others)}; merge them into its weight first"
    return ""


def as_linear(module: nn.Module) -> nn.Linear:
    """The module itself, or a transposed view if it is a ``Conv1D``."""
    return TransposedLinear(module) if isinstance(module, Conv1D) else module  # type: ignore[return-value]


def stored_dimension(module: nn.Module, dimension: int) -> int:
    """Dimension of the stored weight for dimension 0 (outputs) or 1 (inputs) of [out, in]."""
    return 1 - dimension if isinstance(module, Conv1D) else dimension
