"""Latency as a cost: measured on the target machine for the target workload, by the number of units kept in each group."""

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.strategies import CostModel
from fastprune_latency.cost import LatencyCost


@hookimpl
def register_cost_models(register: Callable[[type[CostModel]], None]) -> None:
    register(LatencyCost)
