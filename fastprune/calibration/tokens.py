"""Which tokens count: real rows, samples spread over tokens, routed tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastprune.data.tasks import Batch
from fastprune.units.groups import Group


def routed_of(arguments: tuple[Tensor, ...]) -> Tensor | None:
    """Which tokens a consumer's rows are of [samples * tokens], from what it was called with; None: of all."""
    return arguments[1] if len(arguments) > 1 else None


def spread(rows: Tensor, routed: Tensor | None) -> Tensor:
    """Rows of the tokens seen, among zeros for the others: [seen, features] -> [samples * tokens, features]. With None they
    are as they were."""
    if routed is None:
        return rows
    return rows.new_zeros(len(routed), rows.shape[-1]).index_copy(0, routed.nonzero()[:, 0], rows)


def routed_rows(values: Tensor, routed: Tensor | None) -> Tensor:
    """The rows of the tokens seen: [..., features] -> [seen, features]. With None they are as they were."""
    return values if routed is None else values.flatten(0, -2)[routed]


def real_rows(values: Tensor, group: Group, batch: Batch, routed: Tensor | None = None) -> Tensor:
    """What is there for real tokens: [..., features] -> [tokens, features].

    Args:
        values: What flows through the group, such as its consumer's input.
        group: It says, by its stack, which input marks the real tokens, and which convolutions lie between.
        batch: The model's inputs. Where the mark is missing or of another shape (images, windows), all rows are real.
        routed: Which of the tokens ``values`` are of [samples * tokens], where those are only some.
    """
    rows = values.flatten(0, -2)
    mark = batch.get(group.stack.tokens)
    if mark is not None and mark.dim() == 2 and group.convolutions:
        mark = convolved(mark, len(rows) // len(mark), group.convolutions)
    if mark is None or mark.dim() != 2 or mark.numel() != (len(rows) if routed is None else len(routed)):
        return rows
    real = mark.flatten().bool().to(rows.device)
    return rows[real if routed is None else real[routed]]


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
