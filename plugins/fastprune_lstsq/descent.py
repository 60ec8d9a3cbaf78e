"""Layer reconstruction: whole layers, one after another, by gradient descent from where least squares left them."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastprune import (
    Batches,
    Context,
    Groups,
    LayerFit,
    Reconstruction,
    Samples,
    Scores,
    UsageError,
    bf16_matmuls,
    mix_spans,
    option,
    reconstruct,
)
from fastprune_lstsq.weights import WeightsTuner

SMALL = 1e-4  # of the output's energy: a layer that misses no more is left as it is
MOST = 10  # epochs, however little is left of a layer
WARM_UP = 0.05  # of all steps
AVERAGED = 0.5  # of all steps: the last ones, whose parameters are averaged
WAYS = (1.0, 0.5, 0.25)  # how far to go from the old parameters to the fitted ones

Parameters = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class DescentTuner(WeightsTuner):
    """The tuner ``weights``, and then producers and consumers of each layer together, toward the dense layer's output.

    Least squares see what is linear: the consumer, given what the filters compute. What the filters compute and where heads
    look can be fitted as well: without labels, by Adam on the error of a layer's output relative to each token's size, from
    the solved weights on, as the mean of the weights after each of the last steps. Of the way from the solved to the fitted
    weights, as much is gone as serves the samples held back best, none where nothing does. Where there are few texts, copies
    of them whose halves come from one another show layers more contexts. Same inference cost.
    """

    name: ClassVar[str] = "descent"
    formula: ClassVar[str] = (
        "the tuner weights, then min over the linears of layer l of mean_t |h_t - h_t^dense|^2 / |h_t^dense|^2 by Adam"
    )
    paper: ClassVar[str] = "Li et al. (BRECQ), ICLR 2021, https://arxiv.org/abs/2102.05426 (reconstruction by blocks)"
    epochs: float = option(
        1.0, help="How often a whole layer would see the samples; one with a third left sees them three times."
    )
    recombine: int = option(
        0, help="How many copies of each text to learn from as well, half of each from another text."
    )
    fill: int = option(4096, help="Tokens to learn from at least: as many copies as that takes.")
    rate: float = option(
        0.05, help="The size of a step, relative to a tensor's root mean square and the root of the layer's error."
    )
    rounded: bool = option(True, help="Whether steps multiply in bfloat16, where the machine is faster with it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 0 or self.rate <= 0 or min(self.recombine, self.fill) < 0:
            raise UsageError(
                "The tuner 'descent' needs 0 epochs or more, a rate above 0, and 0 or more copies and tokens; got "
                f"epochs={self.epochs:g}, rate={self.rate:g}, recombine={self.recombine}, fill={self.fill}."
            )

    def draft(self) -> WeightsTuner:
        """The least squares alone."""
        return WeightsTuner(**{field.name: getattr(self, field.name) for field in fields(WeightsTuner)})

    def tune(
        self, teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches, scores: Scores, context: Context
    ) -> Reconstruction:
        refine = partial(
            descend,
            epochs=self.epochs,
            rate=self.rate,
            originals=len(batches),
            generator=context.generator,
            rounded=self.rounded,
        )
        solver = dataclasses.replace(self._solver(context), refine=refine)
        return reconstruct(
            teacher, student, groups, self._with_copies(batches, scores, context.generator), solver, context.states
        )

    def _with_copies(self, batches: Batches, scores: Scores, generator: torch.Generator) -> Samples:
        """The samples, augmented by copies with mixed spans, which have the token weights and held-out rows of their originals."""
        samples = self._samples(batches, scores)
        copies = max(self.recombine, math.ceil(self.fill / batches.n_tokens) - 1)
        augmented = mix_spans(batches, copies, generator, held=samples.held)
        times = len(augmented) // len(batches)
        return dataclasses.replace(
            samples,
            batches=augmented,
            token_weights=samples.token_weights
            and {name: weights * times for name, weights in samples.token_weights.items()},
            held=samples.held and samples.held * times,
        )


def descend(
    fit: LayerFit,
    *,
    epochs: float,
    rate: float,
    originals: int,
    generator: torch.Generator | None = None,
    rounded: bool = False,
) -> Mapping[str, Tensor]:
    """Fit the linears of a layer by Adam, a batch a step, with a short warm-up, and average the second half of the steps.

    Args:
        fit: The layer.
        epochs: How often a whole layer would see each batch: one that has a third of its parameters left sees it three times
            as often, at the same cost.
        rate: The size of a step, relative to a tensor's root mean square, where the whole output is wrong; where a share e of
            its energy is, sqrt(e) of it.
        originals: How many batches are of the calibration set; those that follow are copies of them, in the same order.
        generator: Draws the order of the batches, on the CPU [seed 0].
        rounded: Whether steps multiply in bfloat16 where the device is faster with it; what judges them does not.

    Returns:
        The fitted parameters by name, or none: where the error on the samples held back does not fall.
    """
    old = fit.parameters
    seen = [index for index in range(len(fit)) if not bool(fit.held_back(index).all())]
    apart = [index for index in range(originals) if bool(fit.held_back(index).any())]
    judged = partial(mean_error, fit, apart or [index for index in seen if index < originals], held=bool(apart))
    steps = round(min(epochs / max(fit.share, 1e-6), MOST) * len(seen))
    if steps < 1 or not old or (error := judged(old)) <= SMALL:
        return {}
    generator = generator or torch.Generator().manual_seed(0)
    new = _fitted(fit, seen, steps, rate * min(1.0, math.sqrt(error)), generator, rounded)
    best: Parameters = {}
    for way in WAYS:
        between = {name: old[name].lerp(value.to(old[name]), way) for name, value in new.items()}
        now = judged(between)
        if now < error:
            best, error = between, now
        elif best:
            break  # it only gets worse from here
    return best


@torch.no_grad()
def mean_error(fit: LayerFit, indices: Sequence[int], parameters: Mapping[str, Tensor], *, held: bool) -> float:
    """The error of some batches, in the mean: 0 is none, 1 as large as the output itself."""
    return sum(float(relative_error(fit, index, parameters, held=held)) for index in indices) / len(indices)


def relative_error(fit: LayerFit, index: int, parameters: Mapping[str, Tensor], *, held: bool = False) -> Tensor:
    """|h - h_dense|^2 / |h_dense|^2, in the mean of a batch's tokens, those held back or the others: a scalar, float32."""
    target = fit.targets(index).float()  # [tokens, hidden]
    energy = target.square().mean(1)  # [tokens]
    missed = (fit.outputs(index, parameters).float() - target).square().mean(1)  # [tokens]
    relative = missed / (energy + 1e-6 * energy.mean())
    weights = fit.weights(index)
    return (relative if weights is None else relative * weights)[fit.held_back(index) == held].mean()


