"""The stages of a pass: what they hand to strategies, and what they copy."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import fastprune
from fastprune import Batches, PruningCache, testing
from fastprune.errors import ModelError
from fastprune.strategies import Context, CostTable, Rearranger, Reconstruction, Scorer, Scores, Searcher, Tuner
from fastprune.testing.problems import some_mask
from fastprune.units import Groups, Mask

SEEN: dict[str, list[Any]] = {}
LOSSES: list[float] = []


def note(stage: str, context: Context) -> None:
    SEEN.setdefault(stage, []).append((context.generator.initial_seed(), [group.name for group in context.groups]))


@dataclass(frozen=True, kw_only=True)
class NotingScorer(Scorer):
    name: ClassVar[str] = "noting"

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        note("score", context)
        assert context.states is not None
        return Scores(importance={group.name: torch.rand(group.units, generator=context.generator) for group in groups})


@dataclass(frozen=True, kw_only=True)
class NotingSearcher(Searcher):
    name: ClassVar[str] = "noting"

    def search(self, scores: Scores, costs: CostTable, budget: float, context: Context) -> Mask:
        note("search", context)
        assert context.loss is None
        return Mask.top(scores.importance, {group.name: group.units // 2 for group in context.groups})


@dataclass(frozen=True, kw_only=True)
class NotingRearranger(Rearranger):
    name: ClassVar[str] = "noting"

    def rearrange(self, mask: Mask, scores: Scores, context: Context) -> Mask:
        note("rearrange", context)
        return mask


@dataclass(frozen=True, kw_only=True)
class NotingTuner(Tuner):
    name: ClassVar[str] = "noting"

    def tune(
        self,
        teacher: nn.Module,
        student: nn.Module,
        groups: Groups,
        batches: Batches,
        scores: Scores,
        context: Context,
    ) -> Reconstruction:
        note("tune", context)
        assert context.states is not None
        assert context.states.teacher is teacher
        return {}


def seen(seed: int, schedule: str = "once") -> dict[str, list[Any]]:
    model = testing.tiny_model()
    SEEN.clear()
    fastprune.prune(
        model,
        testing.tiny_batches(model),
        budget=0.6,
        scorer=NotingScorer(),
        searcher=NotingSearcher(),
        rearranger=NotingRearranger(),
        tuner=NotingTuner(),
        schedule=schedule,
        seed=seed,
        bench=False,
    )
    return dict(SEEN)


def test_every_stage_of_every_pass_has_a_generator_of_its_own() -> None:
    first, again, other = seen(0, "rounds"), seen(0, "rounds"), seen(1, "rounds")
    assert first.keys() == {"score", "search", "rearrange", "tune"}
    assert first == again
    seeds = [number for calls in first.values() for number, _ in calls]
    assert len(set(seeds)) == len(seeds) > 4
    assert not set(seeds) & {number for calls in other.values() for number, _ in calls}


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_seeds_at_the_ends_of_the_range(seed: int) -> None:
    assert seen(seed) == seen(seed)


def test_stages_are_told_the_groups() -> None:
    model = testing.tiny_model()
    names = [group.name for group in fastprune.units.resolve_groups(fastprune.architecture_for(model), model)]
    assert all(groups == names for calls in seen(0).values() for _, groups in calls)


def weights(seed: int, recipe: str) -> list[torch.Tensor]:
    model = testing.tiny_model()
    batches = testing.tiny_batches(model, samples=64)
    labelled = fastprune.strategy("scorer", "obs", labels="dataset") if recipe == "default" else None
    result = fastprune.prune(model, batches, budget=0.5, recipe=recipe, scorer=labelled, seed=seed, bench=False)
    return list(result.model.state_dict().values())


def test_the_seed_is_of_everything_random() -> None:
    """With the data's labels and all tokens, only the tuner draws."""
    one, again, other = weights(0, "default"), weights(0, "default"), weights(1, "default")
    assert all(map(torch.equal, one, again))
    assert len(one) != len(other) or not all(
        left.shape == right.shape and torch.equal(left, right) for left, right in zip(one, other, strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class LossSearcher(Searcher):
    """Empties the group whose masked loss is least."""

    name: ClassVar[str] = "by-loss"
    requires_loss: ClassVar[bool] = True

    def search(self, scores: Scores, costs: CostTable, budget: float, context: Context) -> Mask:
        assert context.loss is not None
        every = Mask.full(context.groups)
        LOSSES[:] = [context.loss(every)]
        masks = [
            Mask({**every.values, group.name: torch.zeros(group.units, dtype=torch.bool)}) for group in context.groups
        ]
        LOSSES.extend(context.loss(mask) for mask in masks)
        return Mask.first(context.groups, {group.name: 0 for group in context.groups})


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMaskedLM"])
def test_a_searcher_is_handed_the_real_loss(head: str) -> None:
    model = testing.tiny_model("bert", head)
    batches = testing.tiny_batches(model)
    fastprune.prune(
        model, batches, budget=1e-6, cost=fastprune.strategy("cost", "macs", scope="layers"), scorer="magnitude",
        searcher=LossSearcher(), tuner="none", bench=False,
    )  # fmt: skip
    dense, *emptied = LOSSES
    assert dense == pytest.approx(0.0, abs=1e-6)
    groups = fastprune.units.resolve_groups(fastprune.architecture_for(model), model)
    for group, loss in zip(groups, emptied, strict=True):
        mask = Mask({**Mask.full(groups).values, group.name: torch.zeros(group.units, dtype=torch.bool)})
        figures = fastprune.fidelity(model, fastprune.materialize(model, groups, mask).eval(), batches)
        assert loss == pytest.approx(1 - statistics.fmean(figures.values()), rel=0.02)  # maybe in bfloat16
        assert loss > 1e-4


def test_an_offloaded_model_is_refused_by_a_scorer_that_needs_it_whole() -> None:
    model = testing.tiny_model()
    batches = testing.tiny_batches(model)
    model.bert.encoder.layer[1].to("meta")
    with pytest.raises(
        ModelError, match=r"The scorer 'fisher' runs the whole model at once, but 16 parameters are offloaded"
    ):
        fastprune.prune(model, batches, budget=0.5, recipe="paper")


def storages(model: nn.Module) -> set[int]:
    return {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()}


def test_a_draft_shares_what_no_tuner_changes() -> None:
    model = testing.tiny_model()
    groups = fastprune.units.resolve_groups(fastprune.architecture_for(model), model)
    mask = some_mask(groups, full=groups.items[0].name)
    draft = fastprune.materialize(model, groups, mask, share=True)
    assert draft.bert.embeddings.word_embeddings.weight is model.bert.embeddings.word_embeddings.weight
    changed = {path for group in groups for path in (*group.producers, group.consumer)}
    for path in changed:
        assert not storages(draft.get_submodule(path)) & storages(model.get_submodule(path))
    assert not storages(fastprune.materialize(model, groups, mask)) & storages(model)


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_no_parameter_is_shared_with_the_dense_model_in_the_end(recipe: str) -> None:
    model = testing.tiny_model(tie_word_embeddings=True, head="ForMaskedLM")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.5, recipe=recipe, bench=False)
    assert not storages(result.model) & storages(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    pruned = result.model
    assert pruned.cls.predictions.decoder.weight is pruned.bert.embeddings.word_embeddings.weight


def copied(model: nn.Module, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> int:
    """How many times the word embeddings are copied in a pruning."""
    size, count = model.bert.embeddings.word_embeddings.weight.shape, 0
    clone = torch.Tensor.clone

    def counting(tensor: torch.Tensor, **options: Any) -> torch.Tensor:
        nonlocal count
        count += tensor.shape == size
        return clone(tensor, **options)

    monkeypatch.setattr(torch.Tensor, "clone", counting)
    fastprune.prune(model, testing.tiny_batches(model, samples=64), budget=0.5, bench=False, **arguments)
    return count


def test_a_pruning_copies_the_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = testing.tiny_model(vocab_size=97)
    assert copied(model, monkeypatch) == 1  # three drafts and the student


def test_states_of_augmented_copies_are_not_held() -> None:
    model = testing.tiny_model()
    batches, held = testing.tiny_batches(model, samples=32), []
    cache = PruningCache()
    for _ in range(3):
        fastprune.prune(model, batches, budget=0.5, recipe="best", cache=cache, bench=False)
        assert cache.states is not None
        held.append(cache.states.held)
    assert held[0] == held[1] == held[2]
    names: Sequence[str] = list(cache.states._kept)
    assert all(len(states) <= len(batches) for name in names for states in cache.states._kept[name].values())
