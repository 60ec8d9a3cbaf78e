"""A mask applied by hooks: pruned units multiplied by zero."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from fastprune.units.groups import Groups, consumer_of
from fastprune.units.masks import Mask


@contextlib.contextmanager
def masked(model: nn.Module, groups: Groups, mask: Mask) -> Iterator[None]:
    """While open, the features of pruned units are multiplied by zero where they enter their consumers."""
    handles = []
    for group in (group for group in groups if group.units):
        features = mask[group.name].repeat_interleave(group.width)
        consumer = consumer_of(model, group)

        def multiply(_: nn.Module, arguments: tuple[Tensor, ...], features: Tensor = features) -> tuple[Tensor, ...]:
            return (arguments[0] * features.to(arguments[0]), *arguments[1:])

        handles.append(consumer.register_forward_pre_hook(multiply))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
