"""Schedules: the number of passes and the budget of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fastprune import option
from fastprune.strategies import Pass, Schedule


@dataclass(frozen=True, kw_only=True)
class Once(Schedule):
    """One pass of score, search, rearrange and tune at the whole budget (Kwon et al., NeurIPS 2022)."""

    name: ClassVar[str] = "once"
    formula: ClassVar[str] = "b_1 = budget"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, https://arxiv.org/abs/2204.09656"

    def passes(self, budget: float, groups: Sequence[str]) -> Sequence[Pass]:
        return [Pass(budget)]


@dataclass(frozen=True, kw_only=True)
class Rounds(Schedule):
    """Several passes with geometrically falling budgets, each scoring the pruned model of the previous pass.

    Every pass tunes toward the dense model. The run time grows with the number of passes; each pass runs a smaller model than
    the previous one (docs/method.md, section 11).
    """

    name: ClassVar[str] = "rounds"
    formula: ClassVar[str] = "b_r = budget^(r/R), r = 1..R"
    paper: ClassVar[str] = "Tanaka et al. (SynFlow), NeurIPS 2020, https://arxiv.org/abs/2006.05467"
    steps: int = option(2, at_least=1, at_most=100, help="Number of passes R.")

    def passes(self, budget: float, groups: Sequence[str]) -> Sequence[Pass]:
        return [Pass(budget ** (step / self.steps)) for step in range(1, self.steps)] + [Pass(budget)]


@dataclass(frozen=True, kw_only=True)
class BottomUp(Schedule):
    """One sublayer per pass, from the first to the last; each pass scores and searches all sublayers above again.

    A pass searches over its sublayer and all sublayers above, but prunes and tunes only its own sublayer. The run time grows
    with the number of sublayers (Park et al., ICLR 2024; docs/method.md, section 11).
    """

    name: ClassVar[str] = "bottom-up"
    formula: ClassVar[str] = "pass g prunes group g of 1..G; groups g..G are searched within budget - cost(1..g-1)"
    paper: ClassVar[str] = "Park et al. (K-prune), ICLR 2024, https://arxiv.org/abs/2308.03449"

    def passes(self, budget: float, groups: Sequence[str]) -> Sequence[Pass]:
        return [Pass(budget, frozenset({name})) for name in groups]
