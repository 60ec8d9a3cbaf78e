"""Checks of schedules."""

from __future__ import annotations

import torch

from fastprune.strategies import checks
from fastprune.strategies.schedules import Schedule
from fastprune.testing.guards import contract_kept
from fastprune.testing.options import check_options
from fastprune.testing.problems import some_groups


def check_schedule(schedule: Schedule) -> None:
    """For every budget there is a pass; budgets never rise, and the last is exactly the one asked for; each group loses
    units in some pass, and none in a pass after the one that settles it."""
    check_options(schedule)
    generator = torch.Generator().manual_seed(0)
    for budget in (1.0, 0.9, 0.5, 0.31, 0.05, 1e-3):
        with contract_kept():
            checks.checked_passes(schedule, budget, some_groups(generator))
