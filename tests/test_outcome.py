"""The outcome: the dtype of the file is kept, and sizes are those of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fastprune
from fastprune import testing
from fastprune.errors import ModelError
from fastprune.models.pretrained import Pretrained, open_pretrained
from fastprune.pipeline import outcome

FAMILIES = [
    ("bert", "ForSequenceClassification"),
    ("gpt2", "ForCausalLM"),
    ("t5", "ForConditionalGeneration"),
    ("mixtral", "ForCausalLM"),
]


def opened_in(folder: Path, stored: torch.dtype, computed: str, model_type: str, head: str) -> Pretrained:
    testing.tiny_model(model_type, head).to(stored).save_pretrained(folder / "dense")
    return open_pretrained(folder / "dense", dtype=computed, device="cpu")


@pytest.mark.parametrize(
    ("stored", "computed", "model_type", "head"),
    [
        *((torch.bfloat16, "auto", *family) for family in FAMILIES),
        *((torch.float16, computed, *FAMILIES[0]) for computed in ("auto", "float16", "bfloat16")),
        (torch.float32, "bfloat16", *FAMILIES[0]),
    ],
)
def test_the_dtype_of_the_file_is_kept(
    tmp_path: Path, stored: torch.dtype, computed: str, model_type: str, head: str
) -> None:
    opened = opened_in(tmp_path, stored, computed, model_type, head)
    result = fastprune.prune(opened, testing.tiny_batches(opened.model), budget=0.7, bench=False, recipe="paper")
    folder = result.save(tmp_path / "small")
    tensors = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {stored}
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(stored).removeprefix("torch.")
    assert result.size_after == pytest.approx((folder / "model.safetensors").stat().st_size, rel=0.1)
    assert result.size_before == pytest.approx((tmp_path / "dense" / "model.safetensors").stat().st_size, rel=0.1)
    again = open_pretrained(folder, dtype=computed, device="cpu").model
    state = result.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


def test_another_dtype_is_saved_where_asked(tmp_path: Path) -> None:
    opened = opened_in(tmp_path, torch.float16, "auto", *FAMILIES[0])
    result = fastprune.prune(opened, testing.tiny_batches(opened.model), budget=0.7, bench=False, recipe="paper")
    assert fastprune.load(result.save(tmp_path / "wide", dtype="float32")).dtype is torch.float32
    assert result.stored_as("float32").size_after == pytest.approx(2 * result.size_after, rel=0.05)
    with pytest.raises(ModelError, match="no dtype 'int3'"):
        result.save(tmp_path / "odd", dtype="int3")
    assert not (tmp_path / "odd").exists()


def test_a_model_in_memory_is_saved_as_it_is(tmp_path: Path) -> None:
    model = testing.tiny_model().bfloat16()
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.7, bench=False, recipe="paper")
    assert fastprune.load(result.save(tmp_path / "small")).dtype is torch.bfloat16


def test_weights_out_of_the_range_of_the_file_are_saved_in_their_own(tmp_path: Path) -> None:
    opened = opened_in(tmp_path, torch.float16, "float32", *FAMILIES[0])
    opened.model.classifier.bias.data += 1e6
    result = fastprune.prune(opened, testing.tiny_batches(opened.model), budget=0.7, bench=False, recipe="paper")
    assert result.dtype is None
    assert fastprune.load(result.save(tmp_path / "small")).classifier.bias.isfinite().all()


def test_the_given_model_is_not_rounded(tmp_path: Path) -> None:
    opened = opened_in(tmp_path, torch.bfloat16, "float32", *FAMILIES[0])
    opened.model.classifier.bias.data += 1 / 3
    before = {name: value.clone() for name, value in opened.model.state_dict().items()}
    fastprune.prune(opened, testing.tiny_batches(opened.model), budget=0.7, bench=False, recipe="paper")
    assert all(torch.equal(value, before[name]) for name, value in opened.model.state_dict().items())


def test_times_of_a_restless_machine_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = {"dense": [1.0, 1.0, 9.0, 9.0, 9.0], "pruned": [1.0] * 5}
    monkeypatch.setattr(outcome, "interleaved", lambda *_, **__: times)
    model = testing.tiny_model("bert", "ForSequenceClassification")
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.5, tuner="none", bench=True)
    assert result.latency["dense"] == 9.0
    assert "Repeated measurements of the time of a forward pass differ by 89 %" in caplog.text
