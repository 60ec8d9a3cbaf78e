"""Capture: a model held still, and what flows into its consumers, seen through hooks that always come off."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.tasks import Batch
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
                see(group, spread(arguments[0][..., : group.features], seen_of(arguments)))

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
    handle = consumer.register_forward_pre_hook(lambda _, arguments: see((arguments[0], seen_of(arguments))))
    try:
        yield
    finally:
        handle.remove()


def seen_of(arguments: tuple[Tensor, ...]) -> Tensor | None:
    """Which tokens a consumer's rows are of [samples * tokens], from what it was called with; None: of all."""
    return arguments[1] if len(arguments) > 1 else None


def spread(rows: Tensor, seen: Tensor | None) -> Tensor:
    """Rows of the tokens seen, among zeros for the others: [seen, features] -> [samples * tokens, features]. With None they
    are as they were."""
    if seen is None:
        return rows
    return rows.new_zeros(len(seen), rows.shape[-1]).index_copy(0, seen.nonzero()[:, 0], rows)


def only_seen(values: Tensor, seen: Tensor | None) -> Tensor:
    """The rows of the tokens seen: [..., features] -> [seen, features]. With None they are as they were."""
    return values if seen is None else values.flatten(0, -2)[seen]


def real_rows(values: Tensor, group: Group, batch: Batch, seen: Tensor | None = None) -> Tensor:
    """What is there for real tokens: [..., features] -> [tokens, features].

    Args:
        values: What flows through the group, such as its consumer's input.
        group: It says, by its stack, which input marks the real tokens, and which convolutions lie between.
        batch: The model's inputs. Where the mark is missing or of another shape (images, windows), all rows are real.
        seen: Which of the tokens ``values`` are of [samples * tokens], where those are only some.
    """
    rows = values.flatten(0, -2)
    mark = batch.get(group.stack.tokens)
    if mark is not None and mark.dim() == 2 and group.convolutions:
        mark = convolved(mark, len(rows) // len(mark), group.convolutions)
    if mark is None or mark.dim() != 2 or mark.numel() != (len(rows) if seen is None else len(seen)):
        return rows
    real = mark.flatten().bool().to(rows.device)
    return rows[real if seen is None else real[seen]]


def by_token(samples: Tensor, values: Tensor) -> Tensor:
    """What is said of each sample, for each of its tokens: [samples] bool -> [tokens, 1], for ``real_rows``.

    Args:
        samples: Such as which are held back.
        values: What flows there [..., hidden]; windows of a sample, where it is cut into some, lie one behind the other.
            False where its tokens are not of whole samples.
    """
    rows = len(values.flatten(0, -2))
    marks = samples.new_zeros(rows) if rows % len(samples) else samples.repeat_interleave(rows // len(samples))
    return marks[:, None].to(values.device)


def convolved(mark: Tensor, tokens: int, convolutions: Sequence[tuple[int, int]]) -> Tensor:
    """Which tokens are made of real readings alone: [samples, readings] -> [samples, tokens], bool.

    Args:
        mark: Which readings are real; padding is on the right.
        tokens: How many the convolutions make.
        convolutions: Kernel and stride of each, one behind the other, without padding.
    """
    lengths = mark.sum(1)
    for kernel, stride in convolutions:
        lengths = (lengths - kernel) // stride + 1
    return torch.arange(tokens, device=mark.device) < lengths[:, None]
