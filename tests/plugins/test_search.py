"""Searches: the exact one against all masks, the threshold against its definition, budgets against everything."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastprune import UsageError, strategy
from fastprune.strategies import Context, CostTable, Pass, Scores


def problem(seed: int, heads: int = 3, filters: int = 3, *, head_cost: float = 5.0, filter_cost: float = 2.0):
    """Two groups of heads and two of filters; equal scores occur."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {
        "a.heads": heads // 2,
        "b.heads": heads - heads // 2,
        "a.filters": filters // 2,
        "b.filters": filters - filters // 2,
    }
    importance = {name: torch.randint(0, 9, (units,), generator=generator).float() for name, units in sizes.items()}
    cost = {name: head_cost if "heads" in name else filter_cost for name in sizes}
    tables = {name: torch.arange(units + 1, dtype=torch.float64) * cost[name] for name, units in sizes.items()}
    return Scores(importance=importance), CostTable(measure="coins", groups=tables, fixed=3.0)


def worth(scores: Scores, mask) -> float:
    return sum(float(scores.importance[name][mask[name]].sum()) for name in scores.importance)


def best_of_all(scores: Scores, costs: CostTable, budget: float) -> float:
    names = list(scores.importance)
    best = -1.0
    for bits in itertools.product([False, True], repeat=sum(scores.importance[name].numel() for name in names)):
        chosen = dict(zip(names, torch.tensor(bits).split([scores.importance[n].numel() for n in names]), strict=True))
        if costs.of({name: int(chosen[name].sum()) for name in names}) <= budget:
            best = max(best, worth(scores, chosen))
    return best


@pytest.mark.parametrize("seed", range(8))
def test_exact_equals_brute_force_over_all_budgets(seed: int) -> None:
    scores, costs = problem(seed)
    assert sum(values.numel() for values in scores.importance.values()) == 6
    headless = 0
    for budget in range(3, 26):
        mask = strategy("searcher", "exact").search(scores, costs, float(budget), Context())
        assert costs.of(mask.counts()) <= budget
        assert worth(scores, mask) == best_of_all(scores, costs, budget)
        headless += mask.counts()["a.heads"] + mask.counts()["b.heads"] == 0
    assert headless >= 2


@pytest.mark.parametrize(("head_cost", "filter_cost"), [(2.0, 5.0), (4.0, 4.0), (7 / 3, 0.1)])
def test_exact_whichever_is_dearer(head_cost: float, filter_cost: float) -> None:
    scores, costs = problem(1, head_cost=head_cost, filter_cost=filter_cost)
    for share in torch.linspace(0, 1, 25).tolist():
        budget = costs.floor + share * (costs.total - costs.floor)
        mask = strategy("searcher", "exact").search(scores, costs, budget, Context())
        assert costs.of(mask.counts()) <= budget * (1 + 1e-9)
        assert worth(scores, mask) >= best_of_all(scores, costs, budget)


@pytest.mark.parametrize("heads", [0, 6])
def test_exact_with_one_kind_alone(heads: int) -> None:
    scores, costs = problem(2, heads=heads, filters=6 - heads)
    for budget in range(3, 34):
        mask = strategy("searcher", "exact").search(scores, costs, float(budget), Context())
        assert worth(scores, mask) == best_of_all(scores, costs, budget)


@pytest.mark.parametrize("name", ["exact", "knapsack", "threshold", "uniform"])
@pytest.mark.parametrize("seed", range(10))
def test_no_search_exceeds_a_budget(name: str, seed: int) -> None:
    scores, costs = problem(seed, heads=12, filters=300, head_cost=64.0, filter_cost=3.0)
    for share in (0.0, 0.001, 0.01, 0.1, 0.33, 0.5, 0.77, 0.999, 1.0):
        budget = costs.floor + share * (costs.total - costs.floor)
        mask = strategy("searcher", name).search(scores, costs, budget, Context())
        assert costs.of(mask.counts()) <= budget


def test_exact_is_never_worth_less_than_the_threshold() -> None:
    better = 0
    for seed in range(20):
        scores, costs = problem(seed, heads=6, filters=20)
        exact, threshold = (
            strategy("searcher", name).search(scores, costs, 30.0, Context()) for name in ("exact", "threshold")
        )
        assert worth(scores, exact) >= worth(scores, threshold)
        better += worth(scores, exact) > worth(scores, threshold)
    assert better > 0


