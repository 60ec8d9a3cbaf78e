"""Opening models: every layout, dtypes and devices, and what is said about a bad one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from fastprune import testing
from fastprune.data.tasks import Task
from fastprune.errors import ModelError
from fastprune.models import pretrained
from fastprune.models.pretrained import Pretrained, open_pretrained
from fastprune_tasks.classification import SequenceClassification
from fastprune_tasks.embedding import Embedding


def _task_for(config: PretrainedConfig, model_class: type[nn.Module]) -> Task:
    task: type[Task] = Embedding if model_class is BertModel else SequenceClassification
    return task.for_config(config)


def _open(source: str | Path, **options: Any) -> Pretrained:
    return open_pretrained(source, **options)


@pytest.fixture
def classifier(tiny_config: BertConfig, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """A classifier in half precision, with its tokenizer."""
    folder = tmp_path / "classifier"
    BertForSequenceClassification(tiny_config).half().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def _sentence_transformer(config: BertConfig, folder: Path, inner: str, pooling: dict[str, Any], *more: str) -> Path:
    """The files of a SentenceTransformer whose encoder lies in ``inner``."""
    BertModel(config).save_pretrained(folder / inner)
    (folder / inner / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    kinds = ["Transformer", "Pooling", *more]
    paths = [inner, "1_Pooling", *(f"{at}_{kind}" for at, kind in enumerate(more, 2))]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_the_class_is_the_one_that_was_saved(classifier: Path) -> None:
    opened = _open(classifier)
    assert type(opened.model) is BertForSequenceClassification
    assert not opened.model.training
    assert opened.task == SequenceClassification(classes=("LABEL_0", "LABEL_1"))
    assert opened.tokenizer is not None
    assert opened.tokenizer("the cat")["input_ids"][1:-1] == [5, 6]
    assert (opened.source, opened.companions) == (str(classifier), {})


@pytest.mark.parametrize(
    ("given", "expected"),
    [("auto", torch.float32), ("float16", torch.float16), (torch.bfloat16, torch.bfloat16), ("float64", torch.float64)],
)
def test_dtypes(classifier: Path, given: Any, expected: torch.dtype) -> None:
    model = _open(classifier, dtype=given, device="cpu").model
    assert {parameter.dtype for parameter in model.parameters()} == {expected}


def test_weights_are_the_saved_ones(classifier: Path) -> None:
    exact = BertForSequenceClassification.from_pretrained(classifier, dtype=torch.float32).state_dict()
    opened = _open(classifier, device="cpu").model.state_dict()
    assert exact.keys() == opened.keys()
    assert all(torch.equal(exact[name], opened[name]) for name in exact)


def test_without_architectures_it_is_the_plain_encoder(classifier: Path) -> None:
    path = classifier / "config.json"
    config = json.loads(path.read_text())
    del config["architectures"]
    path.write_text(json.dumps(config))
    assert type(_open(classifier).model) is BertModel


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
@pytest.mark.parametrize(
    "pooling", [{"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, {"pooling_mode": "cls"}]
)
@pytest.mark.parametrize("more", [(), ("Normalize",)])
def test_sentence_transformers(
    tiny_config: BertConfig,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    inner: str,
    pooling: dict[str, Any],
    more: tuple[str, ...],
) -> None:
    folder = _sentence_transformer(tiny_config, tmp_path / "st", inner, pooling, *more)
    tiny_tokenizer.save_pretrained(folder / inner)
    opened = _open(folder)
    assert type(opened.model) is BertModel
    assert opened.task == Embedding(pooling="cls", normalize=bool(more), usual_length=20)
    assert opened.tokenizer is not None
    assert opened.tokenizer.model_max_length == 20
    assert set(opened.companions) == {"modules.json", "sentence_bert_config.json", "1_Pooling/config.json"}
    modules = json.loads(opened.companions["modules.json"])
    assert [module["path"] for module in modules][:2] == ["", "1_Pooling"]


@pytest.mark.parametrize("saved_as", [BertForMaskedLM, BertForPreTraining])
def test_sentence_transformers_come_without_their_head(
    tiny_config: BertConfig, tmp_path: Path, saved_as: type[BertForMaskedLM]
) -> None:
    """Many were saved by the model that they were pre-trained as."""
    folder = _sentence_transformer(tiny_config, tmp_path / "st", "", {"pooling_mode_lasttoken": True})
    whole = saved_as(tiny_config)
    whole.save_pretrained(folder)
    opened = _open(folder, device="cpu")
    assert type(opened.model) is BertModel
    assert opened.task == Embedding(pooling="lasttoken", normalize=False, usual_length=20)
    assert torch.equal(
        opened.model.encoder.layer[0].output.dense.weight, whole.bert.encoder.layer[0].output.dense.weight
    )


def test_companions_make_the_same_model_again(tiny_config: BertConfig, tmp_path: Path) -> None:
    first = _open(_sentence_transformer(tiny_config, tmp_path / "a", "0_Transformer", {"pooling_mode": "max"}))
    first.model.save_pretrained(tmp_path / "b")  # type: ignore[operator]
    for name, content in first.companions.items():
        (tmp_path / "b" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "b" / name).write_bytes(content)
    second = _open(tmp_path / "b")
    assert (second.task, second.companions) == (first.task, first.companions)


def test_a_module_that_cannot_be_read_is_named(tiny_config: BertConfig, tmp_path: Path) -> None:
    dense = _sentence_transformer(tiny_config, tmp_path / "dense", "", {"pooling_mode": "mean"}, "Dense")
    with pytest.raises(ModelError, match="The dense layer in .* cannot be read"):
        _open(dense)


def test_missing_parts_are_named(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no model directory \./nothing"):
        _open("./nothing")
    with pytest.raises(ModelError, match="is a file, not a model directory"):
        _open(classifier / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        _open(tmp_path / "empty")
    weights = classifier / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be loaded as BertForSequenceClassification"):
        _open(classifier)
    weights.unlink()
    with pytest.raises(ModelError, match="no weights"):
        _open(classifier)


def test_unknown_classes_dtypes_and_devices_are_named(classifier: Path) -> None:
    with pytest.raises(ModelError, match="no dtype 'int3'; use auto, float16"):
        _open(classifier, dtype="int3")
    with pytest.raises(ModelError, match="no device 'quantum' here"):
        _open(classifier, device="quantum")
    with pytest.raises(ModelError, match="device 'meta' holds no weights; use auto, cpu"):
        _open(classifier, device="meta")
    path = classifier / "config.json"
    path.write_text(path.read_text().replace("BertForSequenceClassification", "BertForNothing"))
    with pytest.raises(ModelError, match="has a BertForNothing, a class that transformers"):
        _open(classifier)


def test_unreachable_names_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ModelError, match="'nobody/nothing' is not a local directory and cannot be loaded from the Hub"
    ) as caught:
        _open("nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="There is no model directory no/such/name"):
        _open("no/such/name")


@pytest.mark.parametrize(("cuda", "expected"), [(True, "cuda"), (False, "cpu")])
def test_the_default_device_can_prune(cuda: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not mps, which has no float64."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pretrained._device("auto").type == expected


def test_quantised_weights_are_named(classifier: Path) -> None:
    path = classifier / "config.json"
    quantised = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    path.write_text(json.dumps(json.loads(path.read_text()) | quantised))
    with pytest.raises(ModelError, match=r"are quantised \(gptq\).* prune it, and quantise the result"):
        _open(classifier)


def test_a_missing_padding_token_is_the_tokenizers(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """The head of a decoder reads the last token before the padding, and fails on a batch without one."""
    model = testing.tiny_model("gpt2", "ForSequenceClassification")
    model.config.pad_token_id = None
    model.save_pretrained(tmp_path / "dense")
    tiny_tokenizer.save_pretrained(tmp_path / "dense")
    opened = _open(tmp_path / "dense")
    assert opened.model.config.pad_token_id == tiny_tokenizer.pad_token_id
    assert opened.model(torch.ones(2, 3, dtype=torch.long)).logits.shape == (2, 2)
