"""The paper's latency search: against brute force where its model of latency is true, and within budgets where not."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastprune import UsageError, strategy
from fastprune.strategies import Context, CostTable, Scores
from fastprune.testing.problems import groups_of
from fastprune_search.piecewise import Fit


def line(units: int, threshold: int, constant: float, slope: float) -> torch.Tensor:
    kept = torch.arange(units + 1, dtype=torch.float64)
    return torch.where(kept > 0, constant + slope * (kept - threshold).clamp(min=0), 0.0)


def problem(seed: int, *, layers: int = 2, heads: int = 3, filters: int = 4):
    generator = torch.Generator().manual_seed(seed)
    tables, importance = {}, {}
    for layer in range(layers):
        tables[f"{layer}.attention"] = line(heads, 1, 4.0, 3.0)
        tables[f"{layer}.ffn"] = line(filters, 2, 3.0, 1.0)
    for name, table in tables.items():
        # a layer matters much or hardly at all, so that dropping it pays
        scale = 10 ** float(torch.randint(-2, 2, (), generator=generator))
        importance[name] = scale * torch.rand(table.numel() - 1, generator=generator)
    return Scores(importance=importance), CostTable(measure="ms", groups=tables, fixed=2.0)


def worth(scores: Scores, counts: dict[str, int]) -> float:
    return sum(
        float(scores.importance[name].sort(descending=True).values[:count].double().sum())
        for name, count in counts.items()
    )


def best_of_all(scores: Scores, costs: CostTable, budget: float) -> float:
    names = list(costs.groups)
    choices = itertools.product(*(range(costs.groups[name].numel()) for name in names))
    found = (dict(zip(names, counts, strict=True)) for counts in choices)
    return max(worth(scores, counts) for counts in found if costs.of(counts) <= budget)


@pytest.mark.parametrize("seed", range(20))
def test_near_brute_force_where_its_model_is_true(seed: int) -> None:
    scores, costs = problem(seed)
    dropped, reached = 0, []
    for budget in (2.0, 6.0, 10.0, 14.0, 18.0, 24.0, 30.0):
        counts = (
            strategy("searcher", "piecewise").search(scores, costs, budget, Context(groups=groups_of(costs))).counts()
        )
        assert costs.of(counts) <= budget
        best = best_of_all(scores, costs, budget)
        reached.append(worth(scores, counts) / best if best else 1.0)
        dropped += sum(count == 0 for count in counts.values()) in (1, 2, 3)
    assert dropped > 0, "whole sublayers must be able to go, and not only all of them"
    assert sum(reached) / len(reached) > 0.9  # which layers go is a heuristic, the least important first
    assert reached[-1] == pytest.approx(1.0)


def test_every_number_of_dropped_sublayers_is_tried() -> None:
    """With one layer that matters and eleven that do not, only a search that drops eleven can pay for the one."""
    tables = {f"{layer}.attention": line(4, 1, 10.0, 1.0) for layer in range(12)}
    importance = {name: torch.full((4,), 1e-3) for name in tables} | {"7.attention": torch.ones(4)}
    costs = CostTable(measure="ms", groups=tables, fixed=0.0)
    counts = (
        strategy("searcher", "piecewise")
        .search(Scores(importance=importance), costs, 13.5, Context(groups=groups_of(costs)))
        .counts()
    )
    assert counts == dict.fromkeys(tables, 0) | {"7.attention": 4}


def test_fit() -> None:
    assert Fit.of(line(20, 6, 5.0, 2.0)) == Fit(6, 5.0, pytest.approx(2.0))
    flat = Fit.of(torch.tensor([0.0, 3, 3, 3]))
    assert (flat.constant, flat.slope) == (3.0, 0.0)
    straight = Fit.of(line(10, 1, 2.0, 2.0))
    assert (straight.threshold, straight.constant, straight.slope) == (1, 2.0, pytest.approx(2.0))


@pytest.mark.parametrize("seed", range(30))
def test_tables_of_another_shape_keep_their_budget(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tables = {}
    for layer in range(3):
        for kind, units in (("attention", 4), ("ffn", 30)):
            stairs = torch.rand(units + 1, generator=generator).double() ** 4
            tables[f"{layer}.{kind}"] = torch.cat([torch.zeros(1), stairs.cumsum(0)[1:]]).double()
    importance = {name: torch.rand(table.numel() - 1, generator=generator) for name, table in tables.items()}
    costs = CostTable(measure="ms", groups=tables, fixed=1.0)
    kept = []
    for share in (0.0, 0.1, 0.3, 0.5, 0.8, 1.0):
        budget = costs.floor + share * (costs.total - costs.floor)
        counts = (
            strategy("searcher", "piecewise")
            .search(Scores(importance=importance), costs, budget, Context(groups=groups_of(costs)))
            .counts()
        )
        assert costs.of(counts) <= budget * (1 + 1e-9)
        kept.append(costs.of(counts) / costs.total)
    assert kept[-1] == pytest.approx(1.0)
    assert kept[3] > 0.25


def test_three_kinds_are_refused() -> None:
    tables = {name: line(2, 1, 1.0, 1.0) for name in ("0.attention", "0.cross", "0.ffn")}
    scores = Scores(importance={name: torch.ones(2) for name in tables})
    costs = CostTable(measure="ms", groups=tables, fixed=0.0)
    with pytest.raises(
        UsageError, match=r"handles two kinds of sublayers, but this model has 3 \(attention, cross, ffn"
    ):
        strategy("searcher", "piecewise").search(
            scores, CostTable(measure="ms", groups=tables, fixed=0.0), 2.0, Context(groups=groups_of(costs))
        )
