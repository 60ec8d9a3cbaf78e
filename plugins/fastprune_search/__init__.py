"""Searchers (exact, knapsack, piecewise, stitched, threshold, uniform) and schedules (once, rounds, bottom-up)."""

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.strategies import Schedule, Searcher
from fastprune_search.exact import ExactSearcher
from fastprune_search.knapsack import KnapsackSearcher
from fastprune_search.piecewise import PiecewiseSearcher
from fastprune_search.schedules import BottomUp, Once, Rounds
from fastprune_search.stitched import StitchedSearcher
from fastprune_search.threshold import ThresholdSearcher
from fastprune_search.uniform import UniformSearcher


@hookimpl
def register_searchers(register: Callable[[type[Searcher]], None]) -> None:
    register(ExactSearcher)
    register(KnapsackSearcher)
    register(PiecewiseSearcher)
    register(StitchedSearcher)
    register(ThresholdSearcher)
    register(UniformSearcher)


@hookimpl
def register_schedules(register: Callable[[type[Schedule]], None]) -> None:
    register(Once)
    register(Rounds)
    register(BottomUp)
