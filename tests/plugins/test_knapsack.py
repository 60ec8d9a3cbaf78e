"""The knapsack: against every choice of counts, on tables of any shape, within the budget, fast on large models."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from torch import Tensor

from fastprune import strategy
from fastprune.strategies import Context, CostTable, Scores
from fastprune_search.knapsack import WeightedSearcher, _worth_choosing, spend_rest


def table(kind: str, units: int, generator: torch.Generator) -> Tensor:
    """The cost of 0..units: what MACs, tile edges, empty sublayers and noisy clocks look like."""
    steps = torch.rand(units, generator=generator, dtype=torch.float64)
    if kind == "tiles":  # flat, with jumps
        steps = steps * (torch.arange(units) % 3 == 0)
    costs = torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])
    if kind == "launch":  # anything at all costs much at once
        costs[1:] += 2.0
    if kind == "noise":  # a larger one may be cheaper
        costs = costs + 0.5 * torch.rand(units + 1, generator=generator, dtype=torch.float64)
    return costs


def problem(seed: int) -> tuple[Scores, CostTable]:
    """Two to four groups of up to six units, with or without damage curves."""
    generator = torch.Generator().manual_seed(seed)
    kinds = ["steps", "tiles", "launch", "noise"]
    sizes = torch.randint(0, 7, (2 + seed % 3,), generator=generator).tolist()
    tables, importance, damage = {}, {}, {}
    for index, units in enumerate(sizes):
        tables[f"g{index}"] = table(kinds[(seed + index) % 4], units, generator)
        importance[f"g{index}"] = torch.rand(units, generator=generator).double()
        lost = torch.rand(units, generator=generator, dtype=torch.float64).pow(3)  # neither convex nor concave
        damage[f"g{index}"] = torch.cat([lost.cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])
    scores = Scores(importance=importance, damage=damage if seed % 2 else None)
    return scores, CostTable(measure="ms", groups=tables, fixed=float(seed % 5))


def least(scores: Scores, costs: CostTable, budget: float) -> float:
    """By trying every choice of counts."""
    ranges = [range(values.numel()) for values in costs.groups.values()]
    choices = (dict(zip(costs.groups, counts, strict=True)) for counts in itertools.product(*ranges))
    return min(damage(scores, counts) for counts in choices if costs.of(counts) <= budget)


def damage(scores: Scores, counts: dict[str, int]) -> float:
    return sum(float(scores.damage_of(name)[count]) for name, count in counts.items())


@pytest.mark.parametrize("seed", range(200))
def test_equals_brute_force(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastprune_search.knapsack.RESOLUTION", 100_000)
    scores, costs = problem(seed)
    searcher = strategy("searcher", "knapsack")
    for share in (0.0, 0.2, 0.5, 0.8, 0.95):
        budget = costs.floor + share * (costs.total - costs.floor)
        counts = searcher.search(scores, costs, budget, Context()).counts()
        assert costs.of(counts) <= budget * (1 + 1e-9)
        assert damage(scores, counts) == pytest.approx(least(scores, costs, budget), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_a_coarse_resolution_costs_at_most_a_bucket_a_group(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, costs = problem(seed)
    buckets = 50
    monkeypatch.setattr("fastprune_search.knapsack.RESOLUTION", buckets)
    for share in (0.3, 0.6, 0.9):
        above = share * (costs.total - costs.floor)
        counts = strategy("searcher", "knapsack").search(scores, costs, costs.floor + above, Context()).counts()
        assert costs.of(counts) <= (costs.floor + above) * (1 + 1e-9)
        spared = above * len(costs.groups) / buckets
        assert damage(scores, counts) <= least(scores, costs, costs.floor + above - spared) + 1e-12


def test_what_the_rounding_leaves_is_spent_where_it_helps_most() -> None:
    counts = {"a": 0, "b": 0}
    damage = {"a": torch.tensor([5.0, 1.0, 0.0]), "b": torch.tensor([3.0, 2.0, 0.0])}
    groups = {"a": torch.tensor([0.0, 2.0, 4.0]), "b": torch.tensor([0.0, 1.0, 2.0])}
    spend_rest(counts, damage, CostTable(measure="coins", groups=groups, fixed=1.0), 4.0)
    assert counts == {"a": 1, "b": 1}  # both units of b cost as much as one of a, which helps more


@pytest.mark.parametrize("seed", range(20))
def test_only_counts_worth_their_cost_are_looked_at(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cost, lost = (torch.randint(0, 9, (12,), generator=generator).double() for _ in range(2))
    found = _worth_choosing(cost, lost, 6)
    pairs = [(float(cost[count]), float(lost[count])) for count in found]
    assert pairs == sorted(set(pairs))
    assert all(one[1] > other[1] for one, other in itertools.pairwise(pairs))
    for price, damage in zip(cost.tolist(), lost.tolist(), strict=True):
        assert price > 6 or any(one <= price and other <= damage for one, other in pairs)


def test_the_units_kept_are_the_most_important() -> None:
    scores = Scores(importance={"a": torch.tensor([1.0, 5.0, 3.0]), "b": torch.tensor([2.0])})
    costs = CostTable(
        measure="MACs", groups={"a": torch.arange(4).double(), "b": torch.tensor([0.0, 10.0]).double()}, fixed=0.0
    )
    mask = strategy("searcher", "knapsack").search(scores, costs, 2.0, Context())
    assert mask["a"].tolist() == [False, True, True]
    assert mask["b"].tolist() == [False]


def test_a_whole_sublayer_goes_where_that_alone_saves_anything() -> None:
    flat = torch.tensor([0.0, 5.0, 5.0, 5.0], dtype=torch.float64)
    scores = Scores(importance={"a": torch.tensor([1.0, 1.0, 1.0]), "b": torch.tensor([1.0, 1.0, 2.0])})
    mask = strategy("searcher", "knapsack").search(
        scores, CostTable(measure="ms", groups={"a": flat, "b": flat}, fixed=1.0), 6.0, Context()
    )
    assert mask.counts() == {"a": 0, "b": 3}


def test_the_size_of_bert_large_takes_seconds() -> None:
    generator = torch.Generator().manual_seed(0)
    importance, tables = {}, {}
    for layer in range(24):
        for kind, units, cost in (("heads", 16, 9.0), ("filters", 4096, 0.1)):
            importance[f"{layer}.{kind}"] = torch.rand(units, generator=generator).pow(4)
            tables[f"{layer}.{kind}"] = cost * torch.arange(units + 1, dtype=torch.float64)
    costs = CostTable(measure="MACs", groups=tables, fixed=100.0)
    searcher = strategy("searcher", "knapsack")
    begin = time.perf_counter()
    mask = searcher.search(Scores(importance=importance), costs, 0.5 * costs.total, Context())
    assert time.perf_counter() - begin < 5  # 0.2 on one idle core
    assert 0.499 * costs.total < costs.of(mask.counts()) <= 0.5 * costs.total


def test_variants_are_powers_and_tilts_behind_the_unweighted_damage() -> None:
    for tries in (1, 2, 3, 4):
        searcher = strategy("searcher", "knapsack", tries=tries)
        first, *further = searcher.variants()
        assert first == searcher
        assert [(one.power, one.tilt) for one in further] == [(2 / 3, 0.0), (2 / 3, 1.0), (2 / 3, 2.0)][: tries - 1]


def test_the_first_variant_is_the_unweighted_one() -> None:
    scores, costs = problem(1)
    budget = 0.5 * (costs.floor + costs.total)
    masks = [
        each.search(scores, costs, budget, Context())
        for each in (strategy("searcher", "knapsack"), WeightedSearcher(power=1.0, tilt=0.0))
    ]
    assert masks[0].equals(masks[1])


def test_a_tilt_spares_late_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups that lose the square of what goes: the last counts 2^tilt times, so it loses as much less."""
    monkeypatch.setattr("fastprune_search.knapsack.RESOLUTION", 10_000)
    units = torch.arange(101, dtype=torch.float64)
    lost = (100 - units).square()
    costs = CostTable(measure="MACs", groups={"a": units.clone(), "b": units.clone()}, fixed=0.0)
    scores = Scores(importance={name: torch.arange(1, 101) for name in "ab"}, damage={"a": lost, "b": lost.clone()})

    def kept(tilt: float) -> dict[str, int]:
        searcher = WeightedSearcher(power=1.0, tilt=tilt)
        return searcher.search(scores, costs, 100.0, Context()).counts()

    assert kept(0.0) == {"a": 50, "b": 50}
    assert kept(2.0) == {"a": 20, "b": 80}  # minimise x^2 + 4 y^2 over what goes, x + y = 100
    assert kept(-2.0) == {"a": 80, "b": 20}


