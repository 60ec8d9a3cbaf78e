"""Recombined texts: more of a kind than a small calibration set has."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from fastprune.data.batches import Batches, model_inputs, token_mask
from fastprune.data.tasks import Batch

TEXT = {"input_ids", "attention_mask", "token_type_ids"}
"""Inputs of which tokens can be exchanged; where a model takes more, what it takes has to fit together."""


def mix_spans(
    batches: Batches, copies: int, generator: torch.Generator, *, held: Sequence[Tensor] | None = None
) -> Batches:
    """The calibration set, followed by copies in which half of each text is another's of its batch.

    What reconstruction learns from them is how layers answer to more contexts than there are samples; no label is needed.

    Args:
        batches: The calibration set.
        copies: How many of each batch.
        generator: Draws the spans, on the CPU.
        held: Which samples are held back [samples], by the batch: they and the others take nothing from each other.

    Returns:
        All batches as they are, then all once more for each copy: in each text one span of half its length is taken from
        another text. First and last tokens, and others like them (separators), stay. Data other than texts come without
        copies.
    """
    if any(not set(model_inputs(batch, batches.task)) <= TEXT or "input_ids" not in batch for batch in batches):
        return batches
    apart = held or [torch.zeros(size, dtype=torch.bool) for size in batches.sizes]
    made = [
        {**batch, "input_ids": _mixed(batch, marks, generator)}
        for _ in range(copies)
        for batch, marks in zip(batches, apart, strict=True)
    ]
    return dataclasses.replace(batches, batches=(*batches.batches, *made))


def _mixed(batch: Batch, held: Tensor, generator: torch.Generator) -> Tensor:
    """Token ids with half of each text from another that is held back [samples] like it, [samples, tokens]."""

    def draw(below: int) -> int:
        return int(torch.randint(below, (1,), generator=generator))

    given, mask = batch["input_ids"], token_mask(batch)
    mixed, places = given.clone(), [_inner(row, real) for row, real in zip(given, mask, strict=True)]
    alike = {mark: (held == mark).nonzero()[:, 0].tolist() for mark in (False, True)}
    for place, own in enumerate(places):
        others = [row for row in alike[bool(held[place])] if row != place] or [place]
        other = others[draw(len(others))]
        taken = places[other]
        length = min((len(own) + 1) // 2, len(taken))
        if length:
            to, start = draw(len(own) - length + 1), draw(len(taken) - length + 1)
            mixed[place, own[to : to + length]] = given[other, taken[start : start + length]]
    return mixed


def _inner(row: Tensor, real: Tensor) -> Tensor:
    """The places of a text's tokens but the first, the last, and those like them: [tokens]."""
    places = real.nonzero()[:, 0]
    if not len(places):
        return places
    ends = torch.stack([row[places[0]], row[places[-1]]])
    return places[~torch.isin(row[places], ends)]
