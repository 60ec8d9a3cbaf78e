"""Measured latency: the time of every number of units, on the machine and for the workload that the model will see."""

from collections.abc import Callable

from fastprune import CostModel, hookimpl
from fastprune_latency.cost import LatencyCost


@hookimpl
def register_cost_models(register: Callable[[type[CostModel]], None]) -> None:
    register(LatencyCost)
