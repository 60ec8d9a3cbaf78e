"""The whole way on a real checkpoint: prune, save, load, evaluate on data that calibration never saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fastprune
from fastprune import make_batches, open_pretrained


@pytest.mark.slow
def test_mrpc_at_seven_tenths_keeps_its_accuracy(tiny_shared: Path, tmp_path: Path) -> None:
    opened = open_pretrained(tiny_shared / "models" / "minilm-l6-mrpc", device="cpu")
    data = tiny_shared / "data" / "mrpc"
    assert opened.tokenizer is not None
    train = make_batches(data / "train.tsv", opened.task, opened.tokenizer, samples=256)
    test = make_batches(data / "test.tsv", opened.task, opened.tokenizer, samples=500)

    result = fastprune.prune(opened, train, budget=0.7)
    loaded = fastprune.load(result.save(tmp_path / "pruned", dtype="float32"))  # the checkpoint is of float16

    assert result.cost_after <= 0.7 * result.cost_before
    batch = fastprune.data.model_inputs(test.batches[0], test.task)
    with torch.no_grad():
        assert torch.equal(result.model(**batch).logits, loaded(**batch).logits)
        assert not torch.allclose(opened.model(**batch).logits, loaded(**batch).logits, atol=1e-3)
    dense = fastprune.evaluate(opened.model, test)["accuracy"]
    assert fastprune.evaluate(loaded, test)["accuracy"] > dense - 0.04
