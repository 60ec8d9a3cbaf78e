"""Contracts: each breach is named with the strategy and the group."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import fastprune
from fastprune import strategy, testing
from fastprune.errors import ContractError
from fastprune.strategies import CostTable, Scores, checks
from fastprune.units import Groups, Mask, resolve_groups

FIRST = "encoder.layer.0.attention"
CONSUMER = "bert.encoder.layer.0.attention.output.dense"
PRODUCER = "bert.encoder.layer.0.attention.self.query"


BATCHES = testing.tiny_batches(testing.tiny_model(), samples=5, batch_size=3)


@pytest.fixture(scope="module")
def model():
    return testing.tiny_model()


@pytest.fixture(scope="module")
def groups(model) -> Groups:
    return resolve_groups(fastprune.architecture_for(model), model)


def importance(groups: Groups, **first: torch.Tensor) -> dict[str, torch.Tensor]:
    return {group.name: torch.ones(group.units) for group in groups} | {FIRST: first.get("first", torch.ones(4))}


def test_what_is_right_passes(model, groups: Groups) -> None:
    scorer, searcher = strategy("scorer", "magnitude"), strategy("searcher", "exact")
    costs = strategy("cost", "params").measure(model, groups, fastprune.data.Workload.of(testing.tiny_batches(model)))
    checks.check_costs(costs, groups, strategy("cost", "params"))
    checks.check_scores(Scores(importance=importance(groups)), groups, scorer, BATCHES)
    checks.check_search(Mask.full(groups), groups, costs, costs.total, searcher)
    checks.check_rearrangement(Mask.full(groups), Mask.full(groups), groups, strategy("rearranger", "none"))
    checks.check_reconstruction({}, model, groups, strategy("tuner", "none"))


@pytest.mark.parametrize(
    ("first", "complaint"),
    [
        (torch.ones(3), r"returned importance of shape \[3\] for '{}'; it must be \[4\]"),
        (torch.ones(4, 1), r"returned importance of shape \[4, 1\] for '{}'"),
        (torch.tensor([1.0, float("nan"), 1.0, 1.0]), "returned importance for '{}' that are not finite"),
        (torch.tensor([1.0, float("inf"), 1.0, 1.0]), "returned importance for '{}' that are not finite"),
        (torch.tensor([1.0, -1.0, 1.0, 1.0]), "returned negative importance for '{}'"),
        (
            torch.ones(4, dtype=torch.float16),
            "returned importance of torch.float16 for '{}'; it must be float32 or float64",
        ),
        (torch.ones(4, dtype=torch.long), "returned importance of torch.int64 for '{}'; it must be float32 or float64"),
        (torch.ones(4, device="meta"), "returned importance for '{}' on the device meta; it must be on the CPU"),
    ],
)
def test_importance(groups: Groups, first: torch.Tensor, complaint: str) -> None:
    scores = Scores(importance=importance(groups, first=first))
    with pytest.raises(ContractError, match="The scorer 'magnitude' " + complaint.format(FIRST)):
        checks.check_scores(scores, groups, strategy("scorer", "magnitude"), BATCHES)


@pytest.mark.parametrize(
    ("first", "complaint"),
    [
        ((torch.ones(5, 9),), "returned token weights of 1 batches for '{}'; there are 2"),
        (
            (torch.ones(2, 9), torch.ones(3, 9)),
            r"returned token weights of shape \[2, 9\] for '{}'; it must be \[3, any\]",
        ),
        ((torch.ones(3, 9), -torch.ones(2, 9)), "returned negative token weights for '{}'"),
        ((torch.ones(3, 9), torch.full((2, 9), torch.nan)), "returned token weights for '{}' that are not finite"),
    ],
)
def test_token_weights(groups: Groups, first: tuple[torch.Tensor, ...], complaint: str) -> None:
    grads = {group.name: torch.ones(5, group.units) for group in groups}
    weights = {group.name: (torch.ones(3, 9), torch.ones(2, 9)) for group in groups}
    right = Scores(importance=importance(groups), grads=grads, token_weights=weights)
    checks.check_scores(right, groups, strategy("scorer", "fisher"), BATCHES)
    scores = Scores(importance=importance(groups), grads=grads, token_weights=weights | {FIRST: first})
    with pytest.raises(ContractError, match="The scorer 'fisher' " + complaint.format(FIRST)):
        checks.check_scores(scores, groups, strategy("scorer", "fisher"), BATCHES)


def test_groups_left_out_or_made_up(groups: Groups) -> None:
    values = importance(groups)
    values["nowhere"] = values.pop(FIRST)
    with pytest.raises(
        ContractError,
        match=rf"scorer 'magnitude' left out the groups \['{FIRST}'\] and returned the unknown \['nowhere'\]",
    ):
        checks.check_scores(Scores(importance=values), groups, strategy("scorer", "magnitude"), BATCHES)


def test_promised_scores_that_are_missing(groups: Groups) -> None:
    with pytest.raises(ContractError, match="The scorer 'fisher' says that it gives 'grads' and returned none"):
        checks.check_scores(Scores(importance=importance(groups)), groups, strategy("scorer", "fisher"), BATCHES)


@pytest.mark.parametrize(
    ("first", "complaint"),
    [
        (torch.ones(5, 3), r"returned grads of shape \[5, 3\] for '{}'; it must be \[5, 4\]"),
        (torch.ones(1, 4), r"returned grads of shape \[1, 4\] for '{}'; it must be \[5, 4\]"),
        (torch.full((5, 4), float("nan")), "returned grads for '{}' that are not finite"),
    ],
)
def test_gradients(groups: Groups, first: torch.Tensor, complaint: str) -> None:
    grads = {group.name: torch.ones(5, group.units) for group in groups} | {FIRST: first}
    weights = {group.name: (torch.ones(3, 9), torch.ones(2, 9)) for group in groups}
    scores = Scores(importance=importance(groups), grads=grads, token_weights=weights)
    with pytest.raises(ContractError, match="The scorer 'fisher' " + complaint.format(FIRST)):
        checks.check_scores(scores, groups, strategy("scorer", "fisher"), BATCHES)


@pytest.mark.parametrize(
    ("first", "complaint"),
    [
        (torch.ones(4), r"returned costs of shape \[4\] for '{}'; it must be \[5\]"),
        (torch.tensor([0.0, 1, 2, 3, float("inf")]).double(), "returned costs for '{}' that are not finite"),
        (torch.tensor([-1.0, 1, 2, 3, 4]).double(), "returned negative costs for '{}'"),
    ],
)
def test_costs(groups: Groups, first: torch.Tensor, complaint: str) -> None:
    tables = {group.name: torch.arange(group.units + 1.0).double() for group in groups} | {FIRST: first}
    with pytest.raises(ContractError, match="The cost model 'macs' " + complaint.format(FIRST)):
        checks.check_costs(CostTable(measure="MACs", groups=tables, fixed=0.0), groups, strategy("cost", "macs"))


def coins(groups: Groups) -> CostTable:
    return CostTable(measure="coins", groups={g.name: torch.arange(g.units + 1.0) for g in groups}, fixed=1.0)


def test_search_over_budget(groups: Groups) -> None:
    with pytest.raises(
        ContractError, match="The searcher 'exact' returned a mask of 137 coins, over the budget of 136"
    ):
        checks.check_search(Mask.full(groups), groups, coins(groups), 136.0, strategy("searcher", "exact"))


@pytest.mark.parametrize(
    ("first", "complaint"),
    [
        (torch.ones(4), "returned a mask of torch.float32 for '{}'; it must be bool"),
        (torch.ones(5, dtype=torch.bool), r"returned mask of shape \[5\] for '{}'"),
    ],
)
def test_masks(groups: Groups, first: torch.Tensor, complaint: str) -> None:
    mask = Mask(dict(Mask.full(groups).values) | {FIRST: first})
    with pytest.raises(ContractError, match="The searcher 'exact' " + complaint.format(FIRST)):
        checks.check_search(mask, groups, coins(groups), 1e9, strategy("searcher", "exact"))
    with pytest.raises(ContractError, match="The rearranger 'fisher' " + complaint.format(FIRST)):
        checks.check_rearrangement(mask, Mask.full(groups), groups, strategy("rearranger", "fisher"))


def test_rearrangement_that_changes_a_count(groups: Groups) -> None:
    after = Mask(dict(Mask.full(groups).values) | {FIRST: torch.tensor([True, True, False, True])})
    with pytest.raises(
        ContractError, match=f"The rearranger 'fisher' keeps 3 units of '{FIRST}', where the search kept 4"
    ):
        checks.check_rearrangement(after, Mask.full(groups), groups, strategy("rearranger", "fisher"))


@pytest.mark.parametrize(
    ("name", "weight", "bias", "complaint"),
    [
        ("nowhere", torch.ones(32, 32), None, "returned a weight for 'nowhere', which is the path of no consumer or"),
        (
            CONSUMER,
            torch.ones(32, 31),
            None,
            rf"returned weight of shape \[32, 31\] for '{CONSUMER}'; it must be \[32, 32\]",
        ),
        (PRODUCER, torch.ones(16, 32), None, rf"returned weight of shape \[16, 32\] for '{PRODUCER}'; it must be"),
        (
            CONSUMER,
            torch.ones(32, 32),
            torch.ones(4),
            rf"returned bias of shape \[4\] for '{CONSUMER}'; it must be \[32\]",
        ),
        (CONSUMER, torch.full((32, 32), float("inf")), None, f"returned weight for '{CONSUMER}' that are not finite"),
        (
            CONSUMER,
            torch.ones(32, 32),
            torch.full((32,), float("nan")),
            f"returned bias for '{CONSUMER}' that are not finite",
        ),
    ],
)
def test_reconstruction(model, groups: Groups, name: str, weight: Any, bias: Any, complaint: str) -> None:
    with pytest.raises(ContractError, match="The tuner 'mask' " + complaint):
        checks.check_reconstruction({name: (weight, bias)}, model, groups, strategy("tuner", "mask"))


def test_the_pipeline_checks_every_stage(model) -> None:
    """A strategy that breaks its contract is caught on its way, whichever stage it is."""
    batches = testing.tiny_batches(model)
    makers = {
        "scorer": lambda base: type(base).score,
        "searcher": lambda base: type(base).search,
        "rearranger": lambda base: type(base).rearrange,
        "tuner": lambda base: type(base).tune,
        "cost": lambda base: type(base).measure,
    }
    broken = {
        "scorer": lambda scores: dataclasses.replace(scores, importance={}),
        "searcher": lambda mask: Mask({}),
        "rearranger": lambda mask: Mask({name: ~mask[name] for name in mask}),
        "tuner": lambda reconstruction: {"nowhere": (torch.ones(1), None)},
        "cost": lambda table: dataclasses.replace(table, groups={}),
    }
    for kind, spoil in broken.items():
        base = getattr(fastprune.Recipe.of(), kind)
        method = makers[kind](base)
        spoiled = dataclasses.dataclass(frozen=True, kw_only=True)(
            type("Spoiled", (type(base),), {method.__name__: lambda self, *a, m=method, s=spoil: s(m(self, *a))})
        )
        with pytest.raises(ContractError, match=f"'{base.name}'"):
            fastprune.prune(model, batches, budget=0.6, **{kind: spoiled()})


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (torch.tensor([3.0, 2.0, 1.0, 0.0]), r"returned damage of shape \[4\] for '{}'; it must be \[5\]"),
        (torch.tensor([3.0, 2.0, float("inf"), 1.0, 0.0]), "returned damage for '{}' that are not finite"),
        (torch.tensor([3.0, 1.0, 2.0, 1.0, 0.0]), "returned damage for '{}' that rises where more units are kept"),
        (torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0]), "returned damage of 1 for '{}' with every unit kept; it must be 0"),
    ],
)
def test_damage(groups: Groups, first: torch.Tensor, said: str) -> None:
    damage = {group.name: torch.arange(group.units, -1, -1).double() for group in groups}
    scores = Scores(importance=importance(groups), damage=damage)
    checks.check_scores(scores, groups, strategy("scorer", "magnitude"), BATCHES)
    with pytest.raises(ContractError, match=said.format(FIRST)):
        checks.check_scores(
            Scores(importance=importance(groups), damage=damage | {FIRST: first}),
            groups,
            strategy("scorer", "magnitude"),
            BATCHES,
        )
