"""From a latency budget to the proof: prune to it, and time both models side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest
import torch
from torch import nn

import fastprune
from fastprune import UsageError, strategy, testing
from fastprune.data import Workload
from fastprune.errors import BudgetError, ModelError, TableError
from fastprune.measuring.memory import peak_bytes, weight_bytes
from fastprune.strategies import MeasuredTable
from fastprune.units import resolve_groups

pytestmark = pytest.mark.usefixtures("own_cache")

Run = Callable[..., click.testing.Result]


@pytest.fixture
def table_file(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A table with made-up times, of two sorts: 1 ms fixed, 1 ms a head, 0.25 ms a filter."""
    opened = fastprune.open_pretrained(tiny_checkpoint, device="cpu")
    table = fastprune.measure(opened, batch_size=2, seq_len=8, rounds=1)
    path = table.save(tmp_path / "table.json")
    data = json.loads(path.read_text())
    data["fixed"] = 1.0
    for curve in data["curves"]:
        rate = 1.0 if curve["kind"] == "attention" else 0.25
        curve["cost"] = [rate * kept for kept in curve["kept"]]
    path.write_text(json.dumps(data))
    return path


DENSE_MS = 1 + 2 * (4 + 6)


def prune(run: Run, checkpoint: Path, data: Path, output: Path, *more: object) -> click.testing.Result:
    return run(
        "prune", checkpoint, "--data", data, "--output", output, "--json", "--no-bench", "--batch-size", 4, *more
    )


@pytest.mark.parametrize(
    ("asked", "share"),
    [
        (("--speedup", 2), 0.5),
        (("--budget", "latency=6ms"), 6 / DENSE_MS),
        (("--budget", "latency=0.4"), 0.4),
        (("--budget", "latency=9ms"), 9 / DENSE_MS),
        (("--budget", "0.7", "--cost", "latency"), 0.7),
        (("--budget", "latency=1000ms"), 1.0),
    ],
)
def test_a_latency_asked_for_in_any_words(
    run: Run,
    tiny_checkpoint: Path,
    tiny_data: Path,
    tmp_path: Path,
    table_file: Path,
    asked: tuple[object, ...],
    share: float,
) -> None:
    result = prune(run, tiny_checkpoint, tiny_data, tmp_path / "out", "--set", f"cost.table_file={table_file}", *asked)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    (cost,) = summary["costs"]
    assert (cost["name"], cost["measure"], cost["before"]) == ("latency", "ms", DENSE_MS)
    assert cost["budget"] == pytest.approx(share)
    assert 0.7 * share <= cost["after"] / DENSE_MS <= share + 1e-9
    assert cost["conditions"]["batch_size"] == 2


def test_several_budgets_are_all_kept(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, table_file: Path
) -> None:
    asked = (
        "--set",
        f"cost.table_file={table_file}",
        "--speedup",
        1.5,
        "--budget",
        "params=0.8,macs=0.6",
        "--schedule",
        "rounds",
    )
    result = prune(run, tiny_checkpoint, tiny_data, tmp_path / "out", *asked)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert [cost["name"] for cost in summary["costs"]] == ["latency", "params", "macs"]
    for cost in summary["costs"]:
        assert cost["after"] <= cost["budget"] * cost["before"] * (1 + 1e-9)
    assert max(cost["after"] / cost["before"] / cost["budget"] for cost in summary["costs"]) > 0.9
    assert summary["costs"][0]["budget"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ((), "Give a budget: --budget 0.5, --budget latency=3.5ms or --speedup 2."),
        (("--speedup", 0.5), "--speedup must be 1 or more; got 0.5"),
        (("--speedup", 1000), "with every unit pruned 0.0476 (1) is left"),
        (("--budget", "latency=0.5ms"), "The budget of 0.0238 of the ms (0.5) cannot be met"),
        (("--budget", "latency=-1ms"), "no number"),
        (("--speedup", 2, "--budget", 0.5), "cannot be combined with --speedup"),
        (("--speedup", 2, "--budget", "latency=3ms"), "may be named once"),
        (("--budget", "latency=3.5s"), "is for a cost in ms"),
        (("--budget", "lattency=0.5"), "did you mean 'latency'"),
        (("--speedup", 2, "--set", "cost.batch_size=3"), "batch_size is 2 in the table and 3 here"),
        (("--budget", "0.5", "--cost", "macs"), "has no option 'table_file'"),
    ],
)
def test_bad_input(
    run: Run,
    tiny_checkpoint: Path,
    tiny_data: Path,
    tmp_path: Path,
    table_file: Path,
    asked: tuple[object, ...],
    says: str,
) -> None:
    result = prune(run, tiny_checkpoint, tiny_data, tmp_path / "out", "--set", f"cost.table_file={table_file}", *asked)
    assert result.exit_code == (3 if "left" in says or "met" in says else 2), result.output
    assert says in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_broken_table_is_refused(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, table_file: Path
) -> None:
    table_file.write_text(table_file.read_text()[:500])
    result = prune(
        run, tiny_checkpoint, tiny_data, tmp_path / "out", "--set", f"cost.table_file={table_file}", "--speedup", 2
    )
    assert result.exit_code == 2
    assert "is broken" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_latency_takes_a_searcher_for_any_table_unless_one_is_named(tiny_checkpoint: Path) -> None:
    from fastprune import Recipe

    assert Recipe.of("paper", cost="latency").searcher.name == "knapsack"
    assert Recipe.of("paper", cost=strategy("cost", "latency")).searcher.name == "knapsack"
    assert Recipe.of("paper", cost="latency", searcher="piecewise").searcher.name == "piecewise"
    assert Recipe.of("paper", cost="params").searcher.name == "exact"


