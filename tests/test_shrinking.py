"""A size divided between tokens, heads and filters; the smallest model within a loss, in one command."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import click.testing
import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.cli.main import main
from fastprune.errors import DataError, OptionError, UnreachableError
from fastprune.pipeline.directory import directory_size
from fastprune.pipeline.dividing import Choice, Division, outputs_by_text
from fastprune.shrinking.subject import Halves
from small_tokenizers import KINDS, lines, wrapped

SIZES = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier in ``dense``, and texts labelled by itself in train.csv and test.csv."""
    place, tokenizer = tmp_path_factory.mktemp("shrinking"), wrapped(KINDS["wordpiece"]())
    pad = tokenizer.convert_tokens_to_ids("<pad>")
    model = testing.tiny_model(
        "bert", "ForSequenceClassification", vocab_size=len(tokenizer), pad_token_id=pad, **SIZES
    )
    with torch.no_grad():
        model.classifier.weight *= 20
    model.save_pretrained(place / "dense")
    tokenizer.save_pretrained(place / "dense")
    for name, seed in (("train", 1), ("test", 2)):
        rows = lines(120, seed)
        with torch.no_grad():
            inputs = ({"input_ids": torch.tensor([tokenizer(text)["input_ids"]])} for text in rows)
            labels = [int(model(**each).logits.argmax()) for each in inputs]
        with (place / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *zip(rows, labels, strict=True)])
    return place


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def choice(fixed: float, error: float, cost: Any = None) -> Choice:
    opened: Any = None
    return Choice(opened=opened, cost=cost or fastprune.strategy("cost", "size"), fixed=fixed, error=error)


def test_a_size_goes_where_it_spares_most() -> None:
    cost = fastprune.strategy("cost", "size")
    drafts = [(0.1, 0.4), (0.3, 0.1), (0.6, 0.02)]
    division = Division(choices=[choice(60, 0.0), choice(40, 0.02), choice(20, 0.5)], units={cost: 100}, drafts=drafts)
    assert [division.error_of(share) for share, _ in drafts] == pytest.approx([error for _, error in drafts])
    assert 0.1 < division.error_of(0.2) < 0.4
    assert division.error_of(1) == 0 < division.error_of(0.9) < 0.02
    assert division.error_of(0.05) > 0.4
    assert division.of(160).fixed == 60  # all fits
    assert division.of(70).fixed == 40  # the whole vocabulary would leave heads and filters a tenth
    for size in range(21, 200):
        best = division.of(size)
        assert best.fixed <= size
        able = [each for each in division.choices if each.fixed <= size]
        worst = max(each.error + division.error_of((size - each.fixed) / 100) for each in able)
        assert best.error + division.error_of((size - best.fixed) / 100) <= worst
    with pytest.raises(UnreachableError, match="The size of .* cannot be met"):
        division.of(19)


def test_outputs_are_compared_text_by_text(folder: Path) -> None:
    """Batches are sorted by length in tokens, and each model has its own tokens."""
    opened = fastprune.open_pretrained(folder / "dense")
    small = fastprune.trim_vocabulary(opened, str(folder / "train.csv"), 0.9, progress=False)
    found = []
    for one in (opened, small):
        batches = fastprune.make_batches(str(folder / "train.csv"), one.task, one.tokenizer, samples=40)  # type: ignore[arg-type]
        found.append(outputs_by_text(one.model, batches))
    assert found[0].shape == found[1].shape == (40, 2)
    near = (found[0] - found[1]).abs().amax(1) < 1e-5
    assert 0 < near.sum() < 40  # texts of kept tokens, wherever their length puts them
    one = opened.tokenizer
    texts = [row["text"] for row in rows_of(folder / "train.csv")]
    kept = set(small.trimming.rows)  # type: ignore[union-attr]
    share = sum(set(one(text)["input_ids"]) <= kept for text in texts) / len(texts)  # type: ignore[misc]
    assert near.float().mean() == pytest.approx(share, abs=0.2)


@pytest.mark.parametrize("head", ["ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM", "Model"])
def test_outputs_of_tokens_become_those_of_texts(head: str) -> None:
    model = testing.tiny_model("bert", head)
    batches = testing.tiny_batches(model)
    found = outputs_by_text(model, batches)
    assert found.shape == (batches.n_samples, model.config.hidden_size)


def test_tokens_heads_and_filters_share_the_directory(folder: Path, tmp_path: Path) -> None:
    whole = directory_size(folder / "dense")
    result = fastprune.prune(
        folder / "dense", str(folder / "train.csv"), budget="size=0.8", recipe="paper", bench=False, progress=False
    )
    assert result.cost_before == pytest.approx(whole, rel=0.02)
    assert directory_size(result.save(tmp_path / "small")) <= 0.8 * result.cost_before
    kept = fastprune.prune(
        folder / "dense", str(folder / "train.csv"), budget="size=0.8", recipe="paper", vocabulary="all", bench=False
    )
    assert not kept.vocabulary
    assert directory_size(kept.save(tmp_path / "whole")) <= 0.8 * kept.cost_before


