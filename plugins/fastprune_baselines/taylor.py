"""Importance by the first-order Taylor expansion of the loss."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastprune import Batches, Context, Groups, Labels, Scorer, Scores, collect_gradients, option


@dataclass(frozen=True, kw_only=True)
class TaylorScorer(Scorer):
    """The mean over the samples of |sum x dL/dx|, the first-order change of the loss when the unit goes.

    Michel et al., "Are Sixteen Heads Really Better than One?", NeurIPS 2019, section 4.1 (METHOD 1).
    """

    name: ClassVar[str] = "taylor"
    formula: ClassVar[str] = "1/n sum_i |g_iu|, with g_iu = d loss_i / d m_u at m = 1"
    paper: ClassVar[str] = "Michel et al., NeurIPS 2019, https://arxiv.org/abs/1905.10650"
    labels: Labels = option(
        "auto", help="Whose labels the loss uses: the data set's, the model's own draws, or the first that there are."
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
