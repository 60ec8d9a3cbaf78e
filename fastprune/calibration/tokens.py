"""Selection of tokens: rows without padding, routed tokens, per-sample flags broadcast to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fastprune.data.batches import mark_of, marked_tokens
from fastprune.data.tasks import Batch
from fastprune.units.groups import Group


def routed_of(arguments: tuple[Tensor, ...]) -> Tensor | None:
    """Mask of the routed tokens [samples * tokens] among a consumer's arguments; None: all tokens."""
    return arguments[1] if len(arguments) > 1 else None


def spread(rows: Tensor, routed: Tensor | None) -> Tensor:
    """Scatter rows of routed tokens among zeros: [routed, features] -> [samples * tokens, features]. None: unchanged."""
    if routed is None:
        return rows
    return rows.new_zeros(len(routed), rows.shape[-1]).index_copy(0, routed.nonzero()[:, 0], rows)


def routed_rows(values: Tensor, routed: Tensor | None) -> Tensor:
    """Select the rows of routed tokens: [..., features] -> [routed, features]. None: unchanged."""
    return values if routed is None else values.flatten(0, -2)[routed]


def real_rows(values: Tensor, group: Group, batch: Batch, routed: Tensor | None = None) -> Tensor:
    """Select the rows of tokens that are not padding: [..., features] -> [tokens, features].

    Args:
        values: Activations inside the group, such as its consumer's input.
        group: The group; its stack names the attention mask and the convolutions in front of the layers.
        batch: The model's inputs, and labels, which may stand in for a decoder's mask (``marked_tokens``). Without a mask, or
            with one of another shape (images, windows), all rows are selected.
        routed: Mask of the tokens that ``values`` has rows of, [samples * tokens] bool; None: all tokens.
    """
    rows = values.flatten(0, -2)
    real = _real(batch, group, len(rows) if routed is None else len(routed), rows.device)
    if real is None:
        return rows
    if routed is not None:
        return rows[real.mask[routed]]
    return rows if len(real.places) == len(rows) else rows.index_select(0, real.places)


@dataclass(frozen=True)
class _Real:
    """The tokens of a batch without padding.

    Attributes:
        mask: [samples * tokens] bool.
        places: Their places among all tokens, rising: [real tokens].
    """

    mask: Tensor
    places: Tensor


_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""By the tensor that marks a batch's tokens, which is not changed: finding their places waits for the device, once a batch."""


def _real(batch: Batch, group: Group, tokens: int, device: torch.device) -> _Real | None:
    """The tokens without padding of one of the group's layers, on a device; None: nothing marks that many tokens."""
    marks = mark_of(batch, group.stack.tokens)
    if marks is None or (not group.convolutions and marks.numel() != tokens):
        return None
    known = _known.setdefault(marks, {})
    key = (group.stack.tokens, group.convolutions, tokens, device)
    if key not in known:
        mask = marked_tokens(batch, group.stack.tokens)
        assert mask is not None
        if group.convolutions:
            mask = convolved(mask, tokens // len(mask), group.convolutions)
        flat = mask.flatten()
        fits = len(flat) == tokens
        known[key] = _Real(flat.to(device, copy=True), flat.nonzero()[:, 0].to(device)) if fits else None
    found: _Real | None = known[key]
    return found


def by_token(samples: Tensor, values: Tensor) -> Tensor:
    """Broadcast a per-sample flag to tokens: [samples] bool -> [samples * tokens, 1], as input of ``real_rows``; on its device.

    Args:
        samples: The flag, such as a mask of held-out samples.
        values: Activations [..., hidden], whose rows are ordered by sample (then by window, if samples are split into windows).
            If the number of rows is not a multiple of the number of samples, the flag is False for all tokens.
    """
    rows = len(values.flatten(0, -2))
    flags = samples.new_zeros(rows) if rows % len(samples) else samples.repeat_interleave(rows // len(samples))
    return flags[:, None]


def convolved(mask: Tensor, tokens: int, convolutions: Sequence[tuple[int, int]]) -> Tensor:
    """Convert a mask of readings to a mask of tokens behind convolutions: [samples, readings] -> [samples, tokens], bool.

    Args:
        mask: Mask of the readings without padding; padding is on the right.
        tokens: Number of tokens behind the convolutions.
        convolutions: Kernel and stride of each convolution, in order; no padding.
    """
    lengths = mask.sum(1)
    for kernel, stride in convolutions:
        lengths = (lengths - kernel) // stride + 1
    return torch.arange(tokens, device=mask.device) < lengths[:, None]
