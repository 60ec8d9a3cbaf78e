"""Query heads evenly within KV groups: units that come round with every key and value."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.measuring.inspection import inspect
from fastprune.registry import loading
from fastprune.units import Groups, Mask, resolve_groups

QUERY_HEADS = loading.installed().architecture["llama-query-heads"]
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"head_dim": 8}) for name in loading.installed().architecture["llama"].model_types),
    ("llama", {"hidden_size": 48, "num_attention_heads": 12, "num_key_value_heads": 3}),
    ("llama", {"num_attention_heads": 4, "num_key_value_heads": 1}),
]
IDS = [f"{name}-{len(config)}" for name, config in FAMILIES]


def shared_model() -> tuple[Any, Groups]:
    """8 heads of 4 features on 2 keys and values: 4 units."""
    model = testing.tiny_model("llama", "ForCausalLM", num_attention_heads=8)
    return model, resolve_groups(QUERY_HEADS, model)


@pytest.mark.parametrize(("model_type", "config"), FAMILIES, ids=IDS)
def test_causal_lm(model_type: str, config: dict[str, Any]) -> None:
    testing.check_architecture(QUERY_HEADS, testing.tiny_model(model_type, "ForCausalLM", **config))


def test_one_query_head_of_every_group_goes() -> None:
    model, groups = shared_model()
    group = groups["layers.0.attention"]
    assert (group.units, group.width, group.columns.sections[0].repeats) == (4, 8, 2)
    mask = Mask({**Mask.full(groups).values, group.name: torch.tensor([True, False, True, True])})
    before, after = (m.model.layers[0].self_attn for m in (model, fastprune.materialize(model, groups, mask)))
    kept = [*range(4), *range(8, 20), *range(24, 32)]  # heads 1 and 5 are gone
    assert torch.equal(after.q_proj.weight, before.q_proj.weight[kept])
    assert torch.equal(after.o_proj.weight, before.o_proj.weight[:, kept])
    assert torch.equal(after.k_proj.weight, before.k_proj.weight)
    assert after.num_key_value_groups == 3


def test_the_consumer_is_shown_in_the_order_of_the_units() -> None:
    model, groups = shared_model()
    consumer = fastprune.units.consumer_of(model, groups["layers.0.attention"])
    weight = model.model.layers[0].self_attn.o_proj.weight
    assert torch.equal(consumer.weight[:, 8:16], torch.cat([weight[:, 4:8], weight[:, 20:24]], 1))  # unit 1


@pytest.mark.parametrize("tuner", ["mask", "weights"])
@pytest.mark.parametrize("scorer", ["fisher", "magnitude", "obs", "activation"])
def test_pruning_repairs(scorer: str, tuner: str) -> None:
    model, groups = shared_model()
    batches = testing.tiny_batches(model, samples=64)
    results = {
        name: fastprune.prune(
            model,
            batches,
            budget=0.7,
            scorer=scorer,
            searcher="uniform",
            rearranger="none",
            tuner=name,
            architecture="llama-query-heads",
        )
        for name in ("none", tuner)
    }
    errors = {
        name: testing.comparing.hidden_error(model, result.model, groups, batches) for name, result in results.items()
    }
    assert errors[tuner] < errors["none"]
    assert results[tuner].mask["layers.0.attention"].numel() == 4


def test_costs_are_what_torch_counts_down_to_the_last_head() -> None:
    model, groups = shared_model()
    mask = Mask.first(groups, {group.name: 1 for group in groups})
    pruned = fastprune.materialize(model, groups, mask)
    workload = fastprune.data.Workload(example={"input_ids": torch.arange(1, 12)[None]}, seq_len=11)
    for name in ("macs", "params"):
        cost = fastprune.strategy("cost", name)
        table = cost.measure(model, groups, workload)
        assert table.of(mask.counts()) == cost.measure(pruned, resolve_groups(QUERY_HEADS, pruned), workload).total


def test_a_name_that_no_family_has_is_told() -> None:
    model, _ = shared_model()
    with pytest.raises(fastprune.errors.UnknownNameError, match="did you mean 'llama-query-heads'"):
        fastprune.prune(model, testing.tiny_batches(model), budget=0.7, architecture="llama-queries-heads")


def test_a_pruned_model_is_taken_as_what_it_was_pruned_as(tmp_path: Path) -> None:
    """In memory, saved, and saved again by transformers alone: whatever is done with it knows its units."""
    model = testing.tiny_model("llama", "ForCausalLM", num_attention_heads=8)
    batches = testing.tiny_batches(model)
    fast: dict[str, Any] = {
        "cost": "params",
        "scorer": "magnitude",
        "tuner": "none",
        "rearranger": "none",
        "bench": False,
    }
    result = fastprune.prune(model, batches, budget=0.8, architecture="llama-query-heads", **fast)
    result.save(tmp_path / "small")
    fastprune.load(tmp_path / "small").save_pretrained(tmp_path / "trained")
    dense = {group.name: group.units for group in resolve_groups(QUERY_HEADS, model)}
    kept = result.mask.counts()
    assert kept != dense
    for each in (result.model, *(fastprune.load(tmp_path / name) for name in ("small", "trained"))):
        assert fastprune.architecture_for(each) == QUERY_HEADS
        again = fastprune.prune(each, batches, budget=0.9, **fast)
        assert {group.name: group.units for group in again.groups} == kept
    opened = fastprune.open_pretrained(tmp_path / "small", device="cpu")
    rows = inspect(opened, seq_len=8)["groups"]
    assert {row["name"]: (row["units"], row["kept"]) for row in rows} == {n: (dense[n], kept[n]) for n in dense}
    latency: dict[str, Any] = {"seq_len": 8, "batch_size": 1, "rounds": 1, "cache": False}
    table = fastprune.measure(opened, **latency)
    assert {name: curve.units for curve in table.curves for name in curve.groups} == kept
    whole = fastprune.measure(dataclasses.replace(opened, model=model), **latency)
    assert sum(len(curve.groups) for curve in whole.curves) == len(dense)  # as llama's own: by KV group
    compared = fastprune.bench(result.model, result.model, batch_size=1, seq_len=8, rounds=1, table=table)
    assert compared.predicted["pruned"] == pytest.approx(table.total)
    assert all(verdict.passed for verdict in fastprune.check_model(tmp_path / "small")[:3])
