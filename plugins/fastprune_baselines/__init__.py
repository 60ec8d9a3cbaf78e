"""Scorers for comparison: magnitude, random, taylor, activation, fluctuation, knowledge."""

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.strategies import Scorer
from fastprune_baselines.activation import ActivationScorer
from fastprune_baselines.fluctuation import FluctuationScorer
from fastprune_baselines.knowledge import KnowledgeScorer
from fastprune_baselines.magnitude import MagnitudeScorer
from fastprune_baselines.random import RandomScorer
from fastprune_baselines.taylor import TaylorScorer


@hookimpl
def register_scorers(register: Callable[[type[Scorer]], None]) -> None:
    for scorer in (MagnitudeScorer, RandomScorer, TaylorScorer, ActivationScorer, FluctuationScorer, KnowledgeScorer):
        register(scorer)
