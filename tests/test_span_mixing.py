"""Recombined texts: copies whose halves come from other texts, and nothing else changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastprune import Batches
from fastprune.data import mix_spans

FIRST, LAST, PADDING = 1, 2, 0


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texts(*lengths: int, left: bool = False, **more: Tensor) -> Batches:
    """One batch; the inner tokens of the text r are 100 (r + 1), 100 (r + 1) + 1 and so on, with a separator in the middle."""
    width = max(lengths) + 3
    ids, mask = torch.full((len(lengths), width), PADDING), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        inner = [100 * (row + 1) + place for place in range(length)]
        half = length // 2
        tokens = torch.tensor([FIRST, *inner[:half], LAST, *inner[half:], LAST])
        where = slice(width - len(tokens), None) if left else slice(0, len(tokens))
        ids[row, where], mask[row, where] = tokens, 1
    return Batches.wrap([{"input_ids": ids, "attention_mask": mask, **more}], None)


@pytest.mark.parametrize("left", [False, True])
def test_copies_take_one_span_of_half_a_text_from_another(left: bool) -> None:
    given = texts(8, 6, 12, 8, left=left)
    found = mix_spans(given, 3, drawn())
    assert len(found) == 4
    assert found.batches[0] is given.batches[0]
    (batch,) = given
    for copy in found.batches[1:]:
        assert torch.equal(copy["attention_mask"], batch["attention_mask"])
        changed = copy["input_ids"] != batch["input_ids"]
        assert not changed[(batch["input_ids"] <= LAST)].any()  # padding, first, last and separating tokens stay
        for row, length in enumerate((8, 6, 12, 8)):
            (places,) = changed[row].nonzero(as_tuple=True)
            taken = copy["input_ids"][row, places]
            assert len(taken) == length // 2
            assert len((taken // 100).unique()) == 1  # one donor
            assert int(taken[0]) // 100 != row + 1
            assert torch.equal(taken, torch.arange(int(taken[0]), int(taken[0]) + len(taken)))  # in a row
            inner = batch["input_ids"][row][batch["input_ids"][row] >= 100]
            kept = copy["input_ids"][row][copy["input_ids"][row] >= 100]
            (moved,) = (inner != kept).nonzero(as_tuple=True)
            assert int(moved[-1] - moved[0]) == len(moved) - 1  # one span
    assert any(not torch.equal(found.batches[1]["input_ids"], copy["input_ids"]) for copy in found.batches[2:])


def test_what_is_held_back_gives_nothing_to_the_others_and_takes_nothing() -> None:
    held = torch.tensor([False, True, False, True, False])
    given = texts(8, 9, 10, 11, 12)
    for copy in mix_spans(given, 5, drawn(), held=[held]).batches[1:]:
        for row, tokens in enumerate(copy["input_ids"]):
            donors = {int(token) // 100 - 1 for token in tokens if token >= 100} - {row}
            assert len(donors) == 1
            assert held[donors.pop()] == held[row]
    alone = mix_spans(given, 1, drawn(), held=[torch.tensor([True] + 4 * [False])]).batches[1]["input_ids"][0]
    assert {int(token) // 100 for token in alone if token >= 100} == {1}


def test_draws_are_the_seed_s() -> None:
    given = texts(8, 9, 10)
    one, again, other = (mix_spans(given, 1, drawn(seed)).batches[1]["input_ids"] for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_texts_without_inner_tokens_or_others_are_no_trouble() -> None:
    for given in (texts(0, 5), texts(0), texts(7)):
        copy = mix_spans(given, 1, drawn()).batches[1]["input_ids"]
        inner = given.batches[0]["input_ids"] >= 100
        assert bool((copy[inner] >= 100).all())
        assert torch.equal(copy[~inner], given.batches[0]["input_ids"][~inner])


@pytest.mark.parametrize("name", ["pixel_values", "decoder_input_ids", "bbox"])
def test_what_has_to_fit_the_text_keeps_it_as_it_is(name: str) -> None:
    given = texts(8, 8, **{name: torch.zeros(2, 3)})
    assert mix_spans(given, 2, drawn()) is given
    pictures = Batches.wrap([{"pixel_values": torch.zeros(2, 3, 4, 4)}], None)
    assert mix_spans(pictures, 2, drawn()) is pictures
