"""Layer reconstruction: fine-tune one layer after another by gradient descent, starting from the least-squares solution."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastprune import Batches, option
from fastprune.data import mix_spans
from fastprune.reconstruction import LayerFit, Samples, reconstruct
from fastprune.strategies import Context, Job, Reconstruction, Scores, Work
from fastprune.units import Groups
from fastprune_lstsq.weights import WeightsTuner

SMALL = 1e-4  # relative error of a layer's output below which the layer is not fine-tuned
MOST = 10  # epochs at most, however few parameters a layer has left
WARM_UP = 0.05  # share of the steps with a rising learning rate
AVERAGED = 0.5  # share of the steps, at the end, whose parameters are averaged
WAYS = (1.0, 0.5, 0.25)  # line search: fractions of the way from the old parameters to the fitted ones
STEP = 5.5  # forward passes of a layer that a step costs: forward, backward and the update, line search included

Parameters = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class DescentTuner(WeightsTuner):
    """Least squares as in ``weights``, then fine-tune all linears of each layer together toward the dense layer's output.

    Least squares fit only the consumers, for which the problem is linear. Here Adam also fits the producers (filter activations
    and attention patterns), without labels: it starts from the least-squares weights and minimises the squared error of the
    layer's output relative to the squared norm of each token. The fitted weights are the mean over the second half of the steps.

    Line search: interpolate between least-squares and fine-tuned weights (100, 50, 25, 0 %) by held-out error. Small
    calibration sets are augmented by swapping half of each text with another (span mixing). Same inference cost as ``weights``
    (docs/method.md, section 8.4).
    """

    name: ClassVar[str] = "descent"
    formula: ClassVar[str] = (
        "the tuner weights, then min over the linears of layer l of mean_t |h_t - h_t^dense|^2 / |h_t^dense|^2 by Adam"
    )
    paper: ClassVar[str] = "Li et al. (BRECQ), ICLR 2021, https://arxiv.org/abs/2102.05426 (reconstruction by blocks)"
    epochs: float = option(
        1.0,
        at_least=0,
        at_most=MOST,
        help="Epochs for a dense layer; a layer with a third of its parameters left gets three times as many, at the same cost.",
    )
    recombine: int = option(
        0,
        at_least=0,
        at_most=64,
        help="Mixed copies of each text to add to the training data; half of a copy comes from another text.",
    )
    fill: int = option(
        4096,
        at_least=0,
        at_most=131_072,
        help="Minimum number of training tokens; mixed copies are added to reach it.",
    )
    rate: float = option(
        0.05,
        above=0,
        at_most=1,
        help="Learning rate, relative to each tensor's root mean square and the square root of the layer's relative error.",
    )

    def draft(self) -> WeightsTuner:
        """The tuner ``weights`` with the same options: least squares without gradient descent."""
        return WeightsTuner(**{field.name: getattr(self, field.name) for field in fields(WeightsTuner)})

    def work(self, job: Job) -> Work:
        again = max(self.recombine, math.ceil(self.fill / job.batches.n_tokens) - 1)  # mixed copies
        epochs = min(self.epochs, MOST * job.share)  # of a dense layer
        return self.draft().work(job) * (1 + again) + Work(passes=STEP * epochs * (1 + again))

    def tune(
        self, teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches, scores: Scores, context: Context
    ) -> Reconstruction:
        refine = partial(
            descend, epochs=self.epochs, rate=self.rate, originals=len(batches), generator=context.generator
        )
        solver = dataclasses.replace(self._solver(context), refine=refine)
        samples = self._with_copies(batches, scores, context.generator)
        return reconstruct(teacher, student, groups, samples, solver, context.states, context.journal)

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
) -> Mapping[str, Tensor]:
    """Fit the linears of a layer by Adam, then choose by line search how far to move from the old to the fitted parameters.

    A step uses one batch. The learning rate rises over the first 5 % of the steps; the parameters are averaged over the second
    half of them.

    Args:
        fit: The layer, its inputs and its target outputs.
        epochs: Passes over the batches for a dense layer; divided by the share of the parameters the layer has left, at most 10.
        rate: Learning rate relative to a tensor's root mean square, scaled by sqrt(e) for a relative output error e below 1.
        originals: Number of batches of the calibration set; the batches after them are mixed copies, in the same order.
        generator: Draws the order of the batches, on the CPU [seed 0].

    Returns:
        The new parameters by name; empty if the held-out error (without held-out samples, the error of all) does not fall.
    """
    old, fit = fit.parameters, with_mean_weight_one(fit)
    training, held_out = _split(fit)
    held_out = [index for index in held_out if index < originals]
    judges = held_out or [index for index in training if index < originals]
    error_of = partial(mean_error, fit, judges, held=bool(held_out))
    steps = round(min(epochs / max(fit.share, 1e-6), MOST) * len(training))
    if steps < 1 or not old or (least := error_of(old)) <= SMALL:
        return {}
    generator = generator or torch.Generator().manual_seed(0)
    new = _fitted(fit, training, steps, rate * min(1.0, math.sqrt(least)), generator)
    best: Parameters = {}
    for way in WAYS:
        between = {name: old[name].lerp(value.to(old[name]), way) for name, value in new.items()}
        error = error_of(between)
        if error < least:
            best, least = between, error
        elif best:
            break  # the error rises on the way back to the old parameters
    return best


def _split(fit: LayerFit) -> tuple[list[int], list[int]]:
    """The indices of the batches with tokens to train on, and of those with held-out tokens."""
    masks = [fit.held_back(index) for index in range(len(fit))]
    flags = torch.stack([torch.stack([mask.all(), mask.any()]) for mask in masks]).tolist()  # one look at the device
    return [at for at, (every, _) in enumerate(flags) if not every], [at for at, (_, some) in enumerate(flags) if some]


def with_mean_weight_one(fit: LayerFit) -> LayerFit:
    """The layer with token weights that are 1 in the mean over all real tokens: its errors are relative, whatever the size of
    the weights. Weights that are all 0 stay as they are."""
    if fit.token_weights is None:
        return fit
    counted = [weights for index in range(len(fit)) if (weights := fit.weights(index)) is not None]
    mean = float(torch.cat(counted).double().mean())
    return replace(fit, token_weights=tuple(each / mean for each in fit.token_weights)) if mean > 0 else fit


@torch.no_grad()
def mean_error(fit: LayerFit, indices: Sequence[int], parameters: Mapping[str, Tensor], *, held: bool) -> float:
    """Mean of ``relative_error`` over the batches ``indices``: 0 is exact, 1 an error as large as the output itself."""
    errors = [relative_error(fit, index, parameters, held=held) for index in indices]
    return float(sum(torch.stack(errors).tolist())) / len(indices)


def relative_error(fit: LayerFit, index: int, parameters: Mapping[str, Tensor], *, held: bool = False) -> Tensor:
    """Mean of |h - h_dense|^2 / |h_dense|^2 over a batch's tokens.

    Args:
        fit: The layer.
        index: Index of the batch.
        parameters: The layer's parameters by name.
        held: Average over the held-out tokens instead of the training tokens.

    Returns:
        A scalar, float32.
    """
    error = (fit.outputs(index, parameters).float() - fit.targets(index).float()).square().sum(1)  # [tokens]
    return error @ shares(fit, index, held=held)


def shares(fit: LayerFit, index: int, *, held: bool = False) -> Tensor:
    """What an error |h - h_dense|^2 of 1 at each token without padding adds to the ``relative_error``: [tokens] float32."""
    energy = fit.targets(index).float().square().sum(1)  # [tokens]
    chosen, weights = fit.held_back(index) == held, fit.weights(index)
    found = chosen / ((energy + 1e-6 * energy.mean()) * chosen.sum())
    return found if weights is None else found * weights


@torch.enable_grad()
def _fitted(fit: LayerFit, training: Sequence[int], steps: int, rate: float, generator: torch.Generator) -> Parameters:
    """The parameters averaged over the last steps, in float32 for any dtype of the layer."""
    old = fit.parameters
    means = torch.stack([value.float().square().mean().sqrt() for value in old.values()]).tolist()
    sizes = dict(zip(old, means, strict=True))
    least = 0.01 * max(sizes.values())  # above 0 for a bias of zeros
    # in units of each tensor's size, so that one learning rate serves all
    units = {name: max(size, least) or 1.0 for name, size in sizes.items()}
    masters = {name: (value.float() / units[name]).requires_grad_(True) for name, value in old.items()}
    adam = torch.optim.Adam(masters.values(), lr=rate, betas=(0.9, 0.98), eps=1e-10, fused=True)
    averaged = math.ceil(AVERAGED * steps)
    mean = {name: torch.zeros_like(value) for name, value in masters.items()}
    slopes = {index: fit.padded(2 * shares(fit, index), index) for index in training}
    order: list[int] = []
    for step in range(steps):
        order = order or [training[place] for place in torch.randperm(len(training), generator=generator).tolist()]
        index = order.pop()
        adam.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / (WARM_UP * steps))
        adam.zero_grad()
        output = fit.run(index, {name: (value * units[name]).to(old[name].dtype) for name, value in masters.items()})
        # the gradient of relative_error with respect to the output
        slope = (output.detach().float() - fit.dense[index].float()).mul_(slopes[index])
        output.backward(slope.to(output.dtype))
        adam.step()
        if step >= steps - averaged:
            for name, value in masters.items():
                mean[name].add_(value.detach(), alpha=units[name] / averaged)
    return mean
