"""Weight reconstruction: the whole kept consumer, and its bias."""

from dataclasses import dataclass
from typing import ClassVar, Literal

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
    UsageError,
    option,
    reconstruct,
)
from fastprune_lstsq.ridge import regression, ridge


@dataclass(frozen=True, kw_only=True)
class WeightsTuner(Tuner):
    """Ridge regression of each consumer's kept weight and bias, toward the dense model's residual stream; and of what the
    producers above see, toward what the dense model's see.

    V = (Xc'Xc + lambda I)^-1 (Xc'Dc + lambda W0'), centred, lambda = damping x the mean diagonal of Xc'Xc, the ridge
    pulling toward the original weight (METHOD 4, ``weights``). Same inference cost as mask tuning, which is a special
    case of it. What a consumer could not repair, the producers that read the stream next take up as far as it is linear in
    what they see: x becomes x + x A + a, with A the ridge regression of what is missing on x, folded into their weights.
    A tenth of the samples, held back, tells each regression whether ten, a hundred or a thousand times the damping serves
    better; then it is solved on all.
    """

    name: ClassVar[str] = "weights"
    formula: ClassVar[str] = "V = (Xc^T Xc + lambda I)^-1 (Xc^T Dc + lambda W^T), b in closed form"
    paper: ClassVar[str] = "He et al., ICCV 2017, https://arxiv.org/abs/1707.06168 (least squares on what is left)"
    damping: float = option(0.01, help="The least ridge, relative to the mean diagonal of the Gram matrix.")
    held_back: int = option(
        10,
        help="One of how many samples is held back to choose on, such as each ridge, up to 1,000 times the least; 0: none.",
    )
    tokens: Literal["equal", "gradient"] = option(
        "equal", help="How much a token counts: all alike, or by the squared loss gradient at the consumer's output."
    )

    producers: bool = option(True, help="Whether producers take up what the stream below them lacks.")
    producer_damping: float = option(0.01, help="The same of what producers see.")
    tokens_per_feature: float = option(
        32.0,
        help="About how many tokens each feature of a layer's widest regression has, where there are more; 0: all.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        least = min(self.damping, self.producer_damping, self.tokens_per_feature)
        if self.held_back < 0 or self.held_back == 1 or least < 0:
            raise UsageError(
                f"The tuner '{self.name}' holds back 0 samples, or one of 2 or more, and takes a damping and tokens_per_feature "
                f"of 0 or more; got held_back={self.held_back}, damping={self.damping:g}, "
                f"producer_damping={self.producer_damping:g}, tokens_per_feature={self.tokens_per_feature:g}."
            )

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"token_weights"} if self.tokens == "gradient" else ())

    def tune(
        self, teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches, scores: Scores, context: Context
    ) -> Reconstruction:
        return reconstruct(
            teacher, student, groups, self._samples(batches, scores), self._solver(context), context.states
        )

    def _solver(self, context: Context) -> Solver:
        def solve(
            _: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            return ridge(statistics, weight, bias, self.damping, context.generator)

        def correct(statistics: Statistics, with_shift: bool) -> tuple[Tensor, Tensor]:
            damping, generator = self.producer_damping, context.generator
            return regression(statistics, damping, centred=with_shift, generator=generator)

        return Solver(solve=solve, correct=correct if self.producers else None)

    def _samples(self, batches: Batches, scores: Scores) -> Samples:
        return Samples(
            batches,
            scores.token_weights if self.tokens == "gradient" else None,
            self._held(batches),
            self.tokens_per_feature or None,
        )

    def _held(self, batches: Batches) -> tuple[Tensor, ...] | None:
        return batches.held_back(self.held_back) if self.held_back else None
