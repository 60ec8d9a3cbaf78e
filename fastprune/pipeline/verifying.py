"""Verifying measured budgets: the costs of the pruned model itself, measured beside the dense model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastprune.data.workload import Workload
from fastprune.measuring.timing import median, speedup, spread
from fastprune.pipeline.clock import timed
from fastprune.pipeline.state import State
from fastprune.registry.recipe import Recipe, strategy
from fastprune.strategies.contracts import CostModel, MeasuredCost
from fastprune.strategies.limits import Limits

log = logging.getLogger(__name__)

NOISY = 0.15  # interquartile range, relative to the median, above which a warning is logged
RESTLESS = (
    "Repeated measurements of the %s differ by %.0f %%: another program is using this machine. The figures may be off by as much; "
    "%s while no other program is running."
)


def verify(state: State, limits: Limits, recipe: Recipe, workload: Workload) -> dict[str, dict[str, float]]:
    """Measure the pruned model's costs that have a measured table.

    Args:
        state: After the last pass.
        limits: The budgets on the dense model.
        recipe: The recipe with the main cost.
        workload: Example inputs.

    Returns:
        By cost: the dense model's cost (``before``), the pruned model's (``after``), and the larger relative interquartile range
        of the measurements (``spread``). Costs that cannot be measured on this machine are left out.
    """
    return state.journal.once("verify", lambda _: _measured(state, limits, recipe, workload))


def _measured(state: State, limits: Limits, recipe: Recipe, workload: Workload) -> dict[str, dict[str, float]]:
    """The costs of ``verify``, measured."""
    subject, found = state.subject, {}
    for limit in limits.items:
        cost: CostModel = recipe.cost if limit.name == recipe.cost.name else strategy("cost", limit.name)
        if not isinstance(cost, MeasuredCost):
            continue
        with timed("bench"):
            pair = cost.compare(subject.given, state.student, subject.groups, workload, limit.table.conditions)
        if not pair:
            continue
        before, after, noise = median(pair["dense"]), median(pair["pruned"]), max(map(spread, pair.values()))
        found[limit.name] = {"before": before, "after": after, "spread": noise}
        if noise > NOISY:
            log.warning(RESTLESS, limit.name, 100 * noise, "repeat the pruning")
    return found


def latency_of(limits: Limits, measured: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The measured latency of both models, as ``outcome.latency`` has it; empty if no budget is in milliseconds."""
    for limit in limits.items:
        if limit.name in measured and limit.table.measure == "ms":
            before, after = measured[limit.name]["before"], measured[limit.name]["after"]
            names = ("batch_size", "seq_len", "device", "dtype", "threads")
            return {name: limit.table.conditions.get(name) for name in names} | {
                "dense": before,
                "pruned": after,
                "speedup": speedup([before], [after]),
            }
    return {}
