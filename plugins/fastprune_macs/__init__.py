"""Counted cost models: multiply-accumulates, parameters, and bytes on disk."""

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.strategies import CostModel
from fastprune_macs.macs import MacsCost
from fastprune_macs.params import ParamsCost
from fastprune_macs.size import SizeCost


@hookimpl
def register_cost_models(register: Callable[[type[CostModel]], None]) -> None:
    register(MacsCost)
    register(ParamsCost)
    register(SizeCost)
