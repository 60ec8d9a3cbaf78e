"""How many tokens least squares see: as many as are enough, evenly from all and from those held back, and no more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastprune
from fastprune import Batches, testing
from fastprune.reconstruction import LayerFit, Solver, Statistics
from fastprune.reconstruction.samples import Samples
from fastprune.units import Groups, Mask, resolve_groups

pytestmark = pytest.mark.usefixtures("exact")  # hidden states are compared with those of other passes
MODEL_TYPES = ("bert", "llama", "t5", "vit", "wav2vec2")


def pruned(model_type: str = "bert"):
    """A dense model, what half of its units leave, and data of eight batches."""
    model = testing.tiny_model(model_type, "Model")
    groups = resolve_groups(fastprune.architecture_for(model), model)
    student = fastprune.materialize(model, groups, Mask({g.name: torch.arange(g.units) % 2 == 0 for g in groups}))
    left = resolve_groups(fastprune.architecture_for(student), student)
    return model, student, left, testing.tiny_batches(model, samples=16, batch_size=2)


def sums(
    model_type: str, shown: list[int] | None, *, tokens_per_feature: float | None = None
) -> tuple[list[Statistics], Batches, Groups]:
    """The sums of all regressions of consumers and producers, from all batches or some, weights changing on the way."""
    model, student, left, batches = pruned(model_type)
    found: list[Statistics] = []

    def solve(group, statistics, weight, bias):
        found.append(statistics)
        return weight * 0.9, bias

    def correct(statistics: Statistics, with_shift: bool) -> tuple[Tensor, Tensor]:
        found.append(statistics)
        return torch.zeros_like(statistics.cross), torch.zeros_like(statistics.errors)

    data = batches if shown is None else batches.only(shown)
    fastprune.reconstruction.reconstruct(
        model,
        student,
        left,
        Samples(data, tokens_per_feature=tokens_per_feature),
        Solver(solve=solve, correct=correct),
    )
    return found, batches, left


def assert_alike(some: list[Statistics], others: list[Statistics]) -> None:
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        for name in ("weight", "inputs", "errors", "gram", "cross", "energy"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_sums_are_those_of_the_batches_that_are_enough(model_type: str) -> None:
    """A quarter of the tokens is two batches of eight, whichever the layer; what is not shown leaves no trace."""
    everything, batches, left = sums(model_type, None)
    rows = float(everything[0].weight)
    widest = max(max(group.features, group.hidden) for group in left)
    quarter, _, _ = sums(model_type, None, tokens_per_feature=0.25 * rows / widest)
    weights = {float(one.weight) for one in quarter if one.weight > 0}
    assert max(weights) < 0.6 * rows
    if model_type != "t5":  # whose two stacks have tokens of their own
        assert_alike(quarter, sums(model_type, [2, 6])[0])
    assert len(batches) == 8


@pytest.mark.parametrize("tokens_per_feature", [None, 1e6])
def test_all_are_shown_where_there_are_not_enough(tokens_per_feature: float | None) -> None:
    assert_alike(sums("bert", None, tokens_per_feature=tokens_per_feature)[0], sums("bert", list(range(8)))[0])


@pytest.mark.parametrize("refined", [False, True])
def test_layers_above_see_all_samples_whatever_was_shown_below(refined: bool) -> None:
    """The last layer is as wide as ever and is shown all, of which the narrow ones below were shown a part."""
    model = testing.tiny_model("bert", "Model", num_hidden_layers=3)
    groups = resolve_groups(fastprune.architecture_for(model), model)
    batches = testing.tiny_batches(model, samples=16, batch_size=2)
    mask = Mask({g.name: torch.arange(g.units) < (g.units if g in groups.items[-2:] else 1) for g in groups})
    enough = batches.n_tokens / max(group.features for group in groups)

    def run(tokens_per_feature: float | None) -> list[Statistics]:
        student = fastprune.materialize(model, groups, mask)
        left = resolve_groups(fastprune.architecture_for(student), student)
        found: list[Statistics] = []
        entered: list[Tensor] = []

        def solve(group, statistics, weight, bias):
            found.append(statistics)
            return weight * 0.9, bias

        def larger(fit: LayerFit) -> dict[str, Tensor]:
            entered[:] = [fit.hidden[index] for index in range(len(fit))]
            return {name: value * 1.1 for name, value in fit.parameters.items()}

        fastprune.reconstruction.reconstruct(
            model,
            student,
            left,
            Samples(batches, tokens_per_feature=tokens_per_feature),
            Solver(solve=solve, refine=larger if refined else None),
        )
        with torch.no_grad():
            for hidden, batch in zip(entered, batches, strict=refined):
                states = student(
                    **fastprune.data.model_inputs(batch, batches.task), output_hidden_states=True
                ).hidden_states
                torch.testing.assert_close(hidden, states[-2], rtol=1e-5, atol=1e-5)
        return found

    some, everything = run(enough), run(None)
    weights = [float(one.weight) for one in some]
    assert weights[0] < 0.7 * batches.n_tokens
    assert weights[-1] == batches.n_tokens
    assert_alike(some[-2:], everything[-2:])


def test_layers_of_experts_show_all() -> None:
    """An expert sees few of the tokens that there are."""
    model = fastprune.units.unfuse_experts(testing.tiny_model("mixtral", "Model"))
    groups = resolve_groups(fastprune.architecture_for(model), model)
    batches = testing.tiny_batches(model, samples=16, batch_size=2)
    hidden = [torch.zeros(*batch["input_ids"].shape, 4) for batch in batches]
    for _, members in groups.layers():
        assert any(group.block.routed for group in members)
        assert Samples(batches, tokens_per_feature=1e-3).enough(members, hidden) == list(range(len(batches)))


@pytest.mark.parametrize("one_of", [2, 4, 5])
def test_those_held_back_have_their_share(one_of: int) -> None:
    _, _, left, batches = pruned()
    hidden = [torch.zeros(*batch["input_ids"].shape, 4) for batch in batches]
    members, held = left.items[:2], batches.held_back(one_of)
    widest = max(max(group.features, group.hidden) for group in members)
    for share in (1e-6, 0.3, 0.5, 0.8, 1.0):
        samples = Samples(batches, held=held, tokens_per_feature=share * batches.n_tokens / widest)
        chosen = samples.enough(members, hidden)
        kinds = [bool(held[place].any()) for place in chosen]
        assert chosen == sorted(set(chosen))
        for mark in (False, True):
            there = sum(bool(marks.any()) == mark for marks in held)
            assert kinds.count(mark) == max(1, -(-there * share // 1))


def test_padding_is_not_enough() -> None:
    """Real tokens are counted, however far they are padded."""
    _, _, left, batches = pruned()
    members = left.items[:2]
    widest = max(max(group.features, group.hidden) for group in members)

    def chosen(width: int) -> list[int]:
        padded = [
            {name: torch.nn.functional.pad(value, (0, width)) for name, value in batch.items() if value.dim() == 2}
            for batch in batches
        ]
        hidden = [torch.zeros(*batch["input_ids"].shape, 4) for batch in padded]
        data = Batches.wrap(padded, batches.task)
        return Samples(data, tokens_per_feature=0.4 * batches.n_tokens / widest).enough(members, hidden)

    assert chosen(0) == chosen(50)
    assert 0 < len(chosen(0)) < len(batches)
