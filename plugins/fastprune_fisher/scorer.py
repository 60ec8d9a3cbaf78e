"""Importance: the diagonal of the mask's empirical Fisher information."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastprune import Batches, option
from fastprune.calibration import Labels, collect_gradients
from fastprune.strategies import Context, Scorer, Scores
from fastprune.units import Groups


@dataclass(frozen=True, kw_only=True)
class FisherScorer(Scorer):
    """Diagonal of the mask's empirical Fisher information, from exact per-sample gradients.

    I_uu = (1/n) sum_i g_iu^2 with g_i = d loss_i / d m at m = 1 (Kwon et al., NeurIPS 2022, eq. 6 and 7; docs/method.md,
    section 4.1). ``mini_batch`` computes what the paper's code does instead.
    """

    name: ClassVar[str] = "fisher"
    formula: ClassVar[str] = "I_uu = 1/n sum_i g_iu^2, with g_iu = d loss_i / d m_u at m = 1"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, https://arxiv.org/abs/2204.09656"
    labels: Labels = option(
        "auto",
        help="Labels of the loss: the data set's, drawn from the model's predictions, or auto (the first available).",
    )
    mini_batch: int = option(
        0,
        at_least=0,
        at_most=65536,
        help="Only to compare with the paper's code: sum gradients over so many samples before squaring; 0: each sample's own.",
    )

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"grads", "token_weights"})

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        grads, token_weights = collect_gradients(
            model, groups, batches, self.labels, context.generator, states=context.states
        )
        if self.mini_batch:
            order = torch.randperm(batches.n_samples, generator=context.generator)
            grads = {name: in_mini_batches(gradient, order, self.mini_batch) for name, gradient in grads.items()}
        importance = {name: gradient.double().square().mean(0).float() for name, gradient in grads.items()}
        return Scores(importance=importance, grads=grads, token_weights=token_weights)


def in_mini_batches(gradients: Tensor, order: Tensor, size: int) -> Tensor:
    """Sum gradients over mini-batches, as the paper's code does before it squares them (docs/method.md, section 4.1).

    Args:
        gradients: Per-sample gradients, [samples, units].
        order: The samples in the order in which mini-batches take them, [samples].
        size: Samples of a mini-batch; the last may have fewer.

    Returns:
        For each sample, the sum over its mini-batch, divided by the root of the mini-batch's size, so that the sum of squares
        over the samples is that over the mini-batches: [samples, units].
    """
    summed = torch.empty_like(gradients)
    for members in order.split(size):
        summed[members] = gradients[members].sum(0) / len(members) ** 0.5
    return summed
