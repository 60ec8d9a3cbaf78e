"""Speed of generation: prefill and decoding of a dense and a pruned model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.errors import ModelError, OptionError
from fastprune.measuring.generation import Generation, generates, time_generation


def models(model_type: str = "llama"):
    dense = testing.tiny_model(model_type, "ForCausalLM")
    data = testing.tiny_batches(dense)
    pruned = fastprune.prune(dense, data, budget=0.6, cost="params", scorer="magnitude", tuner="none", bench=False)
    return {"dense": dense, "pruned": pruned.model}


@pytest.mark.parametrize(
    ("model_type", "head", "can"),
    [
        ("llama", "ForCausalLM", True),
        ("gpt2", "ForCausalLM", True),
        ("llama", "Model", False),
        ("llama", "ForSequenceClassification", False),
        ("bert", "ForMaskedLM", False),
        ("t5", "ForConditionalGeneration", False),
        ("vit", "ForImageClassification", False),
    ],
)
def test_decoders_with_a_head_generate(model_type: str, head: str, can: bool) -> None:
    assert generates(testing.tiny_model(model_type, head)) is can


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral"])
def test_exactly_the_new_tokens_are_generated(model_type: str) -> None:
    both = models(model_type)
    for model in both.values():  # a model that would stop at once
        model.generation_config.eos_token_id = list(range(1, model.config.vocab_size))
    calls = []
    for name, model in both.items():
        before = model.generate

        def counted(*args, name=name, before=before, **kwargs):
            found = before(*args, **kwargs)
            calls.append((name, found.shape[1]))
            return found

        model.generate = counted
    timed = time_generation(both, {"input_ids": torch.ones(2, 5, dtype=torch.long)}, new_tokens=3, rounds=1)
    assert set(calls) == {(name, 5 + count) for name in both for count in (1, 4)}
    assert all(len(times) == 1 and times[0] > 0 for times in (*timed.prefill.values(), *timed.decode.values()))


def test_figures_of_known_times() -> None:
    timed = Generation(
        batch_size=2,
        prompt=100,
        new_tokens=8,
        prefill={"dense": [50.0], "pruned": [25.0]},
        decode={"dense": [8.0], "pruned": [5.0]},
    )
    figures = timed.summary()
    assert (figures["prefill_speedup"], figures["decode_speedup"]) == (2.0, 1.6)
    assert figures["dense"]["prefill_tokens_per_second"] == pytest.approx(4000)
    assert figures["pruned"]["tokens_per_second"] == pytest.approx(400)


def test_bench_times_generation_where_it_can(tmp_path: Path, run) -> None:
    both = models()
    both["dense"].save_pretrained(tmp_path / "dense")
    shape = ("--batch-size", 2, "--seq-len", 6, "--rounds", 1)
    result = run("bench", tmp_path / "dense", tmp_path / "dense", *shape, "--new-tokens", 4, "--json")
    found = json.loads(result.stdout)["generation"]
    assert (found["batch_size"], found["prompt_tokens"], found["new_tokens"]) == (2, 6, 4)
    shown = run(
        "bench", tmp_path / "dense", tmp_path / "dense", "--seq-len", 6, "--rounds", 1, "--new-tokens", 4
    ).stderr
    assert "Generation, 1 x 6 tokens, then 4 new ones each" in shown
    with pytest.raises(ModelError, match="The model takes at most"):
        fastprune.bench(both["dense"], both["pruned"], seq_len=8, new_tokens=10_000)
    with pytest.raises(OptionError, match="new_tokens"):
        fastprune.bench(both["dense"], both["pruned"], new_tokens=0)
    encoder = testing.tiny_model("bert", "Model")
    with pytest.raises(ModelError, match="generates no texts"):
        fastprune.bench(encoder, encoder, new_tokens=4)
    assert fastprune.bench(encoder, encoder, batch_size=1, rounds=1).generation is None
