"""Evaluation data on the command line: read and checked before any work, and never in the way of what was computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import pytest
import torch

import fastprune
from fastprune.data.batches import Batches
from fastprune.reports import figures

Run = Callable[..., click.testing.Result]


@pytest.fixture
def prune(run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> Run:
    asked = [
        "prune",
        tiny_checkpoint,
        "--data",
        tiny_data,
        "--budget",
        0.5,
        "--output",
        tmp_path / "small",
        "--no-bench",
    ]
    return lambda *more: run(*asked, *more)


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("the cat sat on the mat\na dog ran home\nwho is slow\n")
    return path


@pytest.fixture
def renamed(tiny_data: Path, tmp_path: Path) -> Path:
    """The tiny data under other names of its columns."""
    path = tmp_path / "renamed.csv"
    path.write_text(tiny_data.read_text().replace("text,label", "phrase,verdict"))
    return path


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning is an error."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was pruned")

    monkeypatch.setattr("fastprune.pipeline.prune.prune", fail)
    monkeypatch.setattr("fastprune.pipeline.sweeps.prune", fail)


def test_unlabelled_data_give_the_agreement(prune: Run, unlabelled: Path) -> None:
    result = prune("--eval-data", unlabelled, "--json")
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["metrics"]) == {"fidelity"}
    assert "the agreement with the dense model is measured" in " ".join(result.stderr.split())


def test_a_sweep_over_unlabelled_data_plots_the_agreement(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, unlabelled: Path, tmp_path: Path
) -> None:
    asked = ["sweep", tiny_checkpoint, "--data", tiny_data, "--eval-data", unlabelled, "--output", tmp_path / "curve"]
    result = run(*asked, "--budgets", "0.5", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["metric"] == "agreement"
    assert found["dense"] == pytest.approx({"agreement": 1.0, "overlap": 1.0})
    assert set(found["runs"][0]["metrics"]) == {"agreement", "overlap"}


def test_evaluate_needs_labels_or_a_dense_model(run: Run, tiny_checkpoint: Path, unlabelled: Path) -> None:
    result = run("evaluate", tiny_checkpoint, "--data", unlabelled)
    assert result.exit_code == 2
    assert "--dense" in result.stderr
    result = run("evaluate", tiny_checkpoint, "--data", unlabelled, "--dense", tiny_checkpoint, "--json")
    assert json.loads(result.stdout)["fidelity"] == pytest.approx({"agreement": 1.0, "overlap": 1.0})


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("out of memory"), 1), (KeyboardInterrupt(), 130)])
def test_the_model_is_saved_if_its_evaluation_fails(
    prune: Run, tiny_data: Path, tmp_path: Path, error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("fastprune.measuring.evaluation.compare_models", fail)
    result = prune("--eval-data", tiny_data)
    assert result.exit_code == status, result.output
    assert fastprune.load(tmp_path / "small").num_parameters() > 0
    if status == 1:
        assert f"saved in {tmp_path / 'small'}, but its evaluation failed: out of memory" in " ".join(
            result.stderr.split()
        )


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("content", "more", "told"),
    [
        ("text,label\na cat,7\n", [], "7"),
        ("phrase,label\na cat,1\n", [], "name the text columns"),
        ("text,label\na cat,1\n", ["--eval-label-column", "verdict"], "no label column 'verdict'"),
        ("text,label\na cat,1\n", ["--eval-text-columns", "phrase"], "no text column 'phrase'"),
    ],
)
@pytest.mark.parametrize("command", ["prune", "sweep"])
def test_data_that_do_not_fit_are_told_before_any_work(
    run: Run,
    tiny_checkpoint: Path,
    tiny_data: Path,
    tmp_path: Path,
    command: str,
    content: str,
    more: list[str],
    told: str,
) -> None:
    tests = tmp_path / "tests.csv"
    tests.write_text(content)
    budget = ["--budget", 0.5] if command == "prune" else []
    asked = [
        command,
        tiny_checkpoint,
        "--data",
        tiny_data,
        "--eval-data",
        tests,
        "--output",
        tmp_path / "small",
        *budget,
    ]
    result = run(*asked, *more)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert not (tmp_path / "small").exists()


@pytest.mark.usefixtures("idle")
def test_a_metric_that_fails_is_told_before_any_work(
    prune: Run, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise fastprune.errors.DataError("no metric")

    monkeypatch.setattr("fastprune_tasks.classification.SequenceClassification.metrics", fail)
    assert "no metric" in prune("--eval-data", tiny_data).stderr


def test_columns_of_evaluation_data_are_named_apart(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, renamed: Path, tmp_path: Path
) -> None:
    asked = ["prune", tiny_checkpoint, "--budget", 0.5, "--no-bench", "--json"]
    named = ["--eval-text-columns", "phrase", "--eval-label-column", "verdict"]
    for index, (data, tests, more) in enumerate(
        [
            (tiny_data, renamed, named),
            (
                renamed,
                tiny_data,
                ["--text-columns", "phrase", "--label-column", "verdict"],
            ),  # the usual names are there
            (renamed, renamed, ["--text-columns", "phrase", "--label-column", "verdict"]),
        ]
    ):
        result = run(*asked, "--data", data, "--eval-data", tests, "--output", tmp_path / str(index), *more)
        assert result.exit_code == 0, result.output
        assert set(json.loads(result.stdout)["metrics"]) == {"dense", "pruned"}


@pytest.mark.parametrize(
    ("batch", "extent"),
    [
        ({"pixel_values": torch.zeros(3, 1, 4, 4)}, "3 pictures"),
        ({"input_ids": torch.ones(3, 7).long()}, "3 samples of 7 tokens on average"),
        ({"input_values": torch.zeros(3, 1600)}, "3 samples of 1,600 readings on average"),
        ({"pixel_values": torch.zeros(3, 1, 4, 4), "input_ids": torch.ones(3, 7)}, "3 samples of 7 tokens on average"),
    ],
)
def test_the_size_of_samples_in_words(batch: dict[str, torch.Tensor], extent: str) -> None:
    batches = Batches.wrap([batch], None)
    assert batches.extent == extent
    assert figures.extent(batches.summary()).startswith(extent.partition(" of ")[0])
