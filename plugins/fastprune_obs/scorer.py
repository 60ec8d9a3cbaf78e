"""Damage curves: the loss increase of a group with its k best units kept, for every k."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastprune import Batches, option
from fastprune.calibration import (
    Labels,
    MomentsCollector,
    Passes,
    bf16_matmuls,
    check_gradients,
    collect_gradients,
    run_backward,
)
from fastprune.strategies import Context, Job, Scorer, Scores, Work
from fastprune.units import Group, Groups, consumer_of
from fastprune_obs.surgeon import sweep

FEWEST, MOST = 128, 256  # about the smallest and largest number of samples for G; below 2 x FEWEST samples: all of them

BACKWARD = 1.2  # passes of a backward pass to the activations
SWEEP, EIGEN = 3.0, 10.0  # operations of a damage curve and of eigenvalues, in cubes of the size


@dataclass(frozen=True, kw_only=True)
class OBSScorer(Scorer):
    """Damage curve of each group: the loss increase as its units are removed one by one and the others are refitted.

    Structured Optimal Brain Surgeon on every consumer (ZipLM), with the Kronecker-factored Fisher information (K-FAC) as the
    metric of output errors: changing the consumer's weight by dW raises the loss by about 1/2 tr(dW C dW' G), with C the
    covariance of its inputs and G the second moment of the loss gradient at its output, summed over a sample's tokens. The
    curves of all groups are therefore in units of the loss and can be added. For large changes the quadratic overestimates
    the loss; ``power`` below 1 compensates (docs/method.md, section 4.3).
    """

    name: ClassVar[str] = "obs"
    formula: ClassVar[str] = "D_g(k) = (min over k units and dW of 1/2 tr(dW C dW^T G))^power, units removed greedily"
    paper: ClassVar[str] = (
        "Kurtic et al. (ZipLM), NeurIPS 2023, https://arxiv.org/abs/2302.04089; "
        "Martens and Grosse (K-FAC), ICML 2015, https://arxiv.org/abs/1503.05671"
    )
    labels: Labels = option(
        "auto",
        help="Labels of the loss: the data set's, drawn from the model's predictions, or auto (the first available).",
    )
    damping: float = option(
        0.01, at_least=0, at_most=1000, help="Damping added to C's diagonal, relative to the diagonal's mean."
    )
    power: float = option(
        0.75,
        above=0,
        at_most=4,
        help="Exponent of the damage curves; below 1 it lowers the damage of strong pruning relative to light pruning.",
    )
    max_tokens: int = option(32768, at_least=32, at_most=10_000_000, help="Subsample to about this many tokens for C.")
    gradient_share: float = option(
        0.25,
        above=0,
        at_most=1,
        help="Share of the calibration set used for G, about 128 to 256 samples; 1: all samples. All samples are also used if "
        "another stage needs per-sample gradients.",
    )

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"damage"} if self.gradient_share < 1.0 else {"damage", "grads", "token_weights"})

    def configured_for(self, requires: frozenset[str]) -> Scorer:
        return dataclasses.replace(self, gradient_share=1.0) if requires & {"grads", "token_weights"} else self

    def work(self, job: Job) -> Work:
        step, tokens = job.batches.step(self.gradient_share, FEWEST, MOST), job.batches.n_tokens
        seen = max(1 / step, min(1.0, self.max_tokens / tokens))  # share of the tokens that run forward
        found = Work(passes=seen + BACKWARD / step)
        for group in job.groups.with_consumer:
            sums = job.moments(group.features, min(self.max_tokens, tokens)) + job.moments(group.hidden, tokens / step)
            found += Work(passes=sums, solves=SWEEP * group.features**3 + EIGEN * group.hidden**3)
        return found

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        step = batches.step(self.gradient_share, FEWEST, MOST)
        part = batches.only(range(0, len(batches), step))
        further = self._further(batches, part, [place for place in range(len(batches)) if place % step])
        seen = dataclasses.replace(part, batches=part.batches + further.batches)
        moments = MomentsCollector(model, groups, seen, tokens=self.max_tokens, generator=context.generator)
        grads, token_weights = None, None
        importance, damage = {}, {}

        def done(members: Sequence[Group]) -> None:
            """The curves of a layer; its moments go."""
            for group in members:
                importance[group.name], damage[group.name] = self._curve(model, group, moments, part.n_samples)

        passes, states = Passes(watch=moments.watch, done=done), context.states
        arguments = (model, groups, part, self.labels, context.generator)
        with bf16_matmuls(next(model.parameters()).device):
            if "grads" in self.provides:
                grads, token_weights = collect_gradients(*arguments, passes=passes, states=states)
            else:
                run_backward(*arguments, passes, states, further=further)
        names = [group.name for group in groups.with_consumer]
        return Scores(
            importance={name: importance[name] for name in names},
            grads=grads,
            token_weights=token_weights,
            damage={name: damage[name] for name in names},
        )

    def _curve(self, model: nn.Module, group: Group, moments: MomentsCollector, samples: int) -> tuple[Tensor, Tensor]:
        """The importance of a group's units [units], and its damage curve [units + 1] float64."""
        if not group.units:
            return torch.zeros(0), torch.zeros(1, dtype=torch.float64)
        weight = consumer_of(model, group).weight.detach()
        inputs, gradients = moments.pop(group)
        inputs.check_finite(group.name)
        order, costs = self._sweep(group, inputs.covariance, gradients.gram / samples, weight)
        removed = torch.cat([torch.zeros(1, dtype=torch.float64), costs.cumsum(0)])  # damage by units removed
        return as_importance(order, costs), removed.flip(0).pow(self.power)  # by units kept

    def _further(self, batches: Batches, part: Batches, others: Sequence[int]) -> Batches:
        """As many of the other batches, evenly spaced, as C needs tokens beyond those of the samples for G."""
        missing, held = self.max_tokens - part.n_tokens, batches.only(others).n_tokens
        count = min(len(others), math.ceil(len(others) * missing / held)) if missing > 0 and others else 0
        return batches.only(others[(2 * each + 1) * len(others) // (2 * count)] for each in range(count))

    def _sweep(self, group: Group, covariance: Tensor, gradients: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The order of removal [units] and the loss increase of each removal [units], on the CPU.

        Args:
            group: The group whose units are removed.
            covariance: C, of the consumer's inputs: [features, features] float64; its diagonal is raised in place.
            gradients: G, of the gradient at the consumer's output: [hidden, hidden] float64.
            weight: The consumer's weight, [hidden, features].
        """
        scale = float(covariance.diagonal().mean())
        if not scale > 0.0:  # constant inputs: the bias alone reproduces the output
            return torch.arange(group.units), torch.zeros(group.units, dtype=torch.float64)
        covariance.diagonal().add_(max(self.damping, 1e-9) * scale)
        check_gradients(gradients, group.name)
        values, vectors = torch.linalg.eigh(gradients)
        columns = weight.double().T[: group.features] @ (vectors * values.clamp(min=0).sqrt())  # [features, hidden]
        order, costs = sweep(covariance, columns, group.width)
        return order.cpu(), costs.cpu() / 2


def as_importance(order: Tensor, costs: Tensor) -> Tensor:
    """Turn an order of removal into importance, so that the k most important units are the k removed last.

    Args:
        order: Indices of the units in the order of their removal, [units] int64.
        costs: Loss increase of each removal, [units] float64, in the same order.

    Returns:
        Importance by unit, [units] float64: the running maximum of the costs, made strictly increasing along the order.
    """
    rising = costs.cummax(0).values
    steps = torch.arange(1, len(order) + 1, dtype=torch.float64)
    importance = torch.empty_like(rising)
    importance[order] = rising * (1 + 1e-9 * steps) + 1e-300 * steps  # without ties
    return importance
