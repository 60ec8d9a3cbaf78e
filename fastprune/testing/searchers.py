"""Checks of searchers."""

from __future__ import annotations

import copy

import torch

from fastprune.errors import UsageError
from fastprune.strategies import checks
from fastprune.strategies.context import Context
from fastprune.strategies.contracts import Searcher
from fastprune.strategies.costs import CostTable
from fastprune.testing.comparing import same_tensors
from fastprune.testing.guards import contract_kept
from fastprune.testing.options import check_options
from fastprune.testing.problems import some_costs, some_groups, some_scores


def check_searcher(searcher: Searcher, *, trials: int = 60) -> None:
    """Check a searcher on random scores and cost tables, for budgets from the cheapest possible cost to the total cost.

    The mask is within the budget, is the same each time, and keeps all units for a budget of the total cost; no argument is
    changed. A UsageError is accepted for tables whose costs are not proportional to the units.

    Args:
        searcher: The searcher, with the options to check.
        trials: Number of random problems.

    Raises:
        AssertionError: A check fails.
    """
    check_options(searcher)
    who = f"searcher '{searcher.name}'"
    generator = torch.Generator().manual_seed(0)
    for trial in range(trials):
        groups = some_groups(generator, most=0 if trial == 0 else 7)
        straight = trial % 3 != 2
        scores, costs = some_scores(groups, generator), some_costs(groups, generator, straight=straight)
        if trial % 2:  # measured costs are not integers
            costs = CostTable(
                measure=costs.measure, groups={n: c / 7 for n, c in costs.groups.items()}, fixed=costs.fixed / 7
            )
        before = copy.deepcopy((dict(scores.importance), dict(costs.groups)))
        shares = [0.0, 1.0, *torch.rand(6, generator=generator).tolist()]
        for budget in (costs.floor + share * (costs.total - costs.floor) for share in shares):
            try:
                with contract_kept():
                    mask = searcher.search(scores, costs, budget, Context(groups=groups))
                    checks.check_search(mask, groups, costs, budget, searcher)
            except UsageError as error:
                if straight:
                    raise AssertionError(f"The {who} refused a table with two constant unit costs: {error}") from error
                continue
            again = searcher.search(scores, costs, budget, Context(groups=groups))
            assert mask.equals(again), f"The {who} gives different masks for the same scores, costs and budget."
            if budget >= costs.total:
                kept = sum(mask.counts().values())
                assert kept == sum(group.units for group in groups), (
                    f"The {who} keeps {kept} of {sum(g.units for g in groups)} units although the budget allows all."
                )
        after = (dict(scores.importance), dict(costs.groups))
        assert all(same_tensors(one, other) for one, other in zip(before, after, strict=True)), (
            f"The {who} changed its arguments."
        )