def test_a_tilt_rises_from_group_to_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three groups that lose the square of what goes, counted 1, 2^(tilt / 2) and 2^tilt times."""
    monkeypatch.setattr("fastprune_search.knapsack.RESOLUTION", 10_000)
    units = torch.arange(101, dtype=torch.float64)
    scores = Scores(
        importance={name: torch.arange(1, 101) for name in "abc"}, damage=dict.fromkeys("abc", (100 - units).square())
    )
    costs = CostTable(measure="MACs", groups=dict.fromkeys("abc", units), fixed=0.0)
    counts = WeightedSearcher(power=1.0, tilt=1.0).search(scores, costs, 168.0, Context()).counts()
    gone = 132 / (1 + 2**-0.5 + 1 / 2)  # minimise x^2 + sqrt(2) y^2 + 2 z^2 over what goes, x + y + z = 132
    assert counts == pytest.approx({"a": 100 - gone, "b": 100 - gone / 2**0.5, "c": 100 - gone / 2}, abs=1)


def test_a_power_below_one_shares_the_damage_more_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups whose damage is a square, one four times the other's: the optimum of D^p with equal prices a unit."""
    monkeypatch.setattr("fastprune_search.knapsack.RESOLUTION", 10_000)
    units = torch.arange(101, dtype=torch.float64)
    lost = (100 - units).square()
    costs = CostTable(measure="MACs", groups={"a": units.clone(), "b": units.clone()}, fixed=0.0)
    scores = Scores(
        importance={name: torch.arange(1, 101, dtype=torch.float64) for name in "ab"}, damage={"a": 4 * lost, "b": lost}
    )
    kept = {
        power: WeightedSearcher(power=power, tilt=0.0).search(scores, costs, 100.0, Context()).counts()
        for power in (1.0, 0.75)
    }
    # minimise 4 x^2 + y^2 over what goes, x + y = 100: x = 20; of 4^p x^(2p) + y^(2p): y / x = 4^(p / (2p - 1))
    assert kept[1.0] == {"a": 80, "b": 20}
    assert kept[0.75]["a"] == pytest.approx(100 - 100 / (1 + 4**1.5), abs=1)
