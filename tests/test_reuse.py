"""What prunings share: the same results, and the work done once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import fastprune
from fastprune import Batches, testing
from fastprune.data import Workload
from fastprune.pipeline import fingerprint
from fastprune.pipeline.cache import PruningCache
from fastprune.strategies import Context, CostModel, CostTable, Scorer, Scores
from fastprune.units import Groups

CALLS: list[str] = []


@dataclass(frozen=True, kw_only=True)
class CountedScorer(Scorer):
    name: ClassVar[str] = "counted"

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        CALLS.append("score")
        return Scores(importance={group.name: torch.rand(group.units, generator=context.generator) for group in groups})


@dataclass(frozen=True, kw_only=True)
class CountedCost(CostModel):
    name: ClassVar[str] = "counted"

    def measure(self, model: nn.Module, groups: Groups, workload: Workload) -> CostTable:
        CALLS.append("measure")
        tables = {group.name: torch.arange(group.units + 1, dtype=torch.float64) for group in groups}
        return CostTable(measure="units", groups=tables, fixed=0.0)


def prune(budget: float, cache: PruningCache | None) -> fastprune.PruningResult:
    model = testing.tiny_model()
    return fastprune.prune(
        model,
        testing.tiny_batches(model),
        budget=budget,
        scorer=CountedScorer(),
        cost=CountedCost(),
        searcher="threshold",
        rearranger="none",
        tuner="none",
        cache=cache,
    )


def test_work_is_done_once_and_results_stay_the_same(tmp_path: Path) -> None:
    CALLS.clear()
    alone = [prune(budget, None) for budget in (0.7, 0.4)]
    assert CALLS == ["measure", "score"] * 2

    CALLS.clear()
    cache = PruningCache(folder=tmp_path)
    together = [prune(budget, cache) for budget in (0.7, 0.4)]
    resumed = prune(0.4, PruningCache(folder=tmp_path))  # another process
    assert CALLS == ["measure", "score", "measure"]  # costs are measured anew: the machine may be another

    for one, other in zip([*alone, alone[1]], [*together, resumed], strict=True):
        assert one.kept() == other.kept()
        assert all(torch.equal(one.mask[name], other.mask[name]) for name in one.mask)


def test_a_broken_file_is_computed_again(tmp_path: Path) -> None:
    prune(0.5, PruningCache(folder=tmp_path))
    for file in tmp_path.iterdir():
        file.write_bytes(b"torn")
    CALLS.clear()
    prune(0.5, PruningCache(folder=tmp_path))
    assert CALLS == ["measure", "score"]


def changed(change: str) -> dict[str, Any]:
    """Arguments of ``prune`` for a model, of which one thing is another."""
    model = testing.tiny_model("bert", "Model")
    batches = testing.tiny_batches(
        model, samples=16, batch_size=4 if change == "batch size" else 8, seed=int(change == "data")
    )
    if change == "weights":
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] += 1e-3
    elif change == "dtype":
        model = model.double()
    elif change == "pooling":
        batches = dataclasses.replace(batches, task=dataclasses.replace(batches.task, pooling="cls"))  # type: ignore[type-var, call-arg]
    return {"model": model, "data": batches, "seed": int(change == "seed")}


@pytest.mark.parametrize("change", ["", "weights", "dtype", "data", "batch size", "pooling", "seed", "versions"])
def test_results_are_reused_for_nothing_else(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"scorer": CountedScorer(), "cost": CountedCost(), "searcher": "threshold", "rearranger": "none"}
    how |= {"tuner": "none", "budget": 0.5, "bench": False}
    caches = [PruningCache(), PruningCache(folder=tmp_path)]
    for cache in caches:
        fastprune.prune(**changed(""), **how, cache=cache)
    CALLS.clear()
    if change == "versions":
        monkeypatch.setattr(fingerprint, "library_versions", lambda: {"torch": "another"})
    for cache in (caches[0], PruningCache(folder=tmp_path)):  # from memory, and as another process
        fastprune.prune(**changed(change), **how, cache=cache)
    assert (["measure", "score"] * 2 if change else ["measure"]) == CALLS
