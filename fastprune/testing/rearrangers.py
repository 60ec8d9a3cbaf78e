"""Checks of rearrangers."""

from __future__ import annotations

import copy

import torch

from fastprune.strategies import checks
from fastprune.strategies.context import Context
from fastprune.strategies.contracts import Rearranger
from fastprune.testing.comparing import same_tensors
from fastprune.testing.guards import contract_kept
from fastprune.testing.options import check_options
from fastprune.testing.problems import some_groups, some_scores
from fastprune.units.masks import Mask


def check_rearranger(rearranger: Rearranger, *, trials: int = 20) -> None:
    """Check a rearranger on random masks and scores: it keeps the counts of each group, is deterministic, and changes no argument.

    Args:
        rearranger: The rearranger, with the options to check.
        trials: Number of random problems.

    Raises:
        AssertionError: A check fails.
    """
    check_options(rearranger)
    who = f"rearranger '{rearranger.name}'"
    generator = torch.Generator().manual_seed(0)
    for _ in range(trials):
        groups = some_groups(generator)
        scores = some_scores(groups, generator)
        mask = Mask({g.name: torch.rand(g.units, generator=generator) < 0.6 for g in groups})
        before = copy.deepcopy((dict(mask.values), dict(scores.importance), dict(scores.grads or {})))
        with contract_kept():
            after = rearranger.rearrange(mask, scores, Context(groups=groups))
            checks.check_rearrangement(after, mask, groups, rearranger)
        current = (dict(mask.values), dict(scores.importance), dict(scores.grads or {}))
        assert all(same_tensors(one, other) for one, other in zip(before, current, strict=True)), (
            f"The {who} changed its arguments."
        )
        assert after.equals(rearranger.rearrange(mask, scores, Context(groups=groups))), (
            f"The {who} gives different masks for the same problem."
        )
