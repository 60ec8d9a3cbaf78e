"""Decoder families: the conformance suite on every one, generation included, and what only decoders can get wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.registry import loading
from fastprune.units import Mask, resolve_groups

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("mistral", {}),
    ("qwen2", {}),
    ("qwen3", {"head_dim": 8}),
    ("gemma", {"head_dim": 8}),
    ("smollm3", {}),
    # a norm behind the consumer makes the rounding of a small output large; a greater eps makes it less so
    ("gemma2", {"head_dim": 8, "rms_norm_eps": 1e-2}),
    ("gemma3_text", {"head_dim": 8}),
    ("ministral", {"head_dim": 8}),
    ("ministral3", {"head_dim": 8}),
    ("olmo", {}),
    ("olmo", {"clip_qkv": 0.5}),
    ("helium", {"head_dim": 8}),
    ("seed_oss", {"head_dim": 8}),
    ("ernie4_5", {"head_dim": 8}),
    ("hunyuan_v1_dense", {"head_dim": 8}),
    ("granite", {"residual_multiplier": 0.5}),
    ("exaone4", {"head_dim": 8, "rms_norm_eps": 1e-2}),
    ("cohere", {}),
    ("cohere", {"use_qk_norm": False}),
    ("cohere2", {"head_dim": 8}),
    ("stablelm", {}),
    ("stablelm", {"use_parallel_residual": True}),
    ("stablelm", {"qk_layernorm": True}),
    ("olmo2", {"rms_norm_eps": 1e-2}),
    ("olmo3", {"rms_norm_eps": 1e-2}),
    ("nemotron", {"head_dim": 8}),
    ("arcee", {"head_dim": 8}),
    ("apertus", {}),
    ("starcoder2", {}),
    ("glm", {"head_dim": 8}),
    ("glm4", {"head_dim": 8, "rms_norm_eps": 1e-2}),
    ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    ("phi", {}),
    ("phi3", {}),
    ("gpt2", {}),
    ("gpt_bigcode", {}),
    ("gpt_bigcode", {"multi_query": False}),
    ("gpt_neo", {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4}),
    ("gptj", {"rotary_dim": 4}),
    ("persimmon", {}),
    ("xglm", {"attention_heads": 4, "num_layers": 2, "d_model": 32}),
    ("biogpt", {}),
    ("bloom", {"n_head": 4, "n_layer": 2}),
    ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}),
    ("gpt_neox", {}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("opt", {}),
    ("opt", {"do_layer_norm_before": False}),
    ("falcon", {}),
    ("falcon", {"parallel_attn": False}),
    ("falcon", {"multi_query": False}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
]
NORMED = ("qwen3", "gemma3_text", "hunyuan_v1_dense", "exaone4", "cohere", "persimmon", "apertus", "lfm2")
"""Families whose heads share norms of queries and keys."""
IDS = ["-".join([name, *config]) for name, config in FAMILIES]


@pytest.mark.parametrize(("model_type", "config"), FAMILIES, ids=IDS)
def test_causal_lm(model_type: str, config: dict[str, Any]) -> None:
    model = testing.tiny_model(model_type, "ForCausalLM", **config)
    testing.check_architecture(fastprune.architecture_for(model), model)


def architecture_shares_rows(model: torch.nn.Module) -> bool:
    groups = resolve_groups(fastprune.architecture_for(model), model)
    return any(len(cut.positions.shared) for group in groups for cut in group.cuts)


@pytest.mark.parametrize(("model_type", "config"), FAMILIES, ids=IDS)
def test_costs_are_what_torch_counts(model_type: str, config: dict[str, Any]) -> None:
    model = testing.tiny_model(model_type, "ForCausalLM", **config)
    # what all heads share (a norm, the one key and value) goes with the last of them, and is not in the table
    shared = model_type in NORMED or architecture_shares_rows(model)
    for cost in ("macs", "params"):
        testing.check_cost_model(fastprune.strategy("cost", cost), model=model, tolerance=0.05 if shared else 1e-9)


@pytest.mark.parametrize(("model_type", "config"), FAMILIES, ids=IDS)
@pytest.mark.parametrize("tuner", ["mask", "weights"])
def test_tuners(model_type: str, config: dict[str, Any], tuner: str) -> None:
    model = testing.tiny_model(model_type, "ForCausalLM", **config)
    batches = testing.tiny_batches(model)
    result = fastprune.prune(model, batches, budget=0.7, tuner=tuner)
    assert result.cost_after <= 0.7 * result.cost_before * (1 + 1e-9)


@pytest.mark.parametrize("model_type", ["llama", "phi", "gpt2", "falcon"])
def test_tuner_repairs(model_type: str) -> None:
    testing.check_tuner(fastprune.strategy("tuner", "weights"), model=testing.tiny_model(model_type, "ForCausalLM"))


def test_every_claimed_model_type_is_checked() -> None:
    registry = loading.installed().architecture
    decoders = [registry[name] for name in registry if registry.entry(name).plugin == "decoder"]
    of_experts = {kind for one in decoders if has_experts(one) for kind in one.model_types}  # in test_experts
    claimed = {kind for one in decoders for kind in one.model_types}
    assert claimed - of_experts == {name for name, _ in FAMILIES}


def has_experts(architecture: fastprune.units.Architecture) -> bool:
    return any("*" in block.module for stack in architecture.stacks for block in stack.blocks)


def test_the_unit_is_the_kv_group() -> None:
    model = testing.tiny_model("llama", "ForCausalLM")
    groups = resolve_groups(fastprune.architecture_for(model), model)
    assert {group.units for group in groups if group.kind == "attention"} == {2}
    pruned = fastprune.materialize(model, groups, Mask.first(groups, {g.name: 1 for g in groups}))
    attention = pruned.model.layers[0].self_attn
    assert (attention.q_proj.out_features, attention.k_proj.out_features, attention.o_proj.in_features) == (16, 8, 16)
    assert torch.equal(attention.q_proj.weight, model.model.layers[0].self_attn.q_proj.weight[:16])


def test_rows_of_a_fused_projection() -> None:
    model = testing.tiny_model("gpt2", "ForCausalLM")
    groups = resolve_groups(fastprune.architecture_for(model), model)
    last = Mask({g.name: torch.arange(g.units) == g.units - 1 for g in groups})
    before = model.transformer.h[0].attn.c_attn.weight  # [hidden, 3 x features]
    after = fastprune.materialize(model, groups, last).transformer.h[0].attn.c_attn
    rows = [*range(24, 32), *range(56, 64), *range(88, 96)]
    assert torch.equal(after.weight, before[:, rows])
    assert after.nf == 24


def test_tied_embeddings_stay_tied() -> None:
    model = testing.tiny_model("llama", "ForCausalLM", tie_word_embeddings=True)
    groups = resolve_groups(fastprune.architecture_for(model), model)
    pruned = fastprune.materialize(model, groups, Mask.first(groups, {g.name: 1 for g in groups}))
    assert pruned.lm_head.weight is pruned.model.embed_tokens.weight


def test_parts_that_do_not_add_up_are_refused() -> None:
    import dataclasses

    model = testing.tiny_model("gpt2", "ForCausalLM")
    architecture = fastprune.architecture_for(model)
    block = architecture.stacks[0].blocks[0]
    producer = dataclasses.replace(block.producers[0], parts=block.producers[0].parts[:2])
    stack = dataclasses.replace(architecture.stacks[0], blocks=(dataclasses.replace(block, producers=(producer,)),))
    with pytest.raises(fastprune.errors.ModelError, match=r"96 rows in 'transformer.h.0.attn.c_attn'"):
        resolve_groups(dataclasses.replace(architecture, stacks=(stack,)), model)


def test_text_is_cut_into_blocks(tmp_path, tiny_tokenizer) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\n\nthe dog ran home\n")
    model = testing.tiny_model("llama", "ForCausalLM", vocab_size=len(tiny_tokenizer))
    task = fastprune.task_for(model.config, type(model))
    batches = fastprune.make_batches(text, task, tiny_tokenizer, samples=None, max_length=4)
    assert sorted(len(sample["labels"]) for sample in batches.samples) == [2, 4, 4]
    assert batches.batches[-1]["input_ids"][-1].tolist() == batches.samples[-1]["labels"]
    assert fastprune.make_batches(text, task, tiny_tokenizer, samples=2, max_length=4).n_samples == 2
    found = fastprune.evaluate(model, batches)["perplexity"]
    total, tokens = 0.0, 0
    for sample in batches.samples:
        ids = torch.tensor([sample["labels"]])
        with torch.no_grad():
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert found == pytest.approx(torch.tensor(total / tokens).exp().item(), rel=1e-4)
