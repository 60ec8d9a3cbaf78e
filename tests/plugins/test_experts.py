"""Mixtures of experts: the conformance suite, and what only experts can get wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, MixtralForCausalLM

import fastprune
from fastprune import testing
from fastprune.modeling import EmptySublayer, Experts
from fastprune.models import checkpoint
from fastprune.strategies import Context
from fastprune.surgery import routing
from fastprune.units import Groups, Mask, resolve_groups

GROUPED = {"n_group": 1, "topk_group": 1}
ERNIE = {
    "moe_num_experts": 4,
    "moe_k": 2,
    "moe_num_shared_experts": 1,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 1,
}
DEEPSEEK = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 4,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    **GROUPED,
}
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("mixtral", {}),
    ("mixtral", {"num_experts_per_tok": 1}),
    ("qwen2_moe", {}),
    ("qwen2_moe", {"mlp_only_layers": [0]}),
    ("qwen2_moe", {"norm_topk_prob": True}),
    ("qwen3_moe", {"head_dim": 8}),
    ("glm4_moe", {"head_dim": 8, "n_routed_experts": 4, "first_k_dense_replace": 1, **GROUPED}),
    ("dots1", {"head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, **GROUPED}),
    ("ernie4_5_moe", {"head_dim": 8, **ERNIE}),
    ("olmoe", {}),
    ("minimax_m2", {}),
    ("granitemoe", {"residual_multiplier": 0.5}),
    ("deepseek_v2", {**DEEPSEEK, "q_lora_rank": None}),
    ("deepseek_v3", {**DEEPSEEK, "q_lora_rank": 4}),
]
IDS = [f"{name}-{len(config)}" for name, config in FAMILIES]
SHARING = ("qwen3_moe", "glm4_moe", "dots1", "deepseek_v2", "deepseek_v3")
"""Families whose heads share a norm or a compression, which goes with the last of them and is not in the table."""
HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "Model")


def opened(model_type: str = "mixtral", **config: Any) -> tuple[Any, Groups]:
    model = fastprune.units.unfuse_experts(testing.tiny_model(model_type, "ForCausalLM", **config))
    return model, resolve_groups(fastprune.architecture_for(model), model)


def inputs_of(model: Any) -> dict[str, torch.Tensor]:
    batch = testing.tiny_batches(model).batches[0]
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize(("model_type", "config"), FAMILIES, ids=IDS)
def test_causal_lm(model_type: str, config: dict[str, Any]) -> None:
    model = testing.tiny_model(model_type, "ForCausalLM", **config)
    testing.check_architecture(fastprune.architecture_for(model), model)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_other_heads(model_type: str, head: str) -> None:
    model = testing.tiny_model(model_type, head)
    testing.check_architecture(fastprune.architecture_for(model), model)


@pytest.mark.parametrize(("model_type", "config"), FAMILIES, ids=IDS)
@pytest.mark.parametrize("cost", ["macs", "params"])
def test_costs_are_what_torch_counts(model_type: str, config: dict[str, Any], cost: str) -> None:
    model = testing.tiny_model(model_type, "ForCausalLM", **config)
    tolerance = 0.05 if model_type in SHARING else 1e-9
    testing.check_cost_model(fastprune.strategy("cost", cost), model=model, tolerance=tolerance)


@pytest.mark.parametrize("tuner", ["bias", "mask", "weights", "descent"])
@pytest.mark.parametrize(("model_type", "config"), FAMILIES, ids=IDS)
def test_tuner_repairs(model_type: str, config: dict[str, Any], tuner: str) -> None:
    model = testing.tiny_model(model_type, "ForCausalLM", **config)
    testing.check_tuner(fastprune.strategy("tuner", tuner), model=model)


@pytest.mark.parametrize("scorer", ["activation", "fisher", "fluctuation", "knowledge", "magnitude", "obs", "taylor"])
def test_scorer(scorer: str) -> None:
    model = testing.tiny_model("mixtral", "ForCausalLM")
    testing.check_scorer(fastprune.strategy("scorer", scorer), model=model)


@pytest.mark.parametrize("k", [1, 3])
def test_macs_are_those_of_the_untouched_model(k: int) -> None:
    model = testing.tiny_model("mixtral", "ForCausalLM", num_experts_per_tok=k)
    model.set_experts_implementation("eager")
    ids = torch.arange(1, 12)[None]  # [1, tokens]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(input_ids=ids, use_cache=False)
    one, groups = opened(num_experts_per_tok=k)
    table = fastprune.strategy("cost", "macs").measure(
        one, groups, fastprune.data.Workload(example={"input_ids": ids}, seq_len=11)
    )
    assert table.total == counter.get_total_flops() / 2
    # a token passes gate, up and down of k of the 4 experts
    assert float(table.groups["layers.0.expert.0"][1]) == pytest.approx(11 * 3 * 32 * k / 4)


def test_experts_are_views_and_the_model_stays_as_it_is() -> None:
    model = testing.tiny_model("mixtral", "ForCausalLM")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one = fastprune.units.unfuse_experts(model)
    fused, expert = model.model.layers[1].mlp.experts, one.model.layers[1].mlp.experts[2]
    assert expert.producer.weight.data_ptr() == fused.gate_up_proj[2].data_ptr()
    assert fastprune.units.unfuse_experts(one) is one
    assert fastprune.units.unfuse_experts(other := testing.tiny_model()) is other
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.6)
    assert testing.comparing.same_tensors(model.state_dict(), before)
    assert isinstance(result.model.model.layers[1].mlp.experts, Experts)
    assert result.cost_after <= 0.6 * result.cost_before


def test_inplace_opens_this_very_model() -> None:
    model = testing.tiny_model("mixtral", "ForCausalLM")
    expected = fastprune.prune(copy.deepcopy(model), testing.tiny_batches(model), budget=0.6).model
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.6, inplace=True)
    assert result.model is model
    assert torch.equal(model(**inputs_of(model)).logits, expected(**inputs_of(model)).logits)


def test_an_expert_without_filters_is_still_chosen_and_adds_nothing() -> None:
    model, groups = opened(num_experts_per_tok=1)
    mask = Mask.first(groups, {g.name: 0 if g.name.endswith("layers.0.expert.1") else g.units for g in groups})
    pruned = fastprune.materialize(model, groups, mask)
    moe = pruned.model.layers[0].mlp
    assert isinstance(moe.experts[1], EmptySublayer)
    hidden = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(0))
    chosen = moe.gate(hidden.flatten(0, 1))[2][:, 0]  # [tokens]
    with torch.no_grad():
        output, dense = moe(hidden).flatten(0, 1), model.model.layers[0].mlp(hidden).flatten(0, 1)
    assert 0 < int((chosen == 1).sum()) < len(chosen)
    assert not output[chosen == 1].any()
    assert torch.equal(output[chosen != 1], dense[chosen != 1])


def without_two_experts(model_type: str, **config: Any) -> tuple[Any, Any, Groups]:
    """A model, and one that has lost two experts of its first layer and no other unit."""
    model, groups = opened(model_type, **config)
    gone = ("layers.0.expert.0", "layers.0.expert.2")
    mask = Mask.first(groups, {g.name: 0 if g.name in gone else g.units for g in groups})
    pruned = fastprune.materialize(model, groups, mask).eval()
    return model, pruned, resolve_groups(fastprune.architecture_for(model), pruned)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_rerouted_token_goes_to_the_best_experts_that_are_left(k: int) -> None:
    model, pruned, left = without_two_experts("mixtral", num_experts_per_tok=k)
    routing.drop_routes(pruned, left)
    moe, dense = pruned.model.layers[0].mlp, model.model.layers[0].mlp
    assert moe.experts.choices == [1, 3]
    assert (tuple(moe.gate.weight.shape), moe.gate.num_experts, moe.gate.top_k) == ((2, 32), 2, min(k, 2))
    hidden = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        chances = (hidden @ dense.gate.weight.T)[:, [1, 3]].softmax(-1)  # [tokens, experts left]
        weights, places = chances.topk(min(k, 2))
        weights = weights / weights.sum(-1, keepdim=True)
        expected = dense.experts(hidden, torch.tensor([1, 3])[places], weights)
        assert torch.allclose(moe(hidden[None])[0], expected, atol=1e-5)
        assert not torch.allclose(expected, dense(hidden[None])[0], atol=1e-2)
    assert pruned.model.layers[1].mlp.gate.weight.shape == (4, 32)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_a_rerouted_model_is_pruned_on_saved_loaded_and_counted(model_type: str, tmp_path: Path) -> None:
    _, pruned, left = without_two_experts(model_type)
    routing.drop_routes(pruned, left)
    cost = fastprune.strategy("cost", "params")
    workload = fastprune.data.Workload(example={"input_ids": torch.arange(1, 12)[None]}, seq_len=11)
    of_one = fastprune.strategy("cost", "macs").measure(pruned, left, workload).groups
    # two of the two that are left see every token, two of four see half
    assert float(of_one["layers.0.expert.1"][1]) == 2 * float(of_one["layers.1.expert.1"][1])
    assert cost.measure(pruned, left, workload).total == sum(p.numel() for p in pruned.parameters())
    architecture = fastprune.architecture_for(pruned)
    checkpoint.save(pruned, tmp_path / "small", architecture=architecture, details={})
    loaded = fastprune.load(tmp_path / "small")
    assert torch.equal(loaded(**inputs_of(pruned)).logits, pruned(**inputs_of(pruned)).logits)
    assert loaded.model.layers[0].mlp.experts.choices == [1, 3]
    again = Mask.first(left, {g.name: 0 if g.name == "layers.0.expert.1" else g.units for g in left})
    once_more = fastprune.materialize(loaded, left, again)
    routing.drop_routes(once_more, resolve_groups(architecture, once_more))
    assert once_more.model.layers[0].mlp.experts.choices == [3]
    assert torch.equal(once_more.model.layers[0].mlp.gate.weight, loaded.model.layers[0].mlp.gate.weight[1:])


class EmptiesAnExpert(fastprune.strategies.Searcher):
    """Takes one expert of each layer whole, and half of the others' filters."""

    name = "empties-an-expert"

    def search(self, scores: Any, costs: Any, budget: float, context: Context) -> Mask:
        counts = {n: 0 if n.endswith("expert.2") else len(c) // 2 for n, c in costs.groups.items()}
        return Mask.top(scores.importance, counts)


@pytest.mark.parametrize("inplace", [False, True])
def test_tuners_see_the_rerouted_model(inplace: bool) -> None:
    model = testing.tiny_model("mixtral", "ForCausalLM")
    batches = testing.tiny_batches(model, samples=64)
    settings: dict[str, Any] = {"budget": 0.9, "cost": "params", "searcher": EmptiesAnExpert(), "rearranger": "none"}
    plain = fastprune.prune(model, batches, tuner="none", reroute=True, **settings).model
    tuned = fastprune.prune(
        copy.deepcopy(model), batches, tuner="weights", reroute=True, inplace=inplace, **settings
    ).model
    for pruned in (plain, tuned):
        assert all(layer.mlp.experts.choices == [0, 1, 3] for layer in pruned.model.layers)
    groups = resolve_groups(fastprune.architecture_for(plain), plain)
    errors = [testing.comparing.hidden_error(model, pruned, groups, batches) for pruned in (plain, tuned)]
    assert errors[1] < errors[0]


def test_what_rerouting_costs_is_measured() -> None:
    model = testing.tiny_model("mixtral", "ForCausalLM")
    settings: dict[str, Any] = {"searcher": EmptiesAnExpert(), "rearranger": "none", "tuner": "none", "cost": "macs"}
    kept, moved = (
        fastprune.prune(model, testing.tiny_batches(model), budget=0.9, reroute=reroute, **settings)
        for reroute in (False, True)
    )
    # half of the filters of three experts: 2 of 4 experts a token, of which one has none; or 2 of the other 3
    assert moved.cost_after > kept.cost_after
    groups = resolve_groups(fastprune.architecture_for(moved.model), moved.model)
    workload = fastprune.data.Workload.of(testing.tiny_batches(model))
    assert moved.cost_after == fastprune.strategy("cost", "macs").measure(moved.model, groups, workload).total


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_rerouting_without_a_router_is_refused_before_any_work(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = testing.tiny_model(model_type)
    monkeypatch.setattr(type(fastprune.strategy("cost", "macs")), "measure", None)
    with pytest.raises(fastprune.errors.ModelError, match="names no router"):
        fastprune.prune(model, testing.tiny_batches(model), budget=0.5, reroute=True)


def test_the_router_is_trained_with_its_balancing_loss() -> None:
    model, groups = opened()
    pruned = fastprune.materialize(model, groups, testing.problems.some_mask(groups)).train()
    batch = inputs_of(model)
    output = pruned(**batch, labels=batch["input_ids"], output_router_logits=True)
    output.loss.backward()
    assert output.aux_loss is not None
    assert all(layer.mlp.gate.weight.grad is not None for layer in pruned.model.layers)


def test_a_checkpoint_that_transformers_wrote_and_one_that_it_opens_alone(tmp_path: Path) -> None:
    testing.tiny_model("mixtral", "ForCausalLM").save_pretrained(tmp_path / "dense")  # w1, w2, w3 for each expert
    model = MixtralForCausalLM.from_pretrained(tmp_path / "dense")
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.5)
    result.save(tmp_path / "small")
    batch = inputs_of(model)
    expected = result.model(**batch).logits
    for opened_again in (
        fastprune.load(tmp_path / "small"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "small", trust_remote_code=True).eval(),
    ):
        assert torch.equal(opened_again(**batch).logits, expected)
    plan = json.loads((tmp_path / "small/config.json").read_text())["fastprune"]["modules"]
    assert plan["layers.0.mlp.experts"] == {"experts": [0, 1, 2, 3]}


def test_fused_experts_are_told_to_be_opened() -> None:
    model = testing.tiny_model("mixtral", "ForCausalLM")
    with pytest.raises(
        fastprune.errors.ModelError,
        match=r"a module for each expert in 'model\.layers\.0\.mlp\.experts'.*one MixtralExperts",
    ):
        resolve_groups(fastprune.architecture_for(model), model)


def test_experts_of_another_kind_are_refused() -> None:
    model = testing.tiny_model("gpt_oss", "ForCausalLM", head_dim=8)
    with pytest.raises(
        fastprune.errors.ModelError, match=r"'model\.layers\.0\.mlp\.experts' cannot be opened.*GptOssExperts"
    ):
        fastprune.units.unfuse_experts(model)
