"""Checks of a reduced vocabulary: the rows that are cut, and the settings that follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.batches import Batches
from fastprune.errors import ModelError
from fastprune.testing.comparing import all_outputs, largest_difference
from fastprune.testing.in_use import Check
from fastprune.vocabulary.rows import VocabularyRows, vocabulary_rows, with_rows
from fastprune.vocabulary.token_ids import named_ids

IDS = ("input_ids", "decoder_input_ids")


def vocabulary_checks(who: str, model: nn.Module, batches: Batches) -> Iterator[Check]:
    """The checks of a model that reads token ids; none for others.

    Args:
        who: The architecture, for messages.
        model: A tiny model.
        batches: Its inputs.
    """
    try:
        rows = vocabulary_rows(model)
    except ModelError:
        return
    if any(name in batch for batch in batches for name in IDS):
        yield Check("half of the vocabulary gives equal outputs", lambda: check_vocabulary(who, model, batches, rows))


def check_vocabulary(who: str, model: Any, batches: Batches, rows: VocabularyRows) -> None:
    """Raise ``AssertionError`` unless texts of kept tokens give the same outputs with half of the vocabulary, of which those of the
    tokens' logits are the kept ones."""
    needed = named_ids(model.config, getattr(model, "generation_config", None))
    low = range(max(needed, default=0) + 1) if max(needed, default=0) < rows.units // 4 else range(rows.units // 4)
    named = {place for each in needed for place in (each, each + 1) if place < rows.units}
    kept = sorted({*low, *named, *range(1, rows.units, 2)})
    new = {old: place for place, old in enumerate(kept)}
    nearest = torch.tensor([max(each for each in kept if each <= old) for old in range(rows.units)])
    places = torch.tensor([new[int(each)] for each in nearest])
    before = Batches.wrap([{n: _mapped(n, t, nearest) for n, t in batch.items()} for batch in batches], batches.task)
    after = Batches.wrap([{n: _mapped(n, t, places) for n, t in batch.items()} for batch in batches], batches.task)
    small = with_rows(model, rows, kept, new)
    with torch.no_grad():
        ones, others = all_outputs(model, before), all_outputs(small, after)
    same = [one if one.shape == other.shape else one[..., kept] for one, other in zip(ones, others, strict=True)]
    assert largest_difference(same, others) < 1e-5, f"{who}: half of the vocabulary gives other outputs"
    assert small.config.get_text_config().vocab_size == len(kept), f"{who}: vocab_size does not follow"
    assert vocabulary_rows(small).units == len(kept), f"{who}: the class builds another vocabulary"


def _mapped(name: str, tensor: Tensor, table: Tensor) -> Tensor:
    return table[tensor] if name in IDS else tensor
