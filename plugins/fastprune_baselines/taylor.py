"""Importance by the first-order Taylor expansion of the loss."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastprune import Batches, option
from fastprune.calibration import Labels, collect_gradients
from fastprune.strategies import Context, Scorer, Scores
from fastprune.units import Groups


@dataclass(frozen=True, kw_only=True)
class TaylorScorer(Scorer):
    """Mean over the samples of |sum x dL/dx|, the first-order change of the loss when the unit is removed.

    Michel et al., "Are Sixteen Heads Really Better than One?", NeurIPS 2019, section 4.1 (docs/method.md, section 4.2).
    """

    name: ClassVar[str] = "taylor"
    formula: ClassVar[str] = "1/n sum_i |g_iu|, with g_iu = d loss_i / d m_u at m = 1"
    paper: ClassVar[str] = "Michel et al., NeurIPS 2019, https://arxiv.org/abs/1905.10650"
    labels: Labels = option(
        "auto",
        help="Labels of the loss: the data set's, drawn from the model's predictions, or auto (the first available).",
    )

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"grads", "token_weights"})

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        grads, token_weights = collect_gradients(
            model, groups, batches, self.labels, context.generator, states=context.states
        )
        importance = {name: gradient.double().abs().mean(0).float() for name, gradient in grads.items()}
        return Scores(importance=importance, grads=grads, token_weights=token_weights)
