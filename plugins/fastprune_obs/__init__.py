"""Structured Optimal Brain Surgeon: what is lost when units go and the others make up for them."""

from collections.abc import Callable

from fastprune import Scorer, hookimpl
from fastprune_obs.scorer import OBSScorer


@hookimpl
def register_scorers(register: Callable[[type[Scorer]], None]) -> None:
    register(OBSScorer)
