"""Choosing: which samples drafts of a search's variants see, and which of them is taken."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from fastprune import Batches, testing
from fastprune.calibration.dense_states import DenseStates
from fastprune.data import Task
from fastprune.measuring.evaluation import agreement
from fastprune.pipeline import choosing
from fastprune.pipeline.choosing import choose
from fastprune.strategies import Scores
from fastprune.units import Mask


@pytest.fixture
def model() -> nn.Module:
    return testing.tiny_model("bert", "ForSequenceClassification")


def mask(kept: int) -> Mask:
    return Mask({"ffn": torch.arange(8) < kept})


class Drafts:
    """Models of which each is the farther from the dense one, the further its mask is from keeping 5."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.seen: list[tuple[Batches, Scores]] = []

    def __call__(self, mask: Mask, batches: Batches, scores: Scores) -> nn.Module:
        self.seen.append((batches, scores))
        off = copy.deepcopy(self.model)
        with torch.no_grad():
            for number, parameter in enumerate(off.parameters()):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                parameter.add_(abs(mask.counts()["ffn"] - 5) * 0.1 * noise)
        return off


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Batches]:
    """What drafts were compared on, one after another."""
    seen: list[Batches] = []

    def watched(
        teacher: nn.Module, student: nn.Module, data: Batches, task: Task, states: DenseStates
    ) -> dict[str, float]:
        seen.append(data)
        return agreement(teacher, student, data, task, states)

    monkeypatch.setattr(choosing, "agreement", watched)
    return seen


def places(part: Batches, whole: Batches) -> list[int]:
    return [next(place for place, batch in enumerate(whole.batches) if batch is each) for each in part.batches]


def told(batches: Batches) -> Scores:
    """Scores in which every sample has its own number."""
    numbers = torch.arange(batches.n_samples)
    rows = tuple(each[:, None] for each in numbers.split(batches.sizes))
    return Scores(importance={"ffn": torch.rand(8)}, grads={"ffn": numbers[:, None]}, token_weights={"ffn": rows})


@pytest.fixture
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, samples in {"FEWEST": 4, "MOST": 8, "SMALLEST": 2}.items():
        monkeypatch.setattr(choosing, name, samples)


@pytest.mark.parametrize("kept", [(4, 5, 7), (5, 3), (7, 4)])
def test_the_nearest_is_taken(model: nn.Module, kept: tuple[int, ...]) -> None:
    batches = testing.tiny_batches(model, samples=16)
    masks = [mask(each) for each in kept]
    nearest = min(masks, key=lambda each: abs(each.counts()["ffn"] - 5))
    assert choose(masks, Drafts(model), DenseStates(model, batches), batches, told(batches), share=0.25) is nearest


@pytest.mark.parametrize(
    ("nearness", "taken"),
    [
        pytest.param([[0.80] * 4, [0.803] * 4, [0.801] * 4], 0, id="less than a fiftieth of what is lacking"),
        pytest.param([[0.80] * 4, [0.803] * 4, [0.807] * 4], 2, id="more than that"),
        pytest.param([[0.9] * 4, [1.0] * 4, [1.0] * 4], 1, id="nothing is lacking any more"),
        pytest.param([[0.8] * 4, [0.9, 0.8, 0.8, 0.8]], 0, id="by one part alone"),
        pytest.param([[0.8] * 4, [0.9, 0.85, 0.85, 0.84]], 1, id="by most parts"),
        pytest.param([[0.7, 0.8, 0.9, 0.8], [0.71, 0.81, 0.91, 0.81]], 1, id="parts differ, but alike"),
        pytest.param([[0.8], [0.81]], 1, id="one part"),
    ],
)
def test_what_may_be_nearer_by_chance_is_not_taken(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, nearness: list[list[float]], taken: int
) -> None:
    figures = iter([each for draft in nearness for each in draft])
    monkeypatch.setattr(choosing, "agreement", lambda *_, **__: {"cosine": next(figures)})
    batches = testing.tiny_batches(model, samples=16 * len(nearness[0]), batch_size=8)
    masks = [mask(kept) for kept in range(4, 4 + len(nearness))]
    assert choose(masks, Drafts(model), DenseStates(model, batches), batches, told(batches), share=0.25) is masks[taken]


@pytest.mark.usefixtures("small_numbers")
@pytest.mark.parametrize(
    ("samples", "size", "share", "drafted", "compared"),
    [
        pytest.param(66, 2, 0.25, [0, 8, 16, 24, 32], [[4], [12], [20], [28]], id="large"),
        pytest.param(32, 2, 0.25, [0, 4, 8, 12], [[2], [6], [10], [14]], id="every fourth batch"),
        pytest.param(16, 2, 0.5, [0, 2, 4, 6], [[1], [3], [5], [7]], id="a larger share"),
        pytest.param(14, 2, 0.25, [0, 3, 6], [[1], [4]], id="every third batch"),
        pytest.param(9, 2, 0.25, [0, 2, 4], [[1], [3]], id="every other batch"),
        pytest.param(7, 2, 0.25, [0, 2], [[1, 3]], id="small, and a batch too small for a part"),
        pytest.param(5, 1, 0.25, [0, 2, 4], [[1, 3]], id="single samples"),
        pytest.param(64, 64, 0.25, [0], [[0]], id="one batch"),
    ],
)
def test_what_drafts_see_and_are_compared_on(
    model: nn.Module,
    judged: list[Batches],
    samples: int,
    size: int,
    share: float,
    drafted: list[int],
    compared: list[list[int]],
) -> None:
    batches, drafts = testing.tiny_batches(model, samples=samples, batch_size=size), Drafts(model)
    choose([mask(3), mask(5)], drafts, DenseStates(model, batches), batches, told(batches), share=share)
    assert [places(each, batches) for each, _ in drafts.seen] == [drafted] * 2
    assert [places(each, batches) for each in judged] == compared * 2
    numbers = torch.arange(samples).split(size)
    seen = torch.cat([numbers[place] for place in drafted]).tolist()
    for each, scores in drafts.seen:
        assert scores.grads is not None
        assert scores.grads["ffn"][:, 0].tolist() == seen
        assert scores.token_weights is not None
        assert torch.cat(scores.token_weights["ffn"])[:, 0].tolist() == seen
        assert [len(rows) for rows in scores.token_weights["ffn"]] == list(each.sizes)


