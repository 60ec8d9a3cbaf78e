"""ONNX graphs of decoders with a KV cache, in onnxruntime and onnxruntime-genai."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.errors import ModelError
from fastprune.exporting.decoder_graph import LayerCache, layer_caches
from fastprune.exporting.export import export
from fastprune.exporting.opening import format_of
from fastprune.models.pretrained import Pretrained
from fastprune.testing.problems import some_mask
from fastprune.testing.tiny import tiny_bpe_tokenizer
from fastprune.units import resolve_groups

pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs the extra onnx")


def opened(model: Any) -> Pretrained:
    task = fastprune.task_for(model.config, type(model))
    return Pretrained(model=model, tokenizer=tiny_bpe_tokenizer(model), task=task, source="")


def pruned(model: Any) -> Any:
    """Half of the units, and no attention in the second layer."""
    groups = resolve_groups(fastprune.architecture_for(model), model)
    empty = [group.name for group in groups if group.kind == "attention"][1]
    return fastprune.materialize(model, groups, some_mask(groups, empty=empty)).eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A pruned decoder of three layers, the second without attention, written for onnxruntime-genai."""
    model = testing.tiny_model("llama", "ForCausalLM", num_hidden_layers=3, num_key_value_heads=4)
    small = pruned(model)
    small.config.eos_token_id = small.generation_config.eos_token_id = 63
    return small, export(opened(small), tmp_path_factory.mktemp("genai") / "out", format="genai").directory


def test_emptied_attention_has_no_cache(written: tuple[Any, Path]) -> None:
    assert layer_caches(written[0]) == [LayerCache(0, 2, 8), None, LayerCache(2, 2, 8)]


def test_token_by_token_as_without_cache(written: tuple[Any, Path]) -> None:
    import onnxruntime

    model, directory = written
    assert format_of(directory) == fastprune.strategy("format", "genai")
    session = onnxruntime.InferenceSession(directory / "onnx" / "model.onnx")
    past = {each.name: each.shape for each in session.get_inputs() if each.name.startswith("past")}
    assert list(past) == [f"past_key_values.{layer}.{part}" for layer in (0, 2) for part in ("key", "value")]
    assert past["past_key_values.0.key"] == ["batch", 2, "past_sequence", 8]
    ids = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).logits
    states = {name: np.zeros((2, heads, 0, width), np.float32) for name, (_, heads, _, width) in past.items()}
    for start, end in ((0, 4), (4, 5), (5, 7)):
        given = {
            "input_ids": ids[:, start:end].numpy(),
            "attention_mask": np.ones((2, end), np.int64),
            "position_ids": np.tile(np.arange(start, end), (2, 1)),
        }
        logits, *present = session.run(None, given | states)
        states = dict(zip(past, present, strict=True))
        torch.testing.assert_close(torch.from_numpy(logits), expected[:, start:end], atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime_genai") is None, reason="needs onnxruntime-genai")
def test_genai_writes_what_transformers_writes(written: tuple[Any, Path]) -> None:
    import onnxruntime_genai

    model, directory = written
    runtime = onnxruntime_genai.Model(str(directory))
    settings = onnxruntime_genai.GeneratorParams(runtime)
    settings.set_search_options(max_length=16, do_sample=False)
    generator = onnxruntime_genai.Generator(runtime, settings)
    prompt = [5, 17, 40, 11]
    generator.append_tokens(np.array([prompt], dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    with torch.inference_mode():
        expected = model.generate(torch.tensor([prompt]), max_length=16, do_sample=False)[0].tolist()
    found = [int(token) for token in generator.get_sequence(0)]
    assert found[: len(expected)] == expected


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "qwen3"])
def test_other_decoders(model_type: str, tmp_path: Path) -> None:
    """``export`` itself compares; by an empty cache, on right padding."""
    model = testing.tiny_model(model_type, "ForCausalLM")
    made = export(opened(model), tmp_path / "out")
    assert made.inputs == ("input_ids", "attention_mask")
    assert made.outputs == ("logits",)
    assert made.difference is not None
    assert made.difference < 1e-4


def test_only_decoders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="runs decoders with a KV cache; a BertForMaskedLM is none"):
        export(opened(testing.tiny_model("bert", "ForMaskedLM")), tmp_path / "out", format="genai")