@torch.enable_grad()
def _fitted(
    fit: LayerFit, seen: Sequence[int], steps: int, rate: float, generator: torch.Generator, rounded: bool
) -> Parameters:
    """The parameters in the mean of the last steps, float32 whatever the layer computes in."""
    old = fit.parameters
    products = bf16_matmuls(next(iter(old.values())).device) if rounded else contextlib.nullcontext()
    masters = {name: value.float().clone().requires_grad_(True) for name, value in old.items()}
    sizes = {name: float(value.square().mean().sqrt()) for name, value in old.items()}
    typical = max(sizes.values())
    rates = [rate * max(size, 0.01 * typical) for size in sizes.values()]  # a bias of zeros is to move as well
    adam = torch.optim.Adam(
        [{"params": [value], "lr": 0.0} for value in masters.values()], betas=(0.9, 0.98), fused=True
    )
    averaged = math.ceil(AVERAGED * steps)
    mean = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in old.items()}
    order: list[int] = []
    for step in range(steps):
        order = order or [seen[place] for place in torch.randperm(len(seen), generator=generator).tolist()]
        for group, full in zip(adam.param_groups, rates, strict=True):
            group["lr"] = full * min(1.0, (step + 1) / (WARM_UP * steps))
        adam.zero_grad()
        now = {name: value.to(old[name].dtype) for name, value in masters.items()}
        with products:
            error = relative_error(fit, order.pop(), now)
        error.backward()
        adam.step()
        if step >= steps - averaged:
            for name, value in masters.items():
                mean[name].add_(value.detach(), alpha=1 / averaged)
    return mean
