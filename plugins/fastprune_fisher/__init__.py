"""Fisher information of the mask: the paper's importance scorer and its rearranger."""

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.strategies import Rearranger, Scorer
from fastprune_fisher.rearranger import FisherRearranger
from fastprune_fisher.scorer import FisherScorer


@hookimpl
def register_scorers(register: Callable[[type[Scorer]], None]) -> None:
    register(FisherScorer)


@hookimpl
def register_rearrangers(register: Callable[[type[Rearranger]], None]) -> None:
    register(FisherRearranger)
