"""Several threads prune at once, and a model whose pruning fails is left as it was found."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.calibration import frozen
from fastprune.testing.guards import state_of


def test_threads_prune_one_model_as_one_thread_does() -> None:
    model = testing.tiny_model("bert")
    batches = testing.tiny_batches(model)
    before = state_of(model)

    def pruned(_: int) -> dict[str, torch.Tensor]:
        result = fastprune.prune(model, batches, budget=0.6, recipe="paper", bench=False)
        assert all(each.requires_grad for each in result.model.parameters())
        return dict(result.model.state_dict())

    expected = pruned(0)
    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(pruned, range(3)):
            assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert state_of(model) == before


def test_frozen_in_two_threads_is_thawed() -> None:
    model = testing.tiny_model("bert").train()
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with frozen(model):
            entered.set()
            leave.wait(10)

    def second() -> None:
        entered.wait(10)
        leave.set()
        with frozen(model):
            assert not model.training

    with ThreadPoolExecutor(2) as threads:
        for each in [threads.submit(first), threads.submit(second)]:
            each.result()
    assert model.training
    assert all(each.requires_grad for each in model.parameters())


@pytest.mark.parametrize("stage", ["cost", "scorer", "searcher", "tuner"])
def test_a_failed_pruning_leaves_the_model_as_it_was(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = testing.tiny_model("llama", "ForCausalLM").train()
    model.model.embed_tokens.weight.requires_grad_(False)
    names = {"cost": "macs", "scorer": "fisher", "searcher": "knapsack", "tuner": "weights"}
    methods = {"cost": "measure", "scorer": "score", "searcher": "search", "tuner": "tune"}
    strategy = fastprune.strategy(stage, names[stage])
    real = getattr(type(strategy), methods[stage])

    def fails(*arguments: Any, **keywords: Any) -> None:
        real(*arguments, **keywords)
        raise ZeroDivisionError

    monkeypatch.setattr(type(strategy), methods[stage], fails)
    before = state_of(model)
    with pytest.raises(ZeroDivisionError):
        fastprune.prune(model, testing.tiny_batches(model), budget=0.6, bench=False, **{stage: strategy})
    assert state_of(model) == before
    assert model.config.use_cache
