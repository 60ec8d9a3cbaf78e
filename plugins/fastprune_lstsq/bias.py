"""Bias compensation: add the mean error to each consumer's bias."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from fastprune import Batches
from fastprune.reconstruction import Samples, Solver, Statistics, reconstruct
from fastprune.strategies import Context, Reconstruction, Scores, Tuner
from fastprune.units import Group, Groups


@dataclass(frozen=True, kw_only=True)
class BiasTuner(Tuner):
    """Add the mean error over the tokens to each consumer's bias, layer by layer.

    FLAP's bias compensation (An et al., AAAI 2024, eq. 4; docs/method.md, section 8.2).
    """

    name: ClassVar[str] = "bias"
    formula: ClassVar[str] = "b <- b + mean over the tokens of e, with e = the dense minus the pruned residual stream"
    paper: ClassVar[str] = "An et al. (FLAP), AAAI 2024, eq. 4: https://arxiv.org/abs/2312.11983"

    def tune(
        self, teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches, scores: Scores, context: Context
    ) -> Reconstruction:
        return reconstruct(
            teacher,
            student,
            groups,
            Samples(batches),
            Solver(solve=add_mean_error if context.new_biases else add_to_biases),
            context.states,
            context.journal,
        )


def add_to_biases(
    group: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """``add_mean_error`` for consumers with a bias only."""
    return (weight, None) if bias is None else add_mean_error(group, statistics, weight, bias)


def add_mean_error(
    group: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Add the mean error over the tokens to the bias.

    Args:
        group: The group of the consumer.
        statistics: Sums over the calibration tokens.
        weight: The consumer's weight, [hidden, features].
        bias: The consumer's bias, [hidden]; None: it has none.

    Returns:
        The unchanged weight [hidden, features] and the new bias [hidden]. With no token (an expert that no token was
        routed to) the bias is unchanged, too.
    """
    if float(statistics.weight) <= 0.0:
        return weight, bias
    mean_error = statistics.mean_error.to(weight)
    return weight, mean_error if bias is None else bias + mean_error
