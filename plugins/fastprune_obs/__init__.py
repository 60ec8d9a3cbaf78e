"""Structured Optimal Brain Surgeon: the loss increase when units are removed and the remaining weights are refitted."""

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.strategies import Scorer
from fastprune_obs.scorer import OBSScorer


@hookimpl
def register_scorers(register: Callable[[type[Scorer]], None]) -> None:
    register(OBSScorer)
