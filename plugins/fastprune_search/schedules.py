"""Schedules: how many passes, and the budget of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fastprune import Pass, Schedule, UsageError, option


@dataclass(frozen=True, kw_only=True)
class Once(Schedule):
    """One pass: score, search, rearrange, tune (the paper)."""

    name: ClassVar[str] = "once"
    formula: ClassVar[str] = "b_1 = budget"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, https://arxiv.org/abs/2204.09656"

    def passes(self, budget: float, groups: Sequence[str]) -> Sequence[Pass]:
        return [Pass(budget)]


@dataclass(frozen=True, kw_only=True)
class Rounds(Schedule):
    """Several passes along a geometric path to the budget, each scoring what the last one left (METHOD 5).

    Every pass tunes towards the dense model. The cost grows with the passes, each on a smaller model than the last.
    """

    name: ClassVar[str] = "rounds"
    formula: ClassVar[str] = "b_r = budget^(r/R), r = 1..R"
    paper: ClassVar[str] = "Tanaka et al. (SynFlow), NeurIPS 2020, https://arxiv.org/abs/2006.05467"
    steps: int = option(2, help="R, how many passes.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise UsageError(f"The schedule 'rounds' needs at least 1 step; got {self.steps}.")

    def passes(self, budget: float, groups: Sequence[str]) -> Sequence[Pass]:
        return [Pass(budget ** (step / self.steps)) for step in range(1, self.steps)] + [Pass(budget)]


@dataclass(frozen=True, kw_only=True)
class BottomUp(Schedule):
    """One sublayer a pass, from the first to the last, everything above scored and searched again each time.

    A pass prunes and tunes its sublayer alone, with the share of the budget that the search over all sublayers above
    gives it (Park et al. 2024, METHOD 5). The cost grows with the number of sublayers.
    """

    name: ClassVar[str] = "bottom-up"
    formula: ClassVar[str] = "pass g settles group g of 1..G; groups g..G are searched within budget - cost(1..g-1)"
    paper: ClassVar[str] = "Park et al. (K-prune), ICLR 2024, https://arxiv.org/abs/2308.03449"

    def passes(self, budget: float, groups: Sequence[str]) -> Sequence[Pass]:
        return [Pass(budget, frozenset({name})) for name in groups]
