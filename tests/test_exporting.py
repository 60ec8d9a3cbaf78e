"""A model as a graph: the same outputs at other shapes, in onnxruntime and from torch.export, and nothing left after an error."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import click.testing
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

import fastprune
from fastprune import CheckpointError, ExportError, ModelError, Pretrained, UsageError, testing
from fastprune.cli.main import main
from fastprune.exporting.export import export
from fastprune.exporting.onnx_models import OnnxModel
from test_elsewhere import CASES, _pruned

onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="the extra onnx is not installed",
)


def opened(model: Any, tokenizer: PreTrainedTokenizerFast | None = None) -> Pretrained:
    return Pretrained(model=model, tokenizer=tokenizer, task=fastprune.task_for(model.config, type(model)), source="")


def padded(vocabulary: int, samples: int, tokens: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    mask = torch.ones(samples, tokens, dtype=torch.long)
    mask[-1, -3:] = 0
    return {"input_ids": torch.randint(3, vocabulary, mask.shape, generator=generator), "attention_mask": mask}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("format", [pytest.param("onnx", marks=onnx), "torch-export"])
def test_a_graph_computes_what_the_model_does(name: str, format: str, tmp_path: Path) -> None:
    """At two shapes that it was neither made from nor checked at; half of the units gone, one sublayer of each kind empty."""
    model, _ = _pruned(name.partition("-")[0], CASES[name]["head"])
    made = export(opened(model), tmp_path / "graph", format=format)
    assert made.difference < 1e-5
    assert made.inputs == ("input_ids", "attention_mask")
    if format == "onnx":
        graph = OnnxModel(made.file.parent)
        assert graph.output_names == made.outputs
    else:
        program = torch.export.load(made.file).module()
    for samples, tokens in ((4, 7), (2, 20)):
        inputs = padded(model.config.vocab_size, samples, tokens)
        with torch.no_grad():
            expected = model(**inputs)[made.outputs[0]]
            found = graph(**inputs)[made.outputs[0]] if format == "onnx" else program(*inputs.values())[0]
        assert found.shape == expected.shape
        real = inputs["attention_mask"].bool() if found.ndim == 3 else slice(None)
        torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=1e-4)


@onnx
def test_from_the_command_line_to_onnxruntime(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prune, export both, time both; a pair's segments go in as well; transformers reads the configuration."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments: object) -> Any:
        done = click.testing.CliRunner().invoke(main, [*map(str, arguments), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    run("prune", tiny_checkpoint, "--data", tiny_data, "--budget", 0.1, "--output", tmp_path / "small")
    for source, output in ((tiny_checkpoint, "dense-onnx"), (tmp_path / "small", "small-onnx")):
        made = run("export", source, "--output", tmp_path / output)
        assert made["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
        assert made["outputs"] == ["logits"]
    exported = tmp_path / "small-onnx"
    inputs = dict(AutoTokenizer.from_pretrained(exported)(["the cat sat"], ["a dog ran"], return_tensors="pt"))
    assert inputs["token_type_ids"].any()
    with torch.no_grad():
        expected = fastprune.load(tmp_path / "small")(**inputs).logits
    torch.testing.assert_close(OnnxModel(exported)(**inputs)["logits"], expected, atol=1e-4, rtol=1e-4)
    config = AutoConfig.from_pretrained(exported)
    assert config.model_type == "bert"
    assert not hasattr(config, "fastprune")
    found = run("bench", tmp_path / "dense-onnx", exported, "--batch-size", 2, "--seq-len", 16, "--rounds", 2)
    assert found["pruned"]["weight_bytes"] < found["dense"]["weight_bytes"]
    assert found["speedup"] > 0
    mixed = click.testing.CliRunner().invoke(main, ["bench", str(tiny_checkpoint), str(exported)])
    assert mixed.exit_code == 2
    assert "export both" in mixed.stderr


def test_what_cannot_be_exported_leaves_nothing(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    with pytest.raises(UsageError, match="no export format 'tflite'"):
        export(opened(model), tmp_path / "out", format="tflite")
    with pytest.raises(UsageError, match="opset"):
        export(opened(model), tmp_path / "out", format="torch-export", opset=18)
    with pytest.raises(CheckpointError, match="not empty"):
        export(opened(model), tiny_checkpoint, format="torch-export")
    model.main_input_name = "pixel_values"
    with pytest.raises(ModelError, match="one text"):
        export(opened(model), tmp_path / "out", format="torch-export")
    del model.main_input_name
    plain = model.bert.forward
    model.bert.forward = lambda *args, **kwargs: plain(*args, **kwargs) if args[0].sum() > 0 else None
    with pytest.raises(ExportError, match="cannot be made a graph"):
        export(opened(model), tmp_path / "out", format="torch-export")
    assert sorted(each.name for each in tmp_path.iterdir()) == [tiny_checkpoint.name]


def test_a_graph_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    plain = model.classifier.forward
    monkeypatch.setattr(  # what a graph cannot follow: Python's own state
        model.classifier, "forward", lambda hidden: plain(hidden) + (1.0 if torch.compiler.is_exporting() else 0.0)
    )
    with pytest.raises(ExportError, match="computes something else"):
        export(opened(model), tmp_path / "out", format="torch-export")
    assert not list(tmp_path.iterdir())
