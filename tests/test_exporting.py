"""Exporting: the same outputs at other shapes in every format, nothing left after an error, and no format known by name."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import click.testing
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

import fastprune
from fastprune import Pretrained, UsageError, strategy, testing
from fastprune.cli.main import main
from fastprune.errors import CheckpointError, ContractError, ExportError, ModelError, OptionError, UnknownNameError
from fastprune.exporting import formats
from fastprune.exporting.export import export
from fastprune.exporting.opening import format_of, open_exported, run_exported
from fastprune.exporting.timing import bench_exported
from fastprune.registry import loading
from fastprune.strategies import ExportFormat
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


def run(*arguments: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, list(map(str, arguments)))


def printed(*arguments: object) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@dataclass(frozen=True, kw_only=True)
class Weights(ExportFormat):
    """The weights alone, which nothing runs."""

    name: ClassVar[str] = "weights"
    files: ClassVar[tuple[str, ...]] = ("*.weights",)

    def write(self, opened, directory):
        print("a graph\n" * 300)
        torch.save(opened.model.state_dict(), directory / "model.weights")


@dataclass
class Wrong:
    """A runtime that adds something to what the model gives."""

    model: Any
    added: float = 0.0
    outputs: tuple[str, ...] = ("logits",)
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")

    def __call__(self, **inputs):
        with torch.no_grad():
            logits = self.model(**{name: inputs[name] for name in self.inputs}).logits
        return dict.fromkeys(self.outputs, logits + self.added)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("format", [pytest.param("onnx", marks=onnx), "torch-export"])
def test_what_was_exported_computes_what_the_model_does(name: str, format: str, tmp_path: Path) -> None:
    """At two shapes that it was neither made from nor compared at; half of the units gone, one sublayer of each kind empty."""
    model, _ = _pruned(name.partition("-")[0], CASES[name]["head"])
    made = export(opened(model), tmp_path / "out", format=format)
    assert made.difference is not None
    assert made.difference < 1e-5
    assert made.inputs == ("input_ids", "attention_mask")
    assert made.format == format_of(made.directory) == strategy("format", format)
    exported = run_exported(made.directory)
    assert exported.outputs == made.outputs
    for samples, tokens in ((4, 7), (2, 20)):
        inputs = padded(model.config.vocab_size, samples, tokens)
        with torch.no_grad():
            expected = model(**inputs)[made.outputs[0]]
        found = exported(**inputs, no_such_input=torch.zeros(1))[made.outputs[0]]
        assert found.shape == expected.shape
        real = inputs["attention_mask"].bool() if found.ndim == 3 else slice(None)
        torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=1e-4)


def test_a_program_is_called_by_name(tmp_path: Path) -> None:
    """By torch alone, without this package."""
    model = testing.tiny_model()
    made = export(opened(model), tmp_path / "out", format="torch-export")
    program = torch.export.load(made.files[0]).module()
    inputs = padded(model.config.vocab_size, 3, 6)
    with torch.no_grad():
        torch.testing.assert_close(program(**inputs)["logits"], model(**inputs).logits, atol=1e-5, rtol=1e-5)


@onnx
def test_from_the_command_line_to_onnxruntime(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prune, export both, time and evaluate both; a pair's segments go in as well; transformers reads the configuration."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    printed("prune", tiny_checkpoint, "--data", tiny_data, "--budget", 0.1, "--output", tmp_path / "small")
    for source, output in ((tiny_checkpoint, "dense-onnx"), (tmp_path / "small", "small-onnx")):
        made = printed("export", source, "--output", tmp_path / output, "--set", "opset=18")
        assert made["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
        assert made["outputs"] == ["logits"]
        assert made["files"] == [str(tmp_path / output / "onnx/model.onnx")]
    exported = tmp_path / "small-onnx"
    import onnx as package

    graph = package.load(made["files"][0])
    assert {each.version for each in graph.opset_import if each.domain == ""} == {18}
    for each in graph.graph.input:
        assert [size.dim_param for size in each.type.tensor_type.shape.dim] == ["batch", "sequence"]
    assert [size.dim_param for size in graph.graph.output[0].type.tensor_type.shape.dim] == ["batch", ""]
    inputs = dict(AutoTokenizer.from_pretrained(exported)(["the cat sat"], ["a dog ran"], return_tensors="pt"))
    assert inputs["token_type_ids"].any()
    with torch.no_grad():
        expected = fastprune.load(tmp_path / "small")(**inputs).logits
    torch.testing.assert_close(run_exported(exported)(**inputs)["logits"], expected, atol=1e-4, rtol=1e-4)
    config = AutoConfig.from_pretrained(exported)
    assert config.model_type == "bert"
    assert not hasattr(config, "fastprune")
    found = printed("bench", tmp_path / "dense-onnx", exported, "--batch-size", 2, "--seq-len", 16, "--rounds", 2)
    assert found["pruned"]["weight_bytes"] < found["dense"]["weight_bytes"]
    assert found["speedup"] > 0
    measured = [printed("evaluate", each, "--data", tiny_data) for each in (tmp_path / "small", exported)]
    assert measured[0] == measured[1]
    assert "leave out --device" in run("evaluate", exported, "--data", tiny_data, "--dtype", "bf16").stderr
    mixed = run("bench", tiny_checkpoint, exported)
    assert mixed.exit_code == 2
    assert "export both" in mixed.stderr


@pytest.mark.parametrize("format", ["torch-export", pytest.param("onnx", marks=onnx)])
def test_a_graph_reads_boxes_of_words(tmp_path: Path, format: str) -> None:
    model = testing.tiny_model("layoutlm", "ForTokenClassification")
    made = export(opened(model), tmp_path / "graph", format=format)
    assert "bbox" in made.inputs
    assert made.difference is not None
    assert made.difference < 1e-5
    texts = {name: value[:3, :7] for name, value in padded(64, 3, 9).items()}
    corners = torch.tensor([100, 200, 300, 400]).expand(3, 7, 4)
    graph = open_exported(made.directory).model
    for inputs in (texts, texts | {"bbox": corners}):
        with torch.no_grad():
            torch.testing.assert_close(graph(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-4)
    assert bench_exported(made.directory, made.directory, batch_size=1, seq_len=5, rounds=1).speedup > 0


def test_a_program_is_timed_and_evaluated(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    """By the same commands; no command knows a format."""
    out = tmp_path / "out"
    done = run("export", tiny_checkpoint, "--output", out, "--format", "torch-export")
    assert done.exit_code == 0, done.output
    assert "torch-export: input_ids, attention_mask, token_type_ids to logits; differs from PyTorch by" in " ".join(
        done.stderr.split()
    )
    assert printed("bench", out, out, "--batch-size", 2, "--seq-len", 8, "--rounds", 1, "--threads", 1)["speedup"] > 0
    measured = [printed("evaluate", each, "--data", tiny_data) for each in (tiny_checkpoint, out)]
    assert measured[0] == measured[1]
    both = [fastprune.open_pretrained(tiny_checkpoint, device="cpu"), open_exported(out)]
    agreed = fastprune.fidelity(both[0].model, both[1].model, tiny_data, tokenizer=both[1].tokenizer)
    assert all(value == pytest.approx(1, abs=1e-5) for value in agreed.values())


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--format", "onx"), "There is no format 'onx'; did you mean 'onnx'?"),
        (("--set", "opsett=18"), "format 'onnx' has no option 'opsett'; did you mean 'opset'?"),
        (("--set", "opset=new"), "takes int | none, 17 to 25; got 'new'"),
        (("--set", "opset=0"), "takes int | none, 17 to 25; got '0'"),
        (("--set", "opset"), "--set takes NAME=VALUE, such as opset=18; got 'opset'"),
        (("--format", "torch-export", "--set", "opset=18"), "format 'torch-export' has no option 'opset'"),
    ],
)
def test_what_is_asked_for_wrongly(
    asked: tuple[str, ...], says: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastprune.models.pretrained.open_pretrained", None)  # told before the model is opened
    done = run("export", tiny_checkpoint, "--output", tmp_path / "out", *asked)
    assert done.exit_code == 2, done.output
    assert says in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_before_any_work(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "onnx" in name else found(name))
    monkeypatch.setattr("fastprune.models.pretrained.open_pretrained", None)
    done = run("export", tiny_checkpoint, "--output", tmp_path / "out")
    assert done.exit_code == 2
    wanted = """The export format 'onnx' needs onnx, onnxscript, onnxruntime: pip install "fastprune[onnx]"."""
    assert wanted in " ".join(done.stderr.split())
    monkeypatch.setattr(Weights, "packages", ("no_such_package",))
    with pytest.raises(UsageError, match="needs no_such_package: pip install no_such_package"):
        export(opened(testing.tiny_model()), tmp_path / "out", format=Weights())


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    with pytest.raises(UnknownNameError, match="no format 'tflite'"):
        export(opened(model), tmp_path / "out", format="tflite")
    with pytest.raises(OptionError, match="opset"):
        strategy("format", "onnx", opset="last")
    with pytest.raises(CheckpointError, match="not empty"):
        export(opened(model), tiny_checkpoint, format="torch-export")
    for names in (("vit", "ForImageClassification"), ("t5", "ForConditionalGeneration")):
        with pytest.raises(ModelError, match="of texts alone; a .* reads"):
            export(opened(testing.tiny_model(*names)), tmp_path / "out", format="torch-export")
    assert [each.name for each in tmp_path.iterdir()] == [tiny_checkpoint.name]


def test_an_exporter_that_fails_says_one_sentence(tmp_path: Path) -> None:
    """In a process of its own, for torch prints whole graphs past Python's streams."""
    code = """
import sys, logging, fastprune
from fastprune.cli.main import NOISY
for name in NOISY:  # where torchao is installed
    logging.getLogger(name).setLevel("ERROR")
from fastprune import testing
from fastprune.errors import ExportError
model = testing.tiny_model()
plain = model.bert.forward
model.bert.forward = lambda *args, **kwargs: plain(*args, **kwargs) if args[0].sum() > 0 else None
opened = fastprune.Pretrained(model=model, tokenizer=None, task=fastprune.task_for(model.config, type(model)), source="")
try:
    fastprune.export(opened, sys.argv[1], format="torch-export")
except ExportError as error:
    print(error)
    assert error.__suppress_context__  # a traceback has no graph
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stderr == ""
    (sentence,) = done.stdout.splitlines()
    assert sentence.startswith("The BertForSequenceClassification cannot be written as torch-export: GuardOnData")
    assert sentence.endswith("Nothing was written.")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    plain = model.classifier.forward
    monkeypatch.setattr(  # what a graph cannot follow: Python's own state
        model.classifier, "forward", lambda hidden: plain(hidden) + (1.0 if torch.compiler.is_exporting() else 0.0)
    )
    with pytest.raises(ExportError, match="computes something else"):
        export(opened(model), tmp_path / "out", format="torch-export")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"added": 0.01}, "off by 0.01, more than 0.0001"),
        ({"added": float("nan")}, "off by nan"),
        ({"outputs": ("scores",)}, "gives 'scores', which the BertForSequenceClassification does not give"),
    ],
)
def test_what_runs_wrongly_is_refused(
    wrong: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = testing.tiny_model()
    monkeypatch.setattr(Weights, "open", lambda self, directory, threads=None: Wrong(model, **wrong))
    with pytest.raises(ExportError, match=says):
        export(opened(model), tmp_path / "out", format=Weights())
    assert not list(tmp_path.iterdir())


def test_a_format_may_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = testing.tiny_model()
    monkeypatch.setattr(Weights, "open", lambda self, directory, threads=None: Wrong(model, added=0.01))
    monkeypatch.setattr(Weights, "tolerance", 0.1)
    made = export(opened(model), tmp_path / "out", format=Weights())
    assert made.difference is not None
    assert 0.001 < made.difference <= 0.011


def test_a_format_that_nothing_in_python_runs(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, capsys: Any
) -> None:
    """It is written unchecked, and says so; timing and evaluating it is refused. What it prints is not shown."""
    registry = loading.installed().format
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    registry.add(Weights.name, Weights, "test")
    done = run("export", tiny_checkpoint, "--output", tmp_path / "out", "--format", "weights")
    assert done.exit_code == 0, done.output
    assert "not compared with PyTorch: nothing in Python runs this format" in " ".join(done.stderr.split())
    assert "a graph" not in done.output
    assert printed("export", tiny_checkpoint, "--output", tmp_path / "two", "--format", "weights")["difference"] is None
    for command in (("bench", tmp_path / "out", tmp_path / "two"), ("evaluate", tmp_path / "out", "--data", tiny_data)):
        shutil.copy(tiny_checkpoint / "config.json", tmp_path / "out")
        refused = run(*command)
        assert refused.exit_code == 2, refused.output
        assert "which nothing in Python runs" in " ".join(refused.stderr.split())
    with pytest.raises(ModelError, match="holds no exported model; known formats: .*onnx, .*torch-export, .*weights"):
        run_exported(tiny_checkpoint)


def test_a_format_that_does_not_write_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Weights, "files", ("*.gguf",))
    with pytest.raises(ContractError, match=r"'weights' did not write its files, \*.gguf"):
        export(opened(testing.tiny_model()), tmp_path / "out", format=Weights())
    assert not list(tmp_path.iterdir())


def test_the_format_with_the_most_files_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = loading.installed().format
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    registry.add(Weights.name, Weights, "test")
    monkeypatch.setattr(Weights, "files", ("other_config.json", "onnx/model.onnx"))
    assert format_of(tmp_path) is None
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").touch()
    assert format_of(tmp_path) == strategy("format", "onnx")
    (tmp_path / "other_config.json").touch()
    assert format_of(tmp_path) == Weights()
    (tmp_path / "model.safetensors").touch()  # a model with an export beside it, as on the Hub
    assert format_of(tmp_path) is None


@onnx
def test_the_built_in_formats_conform() -> None:
    testing.check_plugin(formats)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"refuses": lambda self, opened: "no"}, "with no sentence: 'no'"),
        ({"refuses": lambda self, opened: "Too large."}, "refuses every model"),
        ({"packages": ("no_such_package",)}, "cannot be checked: .* pip install no_such_package"),
        ({"write": lambda self, opened, directory: opened.model.train()}, "did not write its files"),
        ({"write": lambda self, opened, directory: 1 / 0}, "ZeroDivisionError"),
        ({"open": lambda self, directory, threads=None: Wrong(None)}, "'NoneType' object is not callable"),
    ],
)
def test_a_format_that_does_not_conform(changes: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    testing.check_export_format(Weights(), model=testing.tiny_model())
    for name, value in changes.items():
        monkeypatch.setattr(Weights, name, value)
    with pytest.raises((AssertionError, ContractError, TypeError), match=says):
        testing.check_export_format(Weights(), model=testing.tiny_model())


def test_a_format_that_changes_the_model_does_not_conform(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Weights.write

    def write(self: Any, opened: Any, directory: Path) -> None:
        plain(self, opened, directory)
        opened.model.get_input_embeddings().weight.data.mul_(2)

    monkeypatch.setattr(Weights, "write", write)
    with pytest.raises(AssertionError, match="changed the model's weights"):
        testing.check_export_format(Weights(), model=testing.tiny_model())


def test_logs_are_as_they_were_after_an_export(tmp_path: Path) -> None:
    export(opened(testing.tiny_model()), tmp_path / "out", format=Weights())
    assert logging.root.manager.disable == 0