def test_halves() -> None:
    found = Halves.of(5, running=False)
    assert sorted([*found.choosing, *found.final]) == [0, 1, 2, 3, 4]
    assert list(Halves.of(5, running=True).final) == [2, 3, 4]
    with pytest.raises(DataError, match="give more"):
        Halves.of(1, running=False)


def test_the_smallest_model_within_a_loss(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    found = fastprune.shrink(
        folder / "dense",
        str(folder / "train.csv"),
        str(folder / "test.csv"),
        tmp_path / "small",
        max_drop=30,
        recipe="paper",
        say=told.append,
        progress=False,
    )
    kept = [each for each in found.steps if each.fits]
    assert found.result is min(kept, key=lambda each: each.share).result
    assert all(each.drop <= 30 for each in kept)
    assert all(each.drop > 30 for each in found.steps if not each.fits)
    assert found.size == directory_size(tmp_path / "small") < found.size_before
    half = rows_of(folder / "test.csv")[1::2]
    opened = fastprune.open_pretrained(tmp_path / "small")
    assert fastprune.evaluate(opened, half) == pytest.approx(dict(found.metrics))
    assert found.drop == pytest.approx(100 * (found.dense["accuracy"] - found.metrics["accuracy"]), abs=0.02)
    manifest = json.loads((tmp_path / "small" / "fastprune.json").read_text())
    assert manifest["metrics"]["pruned"] == found.metrics
    assert len(told) == len(found.steps) + 2
    assert "On the half that chose nothing, 60 rows" in told[-1]


def test_bad_requests_are_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    data = str(folder / "train.csv")
    with pytest.raises(OptionError, match="0 or more; got -1"):
        fastprune.shrink("nowhere", data, data, tmp_path / "new", max_drop=-1)
    with pytest.raises(OptionError, match="The goal is size or latency"):
        fastprune.shrink("nowhere", data, data, tmp_path / "new", goal="speed")  # type: ignore[arg-type]
    (tmp_path / "plain.txt").write_text("\n".join(lines(20, 3)))
    with pytest.raises(DataError, match="takes labels"):
        fastprune.shrink(folder / "dense", data, str(tmp_path / "plain.txt"), tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime")), reason="needs onnxruntime"
)
def test_the_command_measures_the_export(folder: Path, tmp_path: Path) -> None:
    words = ["shrink", folder / "dense", "--data", folder / "train.csv", "--eval-data", folder / "test.csv"]
    words += ["--max-drop", 50, "--quantize", "int8", "--recipe", "paper", "--samples", 64, "--json"]
    done = click.testing.CliRunner().invoke(main, [str(each) for each in (*words, "--output", tmp_path / "small")])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["size"]["after"] == directory_size(tmp_path / "small-int8")
    half = rows_of(folder / "test.csv")[1::2]
    measured = fastprune.evaluate(fastprune.open_exported(tmp_path / "small-int8"), half)
    assert measured["accuracy"] == pytest.approx(found["metrics"]["small"]["accuracy"], abs=0.02)
    budget = f"size={found['size']['before'] * 0.25:.0f}B"
    asked = ["prune", *words[1:4], "--budget", budget, "--quantize", "int8", "--recipe", "paper", "--no-bench"]
    done = click.testing.CliRunner().invoke(main, [str(each) for each in (*asked, "--output", tmp_path / "asked")])
    assert done.exit_code == 0, done.output
    assert "heads and filters get" in " ".join(done.stderr.split())
    assert directory_size(tmp_path / "asked-int8") <= found["size"]["before"] * 0.25


def test_the_fastest_model_within_a_loss(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    found = fastprune.shrink(
        folder / "dense",
        str(folder / "train.csv"),
        str(folder / "test.csv"),
        tmp_path / "fast",
        max_drop=60,
        goal="latency",
        recipe="paper",
        samples=32,
        say=told.append,
        progress=False,
    )
    assert found.result.costs[0]["name"] == "latency"
    assert not found.result.vocabulary
    assert any("times as fast" in each for each in told)
    assert directory_size(tmp_path / "fast") == found.size


def test_a_size_needs_no_registered_family(folder: Path) -> None:
    """An architecture that is given serves the drafts as well."""
    opened = fastprune.open_pretrained(folder / "dense")
    given = fastprune.architecture_for(opened.model)
    opened.model.config.model_type = "nobody-knows"
    result = fastprune.prune(
        opened,
        str(folder / "train.csv"),
        budget="size=0.8",
        recipe="paper",
        architecture=given,
        bench=False,
        progress=False,
    )
    assert result.cost_after <= 0.8 * result.cost_before
