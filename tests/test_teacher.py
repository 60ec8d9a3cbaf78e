"""The teacher's side of tuning: the same results from what was kept, as much as there is room for, of the right model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

import fastprune
from fastprune import Batches, PruningCache, testing
from fastprune.calibration import bf16_matmuls, dense_states, gradients, layered
from fastprune.calibration.dense_states import DenseStates
from fastprune.pipeline import choosing
from fastprune.reconstruction import Samples, Solver
from fastprune.testing.problems import some_mask


@pytest.fixture
def model() -> nn.Module:
    return testing.tiny_model("bert", "ForSequenceClassification", num_hidden_layers=3)


@pytest.fixture
def batches(model: nn.Module) -> Batches:
    return testing.tiny_batches(model, samples=16)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The dense model's layers, by their index, as they run for tuners."""
    seen: list[str] = []
    tapping = dense_states._tapping
    monkeypatch.setattr(dense_states, "_tapping", lambda *a: (seen.append(a[1].rpartition(".")[2]), tapping(*a))[1])
    return seen


def prune(
    model: nn.Module, batches: Batches, cache: PruningCache | None, *, budget: float = 0.5, tuner: str = "weights"
):
    return fastprune.prune(
        model, batches, budget=budget, scorer="magnitude", searcher="threshold", tuner=tuner, cache=cache, bench=False
    )


def same(one: fastprune.PruningResult, other: fastprune.PruningResult) -> bool:
    left, right = one.model.state_dict(), other.model.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("memory", [None, 0, 40_000])
def test_results_are_the_same_with_what_was_kept(model: nn.Module, batches: Batches, memory: int | None) -> None:
    cache = PruningCache(memory=memory)
    for tuner, budget in [("mask", 0.7), ("weights", 0.7), ("weights", 0.2), ("mask", 0.2)]:
        found = prune(model, batches, cache, budget=budget, tuner=tuner)
        assert same(found, prune(model, batches, None, budget=budget, tuner=tuner))


def test_the_dense_layers_run_once(model: nn.Module, batches: Batches, ran: list[str]) -> None:
    cache = PruningCache()
    for tuner in ("weights", "weights", "mask"):
        prune(model, batches, cache, tuner=tuner)
    assert ran == ["0", "1", "2"]


def test_more_to_look_at_is_looked_at_once(model: nn.Module, batches: Batches, ran: list[str]) -> None:
    """The tuner ``mask`` does not look at producers: their inputs are seen when ``weights`` first asks."""
    cache = PruningCache()
    for tuner in ("mask", "weights", "weights"):
        prune(model, batches, cache, tuner=tuner)
    assert ran == ["0", "1", "2"] * 2


