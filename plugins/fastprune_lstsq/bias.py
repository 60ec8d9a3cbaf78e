"""The bias alone: add what is missing in the mean."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from fastprune import (
    Batches,
    Context,
    Group,
    Groups,
    Reconstruction,
    Samples,
    Scores,
    Solver,
    Statistics,
    Tuner,
    reconstruct,
)


@dataclass(frozen=True, kw_only=True)
class BiasTuner(Tuner):
    """Each consumer's bias gains the mean error, layer by layer: FLAP's bias compensation (An et al. 2024, eq. 4)."""

    name: ClassVar[str] = "bias"
    formula: ClassVar[str] = "b <- b + mean over the tokens of e, e being what the residual stream lacks"
    paper: ClassVar[str] = "An et al. (FLAP), AAAI 2024, eq. 4: https://arxiv.org/abs/2312.11983"

    def tune(
        self, teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches, scores: Scores, context: Context
    ) -> Reconstruction:
        return reconstruct(teacher, student, groups, Samples(batches), Solver(solve=add_mean_error), context.states)


def add_mean_error(
    group: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The weight as it is, and the bias [hidden] with the mean error added; as it is where no token came."""
    if float(statistics.weight) <= 0.0:
        return weight, bias
    missing = (statistics.errors / statistics.weight).to(weight)
    return weight, missing if bias is None else bias + missing
