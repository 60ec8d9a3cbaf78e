"""Files of SentenceTransformers: the form that all versions open, and the formats for their backends and for servers."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fastprune
from fastprune import Pretrained, strategy, testing
from fastprune.exporting.export import export
from fastprune.models.pretrained import open_pretrained
from fastprune.models.sentence_form import activation_entries, older_form
from fastprune.testing.tiny import tiny_tokenizer

ENCODER = {"transformer_task": "feature-extraction", "modality_config": {"text": {"method": "forward"}}}
NAMES = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
DENSE = {"in_features": 32, "out_features": 8, "bias": True, "activation_function": "torch.nn.Tanh"}
FLAGS = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens"}
FLAGS |= {"weightedmean_tokens": "weightedmean", "lasttoken": "lasttoken"}


def files(encoder: dict[str, Any] = ENCODER, pooling: Any = "mean", **dense: Any) -> dict[str, bytes]:
    """As version 6 writes them."""
    content = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.x.modules.pooling.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.base.modules.dense.Dense"},
            {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.base.modules.x.Normalize"},
        ],
        "sentence_bert_config.json": encoder,
        "1_Pooling/config.json": {"embedding_dimension": 32, "pooling_mode": pooling, "include_prompt": False},
        "2_Dense/config.json": DENSE | NAMES | dense,
        "3_Normalize/config.json": NAMES,
        "config_sentence_transformers.json": {
            "__version__": {"sentence_transformers": "6.2.0"},
            "prompts": {"query": "find: "},
        },
    }
    return {name: json.dumps(each).encode() for name, each in content.items()}


def read(found: dict[str, bytes], name: str) -> Any:
    return json.loads(found[name])


@pytest.mark.parametrize("pooling", ["mean", "cls", ["max", "weightedmean"]])
def test_older_versions_know_every_name(pooling: Any) -> None:
    found = older_form(files(pooling=pooling), 20)
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    assert [each["type"] for each in read(found, "modules.json")] == [
        f"sentence_transformers.models.{k}" for k in kinds
    ]
    assert read(found, "sentence_bert_config.json") == {"max_seq_length": 20, "do_lower_case": False}
    flags = {f"pooling_mode_{flag}": mode in pooling for flag, mode in FLAGS.items()}
    assert read(found, "1_Pooling/config.json") == {"word_embedding_dimension": 32, **flags, "include_prompt": False}
    assert read(found, "2_Dense/config.json") == DENSE
    assert read(found, "3_Normalize/config.json") == {}
    assert read(found, "config_sentence_transformers.json") == {"prompts": {"query": "find: "}}
    assert older_form(found, 20) == found
    assert read(older_form(found, None), "sentence_bert_config.json")["max_seq_length"] == 20


@pytest.mark.parametrize(
    "newer",
    [
        files({"modality_config": {"text": {}, "image": {}}}),
        files(use_residual=True),
        files(module_output_name="other"),
    ],
)
def test_what_older_versions_cannot_do_stays(newer: dict[str, bytes]) -> None:
    assert older_form(newer, 20) == newer


def test_a_cross_encoder_has_its_activation_where_older_versions_look_for_it() -> None:
    """And a length, without which text-embeddings-inference does not start."""
    settings = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    modules = [{"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
    encoder = {"transformer_task": "sequence-classification"}
    content = {
        "modules.json": modules,
        "config_sentence_transformers.json": settings,
        "sentence_bert_config.json": encoder,
    }
    companions = {name: json.dumps(each).encode() for name, each in content.items()}
    assert read(older_form(companions, 30), "sentence_bert_config.json") == {**encoder, "max_seq_length": 30}
    found = activation_entries(companions)
    assert found["sentence_transformers"]["activation_fn"] == found["sbert_ce_default_activation_function"]
    assert activation_entries(files()) == {}


def test_the_tokenizer_has_the_models_length(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Which its file did not say; runtimes read it nowhere else."""
    file = tiny_checkpoint / "tokenizer_config.json"
    settings = {"model_max_length": 10**30, "max_length": 999, "tokenizer_class": "TokenizersBackend"}
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | settings))
    try:
        opened = open_pretrained(tiny_checkpoint, device="cpu")
    finally:
        file.write_text(before)
    opened.save_companions(tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    model: Any = opened.model
    assert written["model_max_length"] == model.config.max_position_embeddings
    assert written.get("max_length", 0) <= written["model_max_length"]
    assert written["tokenizer_class"] != "TokenizersBackend"  # which transformers 4 does not have


def opened(head: str, companions: dict[str, bytes] | None = None, family: str = "bert", **config: Any) -> Pretrained:
    model = testing.tiny_model(family, head, **config)
    task = fastprune.task_for(model.config, type(model))
    return Pretrained(model=model, tokenizer=tiny_tokenizer(model), task=task, source="", companions=companions or {})


PLAIN = older_form(files(), 20)
PLAIN = {name: each for name, each in PLAIN.items() if name != "2_Dense/config.json"}
PLAIN["modules.json"] = json.dumps(
    [each for each in read(PLAIN, "modules.json") if "Dense" not in each["type"]]
).encode()
PLAIN["1_Pooling/config.json"] = b'{"pooling_mode_mean_tokens": true}'


@pytest.mark.parametrize(
    ("format", "model", "reason"),
    [
        ("tei", opened("Model", older_form(files(), 20)), "skips dense layers"),
        ("tei", opened("Model", PLAIN | {"1_Pooling/config.json": b'{"pooling_mode_max_tokens": true}'}), "max_tokens"),
        ("tei", replace(opened("Model", PLAIN), tokenizer=None), "tokenizer.json"),
        ("tei", opened("ForTokenClassification"), "neither vectors"),
        ("tei", opened("ForSequenceClassification", problem_type="multi_label_classification"), "independent"),
        ("tei", opened("ForCausalLM", family="llama"), "decoder"),
        ("sentence-transformers", opened("Model"), "modules.json"),
        ("sentence-transformers", opened("ForMaskedLM"), "neither vectors"),
        ("tei", opened("Model", PLAIN), ""),
        ("tei", opened("Model"), ""),
        ("tei", opened("ForSequenceClassification", family="distilbert"), ""),
        ("sentence-transformers", opened("Model", older_form(files(), 20)), ""),
        ("sentence-transformers", opened("ForSequenceClassification"), ""),
    ],
)
def test_what_a_server_would_leave_out_is_refused(format: str, model: Pretrained, reason: str) -> None:
    found = strategy("format", format).refuses(model)
    assert reason in found
    assert bool(found) == bool(reason)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="the extra onnx is not installed",
)
@pytest.mark.parametrize("format", ["tei", "sentence-transformers"])
def test_the_servers_files(format: str, tmp_path: Path) -> None:
    """Of a DistilBERT, whose configuration has other names for its sizes; a model of two labels is no reranker."""
    model = opened("ForSequenceClassification", family="distilbert")
    made = export(model, tmp_path / "out", format=format)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"]) == (32, 2)
    assert config["architectures"] == ["DistilBertForSequenceClassification"]
    assert config["label2id"] == {"LABEL_0": 0, "LABEL_1": 1}
    assert "auto_map" not in config
    assert (tmp_path / "out/tokenizer.json").exists()
    assert made.files == (tmp_path / "out/onnx/model.onnx",)
    assert set(made.inputs) <= {"input_ids", "attention_mask", "token_type_ids"}
    assert "one label" in made.remark
