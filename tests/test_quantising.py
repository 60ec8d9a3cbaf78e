"""Quantised exports: near the outputs in float32, small, the same twice, and refused before any work where they cannot be."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastprune
from fastprune import Pretrained, testing
from fastprune.errors import OptionError, UsageError
from fastprune.exporting.export import export
from fastprune.exporting.onnx import OnnxModel
from fastprune.exporting.opening import open_exported, run_exported
from fastprune.exporting.quantize import Quantize, drop
from fastprune.registry.recipe import strategy
from fastprune.strategies.export_formats import Quantisation, Quantised

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="the extra onnx is not installed",
)
FAMILIES = (
    ("bert", "ForSequenceClassification"),
    ("distilbert", "Model"),
    ("modernbert", "ForMaskedLM"),
    ("llama", "ForCausalLM"),
)
Calls = Callable[..., Any]


def opened(model: Any) -> Pretrained:
    return Pretrained(model=model, tokenizer=None, task=fastprune.task_for(model.config, type(model)), source="")


def rows(model: Any, samples: int = 8, tokens: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    mask = torch.ones(samples, tokens, dtype=torch.long)
    mask[1, -3:] = 0
    return {"input_ids": torch.randint(3, 60, mask.shape, generator=generator), "attention_mask": mask}


def large_filter(model: Any) -> Any:
    """The model with a filter in each FFN whose states are fifty times as large, and a bias in front of its head."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("intermediate.dense.weight"):
                weight[5] *= 50
            if name.endswith("output.dense.weight") and weight.shape[1] == 64:
                weight[:, 5] /= 50
    return model


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A BERT with a large filter in each FFN, and its graph in float32."""
    model = large_filter(testing.tiny_model())
    return model, export(opened(model), tmp_path_factory.mktemp("float") / "out").files[0]


def quantise(file: Path, place: Path, *, distance: float = 0.25, **asked: Any) -> tuple[Path, Quantised]:
    """A graph, quantised by the format ``onnx`` in a directory, and what was done."""
    (place / "onnx").mkdir(parents=True)
    shutil.copy(file, place / "onnx")
    format = strategy("format", "onnx", distance=distance)
    done = format.quantise(place, Quantisation(**{"weights": "int8", **asked}))
    return format.found_in(place)[0], done


@pytest.mark.parametrize(("name", "head"), FAMILIES)
def test_quantised_graphs_stay_near_the_model(name: str, head: str, tmp_path: Path) -> None:
    """At two lengths; every product has the form that was asked for."""
    model = testing.tiny_model(name, head)
    made = export(opened(model), tmp_path / "out")
    given = tuple(rows(model, 16, tokens) for tokens in (5, 9, 12, 14))
    forms = {"int8": "products in 8 bits", "int4": "products with 4-bit weights and float32 inputs"}
    for weights, file, most in (("int8", "model_quantized.onnx", 0.1), ("int4", "model_q4.onnx", 0.3)):
        found, done = quantise(made.files[0], tmp_path / weights, weights=weights, rows=given, distance=most)
        assert found.name == file
        assert [each.name for each in found.parent.iterdir()] == [file]
        assert done.distance is not None
        assert 0 < done.distance < most
        assert done.counts[forms[weights]] >= 8
        for samples, tokens in ((3, 7), (2, 20)):
            inputs = rows(model, samples, tokens)
            with torch.no_grad():
                expected = model(**inputs)[made.outputs[0]]
            outputs = OnnxModel(found)(**inputs)[made.outputs[0]]
            real = inputs["attention_mask"].bool() if outputs.ndim == 3 else slice(None)
            assert (outputs[real] - expected[real]).square().mean().sqrt() / expected[real].std() < 1.5 * most


def test_the_same_bytes_twice(graph: tuple[Any, Path], tmp_path: Path) -> None:
    given = (rows(graph[0]),)
    for weights in ("int8", "int4"):
        files = [quantise(graph[1], tmp_path / f"{weights}-{each}", rows=given, weights=weights)[0] for each in (1, 2)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_every_weight_takes_a_byte(graph: tuple[Any, Path], tmp_path: Path) -> None:
    """And every output of a product, and every row of a table, a scale; shared weights are stored once."""
    from fastprune.exporting.quantising.operators import operators, read_graph

    found = operators(read_graph(graph[1]))
    assert len(found) == 12
    file, done = quantise(graph[1], tmp_path)
    assert file.stat().st_size < graph[1].stat().st_size / 2
    stored = {name: each.const_value for name, each in read_graph(file).graph.initializers.items()}
    bytes_of = {
        part: sum(each.nbytes for name, each in stored.items() if each and name.endswith(part))
        for part in (".int8", ".scale")
    }
    assert bytes_of[".int8"] == sum(each.weights.size for each in found)
    assert bytes_of[".scale"] == 4 * sum(each.weights.shape[each.kind == "product"] for each in found)
    assert done.counts == {"products in 8 bits": 10, "tables in 8 bits": 2, "operators in float32": 2}


def test_filters_apart_change_no_output(graph: tuple[Any, Path], tmp_path: Path) -> None:
    from fastprune.exporting.quantising.filters import apart, filters_of
    from fastprune.exporting.quantising.operators import operators, read_graph, write_graph

    whole = read_graph(graph[1])
    found = filters_of(whole)
    assert [each.count for each in found] == [64, 64]
    split = apart(whole, {each.after.number: [5, 9] for each in found})
    assert sorted(each.weights.shape[0] for each in operators(split) if each.weights.shape == (62, 32)) == [62, 62]
    write_graph(split, tmp_path / "split.onnx")
    inputs = rows(graph[0])
    both = [OnnxModel(file)(**inputs)["logits"] for file in (graph[1], tmp_path / "split.onnx")]
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)


def test_large_filters_are_found_and_set_apart(graph: tuple[Any, Path], tmp_path: Path) -> None:
    """Without labels: outputs come nearer to float32."""
    model, file = graph
    (plain, before), (chosen, after) = (
        quantise(file, tmp_path / name, rows=given) for name, given in (("plain", ()), ("chosen", (rows(model),)))
    )
    assert before.distance is None
    assert after.counts["filters apart in each FFN"] == 2
    assert "filters apart" not in before.told
    assert "% of their spread from float32" in after.told
    inputs = rows(model, 16, 9)
    with torch.no_grad():
        expected = model(**inputs).logits
    off = [(OnnxModel(each)(**inputs)["logits"] - expected).square().mean() for each in (plain, chosen)]
    assert off[1] < off[0] / 2


def test_operators_stay_in_float32_beyond_a_distance(graph: tuple[Any, Path], tmp_path: Path) -> None:
    """The nearest are quantised first; the others have 8-bit weights alone, or stay as they are."""
    given = (rows(graph[0]),)
    for place, limit in enumerate((0.005, 1e-5)):
        _, done = quantise(graph[1], tmp_path / str(place), distance=limit, rows=given)
        assert done.distance is not None
        assert done.distance <= limit
        assert done.counts.get("products in 8 bits", 0) < 10
    assert done.counts["operators in float32"] > 10


def test_a_metric_may_lose_no_more_than_allowed(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, run: Calls
) -> None:
    done = run(
        *("export", tiny_checkpoint, "--output", tmp_path / "out", "--quantize", "int8", "--data", tiny_data),
        *("--eval-data", tiny_data, "--max-drop", 0, "--samples", 16),
    )
    assert done.exit_code == 0, done.output
    said = " ".join(done.stderr.split())
    assert "before it was quantised" in said
    assert "Quantised: " in said
    values = [
        fastprune.evaluate(each.model, tiny_data, tokenizer=each.tokenizer, task=each.task)["accuracy"]
        for each in (fastprune.open_pretrained(tiny_checkpoint), open_exported(tmp_path / "out"))
    ]
    assert values[1] >= values[0]


def test_prune_writes_a_quantised_export_beside_the_model(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, run: Calls
) -> None:
    wanted = (
        "prune",
        tiny_checkpoint,
        "--data",
        tiny_data,
        "--budget",
        0.5,
        "--no-bench",
        "--output",
        tmp_path / "small",
    )
    (tmp_path / "small-int8").mkdir()
    (tmp_path / "small-int8" / "mine").touch()
    refused = run(*wanted, "--quantize", "int8")
    assert refused.exit_code == 2, refused.output
    assert "small-int8 exists and is not empty" in " ".join(refused.stderr.split())
    assert not (tmp_path / "small").exists()
    assert "--max-drop is for quantised weights" in run(*wanted, "--max-drop", 1).stderr
    done = run(*wanted, "--quantize", "int4", "--json")
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)["export"]
    assert made["files"] == [str(tmp_path / "small-int4" / "onnx" / "model_q4.onnx")]
    assert made["quantised"]["counts"]["tables in 4 bits"] == 2
    assert open_exported(tmp_path / "small-int4").tokenizer is not None
    assert (tmp_path / "small" / "model.safetensors").exists()


def test_openvino_needs_nncf(
    tiny_checkpoint: Path, tmp_path: Path, run: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "nncf" else found(name))
    done = run("export", tiny_checkpoint, "--output", tmp_path / "out", "--format", "openvino", "--quantize", "int8")
    assert done.exit_code == 2
    assert 'need nncf: pip install "fastprune[nncf]"' in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="the extra nncf is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("weights", "data"), [("int8", True), ("int8", False), ("int4", True)])
def test_openvino_stays_near_the_model(weights: str, data: bool, tmp_path: Path) -> None:
    model = testing.tiny_model()
    asked = Quantize(weights=weights, data=[rows(model)] if data else None)
    plain = export(opened(model), tmp_path / "plain", format="openvino")
    format = strategy("format", "openvino", distance=10.0)
    made = export(opened(model), tmp_path / "out", format=format, quantize=asked)
    assert made.quantised is not None
    assert (
        made.quantised.way == {"int8": "8-bit products", "int4": "4-bit weights"}[weights] if data else "8-bit weights"
    )
    assert made.quantised.counts[f"matrices in {weights[3:]} bits"] >= 8
    sizes = [each.files[1].stat().st_size for each in (made, plain)]
    assert sizes[0] < sizes[1] / 2
    assert {each.name for each in made.directory.iterdir()} == {each.name for each in plain.directory.iterdir()}
    for samples, tokens in ((3, 7), (2, 20)):
        inputs = rows(model, samples, tokens)
        with torch.no_grad():
            expected = model(**inputs).logits
        off = (run_exported(made.directory)(**inputs)["logits"] - expected).square().mean().sqrt() / expected.std()
        assert off < 0.5


@pytest.mark.parametrize("features", [16, 48, 33, 96])
def test_tables_of_any_width(features: int, tmp_path: Path) -> None:
    """In 8 bits and, of even widths, in 4: rows are those of the rounded table."""
    import onnx

    rng = np.random.default_rng(0)
    table = rng.normal(size=(40, features)).astype(np.float32)
    node = onnx.helper.make_node("Gather", ["table", "input_ids"], ["rows"])
    shapes = (("input_ids", onnx.TensorProto.INT64, ["batch", "sequence"]), ("rows", onnx.TensorProto.FLOAT, None))
    inputs, outputs = (onnx.helper.make_tensor_value_info(*each) for each in shapes)
    graph = onnx.helper.make_graph([node], "g", [inputs], [outputs], [onnx.numpy_helper.from_array(table, "table")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    (tmp_path / "onnx").mkdir()
    ids = torch.arange(40).reshape(2, 20)
    for tables, most in (("int8", 0.01), ("int4", 0.01 if features % 2 else 0.12)):
        onnx.save(model, tmp_path / "onnx" / "model.onnx")
        strategy("format", "onnx", tables=tables).quantise(tmp_path, Quantisation(weights="int8"))
        found = OnnxModel(tmp_path / "onnx" / "model_quantized.onnx")(input_ids=ids)["rows"].reshape(40, features)
        assert (found - torch.from_numpy(table)).square().mean().sqrt() < most


def test_a_loss_is_in_points_or_percent() -> None:
    task: Any = type("Task", (), {"lower_is_better": frozenset({"perplexity"})})
    assert drop(task, {"accuracy": 0.75}, {"accuracy": 0.74}) == pytest.approx(1)
    assert drop(task, {"perplexity": 10.0}, {"perplexity": 11.0}) == pytest.approx(10)


@pytest.mark.parametrize("inputs", [64, 37, 8])
@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_of_any_width_round_to_half_a_step(inputs: int, bits: Any) -> None:
    from fastprune.exporting.quantising.rounding import rounded_blocks

    weights = np.random.default_rng(0).normal(size=(inputs, 20)).astype(np.float32)
    weights[:, 3] = 0
    blocks = rounded_blocks(weights, bits)
    step = np.repeat(np.abs(blocks.scales), 32, axis=1)[:, :inputs].T
    clipped = step * ((1 << bits - 1) - 1.5) < np.abs(weights)
    assert (np.abs(blocks.weights - weights) <= step * 0.5001)[~clipped].all()
    assert blocks.packed().shape == (20, -(-inputs // 32), 4 * bits)
    assert (blocks.weights[:, 3] == 0).all()


def test_errors_are_fed_back_toward_the_dense_inputs() -> None:
    """The products' outputs come nearer than by rounding to the nearest, of other tokens too, and of few tokens no further."""
    from fastprune.exporting.quantising.error_feedback import fed_back
    from fastprune.exporting.quantising.rounding import rounded_blocks

    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(48, 48, generator=generator)
    weights = torch.randn(48, 24, generator=generator).numpy()
    fresh = torch.randn(1000, 48, generator=generator) @ mixed
    wrong = fresh + 0.1 * torch.randn(1000, 48, generator=generator)
    for tokens, most in ((2000, 0.75), (12, 1.1)):
        dense = torch.randn(tokens, 48, generator=generator) @ mixed
        seen = dense + 0.1 * torch.randn(tokens, 48, generator=generator)
        blocks = fed_back(weights, (seen.T @ seen).double(), (seen.T @ dense).double(), tokens, 4)
        off = [
            float((wrong @ torch.from_numpy(each) - fresh @ torch.from_numpy(weights)).square().mean())
            for each in (blocks.weights, rounded_blocks(weights, 4).weights)
        ]
        assert off[0] < most * off[1]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--quantize", "int3"), "'int3' is not"),
        (("--data", "DATA"), "--data is for quantised weights; add --quantize int8"),
        (("--quantize", "int8", "--max-drop", "1"), "--max-drop and --eval-data belong together"),
        (("--quantize", "int8", "--eval-data", "DATA"), "--max-drop and --eval-data belong together"),
        (("--quantize", "int8", "--max-drop", "-1", "--eval-data", "DATA"), "takes points, 0 or more; got -1"),
        (("--quantize", "int8", "--max-drop", "1", "--eval-data", "DATA"), "--max-drop needs calibration data"),
        (("--quantize", "int8", "--data", "no/such/file.csv"), "no such file"),
        (("--quantize", "int4"), "int4 needs calibration data, with or without labels: give --data"),
        (("--quantize", "int8", "--format", "torch-export"), "'torch-export' has no quantised weights"),
        (("--quantize", "int8", "--set", "tabels=int4"), "no option 'tabels'; did you mean 'tables'?"),
    ],
)
def test_what_is_asked_for_wrongly(
    asked: tuple[str, ...], says: str, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, run: Calls
) -> None:
    given = [str(tiny_data) if each == "DATA" else each for each in asked]
    done = run("export", tiny_checkpoint, "--output", tmp_path / "out", *given)
    assert done.exit_code == 2, done.output
    assert says in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_what_python_asks_for_wrongly(tmp_path: Path) -> None:
    model = opened(testing.tiny_model())
    with pytest.raises(OptionError, match="quantises weights to int8, int4; got 'int2'"):
        export(model, tmp_path / "out", quantize="int2")
    with pytest.raises(OptionError, match="samples takes an integer"):
        export(model, tmp_path / "out", quantize=Quantize(samples=0))
    with pytest.raises(UsageError, match="no quantised weights"):
        export(model, tmp_path / "out", format="torch-export", quantize="int8")
    assert not list(tmp_path.iterdir())
