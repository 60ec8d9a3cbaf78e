"""Weights: what is opened is what the file holds, or an error names the keys."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertForPreTraining, BertModel

import fastprune
from fastprune import testing
from fastprune.errors import CheckpointError, ModelError
from fastprune.models.checkpoint import load
from fastprune.models.pretrained import open_pretrained
from fastprune.models.weights import stored_dtype, stored_tensors

FAMILIES = [
    ("bert", "ForSequenceClassification"),
    ("distilbert", "ForMaskedLM"),
    ("gpt2", "ForCausalLM"),
    ("llama", "ForSequenceClassification"),
    ("mixtral", "ForCausalLM"),
    ("t5", "ForConditionalGeneration"),
    ("vit", "ForImageClassification"),
    ("wav2vec2", "ForCTC"),
]


def saved(folder: Path, model_type: str = "bert", head: str = "ForSequenceClassification") -> Path:
    testing.tiny_model(model_type, head).save_pretrained(folder)
    return folder


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """The directory with other tensors in its file."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


def in_a_layer(tensors: dict[str, Tensor]) -> str:
    """Name of a matrix in the last layer."""
    return max(name for name, tensor in tensors.items() if ".1." in name and tensor.dim() == 2)


@pytest.mark.parametrize(("model_type", "head"), FAMILIES)
def test_whole_checkpoints_open(tmp_path: Path, model_type: str, head: str) -> None:
    """Tied weights are in the file once."""
    folder = saved(tmp_path, model_type, head)
    opened = open_pretrained(folder, device="cpu").model.state_dict()
    dense = testing.tiny_model(model_type, head).state_dict()
    assert all(torch.equal(value, opened[name]) for name, value in dense.items())


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "student."])
@pytest.mark.parametrize(("model_type", "head"), FAMILIES)
def test_a_wrapper_is_named(tmp_path: Path, prefix: str, model_type: str, head: str) -> None:
    folder = saved(tmp_path, model_type, head)
    rewritten(folder, lambda tensors: {f"{prefix}{name}": tensor for name, tensor in tensors.items()})
    with pytest.raises(ModelError, match=rf"missing in the file: .* tensors contain '{prefix}'.*\.save_pretrained"):
        open_pretrained(folder)


def test_a_wrapper_inside_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    rewritten(folder, lambda tensors: {name.replace("layer.", "layer._orig_mod."): t for name, t in tensors.items()})
    with pytest.raises(ModelError, match=r"tensors contain '_orig_mod\.'"):
        open_pretrained(folder)


@pytest.mark.parametrize(("model_type", "head"), FAMILIES)
def test_a_missing_weight_is_named(tmp_path: Path, model_type: str, head: str) -> None:
    folder, gone = saved(tmp_path, model_type, head), []

    def without(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        gone.append(in_a_layer(tensors))
        return {name: tensor for name, tensor in tensors.items() if name not in gone}

    rewritten(folder, without)
    with pytest.raises(ModelError, match="missing in the file: |cannot be loaded as Mixtral"):
        open_pretrained(folder)


@pytest.mark.parametrize(("model_type", "head"), FAMILIES)
def test_weights_that_a_layer_lacks_are_named(tmp_path: Path, model_type: str, head: str) -> None:
    folder, more = saved(tmp_path, model_type, head), []

    def deeper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = in_a_layer(tensors)
        before, _, after = name.rpartition(".1.")
        more.append(f"{before}.2.{after}")
        return tensors | {more[0]: tensors[name].clone()}

    rewritten(folder, deeper)
    with pytest.raises(ModelError, match="unknown to the model: ") as caught:
        open_pretrained(folder)
    assert ".2." in str(caught.value)


def test_a_lora_or_a_bias_that_the_model_lacks_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, "llama", "ForCausalLM")
    rewritten(folder, lambda tensors: tensors | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)})
    with pytest.raises(ModelError, match=r"unknown to the model: model\.layers\.0\.self_attn\.q_proj\.bias\. "):
        open_pretrained(folder)


def test_a_head_that_was_never_trained_is_named(tmp_path: Path) -> None:
    testing.tiny_model("bert", "Model").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(
        ModelError, match=r"missing in the file: classifier\.bias, classifier\.weight\. What is missing would"
    ):
        open_pretrained(tmp_path)


def test_another_shape_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    rewritten(folder, lambda tensors: tensors | {"classifier.bias": torch.zeros(5)})
    with pytest.raises(ModelError, match=r"of another shape: classifier\.bias \(5, not 2\)"):
        open_pretrained(folder)


def test_what_old_checkpoints_hold_besides_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved(tmp_path / "gpt2", "gpt2", "ForCausalLM")
    masks = {f"transformer.h.{at}.attn.masked_bias": torch.tensor(-1e4) for at in range(2)}
    masks |= {f"transformer.h.{at}.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8) for at in range(2)}
    open_pretrained(rewritten(folder, lambda tensors: tensors | masks))
    folder = saved(tmp_path / "bert")
    positions = {"bert.embeddings.position_ids": torch.arange(64)[None]}
    open_pretrained(rewritten(folder, lambda tensors: tensors | positions))
    with caplog.at_level(logging.WARNING, "fastprune"):
        BertForPreTraining(testing.tiny_model("bert").config).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
        open_pretrained(folder)
    assert "are left out: bert.pooler.dense.bias, bert.pooler.dense.weight, cls.seq_relationship.bias" in caplog.text


def test_a_pooler_that_the_task_does_not_use_may_be_missing(tmp_path: Path) -> None:
    dense = testing.tiny_model("bert", "Model")
    BertModel(dense.config, add_pooling_layer=False).save_pretrained(tmp_path)
    assert not open_pretrained(tmp_path).model.pooler.dense.weight.any()


def test_a_pooler_that_the_task_uses_may_not_be_missing(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    rewritten(folder, lambda tensors: {name: each for name, each in tensors.items() if "pooler" not in name})
    with pytest.raises(
        ModelError, match=r"missing in the file: bert\.pooler\.dense\.bias, bert\.pooler\.dense\.weight"
    ):
        open_pretrained(folder)


def test_pruned_directories_are_checked_alike(tmp_path: Path) -> None:
    model = testing.tiny_model()
    folder = fastprune.prune(model, testing.tiny_batches(model), budget=0.7, bench=False).save(tmp_path / "small")
    rewritten(folder, lambda tensors: {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()})
    for opening in (load, open_pretrained):
        with pytest.raises(CheckpointError, match=r"tensors contain '_orig_mod\.'"):
            opening(folder)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    folder = saved(tmp_path)
    rewritten(folder, lambda tensors: tensors | {"classifier.bias": torch.tensor([0.0, value])})
    with pytest.raises(ModelError, match=r"have NaN or infinite values, read as float32: classifier\.bias\. "):
        open_pretrained(folder)


def test_adapters_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds an adapter .*merge_and_unload"):
        open_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"holds an adapter .*merge_and_unload"):
        open_pretrained(folder)


def test_stored_dtype(tmp_path: Path) -> None:
    model = testing.tiny_model().half()
    model.classifier.float()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    for folder in (tmp_path / "one", tmp_path / "many", tmp_path):
        stored = stored_tensors(folder)
        assert stored.keys() == model.state_dict().keys()
        assert stored_dtype(stored) is torch.float16
    assert stored_tensors(tmp_path / "nothing") == {}
