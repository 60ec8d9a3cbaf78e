"""Sweeps: curves, fronts and knees; what an interruption leaves, and that nothing is done twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import click.testing
import pytest
import torch

import fastprune
from fastprune import Recipe, Sweep, UsageError, testing
from fastprune.cli.main import main
from fastprune.errors import BudgetError, UnreachableError
from fastprune.models.pretrained import Pretrained
from fastprune.pipeline import sweeps
from fastprune.pipeline.curves import Run
from fastprune.strategies.budgets import read_budgets

RECIPES = {"default": Recipe.of("default"), "paper": Recipe.of("paper")}


def a_sweep(*points: tuple[str, float, float], dense: float = 0.9, falling: bool = False) -> Sweep:
    runs = [Run(recipe=r, budget=c, seed=0, cost=c, metrics={"m": v}, seconds=1.0) for r, c, v in points]
    dense_metrics = {"m": dense}
    return Sweep(about={"recipes": {}}, metric="m", falling=falling, dense=dense_metrics, measure="MACs", runs=runs)


@pytest.fixture
def opened():
    model = testing.tiny_model("bert", "ForSequenceClassification")
    batches = testing.tiny_batches(model, samples=16)
    assert batches.task is not None
    return Pretrained(model=model, tokenizer=None, task=batches.task, source="tiny")


def sets(opened: Pretrained):
    return lambda seed: testing.tiny_batches(opened.model, samples=16 + seed)


def test_the_front_is_what_nothing_beats() -> None:
    found = a_sweep(("a", 0.9, 0.90), ("a", 0.5, 0.80), ("b", 0.5, 0.85), ("b", 0.4, 0.86), ("a", 0.2, 0.5))
    assert [(p.recipe, p.budget) for p in found.front()] == [("a", 0.2), ("b", 0.4), ("a", 0.9)]


def test_the_knee_is_where_it_starts_to_cost() -> None:
    found = a_sweep(("a", 0.9, 0.90), ("a", 0.7, 0.899), ("a", 0.5, 0.89), ("a", 0.3, 0.7), ("a", 0.2, 0.5))
    knee = found.knee()
    assert knee is not None
    assert knee.budget == 0.5
    assert found.sentence(knee) == "0.5 of the MACs costs 1.0 points of m"
    assert a_sweep(("a", 0.9, 0.9), ("a", 0.5, 0.8)).knee() is None


def test_less_is_better_of_some_metrics() -> None:
    found = a_sweep(("a", 0.9, 20.0), ("a", 0.5, 25.0), ("b", 0.5, 24.0), dense=20.0, falling=True)
    assert [(p.recipe, p.drop) for p in found.front()] == [("b", pytest.approx(20.0)), ("a", 0.0)]


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("0.9:0.2:0.1", [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]),
        ("0.3:0.5:0.1", [0.3, 0.4, 0.5]),
        ("0.5,0.25,0.5", [0.5, 0.25]),
    ],
)
def test_budgets(text: str, budgets: list[float]) -> None:
    assert read_budgets(text) == pytest.approx(budgets)


@pytest.mark.parametrize("text", ["", "half", "0.9:0.2", "0.9:0.2:0", "1.5,0.5", "0:1:0.5"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(BudgetError):
        read_budgets(text)


def test_a_sweep_is_the_separate_prunings(opened: Pretrained, tmp_path: Path) -> None:
    tests = testing.tiny_batches(opened.model, samples=20)
    found = fastprune.sweep(
        opened, sets(opened), tests, budgets=[0.8, 0.5], recipes=RECIPES, seeds=[0, 1], folder=tmp_path / "s"
    )
    assert len(found.runs) == 8
    for run in found.runs:
        alone = fastprune.prune(
            opened, sets(opened)(run.seed), budget=run.budget, recipe=RECIPES[run.recipe], seed=run.seed
        )
        assert run.cost == alone.cost_after / alone.cost_before
        assert run.metrics == pytest.approx(fastprune.evaluate(alone.model, tests), abs=1e-6)
    rows = list(csv.DictReader((tmp_path / "s" / "sweep.csv").read_text().splitlines()))
    assert [row["recipe"] for row in rows] == ["dense"] + [run.recipe for run in found.runs]
    assert Sweep.read(tmp_path / "s" / "sweep.json") == found
    assert (tmp_path / "s" / "sweep.png").stat().st_size > 5000
    assert "<svg" in (tmp_path / "s" / "sweep.svg").read_text()


def test_an_interrupted_sweep_goes_on(opened: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests, done = testing.tiny_batches(opened.model, samples=20), []
    prune = sweeps.prune

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(options["budget"])
        return prune(*arguments, **options)

    monkeypatch.setattr(sweeps, "prune", interrupted)
    call = {"budgets": [0.8, 0.6, 0.4], "recipes": RECIPES, "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        fastprune.sweep(opened, sets(opened), tests, **call)
    assert len(Sweep.read(tmp_path / "sweep.json").runs) == 3
    done[:] = []
    monkeypatch.setattr(sweeps, "prune", lambda *a, **o: (done.append(o["budget"]), prune(*a, **o))[1])
    scored = []
    score = type(RECIPES["default"].scorer).score
    monkeypatch.setattr(
        type(RECIPES["default"].scorer), "score", lambda self, *a: (scored.append(1), score(self, *a))[1]
    )
    found = fastprune.sweep(opened, sets(opened), tests, **call)
    assert len(done) == 3
    assert not scored  # they were kept
    assert len(found.runs) == 6
    whole = fastprune.sweep(opened, sets(opened), tests, budgets=[0.8, 0.6, 0.4], recipes=RECIPES)
    key = lambda run: (run.recipe, run.budget, run.cost, dict(run.metrics))  # noqa: E731
    assert [key(run) for run in found.runs] == [key(run) for run in whole.runs]


def test_a_folder_of_something_else_is_refused(opened: Pretrained, tmp_path: Path) -> None:
    tests = testing.tiny_batches(opened.model, samples=8)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no sweep"):
        fastprune.sweep(opened, sets(opened), tests, budgets=[0.5], folder=tmp_path)
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(UsageError, match="is no sweep that could go on"):
        fastprune.sweep(opened, sets(opened), tests, budgets=[0.5], folder=tmp_path)
    other = tmp_path / "other"
    fastprune.sweep(opened, sets(opened), tests, budgets=[0.5], folder=other)
    with pytest.raises(UsageError, match="has eval samples 8, not 9, eval batches 1, not 2, eval contents"):
        fastprune.sweep(
            opened, sets(opened), testing.tiny_batches(opened.model, samples=9), budgets=[0.5], folder=other
        )
    with pytest.raises(
        UsageError,
        match=r"calibration set of the sweep in .* has samples 16, not 17, .*; repeat the first",
    ):
        fastprune.sweep(opened, lambda _: sets(opened)(1), tests, budgets=[0.4], folder=other)
    changed = {"default": Recipe.of("default", tuner="none")}
    with pytest.raises(UsageError, match="A recipe of the sweep in .* has changed"):
        fastprune.sweep(opened, sets(opened), tests, budgets=[0.4], recipes=changed, folder=other)
    with pytest.raises(UsageError, match="no metric 'bleu' for this task; there are accuracy"):
        fastprune.sweep(opened, sets(opened), tests, budgets=[0.5], metric="bleu", folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("dtype", "has weights .*, dtype float32, not float64"),
        ("weights", "has weights .*, not "),
        ("batch size", "calibration set .* batches 2, not 4, contents"),
        ("contents", "calibration set .* has contents .*, not "),
        ("evaluation", "has eval contents .*, not "),
    ],
)
def test_a_resumed_sweep_with_other_settings_is_refused(change: str, says: str, tmp_path: Path) -> None:
    def call(change: str) -> None:
        model = testing.tiny_model()
        batches = testing.tiny_batches(model, samples=16, batch_size=4 if change == "batch size" else 8)
        tests = testing.tiny_batches(model, samples=8, seed=int(change == "evaluation"))
        if change == "contents":
            batches.batches[0]["input_ids"][0, 0] += 1
        elif change == "weights":
            with torch.no_grad():
                next(model.parameters()).view(-1)[0] += 1e-3
        model = model.double() if change == "dtype" else model
        task = fastprune.task_for(model.config, type(model))
        opened = Pretrained(model=model, tokenizer=None, task=task, source="tiny")
        recipes = {"paper": Recipe.of("paper", tuner="none")}
        fastprune.sweep(opened, lambda _: batches, tests, budgets=[0.5], recipes=recipes, folder=tmp_path / "sweep")

    call("")
    call("")
    with pytest.raises(UsageError, match=says):
        call(change)


def test_recipes_of_different_costs_share_the_default_presets_cost(opened: Pretrained, tmp_path: Path) -> None:
    paper = {"scorer": "magnitude", "rearranger": "none", "tuner": "none"}
    recipes = {"macs": Recipe.of("paper", **paper), "params": Recipe.of("paper", cost="params", **paper)}
    tests = testing.tiny_batches(opened.model)
    call = {"budgets": [0.5], "recipes": recipes, "folder": tmp_path}
    found = fastprune.sweep(opened, sets(opened), tests, **call)
    assert (found.about["cost"], found.measure) == ("macs", "MACs")
    for run in found.runs:
        alone = fastprune.prune(opened, sets(opened)(0), budget=0.5, recipe=recipes[run.recipe])
        counted = [group["kept"] for group in fastprune.inspect(alone, seq_len=8)["groups"]]
        assert [group["kept"] for group in alone.kept()] == counted
        share = fastprune.inspect(alone, seq_len=alone.calibration["tokens"] // 16)["macs"]
        dense = fastprune.inspect(opened, seq_len=alone.calibration["tokens"] // 16)["macs"]
        assert run.cost == pytest.approx(share / dense, rel=0.05)
    only = {"params": recipes["params"]}
    resumed = fastprune.sweep(opened, sets(opened), tests, budgets=[0.5, 0.8], recipes=only, folder=tmp_path)
    assert (resumed.measure, len(resumed.runs)) == ("MACs", 3)


def test_a_sweep_takes_models_and_data_as_prune_does(opened: Pretrained) -> None:
    batches = testing.tiny_batches(opened.model, samples=16)
    recipes = {"paper": Recipe.of("paper")}
    whole = fastprune.sweep(opened.model, list(batches), list(batches), budgets=[0.5], recipes=recipes)
    assert (
        whole.runs[0].metrics
        == fastprune.sweep(opened, batches, batches, budgets=[0.5], recipes=recipes).runs[0].metrics
    )


def test_budgets_that_cannot_be_reached_are_told_and_the_others_done(opened: Pretrained, tmp_path: Path) -> None:
    recipes, tests = {"paper": Recipe.of("paper")}, testing.tiny_batches(opened.model)
    found = fastprune.sweep(opened, sets(opened), tests, budgets=[0.001, 0.5], recipes=recipes, folder=tmp_path)
    assert [run.budget for run in found.runs] == [0.5]
    assert "cannot be met" in found.unreachable["paper at 0.001"]
    assert Sweep.read(tmp_path / "sweep.json") == found
    with pytest.raises(UnreachableError, match="cannot be met"):
        fastprune.sweep(opened, sets(opened), tests, budgets=[0.001], recipes=recipes)


def test_the_front_has_no_point_that_loses_more_at_the_same_budget() -> None:
    """Of two recipes at one budget the worse one can cost less by a part of a unit."""
    found = a_sweep(("fast", 0.5, 0.89), ("paper", 0.498, 0.847), ("paper", 0.3, 0.7), ("fast", 0.3001, 0.8))
    assert [(p.recipe, p.budget) for p in found.front()] == [("fast", 0.3001), ("fast", 0.5)]
    for point in found.front():
        assert not any(p.cost <= point.cost and p.drop < point.drop for p in found.points())


def test_a_sweep_prints_its_front() -> None:
    found = a_sweep(("fast", 0.5, 0.89), ("paper", 0.5, 0.847))
    assert (
        repr(found)
        == "2 prunings; dense m 0.9000; best for their cost:\n  fast at 0.5: 0.5 of the MACs costs 1.0 points of m"
    )


def test_a_metric_that_is_no_number_is_not_on_the_front() -> None:
    found = a_sweep(("a", 0.5, float("nan")), ("a", 0.7, 0.8))
    assert [point.budget for point in found.front()] == [0.7]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metric": "bleu"}, "the metric 'bleu' is missing"),
        ({"dense": {"f1": 1.0}}, "the metric 'accuracy' is missing"),
        ({"runs": [{"metrics": {"f1": 1.0}}]}, "no sweep that could go on"),
        ({"about": {"model": "x"}}, "has model x, not tiny"),
        ({"format": 1}, "of another format"),
    ],
)
def test_a_broken_sweep_file_is_one_sentence(
    opened: Pretrained, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    recipes = {"paper": Recipe.of("paper", tuner="none")}
    call = {"budgets": [0.5], "recipes": recipes, "folder": tmp_path}
    fastprune.sweep(opened, sets(opened), testing.tiny_batches(opened.model), **call)
    content = json.loads((tmp_path / "sweep.json").read_text())
    (tmp_path / "sweep.json").write_text(json.dumps(content | change))
    with pytest.raises(UsageError, match=says):
        fastprune.sweep(opened, sets(opened), testing.tiny_batches(opened.model), **call)


def test_json_can_be_read_by_others() -> None:
    content = json.loads(a_sweep(("a", 0.5, 0.8)).to_json())
    assert content["versions"]["fastprune"] == fastprune.__version__
    assert content["runs"][0]["metrics"] == {"m": 0.8}


def test_the_command(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "curve"
    arguments = ["sweep", tiny_checkpoint, "--data", tiny_data, "--eval-data", tiny_data, "--output", folder]

    def run(*more: object) -> click.testing.Result:
        return click.testing.CliRunner().invoke(main, [str(each) for each in (*arguments, *more)])

    result = run("--budgets", "0.9:0.5:0.2", "--recipes", "default,paper", "--batch-size", 4)
    assert result.exit_code == 0, result.output
    assert "Pareto" not in result.stdout
    assert not (folder / "scores").exists()
    assert {path.name for path in folder.iterdir()} == {"sweep.json", "sweep.csv", "sweep.png", "sweep.svg"}
    again = run("--budgets", "0.9:0.5:0.2", "--recipes", "default,paper", "--batch-size", 4, "--json")
    assert len(json.loads(again.stdout)["runs"]) == 6
    more = run("--budgets", "0.9:0.5:0.2", "--recipes", "default", "--batch-size", 4)
    assert "6 models are already measured" in " ".join(more.stderr.split())
    assert [word in more.stderr for word in ("MACs left", "spread")] == [True, False]  # there is one seed
    stages = ("--cost", "params", "--scorer", "magnitude", "--rearranger", "none", "--set", "tuner.damping=0.5")
    asked = run("--output", tmp_path / "stages", "--budgets", "0.001,0.7", *stages, "--json")
    assert asked.exit_code == 3, asked.output
    assert "cannot be met" in asked.stderr
    recipe = json.loads(asked.stdout)["about"]["recipes"]["default"]
    assert all(part in recipe for part in ('use = "params"', 'use = "magnitude"', "damping = 0.5"))
    for more, says in [
        (("--set", "damping=1"), "STAGE.OPTION=VALUE"),
        (("--scorer", "magnitud"), "did you mean 'magnitude'"),
        (("--pick", "drop<=1"), "fastprune shrink MODEL"),
        (("--seeds", "a"), "Seeds must be integers"),
        (("--budgets", "2"), "2"),
        (("--recipes", "defualt"), "did you mean 'default'"),
    ]:
        refused = run(*more)
        assert refused.exit_code == 2, refused.output
        assert says in refused.stderr


def test_a_sweep_outlives_its_plot(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no fonts\nat all")

    monkeypatch.setattr("fastprune.pipeline.curves.save_figure", fail)
    words = ["sweep", tiny_checkpoint, "--data", tiny_data, "--eval-data", tiny_data, "--output", tmp_path / "curve"]
    words += ["--budgets", "0.7", "--recipes", "paper", "--json"]
    result = click.testing.CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert f"The plot failed: RuntimeError: no fonts. The sweep is complete; all figures are in {tmp_path}" in said
    assert len(json.loads(result.stdout)["runs"]) == 1
    assert {each.name for each in (tmp_path / "curve").iterdir()} == {"sweep.json", "sweep.csv"}
