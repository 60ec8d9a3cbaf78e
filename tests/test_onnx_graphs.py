"""Fused graphs: one attention operator per layer, the same outputs under any padding, and the exporter's graph for other models."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import modeling_utils

import fastprune
from fastprune import Pretrained, strategy, testing
from fastprune.exporting.attention import attention_as_one_operator
from fastprune.exporting.export import export
from fastprune.exporting.onnx import OnnxModel
from test_elsewhere import _pruned

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="the extra onnx is not installed",
)


def opened(model: Any) -> Pretrained:
    return Pretrained(model=model, tokenizer=None, task=fastprune.task_for(model.config, type(model)), source="")


def operators(file: Path) -> Counter[str]:
    import onnx

    graph = onnx.load(file)
    assert {each.domain for each in graph.opset_import} <= {"", "com.microsoft"}
    return Counter(each.op_type for each in graph.graph.node)


def padded(side: str, tokens: int = 9) -> dict[str, torch.Tensor]:
    """Three texts, padded on the left or on the right."""
    lengths = torch.tensor([tokens, 4, 1])
    places = torch.arange(tokens)
    mask = places >= tokens - lengths[:, None] if side == "left" else places < lengths[:, None]
    ids = torch.randint(3, 64, mask.shape, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": mask.long()}


@pytest.mark.parametrize(
    ("family", "head", "products"),
    [
        ("bert", "ForSequenceClassification", 9),  # four a layer; the last queries, of the first token only, apart
        ("roberta", "ForTokenClassification", 9),  # the head
        ("distilbert", "ForSequenceClassification", 9),
        ("albert", "ForQuestionAnswering", 10),  # the embedding's projection, the head
        ("modernbert", "Model", 8),
    ],
)
def test_attentions_are_single_operators(family: str, head: str, products: int, tmp_path: Path) -> None:
    """Of dense models: as many as layers run; q, k and v by one product."""
    model = testing.tiny_model(family, head)
    made = export(opened(model), tmp_path / "out")
    assert not made.remark
    found = operators(made.files[0])
    assert found["MultiHeadAttention"] == 2
    assert found["Softmax"] == found["IsNaN"] == 0
    assert found["MatMul"] == products
    assert found["Sum"] >= 4  # in front of every norm, so that onnxruntime does not fuse both
    if family != "modernbert":
        assert found["Transpose"] == found["Reshape"] == 0
    exported = OnnxModel(made.files[0])
    for side in ("left", "right"):
        inputs = padded(side)
        with torch.no_grad():
            expected = model(**inputs)
        for name, each in exported(**inputs).items():
            real = inputs["attention_mask"].bool() if each.ndim > 1 and each.shape[1] == 9 else slice(None)
            torch.testing.assert_close(each[real], expected[name][real], atol=1e-5, rtol=1e-4)


def test_heads_are_those_of_the_layer(tmp_path: Path) -> None:
    """Of a pruned model with an emptied attention and an emptied FFN; the other attention has 2 of 4 heads."""
    import onnx

    model, _ = _pruned("bert", "ForSequenceClassification")
    made = export(opened(model), tmp_path / "out")
    assert made.difference is not None
    assert made.difference < 1e-5
    graph = onnx.load(made.files[0]).graph
    attentions = [each for each in graph.node if each.op_type == "MultiHeadAttention"]
    heads = [attribute.i for each in attentions for attribute in each.attribute if attribute.name == "num_heads"]
    layers = [layer.attention.self for layer in model.bert.encoder.layer]
    assert heads == [each.num_attention_heads for each in layers if hasattr(each, "query")] != [4, 4]


def test_the_exporters_graph_has_standard_operators(tmp_path: Path) -> None:
    made = export(opened(testing.tiny_model()), tmp_path / "out", format=strategy("format", "onnx", graph="exporter"))
    assert not made.remark
    found = operators(made.files[0])
    assert found["MultiHeadAttention"] == 0
    assert found["Softmax"] == 2


def test_other_attentions_are_written_by_the_exporter(tmp_path: Path) -> None:
    """And that is said."""
    made = export(opened(testing.tiny_model("mpnet", "Model")), tmp_path / "out")
    assert "standard operators only" in made.remark
    assert "MPNetModel" in made.remark
    assert operators(made.files[0])["MultiHeadAttention"] == 0


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_the_model_is_left_as_it_was(before: str) -> None:
    """Also after an error."""
    model = testing.tiny_model()
    model.set_attn_implementation(before)
    functions = modeling_utils.ALL_ATTENTION_FUNCTIONS
    sdpa = functions["sdpa"]
    with pytest.raises(KeyError), attention_as_one_operator(model):
        assert functions["sdpa"] is not sdpa
        raise KeyError
    assert functions["sdpa"] is sdpa
    assert model.config._attn_implementation == before
