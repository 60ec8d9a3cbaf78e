"""Capture: a model held still, and what flows into its consumers, seen through hooks that always come off."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.tokens import routed_of, spread
from fastprune.units.groups import Group, Groups, consumer_of


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """While open, the model is in eval mode, no parameter asks for a gradient, and no keys and values are kept: they would
    pile up where a layer runs again and again."""
    modes = [(module, module.training) for module in model.modules()]
    configs: dict[int, Any] = {
        id(module.config): module.config for module in model.modules() if hasattr(module, "config")
    }
    caching = [config for config in configs.values() if vars(config).get("use_cache")]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for config in caching:
        config.use_cache = False
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for config in caching:
            config.use_cache = True
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def consumer_inputs(model: nn.Module, groups: Groups, see: Callable[[Group, Tensor], None]) -> Iterator[None]:
    """While open, every forward pass shows each consumer's input [..., features] to ``see``, once for each time that it
    runs: of all tokens, zeros for those that it does not see. ``real_rows`` leaves padding out."""
    with frozen(model), torch.no_grad(), contextlib.ExitStack() as hooks:
        for group in groups:

            def hook(_: nn.Module, arguments: tuple[Tensor, ...], group: Group = group) -> None:
                see(group, spread(arguments[0][..., : group.features], routed_of(arguments)))

            hooks.callback(consumer_of(model, group).register_forward_pre_hook(hook).remove)
        yield


@contextlib.contextmanager
def tap_entering(model: nn.Module, path: str, see: Callable[[Tensor], None]) -> Iterator[None]:
    """While open, what enters the linear at a path is shown to ``see``."""
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, arguments: see(arguments[0]))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def tap_output(model: nn.Module, path: str, see: Callable[[Tensor], None]) -> Iterator[None]:
    """While open, what the module at a path returns is shown to ``see``: of several values the first."""
    handle = model.get_submodule(path).register_forward_hook(
        lambda _, __, out: see(out[0] if isinstance(out, tuple) else out)
    )
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def tap_residual(model: nn.Module, group: Group, see: Callable[[Tensor], None]) -> Iterator[None]:
    """While open, what the group's consumer is to repair is shown to ``see``: the residual stream after the sublayer."""
    if not group.block.residual or group.block.residual == group.block.consumer:
        with tap_output(model, group.residual, see):
            yield
        return

    def before(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        see(arguments[0] if arguments else next(iter(keywords.values())))

    handle = model.get_submodule(group.residual).register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


Entering = tuple[Tensor, Tensor | None]
"""What a consumer is called with: features, and which tokens they are of where those are only some."""


@contextlib.contextmanager
def tap_consumer(model: nn.Module, group: Group, see: Callable[[Entering], None]) -> Iterator[None]:
    """While open, what the group's consumer is called with is shown to ``see``."""
    consumer = consumer_of(model, group)
    handle = consumer.register_forward_pre_hook(lambda _, arguments: see((arguments[0], routed_of(arguments))))
    try:
        yield
    finally:
        handle.remove()
