"""Budgets in megabytes: the saved directory, tokenizer and configuration included, keeps them on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.errors import BudgetError, UnreachableError
from fastprune.strategies.budgets import read_budget


def sizable(folder: Path, tokenizer: Any, dtype: str = "float32", head: str = "ForSequenceClassification") -> Path:
    """A model of 0.7 million parameters, most of them in filters, with a tokenizer."""
    sizes = {"hidden_size": 128, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = testing.tiny_model("bert", head, vocab_size=len(tokenizer), **sizes)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def on_disk(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("text", "number"), [("25MB", 25e6), ("0.5 GB", 5e8), ("900kb", 9e5), ("2MiB", 2 * 2**20), ("77B", 77)]
)
def test_sizes_are_read_in_bytes(text: str, number: float) -> None:
    request = read_budget(f"size={text}")["size"]
    assert (request.number, request.unit) == (number, "bytes")


def test_a_size_is_no_latency(tiny_checkpoint: Path) -> None:
    with pytest.raises(BudgetError, match="The budget of 3 MB is for a cost in ms"):
        fastprune.prune(tiny_checkpoint, "nowhere.csv", budget="latency=3MB")


def test_more_than_the_model_can_lose_is_refused(tiny_checkpoint: Path, tiny_data: Path) -> None:
    with pytest.raises(UnreachableError, match="cannot be met"):
        fastprune.prune(tiny_checkpoint, str(tiny_data), budget="size=10kB", bench=False)


@pytest.mark.parametrize(("dtype", "budget"), [("float32", "size=1.5MB"), ("float16", "size=0.6")])
def test_the_directory_keeps_the_budget_on_disk(
    tmp_path: Path, tiny_tokenizer: Any, tiny_data: Path, dtype: str, budget: str
) -> None:
    model = sizable(tmp_path / "dense", tiny_tokenizer, dtype)
    whole = on_disk(model)
    most = 1.5e6 if "MB" in budget else 0.6 * whole
    result = fastprune.prune(model, str(tiny_data), budget=budget, recipe="paper", bench=False)
    assert result.cost_before == pytest.approx(whole, rel=0.01)
    saved = on_disk(result.save(tmp_path / "small"))
    assert saved <= most
    assert saved >= most - 250_000  # little is left over: what is set aside for the report and the manifest
    assert saved <= result.cost_after <= result.cost_before * result.budget


def test_a_size_and_other_costs_are_all_kept(tmp_path: Path, tiny_tokenizer: Any, tiny_data: Path) -> None:
    model = sizable(tmp_path / "dense", tiny_tokenizer)
    result = fastprune.prune(model, str(tiny_data), budget={"macs": 0.4, "size": "5MB"}, recipe="paper", bench=False)
    macs, size = result.costs
    assert macs["after"] <= 0.4 * macs["before"]
    assert on_disk(result.save(tmp_path / "small")) <= size["after"] <= 5e6
