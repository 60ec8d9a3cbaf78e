"""Perplexity over a whole text, at a stated context and stride."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast

import fastprune
from fastprune import make_batches, testing
from fastprune.errors import OptionError
from fastprune.reports import figures
from fastprune_tasks.causal_lm import CausalLM
from fastprune_tasks.classification import SequenceClassification
from fastprune_tasks.windows import sliding_windows

TEXT = "the cat sat on the mat in paris the dog ran home fast " * 7


@pytest.fixture
def decoder(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    testing.tiny_model("llama", "ForCausalLM").save_pretrained(tmp_path / "decoder")
    tiny_tokenizer.save_pretrained(tmp_path / "decoder")
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "decoder"


@pytest.mark.parametrize(
    ("length", "context", "stride"), [(7, 4, 2), (8, 4, 4), (7, 4, 4), (3, 4, 1), (100, 16, 1), (5, 5, 5)]
)
def test_windows_score_each_token_once(
    length: int, context: int, stride: int, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    found = sliding_windows(list(range(length)), tiny_tokenizer, context, stride)
    assert {len(window) for window, _ in found} == {min(length, context)}
    assert [token for window, new in found for token in window[len(window) - new :]] == list(range(length))
    assert all(new <= stride for _, new in found[1:])


@pytest.mark.parametrize(("context", "stride"), [(16, 4), (16, 16), (16, None), (64, 8), (40, 39)])
def test_perplexity_is_that_of_a_loop_over_the_text(decoder: Path, context: int, stride: int | None) -> None:
    opened = fastprune.open_pretrained(decoder)
    ids = opened.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    step, total, count, end = stride or context, 0.0, 0, 0
    while end < len(ids):  # as in transformers' guide, with a full last window
        new = min(step if end else context, len(ids) - end)
        end += new
        window = torch.tensor([ids[max(0, end - context) : end]])
        with torch.no_grad():
            logits = opened.model(window, use_cache=False).logits[0]
        scored = min(new, window.shape[1] - 1)
        total += float(F.cross_entropy(logits[-scored - 1 : -1].double(), window[0, -scored:], reduction="sum"))
        count += scored
    found = fastprune.evaluate(decoder, decoder.parent / "text.txt", max_length=context, stride=stride, batch_size=3)
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)


def test_context_and_stride_are_always_beside_a_perplexity(decoder: Path, tmp_path: Path, run) -> None:
    text, both = tmp_path / "text.txt", "context 32, stride 8"
    shown = run("evaluate", decoder, "--data", text, "--max-length", 32, "--stride", 8)
    assert both in shown.stderr
    told = json.loads(run("evaluate", decoder, "--data", text, "--max-length", 32, "--stride", 8, "--json").stdout)
    assert (told["context"], told["stride"]) == (32, 8)
    pruning = (
        "--data",
        text,
        "--budget",
        0.8,
        "--cost",
        "params",
        "--scorer",
        "magnitude",
        "--tuner",
        "none",
        "--no-bench",
    )
    evaluation = ("--eval-data", text, "--eval-max-length", 32, "--eval-stride", 8)
    pruned = run("prune", decoder, *pruning, *evaluation, "--max-length", 16, "--output", tmp_path / "small")
    assert pruned.stderr.count(both) == 2, pruned.stderr
    assert both in (tmp_path / "small" / "report.html").read_text()
    manifest = json.loads((tmp_path / "small" / "fastprune.json").read_text())
    assert manifest["metrics"]["dense"] == told["metrics"]
    assert f"perplexity ({both})" in {row[0] for row in figures.rows(manifest)}
    stages = ("--cost", "params", "--scorer", "magnitude", "--tuner", "none")
    swept = run(
        "sweep", decoder, "--data", text, *evaluation, "--budgets", "0.8", *stages, "--output", tmp_path / "curve"
    )
    assert f"dense perplexity ({both})" in swept.stderr


def test_a_text_is_scored_with_one_bos(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    batches = make_batches([TEXT], CausalLM().for_evaluation(), tiny_tokenizer, samples=None, max_length=16)
    assert batches.conditions == {"context": 16, "stride": 16}
    assert all(batch["attention_mask"].all() for batch in batches)


def test_strides_that_do_not_fit(decoder: Path, tmp_path: Path) -> None:
    for stride, says in ((0, "stride takes an integer, 1 or more"), (17, "at most the context of 16 tokens")):
        with pytest.raises(OptionError, match=says):
            fastprune.evaluate(decoder, tmp_path / "text.txt", max_length=16, stride=stride)
    with pytest.raises(OptionError, match="A stride is for the windows of language models"):
        SequenceClassification(classes=("a",)).for_evaluation(stride=4)
