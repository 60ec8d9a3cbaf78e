"""Whole experts out of mixtures: stock models, exact cuts, groups, criteria, calibrated routers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import fastprune
from fastprune import testing
from fastprune.errors import ModelError, OptionError, UnreachableError
from fastprune.experts import criteria
from fastprune.experts.rebuilding import with_experts
from fastprune.experts.sparse import Sparse, inputs_of
from fastprune.registry.serving import mixture_for
from fastprune.units.mixtures import Sizes

ALIASES = ("num_experts", "num_local_experts", "n_routed_experts")
DEEPSEEK: dict[str, Any] = {
    "num_key_value_heads": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 4,
    "q_lora_rank": 4,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 2,
    "topk_group": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {},
    "qwen2_moe": {"norm_topk_prob": False},
    "qwen3_moe": {"head_dim": 8},
    "olmoe": {},
    "granitemoe": {},
    "gpt_oss": {"head_dim": 8, "sliding_window": 8, "layer_types": ["full_attention"] * 2},
    "deepseek_v3": DEEPSEEK,
    "phimoe": {},
    "llama4_text": {"head_dim": 8, "interleave_moe_layer_step": 1, "num_experts_per_tok": 1},
}


def opened(model_type: str, **config: Any) -> Any:
    usual = transformers.CONFIG_MAPPING[model_type]()
    counts = {name: 8 for name in ALIASES if hasattr(usual, name)}  # some families have two names for it
    settings = {"num_experts_per_tok": 2, **counts, **FAMILIES[model_type], **config}
    return testing.tiny_model(model_type, "ForCausalLM", **settings)


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("by", ["damage", "reap"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_stock_classes_open_the_result(model_type: str, by: str, tmp_path: Path) -> None:
    model = opened(model_type)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = testing.tiny_batches(model)
    result = fastprune.drop_experts(model, data, keep=0.5, by=by)
    assert testing.comparing.same_tensors(model.state_dict(), before)
    assert type(result.model) is type(model)
    assert (result.experts, result.left) == (8, 4)
    result.save(tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert not {"auto_map", "fastprune"} & set(config)
    ids = data.batches[-1]["input_ids"]
    for opening in (AutoModelForCausalLM, type(model)):
        again = opening.from_pretrained(tmp_path / "small")
        assert torch.equal(logits(again, ids), logits(result.model, ids))
    assert not torch.equal(logits(result.model, ids), logits(model, ids))
    record = json.loads((tmp_path / "small" / "experts.json").read_text())
    assert record["kept_experts"] == {path: list(kept) for path, kept in result.kept.items()}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_rest_computes_as_before(model_type: str) -> None:
    """Outputs of the cut sublayer are those of the dense one, where all experts that a token takes are kept."""
    model = opened(model_type)
    mixture = mixture_for(model)
    path = mixture.paths(model)[-1]
    keeps = [0, 1, 2, 4, 5, 6] if model_type == "deepseek_v3" else [0, 2, 3, 5, 6, 7]
    kept = {each: torch.tensor(keeps) for each in mixture.paths(model)}
    small = with_experts(model, mixture, kept)
    hidden = torch.randn(300, 32, generator=torch.Generator().manual_seed(0))
    dense, cut = Sparse(model.get_submodule(path), mixture, 8), Sparse(small.get_submodule(path), mixture, 6)
    with torch.no_grad():
        weights, theirs = dense.weights(hidden), cut.weights(hidden)
        stay = ((weights != 0)[:, keeps] == (theirs != 0)).all(1) & ((weights != 0).sum(1) == (theirs != 0).sum(1))
        assert stay.sum() > 20
        torch.testing.assert_close(dense.weights(hidden, torch.tensor(keeps)), theirs)
        for place, expert in enumerate(keeps):
            given = dense.of_one(hidden, theirs[:, place] + 0.1, expert)
            torch.testing.assert_close(cut.of_one(hidden, theirs[:, place] + 0.1, place), given, atol=1e-5, rtol=1e-4)
        if (weights[:, keeps] - theirs)[stay].abs().max() < 1e-6:  # weights that do not depend on the other experts
            torch.testing.assert_close(cut.output(hidden)[stay], dense.output(hidden)[stay], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_the_experts_add_is_the_output(model_type: str) -> None:
    model = opened(model_type)
    mixture = mixture_for(model)
    sparse = Sparse(model.get_submodule(mixture.paths(model)[-1]), mixture, 8)
    hidden = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weights = sparse.weights(hidden)
        total = torch.zeros_like(hidden)
        for expert in range(8):
            rows = (weights[:, expert] != 0).nonzero()[:, 0]
            total[rows] += sparse.of_one(hidden[rows], weights[rows, expert], expert)
        for tensor in sparse.bank.parameters():
            tensor.zero_()
        rest = sparse.output(hidden * 1)  # shared experts
    other = copy.deepcopy(opened(model_type))
    whole = Sparse(other.get_submodule(mixture.paths(other)[-1]), mixture, 8)
    with torch.no_grad():
        torch.testing.assert_close(whole.output(hidden * 1) - rest, total, atol=1e-5, rtol=1e-3)


def test_the_number_of_experts_is_one_that_the_router_can_use() -> None:
    plain, grouped = Sizes(experts=8, chosen=2), Sizes(experts=32, chosen=8, groups=4, chosen_groups=2)
    assert plain.possible == [2, 3, 4, 5, 6, 7, 8]
    assert grouped.possible == [16, 20, 24, 28, 32], "two groups of a token have its eight experts"
    assert (plain.kept(0.75), plain.kept(0.3), plain.kept(5), grouped.kept(0.6), grouped.kept(24)) == (6, 2, 5, 20, 24)
    for sizes, keep, says in (
        (plain, 0.1, "0.8 experts cannot be kept"),
        (plain, 9, "Possible numbers: 2, 3, 4"),
        (grouped, 22, "in 4 groups of the same size, and a token takes 8 of them; 22 experts cannot be kept"),
        (grouped, 0.25, "8 experts cannot be kept"),
    ):
        with pytest.raises(UnreachableError, match=says):
            sizes.kept(keep)
    assert criteria.by_scores(torch.arange(8.0), Sizes(experts=8, chosen=1, groups=2), 4).tolist() == [2, 3, 6, 7]


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "gpt_oss", "granitemoe", "llama4_text"])
def test_damage_is_the_smallest_change_of_the_output(model_type: str) -> None:
    """The first expert to leave is the one whose removal, tried by building each smaller model, changes the output least."""
    model = opened(model_type)
    mixture, data = mixture_for(model), testing.tiny_batches(model)
    path = mixture.paths(model)[0]
    entering = inputs_of(model, [path], data, 10**6, description="")[path]
    errors = []
    for gone in range(8):
        kept = torch.tensor([expert for expert in range(8) if expert != gone])
        small = with_experts(model, mixture, dict.fromkeys(mixture.paths(model), kept))
        with torch.no_grad():
            dense = Sparse(model.get_submodule(path), mixture, 8).output(entering)
            errors.append(
                float((Sparse(small.get_submodule(path), mixture, 7).output(entering) - dense).square().sum())
            )
    result = fastprune.drop_experts(model, data, keep=7, calibrate_routers=False)
    assert set(range(8)) - set(result.kept[path]) == {min(range(8), key=errors.__getitem__)}


def test_reap_keeps_experts_with_large_outputs_and_magnitude_those_with_large_weights() -> None:
    model = opened("mixtral")
    mixture = mixture_for(model)
    for path in mixture.paths(model):
        with torch.no_grad():
            bank = model.get_submodule(path).experts
            bank.down_proj[[3, 5]] *= 1e-6
            bank.gate_up_proj[[3, 5]] *= 1e2
    for by, gone in (("reap", True), ("magnitude", False)):
        result = fastprune.drop_experts(model, testing.tiny_batches(model), keep=6, by=by, calibrate_routers=False)
        assert all((not {3, 5} & set(kept)) is gone for kept in result.kept.values()), by


@pytest.mark.parametrize("by", criteria.CRITERIA)
def test_groups_keep_the_same_number(by: str) -> None:
    model = opened("deepseek_v3")
    result = fastprune.drop_experts(model, testing.tiny_batches(model), keep=0.5, by=by)
    assert all(sum(expert < 4 for expert in kept) == 2 == len(kept) // 2 for kept in result.kept.values())


def test_later_tokens_do_not_change_earlier_ones() -> None:
    """Groups that do not divide the experts mix tokens without a word; for several lengths, because some lengths hide it."""
    model = opened("deepseek_v3")
    small = fastprune.drop_experts(model, testing.tiny_batches(model), keep=6).model
    for length in (5, 8, 13, 14):
        ids = torch.arange(1, length + 1)[None]
        other = ids.clone()
        other[0, -1] = 40
        torch.testing.assert_close(logits(small, ids)[0, :-1], logits(small, other)[0, :-1])


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3", "llama4_text"])
def test_calibration_brings_the_output_nearer(model_type: str) -> None:
    model = opened(model_type)
    data, errors = testing.tiny_batches(model, samples=32), {}
    for calibrated in (False, True):
        small = fastprune.drop_experts(model, data, keep=0.5, by="random", calibrate_routers=calibrated).model
        path = mixture_for(model).paths(model)[0]
        entering = inputs_of(model, [path], data, 10**6, description="")[path]
        with torch.no_grad():
            dense = Sparse(model.get_submodule(path), mixture_for(model), 8).output(entering)
            cut = Sparse(small.get_submodule(path), mixture_for(model), 4).output(entering)
        errors[calibrated] = float((dense - cut).square().sum())
    assert errors[True] < 0.99 * errors[False]


def test_what_cannot_lose_experts() -> None:
    model = opened("mixtral")
    data = testing.tiny_batches(model)
    with pytest.raises(ModelError, match="No mixture of experts is known for the model type 'llama'"):
        fastprune.drop_experts(testing.tiny_model("llama", "ForCausalLM"), data, keep=0.5)
    with pytest.raises(OptionError, match="There is no criterion 'best'"):
        fastprune.drop_experts(model, data, keep=0.5, by="best")
    for keep in (0, 2.5, -1, "half"):
        with pytest.raises(OptionError, match="keep takes a share"):
            fastprune.drop_experts(model, data, keep=keep)
    pruned = fastprune.prune(model, data, budget=0.6, cost="params", scorer="magnitude", tuner="none", bench=False)
    with pytest.raises(ModelError, match="remove whole experts first"):
        fastprune.drop_experts(pruned, data, keep=0.5)


def test_the_command(tmp_path: Path, run, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    opened("qwen2_moe").save_pretrained(tmp_path / "moe")
    tiny_tokenizer.save_pretrained(tmp_path / "moe")
    (tmp_path / "text.txt").write_text("the cat sat on the mat in paris the dog ran home fast\n" * 40)
    words = ("experts", tmp_path / "moe", "--data", tmp_path / "text.txt", "--max-length", 16)
    done = run(*words, "--keep", 0.5, "--output", tmp_path / "small", "--eval-data", tmp_path / "text.txt")
    assert done.exit_code == 0, done.output
    assert "4 of 8 experts in each of 2 layers" in done.stderr
    assert "perplexity (context 16, stride 16)" in done.stderr
    pruned = run(
        "prune", tmp_path / "small", *words[2:], "--budget", 0.8, "--cost", "params", "--output", tmp_path / "next"
    )
    assert pruned.exit_code == 0, pruned.output
    assert fastprune.load(tmp_path / "next").config.num_experts == 4
    for keep, code, says in (
        ("half", 2, "--keep takes a share"),
        ("1.5", 2, "got '1.5'"),
        ("9", 3, "Possible numbers"),
    ):
        refused = run(*words, "--keep", keep, "--output", tmp_path / "other")
        assert (refused.exit_code, says in refused.stderr) == (code, True), refused.output
        assert not (tmp_path / "other").exists()


def test_half_precision_is_kept(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    opened("mixtral").to(torch.bfloat16).save_pretrained(tmp_path / "moe")
    tiny_tokenizer.save_pretrained(tmp_path / "moe")
    source = fastprune.open_pretrained(tmp_path / "moe", device="cpu")
    assert source.model.dtype == torch.float32
    fastprune.drop_experts(source, ["the cat sat on the mat"] * 20, keep=4).save(tmp_path / "small")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert again.dtype == torch.bfloat16
    assert json.loads((tmp_path / "small" / "config.json").read_text())["dtype"] == "bfloat16"
    assert (tmp_path / "small" / "tokenizer.json").exists()
