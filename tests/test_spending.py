"""Spending: budgets are kept by the finished model, counted on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.data import Workload
from fastprune.errors import BudgetError, ContractError
from fastprune.pipeline.spending import with_biases
from fastprune.strategies import Scorer, Scores, Tuner
from fastprune.units import Mask, resolve_groups

WITHOUT_BIASES = ("cohere", "olmo2", "qwen3", "llama", "modernbert", "t5", "mixtral")


def numel(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def pruned(model_type: str, **settings: Any) -> tuple[torch.nn.Module, fastprune.PruningResult]:
    head = {"modernbert": "ForMaskedLM", "t5": "ForConditionalGeneration", "bert": "ForSequenceClassification"}
    model = testing.tiny_model(model_type, head.get(model_type, "ForCausalLM"))
    return model, fastprune.prune(model, testing.tiny_batches(model), bench=False, **settings)


@pytest.mark.parametrize(
    ("model_type", "schedule"),
    [*((name, "once") for name in WITHOUT_BIASES), ("llama", "rounds"), ("mixtral", "rounds"), ("llama", "bottom-up")],
)
def test_biases_that_the_tuner_adds_are_within_the_budget(model_type: str, schedule: str) -> None:
    budget = 0.8
    model, result = pruned(model_type, budget=budget, cost="params", recipe="fast", tuner="bias", schedule=schedule)
    assert any(name.endswith("bias") for name, _ in result.model.named_parameters())
    assert numel(result.model) <= budget * numel(model)
    assert numel(result.model) > (budget - 0.04) * numel(model)
    assert result.cost_after == numel(result.model)


@pytest.mark.parametrize("cost", ["macs", "params"])
@pytest.mark.parametrize("schedule", ["rounds", "bottom-up"])
def test_the_head_that_computes_the_position_bias_is_within_the_budget(cost: str, schedule: str) -> None:
    model = testing.tiny_model("t5", "ForConditionalGeneration")
    groups = resolve_groups(fastprune.architecture_for(model), model)
    workload = Workload.of(testing.tiny_batches(model))
    empty = fastprune.materialize(model, groups, Mask.first(groups, {group.name: 0 for group in groups}))
    counted = fastprune.strategy("cost", cost)
    floor = counted.measure(empty, resolve_groups(fastprune.architecture_for(model), empty), workload).total
    table = counted.measure(model, groups, workload)
    assert floor > table.floor
    budget = (floor + 0.02 * (table.total - floor)) / table.total
    _, result = pruned("t5", budget=budget, cost=cost, recipe="fast", tuner="none", schedule=schedule)
    assert floor <= result.cost_after <= budget * table.total


@pytest.mark.parametrize("tuner", ["none", "mask"])
def test_no_room_is_left_for_biases_that_the_tuner_does_not_add(tuner: str) -> None:
    model, result = pruned("llama", budget=0.8, cost="params", recipe="fast", tuner=tuner)
    unit = min(2 * 32, 3 * 32)  # parameters of the smallest unit
    assert 0.8 * numel(model) - 2 * unit < numel(result.model) <= 0.8 * numel(model)
    assert not any(name.endswith("bias") for name, _ in result.model.named_parameters())


@pytest.mark.parametrize("schedule", ["once", "rounds", "bottom-up"])
@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_a_model_within_its_budget_stays_as_it_is(model_type: str, schedule: str) -> None:
    budget = {"params": 1.0, "macs": "1e12MACs"}
    model, result = pruned(model_type, budget=budget, recipe="fast", schedule=schedule)
    assert testing.comparing.same_tensors(model.state_dict(), result.model.state_dict())
    assert result.model is not model


def test_a_budget_without_room_for_the_biases_is_refused_first() -> None:
    model = testing.tiny_model("llama", "ForCausalLM")
    groups = resolve_groups(fastprune.architecture_for(model), model)
    empty = numel(fastprune.materialize(model, groups, Mask.first(groups, {group.name: 0 for group in groups})))
    settings: dict[str, Any] = {"cost": "params", "recipe": "fast", "budget": (empty + 1) / numel(model)}
    _, without = pruned("llama", tuner="none", **settings)
    assert numel(without.model) == empty
    with pytest.raises(BudgetError, match=rf"with every unit pruned .* \({empty + 4 * 32}\) is left"):
        pruned("llama", tuner="bias", **settings)


class Sneaks(Tuner):
    """Adds a bias that it does not own up to."""

    name = "sneaks"
    adds_biases: ClassVar[bool] = False

    def tune(self, teacher: Any, student: Any, groups: Any, batches: Any, scores: Any, context: Any) -> Any:
        path = groups.items[0].consumer
        weight = student.get_submodule(path).weight.detach()
        return {path: (weight, weight.new_zeros(len(weight)))}


def test_a_bias_that_was_not_announced_is_told() -> None:
    with pytest.raises(ContractError, match="returned a bias for .*, which has none; set adds_biases = True"):
        pruned("llama", budget=0.8, recipe="fast", tuner=Sneaks())


def test_a_model_with_all_its_biases_needs_no_copy() -> None:
    bert, llama = testing.tiny_model("bert"), testing.tiny_model("llama", "ForCausalLM")
    for model, added in ((bert, 0), (llama, 4 * 32)):
        groups = resolve_groups(fastprune.architecture_for(model), model)
        roomy = with_biases(model, groups)
        assert (roomy is model) == (added == 0)
        assert numel(roomy) == numel(model) + added
    assert llama.model.layers[0].mlp.down_proj.bias is None


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_rerouted_tokens_are_within_the_budget(cost: str, caplog: pytest.LogCaptureFixture) -> None:
    """Emptied experts leave the router, so the others see more tokens than the table says."""
    settings: dict[str, Any] = {"cost": cost, "recipe": "fast", "scorer": Favours(), "tuner": "bias", "budget": 0.55}
    _, result = pruned("mixtral", reroute=True, **settings)
    assert any(len(layer.mlp.experts.choices) < 4 for layer in result.model.model.layers)
    assert result.cost_after <= 0.55 * result.cost_before
    assert not caplog.records


@pytest.mark.parametrize("budget", [0.5, 0.35])
def test_tokens_that_are_rerouted_before_other_experts_are_pruned_are_within_the_budget(budget: float) -> None:
    """Layer by layer, the first expert is emptied while the others, which then see its tokens, are whole."""
    settings: dict[str, Any] = {"cost": "macs", "recipe": "fast", "scorer": Favours(useless=("expert.0",))}
    _, result = pruned("mixtral", reroute=True, schedule="bottom-up", searcher="threshold", budget=budget, **settings)
    assert all(len(layer.mlp.experts.choices) < 4 for layer in result.model.model.layers)
    assert result.cost_after <= budget * result.cost_before


@dataclass(frozen=True, kw_only=True)
class Favours(Scorer):
    """Finds two experts of each layer useless."""

    name: ClassVar[str] = "favours"
    useless: tuple[str, ...] = ("expert.2", "expert.3")

    def score(self, model: Any, groups: Any, batches: Any, context: Any) -> Scores:
        worth = {g.name: float(not g.name.endswith(self.useless)) for g in groups}
        return Scores(importance={g.name: torch.full((g.units,), worth[g.name]) for g in groups})
