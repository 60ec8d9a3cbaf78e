"""Span mixing: augment a small calibration set with texts of which half comes from another text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from fastprune.data.batches import Batches, model_inputs, token_mask
from fastprune.data.tasks import Batch

TEXT = {"input_ids", "attention_mask", "token_type_ids"}
"""Inputs with exchangeable tokens; models with other inputs are not augmented, because these must match the tokens."""


def mix_spans(
    batches: Batches, copies: int, generator: torch.Generator, *, held: Sequence[Tensor] | None = None
) -> Batches:
    """Append copies of the calibration set in which a span of each text is replaced by a span of another text of its batch.

    The copies show a layer more contexts than the samples alone. They are for unlabelled reconstruction: labels do not match.

    Args:
        batches: The calibration set.
        copies: Number of copies of each batch.
        generator: Draws the spans, on the CPU.
        held: Masks of the held-out samples, one per batch, each [samples] bool; spans are exchanged only among held-out
            samples and only among the others.

    Returns:
        The batches, followed by their copies in the same order, all batches once per copy. The exchanged span has half of the
        text's length. The first and the last token, and all tokens equal to them (separators), are kept. Inputs other than
        texts are returned without copies.
    """
    if any(not set(model_inputs(batch, batches.task)) <= TEXT or "input_ids" not in batch for batch in batches):
        return batches
    masks = held or [torch.zeros(size, dtype=torch.bool) for size in batches.sizes]
    mixed = [
        {**batch, "input_ids": _mixed(batch, mask, generator)}
        for _ in range(copies)
        for batch, mask in zip(batches, masks, strict=True)
    ]
    return dataclasses.replace(batches, batches=(*batches.batches, *mixed))


def _mixed(batch: Batch, held: Tensor, generator: torch.Generator) -> Tensor:
    """Token ids with half of each text from another text, both held out or both not: [samples, tokens]."""

    def draw(below: int) -> int:
        return int(torch.randint(below, (1,), generator=generator))

    ids, mask = batch["input_ids"], token_mask(batch)
    mixed, positions = ids.clone(), [_inner(row, real) for row, real in zip(ids, mask, strict=True)]
    partners = {flag: (held == flag).nonzero()[:, 0].tolist() for flag in (False, True)}
    for row, target in enumerate(positions):
        others = [index for index in partners[bool(held[row])] if index != row] or [row]
        other = others[draw(len(others))]
        source = positions[other]
        length = min((len(target) + 1) // 2, len(source))
        if length:
            to, start = draw(len(target) - length + 1), draw(len(source) - length + 1)
            mixed[row, target[to : to + length]] = ids[other, source[start : start + length]]
    return mixed


def _inner(row: Tensor, real: Tensor) -> Tensor:
    """Positions of a text's tokens without the first, the last, and tokens equal to these: [tokens]."""
    positions = real.nonzero()[:, 0]
    if not len(positions):
        return positions
    ends = torch.stack([row[positions[0]], row[positions[-1]]])
    return positions[~torch.isin(row[positions], ends)]
