"""Weight reconstruction: the whole kept consumer, and its bias."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fastprune import Batches, Group, Groups, LayerFit, Reconstruction, Scores, Statistics, Tuner, option, reconstruct


@dataclass(frozen=True, kw_only=True)
class WeightsTuner(Tuner):
    """Ridge regression of each consumer's kept weight and bias, toward the dense model's residual stream; and of what the
    producers above see, toward what the dense model's see.

    V = (Xc'Xc + lambda I)^-1 (Xc'Dc + lambda W0'), centred, lambda = damping x the mean diagonal of Xc'Xc, the ridge
    pulling toward the original weight (METHOD 4, ``weights``). Same inference cost as mask tuning, which is a special
    case of it. What a consumer could not repair, the producers that read the stream next take up as far as it is linear in
    what they see: x becomes x + x A + a, with A the ridge regression of what is missing on x, folded into their weights.
    """

    name: ClassVar[str] = "weights"
    formula: ClassVar[str] = "V = (Xc^T Xc + lambda I)^-1 (Xc^T Dc + lambda W^T), b in closed form"
    paper: ClassVar[str] = "He et al., ICCV 2017, https://arxiv.org/abs/1707.06168 (least squares on what is left)"
    damping: float = option(0.01, help="The ridge, relative to the mean diagonal of the Gram matrix.")
    tokens: Literal["equal", "gradient"] = option(
        "equal", help="How much a token counts: all alike, or by the squared loss gradient at the consumer's output."
    )

    producers: bool = option(True, help="Whether producers take up what the stream below them lacks.")
    producer_damping: float = option(0.01, help="The same ridge, for what producers see.")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"token_weights"} if self.tokens == "gradient" else ())

    def tune(
        self, teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches, scores: Scores
    ) -> Reconstruction:
        return self._reconstruct(teacher, student, groups, batches, scores)

    def _reconstruct(
        self,
        teacher: nn.Module,
        student: nn.Module,
        groups: Groups,
        batches: Batches,
        scores: Scores,
        *,
        refine: Callable[[LayerFit], Mapping[str, Tensor]] | None = None,
    ) -> Reconstruction:
        """Consumers, and what producers take up; then what ``refine`` makes of each layer."""
        return reconstruct(
            teacher,
            student,
            groups,
            batches,
            self._solve,
            correct=self._correct if self.producers else None,
            refine=refine,
            token_weights=_repeated(scores, len(batches)) if self.tokens == "gradient" else None,
        )

    def _solve(
        self, group: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        return ridge(statistics, weight, bias, self.damping)

    def _correct(self, statistics: Statistics, with_shift: bool) -> tuple[Tensor, Tensor]:
        return regression(statistics, self.producer_damping, centred=with_shift)


def _repeated(scores: Scores, batches: int) -> dict[str, tuple[Tensor, ...]]:
    """The token weights of the calibration set by group, as often as they take for so many batches."""
    return {name: values * (batches // len(values)) for name, values in (scores.token_weights or {}).items()}


def ridge(statistics: Statistics, weight: Tensor, bias: Tensor | None, damping: float) -> tuple[Tensor, Tensor | None]:
    """The weight [hidden, features] and bias [hidden] that repair the error best.

    Written in the change of the weight: V - W0' = (Xc'Xc + lambda I)^-1 Xc'Ec, E being what is missing with W0.
    """
    change, shift = regression(statistics, damping)
    tuned = (weight.double() + change.T).to(weight)
    return tuned, shift.to(weight) if bias is None else (bias.double() + shift).to(bias)


def regression(statistics: Statistics, damping: float, *, centred: bool = True) -> tuple[Tensor, Tensor]:
    """The damped regression of the error on the input: e is about x change + shift.

    Args:
        statistics: Of x [features] and e [hidden].
        damping: lambda relative to the Gram matrix's mean diagonal.
        centred: Whether there is a shift; else it is 0.

    Returns:
        The change [features, hidden] and the shift [hidden]; zeros where no token counts.
    """
    gram, cross, shift = statistics.gram, statistics.cross, torch.zeros_like(statistics.errors)
    if float(statistics.weight) <= 0.0:  # so nothing is to be repaired
        return torch.zeros_like(cross), shift
    if not centred:
        return solve_damped(gram, cross, damping), shift
    mean_input = statistics.inputs / statistics.weight  # [features]
    mean_error = statistics.errors / statistics.weight  # [hidden]
    gram = gram - torch.outer(mean_input, statistics.inputs)  # Xc'Xc
    cross = cross - torch.outer(mean_input, statistics.errors)  # Xc'Ec
    change = solve_damped(gram, cross, damping)
    return change, mean_error - mean_input @ change


def solve_damped(gram: Tensor, cross: Tensor, damping: float) -> Tensor:
    """(gram + lambda I)^-1 cross, by Cholesky with as much more damping as it takes.

    Args:
        gram: [features, features], symmetric.
        cross: [features, hidden].
        damping: lambda relative to gram's mean diagonal.

    Returns:
        [features, hidden]; zeros where the inputs do not vary at all.
    """
    scale = float(gram.diagonal().mean()) if len(gram) else 0.0
    if not 0.0 < scale < float("inf"):  # not a number, either: no jitter would ever be enough
        return torch.zeros_like(cross)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    jitter = max(damping, 1e-12)
    while True:
        factor, failed = torch.linalg.cholesky_ex(gram + jitter * scale * identity)
        if not int(failed):
            return torch.cholesky_solve(cross, factor)
        jitter *= 10
