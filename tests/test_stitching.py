"""Stitched models: solved levels are the least squares of what they keep, and losses are those of the whole stitched model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.data import outputs_of
from fastprune.reconstruction import Statistics, Stitching
from fastprune.reconstruction.levels import Level, LevelStore, features_of, keeping
from fastprune.surgery.reconstruction import set_linear
from fastprune.units import Group, Groups, consumer_of, resolve_groups
from fastprune.units.linears import as_linear

FAMILIES = {
    "bert": "ForSequenceClassification",
    "llama": "ForCausalLM",
    "gpt2": "ForCausalLM",
    "mixtral": "ForCausalLM",
    "albert": "ForSequenceClassification",  # its layers run several times
    "t5": "ForConditionalGeneration",  # two stacks, and a position bias passed on from layer to layer
}

pytestmark = pytest.mark.usefixtures("exact")  # losses are compared with those of other passes


def case(family: str = "llama") -> tuple[torch.nn.Module, Groups, fastprune.Batches]:
    model, batches = testing.tiny.model_and_batches(testing.tiny_model(family, FAMILIES[family]), None, samples=32)
    return model, resolve_groups(fastprune.architecture_for(model), model), batches


def stitching(model: torch.nn.Module, groups: Groups, batches: fastprune.Batches) -> Stitching:
    generator = torch.Generator().manual_seed(1)
    importance = {group.name: torch.rand(group.units, generator=generator) for group in groups}
    return Stitching(model, model, groups, batches, importance)


def shares(groups: Groups, share: float) -> dict[str, int]:
    return {group.name: round(share * group.units) for group in groups}


def test_sums_of_kept_features_are_those_of_their_own_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    x, e = (torch.randn(60, size, generator=generator) for size in (6, 4))
    weight, held = torch.randn(4, 6, generator=generator), torch.arange(60) % 5 == 0
    whole, direct = Statistics.zeros(6, 4, torch.device("cpu")), Statistics.zeros(2, 4, torch.device("cpu"))
    features = torch.tensor([1, 4])
    others = torch.tensor([0, 2, 3, 5])
    whole.add(x, e, None, held)
    direct.add(x[:, features], e + x[:, others] @ weight[:, others].T, None, held)
    kept = keeping(whole, features, weight)
    assert kept.held is not None
    assert direct.held is not None
    for one, other in ((kept, direct), (kept.held, direct.held)):
        for name in ("weight", "mean", "scatter", "mean_error", "scatter_cross", "energy"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-4)


def test_levels_beyond_the_memory_lie_in_files_that_go_with_them() -> None:
    store = LevelStore(limit=100)
    levels = {count: Level(torch.arange(count), torch.randn(4, count), torch.randn(4)) for count in (5, 6, 7)}
    for count, level in levels.items():
        store["ffn", count] = level
    assert store._folder is not None
    folder = Path(store._folder.name)
    assert len(list(folder.iterdir())) == 2  # 80 bytes fit, 96 and 112 do not
    for count, level in levels.items():
        found = store["ffn", count]
        assert torch.equal(found.weight, level.weight)
        assert torch.equal(found.features, level.features)
        assert found.bias is not None
        assert level.bias is not None
        assert torch.equal(found.bias, level.bias)
    store.clear()
    assert not folder.exists()
    assert ("ffn", 5) not in store


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_the_model_with_the_solved_weights(family: str) -> None:
    model, groups, batches = case(family)
    before = copy.deepcopy(model.state_dict())
    models = stitching(model, groups, batches)
    some, fewer = shares(groups, 0.5), shares(groups, 0.25)
    models.solve(some, {name: [count] for name, count in fewer.items()})
    mixed = {name: (fewer if place % 2 else some)[name] for place, name in enumerate(some)}
    found = models.loss(mixed)
    stitched = copy.deepcopy(model)
    for group in groups:
        level = models._store[group.name, mixed[group.name]]
        weight = torch.zeros_like(consumer_of(model, group).weight)
        weight[:, level.features] = level.weight
        set_linear(as_linear(stitched.get_submodule(group.consumer)), weight, level.bias)
    task = batches.task
    assert task is not None
    with torch.inference_mode():
        lost = [
            task.divergence(outputs_of(model, batch, task), outputs_of(stitched, batch, task), batch)
            for batch in models._held
        ]
    assert found == pytest.approx(float(torch.cat(lost).double().mean()), rel=1e-4, abs=1e-7)
    assert found > 1e-6
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loss_from_the_base_on_is_that_of_the_whole_model(family: str) -> None:
    """Layers before the first change are not run again, and are counted as not run."""
    model, groups, batches = case(family)
    models = stitching(model, groups, batches)
    base, fewer = shares(groups, 0.5), shares(groups, 0.25)
    models.solve(base, {name: [count] for name, count in fewer.items()})
    changes = [{**base, group.name: fewer[group.name]} for group in groups]
    direct = [models.loss(change) for change in changes]
    assert models.settle(base) == pytest.approx(models.loss(base), rel=1e-5)
    spent = []
    for change, loss in zip(changes, direct, strict=True):
        before, cost = models.spent, models.cost(change)
        assert models.loss(change) == pytest.approx(loss, rel=1e-4, abs=1e-7)
        spent.append(models.spent - before)
        assert spent[-1] == pytest.approx(cost)
    assert (spent[-1] < spent[0]) == (family not in ("albert", "t5"))


def test_all_units_lose_nothing_and_the_held_back_samples_are_not_solved_on() -> None:
    model, groups, batches = case()
    models = stitching(model, groups, batches)
    every = shares(groups, 1.0)
    models.solve(every, {})
    assert models.loss(every) == pytest.approx(0.0, abs=1e-5)
    assert not {id(batch) for batch in models._held} & {id(batch) for batch in models._rest}
    assert len(models._held) + len(models._rest) == len(batches)


def test_a_second_solution_does_not_depend_on_the_first() -> None:
    model, groups, batches = case()
    once, twice = (stitching(model, groups, batches) for _ in range(2))
    twice.solve(shares(groups, 0.25), {})
    for models in (once, twice):
        models._generator.manual_seed(0)
        models.solve(shares(groups, 0.5), {})
    assert once.loss(shares(groups, 0.5)) == pytest.approx(twice.loss(shares(groups, 0.5)), rel=1e-6)


def test_a_level_keeps_the_most_important_units() -> None:
    _, groups, _ = case()
    group: Group = groups.items[0]
    importance = torch.arange(group.units, 0, -1).float()
    assert torch.equal(features_of(group, importance, 1), torch.arange(group.width))
