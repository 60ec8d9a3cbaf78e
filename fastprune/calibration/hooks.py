"""Context managers that freeze a model, and hooks that capture tensors inside it and are always removed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.tokens import routed_of, spread
from fastprune.units.groups import Group, Groups, consumer_of

one_at_a_time = threading.RLock()
"""Held while a model is frozen or pruned. torch's counter of operations and the hooks on a model serve the whole process, so
that threads would see each other's runs, and keep each other's frozen flags."""


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the context, every module is in evaluation mode; afterwards each module's previous mode is restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within the context, the model is in eval mode, no parameter requires a gradient, and the KV cache is off.

    The cache would grow each time a layer runs again. Other threads wait until the context ends (``one_at_a_time``).
    """
    with one_at_a_time, _frozen(model):
        yield


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    configs: dict[int, Any] = {
        id(module.config): module.config for module in model.modules() if hasattr(module, "config")
    }
    caching = [config for config in configs.values() if vars(config).get("use_cache")]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for config in caching:
        config.use_cache = False
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        with evaluating(model):
            yield
    finally:
        for config in caching:
            config.use_cache = True
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def consumer_inputs(model: nn.Module, groups: Groups, see: Callable[[Group, Tensor], None]) -> Iterator[None]:
    """Within the context, each run of a consumer calls ``see`` with its group and its input [..., features].

    The input has rows for all tokens, with zeros for tokens not routed to an expert. ``real_rows`` removes padding.
    """
    with frozen(model), torch.no_grad(), contextlib.ExitStack() as hooks:
        for group in groups.with_consumer:

            def hook(_: nn.Module, arguments: tuple[Tensor, ...], group: Group = group) -> None:
                see(group, spread(arguments[0][..., : group.features], routed_of(arguments)))

            hooks.callback(consumer_of(model, group).register_forward_pre_hook(hook).remove)
        yield


@contextlib.contextmanager
def tap_entering(model: nn.Module, path: str, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Within the context, each run of the linear at ``path`` calls ``see`` with its input."""
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, arguments: see(arguments[0]))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def tap_output(model: nn.Module, path: str, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Within the context, each run of the module at ``path`` calls ``see`` with its output, the first of several values."""
    handle = model.get_submodule(path).register_forward_hook(
        lambda _, __, out: see(out[0] if isinstance(out, tuple) else out)
    )
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def tap_residual(model: nn.Module, group: Group, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Within the context, each run of the group's sublayer calls ``see`` with the residual stream after it."""
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
"""Arguments of a consumer: features, and for a routed expert the mask of its tokens."""


@contextlib.contextmanager
def tap_consumer(model: nn.Module, group: Group, see: Callable[[Entering], None]) -> Iterator[None]:
    """Within the context, each run of the group's consumer calls ``see`` with its arguments."""
    consumer = consumer_of(model, group)
    handle = consumer.register_forward_pre_hook(lambda _, arguments: see((arguments[0], routed_of(arguments))))
    try:
        yield
    finally:
        handle.remove()


def graph_from(output: Tensor) -> Tensor:
    """A copy of an output without a graph, where a graph begins. It is not a leaf, because some models modify it in place."""
    return output.detach().requires_grad_().clone()
