"""Importance by K-prune's knowledge: effect on the prediction plus energy in the sublayer's output."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastprune import Batches, option
from fastprune.calibration import Labels, collect_gradients
from fastprune.strategies import Context, Scorer, Scores
from fastprune.units import Groups, consumer_of
from fastprune_baselines.moments import feature_moments

REPRESENTATIONAL = 2.5e-5  # weight lambda of the representational part, the authors'
ATTENTION = 64.0  # factor mu of attention units, the authors'; other units have 1


@dataclass(frozen=True, kw_only=True)
class KnowledgeScorer(Scorer):
    """Weighted sum of K-prune's predictive and representational knowledge.

    The predictive part is the curvature of the KL divergence of the model's predictions, computed as the Fisher information
    with labels drawn from the model; the representational part is the energy of the unit's contribution to the sublayer's
    output (Park et al., ICLR 2024; docs/method.md, section 4.2). To reproduce K-prune, combine with the searcher ``threshold``
    (``per_cost``), the schedule ``bottom-up`` and the tuner ``weights``.
    """

    name: ClassVar[str] = "knowledge"
    formula: ClassVar[str] = "S_u = mu (1/n sum_i g_iu^2 + lambda mean ||X_u W_u^T||^2), mu for attention alone"
    paper: ClassVar[str] = "Park et al. (K-prune), ICLR 2024, https://arxiv.org/abs/2308.03449"
    labels: Labels = option(
        "model",
        help="Labels of the loss: the data set's, drawn from the model's predictions, or auto (the first available).",
    )

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        grads, _ = collect_gradients(model, groups, batches, self.labels, context.generator, states=context.states)
        moments = feature_moments(model, groups, batches)
        importance = {}
        for group in groups.with_consumer:
            columns = consumer_of(model, group).weight.detach().double().square().sum(0)  # [features]
            squares = moments[group.name].gram / moments[group.name].weight.clamp(min=1)  # [features]
            energy = (squares * columns).unflatten(0, (group.units, group.width)).sum(1).cpu()
            predictive = grads[group.name].double().square().mean(0)  # [units]
            weight = ATTENTION if group.kind == "attention" else 1.0
            importance[group.name] = weight * (predictive + REPRESENTATIONAL * energy)
        return Scores(importance=importance)
