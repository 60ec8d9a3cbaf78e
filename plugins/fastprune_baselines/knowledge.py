"""Importance by the knowledge that a unit holds: what it means to the prediction, and to its sublayer's output."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastprune import Batches, Context, Groups, Labels, Scorer, Scores, collect_gradients, consumer_of, option
from fastprune_baselines.moments import feature_moments


@dataclass(frozen=True, kw_only=True)
class KnowledgeScorer(Scorer):
    """K-prune's predictive and representational knowledge, weighted (Park et al., ICLR 2024; METHOD 1).

    The predictive part is the curvature of the KL divergence of the model's predictions, taken as the Fisher information
    with labels that the model draws; the representational part is the energy of what the unit adds to the sublayer's output.
    K-prune goes with the searcher ``threshold`` (``per_cost``), the schedule ``bottom-up`` and the tuner ``weights``.
    """

    name: ClassVar[str] = "knowledge"
    formula: ClassVar[str] = "S_u = mu (1/n sum_i g_iu^2 + lambda mean ||X_u W_u^T||^2), mu for attention alone"
    paper: ClassVar[str] = "Park et al. (K-prune), ICLR 2024, https://arxiv.org/abs/2308.03449"
    labels: Labels = option(
        "model", help="Whose labels the loss uses: the data set's, the model's own draws, or the first that there are."
    )
    representational: float = option(2.5e-5, help="lambda, how much the representational part weighs.")
    attention: float = option(64.0, help="mu, how much more attention units weigh than others.")

    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        grads, _ = collect_gradients(model, groups, batches, self.labels, context.generator, states=context.states)
        moments = feature_moments(model, groups, batches)
        importance = {}
        for group in groups:
            columns = consumer_of(model, group).weight.detach().double().square().sum(0)  # [features]
            energy = (moments[group.name][1] * columns).unflatten(0, (group.units, group.width)).sum(1).cpu()
            predictive = grads[group.name].double().square().mean(0)  # [units]
            weight = self.attention if group.kind == "attention" else 1.0
            importance[group.name] = weight * (predictive + self.representational * energy)
        return Scores(importance=importance)
