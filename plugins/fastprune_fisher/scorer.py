"""Importance: the diagonal of the mask's empirical Fisher information."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastprune import Batches, option
from fastprune.calibration import Labels, collect_gradients
from fastprune.strategies import Context, Scorer, Scores
from fastprune.units import Groups


@dataclass(frozen=True, kw_only=True)
class FisherScorer(Scorer):
    """Diagonal of the mask's empirical Fisher information, from exact per-sample gradients.

    I_uu = (1/n) sum_i g_iu^2 with g_i = d loss_i / d m at m = 1 (Kwon et al., NeurIPS 2022, eq. 6 and 7; docs/method.md,
    section 4.1).
    """

    name: ClassVar[str] = "fisher"
    formula: ClassVar[str] = "I_uu = 1/n sum_i g_iu^2, with g_iu = d loss_i / d m_u at m = 1"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, https://arxiv.org/abs/2204.09656"
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
        importance = {name: gradient.double().square().mean(0).float() for name, gradient in grads.items()}
        return Scores(importance=importance, grads=grads, token_weights=token_weights)
