"""Damage curves: what a group loses with its k best units left, for every k."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fastprune import (
    Batches,
    Context,
    Group,
    Groups,
    Labels,
    Moments,
    MomentsCollector,
    Scorer,
    Scores,
    UsageError,
    collect_gradients,
    consumer_of,
    option,
    track,
)
from fastprune_obs.surgeon import sweep

FEWEST, MOST = 128, 256  # samples, about, that G is made of; with less than twice the fewest, all


@dataclass(frozen=True, kw_only=True)
class OBSScorer(Scorer):
    """How much the loss rises as a group's units go one after another and the others are refitted each time.

    Structured Optimal Brain Surgeon on every consumer (ZipLM), with the Kronecker-factored Fisher information as the
    measure of what an error costs: changing the consumer by dW raises the loss by about 1/2 tr(dW C dW' G), with C the
    covariance of its inputs and G the second moment of the loss gradient at its output, summed over a sample's tokens.
    So the curves of all groups are in one currency, the loss, and add up (METHOD 2). Where much is lost the quadratic
    overstates it, hence ``power``.
    """

    name: ClassVar[str] = "obs"
    formula: ClassVar[str] = "D_g(k) = (min over k units and dW of 1/2 tr(dW C dW^T G))^power, units leaving greedily"
    paper: ClassVar[str] = (
        "Kurtic et al. (ZipLM), NeurIPS 2023, https://arxiv.org/abs/2302.04089; "
        "Martens and Grosse (K-FAC), ICML 2015, https://arxiv.org/abs/1503.05671"
    )
    labels: Labels = option(
        "auto", help="Whose labels the loss uses: the data set's, the model's own draws, or the first that there are."
    )
    tokens: Literal["equal", "gradient"] = option(
        "equal", help="How much a token counts in C: all alike, or by its squared loss gradient at the output."
    )
    metric: Literal["fisher", "identity"] = option(
        "fisher", help="What an output error costs: by the gradient's second moment G, or the same in every direction."
    )
    damping: float = option(0.01, help="Added to C's diagonal, relative to its mean.")
    power: float = option(
        0.75,
        help="The curves are raised to it: below 1, a group's first losses weigh more, its last less than squares say.",
    )
    max_tokens: int = option(32768, help="About how many tokens C is made of; all where the calibration set has fewer.")
    gradient_share: float = option(
        0.25,
        help="The part of the calibration set that G is made of, up to about 256 samples; 1, or where gradients are needed of "
        "every sample: all.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.gradient_share <= 1.0:
            raise UsageError(
                f"The scorer 'obs' needs a gradient_share above 0 and at most 1; got {self.gradient_share:g}."
            )
        if self.tokens == "gradient" and self.gradient_share < 1.0:
            object.__setattr__(self, "gradient_share", 1.0)  # tokens count by their gradients

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"damage"} if self.gradient_share < 1.0 else {"damage", "grads", "token_weights"})

    def configured_for(self, requires: frozenset[str]) -> Scorer:
        return dataclasses.replace(self, gradient_share=1.0) if requires & {"grads", "token_weights"} else self

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        moments = MomentsCollector(
            model,
            groups,
            batches,
            tokens=self.max_tokens,
            by_gradient=self.tokens == "gradient",
            generator=context.generator,
        )
        step = batches.step(self.gradient_share, FEWEST, MOST)
        part = batches.only(range(0, len(batches), step))
        grads, token_weights = collect_gradients(
            model, groups, part, self.labels, context.generator, watch=moments.watch, states=context.states
        )
        moments.run(batches.only(place for place in range(len(batches)) if place % step), context.states)
        importance, damage = {}, {}
        for group in track(list(groups), "damage curves"):
            importance[group.name], damage[group.name] = torch.zeros(0), torch.zeros(1, dtype=torch.float64)
            if group.units:
                weight = consumer_of(model, group).weight.detach()
                seen = moments.by_group.pop(group.name)
                order, costs = self._sweep(group, seen, weight, part.n_samples)
                importance[group.name] = as_importance(order, costs)
                lost = torch.cat([torch.zeros(1, dtype=torch.float64), costs.cumsum(0)])
                damage[group.name] = lost.flip(0).pow(self.power)
        if self.gradient_share < 1.0:
            return Scores(importance=importance, damage=damage)
        return Scores(importance=importance, grads=grads, token_weights=token_weights, damage=damage)

    def _sweep(self, group: Group, moments: Moments, weight: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """The order in which the units go [units], and what each costs then [units], on the CPU."""
        covariance = moments.covariance()
        scale = float(covariance.diagonal().mean())
        if not 0.0 < scale < float("inf"):  # no input varies: the bias makes up for everything
            return torch.arange(group.units), torch.zeros(group.units, dtype=torch.float64)
        covariance.diagonal().add_(max(self.damping, 1e-9) * scale)
        columns = weight.double().T[: group.features]  # [features, hidden]
        if self.metric == "fisher":
            values, vectors = torch.linalg.eigh(moments.gradients.double() / samples)
            columns = columns @ (vectors * values.clamp(min=0).sqrt())
        order, costs = sweep(covariance, columns, group.width)
        return order.cpu(), costs.cpu() / 2


def as_importance(order: Tensor, costs: Tensor) -> Tensor:
    """What each unit cost as it left, made to rise along the order: the top k are what the sweep left at k.

    Args:
        order: The units in the order in which they went: [units].
        costs: What each cost then: [units].
    """
    rising = costs.cummax(0).values
    steps = torch.arange(1, len(order) + 1, dtype=torch.float64)
    importance = torch.empty_like(rising)
    importance[order] = rising * (1 + 1e-9 * steps) + 1e-300 * steps  # no two alike
    return importance