def test_threshold_keeps_the_highest_scores_until_the_budget_is_spent() -> None:
    scores = Scores(importance={"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([4.0, 3.0])})
    tables = {"a": torch.tensor([0.0, 10, 20]), "b": torch.tensor([0.0, 1, 2])}
    costs = CostTable(measure="coins", groups=tables, fixed=0.0)
    kept = {
        budget: [mask["a"].tolist(), mask["b"].tolist()]
        for budget in (9.0, 10.0, 11.0, 12.0, 22.0)
        for mask in [strategy("searcher", "threshold").search(scores, costs, budget, Context())]
    }
    assert kept[9.0] == [[False, False], [False, False]]
    assert kept[10.0] == [[True, False], [False, False]]
    assert kept[11.0] == [[True, False], [True, False]]
    assert kept[12.0] == [[True, False], [True, True]]
    assert kept[22.0] == [[True, True], [True, True]]


def test_uniform_keeps_the_same_share_of_all_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = {"few": 3, "many": 30}
    scores = Scores(importance={name: torch.rand(units, generator=generator) for name, units in sizes.items()})
    tables = {"few": torch.arange(4).double() * 10, "many": torch.arange(31).double()}
    costs = CostTable(measure="coins", groups=tables, fixed=0.0)
    kept = {}
    for budget in range(61):
        mask = strategy("searcher", "uniform").search(scores, costs, float(budget), Context())
        kept[budget] = (mask.counts()["few"], mask.counts()["many"])
        for name, importance in scores.importance.items():
            lost = importance[~mask[name]]
            assert not len(lost) or mask.counts()[name] == 0 or importance[mask[name]].min() > lost.max()
    assert kept[60] == (3, 30)
    assert kept[57] == (3, 27)
    assert kept[54] == (2, 25)  # of 55 it would keep (3, 25): 5/6 of both
    assert kept[30] == (1, 15)
    assert kept[0] == (0, 0)
    assert list(kept.values()) == sorted(kept.values())


def test_exact_refuses_what_it_cannot_do() -> None:
    scores, costs = problem(0)
    bent = CostTable(
        measure="ms", groups=dict(costs.groups) | {"a.heads": torch.tensor([0.0, 9.0]).double()}, fixed=0.0
    )
    with pytest.raises(UsageError, match="at most two different unit costs, but there are 3 in the ms of this model"):
        strategy("searcher", "exact").search(scores, bent, 20.0, Context())
    stepped = CostTable(
        measure="ms", groups=dict(costs.groups) | {"b.heads": torch.tensor([0.0, 9.0, 9.5]).double()}, fixed=0.0
    )
    with pytest.raises(UsageError, match="needs a constant cost per unit, but the ms of 'b.heads' are not"):
        strategy("searcher", "exact").search(scores, stepped, 20.0, Context())


def test_once() -> None:
    assert list(strategy("schedule", "once").passes(0.4, ["a", "b"])) == [Pass(0.4)]


def test_rounds() -> None:
    passes = strategy("schedule", "rounds", steps=3).passes(0.2, ["a", "b"])
    assert all(each.fixes is None for each in passes)
    assert [each.budget for each in passes] == pytest.approx([0.2 ** (1 / 3), 0.2 ** (2 / 3), 0.2])
    assert strategy("schedule", "rounds", steps=1).passes(0.2, ["a", "b"]) == [Pass(0.2)]
    with pytest.raises(UsageError, match="takes int, 1 to 100; got 0"):
        strategy("schedule", "rounds", steps=0)


def test_bottom_up_settles_one_group_a_pass() -> None:
    passes = strategy("schedule", "bottom-up").passes(0.3, ["a", "b", "c"])
    assert passes == [Pass(0.3, frozenset({name})) for name in "abc"]


def test_threshold_by_score_per_cost() -> None:
    scores = Scores(importance={"heads": torch.tensor([6.0, 1.0]), "filters": torch.tensor([3.0, 2.0])})
    tables = {"heads": torch.tensor([0.0, 10.0, 20.0]).double(), "filters": torch.tensor([0.0, 1.0, 2.0]).double()}
    costs = CostTable(measure="coins", groups=tables, fixed=0.0)
    by_score = strategy("searcher", "threshold").search(scores, costs, 11.0, Context())
    by_value = strategy("searcher", "threshold", per_cost=True).search(scores, costs, 11.0, Context())
    assert by_score.counts() == {"heads": 1, "filters": 1}
    assert by_value.counts() == {"heads": 0, "filters": 2}
