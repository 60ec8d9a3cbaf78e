"""The checks of pruned models in use: on encoders as decoders, and on faults that they must find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.modeling import EmptySublayer
from fastprune.models import checkpoint
from fastprune.testing import in_use
from fastprune.units import Architecture, Mask, resolve_groups

DECODERS = ["bert", "roberta", "electra", "rembert", "roformer", "megatron-bert", "roberta-prelayernorm"]


def run(model: Any, architecture: Architecture, kind: str) -> None:
    groups = resolve_groups(architecture, model)
    for check in in_use.checks_in_use("model", model, groups, testing.tiny_batches(model)):
        if check.name.startswith(kind):
            check.run()


@pytest.mark.parametrize("model_type", DECODERS)
def test_encoders_as_decoders_generate(model_type: str) -> None:
    model = testing.tiny_model(model_type, "ForCausalLM", is_decoder=True)
    run(model, fastprune.architecture_for(model), "generation")


def test_a_cache_that_an_empty_attention_does_not_fill_is_found() -> None:
    model = testing.tiny_model("bert", "ForCausalLM", is_decoder=True)
    bert = fastprune.architecture_for(model)
    stack = bert.stacks[0]
    forgotten = replace(bert, stacks=(replace(stack, blocks=(replace(stack.blocks[0], cache=""), stack.blocks[1])),))
    with pytest.raises(AssertionError, match="the pruned model (generates|fails)"):
        run(model, forgotten, "generation")


def test_attention_weights_that_are_not_returned_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = testing.tiny_model("llama", "ForCausalLM")
    forward = EmptySublayer.forward
    monkeypatch.setattr(EmptySublayer, "forward", lambda *each, **names: (forward(*each, **names)[0], None))
    with pytest.raises(AssertionError, match="'attentions': 1} instead of .*'attentions': 2}"):
        run(model, fastprune.architecture_for(model), "attention weights")


def test_a_gradient_that_does_not_arrive_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = testing.tiny_model("gpt2", "ForCausalLM")
    monkeypatch.setattr("fastprune.modeling._no_features", lambda hidden, _: hidden.new_empty(*hidden.shape[:-1], 0))
    with pytest.raises(AssertionError, match=r"no gradient for transformer\.h\.0\.ln_1\.bias"):
        run(model, fastprune.architecture_for(model), "training")


@pytest.mark.parametrize(
    ("model_type", "head"),
    [("bert", "ForSequenceClassification"), ("llama", "ForCausalLM"), ("gpt2", "ForCausalLM"), ("t5", "ForSeq2SeqLM")],
)
@pytest.mark.parametrize("kind", ["attention", "ffn"])
def test_a_dense_class_refuses_a_model_with_one_empty_sublayer(
    model_type: str, head: str, kind: str, tmp_path: Path
) -> None:
    model = testing.tiny_model(model_type, head)
    groups = resolve_groups(fastprune.architecture_for(model), model)
    gone = [group.name for group in groups if group.kind == kind][1]
    kept = Mask({g.name: torch.full((g.units,), g.name != gone) for g in groups})
    pruned = fastprune.materialize(model, groups, kept)
    path = checkpoint.save(pruned, tmp_path / "small", architecture=fastprune.architecture_for(model), details={})
    with pytest.raises(RuntimeError, match="mismatch"):
        type(model).from_pretrained(path)
