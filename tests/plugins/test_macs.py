"""Counting costs: what the tables say of a pruned model is what torch counts when it runs."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import fastprune
from fastprune import strategy, testing
from fastprune.data import Workload
from fastprune.units import Groups, Mask, resolve_groups


def case(model_type: str, head: str = "ForSequenceClassification"):
    model = testing.tiny_model(model_type, head)
    groups = resolve_groups(fastprune.architecture_for(model), model)
    return model, groups, Workload.of(testing.tiny_batches(model))


def counted(model, length: int) -> float:
    """What torch counts for one sample of so many tokens, in multiply-accumulates."""
    counter = FlopCounterMode(display=False)
    ids = torch.full((1, length), 5)
    with fastprune.calibration.frozen(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return counter.get_total_flops() / 2


def masks(groups: Groups) -> dict[str, Mask]:
    names = [group.name for group in groups]
    return {
        "all": Mask.full(groups),
        "half": Mask.first(groups, {g.name: g.units // 2 for g in groups}),
        "one empty": Mask.first(groups, {g.name: 0 if g.name == names[0] else 3 for g in groups}),
        "both of a layer empty": Mask.first(groups, {g.name: 0 if g.name in names[2:] else 1 for g in groups}),
        "nothing": Mask.first(groups, dict.fromkeys(names, 0)),
    }


@pytest.mark.parametrize("length", [1, 8, 31])
@pytest.mark.parametrize(
    ("model_type", "head"),
    [
        ("bert", "ForSequenceClassification"),
        ("electra", "ForTokenClassification"),
        ("distilbert", "ForQuestionAnswering"),
        ("mpnet", "ForMaskedLM"),
        ("roberta", "Model"),
    ],
)
def test_macs_are_what_torch_counts(model_type: str, head: str, length: int) -> None:
    model, groups, workload = case(model_type, head)
    table = strategy("cost", "macs", seq_len=length).measure(model, groups, workload)
    assert table.total == counted(model, length)
    for mask in masks(groups).values():
        pruned = fastprune.materialize(model, groups, mask).eval()
        assert table.of(mask.counts()) == counted(pruned, length)


def test_length_is_that_of_the_calibration_set_unless_asked() -> None:
    model, groups, workload = case("bert")
    table = strategy("cost", "macs").measure(model, groups, workload)
    assert table.total == counted(model, workload.seq_len)
    assert table.total != strategy("cost", "macs", seq_len=31).measure(model, groups, workload).total


def test_attention_grows_with_the_square_of_the_length_and_ffn_does_not() -> None:
    model, groups, workload = case("bert")
    short, long = (strategy("cost", "macs", seq_len=n).measure(model, groups, workload).groups for n in (10, 20))
    head, filter_ = groups.items[0], groups.items[1]
    assert float(long[filter_.name][1]) == 2 * float(short[filter_.name][1])
    assert float(long[head.name][1]) == 2 * float(short[head.name][1]) + 2 * 2 * 10 * 10 * head.width
    assert float(short[filter_.name][1]) == 10 * 2 * 32


def test_layers_alone_have_no_floor() -> None:
    model, groups, workload = case("bert")
    for name in ("macs", "params"):
        table = strategy("cost", name, scope="layers").measure(model, groups, workload)
        whole = strategy("cost", name).measure(model, groups, workload)
        assert table.floor == 0
        assert whole.floor > 0
        assert table.total == whole.total - whole.fixed


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "mpnet"])
def test_parameters_are_those_of_the_pruned_model(model_type: str) -> None:
    model, groups, workload = case(model_type)
    table = strategy("cost", "params").measure(model, groups, workload)
    for mask in masks(groups).values():
        pruned = fastprune.materialize(model, groups, mask)
        assert table.of(mask.counts()) == sum(parameter.numel() for parameter in pruned.parameters())


@pytest.mark.parametrize("weights", ["auto", "float16", "int8", "int4"])
@pytest.mark.parametrize(
    ("model_type", "head"), [("bert", "ForMaskedLM"), ("gpt2", "ForCausalLM"), ("llama", "ForCausalLM")]
)
def test_bytes_are_those_of_the_pruned_model(model_type: str, head: str, weights: str) -> None:
    model, groups, workload = case(model_type, head)
    testing.check_cost_model(strategy("cost", "size", weights=weights), model=model)
    table = strategy("cost", "size", weights=weights).measure(model, groups, workload)
    parameters = strategy("cost", "params").measure(model, groups, workload).total
    rate = {"auto": 4, "float16": 2, "int8": 1, "int4": 0.5}[weights]
    tied = model.get_input_embeddings().weight.numel() if weights.startswith("int") else 0
    assert rate * parameters <= table.total <= rate * (parameters + tied) * (1 if rate > 1 else 3)


def test_the_bytes_of_weights_in_their_own_type_are_those_of_the_file(tmp_path) -> None:
    model, groups, workload = case("bert")
    table = strategy("cost", "size").stored_as(torch.float16).measure(model, groups, workload)
    model.half().save_pretrained(tmp_path)
    file = (tmp_path / "model.safetensors").read_bytes()
    assert table.total == len(file) - 8 - int.from_bytes(file[:8], "little")