def test_bench_of_what_was_pruned_to_a_latency(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, table_file: Path
) -> None:
    small = tmp_path / "small"
    prune(run, tiny_checkpoint, tiny_data, small, "--set", f"cost.table_file={table_file}", "--speedup", 4)
    result = run("bench", tiny_checkpoint, small, "--json", "--rounds", 3, "--device", "cpu")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["batch_size"], figures["seq_len"]) == (2, 8)
    assert figures["dense"]["predicted_milliseconds"] == DENSE_MS
    assert figures["predicted_speedup"] >= 4
    assert figures["speedup"] > 0
    for side in (figures["dense"], figures["pruned"]):
        median = side["milliseconds"]["median"]
        assert side["milliseconds"]["lower_quartile"] <= median <= side["milliseconds"]["upper_quartile"]
        assert side["samples_per_second"] == pytest.approx(2000 / median)
    assert figures["pruned"]["weight_bytes"] < figures["dense"]["weight_bytes"]
    assert figures["pruned"]["peak_bytes"] <= figures["dense"]["peak_bytes"]

    elsewhere = run("bench", tiny_checkpoint, small, "--batch-size", 1, "--rounds", 2, "--device", "cpu")
    assert elsewhere.exit_code == 0, elsewhere.output
    assert "1 x 8 tokens, 2 rounds" in elsewhere.stderr
    assert "predicted" not in elsewhere.stderr
    with_table = run("bench", tiny_checkpoint, small, "--latency-table", table_file, "--rounds", 2, "--device", "cpu")
    assert "predicted" in with_table.stderr
    wrong = run("bench", tiny_checkpoint, small, "--latency-table", table_file, "--seq-len", 9, "--device", "cpu")
    assert "seq_len is 8 in the table and 9 here" in " ".join(wrong.stderr.split())


def test_peak_memory_is_what_is_held_at_once() -> None:
    class Two(nn.Module):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            first = torch.zeros(1000, 1000)  # 4 MB, and another at the same time
            second = first + 1
            del first
            third = torch.zeros(250, 1000)  # 1 MB, when the first is gone
            return second.sum() + third.sum()

    model = Two()
    model.weight = nn.Parameter(torch.zeros(10, 10))
    assert 8_000_000 <= peak_bytes(model, {"input_ids": torch.ones(1)}) < 8_100_000
    assert weight_bytes(model) == 400


def test_bench_refuses_what_cannot_be_compared(table_file: Path) -> None:
    model = testing.tiny_model()
    with pytest.raises(TableError, match="batch_size is 2 in the table and 4 here"):
        fastprune.bench(model, model, batch_size=4, seq_len=8, table=MeasuredTable.read(table_file))
    with pytest.raises(TableError, match="another model"):
        fastprune.bench(model, model, batch_size=2, seq_len=8, table=MeasuredTable.read(table_file))
    with pytest.raises(UsageError, match="cannot be run with the attention kernel telepathy"):
        fastprune.bench(model, model, seq_len=8, attention="telepathy")
    with pytest.raises(ModelError, match="takes at most 64 tokens"):
        fastprune.bench(model, model, seq_len=65)
    assert model.config._attn_implementation == "sdpa"


def test_units_are_checked_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastprune_latency.cost.LatencyCost.table", None)
    model = testing.tiny_model()
    for budget, unit in (("latency=3parsecs", "ms"), ("macs=3ms", "MACs"), ({"params": "3ms"}, "parameters")):
        with pytest.raises(BudgetError, match=f"is for a cost in {unit}; say 3{unit}"):
            fastprune.prune(model, testing.tiny_batches(model), budget=budget)
    with pytest.raises(BudgetError, match="is for a cost in MACs"):
        fastprune.prune(model, testing.tiny_batches(model), budget="3 ms")


def test_amounts_through_python(tiny_checkpoint: Path, tiny_data: Path, table_file: Path) -> None:
    opened = fastprune.open_pretrained(tiny_checkpoint, device="cpu")
    cost = strategy("cost", "latency", table_file=str(table_file))
    asked = {"latency": "8ms", "params": 0.9}
    # not timed: a busy machine would correct the table
    result = fastprune.prune(opened, str(tiny_data), budget=asked, cost=cost, bench=False)
    assert result.cost_after <= 8
    assert [each["name"] for each in result.costs] == ["latency", "params"]
    groups = resolve_groups(fastprune.architecture_for(result.model), result.model)
    table = cost.measure(result.model, groups, Workload.dummy(result.model, 8))
    assert table.total == pytest.approx(result.cost_after)
    with pytest.raises(BudgetError, match="at most 1"):
        fastprune.prune(opened, str(tiny_data), budget={"latency": 1.2}, cost=cost)
