"""The forms in which public functions take a model, its architecture and data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fastprune
from clocks import counted
from fastprune import testing
from fastprune.errors import ModelError, UsageError
from fastprune.models.forms import open_any, pretrained_of
from fastprune.models.pretrained import Pretrained
from fastprune.units.toml import to_toml
from fastprune_latency import probe

FORMS = ("module", "pretrained", "path", "text", "result")
QUICK = {"recipe": "paper", "scorer": "magnitude", "rearranger": "none", "tuner": "none", "bench": False}


@pytest.fixture
def opened(tiny_checkpoint: Path) -> Pretrained:
    return fastprune.open_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(params=FORMS)
def model(request: pytest.FixtureRequest, opened: Pretrained, tiny_checkpoint: Path) -> Any:
    """One model in each form; the result is of a pruning that keeps every unit."""
    if request.param == "result":
        return fastprune.prune(opened, testing.tiny_batches(opened.model), budget=1.0, **QUICK)
    given = {"module": opened.model, "pretrained": opened, "path": tiny_checkpoint, "text": str(tiny_checkpoint)}
    return given[request.param]


def test_every_function_takes_every_form(
    model: Any, opened: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None
) -> None:
    monkeypatch.setattr(probe, "take_turns", counted)
    batches = list(testing.tiny_batches(opened.model, samples=12))
    assert fastprune.evaluate(model, batches) == fastprune.evaluate(opened.model, batches)
    assert set(fastprune.fidelity(model, opened, batches).values()) == {1.0}
    assert fastprune.inspect(model, seq_len=8)["groups"] == fastprune.inspect(opened, seq_len=8)["groups"]
    small = fastprune.prune(model, batches, budget=0.5, **QUICK)
    assert small.mask.equals(fastprune.prune(opened, batches, budget=0.5, **QUICK).mask)
    assert fastprune.bench(model, small, batch_size=2, seq_len=8, rounds=1).speedup > 0
    assert fastprune.measure(model, batch_size=2, seq_len=8, rounds=1).total > 0


def test_a_result_is_what_its_saved_model_is(opened: Pretrained, tmp_path: Path) -> None:
    batches = testing.tiny_batches(opened.model, samples=12)
    result = fastprune.prune(opened, batches, budget=0.5, **QUICK)
    again = fastprune.open_pretrained(result.save(tmp_path / "small"), device="cpu")
    assert fastprune.evaluate(result, batches) == fastprune.evaluate(again, batches)
    assert fastprune.inspect(result, seq_len=8) == fastprune.inspect(again, seq_len=8)
    twice = fastprune.prune(result, batches, budget=0.5, **QUICK)
    assert len(twice.history) == 1
    assert twice.mask.equals(fastprune.prune(again, batches, budget=0.5, **QUICK).mask)
    assert pretrained_of(result).tokenizer is opened.tokenizer


def test_an_architecture_is_a_name_a_file_or_an_object(opened: Pretrained, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    known = fastprune.architecture_for(opened.model)
    file.write_text(to_toml(known))
    batches = testing.tiny_batches(opened.model)
    for architecture in (known, "bert", file, str(file)):
        result = fastprune.prune(opened, batches, budget=0.5, architecture=architecture, **QUICK)
        assert result.architecture.stacks == known.stacks
    with pytest.raises(UsageError, match="There is no such file: nosuch.toml"):
        fastprune.prune(opened, batches, budget=0.5, architecture="nosuch.toml")


def test_other_types_are_one_sentence(opened: Pretrained) -> None:
    with pytest.raises(ModelError, match=r"A model is a transformers model, the result of .* got int"):
        open_any(3)  # type: ignore[arg-type]


def test_the_main_cost_of_a_result_is_its_first(opened: Pretrained) -> None:
    result = fastprune.prune(opened, testing.tiny_batches(opened.model), budget={"params": 0.7, "macs": 0.6}, **QUICK)
    first = result.costs[0]
    assert (result.budget, result.measure) == (first["budget"], first["measure"])
    assert (result.cost_before, result.cost_after) == (first["before"], first["after"])
    assert "parameters: " in repr(result)
