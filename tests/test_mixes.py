"""Several sources of data with shares."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

import fastprune
from fastprune import DataMix, make_batches, testing
from fastprune.errors import DataError, OptionError
from fastprune_tasks.causal_lm import CausalLM
from fastprune_tasks.classification import SequenceClassification


def test_shares_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd:0.5").write_text("a file whose name ends like a share")
    read = DataMix.read(["wiki.txt:3", r"C:\data\chat.jsonl:1", "glue/mrpc:1e0"])
    assert [source for source, _ in read.parts] == ["wiki.txt", r"C:\data\chat.jsonl", "glue/mrpc"]
    assert read.shares == pytest.approx([0.6, 0.2, 0.2])
    even = DataMix.read([r"C:\data\chat.jsonl", "odd:0.5", "a:b/c.txt"])
    assert [source for source, _ in even.parts] == [r"C:\data\chat.jsonl", "odd:0.5", "a:b/c.txt"]
    assert even.shares == pytest.approx([1 / 3] * 3)
    assert str(read) == r"wiki.txt (0.6), C:\data\chat.jsonl (0.2), glue/mrpc (0.2)"
    assert str(DataMix.read(["wiki.txt:0.5"])) == "wiki.txt"


@pytest.mark.parametrize(
    ("parts", "error", "says"),
    [
        ([], DataError, "no sources"),
        ([("a.txt", 1), ("a.txt", 2)], DataError, "a.txt is given twice"),
        ([("a.txt", 0)], OptionError, "above 0; got 0 for a.txt"),
        ([(["rows"], float("nan"))], OptionError, "got nan for data in memory"),
        ([("a.txt", "half")], OptionError, "got 'half'"),
    ],
)
def test_bad_mixes(parts: list[tuple[object, float]], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        DataMix(parts)


@pytest.mark.parametrize("samples", [3, 7, 128, 1000])
def test_samples_are_divided_by_shares(samples: int) -> None:
    mix = DataMix([("a", 0.7), ("b", 0.2999), ("c", 0.0001)])
    counts = mix.divided(samples)
    assert sum(counts) == samples
    assert min(counts) >= 1
    assert all(abs(count - share * samples) <= 2 for count, share in zip(counts, mix.shares, strict=True))
    assert mix.divided(None) == [None] * 3


@pytest.mark.parametrize("task", [CausalLM(), SequenceClassification(classes=("a", "b"))], ids=["windows", "rows"])
def test_each_source_gives_its_share_and_the_rest_is_told(task, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"text": word, "label": 0} for word in ["the cat sat on the mat"] * 64]
    mix = DataMix(
        [(rows, 3), ([{"text": "the dog ran", "label": 1}] * 64, 1), ([{"text": "home fast", "label": 1}], 1)]
    )
    batches = make_batches(mix, task, tiny_tokenizer, samples=20, max_length=8)
    given = batches.intake.sources
    assert [source.samples for source in given] == [12, 4, 1]
    assert batches.n_samples == 17
    assert sum(source.tokens for source in given) == batches.n_tokens
    assert [source["samples"] for source in batches.summary()["sources"]] == [12, 4, 1]
    assert f"data in memory: 12 samples, {given[0].tokens} tokens" in batches.told


def test_sources_need_the_same_columns(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    mix = DataMix([({"text": ["the cat", "the dog"], "label": [0, 1]}, 1), ({"text": ["the cat", "a dog"]}, 1)])
    with pytest.raises(DataError, match="all sources need the same columns, labels included"):
        make_batches(mix, SequenceClassification(classes=("a", "b")), tiny_tokenizer)


def test_pruning_takes_a_mix(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = testing.tiny_model("llama", "ForCausalLM")
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 200)
    mix = DataMix([(tmp_path / "a.txt", 0.5), (["the dog ran home"] * 100, 0.5)])
    result = fastprune.prune(
        tmp_path / "model", mix, budget=0.6, cost="params", scorer="magnitude", tuner="none", bench=False
    )
    assert [source["share"] for source in result.calibration["sources"]] == [0.5, 0.5]
    assert str(tmp_path / "a.txt") in result.calibration["source"]
