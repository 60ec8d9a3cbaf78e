"""Checks of schedules."""

from __future__ import annotations

import torch

from fastprune.strategies import checks
from fastprune.strategies.schedules import Schedule
from fastprune.testing.guards import contract_kept
from fastprune.testing.options import check_options
from fastprune.testing.problems import some_groups


def check_schedule(schedule: Schedule) -> None:
    """Check a schedule for several budgets.

    There is at least one pass; budgets never rise, and the last is exactly the requested one; each group is pruned in some
    pass, and not again after the pass that fixes it.

    Raises:
        AssertionError: A check fails.
    """
    check_options(schedule)
    generator = torch.Generator().manual_seed(0)
    for budget in (1.0, 0.9, 0.5, 0.31, 0.05, 1e-3):
        with contract_kept():
            checks.checked_passes(schedule, budget, some_groups(generator))