def test_of_a_larger_set_only_what_is_new_runs(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts see a part of the calibration set, the tuner all of it, recombined texts beside it."""
    numbers: list[int] = []
    keep = DenseStates._keep
    monkeypatch.setattr(DenseStates, "_keep", lambda *a: (numbers.append(len(a[2]["output"])), keep(*a))[1])
    batches = testing.tiny_batches(model, samples=16, batch_size=4)
    states, groups = (
        DenseStates(model, batches),
        fastprune.units.resolve_groups(fastprune.architecture_for(model), model),
    )

    def errors(part: Batches, states: DenseStates | None) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []
        solve = lambda _, statistics, weight, bias: (seen.append(statistics.errors), (weight, bias))[1]  # noqa: E731
        student = fastprune.materialize(model, groups, some_mask(groups)).eval()
        left = fastprune.units.resolve_groups(fastprune.architecture_for(student), student)
        fastprune.reconstruction.reconstruct(model, student, left, Samples(part), Solver(solve=solve), states)
        return seen

    ran: list[int] = []
    for places in (range(0, 4, 2), range(4), range(1, 4)):
        part = fastprune.data.mix_spans(batches.only(places), 1, torch.Generator().manual_seed(0))
        found = errors(part, states)
        ran.append(sum(numbers))
        assert all(map(torch.equal, found, errors(part, None)))
        assert found
        numbers.clear()
    assert ran == [2 * 3, 2 * 3, 0]


@pytest.mark.parametrize("preset", ["paper", "default"])
def test_what_scoring_showed_does_not_run_again(
    model: nn.Module, batches: Batches, ran: list[str], monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    settings = {"tuner": {"fill": 0}, "searcher": {"tries": 1}} if preset == "default" else {}
    arguments = {"budget": 0.5, "recipe": fastprune.Recipe.of(preset, settings=settings), "bench": False}
    found = fastprune.prune(model, batches, **arguments)
    assert sorted(ran) == sorted(["0", "1", "2"] * len(batches))  # as it was scored
    monkeypatch.setattr(
        gradients, "watching", lambda *_: bf16_matmuls(torch.device("cpu"))
    )  # as states are, but not kept
    monkeypatch.setattr(layered, "watching", lambda *_: bf16_matmuls(torch.device("cpu")))
    ran.clear()
    assert same(found, fastprune.prune(model, batches, **arguments))
    assert ran == ["0", "1", "2"]


@pytest.mark.parametrize("memory", [None, 0])
def test_drafts_are_compared_with_what_scoring_showed(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, memory: int | None
) -> None:
    for name, samples in {"FEWEST": 8, "SMALLEST": 2}.items():
        monkeypatch.setattr(choosing, name, samples)
    batches = testing.tiny_batches(model, samples=32, batch_size=4)
    whole: list[int] = []  # the samples of each forward pass of the dense model that went to the end
    recipe = fastprune.Recipe.of(settings={"tuner": {"fill": 0, "epochs": 0}})
    arguments = {"budget": 0.3, "bench": False, "recipe": recipe}
    found = fastprune.prune(model, batches, **arguments)

    def note(ran: nn.Module, _: object, output: SequenceClassifierOutput) -> None:
        if ran is model:  # students are copies, hook and all
            whole.append(len(output.logits))

    handle = model.register_forward_hook(note)
    assert same(found, fastprune.prune(model, batches, cache=PruningCache(memory=memory), **arguments))
    handle.remove()
    passes = [samples for samples in whole if samples > 1]  # one sample says how layers run
    again = len(passes) - len(batches)  # for the drafts
    assert set(passes) == {4}
    assert again == 0 if memory is None else again > 0


def test_scoring_keeps_no_more_than_there_is_room_for(model: nn.Module, batches: Batches) -> None:
    whole = PruningCache()
    found = fastprune.prune(model, batches, budget=0.5, recipe="paper", cache=whole, bench=False)
    half = PruningCache(memory=whole.states.held // 2)
    assert same(found, fastprune.prune(model, batches, budget=0.5, recipe="paper", cache=half, bench=False))
    assert 0.25 * whole.states.held < half.states.held <= whole.states.held // 2


def test_a_student_is_not_taken_for_the_dense_model(model: nn.Module, batches: Batches) -> None:
    """In later rounds it is the student that is scored."""
    found = fastprune.prune(model, batches, budget=0.5, recipe="fast", schedule="rounds", bench=False)
    limited = PruningCache(memory=0)
    assert same(
        found,
        fastprune.prune(model, batches, budget=0.5, recipe="fast", schedule="rounds", cache=limited, bench=False),
    )


def test_lower_layers_are_kept_up_to_the_limit(model: nn.Module, batches: Batches, ran: list[str]) -> None:
    whole = PruningCache()
    prune(model, batches, whole)
    half = PruningCache(memory=whole.states.held // 2)
    prune(model, batches, half)
    assert 0 < half.states.held <= whole.states.held // 2
    ran.clear()
    prune(model, batches, half)
    assert ran == ["1", "2"]


def test_another_model_or_calibration_set_is_not_mistaken(model: nn.Module, batches: Batches) -> None:
    cache = PruningCache()
    prune(model, batches, cache)
    fewer = Batches(batches=batches.batches[:2], task=batches.task)
    other = testing.tiny_model("bert", "ForSequenceClassification", num_hidden_layers=3, seed=1)
    for one, data in [(model, fewer), (other, fewer), (model, batches)]:
        found = prune(one, data, _with(cache))
        assert same(found, prune(one, data, None))


def _with(cache: PruningCache) -> PruningCache:
    """The same states, but no scores."""
    fresh = PruningCache()
    fresh.states = cache.states
    return fresh
