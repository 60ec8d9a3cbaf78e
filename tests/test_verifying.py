"""Measured budgets: verified on both models, corrected once, and told where they are missed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import click.testing
import pytest
import torch
from torch import nn

import fastprune
import fastprune_latency.cost
from clocks import counted
from fastprune import strategy, testing
from fastprune.cli.main import main
from fastprune.data import Workload
from fastprune.reports import figures
from fastprune.strategies import Conditions, CostTable, MeasuredCost, MeasuredTable
from fastprune.units import Groups, Mask, resolve_groups
from fastprune_latency import probe


def milliseconds(groups: Groups, rate: float = 1.0) -> CostTable:
    units = {group.name: rate * group.width * torch.arange(group.units + 1.0, dtype=torch.float64) for group in groups}
    return CostTable(measure="ms", groups=units, fixed=4.0, conditions={"batch_size": 2, "seq_len": 8, "device": "cpu"})


@dataclass(frozen=True, kw_only=True)
class Foreseen(MeasuredCost):
    """Units of a pruned model take ``slower`` times as long as its table says."""

    name: ClassVar[str] = "foreseen"
    slower: float = 1.4
    spread: float = 0.0

    def table(self, model: nn.Module, groups: Groups, workload: Workload) -> MeasuredTable:
        raise AssertionError

    def measure(self, model: nn.Module, groups: Groups, workload: Workload) -> CostTable:
        return milliseconds(groups)

    def compare(
        self, dense: nn.Module, pruned: nn.Module, groups: Groups, workload: Workload, conditions: Conditions
    ) -> Mapping[str, list[float]]:
        left = resolve_groups(fastprune.architecture_for(pruned), pruned)
        after = milliseconds(left, self.slower).total if left.items else 4.0
        return {
            "dense": [milliseconds(groups).total * (1 + self.spread * turn) for turn in range(-2, 3)],
            "pruned": [after] * 5,
        }


def pruned(cost: MeasuredCost, **options: Any) -> fastprune.PruningResult:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    batches = testing.tiny_batches(model, samples=16)
    return fastprune.prune(
        model,
        batches,
        budget={"foreseen": 0.5},
        cost=cost,
        scorer="magnitude",
        rearranger="none",
        tuner="none",
        **options,
    )


def test_a_missed_budget_is_searched_again_with_a_corrected_table() -> None:
    hoped = pruned(Foreseen(), bench=False)
    assert "measured" not in hoped.costs[0]
    said: list[str] = []
    result = pruned(Foreseen(), progress=lambda description, *_: said.append(description))
    assert "searching again, because the measured cost missed the budget" in said
    (cost,) = result.costs
    assert cost["measured"]["after"] == pytest.approx(cost["after"], rel=1e-3)  # as the corrected table predicts
    assert 0.4 < cost["measured"]["after"] / cost["before"] <= 0.5
    assert sum(result.mask.counts().values()) < sum(hoped.mask.counts().values())
    assert result.latency["speedup"] == result.latency["dense"] / result.latency["pruned"]
    assert (result.latency["batch_size"], result.latency["seq_len"]) == (2, 8)
    assert result.missed == []
    assert figures.target(cost).startswith("foreseen: requested 2.00 times as fast, measured 2.")


def test_a_met_budget_is_not_searched_again() -> None:
    one, other = pruned(Foreseen(slower=1.0)), pruned(Foreseen(slower=1.0), bench=False)
    assert one.mask.equals(other.mask)


def test_a_restless_machine_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fastprune"):
        pruned(Foreseen(slower=1.0, spread=0.2))
    assert "Repeated measurements of the foreseen differ by 60 %: another program is using this machine" in caplog.text


def test_the_command_says_what_was_requested_and_measured_saves_and_exits_with_3(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None
) -> None:
    monkeypatch.setattr(probe, "take_turns", counted)
    compared: list[str] = []

    def compare(*_: Any) -> dict[str, list[float]]:
        compared.append("once")
        return {"dense": [300.0, 300.0], "pruned": [200.0, 200.0]}

    monkeypatch.setattr(fastprune_latency.cost.LatencyCost, "compare", compare)
    asked = ["prune", tiny_checkpoint, "--data", tiny_data, "--output", tmp_path / "out", "--budget", "latency=0.95"]
    more = ["--recipe", "paper", "--tuner", "none", "--json"]

    def run(*arguments: object) -> click.testing.Result:
        return click.testing.CliRunner().invoke(main, [str(each) for each in arguments])

    result = run(*asked, *more)
    assert result.exit_code == 0, result.output
    assert "latency: requested 1.05 times as fast, measured 1.50 times (300 to 200 ms)." in result.stderr
    asked[5:] = [tmp_path / "missed", "--budget", "latency=0.6"]
    compared.clear()
    result = run(*asked, *more)
    assert result.exit_code == 3, result.output
    assert len(compared) == 2
    assert "requested 1.67 times as fast, measured 1.50 times" in result.stderr
    assert "The requested speed is not reached" in result.stderr
    assert json.loads(result.stdout)["costs"][0]["measured"]["after"] == 200
    assert fastprune.load(tmp_path / "missed") is not None
    asked[5:] = [tmp_path / "hoped", "--budget", "latency=0.6", "--no-bench"]
    result = run(*asked, *more)
    assert result.exit_code == 0, result.output
    assert "predicted 1.69 times; not verified" in result.stderr


def test_latency_is_compared_under_the_conditions_of_the_table(
    monkeypatch: pytest.MonkeyPatch, own_cache: None
) -> None:
    monkeypatch.setattr(probe, "take_turns", counted)
    monkeypatch.setattr(fastprune_latency.cost, "take_turns", counted)
    model = testing.tiny_model("bert")
    groups, workload = (
        resolve_groups(fastprune.architecture_for(model), model),
        Workload.of(testing.tiny_batches(model)),
    )
    cost = strategy("cost", "latency", batch_size=2, rounds=1)
    table = cost.table(model, groups, workload).costs(groups)
    half = {group.name: group.units // 2 for group in groups}
    small = fastprune.materialize(model, groups, Mask.first(groups, half)).eval()
    times = cost.compare(model, small, groups, workload, table.conditions)
    assert times["dense"][0] == pytest.approx(table.total)
    assert times["pruned"][0] == pytest.approx(table.of(half))
    assert cost.compare(model, small, groups, workload, {**table.conditions, "device_name": "another"}) == {}
