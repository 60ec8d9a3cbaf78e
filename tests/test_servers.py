"""Servers: which open a directory as it is, what the others need, and the same list in the documentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import fastprune
from fastprune import Pretrained, testing
from fastprune.cli.main import main
from fastprune.exporting.servers import SERVERS, Serving, servers
from fastprune.registry import loading
from fastprune.surgery.materialize import materialize
from fastprune.testing.problems import some_mask
from fastprune.testing.tiny import tiny_bpe_tokenizer, tiny_tokenizer

POOLED = {
    "modules.json": b'[{"type": "sentence_transformers.models.Transformer", "path": ""}]',
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
}
"""The files of a SentenceTransformer that the formats read."""


def opened(family: str, head: str, *, pruned: bool, companions: dict[str, bytes] | None = None) -> Pretrained:
    model = testing.tiny_model(family, head)
    text = model.main_input_name == "input_ids"
    tokenizer = None if not text else tiny_bpe_tokenizer(model) if "LM" in head else tiny_tokenizer(model)
    task = fastprune.task_for(model.config, type(model))
    made = Pretrained(model=model, tokenizer=tokenizer, task=task, source="", companions=companions or {})
    if pruned:
        groups = made.groups()
        assert groups is not None
        model = materialize(model, groups, some_mask(groups)).eval()
        model.config.fastprune = {"modules": {}}
        made = Pretrained(model=model, tokenizer=tokenizer, task=task, source="", companions=companions or {})
    return made


def found(model: Pretrained) -> dict[str, Serving]:
    return {each.server: each for each in servers(model)}


def test_a_pruned_encoder_opens_with_its_code_or_after_an_export() -> None:
    by_name = found(opened("bert", "Model", pruned=True, companions=POOLED))
    for name in ("transformers", "sentence-transformers"):
        assert by_name[name].as_is
        assert by_name[name].needs == "trust_remote_code=True"
    gpu = by_name["text-embeddings-inference, GPU image"]
    assert (gpu.as_is, gpu.needs) == (False, "fastprune prune, of the dense model, with --servable")
    cpu = by_name["text-embeddings-inference, CPU image"]
    assert cpu.possible
    assert not cpu.as_is
    assert cpu.needs == "fastprune export MODEL --format tei --output DIR"
    assert not by_name["llama.cpp"].possible
    assert "BertModel" in by_name["llama.cpp"].needs


def test_a_server_that_reads_two_forms() -> None:
    vllm = found(opened("llama", "ForCausalLM", pruned=True))["vLLM"]
    assert not vllm.as_is
    assert "--servable; or fastprune export MODEL --format vllm" in vllm.needs


def test_a_dense_model_opens_without_anything() -> None:
    by_name = found(opened("llama", "ForCausalLM", pruned=False))
    for name in ("transformers", "vLLM"):
        assert by_name[name] == Serving(server=name, as_is=True, needs="", possible=True)
    assert by_name["llama.cpp"].needs == "fastprune export MODEL --format gguf --output DIR"
    assert not by_name["text-embeddings-inference, CPU image"].possible  # a graph with a KV cache
    assert not by_name["sentence-transformers"].possible  # no modules.json


@pytest.mark.parametrize(
    ("family", "head", "server", "reason"),
    [
        ("bert", "ForQuestionAnswering", "text-embeddings-inference, CPU image", "neither vectors nor the scores"),
        ("bert", "Model", 'sentence-transformers, backend="onnx"', "has none"),
        ("distilbert", "ForSequenceClassification", "vLLM", "It has no distilbert."),
        ("bert", "ForQuestionAnswering", "vLLM", "It does not serve question-answering."),
        ("vit", "ForImageClassification", "onnxruntime", "reads images"),
    ],
)
def test_why_not(family: str, head: str, server: str, reason: str) -> None:
    serving = found(opened(family, head, pruned=False))[server]
    assert not serving.possible
    assert reason in serving.needs
    assert serving.needs.endswith(".")


def test_a_directory_that_has_the_files_of_a_format(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model.onnx").touch()
    model = opened("bert", "ForSequenceClassification", pruned=False)
    beside = Pretrained(model=model.model, tokenizer=model.tokenizer, task=model.task, source=str(tmp_path))
    assert found(beside)["onnxruntime"].as_is
    assert not found(beside)["OpenVINO"].as_is


def test_inspect_shows_them(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_checkpoint.parent)  # a short name, that no line breaks
    done = CliRunner().invoke(main, ["inspect", str(tiny_checkpoint), "--json"])
    rows = json.loads(done.stdout)["servers"]
    assert {"server": "transformers", "as_is": True, "needs": "", "possible": True} in rows
    shown = CliRunner().invoke(main, ["inspect", tiny_checkpoint.name]).stderr
    assert "opens this directory" in shown
    assert f"fastprune export {tiny_checkpoint.name} --format openvino" in " ".join(shown.split())


def test_the_documentation_has_every_server() -> None:
    registry = loading.installed().format
    names = [each.name for each in SERVERS] + [name for each in registry for name in registry[each].servers]
    page = (Path(__file__).parents[1] / "docs/serving.md").read_text(encoding="utf-8")
    assert [name for name in names if name not in page] == []
