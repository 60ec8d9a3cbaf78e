"""The format openvino: the same outputs as PyTorch with an emptied sublayer, and a decoder's cache in the runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from fastprune.errors import ModelError
from fastprune.exporting.agreement import difference, example_inputs
from fastprune.exporting.export import export
from fastprune.exporting.opening import run_exported
from test_servers import opened

openvino = pytest.importorskip("openvino")


def test_an_encoder_at_any_shape(tmp_path: Path) -> None:
    """In the place that sentence-transformers reads, beside a stock configuration."""
    model = opened("bert", "ForSequenceClassification", pruned=True)
    made = export(model, tmp_path / "out", format="openvino")
    assert made.files == (tmp_path / "out/openvino/openvino_model.xml", tmp_path / "out/openvino/openvino_model.bin")
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert not hasattr(config, "fastprune")
    exported = run_exported(tmp_path / "out", threads=1)
    for shape in ((4, 7), (2, 20)):
        assert difference(exported, model.model, example_inputs(model, *shape)) < 1e-5
    (tmp_path / "out/openvino/openvino_model.xml").write_text("nothing")
    with pytest.raises(ModelError, match=r"openvino_model.xml cannot be opened"):
        run_exported(tmp_path / "out")


def test_a_decoder_continues_the_samples_that_beam_search_chooses(tmp_path: Path) -> None:
    model = opened("llama", "ForCausalLM", pruned=True)
    made = export(model, tmp_path / "out", format="openvino")
    assert made.inputs == ("input_ids", "attention_mask")
    assert made.outputs == ("logits",)
    assert made.difference is not None
    assert made.difference < 1e-5
    request = (
        openvino.Core().compile_model(made.files[0], "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    )
    tokens = torch.tensor([[5, 9, 11], [7, 8, 30]])
    ones = np.ones((2, 3), dtype=np.int64)
    first = {
        "attention_mask": ones,
        "position_ids": np.tile(np.arange(3), (2, 1)),
        "beam_idx": np.arange(2, dtype=np.int32),
    }
    request.infer({"input_ids": tokens.numpy(), **first})
    following = torch.tensor([[4], [6]])
    found = request.infer(
        {
            "input_ids": following.numpy(),
            "attention_mask": np.ones((2, 4), dtype=np.int64),
            "position_ids": np.full((2, 1), 3),
            "beam_idx": np.array([1, 1], dtype=np.int32),  # both continue the second
        }
    )
    with torch.no_grad():
        expected = model.model(input_ids=torch.cat([tokens[[1, 1]], following], 1)).logits[:, -1:]
    torch.testing.assert_close(torch.from_numpy(found["logits"].copy()), expected, atol=1e-5, rtol=1e-4)
