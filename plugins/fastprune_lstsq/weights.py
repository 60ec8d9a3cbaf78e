"""Weight reconstruction: least squares for each consumer's kept weight and bias."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from fastprune import Batches, option
from fastprune.errors import OptionError
from fastprune.reconstruction import Samples, Solver, Statistics, reconstruct, regression, ridge
from fastprune.strategies import Context, Job, Reconstruction, Scores, Tuner, Work
from fastprune.units import Group, Groups

RUNS = 2.0  # runs of a layer for the sums of all its groups
REGRESSION = 5.0  # operations of a regression with several ridge strengths, in cubes of its features


@dataclass(frozen=True, kw_only=True)
class WeightsTuner(Tuner):
    """Solve each consumer's kept weight and bias by ridge regression toward the dense model's residual stream.

    Consumers: V = (Xc'Xc + lambda I)^-1 (Xc'Dc + lambda W0'), centred, with lambda = damping x the mean diagonal of Xc'Xc and
    the ridge toward the original weight W0. Same inference cost as mask tuning, which is a special case.

    Producers: the error that a consumer leaves in the residual stream is corrected in the input x of the next producers, as far
    as it is linear in x: x becomes x + x A + a, with A the ridge regression of the error on x, folded into their weights.

    The ridge strength (1x, 10x, 100x, 1000x ``damping``) is chosen per regression on 10 % held-out samples; the final solve
    uses all samples (docs/method.md, section 8.3).
    """

    name: ClassVar[str] = "weights"
    formula: ClassVar[str] = "V = (Xc^T Xc + lambda I)^-1 (Xc^T Dc + lambda W^T), b in closed form"
    paper: ClassVar[str] = (
        "He et al., ICCV 2017, https://arxiv.org/abs/1707.06168 (least squares for the kept channels)"
    )
    damping: float = option(
        0.01,
        at_least=0,
        at_most=1000,
        help="Smallest ridge strength, relative to the mean diagonal of the Gram matrix.",
    )
    held_back: int = option(
        10,
        at_least=0,
        at_most=10_000,
        help="Hold out every k-th sample to choose each ridge strength (1x to 1,000x damping) on; 0: hold out none, use 1x.",
    )
    tokens: Literal["equal", "gradient"] = option(
        "equal", help="Weight of a token: equal, or its squared loss gradient at the consumer's output."
    )
    producers: bool = option(True, help="Correct the error left in the residual stream in the next producers, too.")
    tokens_per_feature: float = option(
        32.0,
        at_least=0,
        at_most=1e6,
        help="Subsample to about this many tokens per input feature of a layer's widest regression; 0: all tokens.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_back == 1:
            raise OptionError(
                f"option 'held_back' of '{self.name}' takes 0, or 2 or more; 1 would hold out every sample."
            )

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"token_weights"} if self.tokens == "gradient" else ())

    def work(self, job: Job) -> Work:
        tokens, found = job.batches.n_tokens, Work(passes=1.0 + job.share)  # every batch, through both models
        for group in job.groups.with_consumer:
            widest, kept = max(group.features, group.hidden), job.share * group.features
            used = min(tokens, self.tokens_per_feature * widest) if self.tokens_per_feature else tokens
            sums = job.moments(kept, used) + job.products(kept, group.hidden, used)
            solves = REGRESSION * kept**3
            if self.producers:
                sums += job.moments(group.hidden, used) + job.products(group.hidden, group.hidden, used)
                solves += REGRESSION * group.hidden**3
            found += Work(passes=sums + RUNS * job.share * used / tokens / len(job.groups), solves=solves)
        return found

    def tune(
        self, teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches, scores: Scores, context: Context
    ) -> Reconstruction:
        return reconstruct(
            teacher,
            student,
            groups,
            self._samples(batches, scores),
            self._solver(context),
            context.states,
            context.journal,
        )

    def _solver(self, context: Context) -> Solver:
        def solve(
            _: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            return ridge(statistics, weight, bias, self.damping, context.generator, shifts=context.new_biases)

        def correct(statistics: Statistics, with_shift: bool) -> tuple[Tensor, Tensor]:
            return regression(statistics, self.damping, centred=with_shift, generator=context.generator)

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
