"""Capture: a model held still, and what flows into its consumers, seen through hooks that always come off."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from fastprune.groups import Group, Groups, consumer_of


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """While open, the model is in eval mode and no parameter asks for a gradient."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def consumer_inputs(model: nn.Module, groups: Groups, see: Callable[[Group, Tensor], None]) -> Iterator[None]:
    """While open, every forward pass shows each consumer's input [samples, tokens, features] to ``see``."""
    with frozen(model), torch.no_grad(), contextlib.ExitStack() as hooks:
        for group in groups:

            def hook(_: nn.Module, arguments: tuple[Tensor, ...], group: Group = group) -> None:
                see(group, arguments[0])

            hooks.callback(consumer_of(model, group).register_forward_pre_hook(hook).remove)
        yield
