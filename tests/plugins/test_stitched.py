"""The search on the loss: it finds what damage curves hide, within its work and all budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import fastprune
from fastprune import Batches, testing
from fastprune.data import outputs_of
from fastprune.reconstruction import Stitching
from fastprune.strategies import Context, Job, Scorer, Scores
from fastprune.units import Groups, resolve_groups
from fastprune_search import stitched
from fastprune_search.stitched import StitchedSearcher


@dataclass(frozen=True, kw_only=True)
class WrongCurves(Scorer):
    """Curves that are a hundred times too high in the first FFN, and the same in all others."""

    name: ClassVar[str] = "wrong-curves"

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"damage"})

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        importance, damage = {}, dict[str, Tensor]()
        for group in groups:
            importance[group.name] = torch.arange(group.units, 0, -1).double()
            curve = torch.linspace(1.0, 0.0, group.units + 1, dtype=torch.float64).square()
            damage[group.name] = curve * (100 if group.name == groups.items[1].name else 1)
        return Scores(importance=importance, damage=damage)


def useless() -> nn.Module:
    """A model whose first FFN adds next to nothing to the residual stream."""
    model = testing.tiny_model("llama", "ForCausalLM", num_hidden_layers=3)
    with torch.no_grad():
        model.get_parameter("model.layers.0.mlp.down_proj.weight").mul_(1e-3)
    return model


def pruned(model: nn.Module, searcher: Any, **settings: Any) -> fastprune.PruningResult:
    batches = testing.tiny_batches(model, samples=48)
    chosen = {"scorer": WrongCurves(), "tuner": "weights", "rearranger": "none", "bench": False, **settings}
    cost = fastprune.strategy("cost", "params", scope="layers")
    return fastprune.prune(model, batches, **{"budget": 0.6, "cost": cost, "searcher": searcher, **chosen})


def test_it_finds_what_the_damage_curves_hide() -> None:
    model = useless()
    by_curves, by_loss = pruned(model, "knapsack"), pruned(model, StitchedSearcher(passes=100.0, rounds=4))
    name = "layers.0.ffn"
    assert by_curves.mask.counts()[name] > 60
    assert by_loss.mask.counts()[name] < by_curves.mask.counts()[name] - 20
    test = testing.tiny_batches(model, samples=64, seed=5)
    assert lost(model, by_loss.model, test) < 0.9 * lost(model, by_curves.model, test)


def lost(dense: nn.Module, model: nn.Module, batches: Batches) -> float:
    """The mean divergence of a model from the dense one, in nats a sample."""
    task = batches.task
    assert task is not None
    with torch.inference_mode():
        pairs = [(outputs_of(dense, batch, task), outputs_of(model, batch, task), batch) for batch in batches]
        return float(torch.cat([task.divergence(*pair) for pair in pairs]).mean())


def test_each_move_lowers_the_loss(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="fastprune_search.stitched")
    pruned(useless(), StitchedSearcher(passes=100.0))
    losses = [float(record.message.split()[1].rstrip(",")) for record in caplog.records if "passes" in record.message]
    assert len(losses) > 2
    assert losses[-1] < losses[0]


class Counted(Stitching):
    """Keeps the last instance, and what was spent when each proposal was compared."""

    last: ClassVar[Stitching]

    def solve(self, around: Mapping[str, int], wanted: Mapping[str, Sequence[int]]) -> None:
        Counted.last = self
        super().solve(around, wanted)


@pytest.mark.parametrize("passes", [1.0, 12.0, 16.0])
def test_its_work_is_limited(passes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the passes that were asked for, but for the first measurement of all groups, and the comparison of what it proposes."""
    monkeypatch.setattr(stitched, "Stitching", Counted)
    result = pruned(useless(), StitchedSearcher(passes=passes, rounds=10))
    assert 0 < Counted.last.spent <= max(passes, 8.0) + 3.0
    assert result.cost_after <= 0.6 * result.cost_before * (1 + 1e-9)


def test_its_work_is_foreseen() -> None:
    model = useless()
    groups = resolve_groups(fastprune.architecture_for(model), model)
    job = Job(groups=groups, batches=testing.tiny_batches(model), share=0.5, weights=1e4)
    assert StitchedSearcher(passes=7.0).work(job).passes == 7.0
    assert StitchedSearcher(rounds=4).work(job).solves > StitchedSearcher(rounds=1).work(job).solves > 0


@pytest.mark.parametrize("settings", [{"form": "plain"}, {"multiple": 16}, {}])
def test_it_keeps_forms_and_several_budgets(settings: dict[str, Any]) -> None:
    result = pruned(
        useless(),
        StitchedSearcher(passes=6.0, rounds=1, **settings),
        budget={"macs": 0.75, "params": 0.85},
        cost="macs",
    )
    for cost in result.costs:
        assert cost["after"] <= cost["budget"] * cost["before"] * (1 + 1e-9)
    counts = result.mask.counts()
    if settings.get("multiple"):
        assert all(count % 16 == 0 for name, count in counts.items() if name.endswith("ffn"))
    if settings.get("form"):
        assert len({count for name, count in counts.items() if name.endswith("ffn") and count}) == 1


def test_a_slow_searcher_searches_once_for_several_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    search = StitchedSearcher.search

    def counted(self: StitchedSearcher, *arguments: Any) -> Any:
        calls.append(self)
        return search(self, *arguments)

    monkeypatch.setattr(StitchedSearcher, "search", counted)
    pruned(useless(), StitchedSearcher(passes=3.0, rounds=1), budget={"macs": 0.7, "params": 0.7}, cost="macs")
    assert len(calls) == 1


def test_without_models_it_is_the_first_proposal() -> None:
    testing.check_searcher(StitchedSearcher(), trials=6)
