"""Masking: apply a mask without changing shapes, by zeroing the pruned units."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastprune.units.cuts import Cut
from fastprune.units.groups import Groups, consumer_of
from fastprune.units.masks import Mask


@contextlib.contextmanager
def masked(model: nn.Module, groups: Groups, mask: Mask) -> Iterator[None]:
    """Within the context, the features of pruned units are multiplied by zero at the input of their consumers; for groups
    without a consumer, the pruned units' positions in the parameters are zero."""
    with contextlib.ExitStack() as undo:
        for group in (group for group in groups if group.units):
            if not group.consumer:
                pruned = (~mask[group.name]).nonzero().flatten()  # [pruned]
                for cut in group.cuts if len(pruned) else ():
                    undo.enter_context(_zeroed(cut.tensor(model), cut, pruned))
                continue
            features = mask[group.name].repeat_interleave(group.width)

            def multiply(
                _: nn.Module, arguments: tuple[Tensor, ...], features: Tensor = features
            ) -> tuple[Tensor, ...]:
                return (arguments[0] * features.to(arguments[0]), *arguments[1:])

            undo.callback(consumer_of(model, group).register_forward_pre_hook(multiply).remove)
        yield


@contextlib.contextmanager
def _zeroed(tensor: Tensor, cut: Cut, units: Tensor) -> Iterator[None]:
    """Within the context, the positions of these units [units] in the tensor are zero."""
    gone, values = cut.positions.of(units).flatten().to(tensor.device), tensor.detach()
    before = values.index_select(cut.dimension, gone)
    with torch.no_grad():
        values.index_fill_(cut.dimension, gone, 0)
    try:
        yield
    finally:
        with torch.no_grad():
            values.index_copy_(cut.dimension, gone, before)