@pytest.mark.usefixtures("small_numbers")
@pytest.mark.parametrize(
    ("gains", "compared", "taken"),
    [
        pytest.param([[0.1, 0.11], [0, 0], [0, 0]], [2, 6], True, id="told at once"),
        pytest.param([[-0.1, -0.11], [0.5, 0.5], [0.5, 0.5]], [2, 6], False, id="told at once to be farther"),
        pytest.param([[0.0, 0.1], [0.5, 0.5], [0.5, 0.5]], [2, 6], False, id="no nearer than by one standard error"),
        pytest.param([[0.05, 0.25], [0.1, 0.2], [0, 0]], [2, 6, 1, 5], True, id="told by a second look"),
        pytest.param([[0.02, 0.2], [0.2, 0.0], [0.1, 0.2]], [2, 6, 1, 5, 3, 7], True, id="told by a third look"),
        pytest.param([[0.02, 0.2], [0.2, -0.1], [0.2, -0.1]], [2, 6, 1, 5, 3, 7], False, id="never told"),
        pytest.param([[0.02, 0.2], [-0.2, -0.1], [0.5, 0.5]], [2, 6, 1, 5], False, id="no nearer after a second look"),
    ],
)
def test_what_cannot_be_told_is_looked_at_again(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, gains: list[list[float]], compared: list[int], taken: bool
) -> None:
    batches = testing.tiny_batches(model, samples=16, batch_size=2)
    gain = dict(zip([2, 6, 1, 5, 3, 7], itertools.chain(*gains), strict=True))
    seen: list[int] = []

    def found(
        teacher: nn.Module, student: nn.Module, data: Batches, task: Task, states: DenseStates
    ) -> dict[str, float]:
        (place,) = places(data, batches)
        seen.append(place)
        return {"cosine": 0.5 + gain[place] * (seen.count(place) == 2)}  # the first draft is the first to be looked at

    monkeypatch.setattr(choosing, "agreement", found)
    masks = [mask(4), mask(6)]
    chosen = choose(masks, Drafts(model), DenseStates(model, batches), batches, told(batches), share=0.25)
    assert list(dict.fromkeys(seen)) == compared
    assert chosen is masks[taken]


@pytest.mark.parametrize(
    ("nearness", "tried"),
    [
        pytest.param([0.8, 0.74, 0.9], 2, id="a quarter behind, and more"),
        pytest.param([0.8, 0.76, 0.9], 3, id="less than a quarter behind"),
        pytest.param([0.8, 0.9, 0.87, 0.95], 3, id="behind the best so far"),
    ],
)
def test_one_that_is_far_behind_is_the_last(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, nearness: list[float], tried: int
) -> None:
    batches, drafts = testing.tiny_batches(model, samples=8), Drafts(model)
    figures = iter(nearness)
    monkeypatch.setattr(choosing, "agreement", lambda *_, **__: {"cosine": next(figures)})
    masks = [mask(kept) for kept in range(2, 2 + len(nearness))]
    chosen = choose(masks, drafts, DenseStates(model, batches), batches, told(batches), share=0.25)
    assert len(drafts.seen) == tried
    assert chosen is masks[nearness.index(max(nearness[:tried]))]


def test_masks_that_are_the_same_are_tried_once(model: nn.Module) -> None:
    batches, drafts = testing.tiny_batches(model, samples=16), Drafts(model)
    assert choose(
        [mask(3), mask(3)], drafts, DenseStates(model, batches), batches, told(batches), share=0.25
    ).counts() == {"ffn": 3}
    assert not drafts.seen
    choose([mask(3), mask(4), mask(3)], drafts, DenseStates(model, batches), batches, told(batches), share=0.25)
    assert len(drafts.seen) == 2


@pytest.mark.parametrize(
    ("kept", "step"),
    [
        pytest.param((2, 3), 5, id="more than a fifth of the units: the share"),
        pytest.param((0, 2), 3, id="less: so much the more"),
        pytest.param((1, 0), 2, id="hardly any: half, and no more"),
    ],
)
def test_drafts_of_which_little_is_left_see_more(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, kept: tuple[int, int], step: int
) -> None:
    monkeypatch.setattr(choosing, "FEWEST", 4)
    batches, drafts = testing.tiny_batches(model, samples=64, batch_size=1), Drafts(model)
    choose([mask(each) for each in kept], drafts, DenseStates(model, batches), batches, told(batches), share=0.2)
    assert [places(each, batches) for each, _ in drafts.seen] == [[*range(0, 64, step)]] * 2
