"""Budgets: how they are read, and the search that keeps several at once."""

from __future__ import annotations

import itertools
import statistics

import numpy
import pytest
import torch

from fastprune import strategy
from fastprune.errors import BudgetError
from fastprune.strategies import Context, CostTable, Scores
from fastprune.strategies.budgets import BudgetRequest, read_budget
from fastprune.strategies.limits import Limit, Limits
from fastprune.testing.problems import groups_of


def test_readings() -> None:
    assert read_budget(0.5) == {"": BudgetRequest(0.5)}
    assert read_budget(numpy.float32(0.5)) == {"": BudgetRequest(0.5)}
    assert read_budget(1) == {"": BudgetRequest(1.0)}
    assert read_budget("0.5") == {"": BudgetRequest(0.5)}
    assert read_budget(" latency=0.6, params = 7e-1") == {"latency": BudgetRequest(0.6), "params": BudgetRequest(0.7)}
    assert read_budget("latency=3.5ms") == {"latency": BudgetRequest(3.5, "ms")}
    assert read_budget({"latency": "3.5 ms", "params": 0.7}) == {
        "latency": BudgetRequest(3.5, "ms"),
        "params": BudgetRequest(0.7),
    }


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (0.0, "above 0 and at most 1; got 0"),
        ("1.5", "above 0 and at most 1; got 1.5"),
        (float("nan"), "above 0 and at most 1; got nan"),
        ("half", "'half' is no number; give a fraction such as 0.5"),
        ("latency=0.6,latency=0.7", "may be named once"),
        ("=0.5", "may be named once"),
        ("latency=", "'' is no number"),
        ("latency=1.2.3ms", "no number"),
        ("latency=0ms", "above 0; got 0 ms"),
        ({}, "must name costs"),
        ({1: 0.5}, "must name costs"),
        (None, "must be a fraction such as 0.5.*got None"),
        ([0.5], r"got \[0.5\]"),
        (True, "got True"),
        ({"macs": None}, "got None"),
        ({"macs": {"params": 0.5}}, "got {'params': 0.5}"),
    ],
)
def test_bad_budgets(budget, says: str) -> None:
    with pytest.raises(BudgetError, match=says):
        read_budget(budget)


def test_amounts_are_shares_of_the_dense_cost() -> None:
    table = CostTable(measure="ms", groups={"a": torch.tensor([0.0, 6.0]).double()}, fixed=2.0)
    assert BudgetRequest(2.0, "ms").share(table) == 0.25
    assert BudgetRequest(80.0, "ms").share(table) == 1.0
    with pytest.raises(BudgetError, match="2 s is for a cost in ms; say 2ms, or a fraction"):
        BudgetRequest(2.0, "s").share(table)


def problem(seed: int, tables: int) -> tuple[Scores, Limits]:
    """Five groups whose costs have nothing to do with one another."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"a": 4, "b": 4, "c": 5, "d": 5, "e": 3}
    scores = Scores(importance={name: torch.rand(units, generator=generator) for name, units in sizes.items()})
    limits = []
    for index in range(tables):
        groups = {}
        for name, units in sizes.items():
            steps = torch.rand(units, generator=generator).double() ** 2 * (1 + 3 * torch.rand(1, generator=generator))
            groups[name] = torch.cat([torch.zeros(1).double(), steps.cumsum(0)])
        table = CostTable(measure=f"coins {index}", groups=groups, fixed=1.0)
        share = 0.35 + 0.5 * float(torch.rand(1, generator=generator))
        limits.append(Limit(name=str(index), table=table, share=share, dense=table.total))
    return scores, Limits(tuple(limits))


def kept(limits: Limits, counts: dict[str, int]) -> bool:
    return all(limit.table.of(counts) <= limit.budget * (1 + 1e-9) for limit in limits.items)


@pytest.mark.parametrize("tables", [2, 3])
def test_several_budgets_are_all_kept_and_little_is_lost(tables: int) -> None:
    gaps = []
    for seed in range(12):
        scores, limits = problem(seed, tables)
        counts = limits.search(strategy("searcher", "knapsack"), scores, Context()).counts()
        assert kept(limits, counts)
        damage = {name: scores.damage_of(name) for name in counts}
        lost = sum(float(damage[name][count]) for name, count in counts.items())
        choices = itertools.product(*(range(values.numel()) for values in damage.values()))
        found = (dict(zip(damage, choice, strict=True)) for choice in choices)
        least = min(sum(float(damage[n][c]) for n, c in each.items()) for each in found if kept(limits, each))
        assert lost >= least - 1e-9
        gaps.append((lost - least) / sum(float(values[0]) for values in damage.values()))
    assert statistics.mean(gaps) < 0.01
    assert max(gaps) < 0.06
    assert sum(gap < 1e-9 for gap in gaps) > len(gaps) / 2


@pytest.mark.parametrize("searcher", ["exact", "threshold", "piecewise"])
def test_every_searcher_keeps_several_budgets(searcher: str) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = {"0.attention": 4, "1.attention": 4, "0.ffn": 30, "1.ffn": 30}
    scores = Scores(importance={name: torch.rand(units, generator=generator) for name, units in sizes.items()})
    limits = []
    for rates, share in (((5.0, 1.0), 0.5), ((2.0, 3.0), 0.6)):
        rate = dict(zip(("attention", "ffn"), rates, strict=True))
        groups = {n: rate[n.partition(".")[2]] * torch.arange(u + 1).double() for n, u in sizes.items()}
        table = CostTable(measure="coins", groups=groups, fixed=3.0)
        limits.append(Limit(name=str(share), table=table, share=share, dense=table.total))
    both = Limits(tuple(limits))
    counts = both.search(strategy("searcher", searcher), scores, Context(groups=groups_of(both.first.table))).counts()
    assert kept(both, counts)
    assert max(limit.table.of(counts) / limit.budget for limit in limits) > 0.95


def test_one_budget_is_the_searchers_own_business() -> None:
    scores, limits = problem(0, 1)
    alone = strategy("searcher", "knapsack").search(scores, limits.first.table, limits.first.budget, Context())
    assert limits.search(strategy("searcher", "knapsack"), scores, Context()).counts() == alone.counts()


def test_passes_come_nearer_to_all_budgets() -> None:
    _, limits = problem(0, 2)
    first, other = limits.items
    halfway = limits.at(1 - (1 - first.share) / 2)
    assert halfway.items[1].share == pytest.approx(1 - (1 - other.share) / 2)
    assert limits.at(first.share) is limits
