"""A smaller vocabulary through prune(), the command line, recipes, costs, reports and saved files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import fastprune
from fastprune import Recipe, testing
from fastprune.errors import DataError, OptionError, UsageError
from fastprune.models.pretrained import open_pretrained
from fastprune.reports import figures
from fastprune.strategies.vocabulary import VocabularyRequest
from small_tokenizers import lines, word_piece, wrapped

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with a WordPiece tokenizer, and labelled texts."""
    path = tmp_path_factory.mktemp("vocabulary")
    tokenizer = wrapped(word_piece())
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    model = testing.tiny_model("bert", vocab_size=len(tokenizer), **special)
    model.save_pretrained(path / "dense")
    tokenizer.save_pretrained(path / "dense")
    for name, seed in (("train", 1), ("test", 2)):
        rows = [f"{text}\t{place % 2}" for place, text in enumerate(lines(80, seed))]
        (path / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n", encoding="utf-8")
    (path / "corpus.txt").write_text("\n".join(lines(400, 3)), encoding="utf-8")
    return path


def prune(folder: Path, **options: Any) -> fastprune.PruningResult:
    given: dict[str, Any] = {"budget": 1, "bench": False, "progress": False, **options}
    return fastprune.prune(open_pretrained(folder / "dense"), str(folder / "train.tsv"), **given)


def test_a_smaller_vocabulary_alone_is_a_plain_model(folder: Path, tmp_path: Path) -> None:
    result = prune(folder, vocabulary=0.6, vocabulary_data=str(folder / "corpus.txt"))
    result.save(tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert not {"fastprune", "auto_map"} & config.keys()
    assert not list((tmp_path / "small").glob("*.py"))
    rows = result.vocabulary["rows"]
    assert config["vocab_size"] == rows["after"] == int(0.6 * rows["before"])
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small").eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path / "small")(lines(3, 5), return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    assert result.form == "plain"
    again = open_pretrained(tmp_path / "small")
    assert again.groups() is not None
    assert again.history[-1]["vocabulary"]["rows"] == rows
    with torch.no_grad():
        wanted = result.model(**inputs).logits
        for each in (model, fastprune.load(tmp_path / "small"), again.model):
            assert torch.equal(each(**inputs).logits, wanted)


def test_heads_and_filters_are_pruned_as_well(folder: Path, tmp_path: Path) -> None:
    result = prune(folder, vocabulary=0.6, budget=0.5)
    assert result.cost_after <= 0.5 * result.cost_before
    assert not result.mask.whole
    result.save(tmp_path / "small")
    opened = open_pretrained(tmp_path / "small")
    assert opened.model.config.vocab_size == result.vocabulary["rows"]["after"]
    assert len(opened.tokenizer) == opened.model.config.vocab_size  # type: ignore[arg-type]
    inputs = opened.tokenizer(lines(3, 5), return_tensors="pt", padding=True)  # type: ignore[misc]
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        assert torch.equal(opened.model(**inputs).logits, result.model(**inputs).logits)
    dense = open_pretrained(folder / "dense").model
    assert result.parameters_before == sum(each.numel() for each in dense.parameters())


def test_budgets_are_shares_of_the_whole_model_on_the_same_texts(folder: Path) -> None:
    """A budget of parameters that the vocabulary alone meets prunes nothing else."""
    alone = prune(folder, vocabulary=0.5)
    left = alone.parameters_after / alone.parameters_before
    result = prune(folder, vocabulary=0.5, cost="params", budget=left + 0.01)
    assert result.mask.whole
    assert result.cost_before > result.cost_after
    few = prune(folder, vocabulary=0.3, budget=0.8)
    assert few.vocabulary["held_out"]["length"]["ratio"] > 1.2
    assert few.cost_before < 0.9 * alone.cost_before  # texts were shorter with the whole vocabulary


def test_nothing_is_scored_or_shared_for_a_vocabulary_alone(folder: Path) -> None:
    opened = open_pretrained(folder / "dense")
    result = fastprune.prune(opened, str(folder / "train.tsv"), budget=1, vocabulary=0.5, bench=False, progress=False)
    assert "score" not in result.timings
    assert "trim" in result.timings
    places = {each.data_ptr() for each in opened.model.parameters()}
    assert not places & {each.data_ptr() for each in result.model.parameters()}


def test_requests_that_do_not_fit_together(folder: Path) -> None:
    with pytest.raises(UsageError, match="leave out inplace"):
        prune(folder, vocabulary=0.5, inplace=True)
    with pytest.raises(UsageError, match="give its size or its coverage"):
        prune(folder, vocabulary_data=str(folder / "corpus.txt"))
    opened = open_pretrained(folder / "dense")
    batches = testing.tiny_batches(opened.model)
    with pytest.raises(DataError, match="encoded with the whole vocabulary"):
        fastprune.prune(opened, batches, budget=1, vocabulary=0.5, bench=False, progress=False)


def test_a_trimmed_model_is_pruned_with_batches(folder: Path) -> None:
    small = fastprune.trim_vocabulary(str(folder / "dense"), str(folder / "train.tsv"), 0.6, progress=False)
    batches = fastprune.make_batches(str(folder / "train.tsv"), small.task, small.tokenizer)  # type: ignore[arg-type]
    result = fastprune.prune(small, batches, budget=0.5, bench=False, progress=False)
    assert result.vocabulary == small.trimming.figures  # type: ignore[union-attr]


def test_recipes_hold_the_vocabulary(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('preset = "default"\n[vocabulary]\nkeep = 0.3\n')
    recipe = Recipe.of(file)
    assert recipe.vocabulary == VocabularyRequest(keep=0.3)
    file.write_text(recipe.to_toml())
    assert Recipe.of(file) == recipe == Recipe.of(recipe)
    assert Recipe.of(recipe, vocabulary=VocabularyRequest(keep=500)).vocabulary == VocabularyRequest(keep=500)
    assert Recipe.of().vocabulary is None
    for text, message in (("rows = 3", "no entry 'rows'"), ("keep = 0", "The vocabulary is auto"), ("", "Give either")):
        file.write_text(f"[vocabulary]\n{text}\n")
        with pytest.raises(OptionError, match=message):
            Recipe.of(file)


def test_the_command_evaluates_each_model_with_its_own_tokenizer(folder: Path, tmp_path: Path, run: Run) -> None:
    words = [
        "prune",
        folder / "dense",
        "--data",
        folder / "train.tsv",
        "--eval-data",
        folder / "test.tsv",
        "--no-bench",
    ]
    ran = run(*words, "--vocabulary", "0.6", "--json", "--output", tmp_path / "small")
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert told["vocabulary"]["rows"]["after"] < told["vocabulary"]["rows"]["before"]
    assert told["metrics"]["dense"].keys() == told["metrics"]["pruned"].keys()
    again = run("evaluate", tmp_path / "small", "--data", folder / "test.tsv", "--json")
    assert json.loads(again.stdout)["metrics"] == pytest.approx(told["metrics"]["pruned"])
    names = [name for name, *_ in figures.rows(told)]
    assert {"vocabulary", "share of tokens kept", "tokens of a text"} <= set(names)


def test_the_command_refuses_what_does_not_fit(folder: Path, tmp_path: Path, run: Run) -> None:
    words = ["prune", folder / "dense", "--data", folder / "train.tsv", "--output", tmp_path / "small"]
    for options, code, message in (
        (("--vocabulary", "many"), 2, "The vocabulary is auto"),
        (("--vocabulary", "0.3", "--vocabulary-coverage", "0.9"), 2, "either"),
        (("--vocabulary-data", folder / "corpus.txt", "--budget", "0.5"), 2, "give one of them"),
        (("--vocabulary", "20"), 3, "keeps at least"),
        (("--vocabulary", "0.5", "--vocabulary-data", folder / "none.txt"), 2, "no such file"),
    ):
        ran = run(*words, *options)
        assert ran.exit_code == code, ran.output
        assert message in " ".join(ran.stderr.split())
        assert not (tmp_path / "small").exists()


def test_a_pruned_model_can_be_trimmed_later(folder: Path, tmp_path: Path) -> None:
    """Its narrower modules stay, and the configuration says both."""
    first = prune(folder, budget=0.5)
    first.save(tmp_path / "pruned")
    result = fastprune.prune(
        str(tmp_path / "pruned"), str(folder / "train.tsv"), budget=1, vocabulary=0.6, bench=False, progress=False
    )
    result.save(tmp_path / "small")
    assert result.form == first.form == "free"
    opened = open_pretrained(tmp_path / "small")
    inputs = opened.tokenizer(lines(3, 5), return_tensors="pt", padding=True)  # type: ignore[misc]
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        assert torch.equal(opened.model(**inputs).logits, result.model(**inputs).logits)
    assert opened.model.config.vocab_size == result.vocabulary["rows"]["after"]
    assert len(opened.history) == 2


def test_a_sweep_with_fewer_tokens_is_compared_with_the_whole_model(folder: Path, tmp_path: Path, run: Run) -> None:
    words = ["sweep", folder / "dense", "--data", folder / "train.tsv", "--eval-data", folder / "train.tsv"]
    words += ["--vocabulary", "0.5", "--cost", "params", "--budgets", "0.6", "--recipes", "paper", "--json"]
    found = json.loads(run(*words, "--output", tmp_path / "curve").stdout)
    dense = open_pretrained(folder / "dense")
    assert found["dense"] == pytest.approx(fastprune.evaluate(dense, str(folder / "train.tsv")))
    rows = found["about"]["vocabulary"]
    assert rows["after"] == int(0.5 * rows["before"])
    assert found["runs"][0]["cost"] <= 0.6
    small = fastprune.trim_vocabulary(dense, str(folder / "train.tsv"), 0.5, progress=False)
    again = fastprune.sweep(
        small,
        str(folder / "train.tsv"),
        str(folder / "train.tsv"),
        budgets=[0.6],
        recipes={"paper": Recipe.of("paper")},
    )
    assert again.dense == pytest.approx(found["dense"])
